//! What an in-place restore has on disk about itself, so that any later run can finish or undo it.
//!
//! ```text
//! .opsctl/journal.json          what is under way, until it is over
//! .opsctl/restore-<id>/         the stage: the new tree, and after the swap the replaced one
//! .opsctl/previous.json         what `opsctl rollback` would put back, and
//! .opsctl/previous-<id>/        the tree itself
//! ```
//! Invariants:
//! * No entry of the live tree is moved before a journal on disk names it, with the inodes on both sides.
//! * `.opsctl` is a real directory of the running user, or nothing is done in it.

use std::os::fd::BorrowedFd;
use std::path::Path;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::record;
use super::spine::Spine;
use super::state::{FOLDER, Task};
use crate::archive::path::EntryPath;
use crate::archive::{FORMAT, FormatError, check_envelope};
use crate::error::{Context as _, Error, Result};

const JOURNAL: &str = "journal.json";
const KEPT: &str = "previous.json";
const JOURNAL_TYPE: &str = "opsctl-journal";
const KEPT_TYPE: &str = "opsctl-previous";
/// A line of about 200 bytes for each of some hundred thousand entries: more is not ours.
const MAX: u64 = 256 << 20;

/// How far an in-place restore or a rollback is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// The new tree is being put together; the live tree is untouched.
    Staging,
    /// Entries are being exchanged, towards the tree in the folder.
    Swapping,
    /// Entries are being exchanged back.
    Undoing,
    /// Everything is exchanged; whether it stays is not decided.
    Swapped,
    /// It stays; what is left to do is to keep what it replaced.
    Keeping,
    /// Files are being replaced one by one in the live tree; nothing of it can be taken back.
    Overwriting,
}

/// What is under way in a directory.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Journal {
    #[serde(rename = "type")]
    kind: String,
    format: u32,
    /// Names the folder, and later the kept tree.
    pub id: String,
    /// The folder below `.opsctl` that entries are exchanged with.
    pub folder: String,
    /// True for `opsctl rollback`.
    pub rollback: bool,
    /// How far it is.
    pub phase: Phase,
    /// What is restored; for a rollback, what is taken back.
    pub task: Task,
    /// Whether what is kept at its end is the restored tree, because a rollback has replaced that.
    #[serde(default)]
    pub keeps_restored: bool,
    /// What is exchanged; `None` while staging.
    #[serde(default)]
    pub swap: Option<Swap>,
    /// The inode of the folder once something is exchanged: all inodes here are of its volume.
    #[serde(default)]
    pub folder_ino: u64,
}

impl Journal {
    /// The journal of a restore that begins.
    #[must_use]
    pub fn begin(id: &str, phase: Phase, task: Task) -> Self {
        let (kind, folder) = (JOURNAL_TYPE.to_owned(), stage_folder(id));
        let id = id.to_owned();
        let (rollback, keeps_restored, swap, folder_ino) = (false, false, None, 0);
        Self { kind, format: FORMAT, id, folder, rollback, phase, task, keeps_restored, swap, folder_ino }
    }

    /// The journal of a rollback, of a kept tree whose folder has this inode.
    #[must_use]
    pub fn rollback(kept: &Kept, folder_ino: u64) -> Self {
        let begun = Self::begin(&kept.id, Phase::Swapping, kept.task.clone());
        Self {
            folder: kept_folder(&kept.id),
            rollback: true,
            keeps_restored: !kept.is_restored,
            swap: Some(kept.swap.reversed()),
            folder_ino,
            ..begun
        }
    }

    /// The command that ends it.
    #[must_use]
    pub fn command(&self, dir: &Path) -> String {
        let dir = crate::ui::shell_word(dir.display());
        match (self.rollback, self.phase) {
            (true, _) => format!("opsctl rollback {dir}"),
            (false, Phase::Overwriting) => format!("opsctl restore {dir} --in-place {}", self.task.options()),
            (false, _) => format!("opsctl restore {dir} {}", self.task.options()),
        }
    }

    /// Reads the journal of the folder `.opsctl`, if there is one.
    ///
    /// # Errors
    /// Integrity, when it is not readable.
    pub fn read(folder: BorrowedFd<'_>) -> Result<Option<Self>> {
        let journal: Option<Self> = read(folder, JOURNAL)?;
        if let Some(journal) = &journal {
            check(JOURNAL, JOURNAL_TYPE, &journal.kind, journal.format)?;
            let expected = if journal.rollback { kept_folder(&journal.id) } else { stage_folder(&journal.id) };
            if journal.folder != expected || !is_id(&journal.id) {
                return Err(Error::integrity(format!("{FOLDER}/{JOURNAL} names a folder that is not its own")));
            }
        }
        Ok(journal)
    }

    /// Puts the journal on disk.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, folder: BorrowedFd<'_>) -> Result<()> {
        write(folder, JOURNAL, self)
    }

    /// Takes the journal away: what it is about is over.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove(folder: BorrowedFd<'_>) -> Result<()> {
        record::remove(folder, JOURNAL)
    }
}

/// A replaced tree that can be put back.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Kept {
    #[serde(rename = "type")]
    kind: String,
    format: u32,
    /// The id of the restore that replaced it.
    pub id: String,
    /// When, in RFC 3339.
    pub since: String,
    /// The restore that this is about.
    pub task: Task,
    /// True if this is the tree that the restore made, which a rollback has replaced.
    #[serde(default)]
    pub is_restored: bool,
    /// How it was exchanged: entries of `old` are in the kept tree now, those of `new` in the live one.
    pub swap: Swap,
}

