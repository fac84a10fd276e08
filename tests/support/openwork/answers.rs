//! What the stand-in answers: who may ask what, and the bodies in the shape of the recorded ones.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::stub_store::{Body, Reply, Request};
use crate::support::ask::Answer;

use super::{CLIENT, HOST, Inner, State, Version, audit_file, hash, now_ms, uuid, workspace_id};

/// Whoever asks.
struct Who {
    /// The scope and the hash of a good bearer token.
    scope: Option<(String, String)>,
    is_host: bool,
    /// Protected end points are open.
    anyone: bool,
    viewers_write: bool,
}

fn send(status: &str, body: &Value) -> Reply {
    Reply::Send(format!("{status}\r\nContent-Type: application/json"), body.to_string().into_bytes())
}

fn ok(body: &Value) -> Reply {
    send("200 OK", body)
}

fn refuse(status: &str, code: &str, message: &str) -> Reply {
    send(status, &json!({ "code": code, "message": message }))
}

fn not_found() -> Reply {
    refuse("404 Not Found", "not_found", "Not found")
}

fn page(kind: &str, text: &str) -> Reply {
    Reply::Send(format!("200 OK\r\nContent-Type: {kind}"), text.as_bytes().to_vec())
}

impl Who {
    fn client(&self) -> Result<(), Reply> {
        let is_known = self.scope.is_some() || self.anyone;
        is_known.then_some(()).ok_or_else(|| refuse("401 Unauthorized", "unauthorized", "Invalid bearer token"))
    }

    /// A client that may write.
    fn writer(&self) -> Result<(), Reply> {
        self.client()?;
        match self.scope_name() {
            "viewer" if !self.viewers_write => Err(send(
                "403 Forbidden",
                &json!({ "code": "forbidden", "message": "Insufficient token scope",
                         "details": { "required": "collaborator", "scope": "viewer" } }),
            )),
            _ => Ok(()),
        }
    }

    fn host(&self, or: &[&str]) -> Result<(), Reply> {
        let is_host = self.is_host || self.anyone || or.contains(&self.scope_name());
        is_host.then_some(()).ok_or_else(|| refuse("401 Unauthorized", "unauthorized", "Invalid host token"))
    }

    fn scope_name(&self) -> &str {
        self.scope.as_ref().map_or("", |(scope, _)| scope)
    }

    fn actor(&self) -> Value {
        let (scope, hash) = self.scope.clone().unwrap_or_default();
        json!({ "type": "remote", "tokenHash": hash, "scope": scope })
    }
}

impl State {
    pub(super) fn reboot_file(&self) -> PathBuf {
        self.setup.data.with_extension("reboot")
    }

    pub(super) fn answer(&self, request: &Request, body: &mut Body<'_>) -> Reply {
        let mut bytes = Vec::new();
        if body.read_to_end(&mut bytes).is_err() {
            return Reply::HangUp;
        }
        let mut inner = self.inner.lock().unwrap();
        if std::fs::remove_file(self.reboot_file()).is_ok() {
            let (faults, seen) = (inner.faults.clone(), std::mem::take(&mut inner.seen));
            *inner = Inner { engine: inner.engine.clone(), faults, seen, ..Inner::load(&self.setup) };
        }
        let (who, name) = inner.who(request);
        inner.seen.push(format!("{} {} {name}", request.method, request.target));
        if inner.faults.booting > 0 {
            inner.faults.booting -= 1;
            return Reply::HangUp;
        }
        if let Some(elsewhere) = &inner.faults.redirect {
            return Reply::Send(format!("302 Found\r\nLocation: {elsewhere}{}", request.target), Vec::new());
        }
        let path = request.target.split('?').next().unwrap_or_default();
        let is_at = |fault: &Option<String>| fault.as_deref() == Some(path);
        if is_at(&inner.faults.endless) {
            return Reply::Endless("200 OK\r\nContent-Type: application/json".to_owned(), vec![b' '; 1 << 16]);
        }
        let is_slow = is_at(&inner.faults.slow);
        let reply = self.route(&mut inner, request, path, &who, &bytes).unwrap_or_else(|refusal| refusal);
        match reply {
            Reply::Send(head, bytes) if is_slow => Reply::Drip(head, bytes, 1, self.gate.clone()),
            other => other,
        }
    }

