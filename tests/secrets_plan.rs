//! `opsctl secrets plan`: everything is read before anything is said, and nothing is written.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

#[path = "support/onepassword/mod.rs"]
mod onepassword;
#[path = "support/railway/mod.rs"]
mod railway;
#[path = "support/server.rs"]
mod server;
#[path = "support/vaulted.rs"]
mod vaulted;

use railway::{FakeRailway, SHARED};
use support::opsctl::{run, run_with};
use vaulted::{CLIENT, DSN, HOST, KEY, OLD_CLIENT, Scene, actions, change};

#[test]
fn a_plan_says_what_happens_to_every_variable_and_changes_nothing() {
    let scene = Scene::new();
    let done = scene.run(&["plan"]).ok();
    assert_eq!(
        actions(&done),
        [
            "openwork.OPENWORK_HOST_TOKEN create",
            "openwork.OPENWORK_TOKEN update",
            "openwork.OPENWORK_WORKSPACE create",
            "openwork.TLS_KEY create",
            "openwork.DATABASE_URL unmanaged",
            "openwork.PORT unmanaged",
            "web.OPENWORK_TOKEN update",
            "everywhere.SENTRY_DSN create",
        ]
    );
    assert_eq!((done.text("target"), done.number("deploys"), &done.json["pending"]), ("production", 2, &true.into()));
    assert_eq!(scene.railway.mutations(), 0);
    assert!(!scene.dir.join("state").exists(), "a plan keeps nothing");
    assert!(scene.op.calls().iter().all(|call| call.verb() != "edit"));
}

#[test]
fn fingerprints_stand_for_values_and_last_with_a_key_alone() {
    let scene = Scene::new();
    let (one, two) = (scene.run(&["plan"]).ok(), scene.run(&["plan"]).ok());
    assert_eq!(one.json["changes"], two.json["changes"]);
    // The same secret in two services, which shows; and two secrets, which differ.
    let of =
        |service: &str, variable: &str, side: &str| change(&one, service, variable)[side].as_str().map(str::to_owned);
    let print = of("openwork", "OPENWORK_TOKEN", "to").expect("a fingerprint");
    assert!(print.len() == 8 && print.bytes().all(|byte| byte.is_ascii_hexdigit()), "{print}");
    assert_eq!(of("web", "OPENWORK_TOKEN", "to").as_ref(), Some(&print));
    assert_ne!(of("openwork", "OPENWORK_TOKEN", "from").as_ref(), Some(&print));
    assert_ne!(of("openwork", "OPENWORK_HOST_TOKEN", "to").as_ref(), Some(&print));
    for done in [&one, &run(scene.text_command(&["plan", "-vv"]))] {
        for value in [CLIENT, HOST, OLD_CLIENT, DSN, KEY.lines().nth(1).unwrap()] {
            assert!(!done.says(value), "{}\n{}", done.stdout, done.stderr);
        }
    }
    scene.reconfigure("fingerprint_key = \"op://Team/opsctl/fingerprint-key\"", "");
    let (one, two) = (scene.run(&["plan"]).ok(), scene.run(&["plan"]).ok());
    assert_ne!(one.json["changes"], two.json["changes"], "without a key each run has its own");
}

#[test]
fn pending_changes_have_their_own_exit_code_only_when_asked_for() {
    let scene = Scene::new();
    scene.run(&["plan"]).ended(0);
    scene.run(&["plan", "--detailed-exit-code"]).ended(6);
    scene.run(&["sync", "--yes"]).ok();
    let done = scene.run(&["plan", "--detailed-exit-code"]).ok();
    assert_eq!((&done.json["pending"], done.number("deploys")), (&false.into(), 0));
    // Written behind its back, and written but not deployed.
    scene.railway.set("web", "OPENWORK_TOKEN", "another");
    scene.run(&["plan", "--detailed-exit-code"]).ended(6);
    scene.railway.set("web", "OPENWORK_TOKEN", CLIENT);
    let done = scene.run(&["plan", "--detailed-exit-code"]).ended(6);
    assert_eq!(
        (change(&done, "web", "OPENWORK_TOKEN")["action"].as_str(), done.number("deploys")),
        (Some("unchanged"), 1)
    );
}

