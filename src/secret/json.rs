//! A value out of JSON.
//!
//! Why not by `serde_json`: it keeps a copy of each string that has an escape, and of each that it does not read from memory.
//!
//! Invariant: the value is copied once, out of a buffer that its owner wipes, on the way through one that is wiped here.

use serde::de::{Deserialize, Deserializer, Error as _};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use super::Secret;

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <&RawValue>::deserialize(deserializer)?;
        unescape(raw.get()).ok_or_else(|| D::Error::custom("not a text"))
    }
}

/// The text of a JSON string.
fn unescape(json: &str) -> Option<Secret> {
    let inside = json.strip_prefix('"')?.strip_suffix('"')?;
    // It never becomes longer than it is in JSON: this buffer does not move.
    let mut text = Zeroizing::new(String::with_capacity(inside.len()));
    let mut rest = inside;
    while let Some((plain, escaped)) = rest.split_once('\\') {
        text.push_str(plain);
        let kind = escaped.chars().next()?;
        rest = escaped.get(kind.len_utf8()..)?;
        text.push(match kind {
            '"' | '\\' | '/' => kind,
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => {
                let first = unit(&mut rest)?;
                let is_half = (0xd800..0xdc00).contains(&first);
                let second =
                    if is_half { Some(unit(&mut rest.strip_prefix("\\u")?).zip(rest.get(6..))?) } else { None };
                match second {
                    None => char::from_u32(first)?,
                    Some((second, after)) => {
                        rest = after;
                        char::decode_utf16([u16::try_from(first).ok()?, u16::try_from(second).ok()?]).next()?.ok()?
                    }
                }
            }
            _ => return None,
        });
    }
    text.push_str(rest);
    Some(Secret::new(&text))
}

/// The four digits behind `\u`.
fn unit(rest: &mut &str) -> Option<u32> {
    let (digits, after) = rest.split_at_checked(4)?;
    *rest = after;
    u32::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_is_read_as_serde_json_reads_it() {
        let samples = [
            "",
            "plain",
            "-----BEGIN-----\nline\r\n\ttab\u{8}\u{c}",
            "quote \" and \\ and / and \u{0} \u{1f}",
            "é ü 漢字 🦀 \u{10ffff} \u{fffd}",
        ];
        for sample in samples {
            let escaped = serde_json::to_string(sample).unwrap();
            let units: String = sample.encode_utf16().map(|unit| format!("\\u{unit:04X}")).collect();
            for json in [escaped, format!("\"{units}\"")] {
                assert_eq!(serde_json::from_str::<String>(&json).unwrap(), sample);
                assert_eq!(serde_json::from_str::<Secret>(&json).unwrap().expose(), sample, "{json}");
            }
        }
    }

    #[test]
    fn what_is_no_text_is_refused_without_repeating_it() {
        for json in [r#""\ud800""#, r#""\udc00hunter2""#, r#""\ud800\u0041hunter2""#, r#"{"a":"hunter2"}"#, "17"] {
            let error = serde_json::from_str::<Secret>(json).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
