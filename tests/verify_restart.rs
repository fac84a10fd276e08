//! `opsctl verify --restart-cmd`: whether it was a restart, and what becomes of its command.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod support;

#[path = "support/openwork/mod.rs"]
mod openwork;
#[path = "support/stub_store.rs"]
mod stub_store;
#[path = "support/verifier.rs"]
mod verifier;

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use openwork::{Engine, OpenWork, Version, forward};
use rustix::process::Signal;
use serde_json::json;
use stub_store::{Reply, Server};
use support::ask::ask;
use support::opsctl::Guarded;
use support::{TestDir, signal, wait_for};
use verifier::{command, verified};

const SOON: Duration = Duration::from_secs(60);

fn site() -> (TestDir, OpenWork) {
    let dir = TestDir::new();
    let data = dir.mkdir("data");
    let engine = Engine::memory("1.17.11", &data.join("workspace"), &["ses_a".to_owned()]);
    let work = OpenWork::boot(Version::V0_18_16, &data, engine);
    (dir, work)
}

#[test]
fn a_command_that_restarts_nothing_is_no_restart() {
    let (_dir, work) = site();
    let done = verified(&work.url(), &work.env(), &["--restart-cmd", "true", "--timeout", "2s"]).failed(&["restart"]);
    let detail = done.detail("restart");
    assert!(detail.starts_with("it was not restarted: it has run for "), "{detail}");
    assert!(detail.contains(", and the command began ") && done.fix("restart").contains("ends the process"));
}

#[test]
fn a_restart_that_goes_on_behind_its_command_is_waited_for() {
    let (_dir, work) = site();
    let later = format!("(sleep 1; {}) </dev/null >/dev/null 2>&1 &", work.restart_command());
    let done = verified(&work.url(), &work.env(), &["--restart-cmd", &later, "--timeout", "30s"]).passed();
    assert!(done.detail("restart").starts_with("1 session, 0 tokens, 1 workspace are still there"));
    assert_eq!(done.with("warning"), [""; 0]);
}

#[test]
fn where_nobody_tells_an_uptime_a_restart_is_not_proved_and_that_is_said() {
    let (dir, work) = site();
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/profiles/openwork.toml")).unwrap();
    let pointer = "uptime_ms = \"/uptimeMs\"\n";
    assert!(text.contains(pointer));
    let without = dir.write("without.toml", text.replace(pointer, ""));
    let restart = work.restart_command();
    let args = ["--restart-cmd", &restart];
    let of_profile =
        verified(&work.url(), &work.env(), &[&args[..], &["--profile", without.to_str().unwrap()]].concat());
    let url = work.url();
    let mute = Server::start(move |request, _| {
        let names = ["authorization", "x-openwork-host-token"];
        let headers: Vec<(&str, &str)> =
            names.iter().filter_map(|name| Some((*name, request.headers.get(*name)?.as_str()))).collect();
        let answer = ask(&request.method, &format!("{url}{}", request.target), &headers, b"");
        let body = String::from_utf8(answer.body).unwrap().replace("uptimeMs", "up");
        Reply::Send(format!("{} Forwarded\r\nContent-Type: {}", answer.status, answer.content_type), body.into())
    });
    let of_answer = verified(&format!("http://127.0.0.1:{}", mute.port), &work.env(), &args);
    for done in [of_profile, of_answer] {
        let done = done.passed();
        assert_eq!(done.status("restart"), "warning");
        assert!(done.detail("restart").contains("whether it was restarted at all is not proved"));
    }
}

#[test]
fn what_could_not_be_read_before_the_restart_is_said() {
    let (_dir, work) = site();
    let mut env = work.env();
    env.retain(|(name, _)| *name != "OPENWORK_HOST_TOKEN");
    let done = verified(&work.url(), &env, &["--restart-cmd", &work.restart_command()]).is("inconclusive");
    assert_eq!(done.status("restart"), "skipped", "what was asked for was not done");
    let detail = done.detail("restart");
    assert!(detail.contains("not compared: tokens (no token of `host`: set OPENWORK_HOST_TOKEN"), "{detail}");
    let audit = format!("/workspace/{}/audit", work.workspace_id());
    work.fault(|faults| faults.endless = Some(audit));
    let done = verified(&work.url(), &work.env(), &["--restart-cmd", &work.restart_command()]).is("failed");
    assert!(done.detail("restart").contains("not compared: the audit log of ws_"), "{}", done.detail("restart"));
}

