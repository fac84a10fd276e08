//! Where `opsctl verify` takes tokens from, and that none of them shows.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod support;

#[path = "support/openwork/mod.rs"]
mod openwork;
#[path = "support/stub_store.rs"]
mod stub_store;
#[path = "support/verifier.rs"]
mod verifier;

use std::path::PathBuf;
use std::process::Command;

use openwork::{CLIENT, Engine, HOST, OpenWork, Version};
use support::TestDir;
use support::opsctl::{Bench, Done, chmod, run, run_with};
use verifier::{Verified, command};

struct Site {
    dir: TestDir,
    work: OpenWork,
}

impl Site {
    fn new() -> Self {
        let dir = TestDir::new();
        let data = dir.mkdir("data");
        let engine = Engine::memory("1.17.11", &data.join("workspace"), &["ses_a".to_owned()]);
        Self { work: OpenWork::boot(Version::V0_18_16, &data, engine), dir }
    }

    /// `verify` with no token but those that the arguments name.
    fn command(&self, args: &[&str]) -> Command {
        let workspace = ("OPENWORK_WORKSPACE", self.work.workspace().display().to_string());
        command(&self.work.url(), &[workspace], args)
    }

    fn file(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = self.dir.write(name, text);
        chmod(&path, mode);
        path
    }
}

/// Both tokens were taken and believed.
#[track_caller]
fn has_both(done: Done) {
    let done = Verified(done).passed();
    assert_eq!(done.with("skipped"), [""; 0]);
    is_silent(&done.0);
}

#[track_caller]
fn is_silent(done: &Done) {
    for secret in [CLIENT, HOST] {
        assert!(!done.says(secret), "{}\n{}", done.stdout, done.stderr);
    }
}

#[test]
fn tokens_come_from_the_variables_that_the_profile_names() {
    let site = Site::new();
    let mut command = site.command(&["-vv"]);
    // Whoever pastes one ends it with a line feed.
    command.env("OPENWORK_TOKEN", format!("{CLIENT}\n")).env("OPENWORK_HOST_TOKEN", HOST);
    has_both(run(command));
}

#[test]
fn tokens_come_from_private_files_which_go_before_the_variables() {
    let site = Site::new();
    let client = site.file("client", &format!("{CLIENT}\n"), 0o600);
    let host = site.file("host", HOST, 0o400);
    let mut command = site.command(&["-vv"]);
    command.arg("--client-token-file").arg(&client).env("OPSCTL_HOST_TOKEN_FILE", &host);
    command.env("OPENWORK_TOKEN", "somebody-else").env("OPENWORK_HOST_TOKEN", "somebody-else");
    has_both(run(command));
}

#[test]
fn tokens_come_from_standard_input_and_from_inherited_descriptors() {
    let site = Site::new();
    let mut command = site.command(&["--client-token-file", "-"]);
    command.env("OPENWORK_HOST_TOKEN", HOST);
    has_both(run_with(command, format!("{CLIENT}\n")));

    // The shell hands on a pipe as descriptor 3, and a file as descriptor 4: it was opened by whoever may.
    let host = site.file("host", HOST, 0o644);
    let inner = site.command(&["--client-token-file", "/dev/fd/3", "--host-token-file", "/dev/fd/4"]);
    let mut shell = Command::new("sh");
    shell.env_clear();
    let script =
        "token=$1; file=$2; shift 2; printf %s \"$token\" | { exec 3<&0 4<\"$file\"; exec \"$@\" </dev/null; }";
    shell.args(["-c", script, "sh", CLIENT]).arg(&host).arg(inner.get_program()).args(inner.get_args());
    shell.envs(support::clean_env());
    shell.env("OPENWORK_WORKSPACE", site.work.workspace());
    has_both(run(shell));
}

#[test]
fn tokens_of_any_identity_come_from_files_that_are_named_with_it() {
    let site = Site::new();
    let files = [("client", CLIENT), ("host-as-bearer", HOST)]
        .map(|(identity, token)| format!("{identity}={}", site.file(identity, token, 0o600).display()));
    let command = site.command(&["-vv", "--token-file", &files[0], "--token-file", &files[1]]);
    has_both(run(command));
    let mut command = site.command(&["-vv"]);
    command.env("OPSCTL_TOKEN_FILE", files.join("\n"));
    has_both(run(command));
    let with_stdin = site.command(&["--token-file", &files[1], "--token-file", "client=-"]);
    has_both(run_with(with_stdin, CLIENT));
    // Whatever stands there may be a token; one in base64 has an equals sign.
    let own = site.dir.join("client").display().to_string();
    for (wrong, says) in [
        (&["--token-file", CLIENT][..], "IDENTITY=FILE"),
        (&["--token-file", &format!("{CLIENT}=")], "IDENTITY=FILE"),
        (&["--token-file", &format!("{CLIENT}==")], "no such identity; it has: client, host, host-as-bearer"),
        (&["--token-file", &format!("client={CLIENT}")], "not the token itself"),
        (&["--token-file", &files[0], "--client-token-file", &own], "given twice"),
        (&["--token-file", "client=-", "--token-file", "host=-"], "standard input holds something else"),
    ] {
        let done = run_with(site.command(&[wrong, &["-vv"]].concat()), CLIENT).ended(2);
        assert!(done.error().contains("--token-file") && done.error().contains(says), "{}", done.error());
        is_silent(&done);
    }
    chmod(&site.dir.join("client"), 0o644);
    let done = run(site.command(&["--token-file", &files[0]])).ended(12);
    assert!(done.error().contains("can be read or written by others"), "{}", done.error());
}

