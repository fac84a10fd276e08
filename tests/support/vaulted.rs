//! A target for `opsctl secrets`: a vault with two items, a Railway environment with two services and shared variables, and a
//! configuration that maps one to the other.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of this module")]
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "a test helper fails by panicking")]

use std::process::Command;
use std::sync::Arc;

use serde_json::Value;

use crate::onepassword::FakeOp;
use crate::railway::FakeRailway;
use crate::server::{Reply, Server};
use crate::support::opsctl::{Done, run};
use crate::support::{TestDir, opsctl_process};

pub const CLIENT: &str = "c1ient-token-in-1password-0123456789abcdef";
pub const HOST: &str = "h0st-token-in-1password-0123456789abcdef";
pub const OLD_CLIENT: &str = "o1d-client-token-in-railway-0123456789";
pub const KEY: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIA==\n-----END PRIVATE KEY-----\n";
pub const DSN: &str = "https://d5n-key@sentry.example.com/1";
pub const FINGERPRINT_KEY: &str = "f1ngerprint-key-0123456789abcdef";

/// See the module.
pub struct Scene {
    pub dir: TestDir,
    pub railway: Arc<FakeRailway>,
    pub op: FakeOp,
    pub vault: String,
    /// The item `openwork`.
    pub item: String,
    /// The ids of the services `openwork` and `web`.
    pub services: [String; 2],
}

impl Scene {
    pub fn new() -> Self {
        let dir = TestDir::new();
        let railway = Arc::new(FakeRailway::start());
        let services = [railway.service("openwork"), railway.service("web")];
        railway.set("openwork", "OPENWORK_TOKEN", OLD_CLIENT);
        railway.set("openwork", "PORT", "8787");
        railway.set("openwork", "DATABASE_URL", "${{Postgres.DATABASE_URL}}");
        railway.set("web", "OPENWORK_TOKEN", OLD_CLIENT);
        railway.run("openwork");
        railway.run("web");
        let op = FakeOp::start(&dir.join("op"));
        let vault = op.vault("Team");
        let fields = [("client-token", CLIENT), ("host-token", HOST), ("tls-key", KEY), ("dsn", DSN)];
        let item = op.item(&vault, "openwork", &fields);
        op.item(&vault, "opsctl", &[("fingerprint-key", FINGERPRINT_KEY)]);
        let scene = Self { dir, railway, op, vault, item, services };
        scene.configure(&scene.config());
        scene
    }

    /// The configuration that it has at first.
    pub fn config(&self) -> String {
        let (project, environment) = (self.railway.project(), self.railway.environment());
        let [openwork, web] = &self.services;
        format!(
            r#"
[secrets]
provider = "op"
fingerprint_key = "op://Team/opsctl/fingerprint-key"
[[secrets.targets]]
name = "production"
project = "{project}"
environment = "{environment}"
vault = "Team"
production = true
[[secrets.targets.services]]
name = "openwork"
service = "{openwork}"
[secrets.targets.services.variables]
OPENWORK_TOKEN = {{ ref = "op://Team/openwork/client-token", generate = {{ length = 48, alphabet = "base62" }} }}
OPENWORK_HOST_TOKEN = {{ ref = "op://Team/openwork/host-token", generate = {{ length = 40, alphabet = "hex" }} }}
OPENWORK_WORKSPACE = {{ value = "/data/workspace" }}
TLS_KEY = {{ ref = "op://Team/openwork/tls-key", multiline = true }}
[[secrets.targets.services]]
name = "web"
service = "{web}"
[secrets.targets.services.variables]
OPENWORK_TOKEN = "op://Team/openwork/client-token"
[[secrets.targets.services]]
name = "everywhere"
[secrets.targets.services.variables]
SENTRY_DSN = "op://Team/openwork/dsn"
"#
        )
    }

    pub fn configure(&self, text: &str) {
        self.dir.write("opsctl.toml", text);
    }

    /// Changes a part of the configuration.
    pub fn reconfigure(&self, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.dir.join("opsctl.toml")).expect("read the configuration");
        assert!(text.contains(from), "{from:?} is not in the configuration");
        self.configure(&text.replace(from, to));
    }

    /// `opsctl secrets …` with a document as its result.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = self.text_command(args);
        command.arg("--json");
        command
    }

    /// `opsctl secrets …` for people.
    pub fn text_command(&self, args: &[&str]) -> Command {
        let mut command = opsctl_process();
        command.envs(self.railway.variables_for()).envs(self.op.env());
        command.arg("--config").arg(self.dir.join("opsctl.toml"));
        command.arg("--state-dir").arg(self.dir.join("state")).arg("secrets").args(args);
        command
    }

    pub fn run(&self, args: &[&str]) -> Done {
        run(self.command(args))
    }

    /// Everything as it should be.
    pub fn synced() -> Self {
        let scene = Self::new();
        scene.run(&["sync", "--yes"]).ok();
        scene.railway.forget();
        scene
    }

    /// The record of the target.
    pub fn record(&self) -> Value {
        let text = std::fs::read(self.dir.join("state/secrets/production.json")).expect("read the record");
        serde_json::from_slice(&text).expect("the record is JSON")
    }

    /// The service itself: it lets in who has the tokens that the running deployment of `openwork` has.
    pub fn service(&self) -> Server {
        let railway = self.railway.clone();
        Server::start(move |request, _| {
            let running = railway.running("openwork");
            let has = |header: &str, variable: &str, prefix: &str| {
                let shown = request.headers.get(header).and_then(|value| value.strip_prefix(prefix));
                shown.is_some() && shown == running.get(variable).map(String::as_str)
            };
            let is_client = has("authorization", "OPENWORK_TOKEN", "Bearer ");
            let is_host = has("x-openwork-host-token", "OPENWORK_HOST_TOKEN", "");
            let status = if is_client || is_host { "200 OK" } else { "401 Unauthorized" };
            Reply::Send(status.to_owned(), b"{}".to_vec())
        })
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let violations = self.railway.violations();
            assert!(violations.is_empty(), "Railway would not have taken these: {violations:#?}");
        }
    }
}

/// The change of a variable in a plan.
#[track_caller]
pub fn change<'d>(done: &'d Done, service: &str, variable: &str) -> &'d Value {
    let changes = done.json["changes"].as_array().unwrap_or_else(|| panic!("no changes in {}", done.stdout));
    let found = changes.iter().find(|change| change["service"] == service && change["variable"] == variable);
    found.unwrap_or_else(|| panic!("{service}.{variable} is not in {}", done.stdout))
}

/// The actions of a plan: `service.VARIABLE action`, in its order.
pub fn actions(done: &Done) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let changes = done.json["changes"].as_array().unwrap_or_else(|| panic!("no changes in {}", done.stdout));
    let line = |change: &Value| {
        format!("{}.{} {}", text(&change["service"]), text(&change["variable"]), text(&change["action"]))
    };
    changes.iter().map(line).collect()
}

/// What became of a service.
#[track_caller]
pub fn result<'d>(done: &'d Done, service: &str) -> &'d Value {
    let services = done.json["services"].as_array().unwrap_or_else(|| panic!("no services in {}", done.stdout));
    services.iter().find(|one| one["service"] == service).unwrap_or_else(|| panic!("{service}: {}", done.stdout))
}
