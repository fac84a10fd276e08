//! Hostile names and manifests under a right signature, given to the real program: nothing appears outside the new
//! folder, what is refused is named, and what is only strange is restored. `docs/threat-model.md` says what this defends.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking, in its helpers too")]
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod support;

#[path = "support/forge.rs"]
mod forge;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use forge::{Forge, entry, texts};
use serde_json::{Value, json};
use support::opsctl::{Bench, Done, Guarded, chmod, run};
use support::tree::{Tree, assert_equal};

const NONE: [&str; 0] = [];

/// `ls -l latest` of one source, with or without `--json`.
fn ls(bench: &Bench, source: &str, args: &[&str]) -> Done {
    let mut command = bench.command();
    command.args(["ls", "latest", "-l"]).args(args);
    command.env("OPSCTL_SOURCE", source).env("OPSCTL_IDENTITY_FILE", &bench.identity);
    run(command)
}

fn restore(bench: &Bench, source: &str, args: &[&str]) -> (PathBuf, Done) {
    let to = bench.dir.join(format!("to/{source}"));
    let mut command = bench.restore_command(&to, args);
    command.env("OPSCTL_SOURCE", source);
    (to, run(command))
}

/// `check --level decrypt` of the whole store.
fn check(bench: &Bench) -> Done {
    let mut command = bench.command();
    command.args(["check", "--level", "decrypt", "--json"]).env("OPSCTL_IDENTITY_FILE", &bench.identity);
    run(command)
}

/// A folder beside the restored ones that must stay as it is.
fn outside(bench: &Bench) -> (PathBuf, Tree) {
    bench.dir.write("outside/victim", "victim");
    bench.dir.mkdir("to");
    let outside = bench.dir.join("outside");
    let before = Tree::read(&outside);
    (outside, before)
}

/// No byte that a terminal obeys, line ends aside.
#[track_caller]
fn is_harmless(done: &Done) {
    for text in [&done.stdout, &done.stderr] {
        let bad = text.chars().find(|c| (c.is_control() && *c != '\n') || ('\u{202a}'..='\u{202e}').contains(c));
        assert!(bad.is_none(), "{bad:?} in {text:?}");
    }
}

/// The same entry under a name that may not be UTF-8.
fn named(mut entry: Value, name: &[u8]) -> Value {
    entry.as_object_mut().unwrap().remove("path");
    entry["path_b64"] = json!(STANDARD.encode(name));
    entry
}

fn link(path: &str, target: impl AsRef<OsStr>) -> Value {
    let mut link = entry(path, "symlink");
    link["target"] = json!(target.as_ref().to_str().unwrap());
    link
}

#[test]
fn no_spelling_of_a_path_leads_out_of_the_new_folder() {
    let bench = Bench::new();
    let (outside, before) = outside(&bench);
    let mut forge = Forge::new(&bench);
    let file = forge.file("", b"hostile");
    let plain = |path: &str| {
        let mut file = file.clone();
        file["path"] = json!(path);
        file
    };
    let long = "x".repeat(256);
    let absolute = outside.join("new").to_str().unwrap().to_owned();
    let spellings: Vec<&[u8]> = vec![
        b"..",
        b"../../outside/new",
        b"a/../../../outside/new",
        b"a/..",
        b"/",
        b"/etc/passwd",
        absolute.as_bytes(),
        b"//outside/new",
        b"a//b",
        b"a/",
        b".",
        b"./a",
        b"a/.",
        b"a/./b",
        b"a\0b",
        b"\0",
        long.as_bytes(),
    ];
    for (number, spelling) in spellings.iter().enumerate() {
        for coded in [false, true] {
            let source = format!("spelling-{number}-{coded}");
            let bad = match std::str::from_utf8(spelling) {
                Ok(text) if !coded => plain(text),
                _ => named(file.clone(), spelling),
            };
            forge.snapshot(&source, &texts(&[entry("", "dir"), entry("a", "dir"), bad, plain("z")]));
            let shown = String::from_utf8_lossy(spelling);
            let listed = ls(&bench, &source, &["--json"]).ended(4);
            assert!(listed.error().contains("not allowed"), "{shown}: {}", listed.error());
            let (to, done) = restore(&bench, &source, &NONE);
            let done = done.ended(4);
            assert!(done.error().contains("every path from"), "{shown}: {}", done.error());
            is_harmless(&done);
            assert!(!to.join("z").exists() && !to.join("a").exists(), "nothing of a leaf that cannot be read");
        }
    }
    assert_equal(&before, &Tree::read(&outside));
    let report = check(&bench).ended(4);
    assert_eq!(report.json["damaged"].as_array().unwrap().len(), 2 * spellings.len(), "{}", report.stdout);
    is_harmless(&report);
}

