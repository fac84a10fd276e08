//! `opsctl secrets sync`: written once, read back, deployed once; and what it goes through when something fails.
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
#[path = "support/terminal.rs"]
mod terminal;
#[path = "support/vaulted.rs"]
mod vaulted;

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use railway::{Fault, SHARED, When};
use serde_json::json;
use server::{Reply, Server};
use support::opsctl::run;
use terminal::Terminal;
use vaulted::{CLIENT, DSN, HOST, KEY, OLD_CLIENT, Scene, actions, change, result};

#[test]
fn every_service_is_written_once_read_back_and_deployed_once() {
    let scene = Scene::new();
    let done = scene.run(&["sync", "--yes"]).ok();
    let railway = &scene.railway;
    let openwork = railway.variables("openwork");
    assert_eq!((openwork["OPENWORK_TOKEN"].as_str(), openwork["OPENWORK_HOST_TOKEN"].as_str()), (CLIENT, HOST));
    assert_eq!((openwork["TLS_KEY"].as_str(), openwork["OPENWORK_WORKSPACE"].as_str()), (KEY, "/data/workspace"));
    assert_eq!((openwork["PORT"].as_str(), openwork["DATABASE_URL"].as_str()), ("8787", "${{Postgres.DATABASE_URL}}"));
    assert_eq!(railway.get("web", "OPENWORK_TOKEN").as_deref(), Some(CLIENT));
    assert_eq!(railway.get(SHARED, "SENTRY_DSN").as_deref(), Some(DSN));
    assert_eq!(railway.running("openwork")["TLS_KEY"], KEY);
    assert_eq!(railway.running("web")["OPENWORK_TOKEN"], CLIENT);
    assert_eq!((railway.deploys("openwork"), railway.deploys("web")), (1, 1));
    // One write each, of what changes alone; read before and after.
    assert_eq!((railway.count("variableCollectionUpsert"), railway.count("variables")), (3, 6));
    for seen in railway.seen().iter().filter(|seen| seen.operation == "variableCollectionUpsert") {
        assert!(seen.document.contains("skipDeploys: true") && !seen.document.contains("replace"), "{}", seen.document);
        assert!(seen.variables["variables"].get("PORT").is_none(), "{}", seen.variables);
    }
    for service in ["openwork", "web"] {
        let of = result(&done, service);
        assert_eq!((&of["deployed"], &of["status"], &of["error"]), (&json!(true), &json!("success"), &json!(null)));
        assert!(of["deployment_id"].is_string(), "{of}");
    }
    assert_eq!(
        (&result(&done, "openwork")["written"], &result(&done, "everywhere")["written"]),
        (&json!(4), &json!(1))
    );
    assert_eq!(result(&done, "everywhere")["status"], "written");
    // Within the budget that was told.
    let budget = &done.json["requests"];
    assert!(budget["railway"].as_u64().unwrap() >= railway.seen().len() as u64, "{budget}");
    assert_eq!(budget["onepassword"].as_u64(), Some(scene.op.requests()));
}

#[test]
fn where_nothing_has_to_be_done_nobody_is_asked_and_nothing_is_sent() {
    let scene = Scene::synced();
    let done = scene.run(&["sync"]).ok();
    assert!(
        actions(&done).iter().all(|line| line.ends_with("unchanged") || line.ends_with("unmanaged")),
        "{}",
        done.stdout
    );
    assert_eq!(scene.railway.mutations(), 0);
    assert_eq!((scene.railway.deploys("openwork"), scene.railway.deploys("web")), (1, 1));
}

#[test]
fn without_a_confirmation_nothing_is_written() {
    let scene = Scene::new();
    let done = scene.run(&["sync"]).ended(2);
    assert!(done.error().contains("--yes confirms it"), "{}", done.stdout);
    for answer in ["y\n", "staging\n", "\n"] {
        let mut terminal = Terminal::start(&scene.text_command(&["sync"]));
        terminal.wait_for("type production to go on:");
        terminal.types(answer);
        let (code, screen) = terminal.end();
        assert_eq!(code, 2, "{screen}");
        assert!(screen.contains("nothing was done"), "{screen}");
    }
    assert_eq!(scene.railway.mutations(), 0);
    let mut terminal = Terminal::start(&scene.text_command(&["sync"]));
    terminal.wait_for("type production to go on:");
    let plan = terminal.screen();
    assert!(plan.contains("OPENWORK_TOKEN") && plan.contains("2 to deploy"), "{plan}");
    terminal.types("production\n");
    let (code, screen) = terminal.end();
    assert_eq!(code, 0, "{screen}");
    assert_eq!(scene.railway.get("web", "OPENWORK_TOKEN").as_deref(), Some(CLIENT));
}

