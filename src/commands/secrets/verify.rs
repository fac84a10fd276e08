//! `opsctl secrets verify`: do the services have what 1Password has?

use clap::Args;

use super::report::findings;
use super::{TargetArgs, read_record, secrets};
use crate::commands::Session;
use crate::providers::address::Address;
use crate::secrets::verify::{self, Report, Verdict};
use crate::ui::Output;
use crate::{ExitCode, Result};

/// Check that the services have what 1Password has
///
/// Compares each variable, whether what runs is as new as the variables, and
/// whether everything is there that the profile requires. A sealed variable is
/// judged by what the last sync recorded, and by the time of its last change.
/// Changes nothing.
///
/// Example: opsctl secrets verify
/// Example: opsctl secrets verify --target production --url https://work.example.com
///
/// Exit codes: 0 all as 1Password says, 2 usage, or an ambiguous item, 3 nothing
/// differs as far as can be seen, and something cannot be seen, 5 something
/// differs, 10 no such vault, item, field or service, 12 a token is missing,
/// refused or of another environment, 13 rate-limited, 130 interrupted
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub struct VerifyArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Also ask the service here whether it takes the tokens: scheme, host, port and perhaps a path
    #[arg(long, value_name = "URL")]
    url: Option<String>,
}

pub(super) fn run(args: &VerifyArgs, session: &Session<'_>, out: &mut Output) -> Result<ExitCode> {
    let address = args.url.as_ref().map(|url| Address::parse(url, "--url")).transpose()?;
    let secrets = secrets(session)?;
    let target = args.target.target(session, &secrets)?;
    let work = args.target.gather(session, &secrets, target)?;
    let plan = work.plan(&read_record(session, work.target)?, false)?;
    let profile = &session.settings.profile.value;
    let report = session.block(verify::verify(&work, &plan, profile, address.as_ref()))?;
    out.result(&report, |width| text(&report, width))?;
    Ok(report.exit_code())
}

fn text(report: &Report, width: Option<u16>) -> String {
    let verdict = match report.verdict {
        Verdict::Passed => "as 1Password says",
        Verdict::Drift => "differs from what 1Password says",
        Verdict::Incomplete => "as 1Password says, as far as can be seen",
    };
    format!("{}{}: {verdict}", findings(&report.checks, width), report.target)
}
