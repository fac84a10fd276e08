//! A store that misbehaves costs time or the command, never the truth: whatever it does, a command either succeeds, and then what it
//! says holds, or it fails, names the object and the next step, and has committed nothing that does not restore.
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

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use faulty::{Faulty, Op, Rule, exists, forbidden, full, reset, timeout};
use lab::{Lab, TRIES, fast, on};
use object_store::memory::InMemory;
use object_store::{ObjectStoreExt as _, PutPayload};
use opsctl::ExitCode;
use opsctl::check::Level;
use opsctl::providers::store::{Location, Store};
use stub_store::{Gate, Reply, StubStore, Turn, error};
use support::opsctl::{Bench, Mounted, chmod, noise, run, url};
use support::tree::{Tree, assert_equal, assert_same_tree};

const KIB: usize = 1 << 10;
/// For ever.
const ON: usize = usize::MAX;

/// What reads a store that has one snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reads {
    Restore,
    Check,
    List,
}

const READS: [Reads; 3] = [Reads::Restore, Reads::Check, Reads::List];

/// How a command ended.
#[derive(Debug)]
enum End {
    Good,
    /// The exit code, and everything that was said.
    Bad(ExitCode, String),
}

impl End {
    /// Checks that a failure says what to do, and about what.
    fn of(error: &opsctl::Error) -> Self {
        let text = error.full_message();
        let hint = error.hint_text().unwrap_or_default();
        assert!(!hint.is_empty(), "no next step: {text}");
        Self::Bad(error.code(), format!("{text} {hint}"))
    }

    #[track_caller]
    fn good(&self) {
        assert!(matches!(self, Self::Good), "{self:?}");
    }

    /// Failed with one of these codes, and named something of this name or the whole store.
    #[track_caller]
    fn bad(&self, codes: &[ExitCode], name: &str) {
        let Self::Bad(code, text) = self else { panic!("it should have failed: {name}") };
        assert!(codes.contains(code), "{code:?}: {text}");
        assert!(text.contains(name) || text.contains("s3://"), "{name} is not named: {text}");
    }
}

/// A tree, and what a first snapshot of it leaves.
struct Scene {
    lab: Lab,
    tree: Tree,
    /// A store without a snapshot, and one with.
    empty: Arc<InMemory>,
    stored: Arc<InMemory>,
}

impl Scene {
    fn new() -> Self {
        let lab = Lab::new();
        for n in 0..4 {
            std::fs::write(lab.tree.join(format!("file-{n}")), noise(60 * KIB, n)).unwrap();
        }
        std::fs::create_dir(lab.tree.join("dir")).unwrap();
        std::fs::hard_link(lab.tree.join("file-0"), lab.tree.join("dir/link")).unwrap();
        let (empty, tree) = (lab.memory(), Tree::read(&lab.tree));
        let stored = Arc::new(empty.fork());
        lab.snapshot(&on(stored.clone()), &lab.state(None)).unwrap();
        Self { lab, tree, empty, stored }
    }

    /// Runs a reading command and checks what it says.
    fn read(&self, command: Reads, store: &Store) -> End {
        match command {
            Reads::Restore => match self.lab.restore(store, None) {
                Ok(to) => {
                    assert_equal(&self.tree, &Tree::read(&to));
                    std::fs::remove_dir_all(to).unwrap();
                    End::Good
                }
                Err(error) => End::of(&error),
            },
            Reads::Check => match self.lab.check(store, Level::Hash) {
                Ok(report) if report.damaged.is_empty() => {
                    assert_eq!(report.snapshots, 1, "a check of nothing is no good news");
                    End::Good
                }
                Ok(report) => End::Bad(report.exit_code(), format!("{:?}", report.damaged)),
                Err(error) => End::of(&error),
            },
            Reads::List => match self.lab.list(store) {
                Ok(listing) if listing.accepted().count() == 1 => End::Good,
                Ok(listing) => {
                    let problems = listing.problems.iter().map(|p| format!("{}: {}", p.key, p.reason));
                    let rejected = listing.rejected().map(|(s, reason)| format!("{}: {reason}", s.key()));
                    let said: Vec<String> = problems.chain(rejected).collect();
                    assert!(!said.is_empty(), "a snapshot is missing in silence");
                    End::Bad(ExitCode::Failed, said.join(", "))
                }
                Err(error) => End::of(&error),
            },
        }
    }

