//! Small files of ours in `.opsctl` that say what is under way.
//!
//! Invariants: a record is written aside, synced, and put in place by one rename, so a reader sees the old one or the new
//! one; it is a regular file that only its owner reads; no link is followed.

use std::io::{Read as _, Write as _};
use std::os::fd::BorrowedFd;

use rustix::fs::{self, AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::state::FOLDER;
use crate::error::{Context as _, Result};

const OWNER: Mode = Mode::RUSR.union(Mode::WUSR);

/// The name that a record has while it is written.
pub(super) fn aside(name: &str) -> String {
    format!("{name}.new")
}

/// The first `most` bytes of a record; `None` if there is none.
pub(super) fn read(folder: BorrowedFd<'_>, name: &str, most: u64) -> Result<Option<Vec<u8>>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = match fs::openat(folder, name, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(errno).context(|| format!("opening {FOLDER}/{name}")),
    };
    let mut bytes = Vec::new();
    std::fs::File::from(fd).take(most).read_to_end(&mut bytes).context(|| format!("reading {FOLDER}/{name}"))?;
    Ok(Some(bytes))
}

/// Puts a record on disk in the place of an earlier one.
pub(super) fn write(folder: BorrowedFd<'_>, name: &str, bytes: &[u8]) -> Result<()> {
    let put = || -> Result<()> {
        let new = aside(name);
        unlink(folder, &new)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = fs::openat(folder, &new, flags, OWNER)?;
        // The umask may have taken something away.
        fs::fchmod(&fd, OWNER)?;
        let mut file = std::fs::File::from(fd);
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::renameat(folder, &new, folder, name)?;
        Ok(fs::fsync(folder)?)
    };
    put().context(|| format!("writing {FOLDER}/{name}"))
}

/// Takes a record away, if there is one.
pub(super) fn remove(folder: BorrowedFd<'_>, name: &str) -> Result<()> {
    let gone = || -> Result<()> {
        if unlink(folder, name)? {
            fs::fsync(folder)?;
        }
        Ok(())
    };
    gone().context(|| format!("removing {FOLDER}/{name}"))
}

/// True if there was something.
fn unlink(folder: BorrowedFd<'_>, name: &str) -> rustix::io::Result<bool> {
    match fs::unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno),
    }
}
