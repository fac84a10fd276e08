//! `opsctl restore` as a person in trouble sees it: which snapshot, which key, what is fetched, what goes wrong.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod support;

use std::fs::File;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::process::Command;
use std::time::Duration;

use age::secrecy::ExposeSecret as _;
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use rustix::process::Signal;
use support::opsctl::{Bench, Done, Guarded, Mounted, chmod, noise, run, run_with, traced};
use support::tree::{Tree, assert_equal, assert_same_tree};
use support::{signal, wait_for};

const MIB: usize = 1 << 20;
const NONE: [&str; 0] = [];

/// A store with two snapshots of a tree that holds a file `version`.
fn two_versions() -> (Bench, Done, Done) {
    let bench = Bench::new();
    let take = |content: &str| {
        bench.dir.write("tree/version", content);
        bench.take()
    };
    let (first, second) = (take("1"), take("2"));
    (bench, first, second)
}

/// The end of a snapshot, as `restore` reports it.
fn end_of(bench: &Bench, snapshot: &Done) -> String {
    let plan = bench.restore(&bench.dir.join("nowhere"), ["--dry-run", "--snapshot", snapshot.id()]).ok();
    plan.text("finished_at").to_owned()
}

// ---- which snapshot ----

#[test]
fn the_document_has_what_scripts_rely_on() {
    let (bench, _, second) = two_versions();
    bench.dir.write("tree/more", noise(5000, 1));
    let third = bench.take();
    let to = bench.dir.join("to");
    let done = bench.restore(&to, NONE).ok();
    assert_eq!(done.id(), third.id(), "the newest");
    assert_eq!((done.number("files"), done.number("bytes_written")), (2, 5001));
    assert!(done.number("bytes_fetched") > 5000 && done.number("requests") > 3);
    assert!(done.json["rto_seconds"].as_f64().unwrap() > 0.0);
    assert!(done.json["rpo_seconds"].as_i64().unwrap() < 600);
    assert_same_tree(&bench.tree, &to);

    // The window of lost work counts from the time asked for.
    let at = third.id()[..16].parse::<jiff::Timestamp>().unwrap_or_else(|_| end_of(&bench, &third).parse().unwrap());
    let before = at - jiff::SignedDuration::from_secs(1);
    let plan = bench.restore(&bench.dir.join("to2"), ["--dry-run", "--at", &before.to_string()]).ok();
    assert_eq!(plan.id(), second.id());
    let end: jiff::Timestamp = end_of(&bench, &second).parse().unwrap();
    assert_eq!(plan.json["rpo_seconds"], before.as_second() - end.as_second());
}

#[test]
fn the_time_asked_for_picks_the_newest_snapshot_before_it() {
    let (bench, first, second) = two_versions();
    let (end1, end2) = (end_of(&bench, &first), end_of(&bench, &second));
    let chosen = |at: &str| bench.restore(&bench.dir.join("plan"), ["--dry-run", "--at", at]);
    assert_eq!(chosen(&end1).ok().id(), first.id(), "a snapshot that ended in that second counts");
    assert_eq!(chosen(&end2).ok().id(), second.id());
    assert_eq!(chosen("2999-01-01").ok().id(), second.id());
    // The same instant, in another zone and without one.
    let local = |zone: &str| {
        let zoned = end1.parse::<jiff::Timestamp>().unwrap().in_tz(zone).unwrap();
        zoned.strftime("%Y-%m-%d %H:%M:%S").to_string()
    };
    assert_eq!(chosen(&local("UTC")).ok().id(), first.id());
    let args = ["--dry-run", "--tz", "Asia/Tokyo", "--at", &local("Asia/Tokyo")];
    assert_eq!(bench.restore(&bench.dir.join("plan"), args).ok().id(), first.id());
    // Ids are rounded up to the second: relative times are clear only once that has passed.
    let end: jiff::Timestamp = end2.parse().unwrap();
    wait_for("the second snapshot to lie behind", Duration::from_secs(30), || {
        (jiff::Timestamp::now() > end + jiff::SignedDuration::from_secs(1)).then_some(())
    });
    assert_eq!(chosen("1s ago").ok().id(), second.id());
    chosen("2h ago").ended(10);
    chosen("yesterday").ended(10);
    chosen("next spring").ended(2);
    bench.restore(&bench.dir.join("plan"), ["--at", &end1, "--snapshot", first.id()]).ended(2);
}

