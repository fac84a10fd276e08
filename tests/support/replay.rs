//! What a power cut leaves of a tree: the calls of one run are recorded by strace and played on a model of a disk that
//! writes nothing by itself.
//!
//! The model promises what POSIX does and no more: `fsync` of a file brings its content and metadata to the disk, `fsync`
//! of a directory its entries, `syncfs` everything. A rename is one change, whichever of its directories is synced, and
//! changes of one name or of one file stay in their order. Everything else may be on the disk or not, in any combination.
//! A call that changes the tree and that the model does not know is a failure.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of this module")]
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "a test helper fails by panicking")]

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::calls::Call;
use crate::left::{Id, Inode, Left, NUMBER, What, with_numbers};

/// Entries that one call sets or removes.
#[derive(Clone, Debug)]
struct Change {
    entries: Vec<(Id, Vec<u8>, Option<Id>)>,
    files: Vec<Id>,
}

impl Change {
    fn is_in(&self, dir: Id) -> bool {
        self.entries.iter().any(|(parent, ..)| *parent == dir)
    }

    /// True if this cannot come to the disk without the earlier one.
    fn needs(&self, earlier: &Self) -> bool {
        let is_same =
            |(dir, name, _): &(Id, Vec<u8>, Option<Id>)| earlier.entries.iter().any(|e| e.0 == *dir && e.1 == *name);
        // The last: a directory is removed after what was in it.
        self.entries.iter().any(is_same)
            || self.files.iter().any(|file| earlier.files.contains(file) || earlier.is_in(*file))
    }
}

/// A tree while calls are played on it: as it is seen, and as it is on the disk.
pub struct Volume {
    root: PathBuf,
    seen: Vec<Inode>,
    disk: Vec<Inode>,
    pending: Vec<Change>,
    /// The file of each inode number, and of each descriptor with its position.
    numbers: HashMap<u64, Id>,
    fds: HashMap<i64, (Option<Id>, usize)>,
}

impl Volume {
    /// The tree as it is, all of it on the disk.
    pub fn read(root: &Path) -> Self {
        let mut volume = Self {
            root: root.to_owned(),
            seen: Vec::new(),
            disk: Vec::new(),
            pending: Vec::new(),
            numbers: HashMap::new(),
            fds: HashMap::new(),
        };
        volume.add_found(root);
        volume.disk.clone_from(&volume.seen);
        volume
    }

    fn add_found(&mut self, path: &Path) -> Id {
        let found = path.symlink_metadata().unwrap();
        if let Some(id) = self.numbers.get(&found.ino()) {
            return *id;
        }
        let what = if found.is_dir() {
            What::Dir(BTreeMap::new())
        } else if found.is_symlink() {
            What::Link(fs::read_link(path).unwrap().into_os_string().into_vec())
        } else {
            assert!(found.is_file(), "the model knows no such file: {}", path.display());
            What::File(fs::read(path).unwrap())
        };
        let (mode, owner) = (found.mode() & 0o7777, (found.uid(), found.gid()));
        let mtime = Some((found.mtime(), found.mtime_nsec()));
        let id = self.seen.len();
        self.seen.push(Inode { what, mode, owner, mtime, xattrs: xattrs(path) });
        self.numbers.insert(found.ino(), id);
        if found.is_dir() {
            for child in fs::read_dir(path).unwrap().map(|child| child.unwrap()) {
                let number = self.add_found(&child.path());
                self.entries(id).insert(child.file_name().into_vec(), number);
            }
        }
        if let What::File(content) = &mut self.seen[id].what {
            *content = with_numbers(content, |ino| self.numbers.get(&ino).map_or(ino, |id| NUMBER + *id as u64));
        }
        id
    }

    fn entries(&mut self, dir: Id) -> &mut BTreeMap<Vec<u8>, Id> {
        match &mut self.seen[dir].what {
            What::Dir(entries) => entries,
            other => panic!("no directory: {other:?}"),
        }
    }

    fn content(&mut self, file: Id) -> &mut Vec<u8> {
        match &mut self.seen[file].what {
            What::File(content) => content,
            other => panic!("no file: {other:?}"),
        }
    }

    /// What a power cut leaves that takes all that it may.
    pub fn left(&self) -> Left {
        Left(self.disk.clone())
    }

    /// Everything, as it is seen.
    pub fn all(&self) -> Left {
        Left(self.seen.clone())
    }

