//! What three real servers answered to whom, as it was written down, and a server that answers so again.
//!
//! The recordings are no part of the project. Where they are not at hand, [`recordings`] says so and there are none.
//!
//! A recording holds no secrets and cuts long bodies. So the server fills in what follows from who asks (the hash of a token, the id
//! of the workspace's path), and closes a body that was cut behind its last whole value.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde_json::{Value, json};

use super::{CLIENT, HOST, Version, hash, workspace_id};
use crate::stub_store::{Reply, Request, Server};
use crate::support::random::random_hex;

/// The workspace of the recorded servers.
pub const WORKSPACE: &str = "/srv/data/workspace";
/// The id of a workspace that no server has.
const UNKNOWN: &str = "ws_000000000000";
/// What stands in the rows for the id of the workspace, of its session, and of one made for the purpose.
const PLACES: [&str; 3] = [":id", ":sid", "NEW"];
/// Longer bodies were cut.
const CUT: usize = 200;

/// The answers of one server.
#[derive(Clone, Debug)]
pub struct Recording {
    pub version: Version,
    /// Who asked, as the columns of the table are called.
    pub columns: Vec<String>,
    pub rows: Vec<Row>,
}

/// The answers of one end point.
#[derive(Clone, Debug)]
pub struct Row {
    pub method: String,
    /// With [`PLACES`].
    pub path: String,
    /// By column.
    pub status: Vec<u16>,
    pub body: Vec<Option<String>>,
}

/// All recordings that are at hand: all of them, or none with a word on stderr.
pub fn recordings() -> Vec<Recording> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/reference/data");
    let folder = std::env::var_os("OPSCTL_TEST_RECORDINGS").map_or_else(beside, PathBuf::from);
    let files = [
        (Version::V0_11_135, "openwork-probe-0.11.135.md"),
        (Version::V0_18_1, "openwork-probe-0.18.1-orchestrator.md"),
        (Version::V0_18_16, "openwork-probe-0.18.16-managed.md"),
    ];
    if !folder.is_dir() {
        // Not by a macro, which is not shown when the test passes.
        let line = "NOT TESTED: the recorded answers of OpenWork are not at hand (OPSCTL_TEST_RECORDINGS names their folder)\n";
        let _ = std::io::stderr().write_all(line.as_bytes());
        return Vec::new();
    }
    let read =
        |(version, name)| Recording::read(version, &std::fs::read_to_string(folder.join(name)).expect("a recording"));
    files.map(read).into()
}

impl Recording {
    /// A table of statuses, then a section with the bodies of each row, in the same order.
    fn read(version: Version, text: &str) -> Self {
        let mut table = text.lines().filter(|line| line.starts_with('|')).map(cells);
        let columns = table.next().expect("a table").split_off(1).iter().map(|name| who(name)).collect::<Vec<_>>();
        let mut sections = text.split("\n### ").skip(1);
        let rows = table.skip(1).map(|row| {
            let section = sections.next().expect("a section for each row");
            Row::read(&row, section, &columns)
        });
        Self { version, rows: rows.collect(), columns }
    }

    /// Where the answers of an identity are.
    pub fn column(&self, name: &str) -> usize {
        self.columns.iter().position(|column| column == name).unwrap_or_else(|| panic!("nobody is called {name}"))
    }
}

/// What a column is called here.
fn who(recorded: &str) -> String {
    match recorded {
        "host-hdr" => "host",
        "client+hosthdr" => "client+host",
        "collab" => "collaborator",
        same => same,
    }
    .to_owned()
}

fn cells(line: &str) -> Vec<String> {
    line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()
}

impl Row {
    fn read(cells: &[String], section: &str, columns: &[String]) -> Self {
        let (method, path) = cells[0].split_once(' ').expect("a method and a path");
        // With a file in a form.
        let method = if method == "POSTMP" { "POST" } else { method };
        let status: Vec<u16> = cells[1..].iter().map(|cell| cell.parse().expect("a status")).collect();
        let mut body = vec![None; columns.len()];
        for line in section.lines().filter_map(|line| line.strip_prefix("- `")) {
            let (said, rest) = line.split_once("` [").expect("a status");
            let (names, text) = rest.split_once("]: ").expect("who asked");
            for name in names.split(", ").map(who) {
                let at = columns.iter().position(|column| *column == name).expect("a column");
                assert_eq!(said.parse(), Ok(status[at]), "{section}");
                body[at] = Some(text.trim_matches('`').to_owned());
            }
        }
        Self { method: method.to_owned(), path: path.to_owned(), status, body }
    }

