//! A file tree as a comparable value.
//!
//! Reads with directory-relative calls that follow no link and hold one directory open at a time, so a tree may be
//! deeper than `PATH_MAX` and than the limit of open files. It shares no code with opsctl's own walk on purpose: a test that
//! compares a restored tree must not inherit the walk's mistakes.

use std::collections::{BTreeMap, HashMap};
use std::ffi::CString;
use std::fmt::Write as _;
use std::io::Read as _;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use sha2::{Digest, Sha256};

/// Names left out at the root: opsctl's own state and what `mkfs` puts there.
const NOT_CAPTURED: [&[u8]; 2] = [b".opsctl", b"lost+found"];

/// What kind of file an [`Entry`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    File,
    Dir,
    Symlink,
    Fifo,
    Socket,
    CharDevice,
    BlockDevice,
}

/// Everything about one file that a restore has to bring back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Seconds and nanoseconds.
    pub mtime: (i64, u64),
    /// Bytes of a regular file, else 0 (a directory's size is the file system's own business).
    pub size: u64,
    /// SHA-256 of a regular file, in hex.
    pub sha256: Option<String>,
    /// What a symlink says.
    pub target: Option<Vec<u8>>,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The first path (in byte order) of the same inode, if the tree has more than one.
    pub link_group: Option<Vec<u8>>,
    /// Device number of a device file, else 0.
    pub rdev: u64,
}

/// Paths relative to the root, as bytes; the root itself is the empty path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree(pub BTreeMap<Vec<u8>, Entry>);

impl Tree {
    /// Reads the tree below `root`.
    pub fn read(root: &Path) -> Self {
        Self::try_read(root).unwrap_or_else(|error| panic!("read the tree {}: {error}", root.display()))
    }

    fn try_read(root: &Path) -> std::io::Result<Self> {
        let mut walk = Walk::default();
        let mut dir = rustix::fs::open(root, DIR_FLAGS, Mode::empty())?;
        let stat = rustix::fs::fstat(&dir)?;
        walk.add(&dir, c".", Vec::new(), &stat)?;
        // One frame a level: the path of that level, and its sub-directories that are still to be read.
        let mut stack = vec![(Vec::new(), walk.read_dir(&dir, b"")?)];
        while let Some((path, todo)) = stack.last_mut() {
            let Some(name) = todo.pop() else {
                stack.pop();
                if !stack.is_empty() {
                    dir = rustix::fs::openat(&dir, c"..", DIR_FLAGS, Mode::empty())?;
                }
                continue;
            };
            let child = join(path, name.as_bytes());
            dir = rustix::fs::openat(&dir, &name, DIR_FLAGS, Mode::empty())?;
            let subdirs = walk.read_dir(&dir, &child)?;
            stack.push((child, subdirs));
        }
        Ok(Self(walk.finish()))
    }

    /// The entry at a path, or a panic that names it.
    pub fn entry(&self, path: impl AsRef<[u8]>) -> &Entry {
        let path = path.as_ref();
        self.0.get(path).unwrap_or_else(|| panic!("no {} in the tree", path.escape_ascii()))
    }

    /// Without the paths for which `drop` says true, to leave out what a test does not compare.
    #[must_use]
    pub fn without(mut self, drop: impl Fn(&[u8]) -> bool) -> Self {
        self.0.retain(|path, _| !drop(path));
        self
    }

    /// One line a difference; empty when equal. The mtime of the root is not compared, because creating `.opsctl` in it changes it.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        for (path, a) in &self.0 {
            let shown = if path.is_empty() { ".".to_owned() } else { path.escape_ascii().to_string() };
            match other.0.get(path) {
                None => lines.push(format!("- {shown} ({:?}) is missing on the right", a.kind)),
                Some(b) => {
                    for (field, a, b) in a.fields().into_iter().zip(b.fields()).map(|((f, a), (_, b))| (f, a, b)) {
                        if a != b && !(path.is_empty() && field == "mtime") {
                            lines.push(format!("~ {shown}: {field} {a} | {b}"));
                        }
                    }
                }
            }
        }
        for (path, b) in &other.0 {
            if !self.0.contains_key(path) {
                lines.push(format!("+ {} ({:?}) is only on the right", path.escape_ascii(), b.kind));
            }
        }
        lines
    }
}

