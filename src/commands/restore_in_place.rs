//! `opsctl restore` without `--to`: the content of a folder replaced as a whole.

mod service;

use std::path::{Path, PathBuf};
use std::time::Instant;

use jiff::Timestamp;

use super::Session;
use super::compatibility::{Versions, compatibility};
use super::in_use::{in_words, refuse_if_in_use};
use super::own_files::not_ours;
use super::reading::Reading;
use super::restore::{RestoreArgs, announce};
use super::restore_gate::Question;
use super::restore_report::{
    InPlaceReport, RestorePlanReport, RestoreReport, UnwellReport, plan_warnings, render_in_place,
};
use super::same_options::same_options;
use super::unfinished::{kind, state_of_tree};
use crate::providers::processes::{Holder, holders};
use crate::repository::{Purpose, Snapshot};
use crate::restore::gate::Gate;
use crate::restore::in_place::{Place, Recovered};
use crate::restore::journal::{Journal, Phase};
use crate::restore::space::Free;
use crate::restore::state::Task;
use crate::restore::target::TargetOptions;
use crate::restore::{self, LiveRequest, RestorePlan, RestoreRequest, Restored};
use crate::ui::{self, Output};
use crate::{Error, ExitCode, Result};
use service::nothing_starts_it;

pub(super) fn run(args: &RestoreArgs, session: &Session<'_>, out: &mut Output) -> Result<ExitCode> {
    let started = Instant::now();
    let now = Timestamp::now();
    let settings = session.settings;
    let (dir, volume) = settings.profile.value.place(args.dir.as_deref())?;
    let gate = Gate { stop: args.stop_cmd.clone(), start: args.start_cmd.clone() };
    let mut question = Question::new(args, session)?;
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
    report.note(nothing_starts_it(args));

    let place = Place::open(&dir, !args.dry_run)?;
    let task =
        Task::new(snapshot.id.as_str(), selection.include.texts(), selection.exclude.texts(), args.allow_special);
    if let Some(question) = question.as_mut().filter(|_| !args.dry_run) {
        question.compare(session, &reading, snapshot, selection.is_everything());
    }
    let (question, recovered) = (question.as_ref(), Recovered::None);
    let mut run = Run { args, session, gate, question, dir: &dir, place: &place, snapshot, versions, task, recovered };
    let journal = run.recover().map_err(|error| with_same_options(error, args, session))?;
    report.recovered = run.recovered;
    let request = RestoreRequest {
        repository: &reading.repository,
        snapshot,
        identities,
        to: run.target(journal.as_ref())?,
        shown: dir.clone(),
        live: Some(LiveRequest {
            place: &place,
            not_ours: not_ours(session, &dir, &volume.not_ours)?,
            delete_excluded: args.delete_excluded,
            discard_previous: args.discard_previous,
            file_by_file: args.in_place,
        }),
        selection,
        options: TargetOptions { allow_special: args.allow_special, ..TargetOptions::for_this_user() },
        seed: Some(settings.state_dir.value.clone().unwrap_or_else(|| dir.join(".opsctl"))),
        memory: settings.snapshot.memory.value,
        cancel: &session.cancel,
    };
    if args.dry_run {
        return run.show_plan(&request, journal.as_ref(), &mut report, out);
    }
    tidy(&place);
    let done = run.carry_out(journal, request, &mut report);
    tidy(&place);
    if let Err(error) = &done
        && error.code() == ExitCode::Verification
    {
        out.document(&UnwellReport::of(error, &report))?;
    }
    done?;
    let traffic = reading.repository.store().stats();
    report.finish(started.elapsed(), &traffic, out, |report| render_in_place(report, &dir))
}

/// Deletes what an interrupted run has left, and what this one has no use for. That it cannot be deleted stops nothing.
pub(super) fn tidy(place: &Place) {
    place.sweep().unwrap_or_else(|error| ui::warn(error.full_message()));
}

/// One restore in place.
struct Run<'a> {
    args: &'a RestoreArgs,
    session: &'a Session<'a>,
    gate: Gate,
    question: Option<&'a Question<'a>>,
    dir: &'a Path,
    place: &'a Place,
    snapshot: &'a Snapshot,
    versions: Versions,
    task: Task,
    recovered: Recovered,
}

