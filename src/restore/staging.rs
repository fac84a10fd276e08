//! The private folder in which objects are completed before they get their names.
//!
//! `.opsctl/restore` is ours alone (0700), so nobody can exchange an object between the moment it
//! is verified and the moment it is named. It lies on the same file system as its destination, so
//! naming is one rename.
//!
//! Invariants: a name is only given where nothing stands; a part that is not named disappears with
//! its [`Part`], or at the latest when the restore goes on; a lock that the kernel frees with its
//! holder keeps a second restore out.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{self, AtFlags, FlockOperation, Mode, OFlags, RenameFlags, SeekFrom};
use rustix::io::Errno;

use super::dirs::shown;
use super::state::{self, DirState, FOLDER, STAGING, Task, not_empty};
use crate::archive::entry::{Entry, Kind};
use crate::archive::hash::{Hash, Hasher};
use crate::archive::path::EntryPath;
use crate::cancel::Cancel;
use crate::error::{Context as _, Error, Result};
use crate::exit::ExitCode;

/// Read at once.
pub(super) const READ_BUFFER: usize = 256 << 10;
/// Zeros hashed at once: a fraction of a second.
const ZEROS: u64 = 64 << 20;

/// The open staging folder.
pub(super) struct Staging {
    folder: OwnedFd,
    parts: Arc<OwnedFd>,
    next: AtomicU64,
}

