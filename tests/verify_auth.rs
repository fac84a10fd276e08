//! `opsctl verify` on who is let in and who is not, and on the tokens and sessions that it makes and removes again.
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

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use openwork::{CLIENT, HOST, OpenWork, Version, forward, forward_as};
use rustix::process::Signal;
use site::Site;
use stub_store::{Reply, Server};
use support::opsctl::{Guarded, run};
use support::{signal, wait_for};
use verifier::{as_text, command, verified};

const SOON: Duration = Duration::from_secs(60);

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
        forward_as(&url, request, &headers, b"")
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
        forward_as(&url, request, &headers, b"")
    });
    let mut env = site.work.env();
    env.retain(|(name, _)| *name != "OPENWORK_TOKEN");
    env.push(("OPENWORK_TOKEN", "alias".to_owned()));
    let done = verified(&format!("http://127.0.0.1:{}", front.port), &env, &[]).failed(&["auth.token"]);
    assert!(done.detail("auth.token").contains("another token than was sent"), "{}", done.detail("auth.token"));
}

#[test]
fn a_viewer_that_may_write_is_let_in_where_it_must_not_be_and_nothing_comes_of_it() {
    let site = Site::new(Version::V0_18_16, 1);
    site.work.fault(|faults| faults.viewers_write = true);
    let done = site.verify(&["--create-probe-tokens"]).failed(&["auth.viewer"]);
    let detail = done.detail("auth.viewer");
    for door in ["POST /workspace/{workspace}/inbox", "POST /opencode/session", "POST /w/{workspace}/opencode/session"]
    {
        assert!(detail.contains(&format!("{door} answers 400")), "{detail}");
    }
    assert!(detail.starts_with("`viewer` is let in where it must not be"), "{detail}");
    assert_eq!(site.work.sessions(), site.ids);
    assert!(!site.work.workspace().join(".opencode").exists());
}

#[test]
fn a_token_that_counts_for_more_than_was_asked_for_fails() {
    let site = Site::new(Version::V0_18_16, 1);
    site.work.fault(|faults| faults.one_scope = true);
    let done = site.verify(&["--create-probe-tokens"]).failed(&["auth.owner", "auth.viewer"]);
    let says = "/whoami does not tell of a token of the scope `viewer`";
    assert_eq!(done.detail("auth.viewer"), says);
}

