//! `opsctl secrets verify`: every drift is named, what nobody can know is never called well, and nothing is written.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking, in its helpers too"
)]

mod support;

#[path = "support/onepassword/mod.rs"]
mod onepassword;
#[path = "support/railway/mod.rs"]
mod railway;
#[path = "support/server.rs"]
mod server;
#[path = "support/vaulted.rs"]
mod vaulted;

use std::net::TcpListener;

use railway::SHARED;
use server::{Reply, Server};
use support::opsctl::{Done, run};
use vaulted::{CLIENT, DSN, HOST, OLD_CLIENT, Scene};

/// A profile with three variables that must be there, and a question for each of its tokens.
const SMALL: &str = r#"
name = "small"
contract_version = "1"
[[services]]
name = "openwork"
[[services.identities]]
name = "client"
variable = "OPENWORK_TOKEN"
send = "bearer"
[[services.identities]]
name = "host"
variable = "OPENWORK_HOST_TOKEN"
send = { header = "X-OpenWork-Host-Token" }
[[services.variables]]
name = "OPENWORK_TOKEN"
secret = true
source = "one-password"
need = "required"
[[services.variables]]
name = "OPENWORK_HOST_TOKEN"
secret = true
source = "one-password"
need = "required"
[[services.variables]]
name = "OPENWORK_WORKSPACE"
source = "railway"
need = "required"
[[services.probes]]
name = "health"
path = "/health"
waits = true
expect = [{ status = [200] }]
[[services.auth]]
path = "/status"
answers = { none = [401], wrong = [401], client = [200], host = [200] }
"#;

/// Everything as it should be, as a machine sees it that has synced it.
fn well() -> Scene {
    let scene = Scene::synced();
    scene.dir.write("small.toml", SMALL);
    scene
}

fn verify(scene: &Scene, args: &[&str]) -> Done {
    let before = state(scene);
    let mut command = scene.command(&[&["verify"], args].concat());
    command.arg("--profile").arg(scene.dir.join("small.toml"));
    let done = run(command);
    assert_eq!(scene.railway.mutations(), 0);
    assert!(scene.op.calls().iter().all(|call| call.verb() != "edit"));
    assert_eq!(state(scene), before, "something was written to the folder of the state");
    for value in [CLIENT, HOST, OLD_CLIENT, DSN] {
        assert!(!done.says(value), "{}\n{}", done.stdout, done.stderr);
    }
    done
}

/// The files of the state folder and their content; none if there is no such folder.
fn state(scene: &Scene) -> Option<Vec<(std::path::PathBuf, Vec<u8>)>> {
    let state = scene.dir.join("state");
    let read = |path: std::path::PathBuf| (path.clone(), std::fs::read(&path).unwrap());
    state.exists().then(|| support::opsctl::files_below(&state).into_iter().map(read).collect())
}

/// The names of the checks with this status.
fn with(done: &Done, status: &str) -> Vec<String> {
    let checks = done.json["checks"].as_array().unwrap_or_else(|| panic!("no checks in {}", done.stdout));
    let found = checks.iter().filter(|check| check["status"] == status);
    found.map(|check| check["name"].as_str().unwrap().to_owned()).collect()
}

/// Drift, and nothing else than these checks fails.
#[track_caller]
fn differs(done: Done, failed: &[&str]) -> Done {
    let done = done.ended(5);
    assert_eq!(done.text("verdict"), "drift");
    assert_eq!(with(&done, "failed"), failed, "{}", done.stdout);
    done
}

/// Nothing differs, and this alone is not known.
#[track_caller]
fn unknown(done: Done, check: &str) -> Done {
    let done = done.ended(3);
    assert_eq!(done.text("verdict"), "incomplete");
    assert_eq!((with(&done, "skipped"), with(&done, "failed")), (vec![check.to_owned()], vec![]), "{}", done.stdout);
    assert!(!with(&done, "ok").contains(&check.to_owned()));
    done
}

#[track_caller]
fn detail(done: &Done, name: &str) -> String {
    let checks = done.json["checks"].as_array().unwrap();
    let check = checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("{name}: {}", done.stdout));
    check["detail"].as_str().unwrap().to_owned()
}

