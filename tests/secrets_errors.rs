//! What stops `opsctl secrets` before anything is written: each with its exit code and with what to do about it.
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

use onepassword::{Act, When};
use railway::Fault;
use support::opsctl::{Done, run};
use vaulted::{OLD_CLIENT, Scene};

/// Every command that could write, with nothing in its way but what is wrong.
const WRITERS: [&[&str]; 2] = [&["sync", "--yes"], &["rotate", "OPENWORK_TOKEN", "--yes", "--no-verify"]];

#[track_caller]
fn untouched(scene: &Scene) {
    assert_eq!(scene.railway.mutations(), 0);
    assert_eq!(scene.railway.get("web", "OPENWORK_TOKEN").as_deref(), Some(OLD_CLIENT));
    assert!(scene.op.calls().iter().all(|call| call.verb() != "edit"));
}

/// Runs every command with this wrong, and wants this end.
#[track_caller]
fn stopped(scene: &Scene, code: i32, says: &[&str]) {
    for args in [&["plan"][..], &["verify"], WRITERS[0], WRITERS[1]] {
        let done = scene.run(args).ended(code);
        told(&done, says);
    }
    untouched(scene);
}

#[track_caller]
fn told(done: &Done, says: &[&str]) {
    for part in says {
        assert!(done.error().contains(part), "{part:?} is not in {}", done.stdout);
    }
}

#[test]
fn a_token_of_another_environment_stops_everything_before_1password_is_asked() {
    let scene = Scene::new();
    let staging = scene.railway.add_environment("staging");
    let token = scene.railway.token_for(&staging);
    for args in [&["plan"][..], &["verify"], WRITERS[0], WRITERS[1]] {
        let mut command = scene.command(args);
        command.env("RAILWAY_TOKEN", &token);
        let done = run(command).ended(12);
        told(&done, &[&staging, scene.railway.environment()]);
        assert!(!done.says(&token));
    }
    assert!(scene.op.calls().is_empty(), "{:?}", scene.op.calls());
    assert!(scene.railway.seen().iter().all(|seen| seen.operation == "projectToken"));
    untouched(&scene);
}

#[test]
fn an_account_token_must_see_the_environment_in_its_project() {
    let scene = Scene::new();
    let account = |args: &[&str]| {
        let mut command = scene.command(args);
        command.env_remove("RAILWAY_TOKEN").env("RAILWAY_API_TOKEN", scene.railway.account_token());
        run(command)
    };
    account(&["plan"]).ok();
    let elsewhere = scene.railway.add_environment_of("4f000000-0000-4000-8000-000000000000", "elsewhere");
    scene.reconfigure(scene.railway.environment(), &elsewhere);
    account(&["plan"]).ended(12);
    account(&["sync", "--yes"]).ended(12);
    untouched(&scene);
}

#[test]
fn credentials_that_are_missing_or_refused_are_told_apart() {
    let scene = Scene::new();
    for (remove, says) in [("RAILWAY_TOKEN", "RAILWAY_TOKEN"), ("OP_SERVICE_ACCOUNT_TOKEN", "OP_SERVICE_ACCOUNT_TOKEN")]
    {
        let mut command = scene.command(&["sync", "--yes"]);
        command.env_remove(remove);
        told(&run(command).ended(12), &[says]);
    }
    for (name, wrong, code) in [
        ("RAILWAY_TOKEN", "wr0ng-token-of-railway", 12),
        ("OP_SERVICE_ACCOUNT_TOKEN", "ops_wr0ngtoken", 12),
        ("OP_SERVICE_ACCOUNT_TOKEN", "wr0ng-token-of-1password", 12),
        ("OPSCTL_OP_BIN", "/nonexistent/op", 10),
    ] {
        let mut command = scene.command(&["sync", "--yes"]);
        command.env(name, wrong);
        let done = run(command);
        assert_eq!(done.code, code, "{name}: {}", done.stdout);
        assert!(!done.says("wr0ng"), "{}\n{}", done.stdout, done.stderr);
    }
    untouched(&scene);
}

#[test]
fn a_missing_vault_item_or_field_is_not_found() {
    for (from, to, says) in [
        ("\"Team\"", "\"Taem\"", "Taem"),
        ("op://Team/openwork/dsn", "op://Team/openwrok/dsn", "openwrok"),
        ("op://Team/openwork/dsn", "op://Team/openwork/dns", "dns"),
    ] {
        let scene = Scene::new();
        scene.reconfigure(from, to);
        if from == "\"Team\"" {
            scene.reconfigure("op://Team/", "op://Taem/");
        }
        stopped_some(&scene, 10, &[says]);
    }
}

/// The same without `rotate`, which reads nothing but what it rotates.
#[track_caller]
fn stopped_some(scene: &Scene, code: i32, says: &[&str]) {
    for args in [&["plan"][..], &["verify"], WRITERS[0]] {
        told(&scene.run(args).ended(code), says);
    }
    untouched(scene);
}

#[test]
fn all_that_is_missing_is_named_at_once() {
    let scene = Scene::new();
    scene.reconfigure("op://Team/openwork/dsn", "op://Team/gone/dsn");
    scene.reconfigure("op://Team/openwork/tls-key", "op://Team/openwork/no-such-field");
    stopped_some(&scene, 10, &["gone", "no-such-field"]);
}

#[test]
fn a_title_that_two_items_have_is_ambiguous() {
    let scene = Scene::new();
    let second = scene.op.item(&scene.vault, "OpenWork", &[("client-token", "x")]);
    stopped(&scene, 2, &[&scene.item.clone(), &second]);
}

