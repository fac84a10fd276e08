//! What the state of earlier runs saves, and that losing it costs nothing but time.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking, in its helpers too"
)]

mod support;

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::Command;

use age::secrecy::ExposeSecret as _;
use serde_json::Value;
use support::opsctl::{Bench, Done, Guarded, noise, rest, run, stat_of, traced};
use support::tree::assert_same_tree;

const MIB: usize = 1 << 20;

/// A tree with 12 MiB in it that do not compress, at rest.
fn bench() -> Bench {
    let bench = Bench::new();
    bench.dir.write("tree/big.bin", noise(8 * MIB, 1));
    for i in 0..8 {
        bench.dir.write(format!("tree/dir/small-{i}"), noise(MIB / 2, 10 + i));
    }
    rest();
    bench
}

const ALL: u64 = 12 * MIB as u64;

/// `seq` and predecessor of every receipt follow each other: no fork, no gap.
fn assert_one_chain(bench: &Bench) {
    let receipts = bench.receipts();
    let mut ids = bench.objects_in("snapshots/");
    ids.retain(|name| name.ends_with(".json"));
    for (i, receipt) in receipts.iter().enumerate() {
        assert_eq!(receipt["seq"], i + 1);
        match i.checked_sub(1).map(|before| &ids[before]) {
            None => assert_eq!(receipt["predecessor"], Value::Null),
            Some(before) => assert!(before.contains(receipt["predecessor"].as_str().unwrap()), "{receipt}"),
        }
    }
}

/// Everything was read, and the snapshot is as good as any.
fn assert_read_anew(bench: &Bench, snapshot: &Done) {
    assert_eq!(snapshot.number("bytes_read"), ALL, "{}", snapshot.stdout);
    assert_eq!(snapshot.number("unchanged"), 0, "{}", snapshot.stdout);
    assert_same_tree(&bench.tree, &bench.restored(snapshot));
    assert_one_chain(bench);
}

#[test]
fn unchanged_files_are_not_opened_unless_told() {
    let bench = bench();
    assert_eq!(bench.take().number("bytes_read"), ALL);
    bench.dir.write("tree/new.bin", "new");
    let log = bench.dir.join("trace");
    let opens = |args: &[&str]| {
        let done = run(traced(&bench.snapshot_command(args), &log, &["-e", "trace=open,openat,openat2"])).ok();
        (done, std::fs::read_to_string(&log).unwrap())
    };
    let (second, trace) = opens(&[]);
    assert!(trace.contains("\"new.bin\""), "the trace is blind:\n{trace}");
    assert!(!trace.contains("big.bin") && !trace.contains("small-"), "{trace}");
    assert_eq!(second.number("bytes_read"), 3);
    assert!(second.number("bytes_stored") < 20_000, "{}", second.stdout);

    let (third, trace) = opens(&["--rescan"]);
    assert!(trace.contains("big.bin") && trace.contains("small-7"), "{trace}");
    assert_eq!(third.number("bytes_read"), ALL + 3);
    assert!(third.number("bytes_stored") < 20_000, "{}", third.stdout);
    assert_same_tree(&bench.tree, &bench.restored(&third));
}

/// A file that was written just before it was read might have been written again in the same tick.
#[test]
fn a_file_that_had_no_rest_is_read_again() {
    let bench = Bench::new();
    bench.dir.write("tree/fresh", noise(MIB, 1));
    assert_eq!(bench.take().number("bytes_read"), MIB as u64);
    assert_eq!(bench.take().number("bytes_read"), MIB as u64);
}

#[test]
fn an_edit_that_keeps_size_and_mtime_is_noticed() {
    let bench = bench();
    let before = bench.take();
    let file = bench.tree.join("big.bin");
    let mtime = file.metadata().unwrap().modified().unwrap();
    let mut content = std::fs::read(&file).unwrap();
    content[4 * MIB] ^= 1;
    std::fs::write(&file, content).unwrap();
    std::fs::File::options().write(true).open(&file).unwrap().set_modified(mtime).unwrap();
    let after = bench.take();
    assert_eq!(after.number("bytes_read"), 8 * MIB as u64);
    assert_same_tree(&bench.tree, &bench.restored(&after));
    drop(before);
}

