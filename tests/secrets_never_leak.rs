//! `opsctl secrets` under strace, and its memory at its end: values are where they belong, and nowhere else.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking, in its helpers too"
)]

mod support;

#[path = "support/calls.rs"]
mod calls;
#[path = "support/leaks/mod.rs"]
mod leaks;
#[path = "support/onepassword/mod.rs"]
mod onepassword;
#[path = "support/railway/mod.rs"]
mod railway;
#[path = "support/server.rs"]
mod server;
#[path = "secrets_never_leak/stage.rs"]
mod stage;
#[path = "support/vaulted.rs"]
mod vaulted;

use std::process::Command;
use std::time::Duration;

use leaks::memory::Copy;
use leaks::{Canary, Ending, Form, copies};
use onepassword::connect::Act as Connect;
use onepassword::{Act, When};
use railway::Fault;
use rustix::process::Signal;
use serde_json::json;
use stage::{OPTIONS, Stage, Way};
use support::opsctl::Bench;
use support::wait_for;

const SYNC: &[&str] = &["sync", "--yes"];
const PLAN: &[&str] = &["plan"];
const ROTATE: &[&str] = &["rotate", "OPENWORK_TOKEN", "--yes", "--no-verify"];

/// Where values stand in the memory of a command that has done its work.
fn remains(stage: &Stage, args: &[&str]) {
    left_of(stage, &stage.command(args, &["-vvv"]));
}

fn left_of(stage: &Stage, command: &Command) {
    let command = stage::command_in(&stage.scene.dir.join("cwd"), command);
    let ending = Ending::given(&command, &stage.aside.join("strace-ending"), &stage.input());
    // Where the kernel has put the environment at the start.
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", ending.pid)).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let [from, to] = [47, 48].map(|at| fields[at].parse::<u64>().unwrap());
    let mut wrong = Vec::new();
    for (canary, way) in stage.all() {
        for (form, text) in canary.forms().filter(|(form, _)| matches!(form, Form::Whole | Form::Json | Form::Base64)) {
            let mut found = copies(ending.pid, text.as_bytes());
            if let Way::Variable(_) = way {
                let is_there = |copy: &Copy| (from..to).contains(&copy.address);
                assert!(form != Form::Whole || found.iter().any(is_there), "the scan finds {}", canary.name);
                found.retain(|copy| !is_there(copy));
            }
            wrong.extend(found.into_iter().map(|copy| format!("{} as {form:?}: {copy:x?}", canary.name)));
        }
    }
    let (_, said) = ending.go_on();
    wrong.dedup();
    assert!(wrong.is_empty(), "{command:?} leaves\n{}\n{}", wrong.join("\n"), String::from_utf8_lossy(&said));
}

#[test]
fn nothing_of_a_value_is_left_in_memory_with_op() {
    let stage = Stage::new(false);
    let url = stage.url();
    remains(&stage, PLAN);
    remains(&stage, SYNC);
    remains(&stage, &["verify", "--url", &url]);
    remains(&stage, &["rotate", "OPENWORK_TOKEN", "--yes", "--url", &url]);
}

#[test]
fn nothing_of_a_value_is_left_in_memory_with_connect() {
    let stage = Stage::new(true);
    let url = stage.url();
    remains(&stage, PLAN);
    remains(&stage, SYNC);
    remains(&stage, &["verify", "--url", &url]);
    remains(&stage, &["rotate", "OPENWORK_TOKEN", "--yes", "--url", &url]);
}

#[test]
fn what_succeeds_gives_no_value_away() {
    for is_connect in [false, true] {
        let stage = Stage::new(is_connect);
        let url = stage.url();
        stage.run(PLAN, OPTIONS[1]).done.ok();
        stage.run(SYNC, OPTIONS[1]).done.ok();
        stage.run(SYNC, OPTIONS[2]).done.ok();
        for options in [OPTIONS[0], OPTIONS[3]] {
            stage.run(PLAN, options).done.ok();
            stage.run(&["verify", "--url", &url], options).done.ended(5);
            stage.run(&["rotate", "OPENWORK_TOKEN", "--yes", "--url", &url], options).done.ok();
        }
        let item = stage.value("client-token").to_owned();
        assert_ne!(stage.scene.railway.get("web", "OPENWORK_TOKEN"), Some(item), "it was rotated");
    }
}

