//! What a restore could not put in place, kept in bounded memory and told at its end.
//!
//! Invariants: everything that is lost is counted, whatever its number; the first of it are named;
//! a restore with anything lost does not end well.

use std::collections::BTreeSet;

use crate::archive::path::EntryPath;
use crate::repository::manifest::Gap;

/// Paths and objects that are named, at most.
const NAMED: usize = 20;

/// Paths that are not restored.
#[derive(Debug, Default)]
pub(super) struct Lost {
    named: Vec<String>,
    count: u64,
}

impl Lost {
    /// Adds a path; without a reason if a damaged object is the reason.
    pub(super) fn add(&mut self, path: &EntryPath, reason: Option<&str>) {
        self.push(|| match reason {
            Some(reason) => format!("{path:?} ({reason})"),
            None => format!("{path:?}"),
        });
    }

    /// Adds the paths of a gap in the manifest, as one.
    pub(super) fn add_gap(&mut self, gap: &Gap) {
        self.push(|| describe(gap));
    }

    fn push(&mut self, text: impl FnOnce() -> String) {
        self.count += 1;
        if self.named.len() < NAMED {
            self.named.push(text());
        }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.count == 0
    }
}

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        list(f, self.named.iter(), self.count)
    }
}

/// A gap in words.
pub(super) fn describe(gap: &Gap) -> String {
    let Gap { first, before, reason } = gap;
    match before {
        Some(before) => format!("every path from {first:?} up to, not including, {before:?} ({reason})"),
        None => format!("every path from {first:?} on ({reason})"),
    }
}

/// Objects that could not be used, each with the first reason.
#[derive(Debug, Default)]
pub(super) struct Damaged {
    seen: BTreeSet<String>,
    named: Vec<String>,
}

impl Damaged {
    pub(super) fn add(&mut self, object: String, reason: &str) {
        if self.seen.contains(&object) {
            return;
        }
        if self.named.len() < NAMED {
            self.named.push(format!("{object} ({reason})"));
        }
        self.seen.insert(object);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }
}

impl std::fmt::Display for Damaged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        list(f, self.named.iter(), self.seen.len() as u64)
    }
}

fn list<'t>(
    f: &mut std::fmt::Formatter<'_>,
    named: impl ExactSizeIterator<Item = &'t String>,
    count: u64,
) -> std::fmt::Result {
    let more = count.saturating_sub(named.len() as u64);
    for (index, text) in named.enumerate() {
        f.write_str(if index > 0 { ", " } else { "" })?;
        f.write_str(text)?;
    }
    if more > 0 { write!(f, " and {more} more") } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_are_named_and_all_are_counted() {
        let (mut lost, mut damaged) = (Lost::default(), Damaged::default());
        assert!(lost.is_empty() && damaged.is_empty());
        for index in 0..25 {
            let path = EntryPath::new(format!("f{index:02}").into_bytes()).unwrap();
            lost.add(&path, Some("why"));
            damaged.add(format!("packs/{}", index / 2), "first reason");
        }
        lost.add_gap(&Gap { first: EntryPath::root(), before: None, reason: "torn".into() });
        let text = lost.to_string();
        assert!(text.starts_with("\"f00\" (why), ") && text.ends_with(" and 6 more"), "{text}");
        assert_eq!(damaged.to_string().matches("first reason").count(), 13);
    }
}