#[test]
fn what_refers_to_another_variable_is_a_conflict_and_what_is_sealed_is_unknown() {
    let scene = Scene::new();
    scene.railway.set("openwork", "OPENWORK_TOKEN", "${{shared.OPENWORK_TOKEN}}");
    scene.railway.set("web", "OPENWORK_TOKEN", OLD_CLIENT);
    scene.railway.seal("web", "OPENWORK_TOKEN");
    let done = scene.run(&["plan"]).ok();
    let conflict = change(&done, "openwork", "OPENWORK_TOKEN");
    assert_eq!((&conflict["action"], &conflict["write"]), (&"conflict".into(), &false.into()));
    let sealed = change(&done, "web", "OPENWORK_TOKEN");
    assert_eq!(
        (&sealed["action"], &sealed["write"], &sealed["from"]),
        (&"sealed".into(), &false.into(), &serde_json::Value::Null)
    );
    assert!(sealed["note"].as_str().unwrap().starts_with("unknown"), "{sealed}");
    // The very same reference is no conflict.
    scene.reconfigure(
        "{ ref = \"op://Team/openwork/client-token\", generate = { length = 48, alphabet = \"base62\" } }",
        "{ value = \"${{shared.OPENWORK_TOKEN}}\", allow = [\"reference\"] }",
    );
    let done = scene.run(&["plan"]).ok();
    assert_eq!(change(&done, "openwork", "OPENWORK_TOKEN")["action"], "unchanged");
}

#[test]
fn a_sealed_variable_is_judged_by_the_record_and_without_one_by_times() {
    let scene = Scene::synced();
    scene.railway.seal("web", "OPENWORK_TOKEN");
    let sealed = |scene: &Scene| {
        let done = scene.run(&["plan"]).ok();
        let one = change(&done, "web", "OPENWORK_TOKEN");
        (
            one["action"].as_str().unwrap().to_owned(),
            one["write"].as_bool().unwrap(),
            one["note"].as_str().unwrap().to_owned(),
        )
    };
    let (action, write, note) = sealed(&scene);
    assert_eq!((action.as_str(), write, note.as_str()), ("sealed", false, "as the last sync wrote it"));
    // Somebody writes it; nobody can see what.
    scene.railway.set("web", "OPENWORK_TOKEN", CLIENT);
    let (_, write, note) = sealed(&scene);
    assert!(write && note.contains("since the last sync"), "{note}");
    scene.run(&["sync", "--yes"]).ok();
    assert!(!sealed(&scene).1);
    scene.op.set(&scene.item, "client-token", "another-token-in-1password-0123456789");
    let (_, write, note) = sealed(&scene);
    assert!(write && note.contains("1Password has another value"), "{note}");
    // Without the record: the item was edited long before the variable was written, or just now.
    std::fs::remove_file(scene.dir.join("state/secrets/production.json")).unwrap();
    assert!(!sealed(&scene).1);
    scene.op.alter(&scene.item, |item| item["updated_at"] = "2100-01-01T00:00:00Z".into());
    let (_, write, note) = sealed(&scene);
    assert!(write && note.contains("edited since"), "{note}");
}

#[test]
fn each_item_is_read_once_and_by_its_id() {
    let scene = Scene::new();
    let done = scene.run(&["plan"]).ok();
    let calls = scene.op.calls();
    let gets: Vec<&String> = calls.iter().filter(|call| call.verb() == "get").map(|call| &call.args[2]).collect();
    assert_eq!(gets.iter().filter(|id| ***id == scene.item).count(), 1, "{gets:?}");
    assert!(gets.iter().all(|id| id.len() == 26), "{gets:?}");
    assert_eq!(done.json["requests"]["onepassword"].as_u64(), Some(scene.op.requests()));
    assert_eq!(calls.iter().filter(|call| call.verb() == "list").count(), 1, "one vault, one list");
    // With ids nothing has to be listed.
    let by_id = scene.config().replace("op://Team/openwork/", &format!("op://{}/{}/", scene.vault, scene.item));
    // Whether a name and an id are the same vault, a list tells; another vault is refused.
    scene.configure(&by_id);
    scene.run(&["plan"]).ok();
    let other = scene.op.vault("Other");
    scene.configure(&by_id.replace(&scene.vault, &other));
    let refused = scene.run(&["plan"]);
    assert!(refused.code == 10 || refused.code == 2, "{}", refused.stdout);
    scene.configure(&by_id.replace("vault = \"Team\"", "vault = \"Other\"").replace("fingerprint_key", "# "));
    scene.run(&["plan"]).ended(10);
    let by_id = by_id.replace("vault = \"Team\"", &format!("vault = \"{}\"", scene.vault));
    scene.configure(&by_id.replace("fingerprint_key = \"op://Team/opsctl/fingerprint-key\"", ""));
    let before = scene.op.requests();
    scene.run(&["plan"]).ok();
    assert_eq!(scene.op.requests() - before, 1);
}