/// Manifests that break an order or a type, with what the message names. Of each, `ok` may be restored and nothing else.
#[test]
fn a_manifest_that_breaks_a_rule_is_refused_and_named() {
    let bench = Bench::new();
    let (outside, before) = outside(&bench);
    let mut forge = Forge::new(&bench);
    let ok = forge.file("ok", b"fine");
    let file = |path: &str| {
        let mut file = ok.clone();
        file["path"] = json!(path);
        file
    };
    let (top, dir) = (entry("", "dir"), entry("d", "dir"));
    let escape = link("l", &outside);
    let with = |mut entry: Value, key: &str, value: Value| {
        entry[key] = value;
        entry
    };
    let missing = with(entry("m", "dir"), "missing", json!("gone"));
    let excluded = with(entry("m", "dir"), "excluded", json!("asked for"));
    let cases: Vec<(&str, Vec<Value>, &str)> = vec![
        ("below-a-link", vec![top.clone(), escape.clone(), file("l/new")], "\"l/new\" has no directory"),
        ("below-a-file", vec![top.clone(), file("f"), file("f/new")], "\"f/new\" has no directory"),
        ("below-nothing", vec![top.clone(), file("n/new")], "\"n/new\" has no directory"),
        ("below-missing", vec![top.clone(), missing, file("m/new")], "\"m/new\" has no directory"),
        ("below-excluded", vec![top.clone(), excluded, file("m/new")], "\"m/new\" has no directory"),
        (
            "link-then-directory",
            vec![top.clone(), escape.clone(), entry("l", "dir"), file("l/new")],
            "\"l\" is repeated",
        ),
        ("directory-then-link", vec![top.clone(), entry("l", "dir"), escape, file("l/new")], "\"l\" is repeated"),
        ("file-and-directory", vec![top.clone(), file("d"), dir.clone()], "\"d\" is repeated"),
        ("twice", vec![top.clone(), file("f"), file("f")], "\"f\" is repeated"),
        ("backwards", vec![top.clone(), file("z"), file("a")], "\"a\" is repeated or out of order"),
        ("left-and-entered-again", vec![top.clone(), dir, file("d/a"), file("e"), file("d/z")], "out of order"),
        ("no-top", vec![file("f")], "has no directory"),
        ("top-is-a-file", vec![file("")], "the root of the snapshot is not a directory"),
        ("top-is-a-link", vec![link("", &outside)], "the root of the snapshot is not a directory"),
        ("our-own-folder", vec![top.clone(), entry(".opsctl", "dir"), file(".opsctl/restore.json")], "never part of"),
        ("link-without-target", vec![top.clone(), link("l", "")], "usable target"),
        ("link-with-nul", vec![top.clone(), link("l", "a\0b")], "usable target"),
        ("no-hash", vec![top, with(file("f"), "sha256", Value::Null)], "has no hash"),
    ];
    for (source, entries, says) in &cases {
        forge.snapshot(source, &texts(entries));
        // Two of the rules are about what a restore does, and a listing does not break them.
        let is_listed = ["top-is-a-file", "top-is-a-link", "our-own-folder"].contains(source);
        let listed = ls(&bench, source, &["--json"]);
        let listed = if is_listed { listed.ok() } else { listed.ended(4) };
        assert!(is_listed || listed.error().contains(says), "{source}: {}", listed.stdout);
        let (to, done) = restore(&bench, source, &NONE);
        let done = done.ended(4);
        assert!(done.error().contains(says), "{source}: {}", done.error());
        is_harmless(&done);
        assert!(!to.join("d/z").exists() && !to.join("m").exists(), "{source}");
        assert_equal(&before, &Tree::read(&outside));
    }
}

