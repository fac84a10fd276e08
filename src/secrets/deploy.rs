//! Which services have to be deployed so that what runs has what was written.
//!
//! A value reaches a container only in a new deployment. Whether one is due is read off Railway's own times: a variable that
//! was written after the newest deployment of its service, or of a service that refers to it, does not run yet. That holds
//! wherever an earlier run was stopped, and needs no memory of it. A deployment that failed or was skipped never ran: then what
//! runs is an earlier one. What the record adds: a deployment that we asked for and that did not come to run is asked for
//! again, and one that is under way is followed and not doubled.

use std::collections::{BTreeMap, BTreeSet};

use super::plan::{ServicePlan, updated};
use super::record::{Asked, RecordFile};
use crate::providers::railway::{Deployment, DeploymentStatus, State, Values};

/// How references call the shared variables.
const SHARED: &str = "shared";

/// A variable as a reference names it: whose (`""`: of the service itself), and which.
pub type Name = (String, String);

/// Whether a service is deployed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Deploy {
    /// What runs has everything.
    #[default]
    None,
    /// It has to be, for this reason.
    Needed(&'static str),
    /// A deployment with everything in it is under way: it is waited for.
    Follow(String),
    /// It never was, and its first deployment will have everything.
    Never,
}

impl Deploy {
    /// Whether a new deployment is asked for.
    #[must_use]
    pub const fn is_needed(&self) -> bool {
        matches!(self, Self::Needed(_))
    }
}

/// When it is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// What the plan writes is taken as written.
    BeforeWriting,
    /// Only what was written counts.
    AfterWriting,
}

impl DeploymentStatus {
    /// Whether it runs.
    #[must_use]
    pub const fn is_running(self) -> bool {
        matches!(self, Self::Success | Self::Sleeping)
    }

    /// Whether it will not come to run by itself.
    #[must_use]
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Failed | Self::Crashed | Self::Removed | Self::Removing | Self::Skipped)
    }

    /// The word for it in results.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Building => "building",
            Self::Crashed => "crashed",
            Self::Deploying => "deploying",
            Self::Failed => "failed",
            Self::Initializing => "initializing",
            Self::NeedsApproval => "needs_approval",
            Self::Queued => "queued",
            Self::Removed => "removed",
            Self::Removing => "removing",
            Self::Skipped => "skipped",
            Self::Sleeping => "sleeping",
            Self::Success => "success",
            Self::Waiting => "waiting",
            Self::Unknown => "unknown",
        }
    }
}

/// Which variables each variable of a service refers to by `${{…}}`.
#[must_use]
pub fn references(values: &Values) -> BTreeMap<String, BTreeSet<Name>> {
    let of = |value: &str| {
        let parts = value.split("${{").skip(1).filter_map(|rest| rest.split_once("}}"));
        parts.map(|(inside, _)| name(inside)).collect::<BTreeSet<_>>()
    };
    let all = values.iter().filter_map(|(name, value)| Some((name.clone(), of(value.as_ref()?.expose()))));
    all.filter(|(_, names)| !names.is_empty()).collect()
}

fn name(inside: &str) -> Name {
    let (owner, variable) = inside.split_once('.').unwrap_or(("", inside));
    // Names of services may be quoted.
    let owner = owner.trim().trim_matches(['"', '\'']).to_lowercase();
    (owner, variable.trim().to_owned())
}

/// Decides for every service.
pub fn decide(services: &mut [ServicePlan], state: &State, record: &RecordFile, when: When) {
    let decided: Vec<Deploy> = (0..services.len()).map(|at| one(services, at, state, record, when)).collect();
    for (service, deploy) in services.iter_mut().zip(decided) {
        service.deploy = deploy;
    }
}

