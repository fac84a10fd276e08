//! Whether a live tree is what a restore would make of it, so that nothing has to be done and nothing that is kept has
//! to go for it.
//!
//! Invariants: yes is said only of a tree in which a restore would change no content, no metadata, no link and no
//! directory; nothing is changed.

use std::collections::HashMap;
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, Stat};

use super::dirs::Dirs;
use super::metadata::{Object, is_applied};
use super::plan::{RestorePlan, RestoreRequest};
use super::plan_live::LivePlan;
use super::select::{Window, Windows};
use super::state::names;
use crate::Result;
use crate::archive::entry::{Entry, Kind};
use crate::archive::path::EntryPath;

impl RestorePlan {
    /// True if the restore in place that this is the plan of would change nothing.
    ///
    /// # Errors
    /// When the manifest or the live tree cannot be read.
    pub async fn changes_nothing(&self, request: &RestoreRequest<'_>) -> Result<bool> {
        let (Some(plan), Some(asked)) = (&self.live, &request.live) else { return Ok(false) };
        if plan.to_add + plan.to_change + plan.to_remove + self.lost.count > 0 {
            return Ok(false);
        }
        let live = asked.place.live();
        let mut look = Look { request, plan, live, links: HashMap::new(), dirs: 0, live_dirs: 0 };
        if let Some(window) = &self.window {
            return Ok(look.window(window)? && look.dirs == look.live_dirs);
        }
        let manifest = request.repository.manifest(request.snapshot, request.identities, request.cancel).await?;
        let mut windows = Windows::new(&manifest, &request.selection);
        while let Some(window) = windows.next().await? {
            if !look.window(&window)? {
                return Ok(false);
            }
        }
        Ok(look.dirs == look.live_dirs)
    }
}

/// A look at the live tree.
struct Look<'a> {
    request: &'a RestoreRequest<'a>,
    plan: &'a LivePlan,
    live: Dirs,
    /// The file of each group of names.
    links: HashMap<String, (u64, u64)>,
    /// Directories of the snapshot that would be replaced as a whole, and those that are found in their place: with one
    /// more live, something would be removed.
    dirs: u64,
    live_dirs: u64,
}

impl Look<'_> {
    /// True if all of these are live as they should be.
    fn window(&mut self, window: &Window) -> Result<bool> {
        for selected in &window.selected {
            self.request.cancel.check()?;
            let entry = &selected.entry;
            if entry.is_captured() && !self.is_right(entry).unwrap_or(false) {
                return Ok(false);
            }
        }
        Ok(window.gaps.is_empty())
    }

    /// Content was compared by the plan.
    fn is_right(&mut self, entry: &Entry) -> Result<bool> {
        let chown = self.request.options.chown;
        if entry.kind == Kind::Dir {
            let dir = self.live.open(&entry.path)?;
            let dir = fs::openat(&*dir, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
            self.dirs += u64::from(self.is_replaced(&entry.path) && !is_root(entry));
            self.live_dirs += self.replaced_dirs(&dir, &entry.path)?;
            let counts = self.plan.policy.takes_metadata(&entry.path);
            return Ok(!counts || is_applied(Object::Open(dir.as_fd()), entry, chown));
        }
        let Some((parent, name)) = entry.path.split_last() else { return Ok(false) };
        let parent = self.live.open(&parent)?;
        let stat = fs::statat(&*parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
        match entry.kind {
            Kind::File => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let file = fs::openat(&*parent, name, flags, Mode::empty())?;
                Ok(self.is_linked(entry, &stat) && is_applied(Object::Open(file.as_fd()), entry, chown))
            }
            Kind::Char | Kind::Block if !self.request.options.allow_special => Ok(false),
            Kind::Dir | Kind::Symlink | Kind::Fifo | Kind::Socket | Kind::Char | Kind::Block => {
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let object = fs::openat(&*parent, name, flags, Mode::empty())?;
                Ok(is_applied(Object::PathOnly(object.as_fd()), entry, chown))
            }
        }
    }

    /// True if the file is the one that the names of its group have, or has no other name.
    fn is_linked(&mut self, entry: &Entry, stat: &Stat) -> bool {
        let file = (stat.st_dev, stat.st_ino);
        match &entry.hardlink {
            Some(group) => *self.links.entry(group.clone()).or_insert(file) == file,
            None => stat.st_nlink == 1,
        }
    }

    /// True of a directory that gives way as a whole: one with something in it that stays does not.
    fn is_replaced(&self, dir: &EntryPath) -> bool {
        self.plan.policy.replaces(dir) && !self.plan.survey.has_staying(dir)
    }

    /// Directories in `dir` that would be replaced as a whole.
    fn replaced_dirs(&self, dir: &OwnedFd, path: &EntryPath) -> Result<u64> {
        let mut found = 0;
        for (name, kind) in names(dir.as_fd())? {
            found += u64::from(kind == FileType::Directory && self.is_replaced(&path.join(&name)?));
        }
        Ok(found)
    }
}

fn is_root(entry: &Entry) -> bool {
    entry.path.as_bytes().is_empty()
}
