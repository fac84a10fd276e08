//! A restore in place around a service: who uses the folder, the stop and the start of it, whether it is well
//! afterwards, and which versions it runs.
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
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use cycle::Worker;
use incident::{Incident, cut_off_before_swap, cut_off_while_swapping, folders, in_place, killed, rollback, sqlite};
use stub_store::{service, serving};
use support::opsctl::{Bench, Guarded, run};
use support::tree::{Tree, assert_equal};
use support::wait_for;

const SOON: Duration = Duration::from_secs(20);

// ---- who uses the folder ----

#[test]
fn a_tree_in_use_is_refused_with_the_process_and_force_insists() {
    let it = Incident::new();
    let mut sleeper = Command::new("sleep");
    sleeper.arg("600");
    let holders: [(&str, Command); 3] = [
        ("its directory", {
            let mut command = Command::new("sleep");
            command.arg("600").current_dir(it.tree().join("workspace"));
            command
        }),
        ("top", {
            let mut command = Command::new("sh");
            command.args(["-c", "exec 3<\"$1\"; exec sleep 600", "sh"]).arg(it.tree().join("top"));
            command
        }),
        ("a lock", {
            let mut command = Command::new("flock");
            command.args(["--shared", "--no-fork"]).arg(it.tree()).args(["sleep", "600"]);
            command
        }),
    ];
    for (what, mut command) in holders {
        let process = Guarded::spawn(&mut command);
        let in_use = || {
            let done = it.restore(["--dry-run"]).ok();
            let users = done.json["in_place"]["in_use_by"].as_array().unwrap().clone();
            users.iter().any(|user| user.as_str().unwrap().contains(what)).then_some(())
        };
        wait_for("the process to use the tree", SOON, in_use);
        let done = it.restore(["--yes"]).ended(11);
        assert!(done.error().contains(&format!("process {} ", process.0.id())), "{}", done.error());
        it.assert_is(&it.bad);
    }
    let process = Guarded::spawn(sleeper.current_dir(it.tree()));
    let in_use = || (it.restore(["--yes"]).code == 11).then_some(());
    wait_for("the process to use the tree", SOON, in_use);
    it.restore(["--yes", "--force"]).ok();
    it.assert_is(&it.good);
    it.rollback(["--yes"]).ended(11);
    drop(process);
    it.rollback(["--yes"]).ok();
}

/// Adds a row whenever it gets a line, and prints how many it has added.
const WRITER: &str = "
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)
db.execute('PRAGMA wal_autocheckpoint=0')
n = 0
while True:
    n += 1
    db.execute('INSERT INTO t VALUES (1000)')
    print(n, flush=True)
    if not sys.stdin.readline(): break
";

#[test]
fn a_database_in_use_is_refused_and_with_force_its_writer_cannot_spoil_the_restored_one() {
    for mode in [&["--yes", "--force"][..], &["--yes", "--force", "--in-place"]] {
        let bench = Bench::new();
        let db = bench.tree.join("app.db");
        sqlite(&db, "PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES (1), (2), (3);");
        bench.take();
        let mut writer = Worker::start(Command::new("python3").args(["-c", WRITER]).arg(&db));
        assert!(bench.tree.join("app.db-wal").exists());

        let refused = run(in_place(&bench, &bench.tree, ["--yes"])).ended(11);
        assert!(refused.error().contains("app.db"), "{}", refused.error());
        run(in_place(&bench, &bench.tree, mode)).ok();
        // It writes on into what is not the live tree any more, and puts what it has into its own database at its end.
        writer.step();
        drop(writer);
        let restored = bench.dir.join("copy.db");
        fs::copy(&db, &restored).unwrap();
        for suffix in ["-wal", "-shm", "-journal"] {
            assert!(!bench.tree.join(format!("app.db{suffix}")).exists(), "{mode:?} {suffix}");
        }
        assert_eq!(sqlite(&restored, "PRAGMA quick_check; SELECT count(*), max(x) FROM t;"), "ok\n3|3", "{mode:?}");
    }
}

// ---- the health gate ----

