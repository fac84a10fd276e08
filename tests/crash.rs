//! A crash at any moment leaves every committed snapshot whole and the store usable, and the next run goes on.
//!
//! First with a store that is out of reach from a certain request on, for every request; then with real kills of the real program.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking, in its helpers too"
)]

mod support;

#[path = "support/faulty.rs"]
mod faulty;
#[path = "support/lab.rs"]
mod lab;
#[path = "support/stub_store.rs"]
mod stub_store;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use faulty::{Edge, Faulty, Op};
use lab::{Lab, on};
use object_store::memory::InMemory;
use rustix::process::Signal;
use stub_store::{Reply, StubStore, Turn, error};
use support::opsctl::{Bench, Done, Guarded, files_below, noise, run};
use support::tree::{Tree, assert_equal, assert_same_tree};
use support::{copy_folder, signal};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const EDGES: [Edge; 2] = [Edge::Before, Edge::After];
/// Packs of a small snapshot: one with content, one with leaves, one with the root.
const PACKS: usize = 3;

fn first_files(tree: &Path) {
    for n in 0..6 {
        let path = tree.join(format!("dir-{}/file-{n}", n % 2));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, noise(40 * KIB, n)).unwrap();
    }
    std::fs::write(tree.join("large"), noise(700 * KIB, 77)).unwrap();
}

fn more_files(tree: &Path) {
    std::fs::write(tree.join("dir-0/file-0"), noise(50 * KIB, 100)).unwrap();
    std::fs::write(tree.join("new"), noise(90 * KIB, 101)).unwrap();
    std::fs::remove_file(tree.join("dir-1/file-1")).unwrap();
}

// ---- a store that is out of reach from one request on ----

/// A store and a state to begin with, and the trees of the snapshots in it and of the next.
struct Before<'a> {
    lab: &'a Lab,
    memory: &'a InMemory,
    state: Option<&'a Path>,
    /// Of snapshots that are there, and of the one that is taken.
    trees: &'a [&'a Tree],
}

impl Before<'_> {
    /// Packs that a store has.
    fn packs(&self, memory: &Arc<InMemory>) -> usize {
        let listed = self.lab.runtime.block_on(on(memory.clone()).list("packs")).unwrap();
        listed.len()
    }

    /// Takes a snapshot that finds everything in order; returns how many packs it sent.
    fn next_run(&self, memory: &Arc<InMemory>, state: &Path) -> usize {
        let seen = Faulty::over(memory.clone(), []);
        let outcome = self.lab.snapshot(&on(seen.clone()), state).unwrap_or_else(|e| panic!("{}", e.full_message()));
        assert!(outcome.warnings.is_empty(), "{:?}", outcome.warnings);
        seen.count(Op::Put, "packs/")
    }

    /// Crashes at every request, on both sides of it.
    fn crash_everywhere(&self) {
        let there = self.trees.len() - 1;
        let counted = Faulty::over(Arc::new(self.memory.fork()), []);
        self.lab.snapshot(&on(counted.clone()), &self.lab.state(self.state)).unwrap();
        let requests = counted.asked();
        let puts = counted.count(Op::Put, "packs/");
        assert_eq!((puts, counted.count(Op::Put, "")), (PACKS, PACKS + 3), "packs, pack list, signature, receipt");
        assert!(requests.last().unwrap().key.ends_with(".json"), "the receipt comes last: {requests:?}");

        for at in 1..=requests.len() {
            for edge in EDGES {
                println!("crash {edge:?} request {at}: {:?}", requests[at - 1]);
                let memory = Arc::new(self.memory.fork());
                let before = self.packs(&memory);
                let state = self.lab.state(self.state);
                let died = Faulty::stopping(memory.clone(), at, edge);
                assert!(self.lab.snapshot(&on(died), &state).is_err(), "a run that was not answered says so");

                let committed = there + usize::from(at == requests.len() && edge == Edge::After);
                assert_eq!(self.lab.assert_honest(&on(memory.clone()), self.trees), committed, "what is committed");
                let stored = self.packs(&memory) - before;

                let without = Arc::new(memory.fork());
                assert_eq!(self.next_run(&memory, &state), PACKS - stored, "what is stored is used");
                assert_eq!(self.lab.assert_honest(&on(memory), self.trees), committed + 1);

                let sent = self.next_run(&without, &self.lab.state(None));
                assert!(sent >= PACKS, "without its state it stores all anew");
                assert_eq!(self.lab.assert_honest(&on(without), self.trees), committed + 1);
            }
        }
    }
}