    /// What a power cut may leave: of all that is not synced, what `keeps` says.
    pub fn left_by_chance(&self, mut keeps: impl FnMut() -> bool) -> Left {
        let mut disk = self.disk.clone();
        let mut lost: Vec<&Change> = Vec::new();
        for change in &self.pending {
            if lost.iter().any(|earlier| change.needs(earlier)) || !keeps() {
                lost.push(change);
            } else {
                put(&mut disk, change);
            }
        }
        for (seen, disk) in self.seen.iter().zip(&mut disk) {
            if matches!(seen.what, What::File(_)) && seen.what != disk.what && keeps() {
                disk.what = seen.what.clone();
            }
            if keeps() {
                *disk = Inode { what: disk.what.clone(), ..seen.clone() };
            }
        }
        Left(disk)
    }

    /// Plays a call. True if it changed the tree, or waited for the disk.
    pub fn play(&mut self, call: &Call) -> bool {
        for (fd, path) in call.descriptors() {
            let id = self.find(path);
            let at = self.fds.entry(fd).or_insert((id, 0));
            if at.0 != id && !path.ends_with(b"(deleted)") {
                *at = (id, 0);
            }
        }
        if !call.succeeded() {
            return false;
        }
        self.learn_number(call);
        match call.name.as_str() {
            "openat" => self.open(call),
            "mkdirat" => self.create(call, 0, 2, What::Dir(BTreeMap::new())),
            "symlinkat" => {
                let target = call.text(0).to_vec();
                self.create_at(self.place(call, 1), 0o777, What::Link(target))
            }
            "linkat" => match (self.at(call, 0), self.place(call, 2)) {
                (Some(file), Some((dir, name))) => self.change(vec![(dir, name, Some(file))], vec![file]),
                (None, None) => false,
                _ => panic!("a link into or out of the tree: {call:?}"),
            },
            "unlinkat" => self.unlink(call, 0),
            "renameat" | "renameat2" => self.rename(call),
            "write" => {
                let (fd, data) = (call.fd(0), call.text(1).to_vec());
                let Some((Some(file), at)) = self.fds.get(&fd).copied() else { return false };
                let written = usize::try_from(call.result).unwrap();
                self.fds.insert(fd, (Some(file), at + written));
                self.write(file, at, &data[..written])
            }
            "pwrite64" => match self.fds.get(&call.fd(0)).copied() {
                Some((Some(file), _)) => {
                    let data = call.text(1).to_vec();
                    let (at, written) = (call.number(3), usize::try_from(call.result).unwrap());
                    self.write(file, usize::try_from(at).unwrap(), &data[..written])
                }
                _ => false,
            },
            "lseek" => {
                if let Some(at) = self.fds.get_mut(&call.fd(0)) {
                    at.1 = usize::try_from(call.result).unwrap();
                }
                false
            }
            "ftruncate" => self.with(self.id(call, 0), |inode| match &mut inode.what {
                What::File(content) => content.resize(usize::try_from(call.number(1)).unwrap(), 0),
                other => panic!("no file: {other:?}"),
            }),
            "fchmod" => self.with(self.id(call, 0), |inode| inode.mode = call.mode(1)),
            "fchmodat" => self.with(self.at(call, 0), |inode| inode.mode = call.mode(2)),
            "fchown" => self.with(self.id(call, 0), |inode| inode.owner = call.owner(1)),
            "fchownat" => self.with(self.at(call, 0), |inode| inode.owner = call.owner(2)),
            "utimensat" => {
                let file = if call.is_null(1) { self.id(call, 0) } else { self.at(call, 0) };
                self.with(file, |inode| {
                    if let Some(mtime) = call.mtime(2) {
                        inode.mtime = mtime;
                    }
                })
            }
            "setxattr" | "lsetxattr" | "fsetxattr" => self.with(self.by_either(call, 0), |inode| {
                inode.xattrs.insert(call.text(1).to_vec(), call.text(2).to_vec());
            }),
            "removexattr" | "lremovexattr" | "fremovexattr" => self.with(self.by_either(call, 0), |inode| {
                inode.xattrs.remove(call.text(1));
            }),
            "fsync" | "fdatasync" => self.sync(self.id(call, 0)),
            "syncfs" => {
                let is_ours = self.id(call, 0).is_some();
                if is_ours {
                    self.disk.clone_from(&self.seen);
                    self.pending.clear();
                }
                is_ours
            }
            "ioctl" if call.has_flag(1, "FS_IOC_FIEMAP") => false,
            name if CHANGES_NOTHING.contains(&name) => false,
            name => {
                assert!(!self.is_about(call), "the model knows no {name}: {call:?}");
                false
            }
        }
    }

