//! opsctl keeps a hosted service recoverable: encrypted, signed snapshots of its durable volume,
//! restores, and proof that both work. `docs/design.md` tells how the parts fit.

pub mod allocator;
pub mod archive;
pub mod cancel;
pub mod capture;
pub mod check;
pub mod cli;
pub mod commands;
pub mod config;
pub mod doctor;
pub mod error;
pub mod exit;
pub mod filter;
pub mod finding;
pub mod hardening;
pub mod progress;
pub mod providers;
pub mod repository;
pub mod restore;
pub mod secret;
pub mod secrets;
pub mod state;
pub mod time;
pub mod ui;
pub mod verify;
pub mod wiping;

pub use error::{Context, Error, Result};
pub use exit::ExitCode;
