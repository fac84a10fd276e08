//! Whether the sessions of the users are there, and can be worked with.

use std::collections::BTreeSet;
use std::time::Instant;

use futures::StreamExt as _;
use serde_json::{Value, json};

use super::auth;
use super::http::{Ask, Caller};
use super::state::{self, Lack, State};
use super::{Found, Run, Wrong, is_id, probes};
use crate::config::profile::{Method, Sessions};
use crate::finding::Finding;
use crate::providers::engine;

/// The name of the check that writes.
pub(super) const WRITE: &str = "sessions.write";
/// Sessions that are asked for one by one: more are too many to wait for.
const MOST_SOUGHT: usize = 1000;
/// Questions at once.
pub(super) const AT_ONCE: usize = 8;

/// The engine that runs now, and its sessions.
pub(super) async fn run(run: &Run<'_>, state: &State, found: &mut Found) {
    let Some(sessions) = &run.request.service.sessions else { return };
    let since = Instant::now();
    let finding = running(run, sessions, found).await;
    found.made(finding, since);
    let finding = listed(run, sessions, state).await;
    found.add(finding.after(state.sessions.took), false);
}

async fn running(run: &Run<'_>, sessions: &Sessions, found: &mut Found) -> Finding {
    let (name, part) = ("engine", sessions.engine.name());
    let fix = "the engine does not run, although the server may say that all is well: look at its log";
    let answer = match state::ask(run, &sessions.identity, &sessions.health, fix).await {
        Ok(answer) => answer,
        Err(lack) => return lack.finding(name),
    };
    if let Some(fault) = probes::json_fault(&answer, &sessions.healthy, &[]) {
        return Finding::failed(name, format!("{} answers {}, but {fault}", sessions.health, answer.status), fix);
    }
    let told = answer.json().and_then(|body| Some(body.pointer(&sessions.version_at)?.as_str()?.to_owned()));
    let Some(version) = told.filter(|version| is_id(version)) else {
        return Finding::failed(name, format!("{} does not tell a version", sessions.health), fix);
    };
    let pin = found.versions.get(&format!("{part}-pin")).filter(|pin| **pin != version);
    let pin = pin.map(|pin| format!("; the server was made for {pin}")).unwrap_or_default();
    let detail = format!("{part} {version} runs{pin}");
    found.versions.insert(part.to_owned(), version);
    Finding::ok(name, detail)
}

async fn listed(run: &Run<'_>, sessions: &Sessions, state: &State) -> Finding {
    let name = "sessions";
    let list = match &state.sessions.known {
        Ok(list) => list,
        Err(lack) => return lack.clone().finding(name),
    };
    let Some(first) = list.ids.iter().find(|id| is_id(id)) else {
        let detail = "the list is empty";
        return if run.request.against.is_some() {
            Finding::ok(name, detail)
        } else {
            let fix = "--against SNAPSHOT tells whether there should be any: a lost database looks just like this";
            Finding::warning(name, detail, fix)
        };
    };
    let path = at(&sessions.one, state.workspace.as_deref(), first);
    match state::ask_long(run, &sessions.identity, &path, "look at the log of the engine").await {
        Ok(answer) if id_in(&answer.body).as_ref() == Some(first) => {
            let count = crate::ui::count(list.ids.len() as u64, "session", "sessions");
            let more = if list.is_cut { " or more: no longer list is asked for" } else { "" };
            Finding::ok(name, format!("{count}{more}; the first can be read"))
        }
        Ok(_) => Finding::failed(
            name,
            format!("{path} answers with something else than this session"),
            "look at the log of the engine",
        ),
        Err(lack) => lack.finding(name),
    }
}

/// What became of sessions that are in no list: a list is that of one folder or project, and may be cut off.
#[derive(Debug, Default)]
pub(super) struct Sought<'i> {
    pub(super) there: Vec<&'i String>,
    pub(super) gone: Vec<&'i String>,
    /// Nobody could tell, with the first reason for it.
    pub(super) unknown: Vec<&'i String>,
    pub(super) why: String,
}

