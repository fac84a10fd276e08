//! The tools that look for secrets where none may be: [canaries](canary), [system calls](trace), [memory](memory).
#![allow(dead_code, unused_imports, unreachable_pub, reason = "each test binary uses a part of this module")]
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "a test helper fails by panicking")]

pub mod canary;
pub mod memory;
pub mod trace;

pub use canary::{Canary, Form};
pub use memory::{Ending, copies};
pub use trace::{Place, Trace};