#[test]
fn the_choice_is_said_before_anything_happens() {
    let (bench, first, _) = two_versions();
    bench.dir.write("full/file", "x");
    let done = bench.restore(&bench.dir.join("full"), ["--at", &end_of(&bench, &first)]).ended(2);
    assert!(done.stderr.contains(first.id()), "{}", done.stderr);
    assert!(done.error().contains("not empty"));
    let files: Vec<_> = std::fs::read_dir(bench.dir.join("full")).unwrap().collect();
    assert_eq!(files.len(), 1, "nothing was written");
}

#[test]
fn a_snapshot_by_id_or_the_start_of_one() {
    let (bench, first, second) = two_versions();
    let to = bench.dir.join("to");
    bench.restore(&to, ["--snapshot", &first.id()[..23]]).ok();
    assert_eq!(std::fs::read(to.join("version")).unwrap(), b"1");
    bench.restore(&bench.dir.join("no"), ["--snapshot", "20010101T000000Z"]).ended(10);
    // The two share their date.
    bench.restore(&bench.dir.join("no"), ["--snapshot", &second.id()[..4]]).ended(2);
    bench.restore(&bench.dir.join("no"), ["--source", "other"]).ended(10);
    assert!(!bench.dir.join("no").exists());
}

#[test]
fn a_plan_changes_nothing() {
    let (bench, _, second) = two_versions();
    let plan = bench.restore(&bench.dir.join("plan"), ["--dry-run"]).ok();
    assert_eq!((plan.id(), plan.number("files"), plan.number("bytes")), (second.id(), 1, 1));
    assert!(plan.number("bytes_to_fetch") > 0 && plan.number("space_free") > 0);
    assert!(!bench.dir.join("plan").exists());
}

// ---- keys ----

#[test]
fn the_identity_comes_from_a_file_a_descriptor_standard_input_or_a_variable() {
    let (bench, _, _) = two_versions();
    let content = std::fs::read_to_string(&bench.identity).unwrap();
    let without = |name: &str| {
        let mut command = bench.restore_command(&bench.dir.join(name), NONE);
        command.env_remove("OPSCTL_IDENTITY_FILE");
        command
    };
    let mut by_flag = without("by-flag");
    run({
        by_flag.arg("--identity").arg(&bench.identity);
        by_flag
    })
    .ok();
    let mut by_stdin = without("by-stdin");
    by_stdin.args(["--identity", "-"]);
    run_with(by_stdin, content.clone()).ok();
    let mut by_value = without("by-value");
    by_value.env("OPSCTL_IDENTITY", &content);
    run(by_value).ok();
    // A descriptor that only the program gets: 7 is opened by the shell.
    let inner = without("by-fd");
    let mut by_fd = Command::new("sh");
    by_fd.args(["-c", "file=$1; shift; exec \"$@\" --identity /dev/fd/7 7<\"$file\"", "sh"]);
    by_fd.arg(&bench.identity).arg(inner.get_program()).args(inner.get_args()).env_clear();
    by_fd.envs(support::clean_env()).envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    run(by_fd).ok();
    for name in ["by-flag", "by-stdin", "by-value", "by-fd"] {
        assert_same_tree(&bench.tree, &bench.dir.join(name));
    }

    run(without("none")).ended(12);
    let value = content.lines().find(|line| line.starts_with("AGE-SECRET-KEY-")).unwrap();
    let mut as_argument = without("none");
    as_argument.args(["--identity", value]);
    let refused = run(as_argument).ended(2);
    assert!(!refused.says(value));
    assert!(!bench.dir.join("none").exists());
}

