//! Leaves behind what the next snapshot needs to be incremental.
//!
//! The tree is written into the staging folder, and only at the end moved to where the next snapshot
//! looks for it.
//!
//! Invariants:
//! * A file is recorded as unchanged only if its size and modification time are those of the
//!   snapshot when it is looked at, after its content was verified.
//! * Seeding never fails a restore, and never takes the place of a state that is there.

use std::collections::HashSet;
use std::fs::File;
use std::path::PathBuf;

use jiff::{SignedDuration, Timestamp};
use rustix::fs::Stat;

use super::plan::RestoreRequest;
use super::select::Selected;
use super::target::Target;
use crate::archive::entry::{Entry, Kind};
use crate::archive::hash::Hash;
use crate::repository::Manifest;
use crate::state::{Local, StateDir, StateFile, TreeWriter};
use crate::{Error, Result};

/// For this long a file must have been at rest when it was read, to be recognised as unchanged.
const REST: SignedDuration = SignedDuration::from_secs(2);

/// Whether a restore left a state behind for the next snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seeding {
    /// It was not asked for, or only a part was restored.
    NotAsked,
    /// Yes.
    Done,
    /// No, for this reason: the next snapshot reads everything.
    Skipped(String),
}

/// A state being seeded.
pub(super) enum Seed {
    Off,
    Failed(String),
    Writing(Box<Writing>),
}

/// A tree on its way.
pub(super) struct Writing {
    dir: PathBuf,
    store_id: String,
    source: String,
    file: File,
    tree: TreeWriter,
    packs: HashSet<Hash>,
}

impl Seed {
    /// Starts, if a whole snapshot is restored and there is a place for the state.
    pub(super) fn start(request: &RestoreRequest<'_>, target: &Target) -> Self {
        let (Some(dir), Some(store_id)) = (&request.seed, request.repository.store_id()) else { return Self::Off };
        if !request.selection.is_everything() {
            return Self::Off;
        }
        let begin = || -> Result<Writing> {
            let (file, path) = target.staging()?.scratch("tree")?;
            let tree = TreeWriter::at(StateFile::new(file.try_clone()?, request.to.join(path)));
            let (store_id, source) = (store_id.to_owned(), request.snapshot.source.clone());
            Ok(Writing { dir: dir.clone(), store_id, source, file, tree, packs: HashSet::new() })
        };
        begin().map_or_else(|error| Self::Failed(error.full_message()), |writing| Self::Writing(Box::new(writing)))
    }

    /// Records an entry that is in place.
    pub(super) fn line(&mut self, target: &Target, manifest: &Manifest<'_>, selected: &Selected) {
        if let Self::Writing(writing) = self
            && let Err(error) = writing.line(target, manifest, selected)
        {
            *self = Self::Failed(error.full_message());
        }
    }

    /// Moves the tree to where the next snapshot looks for it, when everything is in place and on disk.
    pub(super) fn finish(self) -> Seeding {
        match self {
            Self::Off => Seeding::NotAsked,
            Self::Failed(reason) => Seeding::Skipped(reason),
            Self::Writing(writing) => match writing.finish() {
                Ok(()) => Seeding::Done,
                Err(error) => Seeding::Skipped(error.full_message()),
            },
        }
    }
}

impl Writing {
    fn line(&mut self, target: &Target, manifest: &Manifest<'_>, selected: &Selected) -> Result<()> {
        let Selected { entry, listed, .. } = selected;
        for extent in entry.inline_extents().iter().chain(listed.iter().flatten()) {
            if self.packs.insert(extent.pack) {
                self.tree.pack(&manifest.packs().locate(extent)?)?;
            }
        }
        let mut local = String::new();
        // A directory still gets its metadata; it is cheap to look at again.
        if entry.is_captured() && entry.kind == Kind::File && !entry.changed {
            let stat = target.stat(entry)?.filter(|s| u64::try_from(s.st_size) == Ok(entry.size));
            if let Some(stat) =
                stat.filter(|s| (s.st_mtime, u32::try_from(s.st_mtime_nsec)) == (entry.mtime.0, Ok(entry.mtime.1)))
            {
                local = json(&Local::new(&stat, read_at(entry, &stat), None, None))?;
            }
        }
        let listed = listed.as_ref().map_or(Ok(String::new()), json)?;
        self.tree.entry(&local, &json(entry)?, &listed)
    }

    fn finish(self) -> Result<()> {
        self.tree.finish()?;
        let lock = StateDir::lock(&self.dir)?;
        let state = lock.source(&self.store_id, &self.source)?;
        if state.has_commit() {
            return Err(Error::usage(format!("{} holds a state of {:?} already", self.dir.display(), self.source)));
        }
        state.adopt_from(&self.file)
    }
}

/// When the content counts as read: now, or at the end of the file's rest.
///
/// The rest is there because a change in the same clock tick as the reading does not show in the change
/// time. Here a change shows in the modification time as well: the restore has set it back to a time
/// before the rest, and writing sets it forward.
fn read_at(entry: &Entry, stat: &Stat) -> Timestamp {
    let now = Timestamp::now();
    let time = |second, nanosecond| Timestamp::new(second, nanosecond).ok();
    let changed = i32::try_from(stat.st_ctime_nsec).ok().and_then(|nanos| time(stat.st_ctime, nanos));
    let modified = i32::try_from(entry.mtime.1).ok().and_then(|nanos| time(entry.mtime.0, nanos));
    let (Some(changed), Some(modified)) = (changed, modified) else { return now };
    let after = |time: Timestamp| time.checked_add(REST).unwrap_or(Timestamp::MAX);
    if after(modified) < changed {
        now.max(after(changed).checked_add(SignedDuration::from_nanos(1)).unwrap_or(now))
    } else {
        now
    }
}

fn json<T: serde::Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Error::from(std::io::Error::from(e)))
}