    /// Takes a first snapshot through `store`; what `clean` shows afterwards holds.
    fn snapshot(&self, store: &Store, clean: &Store) -> (End, usize) {
        let state = self.lab.state(None);
        let end = match self.lab.snapshot(store, &state) {
            Ok(_) => End::Good,
            Err(error) => End::of(&error),
        };
        let committed = self.lab.assert_honest(clean, &[&self.tree]);
        if matches!(end, End::Good) {
            assert_eq!(committed, 1, "it said so");
        }
        // Whatever happened, the next run works.
        self.lab.snapshot(clean, &state).unwrap();
        assert_eq!(self.lab.assert_honest(clean, &[&self.tree]), committed + 1);
        (end, committed)
    }
}

/// Every request was counted, and nothing was tried for ever.
#[track_caller]
fn assert_counted(store: &Store, asked: usize, without_fault: usize) {
    let stats = store.stats();
    assert_eq!(stats.requests, asked as u64, "each request is counted");
    assert!(stats.retries <= stats.requests, "{stats:?}");
    assert!(asked <= without_fault * TRIES * 2, "{asked} requests where {without_fault} do");
}

// ---- any request of a snapshot ----

/// The requests of a first snapshot: kind, name, and which of that name.
const WRITES: [(Op, &str, usize); 11] = [
    (Op::List, "", 1),
    (Op::Get, "opsctl-store.json", 1),
    (Op::Get, "keys/000001", 1),
    (Op::Get, ".minisig", 1),
    (Op::Put, "packs/", 1),
    (Op::Put, "packs/", 2),
    (Op::Put, "packs/", 3),
    (Op::Put, "packlists/", 1),
    (Op::List, "", 2),
    (Op::Put, ".json.minisig", 1),
    (Op::Put, ".json$", 1),
];

/// A snapshot through a store that breaks these rules; the end, snapshots committed, and the store.
fn broken(scene: &Scene, rules: impl IntoIterator<Item = Rule>) -> (End, usize, Store, Arc<Faulty>) {
    let memory = Arc::new(scene.empty.fork());
    let faulty = Faulty::over(memory.clone(), rules);
    let store = on(faulty.clone());
    let (end, committed) = scene.snapshot(&store, &on(memory));
    assert_counted(&store, faulty.asked().len(), WRITES.len());
    (end, committed, store, faulty)
}

/// The name of a rule's object as a message has it.
fn shown(key: &str) -> &str {
    key.trim_end_matches('$')
}

#[test]
fn a_snapshot_outlasts_bursts_at_any_request_and_counts_them() {
    let scene = Scene::new();
    for (op, key, nth) in WRITES {
        for length in [1, TRIES - 1] {
            println!("{length} times at {op:?} {key} {nth}");
            let (end, _, store, _) = broken(&scene, [Rule::of(op, key).burst(nth, length).fails(timeout)]);
            end.good();
            assert_eq!(store.stats().retries, length as u64);
        }
    }
}

#[test]
fn a_snapshot_survives_the_loss_of_any_answer() {
    let scene = Scene::new();
    for (op, key, nth) in WRITES {
        println!("lost: {op:?} {key} {nth}");
        let (end, _, store, _) = broken(&scene, [Rule::of(op, key).nth(nth).loses_its_answer(reset)]);
        end.good();
        assert_eq!(store.stats().retries, 1);
    }
    for (op, key, nth) in WRITES.into_iter().filter(|(op, ..)| *op == Op::Put) {
        println!("taken by itself: {op:?} {key} {nth}");
        broken(&scene, [Rule::put(key).nth(nth).loses_its_answer(exists)]).0.good();
        println!("taken by nobody, once: {op:?} {key} {nth}");
        let (end, _, store, _) = broken(&scene, [Rule::put(key).nth(nth).fails(exists)]);
        end.good();
        assert_eq!(store.stats().retries, 1);
    }
}

#[test]
fn an_outage_at_any_request_ends_a_snapshot_with_nothing_committed() {
    let scene = Scene::new();
    for (op, key, nth) in WRITES {
        println!("down from {op:?} {key} {nth} on");
        let (end, committed, store, faulty) = broken(&scene, [Rule::of(op, key).burst(nth, ON).fails(timeout)]);
        end.bad(&[ExitCode::Failed], shown(key));
        assert_eq!((committed, store.stats().retries), (0, TRIES as u64 - 1));
        assert_eq!(faulty.count(op, key), nth - 1 + TRIES, "no more tries than there should be");

        println!("answers lost from {op:?} {key} {nth} on");
        let (end, committed, ..) = broken(&scene, [Rule::of(op, key).burst(nth, ON).loses_its_answer(timeout)]);
        end.bad(&[ExitCode::Failed], shown(key));
        // The receipt arrived and nobody knows: the one thing that may be there.
        assert!(committed == 0 || key == ".json$");
    }
}