    /// `Err` is an answer too: one that refuses.
    fn route(&self, inner: &mut Inner, request: &Request, path: &str, who: &Who, body: &[u8]) -> Result<Reply, Reply> {
        let version = self.setup.version;
        let parts: Vec<&str> = path.strip_prefix('/').unwrap_or_default().split('/').collect();
        let method = request.method.as_str();
        Ok(match (method, parts.as_slice()) {
            ("GET", ["health"] | ["w", _, "health"]) => ok(&self.versions(inner, json!({ "ok": true }))),
            ("GET", ["ui"] | ["w", _, "ui"]) if inner.faults.ui_disabled => {
                refuse("404 Not Found", "ui_disabled", "Toy UI is disabled")
            }
            ("GET", ["ui"] | ["w", _, "ui"]) => page("text/html; charset=utf-8", include_str!("ui.html")),
            ("GET", ["ui", "assets", "toy.js"]) => {
                page("text/javascript", "const qs = (s) => document.querySelector(s);\n")
            }
            ("GET", ["ui", "assets", "toy.css"]) => page("text/css", "body { margin: 0; }\n"),
            ("GET", ["status"] | ["w", _, "status"]) => {
                who.client()?;
                ok(&self.status(inner))
            }
            ("GET", ["capabilities"]) => {
                who.client()?;
                ok(&self.capabilities())
            }
            ("GET", ["whoami"]) => {
                who.client()?;
                ok(&json!({ "ok": true, "actor": who.actor() }))
            }
            ("GET", ["workspaces"] | ["w", _, "workspaces"]) => {
                who.client()?;
                ok(&self.workspaces(inner))
            }
            ("GET", ["tokens"]) => {
                let later = if inner.faults.drift { &["owner", "collaborator"][..] } else { &["owner"] };
                who.host(later)?;
                ok(&json!({ "items": inner.tokens.iter().rev().map(|token| token.json(false)).collect::<Vec<_>>() }))
            }
            ("POST", ["tokens"]) => {
                who.host(&["owner"])?;
                self.mint(inner, body)?
            }
            ("DELETE", ["tokens", id]) => {
                who.host(&["owner"])?;
                self.revoke(inner, id)?
            }
            ("GET", ["approvals"]) => {
                who.host(&["owner"])?;
                ok(&json!({ "items": [] }))
            }
            ("POST", ["approvals", _]) => {
                who.host(&["owner"])?;
                refuse("404 Not Found", "approval_not_found", "Approval not found")
            }
            ("GET", ["env"] | ["env", "keys"]) if version.is_new() => {
                // Not even an owner may know what is in there.
                who.host(&[])?;
                ok(&json!({ "items": [] }))
            }
            (_, ["opencode", rest @ ..]) => {
                let first = inner.workspaces.first().map(|path| workspace_id(path));
                Self::proxy(inner, request, who, first.as_deref(), rest, body)?
            }
            (_, ["w", id, "opencode", rest @ ..]) => Self::proxy(inner, request, who, Some(id), rest, body)?,
            (_, ["workspace", id, "opencode", rest @ ..]) if version.is_new() => {
                Self::proxy(inner, request, who, Some(id), rest, body)?
            }
            (_, ["workspace", id, rest @ ..]) => self.of_workspace(inner, request, who, id, rest, body)?,
            _ => not_found(),
        })
    }

    fn versions(&self, inner: &Inner, mut body: Value) -> Value {
        body["version"] = json!(self.setup.version.name());
        body["uptimeMs"] = json!(u64::try_from(inner.booted.elapsed().as_millis()).unwrap_or_default());
        if let Some(pin) = self.setup.version.pin() {
            body["opencodeVersion"] = json!(pin);
        }
        body
    }