impl Run<'_> {
    /// Brings an earlier restore or rollback to its end. What is left is a journal of the same restore: of a stage, of
    /// a tree that is replaced file by file, or with everything exchanged.
    fn recover(&mut self) -> Result<Option<Journal>> {
        self.place.refuse_unfinished_to()?;
        let Some(mut journal) = self.place.journal()? else { return Ok(None) };
        let shown = self.dir.display();
        let rollback = format!("opsctl rollback {}", ui::shell_word(self.dir.display()));
        ui::warn(format!("{shown}: {}", state_of_tree(&journal)));
        let is_same = journal.task == self.task && !journal.rollback;
        let found = journal.phase;
        let way = if self.args.in_place { Phase::Overwriting } else { Phase::Staging };
        if matches!(found, Phase::Staging | Phase::Overwriting) {
            if is_same && found == way {
                return Ok(Some(journal));
            }
            if found == Phase::Overwriting && self.args.in_place && self.args.force && !self.args.dry_run {
                self.place.abandon_overwriting()?;
                return Ok(None);
            }
            let go_on = format!("go on with it: {}", journal.command(self.dir));
            let give_up = match found {
                Phase::Staging => format!("; or give it up: {rollback}"),
                _ => "; another one can replace what it left: --in-place --force".to_owned(),
            };
            return Err(Error::usage(format!("{shown} holds an unfinished {}", kind(&journal))).hint(go_on + &give_up));
        }
        if self.args.dry_run {
            return Err(Error::usage(format!("{shown} holds an unfinished {}", kind(&journal)))
                .hint("without --dry-run it is brought to its end first"));
        }
        if found == Phase::Keeping {
            // Everything was exchanged and decided: the live tree is not touched.
            self.recovered = Recovered::Finished;
            if is_same {
                return Ok(Some(journal));
            }
            self.place.keep(&mut journal)?;
            ui::say(format!("the earlier {} is finished", kind(&journal)));
            return Ok(None);
        }
        if found == Phase::Swapped && !is_same && !journal.rollback {
            // A service may have worked on it since: nobody but the user decides which of the two trees counts.
            let command = journal.command(self.dir);
            return Err(Error::usage(format!("{shown} holds a restored tree that was not verified"))
                .hint(format!("verify and keep it: {command}; or put the old tree back: {rollback}")));
        }
        let finishes = found != Phase::Undoing && (is_same || journal.rollback);
        let what = if finishes { "Finish" } else { "Take back" };
        confirm(self.args.yes, &format!("{what} the {} that was cut off in {shown}?", kind(&journal)))?;
        self.before_swap()?;
        if finishes && is_same {
            self.place.swap(&mut journal)?;
            self.recovered = Recovered::Finished;
            return Ok(Some(journal));
        }
        if finishes {
            self.place.finish(&mut journal)?;
            self.recovered = Recovered::Finished;
        } else {
            self.place.undo(&mut journal)?;
            self.recovered = Recovered::Undone;
        }
        let done = if finishes { "finished" } else { "taken back" };
        ui::say(format!("the earlier {} is {done}", kind(&journal)));
        // It may run until the next swap, and also if that is not confirmed or does not fit.
        self.place.unlock_tree()?;
        self.gate.start(&self.session.cancel)?;
        Ok(None)
    }

    /// Where the restore writes.
    fn target(&self, journal: Option<&Journal>) -> Result<PathBuf> {
        match journal {
            _ if self.args.in_place => Ok(self.place.tree_path()),
            Some(journal) => self.place.stage_path(journal),
            None => Ok(nowhere()),
        }
    }

    /// Fails if there is not enough space, even when what was kept is deleted, if that was asked for.
    fn check_room(&self, plan: &RestorePlan) -> Result<()> {
        let freed = plan.live.as_ref().filter(|live| live.discards).map_or(0, |live| live.kept_size);
        plan.check_space_in(Free { bytes: plan.free.bytes.saturating_add(freed), ..plan.free })
    }

    /// Deletes what was kept, if that was asked for.
    fn make_room(&self, plan: &mut RestorePlan) -> Result<()> {
        if self.args.discard_previous && self.place.kept()?.is_some() {
            self.place.discard_kept()?;
            let fits = |free| plan.fits(free);
            plan.free = restore::space::free_space_after_deletion(self.dir, fits, &self.session.cancel)?;
        }
        plan.check_space()
    }

    /// Compares the live tree with the snapshot.
    fn plan(&self, request: &RestoreRequest<'_>) -> Result<RestorePlan> {
        let bar = crate::cli::progress(self.session.settings).start("comparing", None);
        let plan = self.session.block(RestorePlan::make(request, &bar));
        bar.finish();
        plan
    }

    /// Says what would be done.
    fn show_plan(
        &self,
        request: &RestoreRequest<'_>,
        journal: Option<&Journal>,
        report: &mut RestoreReport,
        out: &mut Output,
    ) -> Result<ExitCode> {
        let plan = self.plan(request)?;
        report.lack(plan_warnings(&plan));
        let nothing_to_do = self.has_nothing_to_do(journal, &plan, request)?;
        let in_use = holders(self.dir)?.found;
        let live = self.in_place_report(&plan, nothing_to_do, &in_use, journal)?;
        let plan_report = RestorePlanReport::new(self.snapshot, &plan, live, &self.versions, report);
        out.result(&plan_report, |_| plan_report.text())?;
        if !nothing_to_do {
            self.check_room(&plan)?;
        }
        Ok(ExitCode::Ok)
    }

    /// True if the live tree is what is wanted of the snapshot, and no restore of it is under way.
    fn has_nothing_to_do(
        &self,
        journal: Option<&Journal>,
        plan: &RestorePlan,
        request: &RestoreRequest<'_>,
    ) -> Result<bool> {
        Ok(journal.is_none() && self.session.block(plan.changes_nothing(request))?)
    }

    /// Does it, or what is left of it to do.
    fn carry_out(
        &self,
        journal: Option<Journal>,
        mut request: RestoreRequest<'_>,
        done: &mut RestoreReport,
    ) -> Result<()> {
        match journal {
            Some(journal) if journal.phase == Phase::Swapped => {
                self.conclude(journal, done)?;
                self.look_back(request, done);
            }
            // A restore anew would keep the restored tree, and delete the replaced one.
            Some(mut journal) if journal.phase == Phase::Keeping => {
                done.previous = Some(self.place.keep(&mut journal)?);
                self.look_back(request, done);
            }
            journal => {
                let mut plan = self.plan(&request)?;
                done.lack(plan_warnings(&plan));
                if self.has_nothing_to_do(journal.as_ref(), &plan, &request)? {
                    done.unchanged = true;
                    done.files = plan.files;
                    done.previous = self.place.kept()?.map(|kept| kept.id);
                    return Ok(());
                }
                if self.gate.stop.is_none() {
                    refuse_if_in_use(self.dir, self.args.force)?;
                }
                self.check_room(&plan)?;
                self.ask(&plan, done)?;
                self.make_room(&mut plan)?;
                if self.args.in_place {
                    self.overwrite(&request, &mut plan, done)?;
                } else {
                    self.exchange(&mut request, &mut plan, done)?;
                }
            }
        }
        Ok(())
    }

    /// Shows the plan and asks, unless that was answered beforehand.
    fn ask(&self, plan: &RestorePlan, done: &RestoreReport) -> Result<()> {
        let live = self.in_place_report(plan, false, &[], None)?;
        let plan_report = RestorePlanReport::new(self.snapshot, plan, live, &self.versions, done);
        plan_report.text().lines().for_each(ui::say);
        let how = if self.args.in_place { ", file by file and for good" } else { "" };
        let live = plan_report.in_place.filter(|live| live.previous_deleted);
        let also = live.and_then(|live| live.previous_since);
        let also = also.map_or_else(String::new, |since| format!(", and delete the tree kept since {since}"));
        confirm(self.args.yes, &format!("Replace the content of {}{how}{also}?", self.dir.display()))
    }

    fn in_place_report(
        &self,
        plan: &RestorePlan,
        nothing_to_do: bool,
        in_use: &[Holder],
        journal: Option<&Journal>,
    ) -> Result<Option<InPlaceReport>> {
        let Some(live) = &plan.live else { return Ok(None) };
        let kept = self.place.kept()?;
        Ok(Some(InPlaceReport {
            nothing_to_do,
            files_to_add: live.to_add,
            files_to_change: live.to_change,
            files_same: live.same,
            files_to_remove: live.to_remove,
            bytes_reused: live.bytes_reused,
            clones: live.clones,
            kept: live.kept.first.iter().map(|path| ui::display_path(path.as_bytes())).collect(),
            previous_deleted: kept.is_some() && !nothing_to_do && (live.discards || !live.file_by_file),
            previous_since: kept.map(|kept| kept.since),
            previous_size: live.kept_size,
            in_use_by: in_use.iter().map(in_words).collect(),
            unfinished: journal.map(state_of_tree),
        }))
    }

    /// What the restore has put in place that an earlier run had begun, and what it lacks.
    fn look_back(&self, mut request: RestoreRequest<'_>, done: &mut RestoreReport) {
        (request.live, request.to) = (None, nowhere());
        match self.session.block(RestorePlan::make(&request, &())) {
            Ok(plan) => {
                done.was_there(&plan);
                done.lack(plan_warnings(&plan));
            }
            Err(error) => done.lack(vec![format!("what the snapshot lacks is not known: {}", error.full_message())]),
        }
    }

    /// Puts the new tree together beside the live one, and lets them change places.
    fn exchange(
        &self,
        request: &mut RestoreRequest<'_>,
        plan: &mut RestorePlan,
        done: &mut RestoreReport,
    ) -> Result<()> {
        let mut journal = self.place.begin(Phase::Staging, &self.task)?;
        request.to = self.place.stage_path(&journal)?;
        if plan.is_staged {
            done.was_there(plan);
        } else {
            match self.restore(request, plan) {
                Ok(restored) => done.restored(&restored),
                Err(error) if error.code() == ExitCode::Integrity => {
                    return Err(match self.place.undo(&mut journal) {
                        Ok(()) => error,
                        Err(next) => error.followed_by("the stage could not be given up", &next),
                    });
                }
                Err(error) => return Err(error),
            }
        }
        self.before_swap()?;
        let policy = plan.live.as_ref().map(|live| &live.policy);
        let prepared = policy.map_or(Ok(()), |policy| self.place.prepare(&mut journal, policy, &self.session.cancel));
        match prepared.and_then(|()| self.place.swap(&mut journal)) {
            Ok(()) => self.conclude(journal, done),
            // All or nothing, also where an entry cannot be moved.
            Err(error) if journal.swap.is_some() => match self.place.undo(&mut journal) {
                Ok(()) => Err(self.start_again(error)),
                Err(next) => Err(self.stays_down(error.followed_by("the exchange could not be taken back", &next))),
            },
            Err(error) => Err(self.start_again(error)),
        }
    }

    /// Replaces file by file.
    fn overwrite(&self, request: &RestoreRequest<'_>, plan: &mut RestorePlan, done: &mut RestoreReport) -> Result<()> {
        self.before_swap()?;
        self.place.begin(Phase::Overwriting, &self.task)?;
        let restored = self.restore(request, plan).and_then(|restored| self.place.overwritten().map(|()| restored));
        done.restored(&restored.map_err(|error| self.half_way(error))?);
        let problem = self.start_and_verify(done)?;
        problem.map_or(Ok(()), |problem| {
            Err(Error::new(ExitCode::Verification, format!("the service is not well after the restore: {problem}"))
                .hint("a restore file by file cannot be taken back; another snapshot may do better: `opsctl list`"))
        })
    }

    /// Adds to the error of a restore file by file what it has left, and how to go on.
    fn half_way(&self, error: Error) -> Error {
        let dir = self.dir.display();
        let left = format!(
            "{dir} is a mixture of the old tree and the snapshot; --in-place --force may replace it by another snapshot"
        );
        self.stays_down(error.and_hint(&left))
    }

    fn restore(&self, request: &RestoreRequest<'_>, plan: &mut RestorePlan) -> Result<Restored> {
        let bar = crate::cli::progress(self.session.settings).start("restoring", Some(plan.work()));
        let restored = self.session.block(restore::restore(request, plan, &bar));
        bar.finish();
        restored.map_err(|error| match error.code() {
            ExitCode::NoSpace if !self.args.in_place => {
                let dir = ui::shell_word(self.dir.display());
                error.hint(format!("{}; or give it up, which makes room: opsctl rollback {dir}", plan.ways_to_room()))
            }
            ExitCode::Integrity if !self.args.in_place => {
                let untouched = format!("{} is untouched", self.dir.display());
                error.hint(format!(
                    "{untouched}; another snapshot may be whole (`opsctl list`), and --to NEWDIR restores what is intact of this one"
                ))
            }
            _ => error,
        })
    }
}

/// Asks, unless that was answered.
pub(super) fn confirm(yes: bool, question: &str) -> Result<()> {
    confirm_by(yes, || ui::ask(question))
}

/// The same with another way to ask; `None`: there is no terminal to ask on.
pub(super) fn confirm_by(yes: bool, ask: impl FnOnce() -> Option<bool>) -> Result<()> {
    match yes
        || ask().ok_or_else(|| {
            Error::usage("nobody confirmed this, and there is no terminal to ask on").hint("--yes confirms it")
        })? {
        true => Ok(()),
        false => Err(Error::usage("not confirmed; nothing was done")),
    }
}

/// A path where nothing is: before anything is begun there is no stage.
fn nowhere() -> PathBuf {
    PathBuf::from("/proc/self/fd/none")
}

/// Adds what the command that a hint offers needs too.
fn with_same_options(error: Error, args: &RestoreArgs, session: &Session<'_>) -> Error {
    let same = same_options(args, session.settings);
    if same.is_empty() || !error.hint_text().is_some_and(|hint| hint.contains("opsctl restore ")) {
        return error;
    }
    error.and_hint(&format!("add what was given here: {same}"))
}