#[test]
fn what_is_open_to_everybody_is_asked_to_write_nothing_that_stays() {
    let site = Site::new(Version::V0_18_16, 1);
    let before = site.token_ids();
    site.work.fault(|faults| faults.open = true);
    let done = site.verify(&["--create-probe-tokens", "--write-probe"]).is("failed");
    assert!(done.detail("auth.none").contains("POST /tokens answers 400"), "{}", done.detail("auth.none"));
    assert_eq!((site.token_ids(), site.work.sessions()), (before, site.ids.clone()));
    assert!(!site.work.workspace().join(".opencode").exists());
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

/// In front of a service: passes on what is asked, until a request for which `hangs` says so. Then it says so too, and what is asked
/// later is answered after `slow`.
fn hanging_front(
    work: &OpenWork,
    hangs: impl Fn(&Asked) -> bool + Send + Sync + 'static,
    forwards_first: bool,
    slow: Duration,
) -> (Server, Arc<AtomicBool>) {
    let (url, hung) = (work.url(), Arc::new(AtomicBool::new(false)));
    let says = hung.clone();
    let front = Server::start(move |request, body| {
        if says.load(Ordering::SeqCst) {
            std::thread::sleep(slow);
        } else if hangs(request) {
            if forwards_first {
                forward(&url, request, body);
            }
            says.store(true, Ordering::SeqCst);
            return Reply::Never;
        }
        forward(&url, request, body)
    });
    (front, hung)
}

type Asked = stub_store::Request;

fn with_probe_token(request: &Asked) -> bool {
    request.headers.get("authorization").is_some_and(|value| value.starts_with("Bearer owt_"))
}

// Only the host makes tokens and only the client sessions: others are asked, too, and are to be refused.

fn is_client(request: &Asked) -> bool {
    request.headers.get("authorization").is_some_and(|value| *value == format!("Bearer {CLIENT}"))
}

fn makes_token(request: &Asked) -> bool {
    let is_host = request.headers.get("x-openwork-host-token").is_some_and(|value| value == HOST);
    is_host && request.method == "POST" && request.target == "/tokens"
}

fn makes_session(request: &Asked) -> bool {
    is_client(request) && request.method == "POST" && request.target.ends_with("/session")
}

fn reads_session(request: &Asked) -> bool {
    let is_new = request.target.contains("/session/") && !request.target.contains("ses_00000");
    is_client(request) && request.method == "GET" && is_new
}

#[test]
fn what_was_made_is_removed_when_the_run_is_interrupted() {
    // While a token is used; and where the answer that named what was made never came.
    type Hangs = fn(&Asked) -> bool;
    // So slow that there is time to remove what is known, and for no list before that.
    let (fast, slow) = (Duration::ZERO, Duration::from_millis(1000));
    let cases: [(&str, Hangs, bool, Duration); 7] = [
        ("--create-probe-tokens", with_probe_token, false, fast),
        ("--create-probe-tokens", with_probe_token, false, slow),
        ("--create-probe-tokens", makes_token, true, fast),
        ("--create-probe-tokens", makes_token, true, slow / 2),
        ("--write-probe", reads_session, false, fast),
        ("--write-probe", reads_session, false, slow),
        ("--write-probe", makes_session, true, fast),
    ];
    for (flag, hangs, forwards_first, slow) in cases {
        let site = Site::new(Version::V0_18_16, 1);
        let kept = site.work.mint("viewer", "somebody's");
        let (front, hung) = hanging_front(&site.work, hangs, forwards_first, slow);
        let child =
            Guarded::spawn(&mut command(&format!("http://127.0.0.1:{}", front.port), &site.work.env(), &[flag]));
        wait_for("the request that hangs", SOON, || hung.load(Ordering::SeqCst).then_some(()));
        signal(&child.0, Signal::INT);
        let done = child.end().ended(130);
        assert!(!done.stderr.contains("by hand"), "{flag} {slow:?}: {}", done.stderr);
        assert_eq!(site.token_ids(), [kept.id], "{flag} {slow:?}");
        assert_eq!(site.work.sessions(), site.ids, "{flag} {slow:?}");
    }
}

#[test]
fn what_cannot_be_removed_in_time_after_an_interrupt_is_named() {
    type Hangs = fn(&Asked) -> bool;
    let cases: [(&str, Hangs); 2] = [("--create-probe-tokens", with_probe_token), ("--write-probe", reads_session)];
    for (flag, hangs) in cases {
        let site = Site::new(Version::V0_18_16, 1);
        let (front, hung) = hanging_front(&site.work, hangs, false, Duration::ZERO);
        let hangs_on = format!("http://127.0.0.1:{}", front.port);
        let deaf = Server::start(move |request, body| {
            let is_made = request.method == "DELETE" && !request.target.ends_with("none");
            if is_made { Reply::Never } else { forward(&hangs_on, request, body) }
        });
        let child = Guarded::spawn(&mut command(&format!("http://127.0.0.1:{}", deaf.port), &site.work.env(), &[flag]));
        wait_for("the request that hangs", SOON, || hung.load(Ordering::SeqCst).then_some(()));
        signal(&child.0, Signal::INT);
        let done = child.end().ended(130);
        let mut made = site.token_ids();
        made.extend(site.work.sessions().into_iter().filter(|id| !site.ids.contains(id)));
        assert_eq!(made.len(), 1, "{flag}");
        let hint = done.json["error"]["hint"].as_str().unwrap_or_default();
        assert!(hint.contains("remove by hand: ") && hint.contains(&made[0]), "{flag}: {}", done.stderr);
    }
}

#[test]
fn a_session_of_the_probe_is_removed_also_where_sessions_cannot_be_listed() {
    // From when on: the session is made, or it is removed.
    for method in ["POST", "DELETE"] {
        let site = Site::new(Version::V0_18_16, 1);
        let (url, is_broken) = (site.work.url(), AtomicBool::new(false));
        let front = Server::start(move |request, body| {
            if is_broken.load(Ordering::SeqCst) && request.target.contains("/session?limit=") {
                return Reply::Send("500 Internal Server Error".to_owned(), Vec::new());
            }
            let is_own = is_client(request) && request.method == method && !request.target.ends_with("none");
            if is_own && request.target.contains("/session") {
                is_broken.store(true, Ordering::SeqCst);
            }
            forward(&url, request, body)
        });
        let url = format!("http://127.0.0.1:{}", front.port);
        let done = verified(&url, &site.work.env(), &["--write-probe"]).failed(&["sessions.write"]);
        let says = "a session was made, read and removed, but sessions cannot be listed: ";
        assert!(done.detail("sessions.write").starts_with(says), "{method}: {}", done.detail("sessions.write"));
        assert_eq!(site.work.sessions(), site.ids, "{method}");
    }
}

#[test]
fn a_token_that_cannot_be_removed_is_a_failure_that_names_it() {
    let site = Site::new(Version::V0_18_16, 1);
    let (url, refused) = (site.work.url(), Arc::new(Mutex::new(BTreeSet::new())));
    let says = refused.clone();
    let front = Server::start(move |request, body| {
        if request.method == "DELETE" && !request.target.ends_with("none") {
            says.lock().unwrap().insert(request.target.clone());
            return Reply::Send("500 Internal Server Error".to_owned(), Vec::new());
        }
        forward(&url, request, body)
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
