//! Compares what a service has with what a snapshot recorded.
//!
//! Why: a service whose database lost its newest rows, or all of them, answers every request as it should. Only what was
//! there at capture can tell.

use std::collections::BTreeMap;
use std::time::Instant;

use super::sessions::{self, Sought};
use super::state::{Lack, State};
use super::{Found, Run, Wrong, messages, missing, named};
use crate::archive::facts::{Facts, Recorded, SessionFacts, WorkspaceFacts};
use crate::config::profile::Service;
use crate::finding::Finding;

/// The checks of a comparison; the last one is not made where no versions were recorded.
pub(super) const NAMES: [&str; 4] = ["sessions.against", "tokens.against", "workspaces.against", "versions.against"];

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
        NAMES[..3].iter().for_each(|name| found.add(Finding::skipped(name, why.clone()), true));
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
    let service = run.request.service;
    let finding = recorded(NAMES[1], &facts.tokens);
    let finding = finding.map_or_else(|finding| finding, |ids| tokens_against(service, ids, state));
    found.add(finding.after(since.elapsed()), asks.is_some_and(|asks| asks.tokens.is_some()));
    let finding = recorded(NAMES[2], &facts.workspaces);
    let finding = finding.map_or_else(|finding| finding, |of| workspaces_against(service, of, state));
    found.add(finding.after(since.elapsed()), asks.is_some_and(|asks| asks.workspace.is_some()));
    // A snapshot that was taken without asking the service has none.
    if !facts.versions.is_empty() {
        found.add(versions_against(&facts.versions, &found.versions), false);
    }
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
    let listed = match seen(name, &state.sessions.known) {
        Ok(list) => &list.ids,
        Err(finding) => return finding,
    };
    let workspace = state.workspace.as_deref();
    let missing = missing(captured.messages.keys(), listed);
    let sought = sessions::seek(run, workspace, &missing).await;
    if let Some(finding) = lost(run.request.service, captured, listed.is_empty(), &sought) {
        return finding;
    }
    let mut there = all_there(captured);
    if !sought.there.is_empty() {
        there.push_str(&format!("; {} in no list, as those of other folders are", sought.there.len()));
    }
    let listed = listed.iter().filter(|id| captured.messages.contains_key(*id));
    let Some(counted) = messages::count(run, workspace, listed.chain(sought.there)).await else {
        return Finding::ok(name, there);
    };
    let short = counted.short_of(&captured.messages, "captured");
    if !short.is_empty() {
        let fix =
            "the database lost its newest rows, as a copy without its -wal does: restore it again from the snapshot";
        return Finding::failed(name, named(&short), fix);
    }
    let sessions = |number: usize| crate::ui::count(number as u64, "session", "sessions");
    if let Some(why) = &counted.why {
        return Finding::skipped(name, format!("{there}; not every session's messages could be counted: {why}"));
    }
    let number = counted.messages.len();
    let were = if number == 1 { "was" } else { "were" };
    Finding::ok(name, format!("{there}; the messages of {} {were} counted", sessions(number)))
}

fn all_there(captured: &SessionFacts) -> String {
    match captured.messages.len() {
        0 => "no session was captured".to_owned(),
        1 => "the session that was captured is there".to_owned(),
        number => format!("all {number} sessions that were captured are there"),
    }
}

/// What is to be said of sessions that are neither in the list nor elsewhere.
fn lost(service: &Service, captured: &SessionFacts, is_empty: bool, sought: &Sought<'_>) -> Option<Finding> {
    let name = NAMES[0];
    let (all, gone, unknown) = (captured.messages.len(), sought.gone.len(), sought.unknown.len());
    let unsure = format!("{unknown} of {all} sessions are in no list, and cannot be asked for: {}", sought.why);
    if gone == 0 {
        return (unknown > 0).then(|| Finding::skipped(name, unsure));
    }
    let ids = named(sought.gone.iter().copied());
    let unsure = if unknown > 0 { format!("; {unsure}") } else { String::new() };
    if is_empty && sought.there.is_empty() {
        let by = deciding(service);
        let fix = format!("the engine looks elsewhere than where they were restored{by}: let it look there");
        return Some(Finding::failed(name, format!("0 sessions where {all} were captured: {ids}{unsure}"), fix));
    }
    let fix = "the database is not the one of the snapshot, or not whole: restore it again; what users deleted since is missing, too";
    Some(Finding::failed(name, format!("{gone} of {all} sessions are missing: {ids}{unsure}"), fix))
}

