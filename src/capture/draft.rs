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
use super::stop::Stop;
use super::walk::{Inode, Item};
use crate::archive::entry::{Entry, Kind, MAX_INLINE_EXTENTS};
use crate::archive::hash::Hash;
use crate::archive::path::EntryPath;
use crate::archive::receipt::Counts;
use crate::state::{Local, SavedLine, StateFile};
use crate::{Error, Result};

/// Problems of one kind beyond this number are counted, not listed.
const MAX_LISTED: usize = 1000;
/// The longest line of an entry without its extents: far beyond what file systems give, and short enough
/// for a frame.
const MAX_LINE: usize = 1 << 20;

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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
    /// How many problems of each kind there are.
    listed: HashMap<ProblemKind, usize>,
}

impl Findings {
    /// Notes a problem.
    pub fn problem(&mut self, path: &EntryPath, kind: ProblemKind, reason: &str) {
        let listed = self.listed.entry(kind).or_default();
        *listed += 1;
        if *listed <= MAX_LISTED {
            self.problems.push(Problem { path: path.clone(), kind, reason: reason.to_owned() });
        }
    }

    /// How many problems there are beyond those listed.
    #[must_use]
    pub fn unlisted(&self) -> usize {
        self.listed.values().map(|n| n.saturating_sub(MAX_LISTED)).sum()
    }

    /// True if everything that should be in the snapshot is.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.counts.unreadable == 0 && self.counts.changed == 0
    }
}

/// A file with several names: what it is, its chunks, how to recognise it unchanged, names still to come.
struct Linked {
    entry: Entry,
    chunks: Vec<(Hash, u32)>,
    local: Local,
    names: u64,
}

/// What all names of an inode have in common. Not made of a path: names come and go, and some are taken
/// over unread while others are read. Made of the content too, so that an inode number which is given to
/// another file during the walk joins nothing.
#[must_use]
pub fn link_group((device, inode): (u64, u64), content: Hash) -> String {
    Hash::of(format!("{device} {inode} {content}").as_bytes()).short(16)
}

/// Writes the draft.
pub struct Collector<'a> {
    out: BufWriter<StateFile>,
    findings: Findings,
    /// Files with several names, by inode, until their last name has come.
    links: HashMap<(u64, u64), Linked>,
    stop: &'a Stop,
}

impl<'a> Collector<'a> {
    /// Collects into `file`.
    #[must_use]
    pub fn new(file: StateFile, stop: &'a Stop) -> Self {
        let out = BufWriter::with_capacity(1 << 20, file);
        Self { out, findings: Findings::default(), links: HashMap::new(), stop }
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
                let done = self.stop.recv(&done)?.ok_or_else(Error::interrupted)?;
                self.read(done, &path, inode)
            }
            Item::Link { path, inode } => self.link(path, inode),
        }
    }

    fn reused(&mut self, line: &SavedLine) -> Result<()> {
        self.findings.counts.add_captured(line.kind, line.data_len);
        self.findings.unchanged += 1;
        for part in [b"R\t", line.text.as_bytes(), b"\n"] {
            self.out.write_all(part)?;
        }
        Ok(())
    }

    fn entry(&mut self, entry: &Entry, local: Option<&Local>) -> Result<()> {
        let text = json(entry)?;
        if text.len() > MAX_LINE && !entry.xattrs.is_empty() {
            return self.too_large(entry);
        }
        if let Some(reason) = &entry.missing {
            self.findings.problem(&entry.path, ProblemKind::Missing, reason);
        }
        self.findings.counts.add(entry);
        self.unread_xattrs(entry);
        let local = local.filter(|_| entry.unread_xattrs.is_empty()).map(json).transpose()?.unwrap_or_default();
        self.write(b'E', &local, &text, "")
    }

    /// A path whose metadata does not fit into a node of the manifest.
    fn too_large(&mut self, entry: &Entry) -> Result<()> {
        let mut bare = Entry::new(entry.path.clone(), Kind::File);
        bare.missing = Some("its extended attributes are too large to be recorded".to_owned());
        self.entry(&bare, None)
    }

    fn read(&mut self, done: ReadDone, path: &EntryPath, inode: Option<Inode>) -> Result<()> {
        match done {
            ReadDone::File(file) => {
                let ReadFile { mut entry, chunks, local, bytes } = *file;
                self.findings.bytes_read += bytes;
                // Another file may have taken the name since: then the other names are not of this one.
                if let (Some(inode), Some(content)) = (inode.filter(|i| i.id == (local.id.0, local.id.1)), entry.sha256)
                {
                    entry.hardlink = Some(link_group(inode.id, content));
                    let (entry, chunks, names) = (entry.clone(), chunks.clone(), inode.names.saturating_sub(1));
                    self.links.insert(inode.id, Linked { entry, chunks, local, names });
                }
                self.content(&entry, &chunks, &local)
            }
            ReadDone::Missing(entry) => self.entry(&entry, None),
            ReadDone::Vanished => {
                self.vanished(path);
                Ok(())
            }
        }
    }

    fn content(&mut self, entry: &Entry, chunks: &[(Hash, u32)], local: &Local) -> Result<()> {
        let text = json(entry)?;
        if text.len() > MAX_LINE {
            return self.too_large(entry);
        }
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
        let as_it_was = !entry.changed && entry.unread_xattrs.is_empty();
        let local = if as_it_was { json(local)? } else { String::new() };
        self.write(b'C', &local, &text, &json(&chunks)?)
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
        let Some(mut linked) = self.links.remove(&inode) else {
            let mut entry = Entry::new(path, Kind::File);
            entry.missing =
                Some("the name under which this file was to be read went to another file, or away".to_owned());
            return self.entry(&entry, None);
        };
        linked.entry.path = path;
        self.content(&linked.entry, &linked.chunks, &linked.local)?;
        linked.names = linked.names.saturating_sub(1);
        if linked.names > 0 {
            self.links.insert(inode, linked);
        }
        Ok(())
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
        let mut file = self.out.into_inner().map_err(std::io::IntoInnerError::into_error)?.into_file();
        file.rewind()?;
        Ok((file, self.findings))
    }
}

fn json<T: serde::Serialize + ?Sized>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Error::from(std::io::Error::from(e)))
}
