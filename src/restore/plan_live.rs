//! What a restore in place will do to the live tree, before it does anything.

use rustix::fs::FileType;

use super::in_place::Place;
use super::keep::{Policy, Survey};
use super::obstacle;
use super::plan::{BLOCK, RestoreRequest};
use super::reuse::{Found, Reuse};
use crate::Result;
use crate::archive::entry::{Entry, Kind};
use crate::archive::manifest::Root;
use crate::archive::path::EntryPath;
use crate::cancel::Cancel;
use crate::filter::Patterns;
use crate::progress::Progress;

/// Files that are asked for a clone, until one has it.
const ASKED: u32 = 8;

/// The tree that a restore replaces.
pub struct LiveRequest<'a> {
    /// Where it is.
    pub place: &'a Place,
    /// Paths that are never touched.
    pub not_ours: Vec<EntryPath>,
    /// Whether what the snapshot left out on purpose goes too.
    pub delete_excluded: bool,
    /// Whether the tree that an earlier restore replaced is deleted first.
    pub discard_previous: bool,
    /// Whether files are replaced one by one, with no second tree.
    pub file_by_file: bool,
}

/// What becomes of the live tree. Directories are not counted.
pub struct LivePlan {
    /// Files of the snapshot where nothing is live.
    pub to_add: u64,
    /// Files of the snapshot that differ from what is live.
    pub to_change: u64,
    /// Files that are right already.
    pub same: u64,
    /// Their content in bytes: this much is not fetched.
    pub bytes_reused: u64,
    /// Live entries that the snapshot does not have.
    pub to_remove: u64,
    /// What stays because the snapshot left it out: the first of it.
    pub kept: super::Listed<EntryPath>,
    /// True if what is right already is cloned, and takes no space.
    pub clones: bool,
    /// Bytes that come free with the tree which an earlier restore replaced.
    pub kept_size: u64,
    /// True if that tree is deleted first.
    pub discards: bool,
    /// True if files are replaced one by one.
    pub file_by_file: bool,
    /// Bytes by which the tree grows, and the most that the old and the new of one file take twice, until the one has
    /// given way to the other: what is needed file by file.
    pub(super) growth: u64,
    pub(super) twice: u64,
    /// What is replaced and what stays.
    pub policy: Policy,
    pub(super) reuse: Reuse,
    /// What of the live tree stays.
    pub(super) survey: Survey,
    asked_for_clones: u32,
    /// Entries of the snapshot in whose place something is live that is no directory.
    met: u64,
    /// Where a directory is live, and the snapshot has something else.
    over_dirs: Vec<EntryPath>,
    allow_special: bool,
    /// Bytes that were compared, and how many there will be, as far as known.
    compared: u64,
    to_compare: u64,
    live: super::dirs::Dirs,
}

impl LivePlan {
    pub(super) fn new(live: &LiveRequest<'_>, request: &RestoreRequest<'_>, root: &Root) -> Result<Self> {
        let out = |delete: bool| if delete { Default::default() } else { root.excluded.clone() };
        let excluded = out(live.delete_excluded);
        let recoverable = excluded.recoverable.into_iter().map(|path| Ok(EntryPath::new(path.into_bytes())?));
        let policy = Policy {
            selection: request.selection.clone(),
            not_ours: live.not_ours.clone(),
            excluded: Patterns::new(excluded.globs)?,
            recoverable: recoverable.collect::<Result<_>>()?,
            side_files: std::collections::HashSet::new(),
        };
        Ok(Self {
            to_add: 0,
            to_change: 0,
            same: 0,
            bytes_reused: 0,
            to_remove: 0,
            kept: super::Listed::default(),
            clones: false,
            kept_size: live.place.kept()?.map_or(0, |kept| live.place.kept_size(&kept)),
            discards: live.discard_previous,
            file_by_file: live.file_by_file,
            growth: 0,
            twice: 0,
            policy,
            reuse: Reuse::new(live.place.live(), request.cancel),
            survey: Survey::default(),
            asked_for_clones: 0,
            met: 0,
            over_dirs: Vec::new(),
            allow_special: request.options.allow_special,
            compared: 0,
            to_compare: if request.selection.is_everything() { request.snapshot.receipt.counts.bytes } else { 0 },
            live: live.place.live(),
        })
    }

    /// Adds entries of the snapshot; says of each whether its content is live already.
    pub(super) fn add(&mut self, entries: &[&Entry], progress: &dyn Progress, cancel: &Cancel) -> Result<Vec<bool>> {
        let allow_special = self.allow_special;
        let is_refused = |entry: &Entry| matches!(entry.kind, Kind::Char | Kind::Block) && !allow_special;
        let is_counted = |entry: &&&Entry| entry.is_captured() && entry.kind != Kind::Dir && !is_refused(entry);
        let counted: Vec<&Entry> = entries.iter().filter(is_counted).copied().collect();
        self.compared = counted.iter().fold(self.compared, |sum, entry| sum.saturating_add(entry.data_len()));
        progress.set_total(self.to_compare.max(self.compared));
        let mut found = self.reuse.look_for(&counted, progress)?.into_iter();
        let mut there = Vec::with_capacity(entries.len());
        for entry in entries {
            self.policy.add_database(entry);
            let found = if is_counted(&entry) { found.next() } else { None };
            match found {
                Some(found @ (Found::Nothing | Found::Directory)) => {
                    self.to_add += 1;
                    self.grows(entry, 0);
                    if found == Found::Directory {
                        self.over_dirs.push(entry.path.clone());
                    }
                }
                Some(Found::Other(size)) => {
                    self.to_change += 1;
                    self.grows(entry, size);
                }
                Some(Found::Object) => self.same += 1,
                Some(Found::Same(_)) => {
                    self.same += 1;
                    self.bytes_reused = self.bytes_reused.saturating_add(entry.data_len());
                    // A single file may be refused.
                    if !self.clones && self.asked_for_clones < ASKED && entry.data_len() > 0 {
                        self.asked_for_clones += 1;
                        self.clones = self.reuse.can_clone(entry);
                    }
                }
                None if entry.kind == Kind::Dir && entry.is_captured() => self.leads_through(&entry.path, cancel)?,
                None => {}
            }
            self.met += u64::from(matches!(found, Some(Found::Other(_) | Found::Same(_) | Found::Object)));
            there.push(matches!(found, Some(Found::Same(_))));
        }
        Ok(there)
    }

    /// Fails if a directory that only leads to what is wanted is something else here.
    fn leads_through(&self, path: &EntryPath, cancel: &Cancel) -> Result<()> {
        if self.policy.takes_metadata(path) {
            return Ok(());
        }
        let kind = self.reuse.kind(path);
        kind.map_or(Ok(()), |kind| {
            obstacle::check(&self.live, &self.policy, path, (kind == FileType::Directory, true), cancel)
        })
    }

    fn grows(&mut self, entry: &Entry, old: u64) {
        let len = entry.data_len().saturating_add(BLOCK);
        self.growth = self.growth.saturating_add(len.saturating_sub(old));
        self.twice = self.twice.max(len.min(old));
    }

    /// Looks at the live tree, when all entries were added.
    ///
    /// # Errors
    /// Usage, when something that stays is in the way.
    pub(super) fn survey(&mut self, cancel: &Cancel) -> Result<()> {
        self.survey = Survey::of(&self.live, &self.policy, cancel)?;
        for path in &self.over_dirs {
            obstacle::check(&self.live, &self.policy, path, (true, false), cancel)?;
        }
        self.to_remove = self.survey.files.saturating_sub(self.met);
        self.kept = std::mem::take(&mut self.survey.kept);
        Ok(())
    }
}
