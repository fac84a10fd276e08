//! Whether the services have what 1Password says.
//!
//! Invariant: what nobody can know is told as such, and never counted as well.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;

use super::deploy::Deploy;
use super::plan::{Action, Change, Plan, ServicePlan};
use super::work::Work;
use crate::config::profile::{self, Condition, Need, Profile, Variable};
use crate::config::secrets::Service;
use crate::finding::{Finding, Status};
use crate::providers::address::Address;
use crate::providers::railway::{State, Values};
use crate::secret::Secret;
use crate::verify::credential::{self, Door};
use crate::{ExitCode, Result};

/// For one answer of the service.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// How it came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Everything is as 1Password says.
    Passed,
    /// Something differs.
    Drift,
    /// Nothing is seen to differ, and something could not be seen.
    Incomplete,
}

/// The result of `secrets verify`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Report {
    /// The target.
    pub target: String,
    /// How it came out.
    pub verdict: Verdict,
    /// Each check.
    pub checks: Vec<Finding>,
}

impl Report {
    fn new(target: &str, checks: Vec<Finding>) -> Self {
        let has = |status| checks.iter().any(|check| check.status == status);
        let verdict = match (has(Status::Failed), has(Status::Skipped)) {
            (true, _) => Verdict::Drift,
            (false, true) => Verdict::Incomplete,
            (false, false) => Verdict::Passed,
        };
        Self { target: target.to_owned(), verdict, checks }
    }

    /// What the process ends with.
    #[must_use]
    pub const fn exit_code(&self) -> ExitCode {
        match self.verdict {
            Verdict::Passed => ExitCode::Ok,
            Verdict::Drift => ExitCode::Verification,
            Verdict::Incomplete => ExitCode::Incomplete,
        }
    }
}

/// Compares, and asks the service at `address` if there is one.
///
/// # Errors
/// When the service cannot be asked at all.
pub async fn verify(work: &Work<'_>, plan: &Plan, profile: &Profile, address: Option<&Address>) -> Result<Report> {
    let mut checks = Vec::new();
    for ((service, planned), values) in work.services.iter().zip(&plan.services).zip(&work.values) {
        let managed = planned.changes.iter().filter(|change| planned.managed.contains(&change.variable));
        checks.extend(managed.map(|change| compared(&plan.target, service, change)));
        checks.extend(deployed(&plan.target, planned, &work.state));
        checks.extend(contract(profile, work, service, values));
    }
    if let Some(address) = address {
        checks.extend(doors(work, profile, address).await?);
    }
    Ok(Report::new(&plan.target, checks))
}

fn compared(target: &str, service: &Service, change: &Change) -> Finding {
    let sync = format!("`opsctl secrets sync --target {target}` writes it");
    let name = format!("{}.{}", change.service, change.variable);
    let is_literal = service.variables.get(&change.variable).is_some_and(|one| !one.source.is_secret());
    let origin = if is_literal { "the configuration" } else { "1Password" };
    let note = change.note.clone().unwrap_or_default();
    let print = |print: &Option<String>| print.clone().unwrap_or_else(|| "?".to_owned());
    match (change.action, change.write) {
        (Action::Unchanged, _) => Finding::ok(&name, format!("as in {origin} ({})", print(&change.to))),
        (Action::Create, _) => Finding::failed(&name, "is missing", sync),
        (Action::Update, _) => {
            let seen = format!("has {}, and {origin} has {}", print(&change.from), print(&change.to));
            Finding::failed(&name, seen, sync)
        }
        (Action::Sealed, true) => Finding::failed(&name, format!("is sealed: {note}"), sync),
        (Action::Sealed, false) if change.from.is_some() => Finding::ok(&name, format!("is sealed, and {note}")),
        (Action::Sealed, false) => Finding::skipped(&name, format!("is sealed, and what is in it is {note}")),
        (Action::Conflict, _) => Finding::failed(
            &name,
            "refers to another variable, and is not what the configuration says",
            "give the reference itself as `value` with allow = [\"reference\"], or remove it in Railway",
        ),
        (Action::Unmanaged | Action::Delete, _) => Finding::ok(&name, "is not managed"),
    }
}

/// Whether what runs has what Railway has.
fn deployed(target: &str, service: &ServicePlan, state: &State) -> Option<Finding> {
    let name = format!("{}.deployment", service.name);
    let id = service.place.service.as_ref()?;
    let latest = state.services.iter().find(|one| one.id == *id)?.latest.as_ref()?;
    let (status, word) = (latest.status, latest.status.word());
    Some(match &service.deploy {
        // That something is still to be written is told for each variable.
        Deploy::Needed(_) if !service.writes.is_empty() => return None,
        Deploy::Needed(why) => {
            let fix = format!("`opsctl secrets sync --target {target}` deploys it");
            Finding::failed(&name, format!("what runs is older: {why}"), fix)
        }
        // Whoever asked for it: nothing runs that is as new as the variables.
        _ if status.is_over() => Finding::failed(
            &name,
            format!("the newest deployment has ended ({word}): what runs, if anything does, is older"),
            "look at it in Railway, and deploy the service again",
        ),
        _ if !status.is_running() => Finding::warning(
            &name,
            format!("{} is under way ({word})", latest.id),
            "look again when it has come to run",
        ),
        _ => Finding::ok(&name, "what runs is no older than the variables"),
    })
}

