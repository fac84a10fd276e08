//! Carries out a plan.
//!
//! Invariants:
//! * One write a service, which deploys nothing and leaves all other variables as they are; what was written is read back.
//! * One deployment a service at most, and none of a service whose write failed.
//! * What one service has gone through is told, whatever happens to the others.

use std::time::Duration;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use super::deploy::{self, Deploy, When};
use super::fingerprint::Fingerprints;
use super::plan::{Plan, ServicePlan, updated};
use super::record::{Asked, RecordFile, ServiceRecord, Written};
use crate::providers::railway::{Deployment, Railway, State};
use crate::{Error, ExitCode, Result, ui};

/// What a sync works with.
pub struct Sync<'a> {
    /// Railway.
    pub railway: &'a Railway,
    /// Makes fingerprints.
    pub fingerprints: &'a Fingerprints,
    /// Whether services are deployed.
    pub deploy: bool,
    /// How long deployments may take together.
    pub timeout: Duration,
}

/// What became of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ServiceResult {
    /// As the configuration calls it.
    pub service: String,
    /// Variables that were written.
    pub written: usize,
    /// Variables that were deleted.
    pub deleted: usize,
    /// Whether a deployment was asked for.
    pub deployed: bool,
    /// The deployment that was asked for, or that was under way already.
    pub deployment_id: Option<String>,
    /// How it ended: `unchanged`, `written` (and not deployed), `write_failed`, `not_tried`, `never_deployed`, `not_deployed`,
    /// or the status of its deployment, such as `success` or `crashed`.
    pub status: String,
    /// What went wrong; null if nothing did.
    pub error: Option<String>,
    #[serde(skip)]
    code: Option<ExitCode>,
    /// Whether Railway took the write, or may have.
    #[serde(skip)]
    is_touched: bool,
}

impl ServiceResult {
    fn new(service: &ServicePlan) -> Self {
        Self {
            service: service.name.clone(),
            written: 0,
            deleted: 0,
            deployed: false,
            deployment_id: None,
            status: "unchanged".to_owned(),
            error: None,
            code: None,
            is_touched: false,
        }
    }

    pub(super) fn failed(&mut self, status: &str, error: &Error) {
        status.clone_into(&mut self.status);
        let hint = error.hint_text().map(|hint| format!(" ({hint})")).unwrap_or_default();
        self.error = Some(error.full_message() + &hint);
        self.code = Some(error.code());
    }

    /// Whether everything that was asked for was done.
    #[must_use]
    pub const fn is_well(&self) -> bool {
        self.error.is_none()
    }
}

/// How a sync ends: well, in part, or with the reason for which nothing at all was done.
#[must_use]
pub fn exit_code(results: &[ServiceResult]) -> ExitCode {
    let first = results.iter().find_map(|result| result.code);
    let has_done = results.iter().any(|one| one.is_touched || one.written + one.deleted > 0 || one.deployed);
    match first {
        None => ExitCode::Ok,
        Some(_) if has_done => ExitCode::Incomplete,
        Some(code) => code,
    }
}