#[test]
fn a_refusal_at_any_request_ends_a_snapshot_with_the_right_code() {
    let scene = Scene::new();
    for (op, key, nth) in WRITES {
        println!("refused: {op:?} {key} {nth}");
        let (end, committed, store, _) = broken(&scene, [Rule::of(op, key).burst(nth, ON).fails(forbidden)]);
        match (op, key) {
            // A host may have no permission to read; then it needs to be told more.
            (Op::Get, "opsctl-store.json") => end.good(),
            (Op::Get, "keys/000001") => end.bad(&[ExitCode::Usage], "OPSCTL_"),
            (Op::Get, _) => end.bad(&[ExitCode::Denied], "OPSCTL_TRUSTED_SIGNERS"),
            _ => end.bad(&[ExitCode::Denied], shown(key)),
        }
        assert_eq!((committed, store.stats().retries), (usize::from(matches!(end, End::Good)), 0));
        if op == Op::Put {
            println!("full: {key} {nth}");
            let (end, committed, ..) = broken(&scene, [Rule::put(key).burst(nth, ON).fails(full)]);
            end.bad(&[ExitCode::NoSpace], shown(key));
            assert_eq!(committed, 0);
        }
    }
}

// ---- what a store says it has, and what it has ----

#[test]
fn what_the_store_did_not_keep_is_found_before_the_commit() {
    let scene = Scene::new();
    for (_, key, nth) in WRITES.into_iter().filter(|(_, key, _)| key.starts_with("pack")) {
        println!("once: {key} {nth}");
        broken(&scene, [Rule::put(key).nth(nth).keeps_nothing()]).0.good();
        println!("from then on: {key} {nth}");
        let (end, committed, ..) = broken(&scene, [Rule::put(key).burst(nth, ON).keeps_nothing()]);
        end.bad(&[ExitCode::Failed], key);
        assert_eq!(committed, 0);
    }
}

/// A pack list has the same name while nothing changes: what lies there is not believed by its name alone.
#[test]
fn a_pack_list_that_was_cut_short_is_not_used_again() {
    let scene = Scene::new();
    let (memory, state) = (Arc::new(scene.empty.fork()), scene.lab.state(None));
    scene.lab.snapshot(&on(memory.clone()), &state).unwrap();
    let list = &scene.lab.runtime.block_on(on(memory.clone()).list("packlists")).unwrap()[0].key;
    scene.lab.runtime.block_on(memory.put(&list.as_str().into(), PutPayload::from_static(b"{"))).unwrap();
    let error = scene.lab.snapshot(&on(memory.clone()), &state).unwrap_err();
    assert_eq!(error.code(), ExitCode::Integrity);
    assert!(error.full_message().contains(list.as_str()), "{error:?}");
    assert_eq!(scene.lab.list(&on(memory)).unwrap().accepted().count(), 1, "nothing new was committed");
}

#[test]
fn a_listing_that_lags_commits_no_lie() {
    let scene = Scene::new();
    for key in ["packs/", "packlists/"] {
        println!("one LIST late: {key}");
        let (end, ..) = broken(&scene, [Rule::put(key).nth(1).stays_unlisted_for(1)]);
        end.good();

        println!("later than anybody waits: {key}");
        let memory = Arc::new(scene.empty.fork());
        let faulty = Faulty::over(memory.clone(), [Rule::put(key).stays_unlisted()]);
        let (store, state) = (on(faulty.clone()), scene.lab.state(None));
        let error = scene.lab.snapshot(&store, &state).unwrap_err();
        End::of(&error).bad(&[ExitCode::Failed], key);
        let said = format!("{} {}", error.full_message(), error.hint_text().unwrap());
        assert!(said.contains("listings lag") || said.contains("lists no such object"), "{said}");
        assert_eq!(scene.lab.assert_honest(&on(memory.clone()), &[&scene.tree]), 0);
        // Once the listing shows them, they are used.
        faulty.release();
        let sent = faulty.count(Op::Put, "packs/");
        scene.lab.snapshot(&store, &state).unwrap();
        assert_eq!(faulty.count(Op::Put, "packs/"), sent, "no pack is sent again");
        assert_eq!(scene.lab.assert_honest(&on(memory), &[&scene.tree]), 1);
    }
}

