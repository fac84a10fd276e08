//! What a restore in place asks of the service that runs on the new tree: the read-only checks.

use std::time::Instant;

use schemars::JsonSchema;
use serde::Serialize;

use super::{REFUSED, Request, Verdict, auth, verify};
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

/// Verifies a service. A probe that fails, somebody who is let in without a token, and data that is not as captured or not
/// served are reasons to take a restore back. What could not be compared, and who is not let in or gets another answer than
/// was expected, is said in the checks, and none: another tree would change nothing about it.
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
    // The server itself says so here. An engine that refuses the server, or a token of somebody else, hides less.
    let sees_nothing =
        checks.iter().any(|check| is_refused(check) && matches!(check.name.as_str(), "auth.token" | "workspaces"));
    checks.iter().filter(|check| check.status == Status::Failed).filter(move |check| {
        let is_probe = service.probes.iter().any(|probe| probe.name == check.name);
        // A service that lets everybody in must not stay as it is.
        let is_open = check.detail.starts_with(auth::OPEN);
        // Whoever is refused sees nothing of the data; tokens are listed to somebody else.
        let is_unseen = is_refused(check) || (sees_nothing && !check.name.starts_with("tokens."));
        is_probe || is_open || !(check.name.starts_with("auth.") || is_unseen)
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
        // What another one sees is seen, and an engine that refuses the server hides nothing of what the server says.
        assert_eq!(named(&[refused("workspaces"), failed("tokens.against")]), ["tokens.against"]);
        assert_eq!(named(&[refused("engine"), failed("workspaces")]), ["workspaces"]);
        assert_eq!(named(&[refused("auth.token"), failed("sessions.against")]), none);
        // Another answer than was expected lets nobody in.
        let open = Finding::failed("auth.none", format!("{} without a token: GET /x", auth::OPEN), "close it");
        assert_eq!(named(&[refused("workspaces"), open]), ["auth.none"]);
        assert_eq!(named(&[failed("auth.none"), failed("auth.wrong")]), none);
        assert_eq!(named(&[Finding::warning("sessions", "x", "y")]), none);
    }
}
