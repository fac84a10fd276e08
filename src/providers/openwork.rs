//! The OpenWork server: how it names workspaces, and what its files say.
//!
//! Invariant: of a token nothing is taken but its id; neither its hash nor its label shows in a result or an error. Of
//! `server.json`, which may hold tokens and passwords in clear, nothing but the ids and paths of workspaces.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::PROBE_LABEL;
use super::service::Workspace;
use crate::archive::hash::Hash;

/// Hex digits of the hash in the id of a workspace.
const ID_DIGITS: usize = 12;

/// The id that the server gives the workspace at this absolute path.
#[must_use]
pub fn workspace_id(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt as _;
    format!("ws_{}", Hash::of(path.as_os_str().as_bytes()).short(ID_DIGITS))
}

/// Why a file of the server says nothing. The server itself would take it for empty, and write over it.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// Cut short, or no JSON at all; never with a piece of the content.
    #[error("it is not a valid list of {what} (line {line}, column {column})")]
    Broken {
        /// What it should list.
        what: &'static str,
        /// Where the parser gave up.
        line: usize,
        /// Where the parser gave up.
        column: usize,
    },
    /// Where that is depends on how the server was started.
    #[error("it names a workspace by a relative path and no id")]
    Relative,
}

impl FileError {
    fn of(what: &'static str) -> impl Fn(serde_json::Error) -> Self {
        move |error| Self::Broken { what, line: error.line(), column: error.column() }
    }
}

#[derive(Deserialize)]
struct TokensFile {
    tokens: Vec<Token>,
}

#[derive(Deserialize)]
struct Token {
    id: String,
    label: Option<String>,
}

/// The ids of the tokens in `tokens.json`, sorted, without those that `opsctl verify` has made: they are gone in a moment.
///
/// # Errors
/// When it is not what the server writes.
pub fn token_ids(text: &[u8]) -> Result<Vec<String>, FileError> {
    let file: TokensFile = serde_json::from_slice(text).map_err(FileError::of("tokens"))?;
    let is_ours = |token: &Token| token.label.as_ref().is_some_and(|label| label.starts_with(PROBE_LABEL));
    let mut ids: Vec<String> = file.tokens.into_iter().filter(|token| !is_ours(token)).map(|token| token.id).collect();
    ids.sort();
    Ok(ids)
}

/// The workspaces in `server.json`, in its order. An id that stands there goes before the one that follows from the path.
///
/// # Errors
/// When it is not what the server writes.
pub fn workspaces(text: &[u8]) -> Result<Vec<Workspace>, FileError> {
    #[derive(Deserialize)]
    struct ServerFile {
        workspaces: Option<Vec<Listed>>,
    }
    #[derive(Deserialize)]
    struct Listed {
        id: Option<String>,
        path: Option<String>,
    }
    let file: ServerFile = serde_json::from_slice(text).map_err(FileError::of("workspaces"))?;
    let listed = file.workspaces.into_iter().flatten().map(|listed| {
        let path = PathBuf::from(listed.path.unwrap_or_default().trim_end_matches('/'));
        match listed.id {
            Some(id) => Ok(Workspace { id, path }),
            None if path.is_absolute() => Ok(Workspace { id: workspace_id(&path), path }),
            None => Err(FileError::Relative),
        }
    });
    listed.collect()
}

/// An entry of an audit log.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct AuditEntry {
    /// Its id.
    pub id: Option<String>,
    /// Its time in milliseconds since 1970.
    #[serde(rename = "timestamp")]
    pub ms: Option<i64>,
}

/// The last whole entry at the `end` of an audit log. A line that a crash cut short is none.
#[must_use]
pub fn last_audit_entry(end: &[u8]) -> Option<AuditEntry> {
    let entry = |line: &[u8]| serde_json::from_slice::<AuditEntry>(line).ok().filter(|entry| entry.id.is_some());
    end.rsplit(|byte| *byte == b'\n').find_map(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_of_a_workspace_is_that_of_its_path() {
        // sha256sum of the path.
        assert_eq!(workspace_id(Path::new("/data/workspace")), "ws_bc5644803349");
    }

    #[test]
    fn ids_of_tokens_are_read_and_nothing_else_shows() {
        let file = r#"{"schemaVersion":1,"updatedAt":5,"tokens":[
            {"id":"b","hash":"cafe","scope":"owner","createdAt":5,"label":"secret"},{"id":"a","hash":"babe","scope":"viewer"}]}"#;
        assert_eq!(token_ids(file.as_bytes()).unwrap(), ["a", "b"]);
        assert_eq!(token_ids(br#"{"tokens":[]}"#).unwrap(), [] as [&str; 0]);
        let probe = r#"{"tokens":[{"id":"ours","label":"opsctl-verify-0123456789abcdef"},{"id":"a","label":"opsctl"},{"id":"b","label":null}]}"#;
        assert_eq!(token_ids(probe.as_bytes()).unwrap(), ["a", "b"], "what verify makes is no fact");
        for broken in [&file[..file.len() / 2], "", "{}", r#"{"tokens":[{"id":{"cafe":1}}]}"#, "[]"] {
            let error = token_ids(broken.as_bytes()).unwrap_err().to_string();
            assert!(!error.contains("cafe") && error.contains("line"), "{error}");
        }
    }

    #[test]
    fn workspaces_are_read_with_their_ids_and_no_secret_shows() {
        let file = r#"{"token":"cafe","workspaces":[{"path":"/data/workspace/","opencodePassword":"cafe"},
            {"id":"mine","path":"/data/two"},{"id":"far","workspaceType":"remote","baseUrl":"https://x"}]}"#;
        let found = workspaces(file.as_bytes()).unwrap();
        let found: Vec<_> = found.iter().map(|one| (one.id.as_str(), one.path.to_str().unwrap())).collect();
        assert_eq!(found, [("ws_bc5644803349", "/data/workspace"), ("mine", "/data/two"), ("far", "")]);
        assert_eq!(workspaces(b"{}").unwrap(), []);
        let relative = r#"{"workspaces":[{"path":"here"}]}"#;
        assert!(matches!(workspaces(relative.as_bytes()), Err(FileError::Relative)));
        for broken in [&file[..file.len() / 2], "", "[]", r#"{"workspaces":{"cafe":1}}"#] {
            let error = workspaces(broken.as_bytes()).unwrap_err().to_string();
            assert!(!error.contains("cafe") && error.contains("list of workspaces (line"), "{error}");
        }
    }

    #[test]
    fn the_last_whole_line_of_an_audit_log_counts() {
        let entry = |id: &str, ms| Some(AuditEntry { id: Some(id.to_owned()), ms });
        let (a, b) = (r#"{"id":"a","timestamp":1,"actor":{}}"#, r#"{"id":"b","timestamp":2}"#);
        assert_eq!(last_audit_entry(format!("{a}\n{b}\n").as_bytes()), entry("b", Some(2)));
        assert_eq!(last_audit_entry(format!("{a}\n{b}").as_bytes()), entry("b", Some(2)), "without its newline");
        assert_eq!(last_audit_entry(format!("{a}\n{}", &b[..9]).as_bytes()), entry("a", Some(1)), "cut short");
        assert_eq!(last_audit_entry(b""), None);
        assert_eq!(last_audit_entry(&b.as_bytes()[5..]), None);
    }
}
