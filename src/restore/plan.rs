//! What a restore will do, before it does anything.

use std::path::PathBuf;

use super::lost::describe;
use super::plan_live::{LivePlan, LiveRequest};
use super::resume::Begun;
use super::select::{Selected, Selection, Window, Windows};
use super::space::{Free, free_space};
use super::state::{DirState, Task, not_empty, state_of};
use super::target::TargetOptions;
use crate::archive::entry::{Entry, Extent, Kind};
use crate::archive::keyring::Identities;
use crate::archive::path::EntryPath;
use crate::cancel::Cancel;
use crate::progress::Progress;
use crate::repository::{FetchPlan, LinkGroups, MISFIT, Manifest, Repository, Snapshot};
use crate::{Error, ExitCode, Result};

/// Paths that a plan lists, at most.
const MAX_LISTED: usize = 1000;
/// What a file or directory costs beside its content, roughly.
pub(super) const BLOCK: u64 = 4096;

/// What to restore, from where, to where.
pub struct RestoreRequest<'a> {
    /// The store.
    pub repository: &'a Repository,
    /// The snapshot.
    pub snapshot: &'a Snapshot,
    /// Keys that open it.
    pub identities: &'a Identities,
    /// The new directory; of a restore in place the stage.
    pub to: PathBuf,
    /// The same for messages.
    pub shown: PathBuf,
    /// The tree that is replaced; `None` for a restore into a new directory.
    pub live: Option<LiveRequest<'a>>,
    /// What of the snapshot is wanted.
    pub selection: Selection,
    /// What may be created.
    pub options: TargetOptions,
    /// Where the state of the next snapshot is seeded; `None` seeds nothing.
    pub seed: Option<PathBuf>,
    /// Packs in memory at most, in bytes.
    pub memory: u64,
    /// Stops everything.
    pub cancel: &'a Cancel,
}

impl RestoreRequest<'_> {
    /// What is kept beside an unfinished restore, so that nothing else goes on with it.
    #[must_use]
    pub fn task(&self) -> Task {
        let Selection { include, exclude } = &self.selection;
        Task::new(self.snapshot.id.as_str(), include.texts(), exclude.texts(), self.options.allow_special)
    }

    /// What stands in the live tree and is never touched: if an older snapshot has it, it is not restored.
    pub(super) fn not_ours(&self) -> &[EntryPath] {
        self.live.as_ref().map_or(&[], |live| &live.not_ours)
    }
}

/// The plan of a restore.
pub struct RestorePlan {
    /// True if an interrupted restore of this snapshot goes on.
    pub resumes: bool,
    /// True if everything is staged already.
    pub is_staged: bool,
    /// What becomes of the live tree; `None` for a restore into a new directory.
    pub live: Option<LivePlan>,
    /// Regular files to restore, hard links included.
    pub files: u64,
    /// Directories to restore.
    pub dirs: u64,
    /// Bytes of content to write, holes not counted, hard links once.
    pub bytes: u64,
    /// Bytes to fetch for content. What an interrupted run has put in place is not fetched again.
    pub bytes_to_fetch: u64,
    /// Bytes of content to take from the live tree.
    bytes_to_reuse: u64,
    /// Requests to send for content.
    pub requests: u64,
    /// Space to be taken, with what files cost beside their content. What an interrupted run has put in place has it
    /// already.
    pub space: u64,
    /// Files and directories to be made.
    inodes: u64,
    /// Space there is.
    pub free: Free,
    /// Captured without content, with the reason: they will be missing.
    pub missing: Listed<(EntryPath, String)>,
    /// Stored while they were changing.
    pub changed: Listed<EntryPath>,
    /// Devices that are left out.
    pub devices: Listed<EntryPath>,
    /// Extended attributes that could not be read when the snapshot was taken, with the reason.
    pub unread_xattrs: Listed<(EntryPath, String)>,
    /// Known already to be lost to damage, in words. That a pack is damaged shows only when it is read.
    pub lost: Listed<String>,
    /// The whole selection, if it fits into one window.
    pub(super) window: Option<Window>,
}

