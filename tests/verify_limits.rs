//! `opsctl verify` where not everything can be found out: what is slow, too large or cut off is no loss, and no run goes on for
//! ever.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod support;

#[path = "support/openwork/mod.rs"]
mod openwork;
#[path = "support/stub_store.rs"]
mod stub_store;
#[path = "support/verifier.rs"]
mod verifier;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use openwork::{CLIENT, Engine, OpenWork, Version, forward};
use opsctl::archive::facts::{Facts, Recorded, SessionFacts};
use opsctl::finding::Status;
use opsctl::verify::Against;
use serde_json::{Value, json};
use stub_store::{Reply, Request, Server};
use support::TestDir;
use verifier::{compared, gated, verified, verified_as};

fn site(sessions: usize) -> (TestDir, OpenWork) {
    let dir = TestDir::new();
    let data = dir.mkdir("data");
    let ids: Vec<String> = (0..sessions).map(|n| format!("ses_{n:05}")).collect();
    let work = OpenWork::boot(Version::V0_18_16, &data, Engine::memory("1.17.11", &data.join("workspace"), &ids));
    (dir, work)
}

/// These sessions with so many messages, and no tokens and no workspace.
fn facts(sessions: &[(&str, u64)]) -> Facts {
    let messages = sessions.iter().map(|(id, messages)| ((*id).to_owned(), *messages)).collect();
    let sessions = Recorded::Recorded(SessionFacts { path: "opencode.db".to_owned(), messages });
    let (tokens, workspaces) = (Recorded::Recorded(Vec::new()), Recorded::Recorded(Vec::new()));
    Facts { sessions, tokens, workspaces, ..Facts::default() }
}

fn against(facts: Facts) -> Option<Against> {
    Some(Against { snapshot: "s".to_owned(), facts: Some(facts) })
}

/// Whether the client asks. Nobody else may see what it sees.
fn is_client(request: &Request) -> bool {
    request.headers.get("authorization").is_some_and(|value| *value == format!("Bearer {CLIENT}"))
}

/// In front of a service: answers some requests itself and passes on the others.
fn front(work: &OpenWork, answer: impl Fn(&Request) -> Option<Reply> + Send + Sync + 'static) -> Server {
    let url = work.url();
    Server::start(move |request, body| {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(body, &mut bytes).unwrap();
        if let Some(reply) = answer(request) {
            return reply;
        }
        forward(&url, request, &mut bytes.as_slice())
    })
}

fn url(server: &Server) -> String {
    format!("http://127.0.0.1:{}", server.port)
}

fn send(status: &str, body: &Value) -> Reply {
    Reply::Send(format!("{status}\r\nContent-Type: application/json"), body.to_string().into_bytes())
}

// ---- sessions ----

#[test]
fn a_list_of_messages_that_is_slow_or_too_large_has_lost_none() {
    let (_dir, work) = site(2);
    let path = format!("/w/{}/opencode/session/ses_00000/message", work.workspace_id());
    type Break = fn(&mut openwork::Faults, String);
    let breaks: [(Break, &str); 2] = [
        (|faults, path| faults.slow = Some(path), "no whole answer within 2 s"),
        (|faults, path| faults.endless = Some(path), "larger than 64 MiB"),
    ];
    for (break_it, why) in breaks {
        work.fault(|faults| {
            *faults = openwork::Faults::default();
            break_it(faults, path.clone());
        });
        let compare = |captured| {
            verified_as(&work.url(), &work.env(), |request| {
                request.timeout = Duration::from_secs(2);
                request.against = against(facts(captured));
            })
        };
        let done = compare(&[("ses_00000", 5), ("ses_00001", 0)]).is("inconclusive");
        assert_eq!(done.status("sessions.against"), "skipped");
        let detail = done.detail("sessions.against");
        assert!(detail.starts_with("all 2 sessions that were captured are there; not every"), "{detail}");
        assert!(detail.contains(why), "{detail}");
        // It hides no loss in another one.
        let done = compare(&[("ses_00000", 5), ("ses_00001", 1)]).failed(&["sessions.against"]);
        assert_eq!(done.detail("sessions.against"), "ses_00001 has 0 messages where 1 were captured");
    }
}

