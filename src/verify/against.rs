//! Compares what a service has with what a snapshot recorded.
//!
//! Why: a service whose database lost its newest rows, or all of them, answers every request as it should. Only what was
//! there at capture can tell.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use futures::StreamExt as _;

use super::state::{Lack, State};
use super::{Found, Run, Wrong, named, sessions};
use crate::archive::facts::{Facts, Recorded, SessionFacts, WorkspaceFacts};
use crate::finding::Finding;

/// The checks of a comparison.
pub(super) const NAMES: [&str; 4] = ["sessions.against", "tokens.against", "workspaces.against", "versions.against"];
/// Sessions whose messages are counted: those at the front of the list, which lie newest first.
const COUNTED: usize = 200;
/// Sessions whose messages are counted at once.
const AT_ONCE: usize = 4;

/// What a service is compared with.
#[derive(Clone, Debug)]
pub struct Against {
    /// The id of the snapshot.
    pub snapshot: String,
    /// What it recorded; `None` if it did not record anything.
    pub facts: Option<Facts>,
}

impl Against {
    /// How many sessions were captured.
    #[must_use]
    pub fn session_count(&self) -> usize {
        match self.facts.as_ref().map(|facts| &facts.sessions) {
            Some(Recorded::Recorded(sessions)) => sessions.messages.len(),
            _ => 0,
        }
    }

    /// The path of a workspace at capture: of the one that the contract has, if that was there.
    #[must_use]
    pub fn workspace_path(&self, contract: Option<&str>) -> Option<String> {
        let workspaces = self.facts.as_ref()?.workspaces.recorded()?;
        let mut paths = workspaces.iter().map(|workspace| &workspace.path).filter(|path| !path.is_empty());
        paths.clone().find(|path| Some(path.as_str()) == contract).or_else(|| paths.next()).cloned()
    }
}

/// Makes the four comparisons.
pub(super) async fn run(run: &Run<'_>, against: &Against, state: &State, found: &mut Found) {
    let Some(facts) = &against.facts else {
        let why = format!("snapshot {} recorded nothing about its content", against.snapshot);
        NAMES.iter().for_each(|name| found.add(Finding::skipped(name, why.clone()), true));
        return;
    };
    let asks = run.request.service.facts.as_ref();
    let since = Instant::now();
    let is_asked = asks.is_some_and(|asks| asks.sessions.is_some());
    let finding = match recorded(NAMES[0], &facts.sessions) {
        Ok(captured) => sessions_against(run, captured, state).await,
        Err(finding) => finding,
    };
    found.add(finding.after(since.elapsed()), is_asked);
    let since = Instant::now();
    let finding = recorded(NAMES[1], &facts.tokens).map_or_else(|finding| finding, |ids| tokens_against(ids, state));
    found.add(finding.after(since.elapsed()), asks.is_some_and(|asks| asks.tokens.is_some()));
    let finding =
        recorded(NAMES[2], &facts.workspaces).map_or_else(|finding| finding, |of| workspaces_against(of, state));
    found.add(finding.after(since.elapsed()), asks.is_some_and(|asks| asks.workspace.is_some()));
    let versions = versions_against(&facts.versions, &found.versions);
    found.add(versions, false);
}

/// What was recorded; else the finding that it was not.
fn recorded<'f, T>(name: &str, part: &'f Recorded<T>) -> Result<&'f T, Finding> {
    match part {
        Recorded::Recorded(value) => Ok(value),
        Recorded::NotCaptured(why) => Err(Finding::skipped(name, format!("not captured: {why}"))),
        Recorded::NotAsked => Err(Finding::skipped(name, "the snapshot did not record it")),
    }
}

/// A part of the state, else the finding that there is none.
fn seen<'s, T>(name: &str, known: &'s Result<T, Lack>) -> Result<&'s T, Finding> {
    known.as_ref().map_err(|lack| match lack {
        Lack::Wrong(wrong) => {
            Wrong::new(format!("nothing to compare: {}", wrong.detail), wrong.fix.clone()).failed(name)
        }
        lack => Finding::skipped(name, lack.why()),
    })
}

