//! The stand-in of openwork-server and the profile against what is known of the real ones: a table of who is answered what, and the
//! recordings where they are at hand; and what the stand-in keeps.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, in its helpers too"
)]

mod support;

#[path = "support/openwork/mod.rs"]
mod openwork;
#[path = "support/stub_store.rs"]
mod stub_store;

use std::collections::BTreeMap;
use std::path::Path;

use openwork::recorded::{Recording, Replay, Row, WORKSPACE, json_of, recordings};
use openwork::table::{WHO, table};
use openwork::{CLIENT, Engine, HOST, HOST_HEADER, OpenWork, Setup, VERSIONS, Version, multipart, workspace_id};
use opsctl::config::Profile;
use opsctl::config::profile::AuthRow;
use serde_json::{Value, json};
use support::TestDir;
use support::ask::{Answer, ask, try_ask};

const ENGINE: &str = "1.17.11";

/// Who asks, by the name of the column.
fn headers(who: &str, scoped: &BTreeMap<&str, String>) -> Vec<(String, String)> {
    let bearer = |token: &str| vec![("Authorization".to_owned(), format!("Bearer {token}"))];
    let host = (HOST_HEADER.to_owned(), HOST.to_owned());
    match who {
        "none" => Vec::new(),
        "wrong" => bearer("wrong-token"),
        "client" => bearer(CLIENT),
        "host" => vec![host],
        "host-as-bearer" => bearer(HOST),
        "client+host" => [bearer(CLIENT), vec![host]].concat(),
        scoped_token => bearer(&scoped[scoped_token]),
    }
}

fn asked(url: &str, method: &str, path: &str, headers: &[(String, String)]) -> Answer {
    let json = |body: Value| ("application/json".to_owned(), body.to_string());
    let (kind, body) = match method {
        "POST" if path.ends_with("/inbox") => multipart("probe.txt", "hello inbox"),
        "POST" if path == "/tokens" => json(json!({ "scope": "viewer", "label": "tmp" })),
        "POST" => json(json!({ "title": "probe" })),
        _ => Default::default(),
    };
    let mut all: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    if !kind.is_empty() {
        all.push(("Content-Type", &kind));
    }
    ask(method, &format!("{url}{path}"), &all, body.as_bytes())
}

/// A token of each scope.
fn of_each_scope(it: &OpenWork) -> BTreeMap<&'static str, String> {
    ["owner", "collaborator", "viewer"].map(|scope| (scope, it.mint(scope, &format!("probe-{scope}")).secret)).into()
}

// ---- who is answered what ----

