//! The `opsctl` binary: parse, run, exit code.

use std::process::ExitCode;

use opsctl::{cli, commands};

fn main() -> ExitCode {
    let code = cli::run::<commands::Cli, _>(std::env::args_os(), commands::dispatch);
    ExitCode::from(code.code())
}
