//! `opsctl restore`: a snapshot back as files.

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use jiff::Timestamp;

use super::Session;
use super::compatibility::compatibility;
use super::reading::{ReadArgs, Reading};
use super::restore_report::{RestorePlanReport, RestoreReport, plan_warnings, render_to};
use crate::filter::Patterns;
use crate::repository::{Purpose, Snapshot, Which};
use crate::restore::target::TargetOptions;
use crate::restore::{self, RestorePlan, RestoreRequest, Selection};
use crate::ui::{self, Output};
use crate::{ExitCode, Result, time};

/// Restore a snapshot in place of a folder, or with --to into a new one
///
/// Chooses the newest trusted snapshot that ended at or before --at, and says
/// which. In place, the whole snapshot is fetched and verified beside the live
/// folder first; then the two change places, and what was replaced is kept until
/// the next restore: `opsctl rollback` puts it back. What the live folder has
/// right already is not fetched, and if all of it is right, nothing is done. What
/// the snapshot left out stays where it is, and so do keys and settings that this
/// command was given. A restore that was interrupted, even by a power cut, is
/// finished or undone when it is run again. Signers are pinned by the identity
/// file, or by --trusted-signer.
///
/// Example: opsctl restore /data --at '2026-03-07 14:00' --store s3://backups/web --identity web.identity
/// Example: opsctl restore --to /restore --snapshot 20260307T140000Z --store s3://backups/web
///
/// Exit codes: 0 ok, also where only versions differ, 1 failed, or an
/// incompatible contract version, 2 usage, no confirmation, an unfinished restore
/// of something else is in the way, or the new folder is not empty, 3 restored,
/// but something in it is missing, or --verify-url could not verify all (named),
/// 4 damaged or untrusted (the folder is as before, but with --in-place), 5 the
/// service was not well afterwards (the old folder is back, but with
/// --no-rollback or --in-place), 10 no such snapshot, path or folder, 11 the
/// folder is in use, 12 wrong or missing key, 13 the store limits the rate of
/// requests, 14 no space, 130 interrupted
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub struct RestoreArgs {
    /// The folder whose content is replaced; default: the profile's data root
    #[arg(value_name = "DIR", conflicts_with = "to")]
    pub(super) dir: Option<PathBuf>,
    /// Restore into this new folder instead, and replace nothing
    #[arg(long, value_name = "NEWDIR", conflicts_with_all = IN_PLACE_FLAGS)]
    to: Option<PathBuf>,
    /// The newest snapshot that ended by then: 2026-03-07T14:00:00Z, '2026-03-07 14:00', yesterday, '2h ago'
    #[arg(long, value_name = "TIME", conflicts_with = "snapshot")]
    at: Option<String>,
    /// The snapshot with this id, or the start of one
    #[arg(long, value_name = "ID")]
    snapshot: Option<String>,
    /// Only what matches, with everything below; may be repeated
    #[arg(long, value_name = "GLOB")]
    include: Vec<String>,
    /// Not what matches; may be repeated
    #[arg(id = "restore_exclude", long = "exclude", value_name = "GLOB")]
    exclude: Vec<String>,
    /// Create device files too
    #[arg(long)]
    pub(super) allow_special: bool,
    /// Replace file by file, where there is no room for both trees: it can be resumed, and not rolled back
    #[arg(long)]
    pub(super) in_place: bool,
    /// Remove what the snapshot left out on purpose, too
    #[arg(long)]
    pub(super) delete_excluded: bool,
    /// Delete the tree that an earlier restore replaced before anything is staged, to make room
    #[arg(long)]
    pub(super) discard_previous: bool,
    /// Restore although the profile calls the snapshot's contract version incompatible
    #[arg(long)]
    pub(super) allow_incompatible: bool,
    /// Restore although processes use the folder
    #[arg(long)]
    pub(super) force: bool,
    /// After the swap verify the service there (see `opsctl verify`), else put the old folder back. Without
    /// --start-cmd somebody else has to start it
    #[arg(long, value_name = "URL")]
    pub(super) verify_url: Option<String>,
    /// How long the service may take to be up, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 120, requires = "verify_url")]
    pub(super) verify_timeout: u64,
    /// With --verify-url: send nothing over plain HTTP to another machine
    #[arg(long, alias = "strict")]
    pub(super) verify_strict: bool,
    /// With --verify-url: file with the token of an identity of the profile; may be repeated
    #[arg(long, value_name = "IDENTITY=FILE")]
    pub(super) token_file: Vec<String>,
    /// Run before the swap, by sh. The service may take ten seconds more to let go of the folder
    #[arg(long, value_name = "COMMAND")]
    pub(super) stop_cmd: Option<String>,
    /// Run after the swap, by sh
    #[arg(long, value_name = "COMMAND")]
    pub(super) start_cmd: Option<String>,
    /// Leave the new folder in place even if the service does not start or is not well
    #[arg(long)]
    pub(super) no_rollback: bool,
    /// The running service: its versions are compared with those of the snapshot
    #[arg(long, value_name = "URL")]
    pub(super) service_url: Option<String>,
    #[command(flatten)]
    pub(super) read: ReadArgs,
    /// Say what would be restored, restore nothing
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Do not ask
    #[arg(short = 'y', long)]
    pub(super) yes: bool,
}

