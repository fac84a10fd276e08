//! Exchanges a staged tree with the live one, entry by entry.
//!
//! Each entry changes places by one atomic rename, so at any moment each is old or new, and which of the two is seen
//! from its inode. So an exchange that was cut off is gone on with, or taken back, by doing the steps that are still to be
//! done. A service may have run on the tree meanwhile, also on a mixture of old and new: what it has made there, such as
//! the side files of a database, belongs to neither tree and goes into the folder ([`adopt`]).
//!
//! Invariants:
//! * Every rename is relative to an open directory below the root, and follows no link.
//! * What stays is never moved: a directory above it is exchanged child by child ([`Spine`]).
//! * Whoever calls [`run`] has the swap on disk in a journal.
//! * What leaves the live tree is never overwritten in the folder: whatever has no place there gets a name of its own.

use std::collections::{HashMap, HashSet, VecDeque};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, RenameFlags, Stat};
use rustix::io::Errno;

use super::dirs::{Dirs, shown};
use super::journal::{Left, Object, Step, Swap};
use super::keep::{Policy, SIDE_SUFFIXES, Survey, device_of, is_mounted, mark};
use super::metadata::proc_name;
use super::obstacle;
use super::select::Selection;
use super::spine::{Meta, Spine, make_writable};
use super::state::{FOLDER, names};
use crate::archive::path::EntryPath;
use crate::cancel::Cancel;
use crate::error::{Context as _, Error, Result};

const DIR: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// The live entry, while the file system needs three renames for an exchange.
const ASIDE: &str = "aside";
/// Begins the names of what has no place in the folder.
const AWAY: &str = ".opsctl-made-since-";

/// The live tree, and the tree in a folder of ours that it is exchanged with.
pub(super) struct Trees {
    /// The directory `.opsctl`.
    pub(super) folder: Arc<OwnedFd>,
    pub(super) live: Dirs,
    pub(super) other: Dirs,
}

impl Trees {
    /// The inode of the other tree's root: a copy of the volume has another.
    pub(super) fn folder_ino(&self) -> Result<u64> {
        Ok(fs::fstat(&*self.other.open(&EntryPath::root())?)?.st_ino)
    }
}

/// What is to be exchanged so that the live tree becomes the other one, as far as `policy` lets it.
/// Nothing is made yet: a plan that was never written down must not change the next one.
///
/// # Errors
/// Usage, when parts are to go below something that is no directory.
pub(super) fn plan(trees: &Trees, policy: &Policy, survey: &Survey) -> Result<Swap> {
    let stays = policy.not_ours.iter().map(|path| Left { path: path.clone() });
    let mut swap = Swap { stays: stays.collect(), ..Swap::default() };
    // With each directory, whether the other tree has it, and whether its metadata counts.
    let mut todo = VecDeque::from([(EntryPath::root(), true, policy.selection.include.is_empty())]);
    while let Some((path, is_there, takes_metadata)) = todo.pop_front() {
        let what = || format!("comparing {}", shown(path.as_bytes()));
        let mode = |dirs: &Dirs| -> Result<u32> { Ok(fs::fstat(&*dirs.open(&path)?)?.st_mode) };
        let mode_of_live = mode(&trees.live).context(what)?;
        let live = readable(&trees.live, &path)?;
        let old = Meta::read(live.as_fd(), mode_of_live).context(what)?;
        let mut new = old.clone();
        let mut other = None;
        if is_there {
            let mode_of_other = mode(&trees.other).context(what)?;
            let dir = other.insert(readable(&trees.other, &path)?);
            if takes_metadata {
                new = Meta::read(dir.as_fd(), mode_of_other).context(what)?;
            }
        }
        swap.spine.push(Spine { path: path.clone(), old, new });
        let mut both: Vec<Vec<u8>> = names(live.as_fd()).context(what)?.into_iter().map(|(name, _)| name).collect();
        if let Some(other) = &other {
            both.extend(names(other.as_fd()).context(what)?.into_iter().map(|(name, _)| name));
        }
        // Side files (`app.db-wal`) before their database: a service that is started between the two must not find the new
        // database with the log of the old one.
        both.sort_unstable_by(|a, b| b.cmp(a));
        both.dedup();
        for name in both {
            let child = path.join(&name)?;
            if policy.is_not_ours(&child) {
                swap.stays.push(Left { path: child });
                continue;
            }
            let old = look(&live, &name).context(what)?;
            let new = other.as_ref().map_or(Ok(None), |other| look(other, &name)).context(what)?;
            let is_dir = |stat: &Option<Stat>| stat.as_ref().map(|s| kind(s) == FileType::Directory);
            if let Some(kinds) = is_dir(&old).zip(is_dir(&new)) {
                obstacle::check(&trees.live, policy, &child, kinds, &Cancel::default())?;
            }
            match (policy.replaces(&child), is_dir(&old), is_dir(&new)) {
                (true, Some(true), Some(true)) if survey.has_staying(&child) => todo.push_back((child, true, true)),
                (true, Some(true), None) if survey.has_staying(&child) => todo.push_back((child, false, false)),
                (true, ..) | (false, None, Some(_)) => {
                    swap.steps.push(Step { path: child, old: old.map(object), new: new.map(object) });
                }
                (false, Some(true), None) if survey.has_replaced(&child) => todo.push_back((child, false, false)),
                (false, _, None) => swap.stays.push(Left { path: child }),
                (false, ..) => todo.push_back((child, true, false)),
            }
        }
    }
    Ok(swap)
}