impl Staging {
    /// Creates or takes over the folders below `root`, locks them, and writes the marker if there is none. What stands in
    /// the root is an error unless it is to be replaced.
    pub(super) fn begin(root: BorrowedFd<'_>, task: &Task, replaces: bool) -> Result<Arc<Self>> {
        let folder = own_dir(root, FOLDER)?;
        let parts = own_dir(folder.as_fd(), STAGING)?;
        match fs::flock(&parts, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                return Err(Error::new(ExitCode::Busy, "another restore into this directory is running"));
            }
            Err(errno) => return Err(errno).context(|| format!("locking {FOLDER}/{STAGING}")),
        }
        match state::read_marker(folder.as_fd())? {
            Some(begun) => begun.must_be(task, "the directory")?,
            None => {
                // Looked at again, now that no other restore can put anything there.
                if let DirState::NotEmpty { example } = state::look(root)?
                    && !replaces
                {
                    let _ = fs::unlinkat(&folder, STAGING, AtFlags::REMOVEDIR);
                    let _ = fs::unlinkat(root, FOLDER, AtFlags::REMOVEDIR);
                    return Err(not_empty("the directory", &example));
                }
                state::write_marker(root, folder.as_fd(), task)
                    .context(|| format!("writing the marker in {FOLDER}"))?;
            }
        }
        let staging = Self { folder, parts: Arc::new(parts), next: AtomicU64::new(0) };
        staging.empty()?;
        Ok(Arc::new(staging))
    }

    /// A new file in the folder that goes away with it, and is never part of what is restored; and its path below the root.
    pub(super) fn scratch(&self, name: &str) -> Result<(std::fs::File, String)> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = fs::openat(&self.parts, name, flags, Mode::RUSR | Mode::WUSR);
        let path = format!("{FOLDER}/{STAGING}/{name}");
        Ok((file.context(|| format!("creating {path}"))?.into(), path))
    }

    /// Removes what an interrupted restore left.
    fn empty(&self) -> Result<()> {
        for (name, _) in state::names(self.parts.as_fd())? {
            unlink(self.parts.as_fd(), &name)
                .context(|| format!("removing {FOLDER}/{STAGING}/{}", String::from_utf8_lossy(&name)))?;
        }
        Ok(())
    }

    /// Removes staging folder and marker, and `.opsctl` itself if nothing else is in it.
    pub(super) fn complete(&self, root: BorrowedFd<'_>) -> Result<()> {
        self.empty()?;
        match fs::unlinkat(&self.folder, STAGING, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno).context(|| format!("removing {FOLDER}/{STAGING}")),
        }
        state::remove_marker(self.folder.as_fd())?;
        match state::unnoticed(root, || fs::unlinkat(root, FOLDER, AtFlags::REMOVEDIR)) {
            Ok(()) | Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOENT) => {}
            Err(errno) => return Err(errno).context(|| format!("removing {FOLDER}")),
        }
        fs::fsync(root)?;
        Ok(())
    }

    /// Creates an object under a name of its own.
    pub(super) fn part<T>(
        self: &Arc<Self>,
        mut create: impl FnMut(BorrowedFd<'_>, &str) -> rustix::io::Result<T>,
    ) -> Result<(Part, T)> {
        loop {
            let name = format!("{}.part", self.next.fetch_add(1, Ordering::Relaxed));
            match create(self.parts.as_fd(), &name) {
                Ok(made) => return Ok((Part::new(&self.parts, name.as_bytes(), false), made)),
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// Creates the directory `name`, or takes it over if it is ours, for nobody else.
fn own_dir(parent: BorrowedFd<'_>, name: &str) -> Result<OwnedFd> {
    match fs::mkdirat(parent, name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno).context(|| format!("creating {name}")),
    }
    let dir = state::open_own_dir(parent, name)?
        .ok_or_else(|| Error::integrity(format!("{name} vanished while it was opened")))?;
    fs::fchmod(&dir, Mode::RWXU).context(|| format!("protecting {name}"))?;
    Ok(dir)
}

/// An object without its final name. It is removed when dropped, unless it was named.
pub(super) struct Part {
    dir: Arc<OwnedFd>,
    name: Option<Vec<u8>>,
    /// It stands at its place already.
    is_placed: bool,
}

impl Part {
    fn new(dir: &Arc<OwnedFd>, name: &[u8], is_placed: bool) -> Self {
        Self { dir: Arc::clone(dir), name: Some(name.to_vec()), is_placed }
    }

    /// Opens it without following or using it.
    pub(super) fn open_path(&self) -> Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(fs::openat(&*self.dir, self.name.as_deref().unwrap_or_default(), flags, Mode::empty())?)
    }

    /// Gives it its final name, and takes the place of what stands there.
    pub(super) fn take_name(mut self, dir: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
        if let Some(part) = self.name.as_deref() {
            fs::renameat(&*self.dir, part, dir, name)?;
            self.name = None;
        }
        Ok(())
    }

    /// Gives it its final name. `false` if something stands there: then nothing has changed.
    pub(super) fn name_it(mut self, dir: BorrowedFd<'_>, name: &[u8]) -> Result<bool> {
        let Some(part) = self.name.as_deref() else { return Ok(false) };
        if self.is_placed {
            self.name = None;
            return Ok(true);
        }
        let parts = &*self.dir;
        let mut done = fs::renameat_with(parts, part, dir, name, RenameFlags::NOREPLACE);
        if matches!(done, Err(Errno::NOSYS | Errno::INVAL)) {
            done = link_then_unlink(parts.as_fd(), part, dir, name);
        }
        match done {
            Ok(()) => {
                self.name = None;
                Ok(true)
            }
            Err(Errno::EXIST) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// `RENAME_NOREPLACE` for file systems without it.
pub(super) fn link_then_unlink(
    parts: BorrowedFd<'_>,
    part: &[u8],
    dir: BorrowedFd<'_>,
    name: &[u8],
) -> rustix::io::Result<()> {
    fs::linkat(parts, part, dir, name, AtFlags::empty())?;
    fs::unlinkat(parts, part, AtFlags::empty())
}

impl Drop for Part {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            // What stays is removed by the next run, or with the folder.
            let _ = unlink(self.dir.as_fd(), name);
        }
    }
}

/// Removes a part, which may be an empty directory.
fn unlink(parts: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<()> {
    match fs::unlinkat(parts, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => fs::unlinkat(parts, name, AtFlags::REMOVEDIR),
        done => done,
    }
}

/// A file that is being written. Holes are never written, so they stay holes.
pub struct Staged {
    pub(super) part: Part,
    pub(super) file: std::fs::File,
    path: EntryPath,
    size: u64,
    cancel: Cancel,
}

/// A staged file that has the recorded content: read back, hashed while it was written, or a clone of a file that was hashed.
pub struct Verified(pub(super) Staged);

impl Staged {
    /// Begins a file. With `place` it stands there at once: for a tree that nobody sees before it is complete.
    pub(super) fn create(
        staging: &Arc<Staging>,
        entry: &Entry,
        place: Option<(&Arc<OwnedFd>, &[u8])>,
        cancel: Cancel,
    ) -> Result<Self> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // Nobody else can look into the folder, so the mode is the last one from the beginning where that lets its owner
        // go on with it.
        let mode = Mode::from_raw_mode(entry.mode & 0o777) | Mode::RUSR | Mode::WUSR;
        let (part, fd) = match place {
            None => staging.part(|dir, name| fs::openat(dir, name, flags, mode))?,
            Some((dir, name)) => (Part::new(dir, name, true), fs::openat(&**dir, name, flags, mode)?),
        };
        // What is written to the end or cloned sets the size itself.
        if !entry.holes.is_empty() {
            fs::ftruncate(&fd, entry.size).map_err(|errno| match errno {
                Errno::FBIG | Errno::INVAL => {
                    Error::integrity(format!("no file of {} bytes is possible here", entry.size)).because(errno)
                }
                other => other.into(),
            })?;
        }
        Ok(Self { part, file: fd.into(), path: entry.path.clone(), size: entry.size, cancel })
    }

    /// Writes `bytes` at `offset`; from any thread, in any order.
    ///
    /// # Errors
    /// Integrity, when they reach past the end of the file; otherwise what the system says.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        if offset.checked_add(bytes.len() as u64).is_none_or(|end| end > self.size) {
            return Err(Error::integrity(format!(
                "{}: content reaches past the recorded size of {} bytes",
                shown(self.path.as_bytes()),
                self.size
            )));
        }
        std::os::unix::fs::FileExt::write_all_at(&self.file, bytes, offset)
            .context(|| format!("writing {}", shown(self.path.as_bytes())))
    }

    /// Reads the whole file back. Holes count as the zeros that a reader sees.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read_back_hash(&self) -> Result<Hash> {
        hash_file(&self.file, self.size, &self.cancel, &mut |_| ())
            .context(|| format!("reading back {}", shown(self.path.as_bytes())))
    }

    /// Compares the file, read back from the file system, with the hash in the manifest.
    ///
    /// # Errors
    /// Integrity, when they differ; the staged file is gone then.
    pub fn verify(self, entry: &Entry) -> Result<Verified> {
        let path = shown(self.path.as_bytes());
        let Some(expected) = entry.sha256.filter(|_| entry.kind == Kind::File && entry.path == self.path) else {
            return Err(Error::integrity(format!("{path}: the manifest has no hash for this file")));
        };
        let found = self.read_back_hash()?;
        if found != expected {
            return Err(Error::integrity(format!("{path}: restored content hashes to {found}, expected {expected}"))
                .hint("run `opsctl check --level decrypt` to see what is damaged"));
        }
        Ok(Verified(self))
    }
}

