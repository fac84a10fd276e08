//! `opsctl verify` on services that look as if they worked: each known pitfall of OpenWork, by its number, fails a check
//! that a naive look would pass.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod support;

#[path = "support/openwork/mod.rs"]
mod openwork;
#[path = "support/site.rs"]
mod site;
#[path = "support/stub_store.rs"]
mod stub_store;
#[path = "support/verifier.rs"]
mod verifier;

use std::collections::BTreeMap;
use std::fs;

use openwork::{CLIENT, Engine, HOST, OpenWork, Setup, Version};
use opsctl::archive::facts::{Facts, Recorded, SessionFacts, WorkspaceFacts};
use site::{ENGINE, Site, sessions};
use support::TestDir;
use support::opsctl::run;
use verifier::{as_text, compared, verified};

#[test]
fn pitfall_1_a_session_that_lost_its_newest_messages_is_named_with_both_numbers() {
    let site = Site::new(Version::V0_18_16, 3);
    let mut facts = site.facts();
    let mut messages: BTreeMap<String, u64> = site.ids.iter().map(|id| (id.clone(), 0)).collect();
    messages.insert(site.ids[1].clone(), 31);
    facts.sessions = Recorded::Recorded(SessionFacts { path: String::new(), messages });
    let done = site.compare(facts).failed(&["sessions.against"]);
    assert!(done.detail("sessions.against").contains("ses_00001 has 0 messages where 31 were captured"));
}

#[test]
fn pitfall_2_no_session_where_130_were_captured_fails_though_every_end_point_is_well() {
    let site = Site::new(Version::V0_18_16, 0);
    let ids: Vec<String> = (0..130).map(|n| format!("ses_{n:05}")).collect();
    let done = site.compare(Facts { sessions: sessions(&ids), ..site.facts() }).failed(&["sessions.against"]);
    let detail = done.detail("sessions.against");
    assert!(detail.starts_with("0 sessions where 130 were captured: ses_00000, ses_00001,"), "{detail}");
    assert!(
        detail.ends_with("ses_00019 and 110 more") && done.fix("sessions.against").contains("XDG_DATA_HOME"),
        "{detail}"
    );
    // Without facts nobody can know, and that is said.
    assert_eq!(site.verify(&[]).passed().status("sessions"), "warning");
}

#[test]
fn pitfall_2_the_sessions_that_are_missing_are_named_one_by_one() {
    let site = Site::new(Version::V0_18_16, 5);
    let more: Vec<String> = ["ses_00003", "ses_a", "ses_b"].map(str::to_owned).into();
    let done = site.compare(Facts { sessions: sessions(&more), ..site.facts() }).failed(&["sessions.against"]);
    assert_eq!(done.detail("sessions.against"), "2 of 3 sessions are missing: ses_a, ses_b");
}

#[test]
fn pitfall_3_a_workspace_at_another_path_is_not_the_one_that_was_captured() {
    let site = Site::new(Version::V0_18_16, 1);
    let done = site.verify_at("/data/workspace").failed(&["workspaces"]);
    assert!(done.detail("workspaces").contains("/data/workspace is not there"), "{}", done.detail("workspaces"));
    let mut facts = site.facts();
    let moved = WorkspaceFacts { id: "ws_0123456789ab".into(), path: "/data/workspace".into(), ..Default::default() };
    facts.workspaces = Recorded::Recorded(vec![moved]);
    let done = site.compare(facts).failed(&["workspaces.against"]);
    assert_eq!(done.detail("workspaces.against"), "ws_0123456789ab of /data/workspace is missing");
}

