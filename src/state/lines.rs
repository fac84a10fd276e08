//! The lines of the saved tree, and the index that finds them by path.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::{Mutex, PoisonError};

use serde::Deserialize;

use super::Local;
use crate::archive::entry::{Extent, Kind};
use crate::archive::hash::Hash;
use crate::archive::path::EntryPath;
use crate::{Error, ExitCode, Result};

/// What is needed of an entry's JSON to use it again. Not its extents: they are most of the work.
#[derive(Deserialize)]
struct Reusable<'a> {
    #[serde(rename = "type")]
    kind: Kind,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    holes: Vec<(u64, u64)>,
    #[serde(borrow)]
    path: Option<Cow<'a, str>>,
    #[serde(borrow)]
    path_b64: Option<Cow<'a, str>>,
    #[serde(borrow)]
    hardlink: Option<Cow<'a, str>>,
    sha256: Option<Hash>,
}

/// What is needed of an entry's JSON to know where its content lies.
#[derive(Deserialize)]
struct Placed<'a> {
    #[serde(rename = "type")]
    kind: Kind,
    missing: Option<serde::de::IgnoredAny>,
    excluded: Option<serde::de::IgnoredAny>,
    #[serde(borrow)]
    path: Option<Cow<'a, str>>,
    #[serde(borrow)]
    path_b64: Option<Cow<'a, str>>,
    #[serde(default)]
    extents: Vec<Extent>,
    #[serde(default)]
    extent_list: Vec<Extent>,
}

fn path_of(path: Option<Cow<'_, str>>, path_b64: Option<Cow<'_, str>>) -> Option<EntryPath> {
    EntryPath::from_json(path.map(Cow::into_owned), path_b64.map(Cow::into_owned)).ok()
}

/// One saved line that may be reused as it is.
#[derive(Clone, Debug)]
pub struct SavedLine {
    /// The local columns.
    pub local: Local,
    /// All columns as saved: the local ones, the manifest line, and the full extents if that only refers to them.
    pub text: String,
    /// What the path is.
    pub kind: Kind,
    /// Bytes of content, holes not counted.
    pub data_len: u64,
    /// SHA-256 of a file's content.
    pub sha256: Option<Hash>,
    /// The hard-link group.
    pub hardlink: Option<String>,
    /// Chunks of it that lie in packs of earlier recipients, with their lengths.
    pub earlier: Vec<(Hash, u32)>,
}

/// The previous tree, indexed by path: 24 bytes a file.
#[derive(Debug, Default)]
pub struct Previous {
    pub(super) file: Option<File>,
    pub(super) lines: HashMap<u64, (u64, u32)>,
    /// Packs that are encrypted to earlier recipients.
    pub(super) earlier: HashSet<Hash>,
    /// The part of the file that was read last: a walk comes by in the order of the lines.
    pub(super) window: Mutex<Window>,
}

/// A part of the saved tree.
#[derive(Debug, Default)]
pub(super) struct Window {
    start: u64,
    bytes: Vec<u8>,
}

/// Bytes read at once.
const WINDOW: usize = 256 << 10;

impl Window {
    /// The bytes of `file` from `offset` on.
    fn get(&mut self, file: &File, offset: u64, len: usize) -> io::Result<&[u8]> {
        let at = |start: u64| usize::try_from(offset.checked_sub(start)?).ok();
        if at(self.start).is_none_or(|at| at + len > self.bytes.len()) {
            self.bytes.resize(WINDOW.max(len), 0);
            self.start = offset;
            let mut filled = 0;
            while filled < self.bytes.len() {
                match file.read_at(&mut self.bytes[filled..], offset + filled as u64)? {
                    0 => break,
                    got => filled += got,
                }
            }
            self.bytes.truncate(filled);
        }
        let at = at(self.start).unwrap_or(usize::MAX);
        self.bytes.get(at..).and_then(|rest| rest.get(..len)).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

pub(super) fn path_key(path: &EntryPath) -> u64 {
    let hash = Hash::of(path.as_bytes()).0;
    hash.iter().take(8).fold(0, |key, byte| (key << 8) | u64::from(*byte))
}

impl Previous {
    /// The saved line of a path. A line that cannot be read counts as not there.
    #[must_use]
    pub fn lookup(&self, path: &EntryPath) -> Option<SavedLine> {
        let (offset, len) = *self.lines.get(&path_key(path))?;
        let bytes = {
            let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
            window.get(self.file.as_ref()?, offset, len as usize).ok()?.to_vec()
        };
        let text = String::from_utf8(bytes).ok()?;
        let mut columns = text.splitn(3, '\t');
        let (local, entry) = (columns.next()?, columns.next()?);
        let listed = columns.next().unwrap_or_default();
        let local = serde_json::from_str(local).ok()?;
        let saved: Reusable<'_> = serde_json::from_str(entry).ok()?;
        if path_of(saved.path, saved.path_b64)? != *path {
            return None;
        }
        let (kind, holes) = (saved.kind, saved.holes.iter().map(|(_, len)| len).sum::<u64>());
        let data_len = saved.size.saturating_sub(holes);
        let (sha256, hardlink) = (saved.sha256, saved.hardlink.map(Cow::into_owned));
        let earlier = self.earlier_chunks(entry, listed)?;
        Some(SavedLine { local, text, kind, data_len, sha256, hardlink, earlier })
    }

    fn earlier_chunks(&self, entry: &str, listed: &str) -> Option<Vec<(Hash, u32)>> {
        if self.earlier.is_empty() {
            return Some(Vec::new());
        }
        let extents = line_parts(entry, listed).ok()?.extents.into_iter();
        Some(extents.filter(|x| self.earlier.contains(&x.pack)).map(|x| (x.chunk, x.len)).collect())
    }
}

/// What a manifest line says, as far as the line may be used again.
#[derive(Debug)]
pub struct Parts {
    /// The path.
    pub path: EntryPath,
    /// True if others may lie below it.
    pub is_open_dir: bool,
    /// Every extent: those in the line, and those it refers to.
    pub extents: Vec<Extent>,
}

/// Takes a line apart; `listed` are the full extents of a line that only refers to them.
///
/// # Errors
/// When the line is not what this program wrote.
pub fn line_parts(entry: &str, listed: &str) -> Result<Parts> {
    let damaged = |e| Error::new(ExitCode::Failed, "a line of the state is damaged").because(io::Error::from(e));
    let placed: Placed<'_> = serde_json::from_str(entry).map_err(damaged)?;
    let is_open_dir = placed.kind == Kind::Dir && placed.missing.is_none() && placed.excluded.is_none();
    let path = path_of(placed.path, placed.path_b64);
    let path = path.ok_or_else(|| Error::integrity("a line of the state has no path"))?;
    let mut extents = placed.extents;
    extents.extend(placed.extent_list);
    if !listed.is_empty() {
        extents.extend(serde_json::from_str::<Vec<Extent>>(listed).map_err(damaged)?);
    }
    Ok(Parts { path, is_open_dir, extents })
}
