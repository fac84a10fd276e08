//! The results of `secrets`, as documents and as text.
//!
//! Invariant: fingerprints only.

use schemars::JsonSchema;
use serde::Serialize;

use crate::commands::checks;
use crate::finding::Finding;
use crate::secrets::deploy::Deploy;
use crate::secrets::sync::ServiceResult;
use crate::secrets::{Action, Change, Plan, Requests};
use crate::ui::Table;

/// The result of `secrets plan`, and of `sync --dry-run`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct PlanReport {
    /// The target.
    pub target: String,
    /// What happens to each variable.
    pub changes: Vec<Change>,
    /// How many services are deployed.
    pub deploys: usize,
    /// What a sync takes, from its start to its end.
    pub requests: Requests,
    /// Whether there is anything to do.
    pub pending: bool,
    #[serde(skip)]
    deployments: Vec<String>,
    #[serde(skip)]
    waits: usize,
}

/// The result of `secrets sync`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct SyncReport {
    /// What was planned.
    #[serde(flatten)]
    pub plan: PlanReport,
    /// What became of each service.
    pub services: Vec<ServiceResult>,
    /// Whether the service works with it; null if nobody asked.
    pub verification: Option<crate::verify::Report>,
}

/// The result of `secrets rotate`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct RotateReport {
    /// The target.
    pub target: String,
    /// What became of each secret.
    pub rotated: Vec<Rotated>,
    /// What happened to each variable.
    pub changes: Vec<Change>,
    /// How many services were to be deployed.
    pub deploys: usize,
    /// What became of each service.
    pub services: Vec<ServiceResult>,
    /// Whether the new values work and the old ones do not.
    pub checks: Vec<Finding>,
}

/// What became of one secret.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Rotated {
    /// Where it is kept.
    pub reference: String,
    /// The variables that have it: `service.VARIABLE`.
    pub variables: Vec<String>,
    /// `planned` (a dry run), `rotated`, `rolled_back`, or `open`: the old value is still in the item.
    pub status: &'static str,
    /// Whether it was proved that the new value works and the old one does not.
    pub proved: bool,
}

impl PlanReport {
    pub(super) fn new(plan: &Plan, requests: Requests) -> Self {
        Self {
            target: plan.target.clone(),
            changes: plan.changes().cloned().collect(),
            deploys: plan.deploys(),
            requests,
            pending: plan.is_pending(),
            waits: plan.services.iter().filter(|one| matches!(one.deploy, Deploy::Follow(_))).count(),
            deployments: plan.services.iter().filter_map(|one| deployment(&one.name, &one.deploy)).collect(),
        }
    }

    /// For people.
    pub(super) fn text(&self, width: Option<u16>) -> String {
        let mut text = changes(&self.changes, width);
        for line in &self.deployments {
            text += &format!("{line}\n");
        }
        let Requests { onepassword, railway, railway_waiting } = self.requests;
        let waiting = match railway_waiting {
            0 => String::new(),
            waiting => format!(", and at most {waiting} while deployments are waited for"),
        };
        text += &format!("requests: {onepassword} to 1Password, {} to Railway{waiting}\n", railway - railway_waiting);
        text + &self.summary()
    }

    fn summary(&self) -> String {
        let count = |action| self.changes.iter().filter(|change| change.action == action).count();
        let sealed = self.changes.iter().filter(|one| one.action == Action::Sealed && one.write).count();
        let unknown = |one: &&Change| one.action == Action::Sealed && !one.write && one.from.is_none();
        let unknown = self.changes.iter().filter(unknown).count();
        let parts = [
            (count(Action::Create), "to create"),
            (count(Action::Update), "to update"),
            (sealed, "sealed to write"),
            (count(Action::Delete), "to delete"),
            (count(Action::Conflict), "in conflict"),
            (self.deploys, "to deploy"),
            (self.waits, "to wait for"),
            (unknown, "sealed and unknown"),
        ];
        let parts: Vec<String> =
            parts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
        if parts.is_empty() {
            format!("{}: nothing to do", self.target)
        } else {
            format!("{}: {}", self.target, parts.join(", "))
        }
    }
}

