//! Stores that earlier versions wrote restore for ever. Explained in `fixtures/stores/README.md`.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

mod support;

#[path = "support/cycle.rs"]
mod cycle;

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use cycle::{json, python, run};
use serde_json::{Value, json};
use support::TestDir;
use support::tree::{Entry, Kind, Tree};

fn stores() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/stores")
}

fn bytes(entry: &Value, key: &str) -> Option<Vec<u8>> {
    let coded = || base64::engine::general_purpose::STANDARD.decode(entry[format!("{key}_b64")].as_str()?).ok();
    entry[key].as_str().map(|text| text.as_bytes().to_vec()).or_else(coded)
}

/// What the restored entry is, in the words of the listing. Whoever is not root owns what he restores, without setuid.
fn describe(path: &[u8], entry: &Entry, expected: &Value, restored: &Path) -> Value {
    let kind = match entry.kind {
        Kind::File => "file",
        Kind::Dir => "dir",
        Kind::Symlink => "symlink",
        Kind::Fifo => "fifo",
        other => panic!("{other:?}"),
    };
    let mut found = json!({"type": kind, "mode": entry.mode, "uid": entry.uid, "gid": entry.gid});
    found["mtime"] = json!([entry.mtime.0, entry.mtime.1]);
    for key in ["path", "path_b64", "target", "target_b64"] {
        if let Some(value) = expected.get(key) {
            found[key] = value.clone();
        }
    }
    if bytes(expected, "target") != entry.target {
        found["target"] = json!(entry.target.as_ref().map(|target| target.escape_ascii().to_string()));
    }
    if let Some(group) = &entry.link_group {
        found["link_to"] = json!(String::from_utf8(group.clone()).unwrap());
    }
    if !entry.xattrs.is_empty() {
        let value = |value: &Vec<u8>| json!(base64::engine::general_purpose::STANDARD.encode(value));
        let xattrs = entry.xattrs.iter().map(|(name, v)| (String::from_utf8(name.clone()).unwrap(), value(v)));
        found["xattrs"] = Value::Object(xattrs.collect());
    }
    if expected.get("sql").is_some() {
        let database = restored.join(String::from_utf8(path.to_vec()).unwrap());
        let dump = r#"
import json, sqlite3, sys
db = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro&immutable=1", uri=True)
assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
print(json.dumps(list(db.iterdump())))
"#;
        found["sql"] = serde_json::from_str(&python(dump, &[&database])).unwrap();
    } else if let Some(sha256) = &entry.sha256 {
        found["sha256"] = json!(sha256);
        found["size"] = json!(entry.size);
    }
    if !rustix::process::geteuid().is_root() {
        for key in ["uid", "gid"] {
            found[key] = expected[key].clone();
        }
        if entry.mode & 0o6000 == 0 && expected["mode"].as_u64().unwrap() & 0o1777 == u64::from(entry.mode) {
            found["mode"] = expected["mode"].clone();
        }
    }
    found
}

fn restores(fixture: &Path) {
    let name = fixture.file_name().unwrap().to_str().unwrap().to_owned();
    let scratch = TestDir::new();
    run(Command::new("cp").arg("-r").arg(fixture).arg(scratch.join("fixture")));
    let identity = scratch.join("fixture/identity.txt");
    std::fs::set_permissions(&identity, std::fs::Permissions::from_mode(0o600)).unwrap();
    let signer = std::fs::read_to_string(scratch.join("fixture/signer.pub")).unwrap();
    let opsctl = |words: &[&str]| {
        let mut command = support::opsctl();
        command.env("OPSCTL_STORE", scratch.file_url("fixture/store")).env("OPSCTL_IDENTITY_FILE", &identity);
        command.env("OPSCTL_TRUSTED_SIGNERS", signer.trim()).env("OPSCTL_NO_PROGRESS", "1");
        // The objects have the times of the checkout.
        command.args(words).args(["--ignore-store-time", "--json"]);
        command
    };

    let listed = json(&mut opsctl(&["list"]), 0);
    let rows = listed["snapshots"].as_array().unwrap();
    assert!(rows.iter().all(|row| row["trust"] == "trusted" && row["status"] == "complete"), "{name}: {listed}");
    let ids: BTreeSet<String> = rows.iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect();
    let expected = std::fs::read_dir(fixture.join("expected")).unwrap().map(|entry| entry.unwrap().path());
    let expected: BTreeSet<String> =
        expected.map(|file| file.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    assert_eq!(ids, expected, "{name}: snapshots");
    assert!(ids.len() >= 2, "{name}");

    for id in &ids {
        let to = scratch.join(format!("restored-{id}"));
        json(&mut opsctl(&["restore", "--snapshot", id, "--to", to.to_str().unwrap()]), 0);
        let text = std::fs::read_to_string(fixture.join(format!("expected/{id}.json"))).unwrap();
        let expected: Vec<Value> = serde_json::from_str(&text).unwrap();
        let mut tree = Tree::read(&to);
        for entry in &expected {
            let path = bytes(entry, "path").unwrap();
            let found = tree.0.remove(&path);
            let found = found.unwrap_or_else(|| panic!("{name} {id}: {} is missing", path.escape_ascii()));
            let mut found = describe(&path, &found, entry, &to);
            if path.is_empty() {
                // The state that a restore leaves for the next snapshot changes the time of the top.
                found["mtime"] = entry["mtime"].clone();
            }
            assert_eq!(&found, entry, "{name} {id}: {}", path.escape_ascii());
        }
        assert!(tree.0.is_empty(), "{name} {id}: restored, but not expected: {:?}", tree.0.keys());
    }

    for level in ["list", "hash", "decrypt"] {
        let report = json(&mut opsctl(&["check", "--level", level]), 0);
        assert_eq!(report["damaged"], json!([]), "{name}, level {level}");
    }
}

#[test]
fn every_store_that_was_ever_written_restores() {
    let mut fixtures: Vec<PathBuf> = std::fs::read_dir(stores()).unwrap().map(|entry| entry.unwrap().path()).collect();
    fixtures.retain(|path| path.is_dir());
    fixtures.sort();
    // Named one by one, so that none goes away unnoticed.
    let names: Vec<_> = fixtures.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(names, ["v1"], "a new fixture is named here");
    for fixture in &fixtures {
        restores(fixture);
    }
}

#[test]
fn the_fixtures_are_small() {
    let sizes = run(Command::new("find").arg(stores().join("v1")).args(["-type", "f", "-printf", "%s\n"]));
    let size: u64 = sizes.lines().map(|line| line.parse::<u64>().unwrap()).sum();
    assert!(size < 60_000, "{size}");
}
