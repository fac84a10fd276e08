//! Everything that is read before anything is decided.
//!
//! Invariant: the order. The token must belong to the target before anything else is asked, and all sources must have values
//! before Railway is asked for what it has.

use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use schemars::JsonSchema;
use secrecy::ExposeSecret as _;
use serde::Serialize;

use super::fingerprint::Fingerprints;
use super::plan::{Known, Plan};
use super::record::RecordFile;
use super::resolve::{Resolved, Sources, Value, provider_of, resolve};
use super::rollout::looks;
use crate::cancel::Cancel;
use crate::config::secrets::{Mapping, Secrets, Service, Source, Target};
use crate::config::{Environment, read_limited};
use crate::providers::onepassword::OnePassword;
use crate::providers::railway::{DELETION, Place, Railway, State, Values};
use crate::secret::Secret;
use crate::{Error, ExitCode, Result, ui};

/// Services whose variables are read at once.
const AT_ONCE: usize = 4;

/// A target with all that was read of it.
pub struct Work<'a> {
    /// The target.
    pub target: &'a Target,
    /// Those of its services that were asked for.
    pub services: Vec<&'a Service>,
    /// Railway.
    pub railway: Railway,
    /// 1Password; `None` where nothing refers to it.
    pub vaults: Option<OnePassword>,
    /// Makes fingerprints.
    pub fingerprints: Fingerprints,
    /// Every source with its value.
    pub resolved: Resolved,
    /// The environment without values.
    pub state: State,
    /// The values of each service, in the order of the services.
    pub values: Vec<Values>,
}

/// Requests that a sync takes, repeated ones left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Requests {
    /// As the limits of a service account count them.
    pub onepassword: u64,
    /// At most.
    pub railway: u64,
    /// Of these, at most: looks at deployments that are under way.
    pub railway_waiting: u64,
}

/// The target that is meant: the one of this name, or the only one.
///
/// # Errors
/// Usage, when there is none or it is not clear which.
pub fn target<'a>(secrets: &'a Secrets, name: Option<&str>) -> Result<&'a Target> {
    let targets = secrets.targets.as_slice();
    let names = targets.iter().map(|target| target.name.as_str()).collect::<Vec<_>>().join(", ");
    match (name, targets) {
        (None, [target]) => Ok(target),
        (None, _) => Err(Error::usage(format!("there are several targets: {names}")).hint("give --target NAME")),
        (Some(name), targets) => targets.iter().find(|target| target.name == name).ok_or_else(|| {
            Error::usage(format!("there is no target `{}`", ui::escape(name))).hint(format!("there are: {names}"))
        }),
    }
}

/// Those services of a target that are meant: the named ones, or all.
///
/// # Errors
/// Usage, when the target has none of a name, or none at all.
pub fn services<'a>(target: &'a Target, names: &[String]) -> Result<Vec<&'a Service>> {
    let known = target.services.iter().map(|service| service.name.as_str()).collect::<Vec<_>>().join(", ");
    if let Some(name) = names.iter().find(|name| !target.services.iter().any(|service| service.name == **name)) {
        let message = format!("the target `{}` has no service `{}`", target.name, ui::escape(name));
        return Err(Error::usage(message).hint(format!("it has: {known}")));
    }
    let is_meant = |service: &&Service| names.is_empty() || names.contains(&service.name);
    let services: Vec<&Service> = target.services.iter().filter(is_meant).collect();
    if services.is_empty() {
        return Err(Error::usage(format!("the target `{}` has no services", target.name))
            .hint("add [[secrets.targets.services]] to the configuration file"));
    }
    Ok(services)
}

impl<'a> Work<'a> {
    /// Reads everything.
    ///
    /// # Errors
    /// Denied, when the token is for another environment; whatever keeps a source from having a value; what Railway refuses.
    pub async fn gather(
        secrets: &Secrets,
        target: &'a Target,
        services: Vec<&'a Service>,
        stdin: Option<Secret>,
        environment: &Environment,
        cancel: &Cancel,
    ) -> Result<Self> {
        let railway = Railway::from_environment(environment)?;
        railway.check_scope(&target.project, &target.environment).await?;
        let vaults = one_password(secrets, &services, environment, cancel).await?;
        let sources = Sources { vaults: vaults.as_ref(), environment, stdin };
        let key = secrets.fingerprint_key.as_ref();
        let resolved = resolve(target, &services, key, &sources).await?;
        let key = key.and_then(|key| resolved.values.get(key)).map(|value| &value.secret);
        let fingerprints = Fingerprints::new(key)?;
        let (state, values) = read(&railway, target, &services).await?;
        Ok(Self { target, services, railway, vaults, fingerprints, resolved, state, values })
    }

