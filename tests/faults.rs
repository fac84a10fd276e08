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

#[path = "support/ends.rs"]
mod ends;
#[path = "support/faulty.rs"]
mod faulty;
#[path = "support/lab.rs"]
mod lab;

use std::sync::Arc;

use ends::{End, ON, READS, Reads, STORE, Scene, assert_counted};
use faulty::{Faulty, Op, Rule, exists, forbidden, full, reset, timeout};
use lab::{TRIES, on};
use object_store::{ObjectStoreExt as _, PutPayload};
use opsctl::ExitCode;
use opsctl::archive::hash::Hash;
use opsctl::archive::keyring::generate_identity;
use opsctl::archive::keys::Keys;
use opsctl::archive::layout;
use opsctl::check::Level;
use opsctl::providers::store::Store;
use support::opsctl::rest;
use support::tree::assert_same_tree;

// ---- any request of a snapshot ----

/// The requests of a first snapshot: kind, name, and which of that name.
const WRITES: [(Op, &str, usize); 12] = [
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
    // When the store received the signature: the clock of the host is compared with that.
    (Op::List, "", 3),
    (Op::Put, ".json$", 1),
];

/// A snapshot through a store that breaks these rules; the end, snapshots committed, and the store.
fn broken(scene: &Scene, rules: impl IntoIterator<Item = Rule>) -> (End, usize, Store, Arc<Faulty>) {
    let memory = Arc::new(scene.empty.fork());
    let faulty = Faulty::over(memory.clone(), rules);
    let store = on(faulty.clone());
    let (end, committed) = scene.snapshot(&store, &on(memory));
    assert_counted(&end, &store, faulty.asked().len(), WRITES.len());
    (end, committed, store, faulty)
}

