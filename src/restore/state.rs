//! What a directory is to a restore, and the marker that lets an interrupted one go on.
//!
//! The marker `.opsctl/restore.json` says which snapshot is being restored, and what of it. It is on
//! disk before the first restored file and goes away after the last, so a directory with a marker
//! holds an unfinished restore of exactly that, and one without holds somebody's files.
//!
//! Invariant: `.opsctl` is a real directory that belongs to the running user, or it is refused.

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;

use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::record;
use super::select::Selection;
use crate::archive::{FORMAT, FormatError, check_envelope};
use crate::error::{Context as _, Error, Result};
use crate::filter::Patterns;

/// The folder of ours at the root of a restored directory. No entry of a snapshot may be in it.
pub const FOLDER: &str = ".opsctl";
/// The staging folder inside it.
pub(super) const STAGING: &str = "restore";
const MARKER: &str = "restore.json";
const LOCK: &str = "lock";
const NEW_MARKER: &str = "restore.json.new";
const MARKER_TYPE: &str = "opsctl-restore";
/// More than any command line can hold.
const MARKER_MAX: u64 = 16 << 20;

/// What stands where a restore should go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DirState {
    /// Nothing.
    Missing,
    /// An empty directory; `lost+found` and an empty folder of ours do not count.
    Empty,
    /// An unfinished restore.
    Resumable(Task),
    /// A directory with files in it.
    NotEmpty {
        /// One of them, relative to the directory.
        example: OsString,
    },
}

/// What a restore does. Only the same may go on with what it began.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// The snapshot that is being restored.
    pub snapshot_id: String,
    /// The `--include` patterns, sorted.
    #[serde(default)]
    pub include: Vec<String>,
    /// The `--exclude` patterns, sorted.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// Whether devices are created.
    #[serde(default)]
    pub allow_special: bool,
}

impl Task {
    /// The restore of a snapshot, or the part of it between the patterns.
    #[must_use]
    pub fn new(snapshot_id: &str, include: &[String], exclude: &[String], allow_special: bool) -> Self {
        let sorted = |patterns: &[String]| {
            let mut patterns = patterns.to_vec();
            patterns.sort_unstable();
            patterns.dedup();
            patterns
        };
        Self { snapshot_id: snapshot_id.to_owned(), include: sorted(include), exclude: sorted(exclude), allow_special }
    }

    /// The parts of the snapshot that it is about.
    ///
    /// # Errors
    /// Usage, when a pattern is none.
    pub fn selection(&self) -> Result<Selection> {
        Ok(Selection { include: Patterns::new(&self.include)?, exclude: Patterns::new(&self.exclude)? })
    }

    /// The options of the command that does this.
    #[must_use]
    pub fn options(&self) -> String {
        let mut text = format!("--snapshot {}", self.snapshot_id);
        for (option, patterns) in [("--include", &self.include), ("--exclude", &self.exclude)] {
            for pattern in patterns {
                text.push_str(&format!(" {option} '{}'", pattern.replace('\'', "'\\''")));
            }
        }
        if self.allow_special {
            text.push_str(" --allow-special");
        }
        text
    }

    /// Fails if an unfinished restore in `place` does something else than `wanted`.
    ///
    /// # Errors
    /// Usage, with the options that go on with it.
    pub fn must_be(&self, wanted: &Self, place: &str) -> Result<()> {
        if self == wanted {
            return Ok(());
        }
        let message = if self.snapshot_id == wanted.snapshot_id {
            format!("{place} holds an unfinished restore of the same snapshot with another selection")
        } else {
            format!("{place} holds an unfinished restore of another snapshot, {}", self.snapshot_id)
        };
        Err(Error::usage(message).hint(format!("go on with {}, or restore to another folder", self.options())))
    }
}

#[derive(Serialize, Deserialize)]
struct Marker {
    #[serde(rename = "type")]
    kind: String,
    format: u32,
    #[serde(flatten)]
    task: Task,
}

/// Looks at `dir` without changing anything.
///
/// # Errors
/// When it is not a directory, cannot be read, or holds a `.opsctl` that is not ours.
pub fn state_of(dir: &Path) -> Result<DirState> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = match fs::open(dir, flags, Mode::empty()) {
        Ok(root) => root,
        Err(Errno::NOENT) => return Ok(DirState::Missing),
        Err(Errno::NOTDIR) => return Err(Error::usage(format!("{} is not a directory", dir.display()))),
        Err(errno) => return Err(errno).context(|| format!("opening {}", dir.display())),
    };
    look(root.as_fd()).context(|| format!("looking at {}", dir.display()))
}

/// [`state_of`] for an open directory.
pub(super) fn look(root: BorrowedFd<'_>) -> Result<DirState> {
    let mut example = None;
    for (name, kind) in names(root)? {
        let harmless = name == b"lost+found" && kind == FileType::Directory;
        if !harmless && name != FOLDER.as_bytes() {
            example = Some(name);
            break;
        }
    }
    if let Some(folder) = open_folder(root)? {
        if let Some(task) = read_marker(folder.as_fd())? {
            return Ok(DirState::Resumable(task));
        }
        // A lock file may stay from a command that asked for the state and had nothing to keep.
        let ours = |name: &[u8]| [STAGING, NEW_MARKER, LOCK].iter().any(|own| name == own.as_bytes());
        let other = names(folder.as_fd())?.into_iter().find(|(name, _)| !ours(name));
        example = example.or_else(|| other.map(|(name, _)| [FOLDER.as_bytes(), b"/", &name].concat()));
    }
    Ok(match example {
        Some(name) => DirState::NotEmpty { example: OsString::from_vec(name) },
        None => DirState::Empty,
    })
}

