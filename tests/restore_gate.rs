//! A restore in place around its service, where something goes wrong: who holds the folder, a service that ends late, does
//! not start or is not well, an old tree that cannot be put back or deleted. It is always said whether the service runs.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod support;

#[path = "support/cycle.rs"]
mod cycle;
#[path = "support/incident.rs"]
mod incident;
#[path = "support/stub_store.rs"]
mod stub_store;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use cycle::Worker;
use incident::{Incident, cut_off_before_swap, cut_off_while_swapping, folders, in_place, killed, rollback, sqlite};
use stub_store::service;
use support::opsctl::{Bench, Done, Guarded, run, traced};
use support::tree::{Tree, assert_equal};
use support::{signal, wait_for};

const SOON: Duration = Duration::from_secs(20);

/// The hint of the error document.
fn hint(done: &Done) -> String {
    done.json["error"]["hint"].as_str().unwrap_or_default().to_owned()
}

// ---- who holds the folder ----

/// Holds the folder in one way only, and then has finished its first step.
const HOLDERS: [(&str, &str, &str); 3] = [
    (
        "a mapping",
        "(mapped)",
        "
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
fd = os.open(sys.argv[1] + '/top', os.O_RDONLY)
assert libc.mmap(None, 4, 1, 2, fd, 0) not in (None, ctypes.c_void_p(-1).value)
os.close(fd)
print(1, flush=True)
sys.stdin.readline()
",
    ),
    (
        "a root",
        "(its root)",
        "
import os, sys
os.chroot(sys.argv[1])
print(1, flush=True)
sys.stdin.readline()
",
    ),
    (
        "a program",
        "(its program)",
        "
import os, shutil, sys
program = sys.argv[1] + '/program'
shutil.copy(shutil.which('cat'), program)
print(1, flush=True)
os.execv(program, ['cat'])
",
    ),
];

#[test]
fn a_mapping_a_root_and_a_program_below_the_folder_are_found() {
    for (what, how, script) in HOLDERS {
        let it = Incident::new();
        let holder = Worker::start(Command::new("python3").args(["-c", script]).arg(it.tree()).current_dir("/"));
        let found = wait_for(what, SOON, || {
            let done = it.restore(["--dry-run"]).ok();
            let users = done.json["in_place"]["in_use_by"].as_array().unwrap().clone();
            users.iter().find_map(|user| user.as_str().filter(|user| user.contains(how)).map(str::to_owned))
        });
        assert!(found.starts_with("process "), "{found}");
        let refused = it.restore(["--yes"]).ended(11);
        assert!(refused.error().contains(how), "{what}: {}", refused.error());
        drop(holder);
        it.restore(["--yes"]).ok();
        it.assert_is(&it.good);
    }
}

#[test]
fn force_insists_against_a_lock_of_somebody_else() {
    let it = Incident::new();
    let mut command = Command::new("flock");
    let holder = Guarded::spawn(command.args(["--exclusive", "--no-fork"]).arg(it.tree()).args(["sleep", "600"]));
    wait_for("the lock", SOON, || (it.restore(["--yes"]).code == 11).then_some(()));
    let done = it.restore(["--yes", "--force"]).ok();
    assert!(done.stderr.contains("a lock on "), "{}", done.stderr);
    it.assert_is(&it.good);
    it.rollback(["--yes"]).ended(11);
    it.rollback(["--yes", "--force"]).ok();
    it.assert_is(&it.bad);
    drop(holder);
}

// ---- the stop ----

#[test]
fn a_service_that_ends_a_moment_after_its_stop_command_is_waited_for() {
    let it = Incident::new();
    let script = "trap 'sleep 0.5; exit' TERM; echo ready >\"$1\"; while :; do sleep 0.05; done";
    let ready = it.bench.dir.join("ready");
    let mut command = Command::new("sh");
    let slow = Guarded::spawn(command.args(["-c", script, "sh"]).arg(&ready).current_dir(it.tree()));
    wait_for("the service", SOON, || ready.exists().then_some(()));
    let stop = format!("kill {}", slow.0.id());
    it.restore(["--yes", "--stop-cmd", &stop]).ok();
    it.assert_is(&it.good);
    drop(slow);
}