#[test]
fn a_file_that_others_can_read_is_refused_with_what_to_do() {
    let site = Site::new();
    for mode in [0o640, 0o604, 0o644, 0o620, 0o602] {
        let file = site.file("client", CLIENT, mode);
        let mut command = site.command(&["-vv"]);
        command.arg("--client-token-file").arg(&file);
        let done = run(command).ended(12);
        assert!(done.error().contains("can be read or written by others") && done.error().contains("chmod 600"));
        is_silent(&done);
    }
    assert!(site.work.seen().is_empty(), "nothing was asked");
}

#[test]
fn a_token_in_the_place_of_its_file_is_refused_and_not_repeated() {
    let site = Site::new();
    let done = run(site.command(&["--client-token-file", CLIENT, "-vv"])).ended(2);
    assert!(done.error().contains("--client-token-file") && done.error().contains("not the token itself"));
    is_silent(&done);
}

#[test]
fn what_is_no_token_is_refused_and_not_repeated() {
    let site = Site::new();
    for text in ["", "\n", "hunter2 hunter2", "hunter2\nX-Evil: hunter2", "hunter2\u{e9}", "hunter2\0"] {
        let file = site.file("client", text, 0o600);
        let mut command = site.command(&["-vv"]);
        command.arg("--client-token-file").arg(&file);
        let done = run(command).ended(2);
        assert!(!done.says("hunter2"), "{}", done.stderr);
    }
    let mut command = site.command(&["-vv"]);
    command.env("OPENWORK_TOKEN", "hunter2 hunter2");
    let done = run(command).ended(2);
    assert!(done.error().contains("OPENWORK_TOKEN") && !done.says("hunter2"), "{}", done.stderr);
    assert!(site.work.seen().is_empty(), "nothing was asked");
}

#[test]
fn standard_input_holds_one_thing_only() {
    let site = Site::new();
    let two = site.command(&["--client-token-file", "-", "--host-token-file", "-"]);
    let done = run_with(two, CLIENT).ended(2);
    assert!(done.error().contains("standard input holds something else"), "{}", done.error());
    is_silent(&done);
    let bench = Bench::new();
    let mut with_identity = site.command(&["--client-token-file", "-", "--against", "latest", "--identity", "-"]);
    with_identity.args(["--store", &bench.dir.file_url("store")]);
    run_with(with_identity, CLIENT).ended(2);
}

#[test]
fn a_flag_for_an_identity_that_the_service_does_not_have_is_refused() {
    let site = Site::new();
    let file = site.file("host", HOST, 0o600);
    let profile = "name = \"p\"\ncontract_version = \"1\"\n[[services]]\nname = \"s\"\n\
                   probes = [{ name = \"health\", path = \"/health\", waits = true, expect = [{ status = [200] }] }]\n";
    let profile = site.dir.write("p.toml", profile);
    let mut command = site.command(&["--profile", profile.to_str().unwrap()]);
    command.arg("--host-token-file").arg(&file);
    let done = run(command).ended(2);
    assert!(done.error().contains("--host-token-file") && done.error().contains("no such identity; it has: none"));
}

#[test]
fn a_service_that_repeats_the_token_does_not_make_it_show() {
    let answer = |request: &stub_store::Request| {
        let token =
            request.headers.get("authorization").and_then(|value| value.strip_prefix("Bearer ")).unwrap_or(CLIENT);
        let body = match request.target.as_str() {
            "/health" => format!(r#"{{"ok":true,"version":"{token}"}}"#),
            "/opencode/global/health" => format!(r#"{{"healthy":true,"version":"{token}"}}"#),
            "/workspaces" => format!(r#"{{"items":[{{"id":"{token}","path":"{token}"}}]}}"#),
            target if target.contains("/session?") => format!(r#"[{{"id":"{token}"}}]"#),
            _ => format!(r#"{{"code":"{token}","name":"{token}"}}"#),
        };
        let status = if request.target.contains("/config") { "500 Broken" } else { "200 OK" };
        stub_store::Reply::Send(format!("{status}\r\nContent-Type: application/json"), body.into_bytes())
    };
    let server = stub_store::Server::start(move |request, _| answer(request));
    let env = [("OPENWORK_TOKEN", CLIENT.to_owned()), ("OPENWORK_HOST_TOKEN", HOST.to_owned())];
    let done = run(command(&format!("http://127.0.0.1:{}", server.port), &env, &["-vv"])).ended(5);
    is_silent(&done);
    assert_eq!(done.json["versions"]["server"], "…");
}
