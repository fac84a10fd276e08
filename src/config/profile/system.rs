//! What a service holds for its users: workspaces and sessions, and what a snapshot records of them.
//!
//! Paths of requests may hold `{workspace}` and `{session}`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The workspaces of a service.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Workspaces {
    /// The provider that knows how ids are made from paths.
    pub engine: Engine,
    /// The variable that holds the path of the workspace.
    pub variable: String,
    /// Who asks.
    pub identity: String,
    /// Where they are listed. Its answer may hold passwords: it is never shown.
    pub list: String,
    /// JSON pointer to the array in that answer.
    pub items_at: String,
    /// A request below one workspace, which shows that it is really served.
    pub config: String,
    /// Its audit log, newest entry first.
    pub audit: String,
    /// JSON pointer to the array in that answer.
    pub audit_items_at: String,
    /// JSON pointer to the time in an entry: milliseconds since 1970, or text as in RFC 3339.
    pub audit_time_at: String,
    /// What to look at where one is missing.
    #[serde(default)]
    pub fix: String,
}

/// The sessions of a service's users.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sessions {
    /// The provider that keeps them.
    pub engine: Engine,
    /// Who asks.
    pub identity: String,
    /// All of them: the answer is a JSON array. `{limit}` stands for how many are wanted.
    pub list: String,
    /// One of them; also where it is removed.
    pub one: String,
    /// The messages of one: the answer is a JSON array.
    pub messages: Option<String>,
    /// Where one is made.
    pub create: String,
    /// The health of the engine that runs now.
    pub health: String,
    /// JSON pointer to the engine's version in that answer.
    pub version_at: String,
    /// What that answer says of an engine that is well: JSON pointer → value.
    #[serde(default)]
    pub healthy: BTreeMap<String, serde_json::Value>,
}

/// A program whose formats and ids opsctl knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Engine {
    /// The OpenWork server.
    Openwork,
    /// OpenCode.
    Opencode,
}

impl Engine {
    /// Its name, as versions are named by it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Openwork => "openwork",
            Self::Opencode => "opencode",
        }
    }

    /// Whether it is known how it keeps and lists sessions.
    #[must_use]
    pub const fn has_sessions(self) -> bool {
        matches!(self, Self::Opencode)
    }

    /// Whether it is known how it keeps and names workspaces.
    #[must_use]
    pub const fn has_workspaces(self) -> bool {
        matches!(self, Self::Openwork)
    }
}

/// What a snapshot records of the data. Paths are relative to the data root.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Facts {
    /// The name of the location of the sessions' database.
    pub sessions: Option<String>,
    /// The folder of the workspace.
    pub workspace: Option<String>,
    /// The name of the location of the service's own list of workspaces.
    pub workspaces: Option<String>,
    /// The file of the access tokens.
    pub tokens: Option<String>,
    /// The folder of the audit logs, one `<workspace id>.jsonl` each.
    pub audit: Option<String>,
}

/// Programs that the service fetches again when they are missing.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sidecars {
    /// Their folder, relative to the data root.
    pub path: String,
    /// The variable that names another folder.
    pub variable: Option<String>,
    /// The variable that says where they come from.
    pub source: String,
    /// Values of that variable with which they are downloaded.
    pub downloaded: Vec<String>,
    /// Where the manifest with their checksums is; `{version}` stands for the version of the service.
    pub manifest: String,
    /// Variables of the service that say otherwise, by what they name: `manifest` or `base`.
    #[serde(default)]
    pub overrides: BTreeMap<String, String>,
}