#[test]
fn the_stand_in_answers_every_row_of_the_table() {
    let table = table();
    assert_eq!(table.len(), 35 * VERSIONS.len());
    for version in VERSIONS {
        let dir = TestDir::new();
        let it = boot(version, &dir);
        let scoped = of_each_scope(&it);
        let mut wrong = Vec::new();
        for known in table.iter().filter(|known| known.version == version) {
            for who in WHO {
                let session = if known.path.ends_with("{new}") { made(&it) } else { "ses_seed".to_owned() };
                let path = known.request(&it.workspace_id(), &session);
                let status = asked(&it.url(), known.method, &path, &headers(who, &scoped)).status;
                if status != known.status_of(who) {
                    wrong.push(format!("{known:?} {who}: {status}"));
                }
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}

#[test]
fn the_table_is_what_was_recorded() {
    let table = table();
    for recording in recordings() {
        assert_eq!(recording.columns, WHO);
        let known: Vec<_> = table.iter().filter(|known| known.version == recording.version).collect();
        let of_table: Vec<_> = known.iter().map(|k| (k.method, k.request(":id", ":sid"), k.status.to_vec())).collect();
        let recorded = |row: &Row| (row.path.replace("NEW", ":sid"), row.status.clone());
        let recorded: Vec<_> =
            recording.rows.iter().map(|row| (row.method.as_str(), recorded(row).0, recorded(row).1)).collect();
        assert_eq!(of_table, recorded, "{:?}", recording.version);
    }
}

/// Rows of the profile that no table has, and what is known of them instead.
const BESIDE: [(&str, &str); 3] = [
    ("GET /env/keys", "answered as /env is, without the values"),
    ("DELETE /tokens/none", "a token is removed by whoever may list them"),
    ("POST /approvals/none", "a request is approved by whoever may list them"),
];

/// What the profile does not ask, and why not.
const NOT_ASKED: [(&str, &[&str], &str); 2] = [
    (
        "GET /w/{id}/opencode/session/{session}",
        &["client", "owner", "collaborator", "viewer"],
        "the check `sessions` reads one that is there",
    ),
    ("GET /env", &["host"], "the values are secrets of the users"),
];

/// Rows of the profile, as the table names its end points: two names where it has two of that form.
fn rows_of_the_profile() -> Vec<([String; 2], AuthRow)> {
    let profile = Profile::load("openwork").unwrap();
    let name = |row: &AuthRow, session: &str| {
        let path = row.path.split('?').next().unwrap().replace("{workspace}", "{id}").replace("ses_none", session);
        format!("{} {path}", row.method.as_str())
    };
    let rows = profile.services[0].auth.iter();
    rows.map(|row| (["{session}", "{new}"].map(|session| name(row, session)), row.clone())).collect()
}

#[test]
fn every_answer_of_the_profile_is_the_one_of_all_three_servers() {
    let table = table();
    for (names, row) in rows_of_the_profile() {
        let known: Vec<_> =
            table.iter().filter(|known| names.contains(&format!("{} {}", known.method, known.path))).collect();
        assert_eq!(known.is_empty(), BESIDE.iter().any(|(name, _)| names.contains(&(*name).to_owned())), "{names:?}");
        for (known, (who, right)) in known.iter().flat_map(|known| row.answers.iter().map(move |one| (known, one))) {
            let status = known.status_of(who);
            let is_right = right.contains(&status) || (row.optional && status == 404);
            assert!(is_right, "{known:?} answers {who} with {status}, and the profile says {right:?}");
        }
    }
}

#[test]
fn no_protected_end_point_of_the_table_is_missing_in_the_profile_without_a_reason() {
    let rows = rows_of_the_profile();
    for known in table().iter().filter(|known| known.is_protected()) {
        let name = format!("{} {}", known.method, known.path);
        let (_, row) =
            rows.iter().find(|(names, _)| names.contains(&name)).unwrap_or_else(|| panic!("{name} is missing"));
        // Nobody has both tokens in one request.
        for who in WHO.into_iter().filter(|who| *who != "client+host") {
            let is_excused = NOT_ASKED.iter().any(|(excused, whom, _)| *excused == name && whom.contains(&who));
            assert_ne!(row.answers.contains_key(who), is_excused, "{name} as {who}");
        }
    }
}

// ---- the bodies, where they are at hand ----

/// What two values differ in but for what they say: `extra` allows what `want`, which was cut, does not have.
fn misshapen(want: &Value, got: &Value, extra: bool, at: &str) -> Vec<String> {
    match (want, got) {
        (Value::Object(want), Value::Object(got)) => {
            let missing = want.keys().filter(|key| !got.contains_key(*key)).map(|key| format!("{at}/{key} is missing"));
            let more =
                got.keys().filter(|key| !extra && !want.contains_key(*key)).map(|key| format!("{at}/{key} is extra"));
            let inner = want
                .iter()
                .filter_map(|(key, value)| Some(misshapen(value, got.get(key)?, extra, &format!("{at}/{key}"))));
            missing.chain(more).chain(inner.flatten()).collect()
        }
        (Value::Array(want), Value::Array(got)) => {
            let pairs = want.iter().zip(got).enumerate();
            pairs.flat_map(|(n, (want, got))| misshapen(want, got, extra, &format!("{at}/{n}"))).collect()
        }
        _ if std::mem::discriminant(want) == std::mem::discriminant(got) => Vec::new(),
        _ => vec![format!("{at}: {want} and not {got}")],
    }
}

/// Where [`misshapen`] finds values of the engine's own configuration, which these tests do not have.
const OF_THE_ENGINE: &str = "/opencode/";

#[test]
fn the_stand_in_answers_with_bodies_in_the_shape_of_the_recorded_ones() {
    for recording in recordings() {
        let dir = TestDir::new();
        let data = dir.mkdir("data");
        let workspace = data.join("workspace");
        let it = OpenWork::boot(recording.version, &data, Engine::memory(ENGINE, &workspace, &["ses_seed".to_owned()]));
        let scoped = of_each_scope(&it);
        let mut wrong = Vec::new();
        for row in &recording.rows {
            for (at, column) in recording.columns.iter().enumerate() {
                let session = if row.path.ends_with("NEW") { made(&it) } else { "ses_seed".to_owned() };
                let path = row.request(&it.workspace_id(), &session);
                let answer = asked(&it.url(), &row.method, &path, &headers(column, &scoped));
                let place = format!("{} {} {} {column}", recording.version.name(), row.method, row.path);
                if answer.status != row.status[at] {
                    wrong.push(format!("{place}: {} and not {}", answer.status, row.status[at]));
                    continue;
                }
                // Which session of a real engine has what is the engine's business.
                let is_engine = row.path.contains("/session") && answer.status == 200;
                let Some((want, is_whole)) = json_of(row.body[at].as_deref().unwrap()) else { continue };
                let mut shape = misshapen(&want, &answer.json(), !is_whole || is_engine, "");
                shape.retain(|line| !is_engine && !line.starts_with(OF_THE_ENGINE));
                if answer.status >= 400 && want != answer.json() {
                    shape.push(format!("{want} and not {}", answer.json()));
                }
                wrong.extend(shape.into_iter().map(|line| format!("{place}: {line}")));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        assert_eq!(recording.rows.len() * recording.columns.len(), 35 * 9, "all of them were asked");
    }
}

/// A session that is there to be removed.
fn made(it: &OpenWork) -> String {
    let path = format!("/w/{}/opencode/session", it.workspace_id());
    let made = it.ask("POST", &path, &[("Authorization", &format!("Bearer {CLIENT}"))], b"{}").is(200);
    made.json()["id"].as_str().unwrap().to_owned()
}

#[test]
fn the_replay_answers_every_row_as_it_was_recorded() {
    for recording in recordings() {
        let it = Replay::start(&recording);
        let id = workspace_id(Path::new(WORKSPACE));
        let mint = |scope: &str| {
            let body = json!({ "scope": scope, "label": "x" }).to_string();
            let made =
                ask("POST", &format!("{}/tokens", it.url()), &[(HOST_HEADER, HOST)], body.as_bytes()).is(201).json();
            assert_eq!(made["scope"], scope);
            made["token"].as_str().unwrap().to_owned()
        };
        let scoped =
            [("owner", mint("owner")), ("collaborator", mint("collaborator")), ("viewer", mint("viewer"))].into();
        let seed = seed_of(&recording);
        for row in &recording.rows {
            for (at, column) in recording.columns.iter().enumerate() {
                let answer = asked(&it.url(), &row.method, &row.request(&id, &seed), &headers(column, &scoped));
                assert_eq!(answer.status, row.status[at], "{} {} {column}", row.method, row.path);
            }
        }
        let client = headers("client", &scoped);
        let client: Vec<(&str, &str)> = client.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let listed = ask("GET", &format!("{}/workspaces", it.url()), &client, b"").json();
        assert_eq!((&listed["items"][0]["id"], &listed["items"][0]["path"]), (&json!(id), &json!(WORKSPACE)));
        let who = ask("GET", &format!("{}/whoami", it.url()), &client, b"").json();
        assert_eq!(who["actor"]["tokenHash"], openwork::hash(CLIENT));
    }
}

fn seed_of(recording: &Recording) -> String {
    let row = recording.rows.iter().find(|row| row.path.ends_with(":sid")).unwrap();
    let (session, _) = json_of(row.body[recording.column("client")].as_deref().unwrap()).unwrap();
    session["id"].as_str().unwrap().to_owned()
}

#[test]
fn tokens_last_over_a_boot_and_the_orchestrator_adds_one() {
    for version in VERSIONS {
        let dir = TestDir::new();
        let it = boot(version, &dir);
        let viewer = it.mint("viewer", "of a person");
        let before = tokens(&it);
        it.reboot(None);
        it.ask("GET", "/whoami", &[("Authorization", &format!("Bearer {}", viewer.secret))], b"").is(200);
        let after = tokens(&it);
        assert!(before.iter().all(|id| after.contains(id)));
        assert_eq!(after.len() - before.len(), usize::from(version == Version::V0_18_1));
        let file = std::fs::read_to_string(it.tokens_file()).unwrap();
        assert!(file.contains(&openwork::hash(&viewer.secret)) && !file.contains(&viewer.secret));
    }
}

#[test]
fn a_command_boots_it_again() {
    let dir = TestDir::new();
    let it = boot(Version::V0_18_1, &dir);
    let before = tokens(&it).len();
    assert!(std::process::Command::new("sh").args(["-c", &it.restart_command()]).status().unwrap().success());
    assert_eq!((tokens(&it).len(), tokens(&it).len()), (before + 1, before + 1));
    assert!(it.seen().contains(&"GET /tokens host".to_owned()));
}

#[test]
fn a_truncated_file_of_tokens_is_an_empty_list_and_the_next_token_writes_over_it() {
    let dir = TestDir::new();
    let it = boot(Version::V0_18_16, &dir);
    let owner = it.mint("owner", "of a person");
    let whole = std::fs::read(it.tokens_file()).unwrap();
    std::fs::write(it.tokens_file(), &whole[..whole.len() / 2]).unwrap();
    it.reboot(None);
    assert_eq!(tokens(&it), [] as [String; 0]);
    it.ask("GET", "/tokens", &[("Authorization", &format!("Bearer {}", owner.secret))], b"").is(401);
    assert_eq!(std::fs::read(it.tokens_file()).unwrap().len(), whole.len() / 2);
    it.mint("viewer", "another");
    assert_eq!(tokens(&it).len(), 1);
}

#[test]
fn another_path_is_another_workspace_and_old_roots_forbid_it() {
    let dir = TestDir::new();
    let data = dir.mkdir("data");
    let old = dir.join("old/workspace");
    let config = json!({ "workspaces": [{ "path": old }], "authorizedRoots": [old] }).to_string();
    dir.write("data/openwork-server/server.json", &config);
    let it = boot(Version::V0_18_16, &dir);
    assert_eq!(it.get("/workspaces")["items"][0]["id"], it.workspace_id());
    let client = format!("Bearer {CLIENT}");
    let client = [("Authorization", client.as_str())];
    for path in ["config", "audit", "sessions", "opencode/session"] {
        let answer = it.ask("GET", &format!("/workspace/{}/{path}", it.workspace_id()), &client, b"").is(403);
        assert_eq!(answer.json()["code"], "workspace_unauthorized");
    }
    // Without --workspace the file says which there are; broken, it says that there are none.
    let engine = Engine::memory(ENGINE, &old, &[]);
    let setup = Setup { version: Version::V0_18_16, data, names_workspace: false, engine };
    let it = OpenWork::boot_as(setup);
    assert_eq!(it.get("/workspaces")["items"][0]["id"], workspace_id(&old));
    dir.write("data/openwork-server/server.json", &config[..config.len() / 2]);
    it.reboot(None);
    assert_eq!(it.get("/workspaces")["items"], json!([]));
    it.ask("GET", "/health", &[], b"").is(200);
}

#[test]
fn the_audit_log_is_a_file_that_is_told_newest_first() {
    let dir = TestDir::new();
    let it = boot(Version::V0_11_135, &dir);
    ["a", "b", "c"].iter().for_each(|name| it.upload(name, "hello"));
    let items = it.get(&format!("/workspace/{}/audit?limit=2", it.workspace_id()))["items"].clone();
    let targets: Vec<&Value> = items.as_array().unwrap().iter().map(|item| &item["target"]).collect();
    assert_eq!(targets, ["c", "b"]);
    let log = dir.join(format!("data/openwork-orchestrator/audit/{}.jsonl", it.workspace_id()));
    assert_eq!(std::fs::read_to_string(log).unwrap().lines().count(), 3);
    assert_eq!(std::fs::read(it.workspace().join(".opencode/openwork/inbox/b")).unwrap(), b"hello");
}

#[test]
fn each_switch_breaks_what_it_says() {
    let dir = TestDir::new();
    let it = boot(Version::V0_18_16, &dir);
    let bearer = format!("Bearer {CLIENT}");
    let client = [("Authorization", bearer.as_str())];
    let list = format!("/w/{}/opencode/session", it.workspace_id());

    it.fault(|faults| faults.open = true);
    it.ask("GET", "/workspaces", &[], b"").is(200);
    it.fault(|faults| *faults = openwork::Faults { ui_disabled: true, ..Default::default() });
    assert_eq!(it.ask("GET", "/ui", &[], b"").is(404).json()["code"], "ui_disabled");
    it.fault(|faults| *faults = openwork::Faults { session_list_fails: true, ..Default::default() });
    assert_eq!(it.ask("GET", &list, &client, b"").is(500).json()["name"], "ConfigInvalidError");
    it.ask("GET", "/opencode/global/health", &client, b"").is(200);
    it.fault(|faults| *faults = openwork::Faults { engine_dead: true, ..Default::default() });
    assert_eq!(it.ask("GET", &list, &client, b"").is(500).json()["code"], "internal_error");
    it.ask("GET", "/health", &[], b"").is(200);
    it.fault(|faults| *faults = openwork::Faults { read_only: true, ..Default::default() });
    it.ask("POST", "/tokens", &[(HOST_HEADER, HOST)], br#"{"scope":"viewer"}"#).is(403);
    it.ask("POST", &list, &client, b"{}").is(200);
    it.fault(|faults| *faults = openwork::Faults { drift: true, ..Default::default() });
    it.ask("GET", "/tokens", &client, b"").is(200);
    it.fault(|faults| *faults = openwork::Faults { redirect: Some("http://127.0.0.1:9".into()), ..Default::default() });
    it.ask("GET", "/health", &client, b"").is(302);
    it.fault(|faults| *faults = openwork::Faults { booting: 2, ..Default::default() });
    let health = || try_ask("GET", &format!("{}/health", it.url()), &[], b"").is_ok();
    // A client may have asked twice when the connection was closed on it.
    assert!(!health() && (0..3).any(|_| health()));
    it.fault(|faults| *faults = openwork::Faults { slow: Some("/health".into()), ..Default::default() });
    it.gate.open(1 << 20);
    it.ask("GET", "/health", &[], b"").is(200);
}

#[test]
fn a_list_of_sessions_ends_at_a_hundred_unless_more_are_asked_for() {
    let dir = TestDir::new();
    let data = dir.mkdir("data");
    let ids: Vec<String> = (0..130).map(|n| format!("ses_{n:03}")).collect();
    let it = OpenWork::boot(Version::V0_18_1, &data, Engine::memory(ENGINE, &data.join("workspace"), &ids));
    let listed = |path: &str| it.get(path).as_array().unwrap().len();
    assert_eq!((listed("/opencode/session"), listed("/opencode/session?limit=1000")), (100, 130));
    assert_eq!(it.sessions(), ids);
}

fn boot(version: Version, dir: &TestDir) -> OpenWork {
    let data = dir.mkdir("data");
    OpenWork::boot(version, &data, Engine::memory(ENGINE, &data.join("workspace"), &["ses_seed".to_owned()]))
}

/// The ids that the host is told.
fn tokens(it: &OpenWork) -> Vec<String> {
    let listed = it.ask("GET", "/tokens", &[(HOST_HEADER, HOST)], b"").is(200).json();
    listed["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
}
