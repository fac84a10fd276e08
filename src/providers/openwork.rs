//! The OpenWork server: how it names workspaces, and what its files say.
//!
//! Invariant: of a token nothing is taken but its id; neither its hash nor its label shows in a result or an error.

use std::path::Path;

use serde::Deserialize;

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
    #[error("it is not a valid list of tokens (line {line}, column {column})")]
    Tokens {
        /// Where the parser gave up.
        line: usize,
        /// Where the parser gave up.
        column: usize,
    },
}

#[derive(Deserialize)]
struct TokensFile {
    tokens: Vec<Token>,
}

#[derive(Deserialize)]
struct Token {
    id: String,
}

/// The ids of the tokens in `tokens.json`, sorted.
///
/// # Errors
/// When it is not what the server writes.
pub fn token_ids(text: &[u8]) -> Result<Vec<String>, FileError> {
    let file: TokensFile =
        serde_json::from_slice(text).map_err(|e| FileError::Tokens { line: e.line(), column: e.column() })?;
    let mut ids: Vec<String> = file.tokens.into_iter().map(|token| token.id).collect();
    ids.sort();
    Ok(ids)
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
        for broken in [&file[..file.len() / 2], "", "{}", r#"{"tokens":[{"id":{"cafe":1}}]}"#, "[]"] {
            let error = token_ids(broken.as_bytes()).unwrap_err().to_string();
            assert!(!error.contains("cafe") && error.contains("line"), "{error}");
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
