//! The stand-in for openwork-server as a process of its own: it boots on what is on the disk, and what it knew is gone when it ends.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of this module")]
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "a test helper fails by panicking")]

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::Duration;

use serde_json::json;

use crate::opencode::USER;
use crate::openwork::{Client, HOST, HOST_HEADER, Minted, Version};
use crate::support::TestDir;
use crate::support::daemon::Daemon;

/// On a busy machine.
const START_LIMIT: Duration = Duration::from_secs(60);

/// The program. Cargo builds examples with all tests, and not with one of them: so that it is never an old one, it is asked to.
static PROGRAM: LazyLock<PathBuf> = LazyLock::new(|| {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("a folder has a parent");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.args(["build", "--quiet", "--locked", "--offline", "--example", "openwork-server", "--manifest-path"]);
    build.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).arg("--target-dir").arg(target);
    let output = build.output().expect("run cargo");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    target.join("debug/examples/openwork-server")
});

/// A running server. Dropping it stops the process.
pub struct Process {
    daemon: Daemon,
    client: Client,
    _dir: TestDir,
}

impl Process {
    /// Boots it on `data`, in front of an engine with this URL and password.
    pub fn start(version: Version, data: &Path, (url, password): (&str, &str)) -> Self {
        let dir = TestDir::new();
        let mut command = Daemon::command(&PROGRAM, &dir);
        command.arg("--data").arg(data).args(["--version", version.name()]);
        command.env("OPENWORK_OPENCODE_BASE_URL", url).env("OPENWORK_OPENCODE_USERNAME", USER);
        command.env("OPENWORK_OPENCODE_PASSWORD", password);
        let mut daemon = Daemon::start("openwork-server", command, &dir);
        let port = daemon.port_after(" listening on ", START_LIMIT);
        Self { daemon, client: Client::new(format!("http://127.0.0.1:{port}"), data), _dir: dir }
    }

    pub fn stop(mut self) {
        self.daemon.stop();
    }

    /// Makes a token of this scope, as the host does.
    #[track_caller]
    pub fn mint(&self, scope: &str, label: &str) -> Minted {
        let body = json!({ "scope": scope, "label": label }).to_string();
        let headers = [(HOST_HEADER, HOST), ("Content-Type", "application/json")];
        let made = self.ask("POST", "/tokens", &headers, body.as_bytes()).is(201).json();
        let text = |key: &str| made[key].as_str().expect("a text").to_owned();
        Minted { id: text("id"), secret: text("token") }
    }
}

impl Deref for Process {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}
