//! Every way out of the program, with a secret in it, in every form: nothing of it comes out.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

mod support;

#[path = "support/again.rs"]
mod again;
#[path = "support/calls.rs"]
mod calls;
#[path = "support/leaks/mod.rs"]
mod leaks;
#[path = "support/terminal.rs"]
mod terminal;

use std::ffi::OsString;

use again::{again, hold, role};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use leaks::Canary;
use opsctl::commands::Cli;
use opsctl::secret::Secret;
use opsctl::ui::{self, Output, Table};
use opsctl::{Context as _, Error, ExitCode, cli};
use serde_json::{Value, json};
use support::opsctl::{Done, run};
use terminal::Terminal;

const SEED: u64 = 20_261_122;

fn canaries() -> [Canary; 3] {
    [Canary::word("a word", SEED), Canary::odd("an odd one", SEED + 1), Canary::lines("a key", SEED + 2)]
}

/// A text with each form of each secret in it.
fn leaking() -> String {
    let mut text = "leaks".to_owned();
    for canary in canaries() {
        for (form, shown) in canary.forms() {
            text.push_str(&format!(" {form:?} [{shown}]"));
        }
        let basic = |user: &str| STANDARD.encode(format!("{user}:{}\n", canary.value));
        text.push_str(&format!(" Basic {} Basic {} Basic {}", basic("a"), basic("bc"), basic("def")));
        let body = json!({"error": json!({"echo": canary.value}).to_string()}).to_string();
        text.push_str(&format!(" body {body} debug {body:?}"));
        // As messages are cut.
        let cut: String = canary.value.chars().take(25).collect();
        text.push_str(&format!(" cut {cut}…"));
    }
    text + " end"
}

/// Runs the program's outermost layer with a body that leaks, and ends.
fn play(role: &str) {
    for canary in canaries() {
        let _ = Secret::new(&canary.value).hidden();
    }
    let (way, args) = role.split_once(' ').unwrap();
    let leaking = leaking();
    let mut args: Vec<OsString> = args.split(' ').map(Into::into).collect();
    if way == "usage" {
        args.push(leaking.clone().into());
    }
    let code = cli::run::<Cli, _>(args, |_, _, output| leak(way, &leaking, output));
    std::process::exit(code.code().into());
}

