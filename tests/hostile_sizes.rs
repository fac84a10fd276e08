//! Hostile numbers under a right signature, given to the real program: sizes that lie, bombs, documents of absurd depth
//! or length. Each ends with its exit code, in bounded memory, and costs nothing but what it lies about.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod support;

#[path = "support/forge.rs"]
mod forge;

use std::io::Read as _;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use forge::{Forge, entry, texts};
use opsctl::archive::entry::Kind;
use opsctl::archive::frame::{FrameCodec, append_entry};
use opsctl::archive::hash::Hash;
use opsctl::archive::packlist::{self, PackLine};
use opsctl::archive::receipt::Counts;
use opsctl::archive::{layout, pack::age_header_len};
use serde_json::{Value, json};
use support::opsctl::{Bench, Done, measured};

const MIB: u64 = 1 << 20;
/// What any command may take beside what grows with the number of files, as documented.
const MEMORY: u64 = 160 * MIB;
/// Longer than any command here takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(180);
/// For what takes a fraction of a second, and minutes where it is parsed again and again.
const SOON: Duration = Duration::from_secs(20);

/// Runs one command on one source, within [`MEMORY`] and [`LIMIT`].
fn bounded(bench: &Bench, source: &str, words: &[&str]) -> Done {
    within(LIMIT, bench, source, words)
}

fn within(limit: Duration, bench: &Bench, source: &str, words: &[&str]) -> Done {
    let mut command = bench.command();
    command.args(words).arg("--json").env("OPSCTL_SOURCE", source).env("OPSCTL_IDENTITY_FILE", &bench.identity);
    let (done, peak) = measured(&bench.dir, command, limit);
    assert!(peak < MEMORY, "{source}: {words:?} took {} MiB", peak / MIB);
    done
}

fn restore(bench: &Bench, source: &str, words: &[&str]) -> Done {
    restore_within(LIMIT, bench, source, words)
}

fn restore_within(limit: Duration, bench: &Bench, source: &str, words: &[&str]) -> Done {
    let to = bench.dir.join(format!("to/{source}"));
    std::fs::create_dir_all(to.parent().unwrap()).unwrap();
    within(limit, bench, source, &[&["restore", "--to", to.to_str().unwrap()], words].concat())
}

/// A file `bad` whose one chunk lies in `frame` of `pack`, between two that are well.
fn with_bad_frame(forge: &mut Forge<'_>, source: &str, pack: Hash, frame: &Value, chunk: Hash, len: u64) {
    let mut bad = entry("bad", "file");
    bad["size"] = json!(len);
    bad["sha256"] = json!(chunk);
    bad["extents"] = json!([{"p": pack, "f": frame, "c": chunk, "l": len}]);
    let entries = [entry("", "dir"), forge.file("a", b"fine"), bad, forge.file("z", b"fine")];
    forge.snapshot(source, &texts(&entries));
}

/// The bad file is named and missing, and the two others are there.
fn costs_only_itself(bench: &Bench, source: &str, says: &str) {
    let done = restore(bench, source, &[]).ended(4);
    assert!(done.error().contains("\"bad\"") && done.error().contains(says), "{source}: {}", done.error());
    for (file, there) in [("a", true), ("bad", false), ("z", true)] {
        assert_eq!(bench.dir.join(format!("to/{source}/{file}")).exists(), there, "{source}/{file}");
    }
}

#[test]
fn a_frame_that_decodes_to_more_than_it_claims_is_a_bomb_and_refused() {
    let bench = Bench::new();
    let mut forge = Forge::new(&bench);
    let zeros = |len: u64| std::io::repeat(0).take(len);
    // No content size: nothing but decoding tells.
    let silent = zstd::stream::encode_all(zeros(1 << 30), 1).unwrap();
    let mut boasting = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
    boasting.set_pledged_src_size(Some(512 * MIB)).unwrap();
    std::io::copy(&mut zeros(512 * MIB), &mut boasting).unwrap();
    let boasting = boasting.finish().unwrap();
    // A header that asks for a window of 2 GiB, and one that says 8 GiB of content.
    let window = [&b"\x28\xb5\x2f\xfd\x00\xa8\x01\x00\x00"[..], &[0; 16]].concat();
    let claims = [&b"\x28\xb5\x2f\xfd\xe0"[..], &(8_u64 << 30).to_le_bytes(), b"\x03\x00\x00a"].concat();
    let nested = zstd::stream::encode_all(silent.as_slice(), 1).unwrap();
    let garbage = b"no zstd at all".to_vec();
    let bombs = [silent, boasting, window, claims, nested, garbage];
    for (number, bomb) in bombs.into_iter().enumerate() {
        let source = format!("bomb-{number}");
        let (pack, places) = forge.frames(&[(bomb, 8 << 20)]);
        with_bad_frame(&mut forge, &source, pack, &json!(places[0]), Hash::of(b"bomb"), 4);
        costs_only_itself(&bench, &source, &pack.to_string());
    }
    let report = bounded(&bench, "", &["check", "--level", "decrypt"]).ended(4);
    assert!(report.stdout.matches("\"object\"").count() >= 6, "{}", report.stdout);
}

