//! What `snapshot` asks the running service that `--service-url` names.
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
    let versions = session.block(service::versions(&address, service));
    let Some(mut versions) = unless_silent(&address, "the versions of the service are", versions)? else {
        return Ok(Told::default());
    };
    let mut workspaces = None;
    if let Some(service) = service {
        if let Some(sessions) = &service.sessions
            && let Some(asker) = asker(service, &sessions.identity, &session.environment)?
        {
            let engine = sessions.engine.name();
            let asked = service::engine_version(&address, &asker, &sessions.health, &sessions.version_at);
            let what = format!("the running version of {engine} is");
            let version = unless_silent(&address, &what, session.block(asked))?;
            versions.extend(version.map(|version| (engine.to_owned(), version)));
        }
        if let Some(known) = &service.workspaces
            && let Some(asker) = asker(service, &known.identity, &session.environment)?
        {
            let asked = service::workspaces(&address, &asker, &known.list, &known.items_at);
            let what = "the workspaces that the service lists are";
            workspaces = unless_silent(&address, what, session.block(asked))?;
        }
    }
    Ok(Told { versions: Some(versions), workspaces })
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
            ui::warn(format!("{what} not recorded: {}{hint}", e.full_message()));
            Ok(None)
        }
        other => other.map(Some).context(|| format!("asking {}", address.shown())),
    }
}
