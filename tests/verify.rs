//! `opsctl verify` on services that work, and on services that look as if they did.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod support;

#[path = "support/openwork/mod.rs"]
mod openwork;
#[path = "support/stub_store.rs"]
mod stub_store;
#[path = "support/verifier.rs"]
mod verifier;

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use openwork::recorded::{Replay, recordings};
use openwork::{CLIENT, Engine, HOST, OpenWork, Setup, VERSIONS, Version};
use opsctl::archive::facts::{Facts, Recorded, SessionFacts, WorkspaceFacts};
use rustix::process::Signal;
use serde_json::Value;
use stub_store::{Reply, Server};
use support::ask::ask;
use support::opsctl::{Guarded, run};
use support::{TestDir, signal, wait_for};
use verifier::{Verified, as_text, command, compared, verified};

const ENGINE: &str = "1.17.11";
const SOON: Duration = Duration::from_secs(60);

/// A service on fresh data, with so many sessions.
struct Site {
    dir: TestDir,
    work: OpenWork,
    engine: Engine,
    ids: Vec<String>,
}

impl Site {
    fn new(version: Version, sessions: usize) -> Self {
        let dir = TestDir::new();
        let data = dir.mkdir("data");
        let ids: Vec<String> = (0..sessions).map(|n| format!("ses_{n:05}")).collect();
        let engine = Engine::memory(ENGINE, &data.join("workspace"), &ids);
        let work = OpenWork::boot(version, &data, engine.clone());
        Self { dir, work, engine, ids }
    }

    fn verify(&self, args: &[&str]) -> Verified {
        verified(&self.work.url(), &self.work.env(), args)
    }

    /// The same as if the workspace were to be at this path.
    fn verify_at(&self, workspace: &str) -> Verified {
        let mut env = self.work.env();
        env.retain(|(name, _)| *name != "OPENWORK_WORKSPACE");
        env.push(("OPENWORK_WORKSPACE", workspace.to_owned()));
        verified(&self.work.url(), &env, &[])
    }

    fn compare(&self, facts: Facts) -> Verified {
        compared(&self.work.url(), &self.work.env(), facts)
    }

    fn workspace(&self) -> String {
        self.work.workspace().display().to_string()
    }

    /// What a snapshot of it would record.
    fn facts(&self) -> Facts {
        let workspace =
            WorkspaceFacts { id: self.work.workspace_id(), path: self.workspace(), ..WorkspaceFacts::default() };
        Facts {
            service: "openwork".to_owned(),
            sessions: sessions(&self.ids),
            tokens: Recorded::Recorded(self.token_ids()),
            workspaces: Recorded::Recorded(vec![workspace]),
            versions: BTreeMap::new(),
        }
    }

    /// The tokens that are there: the file that the server keeps.
    fn token_ids(&self) -> Vec<String> {
        let text = fs::read(self.work.tokens_file()).unwrap_or_default();
        let file: Value = serde_json::from_slice(&text).unwrap_or_default();
        file["tokens"].as_array().into_iter().flatten().map(|token| token["id"].as_str().unwrap().to_owned()).collect()
    }
}

fn sessions(ids: &[String]) -> Recorded<SessionFacts> {
    let messages = ids.iter().map(|id| (id.clone(), 0)).collect();
    Recorded::Recorded(SessionFacts { path: "xdg/share/opencode/opencode.db".to_owned(), messages })
}

// ---- services that work ----

