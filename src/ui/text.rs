//! Small pieces of text: sizes, counts, durations, and names made safe to show.

use std::fmt::Write as _;
use std::time::Duration;

use crate::secret;

/// A size for people, in binary units: `0 B`, `1023 B`, `1.2 MiB`.
#[must_use]
pub fn bytes(size: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if size < 1024 {
        return format!("{size} B");
    }
    // Tenths in integers: a float would round 2^64 - 1 up to a size that does not exist.
    let mut tenths = u128::from(size) * 10 / 1024;
    let mut unit = 0;
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

/// A number with its noun: `1 file`, `12 345 files`.
#[must_use]
pub fn count(number: u64, singular: &str, plural: &str) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(' ');
        }
        grouped.push(digit);
    }
    format!("{grouped} {}", if number == 1 { singular } else { plural })
}

/// A duration for people: `850 ms`, `4.2 s`, `3m 12s`, `2h 5m`.
#[must_use]
pub fn duration(length: Duration) -> String {
    let seconds = length.as_secs();
    match seconds {
        0 => format!("{} ms", length.subsec_millis()),
        1..=59 => format!("{seconds}.{} s", length.subsec_millis() / 100),
        60..=3599 => format!("{}m {}s", seconds / 60, seconds % 60),
        _ => format!("{}h {}m", seconds / 3600, seconds / 60 % 60),
    }
}

/// A file name or path that is safe to show on a terminal, and unambiguous.
///
/// Bytes that are not UTF-8 and control characters become `\xNN`, characters that reorder or break a line `\u{NNNN}`,
/// and the backslash itself `\\`.
#[must_use]
pub fn display_path(path: &[u8]) -> String {
    let mut shown = String::with_capacity(path.len());
    for chunk in path.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\\' => shown.push_str("\\\\"),
                other => push_safe(&mut shown, other),
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(shown, "\\x{byte:02x}");
        }
    }
    shown
}

/// A word of a command that can be pasted into a shell.
#[must_use]
pub fn shell_word(word: impl std::fmt::Display) -> String {
    let word = word.to_string();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-./:,+=@%".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word;
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// Text from elsewhere on one line: control and reordering characters escaped, everything else as it is.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        push_safe(&mut shown, character);
    }
    shown
}

fn push_safe(shown: &mut String, character: char) {
    if character.is_control() {
        let mut buffer = [0; 4];
        for byte in character.encode_utf8(&mut buffer).bytes() {
            let _ = write!(shown, "\\x{byte:02x}");
        }
    } else if reorders(character) {
        let _ = write!(shown, "\\u{{{:x}}}", u32::from(character));
    } else {
        shown.push(character);
    }
}

/// Characters that are no control characters but make a line look like another: bidirectional marks, line separators.
pub(super) const fn reorders(character: char) -> bool {
    matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// Blanks out secrets: every [hidden](crate::secret::Secret::hidden) value, and whatever is a secret key by its beginning.
/// The last net: a person may paste an identity where a path belongs, or a server repeat what it was sent.
#[must_use]
pub fn redact(text: &str) -> String {
    blank_keys(&secret::blank(text))
}

fn blank_keys(text: &str) -> String {
    const PREFIXES: [&str; 3] = ["AGE-SECRET-KEY-", "RWRTY0Iy", "RWQAAEIy"];
    // Upper-casing keeps ASCII offsets, so places found there are places in the text.
    let upper = text.to_ascii_uppercase();
    let mut shown = String::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        let found = PREFIXES.iter().filter_map(|prefix| {
            let place = upper.get(at..)?.find(&prefix.to_ascii_uppercase())?;
            Some((at + place, prefix.len()))
        });
        let Some((start, prefix)) = found.min() else { break };
        let secret = text.as_bytes().get(start + prefix..).unwrap_or_default();
        let length = secret.iter().take_while(|b| b.is_ascii_alphanumeric() || b"+/=-".contains(b)).count();
        shown.push_str(text.get(at..start + prefix).unwrap_or_default());
        if length > 0 {
            shown.push('…');
        }
        at = start + prefix + length;
    }
    shown.push_str(text.get(at..).unwrap_or_default());
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1024), "1.0 KiB");
        assert_eq!(bytes(1_258_291), "1.1 MiB");
        assert_eq!(bytes(1_258_292), "1.2 MiB");
        assert_eq!(bytes(u64::MAX), "15.9 EiB");
    }

    #[test]
    fn counts_and_durations() {
        assert_eq!(count(1, "file", "files"), "1 file");
        assert_eq!(count(1_234_567, "file", "files"), "1 234 567 files");
        assert_eq!(duration(Duration::from_millis(850)), "850 ms");
        assert_eq!(duration(Duration::from_millis(4250)), "4.2 s");
        assert_eq!(duration(Duration::from_secs(192)), "3m 12s");
        assert_eq!(duration(Duration::from_secs(7500)), "2h 5m");
    }

    #[test]
    fn a_hostile_name_cannot_write_to_the_terminal() {
        assert_eq!(display_path(b"a/\x1b[31mred\n\x07"), "a/\\x1b[31mred\\x0a\\x07");
        assert_eq!(display_path("\u{9b}31m \u{202e}txt".as_bytes()), "\\xc2\\x9b31m \\u{202e}txt");
        assert_eq!(display_path(b"caf\xc3\xa9 \xff\xfe"), "café \\xff\\xfe");
        assert_eq!(display_path(b"a\\x1b"), "a\\\\x1b");
        assert!(display_path(&(0..=255).collect::<Vec<u8>>()).chars().all(|c| !c.is_control()));
    }

    #[test]
    fn secret_keys_are_blanked_wherever_they_stand() {
        let text = "open age-secret-key-1abcdef: no; AGE-SECRET-KEY-PQ-1XYZ, é RWQAAEIyAb+/=; end";
        assert_eq!(redact(text), "open age-secret-key-…: no; AGE-SECRET-KEY-…, é RWQAAEIy…; end");
        assert_eq!(redact(&redact(text)), redact(text));
        assert_eq!(redact("nothing"), "nothing");
    }
}
