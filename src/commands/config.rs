//! `opsctl config`: what is set, and who says so.

use clap::{Args, Subcommand};
use serde::Serialize;

use crate::config::{self, Row, Settings};
use crate::ui::Output;
use crate::{ExitCode, Result};

/// Show the settings in force
///
/// Example: opsctl config show --store file:///backup
///
/// Exit codes: 0 ok, 2 a setting is wrong
#[derive(Args, Debug)]
pub struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Subcommand, Debug)]
enum ConfigCommand {
    /// Print each setting with its value and where it comes from; secrets are hidden
    Show,
}

/// The result of `config show`.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct ConfigReport {
    /// Every setting; the values of secrets are hidden.
    pub settings: Vec<Row>,
}

pub(super) fn run(args: &ConfigArgs, settings: &Settings, out: &mut Output) -> Result<ExitCode> {
    let ConfigCommand::Show = args.command;
    let report = ConfigReport { settings: config::rows(settings) };
    out.result(&report, |width| config::rows_table(&report.settings, width))?;
    Ok(ExitCode::Ok)
}
