//! Puts entries of a snapshot below a directory, and nowhere else.
//!
//! A manifest is data from outside, and the directory may be watched by another process that
//! exchanges directories for symbolic links while we write. So every system call here is relative
//! to an open directory, names one component, and follows no link.
//!
//! Invariants:
//! * Nothing outside the root is created, changed or removed, whatever the manifest says.
//! * An object is complete and verified before it gets its name, unless nobody sees the tree before that is complete
//!   ([`Target::hidden`]), and a name that is taken is never overwritten: it is either already what it should be, or an error. Only where replacing is asked for
//!   ([`Target::replacing`]) what stands there gives way, in one step if it is no directory, and as far as the policy
//!   lets it.
//! * What stands in the root before [`Target::complete`] stands beside a marker that names the snapshot.
//! * The umask, default ACLs and setgid directories have no influence on the result.

use std::collections::HashMap;
use std::fs::DirBuilder;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::dirs::{Dirs, not_a_directory, shown};
use super::keep::{Policy, SIDE_SUFFIXES};
use super::leading::lend;
use super::metadata::{Object, Report, apply, proc_name};
pub use super::metadata::{Problem, Problems};
use super::obstacle;
use super::remove::remove_tree;
use super::staging::{Part, Staging};
pub use super::staging::{Staged, Verified};
use super::state::{FOLDER, Task};
use crate::archive::entry::{Entry, Kind};
use crate::archive::path::EntryPath;
use crate::cancel::Cancel;
use crate::error::{Context as _, Error, Result};

pub(super) const PRIVATE: Mode = Mode::RWXU;

/// What a restore may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TargetOptions {
    /// Create character and block devices.
    pub allow_special: bool,
    /// Give objects to their recorded owners; needs privileges.
    pub chown: bool,
}

impl TargetOptions {
    /// Everything the running user may do, except devices.
    #[must_use]
    pub fn for_this_user() -> Self {
        Self { allow_special: false, chown: rustix::process::geteuid().is_root() }
    }
}

/// What became of a special file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is there.
    Created,
    /// Devices are not created unless asked for.
    Refused,
}

/// A directory that entries are restored into.
pub struct Target {
    pub(super) root: Arc<OwnedFd>,
    shown: PathBuf,
    pub(super) options: TargetOptions,
    pub(super) dirs: Dirs,
    pub(super) report: Report,
    staging: Option<Arc<Staging>>,
    /// What gives way, if what stands at a name may.
    policy: Option<Policy>,
    /// Whether nobody sees it before it is complete.
    is_hidden: bool,
    /// Stops the reading of files.
    pub(super) cancel: Cancel,
    /// Device and inode of the files that are the first of a hard-link group.
    pub(super) links: Mutex<HashMap<EntryPath, (u64, u64)>>,
    /// Live directories that only lead to what is replaced, as they were found.
    pub(super) leading: Mutex<Vec<(EntryPath, Stat)>>,
}

