//! Whether a profile makes sense as a whole.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Component, Path};

use super::place::Found;
use super::shape::{Fault, Shape};
use super::{Condition, Format, JsonType, Method, Profile, Send, Service, Sidecars, Variable, Volume};

/// Identities that every service knows: nobody, and somebody with a wrong token.
pub(super) const ALWAYS: [&str; 2] = ["none", "wrong"];
/// What the path of a request may leave open.
const OPEN: [&str; 3] = ["{workspace}", "{session}", "{limit}"];

/// All that makes no sense in `profile`, each in one sentence with its place.
pub(super) fn problems(profile: &Profile) -> Found {
    let mut found = Found::default();
    if profile.name.is_empty() || profile.contract_version.is_empty() {
        found.at(["name".into()], |found| found.say("`name` and `contract_version` must not be empty"));
    }
    if profile.services.is_empty() {
        found.say("at least one of `services` is needed");
    }
    found.unique("services", "service", profile.services.iter().map(|service| service.name.as_str()));
    found.each("services", &profile.services, |found, service| {
        found.about(format!("service `{}`: ", service.name), |found| of_service(profile, service, found));
    });
    found
}

fn of_service(profile: &Profile, service: &Service, found: &mut Found) {
    if service.name.is_empty() || service.name.contains([':', '/']) {
        found.at(["name".into()], |found| found.say("a name must not be empty, nor hold `:` or `/`"));
    }
    if let Some(volume) = &service.volume {
        found.at(["volume".into()], |found| of_volume(service, volume, found));
    }
    found.unique("variables", "variable", service.variables.iter().map(|variable| variable.name.as_str()));
    found.each("variables", &service.variables, |found, variable| of_variable(profile, service, variable, found));
    of_requests(service, found);
    of_system(service, found);
}

fn of_volume(service: &Service, volume: &Volume, found: &mut Found) {
    let plain = |part: Component<'_>| matches!(part, Component::RootDir | Component::Normal(_));
    if !volume.data_root.is_absolute() || !volume.data_root.components().all(plain) {
        found.at(["data_root".into()], |found| found.say("`data_root` must be an absolute path without `..`"));
    }
    for (key, paths) in [("recoverable", &volume.recoverable), ("not_ours", &volume.not_ours)] {
        found.each(key, paths, |found, path| below_root(path, found));
    }
    found.unique("durable", "path", volume.durable.iter().map(|durable| durable.path.as_str()));
    found.each("durable", &volume.durable, |found, durable| {
        below_root(&durable.path, found);
        of_holds(durable.format, &durable.holds, found);
    });
    found.unique("locations", "location", volume.locations.iter().map(|location| location.name.as_str()));
    found.each("locations", &volume.locations, |found, location| {
        let name = &location.name;
        if location.candidates.is_empty() {
            found.say(format!("the location `{name}` has no candidates"));
        }
        of_holds(location.format, &location.holds, found);
        if location.fix.is_empty() {
            found.say(format!("the location `{name}` does not say how to put it on the volume (`fix`)"));
        }
        for (variable, value) in &location.fix {
            found.at(["fix".into(), variable.into()], |found| {
                known_variable(service, variable, &format!("the location `{name}`"), found);
                if !Path::new(value).starts_with(&volume.data_root) {
                    found.say(format!("`fix` puts the location `{name}` off the volume"));
                }
            });
        }
    });
}

fn of_holds(format: Option<Format>, holds: &BTreeMap<String, JsonType>, found: &mut Found) {
    holds.keys().for_each(|at| pointer(at, found));
    if !holds.is_empty() && format != Some(Format::Json) {
        found.say("`holds` is for a file of the format `json`");
    }
}

fn below_root(path: &str, found: &mut Found) {
    let normal = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    if path.is_empty() || path.contains('\0') || !normal || path.starts_with("./") || path.contains("/./") {
        found.say(format!("`{path}` must be a path relative to `data_root`, without `.` or `..`"));
    }
}

fn of_variable(profile: &Profile, service: &Service, variable: &Variable, found: &mut Found) {
    let name = &variable.name;
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        found.at(["name".into()], |found| found.say(format!("`{name}` is no name of a variable")));
    }
    found.each("or", &variable.or, |found, other| known_variable(service, other, &format!("`{name}`"), found));
    let condition = |found: &mut Found, condition: &Condition| of_condition(profile, service, name, condition, found);
    found.each("when", &variable.when, condition);
    found.each("required_when", &variable.required_when, condition);
    found.at(["shape".into()], |found| possible(name, &variable.shape, found));
    found.each("rules", &variable.rules, |found, rule| {
        found.each("when", &rule.when, condition);
        found.at(["shape".into()], |found| possible(name, &rule.shape, found));
    });
    for (key, fixed) in [("value", &variable.value), ("default", &variable.default)] {
        let Some(fixed) = fixed else { continue };
        found.at([key.into()], |found| {
            if variable.secret {
                found.say(format!("`{name}` is secret, and a profile holds no secrets"));
            } else if matches!(variable.shape.fault(fixed), Some(Fault::Wrong(_))) {
                found.say(format!("the value or default of `{name}` does not have its shape"));
            }
        });
    }
    found.each("shared_with", &variable.shared_with, |found, other| {
        let has = |service: &Service| service.variables.iter().any(|one| one.name == *name);
        if *other == service.name || !profile.services.iter().any(|one| one.name == *other && has(one)) {
            found.say(format!("`{name}` is shared with `{other}`, which does not have it"));
        }
    });
}

