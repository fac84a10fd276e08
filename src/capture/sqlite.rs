//! Consistent capture of live SQLite databases.
//!
//! A database that is in use cannot be copied like other files. Its content is spread over the main file
//! and `-wal` or `-journal`, a copy of one taken beside a copy of the other may open without complaint and
//! miss rows, and a copy made while pages are being written is torn. So [`capture`] asks SQLite for the
//! content as of one transaction, and believes the result only after `PRAGMA quick_check` accepted it.
//!
//! There are two ways, see [`Method`]:
//!
//! * **Online**: a read-only connection to the live database pins one snapshot with a read transaction and
//!   feeds the backup API. Later commits do not restart it. In WAL mode writers are not held up; in rollback
//!   mode they wait until the pages are copied, which is what every SQLite reader does to them.
//! * **Copied**: where a read-only connection cannot work or would write (no `-shm`, a hot journal, a path
//!   longer than SQLite takes, a database locked for long), the files are copied together, the copy is
//!   accepted only if none of them changed meanwhile, and SQLite recovers the copy.
//!
//! # Invariants
//!
//! * **The live tree is never written.** SQLite creates, unlinks and chowns side files even for a read-only
//!   connection (measured; as root it moves the ctime of `-wal`, `-shm` and `-journal`). Its system calls are
//!   therefore fenced in (`sqlite/untouched.rs`), `-shm` is mapped read-only (`readonly_shm=1`), and an empty
//!   main file or a WAL database without `-wal` and `-shm` is not opened live at all. A writer that ends during
//!   the capture leaves its `-wal` and `-shm` behind, as it does beside any other reader.
//! * **No descriptor of a live database is closed while SQLite of this process has it open**, as that would
//!   drop every POSIX lock of the process on the file. The header is read first and its descriptor closed;
//!   captures of one inode take turns. The caller keeps the same rule: while `capture` runs, do not open that
//!   file, nor another hard link to it.
//! * **Symbolic links are not followed**, neither to the database nor in its path (`SQLITE_OPEN_NOFOLLOW` on
//!   the path behind `/proc/self/fd`), and side files must be regular files.
//! * **Nothing stays in the scratch directory**: all files live in one private directory of it that goes away
//!   on success, error and unwinding. The captured file is unlinked before it is handed out.
//! * `cancelled` is polled at least every 4 MiB of copying and every 50 ms of waiting or checking. Only
//!   SQLite's own recovery of a WAL or journal, one pass over that file, is not interrupted.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, ErrorCode, OpenFlags};
use rustix::io::Errno;

use files::{Room, Stamp, Turn, link_of, open_at, side, stamp, uri};
pub use files::{private_directory, with_suffix};
use untouched::Untouched;

mod check;
mod copy;
mod files;
#[cfg(test)]
mod tests;
mod untouched;

/// First 16 bytes of every SQLite database file.
pub const HEADER: &[u8; 16] = b"SQLite format 3\0";

/// What SQLite appends to the name of a database to name its side files.
pub const SIDE_SUFFIXES: [&str; 3] = ["-wal", "-shm", "-journal"];

/// How often a copy is tried before the database counts as always changing.
const COPY_TRIES: u32 = 5;
/// How long a locked database is waited for before its files are copied instead.
const BUSY_LIMIT: Duration = Duration::from_secs(10);
/// Bytes moved between two polls of `cancelled`.
const STRIDE: u64 = 4 << 20;
/// Longest sleep between two polls of `cancelled`.
const POLL: Duration = Duration::from_millis(50);
/// Whether a file that starts with `first_bytes` is an SQLite database.
#[must_use]
pub fn is_database(first_bytes: &[u8]) -> bool {
    first_bytes.starts_with(HEADER)
}

/// What a capture may take in its scratch directory for a database of `size` bytes with a log of `log` bytes: one that cannot
/// be read in place is copied twice.
#[must_use]
pub const fn room_for(size: u64, log: u64) -> u64 {
    /// What must be left free.
    const SPARE: u64 = 16 << 20;
    size.saturating_add(log).saturating_mul(2).saturating_add(SPARE)
}

/// How the captured database keeps its transactions apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JournalMode {
    /// Write-ahead log.
    Wal,
    /// One of the rollback journal modes.
    Rollback,
}

