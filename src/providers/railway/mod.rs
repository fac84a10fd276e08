//! Railway's GraphQL API, as far as opsctl uses it.
//!
//! Invariants:
//! * Values are read as they were written, and are written all or none; nothing else is touched, and nothing is deployed by it.
//! * A deployment, and a deletion, is asked for once. Reads and upserts are repeated, at most twice.
//! * What comes from Railway is neither trusted nor shown whole ([`error`]).

mod client;
mod delete;
mod error;
mod operations;
mod scalars;
mod types;

use std::collections::BTreeMap;
use std::time::Duration;

use cynic::{MutationBuilder as _, QueryBuilder as _};

use self::client::Client;
pub use self::delete::REQUESTS as DELETION;
use self::error::{Repeat, Task, Token, safe};
use self::operations as wire;
use self::scalars::Exposed;
pub use self::types::{Deployment, DeploymentStatus, Place, ServiceState, State, Values, VariableState};
use crate::config::Environment;
use crate::secret::Secret;
use crate::{Error, ExitCode, Result};

const READ: Task = Task { what: "read", repeat: Repeat::Read, unsure: "" };
const SCOPE: Task = Task { what: "see what the token is for", ..READ };
const STATE: Task = Task { what: "read the environment", ..READ };
const VALUES: Task = Task { what: "read the variables", ..READ };
const PROGRESS: Task = Task { what: "see how far the deployment is", ..READ };
const UPSERT: Task = Task {
    what: "write variables",
    repeat: Repeat::Write,
    unsure: "run the same command again: to write the same once more does no harm",
};
const DEPLOY: Task = Task {
    what: "start a deployment",
    repeat: Repeat::Never,
    unsure: "look at Railway whether one was started before you ask for another",
};

/// A client that has one credential.
#[derive(Debug)]
pub struct Railway(Client);

impl Railway {
    /// With `RAILWAY_TOKEN` (a project token) or, without it, `RAILWAY_API_TOKEN` (an account's or workspace's), at
    /// `OPSCTL_RAILWAY_URL` or the public end point.
    ///
    /// # Errors
    /// Denied, without a token; usage, when the URL is none.
    pub fn from_environment(environment: &Environment) -> Result<Self> {
        Client::from_environment(environment).map(Self)
    }

    /// Gives up a request after this time, instead of after 30 seconds.
    #[must_use]
    pub const fn within(mut self, limit: Duration) -> Self {
        self.0.limit = limit;
        self
    }

    /// Whether the credential is for this environment of this project.
    ///
    /// # Errors
    /// Denied, when it is not.
    pub async fn check_scope(&self, project: &str, environment: &str) -> Result<()> {
        let (of_project, of_environment) = match self.0.token {
            Token::Project => {
                let token = self.0.ask(SCOPE, &wire::TokenScope::build(())).await?.project_token;
                (token.project_id, token.environment_id)
            }
            Token::Api => {
                let asked = wire::EnvironmentProject::build(wire::OfEnvironment { environment });
                (self.0.ask(SCOPE, &asked).await?.environment.project_id, environment.to_owned())
            }
        };
        if of_project == project && of_environment == environment {
            return Ok(());
        }
        let message = match self.0.token {
            Token::Project => format!(
                "the project token is for environment {} of project {}, and the configuration names environment {environment} \
                 of project {project}",
                safe(&of_environment),
                safe(&of_project)
            ),
            Token::Api => format!(
                "environment {environment} is one of project {}, and the configuration names project {project}",
                safe(&of_project)
            ),
        };
        let hint = match self.0.token {
            Token::Project => {
                "give RAILWAY_TOKEN the token of the environment that is meant, or correct the configuration"
            }
            Token::Api => "correct the ids in the configuration",
        };
        Err(Error::new(ExitCode::Denied, message).hint(hint))
    }

