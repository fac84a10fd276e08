//! Restores in place where the file system lets two files share their blocks: XFS, in an image that is mounted here.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod support;

#[path = "support/incident.rs"]
mod incident;
#[path = "support/terminal.rs"]
mod terminal;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::PathBuf;
use std::process::Command;

use incident::{in_place, rollback};
use support::opsctl::{Bench, Mounted, noise, rest, run, traced};
use support::tree::{Tree, assert_equal};
use terminal::Terminal;

const MIB: u64 = 1 << 20;
const FILES: u64 = 24;
/// Smaller ones mkfs.xfs does not make.
const IMAGE: u64 = 300 * MIB;

/// A tree on XFS, 48 MiB in all, and a snapshot of it.
struct Volume {
    // Unmounted before the folder of the bench is removed.
    _mounted: Mounted,
    tree: PathBuf,
    bench: Bench,
    snapshot: String,
    good: Tree,
}

impl Volume {
    fn new() -> Self {
        let bench = Bench::new();
        let image = bench.dir.join("image");
        File::create(&image).unwrap().set_len(IMAGE).unwrap();
        let made = Command::new("mkfs.xfs").args(["-q", "-m", "reflink=1"]).arg(&image).status();
        assert!(made.expect("mkfs.xfs is there: run `make tools`").success());
        let at = bench.dir.mkdir("volume");
        let mounted = Mounted::image(&image, "noatime", &at);
        let tree = at;
        for number in 0..FILES {
            fs::write(tree.join(format!("file-{number}")), noise(2 << 20, number)).unwrap();
        }
        fs::write(tree.join("empty"), "").unwrap();
        let snapshot = run(bench.snapshot_of(&tree, ["--no-progress"])).ok().id().to_owned();
        let good = Tree::read(&tree);
        Self { _mounted: mounted, tree, bench, snapshot, good }
    }

    /// Bytes in use on the file system, when all is on the disk.
    fn used(&self) -> u64 {
        rustix::fs::syncfs(File::open(&self.tree).unwrap()).unwrap();
        let found = rustix::fs::statvfs(&self.tree).unwrap();
        (found.f_blocks - found.f_bfree) * found.f_frsize
    }

    /// The same length, other bytes, and the old time of modification.
    fn change_in_secret(&self, name: &str) {
        let file = File::options().write(true).open(self.tree.join(name)).unwrap();
        let before = file.metadata().unwrap().modified().unwrap();
        file.write_all_at(b"changed", 1_000_000).unwrap();
        file.set_modified(before).unwrap();
    }
}

#[test]
fn what_is_right_already_shares_its_blocks_and_nothing_else() {
    let it = Volume::new();
    fs::write(it.tree.join("file-0"), "lost").unwrap();
    rest();
    let bad = Tree::read(&it.tree);
    let plan = run(in_place(&it.bench, &it.tree, ["--dry-run"])).ok();
    assert_eq!(plan.json["in_place"]["clones"], true, "{}", plan.stdout);
    let before = it.used();
    let done = run(in_place(&it.bench, &it.tree, ["--yes"])).ok();
    assert_equal(&it.good, &Tree::read(&it.tree));
    assert_eq!(done.number("bytes_reused"), (FILES - 1) * 2 * MIB);
    assert!(done.number("files_cloned") > 0, "{}", done.stdout);
    let more = it.used() - before;
    assert!(more < 6 * MIB, "one file of 2 MiB was fetched, the other 46 MiB take no further space: {more}");

    // A write to the live file is not seen in the kept one.
    let kept = incident::folders(&it.tree, "previous-").remove(0).join("file-1");
    assert_ne!(fs::metadata(&kept).unwrap().ino(), fs::metadata(it.tree.join("file-1")).unwrap().ino());
    it.change_in_secret("file-1");
    run(rollback(&it.bench, &it.tree, ["--yes"])).ok();
    assert_equal(&bad, &Tree::read(&it.tree));
}

#[test]
fn a_file_that_changes_after_the_plan_is_not_taken_for_what_it_was() {
    let it = Volume::new();
    fs::remove_file(it.tree.join("file-0")).unwrap();
    rest();
    let mut command = it.bench.command();
    command.arg("restore").arg(&it.tree);
    command.env("OPSCTL_IDENTITY_FILE", &it.bench.identity).env("OPSCTL_STATE_DIR", &it.bench.state);
    let mut terminal = Terminal::start(&command);
    terminal.wait_for("[y/N] ");
    it.change_in_secret("file-1");
    terminal.types("y\n");
    let (code, screen) = terminal.end();
    assert_eq!(code, 0, "{screen}");
    assert_equal(&it.good, &Tree::read(&it.tree));
}

// ---- space ----

