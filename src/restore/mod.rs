//! Restore: puts a snapshot back as files.
//!
//! [`target`] is the only part that touches the directory being restored; everything it does is
//! relative to that directory and follows no symbolic link.

mod dirs;
mod execute;
mod extras;
mod fetch;
pub mod gate;
pub mod in_place;
pub mod journal;
pub mod keep;
mod leading;
mod lost;
mod metadata;
mod obstacle;
mod plan;
mod plan_live;
mod record;
mod remove;
mod resume;
mod reuse;
mod same;
mod seed;
mod select;
pub mod space;
mod spine;
mod staging;
pub mod state;
mod swap;
pub mod target;
mod usage;

pub use execute::{Restored, restore};
pub use plan::{Listed, RestorePlan, RestoreRequest};
pub use plan_live::{LivePlan, LiveRequest};
pub use seed::Seeding;
pub use select::Selection;

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod in_place_tests;
#[cfg(test)]
mod resume_tests;
#[cfg(test)]
mod target_tests;