impl Entry {
    /// Every field with its name, for a readable comparison. Destructured, so that a new field cannot be forgotten.
    fn fields(&self) -> [(&'static str, String); 11] {
        let Self { kind, mode, uid, gid, mtime, size, sha256, target, xattrs, link_group, rdev } = self;
        let bytes = |value: &Option<Vec<u8>>| value.as_ref().map_or("none".into(), |v| v.escape_ascii().to_string());
        let xattrs = xattrs.iter().fold(String::from("{"), |mut text, (name, value)| {
            let _ = write!(text, "{}={};", name.escape_ascii(), value.escape_ascii());
            text
        }) + "}";
        [
            ("type", format!("{kind:?}")),
            ("mode", format!("{mode:04o}")),
            ("uid", uid.to_string()),
            ("gid", gid.to_string()),
            ("mtime", format!("{}.{:09}", mtime.0, mtime.1)),
            ("size", size.to_string()),
            ("sha256", sha256.clone().unwrap_or_else(|| "none".into())),
            ("target", bytes(target)),
            ("xattrs", xattrs),
            ("hard-link group", bytes(link_group)),
            ("rdev", rdev.to_string()),
        ]
    }
}

/// Reads both trees and panics with the list of differences, if there are any.
#[track_caller]
pub fn assert_same_tree(left: &Path, right: &Path) {
    assert_equal(&Tree::read(left), &Tree::read(right));
}

/// The same for trees read before, such as one that has changed since.
#[track_caller]
pub fn assert_equal(left: &Tree, right: &Tree) {
    const SHOWN: usize = 40;
    let differences = left.differences(right);
    assert!(
        differences.is_empty(),
        "{} differences between the trees (left | right):\n{}{}",
        differences.len(),
        differences.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join("\n"),
        if differences.len() > SHOWN { "\n…" } else { "" }
    );
}

const DIR_FLAGS: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

#[derive(Default)]
struct Walk {
    entries: BTreeMap<Vec<u8>, Entry>,
    inodes: HashMap<(u64, u64), Vec<Vec<u8>>>,
}

impl Walk {
    /// Adds what the directory holds and returns the names of its sub-directories.
    fn read_dir(&mut self, dir: &OwnedFd, path: &[u8]) -> std::io::Result<Vec<CString>> {
        let mut subdirs = Vec::new();
        for found in Dir::read_from(dir)? {
            let found = found?;
            let name = found.file_name();
            let bytes = name.to_bytes();
            if bytes == b"." || bytes == b".." || (path.is_empty() && NOT_CAPTURED.contains(&bytes)) {
                continue;
            }
            let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
            self.add(dir, name, join(path, bytes), &stat)?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                subdirs.push(name.to_owned());
            }
        }
        Ok(subdirs)
    }

    fn add(&mut self, dir: &OwnedFd, name: &std::ffi::CStr, path: Vec<u8>, stat: &Stat) -> std::io::Result<()> {
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Dir,
            FileType::Symlink => Kind::Symlink,
            FileType::Fifo => Kind::Fifo,
            FileType::Socket => Kind::Socket,
            FileType::CharacterDevice => Kind::CharDevice,
            FileType::BlockDevice => Kind::BlockDevice,
            FileType::Unknown => return Err(std::io::Error::other("unknown file type")),
        };
        let is_file = kind == Kind::File;
        let sha256 = if is_file {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            Some(hash(std::fs::File::from(rustix::fs::openat(dir, name, flags, Mode::empty())?))?)
        } else {
            None
        };
        let target = match kind {
            Kind::Symlink => Some(rustix::fs::readlinkat(dir, name, Vec::new())?.into_bytes()),
            _ => None,
        };
        if kind != Kind::Dir && stat.st_nlink > 1 {
            self.inodes.entry((stat.st_dev, stat.st_ino)).or_default().push(path.clone());
        }
        let entry = Entry {
            kind,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: (stat.st_mtime, stat.st_mtime_nsec),
            size: if is_file { u64::try_from(stat.st_size).unwrap_or(0) } else { 0 },
            sha256,
            target,
            xattrs: xattrs(dir, name)?,
            link_group: None,
            rdev: if matches!(kind, Kind::CharDevice | Kind::BlockDevice) { stat.st_rdev } else { 0 },
        };
        self.entries.insert(path, entry);
        Ok(())
    }

    fn finish(mut self) -> BTreeMap<Vec<u8>, Entry> {
        for paths in self.inodes.into_values().filter(|paths| paths.len() > 1) {
            let first = paths.iter().min().cloned();
            for path in paths {
                if let Some(entry) = self.entries.get_mut(&path) {
                    entry.link_group.clone_from(&first);
                }
            }
        }
        self.entries
    }
}

fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    if parent.is_empty() { name.to_vec() } else { [parent, b"/", name].concat() }
}

fn hash(mut file: std::fs::File) -> std::io::Result<String> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0_u8; 65536];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            length => hasher.update(&buffer[..length]),
        }
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Extended attributes by `/proc/self/fd/N/NAME`: the `l` calls follow no link there, and that path stays short however deep the directory is.
fn xattrs(dir: &OwnedFd, name: &std::ffi::CStr) -> std::io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut path = format!("/proc/self/fd/{}/", dir.as_fd().as_raw_fd()).into_bytes();
    path.extend_from_slice(name.to_bytes());
    // The kernel's limits are 64 KiB for the list and for one value.
    let mut buffer = vec![0_u8; 65536];
    let length = match rustix::fs::llistxattr(path.as_slice(), buffer.as_mut_slice()) {
        Err(rustix::io::Errno::OPNOTSUPP) => return Ok(BTreeMap::new()),
        other => other?,
    };
    let names = buffer[..length].to_vec();
    let mut found = BTreeMap::new();
    for attribute in names.split(|byte| *byte == 0).filter(|attribute| !attribute.is_empty()) {
        let length = rustix::fs::lgetxattr(path.as_slice(), attribute, buffer.as_mut_slice())?;
        found.insert(attribute.to_vec(), buffer[..length].to_vec());
    }
    Ok(found)
}
