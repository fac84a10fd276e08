//! The stand-in for `op` is as strict as the real one, and does what tests of a crash need.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "support/onepassword/mod.rs"]
mod onepassword;
mod support;

use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Output, Stdio};

use onepassword::{Act, FakeOp, Fault, TOKEN, When};
use support::TestDir;

/// Calls it below a shell, which goes on afterwards if it can, with `input` through a pipe.
fn call(op: &FakeOp, args: &[&str], input: Option<&str>) -> Output {
    let mut command = Command::new("sh");
    command.args(["-c", r#""$0" "$@"; exit $?"#]).arg(op.program()).args(args);
    command.env_clear().env("PATH", "/bin:/usr/bin").env("OP_SERVICE_ACCOUNT_TOKEN", TOKEN);
    command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    if let Some(input) = input {
        // Who is killed does not read it.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    }
    child.wait_with_output().unwrap()
}

#[test]
fn it_refuses_what_the_real_one_would_not_understand() {
    let dir = TestDir::new();
    let op = FakeOp::start(&dir.join("op"));
    let vault = op.vault("V");
    let item = op.item(&vault, "title", &[("token", "t1"), ("empty", "")]);
    op.item(&vault, "twin", &[]);
    op.item(&vault, "Twin", &[]);
    op.vault("W");
    let said = |args: &[&str], input: Option<&str>| {
        let output = call(&op, args, input);
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout) + &text(output.stderr))
    };
    let edit = ["item", "edit", item.as_str(), "--vault", "V", "--format", "json"];
    let assigned = [&edit[..], &["token=t2"]].concat();
    let whole = said(&["item", "get", "title", "--vault=v", "--format", "json", "--reveal"], None).1;
    for (args, input, status, wanted) in [
        (&["--version"][..], None, 0, "2.33.1\n"),
        (&["item", "list", "--format", "json"], None, 1, "a vault query must be provided"),
        (&["item", "list", "--vault", "X", "--format", "json"], None, 1, "\"X\" isn't a vault in this account."),
        (&["item", "get", "x", "--vault", "V", "--format", "json"], None, 1, "\"x\" isn't an item in the \"V\" vault."),
        (
            &["item", "get", "twin", "--vault", "V", "--format", "json"],
            None,
            1,
            "\n\t* for the item \"twin\" in vault V: i0",
        ),
        (&["item", "get", "title", "--vault", "V", "--format", "json"], None, 0, "--reveal' to reveal"),
        (&["item", "get", "title", "--vault", "V", "--format", "json", "--x"], None, 1, "unknown flag"),
        (&["item", "delete", "title", "--vault", "V", "--format", "json"], None, 1, "unknown command"),
        (&edit, None, 1, "expected data on stdin"),
        (&edit, Some(""), 1, "expected data on stdin"),
        (&edit, Some("{}"), 4, "(400) Bad Request"),
        (&edit, Some("x"), 4, "(400) Bad Request"),
        (&assigned, Some(&whole), 1, "unexpected argument: token"),
    ] {
        let (ended, said) = said(args, input);
        assert!(ended == status && said.contains(wanted), "{args:?}: {ended} {said}");
    }
    assert!(whole.contains("t1") && whole.matches("\"value\"").count() == 1, "an empty field has no value: {whole}");
    assert_eq!(said(&edit, Some(&whole.replace("t1", "t2"))).0, 0);
    assert_eq!((op.value(&item, "token").as_deref(), op.stored(&item)["version"].as_u64()), (Some("t2"), Some(2)));
    op.remove(&item);
    assert_eq!(said(&edit, Some(&whole)).0, 1);
}

#[test]
fn it_kills_whoever_called_it_before_or_after_the_call_takes_effect() {
    let dir = TestDir::new();
    let op = FakeOp::start(&dir.join("op"));
    let vault = op.vault("V");
    let item = op.item(&vault, "title", &[("token", "t1")]);
    let args = ["item", "get", &item, "--vault", &vault, "--format", "json", "--reveal"];
    let template = String::from_utf8(call(&op, &args, None).stdout).unwrap();
    let args = ["item", "edit", &item, "--vault", &vault, "--format", "json"];
    for (when, call_number, new, left) in [(When::Before, 2, "t2", "t1"), (When::After, 4, "t3", "t3")] {
        op.fail(&Fault::new(when, Act::Kill).at_call(call_number));
        call(&op, &["--version"], None);
        let ended = call(&op, &args, Some(&template.replace("t1", new)));
        assert_eq!(ended.status.signal(), Some(9), "{when:?}");
        assert_eq!(op.value(&item, "token").as_deref(), Some(left), "{when:?}");
        let ended = call(&op, &["item", "list", "--vault", &vault, "--format", "json"], None);
        assert!(ended.status.success(), "only that call");
    }
    assert_eq!(op.calls().len(), 7, "all calls are written down");
}