#[test]
fn a_service_that_is_well_keeps_the_new_tree() {
    let it = Incident::new();
    let dir = it.bench.dir.path();
    let (_server, url) = service(&dir.join("health"));
    fs::write(dir.join("health"), "{}").unwrap();
    let log = dir.join("log");
    let stop = format!("echo stop >> {}", log.display());
    // It becomes well when it is started, and sees the new tree.
    let start = format!(
        "cat {}/top >> {log}; echo start >> {log}; echo '{{\"ok\":true,\"version\":\"0.18.1\"}}' > {}",
        it.tree().display(),
        dir.join("health").display(),
        log = log.display()
    );
    fs::write(it.tree().join("top"), "bad\n").unwrap();
    let done = it.restore(["--yes", "--verify-url", &url, "--stop-cmd", &stop, "--start-cmd", &start]).ended(3);
    assert_eq!(fs::read_to_string(&log).unwrap(), "stop\ntop\nstart\n");
    let verification = &done.json["verification"];
    assert_eq!((&verification["ok"], &verification["problem"]), (&true.into(), &serde_json::Value::Null));
    let status = |name: &str| {
        let checks = verification["checks"].as_array().unwrap();
        checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("no {name}"))["status"].clone()
    };
    for name in ["health", "ui", "auth.none", "auth.wrong"] {
        assert_eq!(status(name), "ok", "{name}");
    }
    // There is no token here to ask the rest with, and that is said: a gate that compared nothing has not passed.
    assert_eq!(status("sessions"), "skipped");
    assert_eq!(verification["verdict"], "inconclusive");
    assert!(done.warning("not everything could be verified").contains("sessions.against"), "{}", done.stdout);
    assert!(done.says("sessions was not checked: no token of `client`: set OPENWORK_TOKEN"), "{}", done.stderr);
    it.assert_is(&it.good);
}