#[test]
fn one_target_and_some_services_can_be_chosen() {
    let scene = Scene::new();
    let done = scene.run(&["plan", "--target", "production", "--service", "web"]).ok();
    assert_eq!(actions(&done), ["web.OPENWORK_TOKEN update"]);
    assert!(scene.run(&["plan", "--service", "wbe"]).ended(2).error().contains("it has: openwork, web, everywhere"));
    assert!(scene.run(&["plan", "--target", "staging"]).ended(2).error().contains("there are: production"));
    let second = scene.config().split_once("[[secrets.targets]]").unwrap().1.replace("\"production\"", "\"staging\"");
    scene.configure(&format!("{}[[secrets.targets]]{second}", scene.config()));
    assert!(scene.run(&["plan"]).ended(2).error().contains("there are several targets: production, staging"));
}

#[test]
fn shared_variables_reach_the_services_that_refer_to_them() {
    let scene = Scene::synced();
    scene.railway.set("web", "DSN", "${{shared.SENTRY_DSN}}");
    scene.railway.set("openwork", "URL", "https://x:${{ web.OPENWORK_TOKEN }}@y");
    scene.railway.run("openwork");
    scene.railway.run("web");
    scene.op.set(&scene.item, "dsn", "https://new@sentry.example.com/1");
    let done = scene.run(&["plan"]).ok();
    assert_eq!(change(&done, "everywhere", "SENTRY_DSN")["action"], "update");
    assert_eq!(done.number("deploys"), 1, "web, and not openwork");
    scene.run(&["sync", "--yes"]).ok();
    assert_eq!(scene.railway.get(SHARED, "SENTRY_DSN").as_deref(), Some("https://new@sentry.example.com/1"));
    assert_eq!(scene.railway.running("web")["DSN"], "https://new@sentry.example.com/1");
    // And so do the variables of one service the other that refers to them.
    scene.reconfigure(
        "OPENWORK_TOKEN = \"op://Team/openwork/client-token\"",
        "OPENWORK_TOKEN = \"op://Team/openwork/dsn\"",
    );
    let done = scene.run(&["plan"]).ok();
    assert_eq!(
        (change(&done, "web", "OPENWORK_TOKEN")["action"].as_str(), done.number("deploys")),
        (Some("update"), 2)
    );
}

#[test]
fn values_of_variables_and_of_standard_input_need_no_1password() {
    let scene = Scene::new();
    let railway: &FakeRailway = &scene.railway;
    scene.configure(&format!(
        "[secrets]\nprovider = \"env\"\n[[secrets.targets]]\nname = \"ci\"\nproject = \"{}\"\nenvironment = \"{}\"\n\
         [[secrets.targets.services]]\nname = \"web\"\nservice = \"{}\"\n[secrets.targets.services.variables]\n\
         ONE = \"env://CI_ONE\"\nTWO = \"stdin://\"\nTHREE = \"stdin://\"\n",
        railway.project(),
        railway.environment(),
        scene.services[1]
    ));
    let mut command = scene.command(&["sync", "--yes"]);
    command.env("CI_ONE", "v4lue-of-a-variable").env_remove("OP_SERVICE_ACCOUNT_TOKEN");
    run_with(command, "v4lue-of-stdin").ok();
    assert_eq!(railway.get("web", "ONE").as_deref(), Some("v4lue-of-a-variable"));
    assert_eq!(railway.get("web", "TWO").as_deref(), Some("v4lue-of-stdin"));
    assert_eq!(railway.get("web", "THREE").as_deref(), Some("v4lue-of-stdin"));
    assert!(scene.op.calls().is_empty());
    let missing = run_with(scene.command(&["plan"]), "x").ended(10);
    assert!(missing.error().contains("env://CI_ONE"), "{}", missing.stdout);
}
