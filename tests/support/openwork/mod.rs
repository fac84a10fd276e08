//! A stand-in for openwork-server, which no package registry has: it answers as three versions of the real one were seen to answer,
//! keeps the same files, and fails as the real one fails. Its engine is a real OpenCode, or sessions in memory.
//!
//! `tests/support_openwork.rs` compares it with what was recorded from the real servers.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of this module")]
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "a test helper fails by panicking")]

mod answers;
pub mod engine;
pub mod recorded;
pub mod table;

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::stub_store::{Body, Gate, Reply, Request, Server};
use crate::support::ask::{Answer, ask};
use crate::support::random::random_hex;

pub use engine::Engine;

/// What the operator gave the service. No secret of anybody.
pub const CLIENT: &str = "client-token-of-the-tests-0123456789abcdef";
pub const HOST: &str = "host-token-of-the-tests-0123456789abcdefgh";
/// The header of the host's token.
pub const HOST_HEADER: &str = "X-OpenWork-Host-Token";

/// The versions whose answers were recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    V0_11_135,
    /// Started by the orchestrator, which makes one more owner's token at every boot.
    V0_18_1,
    /// With an OpenCode of its own.
    V0_18_16,
}

pub const VERSIONS: [Version; 3] = [Version::V0_11_135, Version::V0_18_1, Version::V0_18_16];

impl Version {
    pub const fn name(self) -> &'static str {
        match self {
            Self::V0_11_135 => "0.11.135",
            Self::V0_18_1 => "0.18.1",
            Self::V0_18_16 => "0.18.16",
        }
    }

    /// It knows sessions and the environment of the service.
    fn is_new(self) -> bool {
        self != Self::V0_11_135
    }

    /// The version of OpenCode that it was made with, which says nothing about the one that runs.
    fn pin(self) -> Option<&'static str> {
        self.is_new().then_some("1.17.11")
    }
}

/// What is wrong with the service.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Protected end points answer without a token.
    pub open: bool,
    /// The web pages are switched off.
    pub ui_disabled: bool,
    /// So many requests from now on find nobody who answers: it is still booting.
    pub booting: usize,
    /// Every request is sent elsewhere: `http://host:port`.
    pub redirect: Option<String>,
    /// The answer at this path never ends.
    pub endless: Option<String>,
    /// The answer at this path comes byte by byte, when [`OpenWork::gate`] lets one through.
    pub slow: Option<String>,
    /// A broken file in the workspace: sessions cannot be listed, and OpenCode says that it is healthy.
    pub session_list_fails: bool,
    /// OpenCode does not run any more.
    pub engine_dead: bool,
    /// So many questions from now on find that OpenCode does not run yet.
    pub engine_booting: std::cell::Cell<usize>,
    /// So many questions from now on find that the server does not know yet where OpenCode is.
    pub engine_unknown: std::cell::Cell<usize>,
    /// `OPENWORK_READONLY=1`.
    pub read_only: bool,
    /// A later version, in which collaborators list tokens.
    pub drift: bool,
    /// Viewers may write.
    pub viewers_write: bool,
    /// Every token that was made is taken for one of a collaborator.
    pub one_scope: bool,
}

/// A token that was made for somebody. The file has its hash only.
#[derive(Clone, Debug)]
struct Token {
    id: String,
    hash: String,
    scope: String,
    created_at: u64,
    label: Option<String>,
}

/// A token, with its secret.
#[derive(Clone, Debug)]
pub struct Minted {
    pub id: String,
    pub secret: String,
}

/// How it is started.
#[derive(Clone, Debug)]
pub struct Setup {
    pub version: Version,
    /// `/data` of the deployment.
    pub data: PathBuf,
    /// Whether `--workspace` names `<data>/workspace`. Then the workspaces of `server.json` are not looked at.
    pub names_workspace: bool,
    pub engine: Engine,
}

/// Whoever has the URL and the tokens of a server, and sees its volume.
#[derive(Clone, Debug)]
pub struct Client {
    url: String,
    data: PathBuf,
}

/// The running server. Dropping it ends it.
pub struct OpenWork {
    _server: Server,
    client: Client,
    state: Arc<State>,
    /// Lets bytes of slow answers through.
    pub gate: Gate,
}

struct State {
    setup: Setup,
    gate: Gate,
    inner: Mutex<Inner>,
}

/// What changes while it runs.
struct Inner {
    booted: Instant,
    tokens: Vec<Token>,
    workspaces: Vec<PathBuf>,
    roots: Vec<PathBuf>,
    engine: Engine,
    faults: Faults,
    seen: Vec<String>,
}