#[test]
fn a_service_that_lets_everybody_in_gets_its_old_tree_back() {
    let it = Incident::new();
    let health = it.bench.dir.write("health", r#"{"ok":true,"version":"0.18.1"}"#);
    let (_server, url) = serving(&health, "200 OK");
    let done = it.restore(["--yes", "--verify-url", &url]).ended(5);
    assert!(done.error().contains("OPEN TO EVERYBODY without a token"), "{}", done.error());
    it.assert_is(&it.bad);
}

#[test]
fn what_cannot_be_asked_is_refused_before_anything_is_changed() {
    let it = Incident::new();
    let profile = "name = \"bare\"\ncontract_version = \"1.0\"\n[[services]]\nname = \"bare\"\n";
    let profile = it.bench.dir.write("bare.toml", format!("{profile}[services.volume]\ndata_root = \"/data\"\n"));
    let profile = profile.to_str().unwrap();
    for (args, why) in [
        (["--verify-url", "ftp://127.0.0.1", "--profile", "openwork"], "--verify-url"),
        (["--verify-url", "http://127.0.0.1/?x=y", "--profile", "openwork"], "--verify-url"),
        (["--verify-url", "http://127.0.0.1:9", "--profile", profile], "no probes"),
    ] {
        let done = it.restore(["--yes", "--stop-cmd", "exit 9"].into_iter().chain(args)).ended(2);
        assert!(done.error().contains(why), "{}", done.error());
    }
    it.assert_is(&it.bad);
}

#[test]
fn a_service_that_is_not_well_gets_its_old_tree_back() {
    let it = Incident::new();
    let dir = it.bench.dir.path();
    let (_server, url) = service(&dir.join("health"));
    fs::write(dir.join("health"), r#"{"ok":false}"#).unwrap();
    let log = dir.join("log");
    let (stop, start) = (format!("echo stop >> {}", log.display()), format!("echo start >> {}", log.display()));
    let gate = ["--yes", "--verify-url", &url, "--verify-timeout", "1", "--stop-cmd", &stop, "--start-cmd", &start];
    let done = it.restore(gate).ended(5);
    assert!(done.error().contains("not well") && done.error().contains("as it was before"), "{}", done.error());
    assert_eq!(fs::read_to_string(&log).unwrap(), "stop\nstart\nstop\nstart\n");
    it.assert_is(&it.bad);
    it.rollback(["--yes"]).ended(10);
    // With --no-rollback the new tree stays, and can be taken back by hand.
    let done = it.restore(gate.iter().copied().chain(["--no-rollback"])).ended(5);
    assert!(done.error().contains("opsctl rollback"), "{}", done.error());
    it.assert_is(&it.good);
    it.rollback(["--yes"]).ok();
    it.assert_is(&it.bad);
}

#[test]
fn a_service_that_does_not_stop_keeps_its_tree() {
    let it = Incident::new();
    let done = it.restore(["--yes", "--stop-cmd", "exit 3"]).ended(1);
    assert!(done.error().contains("--stop-cmd") && done.error().contains('3'), "{}", done.error());
    it.assert_is(&it.bad);
}

#[test]
fn children_do_not_get_what_is_for_opsctl_alone() {
    let it = Incident::new();
    let seen = it.bench.dir.join("seen");
    let (stop, start) = (format!("env > {}", seen.display()), format!("env >> {}", seen.display()));
    let mut command = in_place(&it.bench, it.tree(), ["--yes", "--stop-cmd", &stop, "--start-cmd", &start]);
    let private = [
        "OPSCTL_TZ",
        "OP_SERVICE_ACCOUNT_TOKEN",
        "RAILWAY_TOKEN",
        "RAILWAY_API_TOKEN",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
        "ACCESS_KEY_ID",
        "SECRET_ACCESS_KEY",
        "GOOGLE_SERVICE_ACCOUNT_KEY",
        "GOOGLE_SERVICE_ACCOUNT",
        "GOOGLE_SERVICE_ACCOUNT_PATH",
        "GOOGLE_APPLICATION_CREDENTIALS",
        "AZURE_STORAGE_ACCOUNT_NAME",
        "AZURE_STORAGE_ACCOUNT_KEY",
        "AZURE_STORAGE_ACCESS_KEY",
        "AZURE_STORAGE_KEY",
        "AZURE_STORAGE_SAS_TOKEN",
        "AZURE_STORAGE_SAS_KEY",
        "AZURE_CLIENT_SECRET",
        "AZURE_FEDERATED_TOKEN_FILE",
    ];
    for name in private {
        command.env(name, "UTC");
    }
    command.env("RAILWAY_SERVICE_NAME", "web");
    run(command).ok();
    let seen = fs::read_to_string(seen).unwrap();
    assert_eq!(seen.matches("RAILWAY_SERVICE_NAME=web\n").count(), 2, "{seen}");
    assert!(seen.contains("PATH="), "{seen}");
    for name in private.iter().chain(&["OPSCTL_IDENTITY_FILE", "OPSCTL_STORE"]) {
        assert!(!seen.lines().any(|line| line.starts_with(&format!("{name}="))), "{name} in {seen}");
    }
}

// ---- versions ----

#[test]
fn another_contract_version_is_said_and_an_incompatible_one_refused() {
    let it = Incident::new();
    let profile = |more: &str| {
        let head = "name = \"openwork\"\ncontract_version = \"2.0\"\n";
        let text = format!("{head}{more}[[services]]\nname = \"openwork\"\n[services.volume]\ndata_root = \"/data\"\n");
        it.bench.dir.write("profile.toml", text)
    };
    let with = |path: &Path, args: &[&str]| {
        let mut command = in_place(&it.bench, it.tree(), args);
        command.arg("--profile").arg(path);
        run(command)
    };
    let path = profile("incompatible = [\"1.*\"]\n");
    let done = with(&path, &["--yes"]).ended(1);
    assert!(done.error().contains("1.0") && done.error().contains("2.0"), "{}", done.error());
    it.assert_is(&it.bad);
    let done = with(&path, &["--yes", "--allow-incompatible"]).ok();
    done.warning("incompatible");
    it.assert_is(&it.good);
    it.rollback(["--yes"]).ok();
    let into_new = |name: &str, args: &[&str]| {
        let mut command = it.bench.restore_command(&it.bench.dir.join(name), args);
        command.arg("--profile").arg(&path);
        run(command)
    };
    into_new("new", &[]).ended(1);
    assert!(!it.bench.dir.join("new").exists());
    into_new("new", &["--allow-incompatible"]).ok().warning("incompatible");
    let path = profile("");
    let done = with(&path, &["--yes"]).ok();
    assert!(done.warning("version 1.0").contains("2.0"));
}

#[test]
fn other_versions_than_the_running_service_s_are_said_with_both() {
    let it = Incident::new();
    let health = it.bench.dir.write("health", r#"{"ok":true,"version":"0.18.1","opencodeVersion":"1.17.11"}"#);
    let (_server, url) = service(&health);
    let taken = it.bench.snapshot(["--service-url", &url]).ok();
    let restore = |url: &str| it.restore(["--yes", "--snapshot", taken.id(), "--service-url", url]);

    let same = restore(&url).ok();
    assert_eq!(same.warnings(), [""; 0]);
    fs::write(&health, r#"{"ok":true,"version":"0.19.0","opencodeVersion":"1.17.11"}"#).unwrap();
    let planned = it.restore(["--dry-run", "--snapshot", taken.id(), "--service-url", &url]).ok();
    let other = restore(&url).ok();
    for said in [planned.warning("0.18.1"), other.warning("0.18.1")] {
        assert!(said.contains("server") && said.contains("0.19.0"), "{said}");
    }
    assert_eq!(other.warnings().len(), 1, "{:?}", other.warnings());

    // During an incident the service may not answer: that is said, and does not stop anything.
    let gone = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
    let untold = restore(&format!("http://{gone}")).ok();
    assert!(untold.says("versions of the service are not compared"), "{}", untold.stderr);
    restore("ftp://127.0.0.1").ended(2);
}

// ---- cut off around the service ----

#[test]
fn a_restore_that_died_before_its_service_was_started_is_verified_by_the_next_run() {
    let it = Incident::new();
    let health = it.bench.dir.write("health", r#"{"ok":true,"version":"0.18.1"}"#);
    let (_server, url) = service(&health);
    let args = ["--yes", "--verify-url", &url, "--start-cmd", "kill -9 $PPID"];
    killed(in_place(&it.bench, it.tree(), args));
    it.assert_is(&it.good);
    let log = it.bench.dir.join("log");
    let start = format!("echo start >> {}", log.display());
    let done = it.restore(["--yes", "--verify-url", &url, "--start-cmd", &start]).ended(3);
    assert!(done.says("the live tree is the new one, not verified yet"), "{}", done.stderr);
    assert_eq!((done.text("recovered"), done.number("bytes_written")), ("finished", 0));
    assert_eq!(
        (&done.json["verification"]["ok"], fs::read_to_string(&log).unwrap().as_str()),
        (&true.into(), "start\n")
    );
    it.assert_is(&it.good);
    it.rollback(["--yes"]).ok();
    it.assert_is(&it.bad);
}

#[test]
fn a_service_that_is_stopped_to_end_an_earlier_restore_runs_again_until_the_next_is_staged() {
    let it = Incident::new();
    cut_off_while_swapping(&it.bench);
    let log = it.bench.dir.join("log");
    let (stop, start) = (format!("echo stop >> {}", log.display()), format!("echo start >> {}", log.display()));
    let done = it.restore(["--yes", "--include", "workspace", "--stop-cmd", &stop, "--start-cmd", &start]).ok();
    assert_eq!(done.text("recovered"), "undone");
    assert_eq!(fs::read_to_string(&log).unwrap(), "stop\nstart\nstop\nstart\n");
    it.rollback(["--yes"]).ok();
    it.assert_is(&it.bad);
}

#[test]
fn a_restore_that_died_after_its_service_was_stopped_has_changed_nothing_and_fetches_nothing_twice() {
    let it = Incident::new();
    cut_off_before_swap(&it.bench);
    it.assert_is(&it.bad);
    let done = it.restore(["--yes"]).ok();
    assert!(done.says("the live tree is the old one, untouched"), "{}", done.stderr);
    assert_eq!((done.text("recovered"), done.number("bytes_written")), ("none", 0));
    it.assert_is(&it.good);
    let kept = folders(it.tree(), "previous-");
    assert_equal(&it.bad, &Tree::read(&kept[0]));
    run(rollback(&it.bench, it.tree(), ["--yes"])).ok();
    it.assert_is(&it.bad);
}
