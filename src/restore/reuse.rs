//! Takes from the live tree what is right there already, so that an incident that damaged little fetches little.
//!
//! A live file of the recorded size is hashed when the restore is planned. When it is carried out, the file is cloned
//! where the file system can do that, and copied elsewhere: never linked, since live and kept tree must not share a
//! file that the service writes to.
//!
//! Invariants: a clone is taken for what was hashed only if the file has not been touched since, as its times tell (also
//! by way of memory: a write to a page that is on the disk sets them, so all pages are put there first); a copy is hashed
//! as it is made. Nothing is followed, and nothing in the live tree is changed.

use std::collections::HashMap;
use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::dirs::Dirs;
use super::staging::{READ_BUFFER, hash_file};
use super::target::{Target, Verified, is, special_type};
use super::usage::{can_clone, exclusive, on_disk};
use crate::archive::entry::{Entry, Kind};
use crate::archive::hash::{Hash, Hasher};
use crate::archive::path::EntryPath;
use crate::cancel::Cancel;
use crate::error::Result;
use crate::progress::Progress;

/// A file must have been at rest for this long before it was put on the disk: times move in ticks, and on some file
/// systems in whole seconds.
const REST_NANOS: i128 = 2_000_000_000;

/// What stands in the live tree where a file of the snapshot belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    Directory,
    /// Something else than the file; so many bytes come free when that goes.
    Other(u64),
    /// A file of the same content.
    Same(Stamp),
    /// The same symbolic link, pipe, socket or device.
    Object,
}

/// What tells whether a file was touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    ino: u64,
    mtime: i128,
    ctime: i128,
    /// True if a change after the hash was taken would show in the times.
    at_rest: bool,
}

impl Stamp {
    /// True if it is of that file, as it is now.
    fn is_of(&self, stat: &Stat) -> bool {
        Self { at_rest: self.at_rest, ..stamp(stat) } == *self
    }
}

/// Files of the live tree that are right already.
pub(super) struct Reuse {
    live: Dirs,
    found: HashMap<u64, Stamp>,
    /// When everything live was put on the disk, before the first file was hashed; `None` if that failed.
    flushed: Option<i128>,
    /// Whether the file system knows no clones, so that nobody asks again.
    no_clones: AtomicBool,
    cloned: AtomicU64,
    cancel: Cancel,
}

impl Reuse {
    pub(super) fn new(live: Dirs, cancel: &Cancel) -> Self {
        let now = clock();
        let is_flushed = live.open(&EntryPath::root()).is_ok_and(|root| fs::syncfs(&*root).is_ok());
        let flushed = is_flushed.then_some(now);
        let (found, no_clones) = (HashMap::new(), AtomicBool::new(false));
        Self { live, found, flushed, no_clones, cloned: AtomicU64::new(0), cancel: cancel.clone() }
    }

    /// Looks for files of the snapshot in the live tree, on all processors; the answers are in their order.
    pub(super) fn look_for(&mut self, entries: &[&Entry], progress: &dyn Progress) -> Result<Vec<Found>> {
        let look = |entry: &&Entry| {
            let mut left = entry.data_len();
            let found = self.look(entry, &mut |read| {
                let read = read.min(left);
                left -= read;
                progress.advance(read);
            });
            progress.advance(left);
            found
        };
        let found = in_parallel(entries, look)?;
        for (entry, found) in entries.iter().zip(&found) {
            if let Found::Same(stamp) = found {
                self.found.insert(key(&entry.path), *stamp);
            }
        }
        Ok(found)
    }

    fn look(&self, entry: &Entry, read: &mut dyn FnMut(u64)) -> Result<Found> {
        if entry.kind != Kind::File {
            return Ok(if self.is_there(entry) { Found::Object } else { self.in_place_of(&entry.path) });
        }
        let Ok((file, stat)) = self.open(entry) else { return Ok(self.in_place_of(&entry.path)) };
        let other = || Ok(Found::Other(self.given_back(&file, &stat)));
        if u64::try_from(stat.st_size) != Ok(entry.size) {
            return other();
        }
        match hash_file(&file, entry.size, &self.cancel, read) {
            Ok(hash) if Some(hash) == entry.sha256 => {}
            Ok(_) => return other(),
            Err(error) if self.cancel.is_cancelled() => return Err(error),
            // What cannot be read is fetched.
            Err(_) => return other(),
        }
        let changed = nanos(stat.st_ctime, stat.st_ctime_nsec);
        let at_rest = self.flushed.is_some_and(|flushed| flushed - changed > REST_NANOS);
        Ok(Found::Same(Stamp { at_rest, ..stamp(&stat) }))
    }

