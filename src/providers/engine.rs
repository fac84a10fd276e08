//! What is known of the programs behind a service, by the name that the profile gives them: nobody else needs to know
//! which ones there are.

use std::path::Path;

use super::{opencode_api, openwork, openwork_api};
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

/// What an error means, by its code or name: what happened, and what to do. Waiting mends none of them.
#[must_use]
pub fn explain(code: &str) -> Option<(&'static str, &'static str)> {
    openwork_api::explain(code).or_else(|| opencode_api::explain(code))
}
