//! Could this deployment be backed up, and restored? Everything about it that can be checked before anything breaks.
//!
//! It runs where the service runs: the variables that it checks are those of this process.
//!
//! Invariants:
//! * Nothing is changed but one scratch object below `probe/` in the store and one scratch file on the volume. (Databases
//!   are checked on a copy in the temporary folder, if there is room; it is gone at once, also after Ctrl-C.)
//! * No finding holds a secret: no check repeats one, and at the end every value of a secret variable is blanked out.
//! * The checks and their order depend on profile and arguments alone; each says how long it took.

mod files;
mod json;
mod keys;
mod locations;
mod scratch;
mod secrets;
mod sidecars;
mod space;
mod store;
mod variables;

use std::time::Instant;

use jiff::SignedDuration;
use schemars::JsonSchema;
use serde::Serialize;
use tokio::runtime::Handle;

use crate::archive::keyring::Identities;
use crate::archive::signature::SigningKey;
use crate::cancel::Cancel;
use crate::capture::HostConfig;
use crate::config::profile::Service;
use crate::config::{Environment, Secrets};
use crate::finding::{Finding, Status};
use crate::providers::store::Store;
use crate::{Error, Result, ui};

/// What is to be checked.
pub struct Request<'a> {
    /// The service of the profile.
    pub service: &'a Service,
    /// Its variables.
    pub environment: &'a Environment,
    /// The store, or why there is none.
    pub store: Result<Store>,
    /// What a snapshot would capture as.
    pub source: &'a str,
    /// What is known of the store's keys.
    pub host: Result<HostConfig>,
    /// The key that snapshots are signed with, if one is given.
    pub signing_key: Option<Result<SigningKey>>,
    /// The identities, if any are given.
    pub identities: Option<Result<Identities>>,
    /// Where the state lives; `None`: `.opsctl` on the volume.
    pub state_dir: Option<&'a std::path::Path>,
    /// The oldest that the last snapshot may be.
    pub max_age: Option<SignedDuration>,
    /// A file or URL with the checksums of the sidecars.
    pub sidecar_manifest: Option<&'a str>,
    /// Where secrets come from and go to, if the configuration says so.
    pub secrets: Result<Option<Secrets>>,
    /// Where network work runs.
    pub runtime: &'a Handle,
    /// Ends it early.
    pub cancel: &'a Cancel,
}

/// The result of `doctor`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Report {
    /// `failed` if any check failed, or with --strict gave a warning.
    pub verdict: Verdict,
    /// Every check, in a fixed order.
    pub checks: Vec<Finding>,
}

/// How the whole came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It could be backed up and restored.
    Passed,
    /// Something has to be done first.
    Failed,
}

/// Makes all checks, those of different subjects at the same time.
///
/// # Errors
/// Only when it is interrupted: whatever else goes wrong is a finding.
pub fn examine(request: &Request<'_>, strict: bool) -> Result<Report> {
    type Subject = fn(&Request<'_>) -> Vec<Finding>;
    // Files and space go one after the other: no descriptor of a database may be closed while another thread reads it.
    let on_the_volume: Subject = |request| [files::check(request), space::check(request)].concat();
    let subjects: [Subject; 7] =
        [variables::check, locations::check, on_the_volume, store::check, keys::check, sidecars::check, secrets::check];
    let mut checks: Vec<Finding> = std::thread::scope(|scope| {
        let started = subjects.map(|subject| scope.spawn(move || subject(request)));
        started
            .into_iter()
            .flat_map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    request.cancel.check()?;
    blank_out_secrets(request, &mut checks);
    let worst = checks.iter().map(|finding| finding.status).max().unwrap_or(Status::Ok);
    let bad = if strict { Status::Warning } else { Status::Failed };
    Ok(Report { verdict: if worst >= bad { Verdict::Failed } else { Verdict::Passed }, checks })
}

/// The last net: should a message of a library repeat what it was given, it does not get out.
fn blank_out_secrets(request: &Request<'_>, checks: &mut [Finding]) {
    /// Shorter values are words that a message holds anyway, and no secrets worth the name.
    const SHORTEST: usize = 8;
    const OURS: [&str; 12] = [
        "OPSCTL_IDENTITY",
        "OPSCTL_SIGNING_KEY",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "SECRET_ACCESS_KEY",
        "GOOGLE_SERVICE_ACCOUNT_KEY",
        "AZURE_STORAGE_ACCOUNT_KEY",
        "AZURE_STORAGE_ACCESS_KEY",
        "AZURE_STORAGE_KEY",
        "AZURE_STORAGE_SAS_TOKEN",
        "AZURE_STORAGE_SAS_KEY",
        "AZURE_CLIENT_SECRET",
    ];
    let named =
        request.service.variables.iter().filter(|variable| variable.secret).map(|variable| variable.name.as_str());
    let value = |name: &str| request.environment.get(name)?.into_string().ok();
    let secrets: Vec<String> = named.chain(OURS).filter_map(value).filter(|value| value.len() >= SHORTEST).collect();
    for finding in checks {
        for text in std::iter::once(&mut finding.detail).chain(finding.fix.as_mut()) {
            for secret in &secrets {
                if text.contains(secret.as_str()) {
                    *text = text.replace(secret.as_str(), "…");
                }
            }
            *text = ui::redact(text);
        }
    }
}

/// The finding of a check, with its time.
fn timed(check: impl FnOnce() -> Finding) -> Finding {
    let started = Instant::now();
    check().after(started.elapsed())
}

/// A failed check, with the hint of the error as what to do.
fn failed(name: &str, error: &Error, otherwise: &str) -> Finding {
    Finding::failed(name, error.full_message(), error.hint_text().unwrap_or(otherwise))
}

#[cfg(test)]
mod tests;
