//! Trees that change while they are captured: what rests is in the snapshot exactly, and what does not is in it as it really
//! was at some moment, or is named.
//!
//! The processes that change the tree write content that proves which version of which file it is, so that a mix of two versions that
//! never was in the file is recognised.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

mod support;

#[path = "support/cycle.rs"]
mod cycle;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use cycle::{Worker, python};
use support::opsctl::{Bench, Done, Mounted, noise, rest, run, traced};
use support::tree::{Tree, assert_equal, assert_same_tree};

/// Snapshots that are taken at most until one meets a change.
const ROUNDS: usize = 60;

/// What the processes below and the check have in common.
///
/// The content of version `v` of file `id` is a header and noise made of both. What is in a file is a beginning of it. A rewrite in
/// place goes from the front to the back in pieces, so in between there is a beginning of the new version, and the end of the one
/// before.
const CONTENT: &str = r#"
import os, random, sys

def whole(id, v, size):
    return b"%08d %08d %08d\n" % (id, v, size) + random.Random(f"{id}/{v}").randbytes(size)

def was_real(content, name=""):
    if name.startswith("count-"):
        return int(content[:8]) - int(content[-8:]) in (0, 1)
    if len(content) < 27:
        return True
    try:
        id, v, size = (int(n) for n in content[:26].split())
    except ValueError:
        return False
    new = whole(id, v, size)[:len(content)]
    if new == content:
        return True
    if len(new) < len(content):
        return False
    # Those of a file that is written at once go round.
    before = [v - 1] if v > 1 else [0, 59]
    at = next(i for i in range(len(content)) if content[i] != new[i])
    return v > 0 and any(content[at:] == whole(id, w, size)[at:len(content)] for w in before)
"#;

/// Changes everything below argv[1] for ever, in an order that argv[2] decides, and prints the number of each change.
const CHANGE: &str = r#"
root, seed = sys.argv[1], int(sys.argv[2])
rng = random.Random(seed)
os.chdir(root)
DIRS = ["d0", "d1", "d2", "d3"]
for d in DIRS + ["keep", "links"]:
    os.makedirs(d, exist_ok=True)

class File:
    ids = 0
    def __init__(self, path, most):
        File.ids += 1
        self.id, self.v, self.path = File.ids, 0, path
        self.size = rng.randrange(100, most)
        self.content = whole(self.id, self.v, self.size)
        self.length = len(self.content)
        self.put(os.O_CREAT | os.O_EXCL, path)

    def put(self, flags, path):
        fd = os.open(path, os.O_WRONLY | flags, 0o644)
        self.pieces(fd, 0, self.length)
        os.close(fd)

    def pieces(self, fd, start, end):
        step = rng.choice([4096, 30000, 1 << 30])
        while start < end:
            stop = min(end, start + step)
            start += os.pwrite(fd, self.content[start:stop], start)

    def next(self):
        self.v += 1
        self.content = whole(self.id, self.v, self.size)

    def grow(self):
        start, self.length = self.length, min(len(self.content), self.length + rng.randrange(1, 90000))
        fd = os.open(self.path, os.O_WRONLY)
        self.pieces(fd, start, self.length)
        os.close(fd)

    def shrink(self):
        self.length = rng.randrange(self.length + 1)
        os.truncate(self.path, self.length)

    def in_place(self):
        self.next()
        fd = os.open(self.path, os.O_WRONLY)
        self.pieces(fd, 0, self.length)
        os.close(fd)

    # Size and mtime say nothing.
    def truncated(self):
        times = os.stat(self.path)
        self.next()
        self.put(os.O_TRUNC, self.path)
        os.utime(self.path, ns=(times.st_atime_ns, times.st_mtime_ns))

    def replaced(self):
        self.next()
        self.length = len(self.content)
        self.put(os.O_CREAT | os.O_TRUNC, self.path + ".new")
        os.rename(self.path + ".new", self.path)

    def away(self):
        os.rename(self.path, self.path + ".away")
        os.rename(self.path + ".away", self.path)

    def anew(self):
        os.unlink(self.path)
        self.next()
        self.length = len(self.content)
        self.put(os.O_CREAT | os.O_EXCL, self.path)

    def moved(self):
        path = rng.choice(DIRS) + "/" + os.path.basename(self.path)
        os.rename(self.path, path)
        self.path = path

    def linked(self):
        os.link(self.path, self.path + ".link")
        os.unlink(self.path + ".link")

    def described(self):
        os.chmod(self.path, rng.choice([0o600, 0o640, 0o644, 0o755]))
        os.setxattr(self.path, "user.state", b"state %d" % rng.randrange(1000))