    /// The path of a request: `id` in the place of the workspace's, `session` in those of sessions.
    pub fn request(&self, id: &str, session: &str) -> String {
        let part = |part| match part {
            ":id" => id,
            ":sid" | "NEW" => session,
            other => other,
        };
        self.path.split('/').map(part).collect::<Vec<_>>().join("/")
    }

    fn fits(&self, method: &str, path: &str, id: &str) -> bool {
        let (ours, asked): (Vec<&str>, Vec<&str>) = (self.path.split('/').collect(), path.split('/').collect());
        let is_same = |(ours, asked): (&&str, &&str)| match *ours {
            ":id" => *asked == id,
            UNKNOWN => *asked != id,
            other => PLACES.contains(&other) || other == *asked,
        };
        self.method == method && ours.len() == asked.len() && ours.iter().zip(&asked).all(is_same)
    }
}

/// The JSON of a recorded body, closed behind its last whole value if it was cut. `None` if it is none. Whether it was whole.
pub fn json_of(text: &str) -> Option<(Value, bool)> {
    if let Ok(value) = serde_json::from_str(text) {
        return Some((value, true));
    }
    let is_json = text.len() >= CUT && text.starts_with(['{', '[']);
    let ends = (0..=text.len()).rev().filter(|end| text.is_char_boundary(*end));
    is_json
        .then(|| ends.map(|end| &text[..end]).find_map(|start| serde_json::from_str(&closed(start)).ok()))?
        .map(|v| (v, false))
}

/// The start of a JSON text with what closes its objects and lists.
fn closed(start: &str) -> String {
    let (mut open, mut in_text, mut is_escaped) = (Vec::new(), false, false);
    for c in start.chars() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' if in_text => is_escaped = true,
            '"' => in_text = !in_text,
            '{' if !in_text => open.push('}'),
            '[' if !in_text => open.push(']'),
            '}' | ']' if !in_text => drop(open.pop()),
            _ => {}
        }
    }
    open.iter().rev().fold(start.to_owned(), |text, end| text + &end.to_string())
}

/// Answers as the recorded server did. Dropping it ends it.
pub struct Replay {
    server: Server,
}

/// What the replay makes up as it goes.
#[derive(Default)]
struct Made {
    /// Secret and column of scoped tokens, with their ids.
    tokens: Vec<(String, String, String)>,
    /// Sessions that were made and not removed.
    sessions: Vec<Value>,
}

impl Replay {
    pub fn start(recording: &Recording) -> Self {
        let (recording, made) = (recording.clone(), Mutex::new(Made::default()));
        let server = Server::start(move |request, body| {
            let mut bytes = Vec::new();
            match body.read_to_end(&mut bytes) {
                Ok(_) => recording.answer(request, &bytes, &mut made.lock().unwrap()),
                Err(_) => Reply::HangUp,
            }
        });
        Self { server }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.server.port)
    }

    /// The variables of the recorded deployment, with the tokens of the tests.
    pub fn env(&self) -> Vec<(&'static str, String)> {
        vec![
            ("OPENWORK_TOKEN", CLIENT.into()),
            ("OPENWORK_HOST_TOKEN", HOST.into()),
            ("OPENWORK_WORKSPACE", WORKSPACE.into()),
        ]
    }
}

