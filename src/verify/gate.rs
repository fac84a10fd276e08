//! What a restore in place asks of the service that runs on the new tree: the read-only checks.

use std::time::Instant;

use schemars::JsonSchema;
use serde::Serialize;

use super::{REFUSED, Request, Verdict, verify};
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
    let problems: Vec<String> =
        deciding(&report.checks, request.service).map(|check| format!("{}: {}", check.name, check.detail)).collect();
    Ok(Verification {
        url: report.url,
        ok: problems.is_empty(),
        verdict: report.verdict,
        seconds: begun.elapsed().as_secs_f64(),
        problem: (!problems.is_empty()).then(|| problems.join("; ")),
        checks: report.checks,
    })
}

/// The failures that the data decides.
fn deciding<'c>(checks: &'c [Finding], service: &Service) -> impl Iterator<Item = &'c Finding> {
    let is_refused = |check: &Finding| check.fix.as_deref() == Some(REFUSED);
    // Tokens are listed to somebody else.
    let sees_nothing = checks.iter().any(|check| is_refused(check) && !check.name.starts_with("tokens."));
    checks.iter().filter(|check| check.status == Status::Failed).filter(move |check| {
        let is_probe = service.probes.iter().any(|probe| probe.name == check.name);
        // A service that lets everybody in must not stay as it is.
        let is_open = matches!(check.name.as_str(), "auth.none" | "auth.wrong");
        // Whoever is refused sees nothing of the data.
        is_probe || is_open || !(check.name.starts_with("auth.") || sees_nothing || is_refused(check))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_refused_is_no_reason_and_what_the_others_see_is() {
        let named = |checks: &[Finding]| -> Vec<String> {
            deciding(checks, &Service::default()).map(|check| check.name.clone()).collect()
        };
        let failed = |name: &str| Finding::failed(name, "x", "y");
        let refused = |name: &str| Finding::failed(name, "x", REFUSED);
        let none = [""; 0];
        assert_eq!(named(&[failed("auth.client"), refused("workspaces"), failed("sessions")]), none);
        // An engine that does not run lets nobody in either, and is no matter of tokens.
        assert_eq!(named(&[failed("auth.client"), failed("engine"), failed("sessions")]), ["engine", "sessions"]);
        let checks = [failed("auth.host"), failed("sessions.against"), refused("tokens.against")];
        assert_eq!(named(&checks), ["sessions.against"]);
        assert_eq!(named(&[refused("workspaces"), failed("auth.none")]), ["auth.none"]);
        assert_eq!(named(&[Finding::warning("sessions", "x", "y")]), none);
    }
}