/// In front of `work`: before the restart, and after it, these lists of messages.
fn with_messages(work: &OpenWork, flag: &Path, then: usize, now: Option<usize>) -> Server {
    let (url, flag) = (work.url(), flag.to_owned());
    Server::start(move |request, body| {
        if !request.target.ends_with("/session/ses_a/message") {
            return forward(&url, request, body);
        }
        match if flag.exists() { now } else { Some(then) } {
            Some(number) => Reply::Send("200 OK".to_owned(), json!(vec![json!({}); number]).to_string().into()),
            None => Reply::Send("500 Internal Server Error".to_owned(), Vec::new()),
        }
    })
}

#[test]
fn a_restart_that_costs_a_message_has_lost_something() {
    for (now, verdict) in [(Some(3), "passed"), (Some(4), "passed"), (Some(2), "failed"), (None, "inconclusive")] {
        let (dir, work) = site();
        let flag = dir.join("restarted");
        let front = with_messages(&work, &flag, 3, now);
        let restart = format!("touch '{}'; {}", flag.display(), work.restart_command());
        let url = format!("http://127.0.0.1:{}", front.port);
        let done = verified(&url, &work.env(), &["--restart-cmd", &restart]).is(verdict);
        let detail = done.detail("restart");
        match verdict {
            "failed" => assert_eq!(detail, "lost in the restart: ses_a has 2 messages where 3 were there"),
            "inconclusive" => assert!(detail.contains("not compared: the messages of every session (/w/"), "{detail}"),
            _ => assert_eq!(done.status("restart"), "ok", "{detail}"),
        }
    }
}

#[test]
fn sessions_that_nobody_can_find_after_the_restart_are_not_still_there() {
    let (dir, work) = site();
    let flag = dir.join("restarted");
    let (inner, seen) = (work.url(), flag.clone());
    let list = format!("/w/{}/opencode/session?limit=", work.workspace_id());
    let front = Server::start(move |request, body| match request.target.starts_with(&list) && seen.exists() {
        true => Reply::Never,
        false => forward(&inner, request, body),
    });
    let restart = format!("touch '{}'; {}", flag.display(), work.restart_command());
    let url = format!("http://127.0.0.1:{}", front.port);
    let done = verified(&url, &work.env(), &["--restart-cmd", &restart, "--timeout", "2s"]).is("inconclusive");
    assert_eq!(done.with("skipped"), ["restart"], "{}", done.0.stdout);
    assert!(done.detail("restart").contains("not compared: sessions (/w/"), "{}", done.detail("restart"));
}

#[test]
fn a_command_that_hangs_is_said_to_and_ends_with_the_run_and_with_its_children() {
    let (dir, work) = site();
    let pid = dir.join("pid");
    let hang =
        format!("sleep 600 & echo $! > '{0}.part'; mv '{0}.part' '{0}'; trap '' TERM; wait; wait", pid.display());
    let inner = command(&work.url(), &work.env(), &["--restart-cmd", &hang]);
    // Without a terminal, as by a scheduler: who starts the tests may have one.
    let mut outer = Command::new("setsid");
    outer.arg(inner.get_program()).args(inner.get_args()).env_clear();
    outer.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mut run = Guarded::spawn(&mut outer);
    let mut lines = BufReader::new(run.0.stderr.take().unwrap()).lines();
    let said = lines.find_map(|line| line.ok().filter(|line| line.contains("--restart-cmd has run for 10")));
    assert!(said.unwrap().ends_with("has no time limit; Ctrl-C ends it"));
    let sleeps = std::fs::read_to_string(&pid).unwrap().trim().to_owned();
    let runs = || Path::new(&format!("/proc/{sleeps}/exe")).read_link().is_ok();
    assert!(runs());
    signal(&run.0, Signal::INT);
    let code = wait_for("the end", SOON, || run.0.try_wait().unwrap()).code();
    assert_eq!(code, Some(130));
    wait_for("the end of its children", SOON, || (!runs()).then_some(()));
}
