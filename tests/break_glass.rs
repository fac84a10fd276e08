//! A store opens without opsctl: by the break-glass script, and by hand.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

mod support;

#[path = "support/cycle.rs"]
mod cycle;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use cycle::{SOURCE, Site, id, json, python, run};
use rustix::fs::{CWD, FileType, Mode, XattrFlags};
use serde_json::Value;
use support::clean_env;
use support::opsctl::noise;
use support::tree::{Kind, Tree, assert_equal};

/// Everything that the runbook asks for. The script must be content with it.
const STOCK: [&str; 32] = [
    "age",
    "zstd",
    "tar",
    "jq",
    "sha256sum",
    "base64",
    "minisign", // and coreutils:
    "basename",
    "cat",
    "chmod",
    "chown",
    "cp",
    "cut",
    "dd",
    "dirname",
    "head",
    "id",
    "ln",
    "ls",
    "mkdir",
    "mkfifo",
    "mktemp",
    "mv",
    "paste",
    "rm",
    "sort",
    "tac",
    "tail",
    "touch",
    "tr",
    "truncate",
    "wc",
];

/// A tree with every kind of file.
fn fill(data: &Path) {
    let write = |name: &str, content: &[u8]| {
        let path = data.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    };
    write("plain.txt", b"plain\n");
    write("empty", b"");
    write("big/chunks.bin", &noise(9_000_000, 7));
    write("big/again.bin", &noise(9_000_000, 7));
    std::fs::create_dir_all(data.join("empty dir/below")).unwrap();

    // Data, a hole, data, a hole up to the end; and one hole.
    let sparse = std::fs::File::create(data.join("big/sparse")).unwrap();
    sparse.write_all_at(&noise(700_000, 9), 0).unwrap();
    sparse.write_all_at(&noise(10_000, 11), 6_000_000).unwrap();
    sparse.set_len(20_000_000).unwrap();
    std::fs::File::create(data.join("big/hole")).unwrap().set_len(3_000_000).unwrap();

    symlink("plain.txt", data.join("link")).unwrap();
    symlink("../../etc/passwd", data.join("big/outwards")).unwrap();
    symlink("no such file", data.join("dangling")).unwrap();
    symlink("big", data.join("link to dir")).unwrap();
    std::fs::hard_link(data.join("plain.txt"), data.join("big/hard link")).unwrap();
    std::fs::hard_link(data.join("plain.txt"), data.join("a-first")).unwrap();
    rustix::fs::mknodat(CWD, data.join("pipe"), FileType::Fifo, Mode::from_bits_truncate(0o640), 0).unwrap();

    let long = "n".repeat(255);
    let names: [&[u8]; 9] = [
        b"-n",
        b"a b",
        b"new\nline\n",
        b"back\\slash",
        b"\xff\xfe",
        b"*",
        b"'\"$(touch x)`",
        "ü 漢".as_bytes(),
        long.as_bytes(),
    ];
    for name in names {
        let path = data.join("odd").join(OsStr::from_bytes(name));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, name).unwrap();
    }
    std::fs::create_dir(data.join("odd/-rf")).unwrap();
    symlink(OsStr::from_bytes(b"to\n\xff"), data.join("odd/-link")).unwrap();

    let mode = |name: &str, mode: u32| {
        std::fs::set_permissions(data.join(name), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode("empty", 0o4750);
    mode("empty dir", 0o2770);
    mode("empty dir/below", 0o500);
    mode("big/hole", 0o000);
    let path = data.join("plain.txt");
    rustix::fs::setxattr(&path, "user.note", b"value", XattrFlags::empty()).unwrap();

    python(
        r#"
import os, sqlite3, sys
data = sys.argv[1]
db = sqlite3.connect(data + "/app.db")
db.execute("PRAGMA journal_mode=wal")
db.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, text TEXT)")
db.executemany("INSERT INTO t (text) VALUES (?)", [(str(n) * 40,) for n in range(3000)])
db.commit()
db.close()
# Times with nanoseconds, before 1970, and far ahead.
os.utime(data + "/empty", ns=(0, -1_500_000_001))
os.utime(data + "/big/chunks.bin", ns=(0, 4_000_000_000_123_456_789))
os.utime(data + "/dangling", ns=(0, 1_234_567_890_987_654_321), follow_symlinks=False)
"#,
        &[data],
    );
    run(Command::new("sh")
        .args([
            "-c",
            r#"cd "$1" && git init -q repo && cd repo && echo a >a && git add -A &&
               git -c user.name=t -c user.email=t@example.com commit -q -m first && git gc -q && echo b >a && git add -A"#,
            "sh",
        ])
        .arg(data));
}