fn deployment(service: &str, deploy: &Deploy) -> Option<String> {
    match deploy {
        Deploy::None => None,
        Deploy::Needed(why) => Some(format!("deploy {service}: {why}")),
        Deploy::Follow(id) => Some(format!("wait for {service}: the deployment {id} is under way")),
        Deploy::Never => {
            Some(format!("leave {service}: it was never deployed, and its first deployment will have everything"))
        }
    }
}

/// The changes as a table, and what is left alone in a line.
pub(super) fn changes(changes: &[Change], width: Option<u16>) -> String {
    let mut table = Table::new(["SERVICE", "VARIABLE", "ACTION", "FROM", "TO", "NOTE"]);
    let is_quiet = |change: &&Change| change.action == Action::Unmanaged && change.note.is_none();
    for change in changes.iter().filter(|change| !is_quiet(change)) {
        let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        table.row([
            change.service.clone(),
            change.variable.clone(),
            word(change).to_owned(),
            or_none(&change.from),
            or_none(&change.to),
            change.note.clone().unwrap_or_default(),
        ]);
    }
    let quiet: Vec<String> =
        changes.iter().filter(is_quiet).map(|one| format!("{}.{}", one.service, one.variable)).collect();
    let mut text = if table.is_empty() { String::new() } else { table.render(width) };
    if !quiet.is_empty() {
        text += &format!("unmanaged, and left as they are: {}\n", quiet.join(", "));
    }
    text
}

const fn word(change: &Change) -> &'static str {
    match change.action {
        Action::Create => "create",
        Action::Update => "update",
        Action::Unchanged => "unchanged",
        Action::Sealed if change.write => "sealed, write",
        Action::Sealed => "sealed",
        Action::Conflict => "conflict",
        Action::Unmanaged => "unmanaged",
        Action::Delete => "delete",
    }
}

/// What became of each service.
pub(super) fn services(services: &[ServiceResult], width: Option<u16>) -> String {
    let mut table = Table::new(["SERVICE", "WRITTEN", "DELETED", "STATUS", "DEPLOYMENT"]).right([1, 2]);
    for one in services {
        table.row([
            one.service.clone(),
            one.written.to_string(),
            one.deleted.to_string(),
            one.status.clone(),
            one.deployment_id.clone().unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    let mut text = table.render(width);
    for one in services {
        if let Some(error) = &one.error {
            text += &format!("{}: {error}\n", one.service);
        }
    }
    text
}

/// Checks, with what to do about those that need it.
pub(super) fn findings(found: &[Finding], width: Option<u16>) -> String {
    let mut text = checks::table(found, width);
    for (check, fix) in found.iter().filter_map(|check| Some((check, check.fix.as_ref()?))) {
        text += &format!("{}: {fix}\n", check.name);
    }
    text
}

impl SyncReport {
    /// For people.
    pub(super) fn text(&self, width: Option<u16>) -> String {
        let mut text = services(&self.services, width);
        if !self.plan.pending {
            text = format!("{}\n", self.plan.summary());
        }
        for change in self.plan.changes.iter().filter(|change| change.action == Action::Conflict) {
            let note = change.note.as_deref().unwrap_or_default();
            text += &format!("{}.{} was left as it is: {note}\n", change.service, change.variable);
        }
        if let Some(verification) = &self.verification {
            text += &findings(&verification.checks, width);
            text += &verification.sentence();
        }
        text
    }
}

impl RotateReport {
    /// For people.
    pub(super) fn text(&self, width: Option<u16>) -> String {
        let mut text = String::new();
        if !self.services.is_empty() {
            text += &services(&self.services, width);
        }
        if !self.checks.is_empty() {
            text += &findings(&self.checks, width);
        }
        for one in &self.rotated {
            let proved = if one.proved { ", and proved" } else { "" };
            let status = one.status.replace('_', " ");
            text += &format!("{}: {status}{proved} ({})\n", one.reference, one.variables.join(", "));
        }
        text
    }
}
