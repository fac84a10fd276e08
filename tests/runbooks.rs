//! Every command of the runbooks runs: the `sh` blocks of each, from top to bottom, in one shell.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

mod support;

#[path = "support/cycle.rs"]
mod cycle;
#[path = "support/openwork/mod.rs"]
mod openwork;
#[path = "support/runbook.rs"]
mod runbook;
#[path = "support/stub_store.rs"]
mod stub_store;

use std::collections::BTreeSet;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cycle::{SOURCE, Site, run};
use openwork::{CLIENT, Engine, HOST, OpenWork, Version, forward};
use runbook::{blocks, path_with_opsctl};
use stub_store::{Reply, Server};
use support::tree::{Tree, assert_equal};
use support::{TestDir, clean_env};

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Runs all `sh` blocks of a runbook in a folder, where `runbooks/` is that of the repository, and returns what they said.
fn run_blocks(name: &str, dir: &TestDir, variables: &[(&str, String)]) -> String {
    let text = std::fs::read_to_string(repository().join("runbooks").join(name)).unwrap();
    let blocks = blocks(&text, "sh");
    assert!(!blocks.is_empty(), "{name} has no sh block");
    let mut script = String::from("set -eu\n");
    for (at, block) in &blocks {
        script.push_str(&format!("echo '=== {name}:{at}'\n{block}"));
    }
    script.push_str("echo '=== all done'\n");
    let work = dir.mkdir("work");
    symlink(repository().join("runbooks"), work.join("runbooks")).unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", &script]).current_dir(&work).env_clear().envs(clean_env()).env("PATH", path_with_opsctl(dir));
    command.envs(variables.iter().map(|(name, value)| (name, value))).stdin(Stdio::null());
    // Ends when the last process that a block left behind has closed its end.
    let output = command.output().unwrap();
    let said = format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("=== all done"), "{name}: {}\n{said}", output.status);
    said
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

fn sample_data(dir: &TestDir) -> PathBuf {
    let data = dir.join("data");
    run(Command::new("cp").arg("-r").arg(repository().join("fixtures/data")).arg(&data));
    data
}

#[test]
fn scheduled_backups() {
    let dir = TestDir::new();
    let data = sample_data(&dir);
    let variables = [
        ("STORE", dir.file_url("store")),
        ("SECOND_STORE", dir.file_url("second")),
        ("SOURCE", SOURCE.to_owned()),
        ("DATA", text(&data)),
        ("KEYS", text(&dir.mkdir("keys"))),
    ];
    let said = run_blocks("scheduled-backups.md", &dir, &variables);
    assert!(!said.contains("AGE-SECRET-KEY"), "{said}");
    let receipts = |store: &str| {
        let names = std::fs::read_dir(dir.join(store).join("snapshots").join(SOURCE)).unwrap();
        names.filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|end| end == "json")).count()
    };
    // One by hand, the others of the entry point, which ended with its service.
    assert!(receipts("store") >= 2, "{said}");
    assert_eq!(receipts("second"), 1);
    assert!(said.contains("\ntrue\n"), "the newest is recent: {said}");
    let recoverable = |path: &[u8]| path.starts_with(b"sidecars");
    let data = Tree::read(&data).without(recoverable);
    assert_equal(&data, &Tree::read(&dir.join("work/restored")).without(recoverable));
    assert!(!dir.join("work/restored/sidecars").exists());
}

#[test]
fn break_glass() {
    let site = Site::new();
    let data = sample_data(&site.dir);
    site.snapshot(&data);
    let fill = data.join("workspace/later.txt");
    std::fs::write(fill, "later\n").unwrap();
    // Something that the script lists and does not restore.
    rustix::fs::setxattr(data.join("workspace"), "user.note", b"value", rustix::fs::XattrFlags::empty()).unwrap();
    site.snapshot(&data);
    let new = site.dir.join("glass");
    let variables = [
        ("STORE", text(&site.store())),
        ("SOURCE", SOURCE.to_owned()),
        ("IDENTITY", text(&site.identity())),
        ("SIGNER", site.signer()),
        ("NEWDIR", text(&new)),
    ];
    let said = run_blocks("break-glass.md", &site.dir, &variables);
    assert!(said.contains("extended attributes: user.note"), "{said}");
    let mut data = Tree::read(&data);
    data.0.values_mut().for_each(|entry| entry.xattrs.clear());
    assert_equal(&data, &Tree::read(&new));
}

