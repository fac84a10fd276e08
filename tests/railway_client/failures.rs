//! What goes wrong on the way, what is said of it, and how often a request is sent.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use opsctl::providers::railway::Railway;
use opsctl::secret::Secret;
use opsctl::{Error, ExitCode};
use serde_json::json;

use crate::railway::{FakeRailway, Fault};
use crate::server::{Reply, Server};
use crate::{CANARY, PROJECT_HINT, client, place, told, values, wait, with};

/// A read, an upsert and a deployment: each with its operation.
const READ: &str = "variables";
const WRITE: &str = "variableCollectionUpsert";
const DEPLOY: &str = "serviceInstanceDeployV2";

fn scene() -> (FakeRailway, String) {
    let fake = FakeRailway::start();
    let service = fake.service("openwork");
    (fake, service)
}

fn run(fake: &FakeRailway, service: &str, operation: &str) -> Result<(), Error> {
    run_within(Duration::from_secs(30), fake, service, operation)
}

/// Gives up what is never answered.
fn run_within(limit: Duration, fake: &FakeRailway, service: &str, operation: &str) -> Result<(), Error> {
    let client = client(fake).within(limit);
    let before = fake.count(operation);
    let at = place(fake, Some(service));
    let result = match operation {
        READ => wait(client.variables(&at)).map(drop),
        WRITE => wait(client.upsert(&at, &values([("TOKEN", CANARY)]))),
        _ => wait(client.deploy(fake.environment(), service)).map(drop),
    };
    assert_eq!(client.requests(), u64::try_from(fake.count(operation) - before).unwrap());
    result
}

/// How long a request may take that this befalls.
fn limit(fault: &Fault) -> Duration {
    Duration::from_secs(if matches!(fault, Fault::Hang | Fault::DoneAndHang) { 1 } else { 30 })
}

/// What passes, with whether Railway has done what it was asked for.
fn passing() -> Vec<(Fault, bool)> {
    vec![
        (Fault::Limited(Some(0)), false),
        (Fault::Down, false),
        (Fault::BadGateway, false),
        (Fault::Status(503), false),
        (Fault::Hang, false),
        (Fault::DoneAndHang, true),
        (Fault::HangUp, false),
        (Fault::DoneAndHangUp, true),
        (Fault::Cut, true),
    ]
}

#[test]
fn what_passes_is_tried_three_times_where_that_does_no_harm() {
    std::thread::scope(|scope| {
        for (fault, operation) in passing().into_iter().flat_map(|(fault, _)| [(fault.clone(), READ), (fault, WRITE)]) {
            scope.spawn(move || is_tried_three_times(&fault, operation));
        }
    });
}

fn is_tried_three_times(fault: &Fault, operation: &str) {
    let (fake, service) = scene();
    fake.fail(operation, 2, fault.clone());
    run_within(limit(fault), &fake, &service, operation).unwrap();
    assert_eq!(fake.count(operation), 3, "{fault:?}");
    assert_eq!(fake.get("openwork", "TOKEN").is_some(), operation == WRITE);

    fake.forget();
    fake.fail(operation, usize::MAX, fault.clone());
    let error = run_within(limit(fault), &fake, &service, operation).unwrap_err();
    let (code, text) = told(Some(&fake), &error);
    assert_eq!(fake.count(operation), 3, "{fault:?}");
    let expected = if matches!(fault, Fault::Limited(_)) { ExitCode::RateLimited } else { ExitCode::Failed };
    assert_eq!(code, expected, "{text}");
    let unsure = " | nobody knows whether it was carried out: run the same command again: to write the same once more does no harm";
    assert_eq!(text.ends_with(unsure), operation == WRITE && code == ExitCode::Failed, "{text}");
}

