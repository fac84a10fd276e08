//! `opsctl config`: what is set, and who says so.

use clap::{Args, Subcommand};
use serde_json::json;

use crate::config::{self, Settings};
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

pub(super) fn run(args: &ConfigArgs, settings: &Settings, out: &mut Output) -> Result<ExitCode> {
    let ConfigCommand::Show = args.command;
    let rows = config::rows(settings);
    out.result(&json!({ "settings": rows }), |width| config::rows_table(&rows, width))?;
    Ok(ExitCode::Ok)
}