#[test]
fn renames_copies_and_appended_logs_cost_little() {
    let bench = bench();
    bench.take();
    std::fs::rename(bench.tree.join("dir"), bench.tree.join("renamed")).unwrap();
    std::fs::copy(bench.tree.join("big.bin"), bench.tree.join("copy.bin")).unwrap();
    let second = bench.take();
    assert!(second.number("bytes_stored") < 20_000, "{}", second.stdout);
    assert!(second.number("chunks_reused") >= 8, "{}", second.stdout);

    let mut log = std::fs::File::options().append(true).open(bench.tree.join("big.bin")).unwrap();
    log.write_all(&noise(1000, 77)).unwrap();
    let third = bench.take();
    // The last chunk is at most 4 MiB.
    assert!(third.number("bytes_stored") < (4 * MIB + MIB) as u64, "{}", third.stdout);
    assert!(third.number("bytes_stored") < third.number("bytes_read") / 2, "{}", third.stdout);
    assert_same_tree(&bench.tree, &bench.restored(&third));
}

/// Each generation takes over some names of a file and reads others.
#[test]
fn hard_links_hold_together_over_generations() {
    let bench = Bench::new();
    bench.dir.write("tree/a/first", "one file");
    std::fs::create_dir(bench.tree.join("z")).unwrap();
    std::fs::hard_link(bench.tree.join("a/first"), bench.tree.join("z/second")).unwrap();
    rest();
    assert_same_tree(&bench.tree, &bench.restored(&bench.take()));
    let second = bench.take();
    assert_eq!(second.number("bytes_read"), 0, "each name is recognised");
    assert_same_tree(&bench.tree, &bench.restored(&second));
    // Moves a name without any change to the inode, and puts another pair where it was.
    std::fs::rename(bench.tree.join("a"), bench.tree.join("b")).unwrap();
    bench.dir.write("tree/a/first", "another");
    std::fs::hard_link(bench.tree.join("a/first"), bench.tree.join("y")).unwrap();
    assert_same_tree(&bench.tree, &bench.restored(&bench.take()));
}