#[test]
fn a_deployment_is_never_asked_for_twice() {
    for (fault, is_done) in passing() {
        let (fake, service) = scene();
        fake.fail(DEPLOY, 1, fault.clone());
        let (code, text) = told(Some(&fake), &run_within(limit(&fault), &fake, &service, DEPLOY).unwrap_err());
        assert_eq!((fake.count(DEPLOY), fake.deploys("openwork")), (1, usize::from(is_done)), "{fault:?}");
        let unsure = " | nobody knows whether it was carried out: look at Railway whether one was started before you ask for another";
        assert_eq!(text.ends_with(unsure), code == ExitCode::Failed, "{text}");
    }
}

#[test]
fn each_failure_says_what_happened_and_what_to_do() {
    let trace = |code: &str| format!(" ({code}, trace {})", crate::railway::TRACE);
    let server_error = trace("INTERNAL_SERVER_ERROR");
    let error = |message: &str| Fault::Error(message.to_owned());
    let cases = [
        (
            Fault::Limited(Some(31)),
            1,
            ExitCode::RateLimited,
            format!(
                "it limits the rate of requests: again in 31 s: Rate limit exceeded{} | run the same command again then: what it \
                 has done before stays done",
                trace("RATE_LIMITED")
            ),
        ),
        (
            Fault::Limited(Some(3000)),
            1,
            ExitCode::RateLimited,
            format!(
                "it limits the rate of requests: again in 50 min: Rate limit exceeded{} | run the same command again then: what \
                 it has done before stays done",
                trace("RATE_LIMITED")
            ),
        ),
        (
            Fault::Limited(None),
            1,
            ExitCode::RateLimited,
            format!(
                "it limits the rate of requests, and does not say for how long: the limits are for each second and each hour: \
                 Rate limit exceeded{} | run the same command again then: what it has done before stays done",
                trace("RATE_LIMITED")
            ),
        ),
        (
            Fault::Cloudflare,
            1,
            ExitCode::RateLimited,
            "Cloudflare, which stands before it, has blocked this address for sending too many requests (error 1015) | such a \
             block has lasted for up to a day: wait, or run the command from another network address"
                .to_owned(),
        ),
        (
            error("Creating volumes too quickly"),
            1,
            ExitCode::RateLimited,
            format!(
                "it limits the rate of requests, and does not say for how long: the limits are for each second and each hour: \
                 Creating volumes too quickly{server_error} | run the same command again then: what it has done before stays done"
            ),
        ),
        (
            error("Not Authorized"),
            1,
            ExitCode::Denied,
            format!("the token was refused: Not Authorized{server_error} | {PROJECT_HINT}"),
        ),
        (
            error("Project Token not found"),
            1,
            ExitCode::Denied,
            format!("the token was refused: Project Token not found{server_error} | {PROJECT_HINT}"),
        ),
        (Fault::Status(401), 1, ExitCode::Denied, format!("the token was refused: HTTP status 401 | {PROJECT_HINT}")),
        (
            Fault::Refuse(403, "No".to_owned()),
            1,
            ExitCode::Denied,
            format!("the token was refused: No{} | {PROJECT_HINT}", trace("BAD_USER_INPUT")),
        ),
        (
            error("Two Factor Authentication Required"),
            1,
            ExitCode::Denied,
            format!(
                "the workspace asks for two-factor authentication: Two Factor Authentication Required{server_error} | turn it on \
                 for the account of the token, or give a project token in RAILWAY_TOKEN, which needs none"
            ),
        ),
        (
            error("ServiceInstance not found"),
            1,
            ExitCode::NotFound,
            format!(
                "there is no such thing: ServiceInstance not found{server_error} | check the ids of the project, the environment \
                 and the services in the configuration"
            ),
        ),
        (
            error("Problem processing request"),
            1,
            ExitCode::Failed,
            format!(
                "it refused the request: Problem processing request{server_error} | Railway's support finds the request by its trace"
            ),
        ),
        (
            Fault::Refuse(400, "Unknown argument \"x\"".to_owned()),
            1,
            ExitCode::Failed,
            format!(
                "it refused the request: Unknown argument \"x\"{} | Railway's support finds the request by its trace",
                trace("BAD_USER_INPUT")
            ),
        ),
        (
            Fault::Down,
            3,
            ExitCode::Failed,
            format!("it is out of order: Internal Server Error{server_error} | run the same command again later"),
        ),
        (Fault::BadGateway, 3, ExitCode::Failed, "it is out of order: HTTP status 502 | run the same command again later".to_owned()),
        (Fault::Status(408), 3, ExitCode::Failed, "it is out of order: HTTP status 408 | run the same command again later".into()),
        (
            Fault::Status(404),
            1,
            ExitCode::Failed,
            "HTTP status 404 | check that OPSCTL_RAILWAY_URL, if it is set, is the end point of Railway's GraphQL API".to_owned(),
        ),
        (
            Fault::Html,
            1,
            ExitCode::Failed,
            "its answer is no JSON | check that OPSCTL_RAILWAY_URL, if it is set, is the end point of Railway's GraphQL API"
                .to_owned(),
        ),
        (
            Fault::Answer(json!({ "data": null })),
            1,
            ExitCode::Failed,
            "its answer holds neither data nor an error | check that OPSCTL_RAILWAY_URL, if it is set, is the end point of \
             Railway's GraphQL API"
                .to_owned(),
        ),
        (
            Fault::Answer(json!({ "data": { "variables": { "TOKEN": 17, "OTHER": CANARY } } })),
            1,
            ExitCode::Failed,
            "its answer is not what the API promises | check that OPSCTL_RAILWAY_URL, if it is set, is the end point of Railway's \
             GraphQL API"
                .to_owned(),
        ),
        (
            Fault::Redirect("https://evil.example/canary".to_owned()),
            1,
            ExitCode::Failed,
            "it sends whoever asks elsewhere, to another host (evil.example) | set OPSCTL_RAILWAY_URL to the end point that it \
             redirects to, if that is Railway's"
                .to_owned(),
        ),
    ];
    for (fault, requests, code, expected) in cases {
        let (fake, service) = scene();
        fake.fail(READ, usize::MAX, fault);
        let error = run(&fake, &service, READ).unwrap_err();
        assert_eq!(told(Some(&fake), &error), (code, format!("cannot read the variables at Railway: {expected}")));
        assert_eq!(fake.count(READ), requests, "{expected}");
    }
}