/// The hash of the first `size` bytes of `file`; says how much it reads. A cancel ends it within a buffer.
pub(super) fn hash_file(
    file: &std::fs::File,
    size: u64,
    cancel: &Cancel,
    progress: &mut dyn FnMut(u64),
) -> Result<Hash> {
    let mut hasher = Hasher::default();
    let mut buffer = vec![0; usize::try_from(size).unwrap_or(READ_BUFFER).min(READ_BUFFER)];
    // Small files are read with their holes: asking for those takes longer.
    let is_small = buffer.len() as u64 == size;
    let mut at = 0;
    while at < size {
        // File systems that know no holes answer with an error: then everything is data.
        let data = match if is_small { Err(Errno::INVAL) } else { fs::seek(file, SeekFrom::Data(at)) } {
            Ok(found) => found.clamp(at, size),
            Err(Errno::NXIO) => size,
            Err(_) => at,
        };
        while at < data {
            cancel.check()?;
            let step = (data - at).min(ZEROS);
            hasher.update_zeros(step);
            at += step;
        }
        let end = match if is_small { Ok(size) } else { fs::seek(file, SeekFrom::Hole(data)) } {
            Ok(found) if found > data => found.min(size),
            _ => size,
        };
        while at < end {
            cancel.check()?;
            let want = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
            let got = std::os::unix::fs::FileExt::read_at(file, &mut buffer[..want], at)?;
            if got == 0 {
                return Err(Error::integrity(format!("the file ends at byte {at}, expected {size}")));
            }
            hasher.update(&buffer[..got]);
            progress(got as u64);
            at += got as u64;
        }
    }
    Ok(hasher.finish())
}
