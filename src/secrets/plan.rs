//! What a sync would do.
//!
//! Invariants:
//! * A plan is made of what was read, and reads nothing itself.
//! * It holds the values that would be written; what is shown of it holds fingerprints only.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use super::deploy::{self, Deploy};
use super::fingerprint::{Fingerprint, Fingerprints};
use super::record::RecordFile;
use super::resolve::{Resolved, Value};
use crate::config::secrets::{Service, Target};
use crate::providers::railway::{Place, State, Values};
use crate::secret::Secret;
use crate::{Error, ExitCode, Result};

/// What happens to a variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It is not there yet.
    Create,
    /// It has another value.
    Update,
    /// It has the right value.
    Unchanged,
    /// Nobody can read its value; `write` says whether it would be written.
    Sealed,
    /// It is a reference to another variable, which is left as it is.
    Conflict,
    /// The configuration does not name it; it is left as it is.
    Unmanaged,
    /// An earlier sync put it there, and the configuration names it no more (`--prune`).
    Delete,
}

/// What happens to one variable of one service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Change {
    /// The service, as the configuration calls it.
    pub service: String,
    /// The variable.
    pub variable: String,
    /// What happens to it.
    pub action: Action,
    /// The fingerprint of the value that it has; null if it has none or nobody can read it.
    pub from: Option<String>,
    /// The fingerprint of the value that it would have; null if it stays as it is without being managed.
    pub to: Option<String>,
    /// Whether it would be written or deleted.
    pub write: bool,
    /// What else there is to say; null if nothing.
    pub note: Option<String>,
}

/// What happens to one service.
#[derive(Clone, Debug)]
pub struct ServicePlan {
    /// As the configuration calls it.
    pub name: String,
    /// Where it is.
    pub place: Place,
    /// Variable by variable.
    pub changes: Vec<Change>,
    /// What is written.
    pub writes: BTreeMap<String, Secret>,
    /// What is deleted.
    pub deletes: Vec<String>,
    /// Whether that was done.
    pub is_pruned: bool,
    /// Whether it is deployed.
    pub deploy: Deploy,
    /// The variables that the configuration names.
    pub managed: BTreeSet<String>,
    /// What its variables refer to: see [`deploy::references`].
    pub references: BTreeMap<String, BTreeSet<deploy::Name>>,
}

/// What a sync would do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The target.
    pub target: String,
    /// Its services.
    pub services: Vec<ServicePlan>,
}

/// What a plan is made of.
pub struct Known<'a> {
    /// Every source.
    pub resolved: &'a Resolved,
    /// The environment without values.
    pub state: &'a State,
    /// The values of each service, in the order of the services.
    pub values: &'a [Values],
    /// What earlier runs have written.
    pub record: &'a RecordFile,
    /// Makes fingerprints.
    pub fingerprints: &'a Fingerprints,
    /// Whether what earlier runs have written and nobody names any more is deleted.
    pub prune: bool,
    /// Whether the values are new, so that a sealed variable of which nobody knows the value cannot have it yet.
    pub are_new: bool,
}

impl Plan {
    /// Compares.
    ///
    /// # Errors
    /// Usage, where pruning is asked for and nothing can be compared
    /// with what was recorded.
    pub fn new(target: &Target, services: &[&Service], known: &Known<'_>) -> Result<Self> {
        if known.prune && !known.fingerprints.lasts() {
            return Err(Error::usage("--prune needs to know which values are its own, and there is no key for that")
                .hint("set secrets.fingerprint_key to a reference such as op://vault/opsctl/fingerprint-key"));
        }
        let mut plans = Vec::new();
        for (service, values) in services.iter().zip(known.values) {
            plans.push(of_service(target, service, values, known)?);
        }
        let mut plan = Self { target: target.name.clone(), services: plans };
        deploy::decide(&mut plan.services, known.state, known.record, deploy::When::BeforeWriting);
        Ok(plan)
    }

    /// Every change.
    pub fn changes(&self) -> impl Iterator<Item = &Change> {
        self.services.iter().flat_map(|service| &service.changes)
    }