/// The variables that say where sessions are kept.
fn deciding(service: &Service) -> String {
    let mut locations = service.volume.iter().flat_map(|volume| &volume.locations);
    let name = service.facts.as_ref().and_then(|facts| facts.sessions.as_ref());
    let Some(location) = locations.find(|location| Some(&location.name) == name) else { return String::new() };
    let variables: Vec<&str> = location.candidates.iter().map(|candidate| candidate.variable.as_str()).collect();
    format!(" (the first of {} that is set decides)", variables.join(", "))
}

fn tokens_against(service: &Service, captured: &[String], state: &State) -> Finding {
    let name = NAMES[1];
    let there = match seen(name, &state.tokens.known) {
        Ok(there) => there,
        Err(finding) => return finding,
    };
    let missing = missing(captured, there.iter().map(|token| &token.id));
    if !missing.is_empty() {
        let (lost, all) = (missing.len(), captured.len());
        let file = service.facts.as_ref().and_then(|facts| facts.tokens.as_deref()).unwrap_or("their file");
        let fix = format!("make no new token before {file} is restored and whole: the service would write over it");
        return Finding::failed(name, format!("{lost} of {all} tokens are missing: {}", named(missing)), fix);
    }
    let more = there.len().saturating_sub(captured.len());
    let more = if more > 0 { format!("; {more} more since, as a start may make one") } else { String::new() };
    Finding::ok(
        name,
        format!("{} captured, all there{more}", crate::ui::count(captured.len() as u64, "token was", "tokens were")),
    )
}

fn workspaces_against(service: &Service, captured: &[WorkspaceFacts], state: &State) -> Finding {
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
        let why = "a start that names its workspace may hide the service's own list, which has it; whether it was served at capture is \
                   known only where `snapshot --service-url` asked";
        return Finding::skipped(name, format!("{}: {why}", hidden.join("; ")));
    }
    wrong.append(&mut hidden);
    if wrong.is_empty() {
        let number = crate::ui::count(captured.len() as u64, "workspace was", "workspaces were");
        return Finding::ok(name, format!("{number} captured, all there"));
    }
    let more = service.workspaces.as_ref().map(|workspaces| workspaces.fix.as_str()).unwrap_or_default();
    let fix = format!("ids follow from paths: restore all of it to the path of the capture; {more}");
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

    #[test]
    fn sessions_are_compared_as_a_superset_and_the_missing_ones_named() {
        let ids = |range: std::ops::Range<usize>| -> Vec<String> { range.map(|n| format!("ses_{n}")).collect() };
        assert!(
            missing(captured(3).messages.keys(), &ids(0..5)).is_empty()
                && missing(captured(0).messages.keys(), &[]).is_empty()
        );
        let all = captured(130);
        let gone = || missing(all.messages.keys(), &[]);
        let lost_of = |is_empty, sought: Sought<'_>| lost(&Service::default(), &all, is_empty, &sought).unwrap();
        let found = lost_of(true, Sought { gone: gone(), ..Sought::default() });
        assert!(
            found.status == Status::Failed && found.detail.starts_with("0 sessions where 130 were captured"),
            "{found:?}"
        );
        assert!(found.detail.ends_with("and 110 more"), "{found:?}");
        let found = lost_of(false, Sought { gone: gone()[..1].to_vec(), ..Sought::default() });
        assert_eq!(found.detail, "1 of 130 sessions are missing: ses_0");
        // What nobody can tell is no loss.
        let unknown = || Sought { unknown: gone(), why: "slow".to_owned(), ..Sought::default() };
        assert_eq!(lost_of(true, unknown()).status, Status::Skipped);
        let found = lost_of(false, Sought { gone: gone()[..1].to_vec(), ..unknown() });
        assert!(found.status == Status::Failed && found.detail.ends_with("cannot be asked for: slow"), "{found:?}");
        assert_eq!(lost(&Service::default(), &all, false, &Sought { there: gone(), ..Sought::default() }), None);
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