/// The name is taken by one's own try, and the LIST that settles it does not show it yet.
#[test]
fn a_taken_name_that_is_not_listed_yet_is_asked_for_again() {
    let scene = Scene::new();
    for (_, key, nth) in WRITES.into_iter().filter(|(op, ..)| *op == Op::Put) {
        println!("{key} {nth}");
        let lost = || Rule::put(key).nth(nth).loses_its_answer(timeout);
        let (end, _, store, _) = broken(&scene, [lost(), Rule::put(key).nth(nth).stays_unlisted_for(1)]);
        end.good();
        assert_eq!(store.stats().retries, 2);
        let (end, committed, store, _) = broken(&scene, [lost(), Rule::put(key).nth(nth).stays_unlisted()]);
        end.bad(&[ExitCode::Failed], shown(key));
        assert_eq!(store.stats().retries, TRIES as u64 - 1);
        assert!(committed == 0 || key == ".json$", "only the receipt itself commits");
    }
}

/// The receipt of the last snapshot is not listed yet when the next one is taken: both are whole, and the fork is said.
#[test]
fn a_predecessor_that_is_not_listed_makes_a_fork_that_is_reported() {
    let scene = Scene::new();
    let memory = Arc::new(scene.empty.fork());
    let faulty = Faulty::over(memory.clone(), [Rule::put("snapshots/").stays_unlisted()]);
    let state = scene.lab.state(None);
    for _ in 0..2 {
        scene.lab.snapshot(&on(faulty.clone()), &state).unwrap();
    }
    let store = on(memory);
    let listing = scene.lab.list(&store).unwrap();
    let ids: Vec<String> = listing.accepted().map(|snapshot| snapshot.id.to_string()).collect();
    assert_eq!(ids.len(), 2, "{listing:?}");
    assert!(listing.warnings.iter().any(|warning| ids.iter().any(|id| warning.contains(id))), "{:?}", listing.warnings);
    for id in &ids {
        assert_same_tree(&scene.lab.tree, &scene.lab.restore(&store, Some(id)).unwrap());
    }
    assert!(scene.lab.check(&store, Level::Decrypt).unwrap().damaged.is_empty());
}

// ---- any request of a reading command ----

/// The objects that are read.
const OBJECTS: [&str; 7] = [
    "opsctl-store.json",
    "keys/000001",
    ".json.minisig",
    "snapshots/web",
    "packlists/",
    "packs/",
    // Everything.
    "",
];

#[test]
fn reading_outlasts_bursts_and_bodies_that_break_off() {
    let scene = Scene::new();
    for command in READS {
        let clean = Faulty::over(scene.stored.clone(), []);
        scene.read(command, &on(clean.clone())).good();
        for key in OBJECTS {
            let rules: [(&str, Rule); 5] = [
                ("burst", Rule::get(key).burst(1, TRIES - 1).fails(timeout)),
                ("lost", Rule::get(key).nth(1).loses_its_answer(reset)),
                ("short", Rule::get(key).nth(1).ends_early(10)),
                ("empty", Rule::get(key).nth(1).ends_early(0)),
                ("broken off", Rule::get(key).burst(1, 2).breaks_off(10, reset)),
            ];
            for (what, rule) in rules {
                println!("{command:?}, {what}: {key}");
                let faulty = Faulty::over(scene.stored.clone(), [rule]);
                let store = on(faulty.clone());
                scene.read(command, &store).good();
                let met = faulty.asked().iter().any(|asked| asked.op == Op::Get && asked.key.contains(key));
                assert_eq!(store.stats().retries > 0, met, "a retry is counted");
                assert_counted(&store, faulty.asked().len(), clean.asked().len());
            }
        }
        let faulty = Faulty::over(scene.stored.clone(), [Rule::list().burst(1, TRIES - 1).fails(timeout)]);
        scene.read(command, &on(faulty)).good();
    }
}

