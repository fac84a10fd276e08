//! How a command may end in front of a store that misbehaves, and a store for it to try.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of this module")]
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "a test helper fails by panicking")]

use std::sync::Arc;

use object_store::memory::InMemory;
use opsctl::ExitCode;
use opsctl::check::Level;
use opsctl::providers::store::Store;

use crate::lab::{Lab, TRIES, on};
use crate::support::opsctl::noise;
use crate::support::tree::{Tree, assert_equal};

pub const KIB: usize = 1 << 10;
/// How a failure names the whole store.
pub const STORE: &str = "s3://";
/// For ever.
pub const ON: usize = usize::MAX;

/// What reads a store that has one snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    Restore,
    Check,
    List,
}

pub const READS: [Reads; 3] = [Reads::Restore, Reads::Check, Reads::List];

/// How a command ended.
#[derive(Debug)]
pub enum End {
    Good,
    /// The exit code, and everything that was said.
    Bad(ExitCode, String),
}

impl End {
    /// Checks that a failure says what to do, and about what.
    pub fn of(error: &opsctl::Error) -> Self {
        let text = error.full_message();
        let hint = error.hint_text().unwrap_or_default();
        assert!(!hint.is_empty(), "no next step: {text}");
        Self::Bad(error.code(), format!("{text} {hint}"))
    }

    #[track_caller]
    pub fn good(&self) {
        assert!(matches!(self, Self::Good), "{self:?}");
    }

    /// Failed with one of these codes, and named what failed: an object of this name, or [`STORE`].
    #[track_caller]
    pub fn bad(&self, codes: &[ExitCode], name: &str) {
        let Self::Bad(code, text) = self else { panic!("it should have failed: {name}") };
        assert!(codes.contains(code), "{code:?}: {text}");
        assert!(text.contains(name), "{name} is not named: {text}");
    }
}

/// A tree, and what a first snapshot of it leaves.
pub struct Scene {
    pub lab: Lab,
    pub tree: Tree,
    /// A store without a snapshot, and one with.
    pub empty: Arc<InMemory>,
    pub stored: Arc<InMemory>,
}

impl Scene {
    pub fn new() -> Self {
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
    pub fn read(&self, command: Reads, store: &Store) -> End {
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
    pub fn snapshot(&self, store: &Store, clean: &Store) -> (End, usize) {
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

/// Every request was counted, and nothing was tried for ever. A run that fails may drop requests that it has counted and not sent.
#[track_caller]
pub fn assert_counted(end: &End, store: &Store, asked: usize, without_fault: usize) {
    let stats = store.stats();
    let asked_for = usize::try_from(stats.requests).unwrap();
    let is_exact = matches!(end, End::Good);
    assert!(asked == asked_for || (!is_exact && asked < asked_for), "{asked} requests, {asked_for} counted");
    assert!(stats.retries <= stats.requests, "{stats:?}");
    assert!(asked <= without_fault * TRIES * 2, "{asked} requests where {without_fault} do");
}
