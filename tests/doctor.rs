//! `doctor` on variables, volume and sidecars: a sound deployment passes, and each thing that would lose data is found, with what
//! to do.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

mod support;

#[path = "support/deployment.rs"]
mod deployment;
#[path = "support/stub_store.rs"]
mod stub_store;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use deployment::{Deployment, HOST_TOKEN, TOKEN, add_recipient, assert_check, check, checks, create_only, those};
use opsctl::archive::hash::Hash;
use opsctl::config::Profile;
use serde_json::json;
use stub_store::{Reply, Server, StubStore, Turn, error};
use support::opsctl::{Bench, Mounted, noise, run, stat_of};
use support::tree::{Tree, assert_equal};

#[test]
fn a_sound_deployment_passes_also_strictly_and_nothing_is_changed() {
    let it = Deployment::on_volume("64m");
    add_recipient(&it.bench);
    let mut taken = it.bench.snapshot_of(&it.root, [""; 0]);
    taken.env("OPSCTL_STATE_DIR", it.root.join(".opsctl"));
    run(taken).ok();
    let store = StubStore::with(&it.bench.store, create_only);
    let (before, objects) = (Tree::read(&it.root), it.bench.objects());

    let mut command = it.command(&["--strict", "--max-age", "1h"]);
    command.envs(store.env());
    let done = run(command).ok();
    assert_eq!(done.text("verdict"), "passed");
    assert_eq!(those(&done, "warning").union(&those(&done, "failed")).count(), 0, "{}", done.stdout);
    assert_check(&done, "store.delete", "ok", "refused");
    assert_check(&done, "store.overwrite", "ok", "refused");
    assert_check(&done, "store.clock", "ok", "agree");
    assert_check(&done, "store.age", "ok", "ago");
    assert_check(&done, "volume.mount", "ok", "of its own");
    assert_equal(&before, &Tree::read(&it.root));

    // One scratch object however often it runs in an hour, and perhaps the hour ends meanwhile.
    for _ in 0..2 {
        let mut command = it.command(&[]);
        command.envs(store.env());
        assert!(check(&run(command).ok(), "store.put").1.contains("probe/"));
    }
    let mut after = it.bench.objects();
    after.retain(|object| !objects.contains(object));
    assert!(
        (1..=2).contains(&after.len()) && after.iter().all(|(name, size)| name.starts_with("probe/") && *size == 14)
    );
}

#[test]
fn every_check_is_named_in_the_documentation() {
    let it = Deployment::new();
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/doctor.md")).unwrap();
    for name in checks(&it.doctor(&[])).keys() {
        let (subject, _) = name.split_once('.').unwrap();
        let is_general = page.contains(&format!("`{subject}.<"));
        assert!(page.contains(&format!("`{name}`")) || is_general, "docs/doctor.md does not name {name}");
    }
}

#[test]
fn every_variable_that_is_missing_is_found() {
    let it = Deployment::new();
    let sound = it.doctor(&[]).ok();
    let failed = [
        "OPENWORK_WORKSPACE",
        "OPENWORK_DATA_DIR",
        "OPENWORK_SIDECAR_DIR",
        "OPENWORK_TOKEN",
        "OPENWORK_HOST_TOKEN",
        "OPENWORK_SERVER_CONFIG",
        "OPENWORK_TOKEN_STORE",
        "XDG_DATA_HOME",
        "XDG_CONFIG_HOME",
        "XDG_STATE_HOME",
    ];
    for (name, status) in failed.map(|name| (name, "failed")).into_iter().chain([
        ("OPENWORK_APPROVAL_MODE", "warning"),
        ("OPENWORK_CORS_ORIGINS", "warning"),
        // With XDG_CONFIG_HOME its default is on the volume.
        ("OPENWORK_ENV_STORE", "ok"),
    ]) {
        let done = it.with(&[(name, None)]).ended(i32::from(status == "failed"));
        assert_check(&done, &format!("var.{name}"), status, "is not set");
        if status == "failed" {
            assert!(check(&done, &format!("var.{name}")).1.contains(&format!("set {name}")), "the fix names it");
            assert!(!those(&sound, "failed").contains(&format!("var.{name}")));
        }
    }
    let done = it.with(&[("OPENWORK_ENV_STORE", None), ("XDG_CONFIG_HOME", None)]).ended(1);
    assert_check(&done, "var.OPENWORK_ENV_STORE", "failed", "set OPENWORK_ENV_STORE=");
    let all: Vec<_> =
        it.variables.keys().filter(|name| **name != "OPENWORK_SIDECAR_SOURCE").map(|name| (*name, None)).collect();
    let done = it.with(&all).ended(1);
    assert_eq!(those(&done, "failed").iter().filter(|name| name.starts_with("var.")).count(), 11, "{}", done.stdout);
    // An empty one is a missing one; and one condition makes the other needed.
    assert_check(&it.with(&[("OPENWORK_TOKEN", Some(""))]).ended(1), "var.OPENWORK_TOKEN", "failed", "is not set");
    let done = it.with(&[("OPENWORK_OPENCODE_USERNAME", Some("opencode"))]).ended(1);
    assert_check(&done, "var.OPENWORK_OPENCODE_PASSWORD", "failed", "set OPENWORK_OPENCODE_PASSWORD");
}