#[test]
fn a_wrong_identity_is_refused() {
    let (bench, _, _) = two_versions();
    let other = age::x25519::Identity::generate();
    let file = bench.dir.write("other", other.to_string().expose_secret());
    let args = ["--identity", file.to_str().unwrap(), "--trusted-signer", &bench.signer];
    bench.restore(&bench.dir.join("to"), args).ended(12);
    assert!(!bench.dir.join("to").exists());
}

#[test]
fn without_a_pin_nothing_is_believed() {
    let (bench, _, _) = two_versions();
    let content = std::fs::read_to_string(&bench.identity).unwrap();
    let bare: String = content.lines().filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect();
    assert_ne!(bare, content, "the identity file pins the signer");
    let file = bench.dir.write("bare", bare);
    chmod(&file, 0o600);
    let file = file.to_str().unwrap();
    let done = bench.restore(&bench.dir.join("no"), ["--identity", file]).ended(12);
    assert!(done.error().contains("--trust-store-keys"));
    bench.restore(&bench.dir.join("to"), ["--identity", file, "--trust-store-keys"]).ok();
    bench.restore(&bench.dir.join("to2"), ["--identity", file, "--trusted-signer", &bench.signer]).ok();
    // Somebody else's signer vouches for nothing here.
    let other = opsctl::archive::signature::SigningKey::generate().unwrap().0.signer().to_string();
    bench.restore(&bench.dir.join("no"), ["--identity", file, "--trusted-signer", &other]).ended(4);
    assert!(!bench.dir.join("no").exists());
}

// ---- how much is fetched ----

#[test]
fn one_small_file_of_a_large_snapshot_costs_under_a_hundredth() {
    let bench = Bench::new();
    for i in 0..16 {
        bench.dir.write(format!("tree/large/{i}"), noise(4 * MIB, i));
    }
    for i in 0..2000 {
        bench.dir.write(format!("tree/dir-{}/file-{i}", i % 40), format!("content of {i}"));
    }
    bench.take();
    let total: u64 = bench.objects().iter().map(|(_, size)| size).sum();
    assert!(total > 64 * MIB as u64);
    let to = bench.dir.join("to");
    let done = bench.restore(&to, ["--include", "/dir-7/file-1007"]).ok();
    assert_eq!((done.number("files"), done.number("bytes_written")), (1, 15));
    assert_eq!(std::fs::read(to.join("dir-7/file-1007")).unwrap(), b"content of 1007");
    let fetched = done.number("bytes_fetched");
    assert!(fetched < total / 100, "{fetched} of {total}");
    // Its folder comes with its attributes, and nothing beside it.
    assert_eq!(std::fs::read_dir(to.join("dir-7")).unwrap().count(), 1);
    let mtime = |dir: &std::path::Path| dir.join("dir-7").metadata().unwrap().mtime_nsec();
    assert_eq!(mtime(&to), mtime(&bench.tree));
    // By a pattern that is no path, the whole manifest has to be looked at, but no other content.
    let done = bench.restore(&bench.dir.join("to2"), ["--include", "file-1007"]).ok();
    assert!(done.number("bytes_fetched") < total / 40, "{}", done.stdout);
}

#[test]
fn includes_and_excludes() {
    let bench = Bench::new();
    for file in ["a/keep", "a/drop.log", "a/b/keep", "c/keep"] {
        bench.dir.write(format!("tree/{file}"), file);
    }
    bench.take();
    let to = bench.dir.join("to");
    let done = bench.restore(&to, ["--include", "/a", "--exclude", "*.log"]).ok();
    assert_eq!(done.number("files"), 2);
    assert!(to.join("a/keep").exists() && to.join("a/b/keep").exists());
    assert!(!to.join("a/drop.log").exists() && !to.join("c").exists());
    bench.restore(&bench.dir.join("no"), ["--include", "nothing-like-this"]).ended(10);
    assert!(!bench.dir.join("no").exists());
}