/// The error for a directory with files in it.
pub(super) fn not_empty(place: &str, example: &OsString) -> Error {
    Error::usage(format!("{place} is not empty: it holds {}", Path::new(example).display()))
        .hint("restore to a folder that does not exist yet")
}

/// Names and types in a directory, without `.` and `..`.
pub(super) fn names(dir: BorrowedFd<'_>) -> Result<Vec<(Vec<u8>, FileType)>> {
    let mut found = Vec::new();
    for item in Dir::read_from(dir)? {
        let item = item?;
        let name = item.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        let kind = match item.file_type() {
            FileType::Unknown => FileType::from_raw_mode(fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode),
            known => known,
        };
        found.push((name.to_vec(), kind));
    }
    Ok(found)
}

/// Opens `.opsctl` if it is there.
pub(super) fn open_folder(root: BorrowedFd<'_>) -> Result<Option<OwnedFd>> {
    open_own_dir(root, FOLDER)
}

/// Opens the directory `name` if it is there, and refuses anything that is not our own directory.
pub(super) fn open_own_dir(parent: BorrowedFd<'_>, name: &str) -> Result<Option<OwnedFd>> {
    let foreign =
        |why: &str| Error::integrity(format!("{name} {why}")).hint("restore into a directory that only you can write");
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = match fs::openat(parent, name, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::NOENT) => return Ok(None),
        Err(Errno::LOOP | Errno::NOTDIR) => return Err(foreign("is a symbolic link or file, not a directory")),
        Err(errno) => return Err(errno).context(|| format!("opening {name}")),
    };
    let owner = fs::fstat(&fd)?.st_uid;
    if owner != rustix::process::geteuid().as_raw() {
        return Err(
            foreign(&format!("belongs to the user {owner}")).hint("run as that user, or into another directory")
        );
    }
    Ok(Some(fd))
}

/// Lets `.opsctl` come or go in `root`, also where the owner of `root` may not write to it. Its mode and time stay: that
/// is not a change of the tree.
pub(super) fn unnoticed(
    root: BorrowedFd<'_>,
    come_or_go: impl Fn() -> rustix::io::Result<()>,
) -> rustix::io::Result<()> {
    let before = fs::fstat(root)?;
    let mode = Mode::from_raw_mode(before.st_mode & 0o7777);
    match come_or_go() {
        Err(Errno::ACCESS) => {
            fs::fchmod(root, mode | Mode::RWXU).map_err(|_| Errno::ACCESS)?;
            let done = come_or_go();
            fs::fchmod(root, mode)?;
            done
        }
        done => done,
    }?;
    let keep = fs::Timespec { tv_sec: 0, tv_nsec: fs::UTIME_OMIT };
    let mtime =
        fs::Timespec { tv_sec: before.st_mtime, tv_nsec: i64::try_from(before.st_mtime_nsec).unwrap_or_default() };
    fs::futimens(root, &fs::Timestamps { last_access: keep, last_modification: mtime })
}

/// What the marker in `folder` says, if there is one.
pub(super) fn read_marker(folder: BorrowedFd<'_>) -> Result<Option<Task>> {
    let Some(bytes) = record::read(folder, MARKER, MARKER_MAX)? else { return Ok(None) };
    let read = || -> Result<Marker, FormatError> {
        let marker: Marker = serde_json::from_slice(&bytes)
            .map_err(|source| FormatError::Json { what: "marker of a restore", source })?;
        check_envelope("marker of a restore", MARKER_TYPE, &marker.kind, marker.format, &[])?;
        Ok(marker)
    };
    read().map(|marker| Some(marker.task)).context(|| format!("reading {FOLDER}/{MARKER}"))
}

/// Writes the marker, and makes sure it survives a power cut together with `folder`, which `root` holds.
pub(super) fn write_marker(root: BorrowedFd<'_>, folder: BorrowedFd<'_>, task: &Task) -> Result<()> {
    let marker = Marker { kind: MARKER_TYPE.to_owned(), format: FORMAT, task: task.clone() };
    let bytes = serde_json::to_vec(&marker).map_err(|e| Error::from(std::io::Error::from(e)))?;
    record::write(folder, MARKER, &bytes)?;
    Ok(fs::fsync(root)?)
}

/// Removes the marker.
pub(super) fn remove_marker(folder: BorrowedFd<'_>) -> Result<()> {
    record::remove(folder, MARKER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_names_the_options_that_go_on_with_it() {
        let texts = |patterns: &[&str]| patterns.iter().map(ToString::to_string).collect::<Vec<_>>();
        let one = Task::new("id", &texts(&["b", "a's", "b"]), &texts(&["x"]), true);
        assert_eq!(one.options(), r"--snapshot id --include 'a'\''s' --include 'b' --exclude 'x' --allow-special");
        assert_eq!(one, Task::new("id", &texts(&["a's", "b"]), &texts(&["x"]), true));
        one.must_be(&one, "/to").unwrap();
        let other = Task::new("id", &[], &[], true);
        let error = one.must_be(&other, "/to").unwrap_err();
        assert!(error.to_string().contains("the same snapshot with another selection"), "{error}");
        let marker = r#"{"type":"opsctl-restore","format":1,"snapshot_id":"id"}"#;
        let marker: Marker = serde_json::from_str(marker).unwrap();
        assert_eq!(marker.task, Task::new("id", &[], &[], false));
    }
}
