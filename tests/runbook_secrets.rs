//! Every command of `runbooks/secret-rotation.md` runs: each section in a shell of its own, after what it is about has happened.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

mod support;

#[path = "support/onepassword/mod.rs"]
mod onepassword;
#[path = "support/railway/mod.rs"]
mod railway;
#[path = "support/runbook.rs"]
mod runbook;
#[path = "support/server.rs"]
mod server;
#[path = "support/vaulted.rs"]
mod vaulted;

use std::path::Path;
use std::process::{Command, Stdio};

use railway::SHARED;
use runbook::{blocks, path_with_opsctl};
use server::Server;
use support::clean_env;
use vaulted::{CLIENT, DSN, HOST, OLD_CLIENT, Scene};

const BOOK: &str = "secret-rotation.md";
const BEGINNING: &str = "What you need";
const FIRST: &str = "1. First look";
const PLANNED: &str = "2. A planned rotation";
const LEAKED: &str = "3. A leaked token";
const ISSUED: &str = "4. A key that somebody else issues";
const STOPPED: &str = "5. When it stops";
const BACK: &str = "6. Put the old value back";
const RAILWAY: &str = "After a rollback in Railway";
const DAILY: &str = "Is it still so";

/// What the contract requires beside what the scene maps already.
const REQUIRED: &str = r#"OPENWORK_WORKSPACE = { value = "/data/workspace" }
OPENWORK_DATA_DIR = { value = "/data/openwork-orchestrator" }
OPENWORK_SIDECAR_DIR = { value = "/data/sidecars" }
OPENWORK_SERVER_CONFIG = { value = "/data/openwork-server/server.json" }
OPENWORK_TOKEN_STORE = { value = "/data/openwork-server/tokens.json" }
OPENWORK_ENV_STORE = { value = "/data/openwork-server/env.json" }
XDG_DATA_HOME = { value = "/data/xdg/share" }
XDG_CONFIG_HOME = { value = "/data/xdg/config" }
XDG_STATE_HOME = { value = "/data/xdg/state" }"#;

fn book() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("runbooks").join(BOOK)).unwrap()
}

/// The sections of the runbook that have commands: heading, and the blocks with the lines that they begin on.
fn sections() -> Vec<(String, Vec<(usize, String)>)> {
    let text = book();
    let headings: Vec<(usize, &str)> =
        text.lines().enumerate().filter_map(|(at, line)| Some((at + 1, line.strip_prefix("## ")?))).collect();
    let heading_of = |at: usize| headings.iter().rev().find(|(line, _)| *line < at).expect("a heading above it").1;
    let mut sections: Vec<(String, Vec<(usize, String)>)> = Vec::new();
    for (at, block) in blocks(&text, "sh") {
        let heading = heading_of(at);
        match sections.last_mut().filter(|(last, _)| last == heading) {
            Some((_, blocks)) => blocks.push((at, block)),
            None => sections.push((heading.to_owned(), vec![(at, block)])),
        }
    }
    sections
}

/// A target that has all that its contract requires, and the service that is deployed there.
struct Bench {
    scene: Scene,
    service: Server,
}

impl Bench {
    fn new() -> Self {
        let scene = Scene::new();
        scene.reconfigure("OPENWORK_WORKSPACE = { value = \"/data/workspace\" }", REQUIRED);
        let service = scene.service();
        Self { scene, service }
    }

