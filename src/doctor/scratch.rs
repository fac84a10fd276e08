//! A folder of our own in the temporary one.
//!
//! Invariant: it is gone when its [`Scratch`] is, and also when the process is ended before that.

use std::io;
use std::path::{Path, PathBuf};

use crate::cancel::Cancel;
use crate::capture::sqlite::private_directory;

pub(super) struct Scratch(PathBuf);

impl Scratch {
    /// Makes one that nobody else may look into.
    pub(super) fn new(cancel: &Cancel) -> io::Result<Self> {
        let path = private_directory(&std::env::temp_dir(), "opsctl-doctor")?;
        cancel.remove_at_the_end(path.clone());
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