impl Recording {
    fn answer(&self, request: &Request, body: &[u8], made: &mut Made) -> Reply {
        let path = request.target.split('?').next().unwrap_or_default();
        let bearer = request.headers.get("authorization").and_then(|value| value.strip_prefix("Bearer "));
        let at = self.column(&column_of(request, bearer, made));
        // Recorded without keys, where nothing else differs.
        let known = if path == "/env/keys" { "/env" } else { path };
        let id = workspace_id(Path::new(WORKSPACE));
        let parts: Vec<&str> = known.split('/').collect();
        let Some(row) = self.rows.iter().find(|row| row.fits(&request.method, known, &id)) else {
            return match (request.method.as_str(), parts.as_slice()) {
                // One of a list is guarded as the list is.
                ("DELETE" | "POST", ["", list @ ("tokens" | "approvals"), _])
                    if self.status("GET", &format!("/{list}"), at) != 200 =>
                {
                    reply(401, &json!({ "code": "unauthorized", "message": "Invalid host token" }))
                }
                ("DELETE", ["", "tokens", token]) => {
                    let before = made.tokens.len();
                    made.tokens.retain(|(_, _, id)| id != token);
                    let is_gone = made.tokens.len() < before;
                    let missing = json!({ "code": "token_not_found", "message": "Token not found" });
                    reply(if is_gone { 200 } else { 404 }, &if is_gone { json!({ "ok": true }) } else { missing })
                }
                _ => reply(404, &json!({ "code": "not_found", "message": "Not found" })),
            };
        };
        let (status, text) = (row.status[at], row.body[at].clone().unwrap_or_default());
        let Some((mut value, _)) = json_of(&text) else {
            return Reply::Send(
                format!("{status} Recorded\r\nContent-Type: {}", kind_of(&row.path)),
                text.into_bytes(),
            );
        };
        self.fill_in(&mut value, &id, bearer.unwrap_or_default());
        if status < 300 {
            match (row.method.as_str(), parts.last().copied().unwrap_or_default()) {
                ("POST", "tokens") => {
                    let asked: Value = serde_json::from_slice(body).unwrap_or_default();
                    let scope = asked["scope"].as_str().unwrap_or("viewer");
                    let (secret, id) = (format!("owt_{}", random_hex(16)), random_hex(16));
                    made.tokens.push((secret.clone(), scope.to_owned(), id.clone()));
                    (value["id"], value["token"], value["scope"]) = (json!(id), json!(secret), json!(scope));
                    value["label"] = asked["label"].clone();
                }
                ("POST", "session") => {
                    value["id"] = json!(format!("ses_{}", random_hex(13)));
                    made.sessions.push(value.clone());
                }
                ("DELETE", session) => made.sessions.retain(|one| one["id"] != session),
                ("GET", session) if row.path.ends_with(":sid") && value["id"] != session => {
                    return match made.sessions.iter().find(|one| one["id"] == session) {
                        Some(one) => reply(200, one),
                        None => reply(404, &json!({ "name": "NotFoundError", "data": {} })),
                    };
                }
                _ => {}
            }
        }
        reply(status, &value)
    }

    fn status(&self, method: &str, path: &str, column: usize) -> u16 {
        let row = self.rows.iter().find(|row| row.method == method && row.path == path);
        row.unwrap_or_else(|| panic!("{method} {path} was not recorded")).status[column]
    }

    /// What was taken out of the recording, or follows from what was: the id of the path, and the hash of the token.
    fn fill_in(&self, value: &mut Value, id: &str, bearer: &str) {
        match value {
            Value::String(text) if text.starts_with("ws_") && text.len() == id.len() => id.clone_into(text),
            Value::Array(list) => list.iter_mut().for_each(|one| self.fill_in(one, id, bearer)),
            Value::Object(map) => {
                for (key, one) in map {
                    if key == "tokenHash" {
                        *one = json!(hash(bearer));
                    }
                    self.fill_in(one, id, bearer);
                }
            }
            _ => {}
        }
    }
}

fn column_of(request: &Request, bearer: Option<&str>, made: &Made) -> String {
    let is_host = request.headers.get("x-openwork-host-token").is_some_and(|value| value == HOST);
    let name = match bearer {
        Some(CLIENT) if is_host => "client+host",
        Some(CLIENT) => "client",
        _ if is_host => "host",
        None => "none",
        Some(HOST) => "host-as-bearer",
        Some(other) => {
            return made
                .tokens
                .iter()
                .find(|(secret, ..)| secret == other)
                .map_or("wrong", |(_, column, _)| column)
                .to_owned();
        }
    };
    name.to_owned()
}

fn kind_of(path: &str) -> &'static str {
    if path.ends_with(".js") { "text/javascript" } else { "text/html; charset=utf-8" }
}

fn reply(status: u16, value: &Value) -> Reply {
    Reply::Send(format!("{status} Recorded\r\nContent-Type: application/json"), value.to_string().into_bytes())
}