/// Flags that mean nothing for a new folder.
const IN_PLACE_FLAGS: [&str; 9] = [
    "in_place",
    "delete_excluded",
    "discard_previous",
    "force",
    "verify_url",
    "stop_cmd",
    "start_cmd",
    "no_rollback",
    "verify_timeout",
];

pub(super) fn run(args: &RestoreArgs, session: &Session<'_>, out: &mut Output) -> Result<ExitCode> {
    match &args.to {
        Some(to) => run_to(args, to, session, out),
        None => super::restore_in_place::run(args, session, out),
    }
}

fn run_to(args: &RestoreArgs, to: &Path, session: &Session<'_>, out: &mut Output) -> Result<ExitCode> {
    let started = Instant::now();
    let now = Timestamp::now();
    let settings = session.settings;
    let (asked, which) = args.which(session, now)?;
    let selection = args.selection()?;
    let reading = Reading::open(session, &args.read.trust, Purpose::Content)?;
    let identities = reading.need_identities()?;
    let listing = reading.listing(session)?;
    let snapshot = reading.choose(session, &listing, &which)?;
    announce(snapshot, asked, now);
    let (versions, differing) = compatibility(args, session, snapshot)?;
    let mut report = RestoreReport::begin(snapshot, asked.unwrap_or(now));
    report.note(differing);
    let request = RestoreRequest {
        repository: &reading.repository,
        snapshot,
        identities,
        to: to.to_owned(),
        shown: to.to_owned(),
        live: None,
        selection,
        options: TargetOptions { allow_special: args.allow_special, ..TargetOptions::for_this_user() },
        seed: Some(settings.state_dir.value.clone().unwrap_or_else(|| to.join(".opsctl"))),
        memory: settings.snapshot.memory.value,
        cancel: &session.cancel,
    };
    let mut plan = session.block(RestorePlan::make(&request, &()))?;
    report.lack(plan_warnings(&plan));
    if args.dry_run {
        let plan_report = RestorePlanReport::new(snapshot, &plan, None, &versions, &report);
        out.result(&plan_report, |_| plan_report.text())?;
        plan.check_space()?;
        return Ok(ExitCode::Ok);
    }
    plan.check_space()?;
    let bar = crate::cli::progress(settings).start("restoring", Some(plan.work()));
    let restored = session.block(restore::restore(&request, &mut plan, &bar));
    bar.finish();
    report.restored(&restored?);
    report.finish(started.elapsed(), &reading.repository.store().stats(), out, |report| render_to(report, to))
}

impl RestoreArgs {
    /// The time asked for, and which snapshot that means.
    pub(super) fn which(&self, session: &Session<'_>, now: Timestamp) -> Result<(Option<Timestamp>, Which)> {
        let asked = self.at.as_deref().map(|text| session.settings.parse_time(text, now)).transpose()?;
        let which = match (&self.snapshot, asked) {
            (Some(id), _) => Which::Id(id.clone()),
            (None, Some(at)) => Which::At(at),
            (None, None) => Which::Latest,
        };
        Ok((asked, which))
    }

    /// The parts of the snapshot that are wanted.
    pub(super) fn selection(&self) -> Result<Selection> {
        Ok(Selection { include: Patterns::new(&self.include)?, exclude: Patterns::new(&self.exclude)? })
    }
}

/// Says which snapshot it is and how far from the time asked for, before anything happens.
pub(super) fn announce(snapshot: &Snapshot, asked: Option<Timestamp>, now: Timestamp) {
    let end = snapshot.receipt.finished_at;
    // End times are rounded up to whole seconds.
    let now = now.max(end);
    let distance = match asked {
        Some(asked) => format!("{} before the time asked for", time::age(end, asked)),
        None => format!("{} ago", time::age(end, now)),
    };
    ui::say(format!("restoring snapshot {} of {}, ended {end}, {distance}", snapshot.id, snapshot.source));
}
