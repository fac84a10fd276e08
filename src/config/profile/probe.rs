//! Requests whose answers show that a service works.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A request, and the answers that are right.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// The name of the check; scripts know it.
    pub name: String,
    /// The path, with its query if it has one.
    pub path: String,
    /// The method.
    #[serde(default)]
    pub method: Method,
    /// Who asks; left out: nobody in particular.
    pub identity: Option<String>,
    /// Whether it is asked again until it is right, since the service may still be booting.
    #[serde(default)]
    pub waits: bool,
    /// The answers that are right: any one of them will do.
    pub expect: Vec<Answer>,
    /// Versions that the answer tells: the name of the part → a JSON pointer (RFC 6901) into the answer.
    #[serde(default)]
    pub versions: BTreeMap<String, String>,
    /// JSON pointer to the milliseconds that the service has run for, where the answer tells them: they prove a restart.
    pub uptime_ms: Option<String>,
    /// What it means when it is not right, and what to do.
    #[serde(default)]
    pub fix: String,
}

/// How a request is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Method {
    /// To look.
    #[default]
    Get,
    /// To make something.
    Post,
    /// To remove something.
    Delete,
}

impl Method {
    /// Its name in a request.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Delete => "DELETE",
        }
    }
}

/// What an answer must be. Everything that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// Its status is one of these.
    pub status: Vec<u16>,
    /// Its `Content-Type` begins so.
    pub content_type: Option<String>,
    /// Its headers: name → text that the value holds.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Its body is JSON in which these JSON pointers (RFC 6901) lead to these values.
    #[serde(default)]
    pub json: BTreeMap<String, serde_json::Value>,
    /// Its body is JSON in which these JSON pointers lead to something, whatever it is.
    #[serde(default)]
    pub has: Vec<String>,
    /// Its body holds each of these texts.
    #[serde(default)]
    pub body: Vec<String>,
    /// Said with it, where it is right and yet not the usual answer.
    pub says: Option<String>,
}
