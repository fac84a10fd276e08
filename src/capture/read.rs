//! Reads one file so that what is stored is one state of it, or says that it could not.
//!
//! Invariants:
//! * A file that differs before and after reading is read again, at most [`ATTEMPTS`] times; then it
//!   is stored with `changed`, never silently. A file that changes in the very tick of the clock in which it is
//!   read does not differ, so a reading counts only if that tick was over when it began.
//! * A database is captured consistently or not at all.
//! * Nothing is followed: every open is relative to its directory and refuses symbolic links.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use crossbeam_channel::Sender;
use jiff::Timestamp;
use rusqlite::Connection;
use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::facts::{Found, Recorder, in_database, in_file};
use super::look::look;
use super::metadata::{MetadataError, read_metadata};
use super::sqlite::{self, CaptureError};
use super::stop::{Stop, ended};
use super::store_side::{ClaimedChunk, Encoder};
use crate::archive::chunker::{Chunker, WHOLE};
use crate::archive::entry::{Database, Entry, Kind};
use crate::archive::hash::{Hash, Hasher};
use crate::archive::path::EntryPath;
use crate::progress::Progress;
use crate::state::index::InEarlierPacks;
use crate::state::{Local, Side};
use crate::{Error, Result};

/// How often a file that changes while it is read is read.
pub const ATTEMPTS: u32 = 3;

/// The side files of a database, as found beside it.
#[derive(Clone, Debug, Default)]
pub struct Sides {
    /// Suffixes of the files that are left out because the capture holds their content.
    pub left_out: Vec<String>,
    /// Stat of the `-wal`.
    pub wal: Option<Side>,
    /// Stat of the `-journal`.
    pub journal: Option<Side>,
}

/// A file to be read.
pub struct ReadJob {
    /// The open directory that holds it.
    pub dir: Arc<OwnedFd>,
    /// Its name there.
    pub name: Vec<u8>,
    /// Its path in the snapshot.
    pub path: EntryPath,
    /// Set if it is known to be a database.
    pub sides: Option<Sides>,
    /// Set if it was opened when its directory was listed.
    pub opened: Option<OwnedFd>,
    /// What becomes of content of it that lies in packs of earlier recipients.
    pub earlier: InEarlierPacks,
    /// Where the result goes.
    pub reply: Sender<ReadDone>,
    /// Dropped with the job when it is done: whoever waits for a group of jobs holds the other end.
    #[expect(dead_code, reason = "held for its drop")]
    pub group: Option<Sender<()>>,
}

/// A file as it was read; its extents are not known yet.
#[derive(Debug)]
pub struct ReadFile {
    /// Everything but the extents.
    pub entry: Entry,
    /// Its chunks in order with their lengths.
    pub chunks: Vec<(Hash, u32)>,
    /// How to recognise it unchanged.
    pub local: Local,
    /// Bytes read.
    pub bytes: u64,
}

/// How reading ended.
#[derive(Debug)]
pub enum ReadDone {
    /// Read.
    File(Box<ReadFile>),
    /// Not readable, or not consistently: the entry says why in `missing`.
    Missing(Box<Entry>),
    /// Gone between listing and reading.
    Vanished,
}

/// Reads files for one thread.
pub struct FileReader<'a> {
    /// Stores what is read.
    pub encoder: Encoder<'a>,
    buffer: Vec<u8>,
    chunker: Option<Chunker>,
    scratch: PathBuf,
    helpers: Option<Sender<ClaimedChunk>>,
    /// Of the file at hand.
    earlier: InEarlierPacks,
    /// When this run had dirty pages written out.
    synced: Timestamp,
    facts: &'a Recorder<'a>,
    stop: &'a Stop,
    progress: &'a dyn Progress,
}

/// What one attempt at reading gave.
struct Content {
    size: u64,
    sha256: Hash,
    chunks: Vec<(Hash, u32)>,
    holes: Vec<(u64, u64)>,
    database: Option<Database>,
    /// What is to be recorded of it.
    found: Option<Found>,
    bytes: u64,
}

impl<'a> FileReader<'a> {
    /// A reader; chunks of large files go to `helpers` if there are any.
    #[must_use]
    pub fn new(
        encoder: Encoder<'a>,
        scratch: PathBuf,
        helpers: Option<Sender<ClaimedChunk>>,
        synced: Timestamp,
        facts: &'a Recorder<'a>,
        stop: &'a Stop,
        progress: &'a dyn Progress,
    ) -> Self {
        let (buffer, earlier) = (Vec::new(), InEarlierPacks::StoredAnew);
        Self { encoder, buffer, chunker: None, scratch, helpers, earlier, synced, facts, stop, progress }
    }

