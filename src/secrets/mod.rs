//! Secrets out of 1Password into the variables of Railway's services: planned, written, deployed once, proved.
//!
//! ```text
//! scope of the token → all sources (resolve) → what Railway has → plan → writes, each read back → one deployment each
//! ```
//! Invariants:
//! * All sources are resolved before anything is written; one that is missing stops everything, and never means "delete".
//! * Only variables that the configuration names are written, and only those that an earlier sync has written are deleted.
//! * A service whose write failed is not deployed. What was written and is not deployed shows in Railway's own times, so that
//!   running the same command again leads to the same end from wherever it was stopped.
//! * Values are in no result, record or message: only [fingerprints](fingerprint).

pub mod deploy;
pub mod fingerprint;
pub mod generate;
pub mod plan;
pub mod propose;
pub mod record;
pub mod resolve;
pub mod rollout;
pub mod rotate;
pub mod sync;
pub mod value;
pub mod verify;
pub mod work;

pub use fingerprint::{Fingerprint, Fingerprints};
pub use plan::{Action, Change, Plan};
pub use record::RecordFile;
pub use work::{Requests, Work};
