//! Random keys.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of this module")]
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "a test helper fails by panicking")]

use std::fs::File;
use std::io::Read as _;

/// Random hex digits for a key.
pub fn random_hex(bytes: usize) -> String {
    random(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Random bytes for a key.
pub fn random(bytes: usize) -> Vec<u8> {
    let mut random = vec![0_u8; bytes];
    File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut random)).expect("read /dev/urandom");
    random
}
