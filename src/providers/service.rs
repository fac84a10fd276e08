//! The running service, as far as a snapshot needs it: which versions it says it is.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use crate::{Error, ExitCode, Result};

/// How long the service may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The part of the answer to `GET /health` that tells versions.
#[derive(Deserialize)]
struct Health {
    version: Option<String>,
    #[serde(rename = "opencodeVersion")]
    opencode_version: Option<String>,
}

/// Asks `<url>/health` for the service's versions: `server`, and `opencode` where it tells.
///
/// # Errors
/// When the service does not answer as expected within ten seconds.
pub async fn versions(url: &str) -> Result<BTreeMap<String, String>> {
    let base = url::Url::parse(url).map_err(|e| Error::usage(format!("{url:?} is not a URL")).because(e))?;
    if !matches!(base.scheme(), "http" | "https") {
        return Err(Error::usage("a service URL starts with http:// or https://"));
    }
    let failed =
        |e: reqwest::Error| Error::new(ExitCode::Failed, "the service did not answer").because(e.without_url());
    let client = reqwest::Client::builder().timeout(TIMEOUT).build().map_err(failed)?;
    let address = format!("{}/health", url.trim_end_matches('/'));
    let answer = client.get(address).send().await.and_then(reqwest::Response::error_for_status).map_err(failed)?;
    let health: Health = answer.json().await.map_err(failed)?;
    let found = [("server", health.version), ("opencode", health.opencode_version)];
    Ok(found.into_iter().filter_map(|(name, version)| Some((name.to_owned(), version?))).collect())
}