#[test]
fn what_changes_while_somebody_thinks_is_not_overwritten() {
    let scene = Scene::new();
    let mut terminal = Terminal::start(&scene.text_command(&["sync"]));
    terminal.wait_for("type production to go on:");
    scene.railway.set("openwork", "OPENWORK_TOKEN", "${{shared.OPENWORK_TOKEN}}");
    terminal.types("production\n");
    let (code, screen) = terminal.end();
    assert_eq!(code, 11, "{screen}");
    assert!(screen.contains("have changed since the plan was shown"), "{screen}");
    assert_eq!(scene.railway.mutations(), 0);
}

#[test]
fn another_target_than_production_is_confirmed_by_yes() {
    let scene = Scene::new();
    scene.reconfigure("production = true\n", "");
    let mut terminal = Terminal::start(&scene.text_command(&["sync"]));
    terminal.wait_for("[y/N]");
    terminal.types("y\n");
    assert_eq!(terminal.end().0, 0);
}

#[test]
fn a_dry_run_shows_the_plan_and_leaves_no_trace() {
    let scene = Scene::new();
    let dry = scene.run(&["sync", "--dry-run"]).ok();
    assert_eq!(dry.json["changes"], scene.run(&["plan"]).ok().json["changes"]);
    assert_eq!(scene.railway.mutations(), 0);
    assert!(!scene.dir.join("state").exists());
}

#[test]
fn what_is_written_without_a_deployment_is_deployed_by_the_next_sync() {
    let scene = Scene::new();
    let done = scene.run(&["sync", "--yes", "--no-deploy"]).ok();
    assert_eq!(result(&done, "openwork")["status"], "written");
    assert_eq!((scene.railway.deploys("openwork"), scene.railway.deploys("web")), (0, 0));
    let done = scene.run(&["plan"]).ok();
    assert_eq!(done.number("deploys"), 2);
    // Also where the record is lost: Railway's own times tell.
    std::fs::remove_dir_all(scene.dir.join("state")).unwrap();
    let done = scene.run(&["sync", "--yes"]).ok();
    assert_eq!((&result(&done, "web")["written"], &result(&done, "web")["deployed"]), (&json!(0), &json!(true)));
    assert_eq!((scene.railway.deploys("openwork"), scene.railway.deploys("web")), (1, 1));
    assert_eq!(scene.railway.running("web")["OPENWORK_TOKEN"], CLIENT);
}

#[test]
fn a_service_whose_write_fails_is_not_deployed_and_the_others_are() {
    let scene = Scene::new();
    scene.railway.fail("variableCollectionUpsert", 1, Fault::Error("Problem processing request".to_owned()));
    let done = scene.run(&["sync", "--yes"]).ended(3);
    let failed = result(&done, "openwork");
    assert_eq!(
        (&failed["status"], &failed["written"], &failed["deployed"]),
        (&json!("write_failed"), &json!(0), &json!(false))
    );
    assert_eq!(result(&done, "web")["status"], "success");
    assert_eq!((scene.railway.deploys("openwork"), scene.railway.deploys("web")), (0, 1));
    // Running it again goes on there, and deploys nothing twice.
    let done = scene.run(&["sync", "--yes"]).ok();
    assert_eq!(
        (result(&done, "openwork")["status"].as_str(), result(&done, "web")["status"].as_str()),
        (Some("success"), Some("unchanged"))
    );
    assert_eq!((scene.railway.deploys("openwork"), scene.railway.deploys("web")), (1, 1));
}

#[test]
fn what_railway_has_afterwards_is_compared_with_what_was_written() {
    let scene = Scene::new();
    let railway = Arc::downgrade(&scene.railway);
    let requests = {
        let plan = scene.run(&["plan"]).ok();
        assert_eq!(plan.number("deploys"), 2);
        scene.railway.seen().len()
    };
    scene.railway.forget();
    // The first write is the request after those of a plan; somebody else writes right behind it.
    scene.railway.at_request(requests + 1, When::After, move || {
        railway.upgrade().expect("it runs").set("openwork", "OPENWORK_TOKEN", "s0mebody-elses");
    });
    let done = scene.run(&["sync", "--yes"]).ended(3);
    let failed = result(&done, "openwork");
    assert_eq!(failed["status"], "write_failed");
    assert!(failed["error"].as_str().unwrap().contains("OPENWORK_TOKEN"), "{failed}");
    assert!(!done.says("s0mebody-elses"));
    assert_eq!(scene.railway.deploys("openwork"), 0);
}