/// Where an exchange leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// To the tree that was in the folder at its beginning.
    There,
    /// Back to the tree that was live at its beginning.
    Back,
}

impl Way {
    /// What will be live.
    fn leads_to(self, step: &Step) -> Option<Object> {
        if self == Self::There { step.new } else { step.old }
    }
}

/// Adds to `swap` what has been made since in its live directories, by whomever: it is part of neither tree, and goes
/// into the folder. Only the log of a database that is there already stays with it. Nothing is moved yet. True if anything
/// was added.
///
/// # Errors
/// Usage, when something else stands in the place of a directory; otherwise when the live tree cannot be looked at.
pub(super) fn adopt(swap: &mut Swap, trees: &Trees, selection: &Selection, way: Way) -> Result<bool> {
    trees.live.forget();
    let Swap { steps, spine, stays } = swap;
    let known: HashMap<EntryPath, usize> = steps.iter().enumerate().map(|(at, step)| (step.path.clone(), at)).collect();
    let mut left: HashSet<EntryPath> = spine.iter().map(|dir| dir.path.clone()).collect();
    for path in stays.iter().map(|left| &left.path) {
        mark(&mut left, path);
        left.insert(path.clone());
    }
    let mut is_changed = false;
    for dir in spine {
        let Some(live) = live_dir(trees, &dir.path)? else { continue };
        let device = device_of(&live)?;
        for (name, _) in names(live.as_fd())? {
            let path = dir.path.join(&name)?;
            if left.contains(&path) {
                continue;
            }
            let Some(made) = look(&live, &name)?.map(object) else { continue };
            let database = database_of(&path).and_then(|path| known.get(&path)).and_then(|at| steps.get(*at));
            // A log goes with the database that it was written for.
            let stays = match database.and_then(|step| Some((way.leads_to(step)?, step.path.split_last()?.1))) {
                Some((wanted, name)) => look(&live, name)?.is_some_and(|stat| stat.st_ino == wanted.ino),
                None => false,
            };
            let is_ours = database.is_some() || selection.wants(&path);
            match known.get(&path).and_then(|at| steps.get_mut(*at)) {
                Some(step) if stays && !step.knows(made) => {
                    *(if way == Way::There { &mut step.new } else { &mut step.old }) = Some(made);
                    is_changed = true;
                }
                Some(_) => {}
                None if is_ours && !stays && !is_mounted(&live, device, &name)? => {
                    let (old, new) = if way == Way::There { (Some(made), None) } else { (None, Some(made)) };
                    steps.push(Step { path, old, new });
                    is_changed = true;
                }
                None => {}
            }
        }
    }
    Ok(is_changed)
}