    fn synced() -> Self {
        let bench = Self::new();
        bench.scene.run(&["sync", "--yes"]).ok();
        bench
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.service.port)
    }

    /// Runs the blocks `wanted` of a section after those of the beginning, as somebody does who has just come; what they said.
    fn run(&self, heading: &str, wanted: impl Fn(usize) -> bool) -> String {
        let sections = sections();
        let of = |heading: &str| {
            let found = sections.iter().find(|(one, _)| one == heading);
            found
                .map(|(_, blocks)| blocks.clone())
                .unwrap_or_else(|| panic!("{BOOK} has no section {heading:?} with commands"))
        };
        let chosen = of(heading).into_iter().enumerate().filter(|(number, _)| wanted(*number)).map(|(_, block)| block);
        let mut script = String::from("set -eu\n");
        for (at, block) in of(BEGINNING).into_iter().chain(chosen) {
            script.push_str(&format!("echo '=== {BOOK}:{at}'\n{block}"));
        }
        script.push_str("echo '=== all done'\n");
        let mut command = Command::new("sh");
        command.args(["-c", &script]).current_dir(self.scene.dir.path()).env_clear().envs(clean_env());
        command.env("PATH", path_with_opsctl(&self.scene.dir)).env("HOME", self.scene.dir.mkdir("home"));
        command.envs(self.scene.railway.variables_for()).envs(self.scene.op.env());
        command.env("TARGET", "production").env("URL", self.url()).env("NAME", "OPENWORK_TOKEN");
        let output = command.stdin(Stdio::null()).output().unwrap();
        let said = format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && said.contains("=== all done"), "{heading}: {}\n{said}", output.status);
        for value in [CLIENT, HOST, OLD_CLIENT, DSN, self.scene.railway.token()] {
            assert!(!said.contains(value), "{heading} shows a value:\n{said}");
        }
        said
    }

    fn all(&self, heading: &str) -> String {
        self.run(heading, |_| true)
    }

    /// What 1Password, both services and what runs have for the token: the same.
    #[track_caller]
    fn token(&self) -> String {
        let scene = &self.scene;
        let stored = scene.op.value(&scene.item, "client-token").unwrap();
        for service in ["openwork", "web"] {
            assert_eq!(scene.railway.get(service, "OPENWORK_TOKEN").as_ref(), Some(&stored), "{service}");
            assert_eq!(scene.railway.running(service).get("OPENWORK_TOKEN"), Some(&stored), "what runs in {service}");
        }
        stored
    }

    /// Whether the item keeps an old value.
    fn is_open(&self) -> bool {
        let item = self.scene.op.stored(&self.scene.item);
        let mut fields = item["fields"].as_array().unwrap().iter();
        fields.any(|field| field["label"].as_str().unwrap().starts_with("old value of client-token ("))
    }

    fn deploys(&self) -> (usize, usize) {
        (self.scene.railway.deploys("openwork"), self.scene.railway.deploys("web"))
    }
}

#[test]
fn a_new_operator_brings_everything_to_what_1password_has() {
    let bench = Bench::new();
    let said = bench.all(FIRST);
    assert_eq!((bench.token().as_str(), bench.deploys()), (CLIENT, (1, 1)));
    assert!(said.contains("production: as 1Password says"), "{said}");
    // The record is where the document says.
    assert!(bench.scene.dir.join("home/.local/state/opsctl/secrets/production.json").exists());
}

#[test]
fn a_planned_rotation_is_proved_and_deploys_each_service_once() {
    let bench = Bench::synced();
    let said = bench.all(PLANNED);
    assert_ne!(bench.token(), CLIENT);
    assert_eq!((bench.is_open(), bench.deploys()), (false, (2, 2)));
    assert!(said.contains("gets a new value"), "the dry run says what would be: {said}");
    assert!(said.contains("rotated, and proved"), "{said}");
}

#[test]
fn a_planned_rotation_does_not_begin_where_something_else_is_pending() {
    let bench = Bench::synced();
    bench.scene.op.set(&bench.scene.item, "dsn", "https://new@sentry.example.com/1");
    let pending = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| bench.all(PLANNED)));
    assert!(pending.is_err(), "the first command of the section stops it");
    assert_eq!((bench.token().as_str(), bench.is_open()), (CLIENT, false));
}

#[test]
fn a_leaked_token_is_worth_nothing_afterwards() {
    let bench = Bench::synced();
    bench.all(LEAKED);
    assert_ne!(bench.token(), CLIENT);
    assert!(!bench.is_open());
}