#[test]
fn pitfall_3_a_path_that_only_the_profile_names_fails_nothing() {
    let site = Site::new(Version::V0_18_16, 1);
    let mut env = site.work.env();
    env.retain(|(name, _)| *name != "OPENWORK_WORKSPACE");
    let done = verified(&site.work.url(), &env, &[]).passed();
    assert_eq!(done.with("warning"), ["workspaces"], "{}", done.0.stdout);
    let (detail, fix) = (done.detail("workspaces"), done.fix("workspaces"));
    assert!(detail.contains(&site.work.workspace_id()) && fix.contains("OPENWORK_WORKSPACE=PATH"), "{detail}: {fix}");
    // All the rest is asked of the one that is there.
    assert_eq!(done.detail("workspaces.config"), format!("{} is served", site.work.workspace_id()));
    assert_eq!(done.status("sessions"), "ok");
}

#[test]
fn pitfall_3_however_a_path_is_spelled_it_is_the_same_workspace() {
    let site = Site::new(Version::V0_18_16, 1);
    let path = site.workspace();
    let (data, name) = path.rsplit_once('/').unwrap();
    for spelled in [format!("{path}/"), format!("{data}//{name}"), format!("{data}/./{name}/x/..")] {
        let done = site.verify_at(&spelled).passed();
        assert_eq!(done.detail("workspaces"), format!("{} of {path} is there", site.work.workspace_id()), "{spelled}");
    }
}

#[test]
fn pitfall_3_a_listed_workspace_that_is_not_served_is_explained_as_a_moved_path() {
    let dir = TestDir::new();
    let data = dir.mkdir("data");
    let old = serde_json::json!({ "workspaces": [{ "path": data.join("workspace") }], "authorizedRoots": ["/data/workspace"] });
    dir.write("data/openwork-server/server.json", old.to_string());
    let engine = Engine::memory(ENGINE, &data.join("workspace"), &["ses_a".to_owned()]);
    let work = OpenWork::boot(Version::V0_18_16, &data, engine);
    let done = verified(&work.url(), &work.env(), &[]).is("failed");
    assert_eq!((done.status("health"), done.status("workspaces")), ("ok", "ok"));
    assert_eq!(done.status("workspaces.config"), "failed");
    let detail = done.detail("workspaces.config");
    assert!(detail.contains("403 workspace_unauthorized") && detail.contains("written for another path"), "{detail}");
}

#[test]
fn pitfall_3_an_audit_log_that_ends_before_the_capture_fails() {
    let site = Site::new(Version::V0_18_16, 1);
    let with_audit = |last: i64| {
        let workspace = WorkspaceFacts {
            id: site.work.workspace_id(),
            path: site.workspace(),
            last_audit: Some("x".to_owned()),
            last_audit_ms: Some(last),
            ..Default::default()
        };
        Facts { workspaces: Recorded::Recorded(vec![workspace]), ..site.facts() }
    };
    let done = site.compare(with_audit(1)).failed(&["workspaces.against"]);
    assert!(done.detail("workspaces.against").contains("is empty"), "{}", done.detail("workspaces.against"));
    site.work.upload("note.txt", "note");
    site.compare(with_audit(1)).passed();
    let done = site.compare(with_audit(i64::MAX)).failed(&["workspaces.against"]);
    assert!(done.detail("workspaces.against").contains("ends before the capture"));
}

#[test]
fn pitfall_4_an_engine_that_is_dead_behind_a_healthy_server_fails() {
    let site = Site::new(Version::V0_18_16, 1);
    site.work.fault(|faults| faults.engine_dead = true);
    let done = site.verify(&[]).is("failed");
    assert_eq!((done.status("health"), done.status("ui"), done.status("workspaces")), ("ok", "ok", "ok"));
    assert_eq!((done.status("engine"), done.status("sessions")), ("failed", "failed"));
}

#[test]
fn pitfall_4_a_list_of_sessions_that_is_none_fails_although_the_engine_is_healthy() {
    let site = Site::new(Version::V0_18_16, 1);
    site.work.fault(|faults| faults.session_list_fails = true);
    let done = site.verify(&[]).is("failed");
    assert_eq!((done.status("health"), done.status("engine")), ("ok", "ok"));
    assert_eq!(done.status("sessions"), "failed");
    let detail = done.detail("sessions");
    assert!(
        detail.contains("500 ConfigInvalidError") && done.fix("sessions").contains(".opencode/commands"),
        "{detail}"
    );
    // What the error said besides is not repeated.
    assert!(!done.0.stdout.contains("broken.md"));
}

