//! What `snapshot` and `restore` ask the running service that `--service-url` names.
//!
//! A service that does not answer is no reason to go without a backup: what it would have told is not recorded, and that is
//! said.

use std::collections::BTreeMap;

use super::Session;
use crate::config::Environment;
use crate::config::profile::{Send, Service};
use crate::providers::address::Address;
use crate::providers::service::{self, Asker, Workspace};
use crate::{Context as _, ExitCode, Result, ui};

/// What the service told; `None` where it was not asked, or did not answer.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Its versions, by part.
    pub versions: Option<BTreeMap<String, String>>,
    /// The workspaces that it serves.
    pub workspaces: Option<Vec<Workspace>>,
}

/// Asks it.
///
/// # Errors
/// Usage, when the URL is none, or the token cannot be sent; interrupted.
pub(super) fn told(url: Option<&str>, session: &Session<'_>, service: Option<&Service>) -> Result<Told> {
    let Some(url) = url else {
        ui::say("no --service-url: the versions of the service are not recorded");
        return Ok(Told::default());
    };
    let address = Address::parse(url, "--service-url")?;
    let Some(versions) = versions(&address, session, service, "recorded")? else { return Ok(Told::default()) };
    let mut workspaces = None;
    if let Some(service) = service
        && let Some(known) = &service.workspaces
        && let Some(asker) = asker(service, &known.identity, &session.environment)?
    {
        let asked = service::workspaces(&address, &asker, &known.list, &known.items_at);
        let what = "the workspaces that the service lists are not recorded";
        workspaces = unless_silent(&address, what, session.block(asked))?;
    }
    Ok(Told { versions: Some(versions), workspaces })
}

/// The versions of the service and, if a token is at hand, of the engine that runs behind it: what becomes of them otherwise
/// is that they are not `used`.
///
/// # Errors
/// Usage, when the token cannot be sent; interrupted.
pub(super) fn versions(
    address: &Address,
    session: &Session<'_>,
    service: Option<&Service>,
    used: &str,
) -> Result<Option<BTreeMap<String, String>>> {
    let asked = session.block(service::versions(address, service));
    let what = format!("the versions of the service are not {used}");
    let Some(mut versions) = unless_silent(address, &what, asked)? else { return Ok(None) };
    if let Some(service) = service
        && let Some(sessions) = &service.sessions
        && let Some(asker) = asker(service, &sessions.identity, &session.environment)?
    {
        let engine = sessions.engine.name();
        let asked = service::engine_version(address, &asker, &sessions.health, &sessions.version_at);
        let what = format!("the running version of {engine} is not {used}");
        let version = unless_silent(address, &what, session.block(asked))?;
        versions.extend(version.map(|version| (engine.to_owned(), version)));
    }
    Ok(Some(versions))
}

/// Somebody with the token of an identity, if that is at hand.
fn asker<'p>(service: &'p Service, identity: &str, environment: &Environment) -> Result<Option<Asker<'p>>> {
    let Some(identity) = service.identities.iter().find(|known| known.name == identity) else { return Ok(None) };
    let header = match &identity.send {
        Send::Bearer => None,
        Send::Header(name) => Some(name.as_str()),
    };
    Ok(environment.secret(&identity.variable)?.map(|token| Asker { header, token }))
}

/// The answer; nothing, and a warning, where the service failed to give one.
fn unless_silent<T>(address: &Address, what: &str, answer: Result<T>) -> Result<Option<T>> {
    match answer {
        Err(e) if e.code() == ExitCode::Failed => {
            let hint = e.hint_text().map(|hint| format!(" ({hint})")).unwrap_or_default();
            ui::warn(format!("{what}: {}{hint}", e.full_message()));
            Ok(None)
        }
        other => other.map(Some).context(|| format!("asking {}", address.shown())),
    }
}