#[test]
fn every_end_of_a_deployment_is_told_and_the_next_sync_sees_to_it() {
    for (course, status, says, again) in [
        (&["QUEUED", "SLEEPING"][..], "sleeping", None, 0),
        (&["BUILDING", "FAILED"], "failed", Some("failed"), 1),
        (&["DEPLOYING", "CRASHED"], "crashed", Some("ended by itself"), 1),
        (&["SKIPPED"], "skipped", Some("skipped"), 1),
        (&["REMOVING", "REMOVED"], "removed", Some("took the deployment down"), 1),
        (&["WAITING", "NEEDS_APPROVAL"], "needs_approval", Some("approve"), 0),
    ] {
        let scene = Scene::new();
        scene.railway.next_deployment("web", course);
        let done = scene.run(&["sync", "--yes"]).ended(if says.is_some() { 3 } else { 0 });
        let web = result(&done, "web");
        assert_eq!((&web["status"], &web["deployed"]), (&json!(status), &json!(true)), "{course:?}");
        assert_eq!(web["error"].is_null(), says.is_none(), "{web}");
        assert!(says.is_none_or(|says| web["error"].as_str().unwrap().contains(says)), "{web}");
        assert_eq!(result(&done, "openwork")["status"], "success");
        if status != "needs_approval" {
            scene.run(&["sync", "--yes"]).ok();
        }
        assert_eq!((scene.railway.deploys("web"), scene.railway.deploys("openwork")), (1 + again, 1), "{course:?}");
    }
}

#[test]
fn a_deployment_that_takes_too_long_is_not_waited_for_for_ever() {
    let scene = Scene::new();
    scene.railway.next_deployment("web", &["BUILDING"; 40]);
    let done = scene.run(&["sync", "--yes", "--deploy-timeout", "1s"]).ended(3);
    let web = result(&done, "web");
    assert_eq!(web["status"], "building");
    assert!(web["error"].as_str().unwrap().contains("still building after 1.0 s"), "{web}");
    assert_eq!(scene.railway.deploys("web"), 1);
}

#[test]
fn a_deployment_under_way_is_followed_and_not_doubled() {
    let scene = Scene::new();
    scene.railway.next_deployment(
        "web",
        &["BUILDING", "BUILDING", "BUILDING", "BUILDING", "BUILDING", "BUILDING", "BUILDING", "SUCCESS"],
    );
    scene.run(&["sync", "--yes", "--deploy-timeout", "1s"]).ended(3);
    let done = scene.run(&["sync", "--yes"]).ok();
    assert_eq!(
        (&result(&done, "web")["deployed"], &result(&done, "web")["status"]),
        (&json!(false), &json!("success"))
    );
    assert_eq!(scene.railway.deploys("web"), 1);
}

#[test]
fn a_deployment_whose_answer_is_lost_is_found_and_not_asked_for_again() {
    let scene = Scene::new();
    scene.railway.fail("serviceInstanceDeployV2", 1, Fault::DoneAndHangUp);
    let done = scene.run(&["sync", "--yes"]).ok();
    assert_eq!(result(&done, "openwork")["status"], "success");
    assert_eq!((scene.railway.deploys("openwork"), scene.railway.deploys("web")), (1, 1));
}

#[test]
fn a_service_that_was_never_deployed_is_left_to_its_first_deployment() {
    let scene = Scene::new();
    let new = scene.railway.service("new");
    scene.reconfigure(&scene.services[1], &new);
    let done = scene.run(&["sync", "--yes"]).ok();
    assert_eq!(result(&done, "web")["status"], "never_deployed");
    assert_eq!(
        (scene.railway.deploys("new"), scene.railway.get("new", "OPENWORK_TOKEN").as_deref()),
        (0, Some(CLIENT))
    );
    scene.run(&["plan", "--detailed-exit-code"]).ok();
}