#[test]
fn commits_that_only_touch_the_wal_are_noticed() {
    const WRITER: &str = "
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute('pragma journal_mode=wal')
db.execute('pragma wal_autocheckpoint=0')
db.execute('create table t (n integer, filler text)')
db.execute('pragma wal_checkpoint(truncate)')
n = 0
for line in sys.stdin:
    db.execute('begin')
    for _ in range(int(line)):
        db.execute('insert into t values (?, ?)', (n, 'x' * 100))
        n += 1
    db.execute('commit')
    print('committed', flush=True)
";
    let bench = Bench::new();
    let file = bench.tree.join("app.db");
    let mut writer = Guarded::spawn(Command::new("python3").args(["-c", WRITER]).arg(&file));
    let mut input = writer.0.stdin.take().unwrap();
    let mut answers = BufReader::new(writer.0.stdout.take().unwrap());
    let mut commit = |rows: u32| {
        writeln!(input, "{rows}").unwrap();
        let mut line = String::new();
        answers.read_line(&mut line).unwrap();
        assert_eq!(line, "committed\n");
    };
    let rows = |snapshot: &Done| {
        let db = rusqlite::Connection::open(bench.restored(snapshot).join("app.db")).unwrap();
        let check: String = db.query_row("pragma integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(check, "ok");
        db.query_row("select count(*) from t", [], |row| row.get::<_, u32>(0)).unwrap()
    };
    commit(3);
    rest();
    let first = bench.take();
    assert_eq!(rows(&first), 3);
    let main = stat_of(&file);
    rest();
    let idle = bench.take();
    assert_eq!((idle.number("bytes_read"), rows(&idle)), (0, 3), "nothing was committed: {}", idle.stdout);
    commit(4);
    assert_eq!(stat_of(&file), main, "the commit must not touch the main file, or this test proves nothing");
    let second = bench.take();
    assert_eq!(rows(&second), 7);
    // The side files are in none of them.
    let restored = bench.dir.join(format!("restored-{}", second.id()));
    assert!(
        !restored.join("app.db-wal").exists() || std::fs::metadata(restored.join("app.db-wal")).unwrap().len() == 0
    );
}

#[test]
fn a_lost_state_costs_reading() {
    let bench = bench();
    bench.take();
    std::fs::remove_dir_all(&bench.state).unwrap();
    assert_read_anew(&bench, &bench.take());
}

#[test]
fn a_damaged_state_counts_as_lost() {
    type Damage = fn(&mut Vec<u8>);
    let kinds: [(&str, Damage); 6] = [
        ("another hash, well-formed", |bytes| {
            let at = bytes.windows(10).position(|w| w == b"\"sha256\":\"").unwrap() + 10;
            bytes[at] = if bytes[at] == b'0' { b'1' } else { b'0' };
        }),
        ("cut between lines", |bytes| {
            let lines: Vec<_> = bytes.split_inclusive(|b| *b == b'\n').collect();
            *bytes = lines[..lines.len() - 1].concat();
        }),
        ("flipped", |bytes| {
            let at = bytes.len() / 2;
            bytes[at] ^= 1;
        }),
        ("cut", |bytes| bytes.truncate(bytes.len() * 2 / 3)),
        ("garbage", |bytes| *bytes = noise(5000, 3)),
        ("empty", Vec::clear),
    ];
    let bench = bench();
    bench.take();
    for (kind, damage) in kinds {
        let tree = bench.state_file("tree");
        let mut bytes = std::fs::read(&tree).unwrap();
        damage(&mut bytes);
        std::fs::write(&tree, bytes).unwrap();
        println!("{kind}");
        assert_read_anew(&bench, &bench.take());
        // And the new state is good again.
        assert_eq!(bench.take().number("bytes_read"), 0);
    }
}

#[test]
fn new_recipients_get_everything_anew() {
    let bench = bench();
    let old = bench.take();
    let new = age::x25519::Identity::generate();
    let keys = |args: &[&str]| {
        let mut command = bench.command();
        command.args(["keys"]).args(args).arg("--signing-key").arg(&bench.key).arg("--json");
        run(command).ok()
    };
    keys(&["add-recipient", &new.to_public().to_string()]);
    let both = bench.take();
    assert!(both.number("bytes_stored") > ALL, "{}", both.stdout);
    keys(&["revoke", &bench.recipient]);
    let rotated = bench.take();
    assert!(rotated.number("bytes_stored") > ALL, "{}", rotated.stdout);
    assert!(bench.take().number("bytes_stored") < 20_000);

    let file = bench.dir.write("new.identity", new.to_string().expose_secret());
    let by_new = |snapshot: &Done, to: &str| {
        let to = bench.dir.join(to);
        let file = file.to_str().unwrap();
        let args = ["--identity", file, "--trusted-signer", &bench.signer, "--snapshot", snapshot.id()];
        (bench.restore(&to, args), to)
    };
    for (snapshot, name) in [(&both, "by-new-1"), (&rotated, "by-new-2")] {
        let (done, to) = by_new(snapshot, name);
        done.ok();
        assert_same_tree(&bench.tree, &to);
    }
    by_new(&old, "by-new-3").0.ended(12);
    // The old identity opens what was stored for it, and nothing after that.
    assert_same_tree(&bench.tree, &bench.restored(&old));
    bench.restore(&bench.dir.join("by-old"), ["--snapshot", rotated.id()]).ended(12);
}

#[test]
fn packs_that_vanished_from_the_store_are_stored_anew() {
    let bench = bench();
    bench.take();
    for pack in bench.objects_in("packs/") {
        std::fs::remove_file(bench.store.join(pack)).unwrap();
    }
    let second = bench.take();
    assert!(second.number("bytes_stored") > ALL, "{}", second.stdout);
    assert_same_tree(&bench.tree, &bench.restored(&second));

    // One pack of several: what it held and no more. The manifest is in a pack of its own.
    bench.dir.write("tree/late.bin", noise(3 * MIB, 40));
    rest();
    let before = bench.objects_in("packs/");
    bench.take();
    let new = bench.objects().into_iter().filter(|(name, _)| name.starts_with("packs/") && !before.contains(name));
    let (pack, size) = new.max_by_key(|(_, size)| *size).unwrap();
    assert!(size > 3 * MIB as u64, "the pack with the new file");
    std::fs::remove_file(bench.store.join(pack)).unwrap();
    let fourth = bench.take();
    assert_eq!(fourth.number("bytes_read"), 3 * MIB as u64, "{}", fourth.stdout);
    assert_same_tree(&bench.tree, &bench.restored(&fourth));
}

#[test]
fn a_restore_leaves_a_state_behind() {
    let bench = bench();
    let snapshot = bench.take();
    let to = bench.restored(&snapshot);
    let mut command = bench.snapshot_of(&to, [""; 0]);
    // Where a restored volume has it: in its own root.
    command.env_remove("OPSCTL_STATE_DIR");
    let next = run(command).ok();
    assert!(next.number("bytes_stored") < 20_000, "{}", next.stdout);
    assert_same_tree(&bench.tree, &bench.restored(&next));
    assert_one_chain(&bench);
}

/// The receipt is stored, and the process dies before its state follows.
#[test]
fn a_run_that_died_after_the_commit_is_adopted() {
    let bench = bench();
    bench.take();
    bench.dir.write("tree/more.bin", noise(2 * MIB, 50));
    rest();
    let next = bench.state_file("tree").with_file_name("tree.next");
    // The only thing that a run renames is the state that follows the commit.
    let kill = ["-e", "inject=rename,renameat,renameat2:error=EIO:signal=SIGKILL"];
    let mut dying = traced(&bench.snapshot_command([""; 0]), &bench.dir.join("trace"), &kill);
    let died = Guarded::spawn(&mut dying).end();
    assert_eq!(died.code, 128 + 9, "{}", died.stderr);
    assert_eq!(bench.receipts().len(), 2, "the receipt was stored before the state");
    assert!(next.exists() && next.with_file_name("receipt.next").exists(), "the state did not follow");

    let third = bench.take();
    assert_eq!(third.number("bytes_read"), 0, "the state of the dead run is used: {}", third.stdout);
    assert!(!next.exists() && !next.with_file_name("receipt.next").exists());
    assert_eq!(bench.receipts().len(), 3);
    assert_one_chain(&bench);
    assert_same_tree(&bench.tree, &bench.restored(&third));
}

/// The process dies when everything but the receipt is stored: nothing was committed, and nothing is stored twice.
#[test]
fn a_run_that_died_before_the_commit_is_dropped() {
    let bench = bench();
    bench.take();
    bench.dir.write("tree/more.bin", noise(2 * MIB, 50));
    rest();
    let receipt = bench.state_file("tree").with_file_name("receipt.next");
    let kill = ["-P", receipt.to_str().unwrap(), "-e", "inject=fsync:error=EIO:signal=SIGKILL"];
    let mut dying = traced(&bench.snapshot_command([""; 0]), &bench.dir.join("trace"), &kill);
    let died = Guarded::spawn(&mut dying).end();
    assert_eq!(died.code, 128 + 9, "{}", died.stderr);
    assert!(receipt.exists());
    assert_eq!(bench.receipts().len(), 1, "the receipt comes last");

    let second = bench.take();
    assert_eq!(second.number("bytes_read"), 2 * MIB as u64, "{}", second.stdout);
    assert!(second.number("bytes_stored") < 20_000, "the packs of the dead run are used: {}", second.stdout);
    assert_one_chain(&bench);
    assert_same_tree(&bench.tree, &bench.restored(&second));
    fn gone(path: &Path) -> bool {
        !path.exists()
    }
    assert!(gone(&receipt));
}