    /// Reads the file of `job` and answers.
    ///
    /// # Errors
    /// When the run must stop; what is wrong with the file itself is part of the answer.
    pub fn run(&mut self, mut job: ReadJob) -> Result<()> {
        let done = self.read(&mut job)?;
        // The collector only goes away when the run is stopping.
        job.reply.send(done).map_err(ended)
    }

    fn read(&mut self, job: &mut ReadJob) -> Result<ReadDone> {
        self.earlier = job.earlier;
        for attempt in 1..=ATTEMPTS {
            self.stop.check()?;
            let mut file = match open(job) {
                Ok(file) => file,
                Err(Errno::NOENT) => return Ok(ReadDone::Vanished),
                Err(e) => return Ok(self.missing(job, open_reason(e))),
            };
            let (before, shows_changes) = match look(&file) {
                Ok(found) => found,
                Err(e) => return Ok(self.missing(job, open_reason(e))),
            };
            if FileType::from_raw_mode(before.st_mode) != FileType::RegularFile {
                return Ok(self.missing(job, "it was replaced by something that is not a file".to_owned()));
            }
            let last = attempt == ATTEMPTS;
            let content = match self.content(job, &mut file, &before, last) {
                Ok(content) => self.with_found(job, &mut file, content),
                Err(Failure::Stop(e)) => return Err(e),
                Err(Failure::Gone) => return Ok(ReadDone::Vanished),
                Err(Failure::Again) => continue,
                Err(Failure::File(reason)) => return Ok(self.missing(job, reason)),
            };
            let after = rustix::fs::fstat(&file);
            let same = shows_changes && after.is_ok_and(|after| is_at_rest(&before, &after, job.opened.is_some()));
            let at_rest = content.database.is_some() || same;
            if !at_rest && !last {
                continue;
            }
            if let Some(found) = content.found {
                let found =
                    if at_rest { found } else { Found::Nothing("it was changing while it was read".to_owned()) };
                self.facts.note(&job.path, content.sha256, found);
            }
            let mut entry = Entry::new(job.path.clone(), Kind::File);
            if let Err(e) = describe(&mut entry, job.dir.as_fd(), &job.name, &before, Some(file.as_fd())) {
                return Ok(self.missing(job, format!("its metadata cannot be read: {}", e)));
            }
            entry.size = content.size;
            entry.sha256 = Some(content.sha256);
            entry.holes = content.holes;
            entry.database = content.database;
            entry.changed = !at_rest;
            let (wal, journal) = job.sides.as_ref().map_or((None, None), |s| (s.wal, s.journal));
            let local = Local::new(&before, self.synced, wal, journal);
            return Ok(ReadDone::File(Box::new(ReadFile {
                entry,
                chunks: content.chunks,
                local,
                bytes: content.bytes,
            })));
        }
        Ok(self.missing(job, "it was replaced each time it was read".to_owned()))
    }

    /// The same with what is to be recorded of a file that is no database.
    fn with_found(&self, job: &ReadJob, file: &mut File, content: Content) -> Content {
        let what = self.facts.wanted(&job.path).filter(|_| content.database.is_none());
        Content { found: what.map(|what| in_file(what, file)).or(content.found), ..content }
    }

    /// The entry of a file without content; its metadata as far as they can be had.
    fn missing(&self, job: &ReadJob, reason: String) -> ReadDone {
        let mut entry = Entry::new(job.path.clone(), Kind::File);
        if let Ok(stat) = rustix::fs::statat(&job.dir, job.name.as_slice(), rustix::fs::AtFlags::SYMLINK_NOFOLLOW) {
            // The reason at hand is the better one; a second failure adds nothing.
            let _ = describe(&mut entry, job.dir.as_fd(), &job.name, &stat, None);
            entry.size = u64::try_from(stat.st_size).unwrap_or(0);
        }
        // Its side files are no entries of their own.
        entry.database = job.sides.as_ref().map(|sides| Database {
            kind: "sqlite".to_owned(),
            journal_mode: "unknown".to_owned(),
            page_size: 0,
            left_out: sides.left_out.clone(),
        });
        entry.missing = Some(reason);
        ReadDone::Missing(Box::new(entry))
    }

    fn content(&mut self, job: &mut ReadJob, file: &mut File, before: &Stat, last: bool) -> Result<Content, Failure> {
        self.buffer.clear();
        Read::by_ref(file).take(WHOLE as u64 + 1).read_to_end(&mut self.buffer)?;
        if job.sides.is_some() || sqlite::is_database(&self.buffer) {
            return self.database(job, u64::try_from(before.st_size).unwrap_or(0));
        }
        let holes = if is_sparse(before) && !last { find_holes(file, before)? } else { Vec::new() };
        if !holes.is_empty() {
            return self.sparse(file, before, holes);
        }
        if self.buffer.len() <= WHOLE {
            return self.small();
        }
        file.seek(SeekFrom::Start(0))?;
        // A file that grows as fast as it is read would never end; that it grew shows afterwards.
        let end = u64::try_from(before.st_size).unwrap_or(0);
        self.large(Read::by_ref(file).take(end))
    }