#[test]
fn incident_restore() {
    let site = Site::new();
    let data = sample_data(&site.dir);
    // It is of a server at another path, and has no engine.
    std::fs::remove_file(data.join("openwork-server/server.json")).unwrap();
    let sessions = site.dir.mkdir("data/xdg/share/opencode").join("opencode.db");
    let db = rusqlite::Connection::open(sessions).unwrap();
    db.execute_batch("CREATE TABLE session (id text); INSERT INTO session VALUES ('ses_a')").unwrap();
    db.close().unwrap();
    let workspace = data.join("workspace");
    let mut snapshot = site.snapshot_command(&data);
    snapshot.env("XDG_DATA_HOME", data.join("xdg/share")).env("OPENWORK_WORKSPACE", &workspace);
    snapshot.env("OPENWORK_TOKEN_STORE", data.join("openwork-server/tokens.json"));
    let taken = cycle::json(&mut snapshot, 0);
    let good = Tree::read(&data);
    std::fs::remove_dir_all(data.join("workspace/docs")).unwrap();
    std::fs::write(data.join("workspace/opencode.jsonc"), "encrypted by somebody").unwrap();
    // The service is well while it runs, and writes down when it did, and on which data.
    let (running, log, later) = (site.dir.join("running"), site.dir.join("log"), data.join("workspace/docs/notes.md"));
    let health = running.clone();
    let engine = Engine::memory("1.17.11", &workspace, &["ses_a".to_owned()]);
    let work = OpenWork::boot(Version::V0_18_16, &data, engine);
    let url = work.url();
    let service = Server::start(move |request, body| match health.exists() {
        true => forward(&url, request, body),
        false => Reply::HangUp,
    });
    let docs = data.join("workspace/docs");
    let state = format!("if [ -e {} ]; then echo good; else echo bad; fi >>{}", later.display(), log.display());
    let variables = [
        ("STORE", site.url.clone()),
        ("SOURCE", SOURCE.to_owned()),
        ("DATA", text(&data)),
        ("IDENTITY", text(&site.identity())),
        ("AT", site.receipt(cycle::id(&taken))["finished_at"].as_str().unwrap().to_owned()),
        ("NEWDIR", text(&site.dir.join("beside"))),
        // It writes until it is stopped, so that each restore has something to put right.
        (
            "STOP",
            format!(
                "rm -f {}; {state}; mkdir -p {docs}; echo since >{docs}/since",
                running.display(),
                docs = docs.display()
            ),
        ),
        ("START", format!("touch {}; {state}", running.display())),
        ("HEALTH", format!("http://127.0.0.1:{}", service.port)),
        ("CLIENT_TOKEN", CLIENT.to_owned()),
        ("HOST_TOKEN", HOST.to_owned()),
        ("OPENWORK_WORKSPACE", text(&workspace)),
    ];
    let said = run_blocks("incident-restore.md", &site.dir, &variables);
    assert!(said.contains("the service is well") && !said.contains("nothing was done"), "{said}");
    assert!(said.contains("\npassed") && !said.contains("not looked at"), "{said}");
    assert!(
        said.contains("\nin the folder: 0 to add, 0 to change, 0 to remove, "),
        "step 4 finds no difference: {said}"
    );
    // Each stop and start: the restore, the rollback and the rollback of that, and then nothing is wrong any more.
    let log = std::fs::read_to_string(log).unwrap();
    assert_eq!(log, "bad\ngood\ngood\nbad\nbad\ngood\n".to_owned() + &"good\ngood\n".repeat(3));
    // A database is copied by its content, not by its bytes.
    let database = |path: &[u8]| path.ends_with(b"opencode.db");
    assert_equal(&good.without(database), &Tree::read(&data).without(database));
    assert!(site.dir.join("beside/workspace/docs/notes.md").exists());
}

#[test]
fn every_runbook_is_tested() {
    let names = std::fs::read_dir(repository().join("runbooks")).unwrap();
    let names: BTreeSet<_> = names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let books: Vec<_> = names.iter().filter(|name| name.ends_with(".md")).map(String::as_str).collect();
    assert_eq!(
        books,
        ["break-glass.md", "incident-restore.md", "scheduled-backups.md", "secret-rotation.md"],
        "a new runbook needs a test, above or in runbook_secrets.rs"
    );
    for book in books {
        let text = std::fs::read_to_string(repository().join("runbooks").join(book)).unwrap();
        let other = ["bash", "shell", "console", ""].iter().flat_map(|language| blocks(&text, language));
        let lines: Vec<usize> = other.map(|(at, _)| at).collect();
        assert!(lines.is_empty(), "{book}: commands stand in sh blocks, which run here, all else in text: {lines:?}");
    }
}

/// The exit codes that the help of a command names.
fn codes_in_help(words: &[&str]) -> Vec<u8> {
    let help = String::from_utf8(support::opsctl().args(words).arg("--help").output().unwrap().stdout).unwrap();
    let codes = help.split("Exit codes:").nth(1).unwrap().split("\n\n").next().unwrap();
    codes.split(|c: char| !c.is_ascii_alphanumeric()).filter_map(|word| word.parse().ok()).collect()
}

#[test]
fn the_scheduler_s_table_has_every_exit_code_of_a_snapshot() {
    let text = std::fs::read_to_string(repository().join("runbooks/scheduled-backups.md")).unwrap();
    let codes = codes_in_help(&["snapshot"]);
    assert_eq!(codes[0], 0);
    for code in &codes[1..] {
        assert!(text.contains(&format!("\n| {code} | ")), "{code} is not explained");
    }
}

#[test]
fn help_names_every_exit_code_that_a_command_can_end_with() {
    let all: Vec<u8> = opsctl::ExitCode::ALL.iter().map(|code| code.code()).collect();
    assert_eq!(codes_in_help(&[]), all);
    // Of changes that are pending only other commands speak.
    let of_restore: Vec<u8> = all.into_iter().filter(|code| *code != 6).collect();
    assert_eq!(codes_in_help(&["restore"]), of_restore);
    assert_eq!(codes_in_help(&["rollback"]), [0, 1, 2, 4, 10, 11, 14, 130]);
}

#[test]
fn the_table_of_an_incident_has_every_exit_code() {
    let text = std::fs::read_to_string(repository().join("runbooks/incident-restore.md")).unwrap();
    // Of changes that are pending only other commands speak.
    for code in opsctl::ExitCode::ALL.iter().filter(|code| **code != opsctl::ExitCode::Pending) {
        assert!(text.contains(&format!("\n| {} | ", code.code())), "{} is not explained", code.code());
    }
}
