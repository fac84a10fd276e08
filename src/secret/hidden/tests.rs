use super::*;

const VALUE: &str = "tok_9f+Zq/\"é\\n&x%41 end";

fn shown(values: &[&str], text: &str) -> String {
    let mut all = Needles::default();
    values.iter().for_each(|value| all.extend(needles(value)));
    all.blank(text).into_owned()
}

/// Percent-encodes all but these bytes.
fn percent(value: &str, plain: &[u8], lower: bool) -> String {
    let one = |byte: u8| match (plain.contains(&byte) || byte.is_ascii_alphanumeric(), lower) {
        (true, _) => char::from(byte).to_string(),
        (false, true) => format!("%{byte:02x}"),
        (false, false) => format!("%{byte:02X}"),
    };
    value.bytes().map(one).collect()
}

#[test]
fn a_value_is_found_in_each_form() {
    let json = serde_json::Value::String(VALUE.into()).to_string();
    let form: String = url::form_urlencoded::byte_serialize(VALUE.as_bytes()).collect();
    let ascii: String =
        json.chars().map(|c| if c.is_ascii() { c.into() } else { format!("\\u{:04X}", c as u32) }).collect();
    let forms = [
        VALUE.to_owned(),
        json[1..json.len() - 1].to_owned(),
        serde_json::Value::String(json.clone()).to_string(),
        ascii.replace('&', "\\u0026").replace('/', "\\/"),
        format!("{VALUE:?}"),
        crate::ui::escape(VALUE),
        crate::ui::display_path(VALUE.as_bytes()),
        percent(VALUE, b"-_.!~*'()", false),
        percent(VALUE, b"-._~", true),
        percent(VALUE, b":@&=+$,/", false),
        form.to_lowercase().replace("tok_9f%2bzq%2f%22%c3%a9%5cn%26x%2541+end", &form),
        percent(&json, b"", false),
        hex(VALUE, false).to_string(),
        hex(VALUE, true).to_string(),
        format!("{:?}", VALUE.as_bytes()).replace(['[', ']'], ""),
        VALUE.replace(' ', " \r\n\t"),
    ];
    for form in forms {
        let shown = shown(&[VALUE], &format!("before <{form}> after"));
        assert!(shown.starts_with("before <") && shown.ends_with("> after"), "{form}: {shown}");
        let middle = &shown["before <".len()..shown.len() - "> after".len()];
        assert!(middle.replace(['"', '\\'], "").replace("%22", "") == "…", "{form}: {shown}");
    }
}

#[test]
fn base64_goes_as_a_whole_word_wherever_the_value_stands_in_it() {
    for value in [VALUE, "abcd", "secret-value-1", "????>>>>"] {
        for before in ["", "a", "ab", "abc", "user:"] {
            for after in ["", "1", "22", "333"] {
                for engine in [STANDARD, URL_SAFE] {
                    let whole = engine.encode(format!("{before}{value}{after}"));
                    for word in [whole.clone(), whole.trim_end_matches('=').to_owned(), percent(&whole, b"", false)] {
                        let text = format!("Authorization: Basic {word}, more");
                        let want = "Authorization: Basic …, more";
                        assert_eq!(shown(&[value], &text), want, "{value} {word}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_value_of_many_lines_goes_whole_and_line_by_line() {
    let pem = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG\nshort\nAoIBAQDFzqYxVnLq\n-----END KEY-----\n";
    assert_eq!(shown(&[pem], &format!("a{pem}b")), "a…b");
    assert_eq!(shown(&[pem], "line 2 is AoIBAQDFzqYxVnLq."), "line 2 is ….");
    assert_eq!(shown(&[pem], "a short one"), "a short one");
    // As `base64` wraps it.
    let digits = STANDARD.encode(pem);
    let (first, second) = digits.split_at(76);
    assert_eq!(shown(&[pem], &format!("({first}\n{second})")), "(…)");
}

#[test]
fn white_space_around_a_value_does_not_hide_it() {
    assert_eq!(shown(&["hunter2\n"], "is hunter2 right?"), "is … right?");
}

#[test]
fn the_beginning_of_a_value_that_was_cut_off_goes_too() {
    let value = "sk-live-0123456789abcdef";
    for cut in ["…", "...", ""] {
        assert_eq!(shown(&[value], &format!("they said sk-live-01234{cut}")), format!("they said …{cut}"));
    }
    assert_eq!(shown(&[value], "they said sk-live-01234, and more"), "they said sk-live-01234, and more");
}

#[test]
fn values_that_overlap_leave_nothing_between_them() {
    let values = ["abcdefgh", "efghijkl", "cdef", "aaaa"];
    assert_eq!(shown(&values, "<abcdefghijkl>"), "<…>");
    assert_eq!(shown(&values, "<abcdefghefghijkl>"), "<…>");
    assert_eq!(shown(&values, "<aaaaa>"), "<…>");
    assert_eq!(shown(&values, "abcdefgh"), "…");
    assert_eq!(shown(&values, "é abcdefgh é cdef é"), "é … é … é");
}

#[test]
fn what_is_no_value_stays_as_it_is() {
    let values = [VALUE, "abcd", "ab", ""];
    for text in ["", "a", "abc", "é", "100 % of a+b \\ \\q %zz %4 \\u12 \\ud83d \\u{} \\u{110000} \\x4", "wxyz\nab\ncx"]
    {
        assert_eq!(shown(&values, text), text);
    }
}

#[test]
fn any_text_is_looked_at_without_a_panic_and_loses_nothing_but_values() {
    use proptest::prelude::*;
    proptest!(|(text in "([ab\\\\u{}%+\n\"é0-9d…]|abab|\\\\u00e9){0,40}", value in "[abé\\\\\"% ]{0,9}")| {
        let shown = shown(&[&value], &text);
        if value.len() >= SHORTEST {
            prop_assert!(!shown.contains(&value), "{shown:?}");
        } else if value.lines().all(|line| line.len() < SHORTEST_PIECE) {
            prop_assert_eq!(shown, text);
        }
    });
}
