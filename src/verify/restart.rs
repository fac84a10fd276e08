//! Whether what the service has outlives a restart, and whether it was one.
//!
//! Invariant: well is only what was compared. What was there before and could not be looked at makes it inconclusive.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::messages::{self, Counted};
use super::state::{EVERY, Lack, State};
use super::{Found, Run, Wrong, missing, named, probes, sessions};
use crate::finding::Finding;
use crate::providers::shell;
use crate::ui;

const NAME: &str = "restart";
const LATE: &str = "the service answers too slowly: what it has could not be compared";

/// Restarts the service and compares what it has before and after.
pub(super) async fn run(run: &Run<'_>, command: &str, found: &mut Found) {
    let since = Instant::now();
    found.asked(restart(run, command).await, since);
}

async fn restart(run: &Run<'_>, command: &str) -> Finding {
    let limit = run.request.timeout + run.request.limit;
    let Ok(before) = timeout(limit, Before::read(run)).await else { return Finding::skipped(NAME, LATE) };
    if let Some(why) = nothing_known(&before.state) {
        return Finding::skipped(NAME, format!("nothing to compare: {why}"));
    }
    let begun = Instant::now();
    if let Err(error) = shell::wait("--restart-cmd", command).await {
        return Finding::failed(NAME, error.full_message(), "its own messages are above");
    }
    let ended = Instant::now();
    let is_proved = match well(run, begun).await {
        Ok(is_proved) => is_proved,
        Err(wrong) => return wrong.failed(NAME),
    };
    let booted = ended.elapsed();
    match timeout(limit, compare(run, &before)).await {
        Ok(compared) => compared.finding(&before.state, booted, is_proved),
        Err(_) => Finding::skipped(NAME, LATE),
    }
}

/// What there was before the restart.
struct Before {
    state: State,
    /// The messages of the sessions at the front of the list; `None` if the profile does not say how to ask.
    counted: Option<Counted>,
}

impl Before {
    async fn read(run: &Run<'_>) -> Self {
        let state = State::read(run, run.captured_sessions()).await;
        let ids = state.sessions.known.iter().flat_map(|list| &list.ids);
        let counted = messages::count(run, state.workspace.as_deref(), ids).await;
        Self { state, counted }
    }
}

