//! Stores are built with the writers of `archive`, damaged, and read back.

mod content;
mod diffs;
pub(crate) mod refusing;
pub(crate) mod sample;
mod trusting;
