//! How much a file system still takes, asked before a restore begins.
//!
//! Invariant: the answer is what an ordinary user may write. Blocks reserved for root are not
//! counted, because in a container even root often may not use them.

use std::path::Path;

use rustix::fs::{self, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Context as _, Result};

/// Free space of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Free {
    /// Bytes.
    pub bytes: u64,
    /// Files and directories; `None` where the file system sets no limit.
    pub inodes: Option<u64>,
}

/// The free space where `dir` is or, if it does not exist, would be created.
///
/// # Errors
/// When no ancestor of it can be opened.
pub fn free_space(dir: &Path) -> Result<Free> {
    let full = std::path::absolute(dir).context(|| format!("finding {}", dir.display()))?;
    for ancestor in full.ancestors() {
        let fd = match fs::open(ancestor, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => continue,
            Err(errno) => return Err(errno).context(|| format!("opening {}", ancestor.display())),
        };
        let found = fs::fstatvfs(&fd).context(|| format!("asking for the free space of {}", ancestor.display()))?;
        return Ok(Free {
            bytes: found.f_bavail.saturating_mul(found.f_frsize),
            inodes: (found.f_files > 0).then_some(found.f_favail),
        });
    }
    Err(Errno::NOENT).context(|| format!("finding {}", full.display()))
}
