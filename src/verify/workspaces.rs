//! Whether the workspace that was restored is the one that is served.

use std::path::{Path, PathBuf};
use std::time::Instant;

use super::state::{self, State};
use super::{Against, Found, Run, named};
use crate::Result;
use crate::config::Environment;
use crate::config::profile::{Service, Workspaces};
use crate::finding::Finding;
use crate::providers::service::absolute;

/// Where a workspace should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its path, as the service has it.
    pub path: PathBuf,
    /// Whether that is where the profile has it, and nobody said so of this service: it may be elsewhere on purpose.
    pub is_default: bool,
}

impl Place {
    /// Whether a path that the service lists is this one.
    pub(super) fn is_at(&self, listed: Option<&str>) -> bool {
        listed.is_some_and(|path| Path::new(path).is_absolute() && absolute(Path::new(path)) == self.path)
    }
}

/// The path of the workspace that a service should serve: by its variable, by what was captured, or by the contract.
///
/// # Errors
/// Usage, when the variable is no text.
pub fn workspace_path(
    service: &Service,
    environment: &Environment,
    against: Option<&Against>,
) -> Result<Option<Place>> {
    let Some(workspaces) = &service.workspaces else { return Ok(None) };
    let contract = service.variables.iter().find(|variable| variable.name == workspaces.variable);
    let contract = contract.and_then(|variable| variable.value.as_deref());
    let captured = || against.and_then(|against| against.workspace_path(contract));
    let said = environment.text(&workspaces.variable)?.or_else(captured);
    let is_default = said.is_none();
    let path = said.or_else(|| contract.map(str::to_owned));
    Ok(path.map(|path| Place { path: absolute(Path::new(&path)), is_default }))
}

pub(super) async fn run(run: &Run<'_>, state: &State, found: &mut Found) {
    let Some(workspaces) = &run.request.service.workspaces else { return };
    found.add(listed(run, workspaces, state).after(state.workspaces.took), false);
    let since = Instant::now();
    found.made(config(run, state, workspaces).await, since);
    let since = Instant::now();
    found.made(audit(state), since);
}

/// The list holds the workspace of the path that it should be at.
fn listed(run: &Run<'_>, workspaces: &Workspaces, state: &State) -> Finding {
    let name = "workspaces";
    let listed = match &state.workspaces.known {
        Ok(listed) => listed,
        Err(lack) => return lack.clone().finding(name),
    };
    let ids: Vec<String> = listed.iter().map(|found| found.id.clone()).collect();
    if ids.is_empty() {
        return Finding::failed(name, "the service has no workspace at all", workspaces.fix.clone());
    }
    let (Some(place), Some(expected)) = (&run.request.workspace, state::expected_id(run)) else {
        return Finding::ok(name, format!("{} of them: {}", ids.len(), named(&ids)));
    };
    let path = place.path.display();
    if ids.contains(&expected) {
        return Finding::ok(name, format!("{expected} of {path} is there"));
    }
    // An id that stands in the configuration of the server goes before the one that follows from the path.
    if let Some(found) = listed.iter().find(|found| place.is_at(found.path.as_deref())) {
        return Finding::ok(name, format!("{path} is there as {}", found.id));
    }
    let there = named(&ids);
    if place.is_default {
        let detail = format!("there is {there}, and not {expected} of {path}, where the profile has it");
        let fix = format!("if it should be elsewhere, say so: {}=PATH, as the service has it", workspaces.variable);
        return Finding::warning(name, detail, fix);
    }
    Finding::failed(
        name,
        format!("{expected} of {path} is not there; there is {there}"),
        "the id follows from the path: restore to the path of the capture, and start the service with that \
         workspace; if it is elsewhere on purpose, name it by the variable of the profile",
    )
}

/// Being in the list is not being served.
async fn config(run: &Run<'_>, state: &State, workspaces: &Workspaces) -> Finding {
    let name = "workspaces.config";
    let asked = match state::named(state.workspace.as_deref(), &workspaces.config) {
        Ok(workspace) => {
            let path = workspaces.config.replace("{workspace}", workspace);
            state::ask(run, &workspaces.identity, &path, "look at the log of the service").await
        }
        Err(wrong) => Err(wrong.into()),
    };
    match asked {
        Ok(_) => Finding::ok(name, format!("{} is served", state.workspace.as_deref().unwrap_or_default())),
        Err(lack) => lack.finding(name),
    }
}

fn audit(state: &State) -> Finding {
    let name = "workspaces.audit";
    if let Err(lack) = &state.workspaces.known {
        return Finding::skipped(name, lack.why());
    }
    let Some(workspace) = state.workspace.as_ref() else { return Finding::skipped(name, "there is no workspace") };
    match state.audit.get(workspace) {
        Some(Ok(Some(_))) => Finding::ok(name, "the audit log can be read"),
        Some(Ok(None)) => Finding::ok(name, "the audit log can be read; it is empty"),
        Some(Err(wrong)) => wrong.clone().failed(name),
        None => Finding::skipped(name, "there is no workspace"),
    }
}
