//! `opsctl init` and `opsctl keys` from the outside: what they make, what they refuse, and what it means for snapshots.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, in its helpers too"
)]

mod support;

#[path = "support/cycle.rs"]
mod cycle;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use opsctl::archive::keys::{Keys, MAX_SEQ};
use opsctl::archive::layout;
use opsctl::archive::signature::SigningKey;
use secrecy::SecretString;
use support::TestDir;
use support::opsctl::{Bench, Done, files_below, run, url};
use support::tree::assert_same_tree;

const NONE: [&str; 0] = [];

fn nothing_stored(bench: &Bench) {
    assert_eq!(bench.objects_in("snapshots/"), Vec::<String>::new());
    assert_eq!(bench.objects_in("packs/"), Vec::<String>::new());
}

/// `opsctl init --json --store STORE …`
fn init<S: AsRef<OsStr>>(store: &Path, args: impl IntoIterator<Item = S>) -> Done {
    let mut command = support::opsctl_process();
    command.args(["init", "--json", "--store", &url(store)]).args(args);
    run(command)
}

/// `opsctl keys …` on the store, signed with `key`, believing `pin` too.
fn keys(bench: &Bench, key: &Path, pin: &str, args: &[&str]) -> Done {
    let mut command = bench.command();
    command.arg("keys").args(args).arg("--json").env("OPSCTL_TRUSTED_SIGNERS", pin);
    if args[0] != "list" {
        command.env("OPSCTL_SIGNING_KEY_FILE", key);
    }
    run(command)
}

/// A signing key that no store has accepted yet, and its public half.
struct Key {
    _dir: TestDir,
    file: PathBuf,
    signer: String,
}

fn new_key() -> Key {
    let dir = TestDir::new();
    let file = dir.join("key");
    let made = init(
        &dir.join("store"),
        [OsStr::new("--new-identity"), dir.join("id").as_os_str(), OsStr::new("--new-signing-key"), file.as_os_str()],
    )
    .ok();
    let signer = made.text("signer").to_owned();
    Key { _dir: dir, file, signer }
}

/// `snapshot` signed with `key` on a host that pins `pins`.
fn snapshot_as(bench: &Bench, key: &Path, pins: &str) -> Done {
    let mut command = bench.snapshot_command(NONE);
    command.env("OPSCTL_SIGNING_KEY_FILE", key);
    if !pins.is_empty() {
        command.env("OPSCTL_TRUSTED_SIGNERS", pins);
    }
    run(command)
}

/// Every file below a folder with its content.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    files_below(dir).into_iter().map(|file| (file.clone(), std::fs::read(file).unwrap())).collect()
}

// ---- init ----

#[test]
fn a_store_is_made_once_and_nowhere_else() {
    let bench = Bench::new();
    let (id, key) = (bench.dir.join("id2"), bench.dir.join("key2"));
    let new = [OsStr::new("--new-identity"), id.as_os_str(), OsStr::new("--new-signing-key"), key.as_os_str()];
    let before = contents(&bench.store);
    assert!(init(&bench.store, new).ended(2).error().contains("is an opsctl store already"));
    assert_eq!(contents(&bench.store), before);
    let foreign = bench.dir.write("foreign/photo", "not ours");
    assert!(init(foreign.parent().unwrap(), new).ended(2).error().contains("photo"));
    assert_eq!(files_below(foreign.parent().unwrap()), [foreign]);
    // Nor where something lies under a name that a listing leaves out.
    let odd = bench.dir.write("odd/back\\slash", "not ours");
    assert!(init(odd.parent().unwrap(), new).ended(2).error().contains("is not empty"));
    assert_eq!(files_below(odd.parent().unwrap()), [odd]);
    assert!(!id.exists() && !key.exists(), "no keys for a store that was not made");
}

