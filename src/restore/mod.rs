//! Restore: puts a snapshot back as files.
//!
//! [`target`] is the only part that touches the directory being restored; everything it does is
//! relative to that directory and follows no symbolic link.

mod dirs;
mod execute;
mod fetch;
mod lost;
mod metadata;
mod plan;
mod resume;
mod seed;
mod select;
pub mod space;
mod staging;
pub mod state;
pub mod target;

pub use execute::{Restored, restore};
pub use plan::{Listed, RestorePlan, RestoreRequest};
pub use seed::Seeding;
pub use select::Selection;

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod resume_tests;
#[cfg(test)]
mod target_tests;