/// What goes wrong, how it is brought about, the command and its exit code.
type Failure = (&'static str, fn(&Stage), &'static [&'static str], i32);

fn say(stage: &Stage, verb: &'static str, status: i32, stdout: &str, stderr: &str) {
    let said = Act::Say { status, stdout: stdout.to_owned(), stderr: stderr.to_owned() };
    stage.scene.op.fail(&onepassword::Fault::new(When::Before, said).of(verb));
}

/// All values. What opsctl has not read or sent yet it cannot know: no message that it repeats may hold these before.
fn everything(stage: &Stage) -> String {
    stage.canaries.iter().map(|(canary, _)| format!("{} {:?} ", canary.value, canary.value)).collect()
}

const FAILURES: &[Failure] = &[
    (
        "Railway repeats what it was sent",
        |it| it.scene.railway.fail("variableCollectionUpsert", 9, Fault::Echo(400)),
        SYNC,
        3,
    ),
    ("the same with 200", |it| it.scene.railway.fail("variableCollectionUpsert", 9, Fault::Echo(200)), ROTATE, 3),
    ("Railway tells all it knows", |it| it.scene.railway.fail("*", 99, Fault::Error(everything(it))), PLAN, 1),
    ("an answer is cut off", |it| it.scene.railway.fail("variables", 99, Fault::Cut), PLAN, 1),
    ("a write is answered by half", |it| it.scene.railway.fail("variableCollectionUpsert", 99, Fault::Cut), SYNC, 3),
    (
        "the answer is another one",
        |it| {
            let values =
                json!({ "data": { "variables": { "A": it.value("dsn"), "B": { "c": it.value("tls-key") } } } });
            it.scene.railway.fail("variables", 99, Fault::Answer(values));
        },
        PLAN,
        1,
    ),
    (
        "it redirects",
        |it| {
            let elsewhere = format!("http://127.0.0.1:9/{}", it.value("host-token"));
            it.scene.railway.fail("*", 99, Fault::Redirect(elsewhere));
        },
        PLAN,
        1,
    ),
    (
        "too many requests",
        |it| it.scene.railway.fail("variableCollectionUpsert", 99, Fault::Limited(Some(3000))),
        SYNC,
        13,
    ),
    ("too many for Cloudflare", |it| it.scene.railway.fail("*", 99, Fault::Cloudflare), SYNC, 13),
    ("a token that is refused", |it| it.scene.railway.revoke(it.value("RAILWAY_TOKEN")), PLAN, 12),
    (
        "what is read back is another value",
        |it| {
            let done = json!({ "data": { "variableCollectionUpsert": true } });
            it.scene.railway.fail("variableCollectionUpsert", 9, Fault::Answer(done));
        },
        SYNC,
        3,
    ),
    ("a sealed variable", |it| it.scene.railway.seal("web", "OPENWORK_TOKEN"), SYNC, 0),
    (
        "a reference is in its place",
        |it| {
            it.scene.railway.set("web", "OPENWORK_TOKEN", "${{openwork.OPENWORK_TOKEN}}");
        },
        SYNC,
        3,
    ),
    ("a value that no variable may have", |it| it.scene.reconfigure(", multiline = true", ""), PLAN, 2),
    ("a deployment fails", |it| it.scene.railway.next_deployment("web", &["BUILDING", "FAILED"]), SYNC, 3),
    (
        "op repeats its token",
        |it| {
            let token = it.value("OP_SERVICE_ACCOUNT_TOKEN");
            say(it, "get", 1, "", &format!("[ERROR] 2026/11/22 10:20:30 {token} {token:?}"));
        },
        PLAN,
        1,
    ),
    (
        "op crashes",
        |it| {
            let token = it.value("OP_SERVICE_ACCOUNT_TOKEN");
            say(it, "get", 2, &everything(it), &format!("panic: {token}\n\ngoroutine 1 {token}"));
        },
        PLAN,
        1,
    ),
    (
        "op repeats what it was given",
        |it| {
            let said = Act::error(1, &everything(it));
            it.scene.op.fail(&onepassword::Fault::new(When::After, said).at_call(7));
        },
        ROTATE,
        1,
    ),
    (
        "op says half an item",
        |it| {
            say(it, "get", 0, &format!("{{\"id\": \"x\", \"fields\": [{{\"value\": {:?}", it.value("dsn")), "");
        },
        PLAN,
        1,
    ),
    ("op says no item", |it| say(it, "get", 0, &everything(it), ""), PLAN, 1),
    ("a list that is none", |it| say(it, "list", 0, &everything(it), ""), PLAN, 1),
    (
        "op refuses an edit",
        |it| {
            say(it, "edit", 4, "", &format!("[ERROR] (400) Bad Request: {}", everything(it)));
        },
        ROTATE,
        1,
    ),
    (
        "two edits meet",
        |it| {
            it.scene.op.fail(&onepassword::Fault::new(When::Before, Act::conflict()).of("edit"));
        },
        ROTATE,
        11,
    ),
];

/// Each failure in two of the ways to say it.
fn failures(first: usize) {
    let mut wrong = Vec::new();
    for (number, (what, prepare, args, code)) in FAILURES.iter().enumerate() {
        let stage = Stage::new(false);
        prepare(&stage);
        let trace = stage.trace(&stage.command(args, OPTIONS[first + number % 2]), &[]);
        stage.examine(&trace, what);
        let done = trace.done;
        if done.code != *code {
            wrong.push(format!("{what}: {} and not {code}: {}\n{}", done.code, done.stdout, done.stderr));
        }
        // Some of what Railway was made to answer is none of its answers.
        stage.scene.railway.violations();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_fails_gives_no_value_away_to_people() {
    failures(0);
}

#[test]
fn what_fails_gives_no_value_away_to_programs() {
    failures(2);
}

#[test]
fn what_fails_with_connect_gives_no_value_away() {
    let leaked = |text: String| -> &'static str { Box::leak(text.into_boxed_str()) };
    type Act = fn(&'static str) -> Connect;
    let faults: [(&str, Act, &[&str], i32); 5] = [
        ("GET", |all| Connect::Say(400, all, Vec::new()), PLAN, 2),
        ("GET", |_| Connect::Cut, PLAN, 1),
        ("GET", |_| Connect::Garbage, PLAN, 1),
        ("PUT", |all| Connect::Say(500, all, Vec::new()), ROTATE, 1),
        ("PUT", |all| Connect::Say(409, all, Vec::new()), ROTATE, 11),
    ];
    let mut wrong = Vec::new();
    for (number, (method, act, args, code)) in faults.into_iter().enumerate() {
        let stage = Stage::new(true);
        let said = if method == "GET" { onepassword::connect::TOKEN.to_owned() } else { everything(&stage) };
        let act = act(leaked(said));
        let shown = format!("{act:.30?}");
        stage.connect.as_ref().unwrap().fail(onepassword::connect::Fault {
            method,
            late: false,
            act,
            after: 0,
            times: 99,
        });
        let done = stage.run(args, OPTIONS[number % 4]).done;
        if done.code != code {
            wrong.push(format!("{shown}: {} and not {code}: {}\n{}", done.code, done.stdout, done.stderr));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_proof_that_fails_and_a_rollback_give_no_value_away() {
    let stage = Stage::synced(false);
    let old = stage.value("client-token").to_owned();
    // Who still has the old token is let in.
    let stubborn = server::Server::start(|_, _| server::Reply::Send("200 OK".to_owned(), b"{}".to_vec()));
    let stage = Stage { service: stubborn, ..stage };
    let url = stage.url();
    let rotate = ["rotate", "OPENWORK_TOKEN", "--yes", "--proof-timeout", "1s", "--url", &url];
    stage.run(&rotate, OPTIONS[1]).done.ended(5);
    assert_eq!(stage.all().len(), stage.canaries.len() + 1, "the new value is looked for");
    assert_ne!(stage.scene.op.value(&stage.item, "client-token").as_ref(), Some(&old));
    stage.run(&[&rotate[..], &["--rollback"]].concat(), OPTIONS[2]);
    assert_eq!(stage.scene.op.value(&stage.item, "client-token").as_ref(), Some(&old));
}

/// Hangs in 1Password or in the waiting for a deployment, and is ended there: the signal, the process that gets it, the code.
#[test]
fn what_is_interrupted_gives_no_value_away() {
    for (signal, is_op, code) in [(Signal::INT, false, 130), (Signal::KILL, true, 1)] {
        let stage = Stage::new(false);
        stage.scene.op.fail(&onepassword::Fault::new(When::After, Act::Hang).of("get"));
        let op = stage.scene.op.clone();
        let striker = std::thread::spawn(move || {
            let [pid, child] = wait_for("op to hang", Duration::from_secs(60), || op.hanging())[..] else { panic!() };
            let target = if is_op { pid } else { parent(pid) };
            kill(target, signal);
            if is_op {
                kill(child, signal);
            }
        });
        stage.run(PLAN, OPTIONS[1]).done.ended(code);
        striker.join().unwrap();
    }
    let stage = Stage::new(false);
    stage.scene.railway.next_deployment("web", &["BUILDING"; 400]);
    let (railway, mark) = (stage.scene.railway.clone(), stage.scene.dir.path().display().to_string());
    let striker = std::thread::spawn(move || {
        wait_for("the waiting", Duration::from_secs(60), || (railway.deploys("web") > 0).then_some(()));
        kill(opsctl_of(&mark), Signal::INT);
    });
    stage.run(SYNC, OPTIONS[3]).done.ended(130);
    striker.join().unwrap();
}

fn kill(pid: i32, signal: Signal) {
    let pid = rustix::process::Pid::from_raw(pid).expect("a process");
    rustix::process::kill_process(pid, signal).expect("it runs");
}

fn parent(pid: i32) -> i32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    stat.rsplit_once(") ").unwrap().1.split(' ').nth(1).unwrap().parse().unwrap()
}

/// The opsctl that has this in its arguments.
fn opsctl_of(mark: &str) -> i32 {
    let is_it = |pid: i32| {
        let read = |file: &str| std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        read("comm") == b"opsctl\n" && leaks::canary::contains(&read("cmdline"), mark.as_bytes())
    };
    let pids = std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.into_iter().find(|pid| is_it(*pid)).expect("an opsctl")
}

#[test]
fn a_panic_gives_no_value_away() {
    let (mut panics, mut with_values) = (0, 0);
    for number in 5..=8 {
        let stage = Stage::new(false);
        // The n-th time that a thread starts another one or a program, it cannot.
        let inject = format!("--inject=clone3:error=EAGAIN:when={number}");
        let trace = stage.trace(&stage.command(ROTATE, OPTIONS[number % 4]), &[&inject]);
        stage.examine(&trace, &inject);
        if trace.done.stderr.contains("panicked at") || trace.done.stderr.contains("panic") {
            assert_ne!(trace.done.code, 0);
            panics += 1;
            let (client, _) = &stage.canaries[1];
            with_values += usize::from(trace.seen(client).iter().any(|(program, _, _)| *program == "op"));
        }
    }
    assert!(panics > 1 && with_values > 0, "{panics} panics, of which {with_values} with values in memory");
}

#[test]
fn files_to_begin_with_hold_no_value() {
    let stage = Stage::new(false);
    let template: String = ["OPENWORK_TOKEN", "DSN", "FREE_TEXT"]
        .iter()
        .zip(["client-token", "dsn", "stdin"])
        .map(|(name, value)| format!("{name}='{}'\n", stage.value(value)))
        .collect();
    let template = stage.aside.write("real.env", template + &format!("TLS_KEY=\"{}\"\n", stage.value("tls-key")));
    for options in OPTIONS {
        stage.run(&["import", template.to_str().unwrap()], options).done.ok();
        stage.run(&["init", "--output", "-"], options).done.ok();
    }
    stage.run(&["init"], OPTIONS[0]).done.ok();
    // By the standard input, with a line that is no assignment.
    stage.run(&["import", "-"], OPTIONS[1]).done.ended(2);
}

#[test]
fn an_identity_from_1password_stays_in_memory() {
    let bench = Bench::new();
    std::fs::write(bench.tree.join("file"), "content").unwrap();
    bench.take();
    let stage = Stage::new(false);
    let text = std::fs::read_to_string(&bench.identity).unwrap();
    let identity = text.lines().find(|line| line.starts_with("AGE-SECRET-KEY-")).unwrap().to_owned();
    let item = stage.scene.op.item(&stage.scene.vault, "recovery", &[("identity", &text), ("broken", &identity[..60])]);
    let mut canaries = stage.canaries.clone();
    canaries.push((Canary::of("the identity", &identity), Way::ReadOnly));
    let stage = Stage { canaries, ..stage };
    for (field, code) in [("identity", 0), ("broken", 12), ("missing", 10)] {
        for options in [OPTIONS[1], OPTIONS[2]] {
            let mut command = bench.command();
            command
                .args(["check", "--level", "decrypt", "--identity", &format!("op://Team/recovery/{field}")])
                .args(options);
            stage.prepare(&mut command);
            let trace = stage.trace(&command, &[]);
            stage.examine(&trace, field);
            trace.done.ended(code);
        }
    }
    let mut command = bench.command();
    command.args(["check", "--level", "decrypt", "--identity", &format!("op://Team/{item}/identity")]);
    stage.prepare(&mut command);
    left_of(&stage, &command);
}
