//! Opens and lists directories, and finds out what a listing alone cannot tell: which of the files
//! are databases with side files, and which git packs must be held open.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::read::{Sides, open_file};
use super::sqlite;
use crate::state::side;
use crate::{Error, ExitCode, Result};

/// Files that were opened when their directory was listed, by name.
pub(super) type Opened = HashMap<Vec<u8>, OwnedFd>;

/// What a directory's listing says of databases in it.
#[derive(Default)]
pub(super) struct Listing {
    pub(super) databases: HashMap<Vec<u8>, Sides>,
    pub(super) side_files: Vec<Vec<u8>>,
}

/// How often a directory of git packs is listed again because a file vanished.
const RELIST: u32 = 5;
/// A directory of git packs is opened file by file; beyond this many files it is not.
const MAX_OPENED: usize = 512;
pub(super) fn open_root(root: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(root, flags, Mode::empty()).map_err(|e| {
        let code = if e == Errno::NOENT { ExitCode::NotFound } else { ExitCode::Failed };
        Error::new(code, format!("cannot open {}", root.display())).because(std::io::Error::from(e))
    })
}

pub(super) fn open_dir(parent: &OwnedFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(parent, name, flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => rustix::fs::openat(parent, name, flags, Mode::empty()),
        other => other,
    }
}

pub(super) fn read_names(dir: &OwnedFd) -> Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

/// Lists a directory of git packs and opens every file in it. A repack replaces packs by others that
/// an earlier listing does not show; an open file stays readable, so a listing counts only if all of
/// it could be opened.
pub(super) fn open_all(dir: &OwnedFd) -> Result<(Vec<Vec<u8>>, Opened)> {
    for _ in 0..RELIST {
        let names = read_names(dir)?;
        if names.len() > MAX_OPENED {
            return Ok((names, HashMap::new()));
        }
        let mut opened = HashMap::new();
        let mut all = true;
        for name in &names {
            match open_file(dir, name) {
                Ok(file) => {
                    opened.insert(name.clone(), OwnedFd::from(file));
                }
                Err(Errno::NOENT) => all = false,
                // Not readable, or no file: the visit says so.
                Err(_) => {}
            }
        }
        if all {
            return Ok((names, opened));
        }
    }
    Err(Error::new(ExitCode::Incomplete, "git kept replacing its packs"))
}

/// Databases are found by content. Only files with a side file beside them are opened here; the
/// others are recognised when they are read.
pub(super) fn find_databases(dir: &OwnedFd, names: &[Vec<u8>]) -> Listing {
    let mut listing = Listing::default();
    for name in names {
        let Some((stem, suffix)) =
            sqlite::SIDE_SUFFIXES.iter().find_map(|s| Some((name.strip_suffix(s.as_bytes())?, *s)))
        else {
            continue;
        };
        let known = listing.databases.contains_key(stem);
        if names.binary_search_by(|n| n[..].cmp(stem)).is_err() || !(known || is_database_file(dir, stem)) {
            continue;
        }
        let sides = listing.databases.entry(stem.to_vec()).or_default();
        sides.left_out.push(suffix.to_owned());
        let stat = rustix::fs::statat(dir, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW).ok();
        match suffix {
            "-wal" => sides.wal = stat.as_ref().map(side),
            "-journal" => sides.journal = stat.as_ref().map(side),
            _ => {}
        }
        listing.side_files.push(name.clone());
    }
    listing
}

/// An empty file counts: a new database whose first transaction is still in its side file.
fn is_database_file(dir: &OwnedFd, name: &[u8]) -> bool {
    use std::io::Read as _;
    let regular = |stat: Stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    if !rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(regular) {
        return false;
    }
    let Ok(file) = open_file(dir, name) else { return false };
    let mut first = Vec::new();
    file.take(16).read_to_end(&mut first).is_ok() && (first.is_empty() || sqlite::is_database(&first))
}