#[test]
fn a_first_snapshot_that_loses_its_store_commits_all_or_nothing() {
    let lab = Lab::new();
    first_files(&lab.tree);
    let tree = Tree::read(&lab.tree);
    Before { lab: &lab, memory: &lab.memory(), state: None, trees: &[&tree] }.crash_everywhere();
}

#[test]
fn a_second_snapshot_that_loses_its_store_commits_all_or_nothing() {
    let lab = Lab::new();
    first_files(&lab.tree);
    let (memory, state) = (lab.memory(), lab.state(None));
    lab.snapshot(&on(memory.clone()), &state).unwrap();
    let first = Tree::read(&lab.tree);
    more_files(&lab.tree);
    let second = Tree::read(&lab.tree);
    Before { lab: &lab, memory: &memory, state: Some(&state), trees: &[&first, &second] }.crash_everywhere();
}

/// Of several packs of content, those that arrived are not sent again, whether or not the answer arrived as well.
#[test]
fn packs_of_a_crashed_run_are_not_sent_again() {
    let lab = Lab::new();
    for n in 0..18 {
        std::fs::write(lab.tree.join(format!("{n:02}")), noise(4 * MIB, n)).unwrap();
    }
    for edge in EDGES {
        let (memory, state) = (lab.memory(), lab.state(None));
        // LIST, descriptor, keys object, its signature, the first pack, the second.
        let died = Faulty::stopping(memory.clone(), 6, edge);
        lab.snapshot(&on(died.clone()), &state).unwrap_err();
        assert!(died.asked()[5].key.contains("packs/"), "{:?}", died.asked());
        let arrived = lab.runtime.block_on(on(memory.clone()).list("packs")).unwrap();
        assert_eq!(arrived.len(), if edge == Edge::Before { 1 } else { 2 });
        let next = on(memory.clone());
        lab.snapshot(&next, &state).unwrap();
        let there: u64 = arrived.iter().map(|pack| pack.size).sum();
        let all = 18 * 4 * MIB as u64;
        let sent = next.stats().bytes_sent;
        assert!(sent < all - there + MIB as u64, "{edge:?}: {sent} of {all} sent, {there} were there");
        assert_eq!(lab.assert_honest(&next, &[&Tree::read(&lab.tree)]), 1);
    }
}

// ---- real kills of a snapshot ----

/// Numbers from a seed that is printed, so that a failure can be had again.
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        println!("seed {seed}");
        Self(seed)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

fn copy(from: &Path, to: &Path) {
    if from.exists() {
        copy_folder(from, to);
    }
}

/// A store and a state as they were before a snapshot, to be killed many times.
struct Scene {
    bench: Bench,
    /// Copies of store and state.
    store: PathBuf,
    state: PathBuf,
    trees: Vec<Tree>,
}

impl Scene {
    /// With so many snapshots in the store, and something to store in the next.
    fn new(snapshots: usize) -> Self {
        let bench = Bench::new();
        first_files(&bench.tree);
        let mut trees = Vec::new();
        for _ in 0..snapshots {
            bench.take();
            trees.push(Tree::read(&bench.tree));
            more_files(&bench.tree);
        }
        trees.push(Tree::read(&bench.tree));
        let (store, state) = (bench.dir.join("store-before"), bench.dir.join("state-before"));
        copy(&bench.store, &store);
        copy(&bench.state, &state);
        Self { bench, store, state, trees }
    }

