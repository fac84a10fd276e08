//! What stands behind the stand-in of openwork-server: a real OpenCode, or sessions in memory that are listed as OpenCode lists them.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of this module")]
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "a test helper fails by panicking")]

use std::path::Path;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::support::ask::{Answer, try_ask};
use crate::support::random::random_hex;

/// OpenCode lists so many sessions unless it is asked for more.
const DEFAULT_LIMIT: usize = 100;

/// The engine of an OpenWork.
#[derive(Clone, Debug)]
pub enum Engine {
    /// The server was started without one.
    Unconfigured,
    /// A real OpenCode.
    Real { port: u16, user: String, password: String },
    /// Sessions in memory, of an OpenCode that says to be of this version.
    Memory(Arc<Memory>),
}

/// Sessions in memory.
#[derive(Debug)]
pub struct Memory {
    pub version: String,
    /// What must not show anywhere.
    pub password: String,
    sessions: Mutex<Vec<Value>>,
}

impl Engine {
    pub fn real(port: u16, user: &str, password: &str) -> Self {
        Self::Real { port, user: user.to_owned(), password: password.to_owned() }
    }

    /// With these sessions, oldest first.
    pub fn memory(version: &str, directory: &Path, ids: &[String]) -> Self {
        let memory = Memory { version: version.to_owned(), password: random_hex(16), sessions: Mutex::default() };
        for id in ids {
            memory.add(id, "a session", directory);
        }
        Self::Memory(Arc::new(memory))
    }

    /// How the server reaches it, as it tells everybody who may read.
    pub fn access(&self) -> Option<Value> {
        match self {
            Self::Unconfigured => None,
            Self::Real { port, user, password } => {
                Some(json!({ "baseUrl": format!("http://127.0.0.1:{port}"), "username": user, "password": password }))
            }
            Self::Memory(memory) => {
                Some(json!({ "baseUrl": "http://127.0.0.1:4096", "username": "opencode", "password": memory.password }))
            }
        }
    }

    /// Its answer to a path with its query, without the slash; `None` where there is no engine.
    pub fn ask(&self, method: &str, path: &str, directory: &Path, body: &[u8]) -> Option<Result<Answer, String>> {
        match self {
            Self::Unconfigured => None,
            Self::Real { port, user, password } => {
                let basic = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
                let url = format!("http://127.0.0.1:{port}/{path}");
                let directory = directory.to_str().expect("a path in UTF-8");
                let headers = [
                    ("Authorization", basic.as_str()),
                    ("Content-Type", "application/json"),
                    ("x-opencode-directory", directory),
                ];
                Some(try_ask(method, &url, &headers, body))
            }
            Self::Memory(memory) => Some(Ok(memory.answer(method, path, directory, body))),
        }
    }
}

impl Memory {
    fn add(&self, id: &str, title: &str, directory: &Path) -> Value {
        let mut sessions = self.sessions.lock().unwrap();
        let now = jiff::Timestamp::now().as_millisecond();
        let session = json!({ "id": id, "slug": "quiet-panda", "projectID": "global", "directory": directory,
            "title": title, "version": self.version, "time": { "created": now, "updated": now } });
        sessions.push(session.clone());
        session
    }

    /// Loses all sessions, as when only a part of the data was restored.
    pub fn forget(&self) {
        self.sessions.lock().unwrap().clear();
    }

    fn answer(&self, method: &str, path: &str, directory: &Path, body: &[u8]) -> Answer {
        let json = |status, body: &Value| {
            let content_type = "application/json".to_owned();
            Answer { status, content_type, body: body.to_string().into_bytes() }
        };
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let parts: Vec<&str> = path.split('/').collect();
        match (method, parts.as_slice()) {
            ("GET", ["global", "health"]) => json(200, &json!({ "healthy": true, "version": self.version })),
            ("GET", ["session"]) => {
                let mut pairs = url::form_urlencoded::parse(query.as_bytes());
                let limit = pairs.find(|(key, _)| key == "limit").and_then(|(_, value)| value.parse().ok());
                let sessions = self.sessions.lock().unwrap();
                let newest: Vec<&Value> = sessions.iter().rev().take(limit.unwrap_or(DEFAULT_LIMIT)).collect();
                json(200, &json!(newest))
            }
            ("POST", ["session"]) => {
                let asked: Value = serde_json::from_slice(body).unwrap_or_default();
                if !asked["title"].is_null() && !asked["title"].is_string() {
                    return json(400, &json!({ "name": "BadRequest", "data": { "message": "title" } }));
                }
                let title = asked["title"].as_str().unwrap_or("New session");
                json(200, &self.add(&format!("ses_{}", random_hex(13)), title, directory))
            }
            ("GET", ["session", id]) => match self.sessions.lock().unwrap().iter().find(|one| one["id"] == *id) {
                Some(session) => json(200, session),
                None => json(404, &no_session(id)),
            },
            ("GET", ["session", id, "message"]) => {
                match self.sessions.lock().unwrap().iter().any(|one| one["id"] == *id) {
                    true => json(200, &json!([])),
                    false => json(404, &no_session(id)),
                }
            }
            ("DELETE", ["session", id]) => {
                let mut sessions = self.sessions.lock().unwrap();
                let Some(at) = sessions.iter().position(|one| one["id"] == *id) else {
                    return json(404, &no_session(id));
                };
                sessions.remove(at);
                json(200, &json!(true))
            }
            _ => json(404, &json!({ "name": "NotFoundError", "data": { "message": path } })),
        }
    }
}

fn no_session(id: &str) -> Value {
    json!({ "name": "NotFoundError", "data": { "message": format!("Session not found: {id}") } })
}