#[test]
fn a_hard_link_group_is_one_file_inside_the_new_folder_or_refused() {
    let bench = Bench::new();
    let (outside, before) = outside(&bench);
    let mut forge = Forge::new(&bench);
    let grouped = |mut entry: Value, path: &str, group: &str| {
        entry["path"] = json!(path);
        entry["hardlink"] = json!(group);
        entry
    };
    let (one, two) = (forge.file("", b"one"), forge.file("", b"two"));
    let victim = outside.join("victim");
    let top = entry("", "dir");
    // The group is a word and never a path, whatever it looks like.
    let as_path = victim.to_str().unwrap();
    forge.snapshot(
        "path",
        &texts(&[top.clone(), grouped(one.clone(), "a", as_path), grouped(one.clone(), "b", as_path)]),
    );
    let (to, done) = restore(&bench, "path", &NONE);
    done.ok();
    assert_eq!(std::fs::read(to.join("b")).unwrap(), b"one");
    assert_eq!(to.join("a").metadata().unwrap().ino(), to.join("b").metadata().unwrap().ino());
    // A link to what is outside, and a file of the same group.
    let outward = grouped(link("a", &victim), "a", "g");
    forge.snapshot("link", &texts(&[top.clone(), outward, grouped(two.clone(), "b", "g")]));
    let (to, done) = restore(&bench, "link", &NONE);
    let done = done.ended(4);
    assert!(done.error().contains("\"b\"") && done.error().contains("hard link"), "{}", done.error());
    assert!(!to.join("b").exists());
    // Two contents: the second would come back as the first.
    let entries = [top, grouped(one, "a", "g"), grouped(two, "b", "g"), forge.file("c", b"fine")];
    forge.snapshot("contents", &texts(&entries));
    let (to, done) = restore(&bench, "contents", &NONE);
    let done = done.ended(4);
    assert!(done.error().contains("\"b\"") && done.error().contains("hard link"), "{}", done.error());
    assert!(!to.join("b").exists() && to.join("c").exists());
    assert_eq!(std::fs::read(to.join("a")).unwrap(), b"one");
    assert_equal(&before, &Tree::read(&outside));
    // What a restore refuses its plan says, and a check finds.
    for source in ["link", "contents"] {
        let (_, planned) = restore(&bench, source, &["--dry-run"]);
        assert!(planned.stdout.contains("hard link group"), "{source}: {}", planned.stdout);
    }
    let damaged = check(&bench).ended(4).json["damaged"].as_array().unwrap().clone();
    let named: Vec<_> = damaged.iter().map(|row| (row["object"].as_str().unwrap(), &row["files"])).collect();
    assert_eq!(named.len(), 2, "{damaged:?}");
    for (at, source) in ["contents", "link"].into_iter().enumerate() {
        assert!(
            named[at].0.starts_with(&format!("snapshots/{source}/")) && *named[at].1 == json!(["b"]),
            "{damaged:?}"
        );
    }
}

#[test]
fn strange_names_are_restored_byte_for_byte_and_shown_harmlessly() {
    let bench = Bench::new();
    let mut forge = Forge::new(&bench);
    let mut names: Vec<Vec<u8>> = [
        "..\\..\\etc",
        "\\",
        "C:\\x",
        "CON",
        "a:b",
        "...",
        ". .",
        " ",
        "-rf",
        "~",
        "$(id)",
        "*",
        "%2e%2e",
        "\n",
        "\t",
        "name",
        "Name",
        "NAME",
        "\u{e9}",
        "e\u{301}",
        "\u{430}dmin",
        "admin",
        "\u{202e}cod.exe",
        "\u{feff}bom",
        "\u{2028}",
        "\u{1b}]0;title\u{7}",
        "\u{1b}[2J",
        "\u{9b}31m",
        "\u{7f}",
    ]
    .iter()
    .map(|name| name.as_bytes().to_vec())
    .collect();
    names.extend([b"\xff\xfe".to_vec(), b"caf\xe9".to_vec(), b"\xed\xa0\x80".to_vec(), vec![b'x'; 255]]);
    names.sort();
    let content = forge.file("", b"content");
    let mut entries = vec![entry("", "dir")];
    entries.extend(names.iter().map(|name| named(content.clone(), name)));
    forge.snapshot("names", &texts(&entries));
    let listed = ls(&bench, "names", &[]).ok();
    is_harmless(&listed);
    assert_eq!(listed.stdout.lines().count(), names.len() + 1, "a line each: {}", listed.stdout);
    let listed = ls(&bench, "names", &["--json"]).ok();
    let rows = listed.json["entries"].as_array().expect("valid JSON");
    let shown: Vec<Vec<u8>> = rows.iter().skip(1).map(bytes_of).collect();
    assert_eq!(shown, names);
    let (to, done) = restore(&bench, "names", &NONE);
    is_harmless(&done.ok());
    let mut found: Vec<Vec<u8>> = std::fs::read_dir(&to)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().as_bytes().to_vec())
        .filter(|name| name != b".opsctl")
        .collect();
    found.sort();
    assert_eq!(found, names);
    for name in &names {
        assert_eq!(std::fs::read(to.join(OsStr::from_bytes(name))).unwrap(), b"content");
    }
}

