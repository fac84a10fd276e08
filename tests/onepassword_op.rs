//! Reading from 1Password by the `op` command, and how the command is started and ended.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "support/onepassword/mod.rs"]
mod onepassword;
#[path = "support/op_bench.rs"]
mod op_bench;
mod support;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use onepassword::{Act, FakeOp, Fault, TOKEN, When};
use op_bench::{Bench, VAULT, assert_failure, failure, value};
use opsctl::ExitCode;
use opsctl::cancel::Cancel;
use opsctl::providers::onepassword::OnePassword;
use support::wait_for;

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
    for stdout in [
        "canary",
        r#"{"id":"canary"}"#,
        r#"{"version":"canary"}"#,
        r#"{"id":{"canary":1}}"#,
        "[\"canary\"]",
        "\"canary",
        "{}\u{0}",
    ] {
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
    // So long that it is not the limit which ends it.
    let limit = Duration::from_secs(120);
    let it = bench.runtime.block_on(OnePassword::command_within(&bench.environment(), &cancel, limit)).unwrap();
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
    assert_failure(found(None, "nothing"), ExitCode::NotFound, &["no field `nothing`", "correct the reference"]);
}
