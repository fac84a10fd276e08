//! The `opsctl` binary: parse, run, exit code.

use std::process::ExitCode;

use opsctl::{cli, commands};

fn main() -> ExitCode {
    let code =
        cli::run::<commands::Cli, _>(std::env::args_os(), |cli, settings, out| commands::dispatch(cli, settings, out));
    ExitCode::from(code.code())
}