    fn small(&mut self) -> Result<Content, Failure> {
        let size = self.buffer.len() as u64;
        self.progress.advance(size);
        let mut chunks = Vec::new();
        let sha256 = if self.buffer.is_empty() {
            Hash::of(b"")
        } else {
            let chunk = self.encoder.add(&self.buffer, self.earlier)?;
            // At most 512 KiB.
            chunks.push((chunk, u32::try_from(size).unwrap_or(u32::MAX)));
            chunk
        };
        Ok(Content { size, sha256, chunks, holes: Vec::new(), database: None, found: None, bytes: size })
    }

    fn large(&mut self, source: impl Read) -> Result<Content, Failure> {
        let mut hasher = Hasher::default();
        let mut chunks = Vec::new();
        let size = self.stream(source, &mut hasher, &mut chunks)?;
        let sha256 = hasher.finish();
        Ok(Content { size, sha256, chunks, holes: Vec::new(), database: None, found: None, bytes: size })
    }

    fn sparse(&mut self, file: &mut File, before: &Stat, holes: Vec<(u64, u64)>) -> Result<Content, Failure> {
        let size = u64::try_from(before.st_size).unwrap_or(0);
        let (mut hasher, mut chunks, mut at, mut bytes) = (Hasher::default(), Vec::new(), 0, 0);
        for (hole, len) in holes.iter().copied().chain([(size, 0)]) {
            file.seek(SeekFrom::Start(at))?;
            let read = self.stream(Read::by_ref(file).take(hole - at), &mut hasher, &mut chunks)?;
            if read != hole - at {
                return Err(Failure::Again);
            }
            bytes += read;
            let mut zeros = len;
            while zeros > 0 {
                self.stop.check()?;
                let step = zeros.min(64 << 20);
                hasher.update_zeros(step);
                zeros -= step;
            }
            at = hole + len;
        }
        Ok(Content { size, sha256: hasher.finish(), chunks, holes, database: None, found: None, bytes })
    }

    fn stream(
        &mut self,
        source: impl Read,
        hasher: &mut Hasher,
        chunks: &mut Vec<(Hash, u32)>,
    ) -> Result<u64, Failure> {
        let mut chunker = self.chunker.take().unwrap_or_default();
        let mut bytes = 0;
        let result = chunker.split(source, |content| {
            self.stop.check()?;
            hasher.update(content);
            bytes += content.len() as u64;
            self.progress.advance(content.len() as u64);
            chunks.push((self.add_large(content)?, u32::try_from(content.len()).unwrap_or(u32::MAX)));
            Ok(())
        });
        self.chunker = Some(chunker);
        result.map(|()| bytes)
    }

    fn add_large(&mut self, content: &[u8]) -> Result<Hash> {
        let Some(helpers) = &self.helpers else { return self.encoder.add(content, self.earlier) };
        let chunk = Hash::of(content);
        if self.encoder.claim(chunk, self.earlier) {
            helpers.send(ClaimedChunk::new(chunk, content)).map_err(ended)?;
        }
        Ok(chunk)
    }

    fn database(&mut self, job: &ReadJob, size: u64) -> Result<Content, Failure> {
        self.check_room(job, size)?;
        let stopped = || self.stop.is_stopped();
        let (name, what) = (OsStr::from_bytes(&job.name), self.facts.wanted(&job.path));
        let mut found = None;
        let mut look = |db: &Connection| found = what.map(|what| in_database(what, db));
        let look: Option<sqlite::Look<'_>> = if what.is_some() { Some(&mut look) } else { None };
        let captured = sqlite::capture(job.dir.as_fd(), name, &self.scratch, &stopped, look);
        let mut captured = captured.map_err(|e| match e {
            CaptureError::Interrupted => Failure::Stop(Error::interrupted()),
            CaptureError::Io(e) if e.kind() == io::ErrorKind::NotFound && is_gone(job) => Failure::Gone,
            other => Failure::File(format!("the database could not be captured consistently: {other}")),
        })?;
        let left_out = job.sides.as_ref().map_or_else(Vec::new, |s| s.left_out.clone());
        let database = Database {
            kind: "sqlite".to_owned(),
            journal_mode: captured.journal_mode.name().to_owned(),
            page_size: captured.page_size,
            left_out,
        };
        let content = if captured.size <= WHOLE as u64 {
            self.buffer.clear();
            captured.file.read_to_end(&mut self.buffer)?;
            self.small()?
        } else {
            self.large(&mut captured.file)?
        };
        Ok(Content { database: Some(database), found, ..content })
    }
}