    fn status(&self, inner: &Inner) -> Value {
        let mut body = self.versions(inner, json!({ "ok": true }));
        let workspaces = self.workspaces(inner);
        let config_path = self.setup.data.join("openwork-server/server.json");
        body["readOnly"] = json!(inner.faults.read_only);
        body["approval"] = json!({ "mode": "auto", "timeoutMs": 30_000 });
        body["corsOrigins"] = json!(["*"]);
        body["workspaceCount"] = json!(inner.workspaces.len());
        body["activeWorkspaceId"] = workspaces["activeId"].clone();
        body["workspace"] = workspaces["items"][0].clone();
        body["authorizedRoots"] = json!(inner.roots);
        body["server"] = json!({ "host": "127.0.0.1", "port": 0, "configPath": config_path });
        body["tokenSource"] = json!({ "client": "env", "host": "env" });
        body
    }

    /// With the password of OpenCode, for whoever may read.
    fn workspaces(&self, inner: &Inner) -> Value {
        let items: Vec<Value> = inner.workspaces.iter().map(|path| self.workspace(inner, path)).collect();
        let mut body = json!({ "items": items, "activeId": items.first().map_or(&Value::Null, |item| &item["id"]) });
        if self.setup.version.is_new() {
            body["workspaces"] = json!(items);
        }
        body
    }

    fn workspace(&self, inner: &Inner, path: &Path) -> Value {
        let mut item = json!({ "id": workspace_id(path), "name": path.file_name().and_then(|name| name.to_str()),
                               "path": path, "workspaceType": "local" });
        if let Some(mut access) = inner.engine.access() {
            item["baseUrl"] = access["baseUrl"].clone();
            access["directory"] = json!(path);
            item["opencode"] = access;
        }
        if self.setup.version.is_new() {
            item["preset"] = json!("starter");
            item["directory"] = json!(path);
        }
        item
    }

    fn capabilities(&self) -> Value {
        let both = json!({ "read": true, "write": true });
        let mut body = json!({ "schemaVersion": 1, "serverVersion": self.setup.version.name(), "plugins": both,
            "mcp": both, "skills": { "read": true, "write": true, "source": "openwork" }, "commands": both, "config": both,
            "approvals": { "mode": "auto", "timeoutMs": 30_000 } });
        match self.setup.version.pin() {
            Some(pin) => body["opencodeVersion"] = json!(pin),
            None => {
                let repo = json!({ "owner": "different-ai", "name": "openwork-hub", "ref": "main" });
                body["hub"] = json!({ "skills": { "read": true, "install": true, "repo": repo } });
            }
        }
        if self.setup.version == Version::V0_18_16 {
            body["providerSync"] = json!(true);
        }
        body
    }

    fn mint(&self, inner: &mut Inner, body: &[u8]) -> Result<Reply, Reply> {
        if inner.faults.read_only {
            return Err(read_only());
        }
        let asked: Value = serde_json::from_slice(body).unwrap_or_default();
        // Whether the real one refuses a request without a scope was not recorded: here nobody can rely on it.
        let scope = if asked["scope"].is_null() { "viewer" } else { asked["scope"].as_str().unwrap_or_default() };
        if !["owner", "collaborator", "viewer"].contains(&scope) {
            return Err(refuse("400 Bad Request", "invalid_scope", "Invalid token scope"));
        }
        let minted = inner.mint(&self.setup.data, scope, asked["label"].as_str());
        let mut answer = inner.tokens.last().expect("just made").json(false);
        answer["token"] = json!(minted.secret);
        Ok(send("201 Created", &answer))
    }

    fn revoke(&self, inner: &mut Inner, id: &str) -> Result<Reply, Reply> {
        let Some(at) = inner.tokens.iter().position(|token| token.id == id) else {
            return Err(refuse("404 Not Found", "token_not_found", "Token not found"));
        };
        inner.tokens.remove(at);
        inner.save(&self.setup.data);
        Ok(ok(&json!({ "ok": true })))
    }

