//! An `op` command with one vault, and who asks it.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of this module")]
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "a test helper fails by panicking")]

use std::time::Duration;

use opsctl::cancel::Cancel;
use opsctl::config::Environment;
use opsctl::providers::onepassword::{Edit, Item, OnePassword};
use opsctl::secret::Secret;
use opsctl::{Error, ExitCode, Result};

use crate::onepassword::FakeOp;
use crate::support::TestDir;

pub const VAULT: &str = "Team Vault";

pub struct Bench {
    pub op: FakeOp,
    pub vault: String,
    pub runtime: tokio::runtime::Runtime,
    pub variables: Vec<(&'static str, String)>,
    _dir: TestDir,
}

impl Bench {
    pub fn new() -> Self {
        let dir = TestDir::new();
        let op = FakeOp::start(&dir.join("op"));
        let vault = op.vault(VAULT);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let mut variables = op.env();
        variables.push(("PATH", std::env::var("PATH").unwrap()));
        Self { op, vault, runtime, variables, _dir: dir }
    }

    pub fn environment(&self) -> Environment {
        Environment::fixed(self.variables.iter().map(|(name, value)| (*name, value.as_str())))
    }

    pub fn open(&self) -> Result<OnePassword> {
        self.runtime.block_on(OnePassword::command(&self.environment(), &Cancel::default()))
    }

    /// Opens it with a time limit for each call that no healthy one needs.
    pub fn open_within(&self, limit: Duration) -> OnePassword {
        self.runtime.block_on(OnePassword::command_within(&self.environment(), &Cancel::default(), limit)).unwrap()
    }

    pub fn get(&self, it: &OnePassword, item: &str) -> Result<Item> {
        self.runtime.block_on(it.get(&self.vault, item))
    }

    /// Gives the first field of an item another value.
    pub fn set(&self, it: &OnePassword, item: &Item, value: &str) -> Result<Item> {
        self.runtime.block_on(it.edit(item, &[set(item, value)]))
    }
}

pub fn set(item: &Item, value: &str) -> Edit {
    Edit::Set { field: item.fields[0].id.clone(), value: Secret::new(value) }
}

pub fn value(item: &Item, label: &str) -> Option<String> {
    item.field(None, label).unwrap().value.as_ref().map(|value| value.expose().to_owned())
}

/// The failure, with a hint in all cases.
#[track_caller]
pub fn failure<T>(result: Result<T>) -> Error {
    let Err(error) = result else { panic!("this should have failed") };
    assert!(error.hint_text().is_some_and(|hint| !hint.is_empty()), "{error:?} does not say what to do");
    error
}

#[track_caller]
pub fn assert_failure<T>(result: Result<T>, code: ExitCode, wanted: &[&str]) {
    let error = failure(result);
    let said = format!("{} / {}", error.full_message(), error.hint_text().unwrap());
    assert_eq!(error.code(), code, "{said}");
    for text in wanted {
        assert!(said.contains(text), "{said}: does not say `{text}`");
    }
}
