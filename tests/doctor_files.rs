//! `doctor` on the files of the volume: who may write them, what they must hold, and how databases are looked at.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

mod support;

#[path = "support/deployment.rs"]
mod deployment;
#[path = "support/stub_store.rs"]
mod stub_store;

use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;
use std::time::Duration;

use deployment::{Deployment, assert_check, checks, those};
use rusqlite::Connection;
use rustix::process::Signal;
use support::opsctl::{Done, Mounted, chmod, noise, run};
use support::{opsctl_process, signal, wait_for};

/// Nothing is advised that would take somebody else's files away: one path at a time, on the volume.
#[track_caller]
fn advises_one_path_at_a_time(done: &Done, root: &Path) {
    for (name, (_, _, fix)) in checks(done) {
        assert!(!fix.contains(" -R"), "{name}: {fix}");
        let mut words = fix.split(' ');
        if words.any(|word| word == "chown") {
            assert_eq!(words.next(), Some("65534"), "{name}: {fix}");
            let path = Path::new(words.next().unwrap());
            assert!(path.starts_with(root) && words.next().is_none(), "{name}: {fix}");
        }
    }
}

#[test]
fn what_the_user_of_the_service_cannot_write_is_found_and_named() {
    let it = Deployment::new();
    let database = it.root.join("xdg/share/opencode/opencode.db");
    let live = Connection::open(&database).unwrap();
    live.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE session(id)").unwrap();
    fs::create_dir_all(it.root.join("xdg/config/opencode")).unwrap();
    let user = it.bench.unprivileged();
    let doctor = || run(user.command(&it.command(&[])));
    assert_check(&doctor().ok(), "file.workspace", "ok", "can be written to");
    for (path, check) in [
        ("workspace", "file.workspace"),
        ("openwork-server/tokens.json", "file.openwork-server/tokens.json"),
        ("openwork-server/server.json", "file.openwork-server/server.json"),
        ("xdg/share/opencode/opencode.db", "file.sessions"),
        ("xdg/share/opencode/opencode.db-wal", "file.sessions"),
        ("xdg/config/opencode", "file.config"),
    ] {
        let at = it.root.join(path);
        let mode = if at.is_dir() { 0o755 } else { 0o644 };
        chown(&at, Some(0), Some(0)).unwrap();
        chmod(&at, mode);
        let done = doctor().ended(1);
        assert_check(&done, check, "failed", &format!("{} cannot be written to", at.display()));
        assert_check(&done, check, "failed", &format!("chown 65534 {}", at.display()));
        assert_eq!(those(&done, "failed").len(), 1, "{path}: {}", done.stdout);
        advises_one_path_at_a_time(&done, &it.root);
        chown(&at, Some(65534), Some(65534)).unwrap();
    }
    // SQLite makes its side files beside the database.
    let folder = database.parent().unwrap();
    chown(folder, Some(0), Some(0)).unwrap();
    chmod(folder, 0o755);
    let done = doctor().ended(1);
    assert_check(&done, "file.sessions", "failed", &format!("chown 65534 {}", folder.display()));
    advises_one_path_at_a_time(&done, &it.root);
    drop(live);
}

#[test]
fn nothing_above_the_data_root_is_advised_to_be_given_away() {
    let it = Deployment::new();
    let user = it.bench.unprivileged();
    // Off the volume, where this user may make nothing.
    let mut command = it.command(&[]);
    command.env_remove("XDG_DATA_HOME").env("HOME", "/");
    let done = run(user.command(&command)).ended(1);
    assert_check(&done, "file.sessions", "failed", "cannot be made in /");
    assert_check(&done, "file.sessions", "failed", "not on the volume");
    advises_one_path_at_a_time(&done, &it.root);
    // A link out of the volume.
    let outside = it.bench.dir.mkdir("outside");
    chmod(&outside, 0o755);
    chown(&outside, Some(0), Some(0)).unwrap();
    fs::remove_dir(it.root.join("workspace")).unwrap();
    std::os::unix::fs::symlink(&outside, it.root.join("workspace")).unwrap();
    let done = run(user.command(&it.command(&[]))).ended(1);
    assert_check(&done, "file.workspace", "failed", "not on the volume");
    advises_one_path_at_a_time(&done, &it.root);
    // No volume at all.
    fs::remove_dir_all(&it.root).unwrap();
    let done = run(user.command(&it.command(&[]))).ended(1);
    assert_check(&done, "file.scratch", "failed", "attach a volume and mount it at");
    advises_one_path_at_a_time(&done, &it.root);
}