#[test]
fn key_files_are_private_and_never_overwritten() {
    let bench = Bench::new();
    for file in [&bench.identity, &bench.key] {
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o7777, 0o600, "{}", file.display());
    }
    let text = std::fs::read_to_string(&bench.identity).unwrap();
    assert!(text.contains(&format!("\n# opsctl-signer: {}\n", bench.signer)), "the signer is pinned");
    assert!(text.contains(&format!("# public key: {}\n", bench.recipient)));
    assert!(text.contains("offline") && text.contains("Never on the backup host"), "advice");
    assert!(text.lines().last().unwrap().starts_with("AGE-SECRET-KEY-1"));
    assert!(!bench.init.says("AGE-SECRET-KEY"), "the secret is in its file only");

    let (store, new) = (bench.dir.join("other"), bench.dir.join("new"));
    let before = [&bench.identity, &bench.key].map(|file| std::fs::read(file).unwrap());
    std::os::unix::fs::symlink(bench.dir.join("nowhere"), bench.dir.join("link")).unwrap();
    for (identity, key) in [(&bench.identity, &new), (&new, &bench.key), (&bench.dir.join("link"), &new)] {
        let args =
            [OsStr::new("--new-identity"), identity.as_os_str(), OsStr::new("--new-signing-key"), key.as_os_str()];
        assert!(init(&store, args).ended(2).error().contains("exists already"));
        assert!(!new.exists() && !store.exists() && !bench.dir.join("nowhere").exists(), "all or nothing");
    }
    assert_eq!([&bench.identity, &bench.key].map(|file| std::fs::read(file).unwrap()), before);
}

#[test]
fn a_dry_init_makes_nothing() {
    let dir = TestDir::new();
    let (store, id, key) = (dir.join("store"), dir.join("id"), dir.join("key"));
    let args = [
        OsStr::new("--new-identity"),
        id.as_os_str(),
        OsStr::new("--new-signing-key"),
        key.as_os_str(),
        OsStr::new("--dry-run"),
    ];
    let done = init(&store, args).ok();
    assert_eq!(done.json["dry_run"], true);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "{}", done.stdout);
}

/// An SSH key pair without a passphrase; the file and the public half.
fn ssh_key(dir: &TestDir, kind: &str) -> (PathBuf, String) {
    let file = dir.join(kind);
    let bits: &[&str] = if kind == "rsa" { &["-b", "2048"] } else { &[] };
    let path = file.to_str().unwrap();
    cycle::run(Command::new("ssh-keygen").args(["-q", "-t", kind, "-N", "", "-C", "who@where", "-f", path]).args(bits));
    let public = std::fs::read_to_string(file.with_extension("pub")).unwrap();
    (file, public.trim().to_owned())
}

#[test]
fn ssh_keys_and_a_file_of_recipients_work_end_to_end() {
    let bench = Bench::new();
    let (ed25519, ed25519_public) = ssh_key(&bench.dir, "ed25519");
    let (rsa, rsa_public) = ssh_key(&bench.dir, "rsa");
    let list = bench.dir.write("recipients", format!("# who reads\n{ed25519_public}\n\n{}\n", bench.recipient));
    let store = bench.dir.join("ssh store");
    let args = [
        OsStr::new("--recipients-file"),
        list.as_os_str(),
        OsStr::new("--recipient"),
        OsStr::new(&rsa_public),
        OsStr::new("--signing-key"),
        bench.key.as_os_str(),
    ];
    let made = init(&store, args).ok();
    let recipients: Vec<&str> =
        made.json["recipients"].as_array().unwrap().iter().map(|r| r.as_str().unwrap()).collect();
    assert_eq!(recipients.len(), 3);
    assert!(
        recipients.iter().any(|r| r.starts_with("ssh-rsa "))
            && recipients.iter().any(|r| r.starts_with("ssh-ed25519 "))
    );
    bench.dir.write("tree/file", "for three readers");
    let store = url(&store);
    bench.snapshot(["--store", &store]).ok();
    for (name, identity) in [("ed25519", &ed25519), ("rsa", &rsa), ("age", &bench.identity)] {
        let to = bench.dir.join(format!("read by {name}"));
        let mut command = bench.restore_command(&to, ["--store", &store]);
        command.env("OPSCTL_IDENTITY_FILE", identity).env("OPSCTL_TRUSTED_SIGNERS", &bench.signer);
        run(command).ok();
        assert_same_tree(&bench.tree, &to);
    }
}