#[test]
fn only_what_an_earlier_sync_wrote_is_pruned_and_only_when_asked_for() {
    let scene = Scene::synced();
    scene.reconfigure("OPENWORK_WORKSPACE = { value = \"/data/workspace\" }\n", "");
    scene.reconfigure("TLS_KEY = { ref = \"op://Team/openwork/tls-key\", multiline = true }\n", "");
    scene.railway.set("openwork", "TLS_KEY", "somebody made it his own");
    scene.railway.run("openwork");
    scene.railway.forget();
    let done = scene.run(&["sync", "--yes"]).ok();
    assert!(change(&done, "openwork", "OPENWORK_WORKSPACE")["note"].as_str().unwrap().contains("--prune"));
    assert_eq!(scene.railway.mutations(), 0);
    let done = scene.run(&["sync", "--yes", "--prune"]).ok();
    assert_eq!(change(&done, "openwork", "OPENWORK_WORKSPACE")["action"], "delete");
    assert_eq!(change(&done, "openwork", "TLS_KEY")["action"], "unmanaged");
    assert_eq!(change(&done, "openwork", "PORT")["action"], "unmanaged");
    assert_eq!(
        (&result(&done, "openwork")["deleted"], &result(&done, "openwork")["status"]),
        (&json!(1), &json!("success"))
    );
    let left = scene.railway.variables("openwork");
    assert!(!left.contains_key("OPENWORK_WORKSPACE") && left.contains_key("TLS_KEY") && left.contains_key("PORT"));
    assert_eq!((scene.railway.deploys("openwork"), scene.railway.deploys("web")), (2, 1));
    assert_eq!(scene.railway.count("variableDelete"), 0, "each of these would deploy");
    // The budget has room for it.
    assert!(done.json["requests"]["railway"].as_u64().unwrap() >= scene.railway.seen().len() as u64, "{}", done.stdout);
}

#[test]
fn without_a_key_for_fingerprints_nothing_is_pruned() {
    let scene = Scene::synced();
    scene.reconfigure("fingerprint_key = \"op://Team/opsctl/fingerprint-key\"", "");
    scene.reconfigure("OPENWORK_WORKSPACE = { value = \"/data/workspace\" }\n", "");
    let done = scene.run(&["sync", "--yes", "--prune"]).ended(2);
    assert!(done.error().contains("secrets.fingerprint_key"), "{}", done.stdout);
    assert!(scene.railway.variables("openwork").contains_key("OPENWORK_WORKSPACE"));
}

#[test]
fn staged_changes_of_somebody_else_are_not_swept_along() {
    let scene = Scene::synced();
    scene.railway.stage(
        "production",
        &json!({ "services": { &scene.services[1]: { "variables": { "X": { "value": "y" } } } } }),
    );
    scene.reconfigure("OPENWORK_WORKSPACE = { value = \"/data/workspace\" }\n", "");
    let done = scene.run(&["sync", "--yes", "--prune"]).ended(11);
    assert!(result(&done, "openwork")["error"].as_str().unwrap().contains("staged"), "{}", done.stdout);
    assert!(scene.railway.variables("openwork").contains_key("OPENWORK_WORKSPACE"));
    assert!(!scene.railway.variables("web").contains_key("X"));
}

#[test]
fn a_reference_is_never_overwritten_and_the_rest_is_done() {
    let scene = Scene::new();
    scene.railway.set("openwork", "OPENWORK_TOKEN", "${{shared.OPENWORK_TOKEN}}");
    let done = scene.run(&["sync", "--yes"]).ended(3);
    assert_eq!(scene.railway.get("openwork", "OPENWORK_TOKEN").as_deref(), Some("${{shared.OPENWORK_TOKEN}}"));
    assert_eq!(scene.railway.get("openwork", "OPENWORK_HOST_TOKEN").as_deref(), Some(HOST));
    assert_eq!(result(&done, "openwork")["status"], "success");
    let text = run(scene.text_command(&["sync", "--yes"])).ended(3);
    assert!(text.stdout.contains("openwork.OPENWORK_TOKEN was left as it is"), "{}", text.stdout);
}

#[test]
fn a_sealed_variable_is_written_when_the_record_knows_better_and_stays_sealed() {
    let scene = Scene::synced();
    scene.railway.seal("web", "OPENWORK_TOKEN");
    scene.op.set(&scene.item, "client-token", "n3w-token-in-1password-0123456789abcdef");
    scene.run(&["sync", "--yes"]).ok();
    assert_eq!(scene.railway.get("web", "OPENWORK_TOKEN").as_deref(), Some("n3w-token-in-1password-0123456789abcdef"));
    assert!(scene.railway.is_sealed("web", "OPENWORK_TOKEN"));
    scene.railway.forget();
    scene.run(&["sync", "--yes"]).ok();
    assert_eq!(scene.railway.mutations(), 0, "what is recorded is not written again");
}