async fn sessions_against(run: &Run<'_>, captured: &SessionFacts, state: &State) -> Finding {
    let name = NAMES[0];
    let ids = match seen(name, &state.sessions.known) {
        Ok(ids) => ids,
        Err(finding) => return finding,
    };
    if let Some(finding) = missing_sessions(name, captured, ids) {
        return finding;
    }
    let counted: Vec<&String> = ids.iter().filter(|id| captured.messages.contains_key(*id)).take(COUNTED).collect();
    let workspace = state.workspace.as_deref();
    let work = counted.iter().map(|id| sessions::messages(run, workspace, id));
    let counts: Vec<_> = futures::stream::iter(work).buffered(AT_ONCE).collect().await;
    let mut short = Vec::new();
    for (id, count) in counted.iter().zip(counts) {
        let before = captured.messages.get(*id).copied().unwrap_or_default();
        match count {
            Ok(Some(now)) if now < before => {
                short.push(format!("{id} has {now} messages where {before} were captured"));
            }
            Ok(Some(_)) => {}
            Ok(None) => return Finding::ok(name, all_there(captured)),
            Err(lack) => short.push(format!("{id}: {}", lack.why())),
        }
    }
    if !short.is_empty() {
        let fix =
            "the database lost its newest rows, as a copy without its -wal does: restore it again from the snapshot";
        return Finding::failed(name, named(&short), fix);
    }
    let messages = crate::ui::count(counted.len() as u64, "session was", "sessions were");
    Finding::ok(name, format!("{}; the messages of {messages} counted", all_there(captured)))
}

fn all_there(captured: &SessionFacts) -> String {
    match captured.messages.len() {
        0 => "no session was captured".to_owned(),
        1 => "the session that was captured is there".to_owned(),
        number => format!("all {number} sessions that were captured are there"),
    }
}

fn missing_sessions(name: &str, captured: &SessionFacts, ids: &[String]) -> Option<Finding> {
    let there: BTreeSet<&String> = ids.iter().collect();
    let missing: Vec<&String> = captured.messages.keys().filter(|id| !there.contains(id)).collect();
    let (all, lost) = (captured.messages.len(), missing.len());
    if lost == 0 {
        return None;
    }
    if ids.is_empty() {
        let fix = "the engine looks elsewhere than where they were restored: set XDG_DATA_HOME (or OPENCODE_DB) to their place";
        return Some(Finding::failed(name, format!("0 sessions where {all} were captured: {}", named(missing)), fix));
    }
    let fix = "the database is not the one of the snapshot, or not whole: restore it again; what users deleted since is missing, too";
    Some(Finding::failed(name, format!("{lost} of {all} sessions are missing: {}", named(missing)), fix))
}

fn tokens_against(captured: &[String], state: &State) -> Finding {
    let name = NAMES[1];
    let there = match seen(name, &state.tokens.known) {
        Ok(there) => there,
        Err(finding) => return finding,
    };
    let missing: Vec<&String> = captured.iter().filter(|id| !there.iter().any(|token| token.id == **id)).collect();
    if !missing.is_empty() {
        let (lost, all) = (missing.len(), captured.len());
        let fix = "make no new token before tokens.json is restored and whole: the service would write over it";
        return Finding::failed(name, format!("{lost} of {all} tokens are missing: {}", named(missing)), fix);
    }
    let more = there.len().saturating_sub(captured.len());
    let more = if more > 0 { format!("; {more} more since, as a start may make one") } else { String::new() };
    Finding::ok(
        name,
        format!("{} captured, all there{more}", crate::ui::count(captured.len() as u64, "token was", "tokens were")),
    )
}