/// Waits until the service is well again, and younger than the command; false if it does not tell how old it is.
async fn well(run: &Run<'_>, begun: Instant) -> Result<bool, Wrong> {
    let until = Instant::now() + run.request.timeout;
    loop {
        let not_well =
            |wrong: Wrong| Wrong { detail: format!("not well after the restart: {}", wrong.detail), ..wrong };
        probes::wait(run, until).await.map_err(not_well)?;
        let wrong = match probes::uptime(run).await {
            Ok(None) => return Ok(false),
            Ok(Some(uptime)) => {
                let elapsed = begun.elapsed();
                if uptime <= elapsed {
                    return Ok(true);
                }
                let (uptime, elapsed) = (ui::duration(uptime), ui::duration(elapsed));
                Wrong::new(
                    format!("it was not restarted: it has run for {uptime}, and the command began {elapsed} ago"),
                    "give a command that ends the process of the service and starts another one",
                )
            }
            Err(wrong) => not_well(wrong),
        };
        if Instant::now() + EVERY >= until {
            return Err(wrong);
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// What became of what there was before.
#[derive(Default)]
struct Compared {
    lost: Vec<String>,
    /// What could not be read before, or not found out after.
    untold: Vec<String>,
}

async fn compare(run: &Run<'_>, Before { state: before, counted }: &Before) -> Compared {
    let listed = before.sessions.known.as_ref().map_or(0, |list| list.ids.len());
    // The engine may be up a little later than the service.
    let until = Instant::now() + run.request.timeout;
    let most = listed.max(run.captured_sessions());
    let after = State::read_settled(run, most, until, |now| is_booting(before, now)).await;
    let mut compared = Compared::default();
    compared.sessions(run, before, &after).await;
    if let Some(counted) = counted {
        compared.messages(run, counted, &after).await;
    }
    let tokens = |list: &Vec<super::state::Token>| list.iter().map(|token| token.id.clone()).collect();
    compared.part("tokens", &before.tokens.known, &after.tokens.known, tokens);
    let workspaces = |list: &Vec<super::state::Listed>| list.iter().map(|listed| listed.id.clone()).collect();
    compared.part("workspaces", &before.workspaces.known, &after.workspaces.known, workspaces);
    compared.audit(before, &after);
    compared
}

impl Compared {
    /// A session that is not in the list any more may be behind the end of it.
    async fn sessions(&mut self, run: &Run<'_>, before: &State, after: &State) {
        let ids = |list: &super::state::SessionList| list.ids.clone();
        let missing = match (&before.sessions.known, &after.sessions.known) {
            (Ok(then), Ok(now)) if now.is_cut => missing(&then.ids, &now.ids),
            (then, now) => return self.part("sessions", then, now, ids),
        };
        let sought = sessions::seek(run, after.workspace.as_deref(), &missing).await;
        if !sought.gone.is_empty() {
            self.lost.push(format!("{} sessions: {}", sought.gone.len(), named(sought.gone)));
        }
        if !sought.unknown.is_empty() {
            self.untold.push(format!("{} sessions ({})", sought.unknown.len(), sought.why));
        }
    }

    async fn messages(&mut self, run: &Run<'_>, before: &Counted, after: &State) {
        let there: BTreeSet<&String> = after.sessions.known.iter().flat_map(|list| &list.ids).collect();
        let ids = before.messages.keys().filter(|id| there.contains(id));
        let after = messages::count(run, after.workspace.as_deref(), ids).await.unwrap_or_default();
        self.lost.extend(after.short_of(&before.messages, "there"));
        if let Some(why) = before.why.as_ref().or(after.why.as_ref()) {
            self.untold.push(format!("the messages of every session ({why})"));
        }
    }

    fn part<T>(
        &mut self,
        what: &str,
        before: &Result<T, Lack>,
        after: &Result<T, Lack>,
        ids: impl Fn(&T) -> Vec<String>,
    ) {
        let before = match before {
            Ok(before) => ids(before),
            Err(Lack::Absent) => return,
            Err(lack) => return self.untold.push(format!("{what} ({})", lack.why())),
        };
        match after {
            Ok(after) => {
                let after = ids(after);
                let missing = missing(&before, &after);
                if !missing.is_empty() {
                    self.lost.push(format!("{} of {} {what}: {}", missing.len(), before.len(), named(missing)));
                }
            }
            Err(Lack::Unread(why)) => self.untold.push(format!("{what} ({why})")),
            Err(lack) => self.lost.push(format!("{what}: {}", lack.why())),
        }
    }

    fn audit(&mut self, before: &State, after: &State) {
        for (id, entry) in &before.audit {
            let then = match entry {
                Ok(Some(then)) => then,
                Ok(None) => continue,
                Err(wrong) => {
                    self.untold.push(format!("the audit log of {id} ({})", wrong.detail));
                    continue;
                }
            };
            if !matches!(after.audit.get(id), Some(Ok(Some(now))) if now >= then) {
                self.lost.push(format!("the newest entry of the audit log of {id}"));
            }
        }
    }

    fn finding(self, before: &State, booted: Duration, is_proved: bool) -> Finding {
        let untold = match self.untold.is_empty() {
            true => String::new(),
            false => format!("; not compared: {}", self.untold.join("; ")),
        };
        if !self.lost.is_empty() {
            let fix = "something that must survive is not on the volume: opsctl doctor says what, where it runs";
            return Finding::failed(NAME, format!("lost in the restart: {}{untold}", self.lost.join("; ")), fix);
        }
        let detail = format!("{} are still there; up again after {}{untold}", kept(before), ui::duration(booted));
        if !self.untold.is_empty() {
            return Finding::skipped(NAME, detail);
        }
        if is_proved {
            return Finding::ok(NAME, detail);
        }
        let detail = format!("{detail}; whether it was restarted at all is not proved: it does not tell its uptime");
        Finding::warning(NAME, detail, "look in its log; `uptime_ms` of a probe in the profile says where it is told")
    }
}

/// Whether something that was known before the restart cannot be had yet.
fn is_booting(before: &State, now: &State) -> bool {
    (before.sessions.known.is_ok() && is_wrong(&now.sessions.known))
        || (before.workspaces.known.is_ok() && is_wrong(&now.workspaces.known))
        || (before.tokens.known.is_ok() && is_wrong(&now.tokens.known))
}

const fn is_wrong<T>(known: &Result<T, Lack>) -> bool {
    matches!(known, Err(Lack::Wrong(_)))
}

/// Why nothing is known of a state; `None` if something is.
fn nothing_known(state: &State) -> Option<String> {
    match (&state.sessions.known, &state.workspaces.known, &state.tokens.known) {
        (Err(sessions), Err(workspaces), Err(tokens)) => {
            let lacks = [sessions, workspaces, tokens];
            let first = lacks.into_iter().find(|lack| !matches!(lack, Lack::Absent));
            Some(first.unwrap_or(sessions).why())
        }
        _ => None,
    }
}

/// What there was before, in words.
fn kept(before: &State) -> String {
    let count = |number: usize, one: &str, many: &str| ui::count(number as u64, one, many);
    let mut parts = Vec::new();
    parts.extend(before.sessions.known.as_ref().ok().map(|list| count(list.ids.len(), "session", "sessions")));
    parts.extend(before.tokens.known.as_ref().ok().map(|ids| count(ids.len(), "token", "tokens")));
    parts.extend(before.workspaces.known.as_ref().ok().map(|ids| count(ids.len(), "workspace", "workspaces")));
    parts.join(", ")
}