impl Target {
    /// Opens `dir`, and creates it with mode 0700 if it does not exist. What may stand in it is for
    /// the caller to decide, with [`super::state::state_of`].
    ///
    /// # Errors
    /// When it cannot be created or opened.
    pub fn open(dir: &Path, options: TargetOptions) -> Result<Self> {
        let open = || fs::open(dir, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let root = match open() {
            Err(Errno::NOENT) => {
                let what = || format!("creating {}", dir.display());
                if let Some(parent) = dir.parent().filter(|p| !p.as_os_str().is_empty()) {
                    std::fs::create_dir_all(parent).context(what)?;
                }
                DirBuilder::new().mode(0o700).create(dir).context(what)?;
                let root = open().context(what)?;
                fs::fchmod(&root, PRIVATE).context(what)?;
                root
            }
            other => other.context(|| format!("opening {}", dir.display()))?,
        };
        let root = Arc::new(root);
        Ok(Self {
            dirs: Dirs::new(Arc::clone(&root)),
            root,
            shown: dir.to_owned(),
            options,
            report: Report::default(),
            staging: None,
            policy: None,
            is_hidden: false,
            cancel: Cancel::default(),
            links: Mutex::default(),
            leading: Mutex::default(),
        })
    }

    /// The same under another name for messages.
    #[must_use]
    pub fn shown_as(mut self, shown: &Path) -> Self {
        self.shown = shown.to_owned();
        self
    }

    /// The same, in which what stands at a name gives way as far as `policy` lets it.
    #[must_use]
    pub fn replacing(mut self, policy: Policy) -> Self {
        self.policy = Some(policy);
        self
    }

    /// The same, which nobody sees before it is complete: files get their names before their content.
    #[must_use]
    pub fn hidden(mut self) -> Self {
        self.is_hidden = true;
        self
    }

    /// The same, whose reading of files ends when `cancel` is set.
    #[must_use]
    pub fn cancelled_by(mut self, cancel: &Cancel) -> Self {
        self.cancel = cancel.clone();
        self
    }

    /// Starts a restore, or goes on with it: takes the lock, puts the marker on disk,
    /// and removes what an interrupted run left in the staging folder.
    ///
    /// # Errors
    /// Busy, when another restore works here; usage, when the directory holds files or an unfinished
    /// restore of something else; integrity, when `.opsctl` is not a directory of ours.
    pub fn begin(&mut self, task: &Task) -> Result<()> {
        let staging = Staging::begin(self.root.as_fd(), task, self.policy.is_some());
        self.staging = Some(staging.context(|| format!("preparing {}", self.shown.display()))?);
        Ok(())
    }

    /// Ends the restore: removes the staging folder and the marker, and `.opsctl` with them unless
    /// it holds something else. The root keeps its modification time.
    ///
    /// # Errors
    /// When they cannot be removed.
    pub fn complete(self) -> Result<()> {
        self.staging()?.complete(self.root.as_fd()).context(|| format!("completing {}", self.shown.display()))
    }

    /// Creates a directory with mode 0700. Directories come in walk order; their metadata comes
    /// with [`Target::finish_dirs`], unless this says that the entry does not count for it: a live directory
    /// that only leads to what is replaced stays as it is. A directory of an interrupted restore is taken over.
    ///
    /// # Errors
    /// Integrity, when something else stands there.
    pub fn make_dir(&self, entry: &Entry) -> Result<bool> {
        if let Some(policy) = self.policy.as_ref().filter(|policy| !policy.takes_metadata(&entry.path)) {
            return self.lead_through(entry, policy);
        }
        if entry.path.as_bytes().is_empty() {
            if self.policy.is_some() {
                lend(&self.root)?;
            }
            return Ok(true);
        }
        let (parent, name) = self.place(entry)?;
        let what = || format!("creating the directory {}", shown(entry.path.as_bytes()));
        let replaces = self.policy.is_some();
        if replaces && self.look_at(&parent, name, entry)?.is_some_and(|(_, stat)| !is(&stat, FileType::Directory)) {
            fs::unlinkat(&parent, name, AtFlags::empty()).context(what)?;
        }
        let fresh = match fs::mkdirat(&parent, name, PRIVATE) {
            Ok(()) => true,
            // Of whoever it is, it is the one to fill.
            Err(Errno::EXIST) => replaces,
            Err(errno) => return Err(errno).context(what),
        };
        let dir = self.dirs.open(&entry.path)?;
        let stat = fs::fstat(&dir).context(what)?;
        let mine = rustix::process::geteuid().as_raw();
        if !fresh && stat.st_uid != mine && stat.st_uid != entry.uid {
            return Err(taken(entry, "a directory of another user"));
        }
        if stat.st_mode & 0o777 != PRIVATE.as_raw_mode() {
            fs::chmod(proc_name(dir.as_fd()), PRIVATE).context(what)?;
        }
        Ok(true)
    }

    /// Starts a file of the recorded size that is all hole. It has no name until [`Target::publish`], unless nobody sees
    /// it, and each one keeps a descriptor open.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn stage(&self, entry: &Entry) -> Result<Staged> {
        let place = if self.is_hidden { Some(self.place(entry)?) } else { None };
        let place = place.as_ref().map(|(parent, name)| (parent, *name));
        Staged::create(self.staging()?, entry, place, self.cancel.clone())
            .context(|| format!("creating {}", shown(entry.path.as_bytes())))
    }