    /// What of no use stands at the path.
    fn in_place_of(&self, path: &EntryPath) -> Found {
        match self.stat(path) {
            None => Found::Nothing,
            Some(stat) if is(&stat, FileType::Directory) => Found::Directory,
            Some(stat) => Found::Other(on_disk(&stat)),
        }
    }

    /// True if this link, pipe, socket or device is live. Nothing is opened: a device may do something then.
    fn is_there(&self, entry: &Entry) -> bool {
        let Some(kind) = special_type(entry.kind) else {
            return self.link(entry).is_some_and(|target| target == entry.target);
        };
        let device = entry.rdev.map_or(0, |(major, minor)| fs::makedev(major, minor));
        let is_same = |stat: Stat| is(&stat, kind) && (device == 0 || stat.st_rdev == device);
        self.stat(&entry.path).is_some_and(is_same)
    }

    /// Bytes that come free when another file takes the place of this one.
    fn given_back(&self, file: &File, stat: &Stat) -> u64 {
        let root = self.live.open(&EntryPath::root());
        root.ok().filter(|_| stat.st_nlink == 1).map_or(0, |root| exclusive(file, stat, &root))
    }

    /// What kind of entry is live at the path.
    pub(super) fn kind(&self, path: &EntryPath) -> Option<FileType> {
        self.stat(path).map(|stat| FileType::from_raw_mode(stat.st_mode))
    }

    fn stat(&self, path: &EntryPath) -> Option<Stat> {
        let (parent, name) = path.split_last()?;
        fs::statat(&*self.live.open(&parent).ok()?, name, AtFlags::SYMLINK_NOFOLLOW).ok()
    }

    fn link(&self, entry: &Entry) -> Option<Vec<u8>> {
        let (parent, name) = entry.path.split_last()?;
        Some(fs::readlinkat(&*self.live.open(&parent).ok()?, name, Vec::new()).ok()?.into_bytes())
    }

    fn open(&self, entry: &Entry) -> rustix::io::Result<(File, Stat)> {
        let (parent, name) = entry.path.split_last().ok_or(Errno::ISDIR)?;
        let dir = self.live.open(&parent).map_err(|_| Errno::NOENT)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match fs::openat(&*dir, name, flags | OFlags::NOATIME, Mode::empty()) {
            // Only the owner may ask for it.
            Err(Errno::PERM) => fs::openat(&*dir, name, flags, Mode::empty()),
            opened => opened,
        }?;
        let stat = fs::fstat(&file)?;
        if is(&stat, FileType::RegularFile) { Ok((file.into(), stat)) } else { Err(Errno::INVAL) }
    }

    /// True if what was found is cloned, not copied; asked with a file that nobody sees.
    pub(super) fn can_clone(&self, entry: &Entry) -> bool {
        let root = self.live.open(&EntryPath::root());
        self.open(entry).is_ok_and(|(file, _)| root.is_ok_and(|root| can_clone(&file, &root)))
    }

    /// Puts what of `entries` is right in the live tree into the stage; gives back which of them are done.
    pub(super) fn take(&self, target: &Target, entries: &[&Entry], progress: &dyn Progress) -> Result<Vec<bool>> {
        in_parallel(entries, |entry| self.take_one(target, entry, progress))
    }

