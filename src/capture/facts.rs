//! Records what is in the files that a snapshot captures: ids and counts, for a comparison after a restore.
//!
//! Invariants:
//! * Facts are of the very content that is captured: of the copy that was made of a database, and of a file between the two
//!   looks that prove it at rest. Only which workspaces are served may be known better: by the service that was asked.
//! * Unchanged files are not read again: what was found in them is remembered with their hash. A file about which
//!   nothing is remembered is read, changed or not.
//! * What cannot be recorded stops no snapshot; it is recorded that it was not, with the reason.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;
use serde::{Deserialize, Serialize};

use crate::archive::facts::{Facts, Recorded, SessionFacts, WorkspaceFacts};
use crate::archive::hash::Hash;
use crate::archive::path::EntryPath;
use crate::config::profile::Engine;
use crate::providers::engine;
use crate::providers::service::Workspace;
use crate::state::SourceState;
use crate::{Error, Result};

/// A list of tokens or workspaces is read as far as this. One token takes about 200 bytes.
const MAX_LIST: u64 = 8 << 20;
/// Of an audit log this much of its end is read: many entries, each of a few hundred bytes.
const AUDIT_END: u64 = 64 << 10;
/// Bytes of the facts, which are one chunk.
const MAX_FACTS: usize = 4 << 20;
/// The name of what is remembered between runs. A later format gets another name.
const REMEMBERED: &str = "facts";

/// What to record.
#[derive(Clone, Debug, Default)]
pub struct FactsRequest {
    /// The service that it is about.
    pub service: String,
    /// The program whose tokens, workspaces and audit logs these are.
    pub server: Option<Engine>,
    /// The program whose sessions these are.
    pub engine: Option<Engine>,
    /// The database of the sessions.
    pub sessions: Asked,
    /// The file of the access tokens.
    pub tokens: Asked,
    /// True if the service keeps its tokens in that file and has made none yet: the file is not there.
    pub has_no_tokens: bool,
    /// The workspaces, if they are wanted.
    pub workspaces: Option<AskedWorkspaces>,
    /// Versions that the service told.
    pub versions: BTreeMap<String, String>,
}

/// Where it stands which workspaces there are.
#[derive(Clone, Debug)]
pub struct AskedWorkspaces {
    /// What the running service listed, if it was asked: then nothing else counts, unless that is nothing.
    pub told: Option<Vec<Workspace>>,
    /// The paths of those that it listed besides, on this machine and not in the snapshot.
    pub outside: Vec<PathBuf>,
    /// The workspace that the contract has, by its absolute path, or why there is none.
    pub place: Result<PathBuf, String>,
    /// Whether a variable names that one. Then a service that was started with it does not look at its own list.
    pub is_named: bool,
    /// The file with the service's own list.
    pub list: Asked,
    /// The folder of the audit logs.
    pub audit: Option<EntryPath>,
}

/// Where something is that may be recorded.
#[derive(Clone, Debug, Default)]
pub enum Asked {
    /// Nobody wants to know.
    #[default]
    No,
    /// In the snapshot, at this path.
    At(EntryPath),
    /// Not in the snapshot, for this reason.
    Elsewhere(String),
}

impl Asked {
    const fn path(&self) -> Option<&EntryPath> {
        match self {
            Self::At(path) => Some(path),
            Self::No | Self::Elsewhere(_) => None,
        }
    }
}

/// A file that is looked into: what it holds, and whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct What {
    kind: Kind,
    engine: Engine,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Sessions,
    Tokens,
    Workspaces,
    Audit,
}

/// What was found in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Found {
    Sessions(BTreeMap<String, u64>),
    Tokens(Vec<String>),
    Workspaces(Vec<Workspace>),
    LastAudit(Option<String>, Option<i64>),
    /// Nothing that makes sense, and why.
    Nothing(String),
}