#[test]
fn every_variable_that_is_misshapen_is_found() {
    let it = Deployment::new();
    let root = it.root.to_str().unwrap().to_owned();
    let outside = it.bench.dir.mkdir("outside");
    symlink(&outside, it.root.join("way-out")).unwrap();
    let cases: Vec<(&str, String, &str, &str)> = vec![
        ("OPENWORK_WORKSPACE", root.clone(), "failed", "not at or below"),
        ("OPENWORK_WORKSPACE", format!("{root}/workspace/../x"), "failed", "`..`"),
        ("OPENWORK_WORKSPACE", format!("{root}/workspace/team"), "ok", "is "),
        ("OPENWORK_DATA_DIR", "/var/lib/openwork".into(), "failed", "not at or below"),
        ("OPENWORK_DATA_DIR", "openwork".into(), "failed", "no absolute path"),
        ("OPENWORK_DATA_DIR", format!("{root}/way-out/x"), "failed", "by a link"),
        ("OPENWORK_SIDECAR_DIR", "/tmp/sidecars".into(), "failed", "not at or below"),
        ("OPENWORK_TOKEN_STORE", "/tmp/tokens.json".into(), "failed", "not at or below"),
        ("OPENWORK_APPROVAL_MODE", "auto".into(), "warning", "the contract asks for manual"),
        ("OPENWORK_APPROVAL_MODE", "never".into(), "failed", "is none of"),
        ("OPENWORK_APPROVAL_TIMEOUT_MS", "soon".into(), "failed", "no whole number"),
        ("OPENWORK_APPROVAL_TIMEOUT_MS", "60000".into(), "ok", "is 60000"),
        ("OPENWORK_CORS_ORIGINS", "*".into(), "warning", "every web page"),
        ("OPENWORK_CORS_ORIGINS", "work.example.com".into(), "failed", "no origin"),
        ("OPENWORK_SIDECAR_SOURCE", "somewhere".into(), "failed", "is none of"),
        ("OPENWORK_TOKEN", "correct-horse".into(), "failed", "bytes of entropy"),
        ("OPENWORK_TOKEN", "a".repeat(64), "failed", "bytes of entropy"),
        ("OPENWORK_TOKEN", format!("changeme-{HOST_TOKEN}"), "failed", "placeholder"),
        ("OPENWORK_TOKEN", format!("{TOKEN} "), "failed", "white space"),
        ("OPENWORK_TOKEN", HOST_TOKEN.into(), "failed", "the same value as OPENWORK_HOST_TOKEN"),
    ];
    for (name, value, status, says) in cases {
        let done = it.with(&[(name, Some(&value))]).ended(i32::from(status == "failed"));
        assert_check(&done, &format!("var.{name}"), status, says);
        let is_secret = name == "OPENWORK_TOKEN";
        assert!(!is_secret || !done.says(value.trim()), "the value of {name} is repeated: {}", done.stdout);
    }
}

