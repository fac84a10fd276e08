//! The commands that only look, through the binary: list, show, ls, diff, check.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use support::opsctl::{Bench, Done, run};

const KEYLESS: Option<&Path> = None;

fn bench() -> Bench {
    let bench = Bench::new();
    bench.dir.write("tree/a/notes.txt", "one\n");
    bench.dir.write("tree/a/big.bin", (0..400_000_u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>());
    bench.dir.write("tree/other", "other\n");
    bench
}

fn look<const N: usize>(bench: &Bench, identity: Option<&Path>, args: [&str; N]) -> Done {
    let mut command = bench.command();
    command.args(args).arg("--json");
    if let Some(identity) = identity {
        command.env("OPSCTL_IDENTITY_FILE", identity);
    }
    run(command)
}

fn damaged(report: &Done) -> Vec<Value> {
    report.json["damaged"].as_array().unwrap().clone()
}

/// Flips a byte in the middle of the largest pack and returns its name.
fn flip(bench: &Bench) -> String {
    let (name, _) =
        bench.objects().into_iter().filter(|(n, _)| n.starts_with("packs/")).max_by_key(|(_, s)| *s).unwrap();
    let path = bench.store.join(&name);
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).unwrap();
    name
}

#[test]
fn list_and_show_need_no_key_and_say_who_is_believed() {
    let bench = bench();
    let first = bench.take();
    let rows = look(&bench, KEYLESS, ["list"]).ok();
    let row = &rows.json["snapshots"][0];
    for key in ["id", "source", "started_at", "finished_at", "files", "bytes", "bytes_stored", "status", "tags"] {
        assert!(!row[key].is_null(), "{key} in {row}");
    }
    assert_eq!((row["trust"].as_str(), row["files"].as_u64()), (Some("unpinned"), Some(3)));
    let pinned = look(&bench, Some(&bench.identity), ["list"]).ok();
    assert_eq!(pinned.json["snapshots"][0]["trust"], "trusted", "the identity file pins the signer");
    let shown = look(&bench, KEYLESS, ["show", "latest"]).ok();
    assert_eq!(shown.json["id"], first.id());
    assert_eq!(look(&bench, KEYLESS, ["show", "2001"]).code, 10);
}

#[test]
fn ls_and_diff_need_the_identity() {
    let bench = bench();
    let first = bench.take();
    bench.dir.write("tree/a/notes.txt", "two\n");
    bench.dir.write("tree/new", "new\n");
    std::fs::remove_file(bench.tree.join("other")).unwrap();
    let second = bench.take();
    let id = Some(bench.identity.as_path());

    assert_eq!(look(&bench, KEYLESS, ["ls", "latest"]).code, 12);
    let listed = look(&bench, id, ["ls", first.id(), "a", "-l"]).ok();
    let paths: Vec<&str> =
        listed.json["entries"].as_array().unwrap().iter().map(|e| e["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["a", "a/big.bin", "a/notes.txt"]);
    assert_eq!(look(&bench, id, ["ls", first.id(), "new"]).code, 10);

    assert_eq!(look(&bench, KEYLESS, ["diff", first.id(), second.id()]).code, 12);
    let diff = look(&bench, id, ["diff", first.id(), second.id()]).ok();
    let changes: Vec<(String, String)> = diff.json["changes"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|c| c["type"] == "file")
        .map(|c| (c["change"].as_str().unwrap().to_owned(), c["path"].as_str().unwrap().to_owned()))
        .collect();
    let expected = [("changed", "a/notes.txt"), ("added", "new"), ("removed", "other")];
    assert_eq!(changes, expected.map(|(change, path)| (change.to_owned(), path.to_owned())));
    look(&bench, id, ["diff", first.id(), first.id()]).ok();
}

#[test]
fn check_finds_a_flipped_bit_by_reading_and_names_the_files_with_the_key() {
    let bench = bench();
    let first = bench.take();
    for level in ["list", "hash"] {
        assert!(damaged(&look(&bench, KEYLESS, ["check", "--level", level]).ok()).is_empty());
    }
    assert_eq!(look(&bench, KEYLESS, ["check", "--level", "decrypt"]).code, 12);
    look(&bench, Some(&bench.identity), ["check", "--level", "decrypt"]).ok();

    let pack = flip(&bench);
    look(&bench, KEYLESS, ["check", "--level", "list"]).ok();
    let keyless = look(&bench, KEYLESS, ["check", "--level", "hash"]).ended(4);
    let [object] = &damaged(&keyless)[..] else { panic!("{}", keyless.stdout) };
    assert_eq!(object["object"], pack.as_str());
    assert_eq!(object["snapshots"], serde_json::json!([first.id()]));
    assert_eq!(object["files"], serde_json::json!([]), "names are not known without the key");
    let named = look(&bench, Some(&bench.identity), ["check", "--level", "hash"]).ended(4);
    let files = damaged(&named)[0]["files"].to_string();
    assert!(files.contains("a/big.bin"), "{files}");
    look(&bench, Some(&bench.identity), ["check", "--level", "decrypt"]).ended(4);
}

#[test]
fn the_parts_of_a_check_cover_everything_and_a_snapshot_can_be_checked_alone() {
    let bench = bench();
    let first = bench.take();
    bench.dir.write("tree/more.bin", (0..300_000_u32).rev().flat_map(u32::to_le_bytes).collect::<Vec<_>>());
    let second = bench.take();
    let pack = flip(&bench);
    let parts = ["1/3", "2/3", "3/3"].map(|part| look(&bench, KEYLESS, ["check", "--level", "hash", "--subset", part]));
    let found: Vec<String> = parts.iter().flat_map(damaged).map(|d| d["object"].as_str().unwrap().to_owned()).collect();
    assert_eq!(found, [pack], "one part, and only one, has it");
    assert_eq!(look(&bench, KEYLESS, ["check", "--subset", "1/3"]).code, 2, "nothing is read at level list");

    let hurt: BTreeSet<String> = damaged(&look(&bench, KEYLESS, ["check", "--level", "hash"]))[0]["snapshots"]
        .as_array()
        .unwrap()
        .iter()
        .map(|id| id.as_str().unwrap().to_owned())
        .collect();
    for id in [first.id(), second.id()] {
        let alone = look(&bench, KEYLESS, ["check", "--level", "hash", "--snapshot", id]);
        assert_eq!(alone.code, if hurt.contains(id) { 4 } else { 0 }, "{}", alone.stdout);
    }
}

/// Two hosts that both see the same newest snapshot: both commit, and everybody is told.
#[test]
fn a_fork_is_reported_by_list_and_check() {
    let bench = bench();
    bench.take();
    let copy = |from: &Path, to: &Path| {
        let done = Command::new("cp").args(["-a", "-n"]).arg(from.join(".")).arg(to).status().unwrap();
        assert!(done.success());
    };
    let other = bench.dir.mkdir("other-store");
    copy(&bench.store, &other);
    bench.dir.write("tree/here", "here\n");
    bench.take();
    let mut elsewhere = bench.snapshot_command([""; 0]);
    elsewhere.env("OPSCTL_STORE", format!("file://{}", other.display()));
    elsewhere.env("OPSCTL_STATE_DIR", bench.dir.join("other-state"));
    bench.dir.write("tree/there", "there\n");
    run(elsewhere).ok();
    copy(&other, &bench.store);
    for command in [["list"], ["check"]] {
        let done = look(&bench, KEYLESS, command).ok();
        assert!(done.says("fork"), "{command:?}: {}{}", done.stdout, done.stderr);
    }
}
