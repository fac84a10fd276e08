//! Asks for the deployments of a sync and waits for them.
//!
//! Invariants: what is asked for is recorded before, so that no run asks twice; one request looks at all deployments at once;
//! every status has an end or is waited for until the time is over.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::deploy::Deploy;
use super::plan::{Plan, ServicePlan};
use super::record::{Asked, RecordFile};
use super::sync::{ServiceResult, Sync, latest, place_of};
use crate::providers::railway::{Deployment, DeploymentStatus, State};
use crate::{Error, ExitCode, Result, ui};

/// Between the first two looks at deployments that are under way; each pause is half as long again.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause between two looks: Railway counts requests by the hour.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

impl Sync<'_> {
    /// Asks for every deployment that is due, then waits for all of them.
    pub(super) async fn deploy(
        &self,
        plan: &Plan,
        state: &State,
        record: &mut RecordFile,
        mut stopped: Option<String>,
        results: &mut [ServiceResult],
    ) -> Result<()> {
        let mut waiting = BTreeMap::new();
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
            let (project, environment) = place_of(plan);
            let state = match self.railway.state(&project, &environment).await {
                Ok(state) => state,
                Err(error) if matches!(error.code(), ExitCode::RateLimited | ExitCode::Denied) => {
                    let error = Error::new(error.code(), "nobody knows whether it runs").because(error);
                    waiting.keys().for_each(|at| results[*at].failed("unknown", &error));
                    break;
                }
                // A look that fails is no deployment that fails.
                Err(error) => {
                    ui::warn(format!("the deployments cannot be seen for the moment: {}", error.full_message()));
                    State::default()
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