#[test]
fn where_all_is_well_every_variable_deployment_and_contract_is_named_ok() {
    let scene = well();
    for is_elsewhere in [false, true] {
        if is_elsewhere {
            std::fs::remove_dir_all(scene.dir.join("state")).unwrap();
        }
        let done = verify(&scene, &[]).ok();
        assert_eq!(done.text("verdict"), "passed");
        let ok = with(&done, "ok");
        for name in [
            "openwork.OPENWORK_TOKEN",
            "openwork.OPENWORK_HOST_TOKEN",
            "openwork.OPENWORK_WORKSPACE",
            "openwork.TLS_KEY",
            "openwork.deployment",
            "openwork.contract",
            "web.OPENWORK_TOKEN",
            "web.deployment",
            "everywhere.SENTRY_DSN",
        ] {
            assert!(ok.contains(&name.to_owned()), "{name} is not in {ok:?}");
        }
        assert_eq!(ok.len(), done.json["checks"].as_array().unwrap().len(), "{}", done.stdout);
    }
}

#[test]
fn every_kind_of_drift_is_named_and_nothing_beside_it() {
    type Change = fn(&Scene);
    let cases: [(&str, Change, &[&str]); 9] = [
        ("missing", |scene| scene.railway.remove("web", "OPENWORK_TOKEN"), &["web.OPENWORK_TOKEN"]),
        ("another value", |scene| scene.railway.set("web", "OPENWORK_TOKEN", OLD_CLIENT), &["web.OPENWORK_TOKEN"]),
        (
            "another shared value",
            |scene| scene.railway.set(SHARED, "SENTRY_DSN", OLD_CLIENT),
            &["everywhere.SENTRY_DSN"],
        ),
        (
            "another literal",
            |scene| scene.railway.set("openwork", "OPENWORK_WORKSPACE", "/elsewhere"),
            &["openwork.OPENWORK_WORKSPACE"],
        ),
        ("not deployed", |scene| scene.railway.set("web", "OPENWORK_TOKEN", CLIENT), &["web.deployment"]),
        (
            "a reference",
            |scene| {
                scene.railway.set("web", "OPENWORK_TOKEN", "${{shared.OPENWORK_TOKEN}}");
                scene.railway.run("web");
            },
            &["web.OPENWORK_TOKEN"],
        ),
        (
            "edited in 1Password",
            |scene| scene.op.set(&scene.item, "client-token", "n3w-token-in-1password-0123456789"),
            &["openwork.OPENWORK_TOKEN", "web.OPENWORK_TOKEN"],
        ),
        (
            "required, and nowhere",
            |scene| {
                scene.reconfigure("OPENWORK_WORKSPACE = { value = \"/data/workspace\" }\n", "");
                scene.railway.remove("openwork", "OPENWORK_WORKSPACE");
            },
            &["openwork.contract"],
        ),
        (
            "missing and required",
            |scene| scene.railway.remove("openwork", "OPENWORK_WORKSPACE"),
            &["openwork.OPENWORK_WORKSPACE", "openwork.contract"],
        ),
    ];
    for (kind, change, failed) in cases {
        let scene = well();
        change(&scene);
        let done = differs(verify(&scene, &[]), failed);
        assert!(!done.says("n3w-token"), "{kind}");
        if kind.starts_with("required") {
            assert!(detail(&done, "openwork.contract").contains("OPENWORK_WORKSPACE"), "{}", done.stdout);
        }
        // For people too.
        let mut text = scene.text_command(&["verify"]);
        text.arg("--profile").arg(scene.dir.join("small.toml"));
        let text = run(text).ended(5);
        assert!(failed.iter().all(|name| text.stdout.contains(name)), "{kind}: {}", text.stdout);
    }
}

#[test]
fn what_is_not_managed_is_no_drift() {
    let scene = well();
    scene.railway.set("openwork", "PORT", "9999");
    scene.railway.set("web", "SOMETHING", "else");
    verify(&scene, &[]).ok();
}