fn one(services: &[ServicePlan], at: usize, state: &State, record: &RecordFile, when: When) -> Deploy {
    let service = &services[at];
    // Shared variables run nowhere by themselves.
    let Some(id) = &service.place.service else { return Deploy::None };
    let there = state.services.iter().find(|one| one.id == *id);
    let latest = there.and_then(|one| one.latest.as_ref());
    let reached = reached(services, at, state);
    let is_written = |(at, variable): &(usize, String)| {
        let of = &services[*at];
        let is_written = when == When::BeforeWriting && of.writes.contains_key(variable);
        // A deleted variable has no time any more.
        is_written || ((when == When::BeforeWriting || of.is_pruned) && of.deletes.contains(variable))
    };
    let own_deletes = service.deletes.iter().map(|variable| (at, variable.clone()));
    let changes = reached.iter().cloned().chain(own_deletes).any(|one| is_written(&one));
    let Some(latest) = latest else {
        let is_changed = changes || !service.writes.is_empty() || !service.deletes.is_empty();
        return if is_changed { Deploy::Never } else { Deploy::None };
    };
    if changes {
        return Deploy::Needed("its variables change");
    }
    let newest = reached.iter().filter_map(|(at, variable)| {
        let of = &services[*at];
        of.managed.contains(variable).then(|| updated(state, of.place.service.as_deref(), variable))?
    });
    // What failed or was skipped never ran: what runs is older.
    let never_ran = matches!(latest.status, DeploymentStatus::Failed | DeploymentStatus::Skipped);
    let runs = there.and_then(|one| one.active.as_ref()).filter(|_| never_ran).unwrap_or(latest);
    if newest.max().is_some_and(|newest| newest > runs.created) {
        return Deploy::Needed("its variables are newer than what runs");
    }
    let asked = record.of(Some(id)).and_then(|record| record.deployment.as_ref()).filter(|asked| !asked.done);
    asked.map_or(Deploy::None, |asked| owed(asked, latest))
}

/// What is left of a deployment that an earlier run asked for, or was about to.
fn owed(asked: &Asked, latest: &Deployment) -> Deploy {
    let is_same = asked.id.as_ref() == Some(&latest.id);
    match &asked.id {
        None if asked.before.as_ref() == Some(&latest.id) => Deploy::Needed("an earlier run was stopped before it"),
        None | Some(_) if latest.status.is_over() && (is_same || asked.id.is_none()) => {
            Deploy::Needed("the last deployment did not come to run")
        }
        // Railway heard, or somebody else asked: it has the variables of its time.
        None => follow(latest),
        Some(_) if is_same => follow(latest),
        Some(_) => Deploy::None,
    }
}

fn follow(latest: &Deployment) -> Deploy {
    if latest.status.is_running() { Deploy::None } else { Deploy::Follow(latest.id.clone()) }
}

/// Whether a variable is nothing but references to variables that are managed: then it has what they have.
#[must_use]
pub fn has_what_is_managed(services: &[ServicePlan], at: usize, variable: &str, state: &State) -> bool {
    let Some(names) = services[at].references.get(variable) else { return false };
    names.iter().all(|(owner, name)| {
        let owner = if owner.is_empty() { Some(at) } else { position(services, owner, state) };
        owner.is_some_and(|owner| services[owner].managed.contains(name))
    })
}

/// The variables that reach a service: its own ones, and those that they refer to, as far as the services are known.
fn reached(services: &[ServicePlan], at: usize, state: &State) -> BTreeSet<(usize, String)> {
    let mut reached = BTreeSet::new();
    let own = services[at].managed.iter().chain(services[at].references.keys());
    let mut next: Vec<(usize, String)> = own.map(|variable| (at, variable.clone())).collect();
    while let Some((at, variable)) = next.pop() {
        if !reached.insert((at, variable.clone())) {
            continue;
        }
        for (owner, variable) in services[at].references.get(&variable).into_iter().flatten() {
            let owner = if owner.is_empty() { Some(at) } else { position(services, owner, state) };
            next.extend(owner.map(|owner| (owner, variable.clone())));
        }
    }
    reached
}

fn position(services: &[ServicePlan], owner: &str, state: &State) -> Option<usize> {
    services.iter().position(|service| match &service.place.service {
        None => owner == SHARED,
        Some(id) => state.services.iter().any(|one| one.id == *id && one.name.to_lowercase() == owner),
    })
}
