//! What a restore in place asks of the service that runs on the new tree: the read-only checks.

use std::time::Instant;

use schemars::JsonSchema;
use serde::Serialize;

use super::{Request, Verdict, verify};
use crate::Result;
use crate::config::profile::Service;
use crate::finding::{Finding, Status};

/// Whether the service was well.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Verification {
    /// What was asked.
    pub url: String,
    /// Whether no check failed that the data decides.
    pub ok: bool,
    /// How it came out as a whole.
    pub verdict: Verdict,
    /// Seconds from the start of the service until everything was checked.
    pub seconds: f64,
    /// What of that was wrong; null if all is well.
    pub problem: Option<String>,
    /// Each check, in the order in which it was made.
    pub checks: Vec<Finding>,
}

impl Verification {
    /// What is to be said of a service that is well as far as anybody could see, but not as far as was asked for.
    #[must_use]
    pub fn doubt(&self) -> Option<String> {
        let named = |status| {
            let names = self.checks.iter().filter(|check| check.status == status).map(|check| check.name.as_str());
            names.collect::<Vec<_>>().join(", ")
        };
        let parts = [("failed", named(Status::Failed)), ("not looked at", named(Status::Skipped))];
        let parts: Vec<String> = parts
            .iter()
            .filter(|(_, names)| !names.is_empty())
            .map(|(what, names)| format!("{what}: {names}"))
            .collect();
        let is_doubtful = self.ok && self.verdict != Verdict::Passed;
        is_doubtful.then(|| format!("the service is up, and not everything could be verified; {}", parts.join("; ")))
    }
}

/// Verifies a service. What could not be compared, and who is not let in, is said in the checks, and no reason to take a
/// restore back: another tree would change nothing about it.
///
/// # Errors
/// As [`verify`].
pub async fn gate(request: &Request<'_>) -> Result<Verification> {
    let begun = Instant::now();
    let report = verify(request).await?;
    let is_failed = |check: &&Finding| check.status == Status::Failed;
    let is_refused = report.checks.iter().filter(is_failed).any(|check| is_who_asks(&check.name, request.service));
    let decides = |check: &&Finding| {
        let is_probe = request.service.probes.iter().any(|probe| probe.name == check.name);
        // A service that lets everybody in must not stay as it is.
        let is_open = matches!(check.name.as_str(), "auth.none" | "auth.wrong");
        // Whoever is refused sees nothing of the data.
        is_probe || is_open || (!check.name.starts_with("auth.") && !is_refused)
    };
    let failed = report.checks.iter().filter(is_failed).filter(decides);
    let problems: Vec<String> = failed.map(|check| format!("{}: {}", check.name, check.detail)).collect();
    Ok(Verification {
        url: report.url,
        ok: problems.is_empty(),
        verdict: report.verdict,
        seconds: begun.elapsed().as_secs_f64(),
        problem: (!problems.is_empty()).then(|| problems.join("; ")),
        checks: report.checks,
    })
}

/// Whether a check is about the identity that asks for workspaces and sessions.
fn is_who_asks(check: &str, service: &Service) -> bool {
    let asking = service.workspaces.iter().map(|workspaces| &workspaces.identity);
    let asking = asking.chain(service.sessions.iter().map(|sessions| &sessions.identity));
    asking.into_iter().any(|identity| check.strip_prefix("auth.") == Some(identity))
}
