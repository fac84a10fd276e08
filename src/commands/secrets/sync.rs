//! `opsctl secrets sync`: the services get what 1Password has.

use std::time::Duration;

use clap::Args;
use secrecy::SecretString;

use super::report::{PlanReport, SyncReport};
use super::{TargetArgs, WaitArgs, confirm, gather, lock_record, read_record, secrets};
use crate::commands::Session;
use crate::providers::address::Address;
use crate::secrets::sync::{Sync, exit_code};
use crate::secrets::verify::token;
use crate::secrets::{Plan, RecordFile, Work, work};
use crate::ui::Output;
use crate::verify::{self, Report, Request, Tokens, Verdict};
use crate::{Error, ExitCode, Result, ui};

/// How long the service may take to be up after its deployment.
const VERIFY_TIMEOUT: Duration = Duration::from_secs(60);

/// Write what 1Password has into the services, and deploy them
///
/// Shows the plan and asks; for a target with `production = true` its name has to
/// be typed. Each service is written once, read back, and deployed once; a
/// service whose write failed is not deployed. Variables that the configuration
/// does not name are never touched. Running it again goes on where it was
/// stopped.
///
/// Example: opsctl secrets sync
/// Example: opsctl secrets sync --target production --yes --url https://work.example.com
///
/// Exit codes: 0 done, or nothing to do, 2 usage, an ambiguous item, a value that
/// no variable may have, or not confirmed, 3 in part: what is left is named, 5
/// --url: the service does not work with it, 10 no such vault, item, field or
/// service, 11 another run works on the target, or somebody has changed something
/// meanwhile, 12 a token is missing, refused or of another environment, 13
/// rate-limited, and nothing was written, 130 interrupted
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub struct SyncArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Show the plan, change nothing
    #[arg(long)]
    dry_run: bool,
    /// Write, and deploy nothing: values reach the services with their next deployment
    #[arg(long, conflicts_with = "url")]
    no_deploy: bool,
    /// Delete variables that an earlier sync put there and that the configuration names no more
    #[arg(long)]
    prune: bool,
    /// Then verify the service that answers here, as `opsctl verify` does: scheme, host, port and perhaps a path
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    #[command(flatten)]
    wait: WaitArgs,
}

pub(super) fn run(args: &SyncArgs, session: &Session<'_>, out: &mut Output) -> Result<ExitCode> {
    let address = args.url.as_ref().map(|url| Address::parse(url, "--url")).transpose()?;
    let secrets = secrets(session)?;
    let target = args.target.target(session, &secrets)?;
    let services = work::services(target, &args.target.service)?;
    if work::needs_stdin(&services) && !args.yes && !args.dry_run {
        return Err(Error::usage("a value comes from standard input, so nobody can be asked there")
            .hint("look at --dry-run, then give --yes"));
    }
    // Held from before the plan, so that no other run changes what it was made of.
    let mut record = if args.dry_run { read_record(session, target)? } else { lock_record(session, target)? };
    let mut work = gather(session, &secrets, target, services)?;
    let mut plan = work.plan(&record, args.prune)?;
    let report = PlanReport::new(&plan, work.requests(&plan, args.wait.deploy_timeout));
    if args.dry_run {
        out.result(&report, |width| report.text(width))?;
        return Ok(ExitCode::Ok);
    }
    if plan.changes_something() {
        report.text(None).lines().for_each(ui::say);
        confirm(target, args.yes, &format!("Change {}?", target.name))?;
        if !args.yes {
            plan = still(session, &mut work, &record, args.prune, &plan)?;
        }
    }
    let state = std::mem::take(&mut work.state);
    let services = session.block(async {
        let sync = Sync {
            railway: &work.railway,
            fingerprints: &work.fingerprints,
            deploy: !args.no_deploy,
            timeout: args.wait.deploy_timeout,
        };
        sync.run(&mut plan, state, &mut record).await
    })?;
    let mut code = exit_code(&services);
    if code == ExitCode::Ok && plan.conflicts().next().is_some() {
        code = ExitCode::Incomplete;
    }
    let verification = match (&address, code) {
        (Some(address), ExitCode::Ok) => Some(verified(session, &work, address, VERIFY_TIMEOUT)?),
        _ => None,
    };
    if let Some(verification) = &verification {
        code = match verification.verdict {
            Verdict::Passed => code,
            Verdict::Failed => ExitCode::Verification,
            Verdict::Inconclusive => ExitCode::Incomplete,
        };
    }
    let report = SyncReport { plan: report, services, verification };
    out.result(&report, |width| report.text(width))?;
    Ok(code)
}

/// The plan once more after somebody has thought about it: what was confirmed is what is done.
fn still(session: &Session<'_>, work: &mut Work<'_>, record: &RecordFile, prune: bool, shown: &Plan) -> Result<Plan> {
    session.block(work.reread())?;
    let plan = work.plan(record, prune)?;
    if plan.changes().eq(shown.changes()) {
        return Ok(plan);
    }
    Err(Error::new(ExitCode::Busy, "the variables at Railway have changed since the plan was shown; nothing was done")
        .hint("run it again, and look at the new plan"))
}

/// What `opsctl verify` says of the service, with the tokens that were written.
fn verified(session: &Session<'_>, work: &Work<'_>, address: &Address, timeout: Duration) -> Result<Report> {
    let service = verify::service(&session.settings.profile.value)?;
    let profile = &session.settings.profile.value;
    let values = service.identities.iter().filter_map(|identity| {
        let token = token(work, profile, service, &identity.variable)?;
        Some((identity.variable.clone(), SecretString::from(&token)))
    });
    let request = Request {
        address,
        service,
        tokens: &values.collect::<Tokens>(),
        workspace: None,
        against: None,
        restart: None,
        write_probe: false,
        create_probe_tokens: false,
        strict: false,
        timeout,
        limit: verify::limit(timeout),
        cancel: &session.cancel,
    };
    session.handle.block_on(verify::verify(&request))
}