#[test]
fn sessions_outside_the_volume_fail_and_say_which_variable_to_set() {
    let it = Deployment::new();
    let home = it.bench.dir.mkdir("home");
    let home_text = home.to_str().unwrap().to_owned();
    let gone = [("XDG_DATA_HOME", None), ("HOME", Some(home_text.as_str()))];
    let done = it.with(&gone).ended(1);
    let fix = format!("set XDG_DATA_HOME={}/xdg/share", it.root.display());
    assert_check(&done, "location.sessions", "failed", &fix);
    assert_check(&done, "location.sessions", "failed", "by HOME");
    assert_check(&done, "location.provider-credentials", "failed", &fix);
    assert!(!check(&done, "location.sessions").1.contains("move"), "nothing is there to be moved");
    // Where sessions are already: with the variable alone they would be gone.
    let database = home.join(".local/share/opencode/opencode.db");
    fs::create_dir_all(database.parent().unwrap()).unwrap();
    sqlite(&database, "CREATE TABLE session(id)");
    assert_check(&it.with(&gone).ended(1), "location.sessions", "failed", "stop the service, move");
    // The other ways onto the volume.
    let inside = it.root.join("home");
    let done = it.with(&[("XDG_DATA_HOME", None), ("HOME", Some(inside.to_str().unwrap()))]).ok();
    assert_check(&done, "location.sessions", "ok", "by HOME");
    assert_check(&done, "var.XDG_DATA_HOME", "ok", "on the volume all the same");
    let own = it.root.join("own.db");
    let done = it.with(&[("OPENCODE_DB", Some(own.to_str().unwrap()))]).ok();
    assert_check(&done, "location.sessions", "ok", "from version 1.17 on");
    // A way that only looks like one: the first variable that is set counts, and links are followed.
    let done = it.with(&[("OPENCODE_DB", Some("/tmp/elsewhere.db"))]).ended(1);
    assert_check(&done, "location.sessions", "failed", "by OPENCODE_DB");
    let done = it.with(&[("OPENCODE_DB", Some("mine.db"))]).ended(1);
    assert_check(&done, "location.sessions", "failed", "no absolute path");
    symlink(&home, it.root.join("linked")).unwrap();
    let linked = it.root.join("linked");
    let done = it.with(&[("XDG_DATA_HOME", Some(linked.to_str().unwrap()))]).ended(1);
    assert_check(&done, "location.sessions", "failed", "not on the volume");
    for (name, location) in [
        ("OPENWORK_ENV_STORE", "service-credentials"),
        ("XDG_CONFIG_HOME", "config"),
        ("OPENWORK_SERVER_CONFIG", "runtime"),
    ] {
        let done = it.with(&[(name, Some("/tmp/elsewhere/x"))]).ended(1);
        assert_check(&done, &format!("location.{location}"), "failed", &format!("by {name}"));
    }
    assert_check(&it.with(&[("XDG_STATE_HOME", None)]), "location.state", "warning", "set XDG_STATE_HOME=");
    let nowhere: Vec<_> = ["XDG_DATA_HOME", "HOME"].map(|name| (name, None)).into();
    assert_check(&it.with(&nowhere).ended(1), "location.sessions", "failed", "nobody knows where");
}

fn sqlite(path: &Path, statements: &str) {
    let made =
        Command::new("sqlite3").arg(path).arg(statements).output().expect("sqlite3 is missing: run `make tools`");
    assert!(made.status.success(), "{made:?}");
}

#[test]
fn broken_files_that_the_service_would_not_complain_about_are_found() {
    let it = Deployment::new();
    let at = |path: &str| it.root.join(path);
    let sound = it.doctor(&[]).ok();
    assert_check(&sound, "file.openwork-server/tokens.json", "ok", "reads as JSON");
    assert_check(&sound, "file.openwork-server/runtime.sqlite", "ok", "not there yet");
    assert!(!checks(&sound).contains_key("file.tokens"), "a file of the contract is looked at once");
    let (tokens, server) = ("openwork-server/tokens.json", "openwork-server/server.json");
    for (path, content) in [
        (tokens, "{\"tokens\":[{\"id\":\"leak-me-not"),
        (tokens, ""),
        (tokens, "null"),
        (server, "{\"workspaces\":["),
        (server, "\0\0\0\0"),
    ] {
        let good = fs::read(at(path)).unwrap();
        fs::write(at(path), content).unwrap();
        let done = it.doctor(&[]).ended(1);
        assert_check(&done, &format!("file.{path}"), "failed", &format!("opsctl restore --include {path}"));
        assert!(!done.says("leak-me-not"));
        assert_eq!(those(&done, "failed").len(), 1, "{}", done.stdout);
        fs::write(at(path), good).unwrap();
    }
    let runtime = at("openwork-server/runtime.sqlite");
    fs::write(&runtime, noise(8192, 1)).unwrap();
    assert_check(&it.doctor(&[]).ended(1), "file.openwork-server/runtime.sqlite", "failed", "is broken");
    fs::remove_file(&runtime).unwrap();
    sqlite(&runtime, "CREATE TABLE t(x)");
    assert_check(&it.doctor(&[]).ok(), "file.openwork-server/runtime.sqlite", "ok", "intact database");
    // A damaged page in the middle of the sessions.
    let sessions = at("xdg/share/opencode/opencode.db");
    let rows = "CREATE TABLE session(id, t); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<2000) \
                INSERT INTO session SELECT i, hex(randomblob(100)) FROM n; CREATE INDEX i ON session(t);";
    sqlite(&sessions, rows);
    assert_check(&it.doctor(&[]).ok(), "file.sessions", "ok", "intact database");
    let mut bytes = fs::read(&sessions).unwrap();
    let middle = bytes.len() / 2 / 4096 * 4096;
    bytes[middle..middle + 4096].copy_from_slice(&noise(4096, 2));
    fs::write(&sessions, bytes).unwrap();
    assert_check(&it.doctor(&[]).ended(1), "file.sessions", "failed", "is broken");
    // Folders.
    fs::remove_dir_all(at("workspace")).unwrap();
    assert_check(&it.doctor(&[]).ended(1), "file.workspace", "failed", "mkdir -p");
    fs::write(at("workspace"), "").unwrap();
    assert_check(&it.doctor(&[]).ended(1), "file.workspace", "failed", "is no folder");
}

