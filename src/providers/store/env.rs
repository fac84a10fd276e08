//! Where a store's settings are read from, so that tests can hand in their own.

use std::collections::BTreeMap;

/// A set of environment variables.
pub trait Env {
    /// The value of a variable, if it is set.
    fn var(&self, name: &str) -> Option<String>;
}

/// The variables of this process. A value that is not UTF-8 counts as not set.
#[derive(Debug, Clone, Copy)]
pub struct ProcessEnv;

impl Env for ProcessEnv {
    fn var(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }
}

impl Env for BTreeMap<String, String> {
    fn var(&self, name: &str) -> Option<String> {
        self.get(name).cloned()
    }
}

/// The first of these variables that has a value. An empty one counts as not set, as everywhere.
pub(super) fn first(env: &dyn Env, names: &[&str]) -> Option<String> {
    names.iter().find_map(|name| env.var(name).filter(|value| !value.is_empty()))
}
