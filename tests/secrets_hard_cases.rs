//! `opsctl secrets` where it is hardest: what failed half-way, what somebody else did in between, and what only looks as if it
//! were done. Nothing is claimed that nobody has seen, nothing is made twice, and nothing is left behind in silence.
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

use std::sync::Arc;

use onepassword::Act;
use railway::{Fault, SHARED, When};
use serde_json::{Value, json};
use server::Server;
use support::opsctl::{Done, Guarded, run};
use vaulted::{CLIENT, HOST, OLD_CLIENT, Scene, change, result};

const NEW: &str = "n3w-client-token-in-1password-0123456789";
const NEW_DSN: &str = "https://n3w-d5n-key@sentry.example.com/1";
const SYNC: &[&str] = &["sync", "--yes"];
const ROTATE: &[&str] = &["rotate", "OPENWORK_TOKEN", "--yes"];
const DSN_LINE: &str = "SENTRY_DSN = \"op://Team/openwork/dsn\"\n";
const WEB_LINE: &str = "OPENWORK_TOKEN = \"op://Team/openwork/client-token\"\n";

fn url(server: &Server) -> String {
    format!("http://127.0.0.1:{}", server.port)
}

fn with<'a>(command: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [command, more].concat()
}

/// How often each service was deployed.
fn deploys(scene: &Scene) -> [usize; 2] {
    ["openwork", "web"].map(|service| scene.railway.deploys(service))
}

fn version(scene: &Scene) -> u64 {
    scene.op.stored(&scene.item)["version"].as_u64().unwrap()
}

fn token(scene: &Scene) -> String {
    scene.op.value(&scene.item, "client-token").unwrap()
}

/// The client's token is this one in 1Password, in both services and in what runs, and no old one is kept.
#[track_caller]
fn has_everywhere(scene: &Scene, value: &str) {
    assert_eq!(token(scene), value);
    for service in ["openwork", "web"] {
        assert_eq!(scene.railway.get(service, "OPENWORK_TOKEN").as_deref(), Some(value), "{service}");
        assert_eq!(scene.railway.running(service)["OPENWORK_TOKEN"], value, "{service} runs");
    }
    assert_eq!(
        scene.op.stored(&scene.item)["fields"].as_array().unwrap().len(),
        4,
        "the old value is left in the item"
    );
}

/// How many requests come before the first write. They are counted from one again.
fn reads(scene: &Scene) -> usize {
    scene.railway.forget();
    scene.run(&["plan"]).ok();
    let reads = scene.railway.seen().len();
    scene.railway.forget();
    reads
}

/// From behind this request on, this operation goes wrong so many times.
fn fails_after(scene: &Scene, request: usize, operation: &'static str, times: usize, fault: Fault) {
    let railway = Arc::downgrade(&scene.railway);
    scene.railway.at_request(request, When::After, move || {
        railway.upgrade().expect("it runs").fail(operation, times, fault);
    });
}

/// What became of a secret: by the end of its reference.
#[track_caller]
fn rotated<'d>(done: &'d Done, field: &str) -> &'d Value {
    let all = done.json["rotated"].as_array().unwrap_or_else(|| panic!("{}", done.stdout));
    let found = all.iter().find(|one| one["reference"].as_str().unwrap().ends_with(field));
    found.unwrap_or_else(|| panic!("{field}: {}", done.stdout))
}

#[track_caller]
fn rolls_back_nothing(scene: &Scene) {
    let before = (scene.op.stored(&scene.item), deploys(scene));
    scene.railway.forget();
    let done = scene.run(&with(ROTATE, &["--rollback"])).ok();
    assert!(done.says("no rotation is open; nothing was done"), "{}", done.stderr);
    assert_eq!(done.json["rotated"], json!([]), "{}", done.stdout);
    assert_eq!(scene.railway.mutations(), 0);
    assert_eq!((scene.op.stored(&scene.item), deploys(scene)), before);
}

#[test]
fn where_nothing_is_open_a_rollback_does_nothing_however_often() {
    let scene = Scene::synced();
    rolls_back_nothing(&scene);
    scene.run(ROTATE).ended(3);
    let done = scene.run(&with(ROTATE, &["--rollback", "--no-verify"])).ok();
    assert_eq!(rotated(&done, "client-token")["status"], "rolled_back");
    rolls_back_nothing(&scene);
    rolls_back_nothing(&scene);
    has_everywhere(&scene, CLIENT);
}