#[test]
fn a_database_in_use_is_checked_and_not_touched() {
    let it = Deployment::new();
    let sessions = it.root.join("xdg/share/opencode/opencode.db");
    let live = rusqlite::Connection::open(&sessions).unwrap();
    live.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE session(id); INSERT INTO session VALUES (1)").unwrap();
    let files = ["", "-wal", "-shm"].map(|end| PathBuf::from(format!("{}{end}", sessions.display())));
    let before = files.each_ref().map(|file| stat_of(file));
    live.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert_check(&it.doctor(&[]).ok(), "file.sessions", "ok", "intact database");
    assert_eq!(files.each_ref().map(|file| stat_of(file)), before);
    live.execute_batch("COMMIT").unwrap();
}

#[test]
fn a_volume_that_takes_no_file_is_found() {
    let mut it = Deployment::new();
    let read_only = it.bench.dir.mkdir("read-only");
    it.mounted = Some(Mounted::read_only(&it.root, &read_only));
    let profile = fs::read_to_string(&it.profile).unwrap();
    let root = it.root.to_str().unwrap();
    fs::write(&it.profile, profile.replace(&format!("\"{root}"), &format!("\"{}", read_only.display()))).unwrap();
    let done = it.doctor(&[]).ended(1);
    assert_check(&done, "file.scratch", "failed", "takes no file");
    assert_check(&done, "file.workspace", "failed", "cannot be written to");
    assert_check(&done, "file.openwork-server/runtime.sqlite", "failed", "cannot be made");
}

#[test]
fn too_little_room_is_found() {
    let it = Deployment::on_volume("16m");
    assert_check(&it.doctor(&[]).ok(), "space.restore", "ok", "free beside");
    assert_check(&it.doctor(&[]).ok(), "space.snapshot", "ok", "needed");
    fs::write(it.root.join("workspace/big"), noise(9 << 20, 3)).unwrap();
    let done = it.doctor(&[]).ok();
    assert_check(&done, "space.restore", "warning", "would not fit");
    assert_check(&done, "space.snapshot", "ok", "needed");
    // A database is copied, perhaps twice, before it is stored.
    fs::remove_file(it.root.join("workspace/big")).unwrap();
    sqlite(&it.root.join("workspace/big.db"), "CREATE TABLE t(x); INSERT INTO t VALUES (randomblob(6000000))");
    assert_check(&it.doctor(&[]).ended(1), "space.snapshot", "failed", "--state-dir");
    let elsewhere = it.bench.dir.mkdir("elsewhere");
    let done = it.doctor(&["--state-dir", elsewhere.to_str().unwrap()]).ok();
    assert_check(&done, "space.snapshot", "ok", "elsewhere");
}

/// A manifest of one program for this machine.
fn manifest(content: &[u8]) -> String {
    let target = opsctl::providers::sidecars::this_target();
    let file = json!({"asset": "openwork-server", "sha256": Hash::of(content).to_string(), "size": content.len()});
    json!({"version": "0.18.1", "entries": {"openwork-server": {"version": "0.18.1", "targets": {target: file}}}})
        .to_string()
}

