//! Collects what the walk and the readers find, in manifest order, into a file.
//!
//! A file, not memory: extents are known only when packs are closed, and a tree has more paths than
//! memory should hold. Lines of the draft:
//! `R local entry listed` reused as it is; `E local entry` complete without content;
//! `C local entry chunks` content whose extents are still to be added.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write};

use super::read::{ReadDone, ReadFile};
use super::walk::Item;
use crate::archive::entry::{Entry, Kind, MAX_INLINE_EXTENTS};
use crate::archive::hash::Hash;
use crate::archive::path::EntryPath;
use crate::archive::receipt::Counts;
use crate::state::{Local, SavedLine};
use crate::{Error, Result};

/// Problems beyond this number are counted, not listed.
const MAX_LISTED: usize = 1000;

/// Why a path is not, or not surely, as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The path.
    pub path: EntryPath,
    /// What happened to it.
    pub kind: ProblemKind,
    /// In words.
    pub reason: String,
}

/// What happened to a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProblemKind {
    /// Not captured: the snapshot is incomplete.
    Missing,
    /// Captured while it was changing: the snapshot is incomplete.
    Changed,
    /// Gone before it could be read: a note.
    Vanished,
}

/// What a walk gave, in numbers and names.
#[derive(Debug, Default)]
pub struct Findings {
    /// The counts of the receipt.
    pub counts: Counts,
    /// The first problems, in order of path.
    pub problems: Vec<Problem>,
    /// Bytes of file content that were read.
    pub bytes_read: u64,
    /// Paths taken over unchanged.
    pub unchanged: u64,
    /// True if a file has more extents than fit into its line.
    pub has_listed: bool,
}

impl Findings {
    /// Notes a problem.
    pub fn problem(&mut self, path: &EntryPath, kind: ProblemKind, reason: &str) {
        if self.problems.len() < MAX_LISTED {
            self.problems.push(Problem { path: path.clone(), kind, reason: reason.to_owned() });
        }
    }

    /// True if everything that should be in the snapshot is.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.counts.unreadable == 0 && self.counts.changed == 0
    }
}

/// A file and its chunks.
type Content = (Entry, Vec<(Hash, u32)>);

/// Writes the draft.
pub struct Collector {
    out: BufWriter<File>,
    findings: Findings,
    /// Files with several names, by inode; `None` if the content could not be had.
    links: HashMap<(u64, u64), Option<Content>>,
}

impl Collector {
    /// Collects into `file`.
    #[must_use]
    pub fn new(file: File) -> Self {
        Self { out: BufWriter::with_capacity(1 << 20, file), findings: Findings::default(), links: HashMap::new() }
    }

    /// Takes the next item, waiting for it if it is still being read.
    ///
    /// # Errors
    /// When the draft cannot be written or the run is stopping.
    pub fn take(&mut self, item: Item) -> Result<()> {
        match item {
            Item::Reused(line, _) => self.reused(&line),
            Item::Entry(entry, local) => self.entry(&entry, local.as_ref()),
            Item::Vanished(path) => {
                self.vanished(&path);
                Ok(())
            }
            // The readers only go away without an answer when the run is stopping.
            Item::Reading { done, path, inode } => {
                let done = done.recv().map_err(|_| Error::interrupted())?;
                self.read(done, &path, inode)
            }
            Item::Link { path, inode } => self.link(path, inode),
        }
    }

    fn reused(&mut self, line: &SavedLine) -> Result<()> {
        self.findings.counts.add_captured(line.kind, line.data_len);
        self.findings.unchanged += 1;
        self.write(b'R', &line.local_text, &line.entry, &line.listed)
    }

    fn entry(&mut self, entry: &Entry, local: Option<&Local>) -> Result<()> {
        if let Some(reason) = &entry.missing {
            self.findings.problem(&entry.path, ProblemKind::Missing, reason);
        }
        self.findings.counts.add(entry);
        self.unread_xattrs(entry);
        let local = local.filter(|_| entry.unread_xattrs.is_empty()).map(json).transpose()?.unwrap_or_default();
        self.write(b'E', &local, &json(entry)?, "")
    }

    fn read(&mut self, done: ReadDone, path: &EntryPath, inode: Option<(u64, u64)>) -> Result<()> {
        match done {
            ReadDone::File(file) => {
                let ReadFile { mut entry, chunks, local, bytes } = *file;
                self.findings.bytes_read += bytes;
                if let Some(inode) = inode {
                    entry.hardlink = Some(Hash::of(entry.path.as_bytes()).short(16));
                    self.links.insert(inode, Some((entry.clone(), chunks.clone())));
                }
                self.content(&entry, &chunks, Some(&local))
            }
            ReadDone::Missing(entry) => {
                inode.map(|inode| self.links.insert(inode, None));
                self.entry(&entry, None)
            }
            ReadDone::Vanished => {
                inode.map(|inode| self.links.insert(inode, None));
                self.vanished(path);
                Ok(())
            }
        }
    }

    fn content(&mut self, entry: &Entry, chunks: &[(Hash, u32)], local: Option<&Local>) -> Result<()> {
        self.findings.counts.add(entry);
        self.findings.has_listed |= chunks.len() > MAX_INLINE_EXTENTS;
        if entry.changed {
            self.findings.problem(
                &entry.path,
                ProblemKind::Changed,
                "was still changing after it was read three times",
            );
        }
        self.unread_xattrs(entry);
        // What was not captured as it should be must be read again next time.
        let local = local
            .filter(|_| !entry.changed && entry.unread_xattrs.is_empty())
            .map(json)
            .transpose()?
            .unwrap_or_default();
        self.write(b'C', &local, &json(entry)?, &json(&chunks)?)
    }

    fn vanished(&mut self, path: &EntryPath) {
        self.findings.counts.vanished += 1;
        self.findings.problem(path, ProblemKind::Vanished, "vanished before it was read");
    }

    fn unread_xattrs(&mut self, entry: &Entry) {
        if !entry.unread_xattrs.is_empty() {
            let reason = format!("extended attributes could not be read: {}", entry.unread_xattrs.join(", "));
            self.findings.problem(&entry.path, ProblemKind::Missing, &reason);
        }
    }

    fn link(&mut self, path: EntryPath, inode: (u64, u64)) -> Result<()> {
        match self.links.get(&inode).cloned().flatten() {
            Some((mut entry, chunks)) => {
                entry.path = path;
                self.content(&entry, &chunks, None)
            }
            None => {
                let mut entry = Entry::new(path, Kind::File);
                entry.missing = Some("the name under which this file was to be read could not be read".to_owned());
                self.entry(&entry, None)
            }
        }
    }

    fn write(&mut self, kind: u8, local: &str, entry: &str, last: &str) -> Result<()> {
        for part in [&[kind][..], b"\t", local.as_bytes(), b"\t", entry.as_bytes(), b"\t", last.as_bytes(), b"\n"] {
            self.out.write_all(part)?;
        }
        Ok(())
    }

    /// The draft, to be read from its start, and what was found.
    ///
    /// # Errors
    /// When the draft cannot be written.
    pub fn finish(self) -> Result<(File, Findings)> {
        use std::io::Seek as _;
        let mut file = self.out.into_inner().map_err(std::io::IntoInnerError::into_error)?;
        file.rewind()?;
        Ok((file, self.findings))
    }
}

fn json<T: serde::Serialize + ?Sized>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Error::from(std::io::Error::from(e)))
}
