//! The bodies of the fuzz targets: each takes any bytes, gives them to readers of opsctl, and panics when a property
//! does not hold. `fuzz_targets/` gives them to libFuzzer, and `tests/fuzz_corpus.rs` includes this file to run the
//! committed corpus in each ordinary test run. `docs/fuzzing.md` says what each covers.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    missing_docs,
    unreachable_pub,
    reason = "a target fails by panicking"
)]

pub mod config;
pub mod manifest;
pub mod pack;
pub mod receipt;
pub mod time;