impl FileReader<'_> {
    /// A copy of a database must not fill the disk, which may be the service's own.
    fn check_room(&self, job: &ReadJob, size: u64) -> Result<(), Failure> {
        let wal = job.sides.as_ref().and_then(|s| s.wal).map_or(0, |wal| u64::try_from(wal.1).unwrap_or(0));
        let needed = sqlite::room_for(size, wal);
        let free = rustix::fs::statvfs(&self.scratch).map(|s| s.f_bavail.saturating_mul(s.f_frsize));
        match free {
            Ok(free) if free < needed => Err(Failure::File(format!(
                "a copy of the database needs {needed} bytes in {}, {free} are free (--state-dir names another place)",
                self.scratch.display()
            ))),
            // If the question fails, the copy itself will tell.
            _ => Ok(()),
        }
    }
}

fn is_gone(job: &ReadJob) -> bool {
    let found = rustix::fs::statat(&job.dir, job.name.as_slice(), rustix::fs::AtFlags::SYMLINK_NOFOLLOW);
    matches!(found, Err(Errno::NOENT))
}

/// Why one attempt gave no content.
enum Failure {
    Stop(Error),
    Again,
    Gone,
    File(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Stop(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::File(format!("reading failed: {error}"))
    }
}

fn open(job: &mut ReadJob) -> Result<File, Errno> {
    if let Some(fd) = &job.opened {
        let mut file = File::from(fd.try_clone().map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?);
        file.seek(SeekFrom::Start(0)).map_err(|_| Errno::IO)?;
        return Ok(file);
    }
    open_file(&job.dir, &job.name)
}

/// Opens a file without following a link, without waiting for a pipe, and, where allowed, without touching its atime.
pub(super) fn open_file(dir: &OwnedFd, name: &[u8]) -> Result<File, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::openat(dir, name, flags | OFlags::NOATIME, Mode::empty()) {
        // Only the owner may ask for it.
        Err(Errno::PERM) => rustix::fs::openat(dir, name, flags, Mode::empty()),
        other => other,
    }
    .map(File::from)
}

/// Fills in the metadata of `name` in `dir`, about which `stat` is known.
pub(super) fn describe(
    entry: &mut Entry,
    dir: BorrowedFd<'_>,
    name: &[u8],
    stat: &Stat,
    fd: Option<BorrowedFd<'_>>,
) -> Result<(), MetadataError> {
    let metadata = read_metadata(dir, name, stat, fd)?;
    let unread = metadata.unread.iter().map(|(name, errno)| format!("{}: {errno}", String::from_utf8_lossy(name)));
    entry.unread_xattrs = unread.collect();
    metadata.fill(entry);
    Ok(())
}

fn open_reason(errno: Errno) -> String {
    match errno {
        Errno::LOOP => "it was replaced by a symbolic link".to_owned(),
        other => format!("cannot be opened: {}", io::Error::from(other)),
    }
}

/// True if nothing shows that the file changed between the two looks. For a file that was opened when
/// its directory was listed, being unlinked meanwhile is no change.
fn is_at_rest(before: &Stat, after: &Stat, opened_early: bool) -> bool {
    let content = |s: &Stat| (s.st_size, s.st_mtime, s.st_mtime_nsec);
    let ctime = |s: &Stat| (s.st_ctime, s.st_ctime_nsec);
    content(before) == content(after) && (opened_early || ctime(before) == ctime(after))
}

fn is_sparse(stat: &Stat) -> bool {
    stat.st_blocks.saturating_mul(512) < stat.st_size
}

/// The holes of a file that ends where `stat` says.
fn find_holes(file: &File, stat: &Stat) -> io::Result<Vec<(u64, u64)>> {
    use rustix::fs::{SeekFrom as At, seek};
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    let mut holes = Vec::new();
    let mut at = 0;
    while at < size {
        let hole = match seek(file, At::Hole(at)) {
            Ok(hole) => hole.min(size),
            // Not every file system knows: then there are none to speak of.
            Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NXIO) => break,
            Err(e) => return Err(e.into()),
        };
        let data = match seek(file, At::Data(hole)) {
            Ok(data) => data.min(size),
            Err(Errno::NXIO) => size,
            Err(e) => return Err(e.into()),
        };
        if data > hole {
            holes.push((hole, data - hole));
        }
        at = data.max(hole);
        if data <= hole && hole < size {
            break;
        }
    }
    Ok(holes)
}
