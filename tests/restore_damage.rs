//! What damage costs a restore: what needs the damaged bytes, named, and nothing else.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod support;

use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;

use support::opsctl::{Bench, Done, noise, run};
use support::tree::assert_same_tree;

const MIB: usize = 1 << 20;
const NONE: [&str; 0] = [];

/// Flips a bit in the middle of an object; a second time makes it whole again.
fn flip(bench: &Bench, object: &str) {
    let file = bench.store.join(object);
    let mut bytes = std::fs::read(&file).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    std::fs::write(&file, &bytes).unwrap();
}

/// A tree with a file that is one pack's whole content, and the name of that pack.
fn with_own_pack(bench: &Bench, file: &str) -> (Done, String) {
    bench.dir.write("tree/common", noise(MIB, 1));
    bench.take();
    let before = bench.objects_in("packs/");
    bench.dir.write(format!("tree/{file}"), noise(3 * MIB, 2));
    let snapshot = bench.take();
    let mut new = bench.objects();
    new.retain(|(name, _)| name.starts_with("packs/") && !before.contains(name));
    (snapshot, new.into_iter().max_by_key(|(_, size)| *size).unwrap().0)
}

fn inode(path: &Path) -> u64 {
    path.symlink_metadata().unwrap().ino()
}

/// Runs a restore and ends it when it names a file, by an error of the call that does.
fn unfinished(bench: &Bench, to: &Path, pack: &str, args: &[&str]) {
    flip(bench, pack);
    bench.restore(to, args).ended(4);
    flip(bench, pack);
}

#[test]
fn every_name_of_a_lost_file_is_named_and_comes_back_later() {
    let bench = Bench::new();
    bench.dir.write("tree/apart", noise(MIB, 9));
    let (_, pack) = with_own_pack(&bench, "b-first");
    for name in ["c-second", "d-third"] {
        std::fs::hard_link(bench.tree.join("b-first"), bench.tree.join(name)).unwrap();
    }
    bench.take();
    let to = bench.dir.join("to");
    flip(&bench, &pack);
    for round in 0..2 {
        let error = bench.restore(&to, NONE).ended(4).error();
        for name in ["b-first", "c-second", "d-third", &pack] {
            assert!(error.contains(name), "{name} is not in {error}, round {round}");
        }
        assert!(!to.join("c-second").exists() && to.join("apart").exists());
    }
    flip(&bench, &pack);
    bench.restore(&to, NONE).ok();
    assert_same_tree(&bench.tree, &to);
    assert_eq!(inode(&to.join("b-first")), inode(&to.join("d-third")));
}

#[test]
fn a_torn_first_name_takes_its_siblings_along_and_not_the_restore() {
    let bench = Bench::new();
    bench.dir.write("tree/a", noise(MIB, 1));
    for name in ["b", "c"] {
        std::fs::hard_link(bench.tree.join("a"), bench.tree.join(name)).unwrap();
    }
    let (_, pack) = with_own_pack(&bench, "late");
    let to = bench.dir.join("to");
    unfinished(&bench, &to, &pack, &[]);
    assert_eq!(inode(&to.join("a")), inode(&to.join("c")));
    // What a power cut leaves: the names are there, the content is not.
    std::fs::write(to.join("a"), vec![0; MIB]).unwrap();
    std::fs::remove_file(to.join("b")).unwrap();
    bench.restore(&to, NONE).ok();
    assert_same_tree(&bench.tree, &to);
    assert_eq!(inode(&to.join("a")), inode(&to.join("c")));
}

#[test]
fn a_torn_file_whose_pack_is_gone_leaves_no_name_with_wrong_content() {
    let bench = Bench::new();
    let (_, pack) = with_own_pack(&bench, "first");
    std::fs::hard_link(bench.tree.join("first"), bench.tree.join("second")).unwrap();
    let before = bench.objects_in("packs/");
    bench.dir.write("tree/zlate", noise(3 * MIB, 7));
    bench.take();
    let mut late = bench.objects();
    late.retain(|(name, _)| name.starts_with("packs/") && !before.contains(name));
    let late = late.into_iter().max_by_key(|(_, size)| *size).unwrap().0;
    let to = bench.dir.join("to");
    unfinished(&bench, &to, &late, &[]);
    std::fs::write(to.join("first"), vec![0; 3 * MIB]).unwrap();
    flip(&bench, &pack);
    bench.restore(&to, NONE).ended(4);
    assert!(!to.join("first").exists() && !to.join("second").exists(), "both had the torn content");
    // Intact under its second name only: nothing of it is fetched.
    flip(&bench, &pack);
    std::fs::remove_file(to.join("zlate")).unwrap();
    unfinished(&bench, &to, &late, &[]);
    std::fs::remove_file(to.join("first")).unwrap();
    flip(&bench, &pack);
    let error = bench.restore(&to, NONE).ended(4).error();
    assert!(error.contains("\"first\"") && !error.contains("\"second\""), "{error}");
    assert_eq!(std::fs::read(to.join("second")).unwrap(), noise(3 * MIB, 2));
    flip(&bench, &pack);
    bench.restore(&to, NONE).ok();
    assert_same_tree(&bench.tree, &to);
}