#[test]
fn a_sidecar_cache_is_compared_with_its_manifest() {
    let it = Deployment::new();
    let program = noise(100_000, 4);
    let file = it.bench.dir.write("manifest.json", manifest(&program));
    let file = file.to_str().unwrap().to_owned();
    let target = opsctl::providers::sidecars::this_target();
    let cached = it.root.join("sidecars/0.18.1").join(target).join("openwork-server");
    let doctor = || it.doctor(&["--sidecar-manifest", &file]);
    assert_check(&it.doctor(&[]).ok(), "sidecars.cache", "skipped", "--sidecar-manifest");
    assert_check(&doctor().ok(), "sidecars.cache", "warning", "missing");
    fs::create_dir_all(cached.parent().unwrap()).unwrap();
    fs::write(&cached, &program).unwrap();
    assert_check(&doctor().ok(), "sidecars.cache", "ok", "1 program");
    let mut damaged = program.clone();
    damaged[50_000] ^= 1;
    fs::write(&cached, &damaged).unwrap();
    assert_check(&doctor().ended(1), "sidecars.cache", "failed", "delete them");
    fs::write(&cached, &program[..99_999]).unwrap();
    assert_check(&doctor().ended(1), "sidecars.cache", "failed", "delete them");
    let nonsense = it.bench.dir.write("nonsense.json", "[]");
    let done = it.doctor(&["--sidecar-manifest", nonsense.to_str().unwrap()]).ended(1);
    assert_check(&done, "sidecars.cache", "failed", "no manifest");
    // The variable says where the cache is.
    let elsewhere = it.root.join("elsewhere");
    let mut command = it.command(&["--sidecar-manifest", &file]);
    command.env("OPENWORK_SIDECAR_DIR", &elsewhere);
    assert_check(&run(command).ok(), "sidecars.cache", "warning", "elsewhere");
}

#[test]
fn the_source_of_sidecars_must_answer_where_they_are_downloaded() {
    let it = Deployment::new();
    let program = noise(1000, 5);
    let text = manifest(&program);
    let source = Server::start(move |request, _| match request.target.as_str() {
        "/m/sidecars.json" | "/base/openwork-orchestrator-sidecars.json" => {
            Reply::Send("200 OK".into(), text.clone().into_bytes())
        }
        "/broken" => Reply::Send("503 Service Unavailable".into(), Vec::new()),
        _ => Reply::Send("404 Not Found".into(), Vec::new()),
    });
    let at = |path: &str| format!("http://127.0.0.1:{}{path}", source.port);
    let (downloaded, variable, base) =
        (Some("downloaded"), "OPENWORK_SIDECAR_MANIFEST_URL", "OPENWORK_SIDECAR_BASE_URL");
    let with =
        |name: &'static str, path: &str| it.with(&[("OPENWORK_SIDECAR_SOURCE", downloaded), (name, Some(&at(path)))]);
    assert_check(&it.doctor(&[]).ok(), "sidecars.source", "skipped", "OPENWORK_SIDECAR_SOURCE is bundled");
    assert_check(
        &with(variable, "/m/sidecars.json?token=leak-me-not").ended(1),
        "sidecars.source",
        "failed",
        "no manifest where",
    );
    assert!(!with(variable, "/m/x?token=leak-me-not").says("leak-me-not"));
    assert_check(&with(variable, "/m/sidecars.json").ok(), "sidecars.source", "ok", "answers");
    assert_check(&with(base, "/base/").ok(), "sidecars.source", "ok", "answers");
    assert_check(&with(variable, "/broken").ended(1), "sidecars.source", "failed", "503");
    // Unless something else is said they are downloaded.
    assert_check(
        &it.with(&[("OPENWORK_SIDECAR_SOURCE", None), (variable, Some(&at("/nothing")))]).ended(1),
        "sidecars.source",
        "failed",
        "answers",
    );
    let url = at("/m/sidecars.json");
    let done = it.doctor(&["--sidecar-manifest", &url]).ok();
    assert_check(&done, "sidecars.cache", "warning", "missing");
    assert_check(
        &it.doctor(&["--sidecar-manifest", &at("/nothing")]).ended(1),
        "sidecars.cache",
        "failed",
        "no manifest at this URL",
    );
    drop(source);
    let gone = Some("http://127.0.0.1:1/m");
    let done = it.with(&[("OPENWORK_SIDECAR_SOURCE", downloaded), (variable, gone)]).ended(1);
    assert_check(&done, "sidecars.source", "failed", "cannot be reached");
}

