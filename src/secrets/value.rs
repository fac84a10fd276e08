//! What a value may look like.
//!
//! Most of what is refused here was a copy that went wrong: a line feed of `echo`, two lines in one field, a mark that an
//! editor left. Nothing is ever trimmed: the value that a service gets is the value that 1Password has.

use std::collections::BTreeSet;

use crate::config::secrets::Allow;

/// Why a value is refused, if it is. The value is not repeated.
#[must_use]
pub fn fault(value: &str, allow: &BTreeSet<Allow>) -> Option<&'static str> {
    let is = |kind: Allow, what: bool| what && !allow.contains(&kind);
    let invisible = |c: char| matches!(c, '\u{feff}' | '\u{200b}'..='\u{200f}' | '\u{2060}');
    let ends = |c: char| c == ' ' || c == '\t' || c == '\u{a0}';
    if value.contains('\0') {
        return Some("holds a NUL, which no environment variable can");
    }
    if is(Allow::Empty, value.is_empty()) {
        return Some("is empty (allow = [\"empty\"] if it is meant)");
    }
    if is(Allow::Cr, value.contains('\r')) {
        return Some("holds a carriage return, as files of Windows do (allow = [\"cr\"] if it is meant)");
    }
    if is(Allow::Multiline, value.ends_with('\n')) {
        return Some("ends in a line feed, which is rarely part of a secret (multiline = true if it is)");
    }
    if is(Allow::Multiline, value.contains('\n')) {
        return Some("has several lines (multiline = true if it is a key or a certificate)");
    }
    if is(Allow::Bom, value.contains(invisible)) {
        return Some("holds a byte order mark or another invisible character (allow = [\"bom\"] if it is meant)");
    }
    if is(Allow::Spaces, value.starts_with(ends) || value.trim_end_matches('\n').ends_with(ends)) {
        return Some("begins or ends in a space (allow = [\"spaces\"] if it is meant)");
    }
    if is(Allow::Reference, value.contains("${{")) {
        return Some("holds ${{, which Railway replaces by something else (allow = [\"reference\"] if it is meant)");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEM: &str = "-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----\n";

    #[test]
    fn what_a_copy_that_went_wrong_leaves_is_refused_unless_it_is_meant() {
        let cases = [
            ("", Some(Allow::Empty), "empty"),
            ("token\n", Some(Allow::Multiline), "ends in a line feed"),
            ("one\ntwo", Some(Allow::Multiline), "several lines"),
            (PEM, Some(Allow::Multiline), "ends in a line feed"),
            ("one\rtwo", Some(Allow::Cr), "carriage return"),
            ("\u{feff}token", Some(Allow::Bom), "byte order mark"),
            ("tok\u{200b}en", Some(Allow::Bom), "invisible"),
            (" token", Some(Allow::Spaces), "begins or ends"),
            ("token\t", Some(Allow::Spaces), "begins or ends"),
            ("${{shared.TOKEN}}", Some(Allow::Reference), "${{"),
            ("to\0ken", None, "NUL"),
        ];
        for (value, allow, says) in cases {
            let refused = fault(value, &BTreeSet::new()).unwrap_or_else(|| panic!("{value:?} is taken"));
            assert!(refused.contains(says), "{value:?}: {refused}");
            let allowed = fault(value, &allow.into_iter().collect());
            assert_eq!(allowed.is_some(), allow.is_none(), "{value:?}: {allowed:?}");
        }
        // One leave is not another.
        assert!(fault("one\r\ntwo", &[Allow::Multiline].into()).unwrap().contains("carriage return"));
        assert!(fault("token \n", &[Allow::Multiline].into()).unwrap().contains("space"));
    }

    #[test]
    fn an_ordinary_value_is_taken_as_it_is() {
        for value in ["token", "with space inside", "$HOME", "{{x}}", "$ {{", "é", "a=b&c"] {
            assert_eq!(fault(value, &BTreeSet::new()), None, "{value:?}");
        }
    }
}