    /// How many services are deployed.
    #[must_use]
    pub fn deploys(&self) -> usize {
        self.services.iter().filter(|service| service.deploy.is_needed()).count()
    }

    /// Whether anything would be changed: there is something that somebody may not want.
    #[must_use]
    pub fn changes_something(&self) -> bool {
        self.changes().any(|change| change.write) || self.deploys() > 0
    }

    /// Whether there is anything to do, be it to wait.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        self.changes_something() || self.services.iter().any(|one| one.deploy != Deploy::None)
    }

    /// Whether the configuration names the variable of a change.
    #[must_use]
    pub fn manages(&self, change: &Change) -> bool {
        let mut of = self.services.iter().filter(|service| service.name == change.service);
        of.any(|service| service.managed.contains(&change.variable))
    }

    /// The variables that stay references to something that is not managed, and so do not get what they should have.
    #[must_use]
    pub fn left_behind(&self, state: &State) -> Vec<String> {
        let is_left = |(at, change): &(usize, &Change)| {
            change.action == Action::Conflict
                && !deploy::has_what_is_managed(&self.services, *at, &change.variable, state)
        };
        let all = self.services.iter().enumerate();
        let changes = all.flat_map(|(at, service)| service.changes.iter().map(move |change| (at, change)));
        changes.filter(is_left).map(|(_, change)| format!("{}.{}", change.service, change.variable)).collect()
    }

    /// The variables that are references to others and stay so.
    pub fn conflicts(&self) -> impl Iterator<Item = &Change> {
        self.changes().filter(|change| change.action == Action::Conflict)
    }
}

fn of_service(target: &Target, service: &Service, values: &Values, known: &Known<'_>) -> Result<ServicePlan> {
    let mut plan = ServicePlan {
        name: service.name.clone(),
        place: Place {
            project: target.project.clone(),
            environment: target.environment.clone(),
            service: service.id.clone(),
        },
        changes: Vec::new(),
        writes: BTreeMap::new(),
        deletes: Vec::new(),
        is_pruned: false,
        deploy: Deploy::None,
        managed: service.variables.keys().cloned().collect(),
        references: deploy::references(values),
    };
    for (name, mapping) in &service.variables {
        let wanted =
            known.resolved.values.get(&mapping.source).ok_or_else(|| {
                Error::new(ExitCode::Failed, format!("{name} of `{}` was not resolved", service.name))
            })?;
        let change = compare(service, name, wanted, values.get(name), known);
        if mapping.source.is_secret()
            && let Some(Some(old)) = values.get(name)
        {
            drop(old.clone().hidden());
        }
        if change.write {
            plan.writes.insert(name.clone(), wanted.secret.clone());
        }
        plan.changes.push(change);
    }
    for (name, value) in values {
        if service.variables.contains_key(name) || name.starts_with("RAILWAY_") {
            continue;
        }
        let change = unmanaged(service, name, value.as_ref(), known);
        if change.write {
            plan.deletes.push(name.clone());
        }
        plan.changes.push(change);
    }
    Ok(plan)
}

/// What happens to a variable that the configuration names.
fn compare(service: &Service, name: &str, wanted: &Value, there: Option<&Option<Secret>>, known: &Known<'_>) -> Change {
    let print = |secret: &Secret| known.fingerprints.of(secret.expose());
    let to = print(&wanted.secret);
    let (action, from, write, note) = match there {
        None => (Action::Create, None, true, None),
        Some(Some(value)) => {
            let from = Some(print(value));
            if *value == wanted.secret {
                (Action::Unchanged, from, false, None)
            } else if value.expose().contains("${{") && !wanted.secret.expose().contains("${{") {
                let note =
                    "it is a reference to another variable; remove that in Railway if the value shall stand here";
                (Action::Conflict, from, false, Some(note.to_owned()))
            } else {
                (Action::Update, from, true, None)
            }
        }
        Some(None) => match sealed(service, name, wanted, &to, known) {
            Sealed::Same => (Action::Sealed, Some(to.clone()), false, Some("as the last sync wrote it".to_owned())),
            Sealed::Other(note) => (Action::Sealed, None, true, Some(note.to_owned())),
            Sealed::Unknown(note) => (Action::Sealed, None, known.are_new, Some(note.to_owned())),
        },
    };
    Change {
        service: service.name.clone(),
        variable: name.to_owned(),
        action,
        from: from.as_ref().map(Fingerprint::shown),
        to: Some(to.shown()),
        write,
        note,
    }
}

