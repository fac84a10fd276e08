//! `opsctl snapshot` as a scheduler sees it: exit codes, the document, what is left out, and how it stops.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod support;

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use age::secrecy::ExposeSecret as _;
use opsctl::archive::hash::Hash;
use opsctl::archive::keys::Keys;
use opsctl::archive::layout;
use opsctl::archive::signature::SigningKey;
use rustix::fs::{CWD, FileType, FlockOperation, Mode, flock, makedev, mknodat};
use rustix::process::Signal;
use support::opsctl::{Bench, Done, Guarded, Mounted, chmod, files_below, noise, rest, run, traced, url};
use support::tree::{Kind, Tree, assert_same_tree};
use support::{signal, wait_for};

const MIB: usize = 1 << 20;
const NONE: [&str; 0] = [];

fn nothing_stored(bench: &Bench) {
    assert_eq!(bench.objects_in("snapshots/"), Vec::<String>::new());
    assert_eq!(bench.objects_in("packs/"), Vec::<String>::new());
}

// ---- the document ----

#[test]
fn the_document_has_what_scripts_rely_on() {
    let bench = Bench::new();
    bench.dir.write("tree/a", noise(5000, 1));
    bench.dir.write("tree/b", noise(5000, 1));
    rest();
    let first = bench.take();
    let document = first.json.as_object().unwrap();
    assert!(bench.objects_in("snapshots/").contains(&format!("snapshots/default/{}.json", first.id())));
    assert_eq!(document["status"], "complete");
    assert_eq!((first.number("files"), first.number("bytes_read")), (2, 10_000));
    assert!(first.number("bytes_stored") > 5000 && first.number("bytes_stored") < 10_000, "one content, stored once");
    assert_eq!(first.number("chunks_reused"), 1);
    assert!(document["duration_seconds"].as_f64().unwrap() > 0.0);
    assert_eq!(first.warnings(), Vec::<String>::new());
    let second = bench.take();
    assert_eq!((second.number("files"), second.number("bytes_read")), (2, 0));
    assert_ne!(first.id(), second.id());
}

#[test]
fn people_get_text_and_no_document() {
    let bench = Bench::new();
    let mut command = bench.command();
    command.arg("snapshot").arg(&bench.tree).arg("--signing-key").arg(&bench.key).arg("--state-dir").arg(&bench.state);
    let done = run(command).ok();
    assert!(done.json.is_null() && done.stdout.starts_with("snapshot 2"), "{}", done.stdout);
}

#[test]
fn tags_stand_in_the_receipt() {
    let bench = Bench::new();
    bench.snapshot(["--tag", "reason=before upgrade", "--tag", "n="]).ok();
    let tags = bench.receipts()[0]["tags"].clone();
    assert_eq!(tags, serde_json::json!({"reason": "before upgrade", "n": ""}));
    for bad in [&["--tag", "no-value"][..], &["--tag", "=x"], &["--tag", "a=1", "--tag", "a=2"]] {
        bench.snapshot(bad).ended(2);
    }
    assert_eq!(bench.receipts().len(), 1);
}

// ---- what is wrong before anything begins ----

#[test]
fn without_a_signing_key_or_a_store_it_is_a_usage_error() {
    let bench = Bench::new();
    let mut command = bench.snapshot_command(NONE);
    command.env_remove("OPSCTL_SIGNING_KEY_FILE");
    assert!(run(command).ended(2).error().contains("signing key"));
    let mut command = bench.snapshot_command(NONE);
    command.env_remove("OPSCTL_STORE");
    assert!(run(command).ended(2).error().contains("--store"));
    nothing_stored(&bench);
}

#[test]
fn a_folder_that_is_no_store_is_not_found() {
    let bench = Bench::new();
    let empty = bench.dir.mkdir("empty");
    for store in [empty, bench.dir.join("missing")] {
        bench.snapshot(["--store", &url(&store)]).ended(10);
        assert_eq!(files_below(&store), Vec::<std::path::PathBuf>::new(), "nothing is written there");
    }
}

