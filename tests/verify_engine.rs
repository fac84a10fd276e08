//! `opsctl verify` on sessions that a real OpenCode keeps.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod support;

#[path = "support/deployed.rs"]
mod deployment;
#[path = "support/opencode.rs"]
mod opencode;
#[path = "support/openwork/mod.rs"]
mod openwork;
#[path = "support/stub_store.rs"]
mod stub_store;
#[path = "support/verifier.rs"]
mod verifier;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use deployment::{Deployment, sessions};
use opencode::{Home, NEW, OLD, OLDEST, OpenCode, USER};
use openwork::{Engine, OpenWork, Version, workspace_id};
use opsctl::archive::facts::{Facts, Recorded, SessionFacts};
use rusqlite::Connection;
use serde_json::json;
use support::TestDir;
use support::opsctl::url;
use verifier::{Verified, compared, verified};

/// More than a list holds that nobody asked to be longer.
const SESSIONS: usize = 110;

#[test]
fn what_opencode_1_2_keeps_is_found() {
    keeps_what_it_is_compared_with(OLD);
}

#[test]
fn what_opencode_1_18_keeps_is_found() {
    keeps_what_it_is_compared_with(NEW);
}

fn keeps_what_it_is_compared_with(version: &str) {
    let dir = TestDir::new();
    let data = dir.mkdir("data");
    let engine = OpenCode::start(version, &data.join("workspace"), &Home(data.join("xdg")));
    let work = OpenWork::boot(Version::V0_18_16, &data, Engine::real(engine.port, USER, &engine.password));
    let ids: Vec<String> = (0..SESSIONS).map(|n| engine.create(&format!("session {n}"))).collect();
    (0..120).for_each(|n| engine.say(&ids[7], &format!("message {n}")));
    engine.say(&ids[50], "the only one");

    let done = verified(&work.url(), &work.env(), &["--write-probe", "--create-probe-tokens"]).passed();
    assert_eq!(done.0.json["versions"]["opencode"], version);
    assert!(done.detail("sessions").starts_with(&format!("{SESSIONS} sessions")), "{}", done.detail("sessions"));
    assert_eq!(engine.sessions().len(), SESSIONS, "what verify made is gone");

    let facts = |more: &[(&str, u64)]| {
        let mut messages: BTreeMap<String, u64> = ids.iter().map(|id| (id.clone(), 0)).collect();
        messages.extend([(ids[7].clone(), 120), (ids[50].clone(), 1)]);
        messages.extend(more.iter().map(|(id, count)| ((*id).to_owned(), *count)));
        let path = "xdg/share/opencode/opencode.db".to_owned();
        Facts { sessions: Recorded::Recorded(SessionFacts { path, messages }), ..Facts::default() }
    };
    let compare = |facts| compared(&work.url(), &work.env(), facts);
    let done = compare(facts(&[]));
    assert_eq!(done.status("sessions.against"), "ok", "{}", done.0.stdout);
    let all = format!(
        "all {SESSIONS} sessions that were captured are there; the messages of {SESSIONS} sessions were counted"
    );
    assert_eq!(done.detail("sessions.against"), all);
    // A message that was captured and is not there, and a session.
    let done = compare(facts(&[(&ids[7], 121)])).failed(&["sessions.against"]);
    assert!(done.detail("sessions.against").contains(&format!("{} has 120 messages where 121 were captured", ids[7])));
    let done = compare(facts(&[("ses_gone", 0)])).failed(&["sessions.against"]);
    assert_eq!(done.detail("sessions.against"), format!("1 of {} sessions are missing: ses_gone", SESSIONS + 1));

    // What is sent to find out whether a viewer may write is refused by this engine, so that nothing comes of it.
    let before = engine.sessions();
    work.fault(|faults| faults.viewers_write = true);
    let done = verified(&work.url(), &work.env(), &["--create-probe-tokens"]).failed(&["auth.viewer"]);
    let detail = done.detail("auth.viewer");
    assert!(detail.contains("POST /opencode/session answers 400"), "{detail}");
    assert_eq!(engine.sessions(), before);
}

// ---- pitfalls, by their numbers, with what a snapshot of the real thing recorded ----

/// A deployment in use: a server in front of a real engine.
fn in_use(version: &str) -> (Deployment, OpenCode, OpenWork) {
    let it = Deployment::new();
    let engine = OpenCode::start(version, &it.workspace(), &it.home());
    let work = OpenWork::boot(Version::V0_18_16, &it.bench.tree, Engine::real(engine.port, USER, &engine.password));
    (it, engine, work)
}

/// The server finds another engine.
fn behind(work: &OpenWork, engine: &OpenCode) {
    work.reboot(Some(Engine::real(engine.port, USER, &engine.password)));
}

fn against(it: &Deployment, work: &OpenWork, snapshot: &str) -> Verified {
    let mut env = work.env();
    env.push(("OPSCTL_STORE", url(&it.bench.store)));
    env.push(("OPSCTL_IDENTITY_FILE", it.bench.identity.display().to_string()));
    verified(&work.url(), &env, &["--against", snapshot])
}

/// The file of a database alone, as `cp` takes it, in a home of its own.
fn naive_copy(it: &Deployment) -> Home {
    let home = Home(it.bench.dir.join("naive"));
    fs::create_dir_all(home.database().parent().unwrap()).unwrap();
    fs::copy(it.home().database(), home.database()).unwrap();
    home
}

/// What a naive check asks of a database.
fn integrity(database: &Path) -> String {
    let copy = database.with_extension("looked-at");
    fs::copy(database, &copy).unwrap();
    Connection::open(&copy).unwrap().query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap()
}

