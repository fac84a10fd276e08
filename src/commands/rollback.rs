//! `opsctl rollback`: the tree that a restore in place replaced, back in its place.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use serde::Serialize;

use super::Session;
use super::in_use::refuse_if_in_use;
use super::restore_in_place::{confirm, tidy};
use super::unfinished::state_of_tree;
use crate::restore::in_place::{Place, Recovered};
use crate::restore::journal::{Journal, Phase};
use crate::ui::{self, Output};
use crate::{Error, ExitCode, Result};

/// Put back the folder that the last restore in place replaced
///
/// The two change places again, so a rollback can itself be taken back by another
/// one. A restore that was not finished is given up: the old folder is live
/// afterwards, whatever had been exchanged.
///
/// Example: opsctl rollback /data
/// Example: opsctl rollback /data --discard --yes
///
/// Exit codes: 0 ok, 1 failed, 2 usage, no confirmation, an unfinished --in-place
/// restore is in the way, or something is mounted in what is deleted, 4 what
/// .opsctl holds is damaged or not ours, 10 nothing to roll back, or no such
/// folder, 11 the folder is in use, 14 no space, 130 interrupted
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub struct RollbackArgs {
    /// The folder; default: the profile's data root
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Delete the replaced tree instead: there is nothing to roll back afterwards
    #[arg(long)]
    discard: bool,
    /// Roll back although processes use the folder
    #[arg(long)]
    force: bool,
    /// Do not ask
    #[arg(short = 'y', long)]
    yes: bool,
}

/// The result of `rollback`.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct RollbackReport {
    /// What happened.
    pub action: Action,
    /// The id of the tree that is kept now, and that another rollback would put back; null if none is.
    pub previous: Option<String>,
    /// The snapshot of the restore that this was about.
    pub snapshot_id: String,
    /// What was done about a restore or rollback that had not come to its end.
    pub recovered: Recovered,
    /// Seconds from start to finish.
    pub seconds: f64,
}

/// What a rollback did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// The tree from before the restore is live, and the restored one is kept.
    RolledBack,
    /// The restored tree is live again, and the one from before is kept.
    PutBack,
    /// A restore that was not finished was given up.
    GaveUp,
    /// The kept tree was deleted.
    Discarded,
}

pub(super) fn run(args: &RollbackArgs, session: &Session<'_>, out: &mut Output) -> Result<ExitCode> {
    let started = Instant::now();
    let (dir, _) = session.settings.profile.value.place(args.dir.as_deref())?;
    let place = Place::open(&dir, false)?.may_write();
    tidy(&place);
    let report = match place.journal()? {
        Some(journal) => unfinished(args, &dir, &place, journal, started),
        None => kept(args, &dir, &place, started),
    };
    if report.is_ok() {
        tidy(&place);
    }
    drop(place);
    let report = report?;
    out.result(&report, |_| match report.action {
        Action::RolledBack => format!(
            "{} is as it was before the restore of snapshot {}; another rollback takes this back",
            dir.display(),
            report.snapshot_id
        ),
        Action::PutBack => format!(
            "{} is as the restore of snapshot {} made it; another rollback takes this back",
            dir.display(),
            report.snapshot_id
        ),
        Action::GaveUp => {
            format!("gave up the restore of snapshot {}: {} is as it was", report.snapshot_id, dir.display())
        }
        Action::Discarded => format!("deleted the tree that the restore of snapshot {} replaced", report.snapshot_id),
    })?;
    Ok(ExitCode::Ok)
}

/// Takes back what was not finished.
fn unfinished(
    args: &RollbackArgs,
    dir: &std::path::Path,
    place: &Place,
    mut journal: Journal,
    started: Instant,
) -> Result<RollbackReport> {
    ui::warn(format!("{}: {}", dir.display(), state_of_tree(&journal)));
    if journal.phase == Phase::Overwriting || args.discard {
        let message = format!("{} holds an unfinished restore", dir.display());
        let hint = if journal.phase == Phase::Overwriting { "it cannot be taken back; " } else { "" };
        return Err(Error::usage(message).hint(format!("{hint}finish it: {}", journal.command(dir))));
    }
    confirm(args.yes, &format!("Take back what is unfinished in {}?", dir.display()))?;
    if journal.phase != Phase::Staging {
        refuse_if_in_use(dir, args.force)?;
        place.lock_tree(args.force)?;
    }
    let snapshot_id = journal.task.snapshot_id.clone();
    // The restored tree may have been worked on since it was live: it is kept, and then taken back like any other.
    let goes_on = journal.rollback || matches!(journal.phase, Phase::Swapped | Phase::Keeping);
    let (action, recovered) = if goes_on {
        place.finish(&mut journal)?;
        if !journal.rollback {
            return kept(args, dir, place, started)
                .map(|report| RollbackReport { recovered: Recovered::Finished, ..report });
        }
        (if journal.keeps_restored { Action::RolledBack } else { Action::PutBack }, Recovered::Finished)
    } else {
        place.undo(&mut journal)?;
        (Action::GaveUp, Recovered::Undone)
    };
    let previous = place.kept()?.map(|kept| kept.id);
    Ok(RollbackReport { action, previous, snapshot_id, recovered, seconds: started.elapsed().as_secs_f64() })
}

/// Puts the kept tree back, or deletes it.
fn kept(args: &RollbackArgs, dir: &std::path::Path, place: &Place, started: Instant) -> Result<RollbackReport> {
    let Some(kept) = place.kept()? else {
        return Err(Error::new(ExitCode::NotFound, format!("there is nothing to roll back in {}", dir.display()))
            .hint("only a restore in place leaves something to roll back, until `rollback --discard` deletes it"));
    };
    let snapshot_id = kept.task.snapshot_id.clone();
    let role = if kept.is_restored { "made" } else { "replaced" };
    let what = format!("{role} by the restore of snapshot {snapshot_id}, kept since {}", kept.since);
    let done = |action, previous| RollbackReport {
        action,
        previous,
        snapshot_id: snapshot_id.clone(),
        recovered: Recovered::None,
        seconds: started.elapsed().as_secs_f64(),
    };
    if args.discard {
        confirm(args.yes, &format!("Delete the kept tree of {} ({what})?", dir.display()))?;
        place.discard_kept()?;
        return Ok(done(Action::Discarded, None));
    }
    refuse_if_in_use(dir, args.force)?;
    confirm(args.yes, &format!("Put the kept tree of {} back ({what})?", dir.display()))?;
    place.lock_tree(args.force)?;
    let previous = place.roll_back(&kept)?;
    Ok(done(if kept.is_restored { Action::PutBack } else { Action::RolledBack }, Some(previous)))
}