fn of_condition(profile: &Profile, service: &Service, name: &str, condition: &Condition, found: &mut Found) {
    let of = match &condition.service {
        None => Some(service),
        Some(other) if *other == service.name => {
            return found.say(format!("a condition of `{name}` names its own service: leave `service` out"));
        }
        Some(other) => profile.services.iter().find(|service| service.name == *other),
    };
    match of {
        Some(of) => known_variable(of, &condition.variable, &format!("`{name}`"), found),
        None => found.say(format!("a condition of `{name}` refers to a service that there is not")),
    }
}

fn known_variable(service: &Service, name: &str, by: &str, found: &mut Found) {
    if !service.variables.iter().any(|known| known.name == name) {
        found.say(format!("{by} refers to `{name}`, which is no variable of the service"));
    }
}

fn possible(name: &str, shape: &Shape, found: &mut Found) {
    if let Some(why) = shape.is_impossible() {
        found.say(format!("no value of `{name}` can have its shape: {why}"));
    }
}

fn of_requests(service: &Service, found: &mut Found) {
    let mut identities: BTreeSet<&str> = ALWAYS.into();
    found.unique("identities", "identity", service.identities.iter().map(|identity| identity.name.as_str()));
    found.each("identities", &service.identities, |found, identity| {
        if ALWAYS.contains(&identity.name.as_str()) {
            found.say(format!("the identity `{}` is known already", identity.name));
        }
        let named = if let Send::Header(name) = &identity.send { Some(name) } else { None };
        for header in identity.headers.keys().chain(named) {
            if header.is_empty() || !header.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
                found.say(format!("`{header}` is no name of a header"));
            }
        }
        if !service.variables.iter().any(|variable| variable.name == identity.variable && variable.secret) {
            found.say(format!("the token of `{}` is no secret variable: `{}`", identity.name, identity.variable));
        }
    });
    identities.extend(service.identities.iter().map(|identity| identity.name.as_str()));
    if let Some(tokens) = &service.scoped_tokens {
        found.at(["scoped_tokens".into()], |found| {
            knows(&identities, &tokens.identity, found);
            request(service, &tokens.path, found);
            [&tokens.token_at, &tokens.id_at, &tokens.items_at].into_iter().for_each(|at| pointer(at, found));
        });
        identities.extend(tokens.scopes.iter().map(String::as_str));
    }
    found.unique("probes", "probe", service.probes.iter().map(|probe| probe.name.as_str()));
    found.each("probes", &service.probes, |found, probe| {
        request(service, &probe.path, found);
        probe.identity.iter().for_each(|identity| knows(&identities, identity, found));
        probe.versions.values().chain(&probe.uptime_ms).for_each(|at| pointer(at, found));
        if probe.expect.is_empty() || probe.expect.iter().any(|answer| answer.status.is_empty()) {
            found.say(format!("the probe `{}` expects no status", probe.name));
        }
        for answer in &probe.expect {
            statuses(&answer.status, found);
            answer.json.keys().chain(&answer.has).for_each(|at| pointer(at, found));
        }
    });
    if !service.probes.is_empty() && !service.probes.iter().any(|probe| probe.waits && probe.identity.is_none()) {
        let says = "no probe is waited for without an identity: nobody could tell a booting service from a broken one";
        found.at(["probes".into(), 0.into()], |found| found.say(says));
    }
    found.each("auth", &service.auth, |found, row| {
        request(service, &row.path, found);
        row.answers.keys().chain(row.drift.keys()).for_each(|identity| knows(&identities, identity, found));
        if row.answers.is_empty() || row.answers.values().any(Vec::is_empty) {
            found.say(format!("the row `{}` expects no status", row.path));
        }
        row.answers.values().chain(row.drift.values()).for_each(|some| statuses(some, found));
        if row.body.is_some() && row.method != Method::Post {
            found.say(format!("the row `{}` has a `body`, which goes with `POST` alone", row.path));
        }
    });
}