    /// Puts store and state back.
    fn rewind(&self) {
        for (copied, place) in [(&self.store, &self.bench.store), (&self.state, &self.bench.state)] {
            let _ = std::fs::remove_dir_all(place);
            copy(copied, place);
        }
    }

    /// Starts a snapshot through a server that gives these turns.
    fn start(&self, stub: &StubStore) -> Guarded {
        // One upload after the other, so that a request has the same number each time.
        let mut command = self.bench.snapshot_command(["--upload-concurrency", "1"]);
        let running = Guarded::spawn(command.envs(stub.env()));
        stub.aim(&running.0);
        running
    }

    fn names(&self) -> Vec<String> {
        let stub = StubStore::with(&self.bench.store, |_, _| Turn::Serve);
        self.start(&stub).end().ok();
        stub.seen()
    }

    /// Every committed snapshot restores to its tree, and a check finds nothing wrong.
    fn assert_honest(&self) -> usize {
        let bench = &self.bench;
        let mut check = bench.command();
        check.args(["check", "--level", "decrypt", "--json"]).env("OPSCTL_IDENTITY_FILE", &bench.identity);
        let done = run(check).ok();
        let mut warnings = done.warnings();
        warnings.retain(|warning| !lab::is_cut_off_commit(warning));
        assert_eq!(warnings, Vec::<String>::new());
        let mut receipts = bench.objects_in("snapshots/");
        receipts.retain(|name| name.ends_with(".json"));
        for (at, name) in receipts.iter().enumerate() {
            let id = name.rsplit('/').next().unwrap().trim_end_matches(".json");
            let to = bench.dir.join("restored");
            bench.restore(&to, ["--snapshot", id]).ok();
            assert_equal(&self.trees[at.min(self.trees.len() - 1)], &Tree::read(&to));
            std::fs::remove_dir_all(to).unwrap();
        }
        assert_eq!(done.number("snapshots"), receipts.len() as u64);
        receipts.len()
    }

    fn packs(&self) -> usize {
        self.bench.objects_in("packs/").iter().filter(|name| name.ends_with(".age")).count()
    }

    /// After a kill: honest, and the next run works. It sends no pack that arrived, unless what that refers to did not: which
    /// is possible where packs are sent side by side.
    fn goes_on(&self, packs_before: usize, side_by_side: bool) {
        let committed = self.assert_honest();
        assert!((self.trees.len() - 1..=self.trees.len()).contains(&committed), "{committed} snapshots");
        let arrived = self.packs() - packs_before;
        let next = self.bench.take();
        let at_most = if side_by_side { PACKS + arrived } else { PACKS };
        let now = self.packs() - packs_before;
        assert!((PACKS..=at_most).contains(&now), "{now} packs, {arrived} had arrived: {}", next.stdout);
        assert_eq!(self.assert_honest(), committed + 1);
    }

    /// Kills the program at every request, on both sides of its effect. Returns the number of kills.
    fn kill_everywhere(&self) -> usize {
        let names = self.names();
        let packs = {
            self.rewind();
            self.packs()
        };
        for at in 1..=names.len() {
            for with_effect in [false, true] {
                self.rewind();
                println!("killed at request {at}, {}, effect: {with_effect}", names[at - 1]);
                let turn = move |_: &stub_store::Request, number| {
                    if number == at { Turn::Kill(with_effect) } else { Turn::Serve }
                };
                let stub = StubStore::with(&self.bench.store, turn);
                self.start(&stub).end().ended(128 + 9);
                self.goes_on(packs, false);
            }
        }
        2 * names.len()
    }
}

#[test]
fn a_first_snapshot_killed_at_any_request_leaves_no_lie() {
    assert!(Scene::new(0).kill_everywhere() >= 20);
}

