//! Reads everything about an object but its content.
//!
//! The counterpart of what restore sets: what is read here is what is put back there.
//!
//! Invariants: no symbolic link is followed and no special file is opened for real; every value
//! comes from one descriptor, and that descriptor is the object that the caller's `stat` is about.
//! Nothing is silently missing: an attribute that is listed but cannot be read is named in
//! [`Metadata::unread`].

use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};

use rustix::fs::{self, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::archive::entry::{Entry, Kind, Xattr};
use crate::error::Error;

/// The first buffer tried; nearly everything fits.
const SMALL: usize = 1024;
/// The longest list of names and the longest value that Linux gives out, so no size has to be asked for
/// that could change before the read.
const XATTR_MAX: usize = 65_536;

/// Metadata of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// What it is.
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time: seconds since 1970 and nanoseconds.
    pub mtime: (i64, u32),
    /// Device number of a device as (major, minor).
    pub rdev: Option<(u32, u32)>,
    /// Extended attributes in order of name.
    pub xattrs: Vec<Xattr>,
    /// Target of a symbolic link; empty for anything else.
    pub target: Vec<u8>,
    /// Attributes that are there but cannot be read, and why. The empty name: the list itself.
    pub unread: Vec<(Vec<u8>, Errno)>,
}

/// Why metadata could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {errno}")]
pub struct MetadataError {
    /// What was being done.
    pub what: &'static str,
    /// What the system said. `STALE`: the object is not the one that the caller looked at.
    pub errno: Errno,
}

impl MetadataError {
    /// True if the object vanished or was replaced since the caller looked at it.
    #[must_use]
    pub fn is_vanished(&self) -> bool {
        matches!(self.errno, Errno::NOENT | Errno::STALE)
    }
}

impl From<MetadataError> for Error {
    fn from(error: MetadataError) -> Self {
        Self::from(error.errno).because(error)
    }
}

impl Metadata {
    /// Moves the values into `entry`; its path, size and content stay as they are.
    pub fn fill(self, entry: &mut Entry) {
        entry.kind = self.kind;
        entry.mode = self.mode;
        entry.uid = self.uid;
        entry.gid = self.gid;
        entry.mtime = self.mtime;
        entry.rdev = self.rdev;
        entry.xattrs = self.xattrs;
        entry.target = self.target;
    }
}

/// The kind of object that a mode is about; `None` for one that Linux does not have.
#[must_use]
pub const fn kind_of(stat: &Stat) -> Option<Kind> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Some(Kind::File),
        FileType::Directory => Some(Kind::Dir),
        FileType::Symlink => Some(Kind::Symlink),
        FileType::Fifo => Some(Kind::Fifo),
        FileType::Socket => Some(Kind::Socket),
        FileType::CharacterDevice => Some(Kind::Char),
        FileType::BlockDevice => Some(Kind::Block),
        FileType::Unknown => None,
    }
}

/// Reads the metadata of `name` in `dir`, about which the caller knows `stat`. `fd`, if there is one,
/// is the object opened for reading (not with `O_PATH`).
///
/// # Errors
/// When the object vanished, was replaced, or a link's target cannot be read.
pub fn read_metadata(
    dir: BorrowedFd<'_>,
    name: &[u8],
    stat: &Stat,
    fd: Option<BorrowedFd<'_>>,
) -> Result<Metadata, MetadataError> {
    let error = |what| move |errno| MetadataError { what, errno };
    let kind = kind_of(stat).ok_or(MetadataError { what: "an unknown kind of file", errno: Errno::NOTSUP })?;
    let device = matches!(kind, Kind::Char | Kind::Block);
    let mut found = Metadata {
        kind,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or_default()),
        rdev: device.then(|| (fs::major(stat.st_rdev), fs::minor(stat.st_rdev))),
        xattrs: Vec::new(),
        target: Vec::new(),
        unread: Vec::new(),
    };
    if let Some(fd) = fd {
        read_xattrs(&Source::Open(fd), &mut found);
    } else {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = fs::openat(dir, name, flags, Mode::empty()).map_err(error("opening it"))?;
        let now = fs::fstat(&fd).map_err(error("looking at it"))?;
        if (now.st_dev, now.st_ino) != (stat.st_dev, stat.st_ino) || kind_of(&now) != Some(kind) {
            return Err(MetadataError { what: "replaced by something else", errno: Errno::STALE });
        }
        if kind == Kind::Symlink {
            let target = fs::readlinkat(&fd, "", Vec::new()).map_err(error("reading the link"))?;
            found.target = target.into_bytes();
        }
        read_xattrs(&Source::Proc(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())), &mut found);
    }
    found.xattrs.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// Where extended attributes are read from.
enum Source<'fd> {
    Open(BorrowedFd<'fd>),
    /// An `O_PATH` descriptor by its name: the calls do not take the descriptor itself.
    Proc(String),
}

impl Source<'_> {
    fn list(&self, buffer: &mut [u8]) -> rustix::io::Result<usize> {
        match self {
            Self::Open(fd) => fs::flistxattr(fd, buffer),
            Self::Proc(path) => fs::listxattr(path, buffer).map_err(without_proc),
        }
    }

    fn get(&self, name: &[u8], buffer: &mut [u8]) -> rustix::io::Result<usize> {
        match self {
            Self::Open(fd) => fs::fgetxattr(fd, name, buffer),
            Self::Proc(path) => fs::getxattr(path, name, buffer).map_err(without_proc),
        }
    }
}