    /// Gives a verified file its metadata and then its name.
    ///
    /// # Errors
    /// Usage, when the name is taken; integrity, when its directory is not one any more.
    pub fn publish(&self, verified: Verified, entry: &Entry) -> Result<()> {
        let (parent, name) = self.place(entry)?;
        let Staged { part, file, .. } = verified.0;
        apply(Object::Open(file.as_fd()), entry, self.options.chown, &self.report);
        let what = || format!("naming {}", shown(entry.path.as_bytes()));
        if entry.hardlink.is_some() {
            self.remember(entry, &fs::fstat(&file).context(what)?);
        }
        if let Some(policy) = &self.policy {
            return self.replace(part, entry, &parent, name, policy).context(what);
        }
        if part.name_it(parent.as_fd(), name).context(what)? { Ok(()) } else { Err(taken(entry, "something")) }
    }

    /// Gives a name to a part; what stands there gives way, unless it must not. The side files of an old database go before
    /// the new one comes: they would be applied to it.
    fn replace(&self, part: Part, entry: &Entry, parent: &OwnedFd, name: &[u8], policy: &Policy) -> Result<()> {
        let found = self.look_at(parent, name, entry)?.map(|(_, stat)| is(&stat, FileType::Directory));
        if let Some(is_dir) = found {
            obstacle::check(&self.dirs, policy, &entry.path, (is_dir, false), &self.cancel)?;
        }
        if entry.database.is_some() {
            for suffix in SIDE_SUFFIXES {
                match fs::unlinkat(parent, [name, suffix].concat(), AtFlags::empty()) {
                    Ok(()) | Err(Errno::NOENT | Errno::ISDIR) => {}
                    Err(errno) => return Err(errno.into()),
                }
            }
        }
        if found == Some(true) {
            remove_tree(parent, name)?;
        }
        part.take_name(parent.as_fd(), name)
    }

