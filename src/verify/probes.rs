//! Asks what the profile says to ask, until the service is up.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::http::{Answer, Ask, Caller};
use super::state::EVERY;
use super::{Found, Run, Wrong};
use crate::Result;
use crate::config::profile::{self, Probe};
use crate::finding::{Finding, Status};

/// Makes every probe; false if the service does not answer at all.
pub(super) async fn run(run: &Run<'_>, found: &mut Found) -> Result<bool> {
    let until = Instant::now() + run.request.timeout;
    let mut answers = true;
    let (first, then): (Vec<&Probe>, Vec<&Probe>) = run.request.service.probes.iter().partition(|probe| probe.waits);
    for probe in first.into_iter().chain(then) {
        if !answers {
            found.add(Finding::skipped(&probe.name, "the service does not answer"), false);
            continue;
        }
        let since = Instant::now();
        let caller = match &probe.identity {
            None => Caller::default(),
            Some(name) => match run.request.tokens.caller(run.request.service, name) {
                Ok(caller) => caller,
                Err(missing) => {
                    found.made(Finding::skipped(&probe.name, missing.0), since);
                    continue;
                }
            },
        };
        let (finding, answer) = make(run, probe, &caller, until).await;
        answers = !probe.waits || answer.is_some();
        if let Some(body) = answer.as_ref().filter(|_| finding.status == Status::Ok).and_then(Answer::json) {
            for (part, pointer) in &probe.versions {
                let told = body.pointer(pointer).and_then(|version| version.as_str());
                found.versions.extend(told.map(|version| (part.clone(), version.chars().take(60).collect())));
            }
        }
        found.made(finding, since);
    }
    Ok(answers)
}

/// Waits until every probe that `waits` is right; what is wrong with the first that is not.
pub(super) async fn wait(run: &Run<'_>, until: Instant) -> Result<(), Wrong> {
    for probe in run.request.service.probes.iter().filter(|probe| probe.waits && probe.identity.is_none()) {
        let (finding, _) = make(run, probe, &Caller::default(), until).await;
        if finding.status == Status::Failed {
            return Err(Wrong::new(finding.detail, finding.fix.unwrap_or_default()));
        }
    }
    Ok(())
}

/// How long the service has run; `None` if no probe that may be made tells.
pub(super) async fn uptime(run: &Run<'_>) -> Result<Option<Duration>, Wrong> {
    let service = run.request.service;
    let told = service.probes.iter().find_map(|probe| Some((probe, probe.uptime_ms.as_ref()?)));
    let Some((probe, at)) = told else { return Ok(None) };
    let name = probe.identity.as_deref().unwrap_or_default();
    let Ok(caller) = run.request.tokens.caller(service, name) else { return Ok(None) };
    let answer = run.http.send(Ask::new(probe.method, &probe.path, &caller)).await?;
    if !answer.is_success() {
        return Err(Wrong::answer(&probe.path, &answer, &probe.fix));
    }
    let milliseconds = answer.json().and_then(|body| body.pointer(at)?.as_f64());
    Ok(milliseconds.and_then(|milliseconds| Duration::try_from_secs_f64(milliseconds / 1000.0).ok()))
}

/// Makes one probe, again and again if it waits; with the last answer, if there was any.
async fn make(run: &Run<'_>, probe: &Probe, caller: &Caller, until: Instant) -> (Finding, Option<Answer>) {
    let ask = Ask::new(probe.method, &probe.path, caller);
    let mut tries = 0_u32;
    loop {
        tries += 1;
        let answer = if probe.waits { run.http.once(ask).await } else { run.http.send(ask).await };
        let (wrong, can_change) = match &answer {
            Ok(answer) => match judge(answer, &probe.expect) {
                Ok(says) => {
                    let waited = if tries > 1 { ", after a while" } else { "" };
                    let says = says.map(|says| format!(": {says}")).unwrap_or_default();
                    let detail = format!("{} answers {}{says}{waited}", probe.path, answer.in_words());
                    return (Finding::ok(&probe.name, detail), Some(answer.clone()));
                }
                Err(detail) => {
                    let redirect = answer.redirect();
                    let fix = redirect.as_ref().map_or(probe.fix.clone(), |trouble| trouble.fix().to_owned());
                    (Wrong::new(format!("{} {detail}", probe.path), fix), redirect.is_none())
                }
            },
            Err(trouble) => {
                let mut wrong = Wrong::from(trouble.clone());
                wrong.detail = format!("{}: {}", probe.path, wrong.detail);
                (wrong, trouble.passes())
            }
        };
        if !probe.waits || !can_change || Instant::now() + EVERY >= until {
            let is_other_host = answer.as_ref().is_ok_and(|answer| answer.redirect().is_some());
            return (wrong.failed(&probe.name), answer.ok().filter(|_| !is_other_host));
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// What is to be said of an answer that is right, or why it is wrong.
fn judge<'p>(answer: &Answer, expect: &'p [profile::Answer]) -> Result<Option<&'p str>, String> {
    let mut why = None;
    for expected in expect.iter().filter(|expected| expected.status.contains(&answer.status)) {
        match fault(answer, expected) {
            None => return Ok(expected.says.as_deref()),
            Some(fault) => why = why.or(Some(fault)),
        }
    }
    if let Some(why) = why {
        return Err(format!("answers {}, but {why}", answer.status));
    }
    let right = expect.iter().flat_map(|expected| &expected.status).map(u16::to_string).collect::<Vec<_>>();
    Err(format!("answers {}; right is {}", answer.in_words(), right.join(" or ")))
}

/// What of an answer with the right status is wrong.
fn fault(answer: &Answer, expected: &profile::Answer) -> Option<String> {
    if let Some(wanted) = &expected.content_type
        && !answer.header("content-type").is_some_and(|found| found.to_ascii_lowercase().starts_with(wanted))
    {
        return Some(format!("its content type is not {wanted}"));
    }
    for (name, part) in &expected.headers {
        if !answer.header(name).is_some_and(|value| value.contains(part.as_str())) {
            return Some(format!("its header {name} does not hold `{part}`"));
        }
    }
    if let Some(fault) = json_fault(answer, &expected.json, &expected.has) {
        return Some(fault);
    }
    let text = String::from_utf8_lossy(&answer.body);
    expected.body.iter().find(|part| !text.contains(part.as_str())).map(|part| format!("it does not hold `{part}`"))
}

/// What of an answer is not as it should be: where it must be JSON, with these values, and with something there.
pub(super) fn json_fault(answer: &Answer, says: &BTreeMap<String, Value>, has: &[String]) -> Option<String> {
    if says.is_empty() && has.is_empty() {
        return None;
    }
    let Some(body) = answer.json() else { return Some("it is not JSON".to_owned()) };
    let wrong = says.iter().find(|(pointer, wanted)| body.pointer(pointer) != Some(wanted));
    let lacks = || has.iter().find(|pointer| body.pointer(pointer).is_none_or(Value::is_null));
    wrong
        .map(|(pointer, wanted)| format!("it does not say {pointer} = {wanted}"))
        .or_else(|| lacks().map(|pointer| format!("it has nothing at {pointer}")))
}
