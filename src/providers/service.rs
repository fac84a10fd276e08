//! The running service, as far as a snapshot needs it: which versions it says it is, and which workspaces it serves.
//!
//! Invariants: a token is sent to the service that was named and nowhere else ([`Address::client`]), and does not go over
//! the network in clear. No answer is shown, for it could hold a secret.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderName, HeaderValue};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::address::Address;
use crate::config::profile::{Method, Probe, Service};
use crate::{Error, ExitCode, Result};

/// How long the service may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of an answer: a list of workspaces is the longest.
const MAX_ANSWER: usize = 1 << 20;

/// A workspace, as the server knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workspace {
    /// Its id.
    pub id: String,
    /// Its path; empty for one that is on another machine.
    pub path: PathBuf,
}

/// Absolute, without `.` and `..` and a slash at the end; links are left as they are, as the server does it.
#[must_use]
pub fn absolute(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            other => plain.push(other),
        }
    }
    plain
}

/// Somebody who may ask what not everybody may.
#[derive(Debug)]
pub struct Asker<'a> {
    /// The header that takes the token; none: it is a bearer token.
    pub header: Option<&'a str>,
    /// The token.
    pub token: SecretString,
}

/// Asks the service for its versions, by the names of the profile: where a probe that anybody may make tells them. Which
/// engine runs, only that itself knows.
///
/// # Errors
/// When the service does not answer as expected within ten seconds, or nobody knows where to ask.
pub async fn versions(address: &Address, service: Option<&Service>) -> Result<BTreeMap<String, String>> {
    let tells = |probe: &&Probe| !probe.versions.is_empty() && probe.identity.is_none() && probe.method == Method::Get;
    let probes: Vec<&Probe> = service.iter().flat_map(|service| &service.probes).filter(tells).collect();
    if probes.is_empty() {
        return Err(Error::new(ExitCode::Failed, "the profile does not say where the service tells them"));
    }
    let mut versions = BTreeMap::new();
    for probe in probes {
        let body = get(address, &probe.path, None).await?;
        let answer: Value = serde_json::from_slice(&body).map_err(|_| not_expected())?;
        let told = |at: &String| answer.pointer(at).and_then(Value::as_str).map(str::to_owned);
        versions.extend(probe.versions.iter().filter_map(|(part, at)| Some((part.clone(), told(at)?))));
    }
    Ok(versions)
}

/// Asks the engine behind the service for the version that runs: `version_at` is a JSON pointer into the answer at `path`.
///
/// # Errors
/// As [`versions`]; also when the token would go over a network in clear.
pub async fn engine_version(address: &Address, asker: &Asker<'_>, path: &str, version_at: &str) -> Result<String> {
    let answer = ask(address, asker, path).await?;
    answer.pointer(version_at).and_then(Value::as_str).map(str::to_owned).ok_or_else(not_expected)
}

/// Asks the service for the workspaces that it serves, in the array at `items_at`. Of the answer, which holds passwords, ids
/// and paths are taken and nothing else.
///
/// # Errors
/// As [`engine_version`].
pub async fn workspaces(address: &Address, asker: &Asker<'_>, path: &str, items_at: &str) -> Result<Vec<Workspace>> {
    let answer = ask(address, asker, path).await?;
    let items = answer.pointer(items_at).and_then(Value::as_array).ok_or_else(not_expected)?;
    let text = |item: &Value, key: &str| item.get(key).and_then(Value::as_str).map(str::to_owned);
    let workspace = |item: &Value| {
        let path = text(item, "path").map(PathBuf::from).unwrap_or_default();
        text(item, "id").map(|id| Workspace { id, path }).ok_or_else(not_expected)
    };
    items.iter().map(workspace).collect()
}

async fn ask(address: &Address, asker: &Asker<'_>, path: &str) -> Result<Value> {
    if !address.is_encrypted() && !address.is_loopback() {
        return Err(Error::new(ExitCode::Failed, "the token is not sent without https"));
    }
    let token = asker.token.expose_secret();
    let (name, text) = match asker.header {
        None => (AUTHORIZATION, format!("Bearer {token}")),
        Some(name) => (name.parse().map_err(|_| Error::usage(format!("{name:?} is no header")))?, token.to_owned()),
    };
    let mut value = HeaderValue::from_str(&text).map_err(|_| Error::usage("the token is none that can be sent"))?;
    value.set_sensitive(true);
    let body = get(address, path, Some((name, value))).await?;
    serde_json::from_slice(&body).map_err(|_| not_expected())
}

async fn get(address: &Address, path: &str, header: Option<(HeaderName, HeaderValue)>) -> Result<Vec<u8>> {
    let failed =
        |e: reqwest::Error| Error::new(ExitCode::Failed, "the service did not answer").because(e.without_url());
    let request = address.client()?.get(format!("{}{path}", address.shown())).timeout(TIMEOUT);
    let request = header.into_iter().fold(request, |request, (name, value)| request.header(name, value));
    let mut answer = request.send().await.and_then(reqwest::Response::error_for_status).map_err(failed)?;
    if answer.status().is_redirection() {
        return Err(Error::new(ExitCode::Failed, "the service sends whoever asks elsewhere")
            .hint("give the URL that it redirects to, if that is the service"));
    }
    let mut body = Vec::new();
    while let Some(part) = answer.chunk().await.map_err(failed)? {
        body.extend_from_slice(&part);
        if body.len() > MAX_ANSWER {
            return Err(not_expected());
        }
    }
    Ok(body)
}

fn not_expected() -> Error {
    Error::new(ExitCode::Failed, "the service did not answer as expected")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_token_goes_over_a_network_in_clear() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let ask = |url| {
            let asker = Asker { header: None, token: SecretString::from("token") };
            let address = Address::parse(url, "--service-url").unwrap();
            runtime.block_on(engine_version(&address, &asker, "/x", "/version")).unwrap_err().full_message()
        };
        // An address that is nobody's.
        assert!(ask("http://192.0.2.1").contains("without https"));
        assert!(!ask("http://127.0.0.1:9").contains("without https"));
    }
}
