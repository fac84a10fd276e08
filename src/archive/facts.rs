//! What was recorded about the content at capture, for a comparison with the running service after a restore.
//!
//! Why: a database that lost its newest rows passes every integrity check. What was there is known only at capture.
//!
//! Invariant: no secret, no content; ids, counts, paths and versions only. A reader ignores keys that it does not know.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::FormatError;

/// The facts of one snapshot: one JSON document, stored as a chunk that the manifest root names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// The service of the profile that they are about.
    pub service: String,
    /// The sessions of its users.
    #[serde(default)]
    pub sessions: Recorded<SessionFacts>,
    /// The ids of the access tokens.
    #[serde(default)]
    pub tokens: Recorded<Vec<String>>,
    /// The workspaces.
    #[serde(default)]
    pub workspaces: Recorded<Vec<WorkspaceFacts>>,
    /// Versions that the running service told: `server`, `opencode`.
    #[serde(default)]
    pub versions: BTreeMap<String, String>,
}

impl Facts {
    /// Reads the document.
    ///
    /// # Errors
    /// When it is none.
    pub fn read(bytes: &[u8]) -> Result<Self, FormatError> {
        serde_json::from_slice(bytes).map_err(|source| FormatError::Json { what: "facts", source })
    }

    /// What could not be recorded, and why: one line each.
    #[must_use]
    pub fn not_captured(&self) -> Vec<String> {
        let reasons = [
            ("sessions", self.sessions.reason()),
            ("tokens", self.tokens.reason()),
            ("workspaces", self.workspaces.reason()),
        ];
        reasons
            .iter()
            .filter_map(|(what, reason)| Some(format!("{what}: not captured, {}", reason.as_ref()?)))
            .collect()
    }
}

/// Something that was recorded, or why it was not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recorded<T> {
    /// The profile does not ask for it.
    #[default]
    NotAsked,
    /// It is this.
    Recorded(T),
    /// It could not be recorded, for this reason: a comparison is inconclusive.
    NotCaptured(String),
}

impl<T> Recorded<T> {
    /// What was recorded.
    pub const fn recorded(&self) -> Option<&T> {
        match self {
            Self::Recorded(found) => Some(found),
            Self::NotAsked | Self::NotCaptured(_) => None,
        }
    }

    /// Why nothing was, though it was asked for.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::NotCaptured(reason) => Some(reason),
            Self::NotAsked | Self::Recorded(_) => None,
        }
    }
}

/// The sessions that a database held.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionFacts {
    /// The database, relative to the root of the snapshot.
    pub path: String,
    /// Session id → number of its messages.
    pub messages: BTreeMap<String, u64>,
}

/// A workspace, as the service knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkspaceFacts {
    /// Its id in the service.
    pub id: String,
    /// Its absolute path at capture.
    pub path: String,
    /// The id of the last entry of its audit log, if it has any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_audit: Option<String>,
    /// The time of that entry, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_audit_ms: Option<i64>,
    /// Whether a variable names another workspace: a service that is started with that one does not look at its own list,
    /// which has this one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub may_be_hidden: bool,
    /// Whether the service listed it when it was asked at capture.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub served: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_later_version_adds_is_passed_over_and_what_an_earlier_one_lacks_was_not_asked() {
        let text = r#"{"service":"web","tokens":{"recorded":["a"]},"sessions":{"not_captured":"no"},"later":{"x":1}}"#;
        let facts = Facts::read(text.as_bytes()).unwrap();
        assert_eq!(facts.tokens.recorded().map(Vec::len), Some(1));
        assert_eq!((facts.sessions.reason(), &facts.workspaces), (Some("no"), &Recorded::NotAsked));
        assert_eq!(facts.not_captured(), ["sessions: not captured, no"]);
        let again = Facts::read(&serde_json::to_vec(&facts).unwrap()).unwrap();
        assert_eq!(again, facts);
        assert!(Facts::read(b"{").is_err());
    }

    #[test]
    fn the_documented_facts_are_read_and_written_as_they_stand_there() {
        let text = include_str!("../../docs/format.md");
        let (_, section) = text.split_once("### Facts").unwrap();
        let (json, _) = section.split_once("```json").unwrap().1.split_once("```").unwrap();
        let facts = Facts::read(json.as_bytes()).unwrap();
        let again: serde_json::Value = serde_json::to_value(&facts).unwrap();
        assert_eq!(again, serde_json::from_str::<serde_json::Value>(json).unwrap());
        // The first as it was written when there could be one only.
        let workspaces = facts.workspaces.recorded().unwrap();
        let known: Vec<_> = workspaces.iter().map(|workspace| (workspace.may_be_hidden, workspace.served)).collect();
        assert_eq!(known, [(false, false), (true, true)]);
    }
}