/// A sealed variable of `web`, to which a write has come that nobody has seen to be right.
fn unseen(scene: &Scene, command: &[&str]) -> Done {
    scene.railway.seal("web", "OPENWORK_TOKEN");
    let reads = reads(scene);
    // Write and look of `openwork`, then the write of `web`; each look is repeated twice.
    fails_after(scene, reads + 3, "variables", 3, Fault::Down);
    let done = scene.run(command).ended(3);
    assert_eq!(result(&done, "web")["status"], "write_failed", "{}", done.stdout);
    assert_ne!(scene.railway.get("web", "OPENWORK_TOKEN").as_deref(), Some(CLIENT), "it came to Railway");
    done
}

#[test]
fn what_nobody_has_seen_written_into_a_sealed_variable_is_written_again() {
    let scene = Scene::synced();
    scene.op.set(&scene.item, "client-token", NEW);
    unseen(&scene, SYNC);
    let written = |scene: &Scene| {
        scene.record()["services"][&scene.services[1]]["variables"]["OPENWORK_TOKEN"]["updated"].clone()
    };
    assert_eq!(written(&scene), json!(null), "the record claims nothing");
    // Whoever thinks it has the new value is wrong.
    let done = scene.run(&["verify"]).ended(5);
    let checks = done.json["checks"].as_array().unwrap();
    let check = checks.iter().find(|check| check["name"] == "web.OPENWORK_TOKEN").unwrap();
    assert_eq!(check["status"], "failed", "{check}");
    let done = scene.run(SYNC).ok();
    assert_eq!(change(&done, "web", "OPENWORK_TOKEN")["write"], true, "{}", done.stdout);
    has_everywhere(&scene, NEW);
    assert!(written(&scene).is_string());
    assert_eq!(deploys(&scene), [2, 2]);
}

#[test]
fn what_nobody_has_seen_written_by_a_rotation_is_put_back_with_it() {
    let scene = Scene::synced();
    unseen(&scene, ROTATE);
    let done = scene.run(&with(ROTATE, &["--rollback", "--no-verify"])).ok();
    assert_eq!(rotated(&done, "client-token")["status"], "rolled_back");
    has_everywhere(&scene, CLIENT);
}

/// `web` refers to the shared variable.
fn referring() -> Scene {
    let scene = Scene::new();
    scene.railway.set("web", "SENTRY_DSN", "${{shared.SENTRY_DSN}}");
    scene.run(SYNC).ok();
    scene.railway.forget();
    scene
}

#[test]
fn a_shared_variable_whose_write_fails_deploys_nobody_and_the_next_sync_does() {
    let scene = referring();
    scene.op.set(&scene.item, "dsn", NEW_DSN);
    scene.railway.fail("variableCollectionUpsert", 1, Fault::Error("Problem processing request".to_owned()));
    let done = scene.run(SYNC).ended(3);
    assert_eq!(result(&done, "everywhere")["status"], "write_failed");
    assert_eq!(deploys(&scene), [1, 1]);
    scene.run(SYNC).ok();
    assert_eq!(scene.railway.running("web")["SENTRY_DSN"], NEW_DSN);
    assert_eq!(deploys(&scene), [1, 2]);
}

#[test]
fn a_shared_variable_that_is_deleted_deploys_who_refers_to_it_once() {
    let scene = referring();
    scene.reconfigure(DSN_LINE, "OTHER = { value = \"x\" }\n");
    scene.run(&["sync", "--yes", "--prune"]).ok();
    assert_eq!(scene.railway.get(SHARED, "SENTRY_DSN"), None);
    assert_eq!(deploys(&scene), [1, 2]);
    assert_eq!(scene.railway.running("web")["SENTRY_DSN"], "");
    scene.run(&["sync", "--yes", "--prune"]).ok();
    assert_eq!(deploys(&scene), [1, 2]);
}

