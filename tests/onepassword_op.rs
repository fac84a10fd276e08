//! 1Password by the `op` command.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "support/onepassword/mod.rs"]
mod onepassword;
mod support;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use onepassword::{Act, FakeOp, Fault, TOKEN, When};
use opsctl::cancel::Cancel;
use opsctl::config::Environment;
use opsctl::providers::onepassword::{Edit, Item, OnePassword};
use opsctl::secret::Secret;
use opsctl::{Error, ExitCode, Result};
use support::{TestDir, wait_for};

const VAULT: &str = "Team Vault";

struct Bench {
    op: FakeOp,
    vault: String,
    runtime: tokio::runtime::Runtime,
    variables: Vec<(&'static str, String)>,
    _dir: TestDir,
}

impl Bench {
    fn new() -> Self {
        let dir = TestDir::new();
        let op = FakeOp::start(&dir.join("op"));
        let vault = op.vault(VAULT);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let mut variables = op.env();
        variables.push(("PATH", std::env::var("PATH").unwrap()));
        Self { op, vault, runtime, variables, _dir: dir }
    }

    fn environment(&self) -> Environment {
        Environment::fixed(self.variables.iter().map(|(name, value)| (*name, value.as_str())))
    }

    fn open(&self) -> Result<OnePassword> {
        self.runtime.block_on(OnePassword::command(&self.environment(), &Cancel::default()))
    }

    /// Opens it with a time limit for each call that no healthy one needs.
    fn open_within(&self, limit: Duration) -> OnePassword {
        self.runtime.block_on(OnePassword::command_within(&self.environment(), &Cancel::default(), limit)).unwrap()
    }

    fn get(&self, it: &OnePassword, item: &str) -> Result<Item> {
        self.runtime.block_on(it.get(&self.vault, item))
    }