#[test]
fn warnings_fail_only_where_that_is_asked_for() {
    let it = Deployment::new();
    let done = it.doctor(&[]).ok();
    assert!(!those(&done, "warning").is_empty() && those(&done, "failed").is_empty());
    assert_eq!(done.text("verdict"), "passed");
    let strict = it.doctor(&["--strict"]).ended(1);
    assert_eq!(strict.text("verdict"), "failed");
    assert_eq!(those(&strict, "warning"), those(&done, "warning"));
}

#[test]
fn no_secret_is_ever_said() {
    let it = Deployment::new();
    it.bench.take();
    let key = fs::read_to_string(&it.bench.key).unwrap();
    let identity = fs::read_to_string(&it.bench.identity).unwrap();
    let secrets: Vec<(&str, String)> = vec![
        ("OPENWORK_TOKEN", "weak-but-secret-1234".into()),
        ("OPENWORK_HOST_TOKEN", format!("<{HOST_TOKEN}>")),
        ("OPENWORK_OPENCODE_USERNAME", " padded-secret-user ".into()),
        ("OPENWORK_OPENCODE_PASSWORD", "opencode-secret-password".into()),
        ("AWS_SECRET_ACCESS_KEY", "aws-secret-access-key".into()),
        ("OPSCTL_IDENTITY", identity),
        ("OPSCTL_SIGNING_KEY", key),
    ];
    let store = StubStore::with(&it.bench.store, |_, _| Turn::Instead(error("403 Forbidden", "AccessDenied")));
    for (json, remote) in [(true, false), (false, false), (true, true)] {
        let mut command = it.command(&["-vvv"]);
        command.env_remove("OPSCTL_SIGNING_KEY_FILE").env_remove("OPSCTL_JSON");
        if remote {
            command.envs(store.env());
        }
        command.envs(secrets.iter().map(|(name, value)| (name, value)));
        if !json {
            // Without --json, which is the second argument.
            let args: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
            let mut text = support::opsctl_process();
            text.args(args.into_iter().filter(|arg| arg != "--json"));
            text.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
            command = text;
        }
        let done = run(command).ended(1);
        assert!(done.says("var.OPENWORK_TOKEN") && done.says("failed"), "{}", done.stdout);
        let pieces =
            secrets.iter().flat_map(|(_, value)| value.lines()).map(str::trim).filter(|line| !line.starts_with('#'));
        for piece in pieces.filter(|piece| piece.len() > 8 && !piece.starts_with("untrusted comment")) {
            assert!(!done.says(piece), "{piece} in:\n{}\n{}", done.stdout, done.stderr);
        }
    }
}

#[test]
fn one_of_several_services_has_to_be_named() {
    let bench = Bench::new();
    let doctor = |profile: &str, env: &[(&str, &str)]| {
        let mut command = bench.command();
        command.args(["doctor", "--json", "--profile", profile]).envs(env.iter().copied());
        run(command)
    };
    let message = doctor("clawwork", &[]).ended(2).error();
    assert!(message.contains("clawwork-api, openos-web") && message.contains("--profile clawwork:"), "{message}");
    let done = doctor("clawwork:openos-web", &[("CLAWWORK_INTERNAL_URL", "http://clawwork-api.railway.internal:8000")]);
    assert_check(&done, "var.CLAWWORK_INTERNAL_URL", "ok", "is set");
    assert_check(&done, "volume.mount", "failed", "/app/data");
    // A service that keeps nothing has no volume to look at.
    let names: BTreeSet<String> = checks(&doctor("open-cowork:scheduler", &[])).into_keys().collect();
    assert!(names.iter().all(|name| ["var", "store", "keys"].contains(&name.split('.').next().unwrap())), "{names:?}");
    assert_eq!(Profile::load("open-cowork").unwrap().services.len(), 4);
}

#[test]
fn the_text_for_people_lists_what_to_do() {
    let it = Deployment::new();
    let mut command = it.bench.command();
    command.args(["doctor", "--profile"]).arg(&it.profile).envs(&it.variables);
    command.env_remove("HOME").env("OPSCTL_SIGNING_KEY_FILE", &it.bench.key);
    command.env_remove("OPENWORK_TOKEN");
    let done = run(command).ended(1);
    let last = done.stdout.lines().last().unwrap();
    assert!(last.starts_with("failed: 1 failed, "), "{}", done.stdout);
    assert!(
        done.stdout.lines().any(|line| line.starts_with("FAILED var.OPENWORK_TOKEN: set OPENWORK_TOKEN")),
        "{}",
        done.stdout
    );
    assert!(done.stdout.starts_with("CHECK"), "{}", done.stdout);
}
