//! What is restored is what was there: any tree, several generations of changes, every attribute.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking, in its helpers too"
)]

mod support;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, symlink};
use std::path::{Path, PathBuf};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Timespec, Timestamps, XattrFlags};
use support::opsctl::{Bench, noise, rest};
use support::tree::{Tree, assert_equal, assert_same_tree};

// ---- any tree ----

/// One object to be made.
#[derive(Clone, Debug)]
struct Node {
    parent: Index,
    name: Vec<u8>,
    what: What,
    meta: Meta,
}

#[derive(Clone, Debug)]
enum What {
    Dir,
    File {
        size: usize,
        seed: u64,
    },
    /// (gap, length) of each piece of data, then a hole of this length.
    Sparse {
        pieces: Vec<(u32, u32)>,
        end: u32,
        seed: u64,
    },
    Symlink(Vec<u8>),
    /// Another name for a file that is there.
    Link(Index),
    Fifo,
    Socket,
}

#[derive(Clone, Debug)]
struct Meta {
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, i64),
    xattrs: Vec<(&'static str, Vec<u8>)>,
    acl: Option<u32>,
    default_acl: bool,
}

/// One change to a tree.
#[derive(Clone, Debug)]
enum Change {
    Edit(Index, u32, u64),
    Append(Index, usize, u64),
    Truncate(Index, u32),
    Rename(Index, Index, Vec<u8>),
    Delete(Index),
    ReplaceByDir(Index),
    Describe(Index, Meta),
    Touch(Index, (i64, i64)),
    Relink(Index, Index, Vec<u8>),
    Add(Node),
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let any = vec(any::<u8>().prop_filter("no name holds it", |b| *b != b'/' && *b != 0), 1..40);
    let odd: [&[u8]; 12] = [
        b"-rf",
        b"--",
        b"line\nbreak",
        b"\xff\xfe\x80",
        b"*",
        b" ",
        b"...",
        b"a\\b",
        b".opsctl",
        b"lost+found",
        "\u{e4}\u{1f600}".as_bytes(),
        b"\t\"'\x1b[31m",
    ];
    prop_oneof![
        3 => "[a-z]{1,6}".prop_map(String::into_bytes),
        2 => select(odd.map(<[u8]>::to_vec).to_vec()),
        1 => any.prop_filter("names of their own", |n| n != b"." && n != b".."),
        1 => (b'a'..=b'z').prop_map(|letter| vec![letter; 255]),
    ]
}

fn time() -> impl Strategy<Value = (i64, i64)> {
    // ext4 keeps 34 bits of seconds from 1901 on.
    (-2_000_000_000_i64..4_000_000_000, prop_oneof![Just(0_i64), Just(999_999_999), 0..1_000_000_000_i64])
}

fn meta() -> impl Strategy<Value = Meta> {
    let mode = prop_oneof![
        Just(0o644),
        Just(0o755),
        Just(0),
        Just(0o4755),
        Just(0o2711),
        Just(0o1777),
        Just(0o6000),
        0..=0o7777_u32
    ];
    let id = || select(vec![0_u32, 1, 1000, 65534, 100_000, u32::MAX - 1]);
    let xattr = (
        select(vec!["user.note", "user.empty", "trusted.secret", "user.\u{fc}mlaut", "security.capability"]),
        prop_oneof![Just(Vec::new()), vec(any::<u8>(), 1..30), Just(vec![7; 700])],
    );
    (
        mode,
        (id(), id()),
        time(),
        prop_oneof![3 => Just(Vec::new()), 1 => vec(xattr, 1..4)],
        prop::option::weighted(0.2, 1..60_000_u32),
        any::<bool>(),
    )
        .prop_map(|(mode, owner, mtime, xattrs, acl, default_acl)| Meta {
            mode,
            owner,
            mtime,
            xattrs,
            acl,
            default_acl,
        })
}