#[test]
fn a_tar_entry_that_lies_about_its_size_gives_nothing_that_is_not_its_own() {
    let bench = Bench::new();
    let mut forge = Forge::new(&bench);
    let lies: [&[u8; 12]; 5] = [
        b"77777777777\0",
        b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"00000003000\0",
        b"-0000000004\0",
        b"9999999999 \0",
    ];
    for (number, lie) in lies.into_iter().enumerate() {
        let source = format!("tar-{number}");
        let mut tar = Vec::new();
        append_entry(&mut tar, Hash::of(b"long"), b"long");
        append_entry(&mut tar, Hash::of(b"next"), b"next");
        tar[124..136].copy_from_slice(lie);
        let decoded = u32::try_from(tar.len()).unwrap();
        let (pack, places) = forge.frames(&[(FrameCodec::new(1).unwrap().encode(&tar).unwrap(), decoded)]);
        with_bad_frame(&mut forge, &source, pack, &json!(places[0]), Hash::of(b"long"), 4);
        costs_only_itself(&bench, &source, &pack.to_string());
    }
}

#[test]
fn an_age_header_of_any_kind_is_read_in_bounded_time_and_memory() {
    let bench = Bench::new();
    let mut forge = Forge::new(&bench);
    let body = STANDARD_NO_PAD.encode([7; 32]);
    let mac = format!("--- {body}\n");
    let x25519 = format!("-> X25519 {body}\n{body}\n");
    let scrypt = format!("-> scrypt {} 62\n{body}\n", STANDARD_NO_PAD.encode([7; 16]));
    let stanzas = |text: &str, times: usize| format!("age-encryption.org/v1\n{}{mac}", text.repeat(times));
    for (source, header, code) in [
        // A header that is whole and opens with no key of ours is a wrong identity, as far as anybody can tell.
        ("scrypt", stanzas(&scrypt, 1), 12),
        ("scrypt-among-others", stanzas(&format!("{x25519}{scrypt}"), 1), 4),
        ("thousands-of-keys", stanzas(&x25519, 2_400), 12),
        ("the-most-lines", stanzas("-> x y\n\n", 32_000), 12),
        ("longer-than-any", stanzas(&x25519, 40_000), 4),
        ("no-end", format!("age-encryption.org/v1\n-> X25519 {}", "A".repeat(3 << 20)), 4),
        ("not-age", "x".repeat(300), 4),
    ] {
        let object = [header.as_bytes(), &[7; 400]].concat();
        let header = age_header_len(&object).unwrap_or(200);
        let pack = forge.object(&object, header);
        with_bad_frame(&mut forge, source, pack, &json!([0, 40, 512]), Hash::of(b"x"), 1);
        let done = restore_within(SOON, &bench, source, &[]).ended(code);
        assert!(done.error().contains(&pack.to_string()), "{source}: {}", done.error());
    }
}