// ---- keys ----

#[test]
fn the_list_of_keys_has_what_scripts_rely_on() {
    let bench = Bench::new();
    let list = keys(&bench, &bench.key, &bench.signer, &["list"]).ok().json;
    assert_eq!(list["dry_run"], false);
    assert_eq!(list["seq"], 1);
    assert_eq!(list["recipients"], serde_json::json!([bench.recipient]));
    assert_eq!(list["signers"], serde_json::json!([bench.signer]));
    assert_eq!(list["revoked"], serde_json::json!({}));
    assert!(bench.objects_in("keys/").contains(&list["object"].as_str().unwrap().to_owned()));
}

#[test]
fn a_new_signer_is_believed_by_who_pins_the_first() {
    let bench = Bench::new();
    let new = new_key();
    bench.dir.write("tree/file", "signed by the second");
    let planned = keys(&bench, &bench.key, "", &["add-signer", &new.signer, "--dry-run"]).ok();
    assert_eq!((planned.json["dry_run"].as_bool(), bench.objects_in("keys/").len()), (Some(true), 2));
    let added = keys(&bench, &bench.key, "", &["add-signer", &new.signer]).ok();
    assert_eq!((added.json["seq"].as_u64(), bench.objects_in("keys/").len()), (Some(2), 4));
    keys(&bench, &bench.key, "", &["add-signer", &new.signer]).ended(2);
    // The identity file pins the first signer only.
    let snapshot = snapshot_as(&bench, &new.file, &bench.signer).ok();
    assert_same_tree(&bench.tree, &bench.restored(&snapshot));
    assert_eq!(bench.restore(&bench.dir.join("latest"), NONE).ok().id(), snapshot.id());
}

/// A host whose signer was revoked is told, and stores nothing that no reader would trust.
#[test]
fn a_host_whose_signer_was_revoked_stores_nothing() {
    let bench = Bench::new();
    let (new, stranger) = (new_key(), new_key());
    bench.dir.write("tree/file", "x");
    keys(&bench, &bench.key, "", &["add-signer", &new.signer]).ok();
    keys(&bench, &new.file, &bench.signer, &["revoke", &bench.signer]).ok();
    let before = contents(&bench.store);
    let refused = snapshot_as(&bench, &bench.key, &new.signer).ended(12);
    assert!(refused.error().contains(&bench.signer) && refused.error().contains("add-signer"), "{}", refused.stdout);
    // A host that pins nobody else learns of it all the same: the chain of keys objects says so.
    snapshot_as(&bench, &bench.key, "").ended(12);
    // One that was never accepted, whether or not the host believes who was.
    snapshot_as(&bench, &stranger.file, &new.signer).ended(12);
    snapshot_as(&bench, &stranger.file, "").ended(12);
    assert_eq!(contents(&bench.store), before);
    nothing_stored(&bench);
    snapshot_as(&bench, &new.file, &bench.signer).ok();
}

/// Recipients changed by a signer that the host does not pin: it neither follows nor goes on as if nothing were.
#[test]
fn a_host_stops_where_the_recipients_were_changed_by_a_signer_that_it_does_not_pin() {
    let bench = Bench::new();
    let new = new_key();
    bench.dir.write("tree/file", "x");
    bench.take();
    keys(&bench, &bench.key, "", &["add-signer", &new.signer]).ok();
    bench.take();
    let other = bench.dir.join("other");
    init(
        &bench.dir.join("elsewhere"),
        [
            "--new-identity".as_ref(),
            other.as_os_str(),
            "--new-signing-key".as_ref(),
            bench.dir.join("unused").as_os_str(),
        ],
    )
    .ok();
    let text = std::fs::read_to_string(&other).unwrap();
    let recipient = text.lines().find_map(|line| line.strip_prefix("# public key: ")).unwrap();
    keys(&bench, &new.file, &bench.signer, &["add-recipient", recipient]).ok();
    let refused = snapshot_as(&bench, &bench.key, "").ended(4);
    assert!(refused.error().contains("OPSCTL_TRUSTED_SIGNERS"), "{}", refused.stdout);
    let followed = snapshot_as(&bench, &bench.key, &new.signer).ok();
    assert!(followed.number("bytes_stored") > 0, "stored anew for the new set");
}