fn what() -> impl Strategy<Value = What> {
    const KIB: usize = 1 << 10;
    let size = prop_oneof![
        4 => select(vec![0, 1, 511, 512, 513, 4096, 5000]),
        2 => 1..30_000_usize,
        2 => select(vec![511 * KIB, 512 * KIB - 1, 512 * KIB, 512 * KIB + 1, 513 * KIB]),
        1 => 1_500_000..5_000_000_usize,
    ];
    let pieces = vec((prop_oneof![Just(0_u32), 1..900_000_u32], 1..200_000_u32), 0..5);
    prop_oneof![
        4 => Just(What::Dir),
        7 => (size, any::<u64>()).prop_map(|(size, seed)| What::File { size, seed }),
        2 => (pieces, 0..3_000_000_u32, any::<u64>()).prop_map(|(pieces, end, seed)| What::Sparse { pieces, end, seed }),
        2 => select(vec![&b"nowhere"[..], b"/etc/passwd", b"../../..", b"\xc3\x28\xff", b"a\nb"])
            .prop_map(|t| What::Symlink(t.to_vec())),
        1 => Just(What::Symlink(vec![b'x'; 1000])),
        2 => any::<Index>().prop_map(What::Link),
        1 => Just(What::Fifo),
        1 => Just(What::Socket),
    ]
}

fn node() -> impl Strategy<Value = Node> {
    (any::<Index>(), name(), what(), meta()).prop_map(|(parent, name, what, meta)| Node { parent, name, what, meta })
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<Index>;
    prop_oneof![
        3 => (at(), any::<u32>(), any::<u64>()).prop_map(|(i, at, seed)| Change::Edit(i, at, seed)),
        2 => (at(), 1..100_000_usize, any::<u64>()).prop_map(|(i, len, seed)| Change::Append(i, len, seed)),
        2 => (at(), any::<u32>()).prop_map(|(i, to)| Change::Truncate(i, to)),
        3 => (at(), at(), name()).prop_map(|(i, to, name)| Change::Rename(i, to, name)),
        2 => at().prop_map(Change::Delete),
        1 => at().prop_map(Change::ReplaceByDir),
        2 => (at(), meta()).prop_map(|(i, meta)| Change::Describe(i, meta)),
        2 => (at(), time()).prop_map(|(i, time)| Change::Touch(i, time)),
        2 => (at(), at(), name()).prop_map(|(i, to, name)| Change::Relink(i, to, name)),
        3 => node().prop_map(Change::Add),
    ]
}

/// The tree on disk, and what is in it.
struct Real {
    root: PathBuf,
    /// Below the root; directories come before what is in them.
    paths: Vec<PathBuf>,
}

impl Real {
    fn kind(&self, path: &Path) -> FileType {
        let stat = rustix::fs::lstat(self.root.join(path)).unwrap();
        FileType::from_raw_mode(stat.st_mode)
    }

    fn pick(&self, index: &Index, wanted: impl Fn(FileType) -> bool) -> Option<PathBuf> {
        let fits: Vec<_> = self.paths.iter().filter(|path| wanted(self.kind(path))).collect();
        (!fits.is_empty()).then(|| index.get(&fits).to_path_buf())
    }

    fn file(&self, index: &Index) -> Option<PathBuf> {
        self.pick(index, |kind| kind == FileType::RegularFile)
    }

    /// A directory, or the root.
    fn dir(&self, index: &Index) -> PathBuf {
        let mut dirs = vec![PathBuf::new()];
        dirs.extend(self.paths.iter().filter(|path| self.kind(path) == FileType::Directory).cloned());
        index.get(&dirs).clone()
    }

    /// A name in a directory that nothing has, and that is captured.
    fn free(&self, dir: &Path, name: &[u8]) -> PathBuf {
        let reserved = |name: &[u8]| dir.as_os_str().is_empty() && (name == b".opsctl" || name == b"lost+found");
        let mut name = name.to_vec();
        let mut number = 0;
        while reserved(&name) || self.root.join(dir.join(OsStr::from_bytes(&name))).symlink_metadata().is_ok() {
            name.truncate(250);
            name.extend_from_slice(number.to_string().as_bytes());
            number += 1;
        }
        dir.join(OsString::from_vec(name))
    }

    fn add(&mut self, node: &Node) {
        let path = self.free(&self.dir(&node.parent), &node.name);
        let full = self.root.join(&path);
        match &node.what {
            What::Dir => std::fs::create_dir(&full).unwrap(),
            What::File { size, seed } => std::fs::write(&full, noise(*size, *seed)).unwrap(),
            What::Sparse { pieces, end, seed } => {
                let file = File::create(&full).unwrap();
                let mut at = 0;
                for (gap, len) in pieces {
                    at += u64::from(*gap);
                    file.write_all_at(&noise(*len as usize, *seed), at).unwrap();
                    at += u64::from(*len);
                }
                file.set_len(at + u64::from(*end)).unwrap();
            }
            What::Symlink(target) => symlink(OsStr::from_bytes(target), &full).unwrap(),
            What::Link(to) => match self.file(to) {
                Some(to) => std::fs::hard_link(self.root.join(to), &full).unwrap(),
                None => std::fs::write(&full, "alone").unwrap(),
            },
            What::Fifo => mknod(&full, FileType::Fifo),
            What::Socket => mknod(&full, FileType::Socket),
        }
        self.describe(&path, &node.meta);
        self.paths.push(path);
    }