#[test]
fn reading_ends_cleanly_when_an_object_cannot_be_had() {
    let scene = Scene::new();
    for command in READS {
        let clean = Faulty::over(scene.stored.clone(), []);
        scene.read(command, &on(clean.clone())).good();
        for key in OBJECTS {
            let rules: [(&str, Rule); 4] = [
                ("away", Rule::get(key).fails(timeout)),
                ("refused", Rule::get(key).fails(forbidden)),
                ("short", Rule::get(key).ends_early(10)),
                ("broken off", Rule::get(key).breaks_off(10, reset)),
            ];
            for (what, rule) in rules {
                println!("{command:?}, {what} for ever: {key}");
                let faulty = Faulty::over(scene.stored.clone(), [rule]);
                let store = on(faulty.clone());
                let end = scene.read(command, &store);
                let met = faulty.asked().iter().any(|asked| asked.op == Op::Get && asked.key.contains(key));
                // Without its descriptor a store is read all the same: the id is in the signed keys object as well.
                if !met || (key == "opsctl-store.json" && command != Reads::Check) {
                    end.good();
                } else {
                    let codes = [ExitCode::Failed, ExitCode::Denied, ExitCode::Integrity];
                    end.bad(&codes, if key == ".json.minisig" { "" } else { key });
                }
                assert_counted(&store, faulty.asked().len(), clean.asked().len());
            }
        }
        for (rule, code) in
            [(Rule::list().fails(timeout), ExitCode::Failed), (Rule::list().fails(forbidden), ExitCode::Denied)]
        {
            let faulty = Faulty::over(scene.stored.clone(), [rule]);
            scene.read(command, &on(faulty)).bad(&[code], "");
        }
    }
}

/// Nothing is done with the first part of a body before the rest has come.
#[test]
fn a_body_that_comes_in_drips_is_waited_for() {
    let scene = Scene::new();
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let faulty = Faulty::over(scene.stored.clone(), [Rule::get("packs/").drips(1000, &gate)]);
    let store = on(faulty);
    std::thread::scope(|scope| {
        let restoring = scope.spawn(|| scene.read(Reads::Restore, &store));
        // One permit at a time until everything has come through.
        while !restoring.is_finished() {
            gate.add_permits(1);
            std::thread::yield_now();
        }
        restoring.join().unwrap().good();
    });
    assert_eq!(store.stats().retries, 0);
}

// ---- over HTTP ----

/// What a server does instead of what it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Http {
    SlowDownWithAdvice,
    SlowDown,
    TooMany,
    Internal,
    Forbidden,
    Redirect,
    /// The connection is closed before the request has any effect.
    HangUp,
    /// The same after it.
    EffectAndHangUp,
    /// Half the body comes, and then the connection is closed.
    Half,
    /// A success with an error document.
    ErrorIn200,
    /// A success with nothing.
    Nothing,
    /// The body comes in small pieces.
    Drip,
}

impl Http {
    fn turn(self) -> Turn {
        let ok = || "200 OK\r\nETag: \"e\"\r\nLast-Modified: Thu, 01 Jan 2026 00:00:00 GMT".to_owned();
        match self {
            Self::SlowDownWithAdvice => Turn::Instead(error("503 Slow Down\r\nRetry-After: 1", "SlowDown")),
            Self::SlowDown => Turn::Instead(error("503 Slow Down", "SlowDown")),
            Self::TooMany => Turn::Instead(error("429 Too Many Requests", "TooManyRequests")),
            Self::Internal => Turn::Instead(error("500 Internal Server Error", "InternalError")),
            Self::Forbidden => Turn::Instead(error("403 Forbidden", "AccessDenied")),
            Self::Redirect => {
                Turn::Instead(error("307 Temporary Redirect\r\nLocation: /elsewhere", "TemporaryRedirect"))
            }
            Self::HangUp => Turn::Instead(Reply::HangUp),
            Self::EffectAndHangUp => Turn::Then(Reply::HangUp),
            Self::Half => Turn::Change(Box::new(|reply| match reply {
                Reply::Send(head, body) => Reply::Cut(head, body.clone(), body.len() / 2),
                other => other,
            })),
            Self::ErrorIn200 => {
                let Reply::Send(_, body) = error("", "InternalError") else { unreachable!("it is sent") };
                Turn::Instead(Reply::Send(ok(), body))
            }
            Self::Nothing => Turn::Instead(Reply::Send(ok(), Vec::new())),
            Self::Drip => Turn::Change(Box::new(|reply| match reply {
                Reply::Send(head, body) => {
                    let gate = Gate::default();
                    gate.open(body.len());
                    Reply::Drip(head, body, 500, gate)
                }
                other => other,
            })),
        }
    }

    /// The code of a run that meets nothing else.
    fn code(self) -> ExitCode {
        match self {
            Self::SlowDownWithAdvice | Self::SlowDown | Self::TooMany => ExitCode::RateLimited,
            Self::Forbidden => ExitCode::Denied,
            Self::Redirect => ExitCode::Usage,
            _ => ExitCode::Failed,
        }
    }
}

