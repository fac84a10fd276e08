//! The read side of a store: which snapshots there are, which of them may be believed, and their content.
//!
//! `archive` knows what objects look like and `providers::store` how to get them; here the two meet. Everything
//! that reads a store (list, show, ls, diff, restore, check) goes through [`Repository`].
//!
//! Invariants:
//! * Nothing is written.
//! * A receipt counts only after [`trust`] has judged it; a chunk only after it hashed to its name.
//! * One unreadable object never hides another snapshot: it is named, and the rest goes on.
//! * Memory is bounded by the caller's budget and the pack list, never by the size of a snapshot.
//! * Waiting for the network ends at once when the caller's [`Cancel`](crate::cancel::Cancel) is set.
//!
//! The methods are `async` and need a multi-threaded tokio runtime: decoding runs on threads of its own.

mod budget;
pub mod choose;
pub mod chunks;
pub mod diff;
pub mod fetch;
pub mod links;
pub mod manifest;
pub mod open;
pub mod packs;
pub mod plan;
pub mod rows;
mod signed;
pub mod snapshots;
#[cfg(test)]
pub(crate) mod tests;
pub mod trust;

pub use choose::{Which, choose};
pub use fetch::{FetchError, FetchOptions, FetchStats, FrameOf, OnFailure};
pub use links::{LinkGroups, MISFIT};
pub use manifest::{Manifest, Walk};
pub use open::Repository;
pub use packs::Packs;
pub use plan::FetchPlan;
pub(crate) use signed::MAX_SIZE as MAX_DOCUMENT;
pub use snapshots::{Listing, Problem, Snapshot};
pub use trust::{Purpose, Trust, TrustOptions};
