//! Finds directories below the restored root without ever following a symbolic link.
//!
//! A path is walked one component at a time, each opened relative to the one above with
//! `O_NOFOLLOW`. Paths of any depth work, because no system call sees more than one name, and a
//! link that another process puts in the way is an error instead of a way out.
//!
//! Invariants:
//! * At most [`CAPACITY`] descriptors are kept; what is evicted is found again from the root.
//! * A kept descriptor is the directory that once stood at its path. Who may rename directories
//!   inside the root can move it, and with it what is written there later; [`Dirs::forget`]
//!   makes the next look-up start from the root again.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;

use crate::archive::hash::{Hash, Hasher};
use crate::archive::path::EntryPath;
use crate::error::{Context as _, Error, Result};

/// Directory descriptors kept open.
const CAPACITY: usize = 256;
/// Characters of a path shown in a message.
const SHOWN: usize = 300;

const DIR_FLAGS: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A path for a message: quoted, and only its end if it is very long.
pub(super) fn shown(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(path);
    match text.char_indices().rev().nth(SHOWN) {
        Some((start, _)) => format!("…{:?}", &text[start..]),
        None => format!("{text:?}"),
    }
}

/// The error for something else in the place of a directory.
pub(super) fn not_a_directory(path: &[u8], errno: Errno) -> Error {
    let why = match errno {
        Errno::LOOP | Errno::NOTDIR => "a symbolic link or file stands where this directory belongs",
        Errno::NOENT => "this directory is not there any more",
        _ => return Error::from(errno),
    };
    Error::integrity(format!("{}: {why}", shown(path)))
        .hint("another process changes the directory being restored: stop it, and restore into a new directory")
}

/// The directories below a root, with the most recently used ones kept open.
pub(super) struct Dirs {
    root: Arc<OwnedFd>,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    /// By the hash of the path, so that a deep path costs no more memory than a short one.
    fds: HashMap<Hash, (Arc<OwnedFd>, u64)>,
    clock: u64,
}

impl Kept {
    fn get(&mut self, key: &Hash) -> Option<Arc<OwnedFd>> {
        self.clock += 1;
        let (fd, used) = self.fds.get_mut(key)?;
        *used = self.clock;
        Some(Arc::clone(fd))
    }

    fn put(&mut self, key: Hash, fd: Arc<OwnedFd>) {
        if self.fds.len() >= CAPACITY {
            // The older half at once: a walk through a deep tree then pays little for each step.
            let mut ages: Vec<u64> = self.fds.values().map(|(_, used)| *used).collect();
            ages.sort_unstable();
            let middle = ages[ages.len() / 2];
            self.fds.retain(|_, (_, used)| *used >= middle);
        }
        self.clock += 1;
        self.fds.insert(key, (fd, self.clock));
    }
}

impl Dirs {
    pub(super) fn new(root: Arc<OwnedFd>) -> Self {
        Self { root, kept: Mutex::default() }
    }

    /// The directory at `path` as an `O_PATH` descriptor (the root's own for the empty path).
    ///
    /// # Errors
    /// Integrity, naming the component, when something that is no directory stands in the way.
    pub(super) fn open(&self, path: &EntryPath) -> Result<Arc<OwnedFd>> {
        if path.as_bytes().is_empty() {
            return Ok(Arc::clone(&self.root));
        }
        if let Some(dir) = self.kept().get(&Hash::of(path.as_bytes())) {
            return Ok(dir);
        }
        // Mostly its own directory was the last one asked for: what follows takes time with the square of the depth.
        if let Some((parent, name)) = path.split_last() {
            let above = self.kept().get(&Hash::of(parent.as_bytes()));
            if let Some(above) = above {
                return self.step(&above, name, path.as_bytes(), Hash::of(path.as_bytes()));
            }
        }
        // Where each component ends, and the key of the path up to there, in one pass over the bytes.
        let mut steps: Vec<(usize, Hash)> = Vec::new();
        let (mut hasher, mut end) = (Hasher::default(), 0);
        for name in path.components() {
            if end > 0 {
                hasher.update(b"/");
            }
            hasher.update(name);
            end += name.len() + usize::from(end > 0);
            steps.push((end, hasher.clone().finish()));
        }
        let (mut dir, mut depth) = (Arc::clone(&self.root), 0);
        {
            let mut kept = self.kept();
            for (index, (_, key)) in steps.iter().enumerate().rev() {
                if let Some(fd) = kept.get(key) {
                    (dir, depth) = (fd, index + 1);
                    break;
                }
            }
        }
        for (name, (end, key)) in path.components().zip(&steps).skip(depth) {
            dir = self.step(&dir, name, &path.as_bytes()[..*end], *key)?;
        }
        Ok(dir)
    }

    /// Opens the directory `name` in `dir`, which is the one at `path`, and keeps it.
    fn step(&self, dir: &OwnedFd, name: &[u8], path: &[u8], key: Hash) -> Result<Arc<OwnedFd>> {
        let next = openat(dir, name, DIR_FLAGS, Mode::empty())
            .map_err(|errno| not_a_directory(path, errno))
            .context(|| format!("opening the directory {}", shown(path)))?;
        let next = Arc::new(next);
        self.kept().put(key, Arc::clone(&next));
        Ok(next)
    }

    /// Closes what is kept, so that every directory is looked for from the root again.
    pub(super) fn forget(&self) {
        self.kept().fds.clear();
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.kept().fds.len()
    }
}