#[test]
fn a_second_snapshot_killed_at_any_request_leaves_no_lie() {
    assert!(Scene::new(1).kill_everywhere() >= 20);
}

/// In the middle of what it sends: a body of which a part has arrived.
#[test]
fn a_snapshot_killed_within_a_body_leaves_no_lie() {
    let scene = Scene::new(1);
    let packs = scene.packs();
    let names = scene.names();
    let puts: Vec<usize> = (0..names.len()).filter(|at| names[*at].starts_with("PUT")).map(|at| at + 1).collect();
    let mut dice = Dice::new(20_261_121);
    for _ in 0..10 {
        scene.rewind();
        let at = puts[usize::try_from(dice.below(puts.len() as u64)).unwrap()];
        let share = dice.below(1_000);
        let met = Arc::new(Mutex::new(None));
        let seen = met.clone();
        let turn = move |request: &stub_store::Request, number| {
            if number != at {
                return Turn::Serve;
            }
            // Of each body some bytes, and never all.
            let bytes = 1 + share * (request.length() - 2) / 1_000;
            *seen.lock().unwrap() = Some((bytes, request.length()));
            Turn::KillAt(bytes)
        };
        let stub = StubStore::with(&scene.bench.store, turn);
        scene.start(&stub).end().ended(128 + 9);
        let (bytes, length) = met.lock().unwrap().expect("a request that was met");
        println!("killed at request {at}, {}, at byte {bytes} of {length}", names[at - 1]);
        assert!((1..length).contains(&bytes), "only a part arrived");
        scene.goes_on(packs, false);
    }
}

/// At moments that have nothing to do with requests: while it walks, reads, packs, writes its state.
#[test]
fn a_snapshot_killed_at_any_time_leaves_no_lie() {
    let scene = Scene::new(1);
    let packs = scene.packs();
    let started = Instant::now();
    scene.bench.take();
    let length = u64::try_from(started.elapsed().as_micros()).unwrap();
    let mut dice = Dice::new(4711);
    let (mut killed, mut rounds) = (0, 0);
    while killed < 8 {
        rounds += 1;
        assert!(rounds < 400, "{killed} of {rounds} were killed before their end");
        scene.rewind();
        let mut command = scene.bench.snapshot_command([""; 0]);
        let running = Guarded::spawn(&mut command);
        // Not to wait for anything: the moment is the dice's.
        std::thread::sleep(Duration::from_micros(dice.below(length)));
        signal(&running.0, Signal::KILL);
        let code = running.end().code;
        assert!(code == 0 || code == 128 + 9, "{code}");
        if code != 0 {
            killed += 1;
            scene.goes_on(packs, true);
        }
    }
}

// ---- real kills of a restore ----

#[test]
fn a_restore_killed_at_any_time_is_finished_by_the_next() {
    let bench = Bench::new();
    for n in 0..60 {
        bench.dir.write(format!("tree/{}/{n:02}", n % 7), noise(200 * KIB, n));
    }
    std::fs::hard_link(bench.tree.join("0/00"), bench.tree.join("6/link")).unwrap();
    bench.take();
    let to = bench.dir.join("to");
    let started = Instant::now();
    bench.restore(&to, [""; 0]).ok();
    let length = u64::try_from(started.elapsed().as_micros()).unwrap();
    std::fs::remove_dir_all(&to).unwrap();

    let mut dice = Dice::new(1789);
    let (mut killed, mut kept, mut round) = (0, 0, 0);
    while killed < 8 || kept == 0 {
        round += 1;
        assert!(round < 200, "{killed} were killed, {kept} files were in place");
        // At any time; then when some more files are in place; then to its end.
        for by_files in [false, true] {
            let mut running = Guarded::spawn(&mut bench.restore_command(&to, [""; 0]));
            if by_files {
                let enough = in_place(&to) + 1 + usize::try_from(dice.below(15)).unwrap();
                while in_place(&to) < enough && running.0.try_wait().unwrap().is_none() {
                    std::thread::yield_now();
                }
            } else {
                std::thread::sleep(Duration::from_micros(dice.below(length)));
            }
            signal(&running.0, Signal::KILL);
            let done = running.end();
            if done.code == 128 + 9 {
                killed += 1;
            } else {
                assert!(is_finished(&done, &to), "{}", done.stdout);
            }
        }
        let done = bench.restore(&to, [""; 0]);
        assert!(is_finished(&done, &to), "{}", done.stdout);
        kept += done.json["files_kept"].as_u64().unwrap_or_default();
        println!("round {round}: {} files were in place", done.json["files_kept"]);
        assert_same_tree(&bench.tree, &to);
        std::fs::remove_dir_all(&to).unwrap();
    }
}