/// What is remembered of a run: path → what was found in which content. The hash says whether it still holds.
type Remembered = BTreeMap<String, (Hash, Found)>;

/// The form of it, with the program that wrote it: another one may look for more.
#[derive(Serialize, Deserialize)]
struct RememberedFile {
    program: String,
    found: Remembered,
}

const PROGRAM: &str = env!("CARGO_PKG_VERSION");

/// Takes down what is found during one pass.
#[derive(Debug, Default)]
pub(super) struct Recorder<'a> {
    request: Option<&'a FactsRequest>,
    remembered: Remembered,
    found: Mutex<Remembered>,
}

impl<'a> Recorder<'a> {
    /// For a pass that begins now. Without a request nothing is recorded.
    pub(super) fn new(request: Option<&'a FactsRequest>, state: &SourceState) -> Self {
        let file = request.and_then(|_| state.read(REMEMBERED));
        let file = file.and_then(|bytes| serde_json::from_slice::<RememberedFile>(&bytes).ok());
        let remembered = file.filter(|file| file.program == PROGRAM).map(|file| file.found).unwrap_or_default();
        Self { request, remembered, found: Mutex::default() }
    }

    fn found(&self) -> MutexGuard<'_, Remembered> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is looked for in the file at this path.
    pub(super) fn wanted(&self, path: &EntryPath) -> Option<What> {
        let request = self.request?;
        let workspaces = request.workspaces.as_ref();
        let places = [
            (Kind::Sessions, request.sessions.path()),
            (Kind::Tokens, request.tokens.path()),
            (Kind::Workspaces, workspaces.and_then(|asked| asked.list.path())),
        ];
        let named = places.into_iter().find(|(_, place)| *place == Some(path)).map(|(kind, _)| kind);
        let is_audit = || {
            let (folder, name) = path.split_last()?;
            let is_log = name.ends_with(b".jsonl") && str::from_utf8(name).is_ok();
            (is_log && workspaces?.audit.as_ref() == Some(&folder)).then_some(Kind::Audit)
        };
        let kind = named.or_else(is_audit)?;
        let engine = if kind == Kind::Sessions { request.engine } else { request.server };
        Some(What { kind, engine: engine? })
    }

    /// Whether an unchanged file with this content must be read all the same, because nothing is remembered of it.
    pub(super) fn needs(&self, path: &EntryPath, content: Option<Hash>) -> bool {
        if self.wanted(path).is_none() {
            return false;
        }
        let path = shown(path);
        match self.remembered.get(&path).filter(|(hash, _)| Some(*hash) == content) {
            Some(known) => {
                self.found().insert(path, known.clone());
                false
            }
            None => true,
        }
    }

    /// Notes what was found in the file at this path, with the content of this hash.
    pub(super) fn note(&self, path: &EntryPath, content: Hash, found: Found) {
        self.found().insert(shown(path), (content, found));
    }

    /// What was found in the file that was asked for, as far as `take` can use it.
    fn recorded<T>(&self, asked: &Asked, take: impl FnOnce(Found) -> Option<T>) -> Recorded<T> {
        let path = match asked {
            Asked::No => return Recorded::NotAsked,
            Asked::Elsewhere(reason) => return Recorded::NotCaptured(reason.clone()),
            Asked::At(path) => shown(path),
        };
        match self.found().get(&path).map(|(_, found)| found.clone()) {
            None => Recorded::NotCaptured(format!("{path} is not in the snapshot")),
            Some(Found::Nothing(reason)) => Recorded::NotCaptured(format!("{path}: {reason}")),
            Some(found) => take(found)
                .map_or_else(|| Recorded::NotCaptured(format!("{path} is something else")), Recorded::Recorded),
        }
    }

