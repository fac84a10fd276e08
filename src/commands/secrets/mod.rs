//! `opsctl secrets`: secrets out of 1Password into the variables of Railway's services.

mod import;
mod init;
mod plan;
mod report;
mod rotate;
mod sync;
mod verify;

use std::time::Duration;

use clap::{Args, Subcommand};

use super::Session;
use super::restore_in_place::confirm_by;
use super::verify::parse_length;
use crate::config::secrets::{Secrets, Service, Source, Target};
use crate::secrets::{RecordFile, Work, record, work};
use crate::ui::Output;
use crate::{Error, ExitCode, Result, hardening, ui};

/// Bring the secrets of 1Password into the variables of Railway's services
///
/// The configuration file says which variable of which service gets its value
/// from where; `init` writes one to begin with. Values are never shown and never
/// written to disk: what is shown are fingerprints.
///
/// RAILWAY_TOKEN is a project token of the environment (or RAILWAY_API_TOKEN one
/// of an account). 1Password is asked by `op` with OP_SERVICE_ACCOUNT_TOKEN, or
/// by a Connect server with OP_CONNECT_HOST and OP_CONNECT_TOKEN.
///
/// Example: opsctl secrets plan
/// Example: opsctl secrets sync --target production
///
/// Exit codes: those of its commands
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub struct SecretsArgs {
    #[command(subcommand)]
    command: SecretsCommand,
}

#[derive(Subcommand, Debug)]
enum SecretsCommand {
    Plan(plan::PlanArgs),
    Sync(sync::SyncArgs),
    Verify(verify::VerifyArgs),
    Rotate(rotate::RotateArgs),
    Init(init::InitArgs),
    Import(import::ImportArgs),
}

/// Which target, and which of its services.
#[derive(Args, Clone, Debug)]
pub(super) struct TargetArgs {
    /// The target of the configuration file [default: the only one]
    #[arg(long, value_name = "NAME")]
    target: Option<String>,
    /// Only this service of the target; may be repeated [default: all]
    #[arg(long, value_name = "NAME")]
    service: Vec<String>,
}

/// How long deployments may take.
#[derive(Args, Clone, Debug)]
pub(super) struct WaitArgs {
    /// How long all deployments together may take
    #[arg(long, value_name = "DURATION", default_value = "15m", value_parser = parse_wait)]
    deploy_timeout: Duration,
}

pub(super) fn run(args: &SecretsArgs, session: &Session<'_>, out: &mut Output) -> Result<ExitCode> {
    match &args.command {
        SecretsCommand::Plan(args) => plan::run(args, session, out),
        SecretsCommand::Sync(args) => sync::run(args, session, out),
        SecretsCommand::Verify(args) => verify::run(args, session, out),
        SecretsCommand::Rotate(args) => rotate::run(args, session, out),
        SecretsCommand::Init(args) => init::run(args, session, out),
        SecretsCommand::Import(args) => import::run(args, session, out),
    }
}

pub(super) use import::ImportReport;
pub(super) use init::InitReport;
pub(super) use report::{PlanReport, RotateReport, SyncReport};

impl TargetArgs {
    /// The secrets of the configuration, and the target that is meant.
    fn target<'s>(&self, session: &Session<'_>, secrets: &'s Secrets) -> Result<&'s Target> {
        let target = work::target(secrets, self.target.as_deref())?;
        if target.production && target.vault.is_none() {
            let why = "nothing keeps values of another environment out of it";
            ui::warn(format!("the target `{}` is production and names no vault: {why}", target.name));
        }
        refuse_secrets_in_the_file(session, target)?;
        Ok(target)
    }

    /// Everything that is known of the target.
    fn gather<'s>(&self, session: &Session<'_>, secrets: &'s Secrets, target: &'s Target) -> Result<Work<'s>> {
        let services = work::services(target, &self.service)?;
        gather(session, secrets, target, services)
    }
}

/// The secrets of the configuration. From here on the process keeps its memory to itself.
fn secrets(session: &Session<'_>) -> Result<Secrets> {
    hardening::protect();
    let secrets = session.settings.secrets()?.filter(|secrets| !secrets.targets.is_empty());
    secrets.ok_or_else(|| {
        Error::usage("the configuration file names no target for secrets")
            .hint("`opsctl secrets init` writes one to begin with; --config names another file")
    })
}

fn gather<'w>(
    session: &Session<'_>,
    secrets: &Secrets,
    target: &'w Target,
    services: Vec<&'w Service>,
) -> Result<Work<'w>> {
    // Before anything waits for the network: somebody may type it.
    let stdin = work::stdin(&services)?;
    session.block(Work::gather(secrets, target, services, stdin, &session.environment, &session.cancel))
}

/// The record of a target, to be read.
fn read_record(session: &Session<'_>, target: &Target) -> Result<RecordFile> {
    RecordFile::read(&record::folder(session.settings.state_dir.value.as_deref(), &session.environment)?, target)
}

/// The record of a target, held until the run is over.
fn lock_record(session: &Session<'_>, target: &Target) -> Result<RecordFile> {
    RecordFile::lock(&record::folder(session.settings.state_dir.value.as_deref(), &session.environment)?, target)
}

/// What the profile calls a secret has no place in the configuration file.
fn refuse_secrets_in_the_file(session: &Session<'_>, target: &Target) -> Result<()> {
    let profile = &session.settings.profile.value;
    for service in &target.services {
        let Some(contract) = crate::secrets::verify::contract_of(profile, target.services.len(), service) else {
            continue;
        };
        for (name, mapping) in &service.variables {
            let is_secret = contract.variables.iter().any(|variable| variable.name == *name && variable.secret);
            let is_reference = |text: &str| text.starts_with("${{") && text.ends_with("}}");
            if is_secret && matches!(&mapping.source, Source::Literal(text) if !is_reference(text)) {
                let message = format!("{name} of `{}` is a secret, and its value stands in the file", service.name);
                return Err(Error::usage(message).hint(
                    "keep it in 1Password and put its reference there; whoever has read the file knows the value, so rotate it",
                ));
            }
        }
    }
    Ok(())
}

/// Asks whether to go on; of a production target its name has to be typed.
fn confirm(target: &Target, yes: bool, question: &str) -> Result<()> {
    if !target.production || yes {
        return super::restore_in_place::confirm(yes, question);
    }
    let question = format!("{question} This is production: type {} to go on:", target.name);
    confirm_by(yes, || Some(ui::ask_for(&question)? == target.name))
}

/// A time such as `15m`; a number alone is seconds.
fn parse_wait(text: &str) -> Result<Duration, String> {
    let length = parse_length(text, Duration::from_secs(1)..=Duration::from_secs(86_400));
    length.ok_or_else(|| "is not a time from 1 s to 24 h, such as 90s or 15m".to_owned())
}
