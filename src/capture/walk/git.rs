//! The order in which a git repository is read, so that whatever a captured file names is there.
//!
//! Invariants:
//! * Everything but `objects` is read to its end before `objects` is listed.
//! * In `objects`, `info` is read first and loose objects are read to their end before `pack` is listed,
//!   because a repack moves objects from loose files into packs, never back.
//! * Items are passed on in manifest order all the same: what was read early is held.

use std::collections::VecDeque;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::{Item, Level, Walker};
use crate::Result;
use crate::archive::path::EntryPath;
use crate::capture::listing::read_names;

pub(super) enum Step {
    Name(Vec<u8>),
    /// Everything that this directory of git has handed out must be read before the next name is looked at.
    Settle,
    /// The same, and what was held back is passed on up to this name.
    Pass(Vec<u8>),
}

impl Step {
    pub(super) fn into_name(self) -> Option<Vec<u8>> {
        match self {
            Self::Name(name) => Some(name),
            Self::Settle | Self::Pass(_) => None,
        }
    }
}

/// Takes the step of this name out of the list.
pub(super) fn take(todo: &mut VecDeque<Step>, wanted: &[u8]) -> Option<Step> {
    let at = todo.iter().position(|step| matches!(step, Step::Name(name) if name == wanted))?;
    todo.remove(at)
}

/// Puts `last` to the end of the list, behind a wait for all the others.
pub(super) fn pass_before(todo: &mut VecDeque<Step>, last: &[u8]) {
    let step = take(todo, last);
    todo.push_back(Step::Pass(last.to_vec()));
    todo.extend(step);
}

/// A git repository, or its `objects`, being walked.
pub(super) struct Git {
    /// Held by each job until the next wait.
    pub(super) group: Option<Sender<()>>,
    pub(super) finished: Receiver<()>,
    /// Items that come after the last name in manifest order.
    pub(super) after: Vec<Item>,
}

impl Git {
    pub(super) fn new() -> Self {
        let (group, finished) = bounded(0);
        Self { group: Some(group), finished, after: Vec::new() }
    }
}

impl Walker<'_> {
    /// True for the `objects/pack` of a repository that the walk is in.
    pub(super) fn is_git_packs(&self, path: &EntryPath) -> bool {
        let packs = |level: &Level| Some(level.path.join(b"objects").ok()?.join(b"pack").ok()? == *path);
        self.levels.iter().rev().take(2).any(|level| level.git.is_some() && packs(level) == Some(true))
    }

    /// True for the `objects` of the repository that the walk is in.
    pub(super) fn is_git_objects(&self, path: &EntryPath) -> bool {
        let objects = |level: &Level| Some(level.path.join(b"objects").ok()? == *path);
        self.levels.last().is_some_and(|level| level.git.is_some() && objects(level) == Some(true))
    }

    /// `info` of a git repository's `objects` was handed out: waits until it is read, and lists the rest anew.
    pub(super) fn settle(&mut self) -> Result<()> {
        let Some(level) = self.levels.last_mut() else { return Ok(()) };
        if let Some(git) = &mut level.git {
            git.group = None;
            self.visitor.wait(&git.finished)?;
            *git = Git::new();
        }
        // What is in the old listing and no longer in this one is seen to have vanished.
        let newer = level.dir.as_ref().and_then(|dir| read_names(dir).ok()).unwrap_or_default();
        let mut names: Vec<_> = level.todo.drain(..).filter_map(Step::into_name).chain(newer).collect();
        names.sort_unstable();
        names.dedup();
        level.todo = names.into_iter().filter(|name| name != b"info").map(Step::Name).collect();
        pass_before(&mut level.todo, b"pack");
        Ok(())
    }

    /// Waits until everything before `next` is read, then passes on what comes before it in manifest order.
    pub(super) fn pass(&mut self, next: &[u8]) -> Result<()> {
        let Some(level) = self.levels.last_mut() else { return Ok(()) };
        let next = level.path.join(next)?;
        let mut held = self.held.pop().unwrap_or_default();
        held.sort_by(|a, b| a.path().cmp(b.path()));
        if let Some(git) = &mut level.git {
            git.group = None;
            self.visitor.wait(&git.finished)?;
            let split = held.partition_point(|item| *item.path() < next);
            git.after = held.split_off(split);
        }
        for item in held {
            self.emit(item)?;
        }
        Ok(())
    }
}
