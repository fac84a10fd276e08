//! What is known of an environment at Railway.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::operations as wire;
use crate::secret::Secret;

/// Where variables are: a service of an environment, or the environment's shared variables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The project's id.
    pub project: String,
    /// The environment's id.
    pub environment: String,
    /// The service's id; `None`: the shared variables.
    pub service: Option<String>,
}

/// What is known of an environment without any value.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// What people call the environment.
    pub name: String,
    /// Every variable of every service, and the shared ones.
    pub variables: Vec<VariableState>,
    /// Every service that has an instance in the environment.
    pub services: Vec<ServiceState>,
}

/// A variable without its value.
#[derive(Clone, Debug)]
pub struct VariableState {
    /// Its name.
    pub name: String,
    /// The service's id; `None`: shared.
    pub service: Option<String>,
    /// Whether nobody can read its value.
    pub is_sealed: bool,
    /// When it was last written.
    pub updated: Timestamp,
}

/// A service in an environment.
#[derive(Clone, Debug)]
pub struct ServiceState {
    /// Its id.
    pub id: String,
    /// What people call it, and references too: `${{name.VARIABLE}}`.
    pub name: String,
    /// Its newest deployment.
    pub latest: Option<Deployment>,
    /// What runs now; the newest one of several.
    pub active: Option<Deployment>,
}

/// A deployment.
#[derive(Clone, Debug)]
pub struct Deployment {
    /// Its id.
    pub id: String,
    /// How far it is.
    pub status: DeploymentStatus,
    /// When it was asked for: it has the variables of that time.
    pub created: Timestamp,
}

/// How far a deployment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeploymentStatus {
    /// The image is made.
    Building,
    /// It ran, and ended by itself.
    Crashed,
    /// It starts.
    Deploying,
    /// It never ran.
    Failed,
    /// It was asked for.
    Initializing,
    /// A person has to approve it.
    NeedsApproval,
    /// It waits for another one.
    Queued,
    /// It was taken down.
    Removed,
    /// It is taken down.
    Removing,
    /// Railway saw no reason for it.
    Skipped,
    /// It runs, and sleeps until somebody asks.
    Sleeping,
    /// It runs.
    Success,
    /// It waits for something else, such as a check of the repository.
    Waiting,
    /// A status that this version does not know.
    Unknown,
}

/// Variables by name. `None`: sealed, or masked.
pub type Values = BTreeMap<String, Option<Secret>>;

impl From<wire::Variable> for VariableState {
    fn from(variable: wire::Variable) -> Self {
        let wire::Variable { name, service_id, is_sealed, updated_at } = variable;
        Self { name, service: service_id, is_sealed, updated: updated_at }
    }
}

impl From<wire::ServiceInstance> for ServiceState {
    fn from(instance: wire::ServiceInstance) -> Self {
        let latest = instance.latest_deployment.map(Deployment::from);
        let active = instance.active_deployments.into_iter().map(Deployment::from).max_by_key(|one| one.created);
        Self { id: instance.service_id, name: instance.service_name, latest, active }
    }
}

impl From<wire::Deployment> for Deployment {
    fn from(deployment: wire::Deployment) -> Self {
        let wire::Deployment { id, status, created_at } = deployment;
        Self { id: id.into_inner(), status: status.into(), created: created_at }
    }
}

impl From<wire::DeploymentStatus> for DeploymentStatus {
    fn from(status: wire::DeploymentStatus) -> Self {
        use wire::DeploymentStatus as Wire;
        match status {
            Wire::Building => Self::Building,
            Wire::Crashed => Self::Crashed,
            Wire::Deploying => Self::Deploying,
            Wire::Failed => Self::Failed,
            Wire::Initializing => Self::Initializing,
            Wire::NeedsApproval => Self::NeedsApproval,
            Wire::Queued => Self::Queued,
            Wire::Removed => Self::Removed,
            Wire::Removing => Self::Removing,
            Wire::Skipped => Self::Skipped,
            Wire::Sleeping => Self::Sleeping,
            Wire::Success => Self::Success,
            Wire::Waiting => Self::Waiting,
            Wire::Unknown => Self::Unknown,
        }
    }
}