/// A server that misbehaves at the requests whose name begins so, `length` times from the n-th on.
fn misbehaving(folder: &Path, start: &str, nth: usize, length: usize, fault: Http) -> StubStore {
    let (start, seen) = (start.to_owned(), AtomicUsize::new(0));
    StubStore::with(folder, move |request, _| {
        let is_meant = request.name().starts_with(&start) && {
            let number = seen.fetch_add(1, Ordering::SeqCst) + 1;
            number >= nth && number - nth < length
        };
        if is_meant { fault.turn() } else { Turn::Serve }
    })
}

/// The client of the program, with short waits.
fn client(stub: &StubStore) -> Store {
    let env: BTreeMap<String, String> = stub.env().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    Store::open(&Location::parse("s3://stub/p").unwrap(), &env).unwrap().with_retry(fast())
}

/// The store in a folder as it is, without a network.
fn plain(folder: &Path) -> Store {
    Store::open(&Location::parse(&url(folder)).unwrap(), &BTreeMap::new()).unwrap()
}

fn copied(scene: &Scene, folder: &Path) -> PathBuf {
    let copy = scene.lab.scratch("store");
    let done = Command::new("cp").arg("-a").arg(folder).arg(&copy).status();
    assert!(done.is_ok_and(|status| status.success()), "copy a store");
    copy
}

/// The requests of a first snapshot over HTTP: the name's beginning, and which of these.
const HTTP_WRITES: [(&str, usize); 9] = [
    ("LIST", 1),
    ("GET opsctl-store.json", 1),
    ("GET keys/", 2),
    ("PUT packs/", 1),
    ("PUT packs/", 3),
    ("PUT packlists/", 1),
    ("LIST", 2),
    ("PUT snapshots/", 1),
    ("PUT snapshots/", 2),
];

const PASSING: [Http; 6] =
    [Http::SlowDownWithAdvice, Http::SlowDown, Http::TooMany, Http::Internal, Http::HangUp, Http::EffectAndHangUp];

#[test]
fn a_snapshot_outlasts_what_passes_over_http() {
    let scene = Scene::new();
    let empty = scene.lab.folder();
    for (name, nth) in HTTP_WRITES {
        for fault in PASSING {
            println!("{fault:?} at {name} {nth}");
            let folder = copied(&scene, &empty);
            let stub = misbehaving(&folder, name, nth, TRIES - 1, fault);
            let store = client(&stub);
            scene.snapshot(&store, &plain(&folder)).0.good();
            // A PUT that had its effect the first time is settled by a LIST.
            let retries =
                if fault == Http::EffectAndHangUp && name.starts_with("PUT") { 1..TRIES } else { TRIES - 1..TRIES };
            assert!(retries.contains(&usize::try_from(store.stats().retries).unwrap()), "{:?}", store.stats());
            assert_counted(&store, stub.seen().len(), HTTP_WRITES.len() + 2);
        }
    }
}

#[test]
fn a_snapshot_ends_cleanly_when_a_server_keeps_failing() {
    let scene = Scene::new();
    let empty = scene.lab.folder();
    let lasting = [Http::SlowDown, Http::TooMany, Http::Internal, Http::Forbidden, Http::Redirect, Http::HangUp];
    for (name, nth) in HTTP_WRITES {
        for fault in lasting {
            // What a host may not read it does without, and says what it needs: tested above.
            if fault == Http::Forbidden && name.starts_with("GET") {
                continue;
            }
            println!("{fault:?} from {name} {nth} on");
            let folder = copied(&scene, &empty);
            let stub = misbehaving(&folder, name, nth, ON, fault);
            let store = client(&stub);
            let (end, committed) = scene.snapshot(&store, &plain(&folder));
            end.bad(&[fault.code()], name.split(' ').nth(1).unwrap_or("s3://"));
            assert_eq!(committed, 0);
            assert_counted(&store, stub.seen().len(), HTTP_WRITES.len() + 2);
            let is_final = matches!(fault, Http::Forbidden | Http::Redirect);
            assert_eq!(store.stats().retries, if is_final { 0 } else { TRIES as u64 - 1 });
        }
    }
}