#[test]
fn a_deployment_of_somebody_else_that_never_ran_has_brought_nothing() {
    for status in ["FAILED", "SKIPPED"] {
        let scene = Scene::new();
        scene.run(&with(SYNC, &["--no-deploy"])).ok();
        for service in ["openwork", "web"] {
            scene.railway.next_deployment(service, &[status]);
            scene.railway.deploy(service);
        }
        std::fs::remove_dir_all(scene.dir.join("state")).unwrap();
        let done = scene.run(&["verify"]).ended(5);
        let checks = done.json["checks"].as_array().unwrap();
        let check = checks.iter().find(|check| check["name"] == "web.deployment").unwrap();
        assert_eq!(check["status"], "failed", "{check}");
        assert!(check["fix"].as_str().unwrap().contains("opsctl secrets sync"), "{check}");
        scene.run(&["plan", "--detailed-exit-code"]).ended(6);
        scene.run(SYNC).ok();
        has_everywhere(&scene, CLIENT);
        assert_eq!(deploys(&scene), [2, 2], "theirs, and ours");
        scene.run(&["plan", "--detailed-exit-code"]).ok();
    }
}

#[test]
fn a_deployment_that_nobody_saw_asked_for_and_that_never_ran_is_asked_for_again() {
    for status in ["FAILED", "CRASHED", "SKIPPED"] {
        let scene = Scene::synced();
        // As a run leaves it that was killed before the answer.
        let mut record = scene.record();
        let (before, _) = scene.railway.latest("web").unwrap();
        record["services"][&scene.services[1]]["deployment"] =
            json!({ "id": null, "before": before, "asked": "2026-11-21T00:00:00Z", "done": false });
        scene.dir.write("state/secrets/production.json", record.to_string());
        scene.railway.next_deployment("web", &[status]);
        scene.railway.deploy("web");
        let done = scene.run(SYNC).ok();
        assert_eq!(result(&done, "web")["deployed"], true, "{status}: {}", done.stdout);
        assert_eq!(deploys(&scene), [1, 3], "{status}");
        has_everywhere(&scene, CLIENT);
        scene.run(SYNC).ok();
        assert_eq!(deploys(&scene), [1, 3], "{status}");
    }
}

#[test]
fn a_sealed_variable_that_somebody_has_rewritten_is_his_own_and_is_not_pruned() {
    let scene = Scene::synced();
    for name in ["OPENWORK_WORKSPACE", "TLS_KEY"] {
        scene.railway.seal("openwork", name);
    }
    scene.railway.set("openwork", "TLS_KEY", "somebody made it his own");
    scene.reconfigure("OPENWORK_WORKSPACE = { value = \"/data/workspace\" }\n", "");
    scene.reconfigure("TLS_KEY = { ref = \"op://Team/openwork/tls-key\", multiline = true }\n", "");
    let done = scene.run(&with(SYNC, &["--prune"])).ok();
    assert_eq!(change(&done, "openwork", "OPENWORK_WORKSPACE")["action"], "delete");
    let kept = change(&done, "openwork", "TLS_KEY");
    assert_eq!(kept["action"], "unmanaged");
    assert!(kept["note"].as_str().unwrap().contains("somebody has changed it"), "{kept}");
    let left = scene.railway.variables("openwork");
    assert_eq!((left.contains_key("OPENWORK_WORKSPACE"), left.contains_key("TLS_KEY")), (false, true));
}

#[test]
fn one_field_written_in_two_ways_under_one_name_is_refused_before_any_edit() {
    let scene = Scene::synced();
    let other = format!("op://Team/{}/client-token", scene.item);
    let generate = "generate = { length = 48, alphabet = \"base62\" }";
    scene.reconfigure(WEB_LINE, &format!("OPENWORK_TOKEN = {{ ref = \"{other}\", {generate} }}\n"));
    let done = scene.run(&with(ROTATE, &["--no-verify"])).ended(2);
    assert!(done.error().contains("is the same field as"), "{}", done.stdout);
    assert_eq!((version(&scene), scene.railway.mutations()), (1, 0));
    has_everywhere(&scene, CLIENT);
}

#[test]
fn only_the_secret_that_was_proved_is_told_as_proved() {
    let scene = Scene::synced();
    let generate = "generate = { length = 40, alphabet = \"hex\" }";
    scene.reconfigure(DSN_LINE, &format!("SENTRY_DSN = {{ ref = \"op://Team/openwork/dsn\", {generate} }}\n"));
    let server = scene.service();
    let done = scene.run(&with(ROTATE, &["SENTRY_DSN", "--url", &url(&server)])).ok();
    for (field, is_proved) in [("client-token", true), ("dsn", false)] {
        let of = rotated(&done, field);
        assert_eq!((&of["status"], &of["proved"]), (&json!("rotated"), &json!(is_proved)), "{of}");
    }
    assert_eq!(scene.railway.get(SHARED, "SENTRY_DSN").map(|value| value.len()), Some(40));
}