    fn describe(&self, path: &Path, meta: &Meta) {
        let kind = self.kind(path);
        let full = self.root.join(path);
        std::os::unix::fs::lchown(&full, Some(meta.owner.0), Some(meta.owner.1)).unwrap();
        for (name, value) in &meta.xattrs {
            let fits = match name.split('.').next() {
                // Links and special files can have none of these.
                Some("user") => matches!(kind, FileType::RegularFile | FileType::Directory),
                Some("security") => kind == FileType::RegularFile,
                _ => true,
            };
            // The kernel takes only a valid set of capabilities.
            let value = if *name == "security.capability" { &CAPABILITY[..] } else { value };
            if fits {
                rustix::fs::lsetxattr(&full, *name, value, XattrFlags::empty()).unwrap();
            }
        }
        if kind != FileType::Symlink {
            rustix::fs::chmod(&full, Mode::from_raw_mode(meta.mode)).unwrap();
            if let Some(user) = meta.acl {
                rustix::fs::lsetxattr(&full, "system.posix_acl_access", &acl(user), XattrFlags::empty()).unwrap();
                if meta.default_acl && kind == FileType::Directory {
                    rustix::fs::lsetxattr(&full, "system.posix_acl_default", &acl(user), XattrFlags::empty()).unwrap();
                }
            }
        }
        touch(&full, meta.mtime);
    }

    fn apply(&mut self, change: &Change) {
        match change {
            Change::Edit(index, at, seed) => {
                let Some(path) = self.file(index) else { return };
                let file = self.open(&path);
                let size = file.metadata().unwrap().size();
                file.write_all_at(&noise(100, *seed), u64::from(*at) % (size + 1)).unwrap();
            }
            Change::Append(index, len, seed) => {
                let Some(path) = self.file(index) else { return };
                let file = self.open(&path);
                let size = file.metadata().unwrap().size();
                file.write_all_at(&noise(*len, *seed), size).unwrap();
            }
            Change::Truncate(index, to) => {
                let Some(path) = self.file(index) else { return };
                let file = self.open(&path);
                let size = file.metadata().unwrap().size();
                file.set_len(u64::from(*to) % (size + 1)).unwrap();
            }
            Change::Rename(index, to, name) => {
                let Some(from) = self.pick(index, |_| true) else { return };
                let dir = self.dir(to);
                if dir.starts_with(&from) {
                    return;
                }
                let to = self.free(&dir, name);
                std::fs::rename(self.root.join(&from), self.root.join(&to)).unwrap();
                for path in &mut self.paths {
                    if let Ok(rest) = path.strip_prefix(&from) {
                        *path = if rest.as_os_str().is_empty() { to.clone() } else { to.join(rest) };
                    }
                }
            }
            Change::Delete(index) => {
                let Some(path) = self.pick(index, |_| true) else { return };
                self.remove(&path);
            }
            Change::ReplaceByDir(index) => {
                let Some(path) = self.file(index) else { return };
                self.remove(&path);
                std::fs::create_dir(self.root.join(&path)).unwrap();
                std::fs::write(self.root.join(&path).join("inside"), "now a folder").unwrap();
                self.paths.push(path.clone());
                self.paths.push(path.join("inside"));
            }
            Change::Describe(index, meta) => {
                let Some(path) = self.pick(index, |_| true) else { return };
                self.describe(&path, meta);
            }
            Change::Touch(index, time) => {
                let Some(path) = self.pick(index, |_| true) else { return };
                touch(&self.root.join(path), *time);
            }
            Change::Relink(index, to, name) => {
                let Some(path) = self.file(index) else { return };
                let new = self.free(&self.dir(to), name);
                std::fs::hard_link(self.root.join(path), self.root.join(&new)).unwrap();
                self.paths.push(new);
            }
            Change::Add(node) => self.add(node),
        }
    }