/// Files that have their names.
fn in_place(to: &Path) -> usize {
    files_below(to).iter().filter(|file| !file.starts_with(to.join(".opsctl"))).count()
}

/// Whether a restore is complete: by this run, or by one that was killed, or ended, after its last step and left nothing to go on
/// with, so that this one found a folder in use.
fn is_finished(done: &Done, to: &Path) -> bool {
    done.code == 0
        || (done.code == 2 && done.error().contains("not empty") && !to.join(".opsctl/restore.json").exists())
}

// ---- real kills of init and keys ----

/// What `init` needs beside a store that is made by the test.
fn init(dir: &Path, stub: &StubStore, suffix: &str) -> Command {
    let mut command = support::opsctl_process();
    command.args(["init", "--json", "--new-identity"]).arg(dir.join(format!("identity{suffix}")));
    command.arg("--new-signing-key").arg(dir.join(format!("key{suffix}"))).envs(stub.env());
    command
}

#[test]
fn an_init_killed_at_any_request_leaves_a_way_out() {
    let dir = support::TestDir::new();
    let counted = StubStore::with(&dir.mkdir("counted"), |_, _| Turn::Serve);
    run(init(dir.path(), &counted, "-counted")).ok();
    let names = counted.seen();
    assert!(names.len() >= 5, "{names:?}");
    for at in 1..=names.len() {
        for with_effect in [false, true] {
            println!("killed at request {at}, {}, effect: {with_effect}", names[at - 1]);
            let folder = dir.mkdir(format!("store-{at}-{with_effect}"));
            let stub = StubStore::with(
                &folder,
                move |_, number| {
                    if number == at { Turn::Kill(with_effect) } else { Turn::Serve }
                },
            );
            let keys = dir.mkdir(format!("keys-{at}-{with_effect}"));
            let running = Guarded::spawn(&mut init(&keys, &stub, ""));
            stub.aim(&running.0);
            running.end().ended(128 + 9);

            // As it was asked for first; then with other files, as the message about the files says.
            let (mut suffix, mut done) = ("", run(init(&keys, &stub, "")));
            if done.code == 2 && keys.join("key").exists() {
                assert!(done.error().contains("never overwritten"), "{}", done.stdout);
                (suffix, done) = ("-2", run(init(&keys, &stub, "-2")));
            }
            if done.code == 2 && done.error().contains("is not empty") {
                assert!(done.error().contains("delete what is in keys/"), "{}", done.stdout);
                std::fs::remove_dir_all(folder.join("keys")).unwrap();
                done = run(init(&keys, &stub, "-2"));
            }
            if done.code == 2 && done.error().contains("is an opsctl store already") {
                // The first one had done everything.
                suffix = "";
            } else {
                done.ok();
            }
            usable(&dir, &keys, &stub, suffix);
        }
    }
}