#[test]
fn a_key_that_a_provider_issued_reaches_the_services() {
    let bench = Bench::synced();
    let new = "https://new@sentry.example.com/1";
    bench.scene.op.set(&bench.scene.item, "dsn", new);
    bench.all(ISSUED);
    assert_eq!(bench.scene.railway.get(SHARED, "SENTRY_DSN").as_deref(), Some(new));
    assert_eq!(bench.token(), CLIENT);
}

#[test]
fn a_rotation_that_stopped_is_finished_by_the_same_command() {
    let bench = Bench::synced();
    bench.scene.railway.next_deployment("openwork", &["BUILDING", "FAILED"]);
    bench.scene.run(&["rotate", "OPENWORK_TOKEN", "--yes", "--url", &bench.url()]).ended(3);
    assert!(bench.is_open());
    let new = bench.scene.op.value(&bench.scene.item, "client-token");
    // The runbook's shell has a state folder of its own, as another machine has: the record is not there.
    let said = bench.run(STOPPED, |block| block == 0);
    assert_eq!((Some(bench.token()), bench.is_open()), (new, false));
    assert!(said.contains("a rotation is open, and goes on"), "{said}");
}

#[test]
fn where_nobody_can_ask_the_service_the_rotation_is_ended_without_a_proof() {
    let bench = Bench::synced();
    bench.scene.run(&["rotate", "OPENWORK_TOKEN", "--yes"]).ended(3);
    assert!(bench.is_open());
    bench.run(STOPPED, |block| block == 1);
    assert!(!bench.is_open());
    assert_ne!(bench.token(), CLIENT);
}

#[test]
fn the_old_value_comes_back() {
    let bench = Bench::synced();
    bench.scene.run(&["rotate", "OPENWORK_TOKEN", "--yes"]).ended(3);
    assert_ne!(bench.token(), CLIENT);
    let said = bench.all(BACK);
    assert_eq!((bench.token().as_str(), bench.is_open()), (CLIENT, false));
    assert_eq!(said.matches("the old value is put back").count(), 2, "the dry run says so first: {said}");
}

#[test]
fn a_rollback_in_railway_is_seen_and_undone() {
    let bench = Bench::synced();
    bench.scene.railway.set("openwork", "OPENWORK_TOKEN", OLD_CLIENT);
    bench.scene.railway.run("openwork");
    let said = bench.all(RAILWAY);
    assert!(said.contains("update"), "{said}");
    assert_eq!((bench.token().as_str(), bench.deploys()), (CLIENT, (2, 1)));
}

#[test]
fn the_daily_look_is_well_and_changes_nothing() {
    let bench = Bench::synced();
    bench.scene.railway.forget();
    bench.all(DAILY);
    assert_eq!(bench.scene.railway.mutations(), 0);
    bench.scene.railway.set("web", "OPENWORK_TOKEN", OLD_CLIENT);
    bench.scene.run(&["verify", "--url", &bench.url()]).ended(5);
}

#[test]
fn every_section_with_commands_is_run_here() {
    let tested = [BEGINNING, FIRST, PLANNED, LEAKED, ISSUED, STOPPED, BACK, RAILWAY, DAILY];
    let found: Vec<String> = sections().into_iter().map(|(heading, _)| heading).collect();
    assert_eq!(found, tested, "a section with commands needs a test above");
    let blocks = |heading: &str| sections().into_iter().find(|(one, _)| one == heading).unwrap().1.len();
    assert_eq!(blocks(STOPPED), 2, "each block of it has a test of its own");
}

#[test]
fn the_table_of_what_stopped_has_every_exit_code() {
    let text = book();
    // 0 is the end that one wants, 6 is asked for, and there is no store that could be full.
    for code in opsctl::ExitCode::ALL.iter().map(|code| code.code()).filter(|code| ![0, 6, 14].contains(code)) {
        assert!(text.contains(&format!("\n| {code} | ")), "{code} is not explained");
    }
}
