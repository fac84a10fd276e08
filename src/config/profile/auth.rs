//! Who may ask what.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Method;

/// Somebody who asks, and how that is shown.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// The name, as the rows of the matrix use it.
    pub name: String,
    /// The variable that holds the token.
    pub variable: String,
    /// How the token is sent.
    pub send: Send,
    /// Further headers that each of its requests carries.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
}

/// How a token is sent.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Send {
    /// As `Authorization: Bearer …`.
    Bearer,
    /// As the value of this header.
    Header(String),
}

/// A protected end point, and the statuses that each identity is answered with.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AuthRow {
    /// The path. `{workspace}` stands for the id of the workspace.
    pub path: String,
    /// The method; only `GET` rows are asked without leave to write, and the others only as those who must be refused.
    #[serde(default)]
    pub method: Method,
    /// What is sent with a `POST`, as JSON; left out: `{}`. Choose what the service refuses if it does not refuse who asks,
    /// so that a broken one makes nothing of it either.
    #[serde(default)]
    pub body: Option<serde_json::Value>,
    /// Identity → statuses that are right. Who is left out is not asked.
    pub answers: BTreeMap<String, Vec<u16>>,
    /// Identity → statuses of other versions of the service: said, and no failure.
    #[serde(default)]
    pub drift: BTreeMap<String, Vec<u16>>,
    /// Whether some versions do not have it: then everybody is answered with 404.
    #[serde(default)]
    pub optional: bool,
    /// What it depends on, and what to do when an answer is another one.
    #[serde(default)]
    pub note: String,
}

/// How tokens of less power are made and removed again.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScopedTokens {
    /// Where they are listed and, by `POST {"scope", "label"}`, made.
    pub path: String,
    /// Who may do that.
    pub identity: String,
    /// The scopes, each an identity of the matrix that is sent as a bearer token.
    pub scopes: Vec<String>,
    /// JSON pointer to the array in the answer to a `GET`, of objects with `label` and, at `id_at`, an id.
    #[serde(default = "items")]
    pub items_at: String,
    /// JSON pointer to the token in the answer.
    pub token_at: String,
    /// JSON pointer to its id; `DELETE <path>/<id>` removes it.
    pub id_at: String,
}

fn items() -> String {
    "/items".to_owned()
}

/// A request whose answer tells which token it came with.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Whoami {
    /// Where that is asked.
    pub path: String,
    /// Who asks.
    pub identity: String,
    /// JSON pointer to the SHA-256 of the token, in hexadecimal.
    pub sha256_at: String,
    /// JSON pointer to the scope of the token, by which those that were made for the purpose are told apart.
    pub scope_at: Option<String>,
}