    fn is_about(&self, call: &Call) -> bool {
        call.descriptors().any(|(_, path)| self.find(path).is_some())
    }

    fn learn_number(&mut self, call: &Call) {
        let file = match call.name.as_str() {
            "fstat" => self.id(call, 0),
            "newfstatat" | "statx" if call.text(1).is_empty() => self.id(call, 0),
            "newfstatat" | "statx" => self.at(call, 0),
            _ => None,
        };
        if let (Some(file), Some(ino)) = (file, call.inode_number()) {
            self.numbers.insert(ino, file);
        }
    }

    fn open(&mut self, call: &Call) -> bool {
        let Some((dir, name)) = self.place(call, 0) else { return false };
        let fd = call.result;
        if let Some(file) = self.entries(dir).get(&name).copied() {
            self.fds.insert(fd, (Some(file), 0));
            return call.has_flag(2, "O_TRUNC") && self.with(Some(file), |inode| inode.what = What::File(Vec::new()));
        }
        assert!(call.has_flag(2, "O_CREAT"), "opened what the model does not have: {call:?}");
        let is_new = self.create_at(Some((dir, name)), call.mode(3), What::File(Vec::new()));
        self.fds.insert(fd, (Some(self.seen.len() - 1), 0));
        is_new
    }

    fn create(&mut self, call: &Call, place: usize, mode: usize, what: What) -> bool {
        self.create_at(self.place(call, place), call.mode(mode), what)
    }

    fn create_at(&mut self, place: Option<(Id, Vec<u8>)>, mode: u32, what: What) -> bool {
        let Some((dir, name)) = place else { return false };
        let id = self.seen.len();
        // The tests run with the usual umask.
        let mode = if matches!(what, What::Link(_)) { mode } else { mode & !0o022 };
        let owner = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let new = Inode { what, mode, owner, mtime: None, xattrs: BTreeMap::new() };
        self.disk.push(new.clone());
        self.seen.push(new);
        self.change(vec![(dir, name, Some(id))], vec![id])
    }

    fn unlink(&mut self, call: &Call, at: usize) -> bool {
        let Some((dir, name)) = self.place(call, at) else { return false };
        let file = *self.entries(dir).get(&name).unwrap_or_else(|| panic!("removed what is not there: {call:?}"));
        self.change(vec![(dir, name, None)], vec![file])
    }

    fn rename(&mut self, call: &Call) -> bool {
        let (from, to) = (self.place(call, 0), self.place(call, 2));
        let (Some(from), Some(to)) = (from.clone(), to.clone()) else {
            assert!(from.is_none() && to.is_none(), "a rename into or out of the tree: {call:?}");
            return false;
        };
        let moved = self.entries(from.0)[&from.1];
        let replaced = self.entries(to.0).get(&to.1).copied();
        let back = if call.has_flag(4, "RENAME_EXCHANGE") { replaced } else { None };
        let files = [Some(moved), replaced].into_iter().flatten().collect();
        self.change(vec![(from.0, from.1, back), (to.0, to.1, Some(moved))], files)
    }

    fn change(&mut self, entries: Vec<(Id, Vec<u8>, Option<Id>)>, files: Vec<Id>) -> bool {
        let change = Change { entries, files };
        put(&mut self.seen, &change);
        self.pending.push(change);
        true
    }

    fn write(&mut self, file: Id, at: usize, data: &[u8]) -> bool {
        let numbers = &self.numbers;
        let data = with_numbers(data, |ino| numbers.get(&ino).map_or(ino, |id| NUMBER + *id as u64));
        let content = self.content(file);
        let end = content.len().max(at + data.len());
        content.resize(end, 0);
        content[at..at + data.len()].copy_from_slice(&data);
        self.seen[file].mtime = None;
        true
    }

    fn with(&mut self, file: Option<Id>, change: impl FnOnce(&mut Inode)) -> bool {
        file.is_some_and(|file| {
            change(&mut self.seen[file]);
            true
        })
    }

    fn sync(&mut self, file: Option<Id>) -> bool {
        let Some(file) = file else { return false };
        if matches!(self.seen[file].what, What::Dir(_)) {
            // From the last to the first: what the synced ones need has to come too.
            let mut synced: Vec<Change> = Vec::new();
            let mut pending: Vec<Change> = Vec::new();
            for change in self.pending.drain(..).rev() {
                let comes = change.is_in(file) || synced.iter().any(|later| later.needs(&change));
                if comes { &mut synced } else { &mut pending }.push(change);
            }
            synced.iter().rev().for_each(|change| put(&mut self.disk, change));
            self.pending = pending.into_iter().rev().collect();
        } else {
            self.disk[file].what = self.seen[file].what.clone();
        }
        self.disk[file] = Inode { what: self.disk[file].what.clone(), ..self.seen[file].clone() };
        true
    }