#[test]
fn a_list_of_sessions_that_is_slow_or_too_large_has_lost_none() {
    let (_dir, work) = site(1);
    let list = format!("/w/{}/opencode/session?limit=1001", work.workspace_id());
    type Answer = fn() -> Reply;
    let breaks: [(Answer, &str); 2] = [
        (|| Reply::Never, "no whole answer within 2 s"),
        (|| Reply::Endless("200 OK".to_owned(), vec![b' '; 1 << 20]), "the answer is larger than 64 MiB"),
    ];
    for (reply, why) in breaks {
        let list = list.clone();
        let broken = front(&work, move |request| (request.target == list).then(reply));
        let done = verified_as(&url(&broken), &work.env(), |request| {
            request.timeout = Duration::from_secs(2);
            request.against = against(facts(&[("ses_00000", 0)]));
        });
        let done = done.is("inconclusive");
        for name in ["sessions", "sessions.against"] {
            assert_eq!(done.status(name), "skipped", "{name}: {}", done.0.stdout);
            assert!(done.detail(name).ends_with(why), "{name}: {}", done.detail(name));
        }
        assert_eq!(done.status("engine"), "ok");
    }
}

#[test]
fn what_may_be_behind_the_end_of_a_list_is_asked_for_by_its_id() {
    let (_dir, work) = site(1);
    let path = format!("/w/{}/opencode/session", work.workspace_id());
    let cut = front(&work, move |request| {
        if !is_client(request) {
            return None;
        }
        let rest = request.target.strip_prefix(&path)?;
        if let Some(limit) = rest.strip_prefix("?limit=") {
            let limit: usize = limit.parse().unwrap();
            let list: Vec<Value> = (0..limit).map(|n| json!({ "id": format!("ses_{n:06}") })).collect();
            return Some(send("200 OK", &json!(list)));
        }
        let (id, rest) = rest.strip_prefix('/')?.split_once('/').unwrap_or((&rest[1..], ""));
        Some(match (id, rest) {
            (_, "message") => send("200 OK", &json!([])),
            ("ses_gone", _) => send("404 Not Found", &json!({ "name": "NotFoundError" })),
            ("ses_unknown", _) => send("500 Internal Server Error", &json!({})),
            (id, _) => send("200 OK", &json!({ "id": id })),
        })
    });
    let compare = |captured| compared(&url(&cut), &work.env(), facts(captured));
    let done = compare(&[("ses_000007", 0), ("ses_behind", 0)]).passed();
    assert!(done.detail("sessions").starts_with("100 000 sessions or more"), "{}", done.detail("sessions"));
    let detail = done.detail("sessions.against");
    assert!(detail.starts_with("all 2 sessions that were captured are there; 1 in no list"), "{detail}");
    let done = compare(&[("ses_000007", 0), ("ses_gone", 0)]).failed(&["sessions.against"]);
    assert_eq!(done.detail("sessions.against"), "1 of 2 sessions are missing: ses_gone");
    let done = compare(&[("ses_000007", 0), ("ses_unknown", 0)]).is("inconclusive");
    assert_eq!(done.status("sessions.against"), "skipped");
    let detail = done.detail("sessions.against");
    assert!(detail.starts_with("1 of 2 sessions are in no list, and cannot be asked for: /w/"), "{detail}");
    let done = compare(&[("ses_gone", 0), ("ses_unknown", 0)]).failed(&["sessions.against"]);
    assert!(done.detail("sessions.against").starts_with("1 of 2 sessions are missing: ses_gone; 1 of 2"));
}