#[test]
fn a_first_value_is_proved_by_working() {
    let scene = Scene::synced();
    scene.op.alter(&scene.item, |item| drop(item["fields"][0].as_object_mut().unwrap().remove("value")));
    let server = scene.service();
    let done = scene.run(&with(ROTATE, &["--url", &url(&server)])).ok();
    assert_eq!(rotated(&done, "client-token")["proved"], true, "{}", done.stdout);
    has_everywhere(&scene, &token(&scene));
}

#[test]
fn a_variable_that_refers_to_something_else_keeps_the_rotation_open_and_is_named() {
    let scene = Scene::synced();
    scene.railway.set("web", "OPENWORK_TOKEN", "${{legacy.TOKEN}}");
    let server = scene.service();
    let done = scene.run(&with(ROTATE, &["--url", &url(&server)])).ended(3);
    assert_eq!(rotated(&done, "client-token")["status"], "open");
    assert!(done.says("web.OPENWORK_TOKEN refers to something else"), "{}", done.stderr);
    let new = token(&scene);
    scene.railway.remove("web", "OPENWORK_TOKEN");
    scene.run(&with(ROTATE, &["--url", &url(&server)])).ok();
    assert_ne!(new, CLIENT);
    has_everywhere(&scene, &new);
}

#[test]
fn a_variable_that_refers_to_one_that_gets_the_value_has_it_by_that() {
    let scene = Scene::synced();
    scene.reconfigure(DSN_LINE, &format!("{DSN_LINE}{WEB_LINE}"));
    scene.railway.set("web", "OPENWORK_TOKEN", "${{shared.OPENWORK_TOKEN}}");
    // It is left as it is, and what it refers to is written.
    scene.run(SYNC).ended(3);
    let server = scene.service();
    let done = scene.run(&with(ROTATE, &["--url", &url(&server)])).ok();
    assert_eq!(rotated(&done, "client-token")["status"], "rotated");
    let new = token(&scene);
    assert_ne!(new, CLIENT);
    assert_eq!(scene.railway.get("web", "OPENWORK_TOKEN").as_deref(), Some("${{shared.OPENWORK_TOKEN}}"));
    for service in ["openwork", "web"] {
        assert_eq!(scene.railway.running(service)["OPENWORK_TOKEN"], new, "{service}");
    }
}

/// The host's token is in an item of its own: the id of that.
fn two_items(scene: &Scene) -> String {
    let second = scene.op.item(&scene.vault, "second", &[("host-token", HOST)]);
    scene.reconfigure("op://Team/openwork/host-token", "op://Team/second/host-token");
    second
}

/// The number of the last call of `op` by this command, which is an edit: as [`onepassword::Fault::at_call`] counts.
fn last_edit(make: impl Fn() -> Scene, command: &[&str]) -> u64 {
    let scene = make();
    scene.op.mend();
    let before = scene.op.calls().len();
    scene.run(command).ok();
    let calls = scene.op.calls();
    let calls: Vec<&str> =
        calls[before..].iter().map(onepassword::Call::verb).filter(|verb| *verb != "--version").collect();
    calls.iter().rposition(|verb| *verb == "edit").expect("an edit") as u64 + 1
}

#[test]
fn of_two_items_the_one_that_was_not_closed_is_closed_by_the_next_run_and_no_other_value_is_made() {
    let both = ["rotate", "OPENWORK_TOKEN", "OPENWORK_HOST_TOKEN", "--yes", "--no-verify"];
    let make = || {
        let scene = Scene::synced();
        two_items(&scene);
        scene
    };
    let number = last_edit(make, &both);
    let scene = Scene::synced();
    let second = two_items(&scene);
    scene.op.mend();
    let act = Act::error(1, "the network is gone");
    scene.op.fail(&onepassword::Fault::new(onepassword::When::Before, act).at_call(number));
    let done = scene.run(&both).ended(1);
    assert!(!done.error().contains("somebody else"), "nobody did: {}", done.stdout);
    scene.op.mend();
    let values = |scene: &Scene| (token(scene), scene.op.value(&second, "host-token").unwrap());
    let (client, host) = values(&scene);
    assert!(client != CLIENT && host != HOST);
    assert_eq!(scene.op.stored(&second)["fields"].as_array().unwrap().len(), 2, "the second is open");
    assert_eq!(deploys(&scene), [2, 2]);
    let done = scene.run(&both).ok();
    for field in ["client-token", "host-token"] {
        assert_eq!(rotated(&done, field)["status"], "rotated", "{}", done.stdout);
    }
    assert_eq!(values(&scene), (client.clone(), host));
    assert_eq!(scene.op.stored(&second)["fields"].as_array().unwrap().len(), 1);
    has_everywhere(&scene, &client);
    assert_eq!(deploys(&scene), [2, 2], "nothing is deployed again");
}