#[test]
fn a_data_that_comes_with_an_error_is_no_answer() {
    let (fake, service) = scene();
    let body = json!({ "data": { "variables": {} }, "errors": [{ "message": "Not Authorized" }] });
    fake.fail(READ, 1, Fault::Answer(body));
    assert_eq!(run(&fake, &service, READ).unwrap_err().code(), ExitCode::Denied);
}

#[test]
fn an_upsert_that_railway_denies_is_no_success() {
    let (fake, service) = scene();
    fake.fail(WRITE, 1, Fault::Answer(json!({ "data": { "variableCollectionUpsert": false } })));
    let (code, text) = told(Some(&fake), &run(&fake, &service, WRITE).unwrap_err());
    assert_eq!((code, text.as_str()), (ExitCode::Failed, "Railway says that it did not write the variables | "));
}

#[test]
fn an_error_that_repeats_what_was_sent_is_not_shown() {
    for status in [200, 400, 403, 429, 500] {
        let (fake, service) = scene();
        fake.fail(WRITE, usize::MAX, Fault::Echo(status));
        let (_, text) = told(Some(&fake), &run(&fake, &service, WRITE).unwrap_err());
        assert!(text.contains(&format!(" (BAD_USER_INPUT, trace {})", crate::railway::TRACE)), "{text}");
    }
    let (fake, service) = scene();
    let refused = Fault::Error(format!("No such token: {}", fake.token()));
    fake.fail(READ, 1, refused);
    let (_, text) = told(Some(&fake), &run(&fake, &service, READ).unwrap_err());
    assert!(text.starts_with("cannot read the variables at Railway: it refused the request (INTERNAL"), "{text}");
}

