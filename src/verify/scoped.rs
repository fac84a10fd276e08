//! Tokens of less power: made, tried, and removed again.
//!
//! Invariant: what was made is removed, also if the answer that named it never came: then it is found by its label. What is
//! known is removed first: after a cancel there may be no time for a list.

use std::time::Instant;

use futures::future::join_all;
use secrecy::SecretString;
use serde_json::json;

use super::auth;
use super::http::{Ask, Caller};
use super::state::{Lack, State, Token};
use super::{Found, Run, Wrong, is_id, named};
use crate::Result;
use crate::config::profile::{Method, ScopedTokens, Send};
use crate::finding::Finding;
use crate::providers::PROBE_LABEL;

/// The name of the check that nothing is left.
pub(super) const LEFT: &str = "auth.probe-tokens";

/// Makes a token of each scope and asks every row with it.
pub(super) async fn run(run: &Run<'_>, state: &State, found: &mut Found) -> Result<()> {
    let Some(scoped) = &run.request.service.scoped_tokens else {
        found.add(Finding::skipped(LEFT, "the profile does not say how tokens are made"), true);
        return Ok(());
    };
    found.has_tokens = true;
    for scope in &scoped.scopes {
        let since = Instant::now();
        let finding = match make(run, scoped, scope, found).await {
            Ok(caller) => match auth::has_scope(run, &caller, scope).await {
                Ok(()) => auth::check(run, state, scope, &[caller]).await,
                Err(wrong) => wrong.failed(&format!("auth.{scope}")),
            },
            Err(lack) => lack.finding(&format!("auth.{scope}")),
        };
        found.asked(finding, since);
    }
    let since = Instant::now();
    let finding = match remove(run, found).await {
        Err(left) => {
            Finding::failed(LEFT, format!("still there: {left}"), format!("remove: DELETE {}/<id>", scoped.path))
        }
        Ok((_, others)) if !others.is_empty() => Finding::warning(
            LEFT,
            format!("removed; earlier runs have left {}", named(others.iter().map(|token| &token.id))),
            format!("unless another run is under way, remove: DELETE {}/<id>", scoped.path),
        ),
        Ok((0, _)) => Finding::skipped(LEFT, "no token was made"),
        Ok(_) => Finding::ok(LEFT, "every token that was made is removed"),
    };
    found.has_tokens = false;
    found.asked(finding, since);
    Ok(())
}

async fn make(run: &Run<'_>, scoped: &ScopedTokens, scope: &str, found: &mut Found) -> Result<Caller, Lack> {
    let body = json!({ "scope": scope, "label": run.label });
    let caller = run.request.tokens.caller(run.request.service, &scoped.identity);
    let caller = caller.map_err(|missing| Lack::NotAsked(missing.0))?;
    found.has_unnamed_token = true;
    let answer = run.http.send(Ask::new(Method::Post, &scoped.path, &caller).json(&body)).await.map_err(Wrong::from)?;
    // Whoever refuses has made nothing.
    found.has_unnamed_token = !(400..500).contains(&answer.status);
    if answer.status == 403 {
        // Who the token is from is known already: this is how the service is set.
        return Err(Lack::NotAsked(Wrong::answer(&format!("POST {}", scoped.path), &answer, "").detail));
    }
    if !answer.is_success() {
        return Err(Wrong::answer(&format!("POST {}", scoped.path), &answer, "look at the log of the service").into());
    }
    let body = answer.json().unwrap_or_default();
    let text = |pointer: &str| body.pointer(pointer).and_then(|value| value.as_str());
    if let Some(id) = text(&scoped.id_at).filter(|id| is_id(id)) {
        found.tokens.push(id.to_owned());
        found.has_unnamed_token = false;
    }
    let token = text(&scoped.token_at).map(SecretString::from);
    let token = token.ok_or_else(|| Wrong::new("the answer holds no token", "look at the version of the service"))?;
    Caller::with(&Send::Bearer, &token).map_err(|error| Wrong::new(error.full_message(), "").into())
}

/// Removes every token of this run; how many there were, and those that other runs have left. `Err` names what could not
/// be removed.
pub(super) async fn remove(run: &Run<'_>, found: &Found) -> Result<(usize, Vec<Token>), String> {
    let Some(scoped) = &run.request.service.scoped_tokens else { return Ok((0, Vec::new())) };
    let caller = run.request.tokens.caller(run.request.service, &scoped.identity);
    let Ok(caller) = caller else { return Ok((0, Vec::new())) };
    let unknown = |lack: Lack| format!("tokens labelled {} ({})", run.label, lack.why());
    let delete = async |ids: &[String]| {
        let paths: Vec<String> = ids.iter().map(|id| format!("{}/{id}", scoped.path)).collect();
        let asks = paths.iter().map(|path| run.http.send(Ask::new(Method::Delete, path, &caller)));
        let answers = join_all(asks).await;
        answers.iter().all(|answer| answer.as_ref().is_ok_and(|answer| answer.is_success() || answer.status == 404))
    };
    let are_gone = delete(&found.tokens).await;
    let known = found.tokens.len();
    if are_gone && run.http.is_hurried() && !found.has_unnamed_token {
        return Ok((known, Vec::new()));
    }
    let (left, others) = list(run).await.map_err(|lack| {
        let known = if are_gone { String::new() } else { named(&found.tokens) + ", perhaps, and " };
        known + &unknown(lack)
    })?;
    if left.is_empty() {
        return Ok((known, others));
    }
    let left: Vec<String> = left.into_iter().map(|token| token.id).collect();
    let number = known + left.iter().filter(|id| !found.tokens.contains(id)).count();
    if delete(&left).await && run.http.is_hurried() {
        return Ok((number, others));
    }
    // Whether they are gone is what the list says.
    let (left, others) = list(run).await.map_err(|lack| format!("{}, perhaps ({})", named(&left), lack.why()))?;
    if left.is_empty() { Ok((number, others)) } else { Err(named(left.iter().map(|token| &token.id))) }
}

/// The tokens of this run, and those of others like it.
async fn list(run: &Run<'_>) -> Result<(Vec<Token>, Vec<Token>), Lack> {
    let all = super::state::tokens(run).await?.into_iter().filter(|token| token.label.starts_with(PROBE_LABEL));
    Ok(all.partition(|token| token.label == run.label))
}
