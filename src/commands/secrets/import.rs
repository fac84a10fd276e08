//! `opsctl secrets import`: a mapping for the names of a template.

use std::path::PathBuf;

use clap::Args;
use schemars::JsonSchema;
use secrecy::ExposeSecret as _;
use serde::Serialize;

use crate::commands::Session;
use crate::config::read_limited;
use crate::secrets::propose::{self, Proposal};
use crate::ui::Output;
use crate::{Error, ExitCode, Result, hardening};

/// Propose a mapping for the variables that a template names
///
/// Reads the names of a file such as .env.example and writes a mapping for them
/// to standard output: references for what is a secret by the profile or its
/// name, and a place for the value of everything else. What it prints goes under
/// the service in the configuration file. Values in the file are not repeated,
/// for it may turn out to be a real one.
///
/// Example: opsctl secrets import .env.example
///
/// Exit codes: 0 proposed, 2 usage, or the file cannot be read or names nothing
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub struct ImportArgs {
    /// The template; `-` is standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// The result of `secrets import`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ImportReport {
    /// Each name once, in the order of the file.
    variables: Vec<Imported>,
}

/// A name of the template.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Imported {
    /// The variable.
    name: String,
    /// Whether its value is taken for a secret.
    secret: bool,
    /// The line for the configuration file.
    line: String,
}

pub(super) fn run(args: &ImportArgs, session: &Session<'_>, out: &mut Output) -> Result<ExitCode> {
    hardening::protect();
    let shown = args.file.display().to_string();
    let text = if shown == "-" {
        read_limited(std::io::stdin().lock(), "template", "standard input")?
    } else {
        let file = std::fs::File::open(&args.file)
            .map_err(|error| Error::usage(format!("cannot open the template {shown}")).because(error))?;
        read_limited(file, "template", &shown)?
    };
    let proposals = propose::of_template(text.expose_secret(), &session.settings.profile.value);
    if proposals.is_empty() {
        return Err(Error::usage(format!("{shown} names no variable")).hint("it needs lines such as NAME=value"));
    }
    let lines = proposals.iter().map(|one| one.line() + "\n").collect::<String>();
    let variables = proposals.into_iter().map(Imported::from).collect();
    out.result(&ImportReport { variables }, |_| format!("[secrets.targets.services.variables]\n{lines}"))?;
    Ok(ExitCode::Ok)
}

impl From<Proposal> for Imported {
    fn from(one: Proposal) -> Self {
        Self { line: one.line(), name: one.name, secret: one.is_secret }
    }
}
