//! What is known of the programs behind a service, by the name that the profile gives them: nobody else needs to know
//! which ones there are.

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::Connection;

use super::openwork::AuditEntry;
use super::service::Workspace;
use super::{opencode, opencode_api, openwork, openwork_api};
use crate::config::profile::Engine;

/// The id that a server gives the workspace at this absolute path; `None` where it does not follow from that.
#[must_use]
pub fn workspace_id(engine: Engine, path: &Path) -> Option<String> {
    (engine == Engine::Openwork).then(|| openwork::workspace_id(path))
}

/// The ids of a list of sessions, in its order; `None` if it is none.
#[must_use]
pub fn session_ids(engine: Engine, list: &[u8]) -> Option<Vec<String>> {
    (engine == Engine::Opencode).then(|| opencode_api::session_ids(list)).flatten()
}

/// How many messages a list of messages holds; `None` if it is none.
#[must_use]
pub fn message_count(engine: Engine, list: &[u8]) -> Option<u64> {
    (engine == Engine::Opencode).then(|| opencode_api::message_count(list)).flatten()
}

/// Session id → number of its messages, in a database that nobody writes to.
///
/// # Errors
/// In words, when it does not tell.
pub fn sessions(engine: Engine, db: &Connection) -> Result<BTreeMap<String, u64>, String> {
    match engine {
        Engine::Opencode => opencode::sessions(db).map_err(|error| error.to_string()),
        Engine::Openwork => Err(unknown(engine)),
    }
}

/// The ids of the access tokens in the file of a server.
///
/// # Errors
/// In words, when it does not tell.
pub fn token_ids(engine: Engine, text: &[u8]) -> Result<Vec<String>, String> {
    match engine {
        Engine::Openwork => openwork::token_ids(text).map_err(|error| error.to_string()),
        Engine::Opencode => Err(unknown(engine)),
    }
}

/// The workspaces in the file of a server.
///
/// # Errors
/// In words, when it does not tell.
pub fn workspaces(engine: Engine, text: &[u8]) -> Result<Vec<Workspace>, String> {
    match engine {
        Engine::Openwork => openwork::workspaces(text).map_err(|error| error.to_string()),
        Engine::Opencode => Err(unknown(engine)),
    }
}

/// The last whole entry at the `end` of an audit log.
#[must_use]
pub fn last_audit_entry(engine: Engine, end: &[u8]) -> Option<AuditEntry> {
    (engine == Engine::Openwork).then(|| openwork::last_audit_entry(end)).flatten()
}

fn unknown(engine: Engine) -> String {
    format!("it is not known how {} keeps them", engine.name())
}

/// What an error means, by its code or name: what happened, and what to do. Waiting mends none of them, unless
/// [`may_pass`] says so.
#[must_use]
pub fn explain(code: &str) -> Option<(&'static str, &'static str)> {
    openwork_api::explain(code).or_else(|| opencode_api::explain(code))
}

/// Whether a service says this, too, that is still booting.
#[must_use]
pub fn may_pass(code: &str) -> bool {
    openwork_api::may_pass(code)
}