/// The descriptor is open, so its name in `/proc` can only be missing if `/proc` is not mounted.
fn without_proc(errno: Errno) -> Errno {
    if errno == Errno::NOENT { Errno::NOSYS } else { errno }
}

/// Calls `read` with a buffer that is large enough for anything.
fn sized(read: impl Fn(&mut [u8]) -> rustix::io::Result<usize>) -> rustix::io::Result<Vec<u8>> {
    let mut buffer = vec![0; SMALL];
    let mut found = read(&mut buffer);
    if found == Err(Errno::RANGE) {
        buffer.resize(XATTR_MAX, 0);
        found = read(&mut buffer);
    }
    buffer.truncate(found?);
    Ok(buffer)
}

fn read_xattrs(source: &Source<'_>, found: &mut Metadata) {
    let names = match sized(|buffer| source.list(buffer)) {
        Ok(names) => names,
        Err(Errno::NOTSUP) => return,
        Err(errno) => {
            found.unread.push((Vec::new(), errno));
            return;
        }
    };
    for name in names.split(|b| *b == 0).filter(|name| !name.is_empty()) {
        match sized(|buffer| source.get(name, buffer)) {
            Ok(value) => found.xattrs.push(Xattr { name: name.to_vec(), value }),
            // Removed since it was listed.
            Err(Errno::NODATA) => {}
            Err(errno) => found.unread.push((name.to_vec(), errno)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{AtFlags, XattrFlags};

    fn read(dir: &std::fs::File, name: &[u8]) -> Result<Metadata, MetadataError> {
        let stat = fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).unwrap();
        read_metadata(dir.as_fd(), name, &stat, None)
    }

    #[test]
    fn attributes_come_in_order_whatever_their_size_and_however_the_file_is_reached() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = std::fs::File::open(scratch.path()).unwrap();
        let file = std::fs::File::create(scratch.path().join("f")).unwrap();
        for (name, len) in [("user.z", 0), ("user.a", 3000), ("user.m", 1)] {
            fs::fsetxattr(&file, name, &vec![7; len], XattrFlags::empty()).unwrap();
        }
        let found = read(&dir, b"f").unwrap();
        let names: Vec<_> = found.xattrs.iter().map(|x| (x.name.as_slice(), x.value.len())).collect();
        assert_eq!(names, [(b"user.a".as_slice(), 3000), (b"user.m", 1), (b"user.z", 0)]);
        let stat = fs::fstat(&file).unwrap();
        assert_eq!(read_metadata(dir.as_fd(), b"f", &stat, Some(file.as_fd())).unwrap(), found);
    }

    #[test]
    fn links_are_read_and_not_followed() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = std::fs::File::open(scratch.path()).unwrap();
        let target = [b"\xff/".as_slice(), &[b'x'; 4000]].concat();
        fs::symlinkat(target.as_slice(), &dir, "l").unwrap();
        let trusted = rustix::process::geteuid().is_root();
        if trusted {
            fs::lsetxattr(scratch.path().join("l"), "trusted.t", b"v", XattrFlags::empty()).unwrap();
        }
        let found = read(&dir, b"l").unwrap();
        assert_eq!((found.kind, &found.target), (Kind::Symlink, &target));
        assert_eq!(found.xattrs.len(), usize::from(trusted));
    }

    #[test]
    fn an_object_that_was_replaced_or_vanished_is_noticed() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = std::fs::File::open(scratch.path()).unwrap();
        std::fs::write(scratch.path().join("f"), b"").unwrap();
        let stat = fs::statat(&dir, "f", AtFlags::empty()).unwrap();
        std::fs::rename(scratch.path().join("f"), scratch.path().join("g")).unwrap();
        assert!(read_metadata(dir.as_fd(), b"f", &stat, None).unwrap_err().is_vanished());
        std::fs::write(scratch.path().join("f"), b"").unwrap();
        let error = read_metadata(dir.as_fd(), b"f", &stat, None).unwrap_err();
        assert_eq!(error.errno, Errno::STALE);
        assert!(error.is_vanished());
    }

    #[test]
    fn an_attribute_that_may_not_be_read_is_named() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let scratch = tempfile::tempdir().unwrap();
        std::os::unix::fs::chown(scratch.path(), Some(4321), None).unwrap();
        std::fs::write(scratch.path().join("f"), b"").unwrap();
        fs::setxattr(scratch.path().join("f"), "user.secret", b"v", XattrFlags::empty()).unwrap();
        fs::chmod(scratch.path().join("f"), Mode::empty()).unwrap();
        let dir = std::fs::File::open(scratch.path()).unwrap();
        let found = std::thread::scope(|scope| {
            let run = || {
                let uid = rustix::thread::Uid::from_raw(4321);
                rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
                read(&dir, b"f").unwrap()
            };
            scope.spawn(run).join().unwrap()
        });
        assert_eq!((found.xattrs, found.unread), (vec![], vec![(b"user.secret".to_vec(), Errno::ACCESS)]));
    }
}