impl JournalMode {
    /// The stable word for this mode: `wal` or `rollback`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Wal => "wal",
            Self::Rollback => "rollback",
        }
    }
}

/// Which way a database was captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// Read from the live database in one transaction.
    Online,
    /// The files were copied while at rest, then recovered.
    Copied,
}

impl Method {
    /// The stable word for this method: `online` or `copied`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Copied => "copied",
        }
    }
}

/// A finished, checked copy of a database: one file that needs no side files.
#[derive(Debug)]
pub struct Captured {
    /// The copy, open for reading at its start and already unlinked: it is gone when this is dropped.
    pub file: File,
    /// Size in bytes. 0 for a database that nothing was ever written to.
    pub size: u64,
    /// Journal mode that the copy's header asks for.
    pub journal_mode: JournalMode,
    /// Page size in bytes.
    pub page_size: u32,
    /// Which way the content was obtained.
    pub method: Method,
}

/// Why a database could not be captured.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// No consistent copy can be had: damaged, never at rest, or not openable.
    #[error("no consistent copy of the database: {reason}")]
    Inconsistent {
        /// What SQLite or the comparison of the files said.
        reason: String,
    },
    /// `cancelled` said so.
    #[error("interrupted")]
    Interrupted,
    /// Reading the source or writing to the scratch directory failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<Errno> for CaptureError {
    fn from(errno: Errno) -> Self {
        Self::Io(errno.into())
    }
}

type Result<T> = std::result::Result<T, CaptureError>;

fn inconsistent<T>(reason: impl Into<String>) -> Result<T> {
    Err(CaptureError::Inconsistent { reason: reason.into() })
}

/// What a try came to.
enum Try<T> {
    Done(T),
    /// Locked by a writer at the moment.
    Busy,
    /// Not possible this way, and why.
    No(String),
}

/// What is done with the finished copy before it is handed out: for those who want to know what is in it.
pub type Look<'l> = &'l mut (dyn FnMut(&Connection) + Send);

/// Captures the database `name` of the open directory `dir`, using `scratch` for temporary files.
///
/// `name` is a regular file, or one of no bytes with side files. Blocks for as long as the copying takes,
/// plus up to ten seconds for a locked database; `cancelled` ends it within two seconds, `look` included.
///
/// # Errors
///
/// See [`CaptureError`]. `Io` of kind `NotFound` if the database vanished, `StorageFull` if `scratch` is full.
pub fn capture(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    scratch: &Path,
    cancelled: &dyn Fn() -> bool,
    look: Option<Look<'_>>,
) -> Result<Captured> {
    let first = stamp(dir, name)?.ok_or_else(|| CaptureError::Io(io::ErrorKind::NotFound.into()))?;
    let _turn = Turn::wait((first.dev, first.ino), cancelled)?;
    let room = Room::new(scratch)?;
    let started = Instant::now();
    let mut last = String::new();
    for _ in 0..COPY_TRIES {
        // Again before each copy: a database that is opened and closed all the time is never at rest, and can be
        // read in place while somebody has it open.
        let why = loop {
            if cancelled() {
                return Err(CaptureError::Interrupted);
            }
            match online(dir, name, &room, cancelled)? {
                Try::Done(captured) => return hand_out(captured, &room, cancelled, look),
                Try::Busy if started.elapsed() < BUSY_LIMIT => std::thread::sleep(Duration::from_millis(2)),
                Try::Busy => break "locked by a writer for 10 s".to_owned(),
                Try::No(why) => break why,
            }
        };
        match copy::copied(dir, name, &room, cancelled)? {
            Try::Done(captured) => return hand_out(captured, &room, cancelled, look),
            Try::No(reason) => last = format!("{reason}; and not readable in place: {why}"),
            Try::Busy => last = format!("it kept changing; and not readable in place: {why}"),
        }
    }
    inconsistent(last)
}

