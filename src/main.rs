//! The `opsctl` binary: parse, run, exit code.

use std::process::ExitCode;

use opsctl::wiping::Wiping;
use opsctl::{allocator, cli, commands};

#[global_allocator]
static ALLOCATOR: Wiping = Wiping;

fn main() -> ExitCode {
    allocator::keep_small();
    let code = cli::run::<commands::Cli, _>(std::env::args_os(), commands::dispatch);
    ExitCode::from(code.code())
}