#[test]
fn a_revocation_keeps_what_it_names_and_all_before() {
    let bench = Bench::new();
    let new = new_key();
    let taken = ["first", "second", "third"].map(|content| {
        bench.dir.write("tree/file", content);
        bench.take()
    });
    keys(&bench, &bench.key, "", &["add-signer", &new.signer]).ok();
    let up_to = format!("default/{}", taken[1].id());
    keys(&bench, &new.file, &bench.signer, &["revoke", &bench.signer, "--trusted-up-to", "default/nonsense"]).ended(2);
    let revoked = keys(&bench, &new.file, &bench.signer, &["revoke", &bench.signer, "--trusted-up-to", &up_to]).ok();
    assert_eq!(revoked.json["revoked"], serde_json::json!({bench.signer.as_str(): {"default": taken[1].id()}}));
    let restore = |snapshot: &str, to: &str| {
        let mut command = bench.restore_command(&bench.dir.join(to), ["--snapshot", snapshot]);
        command.env("OPSCTL_TRUSTED_SIGNERS", &new.signer);
        run(command)
    };
    for (snapshot, content) in taken.iter().zip(["first", "second"]) {
        restore(snapshot.id(), content).ok();
        assert_eq!(std::fs::read_to_string(bench.dir.join(content).join("file")).unwrap(), content);
    }
    restore(taken[2].id(), "third").ended(4);
    assert!(!bench.dir.join("third").exists());
    restore("latest", "latest").ok();
    assert_eq!(std::fs::read_to_string(bench.dir.join("latest/file")).unwrap(), "second");
    // A revoked signer does not come back, and changes nothing any more.
    keys(&bench, &new.file, &bench.signer, &["add-signer", &bench.signer]).ended(2);
    keys(&bench, &bench.key, &new.signer, &["add-signer", &new_key().signer]).ended(12);
}

#[test]
fn the_last_number_that_counts_is_followed_by_a_clear_refusal() {
    let bench = Bench::new();
    let first = bench.objects_in("keys/").into_iter().find(|name| name.ends_with(".json")).unwrap();
    let mut last = Keys::read(&std::fs::read(bench.store.join(first)).unwrap()).unwrap();
    let key = SigningKey::parse(&SecretString::from(std::fs::read_to_string(&bench.key).unwrap())).unwrap();
    let put = |keys: &Keys| {
        let (hash, bytes) = keys.write().unwrap();
        let name = layout::keys_object(keys.seq, hash);
        std::fs::write(bench.store.join(format!("{name}.minisig")), key.sign(&bytes, &name).unwrap()).unwrap();
        std::fs::write(bench.store.join(&name), bytes).unwrap();
    };
    last.seq = u32::MAX;
    put(&last);
    // Nobody counts that far.
    let added = keys(&bench, &bench.key, "", &["add-signer", &new_key().signer]).ok();
    assert_eq!(added.json["seq"], 2);
    last.seq = MAX_SEQ;
    put(&last);
    let refused = keys(&bench, &bench.key, "", &["add-signer", &new_key().signer]).ended(4).error();
    assert!(refused.contains("1000000000"), "{refused}");
}

#[test]
fn changes_that_make_no_sense_are_refused() {
    let bench = Bench::new();
    let stranger = new_key();
    let before = contents(&bench.store);
    let signed = |args: &[&str]| keys(&bench, &bench.key, "", args);
    assert!(signed(&["revoke", &bench.signer]).ended(2).error().contains("last signer"));
    assert!(signed(&["revoke", &bench.recipient]).ended(2).error().contains("last recipient"));
    signed(&["revoke", &stranger.signer]).ended(10);
    signed(&["revoke", &Bench::new().recipient]).ended(10);
    signed(&["add-recipient", &bench.recipient]).ended(2);
    signed(&["add-recipient", "age1nonsense"]).ended(2);
    keys(&bench, &stranger.file, &bench.signer, &["add-signer", &stranger.signer]).ended(12);
    assert_eq!(contents(&bench.store), before);
}
