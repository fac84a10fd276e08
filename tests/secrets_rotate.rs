//! `opsctl secrets rotate`: one new value everywhere, the old one worth nothing, and no end in between from which there is no way.
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

use railway::Fault;
use serde_json::json;
use server::{Reply, Server};
use vaulted::{CLIENT, HOST, OLD_CLIENT, Scene, result};

fn url(server: &Server) -> String {
    format!("http://127.0.0.1:{}", server.port)
}

/// What 1Password, both services and the running service have for the client's token.
fn everywhere(scene: &Scene) -> [Option<String>; 4] {
    let running = scene.railway.running("openwork").remove("OPENWORK_TOKEN");
    let of = |service| scene.railway.get(service, "OPENWORK_TOKEN");
    [scene.op.value(&scene.item, "client-token"), of("openwork"), of("web"), running]
}

/// The labels of the item's fields.
fn labels(scene: &Scene) -> Vec<String> {
    let item = scene.op.stored(&scene.item);
    item["fields"].as_array().unwrap().iter().map(|field| field["label"].as_str().unwrap().to_owned()).collect()
}

#[track_caller]
fn same(scene: &Scene) -> String {
    let values = everywhere(scene);
    assert!(values.iter().all(|value| value.is_some() && *value == values[0]), "not the same everywhere");
    values[0].clone().unwrap()
}

