//! A stand-in for Railway's API: it keeps what it is told, checks every request against Railway's schema, and goes wrong as a
//! test says. Its interface is not async, and it runs in threads of its own until it goes out of scope.
//!
//! A place is named `openwork` (a service of the environment that it starts with), [`SHARED`] (the shared variables of that), or
//! `staging/openwork`, `staging/shared` for another environment. A service may be named by its id too.
//!
//! A request that Railway would not take is a violation: it fails the test when the stand-in goes, unless the test has
//! [taken](FakeRailway::violations) it.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of this module")]
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "a test helper fails by panicking")]

mod answers;
pub mod graphql;
mod http;
mod world;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value};

use self::world::{Access, Environment, Service, World};

/// The name of shared variables.
pub const SHARED: &str = "shared";
/// The environment that there is at first.
pub const PRODUCTION: &str = "production";
/// The path of the end point.
pub const PATH: &str = "/graphql/v2";
/// Stands on every error.
pub const TRACE: &str = "4851290376125549000";

/// What goes wrong with a request. What begins with `Done` comes after it was carried out, and so does [`Fault::Cut`]; the others
/// come instead.
#[derive(Clone, Debug)]
pub enum Fault {
    /// 429 of Railway, with the seconds until it takes requests again.
    Limited(Option<u64>),
    /// 429 of Cloudflare.
    Cloudflare,
    /// 500.
    Down,
    /// 502 with a page.
    BadGateway,
    /// A status without a body.
    Status(u16),
    /// 200 with a page.
    Html,
    /// No answer, ever.
    Hang,
    DoneAndHang,
    /// The connection is closed.
    HangUp,
    DoneAndHangUp,
    /// The answer ends too early.
    Cut,
    /// 200 with an error.
    Error(String),
    /// A status with an error.
    Refuse(u16, String),
    /// A status with an error that repeats the request.
    Echo(u16),
    /// Asks for the same elsewhere.
    Redirect(String),
    /// 200 with this.
    Answer(Value),
    /// The right answer, after this time.
    Slow(Duration),
}

impl Fault {
    const fn comes_first(&self) -> bool {
        !matches!(self, Self::DoneAndHang | Self::DoneAndHangUp | Self::Cut | Self::Slow(_))
    }
}

/// When a hook runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Before the request is carried out.
    Before,
    /// After that, and before its answer.
    After,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The field that it asks for, such as `variableCollectionUpsert`.
    pub operation: String,
    pub document: String,
    pub variables: Value,
    /// Of the URL.
    pub query: String,
    /// By their names in lower case.
    pub headers: BTreeMap<String, String>,
}

type Hook = (usize, When, Box<dyn FnOnce() + Send>);

/// Which requests a fault is for.
struct Rule {
    /// `*` is any.
    operation: String,
    /// From which request on, as they are counted.
    from: usize,
    times: usize,
    fault: Fault,
}

struct Inside {
    world: World,
    seen: Vec<Seen>,
    rules: Vec<Rule>,
    hooks: Vec<Hook>,
    latency: Duration,
    violations: Vec<String>,
}

impl Inside {
    fn fault(&mut self, operation: &str, number: usize) -> Option<Fault> {
        let is_due = |rule: &&mut Rule| {
            (rule.operation == "*" || rule.operation == operation) && number >= rule.from && rule.times > 0
        };
        let rule = self.rules.iter_mut().find(is_due)?;
        rule.times = rule.times.saturating_sub(1);
        Some(rule.fault.clone())
    }
}

struct Shared {
    inside: Mutex<Inside>,
}

/// The stand-in.
pub struct FakeRailway {
    shared: Arc<Shared>,
    runtime: Option<tokio::runtime::Runtime>,
    port: u16,
    project: String,
    environment: String,
    token: String,
    account: String,
}

