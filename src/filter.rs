//! `--include` and `--exclude` patterns, the same everywhere.
//!
//! A pattern without a slash matches a name at any depth (`*.log`, `node_modules`); one with a slash
//! is anchored at the captured directory (`workspace/tmp`, `/sidecars`, `a/**/b`). `*` and `?` stop at
//! slashes, `**` does not. What matches a directory holds for everything below it.

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use crate::archive::path::EntryPath;
use crate::{Error, Result};

/// A set of patterns.
#[derive(Clone, Debug)]
pub struct Patterns {
    set: GlobSet,
    texts: Vec<String>,
}

impl Patterns {
    /// Compiles `texts`.
    ///
    /// # Errors
    /// A usage error that names the pattern which is not a glob.
    pub fn new<S: AsRef<str>>(texts: impl IntoIterator<Item = S>) -> Result<Self> {
        let mut builder = GlobSetBuilder::new();
        let mut kept = Vec::new();
        for text in texts {
            let text = text.as_ref();
            let trimmed = text.trim_end_matches('/');
            if trimmed.is_empty() {
                return Err(Error::usage(format!("the pattern {text:?} is empty")));
            }
            let anchored = match trimmed.strip_prefix('/') {
                Some(rest) => rest.to_owned(),
                None if trimmed.contains('/') => trimmed.to_owned(),
                None => format!("**/{trimmed}"),
            };
            let glob = GlobBuilder::new(&anchored).literal_separator(true).backslash_escape(true).build();
            builder.add(glob.map_err(|e| Error::usage(format!("{text:?} is not a pattern")).because(e))?);
            kept.push(text.to_owned());
        }
        let set = builder.build().map_err(|e| Error::usage("the patterns are too large").because(e))?;
        Ok(Self { set, texts: kept })
    }

    /// True if there is no pattern.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// The patterns as given.
    #[must_use]
    pub fn texts(&self) -> &[String] {
        &self.texts
    }

    /// True if a pattern matches the path itself.
    #[must_use]
    pub fn matches(&self, path: &EntryPath) -> bool {
        !self.texts.is_empty() && self.set.is_match(as_path(path.as_bytes()))
    }

    /// True if a pattern matches the path or a directory above it.
    #[must_use]
    pub fn covers(&self, path: &EntryPath) -> bool {
        if self.texts.is_empty() {
            return false;
        }
        let bytes = path.as_bytes();
        let ends = bytes.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(i, _)| i).chain([bytes.len()]);
        ends.into_iter().any(|end| self.set.is_match(as_path(&bytes[..end])))
    }

    /// The directories and files that the patterns name literally, if all of them do so:
    /// then only those parts of a manifest have to be read.
    #[must_use]
    pub fn literal_paths(&self) -> Option<Vec<EntryPath>> {
        let literal = |text: &String| {
            let path = text.trim_end_matches('/');
            let anchored = path.contains('/');
            let plain = !path.contains(['*', '?', '[', '{', '\\']);
            let path = path.strip_prefix('/').unwrap_or(path);
            (anchored && plain).then(|| EntryPath::new(path.as_bytes().to_vec()).ok()).flatten()
        };
        (!self.texts.is_empty()).then(|| self.texts.iter().map(literal).collect()).flatten()
    }
}

fn as_path(bytes: &[u8]) -> &std::path::Path {
    use std::os::unix::ffi::OsStrExt as _;
    std::ffi::OsStr::from_bytes(bytes).as_ref()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> EntryPath {
        EntryPath::new(text.as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn patterns_match_as_documented() {
        for (pattern, yes, no) in [
            ("*.log", &["a.log", "x/y/b.log"][..], &["a.logs", "log"][..]),
            ("node_modules", &["node_modules", "a/node_modules"], &["node_modules2"]),
            ("/sidecars", &["sidecars"], &["a/sidecars"]),
            ("workspace/tmp", &["workspace/tmp"], &["a/workspace/tmp", "workspace/tmp2"]),
            ("a/*/c", &["a/b/c"], &["a/b/x/c"]),
            ("a/**/c", &["a/c", "a/b/x/c"], &["b/c"]),
            ("cache/", &["x/cache"], &["caches"]),
        ] {
            let patterns = Patterns::new([pattern]).unwrap();
            for p in yes {
                assert!(patterns.matches(&path(p)), "{pattern} should match {p}");
            }
            for p in no {
                assert!(!patterns.matches(&path(p)), "{pattern} should not match {p}");
            }
        }
    }

    #[test]
    fn what_matches_a_directory_covers_what_is_below() {
        let patterns = Patterns::new(["a/b", "tmp"]).unwrap();
        for p in ["a/b", "a/b/c/d", "x/tmp/y"] {
            assert!(patterns.covers(&path(p)), "{p}");
        }
        assert!(!patterns.covers(&path("a/bc")) && !patterns.covers(&path("a")));
    }

    #[test]
    fn only_plain_anchored_patterns_are_literal() {
        assert_eq!(Patterns::new(["/a", "b/c/"]).unwrap().literal_paths(), Some(vec![path("a"), path("b/c")]));
        for other in [vec!["/a", "b"], vec!["a/*"], vec![]] {
            assert_eq!(Patterns::new(other).unwrap().literal_paths(), None);
        }
    }

    #[test]
    fn a_bad_pattern_is_named() {
        assert!(Patterns::new(["a[".to_owned()]).unwrap_err().to_string().contains("a["));
        assert!(Patterns::new(["/"]).is_err());
    }
}
