//! Removes what a live tree has and the snapshot has not, after everything of the snapshot is in place.
//!
//! Invariants: only what the policy replaces is removed; nothing is removed from a tree that is not whole otherwise;
//! no link is followed and no mount point entered.

use std::collections::HashSet;
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags};

use super::dirs::shown;
use super::keep::Policy;
use super::obstacle::staying_below;
use super::remove::remove_tree;
use super::spine::make_writable;
use super::state::names;
use super::target::Target;
use crate::archive::entry::{Entry, Kind};
use crate::archive::hash::Hash;
use crate::archive::path::EntryPath;
use crate::cancel::Cancel;
use crate::error::{Context as _, Result};

/// What the snapshot has, by the start of the hash of its path and whether it is a directory.
#[derive(Default)]
pub(super) struct Extras {
    wanted: HashSet<(u64, bool)>,
}

impl Extras {
    /// Notes an entry of the snapshot. What could not be captured stays; what was left out is for the policy to say.
    pub(super) fn is_wanted(&mut self, entry: &Entry) {
        if entry.excluded.is_none() {
            self.wanted.insert(key(&entry.path, entry.kind == Kind::Dir));
        }
    }

    /// Removes everything else.
    pub(super) fn remove(&self, target: &Target, policy: &Policy, cancel: &Cancel) -> Result<()> {
        let mut todo = vec![EntryPath::root()];
        target.dirs.forget();
        while let Some(path) = todo.pop() {
            let what = || format!("removing what is not in the snapshot from {}", shown(path.as_bytes()));
            let dir = target.dirs.open(&path)?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let dir = fs::openat(&*dir, ".", flags, Mode::empty()).context(what)?;
            let mut gone = Vec::new();
            for (name, kind) in names(dir.as_fd()).context(what)? {
                cancel.check()?;
                let child = path.join(&name)?;
                let is_dir = kind == FileType::Directory;
                if !policy.replaces(&child) || self.wanted.contains(&key(&child, is_dir)) {
                    // Below what the snapshot left out nothing is removed.
                    if is_dir && !policy.is_not_ours(&child) && !policy.is_left_out(&child) {
                        todo.push(child);
                    }
                } else if is_dir && staying_below(&target.dirs, policy, &child, cancel)?.is_some() {
                    todo.push(child);
                } else {
                    gone.push((name, is_dir));
                }
            }
            if !gone.is_empty() {
                remove_from(&dir, &gone, cancel).context(what)?;
            }
        }
        Ok(())
    }
}

/// Removes entries of a directory, which its owner may not be allowed to write.
fn remove_from(dir: &OwnedFd, gone: &[(Vec<u8>, bool)], cancel: &Cancel) -> Result<()> {
    let mode = Mode::from_raw_mode(fs::fstat(dir)?.st_mode & 0o7777);
    let was_closed = make_writable(dir.as_fd())?;
    for (name, is_dir) in gone {
        cancel.check()?;
        match is_dir {
            true => remove_tree(dir, name)?,
            false => fs::unlinkat(dir, name.as_slice(), AtFlags::empty())?,
        }
    }
    if was_closed {
        fs::fchmod(dir, mode)?;
    }
    Ok(())
}

fn key(path: &EntryPath, is_dir: bool) -> (u64, bool) {
    (Hash::of(path.as_bytes()).start(), is_dir)
}
