//! opsctl keeps a hosted service recoverable: encrypted, signed snapshots of its durable volume,
//! restores, and proof that both work. `docs/design.md` tells how the parts fit.

pub mod archive;
pub mod error;
pub mod exit;

pub use error::{Context, Error, Result};
pub use exit::ExitCode;
