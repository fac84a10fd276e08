//! What is on a volume, and where the service puts it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A path that must survive, and why.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DurablePath {
    /// Relative to the data root.
    pub path: String,
    /// What is there.
    pub note: String,
    /// What it must be readable as, where a broken file makes the service lose data in silence.
    pub format: Option<Format>,
    /// Of a JSON file: JSON pointer → the type of what must be there. Without it the service would find nothing, and say
    /// nothing.
    #[serde(default)]
    pub holds: BTreeMap<String, JsonType>,
    /// Whether the service may not have made it yet.
    #[serde(default)]
    pub optional: bool,
}

/// What a file must be readable as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// A directory that the service can write to.
    Directory,
    /// One JSON document.
    Json,
    /// A SQLite database.
    Sqlite,
}

/// A type of JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum JsonType {
    /// `{…}`
    Object,
    /// `[…]`
    Array,
    /// `"…"`
    String,
    /// `1`
    Number,
    /// `true` or `false`
    Boolean,
    /// `null`
    Null,
}

impl JsonType {
    /// Of a valid JSON text, by how it begins.
    #[must_use]
    pub fn of(text: &str) -> Self {
        match text.trim_start().bytes().next() {
            Some(b'{') => Self::Object,
            Some(b'[') => Self::Array,
            Some(b'"') => Self::String,
            Some(b't' | b'f') => Self::Boolean,
            Some(b'n') => Self::Null,
            _ => Self::Number,
        }
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Number => "number",
            Self::Boolean => "boolean",
            Self::Null => "null",
        }
    }
}

/// Where the service keeps something: its variables decide, the first candidate that applies.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Location {
    /// A short name for checks and facts.
    pub name: String,
    /// What is kept there, and is lost with it.
    pub note: String,
    /// In the order in which the service looks.
    pub candidates: Vec<Candidate>,
    /// Whether a place off the volume is a failure; otherwise it is a warning.
    #[serde(default)]
    pub critical: bool,
    /// What it must be readable as, if it is there.
    pub format: Option<Format>,
    /// Of a JSON file: JSON pointer → the type of what must be there.
    #[serde(default)]
    pub holds: BTreeMap<String, JsonType>,
    /// Variables that put it on the volume.
    pub fix: BTreeMap<String, String>,
}

/// A place that a variable names.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Candidate {
    /// It applies where this variable is set.
    pub variable: String,
    /// Added to the value of the variable, if anything.
    #[serde(default)]
    pub join: String,
    /// Whether `join` stands beside what the variable names, and not below it.
    #[serde(default)]
    pub beside: bool,
    /// Which versions of the service heed the variable, if not all.
    #[serde(default)]
    pub note: String,
}

impl Location {
    /// The candidate that applies, and the place that it names. `value_of` gives the value of a variable.
    pub fn place(&self, value_of: impl Fn(&str) -> Option<OsString>) -> Option<(&Candidate, PathBuf)> {
        self.candidates.iter().find_map(|candidate| {
            let value = PathBuf::from(value_of(&candidate.variable).filter(|value| !value.is_empty())?);
            Some((candidate, candidate.below(&value)))
        })
    }
}

impl Candidate {
    fn below(&self, value: &Path) -> PathBuf {
        match (self.join.as_str(), value.parent()) {
            ("", _) => value.to_owned(),
            (join, Some(parent)) if self.beside => parent.join(join),
            (join, _) => value.join(join),
        }
    }
}