    /// The file of a descriptor.
    fn id(&self, call: &Call, arg: usize) -> Option<Id> {
        self.fds.get(&call.fd(arg)).and_then(|(file, _)| *file)
    }

    /// What stands at a directory and a name.
    fn at(&self, call: &Call, arg: usize) -> Option<Id> {
        self.by_name(call.directory(arg), call.text(arg + 1))
    }

    /// The file of a descriptor, or what stands at a path.
    fn by_either(&self, call: &Call, arg: usize) -> Option<Id> {
        if call.directory(arg).is_some() { self.id(call, arg) } else { self.by_name(None, call.text(arg)) }
    }

    fn by_name(&self, dir: Option<i64>, name: &[u8]) -> Option<Id> {
        if let Some(fd) = name.strip_prefix(b"/proc/self/fd/") {
            let (fd, rest) = fd.iter().position(|b| *b == b'/').map_or((fd, &b""[..]), |at| (&fd[..at], &fd[at + 1..]));
            let fd = std::str::from_utf8(fd).unwrap().parse().unwrap();
            let dir = self.fds.get(&fd).and_then(|(file, _)| *file)?;
            return self.walk(dir, rest);
        }
        match dir {
            _ if name.starts_with(b"/") => self.find(name),
            Some(fd) => self.walk(self.fds.get(&fd).and_then(|(file, _)| *file)?, name),
            None => None,
        }
    }

    /// The directory in the tree that a call changes, and the name there.
    fn place(&self, call: &Call, arg: usize) -> Option<(Id, Vec<u8>)> {
        let path = call.text(arg + 1);
        let (parent, name) =
            path.iter().rposition(|b| *b == b'/').map_or((&b""[..], path), |at| (&path[..at], &path[at + 1..]));
        if matches!(name, b"." | b".." | b"") {
            return None;
        }
        let dir = self.by_name(call.directory(arg), parent)?;
        matches!(self.seen[dir].what, What::Dir(_)).then(|| (dir, name.to_vec()))
    }

    /// The file at an absolute path.
    fn find(&self, path: &[u8]) -> Option<Id> {
        let below = path.strip_prefix(self.root.as_os_str().as_bytes())?;
        if below.is_empty() { Some(0) } else { self.walk(0, below.strip_prefix(b"/")?) }
    }

    fn walk(&self, from: Id, path: &[u8]) -> Option<Id> {
        path.split(|b| *b == b'/').filter(|name| !matches!(*name, b"" | b".")).try_fold(from, |dir, name| {
            match &self.seen[dir].what {
                What::Dir(entries) => entries.get(name).copied(),
                _ => None,
            }
        })
    }
}

/// Calls that are about files and leave them as they are.
const CHANGES_NOTHING: [&str; 30] = [
    "access",
    "close",
    "dup",
    "execve",
    "faccessat",
    "faccessat2",
    "fadvise64",
    "fcntl",
    "fgetxattr",
    "flistxattr",
    "flock",
    "fstat",
    "fstatfs",
    "getdents64",
    "getxattr",
    "lgetxattr",
    "listxattr",
    "llistxattr",
    "mmap",
    "newfstatat",
    "poll",
    "pread64",
    "read",
    "readlink",
    "readlinkat",
    "statfs",
    "statx",
    "getcwd",
    "chdir",
    "readv",
];

fn put(inodes: &mut [Inode], change: &Change) {
    for (dir, name, file) in &change.entries {
        let What::Dir(entries) = &mut inodes[*dir].what else { panic!("no directory") };
        match file {
            Some(file) => entries.insert(name.clone(), *file),
            None => entries.remove(name),
        };
        inodes[*dir].mtime = None;
    }
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut buffer = vec![0; 65536];
    let length = rustix::fs::llistxattr(path, buffer.as_mut_slice()).unwrap_or(0);
    let names: Vec<Vec<u8>> =
        buffer[..length].split(|b| *b == 0).filter(|n| !n.is_empty()).map(<[u8]>::to_vec).collect();
    let mut found = BTreeMap::new();
    for name in names {
        let length = rustix::fs::lgetxattr(path, name.as_slice(), buffer.as_mut_slice()).unwrap();
        found.insert(name, buffer[..length].to_vec());
    }
    found
}