/// `path` or `path_b64` of a row.
fn bytes_of(row: &Value) -> Vec<u8> {
    let plain = row["path"].as_str().map(|path| path.as_bytes().to_vec());
    plain.unwrap_or_else(|| STANDARD.decode(row["path_b64"].as_str().unwrap()).unwrap())
}

/// Whatever a receipt, a manifest or a name of an object says is text for a terminal at some point.
#[test]
fn no_text_of_a_store_reaches_the_terminal_as_it_is() {
    const EVIL: &str = "\u{1b}]0;owned\u{7}\u{1b}[2J\u{9b}31m\u{202e}\r\n";
    let bench = Bench::new();
    let mut forge = Forge::new(&bench);
    let mut gone = forge.file(&format!("lost{EVIL}"), b"x");
    gone["missing"] = json!(EVIL);
    let mut unread = forge.file(&format!("unread{EVIL}"), b"x");
    unread["unread_xattrs"] = json!([EVIL]);
    let mut wrong = forge.file(&format!("wrong{EVIL}"), b"x");
    wrong["sha256"] = json!("0".repeat(64));
    let mut device = entry(&format!("device{EVIL}"), "block");
    device["rdev"] = json!([259, 7]);
    let mut database = forge.file(&format!("changed{EVIL}"), b"x");
    database["changed"] = json!(true);
    database["database"] = json!({"kind": EVIL, "journal_mode": EVIL, "page_size": 1, "left_out": [EVIL]});
    let target = link(&format!("link{EVIL}"), EVIL);
    let entries = [entry("", "dir"), database, device, target, gone, unread, wrong];
    let root = forge.root(&texts(&entries));
    let mut receipt = forge.receipt("evil", &root);
    for key in ["host", "program"] {
        receipt[key] = json!(EVIL);
    }
    receipt["tags"] = json!({EVIL: EVIL});
    receipt["versions"] = json!({EVIL: EVIL});
    receipt["profile"] = json!({"name": EVIL, "contract_version": EVIL});
    let id = forge.commit(&receipt);
    // A word that no reader knows: parsers repeat those.
    let mut unknown = entry("a", "file");
    unknown["type"] = json!(EVIL);
    let unknown = forge.snapshot("word", &texts(&[entry("", "dir"), unknown])).to_string();
    // A second snapshot of another kind, and objects whose names say something.
    let mut newer = receipt.clone();
    newer["type"] = json!(EVIL);
    newer["source"] = json!("newer");
    forge.commit(&newer);
    forge.put(&format!("snapshots/evil/{EVIL}.json"), "{}");
    forge.put(&format!("keys/{EVIL}.json"), "{}");
    forge.put(&format!("keys/000002-{EVIL}.json.minisig"), EVIL);
    forge.put_signed("keys/000002-00000000.json", format!("{{\"type\":\"{}\"}}", EVIL.escape_default()).as_bytes());
    let id = id.to_string();
    let to = bench.dir.join("to");
    for (words, code) in [
        (vec!["list"], 0),
        (vec!["show", &id], 0),
        (vec!["ls", &id], 0),
        (vec!["ls", &id, "-l"], 0),
        (vec!["ls", &id, "lost\u{1b}[31m"], 10),
        (vec!["diff", &id, &id], 0),
        (vec!["keys", "list"], 0),
        (vec!["check"], 4),
        (vec!["check", "--level", "decrypt"], 4),
        (vec!["restore", "--snapshot", &id, "--dry-run", "--to", to.to_str().unwrap()], 0),
        (vec!["restore", "--snapshot", &id, "--to", to.to_str().unwrap()], 4),
        (vec!["ls", &unknown], 4),
        (vec!["restore", "--snapshot", &unknown, "--dry-run", "--to", to.to_str().unwrap()], 0),
        (vec!["restore", "--snapshot", &unknown, "--to", to.to_str().unwrap()], 4),
    ] {
        for json in [false, true] {
            let _ = std::fs::remove_dir_all(&to);
            let mut command = bench.command();
            command.args(&words).env("OPSCTL_IDENTITY_FILE", &bench.identity);
            if json {
                command.arg("--json");
            }
            let done = run(command).ended(code);
            is_harmless(&done);
            assert!(!json || done.json.is_object(), "{words:?}: {}", done.stdout);
        }
    }
}

