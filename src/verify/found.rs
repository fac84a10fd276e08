//! What a run has found so far, what it has to remove, and what follows from all of it.

use std::collections::BTreeMap;
use std::time::Instant;

use super::{Report, Verdict};
use crate::finding::{Finding, Status};

/// The checks of what the service holds for its users: without them a service is up, and no more is known.
pub(super) const DATA: [&str; 5] = ["workspaces", "workspaces.config", "workspaces.audit", "engine", "sessions"];

/// A check that was made, and whether it was asked for.
pub(super) struct Check {
    pub(super) finding: Finding,
    pub(super) is_asked: bool,
}

/// What was found so far, and what there is to remove.
#[derive(Default)]
pub(super) struct Found {
    pub(super) checks: Vec<Check>,
    pub(super) versions: BTreeMap<String, String>,
    /// Whether tokens of this run may exist, the ids of those that are known, and whether one may be there that is not.
    pub(super) has_tokens: bool,
    pub(super) tokens: Vec<String>,
    pub(super) has_unnamed_token: bool,
    /// Whether a session of this run may exist, in which workspace, and its id if that is known.
    pub(super) has_session: bool,
    pub(super) workspace: Option<String>,
    pub(super) session: Option<String>,
}

impl Found {
    pub(super) fn add(&mut self, finding: Finding, is_asked: bool) {
        self.checks.push(Check { finding, is_asked });
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.checks.iter().any(|check| check.finding.name == name)
    }

    /// A check that is made in any case.
    pub(super) fn made(&mut self, finding: Finding, since: Instant) {
        self.add(finding.after(since.elapsed()), false);
    }

    /// A check that was asked for.
    pub(super) fn asked(&mut self, finding: Finding, since: Instant) {
        self.add(finding.after(since.elapsed()), true);
    }

    pub(super) fn into_report(self, url: &str) -> Report {
        let has = |status| self.checks.iter().any(|check| check.finding.status == status);
        let is_needed = |check: &Check| check.is_asked || DATA.contains(&check.finding.name.as_str());
        let is_open = self.checks.iter().any(|check| is_needed(check) && check.finding.status == Status::Skipped);
        let verdict = match (has(Status::Failed), is_open) {
            (true, _) => Verdict::Failed,
            (false, true) => Verdict::Inconclusive,
            (false, false) => Verdict::Passed,
        };
        let checks = self.checks.into_iter().map(|check| check.finding).collect();
        Report { verdict, url: url.to_owned(), versions: self.versions, checks }
    }
}
