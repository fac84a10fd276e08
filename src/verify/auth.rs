//! Who is let in, and who is not: the matrix of the profile, row by row.
//!
//! Without leave to write only `GET` rows are asked. A row of another method is asked as those alone who must be refused, with
//! what the service refuses besides, so that nothing comes of it even if they are not.

use std::collections::BTreeMap;
use std::time::Instant;

use futures::StreamExt as _;
use secrecy::{ExposeSecret as _, SecretString};

use super::http::{Ask, Caller};
use super::state::{self, Lack, State};
use super::{Found, Run, Wrong};
use crate::Result;
use crate::archive::hash::Hash;
use crate::config::profile::{AuthRow, Method, Send};
use crate::finding::Finding;

/// How the loudest of all failures begins.
pub(super) const OPEN: &str = "OPEN TO EVERYBODY";
/// Rows that are asked at once.
const AT_ONCE: usize = 4;

/// Asks every row as everybody whom there is a token for, and as nobody, and with a wrong token.
pub(super) async fn run(run: &Run<'_>, state: &State, found: &mut Found) -> Result<()> {
    let service = run.request.service;
    if service.auth.is_empty() {
        return Ok(());
    }
    let since = Instant::now();
    found.made(check(run, state, "none", &[Caller::default()]).await, since);
    let since = Instant::now();
    found.made(check(run, state, "wrong", &wrong_callers(run)?).await, since);
    for identity in &service.identities {
        let since = Instant::now();
        let finding = match run.request.tokens.caller(service, &identity.name) {
            Ok(caller) => check(run, state, &identity.name, &[caller]).await,
            Err(missing) => Finding::skipped(&format!("auth.{}", identity.name), missing.0),
        };
        found.made(finding, since);
    }
    if service.whoami.is_some() {
        let since = Instant::now();
        found.made(whoami(run).await, since);
    }
    Ok(())
}

/// A wrong token, in every way in which the service takes one.
fn wrong_callers(run: &Run<'_>) -> Result<Vec<Caller>> {
    let token = SecretString::from(format!("wrong-{}", run.label));
    let mut ways = vec![Send::Bearer];
    for identity in &run.request.service.identities {
        if !ways.contains(&identity.send) {
            ways.push(identity.send.clone());
        }
    }
    ways.iter().map(|send| Caller::with(send, &token)).collect()
}

/// How one row was answered.
enum Seen {
    Right,
    /// As other versions of the service do.
    Drift(u16),
    /// Somebody was let in who must not be.
    LetIn(u16),
    Wrong(String),
    /// There is no answer, or one that says that the service fails, whoever asks.
    Broken(String),
}

/// Asks all rows as one identity, which may show itself in several ways.
pub(super) async fn check(run: &Run<'_>, state: &State, identity: &str, callers: &[Caller]) -> Finding {
    let name = format!("auth.{identity}");
    // What a token of less power may do shows in what it may not write.
    let may_write = run.request.write_probe || run.request.create_probe_tokens;
    let rows = run.request.service.auth.iter().filter(|row| is_asked(row, identity, may_write));
    let asks: Vec<(&AuthRow, &Caller)> = rows.flat_map(|row| callers.iter().map(move |caller| (row, caller))).collect();
    if asks.is_empty() {
        return Finding::skipped(&name, "the profile says nothing about it");
    }
    let work = asks.iter().map(|(row, caller)| ask(run, state, row, identity, caller));
    let seen: Vec<Seen> = futures::stream::iter(work).buffered(AT_ONCE).collect().await;
    let (mut let_in, mut wrong, mut drift, mut notes) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for ((row, _), seen) in asks.iter().zip(&seen) {
        if !matches!(seen, Seen::Right | Seen::Drift(_)) && !row.note.is_empty() {
            notes.push(format!("; {}: {}", row.path, row.note));
        }
        let shown = format!("{} {}", row.method.as_str(), row.path);
        match seen {
            Seen::Right => {}
            Seen::Drift(status) => drift.push(format!("{shown} {status}")),
            Seen::LetIn(status) => let_in.push(format!("{shown} answers {status}")),
            Seen::Wrong(why) | Seen::Broken(why) => wrong.push((why.clone(), shown)),
        }
    }
    for list in [&mut let_in, &mut drift, &mut notes] {
        list.dedup();
    }
    wrong.dedup();
    if !let_in.is_empty() {
        return let_in_finding(&name, identity, &let_in.join(", "), &notes.concat());
    }
    if !wrong.is_empty() {
        let is_broken = !seen.iter().any(|seen| matches!(seen, Seen::Wrong(_)));
        let fix = match identity {
            _ if is_broken => "the service fails, whoever asks: look at its log, and at what is in front of it",
            "none" | "wrong" => "compare with docs/verify.md: is this the service, and is something in front of it?",
            _ => "is the token the one that the service was started with?",
        };
        return Finding::failed(&name, by_reason(&wrong), fix.to_owned() + &notes.concat());
    }
    let more = if drift.is_empty() { String::new() } else { format!("; as other versions do: {}", drift.join(", ")) };
    let rows = crate::ui::count(asks.len() as u64, "request is", "requests are");
    Finding::ok(&name, format!("{rows} answered as they should be{more}"))
}