impl FakeRailway {
    /// With one project that has one environment, and no service.
    pub fn start() -> Self {
        let mut world = World::new();
        let project = world.id();
        let environment = world.id();
        let first = Environment { project: project.clone(), name: PRODUCTION.to_owned(), ..Environment::default() };
        world.environments.insert(environment.clone(), first);
        let token = format!("rwpt-{}", world.id());
        let account = format!("rwat-{}", world.id());
        world.tokens.insert(token.clone(), Access::Project(environment.clone()));
        world.tokens.insert(account.clone(), Access::Account(vec![project.clone()]));
        let inside = Inside {
            world,
            seen: Vec::new(),
            rules: Vec::new(),
            hooks: Vec::new(),
            latency: Duration::ZERO,
            violations: Vec::new(),
        };
        let shared = Arc::new(Shared { inside: Mutex::new(inside) });

        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("bind a loopback port");
        listener.set_nonblocking(true).expect("a socket");
        let port = listener.local_addr().expect("a bound port").port();
        let app = axum::Router::new().fallback(http::serve).with_state(shared.clone());
        let _inside = runtime.enter();
        let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
        runtime.spawn(async move { axum::serve(listener, app).await });
        drop(_inside);
        Self { shared, runtime: Some(runtime), port, project, environment, token, account }
    }