#[test]
fn pitfall_5_a_truncated_list_of_tokens_is_not_an_empty_one() {
    let site = Site::new(Version::V0_18_16, 1);
    let minted = site.work.mint("owner", "the owner's");
    let facts = site.facts();
    site.compare(facts.clone()).passed();
    let text = fs::read(site.work.tokens_file()).unwrap();
    fs::write(site.work.tokens_file(), &text[..text.len() / 2]).unwrap();
    site.work.reboot(None);
    site.verify(&[]).passed();
    let done = site.compare(facts).failed(&["tokens.against"]);
    assert_eq!(done.detail("tokens.against"), format!("1 of 1 tokens are missing: {}", minted.id));
    assert!(done.fix("tokens.against").contains("no new token"));
}

#[test]
fn pitfall_5_a_truncated_configuration_is_not_a_service_without_workspaces() {
    let dir = TestDir::new();
    let data = dir.mkdir("data");
    dir.write("data/openwork-server/server.json", "{\"workspaces\": [{\"pa");
    let engine = Engine::memory(ENGINE, &data.join("workspace"), &["ses_a".to_owned()]);
    let work = OpenWork::boot_as(Setup { version: Version::V0_18_16, data, names_workspace: false, engine });
    let done = verified(&work.url(), &work.env(), &[]).is("failed");
    assert_eq!((done.status("health"), done.status("ui")), ("ok", "ok"));
    assert!(
        done.detail("workspaces").contains("no workspace at all") && done.fix("workspaces").contains("server.json")
    );
}

#[test]
fn pitfall_5_a_server_that_does_not_start_is_not_waited_for_longer_than_was_said() {
    let site = Site::new(Version::V0_18_16, 1);
    let (url, env) = (site.work.url(), site.work.env());
    drop(site);
    let done = verified(&url, &env, &["--timeout", "1s", "--write-probe"]).failed(&["health"]);
    assert!(done.detail("health").contains("refused"), "{}", done.detail("health"));
    assert!(done.with("skipped").contains(&"sessions.write".to_owned()), "{}", done.0.stdout);
}

#[test]
fn pitfall_6_a_token_that_a_boot_has_made_is_more_and_no_difference() {
    let site = Site::new(Version::V0_18_1, 2);
    site.work.mint("viewer", "somebody's");
    let facts = site.facts();
    site.work.reboot(None);
    assert!(site.token_ids().len() > 2);
    let done = site.compare(facts).passed();
    assert!(done.detail("tokens.against").contains("1 more since"), "{}", done.detail("tokens.against"));
}

#[test]
fn pitfall_7_a_second_workspace_that_a_flag_hides_is_missing() {
    let site = Site::new(Version::V0_18_16, 1);
    let mut facts = site.facts();
    let Recorded::Recorded(workspaces) = &mut facts.workspaces else { panic!() };
    workspaces.push(WorkspaceFacts { id: "ws_second".into(), path: "/data/second".into(), ..Default::default() });
    let done = site.compare(facts).failed(&["workspaces.against"]);
    assert_eq!(done.detail("workspaces.against"), "ws_second of /data/second is missing");
}