/// Each reason once, with all that it holds for.
fn by_reason(wrong: &[(String, String)]) -> String {
    let mut rows: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (why, shown) in wrong {
        rows.entry(why).or_default().push(shown);
    }
    rows.iter().map(|(why, rows)| format!("{why}: {}", rows.join(", "))).collect::<Vec<_>>().join("; ")
}

fn let_in_finding(name: &str, identity: &str, list: &str, notes: &str) -> Finding {
    let close = "take the service off the network until it asks for a token again, then replace its tokens";
    let (detail, fix) = match identity {
        "none" => (format!("{OPEN} without a token: {list}"), close),
        "wrong" => (format!("{OPEN} with any token: {list}"), close),
        _ => (
            format!("`{identity}` is let in where it must not be: {list}"),
            "look at the version and the settings of the service; until then treat this token as one of more power",
        ),
    };
    Finding::failed(name, detail, fix.to_owned() + notes)
}

/// Whether there are rows that are asked with leave to write only.
pub(super) fn has_writes(rows: &[AuthRow]) -> bool {
    rows.iter().any(|row| row.method != Method::Get)
}

fn is_asked(row: &AuthRow, identity: &str, may_write: bool) -> bool {
    let Some(right) = row.answers.get(identity) else { return false };
    row.method == Method::Get || (may_write && !right.iter().any(|status| is_success(*status)))
}

const fn is_success(status: u16) -> bool {
    status >= 200 && status < 300
}

async fn ask(run: &Run<'_>, state: &State, row: &AuthRow, identity: &str, caller: &Caller) -> Seen {
    let none = Vec::new();
    let right = row.answers.get(identity).unwrap_or(&none);
    let path = match state::named(state.workspace.as_deref(), &row.path) {
        Ok(workspace) => row.path.replace("{workspace}", workspace),
        Err(wrong) => return Seen::Wrong(wrong.detail),
    };
    let body = row.body.clone().unwrap_or_else(|| serde_json::json!({}));
    let ask = Ask::new(row.method, &path, caller).skim();
    let answer = match run.http.send(if row.method == Method::Post { ask.json(&body) } else { ask }).await {
        Ok(answer) => answer,
        Err(trouble) => return Seen::Broken(trouble.to_string()),
    };
    let status = answer.status;
    if right.contains(&status) || (row.optional && status == 404) {
        return Seen::Right;
    }
    if row.drift.get(identity).is_some_and(|drift| drift.contains(&status)) {
        return Seen::Drift(status);
    }
    // Whoever is told what is wrong with the body has passed the door.
    let is_in = is_success(status) || (row.method == Method::Post && matches!(status, 400 | 422));
    if is_in && !right.iter().any(|status| is_success(*status)) {
        return Seen::LetIn(status);
    }
    let right = right.iter().map(u16::to_string).collect::<Vec<_>>().join(" or ");
    let why = format!("answers {}, right is {right}", answer.in_words());
    if status >= 500 { Seen::Broken(why) } else { Seen::Wrong(why) }
}

/// Whether the service sees the very token that was sent.
async fn whoami(run: &Run<'_>) -> Finding {
    let name = "auth.token";
    let Some(whoami) = &run.request.service.whoami else { return Finding::skipped(name, Lack::Absent.why()) };
    let identity = run.request.service.identities.iter().find(|identity| identity.name == whoami.identity);
    let token = identity.and_then(|identity| run.request.tokens.of(identity));
    let fix = "is something in front of the service that changes the token?";
    let told = match state::ask(run, &whoami.identity, &whoami.path, fix).await {
        Ok(answer) => answer.json().and_then(|body| Some(body.pointer(&whoami.sha256_at)?.as_str()?.to_owned())),
        Err(lack) => return lack.finding(name),
    };
    let sent = token.map(|token| Hash::of(token.expose_secret().as_bytes()).to_string());
    match (told, sent) {
        (Some(told), Some(sent)) if told.eq_ignore_ascii_case(&sent) => {
            Finding::ok(name, "the service sees the token that was sent")
        }
        (Some(_), _) => Wrong::new(format!("{} tells of another token than was sent", whoami.path), fix).failed(name),
        (None, _) => Wrong::new(format!("{} does not tell which token it sees", whoami.path), fix).failed(name),
    }
}

/// Whether the service takes a token that was made for the purpose for one of its scope.
pub(super) async fn has_scope(run: &Run<'_>, caller: &Caller, scope: &str) -> Result<(), Wrong> {
    let Some(whoami) = &run.request.service.whoami else { return Ok(()) };
    let Some(scope_at) = &whoami.scope_at else { return Ok(()) };
    let fix = "look at the version and the log of the service";
    let answer = run.http.send(Ask::get(&whoami.path, caller)).await?;
    let told = answer.json().and_then(|body| Some(body.pointer(scope_at)?.as_str()?.to_owned()));
    match told {
        Some(told) if told == scope => Ok(()),
        _ if !answer.is_success() => Err(Wrong::answer(&whoami.path, &answer, fix)),
        _ => Err(Wrong::new(format!("{} does not tell of a token of the scope `{scope}`", whoami.path), fix)),
    }
}
