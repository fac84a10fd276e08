//! Takes snapshots.
//!
//! ```text
//! walk ─items→ collector → draft ─→ builder → manifest ─┐
//!   └─jobs→ readers ─chunks→ encoders ─frames→ packer ─packs→ uploaders → store ─→ receipt
//! ```
//! Invariants:
//! * The store sees LIST and create-only PUT, nothing else, in this order: packs, pack list,
//!   signature, receipt. Whatever happens in between, no snapshot exists that cannot be restored.
//! * Every stage is bounded; memory is packs in flight plus about 100 bytes a file and chunk.

mod build;
mod clocks;
mod draft;
mod facts;
mod host_keys;
mod listing;
mod look;
pub(crate) mod metadata;
mod plan;
mod read;
mod run;
mod snapshot;
pub(crate) mod sqlite;
mod stop;
mod store_side;
mod view;
mod walk;

pub use draft::{Problem, ProblemKind};
pub use facts::{Asked, AskedWorkspaces, FactsRequest};
pub use host_keys::{HostConfig, HostKeys};
pub use plan::{Plan, plan};
pub use snapshot::{Outcome, SnapshotRequest, snapshot};
pub use view::StoreView;
pub use walk::WalkOptions;
