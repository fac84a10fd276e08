//! The `opsctl` binary: parse, run, exit code.
fn main() {}
