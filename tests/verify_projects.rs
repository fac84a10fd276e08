//! `opsctl verify --against` where one database holds the sessions of several folders: a list of sessions is that of one.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod support;

#[path = "support/opencode.rs"]
mod opencode;
#[path = "support/openwork/mod.rs"]
mod openwork;
#[path = "support/stub_store.rs"]
mod stub_store;
#[path = "support/verifier.rs"]
mod verifier;

use std::path::Path;
use std::process::Command;

use opencode::{Home, NEW, OLD, OpenCode, USER};
use openwork::{Engine, OpenWork, Version};
use opsctl::archive::facts::{Facts, Recorded, SessionFacts};
use serde_json::json;
use support::TestDir;
use verifier::compared;

fn facts(ids: impl IntoIterator<Item = (String, u64)>) -> Facts {
    let sessions = SessionFacts { path: "opencode.db".to_owned(), messages: ids.into_iter().collect() };
    Facts { sessions: Recorded::Recorded(sessions), ..Facts::default() }
}

/// A repository with a commit: a project of its own to OpenCode.
fn repository(path: &Path) {
    std::fs::create_dir_all(path).unwrap();
    for args in [&["init", "-q"][..], &["commit", "-q", "--allow-empty", "-m", "first"]] {
        let mut git = Command::new("git");
        git.env_clear().envs(support::clean_env()).current_dir(path);
        git.args(["-c", "user.name=x", "-c", "user.email=x@example.com"]).args(args);
        assert!(git.status().unwrap().success());
    }
}

#[test]
fn sessions_of_other_folders_are_not_missing_though_no_list_has_them() {
    for version in [OLD, NEW] {
        let dir = TestDir::new();
        let data = dir.mkdir("data");
        let home = Home(data.join("xdg"));
        let real = OpenCode::start(version, &data.join("workspace"), &home);
        let work = OpenWork::boot(Version::V0_18_16, &data, Engine::real(real.port, USER, &real.password));
        let other = data.join("workspace/project");
        repository(&other);
        let here = real.create("here");
        let made = real.ask("POST", &format!("/session?directory={}", other.display()), &json!({ "title": "there" }));
        let there = made["id"].as_str().unwrap().to_owned();
        real.say(&there, "hello");
        assert_eq!(work.sessions(), std::slice::from_ref(&here), "{version}: the list is that of the workspace");
        // What a snapshot records is what the database holds.
        let db = rusqlite::Connection::open(home.database()).unwrap();
        let captured = opsctl::providers::opencode::sessions(&db).unwrap();
        assert_eq!(captured, [(here.clone(), 0), (there.clone(), 1)].into());

        let compare = |facts| compared(&work.url(), &work.env(), facts);
        let done = compare(facts(captured.clone()));
        assert_eq!(done.status("sessions.against"), "ok", "{version}: {}", done.0.stdout);
        let all = "all 2 sessions that were captured are there; 1 in no list, as those of other folders are; \
                   the messages of 2 sessions were counted";
        assert_eq!(done.detail("sessions.against"), all, "{version}");
        // A session that is in no list and not there, and a message of one that is.
        let lost = "ses_e0022a6afffesM7xd6t47GVyTI".to_owned();
        let with_lost = captured.clone().into_iter().chain([(lost.clone(), 0)]);
        let done = compare(facts(with_lost)).failed(&["sessions.against"]);
        assert_eq!(done.detail("sessions.against"), format!("1 of 3 sessions are missing: {lost}"), "{version}");
        let done = compare(facts([(there.clone(), 2)])).failed(&["sessions.against"]);
        let short = format!("{there} has 1 message where 2 were captured");
        assert_eq!(done.detail("sessions.against"), short, "{version}");
    }
}