#[test]
fn another_selection_does_not_go_on_with_an_unfinished_restore() {
    let bench = Bench::new();
    let (_, pack) = with_own_pack(&bench, "own/big");
    let to = bench.dir.join("to");
    unfinished(&bench, &to, &pack, &["--include", "own", "--include", "common"]);
    for other in [&[][..], &["--include", "own"], &["--include", "own", "--include", "common", "--exclude", "x"]] {
        let error = bench.restore(&to, other).ended(2).error();
        assert!(error.contains("--include 'common' --include 'own'"), "{error}");
    }
    let special = ["--include", "own", "--include", "common", "--allow-special"];
    assert!(!bench.restore(&to, special).ended(2).error().contains("--allow-special"));
    // The order says nothing.
    bench.restore(&to, ["--include", "common", "--include", "own"]).ok();
    assert_same_tree(&bench.tree, &to);
}

#[test]
fn a_damaged_leaf_of_the_manifest_costs_its_paths() {
    let bench = Bench::new();
    // Targets that hardly compress, so that the manifest fills a large pack with many frames.
    for dir in 0..12 {
        bench.dir.mkdir(format!("tree/d{dir:02}"));
        for link in 0..100 {
            let target: String = noise(1900, dir * 100 + link).iter().map(|b| format!("{b:02x}")).collect();
            symlink(target, bench.tree.join(format!("d{dir:02}/{link:02}"))).unwrap();
        }
        bench.dir.write(format!("tree/d{dir:02}/file"), "x");
    }
    bench.take();
    let size = |name: &String| bench.store.join(name).metadata().unwrap().len();
    let object = bench.objects_in("packs/").into_iter().max_by_key(size).unwrap();
    assert!(size(&object) > 2 * MIB as u64, "{}", size(&object));
    flip(&bench, &object);
    let to = bench.dir.join("to");
    let plan = bench.restore(&to, ["--dry-run"]).ok();
    plan.warning("every path from");
    let error = bench.restore(&to, NONE).ended(4).error();
    assert!(error.contains("every path from \"d0"), "{error}");
    let links = |dir: &str| std::fs::read_dir(to.join(dir)).map_or(0, Iterator::count);
    assert_eq!((links("d00"), links("d11")), (101, 101), "what lies before and after the damage is there");
    // Who compares or lists gets no part of it for the whole.
    let mut ls = bench.command();
    ls.arg("ls").arg("latest").env("OPSCTL_IDENTITY_FILE", &bench.identity);
    run(ls).ended(4);
    flip(&bench, &object);
    bench.restore(&to, NONE).ok();
    assert_same_tree(&bench.tree, &to);
}