impl OpenWork {
    /// Boots on `data` as the contract has it.
    pub fn boot(version: Version, data: &Path, engine: Engine) -> Self {
        Self::boot_as(Setup { version, data: data.to_owned(), names_workspace: true, engine })
    }

    pub fn boot_as(setup: Setup) -> Self {
        let gate = Gate::default();
        let inner = Inner::load(&setup);
        let state = Arc::new(State { setup, gate: gate.clone(), inner: Mutex::new(inner) });
        let answers = state.clone();
        let server = Server::start(move |request, body| answers.answer(request, body));
        let client = Client::new(format!("http://127.0.0.1:{}", server.port), &state.setup.data);
        Self { _server: server, client, state, gate }
    }

    /// Boots again on what is on the disk, as `engine` if that has changed.
    pub fn reboot(&self, engine: Option<Engine>) {
        let mut inner = self.state.inner.lock().unwrap();
        let engine = engine.unwrap_or_else(|| inner.engine.clone());
        let (faults, seen) = (inner.faults.clone(), std::mem::take(&mut inner.seen));
        *inner = Inner { engine, faults, seen, ..Inner::load(&self.state.setup) };
    }

    /// A command for a shell, after which the next request finds it booted again.
    pub fn restart_command(&self) -> String {
        format!("touch '{}'", self.state.reboot_file().display())
    }

    pub fn fault(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.state.inner.lock().unwrap().faults);
    }

    /// The requests so far: `GET /path identity`, the query included.
    pub fn seen(&self) -> Vec<String> {
        self.state.inner.lock().unwrap().seen.clone()
    }

    /// Makes a token of this scope.
    pub fn mint(&self, scope: &str, label: &str) -> Minted {
        let mut inner = self.state.inner.lock().unwrap();
        inner.mint(&self.state.setup.data, scope, Some(label))
    }
}

impl Deref for OpenWork {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Client {
    pub fn new(url: String, data: &Path) -> Self {
        Self { url, data: data.to_owned() }
    }

    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// The variables that the deployment has.
    pub fn env(&self) -> Vec<(&'static str, String)> {
        let workspace = self.workspace().display().to_string();
        vec![("OPENWORK_TOKEN", CLIENT.into()), ("OPENWORK_HOST_TOKEN", HOST.into()), ("OPENWORK_WORKSPACE", workspace)]
    }

    pub fn workspace(&self) -> PathBuf {
        self.data.join("workspace")
    }

    pub fn workspace_id(&self) -> String {
        workspace_id(&self.workspace())
    }

    pub fn tokens_file(&self) -> PathBuf {
        tokens_file(&self.data)
    }

    /// Asks it something; `headers` as they are.
    #[track_caller]
    pub fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        ask(method, &format!("{}{path}", self.url()), headers, body)
    }

    /// Asks as the client.
    #[track_caller]
    pub fn get(&self, path: &str) -> Value {
        self.ask("GET", path, &[("Authorization", &format!("Bearer {CLIENT}"))], b"").is(200).json()
    }

    /// The ids of all sessions, as the client is told them.
    #[track_caller]
    pub fn sessions(&self) -> Vec<String> {
        let list = self.get(&format!("/w/{}/opencode/session?limit=100000", self.workspace_id()));
        let list = list.as_array().unwrap_or_else(|| panic!("no list: {list}"));
        let mut ids: Vec<String> = list.iter().map(|one| one["id"].as_str().expect("an id").to_owned()).collect();
        ids.sort();
        ids
    }

    /// Uploads a file into the inbox, which the audit log records.
    #[track_caller]
    pub fn upload(&self, name: &str, content: &str) {
        let path = format!("/workspace/{}/inbox", self.workspace_id());
        let (kind, body) = multipart(name, content);
        let bearer = format!("Bearer {CLIENT}");
        self.ask("POST", &path, &[("Authorization", &bearer), ("Content-Type", &kind)], body.as_bytes()).is(200);
    }
}

/// The answer of `url` to the same request, for whatever stands in front of a service.
pub fn forward(url: &str, request: &Request, body: &mut Body<'_>) -> Reply {
    let names = ["authorization", HOST_HEADER, "content-type"];
    let headers =
        names.iter().filter_map(|name| Some((*name, request.headers.get(&name.to_ascii_lowercase())?.as_str())));
    let headers: Vec<(&str, &str)> = headers.collect();
    let mut bytes = Vec::new();
    if body.read_to_end(&mut bytes).is_err() {
        return Reply::HangUp;
    }
    forward_as(url, request, &headers, &bytes)
}