#[test]
fn not_more_sessions_are_asked_for_one_by_one_than_a_run_has_time_for() {
    let (_dir, work) = site(1);
    let ids: Vec<String> = (0..1200).map(|n| format!("ses_other{n:05}")).collect();
    let captured: Vec<(&str, u64)> = ids.iter().map(|id| (id.as_str(), 0)).collect();
    let one = format!("/w/{}/opencode/session/ses_other", work.workspace_id());
    let elsewhere = front(&work, move |request| {
        let number = request.target.strip_prefix(&one)?;
        let is_message = number.ends_with("/message");
        Some(send("200 OK", &if is_message { json!([]) } else { json!({ "id": format!("ses_other{number}") }) }))
    });
    let done = compared(&url(&elsewhere), &work.env(), facts(&captured)).is("inconclusive");
    let detail = done.detail("sessions.against");
    let why =
        "200 of 1200 sessions are in no list, and cannot be asked for: not more than 1000 are asked for one by one";
    assert_eq!(detail, why);
}

// ---- time ----

#[test]
fn a_service_that_answers_nothing_but_its_health_does_not_keep_the_run_for_ever() {
    let (_dir, work) = site(1);
    let slow = front(&work, |request| (request.target != "/health").then_some(Reply::Never));
    let done = verified_as(&url(&slow), &work.env(), |request| {
        (request.timeout, request.limit) = (Duration::from_secs(1), Duration::from_secs(1));
        request.against = against(facts(&[("ses_00000", 0)]));
        request.restart = Some("exit 1".to_owned());
    });
    assert_eq!(done.status("health"), "ok");
    for name in ["auth.host", "workspaces", "engine", "sessions", "sessions.against", "restart"] {
        assert_eq!(done.status(name), "skipped", "{name}");
        assert_eq!(done.detail(name), "not within 2.0 s: the service answers too slowly", "{name}");
    }
    // The command of the restart was not run.
    assert!(!done.with("failed").contains(&"restart".to_owned()));
}

#[test]
fn the_gate_learns_that_the_data_cannot_be_had_before_the_time_is_over() {
    let (_dir, work) = site(1);
    let slow = front(&work, |request| (!["/health", "/ui"].contains(&request.target.as_str())).then_some(Reply::Never));
    let gate = gated(&url(&slow), &work.env(), |request| {
        // Enough for what the service has, and for a part of the doors.
        (request.timeout, request.limit) = (Duration::from_secs(1), Duration::from_secs(9));
    });
    let problem = gate.problem.unwrap_or_default();
    assert!(problem.contains("workspaces: ") && !problem.contains("auth."), "{problem}");
}

#[test]
fn the_gate_takes_another_answer_than_was_expected_for_no_open_door() {
    let (_dir, work) = site(1);
    // A later server dropped a row, one has a limit, and in front of one somebody asks people to sign in.
    let other = front(&work, |request| match request.target.as_str() {
        "/capabilities" => Some(send("404 Not Found", &json!({}))),
        "/approvals" => Some(send("429 Too Many Requests", &json!({}))),
        "/whoami" if !request.headers.contains_key("authorization") => {
            Some(Reply::Send("302 Found\r\nLocation: /login".to_owned(), Vec::new()))
        }
        _ => None,
    });
    let gate = gated(&url(&other), &work.env(), |_| {});
    let failed: Vec<&str> =
        gate.checks.iter().filter(|check| check.status == Status::Failed).map(|check| check.name.as_str()).collect();
    assert!(failed.starts_with(&["auth.none", "auth.wrong"]), "{failed:?}");
    assert_eq!((gate.ok, gate.problem), (true, None));
    work.fault(|faults| faults.open = true);
    let problem = gated(&work.url(), &work.env(), |_| {}).problem.unwrap_or_default();
    assert!(problem.starts_with("auth.none: OPEN TO EVERYBODY"), "{problem}");
}

