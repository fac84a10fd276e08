//! `opsctl verify` and what can go wrong on the way to a service: no token goes astray, nothing without end is read, and each trouble
//! is told by its name.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod support;

#[path = "support/openwork/mod.rs"]
mod openwork;
#[path = "support/stub_store.rs"]
mod stub_store;
#[path = "support/verifier.rs"]
mod verifier;

use std::net::TcpListener;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use openwork::{CLIENT, Engine, HOST, OpenWork, Version, forward};
use stub_store::{Reply, Request, Server};
use support::opsctl::Guarded;
use support::{TestDir, wait_for};
use verifier::{Verified, command, verified};

const SOON: Duration = Duration::from_secs(60);

fn site() -> (TestDir, OpenWork) {
    let dir = TestDir::new();
    let data = dir.mkdir("data");
    let engine = Engine::memory("1.17.11", &data.join("workspace"), &["ses_a".to_owned()]);
    let work = OpenWork::boot(Version::V0_18_16, &data, engine);
    (dir, work)
}

fn env() -> Vec<(&'static str, String)> {
    vec![("OPENWORK_TOKEN", CLIENT.to_owned()), ("OPENWORK_HOST_TOKEN", HOST.to_owned())]
}

fn url(server: &Server) -> String {
    format!("http://127.0.0.1:{}", server.port)
}