    fn open(&self, path: &Path) -> File {
        File::options().write(true).open(self.root.join(path)).unwrap()
    }

    fn remove(&mut self, path: &Path) {
        let full = self.root.join(path);
        match self.kind(path) {
            FileType::Directory => std::fs::remove_dir_all(full).unwrap(),
            _ => std::fs::remove_file(full).unwrap(),
        }
        self.paths.retain(|other| !other.starts_with(path));
    }
}

/// `cap_net_raw+ep`, as the kernel keeps it.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// An ACL with one more user, as the kernel takes it: version 2, then tag, permissions, id of each entry.
fn acl(user: u32) -> Vec<u8> {
    const NOBODY: u32 = u32::MAX;
    let entries = [(0x01_u16, 6_u16, NOBODY), (0x02, 5, user), (0x04, 4, NOBODY), (0x10, 7, NOBODY), (0x20, 1, NOBODY)];
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&permissions.to_le_bytes());
        bytes.extend_from_slice(&id.to_le_bytes());
    }
    bytes
}

fn mknod(path: &Path, kind: FileType) {
    rustix::fs::mknodat(CWD, path, kind, Mode::RUSR | Mode::WUSR, 0).unwrap();
}

fn touch(path: &Path, (tv_sec, tv_nsec): (i64, i64)) {
    let time = Timespec { tv_sec, tv_nsec };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn round_trip(nodes: &[Node], root: &Meta, generations: &[Vec<Change>]) {
    let bench = Bench::new();
    let mut real = Real { root: bench.tree.clone(), paths: Vec::new() };
    for node in nodes {
        real.add(node);
    }
    real.describe(Path::new(""), root);
    let mut taken = Vec::new();
    for (number, changes) in [&Vec::new()].into_iter().chain(generations).enumerate() {
        changes.iter().for_each(|change| real.apply(change));
        // The first two generations are at rest, so that the two after them take lines over unread; the last is not.
        if number < 2 {
            rest();
        }
        taken.push((bench.take(), Tree::read(&bench.tree)));
    }
    for (snapshot, tree) in &taken {
        assert_equal(tree, &Tree::read(&bench.restored(snapshot)));
    }
}

/// The cases are the same in each run; another set comes with another OPSCTL_TEST_SEED.
fn any_tree(case_set: u8) {
    let seed = std::env::var("OPSCTL_TEST_SEED").map_or(7, |text| text.parse::<u64>().unwrap());
    let mut bytes = [case_set; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    println!("OPSCTL_TEST_SEED={seed}, set {case_set}");
    let config = Config { cases: 3, max_shrink_iters: 30, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let input = (vec(node(), 8..40), meta(), vec(vec(change(), 1..12), 2..=3));
    let result = runner.run(&input, |(nodes, root, generations)| {
        round_trip(&nodes, &root, &generations);
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

#[test]
fn every_generation_of_any_tree_comes_back_first_set() {
    any_tree(1);
}

#[test]
fn every_generation_of_any_tree_comes_back_second_set() {
    any_tree(2);
}

// ---- fixed cases ----

/// Snapshot, restore, compare; then once more with everything taken over unread.
fn there_and_back(bench: &Bench) {
    rest();
    let first = bench.take();
    assert_same_tree(&bench.tree, &bench.restored(&first));
    let second = bench.take();
    assert_eq!(second.number("bytes_read"), 0, "{}", second.stdout);
    assert_same_tree(&bench.tree, &bench.restored(&second));
}

#[test]
fn an_empty_folder() {
    let bench = Bench::new();
    let snapshot = bench.take();
    assert_eq!(snapshot.number("files"), 0);
    assert_same_tree(&bench.tree, &bench.restored(&snapshot));
}

#[test]
fn the_root_itself_has_attributes() {
    let bench = Bench::new();
    bench.dir.write("tree/file", "x");
    let meta = Meta {
        mode: 0o3711,
        owner: (1000, 65534),
        mtime: (-86_400, 123_456_789),
        xattrs: vec![("user.note", b"root".to_vec())],
        acl: Some(1234),
        default_acl: true,
    };
    Real { root: bench.tree.clone(), paths: Vec::new() }.describe(Path::new(""), &meta);
    let snapshot = bench.take();
    let to = bench.dir.join("to");
    // The state of the next snapshot elsewhere: it would change the root's own time.
    bench.restore(&to, [OsStr::new("--state-dir"), bench.dir.join("other").as_os_str()]).ok();
    assert_same_tree(&bench.tree, &to);
    let mtime = |path: &Path| (path.metadata().unwrap().mtime(), path.metadata().unwrap().mtime_nsec());
    assert_eq!(mtime(&to), (-86_400, 123_456_789));
    assert_eq!(mtime(&to), mtime(&bench.tree));
    drop(snapshot);
}

#[test]
fn deeper_than_path_max() {
    const LEVELS: usize = 600;
    let bench = Bench::new();
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let mut dir = rustix::fs::open(&bench.tree, flags, Mode::empty()).unwrap();
    for level in 0..LEVELS {
        let name = format!("{level:020}");
        rustix::fs::mkdirat(&dir, &name, Mode::RWXU).unwrap();
        let file = rustix::fs::openat(&dir, "beside", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).unwrap();
        rustix::io::write(&file, name.as_bytes()).unwrap();
        rustix::fs::symlinkat("beside", &dir, "link").unwrap();
        dir = rustix::fs::openat(&dir, &name, flags, Mode::empty()).unwrap();
    }
    drop(dir);
    there_and_back(&bench);
}

#[test]
fn files_of_whole_chunks_and_blocks() {
    let bench = Bench::new();
    const MIB: usize = 1 << 20;
    for (name, size) in [("4", 4 * MIB), ("8", 8 * MIB), ("8+1", 8 * MIB + 1), ("12-1", 12 * MIB - 1)] {
        bench.dir.write(format!("tree/noise-{name}"), noise(size, size as u64));
        // Without any content to cut at, every chunk is as long as can be.
        bench.dir.write(format!("tree/zeros-{name}"), vec![b'0'; size]);
    }
    there_and_back(&bench);
}

/// More than 256 extents leave the manifest's line, and more than 4,096 fill a list of them.
#[test]
fn files_of_very_many_extents() {
    let bench = Bench::new();
    let sparse = File::create(bench.tree.join("pieces")).unwrap();
    // Data between holes is cut at the holes: one extent for each piece.
    for piece in 0..4500_u64 {
        sparse.write_all_at(&noise(100, piece), piece * 8192).unwrap();
    }
    sparse.set_len(4500 * 8192).unwrap();
    let dense = noise(8 << 20, 99).repeat(40);
    bench.dir.write("tree/dense", &dense);
    let holes = |path: &Path| path.metadata().unwrap().blocks() * 512;
    assert!(holes(&bench.tree.join("pieces")) < 4500 * 8192, "the test needs a file system with holes");

    rest();
    let first = bench.take();
    // The same piece forty times over is stored about once.
    assert!(first.number("bytes_stored") < 40 << 20, "{}", first.stdout);
    let restored = bench.restored(&first);
    assert_same_tree(&bench.tree, &restored);
    assert!(holes(&restored.join("pieces")) <= holes(&bench.tree.join("pieces")), "the holes were filled");
    std::fs::remove_dir_all(restored).unwrap();
    let second = bench.take();
    assert_eq!(second.number("bytes_read"), 0, "{}", second.stdout);
    assert_same_tree(&bench.tree, &bench.restored(&second));
}

#[test]
fn names_and_kinds_side_by_side() {
    let bench = Bench::new();
    for name in [&b"-rf"[..], b"a\nb", b"\xff\xfe", &[b'n'; 255], b"a-b", b"a.b", b"a"] {
        let dir = bench.tree.join(OsStr::from_bytes(name));
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join(OsStr::from_bytes(name)), name).unwrap();
    }
    // The root's reserved names are ordinary ones below it.
    bench.dir.write("tree/a/.opsctl/kept", "1");
    bench.dir.write("tree/a/lost+found/kept", "2");
    mknod(&bench.tree.join("fifo"), FileType::Fifo);
    mknod(&bench.tree.join("socket"), FileType::Socket);
    symlink("x", bench.tree.join("link")).unwrap();
    std::fs::hard_link(bench.tree.join("a/a"), bench.tree.join("a-b/zz")).unwrap();
    bench.dir.write("tree/empty", "");
    std::fs::hard_link(bench.tree.join("empty"), bench.tree.join("empty2")).unwrap();
    let hole = File::create(bench.tree.join("hole")).unwrap();
    hole.set_len(5 << 20).unwrap();
    std::fs::hard_link(bench.tree.join("hole"), bench.tree.join("hole2")).unwrap();
    there_and_back(&bench);
}