// ---- interrupted ----

#[test]
fn a_killed_restore_goes_on_where_it_was() {
    const FILES: u64 = 40;
    let bench = Bench::new();
    for i in 0..FILES {
        bench.dir.write(format!("tree/{i:03}"), noise(4 * MIB, i));
    }
    bench.take();
    let total: u64 = bench.objects().iter().map(|(_, size)| size).sum();
    let to = bench.dir.join("to");
    // Five packs of eight files: dies when a thread gives the eighth file its name, with others at most as far. By then most
    // of one pack is in place, whichever files lie across the end of a pack.
    let kill = ["-e", "trace=renameat2", "-e", "inject=renameat2:error=EIO:signal=SIGKILL:when=8"];
    let mut dying = traced(&bench.restore_command(&to, NONE), &bench.dir.join("trace"), &kill);
    assert_eq!(Guarded::spawn(&mut dying).end().code, 128 + 9);
    let names = std::fs::read_dir(&to).unwrap().filter(|entry| entry.as_ref().unwrap().file_name() != ".opsctl");
    let kept = names.count() as u64;
    assert!((7..=35).contains(&kept), "{kept}");

    // Another snapshot must not be mixed into it, and nothing else takes the folder over.
    bench.dir.write("tree/late", "x");
    bench.take();
    bench.restore(&to, NONE).ended(2);
    let first = bench.objects_in("snapshots/").into_iter().find(|name| name.ends_with(".json")).unwrap();
    let id = first.rsplit('/').next().unwrap().trim_end_matches(".json");
    let plan = bench.restore(&to, ["--dry-run", "--snapshot", id]).ok();
    assert_eq!(plan.json["resumes"], true);
    let done = bench.restore(&to, ["--snapshot", id]).ok();
    assert_eq!((done.number("files"), done.number("files_kept")), (FILES, kept), "{}", done.stdout);
    // What is in place is not fetched again, but for packs of which most is needed: those are fetched whole.
    let fetched = done.number("bytes_fetched");
    assert!(fetched < total - 4 * 4 * MIB as u64, "{fetched} of {total} with {kept} files in place");
    let whole = Tree::read(&bench.tree).without(|path| path == b"late");
    assert_equal(&whole, &Tree::read(&to));
}

#[test]
fn a_signal_stops_a_restore() {
    let bench = Bench::new();
    for i in 0..40 {
        bench.dir.write(format!("tree/{i:03}"), noise(4 * MIB, i));
    }
    bench.take();
    let to = bench.dir.join("to");
    let mut running = Guarded::spawn(&mut bench.restore_command(&to, NONE));
    wait_for("the folder to be made", Duration::from_secs(60), || {
        assert!(running.0.try_wait().unwrap().is_none(), "it ended before it could be stopped");
        to.join(".opsctl").exists().then_some(())
    });
    let asked = std::time::Instant::now();
    signal(&running.0, Signal::TERM);
    let done = running.end();
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    done.ended(130);
    bench.restore(&to, NONE).ok();
    assert_same_tree(&bench.tree, &to);
}

// ---- what goes wrong ----

