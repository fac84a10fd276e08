//! `opsctl secrets init` and `import`: configurations to begin with, made of names and of no value.
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

use std::path::Path;
use std::process::Command;

use onepassword::FakeOp;
use support::opsctl::{Done, run, run_with};
use support::{TestDir, opsctl_process};
use vaulted::{Scene, actions};

const PROFILES: [&str; 3] = ["openwork", "clawwork", "open-cowork"];

/// `opsctl secrets …` in a folder, for people.
fn command(dir: &Path, args: &[&str]) -> Command {
    let mut command = opsctl_process();
    command.current_dir(dir).arg("secrets").args(args);
    command
}

/// What a person puts in the place of each `<…>`; each service gets an id of its own.
fn filled(template: &str, project: &str, environment: &str, services: &[String]) -> String {
    let mut text = template.replace("<railway project id>", project).replace("<railway environment id>", environment);
    text = text.replace("<vault>", "Team");
    for id in services {
        text = text.replacen("<railway service id>", id, 1);
    }
    let is_left = |line: &&str| line.contains('<') && line.contains('>') && !line.starts_with('#');
    assert_eq!(text.lines().find(is_left), None, "nothing else is to be filled in");
    text
}

/// Every line that is commented out, as if it were not.
fn with_everything(text: &str) -> String {
    let is_mapping = |line: &str| line.split_once(" = ").is_some_and(|(name, _)| !name.contains(' '));
    let line = |line: &str| match line.strip_prefix("# ") {
        Some(rest) if is_mapping(rest) => rest.to_owned(),
        _ => line.to_owned(),
    };
    text.lines().map(|one| line(one) + "\n").collect()
}

/// What `config show` says of the targets in a file: it reads the whole file, and asks nobody.
fn shown(dir: &TestDir, text: &str) -> Done {
    dir.write("filled.toml", text);
    let mut command = opsctl_process();
    command.args(["--json", "config", "show", "--config"]).arg(dir.join("filled.toml"));
    run(command)
}

#[test]
fn every_profile_gives_a_file_that_is_right_once_it_is_filled_in() {
    let dir = TestDir::new();
    for profile in PROFILES {
        let template = run(command(dir.path(), &["init", "--profile", profile, "--output", "-"])).ok_text();
        let ids: Vec<String> = (0..8).map(|number| format!("service-{number}")).collect();
        let filled = filled(&template, "project-1", "environment-1", &ids);
        for text in [filled.clone(), with_everything(&filled)] {
            let done = shown(&dir, &text).ok();
            assert!(done.stdout.contains("production") && done.stdout.contains(profile), "{}", done.stdout);
        }
        assert!(
            with_everything(&filled).lines().count() == filled.lines().count() && with_everything(&filled) != filled
        );
        // As it is written it stops at what is missing, and nothing is asked of anybody.
        dir.write("opsctl.toml", &template);
        let done = run(command(dir.path(), &["plan", "--json"])).ended(2);
        assert!(done.error().contains("is no id of Railway"), "{}", done.stdout);
    }
}

trait Text {
    fn ok_text(self) -> String;
}

impl Text for Done {
    /// What it wrote for people.
    fn ok_text(self) -> String {
        assert_eq!(self.code, 0, "{}", self.stderr);
        self.stdout
    }
}

#[test]
fn a_plan_works_with_the_file_that_init_wrote() {
    let scene = Scene::new();
    let dir = TestDir::new();
    let said = run(command(dir.path(), &["init", "--profile", "openwork"])).ok_text();
    assert!(said.contains("opsctl.toml") && said.contains("opsctl secrets plan"), "{said}");
    let template = std::fs::read_to_string(dir.join("opsctl.toml")).unwrap();
    let (project, environment) = (scene.railway.project(), scene.railway.environment());
    scene.configure(&filled(&template, project, environment, &scene.services[..1]));
    // The names of fields are made of the names of variables.
    let missing = scene.run(&["plan"]).ended(10);
    assert!(missing.error().contains("op://Team/openwork/token"), "{}", missing.stdout);
    let op: &FakeOp = &scene.op;
    op.alter(&scene.item, |item| item["fields"][0]["label"] = "token".into());
    let done = scene.run(&["plan"]).ok();
    let planned = actions(&done);
    let expected = [
        "OPENWORK_DATA_DIR create",
        "OPENWORK_ENV_STORE create",
        "OPENWORK_HOST_TOKEN create",
        "OPENWORK_SERVER_CONFIG create",
        "OPENWORK_SIDECAR_DIR create",
        "OPENWORK_TOKEN update",
        "OPENWORK_TOKEN_STORE create",
        "OPENWORK_WORKSPACE create",
        "XDG_CONFIG_HOME create",
        "XDG_DATA_HOME create",
        "XDG_STATE_HOME create",
        "DATABASE_URL unmanaged",
        "PORT unmanaged",
    ];
    assert_eq!(planned, expected.map(|line| format!("openwork.{line}")));
    // And with it everything that the contract requires is there; both tokens can be rotated.
    scene.run(&["sync", "--yes"]).ok();
    scene.run(&["verify"]).ok();
    scene.run(&["rotate", "OPENWORK_TOKEN", "OPENWORK_HOST_TOKEN", "--dry-run"]).ok();
}