    /// Gives the file that this restore put at `first` a further name.
    ///
    /// # Errors
    /// Integrity, when something else stands at `first`; usage, when the new name is taken.
    pub fn hard_link(&self, first: &EntryPath, entry: &Entry) -> Result<()> {
        let text = || format!("linking {} to {}", shown(entry.path.as_bytes()), shown(first.as_bytes()));
        let known = self.links.lock().unwrap_or_else(PoisonError::into_inner).get(first).copied();
        let differs = || Error::integrity("the first name is not the file that this restore put there");
        let Some((first_parent, first_name)) = first.split_last() else { return Err(differs()).context(text) };
        let (parent, name) = self.place(entry)?;
        let dir = self.dirs.open(&first_parent)?;
        let found = self.look_at(&dir, first_name, entry)?;
        let Some((fd, stat)) =
            found.filter(|(_, stat)| is(stat, FileType::RegularFile) && known == Some((stat.st_dev, stat.st_ino)))
        else {
            return Err(differs()).context(text);
        };
        // Through the descriptor: the name could mean something else by now.
        let link = |dir: BorrowedFd<'_>, name: &[u8]| {
            fs::linkat(fs::CWD, proc_name(fd.as_fd()), dir, name, AtFlags::SYMLINK_FOLLOW)
        };
        let is_done = || -> Result<bool> {
            let there = self.look_at(&parent, name, entry)?;
            Ok(there.is_some_and(|(_, there)| (there.st_dev, there.st_ino) == (stat.st_dev, stat.st_ino)))
        };
        if let Some(policy) = &self.policy {
            // A rename between two names of one file would do nothing, and leave both.
            if is_done()? {
                return Ok(());
            }
            let (part, ()) = self.staging()?.part(|dir, part| link(dir, part.as_bytes())).context(text)?;
            return self.replace(part, entry, &parent, name, policy).context(text);
        }
        match link(parent.as_fd(), name) {
            Err(Errno::EXIST) if is_done()? => Ok(()),
            Err(Errno::EXIST) => Err(taken(entry, "something else")),
            linked => linked.context(text),
        }
    }

    /// Creates a symbolic link. One that is already there and says the same stays.
    ///
    /// # Errors
    /// Usage, when something else stands there.
    pub fn symlink(&self, entry: &Entry) -> Result<()> {
        let target = entry.target.as_slice();
        self.place_object(entry, &|dir, part| fs::symlinkat(target, dir, part), &|fd, stat| {
            is(stat, FileType::Symlink)
                && fs::readlinkat(fd, "", Vec::new()).is_ok_and(|found| found.as_bytes() == target)
        })
    }

    /// Creates a named pipe, a socket or, if that is allowed, a device. An equal one that is already
    /// there stays.
    ///
    /// # Errors
    /// Usage, when something else stands there; integrity, when a device has no number.
    pub fn special(&self, entry: &Entry) -> Result<Outcome> {
        if matches!(entry.kind, Kind::Char | Kind::Block) && !self.options.allow_special {
            return Ok(Outcome::Refused);
        }
        let no_special = || Error::integrity(format!("{} is no special file", shown(entry.path.as_bytes())));
        let kind = special_type(entry.kind).ok_or_else(no_special)?;
        let device = match (kind, entry.rdev) {
            (FileType::Fifo | FileType::Socket, _) => 0,
            (_, Some((major, minor))) => fs::makedev(major, minor),
            (_, None) => {
                let path = shown(entry.path.as_bytes());
                return Err(Error::integrity(format!("{path}: the manifest has no device number")));
            }
        };
        self.place_object(
            entry,
            &|dir, part| fs::mknodat(dir, part, kind, Mode::RUSR | Mode::WUSR, device),
            &|_, stat| is(stat, kind) && (device == 0 || stat.st_rdev == device),
        )?;
        Ok(Outcome::Created)
    }

    /// Sets the metadata of directories, those inside others first, after everything in them is in
    /// place. The root is the entry with the empty path. Every directory is looked for again from the
    /// root, so one that was exchanged meanwhile is found out.
    ///
    /// # Errors
    /// Integrity, when something else stands in the place of a directory.
    pub fn finish_dirs<'e>(&self, entries: impl IntoIterator<Item = &'e Entry>) -> Result<()> {
        let mut entries: Vec<&Entry> = entries.into_iter().collect();
        entries.sort_by(|a, b| b.path.cmp(&a.path));
        self.dirs.forget();
        for entry in entries {
            if entry.path.as_bytes().is_empty() {
                apply(Object::Open(self.root.as_fd()), entry, self.options.chown, &self.report);
                continue;
            }
            let (parent, name) = self.place(entry)?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let dir = fs::openat(&parent, name, flags, Mode::empty())
                .map_err(|errno| not_a_directory(entry.path.as_bytes(), errno))
                .context(|| format!("opening the directory {}", shown(entry.path.as_bytes())))?;
            apply(Object::Open(dir.as_fd()), entry, self.options.chown, &self.report);
        }
        self.give_back()
    }

    /// What the file system says of what stands at the entry's place; links are not followed.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub fn stat(&self, entry: &Entry) -> Result<Option<Stat>> {
        let (parent, name) = self.place(entry)?;
        match fs::statat(&*parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno).context(|| format!("looking at {}", shown(entry.path.as_bytes()))),
        }
    }

    /// Waits until everything is on disk.
    ///
    /// # Errors
    /// When the file system reports that writing failed.
    pub fn sync(&self) -> Result<()> {
        fs::syncfs(&*self.root).context(|| format!("writing {} to disk", self.shown.display()))
    }

    /// The metadata that could not be set so far.
    #[must_use]
    pub fn problems(&self) -> Problems {
        self.report.snapshot()
    }

    /// Sets the metadata of a file that was found right.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub(super) fn refresh(&self, entry: &Entry) -> Result<()> {
        let (parent, name) = self.place(entry)?;
        if let Some((fd, stat)) = self.look_at(&parent, name, entry)?
            && is(&stat, FileType::RegularFile)
        {
            apply(Object::PathOnly(fd.as_fd()), entry, self.options.chown, &self.report);
        }
        Ok(())
    }

    pub(super) fn staging(&self) -> Result<&Arc<Staging>> {
        self.staging.as_ref().ok_or_else(|| Error::usage("the restore was not begun"))
    }

    /// The directory of an entry and its name in it.
    pub(super) fn place<'e>(&self, entry: &'e Entry) -> Result<(Arc<OwnedFd>, &'e [u8])> {
        let path = &entry.path;
        let Some((parent, name)) = path.split_last() else {
            return Err(Error::integrity("the root of the snapshot is not a directory"));
        };
        if path.components().next() == Some(FOLDER.as_bytes()) {
            let text = shown(path.as_bytes());
            return Err(Error::integrity(format!("{text}: the folder {FOLDER} is never part of a snapshot")));
        }
        Ok((self.dirs.open(&parent)?, name))
    }

    /// What stands at a name, without following it.
    pub(super) fn look_at(&self, dir: &OwnedFd, name: &[u8], entry: &Entry) -> Result<Option<(OwnedFd, Stat)>> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let what = || format!("looking at {}", shown(entry.path.as_bytes()));
        let fd = match fs::openat(dir, name, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(errno).context(what),
        };
        let stat = fs::fstat(&fd).context(what)?;
        Ok(Some((fd, stat)))
    }

    /// Creates a link or special file in the staging folder, completes it there, and names it.
    fn place_object(
        &self,
        entry: &Entry,
        create: &dyn Fn(BorrowedFd<'_>, &str) -> rustix::io::Result<()>,
        same: &dyn Fn(&OwnedFd, &Stat) -> bool,
    ) -> Result<()> {
        let (parent, name) = self.place(entry)?;
        let what = || format!("creating {}", shown(entry.path.as_bytes()));
        let (part, ()) = self.staging()?.part(create).context(what)?;
        let fd = part.open_path().context(what)?;
        apply(Object::PathOnly(fd.as_fd()), entry, self.options.chown, &self.report);
        if let Some(policy) = &self.policy {
            return self.replace(part, entry, &parent, name, policy).context(what);
        }
        if part.name_it(parent.as_fd(), name).context(what)? {
            return Ok(());
        }
        match self.look_at(&parent, name, entry)? {
            Some((fd, stat)) if same(&fd, &stat) => {
                // A power cut can leave the name without the metadata.
                apply(Object::PathOnly(fd.as_fd()), entry, self.options.chown, &self.report);
                Ok(())
            }
            _ => Err(taken(entry, "something else")),
        }
    }

    pub(super) fn remember(&self, entry: &Entry, stat: &Stat) {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.insert(entry.path.clone(), (stat.st_dev, stat.st_ino));
    }
}

pub(super) fn is(stat: &Stat, kind: FileType) -> bool {
    FileType::from_raw_mode(stat.st_mode) == kind
}

/// How the file system calls a pipe, a socket or a device.
pub(super) fn special_type(kind: Kind) -> Option<FileType> {
    match kind {
        Kind::Fifo => Some(FileType::Fifo),
        Kind::Socket => Some(FileType::Socket),
        Kind::Char => Some(FileType::CharacterDevice),
        Kind::Block => Some(FileType::BlockDevice),
        Kind::Dir | Kind::File | Kind::Symlink => None,
    }
}

/// The error for a name that is taken.
pub(super) fn taken(entry: &Entry, by: &str) -> Error {
    Error::usage(format!("{}: {by} stands there already; nothing is overwritten", shown(entry.path.as_bytes())))
        .hint("restore into a new or empty directory")
}