impl Kept {
    /// The record of the tree that `journal` has replaced.
    #[must_use]
    pub fn of(journal: &Journal, since: String) -> Self {
        Self {
            kind: KEPT_TYPE.into(),
            format: FORMAT,
            id: journal.id.clone(),
            since,
            task: journal.task.clone(),
            is_restored: journal.keeps_restored,
            swap: journal.swap.clone().unwrap_or_default(),
        }
    }

    /// Reads the record in the folder `.opsctl`, if there is one.
    ///
    /// # Errors
    /// Integrity, when it is not readable.
    pub fn read(folder: BorrowedFd<'_>) -> Result<Option<Self>> {
        let kept: Option<Self> = read(folder, KEPT)?;
        if let Some(kept) = &kept {
            check(KEPT, KEPT_TYPE, &kept.kind, kept.format)?;
            if !is_id(&kept.id) {
                return Err(Error::integrity(format!("{FOLDER}/{KEPT} names a folder that is not its own")));
            }
        }
        Ok(kept)
    }

    /// Puts the record on disk.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, folder: BorrowedFd<'_>) -> Result<()> {
        write(folder, KEPT, self)
    }

    /// Takes the record away: the tree cannot be put back any more.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove(folder: BorrowedFd<'_>) -> Result<()> {
        record::remove(folder, KEPT)
    }

    /// The folder of the kept tree below `.opsctl`.
    #[must_use]
    pub fn folder(&self) -> String {
        kept_folder(&self.id)
    }
}

/// All that is exchanged between the live tree and a folder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Swap {
    /// Entries that change places.
    pub steps: Vec<Step>,
    /// Directories that stay where they are, and get each other's metadata.
    pub spine: Vec<Spine>,
    /// What else stays in them, or may not be moved: all that is found beside these later was made since.
    #[serde(default)]
    pub stays: Vec<Left>,
}

impl Swap {
    /// The exchange that takes this one back.
    #[must_use]
    pub fn reversed(&self) -> Self {
        let steps = self.steps.iter().map(|step| Step { old: step.new, new: step.old, ..step.clone() });
        let spine = self.spine.iter().map(|dir| Spine { old: dir.new.clone(), new: dir.old.clone(), ..dir.clone() });
        Self { steps: steps.collect(), spine: spine.collect(), stays: self.stays.clone() }
    }
}

/// A path that an exchange leaves alone, with everything below.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// Relative to the live tree.
    #[serde(flatten, with = "wire_path")]
    pub path: EntryPath,
}

/// One entry that changes places: at `path` in the live tree, and at the same path in the folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Relative to both trees.
    #[serde(flatten, with = "wire_path")]
    pub path: EntryPath,
    /// What is live before.
    pub old: Option<Object>,
    /// What is live after.
    pub new: Option<Object>,
}

impl Step {
    /// True if it is one of the two that change places.
    #[must_use]
    pub fn knows(&self, object: Object) -> bool {
        [self.old, self.new].iter().flatten().any(|known| known.ino == object.ino)
    }
}

/// How an entry is known again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// Its inode number; both trees are on one file system.
    pub ino: u64,
    /// Its mode, file type included.
    pub mode: u32,
}

/// The name of a stage below `.opsctl`.
#[must_use]
pub fn stage_folder(id: &str) -> String {
    format!("restore-{id}")
}

/// The name of a kept tree below `.opsctl`.
#[must_use]
pub fn kept_folder(id: &str) -> String {
    format!("previous-{id}")
}

/// Ids are part of names: letters, digits and dashes.
fn is_id(id: &str) -> bool {
    !id.is_empty() && id.len() <= 64 && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

fn check(name: &'static str, expected: &'static str, kind: &str, format: u32) -> Result<()> {
    check_envelope(name, expected, kind, format, &[]).context(|| format!("reading {FOLDER}/{name}"))
}

fn read<T: DeserializeOwned>(folder: BorrowedFd<'_>, name: &'static str) -> Result<Option<T>> {
    let Some(bytes) = record::read(folder, name, MAX)? else { return Ok(None) };
    let read = serde_json::from_slice(&bytes).map_err(|source| FormatError::Json { what: name, source });
    read.map(Some).context(|| format!("reading {FOLDER}/{name}"))
}

fn write<T: Serialize>(folder: BorrowedFd<'_>, name: &str, record: &T) -> Result<()> {
    let bytes = serde_json::to_vec(record).map_err(|e| Error::from(std::io::Error::from(e)))?;
    record::write(folder, name, &bytes)
}

/// Removes what a run left that was cut off while it wrote a record.
pub(super) fn remove_new(folder: BorrowedFd<'_>) -> Result<()> {
    [JOURNAL, KEPT].iter().try_for_each(|name| record::remove(folder, &record::aside(name)))
}

/// A path as the manifest writes it: `path`, or `path_b64` when it is not UTF-8.
pub(super) mod wire_path {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::archive::path::EntryPath;

    #[derive(Serialize, Deserialize)]
    struct Wire {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        path: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        path_b64: Option<String>,
    }

    pub fn serialize<S: Serializer>(path: &EntryPath, serializer: S) -> Result<S::Ok, S::Error> {
        let (path, path_b64) = path.to_json();
        Wire { path, path_b64 }.serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<EntryPath, D::Error> {
        let wire = Wire::deserialize(deserializer)?;
        EntryPath::from_json(wire.path, wire.path_b64).map_err(serde::de::Error::custom)
    }
}
