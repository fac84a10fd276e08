//! The memory of a command is bounded by what it has in flight, never by the size of the data.
//!
//! Measured is this build: the promise is one for a release build, which has the same buffers, so an unoptimised one that keeps the
//! bound is proof enough.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking, in its helpers too")]

mod support;

use std::process::Command;
use std::time::Duration;

use support::opsctl::{Bench, Done, measured, noise};
use support::tree::assert_same_tree;

const MIB: u64 = 1 << 20;
/// What is promised of snapshot, check and restore with the default of `--memory`.
const PEAK: u64 = 160 * MIB;
/// Longer than any command here takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(300);

/// Nothing of it compresses and nothing is there twice: each byte goes through every buffer.
fn fill(bench: &Bench) -> u64 {
    let large = [150 << 20, 40 << 20, 5 << 20].into_iter().enumerate();
    let small = (0..4_000_usize).map(|n| (100 + n, 1_000 + 12 * n));
    let mut total = 0;
    for (number, size) in large.chain(small) {
        bench.dir.write(format!("tree/{}/{number}", number % 50), noise(size, number as u64));
        total += size as u64;
    }
    total
}

#[test]
fn what_is_in_flight_bounds_the_memory_of_a_command_and_not_the_data() {
    let bench = Bench::new();
    let total = fill(&bench);
    assert!(total > 280 * MIB, "{} MiB", total / MIB);
    let within = |what: &str, command: Command| -> Done {
        let (done, peak) = measured(&bench.dir, command, LIMIT);
        println!("{what}: {} MiB", peak / MIB);
        assert!(peak <= PEAK, "{what} took {} MiB", peak / MIB);
        done.ok()
    };
    let taken = within("snapshot", bench.snapshot_command([""; 0]));
    assert_eq!(taken.number("bytes_read"), total);
    let mut check = bench.command();
    check.args(["check", "--level", "decrypt", "--json"]).env("OPSCTL_IDENTITY_FILE", &bench.identity);
    within("check", check);
    let to = bench.dir.join("to");
    within("restore", bench.restore_command(&to, [""; 0]));
    assert_same_tree(&bench.tree, &to);
}