#[test]
fn a_rotation_killed_right_after_its_last_edit_is_seen_to_be_over_and_the_one_after_that_is_a_new_one() {
    let command = with(ROTATE, &["--no-verify"]);
    let number = last_edit(Scene::synced, &command);
    let scene = Scene::synced();
    scene.op.mend();
    scene.op.fail(&onepassword::Fault::new(onepassword::When::After, Act::Kill).at_call(number));
    Guarded::spawn(&mut scene.command(&command)).end().ended(128 + 9);
    scene.op.mend();
    let new = token(&scene);
    assert_ne!(new, CLIENT);
    has_everywhere(&scene, &new);
    let version = version(&scene);
    let done = scene.run(&command).ok();
    assert_eq!(rotated(&done, "client-token")["status"], "rotated");
    assert_eq!((token(&scene), self::version(&scene), deploys(&scene)), (new.clone(), version, [2, 2]));
    scene.run(&command).ok();
    assert_ne!(token(&scene), new, "who asks once more gets a new one");
    has_everywhere(&scene, &token(&scene));
}

#[test]
fn what_is_open_comes_first_and_what_waits_is_named() {
    let scene = Scene::synced();
    scene.run(&["rotate", "OPENWORK_HOST_TOKEN", "--yes"]).ended(3);
    let host = scene.op.value(&scene.item, "host-token").unwrap();
    let both = ["rotate", "OPENWORK_TOKEN", "OPENWORK_HOST_TOKEN", "--yes", "--no-verify"];
    let done = scene.run(&both).ended(3);
    assert_eq!(rotated(&done, "host-token")["status"], "rotated");
    assert!(done.says("op://Team/openwork/client-token waits"), "{}", done.stderr);
    assert_eq!(scene.op.value(&scene.item, "host-token"), Some(host.clone()), "no second new value");
    has_everywhere(&scene, CLIENT);
    scene.run(&with(ROTATE, &["--no-verify"])).ok();
    assert_ne!(token(&scene), CLIENT);
    has_everywhere(&scene, &token(&scene));
    assert_eq!(scene.op.value(&scene.item, "host-token"), Some(host));
}

#[test]
fn a_rollback_that_was_stopped_is_finished_by_a_plain_rotate_which_says_so() {
    let scene = Scene::synced();
    scene.run(ROTATE).ended(3);
    scene.railway.fail("variableCollectionUpsert", 1, Fault::Error("Problem processing request".to_owned()));
    scene.run(&with(ROTATE, &["--rollback", "--no-verify"])).ended(3);
    let done = scene.run(&with(ROTATE, &["--no-verify"])).ended(3);
    assert_eq!(rotated(&done, "client-token")["status"], "rolled_back");
    assert!(done.says("run this again for a new value"), "{}", done.stderr);
    has_everywhere(&scene, CLIENT);
    scene.run(&with(ROTATE, &["--no-verify"])).ok();
    assert_ne!(token(&scene), CLIENT);
    has_everywhere(&scene, &token(&scene));
}

#[test]
fn a_rate_limit_is_told_as_one_only_where_nothing_was_written() {
    for (after, code, is_written) in [(1, 13, false), (2, 3, true)] {
        let scene = Scene::new();
        let reads = reads(&scene);
        scene.railway.fail_from(reads + after, Fault::Cloudflare);
        scene.run(SYNC).ended(code);
        scene.railway.heal();
        let now = scene.railway.get("openwork", "OPENWORK_TOKEN");
        assert_eq!(now.as_deref(), Some(if is_written { CLIENT } else { OLD_CLIENT }));
        assert_eq!(deploys(&scene), [0, 0]);
        scene.run(SYNC).ok();
        has_everywhere(&scene, CLIENT);
        assert_eq!(deploys(&scene), [1, 1]);
    }
}

