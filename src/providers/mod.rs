//! The outside world, one folder each.

pub mod service;
pub mod store;