/// The database that a path is a side file of, by its name.
fn database_of(path: &EntryPath) -> Option<EntryPath> {
    let name = SIDE_SUFFIXES.iter().find_map(|suffix| path.as_bytes().strip_suffix(*suffix))?;
    EntryPath::new(name.to_vec()).ok()
}

/// Sets in an exchange that is complete and at rest what is where, whatever has become of it since: a service has run
/// on the one side, and the whole volume may have been copied.
///
/// # Errors
/// As [`adopt`].
pub(super) fn refresh(swap: &mut Swap, trees: &Trees) -> Result<()> {
    trees.live.forget();
    for dir in &mut swap.spine {
        if let Some(live) = live_dir(trees, &dir.path)? {
            let mode = fs::fstat(&*trees.live.open(&dir.path)?)?.st_mode;
            dir.new = Meta::read(live.as_fd(), mode)?;
        }
    }
    for step in &mut swap.steps {
        let Some((parent, name)) = step.path.split_last() else { continue };
        let at = |dir: Option<OwnedFd>| dir.map_or(Ok(None), |dir| look(&dir, name)).map(|stat| stat.map(object));
        step.new = at(live_dir(trees, &parent)?)?;
        step.old = at(Some(readable(&trees.other, &parent)?))?;
    }
    Ok(())
}

/// A live directory; `None` if nothing stands there.
fn live_dir(trees: &Trees, path: &EntryPath) -> Result<Option<OwnedFd>> {
    if let Some((parent, name)) = path.split_last() {
        let Some(parent) = live_dir(trees, &parent)? else { return Ok(None) };
        match look(&parent, name)? {
            None => return Ok(None),
            Some(stat) if kind(&stat) == FileType::Directory => {}
            Some(_) => {
                let text = shown(path.as_bytes());
                return Err(Error::usage(format!("{text} is no folder any more, and something belongs below it"))
                    .hint("move it away, and run this again"));
            }
        }
    }
    readable(&trees.live, path).map(Some)
}

/// Does what of `swap` is not done yet: afterwards everything new is live, and everything old in the folder.
///
/// # Errors
/// Integrity, when the folder holds something else than it should. What was exchanged until then stays so.
pub(super) fn run(swap: &Swap, trees: &Trees) -> Result<()> {
    trees.live.forget();
    trees.other.forget();
    for dir in &swap.spine {
        make_skeleton(&trees.live, &dir.path)?;
        make_skeleton(&trees.other, &dir.path)?;
        make_writable(readable(&trees.live, &dir.path)?.as_fd())?;
        make_writable(readable(&trees.other, &dir.path)?.as_fd())?;
    }
    if let Some(aside) = look(&trees.folder, ASIDE.as_bytes())? {
        // Before any other step makes room there.
        let begun = begun_step(swap, trees, &aside)?;
        let begun = begun.ok_or_else(|| Error::integrity(format!("{FOLDER}/{ASIDE} is in no journal")))?;
        let (live, other, name) = places(begun, trees)?;
        finish_aside(begun, trees, &live, &other, name).context(|| format!("exchanging {}", shown(name)))?;
    }
    for step in &swap.steps {
        exchange(step, trees).context(|| format!("exchanging {}", shown(step.path.as_bytes())))?;
    }
    // From the inside out, since setting the metadata of one may lock those below.
    for dir in swap.spine.iter().rev() {
        let what = || format!("setting the metadata of {}", shown(dir.path.as_bytes()));
        dir.new.apply(readable(&trees.live, &dir.path)?.as_fd()).context(what)?;
        dir.old.apply(readable(&trees.other, &dir.path)?.as_fd()).context(what)?;
    }
    fs::syncfs(&*trees.folder).context(|| "writing the exchange to disk".to_owned())
}

/// The directories that hold the entry, and its name.
fn places<'s>(step: &'s Step, trees: &Trees) -> Result<(OwnedFd, OwnedFd, &'s [u8])> {
    let Some((parent, name)) = step.path.split_last() else {
        return Err(Error::integrity("the root cannot be exchanged"));
    };
    Ok((readable(&trees.live, &parent)?, readable(&trees.other, &parent)?, name))
}

