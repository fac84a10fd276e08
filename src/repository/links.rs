//! Hard-link groups: names that are one file.
//!
//! Invariant: all names of a group are of one type and one content, which the first name decides. A name of another content
//! would silently come back with the first one's: it is refused, by whoever reads.

use std::collections::HashMap;

use crate::archive::entry::{Entry, Kind};
use crate::archive::hash::Hash;
use crate::archive::path::EntryPath;

/// What is said of a name that [`LinkGroups::fits`] refuses.
pub const MISFIT: &str = "the names of its hard link group differ in type or content";

/// The groups met so far.
#[derive(Debug, Default)]
pub struct LinkGroups(HashMap<String, Group>);

/// The first name of a group, and what every name of it must be.
#[derive(Debug)]
struct Group {
    first: EntryPath,
    kind: Kind,
    sha256: Option<Hash>,
}

impl LinkGroups {
    /// Whether type and content of a captured entry are those of its group, if it has one.
    pub fn fits(&mut self, entry: &Entry) -> bool {
        let Some(name) = entry.hardlink.as_ref().filter(|_| entry.kind != Kind::Dir) else { return true };
        match self.0.get(name) {
            Some(group) => (group.kind, group.sha256) == (entry.kind, entry.sha256),
            None => {
                self.begin(name.clone(), entry);
                true
            }
        }
    }

    /// The first name of the group of an entry that fits, unless it is this one.
    #[must_use]
    pub fn first_name(&self, entry: &Entry) -> Option<&EntryPath> {
        let group = self.0.get(entry.hardlink.as_ref()?)?;
        (group.first != entry.path).then_some(&group.first)
    }

    /// From here on this entry is the first name of `group`.
    pub fn begin(&mut self, group: String, entry: &Entry) {
        let (first, kind, sha256) = (entry.path.clone(), entry.kind, entry.sha256);
        self.0.insert(group, Group { first, kind, sha256 });
    }
}