#[test]
fn a_missing_folder_is_not_found() {
    let bench = Bench::new();
    let done = run(bench.snapshot_of(&bench.dir.join("gone"), NONE)).ended(10);
    assert!(done.error().contains("gone"));
    // Nor is it made, where the state would lie in it: a volume that is not mounted is no empty one.
    let mut command = bench.snapshot_of(&bench.dir.join("gone"), NONE);
    command.env_remove("OPSCTL_STATE_DIR");
    run(command).ended(10);
    assert!(!bench.dir.join("gone").exists());
    nothing_stored(&bench);
}

// ---- files that cannot be captured as they should ----

#[test]
fn an_unreadable_file_is_named_and_the_rest_is_stored() {
    let bench = Bench::new();
    bench.dir.write("tree/good", "good");
    chmod(&bench.dir.write("tree/dir/locked", "secret"), 0);
    bench.dir.write("tree/closed/inside", "x");
    let user = bench.unprivileged();
    chmod(&bench.tree.join("closed"), 0);
    let done = run(user.command(&bench.snapshot_command(NONE))).ended(3);
    assert_eq!(done.text("status"), "incomplete");
    done.warning("dir/locked");
    done.warning("closed");
    assert!(done.stderr.contains("dir/locked"), "people are told too: {}", done.stderr);
    assert_eq!(bench.receipts()[0]["counts"]["unreadable"], 2);

    let to = bench.dir.join("to");
    let restored = bench.restore(&to, NONE).ended(3);
    restored.warning("dir/locked");
    assert_eq!(std::fs::read(to.join("good")).unwrap(), b"good");
    assert!(!to.join("dir/locked").exists());
}

#[test]
fn a_file_that_keeps_changing_is_stored_and_named() {
    let bench = Bench::new();
    bench.dir.write("tree/still", "still");
    let busy = bench.dir.write("tree/busy", noise(32 * MIB, 1));
    let over = AtomicBool::new(false);
    let done = std::thread::scope(|scope| {
        scope.spawn(|| {
            let file = File::options().write(true).open(&busy).unwrap();
            let mut turn = 0_u64;
            while !over.load(Ordering::Relaxed) {
                turn += 1;
                file.write_all_at(&turn.to_le_bytes(), 0).unwrap();
            }
        });
        let done = bench.snapshot(NONE);
        over.store(true, Ordering::Relaxed);
        done.ended(3)
    });
    assert_eq!(done.text("status"), "incomplete");
    assert!(done.warning("busy").contains("changing"));
    assert_eq!(bench.receipts()[0]["counts"]["changed"], 1);
    let to = bench.dir.join("to");
    bench.restore(&to, NONE).ended(3).warning("busy");
    assert_eq!(std::fs::read(to.join("busy")).unwrap()[8..], noise(32 * MIB, 1)[8..]);
    // At rest again: read once more, and complete.
    rest();
    assert_eq!(bench.take().number("bytes_read"), 32 * MIB as u64 + 5);
}

/// Gone between the listing and the reading; the trace makes the moment certain.
#[test]
fn a_vanished_file_is_a_note() {
    let bench = Bench::new();
    bench.dir.write("tree/gone", "x");
    bench.dir.write("tree/here", "y");
    let gone = ["-P", "gone", "-e", "inject=openat:error=ENOENT"];
    let done = run(traced(&bench.snapshot_command(NONE), &bench.dir.join("trace"), &gone)).ok();
    assert!(done.warning("gone").starts_with("note"), "{}", done.stdout);
    assert_eq!((done.text("status"), done.number("files")), ("complete", 1));
    assert_eq!(bench.receipts()[0]["counts"]["vanished"], 1);
}

/// The disk gives an error in the middle of a file.
#[test]
fn a_file_that_cannot_be_read_to_its_end_is_missing() {
    let bench = Bench::new();
    let bad = bench.dir.write("tree/bad", noise(2 * MIB, 3));
    bench.dir.write("tree/good", "y");
    let fail = ["-P", bad.to_str().unwrap(), "-e", "inject=read,pread64:error=EIO"];
    let done = run(traced(&bench.snapshot_command(NONE), &bench.dir.join("trace"), &fail)).ended(3);
    done.warning("bad");
    assert_eq!(done.number("files"), 1);
}