#[test]
fn json_without_the_list_that_the_service_looks_for_is_broken() {
    let it = Deployment::new();
    let whole = |path: &str| fs::read_to_string(it.root.join(path)).unwrap_or_default();
    for (path, check, content, says) in [
        ("openwork-server/tokens.json", "file.openwork-server/tokens.json", "{}", "no array at /tokens"),
        ("openwork-server/tokens.json", "file.openwork-server/tokens.json", "{\"tokens\":{}}", "no array at /tokens"),
        ("openwork-server/server.json", "file.openwork-server/server.json", "[]", "it holds no object"),
        ("openwork-server/env.json", "file.service-credentials", "{}", "no array at /variables"),
        ("xdg/share/opencode/auth.json", "file.provider-credentials", "[]", "it holds no object"),
    ] {
        let before = whole(path);
        fs::write(it.root.join(path), content).unwrap();
        assert_check(&it.doctor(&[]).ended(1), check, "failed", says);
        match before.as_str() {
            "" => fs::remove_file(it.root.join(path)).unwrap(),
            text => fs::write(it.root.join(path), text).unwrap(),
        }
    }
    fs::write(it.root.join("openwork-server/env.json"), "{\"variables\":[]}").unwrap();
    it.doctor(&[]).ok();
}

// ---- the copies of databases ----

#[test]
fn a_database_is_not_copied_where_there_is_no_room_for_it() {
    let it = Deployment::new();
    let small = it.bench.dir.join("small");
    let _mounted = Mounted::tmpfs(&small, "24m");
    let database = it.root.join("xdg/share/opencode/opencode.db");
    let db = Connection::open(&database).unwrap();
    db.execute_batch("CREATE TABLE session(content)").unwrap();
    let doctor = || {
        let mut command = it.command(&[]);
        command.env("TMPDIR", &small);
        run(command).ok()
    };
    assert_check(&doctor(), "file.sessions", "ok", "intact database");
    db.execute("INSERT INTO session VALUES (?1)", [noise(6 << 20, 1)]).unwrap();
    drop(db);
    let done = doctor();
    assert_check(&done, "file.sessions", "warning", "was not checked: a copy may take");
    assert_check(&done, "file.sessions", "warning", "TMPDIR");
    assert_eq!(fs::read_dir(&small).unwrap().count(), 0);
}

#[test]
fn no_copy_stays_whatever_ends_the_run() {
    let it = Deployment::new();
    let temporary = it.bench.dir.mkdir("temporary");
    let locked = Connection::open(it.root.join("xdg/share/opencode/opencode.db")).unwrap();
    locked.execute_batch("CREATE TABLE session(id); BEGIN EXCLUSIVE").unwrap();
    let copies = || fs::read_dir(&temporary).unwrap().count();
    for times in [1, 2] {
        let asked = it.command(&[]);
        let mut command = opsctl_process();
        command.args(asked.get_args()).envs(asked.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.env("TMPDIR", &temporary).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        let mut child = command.spawn().unwrap();
        wait_for("a copy to begin", Duration::from_secs(60), || (copies() > 0).then_some(()));
        (0..times).for_each(|_| signal(&child, Signal::INT));
        let status = child.wait().unwrap();
        assert_eq!((status.code(), copies()), (Some(130), 0), "after {times} signals");
    }
    locked.execute_batch("COMMIT").unwrap();
    drop(locked);
    let mut command = it.command(&[]);
    command.env("TMPDIR", &temporary);
    assert_check(&run(command).ok(), "file.sessions", "ok", "intact database");
    assert_eq!(copies(), 0);
}