    /// The facts of the pass so far; `None` if nobody asked.
    pub(super) fn facts(&self) -> Option<Facts> {
        let request = self.request?;
        let sessions = self.recorded(&request.sessions, |found| match (found, &request.sessions) {
            (Found::Sessions(messages), Asked::At(path)) => Some(SessionFacts { path: shown(path), messages }),
            _ => None,
        });
        let has_tokens = || request.tokens.path().is_some_and(|path| self.found().contains_key(&shown(path)));
        let tokens = if request.has_no_tokens && !has_tokens() {
            Recorded::Recorded(Vec::new())
        } else {
            self.recorded(&request.tokens, |found| if let Found::Tokens(ids) = found { Some(ids) } else { None })
        };
        let workspaces =
            request.workspaces.as_ref().map_or(Recorded::NotAsked, |asked| self.workspaces(asked, request.server));
        let (service, versions) = (request.service.clone(), request.versions.clone());
        Some(Facts { service, sessions, tokens, workspaces, versions })
    }

    /// Which workspaces there are: as the service told, else the one that is named, with those of the service's own list.
    fn workspaces(&self, asked: &AskedWorkspaces, server: Option<Engine>) -> Recorded<Vec<WorkspaceFacts>> {
        let place = asked.place.clone().and_then(|path| {
            let id = server.and_then(|server| engine::workspace_id(server, &path));
            Ok(Workspace { id: id.ok_or("the profile does not say whose workspace it is")?, path })
        });
        let is_place = |one: &Workspace| place.as_ref().is_ok_and(|place| one.id == place.id || one.path == place.path);
        let with_logs = |all: &[Workspace], served: bool| {
            let facts = all.iter().map(|one| WorkspaceFacts {
                may_be_hidden: asked.is_named && !is_place(one),
                served,
                ..self.workspace(asked, one)
            });
            Recorded::Recorded(facts.collect())
        };
        // A service that lists none has perhaps lost its list: the file tells.
        if let Some(told) = asked.told.as_ref().filter(|told| !told.is_empty()) {
            return with_logs(told, true);
        }
        if let Some(path) = asked.outside.first() {
            return Recorded::NotCaptured(format!(
                "the service serves {}, which is not in the snapshot",
                path.display()
            ));
        }
        let list =
            self.recorded(&asked.list, |found| if let Found::Workspaces(list) = found { Some(list) } else { None });
        let mut list = match list {
            Recorded::Recorded(list) => list,
            Recorded::NotAsked => Vec::new(),
            Recorded::NotCaptured(reason) => return Recorded::NotCaptured(reason),
        };
        if list.is_empty() || asked.is_named {
            match &place {
                Ok(place) => {
                    list.retain(|one| !is_place(one));
                    list.insert(0, place.clone());
                }
                Err(reason) => return Recorded::NotCaptured(reason.clone()),
            }
        }
        with_logs(&list, false)
    }

    /// A workspace with the end of its audit log.
    fn workspace(&self, asked: &AskedWorkspaces, of: &Workspace) -> WorkspaceFacts {
        let log = asked.audit.as_ref().and_then(|folder| folder.join(format!("{}.jsonl", of.id).as_bytes()).ok());
        let last = log.and_then(|log| self.found().get(&shown(&log)).map(|(_, found)| found.clone()));
        let (last_audit, last_audit_ms) = match last {
            Some(Found::LastAudit(id, ms)) => (id, ms),
            _ => (None, None),
        };
        let (id, path) = (of.id.clone(), of.path.to_string_lossy().into_owned());
        WorkspaceFacts { id, path, last_audit, last_audit_ms, ..WorkspaceFacts::default() }
    }

    /// Remembers what was found, for the next run.
    ///
    /// # Errors
    /// When the state cannot be written.
    pub(super) fn remember(&self, state: &SourceState) -> Result<()> {
        if *self.found() == self.remembered {
            return Ok(());
        }
        let file = RememberedFile { program: PROGRAM.to_owned(), found: self.found().clone() };
        state.write(REMEMBERED, &serde_json::to_vec(&file).map_err(std::io::Error::from)?)
    }
}