    /// What a sync would do.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn plan(&self, record: &RecordFile, prune: bool) -> Result<Plan> {
        Plan::new(self.target, &self.services, &self.known(record, prune))
    }

    /// The same, where the values of all sources have just been made.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn plan_of_new(&self, record: &RecordFile) -> Result<Plan> {
        Plan::new(self.target, &self.services, &Known { are_new: true, ..self.known(record, false) })
    }

    /// Reads anew what Railway has.
    ///
    /// # Errors
    /// What Railway refuses.
    pub async fn reread(&mut self) -> Result<()> {
        (self.state, self.values) = read(&self.railway, self.target, &self.services).await?;
        Ok(())
    }

    pub(super) const fn known<'k>(&'k self, record: &'k RecordFile, prune: bool) -> Known<'k> {
        Known {
            resolved: &self.resolved,
            state: &self.state,
            values: self.values.as_slice(),
            record,
            fingerprints: &self.fingerprints,
            prune,
            are_new: false,
        }
    }

    /// What a sync of this plan takes, from its start.
    #[must_use]
    pub fn requests(&self, plan: &Plan, timeout: Duration) -> Requests {
        let number = |count: usize| count as u64;
        let writes = number(plan.services.iter().filter(|service| !service.writes.is_empty()).count());
        let deletes = number(plan.services.iter().filter(|service| !service.deletes.is_empty()).count());
        let waits = number(plan.services.iter().filter(|one| one.deploy != super::deploy::Deploy::None).count());
        let before = self.railway.requests();
        // The scope and the variables of each service take one request each; the rest went into the state of the environment.
        let state = before.saturating_sub(1 + number(self.services.len())).max(1);
        let after = if writes + deletes > 0 { state } else { 0 };
        // Where somebody is asked, everything is read again behind the answer.
        let again = if plan.is_pending() { before.saturating_sub(1) } else { 0 };
        let deletion = if deletes > 0 { DELETION } else { 0 };
        // One look at all deployments, and one more for each that is not the newest of its service.
        let waiting = if waits > 0 { looks(timeout) * (state + waits) } else { 0 };
        Requests {
            onepassword: self.vaults.as_ref().map_or(0, OnePassword::requests),
            railway: before + again + 2 * writes + deletion + after + number(plan.deploys()) + waiting,
            railway_waiting: waiting,
        }
    }

    /// The value of a variable of a service.
    #[must_use]
    pub fn value(&self, mapping: &Mapping) -> Option<&Value> {
        self.resolved.values.get(&mapping.source)
    }
}

/// 1Password, if anything refers to it.
async fn one_password(
    secrets: &Secrets,
    services: &[&Service],
    environment: &Environment,
    cancel: &Cancel,
) -> Result<Option<OnePassword>> {
    let all = services.iter().flat_map(|service| service.variables.values()).map(|mapping| &mapping.source);
    let mut all = all.chain(&secrets.fingerprint_key);
    if !all.any(|source| matches!(source, Source::OnePassword(_))) {
        return Ok(None);
    }
    provider_of(secrets.provider, environment, cancel).await.map(Some)
}

/// Whether anything refers to standard input.
#[must_use]
pub fn needs_stdin(services: &[&Service]) -> bool {
    let mut all = services.iter().flat_map(|service| service.variables.values()).map(|mapping| &mapping.source);
    all.any(|source| *source == Source::Stdin)
}

/// All of standard input, if anything refers to it.
///
/// # Errors
/// Usage, when it holds nothing that could be a secret.
pub fn stdin(services: &[&Service]) -> Result<Option<Secret>> {
    if !needs_stdin(services) {
        return Ok(None);
    }
    let text = read_limited(std::io::stdin().lock(), "secret", "standard input")?;
    Ok(Some(Secret::new(text.expose_secret()).hidden()))
}

/// What Railway has; not found, where a service is not in the environment.
pub(super) async fn read(railway: &Railway, target: &Target, services: &[&Service]) -> Result<(State, Vec<Values>)> {
    let state = railway.state(&target.project, &target.environment).await?;
    for service in services {
        if let Some(id) = service.id.as_ref().filter(|id| !state.services.iter().any(|one| one.id == **id)) {
            let message = format!("the environment has no service {id} (`{}` of `{}`)", service.name, target.name);
            return Err(Error::new(ExitCode::NotFound, message)
                .hint("compare the ids with the URL of the service in Railway's dashboard"));
        }
    }
    let places: Vec<Place> = services.iter().map(|service| place(target, service)).collect();
    let work = places.iter().map(|place| railway.variables(place));
    let values = futures::stream::iter(work).buffered(AT_ONCE).try_collect().await?;
    Ok((state, values))
}

/// Where the variables of a service are.
pub(super) fn place(target: &Target, service: &Service) -> Place {
    Place { project: target.project.clone(), environment: target.environment.clone(), service: service.id.clone() }
}