/// What can be known of a sealed variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sealed {
    /// The last sync wrote this very value, and nobody has written since.
    Same,
    /// It has another value, or must be taken to have one.
    Other(&'static str),
    /// Nobody can tell.
    Unknown(&'static str),
}

/// Compares a sealed variable by what was recorded, else by times.
pub(super) fn sealed(service: &Service, name: &str, wanted: &Value, to: &Fingerprint, known: &Known<'_>) -> Sealed {
    let updated = updated(known.state, service.id.as_deref(), name);
    let written = known.record.of(service.id.as_deref()).and_then(|record| record.variables.get(name));
    let print = written.and_then(|written| written.fingerprint.as_ref()).filter(|_| known.fingerprints.lasts());
    match (print, written.and_then(|written| written.updated), updated) {
        (Some(print), ..) if print != to => {
            return Sealed::Other("1Password has another value than the last sync wrote");
        }
        (Some(_), Some(at), Some(updated)) if updated > at => {
            return Sealed::Other("somebody has written it since the last sync");
        }
        (Some(_), Some(_), _) => return Sealed::Same,
        // It wrote and was stopped before it saw the time of that: only another write makes it known.
        (Some(_), None, Some(_)) => return Sealed::Other("the last sync was stopped right after it wrote it"),
        _ => {}
    }
    match (updated, wanted.updated) {
        // Without a key that lasts nothing is ever recorded, and every edit of the item would count.
        (Some(there), Some(item)) if item > there && known.fingerprints.lasts() => {
            Sealed::Other("its item in 1Password was edited since")
        }
        _ => Sealed::Unknown("unknown: no sync has recorded what is in it"),
    }
}

/// When a variable was last written.
pub(super) fn updated(state: &State, service: Option<&str>, name: &str) -> Option<Timestamp> {
    let mut found = state.variables.iter().filter(|one| one.service.as_deref() == service && one.name == name);
    found.next().map(|one| one.updated)
}

/// What happens to a variable that the configuration does not name.
fn unmanaged(service: &Service, name: &str, value: Option<&Secret>, known: &Known<'_>) -> Change {
    let written = known.record.of(service.id.as_deref()).and_then(|record| record.variables.get(name));
    let ours = written.and_then(|written| written.fingerprint.as_ref()).filter(|_| known.fingerprints.lasts());
    let print = value.map(|value| known.fingerprints.of(value.expose()));
    // Who has changed it since has made it his own.
    let is_untouched = || updated(known.state, service.id.as_deref(), name) <= written.and_then(|one| one.updated);
    let is_ours = ours.is_some() && if value.is_none() { is_untouched() } else { print.as_ref() == ours };
    let (action, note) = match (is_ours, known.prune, ours.is_some() || written.is_some()) {
        (true, true, _) => (Action::Delete, None),
        (true, false, _) => (Action::Unmanaged, Some("an earlier sync put it there: `sync --prune` deletes it")),
        (false, _, true) if known.fingerprints.lasts() => {
            (Action::Unmanaged, Some("an earlier sync put it there, and somebody has changed it since"))
        }
        (false, _, _) => (Action::Unmanaged, None),
    };
    Change {
        service: service.name.clone(),
        variable: name.to_owned(),
        action,
        from: if action == Action::Delete { print.as_ref().map(Fingerprint::shown) } else { None },
        to: None,
        write: action == Action::Delete,
        note: note.map(str::to_owned),
    }
}