impl Volume {
    /// A snapshot of as many files of the same names, with nothing in common.
    fn another_snapshot(&self) -> String {
        let other = self.bench.dir.mkdir("other");
        for number in 0..FILES {
            fs::write(other.join(format!("file-{number}")), noise(2 << 20, 1000 + number)).unwrap();
        }
        run(self.bench.snapshot_of(&other, ["--no-progress"])).ok().id().to_owned()
    }

    /// Takes all space but so much, with a file that is not ours to replace.
    fn fill_but(&self, left: u64) {
        let found = rustix::fs::statvfs(&self.tree).unwrap();
        let free = found.f_bavail * found.f_frsize;
        let file = File::create(self.tree.join("filler")).unwrap();
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, free - left).unwrap();
    }

    fn kept(&self) -> Vec<PathBuf> {
        incident::folders(&self.tree, "previous-")
    }
}

#[test]
fn a_kept_tree_is_not_deleted_for_room_that_it_does_not_give() {
    let it = Volume::new();
    let other = it.another_snapshot();
    fs::write(it.tree.join("file-0"), "lost").unwrap();
    rest();
    run(in_place(&it.bench, &it.tree, ["--yes", "--snapshot", &it.snapshot])).ok();
    // 46 MiB of what is kept are blocks of the live tree too.
    it.fill_but(20 * MIB);
    let args = ["--yes", "--exclude", "filler", "--discard-previous", "--snapshot", &other];
    let done = run(in_place(&it.bench, &it.tree, args)).ended(14);
    assert_eq!(it.kept().len(), 1, "it is still there: {}", done.error());
    run(rollback(&it.bench, &it.tree, ["--yes"])).ok();
    assert_eq!(fs::read_to_string(it.tree.join("file-0")).unwrap(), "lost");
}

#[test]
fn the_room_that_a_kept_tree_gives_is_waited_for() {
    let it = Volume::new();
    let other = it.another_snapshot();
    let names = |number: u64| it.tree.join(format!("file-{number}"));
    for number in 0..FILES {
        fs::write(names(number), noise(2 << 20, 2000 + number)).unwrap();
    }
    run(in_place(&it.bench, &it.tree, ["--yes", "--snapshot", &it.snapshot])).ok();
    it.fill_but(20 * MIB);
    let args = ["--yes", "--exclude", "filler", "--discard-previous", "--snapshot", &other];
    run(in_place(&it.bench, &it.tree, args)).ok();
    assert_eq!(fs::read(names(1)).unwrap(), noise(2 << 20, 1001));
}

#[test]
fn file_by_file_does_not_count_on_blocks_that_the_kept_tree_shares() {
    let it = Volume::new();
    fs::write(it.tree.join("file-0"), "lost").unwrap();
    rest();
    run(in_place(&it.bench, &it.tree, ["--yes"])).ok();
    // A block of each is its own, and all others would stay taken.
    (0..FILES).for_each(|number| it.change_in_secret(&format!("file-{number}")));
    it.fill_but(20 * MIB);
    let before = Tree::read(&it.tree);
    run(in_place(&it.bench, &it.tree, ["--yes", "--exclude", "filler", "--in-place"])).ended(14);
    assert_equal(&before, &Tree::read(&it.tree));
}

// ---- files that cannot be cloned ----

#[test]
fn a_file_that_cannot_be_cloned_is_copied_and_the_others_are_not() {
    let it = Volume::new();
    // The call of this number of each thread is refused. The first are of the plan; which thread clones how many files nobody knows.
    for call in [20, 15, 10, 5, 2] {
        fs::write(it.tree.join("file-0"), "lost").unwrap();
        rest();
        let (log, inject) = (it.bench.dir.join("strace"), format!("inject=ioctl:error=EINVAL:when={call}"));
        let options = ["-e", "trace=ioctl", "-e", &inject];
        let done = run(traced(&in_place(&it.bench, &it.tree, ["--yes"]), &log, &options)).ok();
        assert_equal(&it.good, &Tree::read(&it.tree));
        let text = fs::read_to_string(&log).unwrap();
        let refused =
            text.lines().filter(|line| line.contains("FICLONE") && line.contains("(INJECTED)")).count() as u64;
        let cloned = done.number("files_cloned");
        assert!(cloned + refused >= FILES - 1, "{refused} were refused, and of the others {cloned} cloned");
        if cloned < FILES - 1 {
            return;
        }
    }
    panic!("no clone of a file was refused");
}

#[test]
fn the_plan_does_not_judge_by_one_file_whether_there_are_clones() {
    let it = Volume::new();
    for call in 1..12 {
        let inject = format!("inject=ioctl:error=EINVAL:when={call}");
        let options = ["-e", "trace=ioctl", "-e", &inject];
        let command = in_place(&it.bench, &it.tree, ["--dry-run"]);
        let plan = run(traced(&command, &it.bench.dir.join("strace"), &options)).ok();
        assert_eq!(plan.json["in_place"]["clones"], true, "call {call}: {}", plan.stdout);
    }
}