def flip(n):
    path = f"flip{n % 3}"
    if os.path.isdir(path):
        os.rename(path, path + ".gone")
        for name in os.listdir(path + ".gone"):
            os.unlink(path + ".gone/" + name)
        os.rmdir(path + ".gone")
        with open(path, "wb") as file:
            file.write(whole(0, n, 500))
    else:
        if os.path.exists(path):
            os.unlink(path)
        os.mkdir(path)
        for i in range(3):
            with open(f"{path}/{i}", "wb") as file:
                file.write(whole(0, n, 700))

def retarget(n):
    os.symlink(f"target-{n}", "links/new")
    os.rename("links/new", f"links/l{n % 4}")

keep = [File(f"keep/{n:02}", 1_500_000 if n < 5 else 40_000) for n in range(25)]
free = [File(f"d{n % 4}/{n:02}", 40_000) for n in range(40)]
ALWAYS_THERE = ["grow", "shrink", "in_place", "in_place", "truncated", "replaced", "linked", "described"]
SOMETIMES = ALWAYS_THERE + ["away", "anew", "moved"]
n = 0
while True:
    n += 1
    getattr(rng.choice(keep), rng.choice(ALWAYS_THERE))()
    getattr(rng.choice(free), rng.choice(SOMETIMES))()
    if n % 5 == 0:
        flip(rng.randrange(1000))
        retarget(n)
    print(n, flush=True)
"#;

/// Counts at the beginning and then at the end of some files, as fast as it can: the end is never ahead.
const COUNT: &str = r#"
root, sizes = sys.argv[1], [int(n) for n in sys.argv[3:]]
for id, size in enumerate(sizes):
    with open(f"{root}/count-{id}", "wb") as file:
        file.write(b"%08d" % 0 + bytes(size - 16) + b"%08d" % 0)
files = [(os.open(f"{root}/count-{id}", os.O_WRONLY), size) for id, size in enumerate(sizes)]
n = 0
while True:
    n += 1
    for fd, size in files:
        os.pwrite(fd, b"%08d" % n, 0)
        os.pwrite(fd, b"%08d" % n, size - 8)
    if n % 1000 == 0:
        print(n, flush=True)
"#;

/// Rewrites a file of argv[3] bytes for ever, each time in one write.
const AT_ONCE: &str = r#"
root, size = sys.argv[1], int(sys.argv[3])
versions = [whole(1, v, size) for v in range(60)]
fd = os.open(f"{root}/at-once", os.O_WRONLY | os.O_CREAT, 0o644)
n = 0
while True:
    # Version 0 has none before it: it is written only once.
    os.pwrite(fd, versions[n if n < 60 else 1 + (n - 60) % 59], 0)
    n += 1
    print(n, flush=True)
"#;

/// Fills a directory that it empties when there is a lot in it.
const FILL: &str = r#"
root = sys.argv[1]
n = 0
while True:
    n += 1
    path = f"{root}/{n % 7}/{n:06}"
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(whole(n, 0, 2000))
    if n % 3000 == 0:
        for folder in range(7):
            os.rename(f"{root}/{folder}", f"{root}/{folder}.full")
            for name in os.listdir(f"{root}/{folder}.full"):
                os.unlink(f"{root}/{folder}.full/{name}")
            os.rmdir(f"{root}/{folder}.full")
    if n % 50 == 0:
        print(n, flush=True)
"#;

/// Prints the path of every file below argv[1] whose content never was in any file.
const CHECK: &str = r#"
for folder, _, names in os.walk(sys.argv[1]):
    for name in names:
        path = os.path.join(folder, name)
        if name != "rests" and not os.path.islink(path) and not was_real(open(path, "rb").read(), name):
            print(os.path.relpath(path, sys.argv[1]))
"#;

fn script(text: &str) -> String {
    format!("{CONTENT}{text}")
}

fn worker(script_text: &str, folder: &Path, seed: u64, more: &[&str]) -> Worker {
    println!("seed {seed}");
    let mut command = Command::new("python3");
    Worker::start(command.args(["-c", &script(script_text)]).arg(folder).arg(seed.to_string()).args(more))
}

/// What a snapshot says of paths that were not at rest: why, by path.
fn named(snapshot: &Done) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for line in snapshot.warnings() {
        let (kind, rest) = line.split_once(": ").unwrap_or_else(|| panic!("{line}"));
        assert!(["not captured", "captured while changing", "note"].contains(&kind), "{line}");
        found.insert(rest.split(": ").next().unwrap().to_owned(), kind.to_owned());
    }
    found
}