#[test]
fn seeding_never_fails_a_restore_and_never_replaces_a_state() {
    let bench = Bench::new();
    bench.dir.write("tree/file", noise(MIB, 1));
    bench.take();
    let tree = std::fs::read(bench.state_file("tree")).unwrap();
    let into_live = |to: &str| {
        let mut command = bench.restore_command(&bench.dir.join(to), NONE);
        command.env("OPSCTL_STATE_DIR", &bench.state);
        command
    };
    let done = run(into_live("one")).ok();
    assert_eq!(done.stderr.matches("will read everything").count(), 1, "{}", done.stderr);
    assert_eq!(std::fs::read(bench.state_file("tree")).unwrap(), tree, "the live state is as it was");
    // Somebody works with it.
    let lock = std::fs::File::open(bench.state.join("lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let done = run(into_live("two")).ok();
    assert!(done.stderr.contains("another opsctl"), "{}", done.stderr);
    // A place where nothing can be written.
    let mut nowhere = bench.restore_command(&bench.dir.join("three"), NONE);
    nowhere.env("OPSCTL_STATE_DIR", "/proc/nothing");
    run(nowhere).ok();
    for to in ["one", "two", "three"] {
        assert_same_tree(&bench.tree, &bench.dir.join(to));
    }
}

/// The tree of the next snapshot lies beside what is restored until that is whole.
#[test]
fn a_tree_that_cannot_be_written_is_named_by_where_it_lies() {
    let bench = Bench::new();
    for n in 0..40 {
        bench.dir.write(format!("tree/a name of some length {n}"), "x");
    }
    bench.take();
    let to = bench.dir.join("to");
    let restore = bench.restore_command(&to, NONE);
    // Small files can be written, and a large one fails as on a full disk.
    let mut limited = std::process::Command::new("sh");
    limited.args(["-c", "trap '' XFSZ; ulimit -f 8; exec \"$@\"", "sh"]).arg(restore.get_program());
    limited.args(restore.get_args()).env_clear().envs(support::clean_env());
    limited.envs(restore.get_envs().filter_map(|(name, value)| Some((name, value?))));
    limited.env("OPSCTL_STATE_DIR", bench.dir.join("new state"));
    let done = run(limited).ok();
    let staged = to.join(".opsctl");
    assert!(done.stderr.contains(&format!("cannot write {}", staged.display())), "{}", done.stderr);
    assert!(!done.stderr.contains("new state"), "{}", done.stderr);
    assert_same_tree(&bench.tree, &to);
}

#[test]
fn the_snapshot_after_a_restore_reads_nothing_again() {
    let bench = Bench::new();
    bench.dir.write("tree/file", noise(3 * MIB, 1));
    bench.dir.write("tree/other", noise(MIB, 2));
    support::opsctl::rest();
    let first = bench.take();
    let to = bench.restored(&first);
    let mut again = bench.snapshot_of(&to, NONE);
    again.env_remove("OPSCTL_STATE_DIR");
    let done = run(again).ok();
    assert_eq!(done.number("bytes_read"), 0, "{}", done.stdout);
    // What is written right after it is seen.
    std::fs::write(to.join("other"), noise(MIB, 3)).unwrap();
    let mut again = bench.snapshot_of(&to, NONE);
    again.env_remove("OPSCTL_STATE_DIR");
    assert_eq!(run(again).ok().number("bytes_read"), MIB as u64);
}

#[test]
fn a_lock_file_alone_does_not_keep_a_restore_out() {
    let bench = Bench::new();
    bench.dir.write("tree/file", "x");
    bench.take();
    // Only a lock file of ours: as good as empty.
    bench.dir.write("to/.opsctl/lock", "");
    bench.restore(&bench.dir.join("to"), NONE).ok();
    assert_same_tree(&bench.tree, &bench.dir.join("to"));
}

#[test]
fn a_damaged_extent_list_costs_its_file() {
    let bench = Bench::new();
    bench.dir.write("tree/apart", noise(MIB, 1));
    bench.take();
    let before = bench.objects_in("packs/");
    // So many chunks that their list is stored on its own, beside the manifest and not in it.
    bench.dir.write("tree/many", noise(400 * MIB, 2));
    bench.dir.write("tree/zlast", "z");
    bench.take();
    let mut new = bench.objects();
    new.retain(|(name, size)| name.starts_with("packs/") && !before.contains(name) && *size < MIB as u64);
    let mut found = 0;
    for (object, _) in &new {
        let to = bench.dir.join(object.replace('/', "-"));
        flip(&bench, object);
        let done = bench.restore(&to, NONE).ended(4);
        flip(&bench, object);
        // The others hold the manifest.
        if done.says("reading the extents of") {
            found += 1;
            assert!(done.error().contains("many"), "{}", done.stdout);
            assert_eq!(std::fs::read(to.join("zlast")).unwrap(), b"z");
            assert!(to.join("apart").exists() && !to.join("many").exists());
            bench.restore(&to, NONE).ok();
            assert_same_tree(&bench.tree, &to);
        }
    }
    assert_eq!(found, 1, "{new:?}");
}

#[test]
fn a_flipped_bit_in_a_pack_costs_what_it_hits() {
    let bench = Bench::new();
    for file in 0..8 {
        bench.dir.write(format!("tree/{file}"), noise(2 * MIB, file));
    }
    bench.take();
    let size = |name: &String| bench.store.join(name).metadata().unwrap().len();
    let pack = bench.objects_in("packs/").into_iter().max_by_key(size).unwrap();
    flip(&bench, &pack);
    let to = bench.dir.join("to");
    assert!(bench.restore(&to, NONE).ended(4).error().contains(&pack));
    let intact = (0..8).filter(|file| to.join(file.to_string()).exists()).count();
    // A frame may hold the end of one file and the beginning of the next.
    assert!((6..8).contains(&intact), "{intact} of 8");
    flip(&bench, &pack);
    bench.restore(&to, NONE).ok();
    assert_same_tree(&bench.tree, &to);
}
