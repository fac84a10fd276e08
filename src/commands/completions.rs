//! `opsctl completions`: scripts for shells.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use crate::cli;
use crate::ui::Output;
use crate::{ExitCode, Result};

/// Print a completion script for a shell
///
/// Example: opsctl completions bash > /etc/bash_completion.d/opsctl
///
/// Exit codes: 0 ok, 2 unknown shell
#[derive(Args, Debug)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

pub(super) fn run(args: &CompletionsArgs, out: &mut Output) -> Result<ExitCode> {
    let mut script = Vec::new();
    cli::completions(args.shell, &mut cli::augment(super::Cli::command()), &mut script)?;
    out.raw(&script)?;
    Ok(ExitCode::Ok)
}
