//! How the checks of `doctor` and `verify` look to people.
//!
//! Invariant: nothing is cut. In a narrow terminal lines end between words; a word that is too long for one (an id, a path) stays
//! whole, so that it can be copied.

use std::time::Duration;

use crate::finding::{Finding, Status};
use crate::ui::{self, Table};

/// With less room than this for what was seen, or for one word of it, it stands below its check.
const NARROW: usize = 40;
/// What stands below a check is set in by this.
const INDENT: &str = "    ";

/// One row for each check; every row is one line where there is no terminal.
pub(super) fn table(checks: &[Finding], width: Option<u16>) -> String {
    let longest = checks.iter().map(|check| check.name.chars().count()).max().unwrap_or_default();
    // Beside the name: the status, the time, and what keeps columns apart.
    let room = |width| usize::from(width).saturating_sub(longest + "  skipped  1.2 min  ".len());
    let words = checks.iter().flat_map(|check| check.detail.split_whitespace());
    let longest_word = words.map(|word| ui::escape(word).chars().count()).max().unwrap_or_default();
    match width.filter(|width| room(*width) < NARROW.max(longest_word)) {
        Some(width) => checks.iter().map(|check| paragraph(check, width.into())).collect(),
        None => {
            let mut table = Table::new(["CHECK", "STATUS", "TIME", "SEEN"]).right([2]);
            for check in checks {
                table.row([check.name.clone(), word(check.status).to_owned(), took(check), check.detail.clone()]);
            }
            table.render(width)
        }
    }
}

fn paragraph(check: &Finding, width: usize) -> String {
    let mut text = format!("{}  {}  {}\n", ui::escape(&check.name), word(check.status), took(check));
    let room = width.saturating_sub(INDENT.len());
    let (mut line, mut length) = (String::new(), 0);
    for one in ui::escape(&check.detail).split_whitespace() {
        let more = one.chars().count();
        if length > 0 && length + 1 + more > room {
            text += &format!("{INDENT}{line}\n");
            (line, length) = (String::new(), 0);
        }
        if length > 0 {
            line.push(' ');
            length += 1;
        }
        line.push_str(one);
        length += more;
    }
    if length > 0 {
        text += &format!("{INDENT}{line}\n");
    }
    text
}

fn took(check: &Finding) -> String {
    ui::duration(Duration::from_millis(check.duration_ms))
}

/// A status as people see it.
pub(super) const fn word(status: Status) -> &'static str {
    match status {
        Status::Skipped => "skipped",
        Status::Ok => "ok",
        Status::Warning => "warning",
        Status::Failed => "FAILED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "20260307T140000Z-000001-0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn checks() -> [Finding; 3] {
        let detail =
            "kept in a folder of which the name is long, and that is said in many words that do not fit into one line";
        [
            Finding::ok("file.openwork-server/runtime.sqlite", "an intact database"),
            Finding::failed("location.sessions", detail, "set XDG_DATA_HOME"),
            Finding::warning("sessions.against", format!("missing: {ID} \u{1b}[31m"), "restore it again"),
        ]
    }

    #[test]
    fn in_a_narrow_terminal_lines_fit_and_words_stay_whole() {
        for width in [50, 60, 80] {
            let text = table(&checks(), Some(width));
            let too_long: Vec<&str> =
                text.lines().filter(|line| line.chars().count() > width.into() && !line.contains(ID)).collect();
            assert!(too_long.is_empty(), "{width}: {too_long:#?}");
            for whole in [ID, "file.openwork-server/runtime.sqlite", "\\x1b[31m"] {
                assert!(text.contains(whole), "{width}: {text}");
            }
            let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
            let all = words(&text);
            for check in checks() {
                let seen = words(&ui::escape(&check.detail));
                assert!(all.windows(seen.len()).any(|window| window == seen), "{width}: {text}");
            }
        }
    }

    #[test]
    fn in_a_wide_one_and_in_none_there_is_a_table() {
        let wide = table(&checks(), Some(160));
        assert!(wide.starts_with("CHECK ") && wide.lines().all(|line| line.chars().count() <= 160), "{wide}");
        let lines: Vec<String> = table(&checks(), None).lines().map(str::to_owned).collect();
        assert_eq!(lines.len(), 4, "one line each: {lines:#?}");
        assert!(lines[2].contains("FAILED") && lines[2].ends_with("fit into one line"), "{lines:#?}");
    }
}