/// A success that is none: an error document, or nothing, where a listing, an object or an empty answer should be.
#[test]
fn a_success_that_is_none_is_not_believed() {
    let scene = Scene::new();
    let empty = scene.lab.folder();
    for (name, nth) in HTTP_WRITES {
        // Beyond the last look at the store nothing is looked at again. No store answers a PUT in this way.
        if name == "PUT snapshots/" {
            continue;
        }
        for (fault, length) in [(Http::ErrorIn200, 1), (Http::ErrorIn200, ON), (Http::Nothing, 1), (Http::Nothing, ON)]
        {
            println!("{fault:?}, {length} times, at {name} {nth}");
            let folder = copied(&scene, &empty);
            let stub = misbehaving(&folder, name, nth, length, fault);
            let (end, committed) = scene.snapshot(&client(&stub), &plain(&folder));
            if length == 1 && !name.starts_with("GET") {
                end.good();
            } else {
                end.bad(&[ExitCode::Failed, ExitCode::Integrity, ExitCode::Denied], "");
                assert_eq!(committed, 0);
            }
        }
    }
}

/// The objects that are read, as requests.
const HTTP_READS: [&str; 8] = [
    "LIST",
    "GET opsctl-store.json",
    "GET keys/",
    "GET snapshots/",
    "GET packlists/",
    "GET packs/",
    // All of them.
    "GET ",
    "",
];

#[test]
fn reading_over_http_outlasts_what_passes() {
    let scene = Scene::new();
    let folder = scene.lab.folder();
    scene.lab.snapshot(&plain(&folder), &scene.lab.state(None)).unwrap();
    for command in READS {
        let clean = StubStore::with(&folder, |_, _| Turn::Serve);
        scene.read(command, &client(&clean)).good();
        let needed = clean.seen();
        for name in HTTP_READS {
            let mut faults = PASSING.to_vec();
            faults.extend([Http::Half, Http::Drip]);
            faults.extend(if name == "LIST" { &[Http::ErrorIn200, Http::Nothing][..] } else { &[] });
            for fault in faults {
                println!("{command:?}: {fault:?} at {name}");
                let stub = misbehaving(&folder, name, 1, TRIES - 1, fault);
                let store = client(&stub);
                scene.read(command, &store).good();
                let met = fault != Http::Drip && needed.iter().any(|seen| seen.starts_with(name));
                assert_eq!(store.stats().retries > 0, met, "{:?}", store.stats());
                assert_counted(&store, stub.seen().len(), needed.len());
            }
        }
    }
}

#[test]
fn reading_over_http_ends_cleanly_when_a_server_keeps_failing() {
    let scene = Scene::new();
    let folder = scene.lab.folder();
    scene.lab.snapshot(&plain(&folder), &scene.lab.state(None)).unwrap();
    let lasting = [
        Http::SlowDown,
        Http::TooMany,
        Http::Internal,
        Http::Forbidden,
        Http::Redirect,
        Http::HangUp,
        Http::Half,
        Http::ErrorIn200,
        Http::Nothing,
    ];
    for command in READS {
        let clean = StubStore::with(&folder, |_, _| Turn::Serve);
        scene.read(command, &client(&clean)).good();
        let needed = clean.seen();
        for name in HTTP_READS {
            for fault in lasting {
                println!("{command:?}: {fault:?} always at {name}");
                let stub = misbehaving(&folder, name, 1, ON, fault);
                let store = client(&stub);
                let end = scene.read(command, &store);
                assert_counted(&store, stub.seen().len(), needed.len());
                let unharmed = !needed.iter().any(|seen| seen.starts_with(name));
                // The pin vouches for the receipt without the keys object too. That it is damaged, a check says.
                let spared: &[&str] = match fault {
                    Http::ErrorIn200 | Http::Nothing => &["GET opsctl-store.json", "GET keys/"],
                    _ => &["GET opsctl-store.json"],
                };
                if unharmed || (spared.contains(&name) && command != Reads::Check) {
                    end.good();
                    continue;
                }
                let codes = [ExitCode::Integrity, ExitCode::Failed, ExitCode::Denied, fault.code()];
                let only_its_own =
                    ["", "LIST", "GET "].contains(&name) && !matches!(fault, Http::ErrorIn200 | Http::Nothing);
                let codes = if only_its_own { &codes[3..] } else { &codes[..] };
                end.bad(codes, name.split_once(' ').map_or("", |(_, key)| key));
            }
        }
    }
}