fn shown(path: &EntryPath) -> String {
    String::from_utf8_lossy(path.as_bytes()).into_owned()
}

/// The document as it is stored, with the facts that are in it.
///
/// # Errors
/// Never for what this module makes.
pub(super) fn document(mut facts: Facts) -> Result<(Vec<u8>, Facts)> {
    let json = |facts: &Facts| serde_json::to_vec(facts).map_err(|e| Error::from(std::io::Error::from(e)));
    let bytes = json(&facts)?;
    if bytes.len() <= MAX_FACTS {
        return Ok((bytes, facts));
    }
    let too_many = || "they are too many to record".to_owned();
    facts.sessions = Recorded::NotCaptured(too_many());
    if json(&facts)?.len() > MAX_FACTS {
        facts.tokens = Recorded::NotCaptured(too_many());
    }
    Ok((json(&facts)?, facts))
}

/// What is in the finished copy of a database.
pub(super) fn in_database(what: What, db: &Connection) -> Found {
    match what.kind {
        Kind::Sessions => engine::sessions(what.engine, db).map_or_else(Found::Nothing, Found::Sessions),
        Kind::Tokens | Kind::Workspaces | Kind::Audit => Found::Nothing("it is a database".to_owned()),
    }
}

/// What is in a file that is no database. The caller knows whether it is at rest meanwhile.
pub(super) fn in_file(what: What, file: &mut File) -> Found {
    let mut read = || -> std::io::Result<Found> {
        let mut bytes = Vec::new();
        Ok(match what.kind {
            Kind::Sessions => Found::Nothing("it is no SQLite database".to_owned()),
            Kind::Tokens | Kind::Workspaces => {
                file.seek(SeekFrom::Start(0))?;
                file.take(MAX_LIST).read_to_end(&mut bytes)?;
                let found = match what.kind {
                    Kind::Workspaces => engine::workspaces(what.engine, &bytes).map(Found::Workspaces),
                    _ => engine::token_ids(what.engine, &bytes).map(Found::Tokens),
                };
                found.unwrap_or_else(Found::Nothing)
            }
            Kind::Audit => {
                let size = file.metadata()?.len();
                file.seek(SeekFrom::Start(size.saturating_sub(AUDIT_END)))?;
                file.take(AUDIT_END).read_to_end(&mut bytes)?;
                let entry = engine::last_audit_entry(what.engine, &bytes);
                entry.map_or(Found::LastAudit(None, None), |entry| Found::LastAudit(entry.id, entry.ms))
            }
        })
    };
    read().unwrap_or_else(|error| Found::Nothing(format!("reading failed: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sessions(number: usize, id_len: usize) -> Recorded<SessionFacts> {
        let messages = (0..number).map(|n| (format!("{n:0id_len$}"), 1)).collect();
        Recorded::Recorded(SessionFacts { path: "x".to_owned(), messages })
    }

    #[test]
    fn facts_that_do_not_fit_into_a_chunk_are_not_captured_and_the_rest_is() {
        let tokens = Recorded::Recorded(vec!["a".to_owned()]);
        let facts = |sessions, tokens| Facts { sessions, tokens, ..Facts::default() };
        let stored = |facts: Facts| {
            let (bytes, facts) = document(facts).unwrap();
            assert!(bytes.len() <= MAX_FACTS && Facts::read(&bytes).unwrap() == facts);
            facts
        };
        let all = stored(facts(sessions(100_000, 30), tokens.clone()));
        assert!(all.sessions.recorded().is_some(), "as many as OpenCode is asked for");
        let some = stored(facts(sessions(100_000, 60), tokens.clone()));
        assert_eq!((some.sessions.reason(), &some.tokens), (Some("they are too many to record"), &tokens));
        let tokens = Recorded::Recorded(vec!["x".repeat(MAX_FACTS)]);
        let none = stored(facts(sessions(1, 1), tokens));
        assert!(none.tokens.reason().is_some());
    }
}
