//! Carries out a plan.
//!
//! Invariants:
//! * One write a service, which deploys nothing and leaves all other variables as they are; what was written is read back.
//! * One deployment a service at most, and none of a service whose write failed.
//! * What one service has gone through is told, whatever happens to the others.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use super::deploy::{self, Deploy, When};
use super::fingerprint::Fingerprints;
use super::plan::{Plan, ServicePlan, updated};
use super::record::{Asked, RecordFile, Written};
use crate::providers::railway::{Deployment, DeploymentStatus, Railway, State};
use crate::{Error, ExitCode, Result, ui};

/// Between the first two looks at deployments that are under way; each pause is half as long again.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause between two looks: Railway counts requests by the hour.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

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
        }
    }

    fn failed(&mut self, status: &str, error: &Error) {
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
    let has_done = results.iter().any(|result| result.written + result.deleted > 0 || result.deployed);
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
        self.write(plan, &state, record, &mut results).await?;
        self.delete(plan, &state, record, &mut results).await?;
        let has_changed = results.iter().any(|result| result.written + result.deleted > 0);
        let state = if has_changed { self.after(plan, state, record, &mut results).await? } else { state };
        if self.deploy {
            self.deploy(plan, &state, record, &mut results).await?;
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
    ) -> Result<()> {
        let mut stopped = None;
        for (service, result) in plan.services.iter().zip(results) {
            if service.writes.is_empty() {
                continue;
            }
            if let Some(why) = &stopped {
                result.failed("not_tried", &Error::new(ExitCode::Incomplete, format!("not tried after this: {why}")));
                continue;
            }
            self.owe(service, state, record)?;
            ui::say(format!("{}: writing {}", service.name, count(service.writes.len())));
            let done = match self.railway.upsert(&service.place, &service.writes).await {
                Ok(()) => self.read_back(service).await,
                Err(error) => Err(error),
            };
            match done {
                Ok(()) => {
                    result.written = service.writes.len();
                    self.remember(service, record)?;
                }
                Err(error) => {
                    result.failed("write_failed", &error);
                    // What Railway refuses once it refuses every time.
                    if matches!(error.code(), ExitCode::RateLimited | ExitCode::Denied) {
                        stopped = Some(error.full_message());
                    }
                }
            }
        }
        Ok(())
    }

    /// Before anything is written: should the run end here, the next one knows that a deployment may be due.
    fn owe(&self, service: &ServicePlan, state: &State, record: &mut RecordFile) -> Result<()> {
        let Some(id) = &service.place.service else { return Ok(()) };
        let Some(latest) = latest(state, id) else { return Ok(()) };
        let asked = Asked { id: None, before: Some(latest.id.clone()), asked: Timestamp::now(), done: false };
        record.of_mut(Some(id), &service.name).deployment = Some(asked);
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
        plan: &Plan,
        state: &State,
        record: &mut RecordFile,
        results: &mut [ServiceResult],
    ) -> Result<()> {
        let mut due: Vec<(&ServicePlan, &mut ServiceResult)> = plan.services.iter().zip(results).collect();
        due.retain(|(service, result)| !service.deletes.is_empty() && result.is_well());
        if due.is_empty() {
            return Ok(());
        }
        for (service, _) in &due {
            self.owe(service, state, record)?;
        }
        let places: Vec<_> = due.iter().map(|(service, _)| (service.place.clone(), service.deletes.clone())).collect();
        match self.railway.delete(&places).await {
            Ok(()) => {
                for (service, result) in due {
                    result.deleted = service.deletes.len();
                    let variables = &mut record.of_mut(service.place.service.as_deref(), &service.name).variables;
                    variables.retain(|name, _| !service.deletes.contains(name));
                }
                record.save()
            }
            Err(error) => {
                due.into_iter().for_each(|(_, result)| result.failed("write_failed", &error));
                Ok(())
            }
        }
    }

    /// What Railway has after the writes: its times go into the record, and decide about deployments.
    async fn after(
        &self,
        plan: &mut Plan,
        before: State,
        record: &mut RecordFile,
        results: &mut [ServiceResult],
    ) -> Result<State> {
        let state = match self.railway.state(&plan_place(plan).0, &plan_place(plan).1).await {
            Ok(state) => state,
            Err(error) => {
                // The writes are done, and what is not known is whether they run: the next run sees to it.
                results.iter_mut().filter(|one| one.is_well()).for_each(|one| one.failed("not_deployed", &error));
                return Ok(before);
            }
        };
        for service in &plan.services {
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

    /// Asks for every deployment that is due, then waits for all of them.
    async fn deploy(
        &self,
        plan: &Plan,
        state: &State,
        record: &mut RecordFile,
        results: &mut [ServiceResult],
    ) -> Result<()> {
        let mut waiting = BTreeMap::new();
        let mut stopped = None;
        for (at, (service, result)) in plan.services.iter().zip(results.iter_mut()).enumerate() {
            let Some(id) = service.place.service.as_ref().filter(|_| result.is_well()) else { continue };
            match &service.deploy {
                Deploy::None | Deploy::Never => settle(record, id),
                Deploy::Follow(deployment) => {
                    result.deployment_id = Some(deployment.clone());
                    waiting.insert(at, deployment.clone());
                }
                Deploy::Needed(_) if stopped.is_some() => {
                    let why = stopped.clone().unwrap_or_default();
                    let error = Error::new(ExitCode::Incomplete, format!("not tried after this: {why}"));
                    result.failed("not_deployed", &error);
                }
                Deploy::Needed(why) => {
                    ui::say(format!("{}: deploying, because {why}", service.name));
                    match self.ask(service, id, state, record).await? {
                        Ok(deployment) => {
                            result.deployed = true;
                            result.deployment_id = Some(deployment.clone());
                            waiting.insert(at, deployment);
                        }
                        Err(error) => {
                            result.failed("not_deployed", &error);
                            if matches!(error.code(), ExitCode::RateLimited | ExitCode::Denied) {
                                stopped = Some(error.full_message());
                            }
                        }
                    }
                }
            }
        }
        record.save()?;
        self.wait(plan, waiting, record, results).await
    }

    /// Asks for one deployment. Where nobody knows whether Railway heard, a look tells.
    async fn ask(
        &self,
        service: &ServicePlan,
        id: &str,
        state: &State,
        record: &mut RecordFile,
    ) -> Result<Result<String>> {
        let before = latest(state, id).map(|latest| latest.id.clone());
        let mut asked = Asked { id: None, before: before.clone(), asked: Timestamp::now(), done: false };
        record.of_mut(Some(id), &service.name).deployment = Some(asked.clone());
        record.save()?;
        let mut answer = self.railway.deploy(&service.place.environment, id).await;
        if answer.as_ref().is_err_and(|error| error.code() == ExitCode::Failed)
            && let Ok(now) = self.railway.state(&service.place.project, &service.place.environment).await
            && let Some(latest) = latest(&now, id).filter(|latest| Some(&latest.id) != before.as_ref())
        {
            answer = Ok(latest.id.clone());
        }
        if let Ok(deployment) = &answer {
            asked.id = Some(deployment.clone());
            record.of_mut(Some(id), &service.name).deployment = Some(asked);
            record.save()?;
        }
        Ok(answer)
    }

    /// Waits until every deployment runs or cannot come to run. One request looks at all of them.
    async fn wait(
        &self,
        plan: &Plan,
        mut waiting: BTreeMap<usize, String>,
        record: &mut RecordFile,
        results: &mut [ServiceResult],
    ) -> Result<()> {
        let until = Instant::now() + self.timeout;
        let mut pause = FIRST_PAUSE;
        let mut seen: BTreeMap<usize, DeploymentStatus> = BTreeMap::new();
        while !waiting.is_empty() {
            let (project, environment) = plan_place(plan);
            let state = match self.railway.state(&project, &environment).await {
                Ok(state) => state,
                Err(error) => {
                    let error = Error::new(error.code(), "nobody knows whether it runs").because(error);
                    waiting.keys().for_each(|at| results[*at].failed("unknown", &error));
                    return Ok(());
                }
            };
            for (at, deployment) in waiting.clone() {
                let service = &plan.services[at];
                let Some(id) = service.place.service.as_deref() else { continue };
                let Some(now) = self.look(id, &deployment, &state).await else { continue };
                if now.id != deployment {
                    ui::say(format!("{}: a newer deployment has taken the place of ours", service.name));
                    results[at].deployment_id = Some(now.id.clone());
                    waiting.insert(at, now.id.clone());
                }
                if seen.insert(at, now.status) != Some(now.status) {
                    ui::say(format!("{}: {}", service.name, now.status.word()));
                }
                if let Some(end) = end_of(now.status) {
                    waiting.remove(&at);
                    now.status.word().clone_into(&mut results[at].status);
                    match end {
                        Ok(()) => settle(record, id),
                        Err(error) => results[at].failed(now.status.word(), &error),
                    }
                }
            }
            if waiting.is_empty() {
                break;
            }
            if Instant::now() + pause >= until {
                for at in waiting.keys() {
                    let status = seen.get(at).map_or("unknown", |status| status.word());
                    let message = format!("still {status} after {}", ui::duration(self.timeout));
                    let error = Error::new(ExitCode::Incomplete, message);
                    results[*at].failed(status, &error.hint("look at it in Railway; running this again waits for it"));
                }
                break;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 3 / 2).min(LONGEST_PAUSE);
        }
        record.save()
    }

    /// How far a deployment is, or the newer one that has taken its place.
    async fn look(&self, service: &str, deployment: &str, state: &State) -> Option<Deployment> {
        let latest = latest(state, service)?;
        if latest.id == deployment {
            return Some(latest.clone());
        }
        // A newer one has all that ours has; one that is merely listed before ours appears is older.
        let status = self.railway.deployment(deployment).await.ok()?;
        let is_replaced = matches!(status, DeploymentStatus::Removed | DeploymentStatus::Removing);
        let ours = Deployment { id: deployment.to_owned(), status, created: latest.created };
        Some(if is_replaced { latest.clone() } else { ours })
    }
}

/// How a status ends the waiting, if it does.
fn end_of(status: DeploymentStatus) -> Option<Result<()>> {
    let fail = |code, message: &str, hint: &str| Some(Err(Error::new(code, message.to_owned()).hint(hint.to_owned())));
    let log = "look at its log in Railway, then run this again";
    match status {
        DeploymentStatus::Success | DeploymentStatus::Sleeping => Some(Ok(())),
        DeploymentStatus::Failed => {
            fail(ExitCode::Incomplete, "the deployment failed; what ran before still runs", log)
        }
        DeploymentStatus::Crashed => fail(ExitCode::Incomplete, "the service ended by itself", log),
        DeploymentStatus::Removed | DeploymentStatus::Removing => {
            fail(ExitCode::Incomplete, "somebody took the deployment down", "run this again when it may run")
        }
        DeploymentStatus::Skipped => fail(ExitCode::Incomplete, "Railway skipped the deployment", log),
        DeploymentStatus::NeedsApproval => fail(
            ExitCode::Incomplete,
            "the deployment waits for somebody to approve it",
            "approve it in Railway; running this again waits for it",
        ),
        DeploymentStatus::Building
        | DeploymentStatus::Deploying
        | DeploymentStatus::Initializing
        | DeploymentStatus::Queued
        | DeploymentStatus::Waiting
        | DeploymentStatus::Unknown => None,
    }
}

/// Nothing is owed to the service any more.
fn settle(record: &mut RecordFile, id: &str) {
    if let Some(asked) = record.record.services.get_mut(id).and_then(|service| service.deployment.as_mut()) {
        asked.done = true;
    }
}

fn latest<'s>(state: &'s State, service: &str) -> Option<&'s Deployment> {
    state.services.iter().find(|one| one.id == service)?.latest.as_ref()
}

fn plan_place(plan: &Plan) -> (String, String) {
    let place = plan.services.first().map(|service| &service.place);
    place.map(|place| (place.project.clone(), place.environment.clone())).unwrap_or_default()
}

fn count(variables: usize) -> String {
    ui::count(variables as u64, "variable", "variables")
}

/// How often deployments are looked at within this time, at most: for the budget of requests.
#[must_use]
pub fn looks(timeout: Duration) -> u64 {
    let (mut elapsed, mut pause, mut looks) = (Duration::ZERO, FIRST_PAUSE, 1);
    while elapsed + pause < timeout {
        elapsed += pause;
        pause = (pause * 3 / 2).min(LONGEST_PAUSE);
        looks += 1;
    }
    looks
}
