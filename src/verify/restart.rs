//! Whether what the service has outlives a restart.

use std::time::Instant;

use super::state::{Lack, State};
use super::{Found, Run, named, probes};
use crate::finding::Finding;
use crate::providers::shell;
use crate::{Error, ExitCode, Result};

const NAME: &str = "restart";

/// Restarts the service and compares what it has before and after.
pub(super) async fn run(run: &Run<'_>, command: &str, found: &mut Found) -> Result<()> {
    let since = Instant::now();
    let before = State::read(run, run.captured_sessions()).await;
    if let Some(why) = nothing_known(&before) {
        found.asked(Finding::skipped(NAME, format!("nothing to compare: {why}")), since);
        return Ok(());
    }
    let text = command.to_owned();
    let restarted = tokio::task::spawn_blocking(move || shell::run("--restart-cmd", &text)).await;
    let restarted = restarted.map_err(|e| Error::new(ExitCode::Failed, "--restart-cmd was not run").because(e))?;
    if let Err(error) = restarted {
        let fix = "its own messages are above";
        found.asked(Finding::failed(NAME, error.full_message(), fix), since);
        return Ok(());
    }
    let begun = Instant::now();
    if let Err(wrong) = probes::wait(run).await {
        let fix = wrong.fix;
        found.asked(Finding::failed(NAME, format!("not well after the restart: {}", wrong.detail), fix), since);
        return Ok(());
    }
    let booted = begun.elapsed();
    let sessions = before.sessions.known.as_ref().map_or(0, Vec::len);
    // The engine may be up a little later than the service.
    let until = Instant::now() + run.request.timeout;
    let most = sessions.max(run.captured_sessions());
    let after = State::read_settled(run, most, until, |now| is_booting(&before, now)).await;
    let lost = losses(&before, &after);
    let finding = if lost.is_empty() {
        let all = format!("{} are still there", kept(&before));
        Finding::ok(NAME, format!("{all}; up again after {}", crate::ui::duration(booted)))
    } else {
        let fix = "something that must survive is not on the volume: opsctl doctor says what, where it runs";
        Finding::failed(NAME, format!("lost in the restart: {}", lost.join("; ")), fix)
    };
    found.asked(finding, since);
    Ok(())
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
    let count = |number: usize, one: &str, many: &str| crate::ui::count(number as u64, one, many);
    let mut parts = Vec::new();
    parts.extend(before.sessions.known.as_ref().ok().map(|ids| count(ids.len(), "session", "sessions")));
    parts.extend(before.tokens.known.as_ref().ok().map(|ids| count(ids.len(), "token", "tokens")));
    parts.extend(before.workspaces.known.as_ref().ok().map(|ids| count(ids.len(), "workspace", "workspaces")));
    parts.join(", ")
}

/// What was there before and is not there after.
fn losses(before: &State, after: &State) -> Vec<String> {
    let mut lost = Vec::new();
    let sessions = |ids: &Vec<String>| ids.clone();
    part("sessions", &before.sessions.known, &after.sessions.known, sessions, &mut lost);
    let tokens = |list: &Vec<super::state::Token>| list.iter().map(|token| token.id.clone()).collect();
    part("tokens", &before.tokens.known, &after.tokens.known, tokens, &mut lost);
    let workspaces = |list: &Vec<super::state::Listed>| list.iter().map(|listed| listed.id.clone()).collect();
    part("workspaces", &before.workspaces.known, &after.workspaces.known, workspaces, &mut lost);
    for (id, entry) in &before.audit {
        let Ok(Some(then)) = entry else { continue };
        if !matches!(after.audit.get(id), Some(Ok(Some(now))) if now >= then) {
            lost.push(format!("the newest entry of the audit log of {id}"));
        }
    }
    lost
}

fn part<T>(
    what: &str,
    before: &Result<T, Lack>,
    after: &Result<T, Lack>,
    ids: impl Fn(&T) -> Vec<String>,
    lost: &mut Vec<String>,
) {
    let Ok(before) = before else { return };
    let before = ids(before);
    match after {
        Ok(after) => {
            let after = ids(after);
            let missing: Vec<&String> = before.iter().filter(|id| !after.contains(id)).collect();
            if !missing.is_empty() {
                lost.push(format!("{} of {} {what}: {}", missing.len(), before.len(), named(missing)));
            }
        }
        Err(lack) => lost.push(format!("{what}: {}", lack.why())),
    }
}
