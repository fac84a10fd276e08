//! Settings: flag, then variable, then file, then profile, then default; each checked once, here at the edge.
//!
//! Why one struct with origins: at three in the morning the question is not only what the store is, but who says so.
//! `opsctl config show` answers it from [`rows`].
//!
//! Invariants:
//! * The highest layer that names a setting wins whole; lists are never mixed across layers.
//! * What cannot be honoured (unknown key, malformed value, two rival variables) is an error, exit 2, that names its place.
//! * [`Settings`] holds no secret value, only where to read it; so it may be printed.

pub mod args;
pub mod env;
mod file;
mod keys;
mod layers;
mod parse;
pub mod profile;
mod resolve;
mod rows;
pub mod secrets;

use std::path::PathBuf;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use secrecy::SecretString;

pub use args::GlobalArgs;
pub use env::Environment;
pub use file::FILE_KEYS;
pub use keys::{Fetch, KeySource};
pub(crate) use keys::{is_reference, read_limited};
pub(crate) use layers::truthy;
pub use layers::{Origin, Sourced};
pub use parse::{parse_size, parse_source};
pub use profile::Profile;
pub use rows::{Row, rows, rows_table};
pub use secrets::{Secrets, SecretsTable};

use crate::error::{Context as _, Error, Result};
use crate::ui::{ColorChoice, LogFormat};

/// All settings of a run, checked, each with its origin.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The configuration file that was read, if any.
    pub config: Sourced<Option<PathBuf>>,
    /// The deployment contract.
    pub profile: Sourced<Profile>,
    /// Its file; `None` for a built-in one.
    pub profile_file: Option<PathBuf>,
    /// The store's URL; [`Settings::store_url`] insists on one.
    pub store: Sourced<Option<String>>,
    /// The id that the store must have, where the host cannot read it.
    pub store_id: Sourced<Option<String>>,
    /// The name of what is captured; see [`Settings::named_source`] for readers.
    pub source: Sourced<String>,
    /// Where the state lives; `None` means `.opsctl` in the captured folder.
    pub state_dir: Sourced<Option<PathBuf>>,
    /// The zone of times without an offset.
    pub tz: Sourced<TimeZone>,
    /// Whether the result is a JSON document.
    pub json: Sourced<bool>,
    /// How log lines look.
    pub log_format: Sourced<LogFormat>,
    /// Identifies this run in logs.
    pub run_id: Sourced<String>,
    /// `-v` counted up, `-q` counted down.
    pub verbosity: Sourced<i8>,
    /// Whether progress may be shown.
    pub progress: Sourced<bool>,
    /// When to use colour.
    pub color: Sourced<ColorChoice>,
    /// Recipients named by flag, variable or file. Empty: the store's own keys object decides.
    pub recipients: Sourced<Vec<String>>,
    /// Signers pinned by flag, variable or file.
    pub trusted_signers: Sourced<Vec<String>>,
    /// Whether to believe the signers that the store itself names.
    pub trust_store_keys: Sourced<bool>,
    /// Where the age identity comes from.
    pub identity: Sourced<Option<KeySource>>,
    /// Where the signing key comes from.
    pub signing_key: Sourced<Option<KeySource>>,
    /// What a snapshot leaves out, and what it may use.
    pub snapshot: SnapshotSettings,
    /// Which variables of which services get their values from where, as the file says: see [`Settings::secrets()`].
    pub secrets: Sourced<Option<SecretsTable>>,
}

/// What a snapshot leaves out, and what it may use.
#[derive(Clone, Debug)]
pub struct SnapshotSettings {
    /// Globs to leave out.
    pub exclude: Sourced<Vec<String>>,
    /// Whether to leave out what the profile calls recoverable.
    pub exclude_recoverable: Sourced<bool>,
    /// Uploads at the same time.
    pub upload_concurrency: Sourced<u16>,
    /// Bytes for packs in flight.
    pub memory: Sourced<u64>,
    /// Bytes of unchanged files to store anew in one run after a change of recipients. `None`: all.
    pub max_rekey_size: Sourced<Option<u64>>,
}

impl Settings {
    /// The store's URL, or the error that says how to name one.
    pub fn store_url(&self) -> Result<&str> {
        self.store.value.as_deref().ok_or_else(|| {
            Error::usage("no store is named")
                .hint("give --store URL, or set OPSCTL_STORE (file://, s3://, gs://, az://)")
        })
    }

    /// The source, if anybody named one. `None`: a reading command takes the store's only source. The name of the service
    /// that happens to run this process says what it captures, not what somebody wants to read.
    #[must_use]
    pub fn named_source(&self) -> Option<&str> {
        let is_named = match &self.source.origin {
            Origin::Default => false,
            Origin::Variable(name) => name != resolve::RAILWAY,
            _ => true,
        };
        is_named.then_some(self.source.value.as_str())
    }

    /// Reads a time expression in the zone of these settings.
    pub fn parse_time(&self, text: &str, now: Timestamp) -> Result<Timestamp> {
        Ok(crate::time::parse_at(text, now, &self.tz.value)?)
    }

    /// Which variables of which services get their values from where. Checked when it is needed: a file that somebody has not
    /// filled in yet must not keep the nightly snapshot from being made.
    ///
    /// # Errors
    /// Usage, where the file is wrong about it.
    pub fn secrets(&self) -> Result<Option<Secrets>> {
        let secrets = self.secrets.value.as_ref().map(Secrets::new).transpose();
        secrets.context(|| format!("the configuration ({})", self.secrets.origin))
    }

    /// Reads the age identity, if one is named. Call once: standard input and descriptors give it once only.
    pub fn read_identity(&self, environment: &Environment, fetch: Fetch<'_>) -> Result<Option<SecretString>> {
        self.identity.value.as_ref().map(|source| source.read(environment, fetch, "identity")).transpose()
    }

    /// Reads the signing key, if one is named. Call once: standard input and descriptors give it once only.
    pub fn read_signing_key(&self, environment: &Environment, fetch: Fetch<'_>) -> Result<Option<SecretString>> {
        self.signing_key.value.as_ref().map(|source| source.read(environment, fetch, "signing key")).transpose()
    }
}

#[cfg(test)]
mod tests;