/// Whether everything that the contract requires is there.
fn contract(profile: &Profile, work: &Work<'_>, service: &Service, values: &Values) -> Option<Finding> {
    let contract = contract_of(profile, work.target.services.len(), service)?;
    let text = |name: &str| match values.get(name) {
        Some(Some(value)) => Some(value.expose().to_owned()),
        // Sealed: it has some value.
        Some(None) => Some("sealed".to_owned()),
        None => contract.variables.iter().find(|variable| variable.name == name)?.default.clone(),
    };
    let holds = |condition: &Condition| condition.holds(text);
    let is_required = |variable: &&Variable| {
        let counts = variable.only_if.is_none() && variable.when.iter().all(holds);
        let is_needed = matches!(variable.need, Need::Required | Need::DurableMetadata);
        counts && (is_needed || variable.required_when.iter().any(holds))
    };
    let is_there = |name: &String| values.contains_key(name);
    let required: Vec<&Variable> = contract.variables.iter().filter(is_required).collect();
    let is_missing = |variable: &&&Variable| !is_there(&variable.name) && !variable.or.iter().any(is_there);
    let missing: Vec<&str> = required.iter().filter(is_missing).map(|one| one.name.as_str()).collect();
    let name = format!("{}.contract", service.name);
    Some(if missing.is_empty() {
        let count = crate::ui::count(required.len() as u64, "variable is", "variables are");
        Finding::ok(&name, format!("{count} required by the profile {}, and there", profile.name))
    } else {
        let fix = "map them in the configuration, then `opsctl secrets sync`; `opsctl secrets init` shows how";
        Finding::failed(&name, format!("required by the profile, and missing: {}", missing.join(", ")), fix)
    })
}

/// What the profile says of a service of the target: the one of its name, or the only one there is on both sides.
#[must_use]
pub fn contract_of<'p>(profile: &'p Profile, services: usize, service: &Service) -> Option<&'p profile::Service> {
    service.id.as_ref()?;
    let mut chosen = profile.chosen_services();
    if let Some(found) = chosen.find(|one| one.name == service.name) {
        return Some(found);
    }
    let mut chosen = profile.chosen_services();
    let only = chosen.next().filter(|_| services == 1);
    only.filter(|_| chosen.next().is_none())
}

/// Whether the service lets in who has the tokens, and nobody else.
async fn doors(work: &Work<'_>, profile: &Profile, address: &Address) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let wrong = Secret::new(concat!("wrong-", env!("CARGO_PKG_NAME"), "-secrets-verify"));
    for contract in profile.chosen_services() {
        for identity in contract.identities.iter().filter(|one| credential::is_known(contract, one)) {
            let Some(token) = token(work, profile, contract, &identity.variable) else { continue };
            let name = format!("auth.{}", identity.name);
            let with_token = credential::ask(contract, identity, address, &token, PATIENCE).await?;
            let with_wrong = credential::ask(contract, identity, address, &wrong, PATIENCE).await?;
            findings.push(match (with_token, with_wrong) {
                (Door::Open, Door::Closed) => {
                    Finding::ok(&name, format!("the value of {} is let in, and a wrong one is not", identity.variable))
                }
                (_, Door::Open) => Finding::failed(
                    &name,
                    "a wrong token is let in",
                    "take the service off the network until it asks for a token",
                ),
                (Door::Closed, _) => Finding::failed(
                    &name,
                    format!("the value of {} is refused", identity.variable),
                    "was the service deployed since it was written? `opsctl secrets sync` sees to it",
                ),
                (Door::Unclear(why), _) | (_, Door::Unclear(why)) => {
                    Finding::failed(&name, why, "is this the service, and is it up?")
                }
            });
        }
    }
    if findings.is_empty() {
        findings.push(Finding::skipped("auth", "no token of the profile's identities is mapped"));
    }
    Ok(findings)
}

/// The value that a variable of a service of the profile has by the configuration.
#[must_use]
pub fn token(work: &Work<'_>, profile: &Profile, contract: &profile::Service, variable: &str) -> Option<Secret> {
    let of_contract = |service: &&&Service| {
        contract_of(profile, work.target.services.len(), service).is_some_and(|one| one.name == contract.name)
    };
    let mut services = work.services.iter().filter(of_contract).chain(&work.services);
    let mapping = services.find_map(|service| service.variables.get(variable))?;
    mapping.source.is_secret().then(|| Some(work.value(mapping)?.secret.clone()))?
}