#[test]
fn what_a_server_says_cannot_move_the_cursor_or_fill_the_screen() {
    let (fake, service) = scene();
    fake.fail(READ, 1, Fault::Error(format!("\u{1b}[2J\r\nall \"well\"\u{202e}{}", "x".repeat(10_000))));
    let (_, text) = told(Some(&fake), &run(&fake, &service, READ).unwrap_err());
    assert!(text.contains("request: \\u{1b}[2J\\r\\nall \"well\"\\u{202e}xxx"), "{text}");
    assert!(text.contains("xx… (INTERNAL_SERVER_ERROR") && text.len() < 800, "{text}");

    fake.fail(
        READ,
        1,
        Fault::Answer(
            json!({ "errors": [{ "message": "m", "traceId": "\u{1b}[2J", "extensions": { "code": "a b" } }] }),
        ),
    );
    let (_, text) = told(Some(&fake), &run(&fake, &service, READ).unwrap_err());
    assert_eq!(text, "cannot read the variables at Railway: it refused the request: m | ");
}

#[test]
fn a_redirect_is_not_followed_with_the_token() {
    let (elsewhere, service) = scene();
    let (fake, _) = scene();
    for operation in [READ, WRITE, DEPLOY] {
        fake.forget();
        fake.fail(operation, 1, Fault::Redirect(format!("{}?source=opsctl", elsewhere.url())));
        let (_, text) = told(Some(&fake), &run(&fake, &service, operation).unwrap_err());
        assert!(text.contains("it sends whoever asks elsewhere, to another port"), "{text}");
    }
    assert_eq!(elsewhere.seen().len(), 0);
}

#[test]
fn a_short_limit_is_waited_for_and_a_long_one_is_not() {
    let (fake, service) = scene();
    fake.forget();
    fake.fail(READ, 1, Fault::Limited(Some(1)));
    run(&fake, &service, READ).unwrap();
    assert_eq!(fake.count(READ), 2);
}

#[test]
fn a_wait_ends_when_nobody_waits_any_more() {
    let (fake, service) = scene();
    fake.fail(READ, usize::MAX, Fault::Limited(Some(30)));
    let client = client(&fake);
    let at = place(&fake, Some(&service));
    let meanwhile = async {
        while fake.count(READ) == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    wait(async {
        tokio::select! {
            read = client.variables(&at) => panic!("{read:?}"),
            () = meanwhile => {}
        }
    });
    assert_eq!((client.requests(), fake.count(READ)), (1, 1));
}

#[test]
fn who_is_not_there_is_said_to_be_out_of_reach() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let client = with(&[
        ("OPSCTL_RAILWAY_URL", format!("http://127.0.0.1:{port}/graphql/v2")),
        ("RAILWAY_TOKEN", "canary".to_owned()),
    ]);
    let error = wait(client.deploy("environment", "service")).unwrap_err();
    let (code, text) = told(None, &error);
    assert_eq!(code, ExitCode::Failed);
    assert!(text.starts_with("cannot start a deployment at Railway: it could not be reached: "), "{text}");
    assert!(text.ends_with(" | check the network, and OPSCTL_RAILWAY_URL if it is set"), "{text}");
    assert!(!text.contains("nobody knows"), "{text}");
    assert_eq!(client.requests(), 1);
    wait(client.check_scope("project", "environment")).unwrap_err();
    assert_eq!(client.requests(), 1 + 3);
}

/// A server that answers every request so, and how many came.
fn raw(reply: impl Fn() -> Reply + Send + Sync + 'static) -> (Server, Arc<AtomicUsize>, Railway) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let server = Server::start(move |request, _| {
        assert_eq!(request.target, "/graphql/v2?source=opsctl");
        counted.fetch_add(1, Ordering::SeqCst);
        reply()
    });
    let url = format!("http://127.0.0.1:{}/graphql/v2", server.port);
    let client = with(&[("OPSCTL_RAILWAY_URL", url), ("RAILWAY_TOKEN", "token".to_owned())]);
    (server, count, client)
}