/// Exit code, status and names agree; the code is 0 or 3, whatever happens in the tree.
#[track_caller]
fn assert_honest_end(snapshot: &Done) -> BTreeMap<String, String> {
    let named = named(snapshot);
    let is_complete = named.values().all(|kind| kind == "note");
    assert_eq!(snapshot.code, if is_complete { 0 } else { 3 }, "{}\n{}", snapshot.stdout, snapshot.stderr);
    assert_eq!(snapshot.text("status"), if is_complete { "complete" } else { "incomplete" });
    named
}

/// Files that are always there are captured, whatever becomes of them.
#[track_caller]
fn assert_all_captured(named: &BTreeMap<String, String>) {
    assert!(named.values().all(|kind| kind != "not captured"), "{named:?}");
}

/// Restores into a new folder.
fn restored(bench: &Bench, snapshot: &Done) -> PathBuf {
    let to = bench.dir.join(format!("restored-{}", snapshot.id()));
    let code = if snapshot.code == 0 { 0 } else { 3 };
    bench.restore(&to, ["--snapshot", snapshot.id()]).ended(code);
    to
}

/// Every file below `folder` is as it really was, or is named in the result of the snapshot.
#[track_caller]
fn assert_no_silent_mix(restored: &Path, folder: &str, named: &BTreeMap<String, String>) {
    for path in python(&script(CHECK), &[&restored.join(folder)]).lines() {
        let said = named.get(&format!("{folder}/{path}"));
        assert_eq!(said.map(String::as_str), Some("captured while changing"), "{folder}/{path} never was like this");
    }
}

/// A tree of many kinds of files at rest, before and behind the one that changes.
fn at_rest(bench: &Bench) {
    for part in ["a-rests", "z-rests"] {
        for i in 0..120_u64 {
            let size = [0, 10, 900, 7000][usize::try_from(i % 4).unwrap()];
            bench.dir.write(format!("tree/{part}/{}/{i:03}", i % 20), noise(size, i));
        }
        bench.dir.write(format!("tree/{part}/large"), noise(3 << 20, 7));
        let at = bench.tree.join(part);
        std::fs::hard_link(at.join("large"), at.join("1/also large")).unwrap();
        std::os::unix::fs::symlink("../large", at.join("2/link")).unwrap();
        rustix::fs::setxattr(at.join("3"), "user.note", b"kept", rustix::fs::XattrFlags::empty()).unwrap();
        std::fs::File::create(at.join("sparse")).unwrap().set_len(5 << 20).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, at.join("pipe"), 0o640.into()).unwrap();
    }
    std::fs::create_dir_all(bench.tree.join("m-flux/keep")).unwrap();
    bench.dir.write("tree/m-flux/keep/rests", noise(9000, 3));
}

fn is_in_flux(path: &[u8]) -> bool {
    path.starts_with(b"m-flux")
}

#[test]
fn what_rests_is_exact_and_what_changes_is_real_or_named() {
    let seed = u64::from(SystemTime::UNIX_EPOCH.elapsed().unwrap().subsec_nanos());
    let bench = Bench::new();
    at_rest(&bench);
    rest();
    let before = Tree::read(&bench.tree).without(is_in_flux);
    let flux = bench.tree.join("m-flux");
    let mut worker = worker(CHANGE, &flux, seed, &[]);
    let mut taken: Vec<(Done, BTreeMap<String, String>)> = Vec::new();
    while taken.len() < 4 || taken.iter().all(|(snapshot, _)| snapshot.code == 0) {
        assert!(taken.len() < ROUNDS, "no change was met in {ROUNDS} snapshots");
        let step = worker.wait_past(worker.last() + 20);
        let snapshot = bench.snapshot([""; 0]);
        let changes = worker.last() - step;
        println!("{changes} rounds of changes during the snapshot");
        assert!(changes > 0, "nothing changed during the snapshot");
        let named = assert_honest_end(&snapshot);
        taken.push((snapshot, named));
    }
    drop(worker);

    let mut missing = 0;
    for (snapshot, named) in &taken {
        println!("named: {named:?}");
        let to = restored(&bench, snapshot);
        assert_equal(&before, &Tree::read(&to).without(is_in_flux));
        assert_eq!(std::fs::read(to.join("m-flux/keep/rests")).unwrap(), noise(9000, 3));
        assert_no_silent_mix(&to, "m-flux", named);
        // What was never away is there, or is named.
        for n in 0..25 {
            let path = format!("m-flux/keep/{n:02}");
            let is_missing = named.get(&path).is_some_and(|kind| kind == "not captured");
            assert!(to.join(&path).is_file() != is_missing, "{path}: {named:?}");
            missing += usize::from(is_missing);
        }
        for link in std::fs::read_dir(to.join("m-flux/links")).unwrap() {
            let target = std::fs::read_link(link.unwrap().path()).unwrap();
            assert!(target.to_str().unwrap().starts_with("target-"), "{target:?}");
        }
        std::fs::remove_dir_all(to).unwrap();
    }
    println!("{missing} of {} files that were never away are missing", 25 * taken.len());
    assert!(missing <= taken.len(), "to name a file is no way out of capturing it");
    // Nothing of the commotion is remembered: at once, and when all is at rest.
    let next = bench.take();
    assert_same_tree(&bench.tree, &bench.restored(&next));
    rest();
    bench.take();
    let last = bench.take();
    assert_eq!(last.number("bytes_read"), 0);
    assert_same_tree(&bench.tree, &bench.restored(&last));
}