fn workspaces_against(captured: &[WorkspaceFacts], state: &State) -> Finding {
    let name = NAMES[2];
    let there = match seen(name, &state.workspaces.known) {
        Ok(there) => there,
        Err(finding) => return finding,
    };
    let (mut wrong, mut hidden) = (Vec::new(), Vec::new());
    for workspace in captured {
        let id = &workspace.id;
        let is_served = |listed: &super::state::Listed| {
            listed.id == *id || listed.path.as_ref().is_some_and(|path| !path.is_empty() && *path == workspace.path)
        };
        let Some(listed) = there.iter().find(|listed| is_served(listed)) else {
            let list = if workspace.may_be_hidden && !workspace.served { &mut hidden } else { &mut wrong };
            list.push(format!("{id} of {} is missing", workspace.path));
            continue;
        };
        let Some(captured) = workspace.last_audit_ms else { continue };
        match state.audit.get(&listed.id) {
            Some(Ok(Some(newest))) if *newest >= captured => {}
            Some(Ok(Some(_))) => wrong.push(format!("the audit log of {id} ends before the capture")),
            Some(Ok(None)) => wrong.push(format!("the audit log of {id} is empty")),
            Some(Err(why)) => wrong.push(format!("the audit log of {id} cannot be read: {}", why.detail)),
            None => {}
        }
    }
    if wrong.is_empty() && !hidden.is_empty() {
        let why = "a start with --workspace hides the service's own list, which has it; whether it was served at capture is \
                   known only where `snapshot --service-url` asked";
        return Finding::skipped(name, format!("{}: {why}", hidden.join("; ")));
    }
    wrong.append(&mut hidden);
    if wrong.is_empty() {
        let number = crate::ui::count(captured.len() as u64, "workspace was", "workspaces were");
        return Finding::ok(name, format!("{number} captured, all there"));
    }
    let fix = "ids follow from paths: restore to the path of the capture, with server.json and the audit folder; a start with \
               --workspace hides the workspaces of server.json";
    Finding::failed(name, wrong.join("; "), fix)
}

fn versions_against(captured: &BTreeMap<String, String>, now: &BTreeMap<String, String>) -> Finding {
    let name = NAMES[3];
    let both: Vec<_> = captured.iter().filter_map(|(part, then)| Some((part, then, now.get(part)?))).collect();
    if both.is_empty() {
        return Finding::skipped(name, "no version was recorded that the service tells now");
    }
    let differ = both.iter().filter(|(_, then, now)| then != now);
    let differ: Vec<String> = differ.map(|(part, then, now)| format!("{part} was {then} and is {now}")).collect();
    if differ.is_empty() {
        return Finding::ok(name, "the same as at capture");
    }
    let fix = "not every version opens the database of another; where sessions are missing, deploy the version of the capture";
    Finding::warning(name, differ.join("; "), fix)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Status;

    fn captured(number: usize) -> SessionFacts {
        SessionFacts {
            path: "opencode.db".to_owned(),
            messages: (0..number).map(|n| (format!("ses_{n}"), 1)).collect(),
        }
    }

    fn ids(range: std::ops::Range<usize>) -> Vec<String> {
        range.map(|n| format!("ses_{n}")).collect()
    }

    #[test]
    fn sessions_are_compared_as_a_superset_and_the_missing_ones_named() {
        assert_eq!(missing_sessions("x", &captured(3), &ids(0..5)), None);
        assert_eq!(missing_sessions("x", &captured(0), &[]), None);
        let lost = missing_sessions("x", &captured(130), &[]).unwrap();
        assert!(
            lost.status == Status::Failed && lost.detail.starts_with("0 sessions where 130 were captured"),
            "{lost:?}"
        );
        assert!(lost.detail.ends_with("and 110 more"), "{lost:?}");
        let lost = missing_sessions("x", &captured(3), &ids(0..2)).unwrap();
        assert_eq!(lost.detail, "1 of 3 sessions are missing: ses_2");
    }

    #[test]
    fn other_versions_are_a_warning_and_unknown_ones_are_said() {
        let versions = |of: &[(&str, &str)]| -> BTreeMap<String, String> {
            of.iter().map(|(part, version)| ((*part).to_owned(), (*version).to_owned())).collect()
        };
        let then = versions(&[("server", "1"), ("gone", "1")]);
        assert_eq!(versions_against(&then, &versions(&[("server", "1")])).status, Status::Ok);
        let differ = versions_against(&then, &versions(&[("server", "2")]));
        assert_eq!((differ.status, differ.detail.as_str()), (Status::Warning, "server was 1 and is 2"));
        assert_eq!(versions_against(&then, &versions(&[("other", "2")])).status, Status::Skipped);
    }
}
