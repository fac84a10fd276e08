//! What opsctl wrote: names, keyed fingerprints and times, and no value.
//!
//! It is needed for three questions that Railway cannot answer: what is in a sealed variable, who put a variable there (so
//! that `--prune` deletes nothing of others), and whether a deployment that failed was ours. Losing it costs these answers
//! and nothing else.
//!
//! Invariant: a record is replaced as a whole, after its content is on disk; two runs never write the same one.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::fingerprint::Fingerprint;
use crate::config::Environment;
use crate::config::profile::read_text;
use crate::config::secrets::Target;
use crate::{Context as _, Error, ExitCode, Result, ui};

/// The only format there is.
const FORMAT: u32 = 1;
/// The key of the shared variables among services.
pub const SHARED: &str = "shared";

/// What was written to one target.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    format: u32,
    project: String,
    environment: String,
    /// By Railway's id of the service, or [`SHARED`].
    #[serde(default)]
    pub services: BTreeMap<String, ServiceRecord>,
    /// The last rotation of each reference.
    #[serde(default)]
    pub rotations: BTreeMap<String, Closing>,
}

/// A rotation at its end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Closing {
    /// Of the value that services have now; `None` without a key that lasts.
    pub fingerprint: Option<Fingerprint>,
    /// When its last edit was begun.
    pub closed: Timestamp,
    /// Whether that edit was seen to be done. If not, the next run has nothing left to do but to see it.
    pub is_seen: bool,
}

/// What was written to one service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServiceRecord {
    /// What the configuration calls it.
    pub name: String,
    /// By name.
    #[serde(default)]
    pub variables: BTreeMap<String, Written>,
    /// The newest deployment that was asked for.
    #[serde(default)]
    pub deployment: Option<Asked>,
}

/// A variable that was written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Written {
    /// Of its value; `None` without a key that lasts.
    pub fingerprint: Option<Fingerprint>,
    /// When, by this host's clock.
    pub written: Timestamp,
    /// When, by Railway's clock; `None` if that was not seen.
    #[serde(default)]
    pub updated: Option<Timestamp>,
}

/// A deployment that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// Its id; `None` while nobody knows whether Railway heard.
    pub id: Option<String>,
    /// The newest one before it.
    pub before: Option<String>,
    /// When, by this host's clock.
    pub asked: Timestamp,
    /// Whether it was seen to run.
    pub done: bool,
}

/// The record of a target and its place. Held open for writing, it keeps other runs out.
#[derive(Debug)]
pub struct RecordFile {
    path: PathBuf,
    /// What it holds.
    pub record: Record,
    /// `None`: it is only read.
    _lock: Option<File>,
}

impl RecordFile {
    /// Reads the record of a target; an empty one if there is none.
    ///
    /// # Errors
    /// Integrity, when it is none.
    pub fn read(folder: &Path, target: &Target) -> Result<Self> {
        Self::load(folder, target, None)
    }

    /// Reads the record and keeps other runs out until it is dropped.
    ///
    /// # Errors
    /// Busy, when another run has it; integrity, when it is none; when it cannot be made.
    pub fn lock(folder: &Path, target: &Target) -> Result<Self> {
        let shown = folder.display();
        let mut make = std::fs::DirBuilder::new();
        make.recursive(true).mode(0o700).create(folder).context(|| format!("making the folder {shown}"))?;
        let path = folder.join(format!("{}.lock", target.name));
        let open = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let lock = open.context(|| format!("opening {}", path.display()))?;
        match lock.try_lock() {
            Ok(()) => Self::load(folder, target, Some(lock)),
            Err(std::fs::TryLockError::WouldBlock) => {
                let message = format!("another run works on the secrets of `{}`", target.name);
                Err(Error::new(ExitCode::Busy, message).hint("wait until it is over, then run the same command again"))
            }
            Err(std::fs::TryLockError::Error(error)) => {
                Err(Error::from(error)).context(|| format!("locking {}", path.display()))
            }
        }
    }

    fn load(folder: &Path, target: &Target, lock: Option<File>) -> Result<Self> {
        let path = folder.join(format!("{}.json", target.name));
        let shown = path.display();
        let empty = Record {
            format: FORMAT,
            project: target.project.clone(),
            environment: target.environment.clone(),
            services: BTreeMap::new(),
            rotations: BTreeMap::new(),
        };
        let record = match read_text(&path) {
            Ok(text) => {
                let broken = |why: &str| {
                    Error::integrity(format!("{shown} is no record of secrets that this version knows: {why}"))
                        .hint("move it away: what is lost is which variables opsctl wrote, and what is in sealed ones")
                };
                let record: Record = serde_json::from_str(&text).map_err(|error| broken(&error.to_string()))?;
                if record.format != FORMAT {
                    return Err(broken(&format!("format {}", record.format)));
                }
                record
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => empty.clone(),
            Err(error) => return Err(Error::from(error)).context(|| format!("reading {shown}")),
        };
        // What was written to another environment says nothing about this one.
        let is_ours = record.project == target.project && record.environment == target.environment;
        if !is_ours {
            ui::warn(format!("{shown} is about another environment, and is not used"));
        }
        Ok(Self { path: path.clone(), record: if is_ours { record } else { empty }, _lock: lock })
    }

    /// The record of a service.
    #[must_use]
    pub fn of(&self, id: Option<&str>) -> Option<&ServiceRecord> {
        self.record.services.get(id.unwrap_or(SHARED))
    }

    /// The record of a service, to be changed.
    pub fn of_mut(&mut self, id: Option<&str>, name: &str) -> &mut ServiceRecord {
        let record = self.record.services.entry(id.unwrap_or(SHARED).to_owned()).or_default();
        name.clone_into(&mut record.name);
        record
    }

    /// Drops what is known of a service.
    pub fn forget(&mut self, id: Option<&str>) {
        self.record.services.remove(id.unwrap_or(SHARED));
    }

    /// Puts the record on disk.
    ///
    /// # Errors
    /// When it cannot be written; the old one stays.
    pub fn save(&self) -> Result<()> {
        let write = || -> io::Result<()> {
            let next = self.path.with_extension("json.next");
            let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&next)?;
            file.write_all(&serde_json::to_vec_pretty(&self.record)?)?;
            file.sync_all()?;
            std::fs::rename(&next, &self.path)?;
            self.path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
        };
        write().context(|| format!("writing {}", self.path.display()))
    }
}

/// The folder of all records: below the state folder that was named, else where programs keep such things.
///
/// # Errors
/// Usage, when nothing says where that is.
pub fn folder(state_dir: Option<&Path>, environment: &Environment) -> Result<PathBuf> {
    if let Some(dir) = state_dir {
        return Ok(dir.join("secrets"));
    }
    // The specification of these folders has relative ones ignored.
    let absolute = |name: &str| environment.get(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")));
    let state = state.ok_or_else(|| {
        Error::usage("nothing says where to keep the record of secrets").hint("give --state-dir DIR, or set HOME")
    })?;
    Ok(state.join("opsctl/secrets"))
}