/// The same with other headers.
pub fn forward_as(url: &str, request: &Request, headers: &[(&str, &str)], body: &[u8]) -> Reply {
    let answer = ask(&request.method, &format!("{url}{}", request.target), headers, body);
    Reply::Send(format!("{} Forwarded\r\nContent-Type: {}", answer.status, answer.content_type), answer.body)
}

/// A file as a form of a browser sends it: content type and body.
pub fn multipart(name: &str, content: &str) -> (String, String) {
    let head =
        format!("Content-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\nContent-Type: text/plain");
    ("multipart/form-data; boundary=edge".to_owned(), format!("--edge\r\n{head}\r\n\r\n{content}\r\n--edge--\r\n"))
}

/// The id that the server gives a workspace.
pub fn workspace_id(path: &Path) -> String {
    format!("ws_{}", &hash(path.to_str().expect("a path in UTF-8"))[..12])
}

pub fn hash(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn tokens_file(data: &Path) -> PathBuf {
    data.join("openwork-server/tokens.json")
}

fn audit_file(data: &Path, workspace: &str) -> PathBuf {
    data.join(format!("openwork-orchestrator/audit/{workspace}.jsonl"))
}

fn now_ms() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).expect("after 1970")
}

/// In the form of a version 4 UUID.
fn uuid() -> String {
    let hex = random_hex(16);
    format!("{}-{}-4{}-8{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..])
}

impl Inner {
    /// What a boot finds. A file that does not parse is taken for one that is not there, and nobody is told.
    fn load(setup: &Setup) -> Self {
        let read = |path: PathBuf| serde_json::from_slice::<Value>(&std::fs::read(path).unwrap_or_default());
        let config = read(setup.data.join("openwork-server/server.json")).unwrap_or_default();
        let paths = |list: &Value, of: fn(&Value) -> &Value| -> Vec<PathBuf> {
            list.as_array().into_iter().flatten().filter_map(|one| Some(of(one).as_str()?.into())).collect()
        };
        let workspaces = match setup.names_workspace {
            true => vec![setup.data.join("workspace")],
            false => paths(&config["workspaces"], |one| &one["path"]),
        };
        let roots = match &config["authorizedRoots"] {
            Value::Null => workspaces.clone(),
            list => paths(list, |one| one),
        };
        let tokens = read(tokens_file(&setup.data)).unwrap_or_default();
        let tokens = tokens["tokens"].as_array().into_iter().flatten().filter_map(Token::read).collect();
        let (booted, engine) = (Instant::now(), setup.engine.clone());
        let mut inner = Self { booted, tokens, workspaces, roots, engine, faults: Faults::default(), seen: Vec::new() };
        if setup.version == Version::V0_18_1 {
            inner.mint(&setup.data, "owner", Some("OpenWork owner token"));
        }
        inner
    }

    fn mint(&mut self, data: &Path, scope: &str, label: Option<&str>) -> Minted {
        let minted = Minted { id: uuid(), secret: format!("owt_{}", random_hex(16)) };
        let (scope, label) = (scope.to_owned(), label.map(str::to_owned));
        let token = Token { id: minted.id.clone(), hash: hash(&minted.secret), scope, created_at: now_ms(), label };
        self.tokens.push(token);
        self.save(data);
        minted
    }

    /// As the real one does it: over the old file, not beside it.
    fn save(&self, data: &Path) {
        let tokens: Vec<Value> = self.tokens.iter().map(|token| token.json(true)).collect();
        let file = json!({ "schemaVersion": 1, "updatedAt": now_ms(), "tokens": tokens });
        let path = tokens_file(data);
        std::fs::create_dir_all(path.parent().unwrap()).expect("make the folder of the server");
        std::fs::write(path, serde_json::to_vec_pretty(&file).unwrap()).expect("write the tokens");
    }
}

impl Token {
    fn read(value: &Value) -> Option<Self> {
        let text = |key: &str| value[key].as_str().map(str::to_owned);
        let created_at = value["createdAt"].as_u64().unwrap_or_default();
        Some(Self { id: text("id")?, hash: text("hash")?, scope: text("scope")?, created_at, label: text("label") })
    }

    fn json(&self, with_hash: bool) -> Value {
        let mut value = json!({ "id": self.id, "scope": self.scope, "createdAt": self.created_at });
        if let Some(label) = &self.label {
            value["label"] = json!(label);
        }
        if with_hash {
            value["hash"] = json!(self.hash);
        }
        value
    }
}
