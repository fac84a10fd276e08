//! Whether the workspace that was restored is the one that is served.

use std::time::Instant;

use super::state::{self, State};
use super::{Found, Run, named};
use crate::config::profile::Workspaces;
use crate::finding::Finding;

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
    let (Some(path), Some(expected)) = (&run.request.workspace, state::expected_id(run)) else {
        return Finding::ok(name, format!("{} of them: {}", ids.len(), named(&ids)));
    };
    if ids.contains(&expected) {
        return Finding::ok(name, format!("{expected} of {path} is there"));
    }
    // An id that stands in the configuration of the server goes before the one that follows from the path.
    match listed.iter().find(|found| found.path.as_ref() == Some(path)) {
        Some(found) => Finding::ok(name, format!("{path} is there as {}", found.id)),
        None => Finding::failed(
            name,
            format!("{expected} of {path} is not there; there is {}", named(&ids)),
            "the id follows from the path: restore to the path of the capture, and start the service with that \
             workspace; if it is elsewhere on purpose, name it by the variable of the profile",
        ),
    }
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
