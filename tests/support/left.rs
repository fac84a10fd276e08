//! What a disk holds after a power cut, as a value that can be made into a tree.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of this module")]
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "a test helper fails by panicking")]

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, XattrFlags};
use serde_json::Value;

pub type Id = usize;
/// Inode numbers in journals, while nobody knows which ones the files will have: this and the id of the file.
pub const NUMBER: u64 = 1 << 40;

/// One file, as it is seen or as it is on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inode {
    pub what: What,
    pub mode: u32,
    pub owner: (u32, u32),
    /// `None`: the time of the change.
    pub mtime: Option<(i64, i64)>,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    File(Vec<u8>),
    Dir(BTreeMap<Vec<u8>, Id>),
    Link(Vec<u8>),
}

/// What a disk holds after a power cut; the root is number 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left(pub Vec<Inode>);

impl Left {
    /// Makes the tree at `root`, where there is nothing yet.
    pub fn make(&self, root: &Path) {
        let mut made: HashMap<Id, PathBuf> = HashMap::new();
        let mut order = Vec::new();
        self.create(0, root, &mut made, &mut order);
        for id in &order {
            if let What::File(content) = &self.0[*id].what {
                let number = |number: u64| {
                    let id = usize::try_from(number.wrapping_sub(NUMBER)).unwrap_or(usize::MAX);
                    made.get(&id).map_or(number, |path| path.symlink_metadata().unwrap().ino())
                };
                fs::write(&made[id], with_numbers(content, number)).unwrap();
            }
        }
        for id in order.iter().rev() {
            self.set_metadata(*id, &made[id]);
        }
    }

    fn create(&self, id: Id, path: &Path, made: &mut HashMap<Id, PathBuf>, order: &mut Vec<Id>) {
        if let Some(first) = made.get(&id) {
            fs::hard_link(first, path).unwrap();
            return;
        }
        match &self.0[id].what {
            What::File(_) => drop(fs::File::create_new(path).unwrap()),
            What::Link(target) => symlink(std::ffi::OsStr::from_bytes(target), path).unwrap(),
            What::Dir(_) => fs::create_dir(path).unwrap(),
        }
        made.insert(id, path.to_owned());
        order.push(id);
        if let What::Dir(entries) = &self.0[id].what {
            for (name, child) in entries {
                self.create(*child, &path.join(std::ffi::OsStr::from_bytes(name)), made, order);
            }
        }
    }

    fn set_metadata(&self, id: Id, path: &Path) {
        let inode = &self.0[id];
        let (uid, gid) = inode.owner;
        std::os::unix::fs::lchown(path, Some(uid), Some(gid)).unwrap();
        for (name, value) in &inode.xattrs {
            rustix::fs::lsetxattr(path, name.as_slice(), value, XattrFlags::empty()).unwrap();
        }
        if !matches!(inode.what, What::Link(_)) {
            fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(inode.mode)).unwrap();
        }
        let (tv_sec, tv_nsec) = inode.mtime.unwrap_or((0, UTIME_NOW));
        let last_modification = Timespec { tv_sec, tv_nsec };
        let times = Timestamps { last_access: last_modification, last_modification };
        rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
}

/// The text of a journal with other inode numbers; anything else as it is.
pub fn with_numbers(content: &[u8], number: impl Fn(u64) -> u64) -> Vec<u8> {
    fn replace(value: &mut Value, number: &impl Fn(u64) -> u64) {
        match value {
            Value::Array(items) => items.iter_mut().for_each(|item| replace(item, number)),
            Value::Object(fields) => {
                for (name, value) in fields {
                    match value.as_u64() {
                        Some(ino) if name.ends_with("ino") => *value = number(ino).into(),
                        _ => replace(value, number),
                    }
                }
            }
            _ => {}
        }
    }
    match serde_json::from_slice::<Value>(content) {
        Ok(mut record @ Value::Object(_))
            if record["type"].as_str().is_some_and(|kind| kind.starts_with("opsctl-")) =>
        {
            replace(&mut record, &number);
            serde_json::to_vec(&record).unwrap()
        }
        _ => content.to_vec(),
    }
}
