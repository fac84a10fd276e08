//! What differs between two snapshots, path by path, from their manifests alone.
//!
//! Invariants: both manifests are read once, in order, with bounded memory; no file content is fetched.

use std::cmp::Ordering;
use std::vec;

use schemars::JsonSchema;
use serde::Serialize;

use crate::Result;
use crate::archive::entry::{Entry, Kind};
use crate::archive::path::EntryPath;
use crate::archive::receipt::SnapshotId;

use super::manifest::{Manifest, Walk};

/// One respect in which a path differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Aspect {
    /// What it is: file, directory, …
    Type,
    /// Bytes of a file, target of a symbolic link, number of a device.
    Content,
    /// Permission bits.
    Mode,
    /// Owner or group.
    Owner,
    /// Modification time.
    Mtime,
    /// Extended attributes.
    Xattrs,
    /// Which other names the file has.
    Hardlink,
    /// Whether it was captured at all, or left out, or unreadable.
    Captured,
}

/// A difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Only in the later snapshot.
    Added(Entry),
    /// Only in the earlier snapshot.
    Removed(Entry),
    /// In both, and different.
    Changed {
        /// As it is in the earlier snapshot.
        before: Box<Entry>,
        /// As it is in the later snapshot.
        after: Box<Entry>,
        /// In what respects they differ; never empty.
        what: Vec<Aspect>,
    },
}

impl Change {
    /// The path.
    #[must_use]
    pub fn path(&self) -> &EntryPath {
        match self {
            Self::Added(entry) | Self::Removed(entry) => &entry.path,
            Self::Changed { after, .. } => &after.path,
        }
    }
}

/// How many differences there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct DiffCounts {
    /// Paths only in the later snapshot.
    pub added: u64,
    /// Paths only in the earlier snapshot.
    pub removed: u64,
    /// Paths in both that differ.
    pub changed: u64,
}

/// Gives every difference between `before` and `after` to `each`, in order of path; with `subtrees` only those at and
/// below them.
///
/// # Errors
/// Those of [`Walk::next`] and of `each`.
pub async fn diff(
    before: &Manifest<'_>,
    after: &Manifest<'_>,
    subtrees: Option<&[EntryPath]>,
    mut each: impl FnMut(Change) -> Result<()>,
) -> Result<DiffCounts> {
    let mut counts = DiffCounts::default();
    let mut old = Entries::new(before.walk(subtrees));
    let mut new = Entries::new(after.walk(subtrees));
    let (mut left, mut right) = (old.next().await?, new.next().await?);
    loop {
        let order = match (&left, &right) {
            (None, None) => return Ok(counts),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(before), Some(after)) => before.path.cmp(&after.path),
        };
        let before = if order.is_le() { std::mem::replace(&mut left, old.next().await?) } else { None };
        let after = if order.is_ge() { std::mem::replace(&mut right, new.next().await?) } else { None };
        let Some(change) = compare(before, after) else { continue };
        // The walk also gives the directories above.
        if subtrees.is_none_or(|subtrees| subtrees.iter().any(|subtree| change.path().is_within(subtree))) {
            match change {
                Change::Added(_) => counts.added += 1,
                Change::Removed(_) => counts.removed += 1,
                Change::Changed { .. } => counts.changed += 1,
            }
            each(change)?;
        }
    }
}

/// A walk, entry by entry.
struct Entries<'m> {
    walk: Walk<'m>,
    batch: vec::IntoIter<Entry>,
}

impl<'m> Entries<'m> {
    fn new(walk: Walk<'m>) -> Self {
        Self { walk, batch: Vec::new().into_iter() }
    }

    async fn next(&mut self) -> Result<Option<Entry>> {
        if let Some(entry) = self.batch.next() {
            return Ok(Some(entry));
        }
        self.batch = self.walk.next().await?.unwrap_or_default().into_iter();
        Ok(self.batch.next())
    }
}

fn compare(before: Option<Entry>, after: Option<Entry>) -> Option<Change> {
    match (before, after) {
        (None, None) => None,
        (None, Some(after)) => Some(Change::Added(after)),
        (Some(before), None) => Some(Change::Removed(before)),
        (Some(before), Some(after)) => {
            let what = aspects(&before, &after);
            (!what.is_empty()).then(|| Change::Changed { before: Box::new(before), after: Box::new(after), what })
        }
    }
}

/// In what respects two entries of one path differ.
#[must_use]
pub fn aspects(a: &Entry, b: &Entry) -> Vec<Aspect> {
    let captured = |e: &Entry| (e.missing.is_some(), e.excluded.is_some());
    let checks = [
        (Aspect::Type, a.kind != b.kind),
        (Aspect::Content, (a.sha256, a.size, &a.target, a.rdev) != (b.sha256, b.size, &b.target, b.rdev)),
        (Aspect::Mode, a.mode != b.mode),
        (Aspect::Owner, (a.uid, a.gid) != (b.uid, b.gid)),
        (Aspect::Mtime, a.mtime != b.mtime),
        (Aspect::Xattrs, a.xattrs != b.xattrs),
        (Aspect::Hardlink, a.hardlink != b.hardlink),
        (Aspect::Captured, captured(a) != captured(b)),
    ];
    checks.into_iter().filter_map(|(aspect, differs)| differs.then_some(aspect)).collect()
}

/// How a path differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    /// Only in the later snapshot.
    Added,
    /// Only in the earlier snapshot.
    Removed,
    /// In both, and different.
    Changed,
}

/// One difference in the output of `diff`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ChangeRow {
    /// How the path differs.
    pub change: ChangeKind,
    /// The path, if it is UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The path in base64, if it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_b64: Option<String>,
    /// What it is: in the later snapshot, if it is there.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// Bytes in the earlier snapshot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_before: Option<u64>,
    /// Bytes in the later snapshot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_after: Option<u64>,
    /// In what respects it changed.
    pub what: Vec<Aspect>,
}

impl From<&Change> for ChangeRow {
    fn from(change: &Change) -> Self {
        let (kind, before, after, what) = match change {
            Change::Added(entry) => (ChangeKind::Added, None, Some(entry), Vec::new()),
            Change::Removed(entry) => (ChangeKind::Removed, Some(entry), None, Vec::new()),
            Change::Changed { before, after, what } => {
                (ChangeKind::Changed, Some(&**before), Some(&**after), what.clone())
            }
        };
        let size = |entry: Option<&Entry>| entry.filter(|e| e.kind == Kind::File).map(|e| e.size);
        let (path, path_b64) = change.path().to_json();
        let of = after.or(before).map_or(Kind::File, |entry| entry.kind);
        Self { change: kind, path, path_b64, kind: of, size_before: size(before), size_after: size(after), what }
    }
}

/// The output of `diff`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct DiffDocument {
    /// The earlier snapshot.
    pub from: SnapshotId,
    /// The later snapshot.
    pub to: SnapshotId,
    /// Every difference, in order of path.
    pub changes: Vec<ChangeRow>,
    /// How many there are.
    #[serde(flatten)]
    pub counts: DiffCounts,
}
