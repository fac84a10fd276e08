//! What `opsctl doctor` says of the tokens of Railway and 1Password.
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
use std::process::Command;

use serde_json::Value;
use support::opsctl::{Done, run};
use support::opsctl_process;
use vaulted::Scene;

/// `opsctl doctor` with the configuration of the scene, and with these variables.
fn doctor<'v>(scene: &Scene, variables: impl IntoIterator<Item = (&'v str, String)>) -> Done {
    let mut command: Command = opsctl_process();
    command.args(["--json", "doctor", "--config"]).arg(scene.dir.join("opsctl.toml")).envs(variables);
    run(command)
}

fn both(scene: &Scene) -> Vec<(&'static str, String)> {
    scene.railway.variables_for().into_iter().chain(scene.op.env()).collect()
}

/// Status and text of a check.
#[track_caller]
fn check(done: &Done, name: &str) -> (String, String) {
    let checks = done.json["checks"].as_array().unwrap_or_else(|| panic!("{}", done.stdout));
    let found = checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("{name}: {}", done.stdout));
    let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
    (text("status"), format!("{} {}", text("detail"), text("fix")))
}

fn of_secrets(done: &Done) -> Vec<String> {
    let names = done.json["checks"].as_array().unwrap().iter().map(|check| check["name"].as_str().unwrap().to_owned());
    names.filter(|name| name.starts_with("secrets.")).collect()
}

#[test]
fn good_tokens_are_for_the_configured_environment_and_see_the_vaults() {
    let scene = Scene::new();
    let done = doctor(&scene, both(&scene));
    assert_eq!(of_secrets(&done), ["secrets.configuration", "secrets.railway.production", "secrets.onepassword"]);
    assert_eq!(check(&done, "secrets.railway.production").0, "ok");
    let (status, detail) = check(&done, "secrets.onepassword");
    assert_eq!(status, "ok");
    assert!(detail.contains("Team (2 items)"), "{detail}");
    assert_eq!(scene.railway.mutations(), 0);
}

#[test]
fn a_host_that_has_no_tokens_is_a_host_as_it_should_be() {
    let scene = Scene::new();
    let done = doctor(&scene, []);
    assert_eq!(check(&done, "secrets.railway.production").0, "skipped");
    assert_eq!(check(&done, "secrets.onepassword").0, "skipped");
    assert!(scene.op.calls().is_empty());
    scene.configure("");
    assert!(of_secrets(&doctor(&scene, both(&scene))).is_empty());
}

#[test]
fn a_token_of_another_environment_fails_and_says_which() {
    let scene = Scene::new();
    let staging = scene.railway.add_environment("staging");
    let token = scene.railway.token_for(&staging);
    let with = |token: &str| {
        let mut variables = both(&scene);
        variables.retain(|(name, _)| *name != "RAILWAY_TOKEN");
        variables.push(("RAILWAY_TOKEN", token.to_owned()));
        doctor(&scene, variables)
    };
    let done = with(&token);
    let (status, detail) = check(&done, "secrets.railway.production");
    assert_eq!(status, "failed");
    assert!(detail.contains(&staging), "{detail}");
    assert!(!done.says(&token));
    // With two targets it is enough to be for one of them.
    let first = scene.config();
    let second = first.split_once("[[secrets.targets]]").unwrap().1.replace("\"production\"", "\"staging\"");
    let second = second.replace(scene.railway.environment(), &staging);
    scene.configure(&format!("{first}[[secrets.targets]]{second}"));
    let done = with(&token);
    assert_eq!(check(&done, "secrets.railway.staging").0, "ok");
    assert_eq!(check(&done, "secrets.railway.production").0, "skipped");
    assert_eq!(check(&with("wr0ng-token"), "secrets.railway.staging").0, "failed");
}

#[test]
fn what_1password_refuses_and_what_is_wrong_in_the_file_fails() {
    let scene = Scene::new();
    let mut variables = both(&scene);
    variables.retain(|(name, _)| *name != "OP_SERVICE_ACCOUNT_TOKEN");
    variables.push(("OP_SERVICE_ACCOUNT_TOKEN", "ops_wr0ng".to_owned()));
    let done = doctor(&scene, variables);
    assert_eq!(check(&done, "secrets.onepassword").0, "failed");
    assert!(!done.says("wr0ng"));
    scene.reconfigure("\"op://Team/openwork/dsn\"", "\"op://Team/openwork\"");
    let (status, detail) = check(&doctor(&scene, both(&scene)), "secrets.configuration");
    assert_eq!(status, "failed");
    assert!(detail.contains("SENTRY_DSN"), "{detail}");
    let done: Value = doctor(&scene, both(&scene)).json;
    assert_eq!(done["verdict"], "failed");
}