/// The real program, with its real waits.
#[test]
fn retries_are_seen_in_the_document_and_in_the_log() {
    let bench = Bench::new();
    bench.dir.write("tree/file", noise(100 * KIB, 1));
    let seen = |mut command: Command, start: &str| {
        let stub = misbehaving(&bench.store, start, 1, 2, Http::SlowDownWithAdvice);
        let done = run({
            command.envs(stub.env());
            command
        })
        .ok();
        assert_eq!((done.number("retries"), done.number("requests")), (2, stub.seen().len() as u64), "{}", done.stdout);
        let lines = done.stderr.lines().filter(|line| line.contains("trying again"));
        let named: Vec<&str> = lines.filter(|line| line.contains("packs/") && line.contains("SlowDown")).collect();
        assert_eq!(named.len(), 2, "{}", done.stderr);
        done
    };
    seen(bench.snapshot_command([""; 0]), "PUT packs/");
    let to = bench.dir.join("to");
    seen(bench.restore_command(&to, [""; 0]), "GET packs/");
    assert_same_tree(&bench.tree, &to);
    let mut check = bench.command();
    check.args(["check", "--level", "hash", "--json", "--trusted-signer", &bench.signer]);
    seen(check, "GET packs/");
}

#[test]
fn the_program_says_what_failed_and_what_to_do() {
    let bench = Bench::new();
    bench.dir.write("tree/file", noise(100 * KIB, 1));
    for (fault, code, next) in [(Http::Forbidden, 12, "PUT"), (Http::Redirect, 2, "AWS_ENDPOINT_URL")] {
        let stub = misbehaving(&bench.store, "PUT packs/", 1, ON, fault);
        let mut command = bench.snapshot_command([""; 0]);
        command.envs(stub.env());
        let said = run(command).ended(code).error();
        assert!(said.contains("packs/") && said.contains(next), "{said}");
        assert!(bench.receipts().is_empty());
    }
    bench.take();
    let stub = misbehaving(&bench.store, "GET packs/", 1, ON, Http::Forbidden);
    let mut command = bench.restore_command(&bench.dir.join("to"), [""; 0]);
    command.envs(stub.env());
    let said = run(command).ended(12).error();
    assert!(said.contains("packs/"), "{said}");
}

// ---- full disks ----

/// Fills a small file system to its last byte.
fn fill(at: &Path) -> PathBuf {
    let filler = at.join("filler");
    let mut file = std::fs::File::create(&filler).unwrap();
    for size in [4096, 512, 1] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
    filler
}

#[test]
fn a_state_on_a_full_disk_ends_a_snapshot_and_costs_nothing_else() {
    let bench = Bench::new();
    for n in 0..2000 {
        bench.dir.write(format!("tree/a folder with a name of some length {}/{n}", n % 40), format!("{n}"));
    }
    let _mounted = Mounted::tmpfs(&bench.state, "400k");
    chmod(&bench.state, 0o700);
    let fails = || {
        let done = bench.snapshot([""; 0]).ended(14);
        let said = done.error();
        assert!(said.contains(bench.state.to_str().unwrap()) && said.contains("space"), "{said}");
        assert!(bench.receipts().is_empty());
    };
    // Full from the beginning; then in the middle of the run, with more to write down than there is room for.
    let filler = fill(&bench.state);
    fails();
    std::fs::remove_file(filler).unwrap();
    fails();
    fails();
    let elsewhere = bench.dir.join("elsewhere");
    let done = bench.snapshot(["--state-dir", elsewhere.to_str().unwrap()]).ok();
    assert_same_tree(&bench.tree, &bench.restored(&done));
}

#[test]
fn a_target_that_fills_up_ends_a_restore_that_goes_on_later() {
    let bench = Bench::new();
    for n in 0..20 {
        bench.dir.write(format!("tree/{n:02}"), noise(200 * KIB, n));
    }
    bench.take();
    let packs = bench.objects().into_iter().filter(|(name, _)| name.starts_with("packs/"));
    let content = packs.max_by_key(|(_, size)| *size).unwrap().0;
    let disk = bench.dir.join("disk");
    let _mounted = Mounted::tmpfs(&disk, "8m");
    // Somebody else takes the space after the plan was made.
    let place = disk.clone();
    let stub = StubStore::with(&bench.store, move |request, _| {
        if request.name() == format!("GET {content}") && !place.join("filler").exists() {
            fill(&place);
        }
        Turn::Serve
    });
    let to = disk.join("to");
    let mut command = bench.restore_command(&to, [""; 0]);
    command.envs(stub.env());
    let said = run(command).ended(14).error();
    assert!(said.contains("space") || said.contains("No space"), "{said}");
    std::fs::remove_file(disk.join("filler")).unwrap();
    let plan = bench.restore(&to, ["--dry-run"]).ok();
    assert_eq!(plan.json["resumes"], true);
    bench.restore(&to, [""; 0]).ok();
    assert_same_tree(&bench.tree, &to);
}
