//! The tree comparison of the tests sees what it has to see: a blind one would pass every round trip.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod support;

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use rustix::fs::{Mode, OFlags, XattrFlags};
use support::TestDir;
use support::tree::{Kind, Tree, assert_same_tree};

fn sample(dir: &Path) {
    std::fs::create_dir_all(dir.join("a/b")).unwrap();
    std::fs::write(dir.join("a/file"), "content").unwrap();
    std::fs::hard_link(dir.join("a/file"), dir.join("a/b/link")).unwrap();
    symlink("../outside", dir.join("a/symlink")).unwrap();
    std::fs::create_dir_all(dir.join(".opsctl")).unwrap();
}

/// Gives the second tree the times of the first.
fn copy_times(from: &Path, to: &Path) {
    for path in ["a/file", "a/symlink", "a/b", "a", ""] {
        let meta = std::fs::symlink_metadata(from.join(path)).unwrap();
        let time = rustix::fs::Timespec {
            tv_sec: std::os::unix::fs::MetadataExt::mtime(&meta),
            tv_nsec: std::os::unix::fs::MetadataExt::mtime_nsec(&meta),
        };
        let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(rustix::fs::CWD, to.join(path), &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
}

#[test]
fn every_kind_of_change_is_one_line() {
    let scratch = TestDir::new();
    let (left, right) = (scratch.mkdir("left"), scratch.mkdir("right"));
    sample(&left);
    sample(&right);
    copy_times(&left, &right);
    assert_same_tree(&left, &right);

    let tree = Tree::read(&left);
    assert_eq!(tree.entry("a/symlink").kind, Kind::Symlink);
    assert_eq!(tree.entry("a/symlink").target.as_deref(), Some(b"../outside".as_slice()));
    assert_eq!(tree.entry("a/file").link_group.as_deref(), Some(b"a/b/link".as_slice()));
    assert!(!tree.0.contains_key(b".opsctl".as_slice()));

    std::fs::write(right.join("a/file"), "CONTENT").unwrap();
    std::fs::set_permissions(right.join("a/file"), std::fs::Permissions::from_mode(0o4755)).unwrap();
    rustix::fs::lsetxattr(right.join("a/b"), "user.note", b"x", XattrFlags::empty()).unwrap();
    std::fs::remove_file(right.join("a/symlink")).unwrap();
    std::fs::write(right.join("new"), "").unwrap();
    let found = tree.differences(&Tree::read(&right)).join("\n");
    for expected in [
        "~ a/file: sha256 ",
        "~ a/file: mode 0644 | 4755",
        "~ a/file: mtime ",
        "~ a/b: xattrs {} | {user.note=x;}",
        "- a/symlink (Symlink)",
        "+ new (File)",
    ] {
        assert!(found.contains(expected), "{expected} not in:\n{found}");
    }
}

#[test]
fn a_broken_hard_link_is_seen() {
    let scratch = TestDir::new();
    let (left, right) = (scratch.mkdir("left"), scratch.mkdir("right"));
    sample(&left);
    sample(&right);
    std::fs::remove_file(right.join("a/b/link")).unwrap();
    std::fs::write(right.join("a/b/link"), "content").unwrap();
    copy_times(&left, &right);
    let found = Tree::read(&left).differences(&Tree::read(&right)).join("\n");
    assert!(found.contains("~ a/file: hard-link group a/b/link | none"), "{found}");
}

#[test]
fn deeper_than_path_max_and_than_the_open_file_limit() {
    const LEVELS: usize = 2500;
    let scratch = TestDir::new();
    let mut dir = rustix::fs::open(scratch.path(), OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty()).unwrap();
    for _ in 0..LEVELS {
        rustix::fs::mkdirat(&dir, "dd", Mode::RWXU).unwrap();
        dir = rustix::fs::openat(&dir, "dd", OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty()).unwrap();
    }
    let flags = OFlags::CREATE | OFlags::WRONLY;
    drop(rustix::fs::openat(&dir, "leaf", flags, Mode::RUSR | Mode::WUSR).unwrap());
    let tree = Tree::read(scratch.path());
    assert_eq!(tree.0.len(), LEVELS + 2);
    let deepest = tree.0.keys().max_by_key(|path| path.len()).unwrap();
    assert!(deepest.len() > 4096 && deepest.ends_with(b"/leaf"), "{}", deepest.len());
}