#[test]
fn claimed_sizes_overflow_nothing() {
    let bench = Bench::new();
    let mut forge = Forge::new(&bench);
    let listed = |mut file: Value, path: &str| {
        file["path"] = json!(path);
        file["size"] = json!(u64::MAX);
        file["extent_list"] = file.as_object_mut().unwrap().remove("extents").unwrap();
        file
    };
    let ok = forge.file("ok", b"fine");
    let mut hole = ok.clone();
    hole["path"] = json!("hole");
    hole["size"] = json!(u64::MAX);
    hole["holes"] = json!([[0, u64::MAX]]);
    hole["extents"] = json!([]);
    // Not JSON Lines of extents, and the whole address space twice.
    let all = [entry("", "dir"), listed(ok.clone(), "a"), listed(ok.clone(), "b"), hole.clone(), ok.clone()];
    forge.snapshot("files", &texts(&all));
    let plan = restore(&bench, "files", &["--dry-run"]).ended(14);
    assert!(plan.stdout.contains(&u64::MAX.to_string()), "{}", plan.stdout);
    let done = restore(&bench, "files", &[]).ended(14);
    assert!(done.error().contains("are free"), "{}", done.error());
    restore(&bench, "files", &["--include", "/ok"]).ok();
    assert!(bench.dir.join("to/files/ok").exists());
    // A hole takes no space, so only the file system can say no.
    forge.snapshot("hole", &texts(&[entry("", "dir"), hole, ok.clone()]));
    let done = restore(&bench, "hole", &[]).ended(4);
    assert!(done.error().contains("\"hole\" (") && done.error().contains("no file of"), "{}", done.error());
    assert!(bench.dir.join("to/hole/ok").exists());

    // A receipt and a root that claim what nobody has, agreeing with each other and not.
    let lies = json!({"files": u64::MAX, "dirs": u64::MAX, "symlinks": u64::MAX, "special": u64::MAX,
                      "bytes": 1_u64 << 60, "unreadable": u64::MAX, "changed": u64::MAX, "excluded": u64::MAX,
                      "vanished": u64::MAX});
    for agree in [true, false] {
        let source = format!("counts-{agree}");
        let mut root = forge.root(&texts(&[entry("", "dir"), ok.clone()]));
        if agree {
            root["counts"] = lies.clone();
        }
        let mut receipt = forge.receipt(&source, &root);
        receipt["counts"] = lies.clone();
        for key in ["packs_stored", "bytes_stored"] {
            receipt[key] = json!(u64::MAX);
        }
        let id = forge.commit(&receipt).to_string();
        bounded(&bench, &source, &["list"]).ok();
        bounded(&bench, &source, &["show", &id]).ok();
        assert!(bounded(&bench, &source, &["ls", "latest"]).ended(4).says("its root says"));
        assert!(restore(&bench, &source, &[]).ok().says("its root says"));
    }

    // A pack list that claims what is not there.
    for (number, (size, header)) in
        [(u64::MAX, 200), (1 << 41, 200), (1 << 41, u32::MAX), (0, 0)].into_iter().enumerate()
    {
        let source = format!("list-{number}");
        let root = forge.root(&texts(&[entry("", "dir"), ok.clone()]));
        let mut receipt = forge.receipt(&source, &root);
        let lying = forge.packs.iter().map(|line| PackLine { size, header, ..*line }).collect();
        let (name, bytes) = packlist::write(lying);
        forge.put(&layout::pack_list(name), bytes);
        receipt["pack_list"] = json!(name);
        forge.commit(&receipt);
        let done = restore(&bench, &source, &[]).ended(4);
        assert!(done.error().contains("pack"), "{source}: {}", done.error());
        bounded(&bench, &source, &["restore", "--dry-run", "--to", "/nowhere"]).ended(4);
    }
    for level in ["list", "hash", "decrypt"] {
        // The hole of the snapshot "hole" would be hashed for centuries: its source is left out.
        let ids: Vec<String> = bounded(&bench, "list-1", &["list"]).json["snapshots"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| row["id"].as_str().unwrap().to_owned())
            .collect();
        let mut words = vec!["check", "--level", level];
        ids.iter().for_each(|id| words.extend(["--snapshot", id]));
        bounded(&bench, "list-1", &words).ended(4);
    }
}