/// What a message names when one of [`WRITES`] fails.
fn shown(op: Op, key: &'static str, nth: usize) -> &'static str {
    match (op, nth) {
        // The signature is looked up by a LIST of it alone.
        (Op::List, 3) => ".json.minisig",
        (Op::List, _) => STORE,
        _ => key.trim_end_matches('$'),
    }
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
        end.bad(&[ExitCode::Failed], shown(op, key, nth));
        assert_eq!((committed, store.stats().retries), (0, TRIES as u64 - 1));
        assert_eq!(faulty.count(op, key), nth - 1 + TRIES, "no more tries than there should be");

        println!("answers lost from {op:?} {key} {nth} on");
        let (end, committed, ..) = broken(&scene, [Rule::of(op, key).burst(nth, ON).loses_its_answer(timeout)]);
        end.bad(&[ExitCode::Failed], shown(op, key, nth));
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
            _ => end.bad(&[ExitCode::Denied], shown(op, key, nth)),
        }
        assert_eq!((committed, store.stats().retries), (usize::from(matches!(end, End::Good)), 0));
        if op == Op::Put {
            println!("full: {key} {nth}");
            let (end, committed, ..) = broken(&scene, [Rule::put(key).burst(nth, ON).fails(full)]);
            end.bad(&[ExitCode::NoSpace], shown(op, key, nth));
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

/// A pass that must be made again is part of the run: what it stored is in the receipt, and what it spent is spent.
#[test]
fn a_second_pass_counts_with_the_first() {
    let mut scene = Scene::new();
    let (memory, state) = (Arc::new(scene.empty.fork()), scene.lab.state(None));
    let faulty = Faulty::over(memory, []);
    let store = on(faulty.clone());
    let packs = |scene: &Scene| {
        let listed = scene.lab.runtime.block_on(store.list("packs")).unwrap();
        (listed.len() as u64, listed.iter().map(|pack| pack.size).sum::<u64>())
    };
    rest();
    faulty.add(Rule::put("packlists/").nth(1).keeps_nothing());
    let first = scene.lab.snapshot(&store, &state).unwrap();
    assert_eq!(faulty.count(Op::Put, "packlists/"), 2, "two passes");
    let before = packs(&scene);
    assert_eq!((first.receipt.packs_stored, first.receipt.bytes_stored), before);

    // Four files of 60 KiB, and a budget for two of them.
    let listed = scene.lab.runtime.block_on(store.list("keys")).unwrap();
    let bytes = scene.lab.runtime.block_on(store.get(&listed[0].key)).unwrap();
    let mut keys = Keys::read(&bytes).unwrap();
    (keys.seq, keys.previous, keys.recipients) = (2, Some(Hash::of(&bytes)), vec![generate_identity().0]);
    let (hash, bytes) = keys.write().unwrap();
    let name = layout::keys_object(2, hash);
    let signature = scene.lab.signing_key.sign(&bytes, &name).unwrap().into_bytes();
    for (key, body) in [(format!("{name}.minisig"), signature), (name, bytes)] {
        scene.lab.runtime.block_on(store.create(&key, PutPayload::from(body))).unwrap();
    }
    scene.lab.max_rekey = 100 << 10;
    faulty.add(Rule::put("packlists/").nth(1).keeps_nothing());
    let second = scene.lab.snapshot(&store, &state).unwrap();
    assert_eq!(faulty.count(Op::Put, "packlists/"), 4, "two passes again");
    assert_eq!((second.rekey.stored_bytes, second.rekey.left_bytes), (120 << 10, 120 << 10));
    let after = packs(&scene);
    let stored = (second.receipt.packs_stored, second.receipt.bytes_stored);
    assert_eq!(stored, (after.0 - before.0, after.1 - before.1));
}

/// Without it no reader believes the receipt, and the clock of the host is compared with its time.
#[test]
fn nothing_is_committed_whose_signature_the_store_does_not_list() {
    let scene = Scene::new();
    let signature = || Rule::put(".json.minisig");
    println!("listed late");
    let (end, committed, store, _) = broken(&scene, [signature().nth(1).stays_unlisted_for(TRIES - 1)]);
    end.good();
    assert_eq!((committed, store.stats().retries), (1, TRIES as u64 - 1));
    for (how, rule) in [("never listed", signature().stays_unlisted()), ("not kept", signature().keeps_nothing())] {
        println!("{how}");
        let (end, committed, _, faulty) = broken(&scene, [rule]);
        end.bad(&[ExitCode::Failed], ".json.minisig");
        assert_eq!((committed, faulty.count(Op::Put, ".json$")), (0, 0));
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
    for (op, key, nth) in WRITES.into_iter().filter(|(op, ..)| *op == Op::Put) {
        println!("{key} {nth}");
        let lost = || Rule::put(key).nth(nth).loses_its_answer(timeout);
        let (end, _, store, _) = broken(&scene, [lost(), Rule::put(key).nth(nth).stays_unlisted_for(1)]);
        end.good();
        assert_eq!(store.stats().retries, 2);
        let (end, committed, store, _) = broken(&scene, [lost(), Rule::put(key).nth(nth).stays_unlisted()]);
        end.bad(&[ExitCode::Failed], shown(op, key, nth));
        assert_eq!(store.stats().retries, TRIES as u64 - 1);
        assert!(committed == 0 || key == ".json$", "only the receipt itself commits");
    }
}

/// The receipt of the last snapshot is not listed yet when the next one is taken: both are whole, and the fork is said.
#[test]
fn a_predecessor_that_is_not_listed_makes_a_fork_that_is_reported() {
    let scene = Scene::new();
    let memory = Arc::new(scene.empty.fork());
    let faulty = Faulty::over(memory.clone(), [Rule::put(".json$").stays_unlisted()]);
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
                let end = scene.read(command, &store);
                end.good();
                let met = faulty.asked().iter().any(|asked| asked.op == Op::Get && asked.key.contains(key));
                assert_eq!(store.stats().retries > 0, met, "a retry is counted");
                assert_counted(&end, &store, faulty.asked().len(), clean.asked().len());
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
                    // A document without its signature is what is told of.
                    end.bad(&codes, key.trim_end_matches(".minisig"));
                }
                assert_counted(&end, &store, faulty.asked().len(), clean.asked().len());
            }
        }
        for (rule, code) in
            [(Rule::list().fails(timeout), ExitCode::Failed), (Rule::list().fails(forbidden), ExitCode::Denied)]
        {
            let faulty = Faulty::over(scene.stored.clone(), [rule]);
            scene.read(command, &on(faulty)).bad(&[code], "keys");
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