/// The step of three renames that was cut off. Files of several names have one inode, so the places must fit too: one
/// of them is empty.
fn begun_step<'s>(swap: &'s Swap, trees: &Trees, aside: &Stat) -> Result<Option<&'s Step>> {
    for step in &swap.steps {
        let (Some(old), Some(new)) = (step.old, step.new) else { continue };
        if old.ino == aside.st_ino || new.ino == aside.st_ino {
            let (live, other, name) = places(step, trees)?;
            if look(&live, name)?.is_none() || look(&other, name)?.is_none() {
                return Ok(Some(step));
            }
        }
    }
    Ok(None)
}

/// Does one step, unless it is done: what belongs into the live tree is there then, and all else in the folder. What
/// belongs there and is nowhere was replaced by a service, whose version stays.
///
/// # Errors
/// Integrity, when the folder has lost what belongs into the live tree.
fn exchange(step: &Step, trees: &Trees) -> Result<()> {
    let (live, other, name) = places(step, trees)?;
    let ino = |dir: &OwnedFd| -> Result<Option<u64>> { Ok(look(dir, name)?.map(|stat| stat.st_ino)) };
    let (is_live, in_folder) = (ino(&live)?, ino(&other)?);
    match step.new.map(|new| new.ino) {
        new @ Some(_) if is_live != new && in_folder == new => {
            if is_live.is_some() {
                change_places(step, trees, &live, &other, name)?;
            } else {
                with_leave(step.new, &other, name, || rename_to_nothing((&other, name), (&live, name)))?;
            }
        }
        new @ Some(_) if is_live != new && is_live.is_some() && is_live == step.old.map(|old| old.ino) => {
            return Err(Error::integrity("the folder holds something else than the journal says"));
        }
        None if is_live.is_some() => {
            if in_folder.is_none() {
                with_leave(step.old, &live, name, || rename_to_nothing((&live, name), (&other, name)))?;
            } else if in_folder == step.old.map(|old| old.ino) {
                // Taken away before, and made anew.
                put_away(trees, &live, name)?;
            } else {
                put_away(trees, &other, name)?;
                with_leave(step.old, &live, name, || rename_to_nothing((&live, name), (&other, name)))?;
            }
        }
        _ => {}
    }
    // A directory that its owner may not write had to be made so for the rename.
    restore_mode(&live, name, step.new)?;
    restore_mode(&other, name, step.old)
}

/// Gives something that has no place in the folder a name of its own there.
fn put_away(trees: &Trees, dir: &OwnedFd, name: &[u8]) -> Result<()> {
    let root = readable(&trees.other, &EntryPath::root())?;
    let what = look(dir, name)?.map(object);
    for number in 0_u64.. {
        let away = format!("{AWAY}{number}");
        match with_leave(what, dir, name, || rename_to_nothing((dir, name), (&root, away.as_bytes()))) {
            Err(Errno::EXIST) => {}
            done => return Ok(done?),
        }
    }
    Ok(())
}

/// Lets two entries change places.
fn change_places(step: &Step, trees: &Trees, live: &OwnedFd, other: &OwnedFd, name: &[u8]) -> Result<()> {
    let both = || {
        lend(step.new, other, name)?;
        with_leave(step.old, live, name, || fs::renameat_with(live, name, other, name, RenameFlags::EXCHANGE))
    };
    match both() {
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
        done => return Ok(done?),
    }
    // A file system without an exchange: the live entry steps aside, and `finish_aside` does the rest.
    fs::renameat(live, name, &*trees.folder, ASIDE)?;
    finish_aside(step, trees, live, other, name)
}

/// Ends an exchange of three renames, of which at least the first was done.
fn finish_aside(step: &Step, trees: &Trees, live: &OwnedFd, other: &OwnedFd, name: &[u8]) -> Result<()> {
    let Some(aside) = look(&trees.folder, ASIDE.as_bytes())?.map(object) else { return Ok(()) };
    let known = |object: Option<Object>| object.is_some_and(|o| o.ino == aside.ino);
    if known(step.old) {
        if look(other, name)?.is_some() {
            rename_to_nothing((other, name), (live, name))?;
        }
        rename_to_nothing((&trees.folder, ASIDE.as_bytes()), (other, name))?;
    } else if known(step.new) {
        // The other way round was begun: first that is undone.
        if look(live, name)?.is_some() {
            rename_to_nothing((live, name), (other, name))?;
        }
        rename_to_nothing((&trees.folder, ASIDE.as_bytes()), (live, name))?;
    }
    Ok(())
}