impl RestorePlan {
    /// Reads the manifest and the target directory; writes nothing. What is live is compared with the snapshot: that is the
    /// progress.
    ///
    /// # Errors
    /// Exit 2 if the directory is in use, 4 for damage, 10 if nothing is selected, 12 for a wrong
    /// identity.
    pub async fn make(request: &RestoreRequest<'_>, progress: &dyn Progress) -> Result<Self> {
        let found = check_target(request)?;
        let manifest = request.repository.manifest(request.snapshot, request.identities, request.cancel).await?;
        let free = free_space(&request.shown)?;
        let live = request.live.as_ref().map(|live| LivePlan::new(live, request, manifest.root())).transpose()?;
        let mut plan = Self {
            resumes: found == Stage::Begun,
            is_staged: found == Stage::Complete,
            live,
            files: 0,
            dirs: 0,
            bytes: 0,
            bytes_to_fetch: 0,
            bytes_to_reuse: 0,
            requests: 0,
            space: 0,
            inodes: 0,
            free,
            missing: Listed::default(),
            changed: Listed::default(),
            devices: Listed::default(),
            unread_xattrs: Listed::default(),
            lost: Listed::default(),
            window: None,
        };
        let begun = (found != Stage::Empty && !plan.is_file_by_file()).then(|| Begun::open(&request.to)).transpose()?;
        let mut windows = Windows::new(&manifest, &request.selection);
        let mut links = LinkGroups::default();
        let mut number = 0;
        while let Some(window) = windows.next().await? {
            let window = window.without(request.not_ours());
            number += 1;
            plan.add(request, &manifest, &window, &mut links, begun.as_ref(), progress)?;
            plan.window = (number == 1).then_some(window);
        }
        if let Some(live) = &mut plan.live {
            live.survey(request.cancel)?;
            if live.file_by_file {
                plan.space = live.growth.saturating_add(live.twice);
                plan.inodes = live.to_add + 1;
            }
        }
        let only_root = plan.files + plan.dirs <= 1 && plan.devices.count == 0 && plan.lost.count == 0;
        if only_root
            && !request.selection.include.is_empty()
            && plan.window.as_ref().is_none_or(|w| w.selected.len() <= 1)
        {
            let patterns = request.selection.include.texts().join(", ");
            return Err(Error::new(
                ExitCode::NotFound,
                format!("no path of snapshot {} matches {patterns}", request.snapshot.id),
            )
            .hint("`opsctl ls` lists the paths; patterns with a slash are anchored at the captured folder"));
        }
        Ok(plan)
    }

    fn is_file_by_file(&self) -> bool {
        self.live.as_ref().is_some_and(|live| live.file_by_file)
    }

    fn add(
        &mut self,
        request: &RestoreRequest<'_>,
        manifest: &Manifest<'_>,
        window: &Window,
        links: &mut LinkGroups,
        begun: Option<&Begun>,
        progress: &dyn Progress,
    ) -> Result<()> {
        let mut extents: Vec<&Extent> = Vec::new();
        window.gaps.iter().for_each(|gap| self.lost.push(describe(gap)));
        let entries: Vec<&Entry> = window.selected.iter().map(|selected| &selected.entry).collect();
        let mut found =
            self.live.as_mut().map_or(Ok(Vec::new()), |live| live.add(&entries, progress, request.cancel))?.into_iter();
        for selected in &window.selected {
            let Selected { entry, lost, .. } = selected;
            let is_there = found.next() == Some(true);
            if let Some(reason) = &entry.missing {
                self.missing.push((entry.path.clone(), reason.clone()));
            }
            for reason in &entry.unread_xattrs {
                self.unread_xattrs.push((entry.path.clone(), reason.clone()));
            }
            if let Some(reason) = lost {
                self.lost.push(format!("{:?} ({reason})", entry.path));
            }
            if !entry.is_captured() {
                continue;
            }
            if !links.fits(entry) {
                self.lost.push(format!("{:?} ({MISFIT})", entry.path));
                continue;
            }
            let is_made = begun.is_some_and(|begun| begun.has(entry));
            if !is_made {
                self.inodes += 1;
                self.space = self.space.saturating_add(BLOCK);
            }
            match entry.kind {
                Kind::Dir => self.dirs += 1,
                Kind::File => {
                    self.files += 1;
                    if entry.changed {
                        self.changed.push(entry.path.clone());
                    }
                    if links.first_name(entry).is_some() {
                        continue;
                    }
                    // Claims of a manifest: what is too much for an integer is too much for the disk.
                    let len = entry.data_len();
                    self.bytes = self.bytes.saturating_add(len);
                    let is_cloned = is_there && self.live.as_ref().is_some_and(|live| live.clones);
                    if !is_made && !is_cloned {
                        self.space = self.space.saturating_add(len.checked_next_multiple_of(BLOCK).unwrap_or(len));
                    }
                    match (is_made, is_there) {
                        (true, _) => {}
                        (false, true) => self.bytes_to_reuse = self.bytes_to_reuse.saturating_add(len),
                        (false, false) => extents.extend(selected.extents()),
                    }
                }
                Kind::Char | Kind::Block if !request.options.allow_special => {
                    self.devices.push(entry.path.clone());
                }
                _ => {}
            }
        }
        let fetch = FetchPlan::new(manifest.packs(), extents)?;
        self.bytes_to_fetch += fetch.bytes();
        self.requests += fetch.requests();
        Ok(())
    }