    /// For `OPSCTL_RAILWAY_URL`.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}{PATH}", self.port)
    }

    /// The variables that a process needs to use it, with the project token.
    pub fn variables_for(&self) -> [(&'static str, String); 2] {
        [("OPSCTL_RAILWAY_URL", self.url()), ("RAILWAY_TOKEN", self.token.clone())]
    }

    /// The id of the project.
    pub fn project(&self) -> &str {
        &self.project
    }

    /// The id of the environment that there is at first.
    pub fn environment(&self) -> &str {
        &self.environment
    }

    /// A token for that environment.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// A token of an account that has the project.
    pub fn account_token(&self) -> &str {
        &self.account
    }

    /// A further environment of the project; its id.
    pub fn add_environment(&self, name: &str) -> String {
        self.add_environment_of(&self.project, name)
    }

    /// A further environment of a project, maybe of another one; its id.
    pub fn add_environment_of(&self, project: &str, name: &str) -> String {
        let mut inside = self.shared.lock();
        let id = inside.world.id();
        let environment = Environment { project: project.to_owned(), name: name.to_owned(), ..Environment::default() };
        inside.world.environments.insert(id.clone(), environment);
        id
    }

    /// A project token for an environment, by its id.
    pub fn token_for(&self, environment: &str) -> String {
        let mut inside = self.shared.lock();
        let token = format!("rwpt-{}", inside.world.id());
        inside.world.tokens.insert(token.clone(), Access::Project(environment.to_owned()));
        token
    }

    /// This is a project token too, for the environment that there is at first.
    pub fn accept(&self, token: &str) {
        self.shared.lock().world.tokens.insert(token.to_owned(), Access::Project(self.environment.clone()));
    }

    /// The token is refused from now on.
    pub fn revoke(&self, token: &str) {
        self.shared.lock().world.tokens.remove(token);
    }

    /// A new service at a place; its id. It has no deployment.
    pub fn service(&self, place: &str) -> String {
        let (environment, name) = self.split(place);
        let mut inside = self.shared.lock();
        let id = inside.world.id();
        let service = Service { name, ..Service::default() };
        inside.world.environments.get_mut(&environment).expect("an environment").services.insert(id.clone(), service);
        id
    }

    /// The id of the environment, and the rest of a place.
    fn split(&self, place: &str) -> (String, String) {
        let (environment, name) = place.split_once('/').unwrap_or((PRODUCTION, place));
        let inside = self.shared.lock();
        let mut found =
            inside.world.environments.iter().filter(|(id, there)| there.name == environment || *id == environment);
        let (id, _) = found.next().unwrap_or_else(|| panic!("there is no environment {environment}"));
        (id.clone(), name.to_owned())
    }

    /// The ids of environment and service; none for shared variables.
    fn place(&self, place: &str) -> (String, Option<String>) {
        let (environment, name) = self.split(place);
        if name == SHARED {
            return (environment, None);
        }
        let inside = self.shared.lock();
        let services = &inside.world.environments[&environment].services;
        let found = services.iter().find(|(id, service)| service.name == name || **id == name);
        let (id, _) = found.unwrap_or_else(|| panic!("there is no service {name}"));
        (environment.clone(), Some(id.clone()))
    }

    /// The ids of environment and service.
    fn service_at(&self, place: &str) -> (String, String) {
        let (environment, service) = self.place(place);
        (environment, service.expect("a service"))
    }

    /// Somebody sets a variable by hand.
    pub fn set(&self, place: &str, name: &str, value: &str) {
        let (environment, service) = self.place(place);
        let values = Map::from_iter([(name.to_owned(), Value::from(value))]);
        self.shared.lock().world.write(&environment, service.as_deref(), &values).expect("a place");
    }

    /// Somebody removes a variable by hand.
    pub fn remove(&self, place: &str, name: &str) {
        let (environment, service) = self.place(place);
        self.shared.lock().world.place(&environment, service.as_deref()).expect("a place").remove(name);
    }

    /// Nobody can read it from now on.
    pub fn seal(&self, place: &str, name: &str) {
        let (environment, service) = self.place(place);
        let mut inside = self.shared.lock();
        let variables = inside.world.place(&environment, service.as_deref()).expect("a place");
        variables.get_mut(name).expect("a variable").is_sealed = true;
    }

    /// The value of a variable as it was written, a sealed one too.
    pub fn get(&self, place: &str, name: &str) -> Option<String> {
        self.variables(place).remove(name)
    }

    /// All values of a place as they were written, sealed ones too.
    pub fn variables(&self, place: &str) -> BTreeMap<String, String> {
        let (environment, service) = self.place(place);
        let mut inside = self.shared.lock();
        let variables = inside.world.place(&environment, service.as_deref()).expect("a place");
        variables.iter().map(|(name, variable)| (name.clone(), variable.value.clone())).collect()
    }

    pub fn is_sealed(&self, place: &str, name: &str) -> bool {
        let (environment, service) = self.place(place);
        let mut inside = self.shared.lock();
        inside.world.place(&environment, service.as_deref()).expect("a place")[name].is_sealed
    }

    /// When a variable was last written, by the clock of the server.
    pub fn updated(&self, place: &str, name: &str) -> Timestamp {
        let (environment, service) = self.place(place);
        let mut inside = self.shared.lock();
        inside.world.place(&environment, service.as_deref()).expect("a place")[name].updated
    }

    /// The clock of the server is so much ahead.
    pub fn set_skew(&self, skew: SignedDuration) {
        self.shared.lock().world.skew = skew;
    }

    /// The service runs with the variables of now. Not counted as a deploy.
    pub fn run(&self, place: &str) {
        let (environment, service) = self.service_at(place);
        let mut inside = self.shared.lock();
        let of = inside.world.environments.get_mut(&environment).and_then(|there| there.services.get_mut(&service));
        of.expect("a service").courses.push_front(vec!["SUCCESS".to_owned()]);
        inside.world.deploy(&environment, &service).expect("a service");
        let of = inside.world.environments.get_mut(&environment).and_then(|there| there.services.get_mut(&service));
        of.expect("a service").deploys -= 1;
    }

    /// Somebody deploys the service by hand.
    pub fn deploy(&self, place: &str) {
        let (environment, service) = self.service_at(place);
        self.shared.lock().world.deploy(&environment, &service).expect("a service");
    }

    /// What the running service has, references resolved: nothing, where none runs.
    pub fn running(&self, place: &str) -> BTreeMap<String, String> {
        let (environment, service) = self.service_at(place);
        let inside = self.shared.lock();
        inside.world.running(&environment, &service).map(|running| running.variables.clone()).unwrap_or_default()
    }

    /// How often a deployment of the service was asked for.
    pub fn deploys(&self, place: &str) -> usize {
        let (environment, service) = self.service_at(place);
        self.shared.lock().world.environments[&environment].services[&service].deploys
    }

    /// The statuses that the next deployment goes through; for further ones, say it again.
    pub fn next_deployment(&self, place: &str, course: &[&str]) {
        let (environment, service) = self.service_at(place);
        let course = course.iter().map(|status| (*status).to_owned()).collect();
        let mut inside = self.shared.lock();
        let of = inside.world.environments.get_mut(&environment).and_then(|there| there.services.get_mut(&service));
        of.expect("a service").courses.push_back(course);
    }

    /// The id and the status of the newest deployment.
    pub fn latest(&self, place: &str) -> Option<(String, String)> {
        let (environment, service) = self.service_at(place);
        let inside = self.shared.lock();
        inside.world.of(&environment, &service).next().map(|latest| (latest.id.clone(), latest.status.clone()))
    }

    /// All deployments go to their ends, as they do when nobody looks.
    pub fn finish_deployments(&self) {
        let mut inside = self.shared.lock();
        let ids: Vec<String> = inside.world.deployments.iter().map(|deployment| deployment.id.clone()).collect();
        for id in ids {
            while inside.world.deployments.iter().any(|it| it.id == id && !it.course.is_empty()) {
                inside.world.step(&id);
            }
        }
    }

    /// Somebody stages changes, of the environment with this name.
    pub fn stage(&self, environment: &str, changes: &Value) {
        let (id, _) = self.split(&format!("{environment}/"));
        let mut inside = self.shared.lock();
        let there = inside.world.environments.get_mut(&id).expect("an environment");
        world::merge(&mut there.staged, changes.as_object().expect("a configuration"));
    }

    /// What is staged in the environment with this name.
    pub fn staged(&self, environment: &str) -> Value {
        let (id, _) = self.split(&format!("{environment}/"));
        Value::Object(self.shared.lock().world.environments[&id].staged.clone())
    }

    /// Changes of others than variables that were applied.
    pub fn other_changes(&self) -> Vec<Value> {
        self.shared.lock().world.other_changes.clone()
    }

    /// The statuses of the workflow of each commit from now on, one for each look: `Running`, `NotFound`, `Complete` (it is applied
    /// then), `Error`, or `Forgotten` (it is applied, and not found).
    pub fn commits_go(&self, course: &[&str]) {
        self.shared.lock().world.workflow_course = course.iter().map(|status| (*status).to_owned()).collect();
    }

    /// Somebody commits what is staged in the environment with this name, and deploys it.
    pub fn commit(&self, environment: &str) {
        let (id, _) = self.split(&format!("{environment}/"));
        self.shared.lock().world.commit(&id, true).expect("staged changes");
    }

    /// What was committed is applied, as it is when nobody looks.
    pub fn commits_done(&self) {
        let mut inside = self.shared.lock();
        let ids: Vec<String> = inside.world.workflows.keys().cloned().collect();
        for id in ids {
            while inside.world.workflow(&id).expect("a workflow") == "Running" {}
        }
    }

    /// No list shows more items at once.
    pub fn set_page(&self, size: usize) {
        self.shared.lock().world.page = size;
    }

    /// The next so many requests for an operation (`*`: any) go wrong.
    pub fn fail(&self, operation: &str, times: usize, fault: Fault) {
        self.add_rule(operation, 0, times, fault);
    }

    /// Every request from the n-th on goes wrong; the first is 1.
    pub fn fail_from(&self, number: usize, fault: Fault) {
        self.add_rule("*", number, usize::MAX, fault);
    }

    /// The n-th request goes wrong, and no other.
    pub fn fail_at(&self, number: usize, fault: Fault) {
        self.add_rule("*", number, 1, fault);
    }

    fn add_rule(&self, operation: &str, from: usize, times: usize, fault: Fault) {
        self.shared.lock().rules.push(Rule { operation: operation.to_owned(), from, times, fault });
    }

    /// Nothing goes wrong any more.
    pub fn heal(&self) {
        self.shared.lock().rules.clear();
    }

    /// Runs when the n-th request comes; the first is 1.
    pub fn at_request(&self, number: usize, when: When, hook: impl FnOnce() + Send + 'static) {
        self.shared.lock().hooks.push((number, when, Box::new(hook)));
    }

    /// Every answer takes this long.
    pub fn set_latency(&self, latency: Duration) {
        self.shared.lock().latency = latency;
    }

    /// Every request that came, those that went wrong too.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.lock().seen.clone()
    }

    /// How many requests came for an operation.
    pub fn count(&self, operation: &str) -> usize {
        self.seen().iter().filter(|seen| seen.operation == operation).count()
    }

    /// How many requests came that change something.
    pub fn mutations(&self) -> usize {
        self.seen().iter().filter(|seen| seen.document.trim_start().starts_with("mutation")).count()
    }

    /// Counts requests from one again.
    pub fn forget(&self) {
        self.shared.lock().seen.clear();
    }

    /// What Railway would not have taken; the test answers for it from here on.
    pub fn violations(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.lock().violations)
    }
}

impl Drop for FakeRailway {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        let violations = self.violations();
        if !std::thread::panicking() {
            assert!(violations.is_empty(), "Railway would not have taken these: {violations:#?}");
        }
    }
}