#[test]
fn a_directory_that_is_being_filled_is_captured_as_far_as_it_got() {
    let bench = Bench::new();
    at_rest(&bench);
    let before = Tree::read(&bench.tree).without(is_in_flux);
    let mut filler = worker(FILL, &bench.tree.join("m-flux"), 0, &[]);
    for _ in 0..3 {
        let there = filler.wait_past(filler.last());
        let snapshot = bench.snapshot([""; 0]);
        let named = assert_honest_end(&snapshot);
        assert!(filler.last() > there, "nothing came during the snapshot");
        let to = restored(&bench, &snapshot);
        assert_equal(&before, &Tree::read(&to).without(is_in_flux));
        assert_no_silent_mix(&to, "m-flux", &named);
    }
    drop(filler);
    assert_same_tree(&bench.tree, &bench.restored(&bench.take()));
}

/// One change after the other within one tick of the clock that files are stamped with: neither size nor times show it.
#[test]
fn a_file_that_changes_faster_than_its_times_is_real_or_named() {
    let bench = Bench::new();
    let _coarse = Mounted::coarse(&bench.tree);
    bench.dir.write("tree/hot/rests", "rests");
    bench.dir.write("tree/quiet/rests", noise(5000, 1));
    rest();
    let hot = bench.tree.join("hot");
    let mut writer = worker(COUNT, &hot, 0, &["500000"; 16]);
    let (mut rounds, mut met) = (0, 0);
    while rounds < 5 || met == 0 {
        assert!(rounds < ROUNDS, "no change was met in {rounds} snapshots");
        rounds += 1;
        writer.wait_past(writer.last());
        // Each read takes a little longer, so that it meets changes.
        let slow = traced(&bench.snapshot_command([""; 0]), &bench.dir.join("trace"), &["-e", "trace=read"]);
        let snapshot = run(slow);
        let named = assert_honest_end(&snapshot);
        println!("named: {named:?}");
        met += usize::from(snapshot.code == 3);
        assert_all_captured(&named);
        let to = restored(&bench, &snapshot);
        assert_no_silent_mix(&to, "hot", &named);
        assert_same_tree(&bench.tree.join("quiet"), &to.join("quiet"));
    }
    drop(writer);
    assert_same_tree(&bench.tree, &bench.restored(&bench.take()));
}

/// A single write takes a while, and its time is that of its beginning.
#[test]
fn a_file_that_is_written_in_one_long_write_is_real_or_named() {
    let bench = Bench::new();
    bench.dir.write("tree/hot/rests", "rests");
    rest();
    let mut writer = worker(AT_ONCE, &bench.tree.join("hot"), 0, &["4000000"]);
    let (mut rounds, mut met) = (0, 0);
    while rounds < 6 || met == 0 {
        assert!(rounds < ROUNDS, "no change was met in {rounds} snapshots");
        rounds += 1;
        writer.wait_past(writer.last());
        let snapshot = bench.snapshot([""; 0]);
        let named = assert_honest_end(&snapshot);
        println!("named: {named:?}");
        met += usize::from(snapshot.code == 3);
        assert_all_captured(&named);
        assert_no_silent_mix(&restored(&bench, &snapshot), "hot", &named);
    }
    drop(writer);
    assert_same_tree(&bench.tree, &bench.restored(&bench.take()));
}
