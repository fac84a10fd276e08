//! Disks that are full, or fill up on the way: exit 14, nothing half done, and the next run goes on.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, in its helpers too"
)]

mod support;

#[path = "support/stub_store.rs"]
mod stub_store;

use std::io::Write as _;
use std::path::{Path, PathBuf};

use opsctl::ExitCode;
use opsctl::state::StateDir;
use stub_store::{StubStore, Turn};
use support::TestDir;
use support::opsctl::{Bench, Mounted, chmod, files_below, noise, run};
use support::tree::assert_same_tree;

const KIB: usize = 1 << 10;

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
    for n in 0..600 {
        bench.dir.write(format!("tree/a folder with a name of some length {}/{n}", n % 40), format!("{n}"));
    }
    let _mounted = Mounted::tmpfs(&bench.state, "160k");
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

/// Otherwise a host that is stopped in between forgets it, and does not notice that the keys went back.
#[test]
fn the_number_of_the_keys_object_is_replaced_as_a_whole() {
    let dir = TestDir::new();
    let at = dir.join("state");
    let _mounted = Mounted::tmpfs(&at, "160k");
    chmod(&at, 0o700);
    let lock = StateDir::lock(&at).unwrap();
    let state = lock.source("11111111111111111111111111111111", "web").unwrap();
    state.save_keys_seq(7).unwrap();
    let is_keys = |file: &PathBuf| file.ends_with("keys");
    let old = at.join("old");
    std::fs::hard_link(files_below(&at).into_iter().find(is_keys).unwrap(), &old).unwrap();
    state.save_keys_seq(8).unwrap();
    assert_eq!((state.keys_seq(), std::fs::read_to_string(old).unwrap().as_str()), (Some(8), "7\n"));
    fill(&at);
    assert_eq!(state.save_keys_seq(9).unwrap_err().code(), ExitCode::NoSpace);
    assert_eq!(state.keys_seq(), Some(8));
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