/// A process of the same user exchanges a folder of the new one for a link to the outside, over and over, while restores
/// run. How often that must be met is counted, so that a fast and a slow machine prove the same.
#[test]
fn a_folder_exchanged_for_a_link_during_a_restore_leads_nowhere() {
    const FOLDERS: usize = 200;
    let bench = Bench::new();
    let (outside, _) = outside(&bench);
    // The more there are, the longer a restore can meet the link.
    for folder in 0..FOLDERS {
        bench.dir.write(format!("tree/d/{folder:03}/file"), format!("content {folder}"));
        // Whoever follows the link finds what it looks for.
        chmod(&bench.dir.mkdir(format!("outside/{folder:03}")), 0o700);
    }
    let before = Tree::read(&outside);
    bench.take();
    let (mut met, mut rounds) = (0, 0);
    while met < 3 {
        rounds += 1;
        assert!(rounds < 3_000, "{met} of {rounds} restores met the link: the race was not run");
        let to = bench.dir.join(format!("to/{rounds}"));
        std::fs::create_dir(&to).unwrap();
        let swap = "while :; do if mv -T \"$1/d\" \"$1/aside\" && ln -s \"$2\" \"$1/d\"; then rm \"$1/d\"; mv -T \"$1/aside\" \"$1/d\"; fi; done";
        let mut command = Command::new("sh");
        command.args(["-c", swap, "sh"]).arg(&to).arg(&outside).stdout(Stdio::null()).stderr(Stdio::null());
        let swapper = Guarded(command.spawn().unwrap());
        let done = bench.restore(&to, NONE);
        drop(swapper);
        match done.code {
            // The link stood there, or nothing did at that moment.
            4 => met += u32::from(done.error().contains("a symbolic link")),
            // It was not met; or the folder was made again while the other was aside.
            0..=3 => {}
            other => panic!("exit {other}: {}{}", done.stdout, done.stderr),
        }
        assert_equal(&before, &Tree::read(&outside));
    }
    println!("met {met} times in {rounds} restores");
}

#[test]
fn thousands_of_folders_deep_is_listed_and_restored() {
    // Deeper than the longest path that the system takes, and than a process has descriptors. The manifest grows with
    // the square of it: 16 MB here.
    const LEVELS: usize = 4_000;
    let bench = Bench::new();
    let mut forge = Forge::new(&bench);
    let mut entries = vec![entry("", "dir")];
    let mut path = String::new();
    for _ in 0..LEVELS {
        path.push_str(if path.is_empty() { "d" } else { "/d" });
        entries.push(entry(&path, "dir"));
    }
    forge.snapshot("deep", &texts(&entries));
    let listed = ls(&bench, "deep", &[]).ok();
    assert_eq!(listed.stdout.lines().count(), entries.len());
    let (to, done) = restore(&bench, "deep", &NONE);
    assert_eq!(done.ok().code, 0);
    assert_eq!(Tree::read(&to).0.len(), entries.len());
}