#[test]
fn a_write_that_railway_refuses_leaves_no_debt() {
    for is_sealed in [false, true] {
        let scene = Scene::synced();
        if is_sealed {
            scene.railway.seal("openwork", "OPENWORK_TOKEN");
        }
        scene.op.set(&scene.item, "client-token", NEW);
        scene.railway.fail("variableCollectionUpsert", 9, Fault::Error("Not Authorized".to_owned()));
        scene.run(SYNC).ended(12);
        scene.railway.heal();
        scene.op.set(&scene.item, "client-token", CLIENT);
        scene.run(&["plan", "--detailed-exit-code"]).ok();
        scene.run(SYNC).ok();
        assert_eq!(deploys(&scene), [1, 1]);
        has_everywhere(&scene, CLIENT);
    }
}

#[test]
fn a_reference_that_the_configuration_names_takes_the_place_of_another() {
    let scene = Scene::synced();
    scene.railway.set(SHARED, "A", "a");
    scene.reconfigure(WEB_LINE, "OPENWORK_TOKEN = { value = \"${{shared.A}}\", allow = [\"reference\"] }\n");
    scene.railway.set("web", "OPENWORK_TOKEN", "${{shared.B}}");
    scene.run(SYNC).ok();
    assert_eq!(scene.railway.get("web", "OPENWORK_TOKEN").as_deref(), Some("${{shared.A}}"));
    assert_eq!(scene.railway.running("web")["OPENWORK_TOKEN"], "a");
    scene.run(&["plan", "--detailed-exit-code"]).ok();
}

#[test]
fn deployments_that_cannot_be_seen_for_a_moment_are_looked_at_again() {
    let scene = Scene::new();
    let reads = reads(&scene);
    // Three writes, each with a look; one look at all; two deployments. Then one look in vain, with both of its repeats.
    let last = reads + 3 * 2 + 1 + 2;
    fails_after(&scene, last, "environment", 3, Fault::Down);
    let done = scene.run(SYNC).ok();
    assert_eq!(scene.railway.seen()[last - 1].operation, "serviceInstanceDeployV2");
    assert!(done.says("the deployments cannot be seen for the moment"), "{}", done.stderr);
    for service in ["openwork", "web"] {
        assert_eq!(result(&done, service)["status"], "success");
    }
    assert_eq!(deploys(&scene), [1, 1]);
}

#[test]
fn what_cannot_be_confirmed_is_refused_before_anything_is_asked() {
    let scene = Scene::new();
    // What comes from standard input comes from no vault.
    scene.reconfigure("vault = \"Team\"\n", "");
    scene.reconfigure(DSN_LINE, "SENTRY_DSN = \"stdin://\"\n");
    let done = scene.run(&["sync"]).ended(2);
    assert!(done.error().contains("standard input") && done.error().contains("--yes"), "{}", done.stdout);
    assert_eq!((scene.railway.seen().len(), scene.op.calls().len()), (0, 0));
    assert!(!scene.dir.join("state").exists());
    let input = support::opsctl::run_with(scene.command(SYNC), NEW_DSN).ok();
    assert_eq!(scene.railway.get(SHARED, "SENTRY_DSN").as_deref(), Some(NEW_DSN), "{}", input.stdout);
}

#[test]
fn what_contradicts_itself_is_refused_and_a_dry_run_leaves_no_folder() {
    let scene = Scene::new();
    let done = scene.run(&["sync", "--yes", "--no-deploy", "--url", "http://127.0.0.1:9"]).ended(2);
    assert!(done.says("--url") && done.says("--no-deploy"), "{}", done.stdout);
    let done = scene.run(&with(ROTATE, &["--service", "typo"])).ended(2);
    assert!(done.error().contains("typo") && done.error().contains("openwork, web, everywhere"), "{}", done.stdout);
    assert_eq!((scene.railway.seen().len(), scene.op.calls().len()), (0, 0));
    scene.run(&["rotate", "OPENWORK_TOKEN", "--dry-run"]).ok();
    assert!(!scene.dir.join("state").exists());
    assert_eq!((version(&scene), scene.railway.mutations()), (1, 0));
}

#[test]
fn a_production_target_that_names_no_vault_is_warned_about() {
    let says = "is production and names no vault";
    let scene = Scene::new();
    assert!(!run(scene.text_command(&["plan"])).ok().says(says));
    scene.reconfigure("vault = \"Team\"\n", "");
    let done = run(scene.text_command(&["plan"])).ok();
    assert!(done.stderr.contains(says), "{}", done.stderr);
    scene.reconfigure("production = true\n", "");
    assert!(!run(scene.text_command(&["plan"])).ok().says(says));
}
