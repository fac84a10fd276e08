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

/// How a write-ahead log begins; the last bit tells the byte order (sqlite.org/fileformat2.html 4.1).
const WAL_MAGIC: &[u8] = &[0x37, 0x7f, 0x06];
/// How a rollback journal begins (sqlite.org/fileformat2.html 3).
const JOURNAL_MAGIC: &[u8] = &[0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];

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
/// others are recognised when they are read. Where `is_left_out` the main file is, its side files are
/// files like any other.
pub(super) fn find_databases(dir: &OwnedFd, names: &[Vec<u8>], is_left_out: &dyn Fn(&[u8]) -> bool) -> Listing {
    let mut listing = Listing::default();
    for name in names {
        let Some((stem, suffix)) =
            sqlite::SIDE_SUFFIXES.iter().find_map(|s| Some((name.strip_suffix(s.as_bytes())?, *s)))
        else {
            continue;
        };
        let there = names.binary_search_by(|n| n[..].cmp(stem)).is_ok() && !is_left_out(stem);
        let stat = match rustix::fs::statat(dir, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile => continue,
            // Gone since it was listed: a journal, which may be back when the walk comes to its name.
            other => other.ok(),
        };
        if !there || (!listing.databases.contains_key(stem) && !is_database(dir, stem, name, suffix)) {
            continue;
        }
        let sides = listing.databases.entry(stem.to_vec()).or_default();
        sides.left_out.push(suffix.to_owned());
        match suffix {
            "-wal" => sides.wal = stat.as_ref().map(side),
            "-journal" => sides.journal = stat.as_ref().map(side),
            _ => {}
        }
        listing.side_files.push(name.clone());
    }
    listing
}

/// A new database may still be empty, with its first transaction in the side file.
fn is_database(dir: &OwnedFd, stem: &[u8], side: &[u8], suffix: &str) -> bool {
    match first_bytes(dir, stem) {
        Some(first) if first.is_empty() => {
            let start = first_bytes(dir, side).unwrap_or_default();
            let magic = if suffix == "-wal" { WAL_MAGIC } else { JOURNAL_MAGIC };
            suffix != "-shm" && start.starts_with(magic)
        }
        Some(first) => sqlite::is_database(&first),
        None => false,
    }
}

fn regular(dir: &OwnedFd, name: &[u8]) -> Option<Stat> {
    let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    (FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile).then_some(stat)
}

fn first_bytes(dir: &OwnedFd, name: &[u8]) -> Option<Vec<u8>> {
    use std::io::Read as _;
    regular(dir, name)?;
    let mut first = Vec::new();
    open_file(dir, name).ok()?.take(16).read_to_end(&mut first).ok()?;
    Some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[(&str, &[u8])], dirs: &[&str], left_out: &str) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in files {
            std::fs::write(folder.path().join(name), content).unwrap();
        }
        for name in dirs {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        let dir = open_root(folder.path()).unwrap();
        let names = read_names(&dir).unwrap();
        let listing = find_databases(&dir, &names, &|stem| stem == left_out.as_bytes());
        listing.side_files.into_iter().map(|name| String::from_utf8(name).unwrap()).collect()
    }

    #[test]
    fn a_journal_that_is_gone_for_a_moment_is_a_side_file_all_the_same() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a"), b"SQLite format 3\0").unwrap();
        let dir = open_root(folder.path()).unwrap();
        let listed = [b"a".to_vec(), b"a-journal".to_vec()];
        assert_eq!(find_databases(&dir, &listed, &|_| false).side_files, [b"a-journal".to_vec()]);
    }

    #[test]
    fn only_side_files_of_databases_are_left_out() {
        let database: &[u8] = b"SQLite format 3\0 and more";
        assert_eq!(found(&[("a", database), ("a-wal", b"x"), ("a-shm", b"x")], &[], ""), ["a-shm", "a-wal"]);
        assert!(
            found(&[("notes", b""), ("notes-journal", b"Monday: rain")], &[], "").is_empty(),
            "a diary is no journal"
        );
        assert!(found(&[("a", b"text"), ("a-wal", b"x")], &[], "").is_empty());
        assert!(found(&[("a", database)], &["a-shm"], "").is_empty(), "a folder is no side file");
        assert!(found(&[("a", database), ("a-wal", b"x")], &[], "a").is_empty(), "its database is not captured");
        assert_eq!(found(&[("a", b""), ("a-wal", WAL_MAGIC)], &[], ""), ["a-wal"], "a database that is still empty");
    }
}