// ---- the lock ----

#[test]
fn a_second_run_finds_the_first_one_busy() {
    let bench = Bench::new();
    bench.take();
    let lock = File::options().write(true).open(bench.state.join("lock")).unwrap();
    flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
    bench.snapshot(NONE).ended(11);
    assert_eq!(bench.receipts().len(), 1);
    drop(lock);
    bench.take();
}

#[test]
fn the_lock_goes_with_its_holder() {
    const HOLD: &str = "
import fcntl, sys
lock = open(sys.argv[1], 'r+')
fcntl.flock(lock, fcntl.LOCK_EX)
print('held', flush=True)
sys.stdin.read()
";
    let bench = Bench::new();
    bench.take();
    let mut holder = Guarded::spawn(Command::new("python3").args(["-c", HOLD]).arg(bench.state.join("lock")));
    let mut line = String::new();
    BufReader::new(holder.0.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "held\n");
    bench.snapshot(NONE).ended(11);
    signal(&holder.0, Signal::KILL);
    holder.0.wait().unwrap();
    bench.take();
}

// ---- stopping ----

fn stops_cleanly(how: Signal) {
    const FILES: usize = 64;
    let bench = Bench::new();
    for i in 0..FILES {
        bench.dir.write(format!("tree/{i:03}"), noise(4 * MIB, i as u64));
    }
    let mut running = Guarded::spawn(&mut bench.snapshot_command(["--upload-concurrency", "1"]));
    wait_for("the first pack to be stored", Duration::from_secs(60), || {
        assert!(running.0.try_wait().unwrap().is_none(), "it ended before it could be stopped");
        bench.objects_in("packs/").iter().any(|name| name.ends_with(".age")).then_some(())
    });
    let asked = Instant::now();
    signal(&running.0, how);
    let done = running.end();
    // Two seconds are promised; the rest is for a machine that does other things.
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    let done = done.ended(130);
    assert!(done.error().contains("interrupted"));
    assert_eq!(bench.objects_in("snapshots/"), Vec::<String>::new(), "nothing is committed");
    let stored: u64 = bench.objects().iter().filter(|(name, _)| name.starts_with("packs/")).map(|(_, size)| size).sum();

    let next = bench.take();
    assert_eq!(next.number("bytes_read"), (FILES * 4 * MIB) as u64);
    let all = (FILES * 4 * MIB) as u64;
    // A pack is at least 24 MiB. One that arrived in the very moment of the signal may go up again.
    assert!(next.number("bytes_stored") < all - 23 * MIB as u64, "{stored} were there: {}", next.stdout);
    assert_same_tree(&bench.tree, &bench.restored(&next));
}

#[test]
fn sigint_stops_cleanly() {
    stops_cleanly(Signal::INT);
}

#[test]
fn sigterm_stops_cleanly() {
    stops_cleanly(Signal::TERM);
}

// ---- keys ----

/// The recipients that can open a pack, by its header.
fn stanzas(bench: &Bench) -> Vec<usize> {
    let count = |name: String| {
        let bytes = std::fs::read(bench.store.join(name)).unwrap();
        bytes.windows(10).filter(|window| window == b"-> X25519 ").count()
    };
    bench.objects_in("packs/").into_iter().map(count).collect()
}

#[test]
fn recipients_pinned_by_the_host_win_over_what_the_store_says() {
    let bench = Bench::new();
    bench.dir.write("tree/file", "x");
    let other = age::x25519::Identity::generate().to_public().to_string();
    let pinned = |recipients: &str| {
        let mut command = bench.snapshot_command(NONE);
        command.env("OPSCTL_RECIPIENTS", recipients);
        run(command)
    };
    assert!(pinned(&other).ended(4).error().contains("OPSCTL_RECIPIENTS"));
    pinned(&format!("{},{other}", bench.recipient)).ended(4);
    nothing_stored(&bench);
    pinned(&bench.recipient).ok();
}