    /// Gives the first field of an item another value.
    fn set(&self, it: &OnePassword, item: &Item, value: &str) -> Result<Item> {
        self.runtime.block_on(it.edit(item, &[set(item, value)]))
    }
}

fn set(item: &Item, value: &str) -> Edit {
    Edit::Set { field: item.fields[0].id.clone(), value: Secret::new(value) }
}

fn value(item: &Item, label: &str) -> Option<String> {
    item.field(None, label).unwrap().value.as_ref().map(|value| value.expose().to_owned())
}

/// The failure, with a hint in all cases.
#[track_caller]
fn failure<T>(result: Result<T>) -> Error {
    let Err(error) = result else { panic!("this should have failed") };
    assert!(error.hint_text().is_some_and(|hint| !hint.is_empty()), "{error:?} does not say what to do");
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

/// Values that a line-wise or trimming reader would spoil.
const EXACT: [&str; 7] = [
    "plain",
    " spaces at both ends ",
    "ends in a line feed\n",
    "\n\nlines\r\nof\r\nWindows\r\n",
    "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIA==\n-----END PRIVATE KEY-----\n",
    "Schlüssel \u{1f511} \u{200b} \"quoted\" \\ back $HOME ${{x}} %41",
    "tab\tand \u{1} control",
];

#[test]
fn items_are_listed_and_read_by_their_ids_and_each_request_is_counted() {
    let bench = Bench::new();
    let item = bench.op.item(&bench.vault, "openwork", &[("client-token", "t1"), ("empty", "")]);
    bench.op.item(&bench.op.vault("Another"), "elsewhere", &[]);
    let it = bench.open().unwrap();
    for (name, cost) in [("team vault", 3), (bench.vault.as_str(), 2)] {
        let before = it.requests();
        let listed = bench.runtime.block_on(it.list(name)).unwrap();
        assert_eq!(listed.len(), 1, "of this vault alone");
        assert_eq!((listed[0].id.as_str(), listed[0].title.as_str()), (item.as_str(), "openwork"));
        assert_eq!((listed[0].vault.id.as_str(), listed[0].vault.name.as_str()), (bench.vault.as_str(), VAULT));
        assert_eq!(it.requests() - before, cost);
    }
    let read = bench.get(&it, &item).unwrap();
    assert_eq!((read.version, read.category.as_str(), read.title.as_str()), (1, "API_CREDENTIAL", "openwork"));
    assert_eq!(read.updated.unwrap().to_string(), "2026-01-02T03:04:05Z");
    assert_eq!(value(&read, "Client-Token").as_deref(), Some("t1"), "labels in any case");
    assert_eq!(value(&read, "empty"), None);
    assert_eq!(it.requests(), bench.op.requests());
    assert!(!format!("{read:?}").contains("t1"), "{read:?}");
    let before = it.requests();
    bench.set(&it, &read, "t2").unwrap();
    assert_eq!(it.requests() - before, it.budget(0, 0, 1));
    assert_eq!(it.requests(), bench.op.requests(), "as the service account is charged");
    assert_eq!(it.budget(2, 10, 1), 6 + 10 + 7);
}

#[test]
fn values_are_exact_when_they_are_read_and_when_they_are_written() {
    let bench = Bench::new();
    let it = bench.open().unwrap();
    for text in EXACT {
        let item = bench.op.item(&bench.vault, "exact", &[("one", text), ("two", text)]);
        let read = bench.get(&it, &item).unwrap();
        assert_eq!(value(&read, "one").as_deref(), Some(text));
        let turned: String = text.chars().rev().collect();
        let edited = bench.set(&it, &read, &turned).unwrap();
        assert_eq!((value(&edited, "one"), value(&edited, "two")), (Some(turned.clone()), Some(text.to_owned())));
        assert_eq!(bench.op.value(&item, "one"), Some(turned));
    }
}

#[test]
fn an_edit_changes_what_is_asked_for_and_nothing_else() {
    let bench = Bench::new();
    let item = bench.op.item(&bench.vault, "openwork", &[("token", "old"), ("other", "stays\n"), ("gone", "x")]);
    bench.op.alter(&item, |item| {
        item["sections"] = serde_json::json!([{ "id": "add more" }, { "id": "s1", "label": "Extra" }]);
        item["fields"][1]["section"] = serde_json::json!({ "id": "s1", "label": "Extra" });
        item["fields"][1]["password_details"] = serde_json::json!({ "strength": "FANTASTIC", "entropy": 1.5e300 });
        item["unknown"] =
            serde_json::json!({ "deep": [1, -2, 18_446_744_073_709_551_615_u64, 0.1, "ü\u{1}", null, true] });
        item["urls"] = serde_json::json!([{ "label": "x", "primary": true, "href": "https://example.com" }]);
    });
    let before = bench.op.stored(&item);
    let it = bench.open().unwrap();
    let read = bench.get(&it, &item).unwrap();
    assert_eq!(read.sections, [("add more".into(), String::new()), ("s1".into(), "Extra".into())]);
    let edits = [
        set(&read, "new"),
        Edit::Add { label: "previous".into(), value: Secret::new("old") },
        Edit::Remove { field: read.field(None, "gone").unwrap().id.clone() },
    ];
    let edited = bench.runtime.block_on(it.edit(&read, &edits)).unwrap();
    assert_eq!(edited.version, 2);
    assert_eq!((value(&edited, "token").as_deref(), value(&edited, "previous").as_deref()), (Some("new"), Some("old")));
    let mut wanted = before;
    wanted["version"] = 2.into();
    wanted["updated_at"] = "2026-11-22T10:20:30Z".into();
    wanted["fields"][0]["value"] = "new".into();
    let id = &edited.field(None, "previous").unwrap().id;
    wanted["fields"][2] = serde_json::json!({ "id": id, "type": "CONCEALED", "label": "previous", "value": "old" });
    assert_eq!(bench.op.stored(&item), wanted);
    let removed = Edit::Remove { field: "nowhere".into() };
    assert_failure(bench.runtime.block_on(it.edit(&edited, &[removed])), ExitCode::NotFound, &["nowhere"]);
    assert_eq!(bench.op.stored(&item), wanted);
}

#[test]
fn the_child_gets_nothing_but_what_it_needs() {
    let mut bench = Bench::new();
    let hostile = [
        ("OP_CONNECT_HOST", "http://127.0.0.1:1"),
        ("OP_CONNECT_TOKEN", "connect-canary"),
        ("OP_SESSION_abc", "session-canary"),
        ("OP_ACCOUNT", "account"),
        ("OP_DEVICE", "device"),
        ("OP_DEBUG", "true"),
        ("OP_FORMAT", "human-readable"),
        ("OPSCTL_IDENTITY", "identity-canary"),
        ("RAILWAY_TOKEN", "railway-canary"),
        ("AWS_SECRET_ACCESS_KEY", "aws-canary"),
        ("HOME", "/nonexistent"),
        ("HTTPS_PROXY", "http://proxy.invalid:3128"),
    ];
    bench.variables.extend(hostile.map(|(name, value)| (name, value.to_owned())));
    let item = bench.op.item(&bench.vault, "openwork", &[("token", "value-canary-old")]);
    let it = bench.open().unwrap();
    bench.runtime.block_on(it.list(VAULT)).unwrap();
    let read = bench.get(&it, &item).unwrap();
    bench.set(&it, &read, "value-canary-new").unwrap();
    let calls = bench.op.calls();
    let verbs: Vec<&str> = calls.iter().map(onepassword::Call::verb).collect();
    assert_eq!(verbs, ["--version", "list", "get", "get", "edit", "get"]);
    for call in &calls {
        let names: BTreeSet<&str> = call.env.keys().map(String::as_str).collect();
        let is_version = call.verb() == "--version";
        let mut wanted = BTreeSet::from(["HOME", "PATH", "HTTPS_PROXY"]);
        if !is_version {
            wanted.extend(["OP_SERVICE_ACCOUNT_TOKEN", "OP_CACHE"]);
            wanted.extend(["OP_INTEGRATION_NAME", "OP_INTEGRATION_ID", "OP_INTEGRATION_BUILDNUMBER"]);
            assert_eq!(call.env["OP_SERVICE_ACCOUNT_TOKEN"], TOKEN);
        }
        assert_eq!(names, wanted, "{:?}", call.args);
        let everything = format!("{:?} {:?}", call.args, call.env);
        assert!(!everything.contains("canary"), "{everything}");
        assert!(!call.args.iter().any(|arg| arg.contains(TOKEN)), "{:?}", call.args);
        assert_eq!(call.stdin, if call.verb() == "edit" { "fifo" } else { "device" }, "{:?}", call.args);
    }
}

#[test]
fn nothing_is_started_without_a_token_that_can_be_one() {
    let mut bench = Bench::new();
    for (token, wanted) in [("", "is not set"), ("eyJcanary", "`ops_`"), ("ops_canary two", "whole")] {
        bench.variables.retain(|(name, _)| *name != "OP_SERVICE_ACCOUNT_TOKEN");
        bench.variables.push(("OP_SERVICE_ACCOUNT_TOKEN", token.to_owned()));
        let error = failure(bench.open());
        assert_eq!(error.code(), ExitCode::Denied);
        let said = format!("{error:?}");
        assert!(said.contains(wanted) && !said.contains("canary"), "{said}");
    }
    assert_eq!(bench.op.calls().len(), 0);
}

#[test]
fn a_missing_or_old_command_is_told_before_anything_is_asked() {
    let mut bench = Bench::new();
    for version in ["2.29.0", "1.14.0", "2.30", "op version 2.31.0", ""] {
        bench.op.version(version);
        assert_failure(bench.open(), ExitCode::Usage, &["`op", "2.32.1"]);
    }
    for version in ["2.30.0", "2.32.0", "2.32.1", "2.33.0-beta.02", "3.0.0"] {
        bench.op.version(version);
        assert!(bench.open().is_ok(), "{version}");
    }
    assert!(bench.op.calls().iter().all(|call| call.verb() == "--version"));
    bench.variables.push(("OPSCTL_OP_BIN", "/nonexistent/op".to_owned()));
    assert_failure(bench.open(), ExitCode::NotFound, &["OPSCTL_OP_BIN", "2.32.1"]);
}

#[test]
fn each_recorded_error_has_its_exit_code_and_a_next_step() {
    let bench = Bench::new();
    let item = bench.op.item(&bench.vault, "openwork", &[("token", "t")]);
    let it = bench.open().unwrap();
    let recorded = [
        (
            1,
            r#""X" isn't an item in the "Test Data" vault. Specify the item with its UUID, name, or domain."#,
            ExitCode::NotFound,
        ),
        (1, r#""X" isn't an item. Specify the item with its UUID, name, or domain."#, ExitCode::NotFound),
        (1, r#""X" isn't a vault in this account. Specify the vault with its ID or name."#, ExitCode::NotFound),
        (
            1,
            r#""(429) Too Many Requests" isn't a vault in this account. Specify the vault with its ID or name."#,
            ExitCode::NotFound,
        ),
        (1, "could not find item X in vault V, because it has been deleted or archived.", ExitCode::NotFound),
        (1, "could not get item V/X: it is not there", ExitCode::NotFound),
        (4, "(404) Not Found: The requested resource was not found.", ExitCode::NotFound),
        (4, "(400) Bad Request: The structure of request was invalid.", ExitCode::Failed),
        (1, "You are not currently signed in. Please run `op signin --help` for instructions", ExitCode::Denied),
        (1, "account is not signed in", ExitCode::Denied),
        (1, "no account found for filter x", ExitCode::Denied),
        (1, "service account token set, but not authenticated yet", ExitCode::Denied),
        (
            1,
            "error initializing client: Authentication: (failed to auth.LookupAuth), Network: (failed to request.DoUnencrypted), Server: (403) (Forbidden (Service Account Deleted)), The Service Account used in this integration has been deleted.",
            ExitCode::Denied,
        ),
        (4, "(403) Forbidden: You do not have permission to perform this action.", ExitCode::Denied),
        (4, "(401) Unauthorized", ExitCode::Denied),
        (
            1,
            "(429) Too Many Requests: You've reached the maximum number of this type of requests this service account is allowed to make. Please retry in 58 minutes or try other requests.",
            ExitCode::RateLimited,
        ),
        (
            4,
            "(429) Too Many Requests: You've reached the maximum number of this type of requests this 1Password account is allowed to make. Please retry in 23 hours and 59 minutes or try other requests",
            ExitCode::RateLimited,
        ),
        (1, "(500) Internal Server Error: x", ExitCode::Failed),
    ];
    for (status, message, code) in recorded {
        for status in [status, 0] {
            // Before 2.32.1 it could end with 0 after an error.
            bench.op.fail(&Fault::new(When::Before, Act::error(status, message)).times(1));
            let error = failure(bench.get(&it, &item));
            let said = error.full_message();
            assert_eq!(error.code(), code, "{said}");
            assert!(said.contains(&message[..message.len().min(60)]) && !said.contains("11:55:32"), "{said}");
        }
    }
    bench.op.fail(&Fault::new(When::Before, Act::error(1, recorded[15].1)).times(1));
    assert_failure(bench.get(&it, &item), ExitCode::RateLimited, &["retry in 58 minutes", "ratelimit"]);
    bench.op.fail(
        &Fault::new(
            When::Before,
            Act::say(2, "panic: runtime error: invalid memory address\n\ngoroutine 1 [running]:\nmain.main()\n"),
        )
        .times(1),
    );
    assert_failure(bench.get(&it, &item), ExitCode::Failed, &["crashed", "invalid memory address", "token"]);
    bench.op.fail(&Fault::new(When::Before, Act::say(0, "")).times(1));
    assert_failure(bench.get(&it, &item), ExitCode::Failed, &["without a result"]);
    bench.op.fail(&Fault::new(When::Before, Act::error(1, &format!("\u{1b}[31m{}", "x".repeat(9000)))).times(1));
    let said = failure(bench.get(&it, &item)).full_message();
    assert!(said.len() < 600 && !said.contains('\u{1b}'), "{said}");
}

#[test]
fn a_title_that_several_items_have_is_told_with_their_ids() {
    let bench = Bench::new();
    let ids = [1, 2].map(|_| bench.op.item(&bench.vault, "twin", &[("token", "t")]));
    let lines = ids.each_ref().map(|id| format!("\t* for the item \"twin\" in vault {VAULT}: {id}")).join("\n");
    let message = format!("More than one item matches \"twin\". Try again and specify the item by its ID:\n{lines}");
    bench.op.fail(&Fault::new(When::Before, Act::error(1, &message)));
    let it = bench.open().unwrap();
    assert_failure(bench.get(&it, &ids[0]), ExitCode::Usage, &[&ids[0], &ids[1], "More than one item"]);
}

#[test]
fn what_is_not_there_and_who_may_not_are_told_apart_as_far_as_it_goes() {
    let mut bench = Bench::new();
    let it = bench.open().unwrap();
    let missing = "i0000000000000000000000099";
    assert_failure(
        bench.runtime.block_on(it.list("Nowhere")),
        ExitCode::NotFound,
        &["Nowhere", "whether it is missing"],
    );
    assert_failure(bench.get(&it, missing), ExitCode::NotFound, &[missing, "may not be seen"]);
    assert_failure(bench.runtime.block_on(it.list("--format")), ExitCode::NotFound, &["--format"]);
    for (vault, item) in [("x", missing), (missing, "--help"), (missing, "I0000000000000000000000001")] {
        assert_failure(bench.runtime.block_on(it.get(vault, item)), ExitCode::Usage, &["ids"]);
    }
    bench.op.limit(Some(2));
    assert_failure(bench.runtime.block_on(it.list(VAULT)), ExitCode::RateLimited, &["58 minutes"]);
    bench.variables.push(("OP_SERVICE_ACCOUNT_TOKEN", "ops_of_a_deleted_account".into()));
    let it = bench.open().unwrap();
    assert_failure(bench.runtime.block_on(it.list(VAULT)), ExitCode::Denied, &["Service Account Deleted"]);
}

#[test]
fn an_answer_that_is_none_is_not_shown() {
    let bench = Bench::new();
    let item = bench.op.item(&bench.vault, "openwork", &[("token", "t")]);
    let it = bench.open().unwrap();
    for stdout in ["canary", r#"{"id":"canary"}"#, r#"{"id":{"canary":1}}"#, "[\"canary\"]", "\"canary", "{}\u{0}"] {
        let act = Act::Say { status: 0, stdout: stdout.into(), stderr: String::new() };
        bench.op.fail(&Fault::new(When::Before, act).times(1));
        let error = failure(bench.get(&it, &item));
        assert_eq!(error.code(), ExitCode::Failed);
        assert!(!format!("{error:?}").contains("canary"), "{error:?}");
    }
    bench.op.fail(&Fault::new(When::Before, Act::Large).times(1));
    assert_failure(bench.get(&it, &item), ExitCode::Failed, &["16 MiB"]);
    assert!(bench.get(&it, &item).is_ok());
}

#[test]
fn a_command_that_hangs_is_ended_with_its_children() {
    let bench = Bench::new();
    let item = bench.op.item(&bench.vault, "openwork", &[("token", "t")]);
    let it = bench.open_within(Duration::from_secs(5));
    bench.op.fail(&Fault::new(When::Before, Act::Hang).times(1));
    let begun = Instant::now();
    assert_failure(bench.get(&it, &item), ExitCode::Failed, &["no answer within 5 s"]);
    assert!(begun.elapsed() < Duration::from_secs(120), "it sleeps for ten minutes");
    assert_ended(&bench.op);
    assert!(bench.get(&it, &item).is_ok(), "the next one is not held up");
}

#[test]
fn who_stops_waiting_ends_the_command() {
    let bench = Bench::new();
    let item = bench.op.item(&bench.vault, "openwork", &[("token", "t")]);
    let cancel = Cancel::default();
    let it = bench.runtime.block_on(OnePassword::command(&bench.environment(), &cancel)).unwrap();
    bench.op.fail(&Fault::new(When::Before, Act::Hang).times(1));
    // Dropped.
    let begun = async { wait_until(|| bench.op.hanging().is_some()).await };
    bench.runtime.block_on(async {
        tokio::select! {
            _ = it.get(&bench.vault, &item) => panic!("it hangs"),
            () = begun => {}
        }
    });
    assert_ended(&bench.op);
    // Cancelled.
    bench.op.fail(&Fault::new(When::Before, Act::Hang).times(1));
    let ended = bench.runtime.block_on(async {
        let cancels = async {
            wait_until(|| bench.op.hanging().is_some()).await;
            cancel.cancel();
        };
        futures::join!(it.get(&bench.vault, &item), cancels).0
    });
    assert_eq!(ended.unwrap_err().code(), ExitCode::Interrupted);
    assert_ended(&bench.op);
}

async fn wait_until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits for the end of what hung, and forgets it.
#[track_caller]
fn assert_ended(op: &FakeOp) {
    let pids = op.hanging().expect("it hung");
    wait_for("the end of what hung", Duration::from_secs(60), || {
        let runs = |pid: &i32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            // A zombie of somebody who does not care is over.
            !stat.is_empty() && !stat.contains(") Z ")
        };
        (!pids.iter().any(runs)).then_some(())
    });
    op.forget_hanging();
}

#[test]
fn items_that_an_edit_would_damage_are_not_touched() {
    let bench = Bench::new();
    let it = bench.open().unwrap();
    let refused = |wanted: &str, change: &dyn Fn(&mut serde_json::Value)| {
        let item = bench.op.item(&bench.vault, "precious", &[("token", "t")]);
        bench.op.alter(&item, change);
        let before = bench.op.stored(&item);
        let read = bench.get(&it, &item).unwrap();
        let calls = bench.op.calls().len();
        assert_failure(bench.set(&it, &read, "new"), ExitCode::Usage, &[wanted, "item of its own"]);
        assert_eq!((bench.op.calls().len(), bench.op.stored(&item)), (calls, before), "nothing was asked: {wanted}");
    };
    for category in ["LOGIN", "DOCUMENT", "SSH_KEY", "CREDIT_CARD", "IDENTITY", "CUSTOM", "SOMETHING_NEW"] {
        refused(category, &|item| item["category"] = category.into());
    }
    for category in ["DOCUMENT", "SSH_KEY"] {
        refused(category, &|item| {
            item["category"] = category.into();
            item["tags"] = serde_json::json!(["opsctl-managed"]);
        });
    }
    for managed in [false, true] {
        let tag = |item: &mut serde_json::Value| {
            if managed {
                item["tags"] = serde_json::json!(["opsctl-managed"]);
                item["category"] = "LOGIN".into();
            }
        };
        for kind in ["FILE", "SSHKEY", "ADDRESS", "REFERENCE", "PASSKEY", "UNKNOWN"] {
            refused(kind, &|item| {
                tag(item);
                item["fields"][0]["type"] = kind.into();
            });
        }
        refused("files", &|item| {
            tag(item);
            item["files"] = serde_json::json!([{ "id": "x", "name": "key.pem", "size": 3 }]);
        });
        refused("passkey", &|item| {
            tag(item);
            item["passkeys"] = serde_json::json!([{ "id": "x" }]);
        });
    }
    // With the tag it is its owner who says that there is nothing to lose. What is lost all the same is not shown by any JSON.
    let item = bench.op.item(&bench.vault, "managed", &[("token", "t")]);
    bench.op.alter(&item, |item| {
        item["category"] = "LOGIN".into();
        item["tags"] = serde_json::json!(["opsctl-managed"]);
        item["_passkey"] = true.into();
        item["files"] = serde_json::json!([]);
    });
    let read = bench.get(&it, &item).unwrap();
    bench.set(&it, &read, "new").unwrap();
    assert_eq!(bench.op.value(&item, "token").as_deref(), Some("new"));
    assert!(bench.op.stored(&item).get("_passkey").is_none(), "the stand-in loses what the real one loses");
}

#[test]
fn an_edit_of_somebody_else_is_never_lost() {
    let bench = Bench::new();
    let item = bench.op.item(&bench.vault, "openwork", &[("token", "t1"), ("other", "o1")]);
    let it = bench.open().unwrap();
    let read = bench.get(&it, &item).unwrap();
    bench.op.set(&item, "other", "o2");
    assert_failure(bench.set(&it, &read, "t2"), ExitCode::Busy, &["somebody else", "version 1", "version 2"]);
    assert_eq!(bench.op.value(&item, "token").as_deref(), Some("t1"));
    // Between the look and the edit: it is seen afterwards.
    let read = bench.get(&it, &item).unwrap();
    bench.op.fail(&Fault::new(When::Before, Act::Meddle).of("edit").times(1));
    assert_failure(bench.set(&it, &read, "t2"), ExitCode::Busy, &["version 2", "version 4"]);
}

#[test]
fn edits_that_meet_are_tried_again_a_few_times() {
    let bench = Bench::new();
    let item = bench.op.item(&bench.vault, "openwork", &[("token", "t1")]);
    let it = bench.open().unwrap();
    let read = bench.get(&it, &item).unwrap();
    bench.op.fail(&Fault::new(When::Before, Act::conflict()).of("edit").times(3));
    let edited = bench.set(&it, &read, "t2").unwrap();
    assert_eq!((edited.version, bench.op.value(&item, "token").as_deref()), (2, Some("t2")));
    bench.op.fail(&Fault::new(When::Before, Act::conflict()).of("edit"));
    assert_failure(bench.set(&it, &edited, "t3"), ExitCode::Busy, &["(409)"]);
    bench.op.mend();
    // The one that it met has made another version.
    bench.op.fail(&Fault::new(When::Before, Act::conflict()).of("edit").times(1));
    bench.op.fail(&Fault::new(When::After, Act::Meddle).of("get").times(1));
    assert_failure(bench.set(&it, &edited, "t3"), ExitCode::Busy, &["somebody else"]);
    assert_eq!(bench.op.value(&item, "token").as_deref(), Some("t2"));
}

#[test]
fn an_edit_that_was_made_counts_whatever_the_command_says() {
    let bench = Bench::new();
    let item = bench.op.item(&bench.vault, "openwork", &[("token", "t1")]);
    let it = bench.open_within(Duration::from_secs(8));
    let mut read = bench.get(&it, &item).unwrap();
    for (number, act) in
        [Act::error(1, "(500) Internal Server Error"), Act::say(0, ""), Act::Hang].into_iter().enumerate()
    {
        bench.op.fail(&Fault::new(When::After, act).of("edit").times(1));
        let new = format!("new{number}");
        read = bench.set(&it, &read, &new).unwrap();
        assert_eq!(value(&read, "token"), Some(new));
    }
    bench.op.fail(&Fault::new(When::Before, Act::error(1, "(500) Internal Server Error")).of("edit").times(1));
    assert_failure(bench.set(&it, &read, "never"), ExitCode::Failed, &["(500)"]);
    for (act, code) in [
        (Act::error(1, "(403) Forbidden"), ExitCode::Denied),
        (Act::error(4, "(429) Too Many Requests"), ExitCode::RateLimited),
    ] {
        bench.op.fail(&Fault::new(When::Before, act).of("edit").times(1));
        assert_failure(bench.set(&it, &read, "never"), code, &[]);
    }
    assert_eq!(bench.op.value(&item, "token").as_deref(), Some("new2"));
}

#[test]
fn a_field_is_found_by_id_and_by_label_and_never_guessed() {
    let bench = Bench::new();
    let item = bench.op.item(
        &bench.vault,
        "openwork",
        &[("token", "1"), ("Token", "2"), ("only", "3"), ("f0000000000000000000000000", "4")],
    );
    bench.op.alter(&item, |item| {
        item["sections"] = serde_json::json!([{ "id": "s1", "label": "Part" }, { "id": "s2", "label": "part" }, { "id": "s3", "label": "Third" }]);
        item["fields"][0]["section"] = serde_json::json!({ "id": "s1", "label": "Part" });
        item["fields"][1]["section"] = serde_json::json!({ "id": "s2", "label": "part" });
        item["fields"][2]["section"] = serde_json::json!({ "id": "s3", "label": "Third" });
    });
    let it = bench.open().unwrap();
    let read = bench.get(&it, &item).unwrap();
    let found = |section: Option<&str>, name: &str| {
        read.field(section, name).map(|field| field.value.as_ref().unwrap().expose().to_owned())
    };
    assert_eq!(found(Some("s1"), "TOKEN").unwrap(), "1");
    assert_eq!(found(Some("s2"), "token").unwrap(), "2");
    assert_eq!(found(Some("third"), "Only").unwrap(), "3");
    assert_eq!(found(None, "only").unwrap(), "3");
    assert_eq!(found(None, "f0000000000000000000000000").unwrap(), "1", "an id goes before a label");
    let ids = [&read.fields[0].id, &read.fields[1].id];
    assert_failure(found(None, "token"), ExitCode::Usage, &[ids[0], ids[1], "several fields"]);
    assert_failure(found(Some("part"), "token"), ExitCode::Usage, &["s1, s2", "several sections"]);
    assert_failure(found(Some("s3"), "token"), ExitCode::NotFound, &["no field `token` in that section"]);
    assert_failure(found(Some("none"), "token"), ExitCode::NotFound, &["no section `none`"]);
    assert_failure(found(None, "nothing"), ExitCode::NotFound, &["no field `nothing`"]);
}
