//! 1Password by a Connect server.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "support/onepassword/mod.rs"]
mod onepassword;
mod support;

use std::net::TcpStream;
use std::time::Duration;

use onepassword::connect::{Act, FakeConnect, Fault, TOKEN};
use onepassword::data;
use opsctl::config::Environment;
use opsctl::providers::onepassword::{Edit, Item, OnePassword};
use opsctl::secret::Secret;
use opsctl::{Error, ExitCode, Result};
use serde_json::{Value, json};
use support::TestDir;
use support::daemon::{Daemon, http, tool};

struct Bench {
    server: FakeConnect,
    vault: String,
    item: String,
    runtime: tokio::runtime::Runtime,
}

impl Bench {
    fn new() -> Self {
        let server = FakeConnect::start();
        let vault = server.vault("Team Vault");
        let item = server.item(&vault, "openwork", &[("token", "t1"), ("empty", "")]);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        Self { server, vault, item, runtime }
    }

    fn open(&self) -> OnePassword {
        open(&self.server.env())
    }

    fn get(&self, it: &OnePassword) -> Result<Item> {
        self.runtime.block_on(it.get(&self.vault, &self.item))
    }

    /// Gives the first field of the item another value.
    fn set(&self, it: &OnePassword, item: &Item, value: &str) -> Result<Item> {
        self.runtime.block_on(it.edit(item, &[set(item, value)]))
    }

    /// The value of the first field.
    fn stored(&self) -> Option<String> {
        self.server.value(&self.item, "token")
    }

    /// The requests since `count` of them, without the ids.
    fn since(&self, count: usize) -> String {
        let requests = self.server.requests().split_off(count);
        let shown = requests.iter().map(|(method, path)| format!("{method} {path}"));
        shown.collect::<Vec<_>>().join("\n").replace(&self.vault, "VAULT").replace(&self.item, "ITEM")
    }
}