#[test]
fn pitfall_8_the_engine_that_runs_is_told_and_not_the_one_that_the_server_was_made_for() {
    let dir = TestDir::new();
    let data = dir.mkdir("data");
    let work =
        OpenWork::boot(Version::V0_18_16, &data, Engine::memory("1.18.33", &data.join("workspace"), &["ses_a".into()]));
    let done = verified(&work.url(), &work.env(), &[]).passed();
    assert_eq!(done.0.json["versions"]["opencode"], "1.18.33");
    assert_eq!(done.0.json["versions"]["opencode-pin"], "1.17.11");
    assert!(done.detail("engine").contains("1.18.33 runs; the server was made for 1.17.11"));
    // Another version than at capture is said, with both.
    let versions = [("opencode".to_owned(), "1.2.6".to_owned())].into();
    let facts = Facts { versions, sessions: sessions(&["ses_a".into()]), ..Facts::default() };
    let done = compared(&work.url(), &work.env(), facts);
    assert_eq!(done.status("versions.against"), "warning");
    assert_eq!(done.detail("versions.against"), "opencode was 1.2.6 and is 1.18.33");
}

#[test]
fn pitfall_9_sessions_that_were_not_captured_make_it_inconclusive_and_never_passed() {
    let site = Site::new(Version::V0_18_16, 3);
    let why = "they are kept as files of OpenCode 1.1 or older";
    for not in [Recorded::NotCaptured(why.to_owned()), Recorded::NotAsked] {
        let done = site.compare(Facts { sessions: not, ..site.facts() }).is("inconclusive");
        assert_eq!((done.status("sessions.against"), done.status("tokens.against")), ("skipped", "ok"));
    }
    // A failure is not hidden by it.
    site.work.fault(|faults| faults.engine_dead = true);
    site.compare(Facts { sessions: Recorded::NotCaptured(why.to_owned()), ..site.facts() }).is("failed");
}

#[test]
fn pitfall_10_a_read_only_service_makes_no_tokens_and_still_keeps_sessions() {
    let site = Site::new(Version::V0_18_16, 1);
    site.work.fault(|faults| faults.read_only = true);
    let done = site.verify(&["--create-probe-tokens", "--write-probe"]).is("inconclusive");
    assert_eq!((done.status("auth.viewer"), done.status("sessions.write")), ("skipped", "ok"));
    assert!(done.detail("auth.viewer").contains("read-only (OPENWORK_READONLY)"), "{}", done.detail("auth.viewer"));
}

#[test]
fn pitfall_11_a_list_of_sessions_does_not_stop_at_100() {
    for number in [130, 1000, 1001, 2345] {
        let site = Site::new(Version::V0_18_16, number);
        let done = site.verify(&[]).passed();
        let count = opsctl::ui::count(number as u64, "session", "sessions");
        assert!(done.detail("sessions").starts_with(&count), "{number}: {}", done.detail("sessions"));
        let done = site.compare(site.facts()).passed();
        let all = format!("all {number} sessions that were captured are there");
        assert!(done.detail("sessions.against").starts_with(&all), "{}", done.detail("sessions.against"));
    }
}

#[test]
fn pitfall_12_no_token_and_no_password_shows_anywhere() {
    let site = Site::new(Version::V0_18_16, 2);
    let Engine::Memory(memory) = &site.engine else { panic!() };
    let secrets = [CLIENT, HOST, &memory.password, "owt_"];
    let all = ["--create-probe-tokens", "--write-probe", "-vv"];
    type Break = fn(&mut openwork::Faults);
    let breaks: [Break; 5] = [
        |_| {},
        |faults| faults.open = true,
        |faults| faults.engine_dead = true,
        |faults| faults.session_list_fails = true,
        |faults| faults.endless = Some("/workspaces".to_owned()),
    ];
    for break_it in breaks {
        site.work.fault(|faults| {
            *faults = openwork::Faults::default();
            break_it(faults);
        });
        for more in [&[][..], &["--log-format", "json"]] {
            let as_json = site.verify(&[&all[..], more].concat()).0;
            let text = run(as_text(&site.work.url(), &site.work.env(), &[&all[..], more].concat()));
            for said in [as_json.stdout, as_json.stderr, text.stdout, text.stderr] {
                assert!(!secrets.iter().any(|secret| said.contains(secret)), "{said}");
            }
        }
    }
}