/// What is there without its signature is not what was deleted.
#[test]
fn a_lost_signature_and_a_lost_receipt_are_told_apart() {
    let bench = Bench::new();
    bench.dir.write("tree/file", "x");
    let first = format!("snapshots/default/{}.json", bench.take().id());
    std::fs::remove_file(bench.store.join(format!("{first}.minisig"))).unwrap();
    let second = bench.take();
    assert!(second.warning(&first).contains("it has no signature"), "{}", second.stdout);
    std::fs::remove_file(bench.store.join(format!("snapshots/default/{}.json", second.id()))).unwrap();
    let third = bench.take();
    assert!(third.warning(second.id()).contains("is not in the store any more"), "{}", third.stdout);
}

#[test]
fn forged_keys_add_no_recipient() {
    let bench = Bench::new();
    bench.dir.write("tree/file", "x");
    let current = bench.objects_in("keys/").into_iter().find(|name| name.ends_with(".json")).unwrap();
    let bytes = std::fs::read(bench.store.join(current)).unwrap();
    let (stranger, _) = SigningKey::generate().unwrap();
    let mut forged = Keys::read(&bytes).unwrap();
    forged.seq = 2;
    forged.previous = Some(Hash::of(&bytes));
    forged.recipients.push(age::x25519::Identity::generate().to_public().to_string());
    forged.signers.push(stranger.signer().to_string());
    let (hash, bytes) = forged.write().unwrap();
    let name = layout::keys_object(2, hash);
    std::fs::write(bench.store.join(&name), &bytes).unwrap();
    bench.take().warning(&name);
    let signature = stranger.sign(&bytes, &format!("opsctl {name}")).unwrap();
    std::fs::write(bench.store.join(format!("{name}.minisig")), signature).unwrap();
    let done = bench.take();
    done.warning(&name);
    assert!(stanzas(&bench).iter().all(|count| *count == 1), "{:?}", stanzas(&bench));
    assert_same_tree(&bench.tree, &bench.restored(&done));
}

#[test]
fn secrets_go_nowhere() {
    let bench = Bench::new();
    bench.dir.write("tree/file", noise(MIB, 1));
    let identity = std::fs::read_to_string(&bench.identity).unwrap();
    let identity = identity.lines().find(|line| line.starts_with("AGE-SECRET-KEY-")).unwrap();
    let key = std::fs::read_to_string(&bench.key).unwrap();
    let key = key.lines().nth(1).expect("the second line of a minisign key is the key");
    let by_value = |key: &str| {
        let mut command = bench.snapshot_command(["-vvv"]);
        command.env_remove("OPSCTL_SIGNING_KEY_FILE").env("OPSCTL_SIGNING_KEY", key);
        run(command)
    };
    let mut runs: Vec<Done> = vec![bench.init.clone(), bench.snapshot(["-vvv"]).ok()];
    runs.push(by_value(&std::fs::read_to_string(&bench.key).unwrap()).ok());
    runs.push(by_value(&format!("untrusted comment: x\n{}\n", &key[1..])).ended(2));
    let to = bench.dir.join("to");
    runs.push(bench.restore(&to, ["-vvv"]).ok());
    // Pasted where a file belongs.
    runs.push(bench.restore(&bench.dir.join("to2"), ["--identity", identity]).ended(2));
    runs.push(bench.snapshot(["--signing-key", key]));
    assert_ne!(runs.last().unwrap().code, 0);
    for done in &runs {
        for secret in [identity, &key[1..]] {
            assert!(!done.says(secret), "exit {}\n{}\n{}", done.code, done.stdout, done.stderr);
        }
    }
    let places = [&bench.store, &bench.state, &bench.tree, &to];
    let files: Vec<_> = places.into_iter().flat_map(|dir| files_below(dir)).collect();
    assert!(files.len() > 8);
    for file in files {
        let bytes = std::fs::read(&file).unwrap();
        let holds = |secret: &str| bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
        assert!(!holds(identity) && !holds(key), "{}", file.display());
    }
    // What an age library makes of the identity is that same key: the comparison above is with the real thing.
    let parsed: age::x25519::Identity = identity.parse().unwrap();
    assert_eq!(parsed.to_string().expose_secret(), identity);
}