#[test]
fn a_service_that_does_not_end_is_refused_after_a_while_and_started_again() {
    let it = Incident::new();
    let service = Guarded::spawn(Command::new("sleep").arg("600").current_dir(it.tree()));
    let log = it.bench.dir.join("log");
    let start = format!("echo start >> {}", log.display());
    let done = it.restore(["--yes", "--stop-cmd", "true", "--start-cmd", &start]).ended(11);
    assert!(done.error().contains(&format!("process {} ", service.0.id())), "{}", done.error());
    assert!(hint(&done).contains("the service was started again"), "{}", hint(&done));
    assert_eq!(fs::read_to_string(&log).unwrap(), "start\n");
    it.assert_is(&it.bad);
}

#[test]
fn no_service_is_started_on_a_mixture() {
    let it = Incident::new();
    cut_off_while_swapping(&it.bench);
    let log = it.bench.dir.join("log");
    let start = format!("echo start >> {}", log.display());
    let holder = Guarded::spawn(Command::new("sleep").arg("600").current_dir(it.tree()));
    let done = it.restore(["--yes", "--stop-cmd", "true", "--start-cmd", &start]).ended(11);
    assert!(hint(&done).contains("the service is stopped; before it may run: opsctl rollback "), "{}", hint(&done));
    assert!(!log.exists());
    drop(holder);
    it.restore(["--yes", "--stop-cmd", "true", "--start-cmd", &start]).ok();
    it.assert_is(&it.good);
}

#[test]
fn what_is_written_by_then_is_on_disk_before_the_service_stops() {
    let it = Incident::new();
    cut_off_before_swap(&it.bench);
    let log = it.bench.dir.join("strace");
    let command = in_place(&it.bench, it.tree(), ["--yes", "--stop-cmd", "true"]);
    run(traced(&command, &log, &["-e", "trace=syncfs,write,execve"])).ok();
    let log = fs::read_to_string(log).unwrap();
    let calls: Vec<&str> = log.lines().collect();
    let stop = calls.iter().position(|call| call.contains("execve(") && call.contains("\"sh\"")).unwrap();
    // Everything was staged by the run before, so that this one only plans until then.
    let planned = calls.iter().position(|call| call.contains("in the folder: ")).unwrap();
    assert!(planned < stop && calls[planned..stop].iter().any(|call| call.contains("syncfs(")), "{log}");
}

// ---- the start and the answer ----

