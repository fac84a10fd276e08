//! What a service has: its workspaces, sessions and tokens, as it lists them itself.
//!
//! Read once for the checks, and before and after a restart. The lists of workspaces hold passwords: only ids, paths and
//! times are kept of them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::Value;

use super::http::{Answer, Ask};
use super::{Run, Wrong, is_id};
use crate::finding::Finding;
use crate::providers::engine;

/// Sessions beyond the captured ones that one list can hold.
const MARGIN: usize = 1000;
/// The longest list that is asked for: as many sessions as a snapshot records.
const MOST: usize = 100_000;

/// Between two questions to a service that is booting.
pub(super) const EVERY: Duration = Duration::from_millis(250);

fn may_pass<T>(known: &Result<T, Lack>) -> bool {
    matches!(known, Err(Lack::Wrong(wrong)) if wrong.may_pass)
}

/// Why a part of the state is not known.
#[derive(Clone, Debug)]
pub(super) enum Lack {
    /// The profile has no such thing.
    Absent,
    /// It cannot be asked: there is no token, or the service is not to be changed.
    NotAsked(String),
    /// The answer grows with the data, and is too slow or too large to be read: that tells nothing about the data.
    Unread(String),
    /// The answer is not what it should be.
    Wrong(Wrong),
}

impl From<Wrong> for Lack {
    fn from(wrong: Wrong) -> Self {
        Self::Wrong(wrong)
    }
}

impl Lack {
    /// In one sentence.
    pub(super) fn why(&self) -> String {
        match self {
            Self::Absent => "the profile does not say how".to_owned(),
            Self::NotAsked(why) | Self::Unread(why) => why.clone(),
            Self::Wrong(wrong) => wrong.detail.clone(),
        }
    }
}

impl Lack {
    /// What the check of this name comes to without it.
    pub(super) fn finding(self, name: &str) -> Finding {
        match self {
            Self::Wrong(wrong) => wrong.failed(name),
            lack => Finding::skipped(name, lack.why()),
        }
    }
}

/// A part of the state, and how long it took to ask for it.
#[derive(Clone, Debug)]
pub(super) struct Part<T> {
    pub(super) known: Result<T, Lack>,
    pub(super) took: Duration,
}

impl<T> Part<T> {
    async fn of(work: impl Future<Output = Result<T, Lack>>) -> Self {
        let since = Instant::now();
        let known = work.await;
        Self { known, took: since.elapsed() }
    }
}

/// A workspace in the list of the service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) id: String,
    pub(super) path: Option<String>,
}

/// A token in the list of the service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) id: String,
    pub(super) label: String,
}

/// The sessions that a service lists, in its order: the newest ones first.
#[derive(Clone, Debug, Default)]
pub(super) struct SessionList {
    pub(super) ids: Vec<String>,
    /// There may be more than are asked for.
    pub(super) is_cut: bool,
}

/// What a service has.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) workspaces: Part<Vec<Listed>>,
    /// The newest entry of the audit log of each workspace: its time in milliseconds since 1970, if it has any entry.
    pub(super) audit: BTreeMap<String, Result<Option<i64>, Wrong>>,
    pub(super) sessions: Part<SessionList>,
    pub(super) tokens: Part<Vec<Token>>,
    /// The id of the workspace that requests are about: the expected one, or the only other one.
    pub(super) workspace: Option<String>,
}

impl State {
    /// The same as [`State::read`], again and again while it looks as if the service is still booting, at most until
    /// `until`.
    pub(super) async fn read_settled(
        run: &Run<'_>,
        captured: usize,
        until: Instant,
        is_booting: impl Fn(&Self) -> bool,
    ) -> Self {
        loop {
            let state = Self::read(run, captured).await;
            if !is_booting(&state) || Instant::now() + EVERY >= until {
                return state;
            }
            tokio::time::sleep(EVERY).await;
        }
    }

    /// Whether it is what a service would answer whose engine is not up yet.
    pub(super) fn may_pass(&self) -> bool {
        may_pass(&self.workspaces.known) || may_pass(&self.sessions.known)
    }

    /// Asks for everything. `captured` sessions at least must fit into the list.
    pub(super) async fn read(run: &Run<'_>, captured: usize) -> Self {
        let workspaces = Part::of(workspaces(run)).await;
        let workspace = choose(run, workspaces.known.as_deref().unwrap_or_default());
        let mut audit = BTreeMap::new();
        for listed in workspaces.known.iter().flatten() {
            audit.insert(listed.id.clone(), newest_entry(run, &listed.id).await);
        }
        let sessions = Part::of(sessions(run, workspace.as_deref(), captured)).await;
        let tokens = Part::of(tokens(run)).await;
        Self { workspaces, audit, sessions, tokens, workspace }
    }
}

/// The id that the profile's provider makes of the path of the workspace.
pub(super) fn expected_id(run: &Run<'_>) -> Option<String> {
    let workspaces = run.request.service.workspaces.as_ref()?;
    engine::workspace_id(workspaces.engine, &run.request.workspace.as_ref()?.path)
}

/// The workspace that requests are about: by its id, by its path, else any.
fn choose(run: &Run<'_>, listed: &[Listed]) -> Option<String> {
    let expected = expected_id(run);
    let place = run.request.workspace.as_ref();
    let by_id = listed.iter().find(|found| Some(&found.id) == expected.as_ref());
    let by_path = || listed.iter().find(|found| place.is_some_and(|place| place.is_at(found.path.as_deref())));
    by_id.or_else(by_path).or_else(|| listed.first()).map(|found| found.id.clone()).or(expected)
}

