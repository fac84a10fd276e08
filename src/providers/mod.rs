//! The outside world, one folder each.

pub mod address;
pub mod engine;
pub mod onepassword;
pub mod opencode;
pub mod opencode_api;
pub mod openwork;
pub mod openwork_api;
pub mod processes;
pub mod railway;
pub mod service;
pub mod shell;
pub mod sidecars;
pub mod store;
pub mod wiped;

/// How the names begin of what opsctl makes in a service for a moment: tokens and sessions of `verify`.
pub const PROBE_LABEL: &str = "opsctl-verify-";