fn open(variables: &[(&'static str, String)]) -> OnePassword {
    open_within(variables, Duration::from_secs(60))
}

fn open_within(variables: &[(&'static str, String)], limit: Duration) -> OnePassword {
    OnePassword::connect_within(&environment(variables), limit).unwrap()
}

fn environment(variables: &[(&'static str, String)]) -> Environment {
    Environment::fixed(variables.iter().map(|(name, value)| (*name, value.as_str())))
}

fn set(item: &Item, value: &str) -> Edit {
    Edit::Set { field: item.fields[0].id.clone(), value: Secret::new(value) }
}

fn value(item: &Item, label: &str) -> Option<String> {
    item.field(None, label).unwrap().value.as_ref().map(|value| value.expose().to_owned())
}

/// One of the requests with this method does not do well.
const fn once(method: &'static str, act: Act) -> Fault {
    Fault { method, late: false, act, after: 0, times: 1 }
}

const fn say(status: u16, message: &'static str) -> Act {
    Act::Say(status, message, Vec::new())
}

#[track_caller]
fn failure<T>(result: Result<T>) -> Error {
    let Err(error) = result else { panic!("this should have failed") };
    assert!(error.hint_text().is_some_and(|hint| !hint.is_empty()), "{error:?} does not say what to do");
    assert!(!format!("{error:?}").contains(TOKEN), "{error:?}");
    error
}

#[track_caller]
fn assert_failure<T>(result: Result<T>, code: ExitCode, wanted: &[&str]) {
    let error = failure(result);
    let said = format!("{} / {}", error.full_message(), error.hint_text().unwrap());
    assert_eq!(error.code(), code, "{said}");
    for text in wanted {
        assert!(said.contains(text), "{said}: does not say `{text}`");
    }
}

#[test]
fn items_are_listed_and_read_and_edited_with_the_requests_that_were_announced() {
    let bench = Bench::new();
    bench.server.item(&bench.server.vault("Another"), "elsewhere", &[]);
    let it = bench.open();
    for (name, wanted) in [
        ("TEAM vault", "GET /v1/vaults\nGET /v1/vaults/VAULT/items"),
        (bench.vault.as_str(), "GET /v1/vaults/VAULT/items"),
    ] {
        let before = bench.server.requests().len();
        let listed = bench.runtime.block_on(it.list(name)).unwrap();
        assert_eq!(listed.len(), 1, "of this vault alone");
        assert_eq!(
            (&listed[0].id, listed[0].title.as_str(), &listed[0].vault.id),
            (&bench.item, "openwork", &bench.vault)
        );
        assert_eq!(bench.since(before), wanted);
    }
    let before = bench.server.requests().len();
    let read = bench.get(&it).unwrap();
    assert_eq!(bench.since(before), "GET /v1/vaults/VAULT/items/ITEM");
    assert_eq!((read.version, read.category.as_str(), value(&read, "empty")), (1, "API_CREDENTIAL", None));
    assert_eq!(read.updated.unwrap().to_string(), "2026-01-02T03:04:05Z");
    let before = bench.server.requests().len();
    let edited = bench.set(&it, &read, "t2").unwrap();
    let path = "/v1/vaults/VAULT/items/ITEM";
    assert_eq!(bench.since(before), format!("GET {path}\nPUT {path}\nGET {path}"));
    assert_eq!(
        (edited.version, value(&edited, "token").as_deref(), bench.stored().as_deref()),
        (2, Some("t2"), Some("t2"))
    );
    assert_eq!(it.requests(), bench.server.requests().len() as u64);
    assert_eq!(it.budget(2, 10, 1), 4 + 10 + 3);
}

#[test]
fn values_are_exact_and_an_edit_changes_nothing_else() {
    let bench = Bench::new();
    let it = bench.open();
    let pem = "-----BEGIN PRIVATE KEY-----\r\nMC4CAQAw\n-----END PRIVATE KEY-----\n";
    bench.server.alter(&bench.item, |item| {
        item["sections"] = json!([{ "id": "s1", "label": "Part" }]);
        item["fields"][1] =
            json!({ "id": "x", "type": "TOTP", "label": " spaced ", "value": pem, "section": { "id": "s1" } });
        item["unknown"] = json!({ "deep": [1, 0.1, 18_446_744_073_709_551_615_u64, "ü\u{1}\\"] });
        item["state"] = Value::Null;
    });
    let mut wanted = bench.server.stored(&bench.item);
    let read = bench.get(&it).unwrap();
    assert_eq!(read.field(Some("part"), "x").unwrap().value.as_ref().unwrap().expose(), pem);
    let odd = " \u{1f511} \"${{x}}\" \\ \r\n\n";
    let edits = [set(&read, odd), Edit::Add { label: "previous".into(), value: Secret::new(pem) }];
    let edited = bench.runtime.block_on(it.edit(&read, &edits)).unwrap();
    assert_eq!((value(&edited, "token").as_deref(), value(&edited, "previous").as_deref()), (Some(odd), Some(pem)));
    wanted["version"] = 2.into();
    wanted["updatedAt"] = "2026-11-22T10:20:30Z".into();
    wanted["fields"][0]["value"] = odd.into();
    let id = &edited.field(None, "previous").unwrap().id;
    let fields = wanted["fields"].as_array_mut().unwrap();
    fields.push(json!({ "id": id, "type": "CONCEALED", "label": "previous", "value": pem }));
    assert_eq!(bench.server.stored(&bench.item), wanted);
}

#[test]
fn each_refusal_has_its_exit_code_and_a_next_step() {
    let bench = Bench::new();
    let it = bench.open();
    let read = bench.get(&it).unwrap();
    for (status, message, code) in [
        (401, "Invalid token signature", ExitCode::Denied),
        (403, "vault v is not in scope", ExitCode::Denied),
        (404, "item i not found", ExitCode::NotFound),
        (400, "Invalid Item UUID", ExitCode::Usage),
        (413, "too large", ExitCode::Usage),
        (429, "Too many requests", ExitCode::RateLimited),
        (302, "elsewhere", ExitCode::Usage),
    ] {
        for method in ["GET", "PUT"] {
            bench.server.fail(once(method, say(status, message)));
            let before = bench.server.requests().len();
            let done = if method == "GET" { bench.get(&it) } else { bench.set(&it, &read, "never") };
            let wanted: &[&str] = if status == 302 { &["redirects"] } else { &[message] };
            assert_failure(done, code, wanted);
            let asked = bench.server.requests().split_off(before);
            assert_eq!(asked.iter().filter(|(of, _)| of == method).count(), 1, "{status} is not asked again");
        }
    }
    bench.server.fail(once("GET", Act::Say(429, "slow down", vec![("retry-after", "17".into())])));
    assert_failure(bench.get(&it), ExitCode::RateLimited, &["again in 17 s"]);
    bench.server.fail(once("GET", Act::Say(307, "", vec![("location", "https://evil.example/x".into())])));
    assert_failure(bench.get(&it), ExitCode::Usage, &["evil.example", "no token is sent"]);
    assert_eq!(bench.stored().as_deref(), Some("t1"));
}

#[test]
fn what_is_missing_closed_or_called_alike_is_told() {
    let bench = Bench::new();
    let it = bench.open();
    let list = |vault: &str| bench.runtime.block_on(it.list(vault));
    assert_failure(list("Nowhere"), ExitCode::NotFound, &["Nowhere"]);
    assert_failure(list("v0000000000000000000000099"), ExitCode::NotFound, &["not found (404)"]);
    let closed = bench.server.vault("Closed");
    bench.server.close(&closed);
    assert_failure(list("Closed"), ExitCode::NotFound, &["Closed", "may not be seen"]);
    assert_failure(list(&closed), ExitCode::Denied, &["not in scope"]);
    let twin = bench.server.vault("team VAULT");
    assert_failure(list("Team Vault"), ExitCode::Usage, &[&bench.vault, &twin, "several vaults"]);
    assert!(list(&bench.vault).is_ok(), "by its id");
    for (vault, item) in [("../../health", bench.item.as_str()), (bench.vault.as_str(), "../items"), ("", "")] {
        let before = bench.server.requests().len();
        assert_failure(bench.runtime.block_on(it.get(vault, item)), ExitCode::Usage, &["ids"]);
        assert_eq!(bench.server.requests().len(), before);
    }
    let wrong = [("OP_CONNECT_HOST", bench.server.url()), ("OP_CONNECT_TOKEN", "wrong".to_owned())];
    assert_failure(bench.get(&open(&wrong)), ExitCode::Denied, &["Invalid token signature"]);
}

#[test]
fn what_only_reads_is_asked_three_times_and_what_writes_once() {
    let bench = Bench::new();
    let it = bench.open();
    for act in [say(500, "Something went wrong"), say(503, "starting"), Act::Cut] {
        bench.server.fail(Fault { times: 2, ..once("GET", act.clone()) });
        let read = bench.get(&it).unwrap();
        bench.server.fail(Fault { times: 3, ..once("GET", act.clone()) });
        assert_failure(bench.get(&it), ExitCode::Failed, &["Connect server"]);
        bench.server.fail(once("PUT", act));
        let before = bench.server.requests().len();
        assert_failure(bench.set(&it, &read, "never"), ExitCode::Failed, &["Connect server"]);
        let puts = bench.server.requests().split_off(before);
        assert_eq!(puts.iter().filter(|(method, _)| method == "PUT").count(), 1);
    }
    assert_eq!(bench.stored().as_deref(), Some("t1"));
    // One that was made counts, whatever became of the answer.
    for (number, act) in [say(500, "Something went wrong"), Act::Cut].into_iter().enumerate() {
        let read = bench.get(&it).unwrap();
        bench.server.fail(Fault { late: true, ..once("PUT", act) });
        let new = format!("new{number}");
        assert_eq!(value(&bench.set(&it, &read, &new).unwrap(), "token"), Some(new));
    }
    let hasty = open_within(&bench.server.env(), Duration::from_secs(2));
    bench.server.fail(Fault { times: 3, ..once("GET", Act::Hang) });
    assert_failure(bench.get(&hasty), ExitCode::Failed, &["no answer within 2 s"]);
    let (host, token) = ("http://127.0.0.1:1".to_owned(), TOKEN.to_owned());
    let nobody = open(&[("OP_CONNECT_HOST", host), ("OP_CONNECT_TOKEN", token)]);
    assert_failure(bench.get(&nobody), ExitCode::Failed, &["cannot be reached", "OP_CONNECT_HOST"]);
}

#[test]
fn an_answer_that_is_none_is_not_shown_and_not_asked_for_again() {
    let bench = Bench::new();
    let it = bench.open();
    bench.server.fail(once("GET", Act::Garbage));
    let error = failure(bench.get(&it));
    assert_eq!(error.code(), ExitCode::Failed);
    assert!(!format!("{error:?}").contains("html"), "{error:?}");
    bench.server.fail(once("GET", Act::Large));
    assert_failure(bench.get(&it), ExitCode::Usage, &["16 MiB"]);
    assert!(bench.get(&it).is_ok());
}

#[test]
fn an_edit_of_somebody_else_is_never_lost() {
    let bench = Bench::new();
    let it = bench.open();
    let read = bench.get(&it).unwrap();
    bench.server.set(&bench.item, "empty", "o2");
    assert_failure(bench.set(&it, &read, "t2"), ExitCode::Busy, &["somebody else", "version 1", "version 2"]);
    assert_eq!(bench.stored().as_deref(), Some("t1"));
    let read = bench.get(&it).unwrap();
    bench.server.fail(once("PUT", Act::Meddle));
    assert_failure(bench.set(&it, &read, "t2"), ExitCode::Busy, &["version 2", "version 4"]);
    let read = bench.get(&it).unwrap();
    bench.server.fail(Fault { times: 3, ..once("PUT", say(409, "Conflict")) });
    assert_eq!(value(&bench.set(&it, &read, "t3").unwrap(), "token").as_deref(), Some("t3"));
    // What an edit could damage is not asked for.
    bench.server.alter(&bench.item, |item| item["files"] = json!([{ "id": "x", "name": "key.pem", "size": 3 }]));
    let read = bench.get(&it).unwrap();
    let before = bench.server.requests().len();
    assert_failure(bench.set(&it, &read, "never"), ExitCode::Usage, &["files", "item of its own"]);
    assert_eq!(bench.server.requests().len(), before);
}

#[test]
fn a_token_does_not_cross_an_open_network_in_clear() {
    let connect = |host: &str| {
        let (host, token) = (host.to_owned(), TOKEN.to_owned());
        OnePassword::connect(&environment(&[("OP_CONNECT_HOST", host), ("OP_CONNECT_TOKEN", token)]))
    };
    for host in [
        "https://connect.example",
        "http://localhost:8080",
        "http://[::1]:1",
        "http://127.0.0.2",
        "http://connect-api:8080",
    ] {
        assert!(connect(host).is_ok(), "{host}");
    }
    assert!(connect("http://connect.railway.internal:8080/base/").is_ok());
    for host in [
        "http://connect.example",
        "http://10.0.0.1",
        "http://[fd12::1]",
        "http://railway.internal.example",
        "http://8.8.8.8",
    ] {
        assert_failure(connect(host), ExitCode::Usage, &["without encryption", "https://"]);
    }
    for host in ["connect:8080", "ftp://h", "https://me:hunter2@h", "https://h/?hunter2"] {
        let error = connect(host).err().unwrap();
        assert!(error.code() == ExitCode::Usage && !format!("{error:?}").contains("hunter2"), "{error:?}");
    }
    for (set, missing) in [("OP_CONNECT_HOST", "OP_CONNECT_TOKEN"), ("OP_CONNECT_TOKEN", "OP_CONNECT_HOST")] {
        let alone = environment(&[(set, "http://127.0.0.1:1".to_owned())]);
        assert_failure(OnePassword::connect(&alone), ExitCode::Usage, &[missing]);
    }
    let two_lines =
        [("OP_CONNECT_HOST", "http://127.0.0.1:1".to_owned()), ("OP_CONNECT_TOKEN", "hunter2\nx".to_owned())];
    let error = failure(OnePassword::connect(&environment(&two_lines)));
    assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
}

/// Prism between the two: it answers with an error where a request or an answer is not as the document of the interface says.
struct Prism {
    process: Daemon,
    url: String,
    _dir: TestDir,
}

impl Prism {
    fn start(document: &str, server: &FakeConnect) -> Self {
        let program = tool("prism/node_modules/@stoplight/prism-cli/dist/index.js");
        let dir = TestDir::new();
        let document = dir.write("connect.yaml", document);
        let mut command = Daemon::command("node".as_ref(), &dir);
        command.arg(program).args(["proxy", "--errors", "--host", "127.0.0.1", "--port", "0"]);
        command.arg(document).arg(server.url());
        let mut process = Daemon::start("Prism", command, &dir);
        let port = process.port_after("Prism is listening on ", Duration::from_secs(120));
        Self { process, url: format!("http://127.0.0.1:{port}"), _dir: dir }
    }
}

/// The document as the server keeps to it: below `/v1`, with the types of field that exist.
fn corrected(document: &str) -> String {
    document
        .replace("\n  /vaults", "\n  /v1/vaults")
        .replace("url: http://localhost:8080/v1", "url: http://localhost:8080")
}

#[test]
fn both_sides_keep_to_the_document_of_the_interface() {
    let bench = Bench::new();
    let document = data::recorded("connect-openapi.yaml", "Connect against the document of its interface");
    let prism = document.map(|file| Prism::start(&corrected(&std::fs::read_to_string(file).unwrap()), &bench.server));
    let url = prism.as_ref().map_or_else(|| bench.server.url(), |prism| prism.url.clone());
    let it = open(&[("OP_CONNECT_HOST", url.clone()), ("OP_CONNECT_TOKEN", TOKEN.to_owned())]);
    let explain = |error: &Error| {
        let log = prism.as_ref().map(|prism| prism.process.log_tail());
        format!("{}: {}", error.full_message(), log.unwrap_or_default())
    };
    assert_eq!(
        bench.runtime.block_on(it.list("Team Vault")).unwrap_or_else(|error| panic!("{}", explain(&error))).len(),
        1
    );
    let mut read = bench.get(&it).unwrap_or_else(|error| panic!("{}", explain(&error)));
    for edits in [
        vec![set(&read, "t2\n"), Edit::Add { label: "previous".into(), value: Secret::new("t1") }],
        vec![Edit::Remove { field: read.fields[1].id.clone() }],
    ] {
        read = bench.runtime.block_on(it.edit(&read, &edits)).unwrap_or_else(|error| panic!("{}", explain(&error)));
    }
    assert_eq!((read.version, bench.stored().as_deref()), (3, Some("t2\n")));
    let missing = "i0000000000000000000000099";
    assert_failure(bench.runtime.block_on(it.get(&bench.vault, missing)), ExitCode::NotFound, &["not found (404)"]);
    let wrong = open(&[("OP_CONNECT_HOST", url), ("OP_CONNECT_TOKEN", "wrong".to_owned())]);
    assert_failure(bench.get(&wrong), ExitCode::Denied, &["Invalid token signature"]);
    if let Some(prism) = &prism {
        // It does look: a request that the document does not know does not come through, and neither does an answer.
        let (before, headers) = (bench.server.requests().len(), ["Authorization", "Content-Type"]);
        let headers: Vec<_> =
            headers.into_iter().zip([format!("Bearer {TOKEN}"), "application/json".to_owned()]).collect();
        let host = prism.url.trim_start_matches("http://");
        let (path, body) = (format!("/v1/vaults/{}/items/{}", bench.vault, bench.item), br#"{"category":"NONE"}"#);
        let answered = http(TcpStream::connect(host).unwrap(), host, "PUT", &path, &headers, body).unwrap();
        assert_eq!((answered, bench.server.requests().len()), (422, before));
        bench.server.alter(&bench.item, |item| item["favorite"] = "yes".into());
        assert_failure(bench.get(&it), ExitCode::Failed, &[]);
    }
}
