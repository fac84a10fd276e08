//! A server that misbehaves over HTTP, in front of the real client and the real program: what passes is outlasted, counted and said,
//! what lasts ends the command cleanly, and no answer is taken for what it is not.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking, in its helpers too"
)]

mod support;

#[path = "support/ends.rs"]
mod ends;
#[path = "support/lab.rs"]
mod lab;
#[path = "support/stub_store.rs"]
mod stub_store;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ends::{End, KIB, ON, READS, Reads, STORE, Scene, assert_counted};
use lab::{TRIES, fast};
use opsctl::ExitCode;
use opsctl::providers::store::{Location, Store};
use stub_store::{Gate, Reply, StubStore, Turn, error};
use support::copy_folder;
use support::opsctl::{Bench, noise, run, url};
use support::tree::assert_same_tree;

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
    /// No answer at all.
    Silence,
    /// Half the body comes, and then nothing.
    Stall,
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
            Self::Silence => Turn::Instead(Reply::Never),
            Self::Stall => Turn::Change(Box::new(|reply| match reply {
                Reply::Send(head, body) => {
                    let (gate, half) = (Gate::default(), body.len().div_ceil(2));
                    gate.open(1);
                    Reply::Drip(head, body, half, gate)
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
    impatient(stub, Duration::from_secs(300))
}

/// The same, which waits for no answer longer than this.
fn impatient(stub: &StubStore, limit: Duration) -> Store {
    let env: BTreeMap<String, String> = stub.env().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    Store::open_with(&Location::parse("s3://stub/p").unwrap(), &env, limit).unwrap().with_retry(fast())
}

/// The store in a folder as it is, without a network.
fn plain(folder: &Path) -> Store {
    Store::open(&Location::parse(&url(folder)).unwrap(), &BTreeMap::new()).unwrap()
}

fn copied(scene: &Scene, folder: &Path) -> PathBuf {
    let copy = scene.lab.scratch("store");
    copy_folder(folder, &copy);
    copy
}

/// The requests of a first snapshot over HTTP: the name's beginning, and which of these.
const HTTP_WRITES: [(&str, usize); 10] = [
    ("LIST", 1),
    ("GET opsctl-store.json", 1),
    ("GET keys/", 2),
    ("PUT packs/", 1),
    ("PUT packs/", 3),
    ("PUT packlists/", 1),
    ("LIST", 2),
    ("PUT snapshots/", 1),
    ("LIST", 3),
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
            let (end, _) = scene.snapshot(&store, &plain(&folder));
            end.good();
            // A PUT that had its effect the first time is settled by a LIST.
            let retries =
                if fault == Http::EffectAndHangUp && name.starts_with("PUT") { 1..TRIES } else { TRIES - 1..TRIES };
            assert!(retries.contains(&usize::try_from(store.stats().retries).unwrap()), "{:?}", store.stats());
            assert_counted(&end, &store, stub.seen().len(), HTTP_WRITES.len() + 2);
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
            let object = if (name, nth) == ("LIST", 3) { ".json.minisig" } else { STORE };
            end.bad(&[fault.code()], name.split(' ').nth(1).unwrap_or(object));
            assert_eq!(committed, 0);
            assert_counted(&end, &store, stub.seen().len(), HTTP_WRITES.len() + 2);
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
            // Nothing hangs on the descriptor: the signed keys object says the same.
            if name == "GET opsctl-store.json" || (length == 1 && !name.starts_with("GET")) {
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
                let end = scene.read(command, &store);
                end.good();
                let met = fault != Http::Drip && needed.iter().any(|seen| seen.starts_with(name));
                assert_eq!(store.stats().retries > 0, met, "{:?}", store.stats());
                assert_counted(&end, &store, stub.seen().len(), needed.len());
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
                assert_counted(&end, &store, stub.seen().len(), needed.len());
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
                end.bad(codes, name.split_once(' ').map_or("keys", |(_, key)| key));
            }
        }
    }
}

/// Requests that only the client's own clock ends, and what they wait for in vain.
const SILENT: [(&str, Http); 6] = [
    ("PUT packs/", Http::Silence),
    ("LIST", Http::Silence),
    ("LIST", Http::Stall),
    ("GET packs/", Http::Silence),
    ("GET packs/", Http::Stall),
    ("GET snapshots/", Http::Stall),
];

/// A server that does not answer, or stops in the middle of its answer, holds the connection open for ever.
#[test]
fn a_server_that_falls_silent_is_asked_again_and_then_given_up() {
    // Much longer than any answer takes here.
    const PATIENCE: Duration = Duration::from_secs(3);
    let scene = Scene::new();
    let (empty, stored) = (scene.lab.folder(), scene.lab.folder());
    scene.lab.snapshot(&plain(&stored), &scene.lab.state(None)).unwrap();
    std::thread::scope(|scope| {
        for (name, fault) in SILENT {
            for length in [1, ON] {
                let (scene, empty, stored) = (&scene, &empty, &stored);
                scope.spawn(move || {
                    let writes = name.starts_with("PUT");
                    let folder = copied(scene, if writes { empty } else { stored });
                    let stub = misbehaving(&folder, name, 1, length, fault);
                    let store = impatient(&stub, PATIENCE);
                    let end = if writes {
                        scene.snapshot(&store, &plain(&folder)).0
                    } else {
                        scene.read(Reads::Restore, &store)
                    };
                    if length == 1 {
                        end.good();
                        assert!(store.stats().retries >= 1, "{fault:?} at {name}: {:?}", store.stats());
                        return;
                    }
                    // The first LIST is one of the keys.
                    let object = name.split(' ').nth(1).unwrap_or("(keys)");
                    end.bad(&[ExitCode::Failed, ExitCode::Integrity], object);
                    assert!(matches!(&end, End::Bad(_, text) if text.contains("timed out")), "{end:?}");
                    assert_eq!(stub.count(name), TRIES, "{fault:?} at {name}: no more tries than there should be");
                });
            }
        }
    });
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
