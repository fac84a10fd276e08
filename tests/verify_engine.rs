//! `opsctl verify` on sessions that a real OpenCode keeps.
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

use std::collections::BTreeMap;

use opencode::{Home, NEW, OLD, OpenCode, USER};
use openwork::{Engine, OpenWork, Version};
use opsctl::archive::facts::{Facts, Recorded, SessionFacts};
use support::TestDir;
use verifier::{compared, verified};

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