// ---- what is left out ----

fn restored_names(bench: &Bench, snapshot: &Done) -> Vec<String> {
    let tree = Tree::read(&bench.restored(snapshot));
    tree.0.keys().filter(|path| !path.is_empty()).map(|path| String::from_utf8(path.clone()).unwrap()).collect()
}

#[test]
fn excludes_match_names_and_anchored_paths() {
    let bench = Bench::new();
    for file in ["a.log", "deep/b.log", "deep/keep", "cache/x", "deep/cache/x", "top", "deep/top", "w/tmp/x", "w/tmp2"]
    {
        bench.dir.write(Path::new("tree").join(file), file);
    }
    let args = ["--exclude", "*.log", "--exclude", "cache/", "--exclude", "/top", "--exclude", "w/tmp"];
    let done = bench.snapshot(args).ok();
    assert_eq!(restored_names(&bench, &done), ["deep", "deep/keep", "deep/top", "w", "w/tmp2"]);
    assert_eq!(bench.receipts()[0]["counts"]["excluded"], 6);
    let mut command = bench.snapshot_command(["--dry-run"]);
    command.env("OPSCTL_EXCLUDE", "*.log\n/deep");
    let plan = run(command).ok();
    let left_out: Vec<_> = plan.json["excluded"].as_array().unwrap().iter().map(|row| row[0].clone()).collect();
    assert_eq!(left_out, ["a.log", "deep"]);
    bench.snapshot(["--exclude", "a["]).ended(2);
}

#[test]
fn what_the_profile_calls_recoverable_is_left_out_on_request() {
    let bench = Bench::new();
    bench.dir.write("tree/sidecars/binary", "x");
    bench.dir.write("tree/app/sidecars/mine", "y");
    let done = bench.take();
    assert!(restored_names(&bench, &done).contains(&"sidecars/binary".to_owned()));
    let done = bench.snapshot(["--exclude-recoverable"]).ok();
    assert_eq!(restored_names(&bench, &done), ["app", "app/sidecars", "app/sidecars/mine"]);
}

#[test]
fn state_and_lost_found_are_never_captured() {
    let bench = Bench::new();
    bench.dir.write("tree/.opsctl/old", "x");
    bench.dir.write("tree/lost+found/#1", "x");
    bench.dir.write("tree/dir/.opsctl/kept", "x");
    bench.dir.write("tree/dir/lost+found/kept", "x");
    let mut command = bench.snapshot_command(NONE);
    // Where it is by default.
    command.env_remove("OPSCTL_STATE_DIR");
    let done = run(command).ok();
    let to = bench.restored(&done);
    assert!(!to.join(".opsctl/old").exists() && !to.join("lost+found").exists());
    assert!(to.join("dir/.opsctl/kept").exists() && to.join("dir/lost+found/kept").exists());
    assert_eq!(done.number("files"), 2);
}

/// From the first run on, when neither existed before.
#[test]
fn a_state_and_a_store_inside_the_tree_are_not_captured() {
    let bench = Bench::new();
    bench.dir.write("tree/file", "x");
    let store = bench.tree.join("backup of this");
    let inside = |command: &mut Command| {
        command.env("OPSCTL_STORE", url(&store)).env("OPSCTL_STATE_DIR", bench.tree.join("my/state"));
    };
    let mut init = bench.command();
    inside(&mut init);
    run({
        init.args(["init", "--recipient", &bench.recipient]).arg("--signing-key").arg(&bench.key);
        init
    })
    .ok();
    let mut command = bench.snapshot_command(NONE);
    inside(&mut command);
    let done = run(command).ok();
    assert_eq!(done.number("files"), 1, "{}", done.stdout);
    let to = bench.dir.join("to");
    let mut command = bench.restore_command(&to, NONE);
    inside(&mut command);
    run(command).ok();
    let tree = Tree::read(&to);
    let names: Vec<_> = tree.0.keys().map(|path| String::from_utf8_lossy(path).into_owned()).collect();
    assert_eq!(names, ["", "file", "my"]);
}