#[test]
fn a_newest_deployment_that_does_not_run_is_never_well() {
    let scene = well();
    // As a machine sees it that did not ask for it.
    std::fs::remove_dir_all(scene.dir.join("state")).unwrap();
    for (course, failed, warned) in [
        ("FAILED", &["web.deployment"][..], &[][..]),
        ("CRASHED", &["web.deployment"], &[]),
        ("BUILDING", &[], &["web.deployment"]),
    ] {
        scene.railway.next_deployment("web", &[course]);
        scene.railway.deploy("web");
        let done = verify(&scene, &[]);
        assert_eq!(
            (with(&done, "failed"), with(&done, "warning")),
            (owned(failed), owned(warned)),
            "{course}: {}",
            done.stdout
        );
        assert_eq!(done.code, if failed.is_empty() { 0 } else { 5 });
    }
    scene.railway.next_deployment("web", &["SLEEPING"]);
    scene.railway.deploy("web");
    verify(&scene, &[]).ok();
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn a_sealed_variable_is_well_by_the_record_alone() {
    let scene = well();
    scene.railway.seal("web", "OPENWORK_TOKEN");
    let done = verify(&scene, &[]).ok();
    assert!(detail(&done, "web.OPENWORK_TOKEN").contains("as the last sync wrote it"), "{}", done.stdout);
    // Edited in 1Password since: both are behind.
    let other = "an0ther-token-in-1password-0123456789";
    scene.op.set(&scene.item, "client-token", other);
    differs(verify(&scene, &[]), &["openwork.OPENWORK_TOKEN", "web.OPENWORK_TOKEN"]);
    scene.op.set(&scene.item, "client-token", CLIENT);
    verify(&scene, &[]).ok();
    // Somebody has written it since, and be it the same.
    scene.railway.set("web", "OPENWORK_TOKEN", CLIENT);
    scene.railway.run("web");
    let done = differs(verify(&scene, &[]), &["web.OPENWORK_TOKEN"]);
    assert!(detail(&done, "web.OPENWORK_TOKEN").contains("since the last sync"), "{}", done.stdout);
}

#[test]
fn a_sealed_variable_that_nobody_recorded_is_unknown() {
    let scene = well();
    scene.railway.seal("web", "OPENWORK_TOKEN");
    let folder = scene.dir.join("state");
    std::fs::rename(&folder, scene.dir.join("elsewhere")).unwrap();
    let done = unknown(verify(&scene, &[]), "web.OPENWORK_TOKEN");
    assert!(detail(&done, "web.OPENWORK_TOKEN").contains("unknown"), "{}", done.stdout);
    assert!(!folder.exists(), "it keeps nothing");
    // Times may tell that it differs, and never that it does not.
    scene.op.alter(&scene.item, |item| item["updated_at"] = "2100-01-01T00:00:00Z".into());
    differs(verify(&scene, &[]), &["web.OPENWORK_TOKEN"]);
}

#[test]
fn a_sealed_variable_is_unknown_without_a_key_for_fingerprints() {
    let scene = well();
    scene.railway.seal("web", "OPENWORK_TOKEN");
    scene.reconfigure("fingerprint_key = \"op://Team/opsctl/fingerprint-key\"", "");
    unknown(verify(&scene, &[]), "web.OPENWORK_TOKEN");
    // A difference elsewhere is still told.
    scene.railway.remove("openwork", "TLS_KEY");
    differs(verify(&scene, &[]), &["openwork.TLS_KEY"]);
}

fn url(server: &Server) -> String {
    format!("http://127.0.0.1:{}", server.port)
}

fn always(status: &'static str) -> Server {
    Server::start(move |_, _| Reply::Send(status.to_owned(), b"{}".to_vec()))
}

#[test]
fn with_a_url_each_token_has_to_be_let_in_and_a_wrong_one_refused() {
    let scene = well();
    let server = scene.service();
    let done = verify(&scene, &["--url", &url(&server)]).ok();
    let ok = with(&done, "ok");
    assert!(["auth.client", "auth.host"].iter().all(|name| ok.contains(&(*name).to_owned())), "{ok:?}");
    // Each by itself: what the service has of the other one does not matter.
    scene.railway.set("openwork", "OPENWORK_HOST_TOKEN", "an0ther-token-that-runs");
    scene.railway.run("openwork");
    scene.railway.set("openwork", "OPENWORK_HOST_TOKEN", HOST);
    let done = differs(verify(&scene, &["--url", &url(&server)]), &["openwork.deployment", "auth.host"]);
    assert!(detail(&done, "auth.host").contains("is refused"), "{}", done.stdout);
}

#[test]
fn a_service_that_refuses_or_lets_in_everybody_or_is_not_up_fails() {
    let scene = well();
    for (status, says) in [
        ("401 Unauthorized", "is refused"),
        ("403 Forbidden", "is refused"),
        ("200 OK", "a wrong token is let in"),
        ("503 Service Unavailable", "503"),
        ("404 Not Found", "404"),
    ] {
        let server = always(status);
        let done = differs(verify(&scene, &["--url", &url(&server)]), &["auth.client", "auth.host"]);
        assert!(detail(&done, "auth.client").contains(says), "{status}: {}", done.stdout);
    }
    // Nobody is there.
    let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    differs(verify(&scene, &["--url", &format!("http://127.0.0.1:{port}")]), &["auth.client", "auth.host"]);
}

#[test]
fn a_url_without_a_token_that_is_mapped_is_not_called_well() {
    let scene = well();
    let server = scene.service();
    let done = verify(&scene, &["--service", "everywhere", "--url", &url(&server)]);
    unknown(done, "auth");
}