#[test]
fn what_was_made_is_removed_when_the_time_is_over() {
    let (_dir, work) = site(1);
    // The answers that name the tokens never come.
    let (to, made) = (work.url(), Arc::new(AtomicUsize::new(0)));
    let counts = made.clone();
    let never = Server::start(move |request, body| {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(body, &mut bytes).unwrap();
        let makes = String::from_utf8_lossy(&bytes).contains("opsctl-verify-");
        let answer = forward(&to, request, &mut bytes.as_slice());
        if makes {
            counts.fetch_add(1, Ordering::SeqCst);
            return Reply::Never;
        }
        answer
    });
    let done = verified_as(&url(&never), &work.env(), |request| {
        (request.timeout, request.limit) = (Duration::from_secs(2), Duration::from_secs(2));
        request.create_probe_tokens = true;
    });
    assert_eq!(done.status("auth.viewer"), "skipped");
    let made = made.load(Ordering::SeqCst);
    let removed = work.seen().iter().filter(|seen| seen.starts_with("DELETE /tokens/")).count();
    assert!(made > 0 && removed >= made, "{made} made, {removed} removed");
    let left = std::fs::read_to_string(work.tokens_file()).unwrap();
    assert!(!left.contains("opsctl-verify-"), "{left}");
}

// ---- what looks well ----

#[test]
fn a_health_without_a_version_and_an_engine_that_is_not_healthy_fail() {
    let (_dir, work) = site(1);
    let nameless =
        front(&work, |request| (request.target == "/health").then(|| send("200 OK", &json!({ "ok": true }))));
    let done = verified(&url(&nameless), &work.env(), &["--timeout", "1s"]).failed(&["health"]);
    assert_eq!(done.detail("health"), "/health answers 200, but it has nothing at /version");
    let sick = json!({ "healthy": false, "version": "1.17.11" });
    let sick = front(&work, move |request| {
        (request.target == "/opencode/global/health" && is_client(request)).then(|| send("200 OK", &sick))
    });
    let done = verified(&url(&sick), &work.env(), &[]).failed(&["engine"]);
    assert!(done.detail("engine").ends_with("but it does not say /healthy = true"), "{}", done.detail("engine"));
}

#[test]
fn where_no_token_could_be_made_none_is_said_to_be_gone() {
    let (_dir, work) = site(1);
    work.fault(|faults| faults.read_only = true);
    let done = verified(&work.url(), &work.env(), &["--create-probe-tokens"]).is("inconclusive");
    assert_eq!((done.status("auth.probe-tokens"), done.detail("auth.probe-tokens")), ("skipped", "no token was made"));
}

#[test]
fn what_the_service_fails_at_is_not_put_down_to_the_token() {
    let (_dir, work) = site(1);
    work.fault(|faults| faults.engine_dead = true);
    let done = verified(&work.url(), &work.env(), &["--timeout", "1s"]).is("failed");
    assert!(done.detail("auth.client").contains("answers 500"), "{}", done.detail("auth.client"));
    assert!(done.fix("auth.client").contains("look at its log"), "{}", done.fix("auth.client"));
    let wrong = [("OPENWORK_TOKEN", "another".to_owned())];
    let done = verified(&work.url(), &wrong, &["--timeout", "1s"]).is("failed");
    assert!(done.fix("auth.client").contains("is the token the one"), "{}", done.fix("auth.client"));
}

#[test]
fn versions_that_were_not_recorded_are_no_row() {
    let (_dir, work) = site(1);
    let with = |versions: &[(&str, &str)]| {
        let versions = versions.iter().map(|(part, version)| ((*part).to_owned(), (*version).to_owned())).collect();
        compared(&work.url(), &work.env(), Facts { versions, ..facts(&[("ses_00000", 0)]) }).passed()
    };
    assert!(!with(&[]).0.stdout.contains("versions.against"));
    assert_eq!(with(&[("server", "0.18.16")]).status("versions.against"), "ok");
    assert_eq!(with(&[("gone", "1")]).status("versions.against"), "skipped");
}