#[test]
fn pitfall_1_a_copy_of_the_database_alone_is_whole_for_sqlite_and_lacks_the_newest_messages() {
    for version in [OLD, NEW] {
        let (it, engine, work) = in_use(version);
        let id = engine.create("a session");
        engine.say(&id, "in the database");
        let checkpoint = |row: &rusqlite::Row<'_>| row.get::<_, i64>(0);
        let live = Connection::open(it.home().database()).unwrap();
        assert_eq!(live.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], checkpoint), Ok(0));
        drop(live);
        (0..31).for_each(|n| engine.say(&id, &format!("in the log {n}")));
        let taken = it.take();
        let naive = naive_copy(&it);
        assert_eq!(integrity(&naive.database()), "ok");
        engine.stop();

        let engine = OpenCode::start(version, &it.workspace(), &naive);
        behind(&work, &engine);
        assert_eq!(engine.sessions(), std::slice::from_ref(&id));
        let done = against(&it, &work, taken.id()).failed(&["sessions.against"]);
        assert_eq!(done.detail("sessions.against"), format!("{id} has 1 message where 32 were captured"));
        engine.stop();
        // The snapshot has them.
        let restored = it.bench.dir.join("restored");
        it.bench.restore(&restored, ["--snapshot", taken.id()]).ok();
        let engine = OpenCode::start(version, &it.workspace(), &Home(restored.join("xdg")));
        behind(&work, &engine);
        against(&it, &work, taken.id()).passed();
    }
}

#[test]
fn pitfall_1_a_small_database_without_its_log_holds_no_session_at_all() {
    let (it, engine, work) = in_use(OLD);
    let id = engine.create("in the log");
    let taken = it.take();
    let naive = naive_copy(&it);
    assert_eq!(integrity(&naive.database()), "ok");
    engine.stop();
    let engine = OpenCode::start(OLD, &it.workspace(), &naive);
    behind(&work, &engine);
    let done = against(&it, &work, taken.id()).failed(&["sessions.against"]);
    assert_eq!(done.detail("sessions.against"), format!("0 sessions where 1 were captured: {id}"));
    assert_eq!((done.status("health"), done.status("engine")), ("ok", "ok"));
}

#[test]
fn pitfall_3_a_snapshot_restored_to_another_path_is_served_as_another_workspace_or_not_at_all() {
    let (it, engine, work) = in_use(NEW);
    let workspace = it.workspace();
    let config = json!({ "workspaces": [{ "path": workspace }], "authorizedRoots": [workspace] });
    let server = it.bench.dir.write("tree/openwork-server/server.json", config.to_string());
    work.upload("note.txt", "note");
    let id = engine.create("a session");
    let taken = it.take();
    against(&it, &work, taken.id()).passed();
    engine.stop();

    let moved = it.bench.dir.join("moved");
    it.bench.restore(&moved, ["--snapshot", taken.id()]).ok();
    let engine = OpenCode::start(NEW, &moved.join("workspace"), &Home(moved.join("xdg")));
    let work = OpenWork::boot(Version::V0_18_16, &moved, Engine::real(engine.port, USER, &engine.password));
    // With the old configuration it is listed, and not served.
    let done = against(&it, &work, taken.id()).is("failed");
    assert_eq!((done.status("health"), done.status("ui"), done.status("workspaces")), ("ok", "ok", "ok"));
    let detail = done.detail("workspaces.config");
    assert!(detail.contains("403 workspace_unauthorized") && detail.contains("written for another path"), "{detail}");
    // Without it, everything is well, the sessions too, but for its id and its audit log.
    fs::remove_file(moved.join(server.strip_prefix(&it.bench.tree).unwrap())).unwrap();
    behind(&work, &engine);
    assert_eq!(work.sessions(), [id]);
    let done = against(&it, &work, taken.id()).failed(&["workspaces.against"]);
    let old = format!("{} of {} is missing", workspace_id(&workspace), workspace.display());
    assert_eq!(done.detail("workspaces.against"), old);
}

#[test]
fn pitfall_9_sessions_in_files_are_not_captured_as_sessions_and_are_so_after_the_engine_has_moved_them() {
    let (it, engine, work) = in_use(OLDEST);
    let id = engine.create("in files");
    engine.say(&id, "hello");
    assert!(!it.home().database().exists());
    let done = verified(&work.url(), &work.env(), &[]).passed();
    assert_eq!(done.0.json["versions"]["opencode"], OLDEST);
    let taken = it.take();
    taken.warning("sessions: not captured");
    let done = against(&it, &work, taken.id()).is("inconclusive");
    assert_eq!((done.status("sessions"), done.status("sessions.against")), ("ok", "skipped"));
    engine.stop();

    // The files are in the snapshot all the same, and the next line of versions takes them over.
    let restored = it.bench.dir.join("restored");
    it.bench.restore(&restored, ["--snapshot", taken.id()]).ok();
    let engine = OpenCode::start(OLD, &it.workspace(), &Home(restored.join("xdg")));
    behind(&work, &engine);
    assert_eq!((engine.sessions(), engine.messages(&id)), (vec![id.clone()], 1));
    against(&it, &work, taken.id()).is("inconclusive");
    engine.stop();
    let engine = OpenCode::start(OLD, &it.workspace(), &it.home());
    behind(&work, &engine);
    let taken = it.take();
    assert_eq!(sessions(&it.facts()).messages, [(id, 1)].into());
    against(&it, &work, taken.id()).passed();
}