/// The answer to the last PUT is lost, and what is there cannot be read: it may be another's.
#[test]
fn an_init_that_cannot_tell_whether_it_won_says_so() {
    let dir = support::TestDir::new();
    for readable in [true, false] {
        let gone = AtomicBool::new(false);
        let stub =
            StubStore::with(&dir.mkdir(format!("store-{readable}")), move |request, _| match request.name().as_str() {
                "PUT opsctl-store.json" if !gone.swap(true, Ordering::SeqCst) => Turn::Then(Reply::HangUp),
                "GET opsctl-store.json" if !readable => Turn::Instead(error("403 Forbidden", "AccessDenied")),
                _ => Turn::Serve,
            });
        let done = run(init(dir.path(), &stub, if readable { "-1" } else { "-2" }));
        if readable {
            done.ok();
        } else {
            assert!(done.ended(12).error().contains("keys list"));
        }
    }
}

/// A snapshot can be taken with these keys, and restored.
fn usable(dir: &support::TestDir, keys: &Path, stub: &StubStore, suffix: &str) {
    let tree = dir.mkdir("tree");
    std::fs::write(tree.join("file"), "x").unwrap();
    let mut snapshot = support::opsctl_process();
    snapshot.arg("snapshot").arg(&tree).arg("--signing-key").arg(keys.join(format!("key{suffix}")));
    snapshot.arg("--state-dir").arg(keys.join("state")).envs(stub.env());
    run(snapshot).ok();
    let (mut restore, to) = (support::opsctl_process(), keys.join("to"));
    restore.arg("restore").arg("--to").arg(&to).arg("--identity").arg(keys.join(format!("identity{suffix}")));
    run({
        restore.envs(stub.env());
        restore
    })
    .ok();
    assert_same_tree(&tree, &to);
}

#[test]
fn a_change_of_keys_killed_at_any_request_is_made_or_not() {
    let bench = Bench::new();
    bench.dir.write("tree/file", noise(10 * KIB, 1));
    bench.take();
    let before = bench.dir.join("store-before");
    copy(&bench.store, &before);
    let other = age::x25519::Identity::generate().to_public().to_string();
    let change = |stub: Option<&StubStore>| {
        let mut command = bench.command();
        command.args(["keys", "add-recipient", &other, "--json", "--signing-key"]).arg(&bench.key);
        command.envs(stub.map(StubStore::env).unwrap_or_default());
        command
    };
    let counted = StubStore::with(&bench.store, |_, _| Turn::Serve);
    run(change(Some(&counted))).ok();
    let names = counted.seen();
    for at in 1..=names.len() {
        for with_effect in [false, true] {
            println!("killed at request {at}, {}, effect: {with_effect}", names[at - 1]);
            std::fs::remove_dir_all(&bench.store).unwrap();
            copy(&before, &bench.store);
            // It remembers the keys of the last round, and would refuse those of an earlier one.
            std::fs::remove_dir_all(&bench.state).unwrap();
            let stub = StubStore::with(
                &bench.store,
                move |_, number| {
                    if number == at { Turn::Kill(with_effect) } else { Turn::Serve }
                },
            );
            let running = Guarded::spawn(&mut change(Some(&stub)));
            stub.aim(&running.0);
            running.end().ended(128 + 9);
            // Half a change hurts nobody.
            let mut check = bench.command();
            check.args(["check", "--level", "hash", "--json", "--trusted-signer", &bench.signer]);
            assert_eq!(run(check).ok().warnings(), Vec::<String>::new());
            assert_same_tree(&bench.tree, &bench.restored(&bench.take()));
            let again = run(change(None));
            assert!(
                again.code == 0 || (again.code == 2 && again.error().contains("there already")),
                "{}",
                again.stdout
            );
            let mut list = bench.command();
            list.args(["keys", "list", "--json", "--trusted-signer", &bench.signer]);
            let keys = run(list).ok();
            assert_eq!(keys.json["recipients"], serde_json::json!([bench.recipient, other]));
            assert_same_tree(&bench.tree, &bench.restored(&bench.take()));
        }
    }
}
