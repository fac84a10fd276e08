//! Editing items by the `op` command: exactly what was asked for, and never over somebody else's edit.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "support/onepassword/mod.rs"]
mod onepassword;
#[path = "support/op_bench.rs"]
mod op_bench;
mod support;

use std::time::Duration;

use onepassword::{Act, Fault, When};
use op_bench::{Bench, assert_failure, set, value};
use opsctl::ExitCode;
use opsctl::providers::onepassword::Edit;
use opsctl::secret::Secret;

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
    let empty_words = Act::Say { status: 0, stdout: "{}".into(), stderr: String::new() };
    bench.op.fail(&Fault::new(When::Before, empty_words).of("edit").times(1));
    assert_failure(bench.set(&it, &read, "never"), ExitCode::Failed, &["does not hold what was asked for"]);
    for (act, code) in [
        (Act::error(1, "(403) Forbidden"), ExitCode::Denied),
        (Act::error(4, "(429) Too Many Requests"), ExitCode::RateLimited),
    ] {
        bench.op.fail(&Fault::new(When::Before, act).of("edit").times(1));
        assert_failure(bench.set(&it, &read, "never"), code, &[]);
    }
    assert_eq!(bench.op.value(&item, "token").as_deref(), Some("new2"));
}