#[test]
fn documents_of_absurd_depth_or_length_are_refused_and_block_no_other() {
    let bench = Bench::new();
    let mut forge = Forge::new(&bench);
    let ok = forge.file("ok", b"fine");
    let good = texts(&[entry("", "dir"), ok.clone()]);
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let plain = ok.to_string();
    let with = |extra: &str| plain.replacen('{', &format!("{{{extra},"), 1);
    let leaves: Vec<(&str, String)> = vec![
        ("nested", nested(100_000)),
        ("a-line-of-7-mib", with(&format!("\"mode\":{}", "9".repeat(7 << 20)))),
        ("nested-for-7-mib", "[".repeat(7 << 20)),
        ("a-huge-number", plain.replace("\"mode\":420", "\"mode\":1e99999")),
        ("a-duplicate-key", with("\"path\":\"other\"")),
        ("a-lone-surrogate", with(r#""missing":"\ud800""#)),
        ("no-json", "\0".repeat(1000)),
    ];
    for (source, line) in leaves {
        assert_ne!(line, plain, "{source}");
        forge.snapshot(source, &[good[0].clone(), line]);
        let done = bounded(&bench, source, &["ls", "latest"]).ended(4);
        assert!(done.error().contains("not valid manifest leaf"), "{source}: {}", done.error());
        restore(&bench, source, &[]).ended(4);
    }
    // What stands under an unknown key is stepped over, however deep it is.
    forge.snapshot("nested-in-an-unknown-key", &[good[0].clone(), with(&format!("\"x\":{}", nested(100_000)))]);
    restore(&bench, "nested-in-an-unknown-key", &[]).ok();
    // Roots: a depth that is not there, nodes of the wrong kind, the same node a thousand times.
    let root = forge.root(&good);
    let child = root["children"][0].clone();
    let again = vec![child.clone(); 1_000];
    for (source, key, value, says) in [
        ("depth-2-to-the-32", "depth", json!(u32::MAX), "deeper than any"),
        ("depth-7", "depth", json!(7), "deeper than any"),
        ("depth-6-of-leaves", "depth", json!(6), "manifest branch"),
        ("a-thousand-times-the-same", "children", json!(again), "repeated"),
        ("no-children", "children", json!([]), "its root says"),
        (
            "children-of-4-gib",
            "children",
            json!([{"first": "", "x": {"p": child["x"]["p"], "c": child["x"]["c"],
            "f": [0, u32::MAX, u32::MAX], "l": u32::MAX}}]),
            "frame",
        ),
    ] {
        let mut root = root.clone();
        root[key] = value;
        let receipt = forge.receipt(source, &root);
        forge.commit(&receipt);
        let done = bounded(&bench, source, &["ls", "latest"]).ended(4);
        assert!(done.error().contains(says), "{source}: {}", done.error());
    }
    let mut receipt = forge.receipt("root-of-4-gib", &root);
    receipt["root"]["f"] = json!([u64::MAX, u32::MAX, u32::MAX]);
    forge.commit(&receipt);
    assert!(bounded(&bench, "root-of-4-gib", &["ls", "latest"]).ended(4).error().contains("frame"));
    // Receipts and keys objects: no other snapshot is lost by them.
    let mut receipt = forge.receipt("many", &root);
    receipt["tags"] = json!({"x": "y".repeat(2 << 20)});
    forge.commit(&receipt);
    receipt["tags"] = serde_json::from_str(r#"{"x":"y"}"#).unwrap();
    receipt["seq"] = json!(2);
    let text = receipt.to_string().replace("{\"x\":\"y\"}", &nested(100_000));
    let id = receipt_id(&receipt, &text);
    forge.put_signed(&format!("snapshots/many/{id}.json"), text.as_bytes());
    forge.put("keys/000002-00000000.json", nested(100_000));
    forge.put("keys/000003-00000000.json", "[".repeat(2 << 20));
    forge.snapshot("many", &good);
    let list = bounded(&bench, "many", &["list"]).ok();
    assert_eq!(list.json["snapshots"].as_array().unwrap().iter().filter(|row| row["source"] == "many").count(), 1);
    assert_eq!(list.json["problems"].as_array().unwrap().len(), 2, "{}", list.stdout);
    restore(&bench, "many", &[]).ok();
}

/// The id that a text has which claims the time and number of `receipt`.
fn receipt_id(receipt: &Value, text: &str) -> String {
    let finished_at = receipt["finished_at"].as_str().unwrap().parse().unwrap();
    let seq = receipt["seq"].as_u64().unwrap();
    opsctl::archive::receipt::SnapshotId::new(finished_at, seq, Hash::of(text.as_bytes())).to_string()
}

#[test]
fn a_signature_that_ends_the_parser_ends_no_command() {
    let bench = Bench::new();
    bench.dir.write("tree/file", "x");
    bench.take();
    let whole = bench.take();
    let name = format!("snapshots/default/{}.json.minisig", whole.id());
    let signature = std::fs::read_to_string(bench.store.join(&name)).unwrap();
    let mut lines: Vec<&str> = signature.lines().collect();
    // The first signature holds; that of the comment is one byte. Who can write to the store can do this without a key.
    lines[3] = "AA==";
    std::fs::write(bench.store.join(&name), lines.join("\n")).unwrap();
    let list = bounded(&bench, "default", &["list"]).ok();
    let trust: Vec<&str> =
        list.json["snapshots"].as_array().unwrap().iter().map(|r| r["trust"].as_str().unwrap()).collect();
    assert_eq!(trust.iter().filter(|t| **t == "rejected").count(), 1, "{}", list.stdout);
    assert!(bounded(&bench, "default", &["check"]).ended(4).says("64 bytes"));
    restore(&bench, "default", &[]).ok();
}

#[test]
fn a_hostile_configuration_is_refused_in_bounded_memory() {
    let bench = Bench::new();
    let files = [
        ("huge", "# ".to_owned() + &"x".repeat(40 << 20)),
        ("nested", format!("recipients = {}", "[".repeat(1 << 20))),
        ("nested-tables", format!("a{} = 1", ".a".repeat(400_000))),
        ("nested-inline", "a = ".to_owned() + &"{a=".repeat(300_000)),
        ("long-key", "k".repeat(900_000) + " = 1"),
        ("many-keys", (0..40_000).map(|n| format!("key{n} = {n}\n")).collect()),
        ("zeros", "\0".repeat(1 << 20)),
    ];
    for (name, text) in files {
        let file = bench.dir.write(format!("{name}.toml"), text);
        let file = file.to_str().unwrap();
        for flag in ["--config", "--profile"] {
            let done = bounded(&bench, "x", &["config", "show", flag, file]).ended(2);
            assert!(done.error().contains(name), "{flag} {name}: {}", &done.error()[..200]);
            assert!(done.stdout.len() < 20_000, "{flag} {name}: a bounded message");
        }
    }
    // What never ends.
    for flag in ["--config", "--profile"] {
        bounded(&bench, "x", &["config", "show", flag, "/dev/zero"]).ended(2);
    }
}

#[test]
fn a_million_paths_are_listed_checked_planned_and_picked_from_in_bounded_memory() {
    const FILES: u64 = 1_000_000;
    let bench = Bench::new();
    let mut forge = Forge::new(&bench);
    let empty = Hash::of(b"");
    let mut counts = Counts::default();
    let mut lines = Vec::new();
    counts.add_captured(Kind::Dir, 0);
    lines.push((json!({"first": ""}), entry("", "dir").to_string().into_bytes()));
    for number in 0..FILES {
        let path = format!("f{number:07}");
        let line = format!(
            r#"{{"path":"{path}","type":"file","mode":420,"uid":0,"gid":0,"mtime":[1772892000,0],"size":0,"sha256":"{empty}"}}"#
        );
        counts.add_captured(Kind::File, 0);
        lines.push((json!({"first": path}), line.into_bytes()));
    }
    let root = forge.root_of(lines, counts);
    let receipt = forge.receipt("million", &root);
    forge.commit(&receipt);
    let bound = MEMORY + FILES * 100;
    let command = |words: &[&str]| {
        let mut command = bench.command();
        command.args(words).env("OPSCTL_SOURCE", "million").env("OPSCTL_IDENTITY_FILE", &bench.identity);
        let (done, peak) = measured(&bench.dir, command, LIMIT);
        assert!(peak < bound, "{words:?} took {} MiB", peak / MIB);
        done.ok()
    };
    let listed = command(&["ls", "latest"]);
    assert_eq!(listed.stdout.lines().count() as u64, FILES + 1);
    let to = bench.dir.join("to");
    command(&["restore", "--to", to.to_str().unwrap(), "--include", "/f0777777"]);
    assert!(to.join("f0777777").exists());
    let plan = command(&["restore", "--to", bench.dir.join("all").to_str().unwrap(), "--dry-run", "--json"]);
    assert_eq!(plan.number("files"), FILES);
    // Only this level reads the manifest.
    let checked = command(&["check", "--level", "decrypt", "--json"]);
    assert_eq!(checked.number("snapshots"), 1);
}