    fn of_workspace(
        &self,
        inner: &Inner,
        request: &Request,
        who: &Who,
        id: &str,
        rest: &[&str],
        body: &[u8],
    ) -> Result<Reply, Reply> {
        let version = self.setup.version;
        let found = |path: Result<PathBuf, Reply>| path.map(|path| (workspace_id(&path), path));
        let read = || who.client().and_then(|()| found(inner.authorized(id)));
        let written = || who.writer().and_then(|()| found(inner.authorized(id)));
        let empty = json!({ "items": [] });
        Ok(match (request.method.as_str(), rest) {
            ("GET", ["config"]) => {
                let (_, path) = read()?;
                ok(&json!({ "opencode": {}, "openwork": self.openwork_config(inner, &path), "updatedAt": null }))
            }
            ("GET", ["export"]) => {
                let (id, path) = read()?;
                ok(&json!({ "workspaceId": id, "exportedAt": now_ms(), "opencode": {},
                            "openwork": self.openwork_config(inner, &path), "skills": [], "commands": [] }))
            }
            ("GET", ["audit"]) => {
                let (id, _) = read()?;
                let limit = query(request, "limit").and_then(|n| n.parse::<usize>().ok()).unwrap_or(50).clamp(1, 200);
                let log = std::fs::read_to_string(audit_file(&self.setup.data, &id)).unwrap_or_default();
                let lines = log.lines().rev().filter_map(|line| serde_json::from_str::<Value>(line).ok());
                ok(&json!({ "items": lines.take(limit).collect::<Vec<_>>() }))
            }
            ("GET", ["artifacts" | "inbox"]) => read().map(|_| ok(&empty))?,
            ("GET", ["events"]) => {
                let (id, _) = read()?;
                ok(&json!({ "items": [], "cursor": 0, "workspaceId": id, "disabled": !version.is_new() }))
            }
            ("POST", ["inbox"]) => {
                let (id, path) = written()?;
                if inner.faults.read_only {
                    return Err(read_only());
                }
                let is_form =
                    request.headers.get("content-type").is_some_and(|kind| kind.starts_with("multipart/form-data"));
                if !is_form {
                    return Err(refuse("400 Bad Request", "invalid_payload", "A form with a file is expected"));
                }
                self.upload(who, &id, &path, body)
            }
            ("GET", ["sessions"]) if version.is_new() => {
                let (_, path) = read()?;
                let limit = query(request, "limit").map(|limit| format!("?limit={limit}")).unwrap_or_default();
                let sessions = inner.ask_engine("GET", &format!("session{limit}"), &path, b"")?.json();
                let here = |one: &&Value| one["directory"] == json!(path);
                ok(&json!({ "items": sessions.as_array().into_iter().flatten().filter(here).collect::<Vec<_>>() }))
            }
            ("GET", ["sessions", session]) if version.is_new() => {
                let (_, path) = read()?;
                pass(inner.ask_engine("GET", &format!("session/{session}"), &path, b"")?)
            }
            ("DELETE", ["sessions", session]) => {
                let (_, path) = written()?;
                inner.ask_engine("DELETE", &format!("session/{session}"), &path, b"")?;
                ok(&json!({ "ok": true }))
            }
            _ => not_found(),
        })
    }

    fn openwork_config(&self, inner: &Inner, path: &Path) -> Value {
        if !self.setup.version.is_new() {
            return json!({});
        }
        let workspace = json!({ "name": path.file_name().and_then(|name| name.to_str()), "createdAt": now_ms(),
                                "preset": "starter" });
        json!({ "version": 1, "workspace": workspace, "authorizedRoots": inner.roots, "reload": null })
    }

    /// A form with one file, and what the audit log says about it.
    fn upload(&self, who: &Who, id: &str, path: &Path, body: &[u8]) -> Reply {
        let body = String::from_utf8_lossy(body);
        let name = body.split_once("filename=\"").and_then(|(_, rest)| rest.split('"').next()).unwrap_or("upload");
        let content = body.split_once("\r\n\r\n").and_then(|(_, rest)| rest.split("\r\n--").next()).unwrap_or_default();
        let file = path.join(".opencode/openwork/inbox").join(name);
        std::fs::create_dir_all(file.parent().unwrap()).and_then(|()| std::fs::write(file, content)).unwrap();
        let line = json!({ "id": uuid(), "workspaceId": id, "actor": who.actor(), "action": "workspace.inbox.upload",
                           "target": name, "summary": format!("Uploaded {name}"), "timestamp": now_ms() });
        let log = audit_file(&self.setup.data, id);
        std::fs::create_dir_all(log.parent().unwrap()).unwrap();
        let log = std::fs::OpenOptions::new().create(true).append(true).open(log);
        log.and_then(|mut log| writeln!(log, "{line}")).expect("append to the audit log");
        ok(&json!({ "ok": true, "path": name, "bytes": content.len() }))
    }

