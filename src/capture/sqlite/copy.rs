//! Capture by copying the files while they are at rest.
//!
//! A main file without log and journal needs nothing more: it is the database. With one of them SQLite puts the
//! copies together.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OpenFlags};

use super::files::{Room, Stamp, open_at, side, stamp, with_suffix};
use super::{CaptureError, Captured, Method, Result, STRIDE, Try, failed, finish, pin, transfer};

/// How long one try waits for the files to come to rest.
const SETTLE_LIMIT: Duration = Duration::from_millis(1500);
/// Ends a rollback journal that belongs to a transaction over several databases.
const SUPER_JOURNAL: [u8; 8] = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];

/// The copying way, once: all files as they were at one moment, then recovery of the copy.
pub(super) fn copied(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    room: &Room,
    cancelled: &dyn Fn() -> bool,
) -> Result<Try<Captured>> {
    let most = match copy_files(dir, name, room, cancelled)? {
        Try::Done(Some(most)) => most,
        Try::Done(None) => {
            let page_size = page_size(&room.at("live"))?;
            std::fs::rename(room.at("live"), room.at("copy"))?;
            return finish(room, page_size, Method::Copied, cancelled).map(Try::Done);
        }
        Try::Busy => return Ok(Try::Busy),
        Try::No(why) => return Ok(Try::No(why)),
    };
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(room.at("live"), flags).map_err(|error| failed(&error))?;
    let page_size = pin(&db, most).map_err(|error| failed(&error))??;
    transfer(&db, room, page_size, cancelled).map_err(|error| failed(&error))??;
    drop(db);
    room.clear("live")?;
    finish(room, page_size, Method::Copied, cancelled).map(Try::Done)
}

/// The page size in the header of a database that is one file. 65,536 does not fit its two bytes and is written as 1.
fn page_size(path: &Path) -> Result<u32> {
    let mut bytes = [0; 2];
    File::open(path)?.read_exact_at(&mut bytes, 16)?;
    Ok(match u16::from_be_bytes(bytes) {
        1 => 65_536,
        size => u32::from(size),
    })
}

/// Copies main file, `-wal` and hot `-journal` (never `-shm`) to `live*` in `room`, and returns the limit for `pin`,
/// or nothing if there is only a main file.
///
/// Why equal stamps prove that the copies belong to one moment: a write sets the ctime to the kernel's clock,
/// which moves in ticks of up to 10 ms, so a write can leave the ctime as it was only if it happens in the very
/// tick that the ctime names. If no such tick lies between the first and the last look, with a margin on
/// both sides, then equal stamps mean that nothing was written between them. So the copy starts when the clock
/// has left every ctime behind by the margin. (A ctime in the future, after the clock was set back, is as good
/// if it still is when the copy ends.) ctimes without a fraction come from file systems that store whole
/// seconds, and get a margin of two. SQLite writes database, log and journal with `write`, never by mapping.
fn copy_files(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    room: &Room,
    cancelled: &dyn Fn() -> bool,
) -> Result<Try<Option<u64>>> {
    room.clear("live")?;
    room.clear("copy")?;
    let waiting = Instant::now();
    let (before, started) = loop {
        if cancelled() {
            return Err(CaptureError::Interrupted);
        }
        let now = clock();
        let group = Group::look(dir, name)?;
        if group.stamps().all(|stamp| now - stamp.ctime > stamp.margin() || stamp.ctime - now > stamp.margin()) {
            break (group, now);
        }
        // The two seconds that whole-second ctimes need come on top.
        let extra = if group.stamps().any(Stamp::is_coarse) { Duration::from_millis(2100) } else { Duration::ZERO };
        if waiting.elapsed() > SETTLE_LIMIT + extra {
            return Ok(Try::Busy);
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let files = [("", Some(&before.main)), ("-wal", before.wal.as_ref()), ("-journal", before.journal.as_ref())];
    // SQLite makes something of a main file without a byte, and so does the other way.
    let mut has_more = before.main.size == 0;
    for (suffix, stamp) in files {
        let Some(stamp) = stamp else { continue };
        let mut from = match open_at(dir, &with_suffix(name, suffix)) {
            Ok(from) => from,
            Err(CaptureError::Io(error)) if error.kind() == io::ErrorKind::NotFound => return Ok(Try::Busy),
            Err(error) => return Err(error),
        };
        if suffix == "-journal" {
            // Zeroed or empty: the transaction is over and the journal means nothing.
            let mut first = [0];
            if from.read(&mut first)? == 0 || first == [0] {
                continue;
            }
            from.rewind()?;
        }
        has_more |= !suffix.is_empty();
        let to = room.create(&format!("live{suffix}"))?;
        let mut left = stamp.size;
        while left > 0 {
            if cancelled() {
                return Err(CaptureError::Interrupted);
            }
            let moved = io::copy(&mut (&from).take(left.min(STRIDE)), &mut &to)?;
            if moved == 0 {
                return Ok(Try::Busy);
            }
            left -= moved;
        }
        // Recovering such a journal looks at (and may unlink) a file of the live tree, which its end names.
        if suffix == "-journal" && ends_with(&to, &SUPER_JOURNAL)? {
            return Ok(Try::No("its -journal is part of a transaction over several databases".into()));
        }
    }
    let (after, ended) = (Group::look(dir, name)?, clock());
    let reached = |stamp: &Stamp| stamp.ctime > started && stamp.ctime - ended <= stamp.margin();
    if before != after || before.stamps().any(reached) {
        return Ok(Try::Busy);
    }
    let total = before.stamps().fold(0, |sum: u64, stamp| sum.saturating_add(stamp.size));
    Ok(Try::Done(has_more.then(|| total.saturating_mul(8).saturating_add(1 << 30))))
}

/// The files that make up one database.
#[derive(Debug, PartialEq, Eq)]
struct Group {
    main: Stamp,
    wal: Option<Stamp>,
    journal: Option<Stamp>,
}

impl Group {
    fn look(dir: BorrowedFd<'_>, name: &OsStr) -> Result<Self> {
        let main = stamp(dir, name)?.ok_or_else(|| CaptureError::Io(io::ErrorKind::NotFound.into()))?;
        Ok(Self { main, wal: side(dir, name, "-wal")?, journal: side(dir, name, "-journal")? })
    }

    fn stamps(&self) -> impl Iterator<Item = &Stamp> {
        std::iter::once(&self.main).chain(&self.wal).chain(&self.journal)
    }
}

fn clock() -> i128 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i128::try_from(since.as_nanos()).unwrap_or(i128::MAX)
}

fn ends_with(mut file: &File, end: &[u8; 8]) -> Result<bool> {
    let mut tail = [0; 8];
    Ok(file.metadata()?.len() >= 16
        && file.seek(SeekFrom::End(-8)).is_ok()
        && file.read_exact(&mut tail).is_ok()
        && tail == *end)
}