/// The script in dash, with nothing on its PATH but what the runbook names.
fn break_glass(site: &Site, store: &Path, wanted: &str, signer: &str, new: &Path) -> Output {
    let bin = site.dir.mkdir("stock");
    for tool in STOCK {
        let found = run(Command::new("sh").args(["-c", "command -v \"$1\"", "sh", tool]));
        let link = bin.join(tool);
        if !link.exists() {
            symlink(found.trim(), &link).unwrap();
        }
    }
    let dash = run(Command::new("sh").args(["-c", "command -v dash"]));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("runbooks/break-glass.sh");
    let mut command = Command::new(dash.trim());
    command.env_clear().envs(clean_env()).env("PATH", &bin);
    command.arg(script).arg(store).arg(wanted).arg(site.identity()).arg(signer).arg(new);
    command.output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A tree as the script restores it: without extended attributes.
fn without_xattrs(tree: Tree) -> Tree {
    let mut tree = tree;
    tree.0.values_mut().for_each(|entry| entry.xattrs.clear());
    tree
}

fn dump(database: &Path) -> String {
    python(
        r#"
import sqlite3, sys
db = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro&immutable=1", uri=True)
assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
print("\n".join(db.iterdump()))
"#,
        &[database],
    )
}

/// A store with two snapshots of a tree that changed in between; the second, and what the tree was at the first.
fn two_snapshots() -> (Site, Value, Value, Tree) {
    let site = Site::new();
    let data = site.dir.mkdir("data");
    fill(&data);
    let first = site.snapshot(&data);
    let then = Tree::read(&data);
    std::fs::write(data.join("plain.txt"), "changed\n").unwrap();
    std::fs::write(data.join("new file"), noise(100_000, 3)).unwrap();
    std::fs::remove_file(data.join("link")).unwrap();
    let second = site.snapshot(&data);
    (site, first, second, then)
}

#[test]
fn the_script_restores_what_opsctl_restores() {
    let (site, first, second, then) = two_snapshots();
    for (snapshot, wanted, was) in [
        (&first, id(&first).to_owned(), then),
        // The newest, by the name of the source.
        (&second, SOURCE.to_owned(), Tree::read(&site.dir.join("data"))),
    ] {
        let restored = site.restore(snapshot);
        let new = site.dir.join(format!("glass-{}", id(snapshot)));
        let output = break_glass(&site, &site.store(), &wanted, &site.signer(), &new);
        assert!(output.status.success(), "{}", said(&output));

        let (theirs, ours) = (without_xattrs(Tree::read(&restored)), without_xattrs(Tree::read(&new)));
        assert!(ours.0.values().any(|entry| entry.kind == Kind::Fifo) && ours.0.len() > 40);
        assert_equal(&theirs, &ours);
        assert_eq!(theirs.entry("").mtime, ours.entry("").mtime);
        // Both equal what was captured, but for the bytes of the database.
        let database = |path: &[u8]| path.starts_with(b"app.db");
        assert_equal(&without_xattrs(was).without(database), &ours.without(database));
        assert_eq!(dump(&new.join("app.db")), dump(&site.dir.join("data/app.db")));
        run(Command::new("git").args(["-c", "safe.directory=*", "-C"]).arg(new.join("repo")).args(["fsck", "--full"]));

        let notes =
            std::fs::read_to_string(site.dir.join(format!("glass-{}.not-restored.jsonl", id(snapshot)))).unwrap();
        assert!(notes.contains("plain.txt") && notes.contains("user.note"), "{notes}");
        let left = std::fs::read_dir(site.dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(left.filter(|name| name.to_string_lossy().contains("scratch")).count(), 0, "scratch is removed");
    }
}

fn copy_of_store(site: &Site, name: &str) -> PathBuf {
    let copy = site.dir.join(name);
    run(Command::new("cp").arg("-r").arg(site.store()).arg(&copy));
    copy
}

#[test]
fn the_script_refuses_what_does_not_hold() {
    let (site, _, second, _) = two_snapshots();
    let receipt = format!("snapshots/{SOURCE}/{}.json", id(&second));
    let list = site.receipt(id(&second))["pack_list"].as_str().unwrap().to_owned();
    let list = format!("packlists/{}/{list}.jsonl", &list[..2]);
    // A pack that the newest snapshot needs.
    let needed = std::fs::read_to_string(site.store().join(&list)).unwrap();
    let needed: Value = serde_json::from_str(needed.lines().next().unwrap()).unwrap();
    let pack = needed["pack"].as_str().unwrap();
    let pack = format!("packs/{}/{pack}.tar.zst.age", &pack[..2]);
    let flip = |path: &Path| {
        let mut content = std::fs::read(path).unwrap();
        let middle = content.len() / 2;
        content[middle] ^= 1;
        std::fs::write(path, content).unwrap();
    };
    let cut = |path: &Path| {
        let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        file.set_len(file.metadata().unwrap().len() - 1).unwrap();
    };
    let remove = |path: &Path| std::fs::remove_file(path).unwrap();
    type Damage<'a> = (&'a str, &'a str, &'a dyn Fn(&Path));
    let unsigned = format!("{receipt}.minisig");
    let damages: [Damage<'_>; 6] = [
        ("flipped", &pack, &flip),
        ("cut", &pack, &cut),
        ("gone", &pack, &remove),
        ("list", &list, &flip),
        ("receipt", &receipt, &flip),
        ("unsigned", &unsigned, &remove),
    ];
    for (name, object, damage) in damages {
        let store = copy_of_store(&site, &format!("store-{name}"));
        damage(&store.join(object));
        let new = site.dir.join(format!("glass-{name}"));
        let output = break_glass(&site, &store, SOURCE, &site.signer(), &new);
        assert!(!output.status.success() && !new.exists(), "{name}: restored in spite of a damaged {object}");
        let what = object.rsplit('/').next().unwrap();
        let named = said(&output).contains(&what[..what.len().min(64)]) || said(&output).contains("receipt");
        assert!(named, "{name}: {}", said(&output));
    }
    let stranger = Site::new().signer();
    let new = site.dir.join("glass-stranger");
    let output = break_glass(&site, &site.store(), SOURCE, &stranger, &new);
    assert!(!output.status.success() && !new.exists() && said(&output).contains("not signed"), "{}", said(&output));
}

#[test]
fn every_object_opens_and_verifies_by_hand() {
    let (site, first, second, _) = two_snapshots();
    let objects = site.objects();
    let sum = |path: &Path| run(Command::new("sha256sum").arg("--").arg(path))[..64].to_owned();
    let mut chunks = 0;
    for (name, path) in &objects {
        if let Some(rest) = name.strip_prefix("packs/").and_then(|rest| rest.strip_suffix(".tar.zst.age")) {
            let (folder, pack) = rest.split_once('/').unwrap();
            assert_eq!((pack, folder), (sum(path).as_str(), &pack[..2]), "{name}");
            let opened = site.dir.mkdir(format!("by-hand/{pack}"));
            // As one types it; `pipefail`, because the runbook warns of just this.
            let pipe = r#"set -o pipefail; age -d -i "$1" "$2" | zstd -d | tar -x -C "$3""#;
            run(Command::new("bash").args(["-c", pipe, "bash"]).arg(site.identity()).arg(path).arg(&opened));
            for chunk in std::fs::read_dir(&opened).unwrap().map(|entry| entry.unwrap().path()) {
                assert_eq!(chunk.file_name().unwrap().to_str(), Some(sum(&chunk).as_str()), "a chunk of {pack}");
                chunks += 1;
            }
        } else if let Some(rest) = name.strip_prefix("packlists/").and_then(|rest| rest.strip_suffix(".jsonl")) {
            let (folder, list) = rest.split_once('/').unwrap();
            assert_eq!((list, folder), (sum(path).as_str(), &list[..2]), "{name}");
        } else if let Some(document) = name.strip_suffix(".minisig") {
            let document = site.store().join(document);
            run(Command::new("minisign").args(["-V", "-P", &site.signer(), "-x"]).arg(path).arg("-m").arg(&document));
        } else if name.starts_with("snapshots/") {
            assert!(objects.contains_key(&format!("{name}.minisig")), "{name} has no signature");
            let hash = name.strip_suffix(".json").unwrap().rsplit('-').next().unwrap();
            assert_eq!(hash, &sum(path)[..16], "{name}");
        } else if name.starts_with("keys/") {
            assert!(objects.contains_key(&format!("{name}.minisig")), "{name} has no signature");
        } else {
            assert_eq!(name, "opsctl-store.json", "an object that the format does not know");
        }
    }
    assert!(chunks > 20, "{chunks}");
    // And by content: every extent of every file lies where the manifest says.
    for snapshot in [&first, &second] {
        let packs = site.open_packs();
        for line in site.manifest(id(snapshot)).iter().filter(|line| line["type"] == "file") {
            for extent in line["extents"].as_array().into_iter().flatten() {
                let chunk = packs[extent["p"].as_str().unwrap()].join(extent["c"].as_str().unwrap());
                let length = chunk.metadata().unwrap().len();
                let end = extent["o"].as_u64().unwrap_or(0) + extent["l"].as_u64().unwrap();
                assert!(end <= length, "{line}");
            }
        }
    }
    let plan = json(&mut site.snapshot_command(&site.dir.join("data")), 0);
    assert_eq!(plan["status"], "complete");
}
