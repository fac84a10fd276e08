//! `opsctl secrets plan`: what would a sync do?

use clap::Args;

use super::report::PlanReport;
use super::{TargetArgs, WaitArgs, read_record, secrets};
use crate::commands::Session;
use crate::ui::Output;
use crate::{ExitCode, Result};

/// Show what a sync would do
///
/// Resolves every reference, reads the variables of the services, and compares.
/// Writes nothing. Values are shown by fingerprints; with secrets.fingerprint_key
/// they are the same in every run.
///
/// create, update: would be written. sealed: Railway shows it to nobody; it is
/// written if 1Password has another value than the last sync wrote. conflict: it
/// refers to another variable, and is left as it is. unmanaged: the configuration
/// does not name it, and it is left as it is.
///
/// Example: opsctl secrets plan
/// Example: opsctl secrets plan --target production --detailed-exit-code --json
///
/// Exit codes: 0 planned, 2 usage, an ambiguous item or a value that no variable
/// may have, 6 changes are pending (--detailed-exit-code), 10 no such vault,
/// item, field or service, 12 a token is missing, refused or of another
/// environment, 13 rate-limited, 130 interrupted
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub struct PlanArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// End with 6 when there is something to do
    #[arg(long)]
    detailed_exit_code: bool,
    #[command(flatten)]
    wait: WaitArgs,
}

pub(super) fn run(args: &PlanArgs, session: &Session<'_>, out: &mut Output) -> Result<ExitCode> {
    let secrets = secrets(session)?;
    let target = args.target.target(session, &secrets)?;
    let work = args.target.gather(session, &secrets, target)?;
    let plan = work.plan(&read_record(session, work.target)?, false)?;
    let report = PlanReport::new(&plan, work.requests(&plan, args.wait.deploy_timeout));
    out.result(&report, |width| report.text(width))?;
    let is_told = args.detailed_exit_code && plan.is_pending();
    Ok(if is_told { ExitCode::Pending } else { ExitCode::Ok })
}
