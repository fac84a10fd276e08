//! The `opsctl` binary: parse, run, exit code.

use std::process::ExitCode;

use opsctl::{allocator, cli, commands};

fn main() -> ExitCode {
    allocator::keep_small();
    let code = cli::run::<commands::Cli, _>(std::env::args_os(), commands::dispatch);
    ExitCode::from(code.code())
}