    /// What there is in an environment.
    ///
    /// # Errors
    /// Denied, not found, rate-limited.
    pub async fn state(&self, project: &str, environment: &str) -> Result<State> {
        let mut state = State::default();
        let (mut variables, mut services) = (Cursor::default(), Cursor::default());
        while !(variables.is_last && services.is_last) {
            let pages = wire::Pages {
                project,
                environment,
                variables_after: variables.after.as_deref(),
                services_after: services.after.as_deref(),
            };
            let page = self.0.ask(STATE, &wire::EnvironmentState::build(pages)).await?.environment;
            state.name = page.name;
            state.variables.extend(page.variables.edges.into_iter().map(|edge| edge.node.into()));
            state.services.extend(page.service_instances.edges.into_iter().map(|edge| edge.node.into()));
            variables.turn(page.variables.page_info)?;
            services.turn(page.service_instances.page_info)?;
        }
        Ok(state)
    }

    /// The values of variables as they were written, references unresolved.
    ///
    /// # Errors
    /// Denied, not found, rate-limited.
    pub async fn variables(&self, place: &Place) -> Result<Values> {
        let Place { project, environment, service } = place;
        let place = wire::Where { project, environment, service: service.as_deref() };
        Ok(self.0.ask(VALUES, &wire::VariableValues::build(place)).await?.variables.0)
    }

    /// Writes variables, all or none, and leaves all others as they are. Nothing is deployed.
    ///
    /// # Errors
    /// Denied, rate-limited; failed, where nobody knows whether it was carried out.
    pub async fn upsert(&self, place: &Place, values: &BTreeMap<String, Secret>) -> Result<()> {
        let Place { project, environment, service } = place;
        let variables = Exposed(values);
        let written = wire::Written { project, environment, service: service.as_deref(), variables };
        let is_done = self.0.ask(UPSERT, &wire::VariableUpsert::build(written)).await?.variable_collection_upsert;
        is_done
            .then_some(())
            .ok_or_else(|| Error::new(ExitCode::Failed, "Railway says that it did not write the variables"))
    }

    /// Deletes variables, in one commit of each environment, that deploys nothing. Refused where somebody else has staged
    /// changes in the environment: the commit would carry them along.
    ///
    /// # Errors
    /// Busy, where changes of others are staged; denied, rate-limited.
    pub async fn delete(&self, places: &[(Place, Vec<String>)]) -> Result<()> {
        let mut environments: BTreeMap<&str, Vec<(&Place, &str)>> = BTreeMap::new();
        for (place, names) in places {
            let of_environment = environments.entry(&place.environment).or_default();
            of_environment.extend(names.iter().map(|name| (place, name.as_str())));
        }
        for (environment, names) in environments.into_iter().filter(|(_, names)| !names.is_empty()) {
            delete::delete(&self.0, environment, &names).await?;
        }
        Ok(())
    }

    /// Asks for a new deployment of a service; its id. Never sent twice.
    ///
    /// # Errors
    /// Denied, rate-limited; failed, where nobody knows whether it was carried out.
    pub async fn deploy(&self, environment: &str, service: &str) -> Result<String> {
        let asked = wire::ServiceDeploy::build(wire::Deployed { environment, service });
        Ok(self.0.ask(DEPLOY, &asked).await?.deployment)
    }

    /// How far a deployment is.
    ///
    /// # Errors
    /// Not found, denied, rate-limited.
    pub async fn deployment(&self, id: &str) -> Result<DeploymentStatus> {
        let asked = wire::DeploymentProgress::build(wire::OfDeployment { id });
        Ok(self.0.ask(PROGRESS, &asked).await?.deployment.status.into())
    }

    /// Requests so far, repeated ones among them.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.0.requests()
    }
}

/// How far a list has been read.
#[derive(Default)]
struct Cursor {
    after: Option<String>,
    is_last: bool,
}

impl Cursor {
    /// Goes on to the next page. Behind the last one comes an empty one, as long as the other list goes on.
    fn turn(&mut self, page: wire::PageInfo) -> Result<()> {
        self.is_last = !page.has_next_page;
        let is_further = page.end_cursor.is_some() && page.end_cursor != self.after;
        if page.has_next_page && !is_further {
            return Err(Error::new(ExitCode::Failed, "Railway says that a list goes on, and not where"));
        }
        self.after = page.end_cursor.or(self.after.take());
        Ok(())
    }
}