/// The online way, once.
fn online(dir: BorrowedFd<'_>, name: &OsStr, room: &Room, cancelled: &dyn Fn() -> bool) -> Result<Try<Captured>> {
    let (path, wal) = match prepare(dir, name)? {
        Try::Done(found) => found,
        Try::Busy => return Ok(Try::Busy),
        Try::No(why) => return Ok(Try::No(why)),
    };
    // Declared before the connection, so dropped after it.
    let Some(_untouched) = Untouched::begin() else {
        return Ok(Try::No("SQLite cannot be kept from writing beside it".into()));
    };
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_URI
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let live = match Connection::open_with_flags(uri(&path, "mode=ro&readonly_shm=1"), flags) {
        Ok(live) => live,
        Err(error) => return refused(&error),
    };
    let most = claim_limit(dir, name)?;
    let page_size = match pin(&live, most) {
        Ok(page_size) => page_size?,
        Err(error) => return refused(&error),
    };
    let before = stamp(dir, name)?;
    match transfer(&live, room, page_size, cancelled) {
        Ok(done) => done?,
        Err(error) => return refused(&error),
    }
    let after = stamp(dir, name)?;
    drop(live);
    // SQLite's shared lock keeps every rollback-mode writer out. A file system without working locks, or a lock
    // lost because the file was opened elsewhere in this process, shows as a change. (In WAL mode a checkpoint
    // may write the main file, and never what our snapshot still needs from it.)
    if let (false, Some(before), Some(after)) = (wal, before, after)
        && before.ino == after.ino
        && (before.size, before.mtime) != (after.size, after.mtime)
    {
        return Ok(Try::No("it changed in spite of a shared lock".into()));
    }
    finish(room, page_size, Method::Online, cancelled).map(Try::Done)
}

/// Finds the path of the database and whether SQLite will open it in WAL mode, unless it would have to create
/// files for that. The header is read and its descriptor closed here, before there is a connection.
fn prepare(dir: BorrowedFd<'_>, name: &OsStr) -> Result<Try<(PathBuf, bool)>> {
    let file = open_at(dir, name)?;
    let status = Stamp::of(&rustix::fs::fstat(&file)?)?;
    let mut versions = [0; 2];
    let wal_by_header = file.read_exact_at(&mut versions, 18).is_ok() && versions != [1, 1];
    drop(file);
    if status.size == 0 {
        return Ok(Try::No("the main file is empty".into()));
    }
    let (log, index) = (side(dir, name, "-wal")?, side(dir, name, "-shm")?);
    // A `-wal` makes SQLite use WAL mode whatever the header says.
    let wal = wal_by_header || log.is_some();
    if wal && (log.is_none() || index.is_none()) {
        return Ok(Try::No("WAL mode without -wal and -shm".into()));
    }
    // Not `/proc/self/fd/N/name` itself: SQLite resolves links before it opens, so it would end at the same path,
    // but could not be told to refuse every other link.
    let base = match rustix::fs::readlinkat(rustix::fs::CWD, link_of(dir), Vec::new()) {
        Ok(base) => base,
        Err(errno) => return Ok(Try::No(format!("its path cannot be found ({errno})"))),
    };
    let path = Path::new(OsStr::from_bytes(base.to_bytes())).join(name);
    match rustix::fs::lstat(&path) {
        Ok(seen) if (seen.st_dev, seen.st_ino) == (status.dev, status.ino) => Ok(Try::Done((path, wal))),
        _ => Ok(Try::No("its path is too long or leads elsewhere".into())),
    }
}

/// What a failure on the live database means for the capture.
fn refused<T>(error: &rusqlite::Error) -> Result<Try<T>> {
    match error.sqlite_error_code() {
        Some(
            ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::FileLockingProtocolFailed
            | ErrorCode::SchemaChanged,
        ) => Ok(Try::Busy),
        Some(
            ErrorCode::CannotOpen | ErrorCode::ReadOnly | ErrorCode::SystemIoFailure | ErrorCode::PermissionDenied,
        ) => Ok(Try::No(error.to_string())),
        _ => Err(failed(error)),
    }
}

/// An SQLite failure that nothing can be done about.
fn failed(error: &rusqlite::Error) -> CaptureError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => CaptureError::Io(io::ErrorKind::StorageFull.into()),
        Some(ErrorCode::SystemIoFailure | ErrorCode::OutOfMemory | ErrorCode::CannotOpen) => {
            CaptureError::Io(io::Error::other(error.to_string()))
        }
        _ => CaptureError::Inconsistent { reason: error.to_string() },
    }
}

