//! After a change of recipients: what the new identity can read, what is stored anew for it, and how fast.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

mod support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use age::secrecy::ExposeSecret as _;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use support::opsctl::{Bench, Done, noise, rest, run};
use support::tree::assert_same_tree;

const MIB: u64 = 1 << 20;
/// No chunk is larger.
const CHUNK: u64 = 4 * MIB;
/// Manifest, tar headers, frames and age blocks of runs that store a few MiB.
const OVERHEAD: u64 = 256 << 10;
/// All bytes of [`Rotation::tree`], every one of them in a chunk of its own.
const ALL: u64 = 14 * MIB;

/// A store with one snapshot for the earlier identity, and a new identity.
struct Rotation {
    bench: Bench,
    new: PathBuf,
    both: PathBuf,
    new_recipient: String,
    before: Done,
}

impl Rotation {
    /// 12 small files and one of many chunks, at rest, and captured once.
    fn new() -> Self {
        let bench = Bench::new();
        for i in 0..12 {
            bench.dir.write(format!("tree/small/{i:02}"), noise(1 << 19, 10 + i));
        }
        bench.dir.write("tree/large", noise(8 << 20, 1));
        std::os::unix::fs::symlink("large", bench.tree.join("zlink")).unwrap();
        std::fs::hard_link(bench.tree.join("small/03"), bench.tree.join("small/03-again")).unwrap();
        rest();
        let before = bench.take();
        let identity = age::x25519::Identity::generate();
        let (secret, new_recipient) = (identity.to_string(), identity.to_public().to_string());
        let pin = format!("# opsctl-signer: {}\n", bench.signer);
        let new = bench.dir.write("new.identity", format!("{pin}{}\n", secret.expose_secret()));
        let earlier = std::fs::read_to_string(&bench.identity).unwrap();
        let both = bench.dir.write("both.identity", format!("{earlier}{}\n", secret.expose_secret()));
        Self { bench, new, both, new_recipient, before }
    }

    fn keys(&self, verb: &str, recipient: &str) {
        let mut command = self.bench.command();
        command.args(["keys", verb, recipient, "--json", "--signing-key"]).arg(&self.bench.key);
        run(command).ok();
    }

    /// Puts the new recipient in the place of the earlier one.
    fn replace(&self) {
        self.keys("add-recipient", &self.new_recipient);
        self.keys("revoke", &self.bench.recipient);
    }

    fn restore_as(&self, identity: &Path, snapshot: &Done, args: &[&str]) -> (Done, PathBuf) {
        let number = std::fs::read_dir(self.bench.dir.path()).unwrap().count();
        let to = self.bench.dir.join(format!("to-{number}"));
        let mut command = self.bench.restore_command(&to, ["--snapshot", snapshot.id()]);
        command.env("OPSCTL_IDENTITY_FILE", identity).args(args);
        (run(command), to)
    }

    #[track_caller]
    fn assert_restores_as(&self, identity: &Path, snapshot: &Done) {
        let (done, to) = self.restore_as(identity, snapshot, &[]);
        done.ok();
        assert_same_tree(&self.bench.tree, &to);
        std::fs::remove_dir_all(to).unwrap();
    }

    /// The recipient sets of the packs that a snapshot needs, by its pack list, and their names.
    fn packs(&self, snapshot: &Done) -> (BTreeSet<String>, BTreeSet<String>) {
        let receipt = self.bench.receipts().into_iter().find(|r| r["seq"] == seq(snapshot)).unwrap();
        let list = receipt["pack_list"].as_str().unwrap();
        let text = std::fs::read_to_string(self.bench.store.join(format!("packlists/{}/{list}.jsonl", &list[..2])));
        let lines: Vec<Value> = text.unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let all = |key: &str| lines.iter().map(|line| line[key].as_str().unwrap().to_owned()).collect();
        (all("keys"), all("pack"))
    }
}

fn seq(snapshot: &Done) -> u64 {
    snapshot.id().split('-').nth(1).unwrap().parse().unwrap()
}