fn of_system(service: &Service, found: &mut Found) {
    let identities: BTreeSet<&str> =
        ALWAYS.into_iter().chain(service.identities.iter().map(|identity| identity.name.as_str())).collect();
    if let Some(workspaces) = &service.workspaces {
        found.at(["workspaces".into()], |found| {
            if !workspaces.engine.has_workspaces() {
                found.say(format!("it is not known what workspaces of `{}` are", workspaces.engine.name()));
            }
            knows(&identities, &workspaces.identity, found);
            [&workspaces.list, &workspaces.config, &workspaces.audit]
                .into_iter()
                .for_each(|path| request(service, path, found));
            [&workspaces.items_at, &workspaces.audit_items_at, &workspaces.audit_time_at]
                .into_iter()
                .for_each(|at| pointer(at, found));
            known_variable(service, &workspaces.variable, "`workspaces`", found);
        });
    }
    if let Some(sessions) = &service.sessions {
        found.at(["sessions".into()], |found| {
            if !sessions.engine.has_sessions() {
                found.say(format!("it is not known what sessions of `{}` are", sessions.engine.name()));
            }
            knows(&identities, &sessions.identity, found);
            let paths = [&sessions.list, &sessions.one, &sessions.create, &sessions.health];
            paths.into_iter().chain(&sessions.messages).for_each(|path| request(service, path, found));
            if !sessions.list.contains("{limit}") {
                found.say(format!(
                    "`{}` must hold `{{limit}}`: a list that is cut off looks like a loss",
                    sessions.list
                ));
            }
            sessions.healthy.keys().chain([&sessions.version_at]).for_each(|at| pointer(at, found));
        });
    }
    if let Some(whoami) = &service.whoami {
        found.at(["whoami".into()], |found| {
            knows(&identities, &whoami.identity, found);
            request(service, &whoami.path, found);
            [&whoami.sha256_at].into_iter().chain(&whoami.scope_at).for_each(|at| pointer(at, found));
        });
    }
    if let Some(facts) = &service.facts {
        found.at(["facts".into()], |found| {
            let of_server = facts.workspace.iter().chain(&facts.workspaces).chain(&facts.tokens).chain(&facts.audit);
            if of_server.count() > 0 && service.workspaces.is_none() {
                found.say("`workspaces` must say whose workspaces and tokens these are");
            }
            if facts.sessions.is_some() && service.sessions.is_none() {
                found.say("`sessions` must say whose sessions these are");
            }
            facts.workspace.iter().chain(&facts.tokens).chain(&facts.audit).for_each(|path| below_root(path, found));
            let locations = service.volume.iter().flat_map(|volume| &volume.locations);
            for name in facts.sessions.iter().chain(&facts.workspaces) {
                if !locations.clone().any(|location| location.name == *name) {
                    found.say(format!("the facts refer to the location `{name}`, which there is not"));
                }
            }
        });
    }
    if let Some(sidecars) = &service.sidecars {
        found.at(["sidecars".into()], |found| of_sidecars(service, sidecars, found));
    }
}

fn of_sidecars(service: &Service, sidecars: &Sidecars, found: &mut Found) {
    below_root(&sidecars.path, found);
    for variable in sidecars.variable.iter().chain([&sidecars.source]) {
        known_variable(service, variable, "`sidecars`", found);
    }
    if !url::Url::parse(&sidecars.manifest).is_ok_and(|url| matches!(url.scheme(), "http" | "https")) {
        found.say("`manifest` is no URL");
    }
    for key in sidecars.overrides.keys().filter(|key| !["manifest", "base"].contains(&key.as_str())) {
        found.say(format!("`overrides` knows `manifest` and `base`, not `{key}`"));
    }
}

fn knows(identities: &BTreeSet<&str>, name: &str, found: &mut Found) {
    if !identities.contains(name) {
        found.say(format!("`{name}` is no identity of the service"));
    }
}

fn request(service: &Service, path: &str, found: &mut Found) {
    if !path.starts_with('/') || path.starts_with("//") || path.contains(char::is_whitespace) {
        found.say(format!("`{path}` must be the path of a request, such as /health"));
    }
    let rest = OPEN.iter().fold(path.to_owned(), |path, open| path.replace(open, ""));
    if rest.contains(['{', '}']) {
        found.say(format!("`{path}` leaves something open that nobody knows; known: {}", OPEN.join(", ")));
    }
    if path.contains("{workspace}") && service.workspaces.is_none() {
        found.say(format!("`{path}` names a workspace, and the service has no `workspaces`"));
    }
}

fn pointer(at: &str, found: &mut Found) {
    if !at.is_empty() && !at.starts_with('/') {
        found.say(format!("`{at}` is no JSON pointer: it begins with `/`"));
    }
}

fn statuses(some: &[u16], found: &mut Found) {
    for status in some.iter().filter(|status| !(100..600).contains(*status)) {
        found.say(format!("{status} is no HTTP status"));
    }
}

impl Found {
    /// Says which names are there twice in the list under `key`.
    fn unique<'a>(&mut self, key: &str, what: &str, names: impl Iterator<Item = &'a str>) {
        let mut seen = HashSet::new();
        for (index, name) in names.enumerate() {
            if !seen.insert(name) {
                self.at([key.into(), index.into()], |found| found.say(format!("the {what} `{name}` is there twice")));
            }
        }
    }
}