#[test]
fn other_file_systems_are_left_out_unless_told() {
    let bench = Bench::new();
    bench.dir.write("tree/here", "x");
    let _mounted = Mounted::tmpfs(&bench.tree.join("mnt"), "1m");
    bench.dir.write("tree/mnt/there", "y");
    let plan = bench.snapshot(["--dry-run"]).ok();
    assert_eq!(plan.json["excluded"][0][0], "mnt", "it is named: {}", plan.stdout);
    let done = bench.take();
    assert_eq!(done.number("files"), 1);
    assert_eq!(bench.receipts()[0]["counts"]["excluded"], 1);
    assert!(!bench.restored(&done).join("mnt/there").exists());
    let done = bench.snapshot(["--cross-file-systems"]).ok();
    assert_eq!(done.number("files"), 2);
    assert_eq!(std::fs::read(bench.restored(&done).join("mnt/there")).unwrap(), b"y");
}

#[test]
fn special_files_are_recorded_and_not_read() {
    let bench = Bench::new();
    bench.dir.write("tree/file", "x");
    let make = |name: &str, kind, device| {
        mknodat(CWD, bench.tree.join(name), kind, Mode::RUSR | Mode::WUSR, device).unwrap();
    };
    make("fifo", FileType::Fifo, 0);
    make("socket", FileType::Socket, 0);
    // Reading this one would never end.
    make("zero", FileType::CharacterDevice, makedev(1, 5));
    make("block", FileType::BlockDevice, makedev(7, 250));
    let log = bench.dir.join("trace");
    let done = run(traced(&bench.snapshot_command(NONE), &log, &["-e", "trace=openat"])).ok();
    assert_eq!((done.number("files"), done.number("bytes_read")), (1, 1));
    assert_eq!(bench.receipts()[0]["counts"]["special"], 4);
    let trace = std::fs::read_to_string(&log).unwrap();
    let opened = |name: &str| trace.lines().any(|l| l.contains(&format!("\"{name}\"")) && !l.contains("O_PATH"));
    assert!(opened("file"), "the trace is blind");
    assert!(!["fifo", "socket", "zero", "block"].into_iter().any(opened), "{trace}");
    let to = bench.dir.join("to");
    bench.restore(&to, ["--allow-special"]).ok();
    assert_same_tree(&bench.tree, &to);
    assert_eq!(Tree::read(&to).entry("zero").kind, Kind::CharDevice);
}

// ---- the plan ----

#[test]
fn a_dry_run_stores_nothing_and_says_what_would_be() {
    let bench = Bench::new();
    bench.dir.write("tree/old", noise(1000, 1));
    rest();
    bench.take();
    bench.dir.write("tree/new", noise(3000, 2));
    let before = bench.objects();
    let plan = bench.snapshot(["--dry-run", "--exclude", "nothing"]).ok();
    assert_eq!(plan.json["dry_run"], true);
    assert_eq!((plan.number("files"), plan.number("to_read"), plan.number("bytes_to_read")), (2, 1, 3000));
    assert_eq!(plan.json["read"], serde_json::json!(["new"]));
    assert_eq!(plan.json["recipients"], serde_json::json!([bench.recipient]));
    let mut command = bench.command();
    command.arg("snapshot").arg(&bench.tree).args(["--dry-run", "--signing-key"]).arg(&bench.key);
    let text = run({
        command.arg("--state-dir").arg(&bench.state);
        command
    })
    .ok();
    assert!(text.stdout.contains("new") && !text.stdout.contains("old"), "{}", text.stdout);
    assert_eq!(bench.objects(), before, "nothing was stored");
    // And the state was left alone.
    assert_eq!(bench.take().number("bytes_read"), 3000);
}
