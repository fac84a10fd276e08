//! `opsctl verify` on a server of a test, and what it found.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of this module")]
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "a test helper fails by panicking")]

use std::process::Command;
use std::time::Duration;

use opsctl::archive::facts::Facts;
use opsctl::cancel::Cancel;
use opsctl::config::Environment;
use opsctl::config::profile::Profile;
use opsctl::verify::{Address, Against, Report, Request, TokenFiles, Tokens, Verification};
use opsctl::verify::{gate, service, verify, workspace_path};
use serde_json::Value;

use crate::support::opsctl::{Done, run};

/// `verify --url URL … --json`, not yet run.
pub fn command(url: &str, env: &[(&str, String)], args: &[&str]) -> Command {
    let mut command = as_text(url, env, args);
    command.arg("--json");
    command
}

/// The same for people.
pub fn as_text(url: &str, env: &[(&str, String)], args: &[&str]) -> Command {
    let mut command = crate::support::opsctl_process();
    command.args(["verify", "--url", url]).args(args);
    if !args.contains(&"--timeout") {
        command.args(["--timeout", "20s"]);
    }
    command.envs(env.iter().map(|(name, value)| (name, value)));
    command
}

/// Runs it.
pub fn verified(url: &str, env: &[(&str, String)], args: &[&str]) -> Verified {
    // A service of a test is up at once, or never.
    let limit: &[&str] = if args.contains(&"--timeout") { &[] } else { &["--timeout", "3s"] };
    Verified(run(command(url, env, &[args, limit].concat())))
}

/// What was found.
#[derive(Debug)]
pub struct Verified(pub Done);

impl Verified {
    /// This verdict with its exit code, or a panic.
    #[track_caller]
    pub fn is(self, verdict: &str) -> Self {
        let code = match verdict {
            "passed" => 0,
            "failed" => 5,
            _ => 1,
        };
        let done = self.0.ended(code);
        assert_eq!(done.text("verdict"), verdict, "{}", done.stdout);
        Self(done)
    }

    #[track_caller]
    pub fn check(&self, name: &str) -> &Value {
        let checks = self.0.json["checks"].as_array().unwrap_or_else(|| panic!("no checks in {}", self.0.stdout));
        let found: Vec<&Value> = checks.iter().filter(|check| check["name"] == name).collect();
        assert_eq!(found.len(), 1, "checks named {name} in {}", self.0.stdout);
        found[0]
    }

    #[track_caller]
    pub fn status(&self, name: &str) -> &str {
        self.check(name)["status"].as_str().unwrap()
    }

    #[track_caller]
    pub fn detail(&self, name: &str) -> &str {
        self.check(name)["detail"].as_str().unwrap()
    }

    #[track_caller]
    pub fn fix(&self, name: &str) -> &str {
        self.check(name)["fix"].as_str().unwrap_or_default()
    }

    /// The names of the checks with this status.
    pub fn with(&self, status: &str) -> Vec<String> {
        let checks = self.0.json["checks"].as_array().unwrap().iter().filter(|check| check["status"] == status);
        checks.map(|check| check["name"].as_str().unwrap().to_owned()).collect()
    }

    /// These failed, and nothing else did.
    #[track_caller]
    pub fn failed(self, names: &[&str]) -> Self {
        let it = self.is("failed");
        assert_eq!(it.with("failed"), names, "{}", it.0.stdout);
        it
    }

    /// Nothing failed.
    #[track_caller]
    pub fn passed(self) -> Self {
        let it = self.is("passed");
        assert_eq!(it.with("failed"), [""; 0]);
        it
    }
}

/// Compares a service of the `openwork` profile with facts, as `--against` does with those of a snapshot.
pub fn compared(url: &str, env: &[(&str, String)], facts: Facts) -> Verified {
    verified_as(url, env, |request| request.against = Some(Against { snapshot: "s".to_owned(), facts: Some(facts) }))
}

/// Verifies a service of the `openwork` profile by a request that `change` makes another one.
pub fn verified_as(url: &str, env: &[(&str, String)], change: impl FnOnce(&mut Request<'_>)) -> Verified {
    let report: Report = requested(url, env, change, async |request| verify(request).await);
    let json = serde_json::to_value(&report).unwrap();
    let stdout = serde_json::to_string_pretty(&json).unwrap();
    Verified(Done { code: report.exit_code().code().into(), json, stdout, stderr: String::new() })
}

/// The same as the gate of a restore asks it.
pub fn gated(url: &str, env: &[(&str, String)], change: impl FnOnce(&mut Request<'_>)) -> Verification {
    requested(url, env, change, async |request| gate(request).await)
}

fn requested<T>(
    url: &str,
    env: &[(&str, String)],
    change: impl FnOnce(&mut Request<'_>),
    work: impl AsyncFnOnce(&Request<'_>) -> opsctl::Result<T>,
) -> T {
    let profile = Profile::load("openwork").unwrap();
    let service = service(&profile).unwrap();
    let environment = Environment::fixed(env.iter().map(|(name, value)| (*name, value.as_str())));
    let mut request = Request {
        address: &Address::parse(url, "--url").unwrap(),
        service,
        tokens: &Tokens::read(
            service,
            &TokenFiles::default(),
            &environment,
            &|_| unreachable!("nothing refers to 1Password"),
            true,
        )
        .unwrap(),
        workspace: None,
        against: None,
        restart: None,
        write_probe: false,
        create_probe_tokens: false,
        strict: true,
        timeout: Duration::from_secs(20),
        limit: Duration::from_secs(60),
        cancel: &Cancel::default(),
    };
    change(&mut request);
    request.workspace = workspace_path(service, &environment, request.against.as_ref()).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(work(&request)).unwrap()
}