    fn proxy(
        inner: &Inner,
        request: &Request,
        who: &Who,
        id: Option<&str>,
        rest: &[&str],
        body: &[u8],
    ) -> Result<Reply, Reply> {
        who.client()?;
        if request.method != "GET" && who.scope_name() == "viewer" && !who.viewers_write {
            return Err(refuse("403 Forbidden", "forbidden", "Viewer tokens are read-only"));
        }
        let path = inner.authorized(id.unwrap_or_default())?;
        let rest = rest.join("/");
        if inner.faults.session_list_fails && request.method == "GET" && rest == "session" {
            let data = json!({ "path": ".opencode/commands/broken.md", "message": "model: null" });
            return Err(send("500 Internal Server Error", &json!({ "name": "ConfigInvalidError", "data": data })));
        }
        let query = request.target.split_once('?').map_or(String::new(), |(_, query)| format!("?{query}"));
        inner.ask_engine(&request.method, &format!("{rest}{query}"), &path, body).map(pass)
    }
}

/// The value of a parameter.
fn query(request: &Request, name: &str) -> Option<String> {
    let (_, query) = request.target.split_once('?')?;
    let pairs = url::form_urlencoded::parse(query.as_bytes());
    pairs.into_iter().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

fn read_only() -> Reply {
    refuse("403 Forbidden", "read_only", "Server is read-only")
}

/// What OpenCode said, as it is.
fn pass(answer: Answer) -> Reply {
    Reply::Send(format!("{} Passed\r\nContent-Type: {}", answer.status, answer.content_type), answer.body)
}

impl Inner {
    /// Who asks, and what the tests call them.
    fn who(&self, request: &Request) -> (Who, String) {
        let header = |name: &str| request.headers.get(name).map(String::as_str);
        let bearer = header("authorization").and_then(|value| value.strip_prefix("Bearer "));
        let is_host = header("x-openwork-host-token") == Some(HOST);
        let (scope, name) = match bearer {
            None => (None, if is_host { "host" } else { "none" }.to_owned()),
            Some(CLIENT) => (Some("collaborator".to_owned()), "client".to_owned()),
            Some(HOST) => (None, "host-as-bearer".to_owned()),
            Some(other) => {
                let scope = self.tokens.iter().find(|token| token.hash == hash(other)).map(|token| token.scope.clone());
                (scope.clone(), scope.unwrap_or_else(|| "wrong".to_owned()))
            }
        };
        let scope = scope.map(|scope| if self.faults.one_scope { "collaborator".to_owned() } else { scope });
        let scope = scope.map(|scope| (scope, hash(bearer.unwrap_or_default())));
        let (anyone, viewers_write) = (self.faults.open, self.faults.viewers_write);
        (Who { scope, is_host, anyone, viewers_write }, name)
    }

    /// The path of a workspace that may be used.
    fn authorized(&self, id: &str) -> Result<PathBuf, Reply> {
        let Some(path) = self.workspaces.iter().find(|path| workspace_id(path) == id) else {
            return Err(refuse("404 Not Found", "workspace_not_found", "Workspace not found"));
        };
        if !self.roots.iter().any(|root| path.starts_with(root)) {
            return Err(refuse("403 Forbidden", "workspace_unauthorized", "Workspace is not authorized"));
        }
        Ok(path.clone())
    }

    fn ask_engine(&self, method: &str, rest: &str, directory: &Path, body: &[u8]) -> Result<Answer, Reply> {
        let unconfigured = || refuse("400 Bad Request", "opencode_unconfigured", "OpenCode base URL is missing");
        let dead = || refuse("500 Internal Server Error", "internal_error", "Unexpected server error");
        match self.engine.ask(method, rest, directory, body) {
            None => Err(unconfigured()),
            Some(_) if self.faults.engine_unknown.get() > 0 => {
                self.faults.engine_unknown.update(|left| left - 1);
                Err(unconfigured())
            }
            Some(_) if self.faults.engine_dead => Err(dead()),
            Some(_) if self.faults.engine_booting.get() > 0 => {
                self.faults.engine_booting.update(|left| left - 1);
                Err(dead())
            }
            Some(answer) => answer.map_err(|_| dead()),
        }
    }
}
