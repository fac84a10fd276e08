//! What the ways of capturing share: stamps, safe opening, turns and the private scratch directory.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::super::look::COARSE_TICK;
use super::{CaptureError, POLL, Result, SIDE_SUFFIXES, inconsistent};

/// What tells whether a file was replaced or written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) dev: u64,
    pub(super) ino: u64,
    pub(super) size: u64,
    pub(super) mtime: i128,
    pub(super) ctime: i128,
}

impl Stamp {
    pub(super) fn of(stat: &rustix::fs::Stat) -> Result<Self> {
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return inconsistent("it or one of its side files is not a regular file");
        }
        let nanos = |seconds, fraction| i128::from(seconds) * 1_000_000_000 + fraction;
        Ok(Self {
            dev: stat.st_dev,
            ino: stat.st_ino,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mtime: nanos(stat.st_mtime, i128::from(stat.st_mtime_nsec)),
            ctime: nanos(stat.st_ctime, i128::from(stat.st_ctime_nsec)),
        })
    }

    pub(super) fn is_coarse(&self) -> bool {
        self.ctime % 1_000_000_000 == 0
    }

    pub(super) fn margin(&self) -> i128 {
        let margin = if self.is_coarse() { COARSE_TICK } else { Duration::from_millis(50) };
        i128::try_from(margin.as_nanos()).unwrap_or(i128::MAX)
    }
}

/// `None` if there is no such file, or can be none because the name is too long.
pub(super) fn stamp(dir: BorrowedFd<'_>, name: &OsStr) -> Result<Option<Stamp>> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Stamp::of(&stat).map(Some),
        Err(Errno::NOENT | Errno::NAMETOOLONG) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// A folder of such a name is none: it can hold nothing of the database, and the walk captures it as a folder.
pub(super) fn side(dir: BorrowedFd<'_>, name: &OsStr, suffix: &str) -> Result<Option<Stamp>> {
    let name = with_suffix(name, suffix);
    match rustix::fs::statat(dir, &name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => Ok(None),
        _ => stamp(dir, &name),
    }
}

/// The name of a side file: that of its database, and a suffix of [`super::SIDE_SUFFIXES`].
#[must_use]
pub fn with_suffix(name: &OsStr, suffix: &str) -> OsString {
    let mut name = name.to_owned();
    name.push(suffix);
    name
}

pub(super) fn open_at(dir: BorrowedFd<'_>, name: &OsStr) -> Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    Ok(File::from(rustix::fs::openat(dir, name, flags, Mode::empty())?))
}

pub(super) fn link_of(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}

/// An SQLite URI for an absolute path of any bytes.
pub(super) fn uri(path: &Path, query: &str) -> String {
    let mut uri = String::from("file:");
    if path.is_absolute() {
        uri.push_str("//");
    }
    for &byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/-_.~".contains(&byte) {
            uri.push(char::from(byte));
        } else {
            uri.push_str(&format!("%{byte:02X}"));
        }
    }
    uri + "?" + query
}

/// The right to work on one inode. POSIX locks belong to the process, so two captures of the same file (by two
/// hard links) would drop each other's.
pub(super) struct Turn((u64, u64));

static TURNS: (Mutex<BTreeSet<(u64, u64)>>, Condvar) = (Mutex::new(BTreeSet::new()), Condvar::new());

impl Turn {
    pub(super) fn wait(inode: (u64, u64), cancelled: &dyn Fn() -> bool) -> Result<Self> {
        let mut taken = TURNS.0.lock().unwrap_or_else(PoisonError::into_inner);
        while !taken.insert(inode) {
            taken = TURNS.1.wait_timeout(taken, POLL).unwrap_or_else(PoisonError::into_inner).0;
            if cancelled() {
                return Err(CaptureError::Interrupted);
            }
        }
        Ok(Self(inode))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        TURNS.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
        TURNS.1.notify_all();
    }
}

/// Makes a directory in `parent` that nobody else may look into; its name begins with `prefix`.
///
/// # Errors
/// When it cannot be made.
pub fn private_directory(parent: &Path, prefix: &str) -> io::Result<PathBuf> {
    let mut number = 0_u32;
    loop {
        let path = parent.join(format!("{prefix}-{}-{number}", std::process::id()));
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => return Ok(path),
            // Another thread's, or left by a killed process that had our number.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number < 10_000 => number += 1,
            Err(error) => return Err(error),
        }
    }
}

/// A private directory in the scratch directory, removed with all its content on drop.
pub(super) struct Room(PathBuf);

impl Room {
    pub(super) fn new(scratch: &Path) -> Result<Self> {
        Ok(Self(private_directory(scratch, "sqlite")?))
    }

    pub(super) fn at(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(super) fn create(&self, name: &str) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(self.at(name))
    }

    /// Removes `name` and its side files, if they exist.
    pub(super) fn clear(&self, name: &str) -> io::Result<()> {
        for suffix in std::iter::once("").chain(SIDE_SUFFIXES) {
            match std::fs::remove_file(self.at(&format!("{name}{suffix}"))) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