#[test]
fn every_version_passes_with_everything_that_can_be_asked() {
    for version in VERSIONS {
        let site = Site::new(version, 3);
        let before = site.token_ids();
        let done = site.verify(&["--write-probe", "--create-probe-tokens"]).passed();
        assert_eq!(done.with("warning"), [""; 0], "{version:?}: {}", done.0.stdout);
        assert_eq!(done.with("skipped"), [""; 0], "{version:?}: {}", done.0.stdout);
        let names: Vec<&str> =
            done.0.json["checks"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
        let all = [
            "transport",
            "health",
            "ui",
            "auth.none",
            "auth.wrong",
            "auth.client",
            "auth.host",
            "auth.host-as-bearer",
            "auth.token",
            "auth.owner",
            "auth.collaborator",
            "auth.viewer",
            "auth.probe-tokens",
            "workspaces",
            "workspaces.config",
            "workspaces.audit",
            "engine",
            "sessions",
            "sessions.write",
        ];
        assert_eq!(names, all);
        assert_eq!(done.0.json["versions"]["server"], version.name());
        // Nothing of it is left.
        assert_eq!(site.token_ids(), before, "{version:?}");
        assert_eq!(site.work.sessions(), site.ids, "{version:?}");
    }
}

#[test]
fn without_leave_nothing_is_changed() {
    let site = Site::new(Version::V0_18_16, 1);
    site.verify(&[]).passed();
    let seen = site.work.seen();
    assert!(seen.len() > 40 && seen.iter().all(|request| request.starts_with("GET ")), "{seen:#?}");
}

#[test]
fn the_recorded_answers_of_all_three_versions_pass() {
    for recording in recordings() {
        let replay = Replay::start(&recording);
        let done = verified(&replay.url(), &replay.env(), &["--create-probe-tokens"]).passed();
        assert_eq!(done.0.json["versions"]["server"], recording.version.name());
        assert_eq!(done.with("skipped"), [""; 0], "{}", done.0.stdout);
    }
}

#[test]
fn what_later_versions_allow_is_said_and_no_failure() {
    let site = Site::new(Version::V0_18_16, 1);
    site.work.fault(|faults| faults.drift = true);
    let done = site.verify(&[]).passed();
    assert!(done.detail("auth.client").contains("GET /tokens 200"), "{}", done.0.stdout);
    assert_eq!(done.status("auth.client"), "ok");
}

#[test]
fn a_ui_that_is_switched_off_is_said_and_no_failure() {
    let site = Site::new(Version::V0_18_16, 1);
    site.work.fault(|faults| faults.ui_disabled = true);
    assert!(site.verify(&[]).passed().detail("ui").contains("switched off"));
}

#[test]
fn without_tokens_what_needs_them_is_skipped_with_how_to_give_them() {
    let site = Site::new(Version::V0_18_16, 1);
    // Nobody has looked at the data, so that it is not said to be well.
    let done = verified(&site.work.url(), &[], &[]).is("inconclusive");
    assert_eq!(done.status("auth.none"), "ok");
    for (name, variable, flag) in [
        ("auth.client", "OPENWORK_TOKEN", "--client-token-file"),
        ("auth.host", "OPENWORK_HOST_TOKEN", "--host-token-file"),
        ("sessions", "OPENWORK_TOKEN", "--client-token-file"),
        ("workspaces", "OPENWORK_TOKEN", "--client-token-file"),
    ] {
        assert_eq!(done.status(name), "skipped");
        assert!(done.detail(name).contains(variable) && done.detail(name).contains(flag), "{}", done.detail(name));
    }
    let text = run(as_text(&site.work.url(), &[], &[])).ended(1).stdout;
    let last = text.lines().last().unwrap();
    assert!(last.starts_with("inconclusive; not looked at: ") && last.contains("sessions"), "{last}");
    // The data alone was looked at, by whoever may.
    let client = site.work.env().into_iter().filter(|(name, _)| *name != "OPENWORK_HOST_TOKEN").collect::<Vec<_>>();
    let done = verified(&site.work.url(), &client, &[]).passed();
    assert_eq!(done.with("skipped"), ["auth.host", "auth.host-as-bearer"]);
    // What was asked for is another matter.
    for flag in ["--write-probe", "--create-probe-tokens"] {
        verified(&site.work.url(), &[], &[flag]).is("inconclusive");
    }
    let restart = verified(&site.work.url(), &[], &["--restart-cmd", "exit 1"]).is("inconclusive");
    assert_eq!(restart.status("restart"), "skipped", "nothing is restarted where nothing can be compared");
}

// ---- who is let in ----

#[test]
fn an_end_point_that_is_open_to_everybody_is_said_before_all_else() {
    let site = Site::new(Version::V0_18_16, 1);
    site.work.fault(|faults| faults.open = true);
    let done = site.verify(&[]).is("failed");
    for name in ["auth.none", "auth.wrong"] {
        assert_eq!(done.status(name), "failed");
        assert!(done.detail(name).starts_with("OPEN TO EVERYBODY"), "{}", done.detail(name));
        assert!(done.detail(name).contains("GET /workspaces answers 200"), "{}", done.detail(name));
    }
    assert_eq!(done.status("auth.host-as-bearer"), "failed");
    let text = run(as_text(&site.work.url(), &[], &[])).ended(5).stdout;
    let last = text.lines().last().unwrap();
    assert!(last.starts_with("failed: OPEN TO EVERYBODY without a token: GET /whoami answers 200"), "{last}");
}

#[test]
fn a_wrong_token_is_shown_in_every_way_that_a_token_is_taken() {
    let site = Site::new(Version::V0_18_16, 1);
    let url = site.work.url();
    // In front of it somebody believes any token of a host.
    let front = Server::start(move |request, _| {
        let known = match request.headers.get("x-openwork-host-token") {
            Some(_) => vec![("X-OpenWork-Host-Token", HOST)],
            None => Vec::new(),
        };
        let bearer = request.headers.get("authorization").cloned();
        let headers: Vec<(&str, &str)> =
            known.into_iter().chain(bearer.iter().map(|b| ("Authorization", b.as_str()))).collect();
        forward(&url, request, &headers, b"")
    });
    let done = verified(&format!("http://127.0.0.1:{}", front.port), &site.work.env(), &[]).failed(&["auth.wrong"]);
    assert!(done.detail("auth.wrong").contains("GET /tokens answers 200"), "{}", done.0.stdout);
}

#[test]
fn a_client_token_that_is_not_the_service_s_fails() {
    let site = Site::new(Version::V0_18_16, 1);
    let mut env = site.work.env();
    env.retain(|(name, _)| *name != "OPENWORK_TOKEN");
    env.push(("OPENWORK_TOKEN", "another-token".to_owned()));
    let done = verified(&site.work.url(), &env, &[]).is("failed");
    for name in ["auth.client", "auth.token", "workspaces", "engine", "sessions"] {
        assert_eq!(done.status(name), "failed", "{name}");
    }
    assert_eq!((done.status("auth.none"), done.status("auth.host")), ("ok", "ok"));
}

#[test]
fn a_token_that_is_changed_on_the_way_is_told() {
    let site = Site::new(Version::V0_18_16, 1);
    let url = site.work.url();
    let front = Server::start(move |request, _| {
        let bearer = match request.headers.get("authorization").map(String::as_str) {
            Some("Bearer alias") => Some(format!("Bearer {CLIENT}")),
            other => other.map(str::to_owned),
        };
        let host = request.headers.get("x-openwork-host-token").cloned();
        let headers = [("Authorization", bearer), ("X-OpenWork-Host-Token", host)];
        let headers: Vec<(&str, &str)> =
            headers.iter().filter_map(|(name, value)| Some((*name, value.as_deref()?))).collect();
        forward(&url, request, &headers, b"")
    });
    let mut env = site.work.env();
    env.retain(|(name, _)| *name != "OPENWORK_TOKEN");
    env.push(("OPENWORK_TOKEN", "alias".to_owned()));
    let done = verified(&format!("http://127.0.0.1:{}", front.port), &env, &[]).failed(&["auth.token"]);
    assert!(done.detail("auth.token").contains("another token than was sent"), "{}", done.detail("auth.token"));
}

#[test]
fn tokens_of_earlier_runs_are_told_and_left_alone() {
    let site = Site::new(Version::V0_18_16, 1);
    let left = site.work.mint("viewer", "opsctl-verify-0123");
    let kept = site.work.mint("viewer", "somebody's");
    let done = site.verify(&["--create-probe-tokens"]).passed();
    assert_eq!(done.status("auth.probe-tokens"), "warning");
    assert!(
        done.detail("auth.probe-tokens").contains(&left.id) && !done.detail("auth.probe-tokens").contains(&kept.id)
    );
    assert_eq!(site.token_ids(), [left.id, kept.id]);
}

/// The answer of `url` to the same request with other headers.
fn forward(url: &str, request: &stub_store::Request, headers: &[(&str, &str)], body: &[u8]) -> Reply {
    let answer = ask(&request.method, &format!("{url}{}", request.target), headers, body);
    Reply::Send(format!("{} Forwarded\r\nContent-Type: {}", answer.status, answer.content_type), answer.body)
}

/// In front of a service: passes on what is asked, until a request for which `hangs` says so. Then it says so too.
fn hanging_front(
    work: &OpenWork,
    hangs: impl Fn(&stub_store::Request) -> bool + Send + Sync + 'static,
    forwards_first: bool,
) -> (Server, Arc<AtomicBool>) {
    let (url, hung) = (work.url(), Arc::new(AtomicBool::new(false)));
    let says = hung.clone();
    let front = Server::start(move |request, body| {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(body, &mut bytes).unwrap();
        let names = ["authorization", "x-openwork-host-token", "content-type"];
        let headers: Vec<(&str, &str)> =
            names.iter().filter_map(|n| Some((*n, request.headers.get(*n)?.as_str()))).collect();
        if !says.load(Ordering::SeqCst) && hangs(request) {
            if forwards_first {
                forward(&url, request, &headers, &bytes);
            }
            says.store(true, Ordering::SeqCst);
            return Reply::Never;
        }
        forward(&url, request, &headers, &bytes)
    });
    (front, hung)
}

#[test]
fn what_was_made_is_removed_when_the_run_is_interrupted() {
    let with_probe_token = |request: &stub_store::Request| {
        request.headers.get("authorization").is_some_and(|value| value.starts_with("Bearer owt_"))
    };
    let makes_token = |request: &stub_store::Request| request.method == "POST" && request.target == "/tokens";
    let makes_session =
        |request: &stub_store::Request| request.method == "POST" && request.target.ends_with("/session");
    let reads_session = |request: &stub_store::Request| {
        request.method == "GET" && request.target.contains("/session/") && !request.target.contains("ses_00000")
    };
    // While a token is used; and where the answer that named what was made never came.
    type Hangs = fn(&stub_store::Request) -> bool;
    let cases: [(&str, Hangs, bool); 4] = [
        ("--create-probe-tokens", with_probe_token, false),
        ("--create-probe-tokens", makes_token, true),
        ("--write-probe", reads_session, false),
        ("--write-probe", makes_session, true),
    ];
    for (flag, hangs, forwards_first) in cases {
        let site = Site::new(Version::V0_18_16, 1);
        let kept = site.work.mint("viewer", "somebody's");
        let (front, hung) = hanging_front(&site.work, hangs, forwards_first);
        let child =
            Guarded::spawn(&mut command(&format!("http://127.0.0.1:{}", front.port), &site.work.env(), &[flag]));
        wait_for("the request that hangs", SOON, || hung.load(Ordering::SeqCst).then_some(()));
        signal(&child.0, Signal::INT);
        let done = child.end().ended(130);
        assert!(!done.stderr.contains("by hand"), "{flag}: {}", done.stderr);
        assert_eq!(site.token_ids(), [kept.id], "{flag}");
        assert_eq!(site.work.sessions(), site.ids, "{flag}");
    }
}

#[test]
fn a_token_that_cannot_be_removed_is_a_failure_that_names_it() {
    let site = Site::new(Version::V0_18_16, 1);
    let (url, refused) = (site.work.url(), Arc::new(Mutex::new(Vec::new())));
    let says = refused.clone();
    let front = Server::start(move |request, body| {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(body, &mut bytes).unwrap();
        if request.method == "DELETE" {
            says.lock().unwrap().push(request.target.clone());
            return Reply::Send("500 Internal Server Error".to_owned(), Vec::new());
        }
        let names = ["authorization", "x-openwork-host-token", "content-type"];
        let headers: Vec<(&str, &str)> =
            names.iter().filter_map(|n| Some((*n, request.headers.get(*n)?.as_str()))).collect();
        forward(&url, request, &headers, &bytes)
    });
    let args = ["--create-probe-tokens", "--write-probe"];
    let done = verified(&format!("http://127.0.0.1:{}", front.port), &site.work.env(), &args);
    let done = done.failed(&["auth.probe-tokens", "sessions.write"]);
    let refused = refused.lock().unwrap();
    assert_eq!(refused.len(), 4, "{refused:?}");
    for target in refused.iter() {
        let id = target.rsplit('/').next().unwrap();
        assert!(done.detail("auth.probe-tokens").contains(id) || done.detail("sessions.write").contains(id), "{id}");
    }
}

// ---- the pitfalls, by their numbers ----

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

// ---- a restart ----

#[test]
fn a_restart_that_keeps_everything_passes_and_one_that_loses_something_says_what() {
    let site = Site::new(Version::V0_18_1, 3);
    let minted = site.work.mint("viewer", "somebody's");
    site.work.upload("note.txt", "note");
    let restart = site.work.restart_command();
    let done = site.verify(&["--restart-cmd", &restart]).passed();
    assert!(
        done.detail("restart").starts_with("3 sessions, 2 tokens, 1 workspace are still there"),
        "{}",
        done.detail("restart")
    );

    let lose = format!("rm '{}' && {restart}", site.work.tokens_file().display());
    let done = site.verify(&["--restart-cmd", &lose]).failed(&["restart"]);
    assert!(done.detail("restart").contains(&minted.id), "{}", done.detail("restart"));

    let audit = site.dir.join("data/openwork-orchestrator/audit");
    let lose = format!("rm -r '{}' && {restart}", audit.display());
    let done = site.verify(&["--restart-cmd", &lose]).failed(&["restart"]);
    assert!(done.detail("restart").contains("audit log"), "{}", done.detail("restart"));

    let done = site.verify(&["--restart-cmd", "exit 7"]).failed(&["restart"]);
    assert!(done.detail("restart").contains("--restart-cmd failed") && done.detail("restart").contains('7'));
}

#[test]
fn a_restart_command_does_not_get_what_is_for_opsctl_alone() {
    let site = Site::new(Version::V0_18_16, 1);
    let seen = site.dir.join("seen");
    let restart = format!("env > '{}'; echo chatter", seen.display());
    let mut command = command(&site.work.url(), &site.work.env(), &["--restart-cmd", &restart]);
    command.env("OPSCTL_TZ", "UTC").env("AWS_SECRET_ACCESS_KEY", "x").env("RAILWAY_TOKEN", "x");
    let done = Verified(run(command)).passed();
    assert!(done.0.stderr.contains("chatter"), "stdout is for the result");
    let seen = fs::read_to_string(seen).unwrap();
    assert!(seen.contains("PATH=") && !seen.contains("OPSCTL_") && !seen.contains("AWS_"), "{seen}");
    assert!(!seen.contains("RAILWAY_TOKEN"), "{seen}");
}

// ---- the documentation ----

#[test]
fn every_check_stands_in_the_documentation_under_its_name() {
    let site = Site::new(Version::V0_18_16, 1);
    let restart = site.work.restart_command();
    let all = site.verify(&["--create-probe-tokens", "--write-probe", "--restart-cmd", &restart]).passed();
    let names: Vec<String> = all.with("ok").into_iter().chain(site.compare(site.facts()).with("ok")).collect();
    assert!(names.contains(&"restart".to_owned()) && names.contains(&"tokens.against".to_owned()), "{names:?}");
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/verify.md")).unwrap();
    let lacks: Vec<&String> = names.iter().filter(|name| !text.contains(&format!("`{name}`"))).collect();
    assert!(lacks.is_empty() && text.contains("`versions.against`"), "{lacks:?}");
}
