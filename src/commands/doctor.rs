//! `opsctl doctor`: could this deployment be backed up and restored?

use clap::Args;
use jiff::{SignedDuration, Span, SpanRelativeTo};

use super::{Session, checks};
use crate::archive::keyring::Identities;
use crate::archive::signature::SigningKey;
use crate::capture::HostConfig;
use crate::config::Profile;
use crate::config::args::{IdentityArgs, RecipientArgs, SigningKeyArgs};
use crate::config::profile::Service;
use crate::doctor::{self, Report, Request, Verdict};
use crate::finding::Status;
use crate::providers::store::{Location, ProcessEnv, RetryPolicy, Store};
use crate::ui::{self, Output};
use crate::{Error, ExitCode, Result};

/// Check the deployment before anything breaks
///
/// Runs where the service runs, and compares its variables, volume, store and
/// keys with the profile. Says for each check what to do. Changes nothing but one
/// scratch file on the volume and one scratch object in the store (below probe/;
/// it stays where the credentials may not delete it, as they should not).
///
/// Example: opsctl doctor --store s3://backups/web --signing-key web.key --max-age 26h
///
/// Exit codes: 0 nothing failed, 1 a check failed (with --strict also after a
/// warning), 2 usage, 130 interrupted
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub struct DoctorArgs {
    /// Fail when the last snapshot is older than this, such as 26h or 3d
    #[arg(long, value_name = "DURATION")]
    max_age: Option<String>,
    /// Checksums of the downloaded programs: compare the cache with them
    #[arg(long, value_name = "FILE|URL")]
    sidecar_manifest: Option<String>,
    /// End with 1 also when there are warnings
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    signing_key: SigningKeyArgs,
    #[command(flatten)]
    recipients: RecipientArgs,
    #[command(flatten)]
    identity: IdentityArgs,
    /// Public key of a signer whose keys objects this host believes, beside its own; may be repeated
    #[arg(long, value_name = "KEY")]
    trusted_signer: Vec<String>,
}

/// How often and how long the store is asked: somebody is waiting.
const RETRIES: RetryPolicy = RetryPolicy {
    tries: 3,
    first_wait: std::time::Duration::from_millis(300),
    longest_wait: std::time::Duration::from_secs(1),
    total_wait: std::time::Duration::from_secs(3),
};
const REQUEST_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(20);

pub(super) fn run(args: &DoctorArgs, session: &Session<'_>, out: &mut Output) -> Result<ExitCode> {
    let settings = session.settings;
    let max_age = args.max_age.as_deref().map(parse_duration).transpose()?;
    let service = only_service(&settings.profile.value)?;
    // What is wrong with a key is a finding. That it cannot be read at all, too.
    let signing_key = session
        .signing_key()
        .and_then(|text| text.map(|text| SigningKey::parse(&text).map_err(Error::from)).transpose());
    let identities =
        session.identity().and_then(|text| text.map(|text| Identities::parse(&text).map_err(Error::from)).transpose());
    let pins = settings.trusted_signers.value.iter().map(|pin| Ok(pin.parse()?)).collect::<Result<_>>();
    let report = doctor::examine(
        &Request {
            service,
            environment: &session.environment,
            store: store(session),
            source: &settings.source.value,
            host: pins.map(|pins| HostConfig {
                pins,
                recipients: settings.recipients.value.clone(),
                store_id: settings.store_id.value.clone(),
            }),
            signing_key: signing_key.transpose(),
            identities: identities.transpose(),
            state_dir: settings.state_dir.value.as_deref(),
            max_age,
            sidecar_manifest: args.sidecar_manifest.as_deref(),
            secrets: settings.secrets(),
            runtime: &session.handle,
            cancel: &session.cancel,
        },
        args.strict,
    )?;
    out.result(&report, |width| render(&report, width))?;
    Ok(match report.verdict {
        Verdict::Passed => ExitCode::Ok,
        Verdict::Failed => ExitCode::Failed,
    })
}

fn store(session: &Session<'_>) -> Result<Store> {
    let location = Location::parse(session.settings.store_url()?)?;
    Ok(Store::open_with(&location, &ProcessEnv, REQUEST_TIMEOUT)?.with_retry(RETRIES))
}

/// A container runs one service, so its variables say nothing of another.
fn only_service(profile: &Profile) -> Result<&Service> {
    let mut chosen = profile.chosen_services();
    match (chosen.next(), chosen.next()) {
        (Some(service), None) => Ok(service),
        _ => {
            let names: Vec<&str> = profile.services.iter().map(|service| service.name.as_str()).collect();
            let example = format!("name the one that runs here: --profile {}:{}", profile.name, names.join("|"));
            Err(Error::usage(format!("the profile {} has several services: {}", profile.name, names.join(", ")))
                .hint(example))
        }
    }
}

/// `26h`, `3d`, `1d 12h`. A day has 24 hours.
fn parse_duration(text: &str) -> Result<SignedDuration> {
    let span = text.parse::<Span>().ok();
    let length = span.and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()).ok());
    length
        .filter(|length| length.is_positive())
        .ok_or_else(|| Error::usage(format!("{} is no duration", ui::escape(text))).hint("such as 90m, 26h or 3d"))
}

fn render(report: &Report, width: Option<u16>) -> String {
    let mut text = checks::table(&report.checks, width);
    for status in [Status::Failed, Status::Warning] {
        for check in report.checks.iter().filter(|check| check.status == status) {
            text += &format!("\n{} {}: {}", checks::word(status), check.name, check.fix.as_deref().unwrap_or_default());
        }
    }
    let count = |status| report.checks.iter().filter(|check| check.status == status).count();
    let verdict = match report.verdict {
        Verdict::Passed => "passed",
        Verdict::Failed => "failed",
    };
    let warnings = ui::count(count(Status::Warning) as u64, "warning", "warnings");
    text + &format!(
        "\n\n{verdict}: {} failed, {warnings}, {} ok, {} skipped\n",
        count(Status::Failed),
        count(Status::Ok),
        count(Status::Skipped)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, hours) in [("26h", 26), ("3d", 72), ("1d 12h", 36), ("120m", 2)] {
            assert_eq!(parse_duration(text).unwrap(), SignedDuration::from_hours(hours), "{text}");
        }
        for bad in ["", "26", "-1h", "0h", "soon", "1 month"] {
            assert_eq!(parse_duration(bad).unwrap_err().code(), ExitCode::Usage, "{bad}");
        }
    }
}
