//! What there is at Railway: environments, services, variables, deployments, tokens, staged changes.

use std::collections::{BTreeMap, VecDeque};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

use super::SHARED;

/// How a deployment goes on unless a test says otherwise.
pub const COURSE: [&str; 4] = ["INITIALIZING", "BUILDING", "DEPLOYING", "SUCCESS"];

/// An error of GraphQL: its message and its code.
pub type Refusal = (String, &'static str);

pub fn refusal<T>(message: impl Into<String>) -> Result<T, Refusal> {
    Err((message.into(), "INTERNAL_SERVER_ERROR"))
}

#[derive(Clone, Debug)]
pub struct Variable {
    pub value: String,
    pub is_sealed: bool,
    pub updated: Timestamp,
}

pub type Variables = BTreeMap<String, Variable>;

#[derive(Debug, Default)]
pub struct Environment {
    pub project: String,
    pub name: String,
    /// By id.
    pub services: BTreeMap<String, Service>,
    pub shared: Variables,
    pub staged: Map<String, Value>,
    /// Why the changes could not be applied.
    pub staged_error: Option<String>,
    pub is_applying: bool,
}

#[derive(Debug, Default)]
pub struct Service {
    pub name: String,
    pub variables: Variables,
    /// Deployments that were asked for, by whatever.
    pub deploys: usize,
    /// The courses of the next ones.
    pub courses: VecDeque<Vec<String>>,
}

#[derive(Debug)]
pub struct Deployment {
    pub id: String,
    pub environment: String,
    pub service: String,
    pub created: Timestamp,
    pub course: VecDeque<String>,
    pub status: String,
    /// What the container is given.
    pub variables: BTreeMap<String, String>,
}

/// A commit that is to be applied.
#[derive(Clone, Debug)]
pub struct Workflow {
    pub environment: String,
    /// The statuses to come.
    pub course: VecDeque<String>,
    pub changes: Map<String, Value>,
    pub deploys: bool,
}

/// Whose a token is.
#[derive(Clone, Debug)]
pub enum Access {
    /// One environment's.
    Project(String),
    /// An account's that sees these projects.
    Account(Vec<String>),
}

#[derive(Debug)]
pub struct World {
    pub environments: BTreeMap<String, Environment>,
    /// Oldest first.
    pub deployments: Vec<Deployment>,
    pub tokens: BTreeMap<String, Access>,
    pub workflows: BTreeMap<String, Workflow>,
    pub workflow_course: Vec<String>,
    /// Changes of the configuration that are none of variables, as they were applied.
    pub other_changes: Vec<Value>,
    pub page: usize,
    last: Timestamp,
    pub skew: SignedDuration,
    ids: u64,
}

impl World {
    pub fn new() -> Self {
        Self {
            environments: BTreeMap::new(),
            deployments: Vec::new(),
            tokens: BTreeMap::new(),
            workflows: BTreeMap::new(),
            workflow_course: vec!["Complete".to_owned()],
            other_changes: Vec::new(),
            page: 100,
            last: Timestamp::UNIX_EPOCH,
            skew: SignedDuration::ZERO,
            ids: 0,
        }
    }

    /// The time of the server, later each time it is asked for.
    pub fn now(&mut self) -> Timestamp {
        let least = self.last + SignedDuration::from_millis(1);
        let now = (Timestamp::now() + self.skew).round(jiff::Unit::Millisecond).expect("a time");
        self.last = now.max(least);
        self.last
    }

    /// An id that nothing else has.
    pub fn id(&mut self) -> String {
        self.ids += 1;
        format!("{:08x}-0000-4000-8000-{:012x}", self.ids.wrapping_mul(2_654_435_761) & 0xffff_ffff, self.ids)
    }

    /// The variables of a place: a service by its id, or shared ones.
    pub fn place(&mut self, environment: &str, service: Option<&str>) -> Result<&mut Variables, Refusal> {
        let Some(there) = self.environments.get_mut(environment) else { return refusal("Environment not found") };
        match service {
            None => Ok(&mut there.shared),
            Some(id) => match there.services.get_mut(id) {
                Some(service) => Ok(&mut service.variables),
                None => refusal("ServiceInstance not found"),
            },
        }
    }

    /// Writes variables; a sealed one stays sealed.
    pub fn write(
        &mut self,
        environment: &str,
        service: Option<&str>,
        values: &Map<String, Value>,
    ) -> Result<(), Refusal> {
        if let Some((name, _)) = values.iter().find(|(name, value)| name.is_empty() || !value.is_string()) {
            return Err((format!("Invalid value for variable {name}"), "BAD_USER_INPUT"));
        }
        let now = self.now();
        let variables = self.place(environment, service)?;
        for (name, value) in values {
            let is_sealed = variables.get(name).is_some_and(|variable| variable.is_sealed);
            let value = value.as_str().expect("a text").to_owned();
            variables.insert(name.clone(), Variable { value, is_sealed, updated: now });
        }
        Ok(())
    }

    /// What Railway itself gives a service.
    pub fn provided(&self, environment: &str, service: &str) -> BTreeMap<String, String> {
        let there = &self.environments[environment];
        let name = &there.services[service].name;
        let entries = [
            ("RAILWAY_PROJECT_ID", there.project.clone()),
            ("RAILWAY_ENVIRONMENT_ID", environment.to_owned()),
            ("RAILWAY_ENVIRONMENT_NAME", there.name.clone()),
            ("RAILWAY_SERVICE_ID", service.to_owned()),
            ("RAILWAY_SERVICE_NAME", name.clone()),
            ("RAILWAY_PRIVATE_DOMAIN", format!("{name}.railway.internal")),
        ];
        entries.map(|(name, value)| (name.to_owned(), value)).into()
    }

    /// Every variable that a container of the service gets, its references resolved.
    pub fn rendered(&self, environment: &str, service: Option<&str>) -> BTreeMap<String, String> {
        let names = |variables: &Variables| variables.keys().cloned().collect::<Vec<_>>();
        let there = &self.environments[environment];
        let (names, provided) = match service {
            None => (names(&there.shared), BTreeMap::new()),
            Some(id) => (names(&there.services[id].variables), self.provided(environment, id)),
        };
        let value = |name: String| (self.value(environment, service, &name, 10), name);
        provided.into_iter().chain(names.into_iter().map(value).map(|(value, name)| (name, value))).collect()
    }

    fn value(&self, environment: &str, service: Option<&str>, name: &str, depth: usize) -> String {
        let there = &self.environments[environment];
        let variables = service.map_or(&there.shared, |id| &there.services[id].variables);
        let Some(variable) = variables.get(name).filter(|_| depth > 0) else {
            return service.and_then(|id| self.provided(environment, id).remove(name)).unwrap_or_default();
        };
        let mut text = String::new();
        let mut rest = variable.value.as_str();
        while let Some((before, (inside, after))) =
            rest.split_once("${{").and_then(|(a, b)| Some((a, b.split_once("}}")?)))
        {
            text.push_str(before);
            let of_service = |wanted: &str| {
                let found = there.services.iter().find(|(_, service)| service.name == wanted);
                found.map(|(id, _)| id.as_str())
            };
            text.push_str(&match inside.trim().split_once('.') {
                None => self.value(environment, service, inside.trim(), depth - 1),
                Some((SHARED, name)) => self.value(environment, None, name, depth - 1),
                Some((other, name)) => {
                    of_service(other).map(|id| self.value(environment, Some(id), name, depth - 1)).unwrap_or_default()
                }
            });
            rest = after;
        }
        text + rest
    }

    /// A new deployment with the variables of now.
    pub fn deploy(&mut self, environment: &str, service: &str) -> Result<String, Refusal> {
        self.place(environment, Some(service))?;
        let variables = self.rendered(environment, Some(service));
        let (id, created) = (self.id(), self.now());
        let of =
            self.environments.get_mut(environment).and_then(|there| there.services.get_mut(service)).expect("there");
        of.deploys += 1;
        let course = of.courses.pop_front().unwrap_or_else(|| COURSE.map(str::to_owned).into());
        let mut course = VecDeque::from(course);
        let status = course.pop_front().expect("a deployment has a status");
        let (environment, service) = (environment.to_owned(), service.to_owned());
        self.deployments.push(Deployment { id: id.clone(), environment, service, created, course, status, variables });
        self.settle();
        Ok(id)
    }

    /// One step on; its status then.
    pub fn step(&mut self, id: &str) -> Option<String> {
        let deployment = self.deployments.iter_mut().find(|deployment| deployment.id == id)?;
        if let Some(next) = deployment.course.pop_front() {
            deployment.status = next;
        }
        self.settle();
        self.deployments.iter().find(|deployment| deployment.id == id).map(|deployment| deployment.status.clone())
    }

    /// What ran before the newest that runs is taken down.
    fn settle(&mut self) {
        let mut seen = std::collections::BTreeSet::new();
        for deployment in self.deployments.iter_mut().rev() {
            if runs(&deployment.status) && !seen.insert((deployment.environment.clone(), deployment.service.clone())) {
                deployment.status = "REMOVED".to_owned();
                deployment.course.clear();
            }
        }
    }

    pub fn running(&self, environment: &str, service: &str) -> Option<&Deployment> {
        self.of(environment, service).find(|deployment| runs(&deployment.status))
    }

    /// The deployments of a service, newest first.
    pub fn of(&self, environment: &str, service: &str) -> impl Iterator<Item = &Deployment> {
        let is_of =
            move |deployment: &&Deployment| deployment.environment == environment && deployment.service == service;
        self.deployments.iter().rev().filter(is_of)
    }

    /// Deploys what a change of this place's variables reaches.
    pub fn deploy_affected(&mut self, environment: &str, service: Option<&str>) -> Result<(), Refusal> {
        let affected: Vec<String> = match service {
            Some(id) => vec![id.to_owned()],
            None => {
                let refers = |service: &Service| service.variables.values().any(|v| v.value.contains("${{shared."));
                let services = self.environments[environment].services.iter();
                services.filter(|(_, service)| refers(service)).map(|(id, _)| id.clone()).collect()
            }
        };
        affected.iter().try_for_each(|id| self.deploy(environment, id).map(drop))
    }

    /// The staged changes as they are read.
    pub fn patch(&self, environment: &str, is_decrypted: bool) -> Value {
        let there = &self.environments[environment];
        let mut patch = Value::Object(there.staged.clone());
        if !is_decrypted {
            mask(&mut patch);
        }
        let status = if there.is_applying { "APPLYING" } else { "STAGED" };
        let id = if there.staged.is_empty() { "<empty>" } else { "00000000-0000-4000-8000-00000000beef" };
        json!({ "id": id, "status": status, "patch": patch, "environmentId": environment,
                "lastAppliedError": there.staged_error, "message": null })
    }

    /// Commits what is staged; the id of the workflow that applies it.
    pub fn commit(&mut self, environment: &str, deploys: bool) -> Result<String, Refusal> {
        let id = self.id();
        let course = VecDeque::from(self.workflow_course.clone());
        let there = self.environments.get_mut(environment).expect("it was looked at");
        if there.staged.is_empty() {
            return refusal("There are no staged changes to commit");
        }
        there.is_applying = true;
        let changes = there.staged.clone();
        let environment = environment.to_owned();
        self.workflows.insert(id.clone(), Workflow { environment, course, changes, deploys });
        Ok(id)
    }

    /// How far a workflow is; one step on each time.
    pub fn workflow(&mut self, id: &str) -> Result<&'static str, Refusal> {
        let Some(workflow) = self.workflows.get_mut(id) else { return Ok("NotFound") };
        let status = workflow.course.pop_front().unwrap_or_else(|| "Complete".to_owned());
        let Workflow { environment, changes, deploys, .. } = workflow.clone();
        let is_due = self.environments[&environment].is_applying;
        let there = self.environments.get_mut(&environment).expect("there");
        match status.as_str() {
            // "Forgotten" is applied, and not found any more.
            "Complete" | "Forgotten" if is_due => {
                (there.is_applying, there.staged, there.staged_error) = (false, Map::new(), None);
                self.apply(&environment, &changes, deploys)?;
            }
            "Error" => {
                there.is_applying = false;
                there.staged_error = Some("could not be applied".to_owned());
            }
            _ => {}
        }
        Ok(match status.as_str() {
            "Complete" => "Complete",
            "Error" => "Error",
            "Running" => "Running",
            _ => "NotFound",
        })
    }

    fn apply(&mut self, environment: &str, changes: &Map<String, Value>, deploys: bool) -> Result<(), Refusal> {
        let empty = Map::new();
        for (part, change) in changes {
            let change = change.as_object().unwrap_or(&empty);
            match part.as_str() {
                "sharedVariables" => self.apply_variables(environment, None, change, deploys)?,
                "services" => {
                    for (service, change) in change {
                        for (part, change) in change.as_object().unwrap_or(&empty) {
                            if part == "variables" {
                                let variables = change.as_object().unwrap_or(&empty);
                                self.apply_variables(environment, Some(service), variables, deploys)?;
                            } else {
                                self.other_changes.push(json!({ service: { part: change } }));
                            }
                        }
                    }
                }
                other => self.other_changes.push(json!({ other: change })),
            }
        }
        Ok(())
    }

    fn apply_variables(
        &mut self,
        environment: &str,
        service: Option<&str>,
        changes: &Map<String, Value>,
        deploys: bool,
    ) -> Result<(), Refusal> {
        if changes.is_empty() {
            return Ok(());
        }
        let now = self.now();
        let variables = self.place(environment, service)?;
        for (name, change) in changes {
            if change.is_null() {
                variables.remove(name);
                continue;
            }
            let old = variables.get(name);
            let value = change["value"].as_str().map(str::to_owned);
            let value = value.or_else(|| old.map(|old| old.value.clone())).unwrap_or_default();
            let is_sealed = old.is_some_and(|old| old.is_sealed) || change["isSealed"] == true;
            variables.insert(name.clone(), Variable { value, is_sealed, updated: now });
        }
        if deploys { self.deploy_affected(environment, service) } else { Ok(()) }
    }
}

pub fn runs(status: &str) -> bool {
    matches!(status, "SUCCESS" | "SLEEPING")
}

/// One part of a configuration over another.
pub fn merge(below: &mut Map<String, Value>, above: &Map<String, Value>) {
    for (name, value) in above {
        match (below.get_mut(name), value) {
            (Some(Value::Object(below)), Value::Object(above)) => merge(below, above),
            _ => drop(below.insert(name.clone(), value.clone())),
        }
    }
}

fn mask(config: &mut Value) {
    let Value::Object(parts) = config else { return };
    for (name, part) in parts {
        match part {
            Value::String(_) if name == "value" => *part = Value::Null,
            other => mask(other),
        }
    }
}
