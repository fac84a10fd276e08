//! `opsctl man`: the manual page.

use clap::{Args, CommandFactory as _};

use crate::cli;
use crate::ui::Output;
use crate::{ExitCode, Result};

/// Print the manual page
///
/// Example: opsctl man | man -l -
///
/// Exit codes: 0 ok
#[derive(Args, Debug)]
pub struct ManArgs {}

pub(super) fn run(_args: &ManArgs, out: &mut Output) -> Result<ExitCode> {
    let mut page = Vec::new();
    cli::man(cli::augment(super::Cli::command()), &mut page)?;
    out.raw(&page)?;
    Ok(ExitCode::Ok)
}
