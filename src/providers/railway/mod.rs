//! Railway's GraphQL API, as far as opsctl uses it.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::Result;
use crate::config::Environment;
use crate::secret::Secret;

/// A client that has one credential.
pub struct Railway {}

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

impl Railway {
    /// With `RAILWAY_TOKEN` (a project token) or, without it, `RAILWAY_API_TOKEN` (an account's or workspace's), at
    /// `OPSCTL_RAILWAY_URL` or the public end point.
    ///
    /// # Errors
    /// Denied, without a token; usage, when the URL is none.
    pub fn from_environment(_environment: &Environment) -> Result<Self> {
        unimplemented!()
    }

    /// Whether the credential is for this environment of this project.
    ///
    /// # Errors
    /// Denied, when it is not.
    pub async fn check_scope(&self, _project: &str, _environment: &str) -> Result<()> {
        unimplemented!()
    }

    /// What there is in an environment.
    ///
    /// # Errors
    /// Denied, not found, rate-limited.
    pub async fn state(&self, _project: &str, _environment: &str) -> Result<State> {
        unimplemented!()
    }

    /// The values of variables as they were written, references unresolved.
    ///
    /// # Errors
    /// Denied, not found, rate-limited.
    pub async fn variables(&self, _place: &Place) -> Result<Values> {
        unimplemented!()
    }

    /// Writes variables, all or none, and leaves all others as they are. Nothing is deployed.
    ///
    /// # Errors
    /// Denied, rate-limited; failed, where nobody knows whether it was carried out.
    pub async fn upsert(&self, _place: &Place, _values: &BTreeMap<String, Secret>) -> Result<()> {
        unimplemented!()
    }

    /// Deletes variables, in one commit that deploys nothing. Refused where somebody else has staged changes in the
    /// environment: the commit would carry them along.
    ///
    /// # Errors
    /// Busy, where changes of others are staged; denied, rate-limited.
    pub async fn delete(&self, _places: &[(Place, Vec<String>)]) -> Result<()> {
        unimplemented!()
    }

    /// Asks for a new deployment of a service; its id. Never sent twice.
    ///
    /// # Errors
    /// Denied, rate-limited; failed, where nobody knows whether it was carried out.
    pub async fn deploy(&self, _environment: &str, _service: &str) -> Result<String> {
        unimplemented!()
    }

    /// How far a deployment is.
    ///
    /// # Errors
    /// Not found, denied, rate-limited.
    pub async fn deployment(&self, _id: &str) -> Result<DeploymentStatus> {
        unimplemented!()
    }

    /// Requests so far, repeated ones among them.
    #[must_use]
    pub fn requests(&self) -> u64 {
        unimplemented!()
    }
}