#[test]
fn a_rotation_changes_every_service_deploys_each_once_and_is_proved() {
    let scene = Scene::synced();
    let server = scene.service();
    let done = scene.run(&["rotate", "OPENWORK_TOKEN", "--yes", "--url", &url(&server)]).ok();
    let new = same(&scene);
    assert!(
        new.len() == 48 && new.bytes().all(|byte| byte.is_ascii_alphanumeric()) && new != CLIENT,
        "what was asked for"
    );
    assert_eq!(labels(&scene), ["client-token", "host-token", "tls-key", "dsn"], "the old value is gone");
    assert_eq!(scene.op.stored(&scene.item)["version"], 3, "with the new value, and without the old one");
    assert_eq!((scene.railway.deploys("openwork"), scene.railway.deploys("web")), (2, 2), "one more each");
    let rotated = &done.json["rotated"][0];
    assert_eq!((&rotated["status"], &rotated["proved"]), (&json!("rotated"), &json!(true)));
    assert_eq!(rotated["variables"], json!(["openwork.OPENWORK_TOKEN", "web.OPENWORK_TOKEN"]));
    let checks: Vec<String> = done.json["checks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|check| format!("{} {}", check["name"].as_str().unwrap(), check["status"].as_str().unwrap()))
        .collect();
    assert_eq!(checks, ["OPENWORK_TOKEN.works ok", "OPENWORK_TOKEN.old-refused ok"]);
    // Nothing else was touched.
    assert_eq!(scene.op.value(&scene.item, "host-token").as_deref(), Some(HOST));
    assert_eq!(scene.railway.get("openwork", "OPENWORK_HOST_TOKEN").as_deref(), Some(HOST));
    assert!(!done.says(&new) && !done.says(CLIENT));
    // And a sync has nothing left to do.
    scene.run(&["plan", "--detailed-exit-code"]).ok();
}

#[test]
fn several_secrets_of_one_item_take_one_edit_and_one_deployment() {
    let scene = Scene::synced();
    let server = scene.service();
    scene.run(&["rotate", "OPENWORK_TOKEN", "OPENWORK_HOST_TOKEN", "--yes", "--url", &url(&server)]).ok();
    let host = scene.op.value(&scene.item, "host-token").unwrap();
    assert!(host.len() == 40 && host.bytes().all(|byte| byte.is_ascii_hexdigit()) && host != HOST);
    assert_eq!(scene.railway.running("openwork")["OPENWORK_HOST_TOKEN"], host);
    same(&scene);
    assert_eq!(scene.op.stored(&scene.item)["version"], 3);
    assert_eq!((scene.railway.deploys("openwork"), scene.railway.deploys("web")), (2, 2));
    assert_eq!(scene.op.calls().iter().filter(|call| call.verb() == "edit").count(), 2);
}

#[test]
fn without_a_proof_the_rotation_stays_open_and_the_next_run_closes_it() {
    let scene = Scene::synced();
    let server = scene.service();
    let done = scene.run(&["rotate", "OPENWORK_TOKEN", "--yes"]).ended(3);
    assert_eq!(done.json["rotated"][0]["status"], "open");
    let new = same(&scene);
    assert_eq!(labels(&scene).len(), 5, "the old value is kept beside the new one");
    assert_eq!(scene.railway.deploys("openwork"), 2);
    // The next run makes no other value, and deploys nothing again.
    let done = scene.run(&["rotate", "OPENWORK_TOKEN", "--yes", "--url", &url(&server)]).ok();
    assert_eq!((done.json["rotated"][0]["status"].as_str(), same(&scene)), (Some("rotated"), new));
    assert_eq!((labels(&scene).len(), scene.railway.deploys("openwork")), (4, 2));
}

#[test]
fn who_wants_no_proof_says_so() {
    let scene = Scene::synced();
    let done = scene.run(&["rotate", "OPENWORK_TOKEN", "--yes", "--no-verify"]).ok();
    assert_eq!(
        (&done.json["rotated"][0]["status"], &done.json["rotated"][0]["proved"]),
        (&json!("rotated"), &json!(false))
    );
    assert_eq!(labels(&scene).len(), 4);
    scene.run(&["rotate", "OPENWORK_TOKEN", "--no-verify", "--url", "http://127.0.0.1:9"]).ended(2);
}

/// A service that goes on taking the old token, as one does that has a copy of it elsewhere.
fn stubborn(scene: &Scene) -> Server {
    let railway = scene.railway.clone();
    Server::start(move |request, _| {
        let token = request.headers.get("authorization").and_then(|value| value.strip_prefix("Bearer "));
        let running = railway.running("openwork").remove("OPENWORK_TOKEN");
        let is_in = token.is_some() && (token == running.as_deref() || token == Some(CLIENT));
        Reply::Send(if is_in { "200 OK" } else { "401 Unauthorized" }.to_owned(), b"{}".to_vec())
    })
}

#[test]
fn an_old_value_that_still_works_fails_the_rotation_and_can_be_put_back() {
    let scene = Scene::synced();
    let server = stubborn(&scene);
    let quick = ["--proof-timeout", "1s", "--yes", "--url", &url(&server)];
    let done = scene.run(&[&["rotate", "OPENWORK_TOKEN"], &quick[..]].concat()).ended(5);
    let check = done.json["checks"]
        .as_array()
        .unwrap()
        .iter()
        .find(|check| check["name"] == "OPENWORK_TOKEN.old-refused")
        .unwrap();
    assert!(check["detail"].as_str().unwrap().contains("still let in"), "{check}");
    assert_eq!(done.json["rotated"][0]["status"], "open");
    assert_ne!(same(&scene), CLIENT);
    // By hand, in another process: the item has what is needed.
    std::fs::remove_dir_all(scene.dir.join("state")).unwrap();
    let done = scene.run(&[&["rotate", "OPENWORK_TOKEN", "--rollback"], &quick[..]].concat()).ok();
    assert_eq!((done.json["rotated"][0]["status"].as_str(), same(&scene).as_str()), (Some("rolled_back"), CLIENT));
    assert_eq!(labels(&scene).len(), 4);
}

#[test]
fn with_rollback_a_failed_proof_puts_the_old_value_back_at_once() {
    let scene = Scene::synced();
    // It takes the old token and nothing else.
    let server = Server::start(|request, _| {
        let is_in = request.headers.get("authorization").is_some_and(|value| value == &format!("Bearer {CLIENT}"));
        Reply::Send(if is_in { "200 OK" } else { "401 Unauthorized" }.to_owned(), b"{}".to_vec())
    });
    let args = ["rotate", "OPENWORK_TOKEN", "--rollback", "--proof-timeout", "1s", "--yes", "--url", &url(&server)];
    let done = scene.run(&args).ended(5);
    assert_eq!(done.json["rotated"][0]["status"], "rolled_back");
    assert_eq!(same(&scene), CLIENT);
    assert_eq!(labels(&scene).len(), 4);
    assert_eq!((scene.railway.deploys("openwork"), scene.railway.deploys("web")), (3, 3), "there and back");
    scene.run(&["plan", "--detailed-exit-code"]).ok();
}

#[test]
fn a_deployment_that_fails_leaves_the_rotation_open_and_the_next_run_finishes_it() {
    let scene = Scene::synced();
    let server = scene.service();
    scene.railway.next_deployment("openwork", &["BUILDING", "FAILED"]);
    let done = scene.run(&["rotate", "OPENWORK_TOKEN", "--yes", "--url", &url(&server)]).ended(3);
    assert_eq!(
        (done.json["rotated"][0]["status"].as_str(), &result(&done, "openwork")["status"]),
        (Some("open"), &json!("failed"))
    );
    assert_eq!(scene.railway.running("openwork")["OPENWORK_TOKEN"], CLIENT);
    let new = scene.op.value(&scene.item, "client-token").unwrap();
    scene.run(&["rotate", "OPENWORK_TOKEN", "--yes", "--url", &url(&server)]).ok();
    assert_eq!(same(&scene), new);
    assert_eq!((scene.railway.deploys("openwork"), scene.railway.deploys("web")), (3, 2));
}

#[test]
fn a_rate_limit_between_two_services_leaves_the_rotation_open() {
    let scene = Scene::synced();
    let server = scene.service();
    // The second write: Railway takes nothing more.
    scene.railway.fail("variableCollectionUpsert", 1, Fault::Slow(std::time::Duration::ZERO));
    scene.railway.fail("variableCollectionUpsert", 9, Fault::Cloudflare);
    let done = scene.run(&["rotate", "OPENWORK_TOKEN", "--yes", "--url", &url(&server)]).ended(3);
    assert_eq!(
        (&result(&done, "openwork")["written"], &result(&done, "web")["status"]),
        (&json!(1), &json!("write_failed"))
    );
    scene.railway.heal();
    scene.run(&["rotate", "OPENWORK_TOKEN", "--yes", "--url", &url(&server)]).ok();
    same(&scene);
    assert_eq!((scene.railway.deploys("openwork"), scene.railway.deploys("web")), (2, 2));
}

#[test]
fn an_item_that_an_edit_would_damage_is_refused_and_nothing_is_written() {
    let scene = Scene::synced();
    scene.op.alter(&scene.item, |item| item["category"] = "LOGIN".into());
    let done = scene.run(&["rotate", "OPENWORK_TOKEN", "--yes", "--no-verify"]).ended(2);
    assert!(done.error().contains("an item of its own"), "{}", done.stdout);
    assert_eq!(same(&scene), CLIENT);
    assert_eq!((scene.railway.mutations(), scene.railway.deploys("openwork")), (0, 1));
}

#[test]
fn what_cannot_be_rotated_as_a_whole_is_refused_before_anything_is_asked() {
    let scene = Scene::synced();
    let calls = scene.op.calls().len();
    for (args, says) in [
        (&["rotate", "TLS_KEY", "--yes"][..], "has no `generate`"),
        (&["rotate", "PORT", "--yes"], "no service of `production` maps PORT"),
        (&["rotate", "OPENWORK_TOKEN", "--service", "openwork", "--yes"], "--service web"),
    ] {
        let done = scene.run(args).ended(2);
        assert!(done.error().contains(says), "{}", done.stdout);
    }
    let done = scene.run(&["rotate", "OPENWORK_TOKEN"]).ended(2);
    assert!(done.error().contains("--yes"), "{}", done.stdout);
    assert_eq!(same(&scene), CLIENT);
    assert!(scene.op.calls()[calls..].iter().all(|call| call.verb() != "edit"));
}

#[test]
fn a_field_that_is_referred_to_in_two_ways_is_not_rotated_by_halves() {
    let scene = Scene::synced();
    scene.reconfigure(
        "OPENWORK_TOKEN = \"op://Team/openwork/client-token\"",
        &format!("OPENWORK_TOKEN = \"op://team/{}/client-token\"", scene.item),
    );
    let done = scene.run(&["rotate", "OPENWORK_HOST_TOKEN", "--yes", "--no-verify"]).ok();
    assert_eq!(done.json["rotated"][0]["status"], "rotated");
    scene.reconfigure(
        &format!("op://team/{}/client-token", scene.item),
        &format!("op://Team/{}/client-token", scene.item),
    );
    let mut renamed = std::fs::read_to_string(scene.dir.join("opsctl.toml")).unwrap();
    renamed = renamed.replace(
        &format!("OPENWORK_TOKEN = \"op://Team/{}", scene.item),
        &format!("WEB_TOKEN = \"op://Team/{}", scene.item),
    );
    scene.configure(&renamed);
    let done = scene.run(&["rotate", "OPENWORK_TOKEN", "--yes", "--no-verify"]).ended(2);
    assert!(done.error().contains("WEB_TOKEN of `web` is the same field"), "{}", done.stdout);
    assert_eq!(same(&scene), CLIENT);
}

#[test]
fn fields_of_one_label_keep_their_old_values_apart() {
    let scene = Scene::synced();
    // The same label in two sections.
    scene.op.alter(&scene.item, |item| {
        item["sections"] = json!([{ "id": "one", "label": "One" }, { "id": "two", "label": "Two" }]);
        for (field, section) in [(0, "one"), (1, "two")] {
            item["fields"][field]["label"] = "token".into();
            item["fields"][field]["section"] = json!({ "id": section });
        }
    });
    let text = std::fs::read_to_string(scene.dir.join("opsctl.toml")).unwrap();
    scene.configure(
        &text
            .replace("openwork/client-token", "openwork/One/token")
            .replace("openwork/host-token", "openwork/Two/token"),
    );
    let args = ["rotate", "OPENWORK_TOKEN", "OPENWORK_HOST_TOKEN", "--yes"];
    scene.run(&args).ended(3);
    let item = scene.op.stored(&scene.item);
    let kept: Vec<&str> =
        item["fields"].as_array().unwrap()[4..].iter().map(|field| field["value"].as_str().unwrap()).collect();
    assert_eq!(kept, [CLIENT, HOST]);
    scene.run(&[&args[..], &["--rollback", "--no-verify"]].concat()).ok();
    assert_eq!(scene.railway.get("openwork", "OPENWORK_TOKEN").as_deref(), Some(CLIENT));
    assert_eq!(scene.railway.get("openwork", "OPENWORK_HOST_TOKEN").as_deref(), Some(HOST));
}

#[test]
fn a_dry_run_names_what_would_be_rotated_and_changes_nothing() {
    let scene = Scene::synced();
    let done = scene.run(&["rotate", "OPENWORK_TOKEN", "--dry-run"]).ok();
    assert_eq!(done.json["rotated"][0]["status"], "planned");
    assert_eq!((same(&scene).as_str(), scene.railway.mutations()), (CLIENT, 0));
}

#[test]
fn an_empty_field_gets_its_first_value() {
    let scene = Scene::synced();
    scene.op.alter(&scene.item, |item| drop(item["fields"][0].as_object_mut().unwrap().remove("value")));
    let server = scene.service();
    scene.run(&["rotate", "OPENWORK_TOKEN", "--yes", "--url", &url(&server)]).ok();
    assert_ne!(same(&scene), CLIENT);
    assert_eq!(labels(&scene).len(), 4);
}

#[test]
fn somebody_else_who_edits_the_item_at_the_same_time_is_not_overwritten() {
    let scene = Scene::synced();
    // Between our reading of the item and our edit.
    scene.op.fail(&onepassword::Fault::new(onepassword::When::Before, onepassword::Act::Meddle).of("edit").times(1));
    let done = scene.run(&["rotate", "OPENWORK_TOKEN", "--yes", "--no-verify"]).ended(11);
    assert_eq!(scene.railway.get("openwork", "OPENWORK_TOKEN").as_deref(), Some(CLIENT));
    assert!(!done.says(OLD_CLIENT));
}