/// Asks for each of these sessions by its id.
pub(super) async fn seek<'i>(run: &Run<'_>, workspace: Option<&str>, ids: &[&'i String]) -> Sought<'i> {
    let mut sought = Sought::default();
    let asked = &ids[..ids.len().min(MOST_SOUGHT)];
    let mut answers = futures::stream::iter(asked.iter().map(|id| is_there(run, workspace, id))).buffered(AT_ONCE);
    for id in asked {
        // An engine that does not answer the first ones is not asked for a thousand.
        if sought.unknown.len() >= AT_ONCE {
            break;
        }
        match answers.next().await {
            Some(Ok(true)) => sought.there.push(id),
            Some(Ok(false)) => sought.gone.push(id),
            Some(Err(why)) => {
                sought.unknown.push(id);
                if sought.why.is_empty() {
                    sought.why = why;
                }
            }
            None => break,
        }
    }
    let told = sought.there.len() + sought.gone.len() + sought.unknown.len();
    if sought.why.is_empty() && told < ids.len() {
        sought.why = format!("not more than {MOST_SOUGHT} are asked for one by one");
    }
    sought.unknown.extend(&ids[told..]);
    sought
}

/// Whether there is a session of this id; else why nobody can tell.
async fn is_there(run: &Run<'_>, workspace: Option<&str>, id: &String) -> Result<bool, String> {
    let Some(sessions) = run.request.service.sessions.as_ref().filter(|_| is_id(id)) else {
        return Err("it cannot be asked for".to_owned());
    };
    let caller = run.request.tokens.caller(run.request.service, &sessions.identity).map_err(|missing| missing.0)?;
    let path = at(&sessions.one, workspace, id);
    let answer = run.http.send(Ask::get(&path, &caller)).await.map_err(|trouble| format!("{path}: {trouble}"))?;
    match answer.status {
        404 => Ok(false),
        200 if id_in(&answer.body).as_ref() == Some(id) => Ok(true),
        _ => Err(Wrong::answer(&path, &answer, "").detail),
    }
}

/// The number of messages that a session has now; `None` if the profile does not say how to ask.
pub(super) async fn messages(run: &Run<'_>, workspace: Option<&str>, id: &str) -> Result<Option<u64>, Lack> {
    let Some(sessions) = &run.request.service.sessions else { return Ok(None) };
    let Some(path) = &sessions.messages else { return Ok(None) };
    let path = at(path, workspace, id);
    let answer = state::ask_long(run, &sessions.identity, &path, "look at the log of the engine").await?;
    match engine::message_count(sessions.engine, &answer.body) {
        Some(count) => Ok(Some(count)),
        None => Err(Wrong::new(format!("{path} is no list of messages"), "look at the log of the engine").into()),
    }
}

/// Makes a session, reads it, removes it, and looks that it is gone.
pub(super) async fn write(run: &Run<'_>, state: &State, found: &mut Found) {
    let name = WRITE;
    let since = Instant::now();
    let Some(sessions) = &run.request.service.sessions else {
        // Then the rows of the matrix that write are all that was asked for.
        let is_asked = !auth::has_writes(&run.request.service.auth);
        return found.add(Finding::skipped(name, "the service has no sessions"), is_asked);
    };
    let caller = match run.request.tokens.caller(run.request.service, &sessions.identity) {
        Ok(caller) => caller,
        Err(missing) => return found.asked(Finding::skipped(name, missing.0), since),
    };
    found.workspace.clone_from(&state.workspace);
    found.has_session = true;
    let workspace = state.workspace.as_deref();
    let made = make_and_read(run, sessions, workspace, &caller, &mut found.session).await;
    let removed = remove(run, found).await;
    found.has_session = false;
    let log = "look at the log of the engine";
    let finding = match (made, removed.left, removed.listed) {
        (_, Some(left), _) => {
            Finding::failed(name, format!("still there: {left}"), format!("remove it by hand, and {log}"))
        }
        (Err(wrong), None, _) => wrong.failed(name),
        (Ok(()), None, Err(why)) => Finding::failed(
            name,
            format!("a session was made, read and removed, but sessions cannot be listed: {why}"),
            log,
        ),
        (Ok(()), None, Ok(0)) => Finding::failed(name, "the session that was made is not in the list", log),
        (Ok(()), None, Ok(_)) => Finding::ok(name, "a session was made, read and removed"),
    };
    found.asked(finding, since);
}

async fn make_and_read(
    run: &Run<'_>,
    sessions: &Sessions,
    workspace: Option<&str>,
    caller: &Caller,
    session: &mut Option<String>,
) -> Result<(), Wrong> {
    let fix = "look at the log of the engine, and whether the volume is writable and has space";
    let create = at(&sessions.create, workspace, "");
    let body = json!({ "title": run.label });
    let answer = run.http.send(Ask::new(Method::Post, &create, caller).json(&body)).await?;
    if !answer.is_success() {
        return Err(Wrong::answer(&format!("POST {create}"), &answer, fix));
    }
    *session = id_in(&answer.body);
    let id = session.as_ref().ok_or_else(|| Wrong::new(format!("POST {create} answers without a session"), fix))?;
    let path = at(&sessions.one, workspace, id);
    let answer = run.http.send(Ask::get(&path, caller)).await?;
    let title = answer.json().and_then(|body| Some(body.get("title")?.as_str()?.to_owned()));
    match title {
        _ if !answer.is_success() => Err(Wrong::answer(&path, &answer, fix)),
        Some(title) if title == run.label => Ok(()),
        _ => Err(Wrong::new(format!("{path} does not answer with the session that was made"), fix)),
    }
}

/// What became of the sessions of this run.
pub(super) struct Removed {
    /// What is still there, or may be.
    pub(super) left: Option<String>,
    /// How many of them were in the list before; else why there is no list.
    listed: Result<usize, String>,
}

/// Removes the sessions of this run: the one that is known also where they cannot be listed.
pub(super) async fn remove(run: &Run<'_>, found: &Found) -> Removed {
    let nothing = Removed { left: None, listed: Ok(0) };
    let Some(sessions) = &run.request.service.sessions else { return nothing };
    let Ok(caller) = run.request.tokens.caller(run.request.service, &sessions.identity) else { return nothing };
    let workspace = found.workspace.as_deref();
    let delete = async |id: &str| {
        let path = at(&sessions.one, workspace, id);
        run.http.send(Ask::new(Method::Delete, &path, &caller)).await
    };
    if let Some(id) = found.session.as_ref().filter(|_| run.http.is_hurried()) {
        // After a cancel there may be no time for a list.
        let why = match delete(id).await {
            Ok(answer) if answer.is_success() || answer.status == 404 => None,
            Ok(answer) => Some(format!("DELETE answers {}", answer.in_words())),
            Err(trouble) => Some(trouble.to_string()),
        };
        return Removed { left: why.map(|why| format!("{id}, perhaps ({why})")), listed: Ok(1) };
    }
    let before = ours(run, sessions, workspace, &caller).await;
    let ids: BTreeSet<&String> = before.iter().flatten().chain(&found.session).collect();
    let (mut left, mut unsure) = (BTreeSet::new(), Vec::new());
    for id in ids {
        // Whether it is gone is what the next questions tell.
        let _ = delete(id).await;
        match is_there(run, workspace, id).await {
            Ok(true) => left.extend([id.clone()]),
            Ok(false) => {}
            Err(why) => unsure.push(format!("{id}, perhaps ({why})")),
        }
    }
    let after = ours(run, sessions, workspace, &caller).await;
    match &after {
        Ok(ids) => left.extend(ids.iter().cloned()),
        Err(why) if before.is_err() && found.session.is_none() => {
            unsure.push(format!("a session titled {} ({why})", run.label));
        }
        Err(_) => {}
    }
    // A list that does not have it settles what the engine did not say.
    let left: Vec<String> = left.into_iter().chain(unsure.into_iter().filter(|_| after.is_err())).collect();
    let listed = before.and_then(|before| after.map(|_| before.len()));
    Removed { left: (!left.is_empty()).then(|| left.join(", ")), listed }
}

/// The sessions that this run has made. The list begins with the newest ones.
async fn ours(
    run: &Run<'_>,
    sessions: &Sessions,
    workspace: Option<&str>,
    caller: &Caller,
) -> Result<Vec<String>, String> {
    let path = at(&sessions.list, workspace, "").replace("{limit}", "10000");
    let answer = run.http.send(Ask::get(&path, caller).list()).await.map_err(|trouble| trouble.to_string())?;
    let list: Vec<Value> = serde_json::from_slice(&answer.body).map_err(|_| "no list of sessions".to_owned())?;
    let of_this = |item: &&Value| item.get("title").and_then(Value::as_str) == Some(run.label.as_str());
    let id = |item: &Value| item.get("id").and_then(Value::as_str).filter(|id| is_id(id)).map(str::to_owned);
    Ok(list.iter().filter(of_this).filter_map(id).collect())
}

fn id_in(body: &[u8]) -> Option<String> {
    let body: Value = serde_json::from_slice(body).ok()?;
    body.get("id").and_then(Value::as_str).filter(|id| is_id(id)).map(str::to_owned)
}

fn at(path: &str, workspace: Option<&str>, session: &str) -> String {
    path.replace("{workspace}", workspace.unwrap_or_default()).replace("{session}", session)
}
