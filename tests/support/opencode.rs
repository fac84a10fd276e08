//! A real OpenCode on loopback, the engine behind OpenWork that keeps all sessions. `make tools` installs it from npm.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of this module")]
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "a test helper fails by panicking")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::support::ask::{Answer, try_ask};
use crate::support::daemon::{Daemon, random_hex, tool};
use crate::support::{TestDir, wait_for};

/// The last version that keeps sessions as files.
pub const OLDEST: &str = "1.1.65";
/// A version of the first line that keeps sessions in SQLite, and a current one.
pub const OLD: &str = "1.2.20";
pub const NEW: &str = "1.18.33";
pub const USER: &str = "opencode";
/// It unpacks itself at its first start, and makes its database.
const START_LIMIT: Duration = Duration::from_secs(120);

/// Where it keeps what must survive, below one folder as the contract asks for.
#[derive(Clone, Debug)]
pub struct Home(pub PathBuf);

impl Home {
    pub fn data(&self) -> PathBuf {
        self.0.join("share")
    }

    /// The database of the sessions.
    pub fn database(&self) -> PathBuf {
        self.data().join("opencode/opencode.db")
    }
}

/// A running OpenCode. Dropping it stops the process.
#[derive(Debug)]
pub struct OpenCode {
    process: Daemon,
    pub port: u16,
    pub password: String,
    pub workspace: PathBuf,
    /// HOME, the caches and the log: nothing of it must survive.
    dir: TestDir,
}

impl OpenCode {
    /// Starts `version` in `workspace` with its durable folders below `home`.
    pub fn start(version: &str, workspace: &Path, home: &Home) -> Self {
        Self::start_with(version, workspace, home, &[])
    }

    /// The same with more variables.
    pub fn start_with(version: &str, workspace: &Path, home: &Home, env: &[(&str, &Path)]) -> Self {
        let program = tool(&format!("opencode/{version}/opencode"));
        std::fs::create_dir_all(workspace).expect("make the workspace");
        let (dir, password) = (TestDir::new(), random_hex(16));
        let mut command = Daemon::command(&program, &dir);
        // It takes a free port itself.
        command.args(["serve", "--hostname", "127.0.0.1", "--port", "0"]).current_dir(workspace);
        command.env("OPENCODE_SERVER_USERNAME", USER).env("OPENCODE_SERVER_PASSWORD", &password);
        command.env("XDG_DATA_HOME", home.data()).env("XDG_CONFIG_HOME", home.0.join("config"));
        command.env("XDG_STATE_HOME", home.0.join("state")).env("XDG_CACHE_HOME", dir.join("cache"));
        // Tests contact nothing but loopback: what it would fetch is switched off, and the rest has a proxy that is not there.
        for name in ["MODELS_FETCH", "AUTOUPDATE", "LSP_DOWNLOAD", "DEFAULT_PLUGINS"] {
            command.env(format!("OPENCODE_DISABLE_{name}"), "1");
        }
        command.env("HTTP_PROXY", "http://127.0.0.1:9").env("HTTPS_PROXY", "http://127.0.0.1:9");
        command.env("NO_PROXY", "127.0.0.1").envs(env.iter().copied());
        let mut process = Daemon::start("OpenCode", command, &dir);
        let port = process.port_after("opencode server listening on ", START_LIMIT);
        let it = Self { process, port, password, workspace: workspace.to_owned(), dir };
        wait_for("OpenCode to be healthy", START_LIMIT, || {
            let health = it.try_ask("GET", "/global/health", &[]).ok()?;
            (health.json()["version"] == version).then_some(())
        });
        it
    }

    /// Ends it as a deployment does.
    pub fn stop(mut self) {
        self.process.stop();
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The container that it runs in: HOME, the caches and the log. A start makes a new one.
    pub fn container(&self) -> PathBuf {
        self.dir.path().to_owned()
    }

    fn try_ask(&self, method: &str, path: &str, body: &[u8]) -> Result<Answer, String> {
        let basic = format!("Basic {}", STANDARD.encode(format!("{USER}:{}", self.password)));
        let headers = [("Authorization", basic.as_str()), ("Content-Type", "application/json")];
        try_ask(method, &format!("{}{path}", self.url()), &headers, body)
    }

    #[track_caller]
    pub fn ask(&self, method: &str, path: &str, body: &Value) -> Value {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let answer = self.try_ask(method, path, &body);
        answer.unwrap_or_else(|error| panic!("{method} {path}: {error}\n{}", self.process.log_tail())).is(200).json()
    }

    /// A new session; its id. It is committed when this returns.
    #[track_caller]
    pub fn create(&self, title: &str) -> String {
        self.ask("POST", "/session", &json!({ "title": title }))["id"].as_str().expect("an id").to_owned()
    }

    /// One more message of a user, without asking any model.
    #[track_caller]
    pub fn say(&self, session: &str, text: &str) {
        let body = json!({ "noReply": true, "parts": [{ "type": "text", "text": text }] });
        self.ask("POST", &format!("/session/{session}/message"), &body);
    }

    /// The ids of all sessions.
    #[track_caller]
    pub fn sessions(&self) -> Vec<String> {
        ids(&self.ask("GET", "/session?limit=100000", &Value::Null))
    }

    /// How many messages a session has.
    #[track_caller]
    pub fn messages(&self, session: &str) -> usize {
        let messages = self.ask("GET", &format!("/session/{session}/message"), &Value::Null);
        messages.as_array().expect("a list").len()
    }
}

/// The ids in a list, sorted.
#[track_caller]
pub fn ids(list: &Value) -> Vec<String> {
    let list = list.as_array().unwrap_or_else(|| panic!("no list: {list}"));
    let mut ids: Vec<String> = list.iter().map(|item| item["id"].as_str().expect("an id").to_owned()).collect();
    ids.sort();
    ids
}