/// The name of a set of one recipient, as `docs/format.md` says.
fn set_of(recipient: &str) -> String {
    Sha256::digest(format!("{recipient}\n")).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[track_caller]
fn rekey(done: &Done, key: &str) -> u64 {
    done.json["rekey"][key].as_u64().unwrap_or_else(|| panic!("no rekey.{key} in {}", done.stdout))
}

#[test]
fn after_a_replacement_the_next_snapshot_needs_the_new_identity_alone() {
    let site = Rotation::new();
    assert!(site.before.json["rekey"].is_null() && !site.before.says("recipients changed"));
    site.replace();
    let plan = site.bench.snapshot(["--dry-run"]).ok();
    assert_eq!((rekey(&plan, "stored_bytes"), rekey(&plan, "left_bytes")), (ALL, 0));
    let after = site.bench.take();
    assert_eq!((rekey(&after, "stored_bytes"), rekey(&after, "left_bytes")), (ALL, 0), "{}", after.stdout);
    assert!(after.stderr.contains("recipients changed: 14.0 MiB of unchanged files stored anew\n"), "{}", after.stderr);
    assert_eq!(after.number("bytes_read"), ALL, "the host cannot read packs, so it reads the files");
    site.assert_restores_as(&site.new, &after);

    // Nothing of the earlier set is referred to, and what was there is as it was.
    let (sets, packs) = site.packs(&after);
    assert_eq!(sets, BTreeSet::from([set_of(&site.new_recipient)]));
    assert!(packs.is_disjoint(&site.packs(&site.before).1));
    site.assert_restores_as(&site.bench.identity, &site.before);
    site.restore_as(&site.bench.identity, &after, &[]).0.ended(12);
    let refused = site.restore_as(&site.new, &site.before, &[]).0.ended(12);
    assert!(refused.error().contains("give the earlier identity too"), "{}", refused.error());

    let next = site.bench.take();
    assert!(next.json["rekey"].is_null() && !next.says("recipients changed"), "{}{}", next.stdout, next.stderr);
    assert_eq!(next.number("bytes_read"), 0);
}

#[test]
fn a_recipient_that_is_only_added_can_read_the_next_snapshot() {
    let site = Rotation::new();
    site.keys("add-recipient", &site.new_recipient);
    let after = site.bench.take();
    assert_eq!((rekey(&after, "stored_bytes"), rekey(&after, "left_bytes")), (ALL, 0));
    site.assert_restores_as(&site.new, &after);
    site.assert_restores_as(&site.bench.identity, &after);
}

/// Runs until nothing is left, and looks at every snapshot on the way.
#[test]
fn with_a_limit_each_run_stores_a_part_anew_until_nothing_is_left() {
    const LIMIT: u64 = 3 * MIB;
    let site = Rotation::new();
    site.replace();
    let config = site.bench.dir.write("opsctl.toml", "[snapshot]\nmax_rekey_size = \"3MiB\"\n");
    let mut left = ALL;
    let mut runs = 0;
    loop {
        let args = [Path::new("--config"), &config];
        let plan = site.bench.snapshot(args.map(Path::as_os_str).into_iter().chain(["--dry-run".as_ref()])).ok();
        let done = site.bench.snapshot(args).ok();
        assert_eq!(done.json["rekey"], plan.json["rekey"], "a dry run is the plan");
        if done.json["rekey"].is_null() {
            assert!(!done.says("recipients changed"), "{}", done.stderr);
            break;
        }
        runs += 1;
        let stored = rekey(&done, "stored_bytes");
        println!("run {runs}: {stored} stored anew, {} left", rekey(&done, "left_bytes"));
        assert!(stored > 0 && stored <= LIMIT + CHUNK, "{}", done.stdout);
        assert!(done.number("bytes_stored") <= stored + OVERHEAD, "{}", done.stdout);
        assert!(done.number("bytes_read") >= stored, "{}", done.stdout);
        assert_eq!(rekey(&done, "left_bytes"), left - stored, "{}", done.stdout);
        left -= stored;
        assert_eq!(rekey(&done, "runs_left"), left.div_ceil(LIMIT));
        let said = "still only in packs of earlier recipients; about";
        assert_eq!(done.stderr.contains(said), left > 0, "{}", done.stderr);
        assert_eq!(rekey(&done, "left_chunks") > 0, left > 0);

        let mut ls = site.bench.command();
        ls.args(["ls", done.id(), "--json", "--identity"]).arg(&site.new);
        assert_eq!(run(ls).ok().json["entries"].as_array().map(Vec::len), Some(17), "the new identity lists it alone");
        site.assert_restores_as(&site.both, &done);
        let alone = site.restore_as(&site.new, &done, &[]).0;
        if left > 0 {
            let error = alone.ended(12).error();
            assert!(error.contains("give the earlier identity too"), "{error}");
            assert_eq!(site.packs(&done).0.len(), 2);
        } else {
            alone.ok();
        }
    }
    assert_eq!(left, 0);
    assert!((3..=5).contains(&runs), "{runs} runs");
    let mut check = site.bench.command();
    check.args(["check", "--level", "hash", "--json"]);
    run(check).ok();
}

#[test]
fn the_limit_is_spent_in_the_order_of_the_walk_and_not_on_changed_files() {
    let site = Rotation::new();
    site.replace();
    // Changed files are needed by the new identity and are stored whole, whatever the limit.
    site.bench.dir.write("tree/small/11", noise(3 << 20, 99));
    let mut log = std::fs::read(site.bench.tree.join("small/10")).unwrap();
    log.extend(noise(1000, 98));
    site.bench.dir.write("tree/small/10", log);
    // Written anew with what was in it.
    site.bench.dir.write("tree/small/09", std::fs::read(site.bench.tree.join("small/09")).unwrap());
    rest();
    let first = site.bench.snapshot(["--max-rekey-size", "1"]).ok();
    // One chunk: the walk comes to `large` first.
    let stored = rekey(&first, "stored_bytes");
    assert!(stored > 0 && stored <= CHUNK, "{}", first.stdout);
    assert_eq!(stored + rekey(&first, "left_bytes"), ALL - 3 * MIB / 2, "{}", first.stdout);
    let changed = ["small/09", "small/10", "small/11"];
    let (done, to) = site.restore_as(&site.new, &first, &changed.map(|name| ["--include", name]).concat());
    done.ok();
    for name in changed {
        assert_eq!(std::fs::read(to.join(name)).unwrap(), std::fs::read(site.bench.tree.join(name)).unwrap());
    }
    // Half of `large` is in packs of the one set and half in packs of the other.
    site.restore_as(&site.new, &first, &["--include", "large"]).0.ended(12);
    site.assert_restores_as(&site.both, &first);

    // Reading everything does not store everything.
    let second = site.bench.snapshot(["--max-rekey-size", "1", "--rescan"]).ok();
    assert!(rekey(&second, "stored_bytes") <= CHUNK, "{}", second.stdout);
    assert!(second.number("bytes_read") > ALL, "{}", second.stdout);
    site.assert_restores_as(&site.both, &second);

    // Without a limit the rest follows at once.
    let last = site.bench.take();
    assert_eq!(rekey(&last, "left_bytes"), 0);
    assert_eq!(rekey(&last, "stored_bytes"), rekey(&second, "left_bytes"));
    site.assert_restores_as(&site.new, &last);
}

#[test]
fn a_file_in_new_packs_needs_the_new_identity_alone() {
    let site = Rotation::new();
    site.replace();
    let mut command = site.bench.snapshot_command([""; 0]);
    command.env("OPSCTL_MAX_REKEY_SIZE", "10MiB");
    let first = run(command).ok();
    assert!(rekey(&first, "left_bytes") > 0);
    // `large` and the first of `small` come first.
    let (done, to) = site.restore_as(&site.new, &first, &["--include", "large", "--include", "small/00"]);
    done.ok();
    for name in ["large", "small/00"] {
        assert_eq!(std::fs::read(to.join(name)).unwrap(), std::fs::read(site.bench.tree.join(name)).unwrap());
    }
    site.restore_as(&site.new, &first, &["--include", "small/09"]).0.ended(12);
}

/// Equal files share chunks: stored anew once, they are stored anew for all.
#[test]
fn content_that_occurs_often_is_stored_anew_and_counted_once() {
    let site = Rotation::new();
    for i in 0..6 {
        std::fs::copy(site.bench.tree.join("large"), site.bench.tree.join(format!("large-{i}"))).unwrap();
    }
    rest();
    site.bench.take();
    site.replace();
    let after = site.bench.snapshot(["--max-rekey-size", "8MiB"]).ok();
    assert_eq!(rekey(&after, "stored_bytes"), 8 * MIB, "{}", after.stdout);
    assert_eq!(rekey(&after, "left_bytes"), ALL - 8 * MIB, "{}", after.stdout);
    let (done, _) = site.restore_as(&site.new, &after, &["--include", "large*"]);
    done.ok();
}

#[test]
fn recipients_that_come_back_find_their_packs() {
    let site = Rotation::new();
    site.keys("add-recipient", &site.new_recipient);
    site.bench.snapshot(["--max-rekey-size", "1"]).ok();
    site.keys("revoke", &site.new_recipient);
    let back = site.bench.take();
    assert!(rekey(&back, "stored_bytes") <= CHUNK, "only what went to the other set: {}", back.stdout);
    assert_eq!(site.packs(&back).0, BTreeSet::from([set_of(&site.bench.recipient)]));
    site.assert_restores_as(&site.bench.identity, &back);
}

/// Without a state the host does not know what is in the store, so there is nothing that it could leave there.
#[test]
fn a_lost_state_stores_everything_for_the_new_identity() {
    let site = Rotation::new();
    site.replace();
    site.bench.snapshot(["--max-rekey-size", "1"]).ok();
    std::fs::remove_dir_all(&site.bench.state).unwrap();
    let after = site.bench.snapshot(["--max-rekey-size", "1"]).ok();
    assert!(after.json["rekey"].is_null(), "nothing is known of earlier packs: {}", after.stdout);
    site.assert_restores_as(&site.new, &after);
}

#[test]
fn a_limit_that_would_never_come_to_an_end_is_refused() {
    let bench = Bench::new();
    for bad in ["0", "lots"] {
        let refused = bench.snapshot(["--max-rekey-size", bad]).ended(2);
        assert!(refused.error().contains("max-rekey-size"), "{}", refused.error());
    }
}