#[test]
fn a_service_that_the_environment_does_not_have_is_not_found() {
    let scene = Scene::new();
    scene.reconfigure(&scene.services[1], "99999999-0000-4000-8000-000000000000");
    for args in [&["plan"][..], WRITERS[0]] {
        let done = scene.run(args);
        assert_eq!(done.code, 10, "{}", done.stdout);
        told(&done, &["99999999-0000-4000-8000-000000000000"]);
    }
    untouched(&scene);
}

#[test]
fn values_that_no_variable_may_have_are_refused_with_the_reason_and_without_the_value() {
    for (value, says) in [
        ("h1dden-value\n", "line feed"),
        ("h1dden\nvalue", "several lines"),
        ("h1dden\rvalue", "carriage return"),
        ("\u{feff}h1dden-value", "byte order mark"),
        ("h1dden-${{shared.X}}-value", "${{"),
        (" h1dden-value", "space"),
        ("", "is empty"),
    ] {
        let scene = Scene::new();
        scene.op.set(&scene.item, "dsn", value);
        for args in [&["plan"][..], WRITERS[0]] {
            let done = scene.run(args).ended(2);
            told(&done, &[says, "SENTRY_DSN of `everywhere`"]);
            assert!(!done.says("h1dden"), "{}\n{}", done.stdout, done.stderr);
        }
        untouched(&scene);
    }
}

#[test]
fn a_rate_limit_of_railway_at_any_request_writes_nothing_or_says_what_was_written() {
    let scene = Scene::new();
    scene.run(&["plan"]).ok();
    let reads = scene.railway.seen().len();
    for fault in [Fault::Limited(Some(3600)), Fault::Limited(None), Fault::Cloudflare] {
        for number in 1..=reads {
            scene.railway.heal();
            scene.railway.forget();
            scene.railway.fail_from(number, fault.clone());
            let done = scene.run(&["sync", "--yes"]).ended(13);
            assert!(!done.error().is_empty());
            untouched(&scene);
        }
    }
    // The first write.
    scene.railway.heal();
    scene.railway.forget();
    scene.railway.fail_from(reads + 1, Fault::Cloudflare);
    let done = scene.run(&["sync", "--yes"]).ended(13);
    assert!(done.says("not tried after this"), "{}", done.stdout);
    assert_eq!(scene.railway.get("web", "OPENWORK_TOKEN").as_deref(), Some(OLD_CLIENT));
    assert_eq!((scene.railway.deploys("openwork"), scene.railway.count("variableCollectionUpsert")), (0, 1));
    // From there on something was written, and the run says so.
    for number in reads + 2..=reads + 8 {
        let scene = Scene::new();
        scene.railway.fail_from(number, Fault::Cloudflare);
        scene.run(&["sync", "--yes"]).ended(3);
        scene.railway.heal();
        scene.run(&["sync", "--yes"]).ok();
        assert_eq!(
            (scene.railway.deploys("openwork"), scene.railway.deploys("web")),
            (1, 1),
            "from request {number} on"
        );
    }
}

#[test]
fn a_rate_limit_of_1password_at_any_request_writes_nothing() {
    let scene = Scene::new();
    scene.run(&["plan"]).ok();
    for number in 1..=3 {
        scene.op.mend();
        let limit = "(429) Too Many Requests: You've reached the maximum number of this type of requests this service account is allowed to make. Please retry in 58 minutes or try other requests.";
        let fault = onepassword::Fault::new(When::Before, Act::error(1, limit)).at_call(number);
        scene.op.fail(&fault);
        let done = scene.run(&["sync", "--yes"]).ended(13);
        told(&done, &["58 minutes"]);
        untouched(&scene);
    }
}

#[test]
fn what_is_not_configured_says_how_to_begin() {
    let scene = Scene::new();
    scene.configure("profile = \"openwork\"\n");
    for args in [&["plan"][..], WRITERS[0], WRITERS[1], &["verify"]] {
        told(&scene.run(args).ended(2), &["opsctl secrets init"]);
    }
    for (from, to, says) in [
        ("op://Team/openwork/dsn", "op://Other/openwork/dsn", "another vault than `Team`"),
        ("\"op://Team/openwork/dsn\"", "\"s3cret-itself\"", "is no reference"),
        ("SENTRY_DSN", "RAILWAY_TOKEN", "RAILWAY_"),
        ("SENTRY_DSN", "\"a-b\"", "no name of a variable"),
        ("length = 48", "length = 8", "too short"),
        ("op://Team/openwork/dsn", "env://DSN", "vault"),
        ("multiline = true", "multilien = true", "multiline"),
        ("{ value = \"/data/workspace\" }", "{ value = \"x\", ref = \"op://Team/a/b\" }", "either `ref` or `value`"),
        (
            "{ ref = \"op://Team/openwork/client-token\", generate = { length = 48, alphabet = \"base62\" } }",
            "{ value = \"s3cret-itself\" }",
            "its value stands in the file",
        ),
    ] {
        let scene = Scene::new();
        scene.reconfigure(from, to);
        if says == "its value stands in the file" {
            scene.configure(&std::fs::read_to_string(scene.dir.join("opsctl.toml")).unwrap());
        }
        let done = scene.run(&["plan"]).ended(2);
        told(&done, &[says]);
        assert!(!done.says("s3cret"), "{}", done.stdout);
        assert!(scene.op.calls().is_empty() && scene.railway.seen().is_empty());
    }
}
