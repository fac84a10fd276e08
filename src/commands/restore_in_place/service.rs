//! A restore in place around its service: stopped before the swap, started after it, and the old tree put back if it is
//! not well then.
//!
//! Invariants: the service is started before anything is deleted; a failure says whether it runs; it is not started on a
//! mixture; a later failure never hides the first.

use std::time::{Duration, Instant};

use super::Run;
use crate::commands::in_use::refuse_if_in_use;
use crate::commands::restore::RestoreArgs;
use crate::commands::restore_gate::Question;
use crate::commands::restore_report::RestoreReport;
use crate::providers::processes::holders;
use crate::restore::journal::{Journal, Phase};
use crate::ui;
use crate::{Error, ExitCode, Result};

/// How long a service that its stop command did not wait for may take to let go of the folder.
const LET_GO: Duration = Duration::from_secs(10);
/// Between two looks.
const EVERY: Duration = Duration::from_millis(100);

/// What a supervisor may do by itself, and nobody else can.
pub(super) fn nothing_starts_it(args: &RestoreArgs) -> Option<String> {
    let waits = args.verify_url.is_some() && args.start_cmd.is_none();
    let else_what =
        if args.no_rollback || args.in_place { "or this ends with 5" } else { "or the old folder comes back" };
    waits.then(|| {
        let seconds = args.verify_timeout;
        format!("--start-cmd is not given: the service has to start by itself within {seconds} s, {else_what}")
    })
}

impl Run<'_> {
    /// Stops the service, and makes sure that nobody uses the tree.
    pub(super) fn before_swap(&self) -> Result<()> {
        // What is written now need not be written while the service is down.
        self.place.flush()?;
        self.gate.stop(&self.session.cancel).map_err(|error| error.and_hint("look whether the service runs"))?;
        let free = self.wait_until_free().and_then(|()| refuse_if_in_use(self.dir, self.args.force));
        // It was stopped for nothing.
        free.and_then(|()| self.place.lock_tree(self.args.force)).map_err(|error| self.start_again(error))
    }

    /// Waits a moment for a service to end whose stop command only asked it to.
    fn wait_until_free(&self) -> Result<()> {
        let end = Instant::now() + LET_GO;
        while self.gate.stop.is_some() && !holders(self.dir)?.found.is_empty() && Instant::now() < end {
            self.session.block(async {
                tokio::time::sleep(EVERY).await;
                Ok::<_, Error>(())
            })?;
        }
        Ok(())
    }

    /// Starts the service on the tree that it was stopped on, and adds to the failure whether it runs.
    pub(super) fn start_again(&self, error: Error) -> Error {
        let journal = self.place.journal();
        if !journal.is_ok_and(|journal| journal.is_none_or(|journal| is_whole(journal.phase))) {
            return self.stays_down(error);
        }
        if let Err(next) = self.place.unlock_tree() {
            return self.stays_down(error.followed_by("the folder stays locked", &next));
        }
        match (self.gate.start(&self.session.cancel), &self.gate.start, &self.gate.stop) {
            (Err(next), ..) => error.followed_by("and the service does not run", &next),
            (Ok(()), Some(_), _) => error.and_hint("the service was started again"),
            (Ok(()), None, Some(_)) => error.and_hint("the service is stopped: start it (there is no --start-cmd)"),
            (Ok(()), None, None) => error,
        }
    }

    /// Adds to a failure after which no service may run on the tree what has to be done before one does.
    pub(super) fn stays_down(&self, error: Error) -> Error {
        let service = if self.gate.stop.is_some() { "the service is stopped" } else { "the service was not stopped" };
        let way_out = match self.place.journal() {
            Ok(Some(journal)) if journal.phase == Phase::Overwriting => journal.command(self.dir),
            _ => format!("opsctl rollback {}", ui::shell_word(self.dir.display())),
        };
        error.and_hint(&format!("{service}; before it may run: {way_out}"))
    }

    /// Starts the service; says what is wrong with it.
    pub(super) fn start_and_verify(&self, done: &mut RestoreReport) -> Result<Option<String>> {
        self.place.unlock_tree()?;
        let dir = ui::shell_word(self.dir.display());
        let unverified = |error: Error| {
            error.and_hint(&format!(
                "the new folder is live, and not verified: run this again; `opsctl rollback {dir}` puts the old one back"
            ))
        };
        match self.gate.start(&self.session.cancel) {
            Err(error) if error.code() == ExitCode::Interrupted => return Err(unverified(error)),
            Err(error) => return Ok(Some(error.full_message())),
            Ok(()) => {}
        }
        let found = self.question.map(|question| question.ask(self.session)).transpose();
        done.verification = found.map_err(unverified)?;
        if let Some(found) = &done.verification {
            let doubt = found.doubt();
            done.lack(doubt.into_iter().collect());
            done.note(self.question.and_then(Question::compares_nothing));
        }
        Ok(done.verification.as_ref().filter(|found| !found.ok).and_then(|found| found.problem.clone()))
    }

    /// Starts the service and decides: the new tree stays, or the old one comes back.
    pub(super) fn conclude(&self, mut journal: Journal, done: &mut RestoreReport) -> Result<()> {
        let Some(problem) = self.start_and_verify(done)? else {
            done.previous = Some(self.place.keep(&mut journal)?);
            return Ok(());
        };
        let unwell =
            Error::new(ExitCode::Verification, format!("the service is not well after the restore: {problem}"));
        let dir = self.dir.display();
        if self.args.no_rollback {
            let kept = self.place.keep(&mut journal);
            let way_back = format!("`opsctl rollback {}` puts the old one back", ui::shell_word(dir));
            let unwell = unwell.hint(format!("the restored folder is left in place (--no-rollback); {way_back}"));
            return Err(match kept {
                Ok(id) => {
                    done.previous = Some(id);
                    unwell
                }
                Err(next) => unwell.followed_by("the old folder could not be put away", &next),
            });
        }
        ui::warn(format!("{}; putting the old folder back", unwell.full_message()));
        if let Err(error) = self.gate.stop(&self.session.cancel) {
            ui::warn(format!("{}; the old folder is put back all the same", error.full_message()));
        }
        if let Err(next) = self.place.undo(&mut journal) {
            return Err(self.stays_down(unwell.followed_by("the old folder could not be put back", &next)));
        }
        done.rolled_back = true;
        let hint = format!("{dir} is as it was before; another snapshot may do better: `opsctl list`");
        Err(self.start_again(unwell.hint(hint)))
    }
}

/// True if the live tree is the old one or the new one then, and no mixture.
const fn is_whole(phase: Phase) -> bool {
    matches!(phase, Phase::Staging | Phase::Swapped | Phase::Keeping)
}
