//! `opsctl verify`: does the running service work, with the data that it should have?

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use jiff::SignedDuration;

use super::reading::{ReadArgs, Reading};
use super::{Session, checks};
use crate::config::KeySource;
use crate::finding::{Finding, Status};
use crate::repository::{Purpose, Snapshot, Which};
use crate::ui::Output;
use crate::verify::{self, Address, Against, Report, Request, TokenFiles};
use crate::{ExitCode, Result};

/// Check that a running service works, with the data that it should have
///
/// Asks what the profile says: whether it is up, who is let in and who is not,
/// its workspaces and sessions. Nothing is changed unless asked for. Tokens come
/// from the variables that the profile names (OPENWORK_TOKEN,
/// OPENWORK_HOST_TOKEN), or from a file, a descriptor such as /dev/fd/3, or
/// standard input (`-`). A check whose token is not given is skipped. Of a
/// profile with several services one is chosen: --profile open-cowork:gateway.
///
/// Example: opsctl verify --url https://work.example.com
/// Example: opsctl verify --url http://127.0.0.1:8787 --against latest --store s3://backups/web
///
/// Exit codes: 0 passed, 1 inconclusive (something that was asked for could not
/// be checked, or nobody looked at the data for want of a token), 2 usage, 4 the
/// snapshot is damaged or cannot be trusted, 5 a check failed, 10 no such
/// snapshot, 12 wrong or missing key, or a token file that others can read, 130
/// interrupted
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub struct VerifyArgs {
    /// Where the service answers: scheme, host, port and perhaps a path
    #[arg(long, value_name = "URL")]
    url: String,
    /// Compare with what this snapshot recorded: its id, the start of one, or `latest`
    #[arg(long, value_name = "SNAPSHOT")]
    against: Option<String>,
    /// File with the token of the identity `client`; `-` is standard input
    #[arg(long, value_name = "FILE")]
    client_token_file: Option<PathBuf>,
    /// File with the token of the identity `host`; `-` is standard input
    #[arg(long, value_name = "FILE")]
    host_token_file: Option<PathBuf>,
    /// File with the token of any identity of the profile; may be repeated
    #[arg(long, value_name = "IDENTITY=FILE")]
    token_file: Vec<String>,
    /// Restart the service by this command, run by sh, and compare what it has before and after. It
    /// has no time limit of its own
    #[arg(long, value_name = "COMMAND")]
    restart_cmd: Option<String>,
    /// Make a session, read it, and remove it
    #[arg(long)]
    write_probe: bool,
    /// Make a token of each scope, try what it may do, and remove it
    #[arg(long)]
    create_probe_tokens: bool,
    /// How long the service may take to be up; the checks have as long again
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = parse_timeout)]
    timeout: Duration,
    /// Send nothing over plain HTTP to another machine
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    read: ReadArgs,
}

pub(super) fn run(args: &VerifyArgs, session: &Session<'_>, out: &mut Output) -> Result<ExitCode> {
    let address = Address::parse(&args.url, "--url")?;
    let service = verify::service(&session.settings.profile.value)?;
    let files = TokenFiles::new(args.client_token_file.as_deref(), args.host_token_file.as_deref(), &args.token_file)?;
    let stdin_is_taken = args.against.is_some() && session.settings.identity.value == Some(KeySource::Stdin);
    let tokens = session.tokens(service, &files, stdin_is_taken)?;
    let against = args.against.as_ref().map(|which| against(args, session, which)).transpose()?;
    let request = Request {
        address: &address,
        service,
        tokens: &tokens,
        workspace: verify::workspace_path(service, &session.environment, against.as_ref())?,
        against,
        restart: args.restart_cmd.clone(),
        write_probe: args.write_probe,
        create_probe_tokens: args.create_probe_tokens,
        strict: args.strict,
        timeout: args.timeout,
        limit: verify::limit(args.timeout),
        cancel: &session.cancel,
    };
    // It ends by itself when it is cancelled, after it has removed what it made.
    let report = session.handle.block_on(verify::verify(&request))?;
    out.result(&report, |width| render(&report, width))?;
    Ok(report.exit_code())
}

/// What the snapshot recorded that is asked for.
fn against(args: &VerifyArgs, session: &Session<'_>, which: &str) -> Result<Against> {
    let reading = Reading::open(session, &args.read.trust, Purpose::Content)?;
    reading.need_identities()?;
    let listing = reading.listing(session)?;
    let snapshot = reading.choose(session, &listing, &Which::Id(which.to_owned()))?;
    recorded(session, &reading, snapshot)
}

/// What a snapshot recorded about its content.
pub(super) fn recorded(session: &Session<'_>, reading: &Reading, snapshot: &Snapshot) -> Result<Against> {
    let identities = reading.need_identities()?;
    let work = async {
        let manifest = reading.repository.manifest(snapshot, identities, &session.cancel).await?;
        manifest.facts().await
    };
    Ok(Against { snapshot: snapshot.id.to_string(), facts: session.block(work)? })
}

fn render(report: &Report, width: Option<u16>) -> String {
    let mut text = checks::table(&report.checks, width);
    text.push('\n');
    for check in report.checks.iter().filter(|check| check.status >= Status::Warning) {
        text.push_str(&fix(check));
    }
    if !report.versions.is_empty() {
        let versions = report.versions.iter().map(|(part, version)| format!("{part} {version}"));
        text.push_str(&format!("versions: {}\n", versions.collect::<Vec<_>>().join(", ")));
    }
    text + &report.sentence()
}

fn fix(check: &Finding) -> String {
    check.fix.as_ref().filter(|fix| !fix.is_empty()).map_or_else(String::new, |fix| format!("{}: {fix}\n", check.name))
}

/// A time such as `60s`, `2m` or `1m 30s`; a number alone is seconds.
fn parse_timeout(text: &str) -> Result<Duration, String> {
    let length = parse_length(text, Duration::from_millis(1)..=Duration::from_secs(3600));
    length.ok_or_else(|| "is not a time from 1 ms to 1 h, such as 60s or 2m".to_owned())
}

/// A length of time with its unit, or in seconds, if it is within these bounds.
pub(super) fn parse_length(text: &str, bounds: RangeInclusive<Duration>) -> Option<Duration> {
    let length = match text.parse::<u32>() {
        Ok(seconds) => Duration::from_secs(seconds.into()),
        Err(_) => text.parse::<SignedDuration>().ok()?.try_into().ok()?,
    };
    bounds.contains(&length).then_some(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_has_a_unit_or_is_in_seconds() {
        assert_eq!(parse_timeout("60s"), Ok(Duration::from_secs(60)));
        assert_eq!(parse_timeout("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(parse_timeout("1m 30s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_timeout("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_timeout("5"), Ok(Duration::from_secs(5)));
        assert!(["", "0", "-5s", "x", "2h", "s"].iter().all(|text| parse_timeout(text).is_err()));
    }
}