#[test]
fn a_file_that_exists_is_never_changed() {
    let dir = TestDir::new();
    for name in ["opsctl.toml", "other.toml"] {
        dir.write(name, "store = \"file:///backup\"\n");
        let done = run(command(dir.path(), &["init", "--output", name, "--json"])).ended(2);
        assert!(done.error().contains(name) && done.says("--output"), "{}", done.stdout);
        assert_eq!(std::fs::read_to_string(dir.join(name)).unwrap(), "store = \"file:///backup\"\n");
    }
    // Nor one behind a link that leads nowhere yet.
    std::os::unix::fs::symlink(dir.join("elsewhere"), dir.join("link.toml")).unwrap();
    run(command(dir.path(), &["init", "--output", "link.toml", "--json"])).ended(2);
    assert!(!dir.join("elsewhere").exists());
}

#[test]
fn standard_output_gets_the_very_file_and_nothing_is_written() {
    let dir = TestDir::new();
    let template = run(command(dir.path(), &["init", "--output", "-"])).ok_text();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    run(command(dir.path(), &["init"])).ok_text();
    assert_eq!(std::fs::read_to_string(dir.join("opsctl.toml")).unwrap(), template);
    let done = run(command(dir.path(), &["init", "--output", "-", "--json"])).ok();
    assert_eq!(
        (&done.json["content"].as_str(), &done.json["file"]),
        (&Some(template.as_str()), &serde_json::Value::Null)
    );
}

/// A template that turned out to be somebody's real file.
const REAL: &str = "# a comment with s3cret-in-a-comment\n\
    OPENWORK_TOKEN=s3cret-token-0123456789\n\
    export OPENAI_API_KEY='s3cret-key-0123456789'\n\
    OPENWORK_WORKSPACE=/s3cret/path\n\
    LOG_LEVEL=s3cret-level\n\
    RAILWAY_TOKEN=s3cret-railway\n\
    OPENWORK_TOKEN=s3cret-again\n\
    s3cret-line-without-a-name\n\
    =s3cret-without-a-name\n";

#[test]
fn a_template_gives_its_names_and_no_value_in_any_output() {
    let dir = TestDir::new();
    dir.write(".env.example", REAL);
    for args in [&["import", ".env.example"][..], &["import", ".env.example", "--json"], &["import", "-", "-vvv"]] {
        let done = run_with(command(dir.path(), args), REAL);
        assert_eq!(done.code, 0, "{}", done.stderr);
        assert!(!done.says("s3cret"), "{}\n{}", done.stdout, done.stderr);
        for name in ["OPENWORK_TOKEN", "OPENAI_API_KEY", "OPENWORK_WORKSPACE", "LOG_LEVEL"] {
            assert!(done.stdout.contains(name), "{name}: {}", done.stdout);
        }
    }
    let done = run(command(dir.path(), &["import", ".env.example", "--json"])).ok();
    let variables = done.json["variables"].as_array().unwrap();
    let of = |one: &serde_json::Value| format!("{} {}", one["name"].as_str().unwrap(), one["secret"]);
    let expected = [
        "OPENWORK_TOKEN true",
        "OPENAI_API_KEY true",
        "OPENWORK_WORKSPACE false",
        "LOG_LEVEL false",
        "RAILWAY_TOKEN false",
    ];
    assert_eq!(variables.iter().map(of).collect::<Vec<_>>(), expected);
}

#[test]
fn what_import_proposes_is_right_under_a_service() {
    let scene = Scene::new();
    let dir = TestDir::new();
    dir.write(".env.example", REAL);
    let proposed = run(command(dir.path(), &["import", ".env.example"])).ok_text().replace("<vault>", "Team");
    let head = scene.config();
    let head = head.split("[secrets.targets.services.variables]").next().unwrap();
    scene.configure(&format!("{head}{proposed}"));
    // The configuration is taken; what is missing is in 1Password.
    let done = scene.run(&["plan"]).ended(10);
    assert!(done.error().contains("op://Team/openwork/openai-api-key"), "{}", done.stdout);
}

#[test]
fn a_template_that_is_missing_or_names_nothing_is_told() {
    let dir = TestDir::new();
    let done = run(command(dir.path(), &["import", "no-such-file", "--json"])).ended(2);
    assert!(done.error().contains("no-such-file"), "{}", done.stdout);
    dir.write("empty", "just s3cret-words\n");
    let done = run(command(dir.path(), &["import", "empty", "--json"])).ended(2);
    assert!(done.error().contains("names no variable") && !done.says("s3cret"), "{}", done.stdout);
}