#[test]
fn a_damaged_pack_costs_the_files_in_it_and_no_other_snapshot() {
    let bench = Bench::new();
    bench.dir.write("tree/common", noise(MIB, 1));
    let zero = bench.take();
    bench.dir.write("tree/hit", noise(3 * MIB, 2));
    let before = bench.objects_in("packs/");
    let damaged = bench.take();
    let new = bench.objects().into_iter().filter(|(name, _)| name.starts_with("packs/") && !before.contains(name));
    let (pack, size) = new.max_by_key(|(_, size)| *size).unwrap();
    assert!(size > 3 * MIB as u64);
    std::fs::remove_file(bench.tree.join("hit")).unwrap();
    bench.dir.write("tree/later", noise(MIB, 3));
    let after = bench.take();

    let file = bench.store.join(&pack);
    let mut bytes = std::fs::read(&file).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    let to = bench.dir.join("to");
    let done = bench.restore(&to, ["--snapshot", damaged.id()]).ended(4);
    let error = done.error();
    for named in [pack.as_str(), damaged.id(), "hit"] {
        assert!(error.contains(named), "{named} is not in: {error}");
    }
    assert!(!to.join("hit").exists(), "never a file with other content");
    assert_eq!(std::fs::read(to.join("common")).unwrap(), noise(MIB, 1), "what is intact is restored");
    bench.restored(&zero);
    assert_same_tree(&bench.tree, &bench.restored(&after));

    // A pack that is gone is the same case; and with the pack back the restore goes on to its end.
    std::fs::remove_file(&file).unwrap();
    bench.restore(&to, ["--snapshot", damaged.id()]).ended(4);
    bytes[at] ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    let done = bench.restore(&to, ["--snapshot", damaged.id()]).ok();
    assert_eq!(done.number("files_kept"), 1);
    assert_eq!(std::fs::read(to.join("hit")).unwrap(), noise(3 * MIB, 2));
}

#[test]
fn missing_space_is_said_before_anything_is_written() {
    let bench = Bench::new();
    bench.dir.write("tree/file", noise(3 * MIB, 1));
    bench.take();
    let mounted = bench.dir.join("small");
    let _mounted = Mounted::tmpfs(&mounted, "1m");
    let done = bench.restore(&mounted.join("to"), NONE).ended(14);
    assert!(done.error().contains("free"));
    assert!(!mounted.join("to").exists());
    // The plan says so as well.
    let plan = bench.restore(&mounted.join("to"), ["--dry-run"]).ended(14);
    assert!(plan.number("space_needed") > plan.number("space_free"));
    // A part of it fits: nothing is needed for what is not selected.
    bench.dir.write("tree/small", "x");
    bench.take();
    bench.restore(&mounted.join("to"), ["--include", "small"]).ok();
}

#[test]
fn devices_are_made_only_when_asked_for() {
    let bench = Bench::new();
    bench.dir.write("tree/file", "x");
    mknodat(CWD, bench.tree.join("null"), FileType::CharacterDevice, Mode::RUSR | Mode::WUSR, makedev(1, 3)).unwrap();
    mknodat(CWD, bench.tree.join("fifo"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    bench.take();
    let to = bench.dir.join("to");
    let done = bench.restore(&to, NONE).ended(3);
    assert!(done.warning("null").contains("--allow-special"));
    assert!(!to.join("null").exists() && to.join("fifo").exists());
    bench.restore(&bench.dir.join("all"), ["--allow-special"]).ok();
    assert_same_tree(&bench.tree, &bench.dir.join("all"));
}

#[test]
fn without_root_ownership_is_left_out_and_said_once() {
    let bench = Bench::new();
    for i in 0..20 {
        bench.dir.write(format!("tree/{i}"), "x");
    }
    symlink("0", bench.tree.join("link")).unwrap();
    chmod(&bench.dir.write("tree/setuid", "x"), 0o4755);
    bench.take();
    let user = bench.unprivileged();
    let to = bench.dir.join("to");
    let done = run(user.command(&bench.restore_command(&to, NONE))).ok();
    assert_eq!(done.stderr.matches("owner").count(), 1, "{}", done.stderr);
    assert_eq!(done.warnings(), Vec::<String>::new());
    let setuid = to.join("setuid").metadata().unwrap();
    assert_eq!((setuid.uid(), setuid.mode() & 0o7777), (65534, 0o755), "a setuid bit for somebody else is dropped");
    assert!(File::open(to.join("19")).is_ok());
}