/// Answers as told, and remembers who asked what.
fn remembering(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> (Server, Arc<Mutex<Vec<Request>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sees = seen.clone();
    let server = Server::start(move |request, _| {
        sees.lock().unwrap().push(request.clone());
        answer(request)
    });
    (server, seen)
}

fn json(text: &str) -> Reply {
    Reply::Send("200 OK\r\nContent-Type: application/json".to_owned(), text.as_bytes().to_vec())
}

/// None of the secrets of the tests shows.
#[track_caller]
fn is_silent(done: &Verified) {
    for secret in [CLIENT, HOST] {
        assert!(!done.0.says(secret), "{} {}", done.0.stdout, done.0.stderr);
    }
}

// ---- redirects ----

#[test]
fn no_token_follows_a_redirect_and_the_finding_names_the_other_host_alone() {
    let (_dir, work) = site();
    let (other, seen) = remembering(|_| json(r#"{"ok":true}"#));
    // Another name of this machine is another host.
    let elsewhere = format!("http://localhost:{}/steal?secret=hunter2#", other.port);
    work.fault(|faults| faults.redirect = Some(elsewhere));
    let done = verified(&work.url(), &work.env(), &[]).failed(&["health"]);
    assert!(done.detail("health").contains("redirects to another host (localhost)"), "{}", done.detail("health"));
    assert!(!done.0.says("hunter2"));
    is_silent(&done);
    assert!(seen.lock().unwrap().is_empty(), "the other host was asked");
    // Nor is the first host given a token once it sends others away.
    let with_token = work.seen().into_iter().filter(|request| !request.ends_with(" none")).collect::<Vec<_>>();
    assert!(with_token.is_empty(), "{with_token:?}");
    assert_eq!((done.status("auth.none"), done.status("sessions")), ("skipped", "skipped"));
}

#[test]
fn a_redirect_of_a_protected_end_point_is_not_followed_either() {
    let (other, seen) = remembering(|_| json("[]"));
    let elsewhere = format!("http://localhost:{}", other.port);
    let front = Server::start(move |request, _| match request.target.as_str() {
        "/health" => json(r#"{"ok":true,"version":"1"}"#),
        "/ui" => Reply::Send("200 OK\r\nContent-Type: text/html".to_owned(), b"<html>".to_vec()),
        target => Reply::Send(format!("307 Temporary Redirect\r\nLocation: {elsewhere}{target}"), Vec::new()),
    });
    let done = verified(&url(&front), &env(), &["--write-probe", "--create-probe-tokens"]).is("failed");
    for name in ["auth.none", "auth.wrong", "auth.client", "auth.host", "workspaces", "engine", "sessions"] {
        assert_eq!(done.status(name), "failed", "{name}");
        assert!(done.detail(name).contains("redirects to another host (localhost)") || name == "sessions", "{name}");
    }
    assert!(seen.lock().unwrap().is_empty(), "the other host was asked");
    is_silent(&done);
}

#[test]
fn a_redirect_to_https_says_so() {
    let front = Server::start(|request, _| {
        let location = format!("https://127.0.0.1{}", request.target);
        Reply::Send(format!("308 Permanent Redirect\r\nLocation: {location}"), Vec::new())
    });
    let done = verified(&url(&front), &env(), &[]).failed(&["health"]);
    assert!(done.detail("health").contains("redirects to https"), "{}", done.detail("health"));
}

// ---- bodies ----

#[test]
fn a_body_without_end_is_not_read_to_its_end() {
    for (path, check) in
        [("/health", "health"), ("/ui", "ui"), ("/workspaces", "workspaces"), ("/opencode/global/health", "engine")]
    {
        let (_dir, work) = site();
        work.fault(|faults| faults.endless = Some(path.to_owned()));
        let done = verified(&work.url(), &work.env(), &["--timeout", "5s"]).is("failed");
        assert_eq!(done.status(check), "failed", "{path}");
        assert!(done.detail(check).contains("larger than 1 MiB"), "{path}: {}", done.detail(check));
    }
}

#[test]
fn an_end_point_that_is_open_is_seen_whatever_it_answers() {
    let front = Server::start(|request, _| match request.target.as_str() {
        "/health" => json(r#"{"ok":true,"version":"1"}"#),
        "/status" => Reply::Endless("200 OK".to_owned(), vec![b'x'; 1 << 16]),
        _ => Reply::Send("401 Unauthorized".to_owned(), Vec::new()),
    });
    let done = verified(&url(&front), &[], &[]).is("failed");
    assert_eq!(done.detail("auth.none"), "OPEN TO EVERYBODY without a token: GET /status answers 200");
}

#[test]
fn a_list_of_sessions_that_is_not_a_list_fails_although_the_answer_is_200() {
    for body in [r#"{"items":[]}"#, "<html>", "null", r#"[{"title":"without an id"}]"#, r#"[{"id":"ses_a""#] {
        let (_dir, work) = site();
        let (inner, id) = (work.url(), work.workspace_id());
        let front = Server::start(move |request, rest| {
            let is_client = request.headers.get("authorization").is_some_and(|value| value.ends_with(CLIENT));
            match request.target.starts_with(&format!("/w/{id}/opencode/session?")) && is_client {
                true => json(body),
                false => forward(&inner, request, rest),
            }
        });
        let done = verified(&url(&front), &work.env(), &[]).failed(&["sessions"]);
        assert!(done.detail("sessions").contains("not with a list of sessions"), "{}", done.detail("sessions"));
    }
}

#[test]
fn an_answer_that_never_comes_whole_is_told_from_one_that_never_comes() {
    let (_dir, work) = site();
    work.fault(|faults| faults.slow = Some("/ui".to_owned()));
    let done = verified(&work.url(), &work.env(), &["--timeout", "2s"]).failed(&["ui"]);
    assert!(done.detail("ui").contains("no whole answer within 2 s"), "{}", done.detail("ui"));

    let never = Server::start(|_, _| Reply::Never);
    let done = verified(&url(&never), &env(), &["--timeout", "1s"]).failed(&["health"]);
    assert!(done.detail("health").contains("no whole answer within 1 s"), "{}", done.detail("health"));
}

#[test]
fn what_an_answer_is_cut_off_in_is_asked_for_again() {
    let tries = Arc::new(Mutex::new(0));
    let counts = tries.clone();
    let page = || ("200 OK\r\nContent-Type: text/html".to_owned(), b"<html>".to_vec());
    let front = Server::start(move |request, _| match request.target.as_str() {
        "/health" => json(r#"{"ok":true,"version":"1"}"#),
        "/ui" => {
            let mut tries = counts.lock().unwrap();
            *tries += 1;
            let (head, body) = page();
            if *tries < 3 { Reply::Cut(head, body, 2) } else { Reply::Send(head, body) }
        }
        _ => Reply::Send("401 Unauthorized".to_owned(), Vec::new()),
    });
    let done = verified(&url(&front), &[], &[]).is("inconclusive");
    assert_eq!((done.status("ui"), *tries.lock().unwrap()), ("ok", 3));
}

// ---- a service that is not up yet, or not there ----

#[test]
fn a_booting_service_is_waited_for() {
    let (_dir, work) = site();
    work.fault(|faults| faults.booting = 5);
    let done = verified(&work.url(), &work.env(), &[]).passed();
    assert!(done.detail("health").contains("after a while"), "{}", done.detail("health"));
}

#[test]
fn a_service_that_says_that_it_is_not_well_is_waited_for_and_then_failed() {
    let (sick, seen) = remembering(|request| match request.target.as_str() {
        "/health" => json(r#"{"ok":false,"version":"1"}"#),
        _ => Reply::Send("401 Unauthorized".to_owned(), Vec::new()),
    });
    let done = verified(&url(&sick), &[], &["--timeout", "2s"]).is("failed");
    assert_eq!(done.detail("health"), "/health answers 200, but it does not say /ok = true");
    assert!(seen.lock().unwrap().iter().filter(|request| request.target == "/health").count() > 2);
    // It answers, so who is let in can be told all the same.
    assert_eq!(done.status("auth.none"), "ok");
    assert_eq!(done.0.json["versions"], serde_json::json!({}));
}

#[test]
fn a_port_that_nobody_listens_on_yet_is_asked_again() {
    // Free, and taken again by the service later.
    let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{port}");
    let done = verified(&url, &env(), &["--timeout", "1s"]).failed(&["health"]);
    assert!(done.detail("health").contains("the connection is refused"), "{}", done.detail("health"));
    let (_dir, work) = site();
    let child = Guarded::spawn(&mut command(&url, &work.env(), &["--timeout", "60s"]));
    // A relay in the place of a service that comes up: it listens only once somebody asks in vain.
    let relay = wait_for("the port", SOON, || TcpListener::bind(("127.0.0.1", port)).ok());
    let to = work.url().strip_prefix("http://").unwrap().to_owned();
    std::thread::spawn(move || {
        for stream in relay.incoming() {
            let (stream, to) = (stream.unwrap(), std::net::TcpStream::connect(&to).unwrap());
            let copy = |mut from: std::net::TcpStream, mut to: std::net::TcpStream| {
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(std::net::Shutdown::Write);
                })
            };
            copy(stream.try_clone().unwrap(), to.try_clone().unwrap());
            copy(to, stream);
        }
    });
    Verified(child.end()).passed();
}

#[test]
fn a_host_without_address_is_told() {
    // A label of more than 63 letters is in no name, so nobody is asked about it.
    let done =
        verified(&format!("http://{}.invalid", "x".repeat(64)), &env(), &["--timeout", "1s"]).failed(&["health"]);
    assert!(done.detail("health").contains("the name of the host is not known"), "{}", done.detail("health"));
}

// ---- encryption ----

#[test]
fn a_service_that_does_not_speak_tls_is_told_at_once() {
    let (plain, seen) = remembering(|_| json(r#"{"ok":true}"#));
    let done =
        verified(&format!("https://127.0.0.1:{}", plain.port), &env(), &["--timeout", "60s"]).failed(&["health"]);
    assert!(done.detail("health").contains("no encrypted connection"), "{}", done.detail("health"));
    assert!(seen.lock().unwrap().is_empty());
}

#[test]
fn a_certificate_that_nobody_vouches_for_gets_no_token() {
    let dir = TestDir::new();
    let (key, certificate) = (dir.join("key.pem"), dir.join("certificate.pem"));
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]);
    openssl.args(["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]);
    let made = openssl.arg("-keyout").arg(&key).arg("-out").arg(&certificate).output();
    assert!(made.is_ok_and(|made| made.status.success()), "openssl is missing: run `make tools`");
    let script = "
import ssl, sys
from http.server import HTTPServer, BaseHTTPRequestHandler
class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        print('asked', self.path, dict(self.headers), file=sys.stderr, flush=True)
        self.send_response(200); self.end_headers()
server = HTTPServer(('127.0.0.1', 0), Answer)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[2], sys.argv[1])
server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_port, flush=True)
server.serve_forever()
";
    let mut python = Command::new("python3");
    python.args(["-c", script]).arg(&key).arg(&certificate);
    let mut server = Guarded::spawn(&mut python);
    let mut line = String::new();
    let stdout = server.0.stdout.take().unwrap();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).unwrap();
    let url = format!("https://127.0.0.1:{}", line.trim());
    let done = verified(&url, &env(), &["--timeout", "60s"]).failed(&["health"]);
    let detail = done.detail("health");
    assert!(detail.contains("no encrypted connection") && detail.contains("certificate"), "{detail}");
    assert!(done.fix("health").contains("certificate"));
    server.0.kill().unwrap();
    let mut asked = String::new();
    std::io::Read::read_to_string(server.0.stderr.as_mut().unwrap(), &mut asked).unwrap();
    assert!(!asked.contains("asked"), "{asked}");
}

#[test]
fn strict_sends_nothing_in_clear_to_another_machine() {
    // Nobody is asked for an address either.
    let far = format!("http://{}.invalid", "x".repeat(64));
    let done = verified(&far, &env(), &["--strict", "--write-probe"]).failed(&["transport"]);
    assert_eq!(done.with("skipped").len(), done.0.json["checks"].as_array().unwrap().len() - 1);
    let done = verified(&far, &env(), &["--timeout", "1s"]).failed(&["health"]);
    assert_eq!(done.status("transport"), "warning");
    let (_dir, work) = site();
    let done = verified(&work.url(), &work.env(), &["--strict"]).passed();
    assert_eq!(done.status("transport"), "ok");
}

#[test]
fn a_url_that_is_none_or_holds_a_secret_is_refused() {
    for url in ["", "127.0.0.1:1", "ftp://127.0.0.1", "http://me:hunter2@127.0.0.1", "http://127.0.0.1/?token=hunter2"]
    {
        let done = verified(url, &[], &[]).0.ended(2);
        assert!(done.error().contains("--url") && !done.says("hunter2"), "{}", done.stderr);
    }
}