fn leak(way: &str, leaking: &str, output: &mut Output) -> opsctl::Result<ExitCode> {
    let document = json!({"a": leaking, leaking: [leaking, 1, null]});
    match way {
        "result" => output.result(&document, |_| format!("first {leaking}\nsecond {leaking}\n"))?,
        "list" => {
            output.begin_list(&document, "items")?;
            output.list_item(&document)?;
            output.list_item(&leaking)?;
            output.end_list(&json!({"z": leaking}))?;
        }
        "raw" => output.raw(leaking.as_bytes())?,
        "table" => {
            let mut table = Table::new(["NAME", "VALUE"]);
            table.row(["row".into(), leaking.to_owned()]);
            output.text(&table.render(None))?;
            output.text(&table.render(Some(40)))?;
        }
        "error" => {
            let cause = std::io::Error::other(leaking.to_owned());
            let error = Error::new(ExitCode::Busy, leaking).hint(leaking).because(cause);
            return Err(error).context(|| format!("context {leaking}"));
        }
        "said" => {
            ui::warn(leaking);
            ui::say(leaking);
        }
        "log" => {
            let bytes: &[u8] = leaking.as_bytes();
            tracing::trace!(target: "opsctl::test", field = leaking, debug = ?leaking, display = %leaking, "message {leaking}");
            tracing::info!(target: "hyper::client", leaking, "message {leaking}");
            tracing::info!(target: "reqwest", error = &std::io::Error::other(leaking.to_owned()) as &(dyn std::error::Error + 'static), "failed");
            tracing::info!(target: "h2", ?bytes, text = String::from_utf8_lossy(bytes).as_ref());
        }
        "panic" => panic!("message {leaking}"),
        "unwrap" => {
            std::hint::black_box(Err::<(), _>(leaking.to_owned())).unwrap();
        }
        "worker" => {
            let text = leaking.to_owned();
            let worker =
                std::thread::Builder::new().name(leaking[..20].to_owned()).spawn(move || panic!("{text}")).unwrap();
            assert!(worker.join().is_err());
            let text = leaking.to_owned();
            let runtime = tokio::runtime::Runtime::new().unwrap();
            assert!(runtime.block_on(async { tokio::spawn(async move { panic!("{text}") }).await }).is_err());
        }
        "bar" => {
            let bar = ui::Progress::new(true, false).start(leaking, Some(100));
            bar.note(leaking);
            bar.add_bytes(7);
            hold();
        }
        "ask" => assert!(ui::ask(leaking).is_some()),
        other => panic!("no way {other}"),
    }
    Ok(ExitCode::Ok)
}

const TEST: &str = "no_way_out_of_the_program_shows_a_secret";

fn checked(role: &str) -> Done {
    let done = run(again(TEST, role));
    for canary in canaries() {
        canary.is_not_in(&format!("stdout of {role}"), done.stdout.as_bytes());
        canary.is_not_in(&format!("stderr of {role}"), done.stderr.as_bytes());
    }
    done
}

/// What is left of the text when each value is gone.
#[track_caller]
fn is_blanked(what: &str, text: &str) {
    assert!(text.contains("leaks Whole […]"), "{what}: {text}");
    assert!(text.contains(" end"), "{what}: {text}");
}

/// The document on stdout; the test program writes before it.
#[track_caller]
fn document(done: &Done) -> Value {
    let (_, json) = done.stdout.split_once(" ... ").unwrap_or_else(|| panic!("{}", done.stdout));
    serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {json}"))
}

#[test]
fn no_way_out_of_the_program_shows_a_secret() {
    if let Some(role) = role() {
        return play(&role);
    }
    println!("seed {SEED}");
    std::thread::scope(|scope| {
        for way in ["result", "list", "raw", "table"] {
            scope.spawn(move || results(way));
        }
        for (way, records) in [("said", 2), ("log", 4), ("error", 1), ("panic", 1), ("unwrap", 1), ("worker", 2)] {
            scope.spawn(move || logs(way, records));
        }
        scope.spawn(errors);
    });
}

fn results(way: &str) {
    for flag in ["--no-progress", "--json"] {
        let done = checked(&format!("{way} opsctl man {flag}")).ended(0);
        match (way, flag) {
            ("raw", _) | ("result" | "table", "--no-progress") => is_blanked(way, &done.stdout),
            ("result" | "list", "--json") => {
                let document = document(&done);
                is_blanked(way, document["a"].as_str().unwrap());
                is_blanked(way, document.as_object().unwrap().keys().find(|key| key.starts_with("leaks")).unwrap());
            }
            _ => assert!(!done.says("leaks"), "nothing in this mode: {}", done.stdout),
        }
    }
}

fn errors() {
    let failed = checked("error opsctl man --json").ended(11);
    is_blanked("the error", &failed.stderr);
    is_blanked("the message", document(&failed)["error"]["message"].as_str().unwrap());
    is_blanked("the hint", document(&failed)["error"]["hint"].as_str().unwrap());
    let failed = checked("usage opsctl man --json").ended(2);
    is_blanked("usage", &failed.stderr);
    is_blanked("usage", document(&failed)["error"]["message"].as_str().unwrap());
}

fn logs(way: &str, records: usize) {
    for flags in ["-vvv", "-vvv --log-format json"] {
        let done = checked(&format!("{way} opsctl man {flags}"));
        is_blanked(way, &done.stderr);
        if flags.ends_with("json") {
            let lines = done.stderr.lines().map(|line| serde_json::from_str::<Value>(line).expect(line));
            assert_eq!(lines.filter(|line| line["message"].is_string()).count(), records, "{}", done.stderr);
        }
    }
}

#[test]
fn nothing_on_a_terminal_shows_a_secret() {
    let screen = |way: &str, sign: &str| {
        let role = format!("{way} opsctl man");
        let mut terminal = Terminal::start(&again(TEST, &role));
        terminal.wait_for(sign);
        terminal.types("n\n");
        let screen = terminal.screen();
        for canary in canaries() {
            canary.is_not_in(&role, screen.as_bytes());
        }
        screen
    };
    assert!(screen("ask", "[y/N]").contains("leaks Whole […]"));
    assert!(screen("bar", "leaks").contains("leaks Whole […]"));
}

#[test]
fn a_panic_is_one_line_that_says_what_it_is_and_where_and_a_failure_like_any_other() {
    for role in ["panic opsctl man --json", "unwrap opsctl man --json"] {
        let done = checked(role).ended(1);
        assert_eq!(done.stderr.lines().count(), 1, "{}", done.stderr);
        let begin = "error: this is a bug in opsctl (tests/outputs.rs:";
        assert!(done.stderr.starts_with(begin), "{}", done.stderr);
        let document = document(&done);
        assert_eq!(document["error"]["kind"], "failed");
        assert_eq!(document["error"]["exit_code"], 1);
    }
    assert_eq!(
        checked("worker opsctl man").ended(0).stderr.lines().count(),
        2,
        "other threads are waited for as before"
    );
}