    fn take_one(&self, target: &Target, entry: &Entry, progress: &dyn Progress) -> Result<bool> {
        self.cancel.check()?;
        let Some(known) = self.found.get(&key(&entry.path)) else { return Ok(false) };
        let Ok((file, stat)) = self.open(entry) else { return Ok(false) };
        let untouched = |stat: &Stat| known.is_of(stat);
        if !untouched(&stat) || u64::try_from(stat.st_size) != Ok(entry.size) {
            return Ok(false);
        }
        let staged = target.stage(entry)?;
        if !self.no_clones.load(Ordering::Relaxed) && entry.size > 0 {
            match fs::ioctl_ficlone(&staged.file, &file) {
                Ok(()) if known.at_rest && fs::fstat(&file).is_ok_and(|stat| untouched(&stat)) => {
                    self.cloned.fetch_add(1, Ordering::Relaxed);
                    target.publish(Verified(staged), entry)?;
                    progress.advance(entry.data_len());
                    return Ok(true);
                }
                Ok(()) => {
                    let Ok(verified) = staged.verify(entry) else { return Ok(false) };
                    target.publish(verified, entry)?;
                    progress.advance(entry.data_len());
                    return Ok(true);
                }
                // Not here at all. Anything else is about this file: one that is swapped to, or not written to disk yet.
                Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::NOSYS) => self.no_clones.store(true, Ordering::Relaxed),
                Err(_) => {}
            }
        }
        if Some(copy(&file, &staged.file, entry, &self.cancel, progress)?) != entry.sha256 {
            return Ok(false);
        }
        target.publish(Verified(staged), entry)?;
        Ok(true)
    }

    /// True if the live file with this status was found to be right, and would not look so if it had changed since.
    pub(super) fn is_right(&self, entry: &Entry, stat: &Stat) -> bool {
        self.found.get(&key(&entry.path)).is_some_and(|known| known.at_rest && known.is_of(stat))
    }

    /// How many files were cloned.
    pub(super) fn cloned(&self) -> u64 {
        self.cloned.load(Ordering::Relaxed)
    }
}

/// Copies the content between the holes that the manifest names, and gives the hash of the whole.
fn copy(from: &File, to: &File, entry: &Entry, cancel: &Cancel, progress: &dyn Progress) -> Result<Hash> {
    use std::os::unix::fs::FileExt as _;
    let mut buffer = vec![0; usize::try_from(entry.size).unwrap_or(READ_BUFFER).min(READ_BUFFER)];
    let (mut hasher, mut at) = (Hasher::default(), 0);
    for (start, len) in entry.data_runs() {
        hasher.update_zeros(start - at);
        at = start;
        while at < start + len {
            cancel.check()?;
            let want = usize::try_from(start + len - at).unwrap_or(usize::MAX).min(buffer.len());
            let got = from.read_at(&mut buffer[..want], at)?;
            if got == 0 {
                return Ok(hasher.finish());
            }
            hasher.update(&buffer[..got]);
            to.write_all_at(&buffer[..got], at)?;
            progress.advance(got as u64);
            at += got as u64;
        }
    }
    hasher.update_zeros(entry.size.saturating_sub(at));
    Ok(hasher.finish())
}

/// Does `work` for each item on all processors.
fn in_parallel<I: Sync, T: Send>(items: &[I], work: impl Fn(&I) -> Result<T> + Sync) -> Result<Vec<T>> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(8);
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<(usize, T)>> = Mutex::new(Vec::with_capacity(items.len()));
    let one = || -> Result<()> {
        let mut mine = Vec::new();
        loop {
            let start = next.fetch_add(32, Ordering::Relaxed);
            if start >= items.len() {
                done.lock().unwrap_or_else(PoisonError::into_inner).append(&mut mine);
                return Ok(());
            }
            for (at, item) in items.iter().enumerate().skip(start).take(32) {
                mine.push((at, work(item)?));
            }
        }
    };
    std::thread::scope(|scope| {
        let running: Vec<_> = (1..threads).map(|_| scope.spawn(one)).collect();
        let mut first = one();
        for thread in running {
            first = first.and(thread.join().unwrap_or(Ok(())));
        }
        first
    })?;
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_unstable_by_key(|(at, _)| *at);
    Ok(done.into_iter().map(|(_, result)| result).collect())
}

fn key(path: &EntryPath) -> u64 {
    Hash::of(path.as_bytes()).start()
}

fn stamp(stat: &Stat) -> Stamp {
    let (mtime, ctime) = (nanos(stat.st_mtime, stat.st_mtime_nsec), nanos(stat.st_ctime, stat.st_ctime_nsec));
    Stamp { ino: stat.st_ino, mtime, ctime, at_rest: false }
}

fn nanos(seconds: i64, fraction: u64) -> i128 {
    i128::from(seconds) * 1_000_000_000 + i128::from(fraction)
}

fn clock() -> i128 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i128::try_from(since.as_nanos()).unwrap_or(i128::MAX)
}
