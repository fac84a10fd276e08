//! Deleting variables without deploying: the deletion is staged, and committed.
//!
//! Why not one by one with `variableDelete`: that one deploys, each time. A commit carries along whatever is staged in the
//! environment; so nothing of anybody else may be.
//!
//! Invariants: nothing is staged where somebody else's changes are, and nothing is committed but our own deletion or a part
//! of it. A deletion that was staged before, by a run that was killed, is recognised.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use cynic::{MutationBuilder as _, QueryBuilder as _};

use super::client::Client;
use super::error::{Repeat, Task, safe};
use super::operations::{
    CommitStaged, Committed, EnvironmentPatch, EnvironmentPatchStatus, OfEnvironment, OfWorkflow, StageChanges, Staged,
    StagedChanges, Workflow, WorkflowStatus,
};
use super::scalars::Config;
use super::{Place, READ};
use crate::{Error, ExitCode, Result};

/// Stands in the history of the environment.
const MESSAGE: &str = "opsctl: variables that are no longer in the mapping";
/// Looks at a commit that is being applied, at most.
const LOOKS: usize = 24;
/// Requests that a deletion takes at most: what is staged, the deletion, the commit, and two for each look.
pub const REQUESTS: u64 = 3 + 2 * LOOKS as u64;
/// A workflow that has just been started may not be found yet. So often that is believed.
const GRACE: usize = 3;

const LOOK: Task = Task { what: "see which changes are staged", ..READ };
const WATCH: Task = Task { what: "see whether the deletion is applied", ..READ };
const STAGE: Task = Task {
    what: "stage the deletion of variables",
    repeat: Repeat::Never,
    unsure: "run the same command again: it goes on from what is staged",
};
const COMMIT: Task = Task { what: "commit the deletion of variables", ..STAGE };

/// Deletes variables of one environment.
pub(super) async fn delete(client: &Client, environment: &str, names: &[(&Place, &str)]) -> Result<()> {
    let ours = deletion(names);
    let before = staged(client, environment).await?;
    if !before.patch.is_within(&ours) {
        return Err(foreign("so nothing was deleted: a commit would carry them along"));
    }
    if before.patch != ours {
        let after = stage(client, environment, &ours).await?;
        if after.is_empty() {
            // There is nothing of that name.
            return Ok(());
        }
        if !after.is_within(&ours) {
            return Err(foreign("so nothing was deleted; the deletion is staged beside them"));
        }
    }
    let variables = Committed { environment, message: MESSAGE };
    let workflow = client.ask(COMMIT, &CommitStaged::build(variables)).await?.workflow;
    applied(client, environment, &workflow).await
}

/// The deletion as it is staged.
fn deletion(names: &[(&Place, &str)]) -> Config {
    let mut config = Config::Parts(std::collections::BTreeMap::new());
    for (place, name) in names {
        let variables = match &place.service {
            None => config.part("sharedVariables"),
            Some(service) => config.part("services").part(service).part("variables"),
        };
        *variables.part(name) = Config::Nothing;
    }
    config
}

async fn staged(client: &Client, environment: &str) -> Result<EnvironmentPatch> {
    let answer = client.ask(LOOK, &StagedChanges::build(OfEnvironment { environment })).await?;
    let EnvironmentPatch { status, patch } = answer.environment_staged_changes;
    let patch = EnvironmentPatch { status, patch: patch.without_empty() };
    match patch.status {
        EnvironmentPatchStatus::Applying => {
            Err(Error::new(ExitCode::Busy, "changes of the environment are being applied at Railway")
                .hint("run the same command again when they are"))
        }
        _ => Ok(patch),
    }
}

async fn stage(client: &Client, environment: &str, changes: &Config) -> Result<Config> {
    let answer = client.ask(STAGE, &StageChanges::build(Staged { environment, changes })).await?;
    Ok(answer.environment_stage_changes.patch.without_empty())
}

fn foreign(consequence: &str) -> Error {
    let message = format!("changes of somebody else are staged in the environment at Railway, {consequence}");
    Error::new(ExitCode::Busy, message)
        .hint("apply or discard the staged changes at Railway, then run the same command again")
}

/// Waits until a commit is applied.
async fn applied(client: &Client, environment: &str, workflow: &str) -> Result<()> {
    let delays = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(200))
        .with_max_delay(Duration::from_secs(3))
        .with_factor(2.0)
        .with_max_times(LOOKS);
    let mut lost = 0;
    for delay in delays.build() {
        let result = client.ask(WATCH, &Workflow::build(OfWorkflow { id: workflow })).await?.workflow_status;
        match result.status {
            WorkflowStatus::Complete => return Ok(()),
            WorkflowStatus::Error => {
                let why = result.error.as_deref().map(safe).unwrap_or_default();
                return Err(Error::new(
                    ExitCode::Failed,
                    format!("Railway could not apply the deletion of variables: {why}"),
                )
                .hint("it is staged again: look at it at Railway, then run the same command again"));
            }
            WorkflowStatus::NotFound => {
                lost += 1;
                let look = OfEnvironment { environment };
                if lost > GRACE {
                    let now = client.ask(LOOK, &StagedChanges::build(look)).await?.environment_staged_changes;
                    if now.status != EnvironmentPatchStatus::Applying && now.patch.is_empty() {
                        return Ok(());
                    }
                }
            }
            WorkflowStatus::Running | WorkflowStatus::Unknown => {}
        }
        tokio::time::sleep(delay).await;
    }
    Err(Error::new(ExitCode::Failed, "Railway has not applied the deletion of variables within a minute")
        .hint("run the same command again: it sees what is left to do"))
}
