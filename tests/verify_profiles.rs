//! `opsctl verify` on the services of the other two profiles: as they should be, and each broken in a way that looks well.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod support;

#[path = "support/stub_store.rs"]
mod stub_store;
#[path = "support/verifier.rs"]
mod verifier;

use stub_store::{Reply, Request, Server};
use verifier::{Verified, verified};

const TOKEN: &str = "token-of-the-tests-0123456789abcdef";

/// Who gets the answer of a route; others get 401.
#[derive(Clone, Copy, PartialEq)]
enum For {
    Everybody,
    /// Whoever has the token.
    Token,
    /// The same, with a tenant; without one 400.
    Tenant,
}

/// A request line, who gets its answer, and the answer.
type Route = (&'static str, For, Reply);

/// A service of these routes.
fn serve(routes: Vec<Route>) -> Server {
    Server::start(move |request, _| answer(&routes, request))
}

fn answer(routes: &[Route], request: &Request) -> Reply {
    let line = format!("{} {}", request.method, request.target);
    let Some((_, who, reply)) = routes.iter().find(|(route, ..)| *route == line) else {
        return send("404 Not Found", "application/json", "{}");
    };
    let has_token = request.headers.get("authorization").is_some_and(|value| *value == format!("Bearer {TOKEN}"));
    let has_tenant = request.headers.contains_key("x-tenant-id");
    match who {
        For::Token | For::Tenant if !has_token => send("401 Unauthorized", "application/json", "{}"),
        For::Tenant if !has_tenant => send("400 Bad Request", "application/json", "{}"),
        _ => reply.clone(),
    }
}

fn send(status: &str, kind: &str, body: &str) -> Reply {
    Reply::Send(format!("{status}\r\nContent-Type: {kind}"), body.as_bytes().to_vec())
}

fn json() -> Reply {
    send("200 OK", "application/json", "{}")
}

/// `good` with some routes replaced.
fn but(good: &[Route], broken: &[Route]) -> Vec<Route> {
    broken.iter().chain(good).cloned().collect()
}

/// Verifies a service of the profile, with all its tokens and leave to write where that means something.
fn verify(service: &str, routes: &[Route]) -> Verified {
    let server = serve(routes.to_vec());
    let env: Vec<(&str, String)> =
        ["CLAWWORK_API_TOKEN", "OPEN_COWORK_SMOKE_ADMIN_TOKEN", "OPEN_COWORK_GATEWAY_ADMIN_TOKEN"]
            .map(|name| (name, TOKEN.to_owned()))
            .into();
    let mut args = vec!["--profile", service, "--strict", "--timeout", "2s"];
    if service.ends_with("-api") {
        args.push("--write-probe");
    }
    let done = verified(&format!("http://127.0.0.1:{}", server.port), &env, &args);
    assert!(!done.0.says(TOKEN), "{}", done.0.stdout);
    done
}

// ---- clawwork ----

const API: &str = "clawwork:clawwork-api";

fn api() -> Vec<Route> {
    vec![
        ("GET /", For::Everybody, json()),
        ("GET /api/agents", For::Tenant, json()),
        ("POST /api/run", For::Tenant, json()),
    ]
}

#[test]
fn the_api_of_clawwork_passes() {
    let done = verify(API, &api()).passed();
    for name in ["api", "auth.none", "auth.wrong", "auth.front", "auth.front-without-tenant"] {
        assert_eq!(done.status(name), "ok", "{}", done.0.stdout);
    }
}

#[test]
fn the_token_of_any_identity_comes_from_a_file() {
    let dir = support::TestDir::new();
    let file = dir.write("token", TOKEN);
    support::opsctl::chmod(&file, 0o600);
    let server = serve(api());
    let args = ["--profile", API, "--token-file", &format!("front={}", file.display())];
    let done = verified(&format!("http://127.0.0.1:{}", server.port), &[], &args).passed();
    assert_eq!(done.status("auth.front"), "ok", "{}", done.0.stdout);
    let without = verified(&format!("http://127.0.0.1:{}", server.port), &[], &args[..2]).passed();
    assert!(without.detail("auth.front").contains("--token-file front=FILE"), "{}", without.detail("auth.front"));
}

#[test]
fn an_api_that_anybody_may_read_or_write_is_open_to_everybody() {
    for (line, shown) in
        [("GET /api/agents", "GET /api/agents answers 200"), ("POST /api/run", "POST /api/run answers 200")]
    {
        let done = verify(API, &but(&api(), &[(line, For::Everybody, json())])).is("failed");
        assert!(done.detail("auth.none").starts_with("OPEN TO EVERYBODY"), "{}", done.detail("auth.none"));
        assert!(done.detail("auth.none").contains(shown) && done.fix("auth.none").contains("CLAWWORK_REQUIRE_"));
        assert_eq!((done.status("api"), done.status("auth.front")), ("ok", "ok"));
    }
}

#[test]
fn an_api_that_does_not_keep_tenants_apart_fails() {
    let done = verify(API, &but(&api(), &[("GET /api/agents", For::Token, json())]));
    let done = done.failed(&["auth.front-without-tenant"]);
    assert!(done.fix("auth.front-without-tenant").contains("CLAWWORK_REQUIRE_TENANT_CONTEXT"));
}

const FRONT: &str = "clawwork:openos-web";

#[test]
fn the_front_of_clawwork_passes_and_one_that_lends_its_token_to_anybody_fails() {
    let page = send("200 OK", "text/html; charset=utf-8", "<html>");
    let good = vec![("GET /", For::Everybody, page), ("GET /api/clawwork/agents", For::Token, json())];
    verify(FRONT, &good).passed();
    let sign_in = Reply::Send("307 Temporary Redirect\r\nLocation: /sign-in".to_owned(), Vec::new());
    verify(FRONT, &but(&good, &[("GET /", For::Everybody, sign_in)])).passed();
    let done = verify(FRONT, &but(&good, &[("GET /api/clawwork/agents", For::Everybody, json())]));
    done.failed(&["auth.none", "auth.wrong"]);
}

// ---- open-cowork ----

const WEB: &str = "open-cowork:web";

const WORKBENCH: &str = r#"<!doctype html><script nonce="abc" id="open-cowork-cloud-bootstrap" type="application/json">{}</script>
<script type="module" nonce="abc" src="/assets/index-0123abcd.js"></script>"#;

fn workbench(headers: &str) -> Reply {
    send("200 OK", &format!("text/html; charset=utf-8\r\n{headers}"), WORKBENCH)
}

fn web() -> Vec<Route> {
    let ok = || send("200 OK", "application/json", r#"{"ok":true}"#);
    let headers = "Cache-Control: no-store\r\nContent-Security-Policy: script-src 'nonce-abc'";
    vec![
        ("GET /livez", For::Everybody, ok()),
        ("GET /readyz", For::Everybody, ok()),
        ("GET /healthz", For::Everybody, ok()),
        ("GET /", For::Everybody, workbench(headers)),
        ("GET /api/config", For::Everybody, json()),
        ("GET /api/workspace", For::Token, json()),
        ("GET /api/metrics", For::Token, json()),
    ]
}

#[test]
fn the_web_role_of_open_cowork_passes() {
    let done = verify(WEB, &web()).passed();
    assert!(done.detail("api-workspace").contains("it asks who you are"), "{}", done.0.stdout);
    assert_eq!(done.with("skipped"), [""; 0]);
}

#[test]
fn a_web_role_behind_something_that_answers_in_its_place_fails() {
    let page = || send("200 OK", "text/html", "<html>");
    let csp = "Content-Security-Policy: script-src 'nonce-abc'";
    let cached = format!("Cache-Control: public, max-age=600\r\n{csp}");
    let broken: [(Route, &str); 6] = [
        // A file server that answers everything with the start page.
        (("GET /api/workspace", For::Everybody, page()), "api-workspace"),
        (("GET /api/config", For::Everybody, page()), "api-config"),
        (("GET /", For::Everybody, page()), "workbench"),
        (("GET /", For::Everybody, workbench(&cached)), "workbench"),
        (("GET /", For::Everybody, workbench("Cache-Control: no-store")), "workbench"),
        (("GET /readyz", For::Everybody, send("503 Service Unavailable", "application/json", "{}")), "readyz"),
    ];
    for (route, check) in broken {
        let shown = format!("{route:?}", route = route.0);
        let done = verify(WEB, &but(&web(), &[route])).failed(&[check]);
        assert_eq!(done.status("livez"), "ok", "{shown}");
    }
}

#[test]
fn end_points_of_operators_that_are_open_fail() {
    let done = verify(WEB, &but(&web(), &[("GET /api/metrics", For::Everybody, json())]));
    done.failed(&["auth.none", "auth.wrong"]);
}

const GATEWAY: &str = "open-cowork:gateway";

#[test]
fn the_gateway_passes_and_one_that_shows_its_diagnostics_or_is_not_ready_fails() {
    let good = vec![
        ("GET /health", For::Everybody, json()),
        ("GET /ready", For::Everybody, json()),
        ("GET /metrics", For::Token, json()),
        ("GET /diagnostics", For::Token, json()),
    ];
    verify(GATEWAY, &good).passed();
    let off = send("404 Not Found", "application/json", "{}");
    let done = verify(GATEWAY, &but(&good, &[("GET /metrics", For::Token, off)])).passed();
    assert!(done.detail("auth.admin").contains("GET /metrics 404"), "{}", done.detail("auth.admin"));
    let done = verify(GATEWAY, &but(&good, &[("GET /diagnostics", For::Everybody, json())]));
    done.failed(&["auth.none", "auth.wrong"]);
    let not_ready = send("503 Service Unavailable", "application/json", "{}");
    verify(GATEWAY, &but(&good, &[("GET /ready", For::Everybody, not_ready)])).failed(&["ready"]);
}

// ---- which service ----

#[test]
fn one_of_several_services_has_to_be_chosen() {
    for (profile, services) in [("clawwork", ["clawwork-api", "openos-web"]), ("open-cowork", ["web", "gateway"])] {
        let done = verified("http://127.0.0.1:9", &[], &["--profile", profile]).0.ended(2);
        assert!(services.iter().all(|name| done.error().contains(name)), "{}", done.error());
        assert!(done.error().contains(&format!("--profile {profile}:{}", services[0])), "{}", done.error());
    }
    let done = verified("http://127.0.0.1:9", &[], &["--profile", "open-cowork:worker"]).0.ended(2);
    assert!(done.error().contains("no probes"), "{}", done.error());
}