#[test]
fn a_failed_gate_is_a_document_with_the_answer_and_what_became_of_the_tree() {
    let it = Incident::new();
    let health = it.bench.dir.write("health", r#"{"ok":false}"#);
    let (_server, url) = service(&health);
    let gate = ["--yes", "--start-cmd", "true", "--verify-url", &url, "--verify-timeout", "1"];
    let keys = ["error", "previous", "recovered", "rolled_back", "verification"];
    let done = it.restore(gate).ended(5);
    assert_eq!(done.json.as_object().unwrap().keys().collect::<Vec<_>>(), keys);
    assert_eq!((&done.json["error"]["kind"], &done.json["rolled_back"]), (&"verification".into(), &true.into()));
    assert_eq!(done.json["verification"]["url"], url.as_str());
    assert_eq!(done.json["verification"]["ok"], false);
    assert!(done.json["verification"]["problem"].as_str().unwrap().contains("health"));
    assert_eq!((&done.json["previous"], &done.json["recovered"]), (&serde_json::Value::Null, &"none".into()));
    it.assert_is(&it.bad);

    let left = it.restore(gate.iter().copied().chain(["--no-rollback"])).ended(5);
    assert_eq!((&left.json["rolled_back"], left.json["previous"].is_string()), (&false.into(), true));
    it.assert_is(&it.good);
    it.rollback(["--yes"]).ok();

    let by_file = it.restore(gate.iter().copied().chain(["--in-place"])).ended(5);
    assert_eq!(by_file.json.as_object().unwrap().keys().collect::<Vec<_>>(), keys);
    assert_eq!((&by_file.json["rolled_back"], &by_file.json["verification"]["ok"]), (&false.into(), &false.into()));
    it.assert_is(&it.good);
}

#[test]
fn no_rollback_leaves_the_new_tree_also_where_nobody_asks_the_service() {
    let it = Incident::new();
    let done = it.restore(["--yes", "--start-cmd", "exit 7", "--no-rollback"]).ended(5);
    assert!(done.error().contains("--start-cmd failed"), "{}", done.error());
    assert_eq!(done.json["verification"], serde_json::Value::Null);
    it.assert_is(&it.good);
    it.rollback(["--yes"]).ok();
    it.restore(["--yes", "--start-cmd", "exit 7"]).ended(5);
    it.assert_is(&it.bad);
}

#[test]
fn a_service_that_only_a_supervisor_starts_is_waited_for_with_a_word() {
    let it = Incident::new();
    let health = it.bench.dir.write("health", r#"{"ok":true,"version":"0.18.1"}"#);
    let (_server, url) = service(&health);
    for (args, code) in [(["--dry-run"], 0), (["--yes"], 3)] {
        let done = it.restore(args.into_iter().chain(["--verify-url", &url, "--verify-timeout", "7"])).ended(code);
        let said = done.warning("--start-cmd is not given");
        assert!(said.contains("within 7 s") && said.contains("the old folder comes back"), "{said}");
    }
    it.assert_is(&it.good);
}

// ---- the way back ----

#[test]
fn an_old_tree_that_cannot_be_put_back_hides_no_failure_and_gets_no_service() {
    let it = Incident::new();
    let (log, away) = (it.bench.dir.join("log"), it.bench.dir.join("away"));
    let stop = format!("echo stop >> {}", log.display());
    let start = format!(
        "echo start >> {}; mv '{}'/.opsctl/restore-* '{}'; exit 7",
        log.display(),
        it.tree().display(),
        away.display()
    );
    let done = it.restore(["--yes", "--stop-cmd", &stop, "--start-cmd", &start]).ended(5);
    for part in ["not well after the restore: --start-cmd failed", "the old folder could not be put back: "] {
        assert!(done.error().contains(part), "no {part:?} in {}", done.error());
    }
    let way_out = format!("the service is stopped; before it may run: opsctl rollback {}", it.tree().display());
    assert!(hint(&done).contains(&way_out), "{}", hint(&done));
    assert_eq!(done.json["rolled_back"], false);
    assert_eq!(fs::read_to_string(&log).unwrap(), "stop\nstart\nstop\n", "not once more");
    // And that command does it, once what is in the way is gone.
    let journal: serde_json::Value =
        serde_json::from_slice(&fs::read(it.tree().join(".opsctl/journal.json")).unwrap()).unwrap();
    fs::rename(away, it.tree().join(".opsctl").join(journal["folder"].as_str().unwrap())).unwrap();
    it.rollback(["--yes"]).ok();
    it.assert_is(&it.bad);
}

#[test]
fn an_exchange_that_fails_and_a_service_that_does_not_start_again_are_both_said() {
    let it = Incident::new();
    let away = it.bench.dir.join("away");
    let stop = format!("mv '{}'/.opsctl/restore-* '{}'", it.tree().display(), away.display());
    let done = it.restore(["--yes", "--stop-cmd", &stop, "--start-cmd", "exit 7"]).ended(1);
    for part in ["opening .opsctl/restore-", "and the service does not run: --start-cmd failed"] {
        assert!(done.error().contains(part), "no {part:?} in {}", done.error());
    }
    fs::remove_dir_all(&away).unwrap();
    it.rollback(["--yes"]).ok();
    let done = it.restore(["--yes", "--stop-cmd", &stop]).ended(1);
    assert!(hint(&done).contains("the service is stopped: start it"), "{}", hint(&done));
    it.assert_is(&it.bad);
}

#[test]
fn an_exchange_that_neither_goes_on_nor_back_leaves_the_service_down_and_says_what_ends_that() {
    let it = Incident::new();
    let log = it.bench.dir.join("log");
    let start = format!("echo start >> {}", log.display());
    // One entry is exchanged, and then nothing can be any more.
    let rename = format!("inject=renameat2:error=EIO:when={}+", renames_before_the_swap(&it) + 2);
    let command = in_place(&it.bench, it.tree(), ["--yes", "--stop-cmd", "true", "--start-cmd", &start]);
    let done = run(traced(&command, &it.bench.dir.join("strace"), &["-e", "trace=renameat2", "-e", &rename])).ended(1);
    assert!(done.error().contains("the exchange could not be taken back: "), "{}", done.error());
    assert!(hint(&done).contains("the service is stopped; before it may run: opsctl rollback "), "{}", hint(&done));
    assert!(!log.exists());
    it.rollback(["--yes"]).ok();
    it.assert_is(&it.bad);
}

/// How many renames that may exchange or overwrite nothing a restore does before it exchanges the first entry.
fn renames_before_the_swap(it: &Incident) -> usize {
    let log = it.bench.dir.join("strace");
    let command = in_place(&it.bench, it.tree(), ["--yes"]);
    run(traced(&command, &log, &["-e", "trace=renameat2"])).ok();
    it.rollback(["--yes"]).ok();
    it.assert_is(&it.bad);
    let text = fs::read_to_string(log).unwrap();
    let calls = text.lines().filter(|line| line.contains("renameat2("));
    let is_staging = |line: &&str| line.contains(".part\"");
    assert!(calls.clone().any(|line| line.contains("RENAME_EXCHANGE")), "{text}");
    calls.take_while(is_staging).count()
}

// ---- what cannot be deleted ----

/// A file that nobody can delete, until this goes.
struct Immutable(PathBuf);

impl Immutable {
    fn new(path: &Path) -> Self {
        let this = Self(path.to_owned());
        assert!(this.change("+i"), "chattr +i {}: the file system or the user cannot do it", path.display());
        this
    }

    fn change(&self, how: &str) -> bool {
        Command::new("chattr").arg(how).arg("--").arg(&self.0).status().is_ok_and(|status| status.success())
    }
}

impl Drop for Immutable {
    fn drop(&mut self) {
        self.change("-i");
    }
}

#[test]
fn what_cannot_be_deleted_keeps_no_service_down_and_changes_no_exit_code() {
    let it = Incident::new();
    it.restore(["--yes"]).ok();
    let kept = folders(it.tree(), "previous-").remove(0);
    let stuck = Immutable::new(&kept.join("top"));
    it.bench.dir.write("tree/since", "since");
    let log = it.bench.dir.join("log");
    // When the service is started the tree that is to be deleted is whole still.
    let start = format!(
        "cat '{}' '{}' >> {}",
        kept.join("top").display(),
        kept.join("other/deep/file").display(),
        log.display()
    );
    let done = it.restore(["--yes", "--start-cmd", &start]).ok();
    assert_eq!(fs::read_to_string(&log).unwrap(), "top\nmade since\n");
    assert!(done.stderr.contains("deleting "), "{}", done.stderr);
    it.assert_is(&it.good);

    // It lies there still, beside the one that is kept now, and a restore that is taken back stays one.
    let health = it.bench.dir.write("health", r#"{"ok":false}"#);
    let (_server, url) = service(&health);
    it.bench.dir.write("tree/since", "since then");
    let before = Tree::read(it.tree());
    fs::remove_file(&log).unwrap();
    let start = format!("echo start >> {}", log.display());
    let gate = ["--yes", "--start-cmd", &start, "--verify-url", &url, "--verify-timeout", "1"];
    let done = it.restore(gate).ended(5);
    assert_eq!(done.json["rolled_back"], true);
    assert_eq!(fs::read_to_string(&log).unwrap(), "start\nstart\n");
    assert_equal(&before, &Tree::read(it.tree()));
    assert!(kept.join("top").exists());
    drop(stuck);
    run(rollback(&it.bench, it.tree(), ["--yes"])).ok();
    assert!(!kept.exists(), "the next run deletes it");
}

// ---- databases ----

#[test]
fn a_database_passes_its_check_after_every_way_back() {
    let bench = Bench::new();
    let db = bench.tree.join("app.db");
    sqlite(&db, "PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES (1), (2), (3);");
    bench.take();
    // After the incident it has a log of its own, which belongs to it and comes back with it.
    let keep = bench.dir.join("keep");
    let script = format!(
        "mkdir '{keep}'; sqlite3 '{db}' 'PRAGMA wal_autocheckpoint=0' 'DELETE FROM t' 'INSERT INTO t VALUES (99)' \
         '.shell cp \"{db}\" \"{db}-wal\" \"{keep}\"'; rm -f '{db}'*; cp '{keep}'/* '{tree}'",
        db = db.display(),
        keep = keep.display(),
        tree = bench.tree.display(),
    );
    let made = Command::new("sh").args(["-ec", &script]).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let bad = Tree::read(&bench.tree);
    // Looked at in a copy: a look puts the log into the database.
    let content = |what: &str| {
        let copy = bench.dir.mkdir(format!("copy-{what}"));
        for name in ["app.db", "app.db-wal"].map(|name| bench.tree.join(name)).iter().filter(|path| path.exists()) {
            fs::copy(name, copy.join(name.file_name().unwrap())).unwrap();
        }
        sqlite(&copy.join("app.db"), "PRAGMA quick_check; SELECT count(*), max(x) FROM t;")
    };
    assert_eq!(content("before"), "ok\n1|99");
    run(in_place(&bench, &bench.tree, ["--yes"])).ok();
    assert_eq!(content("restored"), "ok\n3|3");
    run(rollback(&bench, &bench.tree, ["--yes"])).ok();
    assert_eq!(content("rolled-back"), "ok\n1|99");
    run(rollback(&bench, &bench.tree, ["--yes"])).ok();
    assert_eq!(content("put-back"), "ok\n3|3");
    run(rollback(&bench, &bench.tree, ["--yes"])).ok();

    run(in_place(&bench, &bench.tree, ["--yes", "--start-cmd", "exit 7"])).ended(5);
    assert_eq!(content("undone"), "ok\n1|99");
    cut_off_while_swapping(&bench);
    run(rollback(&bench, &bench.tree, ["--yes"])).ok();
    assert_eq!(content("given-up"), "ok\n1|99");
    assert_equal(&bad, &Tree::read(&bench.tree));
    cut_off_while_swapping(&bench);
    run(in_place(&bench, &bench.tree, ["--yes"])).ok();
    assert_eq!(content("recovered"), "ok\n3|3");
    run(rollback(&bench, &bench.tree, ["--yes"])).ok();
    killed(in_place(&bench, &bench.tree, ["--yes", "--start-cmd", "kill -9 $PPID"]));
    run(in_place(&bench, &bench.tree, ["--yes"])).ok();
    assert_eq!(content("verified-later"), "ok\n3|3");
}

#[test]
fn who_does_not_wait_for_the_start_is_told_what_is_live_and_nothing_is_taken_back() {
    let it = Incident::new();
    let begun = it.bench.dir.join("begun");
    let start = format!("touch '{}'; exec sleep 600", begun.display());
    let run = Guarded::spawn(&mut in_place(&it.bench, it.tree(), ["--yes", "--start-cmd", &start]));
    wait_for("the start", SOON, || begun.exists().then_some(()));
    signal(&run.0, Signal::INT);
    let done = run.end().ended(130);
    assert!(hint(&done).contains("the new folder is live, and not verified: run this again"), "{}", hint(&done));
    it.assert_is(&it.good);
    it.rollback(["--yes"]).ok();
    it.assert_is(&it.bad);
}