    /// Bytes to fetch, and to take from the live tree: the work that [`restore`](super::restore) tells the progress of.
    #[must_use]
    pub const fn work(&self) -> u64 {
        self.bytes_to_fetch.saturating_add(self.bytes_to_reuse)
    }

    /// Fails if the plan does not fit.
    ///
    /// # Errors
    /// Exit 14 with the numbers.
    pub fn check_space(&self) -> Result<()> {
        self.check_space_in(self.free)
    }

    /// Fails if the plan does not fit into so much free space.
    ///
    /// # Errors
    /// Exit 14 with the numbers.
    pub fn check_space_in(&self, free: Free) -> Result<()> {
        if self.fits(free) {
            return Ok(());
        }
        if self.space > free.bytes {
            let message = format!("the restore needs about {} bytes, {} are free", self.space, free.bytes);
            return Err(Error::new(ExitCode::NoSpace, message).hint(self.ways_to_room()));
        }
        let message = format!("the restore needs {} inodes, {} are free", self.inodes, free.inodes.unwrap_or_default());
        Err(Error::new(ExitCode::NoSpace, message).hint("restore to another file system"))
    }

    /// True if so much free space is enough.
    #[must_use]
    pub fn fits(&self, free: Free) -> bool {
        let inodes = free.inodes.is_none_or(|inodes| self.inodes <= inodes);
        // What is staged is exchanged without a further byte.
        self.is_staged || (self.space <= free.bytes && inodes)
    }

    /// What can be done where there is not enough space.
    #[must_use]
    pub fn ways_to_room(&self) -> &'static str {
        match &self.live {
            None => "restore to a larger disk, or only a part with --include",
            Some(live) if live.kept_size > 0 && !live.discards => {
                "--discard-previous deletes the tree that an earlier restore replaced; --in-place replaces file by \
                 file and cannot be rolled back; or make the volume larger"
            }
            Some(live) if live.file_by_file => "restore only a part with --include, or make the volume larger",
            Some(_) => "--in-place replaces file by file and cannot be rolled back; or make the volume larger",
        }
    }
}

/// The first of many things, and how many there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed<T> {
    /// The first of them, a bounded number.
    pub first: Vec<T>,
    /// How many there are in all.
    pub count: u64,
}

impl<T> Default for Listed<T> {
    fn default() -> Self {
        Self { first: Vec::new(), count: 0 }
    }
}

impl<T> Listed<T> {
    pub(super) fn push(&mut self, item: T) {
        self.count += 1;
        if self.first.len() < MAX_LISTED {
            self.first.push(item);
        }
    }

    /// How many are not in `first`.
    #[must_use]
    pub fn unlisted(&self) -> u64 {
        self.count.saturating_sub(self.first.len() as u64)
    }
}

/// What stands where the restore writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Empty,
    Begun,
    Complete,
}

fn check_target(request: &RestoreRequest<'_>) -> Result<Stage> {
    match (state_of(&request.to)?, &request.live) {
        (DirState::Missing | DirState::Empty, _) => Ok(Stage::Empty),
        // The live tree itself: what stands there is looked at file by file, each time.
        (_, Some(live)) if live.file_by_file => Ok(Stage::Begun),
        (DirState::Resumable(task), _) => {
            task.must_be(&request.task(), &request.shown.display().to_string()).map(|()| Stage::Begun)
        }
        // A stage loses its marker when it is complete.
        (DirState::NotEmpty { .. }, Some(_)) => Ok(Stage::Complete),
        (DirState::NotEmpty { example }, None) => Err(not_empty(&request.shown.display().to_string(), &example)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_listed_is_counted() {
        let mut listed = Listed::default();
        (0..MAX_LISTED + 7).for_each(|n| listed.push(n));
        assert_eq!((listed.first.len(), listed.count, listed.unlisted()), (MAX_LISTED, MAX_LISTED as u64 + 7, 7));
    }
}