#[test]
fn the_record_has_names_fingerprints_and_times_and_is_for_its_owner_alone() {
    let scene = Scene::synced();
    let path = scene.dir.join("state/secrets/production.json");
    let text = std::fs::read_to_string(&path).unwrap();
    for value in [CLIENT, HOST, DSN, OLD_CLIENT, "PRIVATE KEY"] {
        assert!(!text.contains(value), "{text}");
    }
    let written = &scene.record()["services"][&scene.services[0]]["variables"]["OPENWORK_TOKEN"];
    assert_eq!(written["fingerprint"].as_str().map(str::len), Some(32), "{written}");
    assert!(written["written"].is_string() && written["updated"].is_string(), "{written}");
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
    // A broken one is no reason to guess.
    std::fs::write(&path, "{}").unwrap();
    assert!(scene.run(&["plan"]).ended(4).error().contains("move it away"));
}

#[test]
fn two_runs_do_not_work_on_one_target() {
    let scene = Scene::new();
    scene.dir.mkdir("state/secrets");
    let lock = std::fs::File::create(scene.dir.join("state/secrets/production.lock")).unwrap();
    lock.lock().unwrap();
    let done = scene.run(&["sync", "--yes"]).ended(11);
    assert!(done.error().contains("another run"), "{}", done.stdout);
    assert!(scene.railway.seen().is_empty(), "nothing is asked before it is known");
}

/// A profile with one probe and one end point that wants the client's token.
const SMALL: &str = r#"
name = "small"
contract_version = "1"
[[services]]
name = "openwork"
[[services.identities]]
name = "client"
variable = "OPENWORK_TOKEN"
send = "bearer"
[[services.variables]]
name = "OPENWORK_TOKEN"
secret = true
source = "one-password"
need = "required"
[[services.probes]]
name = "health"
path = "/health"
waits = true
expect = [{ status = [200] }]
[[services.auth]]
path = "/status"
answers = { none = [401], wrong = [401], client = [200] }
"#;

#[test]
fn with_a_url_the_service_is_verified_as_verify_does() {
    let scene = Scene::new();
    let profile = scene.dir.write("small.toml", SMALL);
    let healthy = |scene: &Scene, accepts: &'static str| {
        let railway = scene.railway.clone();
        Server::start(move |request, _| {
            let running = railway.running("openwork");
            let token = request.headers.get("authorization").and_then(|value| value.strip_prefix("Bearer "));
            let right =
                if accepts.is_empty() { running.get("OPENWORK_TOKEN").cloned() } else { Some(accepts.to_owned()) };
            let is_in = request.target == "/health" || (token.is_some() && token == right.as_deref());
            Reply::Send(if is_in { "200 OK" } else { "401 Unauthorized" }.to_owned(), b"{}".to_vec())
        })
    };
    let sync = |scene: &Scene, server: &Server| {
        let url = format!("http://127.0.0.1:{}", server.port);
        let mut command = scene.command(&["sync", "--yes", "--url", &url]);
        command.arg("--profile").arg(&profile);
        run(command)
    };
    let other = healthy(&scene, "an0ther-token-than-it-was-given");
    let done = sync(&scene, &other).ended(5);
    assert_eq!(done.json["verification"]["verdict"], "failed", "{}", done.stdout);
    let right = healthy(&scene, "");
    let done = sync(&scene, &right);
    let checks = done.json["verification"]["checks"].as_array().unwrap();
    let check =
        |name: &str| checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("{}", done.stdout));
    assert_eq!((&check("auth.client")["status"], &check("health")["status"]), (&json!("ok"), &json!("ok")));
    assert_eq!(done.code, 0, "{}", done.stdout);
}

#[test]
fn ctrl_c_while_it_waits_leaves_a_state_that_the_next_sync_finishes() {
    let scene = Scene::new();
    scene.railway.next_deployment("web", &[&["BUILDING"; 1000][..], &["SUCCESS"]].concat());
    let child = support::opsctl::Guarded::spawn(&mut scene.command(&["sync", "--yes"]));
    support::wait_for("the deployment to be asked for", Duration::from_secs(60), || {
        (scene.railway.deploys("web") == 1).then_some(())
    });
    support::signal(&child.0, rustix::process::Signal::INT);
    child.end().ended(130);
    scene.railway.finish_deployments();
    scene.run(&["sync", "--yes"]).ok();
    assert_eq!((scene.railway.deploys("openwork"), scene.railway.deploys("web")), (1, 1));
    assert_eq!(scene.railway.running("web")["OPENWORK_TOKEN"], CLIENT);
}