async fn workspaces(run: &Run<'_>) -> Result<Vec<Listed>, Lack> {
    let Some(workspaces) = &run.request.service.workspaces else { return Err(Lack::Absent) };
    let body = json(run, &workspaces.identity, &workspaces.list).await?;
    let items = array(&body, &workspaces.items_at, &workspaces.list)?;
    let text = |item: &Value, key: &str| item.get(key).and_then(Value::as_str).map(str::to_owned);
    let listed = items.iter().filter_map(|item| Some(Listed { id: text(item, "id")?, path: text(item, "path") }));
    Ok(listed.filter(|listed| is_id(&listed.id)).collect())
}

async fn newest_entry(run: &Run<'_>, workspace: &str) -> Result<Option<i64>, Wrong> {
    let Some(workspaces) = &run.request.service.workspaces else { return Ok(None) };
    let path = workspaces.audit.replace("{workspace}", workspace);
    let body = json(run, &workspaces.identity, &path).await.map_err(|lack| match lack {
        Lack::Wrong(wrong) => wrong,
        lack => Wrong::new(lack.why(), ""),
    })?;
    let Some(newest) = array(&body, &workspaces.audit_items_at, &path)?.first() else { return Ok(None) };
    let time = newest.pointer(&workspaces.audit_time_at).and_then(|time| {
        let written = || time.as_str()?.parse::<Timestamp>().ok().map(Timestamp::as_millisecond);
        time.as_i64().or_else(written)
    });
    time.map(Some).ok_or_else(|| Wrong::new(format!("{path}: the newest entry has no time"), "look at the audit log"))
}

/// The ids of all sessions: the list is asked for again, longer, while it comes back full.
async fn sessions(run: &Run<'_>, workspace: Option<&str>, captured: usize) -> Result<SessionList, Lack> {
    let Some(sessions) = &run.request.service.sessions else { return Err(Lack::Absent) };
    let workspace = named(workspace, &sessions.list)?;
    let mut limit = (captured + MARGIN).min(MOST);
    loop {
        let path = sessions.list.replace("{workspace}", workspace).replace("{limit}", &limit.to_string());
        let answer = ask_long(run, &sessions.identity, &path, LIST_FIX).await?;
        let ids = engine::session_ids(sessions.engine, &answer.body).ok_or_else(|| {
            Wrong::new(format!("{path} answers {}, but not with a list of sessions", answer.status), LIST_FIX)
        })?;
        let is_cut = ids.len() >= limit;
        if !is_cut || limit == MOST {
            return Ok(SessionList { ids, is_cut });
        }
        limit = (limit * 10).min(MOST);
    }
}

/// What to do about a list of sessions that is none.
const LIST_FIX: &str = "the engine does not work, although the server may say that all is well: look at its log";

pub(super) async fn tokens(run: &Run<'_>) -> Result<Vec<Token>, Lack> {
    let Some(scoped) = &run.request.service.scoped_tokens else { return Err(Lack::Absent) };
    let body = json(run, &scoped.identity, &scoped.path).await?;
    let items = array(&body, &scoped.items_at, &scoped.path)?;
    let token = |item: &Value| {
        let id = item.pointer(&scoped.id_at)?.as_str()?.to_owned();
        let label = item.get("label").and_then(Value::as_str).unwrap_or_default().to_owned();
        is_id(&id).then_some(Token { id, label })
    };
    Ok(items.iter().filter_map(token).collect())
}

/// The id of the workspace for a path that needs one.
pub(super) fn named<'w>(workspace: Option<&'w str>, path: &str) -> Result<&'w str, Wrong> {
    match workspace {
        None if path.contains("{workspace}") => {
            Err(Wrong::new("the id of the workspace is not known", "see `workspaces`"))
        }
        workspace => Ok(workspace.unwrap_or_default()),
    }
}

/// A successful answer to a question of `identity`.
pub(super) async fn ask(run: &Run<'_>, identity: &str, path: &str, fix: &str) -> Result<Answer, Lack> {
    send(run, identity, path, fix, false).await
}

/// The same for an answer that grows with the data.
pub(super) async fn ask_long(run: &Run<'_>, identity: &str, path: &str, fix: &str) -> Result<Answer, Lack> {
    send(run, identity, path, fix, true).await
}

async fn send(run: &Run<'_>, identity: &str, path: &str, fix: &str, is_long: bool) -> Result<Answer, Lack> {
    let caller = run.request.tokens.caller(run.request.service, identity);
    let caller = caller.map_err(|missing| Lack::NotAsked(missing.0))?;
    let ask = Ask::get(path, &caller);
    let answer = run.http.send(if is_long { ask.list() } else { ask }).await.map_err(|trouble| {
        let detail = format!("{path}: {trouble}");
        if is_long && trouble.is_much() { Lack::Unread(detail) } else { Wrong { detail, ..trouble.into() }.into() }
    })?;
    if answer.is_success() { Ok(answer) } else { Err(Wrong::answer(path, &answer, fix).into()) }
}

async fn json(run: &Run<'_>, identity: &str, path: &str) -> Result<Value, Lack> {
    let fix = "look at the log of the service";
    let answer = ask(run, identity, path, fix).await?;
    Ok(answer.json().ok_or_else(|| Wrong::new(format!("{path} does not answer with JSON"), fix))?)
}

fn array<'v>(body: &'v Value, pointer: &str, path: &str) -> Result<&'v Vec<Value>, Wrong> {
    body.pointer(pointer).and_then(Value::as_array).ok_or_else(|| {
        Wrong::new(
            format!("{path} answers without a list at {pointer}"),
            "look at the version and the log of the service",
        )
    })
}