#[test]
fn answers_that_no_server_gives_are_survived() {
    let ok = "200 OK\r\nContent-Type: application/json";
    let deep = format!("{{\"data\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000)).into_bytes();
    let limited = |header: &str| format!("429 Too Many Requests\r\n{header}");
    let told_limit = b"{\"errors\":[{\"message\":\"slow\"}]}".to_vec();
    let later = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(2);
    let date = jiff::fmt::rfc2822::to_string(&later.to_zoned(jiff::tz::TimeZone::UTC)).unwrap();
    let cases = [
        (Reply::Send(ok.into(), Vec::new()), 1, "its answer is no JSON"),
        (Reply::Send(ok.into(), b"\xff\xfe{".to_vec()), 1, "its answer is no JSON"),
        (Reply::Send(ok.into(), b"{\"data\":{\"variables\":{}}}trailing".to_vec()), 1, "its answer is no JSON"),
        (Reply::Send(ok.into(), b"[]".to_vec()), 1, "its answer is no JSON"),
        (Reply::Send(ok.into(), b"{\"errors\":[]}".to_vec()), 1, "neither data nor an error"),
        (
            Reply::Send(ok.into(), b"{\"data\":{\"variables\":{\"A\":\"\\ud800\"}}}".to_vec()),
            1,
            "is not what the API promises",
        ),
        (Reply::Send(ok.into(), deep), 1, "its answer is "),
        (Reply::Endless(ok.into(), vec![b' '; 1 << 16]), 1, "the answer is larger than 16 MiB"),
        (Reply::Endless("500 No".into(), vec![b' '; 1 << 16]), 3, "it is out of order: HTTP status 500"),
        (Reply::Cut(ok.into(), vec![b' '; 100], 50), 3, "the answer was cut off"),
        (Reply::HangUp, 3, "the connection failed before an answer was there"),
        (Reply::Send("100000".into(), Vec::new()), 3, "the connection failed before an answer was there"),
        (Reply::Send("304 Not Modified".into(), Vec::new()), 1, "elsewhere, nowhere"),
        (Reply::Send(limited(&format!("Retry-After: {date}")), told_limit.clone()), 1, "again in 120 min"),
        (Reply::Send(limited("Retry-After: -1"), told_limit.clone()), 1, "does not say for how long"),
        (Reply::Send(limited("Retry-After: 99999999999999999999"), told_limit), 1, "does not say for how long"),
        (Reply::Send(limited("Retry-After: 1"), b"error code: 1015".to_vec()), 1, "Cloudflare"),
    ];
    for (reply, requests, expected) in cases {
        let (_server, count, client) = raw(move || reply.clone());
        let at = opsctl::providers::railway::Place { project: "p".into(), environment: "e".into(), service: None };
        let (_, text) = told(None, &wait(client.variables(&at)).unwrap_err());
        assert!(text.contains(expected), "{expected}: {text}");
        assert_eq!(count.load(Ordering::SeqCst), requests, "{text}");
    }
}

#[test]
fn a_long_answer_is_read_in_pieces() {
    let value = "v".repeat(1 << 20);
    let body = json!({ "data": { "variables": { "LONG": value, "NEXT": "é\n" } } }).to_string().into_bytes();
    let gate = crate::server::Gate::default();
    gate.open(usize::MAX / 2);
    let reply = Mutex::new(Some(Reply::Drip("200 OK".into(), body, 1000, gate)));
    let (_server, _, client) = raw(move || reply.lock().unwrap().take().unwrap());
    let at = opsctl::providers::railway::Place { project: "p".into(), environment: "e".into(), service: None };
    let read = wait(client.variables(&at)).unwrap();
    assert_eq!(read["LONG"].as_ref().map(Secret::expose), Some(value.as_str()));
    assert_eq!(read["NEXT"].as_ref().map(Secret::expose), Some("é\n"));
}