/// A rename that overwrites nothing, also where the file system cannot promise that by itself: of what is in the way
/// there nobody makes anything between the look and the rename, unless the service was not stopped.
pub(super) fn rename_to_nothing(from: (&OwnedFd, &[u8]), to: (&OwnedFd, &[u8])) -> rustix::io::Result<()> {
    match fs::renameat_with(from.0, from.1, to.0, to.1, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
        done => return done,
    }
    match fs::statat(to.0, to.1, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => fs::renameat(from.0, from.1, to.0, to.1),
        found => found.and(Err(Errno::EXIST)),
    }
}

/// Runs a rename of a directory that its owner may not write: moving it to another directory needs that.
fn with_leave(
    what: Option<Object>,
    dir: &OwnedFd,
    name: &[u8],
    rename: impl Fn() -> rustix::io::Result<()>,
) -> rustix::io::Result<()> {
    match rename() {
        Err(Errno::ACCESS) => {
            lend(what, dir, name)?;
            rename()
        }
        done => done,
    }
}

/// Makes a directory writable for its owner, for the time of a rename.
fn lend(what: Option<Object>, dir: &OwnedFd, name: &[u8]) -> rustix::io::Result<()> {
    if what.is_some_and(needs_leave) { chmod(dir, name, Mode::RWXU) } else { Ok(()) }
}

fn needs_leave(object: Object) -> bool {
    FileType::from_raw_mode(object.mode) == FileType::Directory
        && object.mode & 0o200 == 0
        && !rustix::process::geteuid().is_root()
}

/// Gives a directory that was made writable its mode back, wherever a crash has left that undone.
fn restore_mode(dir: &OwnedFd, name: &[u8], expected: Option<Object>) -> Result<()> {
    match (expected.filter(|object| needs_leave(*object)), look(dir, name)?) {
        (Some(expected), Some(found)) if found.st_ino == expected.ino => {
            Ok(chmod(dir, name, Mode::from_raw_mode(expected.mode & 0o7777))?)
        }
        _ => Ok(()),
    }
}

fn chmod(dir: &OwnedFd, name: &[u8], mode: Mode) -> rustix::io::Result<()> {
    let fd = fs::openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    fs::chmod(proc_name(fd.as_fd()), mode)
}

fn readable(dirs: &Dirs, path: &EntryPath) -> Result<OwnedFd> {
    let dir = dirs.open(path)?;
    match fs::openat(&*dir, ".", DIR, Mode::empty()) {
        Err(Errno::ACCESS) => {
            // Its owner may not even read it.
            let mode = Mode::from_raw_mode(fs::fstat(&*dir)?.st_mode & 0o7777);
            fs::chmod(proc_name(dir.as_fd()), mode | Mode::RWXU)?;
            fs::openat(&*dir, ".", DIR, Mode::empty())
        }
        opened => opened,
    }
    .context(|| format!("opening the directory {}", shown(path.as_bytes())))
}

/// Makes sure of a directory that only leads to what is exchanged below it. It is on disk before anything is moved there:
/// else a power cut could leave the move without the place that it led to.
fn make_skeleton(dirs: &Dirs, path: &EntryPath) -> Result<()> {
    let Some((parent, name)) = path.split_last() else { return Ok(()) };
    let parent = readable(dirs, &parent)?;
    match fs::mkdirat(&parent, name, Mode::RWXU) {
        Err(Errno::EXIST) => Ok(()),
        made => made.and_then(|()| fs::fsync(&parent)).context(|| format!("creating {}", shown(path.as_bytes()))),
    }
}

fn look(dir: &OwnedFd, name: &[u8]) -> Result<Option<Stat>> {
    match fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

fn object(stat: Stat) -> Object {
    Object { ino: stat.st_ino, mode: stat.st_mode }
}