/// Starts a read transaction that pins one snapshot, and returns the page size.
///
/// The outer result is what SQLite said. A log can claim any number of pages for free; more than `most` bytes
/// are refused before they fill the scratch directory.
fn pin(db: &Connection, most: u64) -> rusqlite::Result<Result<u32>> {
    db.busy_timeout(Duration::ZERO)?;
    db.execute_batch("PRAGMA mmap_size=0; BEGIN")?;
    db.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    let page_size: u32 = db.query_row("PRAGMA page_size", [], |row| row.get(0))?;
    let pages: u32 = db.query_row("PRAGMA page_count", [], |row| row.get(0))?;
    if u64::from(pages) * u64::from(page_size) > most {
        return Ok(inconsistent(format!("it claims {pages} pages, far more than its files can hold")));
    }
    Ok(Ok(page_size))
}

/// Bytes above which the page count of `name` is a lie: pages live in the main file or in the log, but for a
/// few that were freed before they were ever written.
fn claim_limit(dir: BorrowedFd<'_>, name: &OsStr) -> Result<u64> {
    let size = |stamp: Option<Stamp>| stamp.map_or(0, |stamp| stamp.size);
    let total = size(stamp(dir, name)?).saturating_add(size(side(dir, name, "-wal")?));
    Ok(total.saturating_mul(8).saturating_add(1 << 30))
}

/// Copies all pages of the pinned snapshot into `room`'s result file. The outer result is what SQLite said.
fn transfer(
    source: &Connection,
    room: &Room,
    page_size: u32,
    cancelled: &dyn Fn() -> bool,
) -> rusqlite::Result<Result<()>> {
    let path = room.at("copy");
    if let Err(error) = room.create("copy") {
        return Ok(Err(error.into()));
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut target = match Connection::open_with_flags(&path, flags) {
        Ok(target) => target,
        Err(error) => return Ok(Err(CaptureError::Io(io::Error::other(format!("scratch: {error}"))))),
    };
    target.execute_batch("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA mmap_size=0")?;
    let pages = i32::try_from(STRIDE / u64::from(page_size.max(512))).unwrap_or(1).max(1);
    let backup = Backup::new(source, &mut target)?;
    let waiting = Instant::now();
    loop {
        if cancelled() {
            return Ok(Err(CaptureError::Interrupted));
        }
        match backup.step(pages)? {
            StepResult::Done => break,
            StepResult::More => {}
            _ if waiting.elapsed() > BUSY_LIMIT => return Ok(inconsistent("locked while it was read")),
            _ => std::thread::sleep(POLL),
        }
    }
    drop(backup);
    Ok(target.close().map_err(|(_, error)| failed(&error)))
}

/// Checks the result file, and opens it.
fn finish(room: &Room, page_size: u32, method: Method, cancelled: &dyn Fn() -> bool) -> Result<Captured> {
    for suffix in SIDE_SUFFIXES {
        let left = room.at(&format!("copy{suffix}"));
        if left.symlink_metadata().is_ok_and(|metadata| metadata.len() > 0) {
            return inconsistent(format!("the copy needs its {suffix} file"));
        }
    }
    let path = room.at("copy");
    check::quick_check(&path, cancelled)?;
    let file = File::open(&path)?;
    let size = file.metadata()?.len();
    let mut versions = [0; 2];
    let wal = size > 0 && file.read_exact_at(&mut versions, 18).is_ok() && versions[1] == 2;
    let journal_mode = if wal { JournalMode::Wal } else { JournalMode::Rollback };
    let captured = Captured { file, size, journal_mode, page_size, method };
    tracing::debug!(size, method = captured.method.name(), "sqlite: captured and checked");
    Ok(captured)
}

/// Unlinks the copy, after a look at it.
fn hand_out(captured: Captured, room: &Room, cancelled: &dyn Fn() -> bool, look: Option<Look<'_>>) -> Result<Captured> {
    let path = room.at("copy");
    if let Some(look) = look.filter(|_| captured.size > 0) {
        check::with_copy(&path, cancelled, |db| look(db))?;
    }
    std::fs::remove_file(&path)?;
    Ok(captured)
}
