//! Leaves behind what the next snapshot needs to be incremental.
//!
//! Invariant: a file is recorded as unchanged only if its size and modification time are those of the
//! snapshot when it is looked at, after its content was verified.

use std::collections::HashSet;

use super::plan::RestoreRequest;
use super::select::Selected;
use super::target::Target;
use crate::archive::entry::{Content, Kind, MAX_INLINE_EXTENTS};
use crate::archive::hash::Hash;
use crate::repository::Manifest;
use crate::state::{Local, SourceState, StateDir, TreeWriter};
use crate::{Error, Result};

/// A state being seeded.
pub(super) struct Seed {
    /// Held for its lock.
    _lock: StateDir,
    state: SourceState,
    tree: TreeWriter,
    packs: HashSet<Hash>,
}

impl Seed {
    /// Starts, if a whole snapshot is restored and there is a place for the state.
    pub(super) fn start(request: &RestoreRequest<'_>) -> Result<Option<Self>> {
        let (Some(dir), Some(store_id)) = (&request.seed, request.repository.store_id()) else { return Ok(None) };
        if !request.selection.is_everything() {
            return Ok(None);
        }
        let lock = StateDir::lock(dir)?;
        let state = lock.source(store_id, &request.snapshot.source)?;
        let tree = TreeWriter::new(&state)?;
        Ok(Some(Self { _lock: lock, state, tree, packs: HashSet::new() }))
    }

    pub(super) fn line(&mut self, target: &Target, manifest: &Manifest<'_>, selected: &Selected) -> Result<()> {
        let Selected { entry, extents } = selected;
        for extent in entry.inline_extents().iter().chain(extents) {
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
                local = json(&Local::new(&stat, jiff::Timestamp::now(), None, None))?;
            }
        }
        let listed = match &entry.content {
            Content::Listed(_) if extents.len() > MAX_INLINE_EXTENTS => json(extents)?,
            _ => String::new(),
        };
        self.tree.entry(&local, &json(entry)?, &listed)
    }

    pub(super) fn finish(self) -> Result<()> {
        self.tree.finish()?;
        self.state.adopt()
    }
}

fn json<T: serde::Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Error::from(std::io::Error::from(e)))
}
