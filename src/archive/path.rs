//! Paths inside a snapshot: relative, byte strings, ordered by component.
//!
//! Invariant: a value of [`EntryPath`] can be walked from a root directory without leaving it:
//! no empty, `.` or `..` component, no NUL, no leading slash. The root itself is the empty path.

use std::cmp::Ordering;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::FormatError;

/// The longest name of one component that Linux file systems take.
const NAME_MAX: usize = 255;

/// A checked path relative to the captured root.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct EntryPath(Vec<u8>);

impl EntryPath {
    /// The root of the capture.
    #[must_use]
    pub const fn root() -> Self {
        Self(Vec::new())
    }

    /// Checks `bytes`.
    ///
    /// # Errors
    /// When a component is empty, `.`, `..`, longer than 255 bytes, or holds a NUL.
    pub fn new(bytes: Vec<u8>) -> Result<Self, FormatError> {
        if bytes.is_empty() {
            return Ok(Self(bytes));
        }
        for name in bytes.split(|b| *b == b'/') {
            let bad = name.is_empty() || name == b"." || name == b".." || name.len() > NAME_MAX || name.contains(&0);
            if bad {
                let shown = String::from_utf8_lossy(&bytes);
                let shown: String = shown.chars().take(120).collect();
                return Err(FormatError::malformed(format!("path {shown:?} is not allowed in a snapshot")));
            }
        }
        Ok(Self(bytes))
    }

    /// This path with one more component, which must be a plain file name.
    ///
    /// # Errors
    /// As [`EntryPath::new`].
    pub fn join(&self, name: &[u8]) -> Result<Self, FormatError> {
        let mut bytes = Vec::with_capacity(self.0.len() + 1 + name.len());
        bytes.extend_from_slice(&self.0);
        if !bytes.is_empty() {
            bytes.push(b'/');
        }
        bytes.extend_from_slice(name);
        Self::new(bytes)
    }

    /// The bytes, without leading slash; empty for the root.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The components from the root down.
    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|b| *b == b'/').filter(|name| !name.is_empty())
    }

    /// Directory and last component; `None` for the root.
    #[must_use]
    pub fn split_last(&self) -> Option<(Self, &[u8])> {
        if self.0.is_empty() {
            return None;
        }
        match self.0.iter().rposition(|b| *b == b'/') {
            Some(slash) => Some((Self(self.0[..slash].to_vec()), &self.0[slash + 1..])),
            None => Some((Self::root(), &self.0)),
        }
    }

    /// True if `self` is `ancestor` or lies below it.
    #[must_use]
    pub fn is_within(&self, ancestor: &Self) -> bool {
        ancestor.0.is_empty()
            || self.0 == ancestor.0
            || (self.0.starts_with(&ancestor.0) && self.0.get(ancestor.0.len()) == Some(&b'/'))
    }

    /// The two JSON fields `path` and `path_b64`, of which exactly one is set.
    #[must_use]
    pub fn to_json(&self) -> (Option<String>, Option<String>) {
        json_text(&self.0)
    }

    /// The reverse of [`EntryPath::to_json`].
    ///
    /// # Errors
    /// When none or both are set, the base64 is wrong, or the path is not allowed.
    pub fn from_json(text: Option<String>, b64: Option<String>) -> Result<Self, FormatError> {
        Self::new(bytes_from_json("path", text, b64)?)
    }
}

/// Bytes as a JSON string where they are UTF-8, else as base64.
#[must_use]
pub fn json_text(bytes: &[u8]) -> (Option<String>, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (Some(text.to_owned()), None),
        Err(_) => (None, Some(STANDARD.encode(bytes))),
    }
}

/// The reverse of [`json_text`].
///
/// # Errors
/// When not exactly one is set, or the base64 is wrong.
pub fn bytes_from_json(what: &str, text: Option<String>, b64: Option<String>) -> Result<Vec<u8>, FormatError> {
    match (text, b64) {
        (Some(text), None) => Ok(text.into_bytes()),
        (None, Some(b64)) => {
            STANDARD.decode(&b64).map_err(|e| FormatError::malformed(format!("{what}_b64 is not base64: {e}")))
        }
        _ => Err(FormatError::malformed(format!("exactly one of {what} and {what}_b64 must be set"))),
    }
}

impl Ord for EntryPath {
    /// Component by component, each compared as bytes: the order of a sorted depth-first walk.
    fn cmp(&self, other: &Self) -> Ordering {
        // A slash must sort below every byte a name can hold; NUL never occurs in a name.
        let key = |b: &u8| if *b == b'/' { 0 } else { *b };
        self.0.iter().map(key).cmp(other.0.iter().map(key))
    }
}

impl PartialOrd for EntryPath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Debug for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> EntryPath {
        EntryPath::new(text.as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn paths_that_could_leave_the_root_are_refused() {
        for bad in ["/etc", "..", "a/../b", "a//b", "a/", ".", "a/.", "a\0b", "./a", &"x".repeat(256)] {
            assert!(EntryPath::new(bad.as_bytes().to_vec()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn order_is_that_of_a_sorted_walk() {
        let mut paths = ["a.b", "a/z", "a", "", "a/b/c", "a-b", "a/b"].map(path);
        paths.sort();
        assert_eq!(paths, ["", "a", "a/b", "a/b/c", "a/z", "a-b", "a.b"].map(path));
    }

    #[test]
    fn names_that_are_not_utf8_travel_as_base64() {
        let odd = EntryPath::new(b"a/\xff".to_vec()).unwrap();
        let (text, b64) = odd.to_json();
        assert_eq!((text.clone(), b64.as_deref()), (None, Some("YS//")));
        assert_eq!(EntryPath::from_json(text, b64).unwrap(), odd);
        assert!(EntryPath::from_json(None, None).is_err());
        assert!(EntryPath::from_json(None, Some("Li4=".into())).is_err(), "`..` in base64");
    }

    #[test]
    fn within_compares_whole_components() {
        assert!(path("a/b").is_within(&path("a")));
        assert!(!path("ab").is_within(&path("a")));
        assert!(path("a").is_within(&EntryPath::root()));
    }
}