impl Sync<'_> {
    /// Writes, deletes, deploys and waits. The plan is used up: its writes are done.
    ///
    /// # Errors
    /// When the record cannot be written. What Railway refuses is in the results.
    pub async fn run(&self, plan: &mut Plan, state: State, record: &mut RecordFile) -> Result<Vec<ServiceResult>> {
        let mut results: Vec<ServiceResult> = plan.services.iter().map(ServiceResult::new).collect();
        let stopped = self.write(plan, &state, record, &mut results).await?;
        if stopped.is_none() {
            self.delete(plan, &state, record, &mut results).await?;
        }
        let is_tried = results.iter().any(|one| !one.is_well() || one.written + one.deleted > 0);
        let state = match &stopped {
            // What Railway refuses once it refuses every time.
            Some(_) => {
                deploy::decide(&mut plan.services, &state, record, When::AfterWriting);
                state
            }
            None if is_tried => self.after(plan, state, record, &mut results).await?,
            None => state,
        };
        if self.deploy {
            self.deploy(plan, &state, record, stopped, &mut results).await?;
        }
        for (service, result) in plan.services.iter().zip(&mut results) {
            let is_done = result.status == "unchanged" && result.written + result.deleted > 0;
            match (&service.deploy, is_done) {
                (Deploy::Never, _) => "never_deployed".clone_into(&mut result.status),
                (_, true) => "written".clone_into(&mut result.status),
                _ => {}
            }
        }
        Ok(results)
    }

    async fn write(
        &self,
        plan: &Plan,
        state: &State,
        record: &mut RecordFile,
        results: &mut [ServiceResult],
    ) -> Result<Option<String>> {
        let mut stopped = None;
        for (service, result) in plan.services.iter().zip(results) {
            if service.writes.is_empty() {
                continue;
            }
            if let Some(why) = &stopped {
                result.failed("not_tried", &Error::new(ExitCode::Incomplete, format!("not tried after this: {why}")));
                continue;
            }
            ui::say(format!("{}: writing {}", service.name, count(service.writes.len())));
            let before = record.of(service.place.service.as_deref()).cloned();
            self.owe(service, state, record)?;
            let done = match self.railway.upsert(&service.place, &service.writes).await {
                Ok(()) => {
                    result.is_touched = true;
                    self.remember(service, record)?;
                    self.read_back(service).await
                }
                Err(error) => {
                    result.is_touched = !is_refusal(&error);
                    if is_refusal(&error) {
                        put_back(service, before, record)?;
                    }
                    Err(error)
                }
            };
            match done {
                Ok(()) => result.written = service.writes.len(),
                Err(error) => {
                    result.failed("write_failed", &error);
                    if matches!(error.code(), ExitCode::RateLimited | ExitCode::Denied) {
                        stopped = Some(error.full_message());
                    }
                }
            }
        }
        Ok(stopped)
    }

    /// Before anything is written: should the run end here, the next one knows that a deployment may be due, and that nobody
    /// knows what the variables have.
    fn owe(&self, service: &ServicePlan, state: &State, record: &mut RecordFile) -> Result<()> {
        let id = service.place.service.as_deref();
        let of = record.of_mut(id, &service.name);
        for (name, written) in &mut of.variables {
            if service.writes.contains_key(name) {
                written.updated = None;
            }
        }
        if let Some(latest) = id.and_then(|id| latest(state, id)) {
            let before = Some(latest.id.clone());
            of.deployment = Some(Asked { id: None, before, asked: Timestamp::now(), done: false });
        }
        record.save()
    }

    /// Whether Railway has what was written; a sealed value cannot be read.
    async fn read_back(&self, service: &ServicePlan) -> Result<()> {
        let there = self.railway.variables(&service.place).await?;
        let differs = |(name, value): &(&String, &crate::secret::Secret)| match there.get(*name) {
            Some(Some(now)) => now != *value,
            Some(None) => false,
            None => true,
        };
        let wrong: Vec<&str> = service.writes.iter().filter(differs).map(|(name, _)| name.as_str()).collect();
        if wrong.is_empty() {
            return Ok(());
        }
        let message = format!("Railway took the write and has other values afterwards: {}", wrong.join(", "));
        Err(Error::new(ExitCode::Integrity, message).hint("somebody may be writing at the same time; run it again"))
    }

    fn remember(&self, service: &ServicePlan, record: &mut RecordFile) -> Result<()> {
        let now = Timestamp::now();
        let variables = &mut record.of_mut(service.place.service.as_deref(), &service.name).variables;
        for (name, value) in &service.writes {
            let fingerprint = self.fingerprints.lasts().then(|| self.fingerprints.of(value.expose()));
            variables.insert(name.clone(), Written { fingerprint, written: now, updated: None });
        }
        record.save()
    }

    /// All deletions in one commit, of services whose writes went well.
    async fn delete(
        &self,
        plan: &mut Plan,
        state: &State,
        record: &mut RecordFile,
        results: &mut [ServiceResult],
    ) -> Result<()> {
        let mut pruned = Vec::new();
        let mut due: Vec<(&ServicePlan, &mut ServiceResult)> = plan.services.iter().zip(results).collect();
        due.retain(|(service, result)| !service.deletes.is_empty() && result.is_well());
        if due.is_empty() {
            return Ok(());
        }
        for (service, _) in &due {
            self.owe(service, state, record)?;
        }
        let places: Vec<_> = due.iter().map(|(service, _)| (service.place.clone(), service.deletes.clone())).collect();
        let done = match self.railway.delete(&places).await {
            Ok(()) => {
                for (service, result) in due {
                    result.deleted = service.deletes.len();
                    pruned.push(service.name.clone());
                    let variables = &mut record.of_mut(service.place.service.as_deref(), &service.name).variables;
                    variables.retain(|name, _| !service.deletes.contains(name));
                }
                record.save()
            }
            Err(error) => {
                due.into_iter().for_each(|(_, result)| result.failed("write_failed", &error));
                Ok(())
            }
        };
        for service in plan.services.iter_mut().filter(|service| pruned.contains(&service.name)) {
            service.is_pruned = true;
        }
        done
    }

    /// What Railway has after the writes: its times go into the record, and decide about deployments.
    async fn after(
        &self,
        plan: &mut Plan,
        before: State,
        record: &mut RecordFile,
        results: &mut [ServiceResult],
    ) -> Result<State> {
        let state = match self.railway.state(&place_of(plan).0, &place_of(plan).1).await {
            Ok(state) => state,
            Err(error) => {
                // The writes are done, and what is not known is whether they run: the next run sees to it.
                results.iter_mut().filter(|one| one.is_well()).for_each(|one| one.failed("not_deployed", &error));
                return Ok(before);
            }
        };
        for (service, _) in plan.services.iter().zip(results.iter()).filter(|(_, result)| result.written > 0) {
            let id = service.place.service.as_deref();
            for (name, written) in &mut record.of_mut(id, &service.name).variables {
                if service.writes.contains_key(name) {
                    written.updated = updated(&state, id, name);
                }
            }
        }
        record.save()?;
        deploy::decide(&mut plan.services, &state, record, When::AfterWriting);
        Ok(state)
    }
}

/// Whether Railway said no: then nothing was written.
const fn is_refusal(error: &Error) -> bool {
    matches!(error.code(), ExitCode::Denied | ExitCode::NotFound | ExitCode::Usage | ExitCode::RateLimited)
}

/// The record as it was before a write that Railway refused.
fn put_back(service: &ServicePlan, before: Option<ServiceRecord>, record: &mut RecordFile) -> Result<()> {
    let id = service.place.service.as_deref();
    match before {
        Some(before) => *record.of_mut(id, &service.name) = before,
        None => record.forget(id),
    }
    record.save()
}

pub(super) fn latest<'s>(state: &'s State, service: &str) -> Option<&'s Deployment> {
    state.services.iter().find(|one| one.id == service)?.latest.as_ref()
}

pub(super) fn place_of(plan: &Plan) -> (String, String) {
    let place = plan.services.first().map(|service| &service.place);
    place.map(|place| (place.project.clone(), place.environment.clone())).unwrap_or_default()
}

fn count(variables: usize) -> String {
    ui::count(variables as u64, "variable", "variables")
}
