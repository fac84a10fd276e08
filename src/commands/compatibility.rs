//! Whether the data of a snapshot fits what will run on it: the profile, and the versions of the running service.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::restore::RestoreArgs;
use super::{Session, snapshot_service};
use crate::providers::address::Address;
use crate::repository::Snapshot;
use crate::{Error, ExitCode, Result, ui};

/// What a snapshot was taken of, and what it would run on.
#[derive(Clone, Debug, Serialize, schemars::JsonSchema)]
pub struct Versions {
    /// As its receipt says.
    pub snapshot: VersionSet,
    /// The profile of this run, and the running service that --service-url names.
    pub here: VersionSet,
}

/// Names and versions; null, or not there, where nobody says.
#[derive(Clone, Debug, Serialize, schemars::JsonSchema)]
pub struct VersionSet {
    /// The name of the profile.
    pub profile: Option<String>,
    /// The version of its contract.
    pub contract: Option<String>,
    /// By part of the service, as the profile names them: what runs, and what it was made with.
    #[serde(flatten)]
    pub parts: BTreeMap<String, String>,
}

impl VersionSet {
    fn new(profile: Option<(&str, &str)>, versions: &BTreeMap<String, String>) -> Self {
        Self {
            profile: profile.map(|(name, _)| name.to_owned()),
            contract: profile.map(|(_, version)| version.to_owned()),
            parts: versions.clone(),
        }
    }
}

impl fmt::Display for VersionSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |version: &Option<String>| version.as_deref().map_or_else(|| "unknown".into(), ui::escape);
        let (name, contract) = (text(&self.profile), text(&self.contract));
        write!(f, "profile {name} {contract}")?;
        if self.parts.is_empty() {
            return f.write_str(", versions unknown");
        }
        self.parts.iter().try_for_each(|(part, version)| write!(f, ", {} {}", ui::escape(part), ui::escape(version)))
    }
}

/// Compares what the snapshot says it was taken of with the profile and the running service: all versions, and a warning
/// for each that differs.
pub(super) fn compatibility(
    args: &RestoreArgs,
    session: &Session<'_>,
    snapshot: &Snapshot,
) -> Result<(Versions, Vec<String>)> {
    let profile = &session.settings.profile.value;
    let of = snapshot.receipt.profile.as_ref();
    let mut warnings = Vec::new();
    if let Some(of) = of {
        if of.name != profile.name {
            warnings.push(format!("the snapshot was taken under the profile {}, this is {}", of.name, profile.name));
        } else if profile.is_incompatible(&of.contract_version) {
            let message = format!(
                "the snapshot follows version {} of the contract {}, which version {} calls incompatible",
                of.contract_version, profile.name, profile.contract_version
            );
            if !args.allow_incompatible {
                return Err(Error::new(ExitCode::Failed, message).hint(
                    "restore it with the profile of its time (--profile FILE), or insist with --allow-incompatible",
                ));
            }
            warnings.push(message);
        } else if of.contract_version != profile.contract_version {
            warnings.push(format!(
                "the snapshot follows version {} of the contract {}, the profile is of version {}",
                of.contract_version, profile.name, profile.contract_version
            ));
        }
    }
    let taken = snapshot.receipt.versions.clone().unwrap_or_default();
    let running = running(args, session)?;
    for (name, version) in &taken {
        if let Some(other) = running.get(name).filter(|other| *other != version) {
            warnings.push(format!("the snapshot was taken of {name} {version}, the service runs {other}"));
        }
    }
    let versions = Versions {
        snapshot: VersionSet::new(of.map(|of| (of.name.as_str(), of.contract_version.as_str())), &taken),
        here: VersionSet::new(Some((&profile.name, &profile.contract_version)), &running),
    };
    Ok((versions, warnings))
}

/// What the running service says; nothing where nobody asks, or during an incident where it does not answer.
fn running(args: &RestoreArgs, session: &Session<'_>) -> Result<BTreeMap<String, String>> {
    let Some(url) = &args.service_url else { return Ok(BTreeMap::new()) };
    let address = Address::parse(url, "--service-url")?;
    let here = session.settings.profile.value.volume_service().ok().map(|(service, _)| service);
    Ok(snapshot_service::versions(&address, session, here, "compared")?.unwrap_or_default())
}
