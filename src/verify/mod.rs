//! Whether a running service works, with the data that it should have: `opsctl verify`, and the gate of a restore.
//!
//! ```text
//! transport → probes → what it has (state) → workspaces → engine, sessions → auth → write probe → against → restart
//! ```
//! Invariants:
//! * Nothing is changed but what was asked for, and that is removed again, also after Ctrl-C.
//! * What the service has is told before who is let in: there are many doors, and the time may be over before the last one.
//! * Sets are compared as supersets: a service may have gained something since.
//! * A token goes to the named host only; no finding holds a token or what an answer said.
//! * What was asked for and could not be done, and data that nobody looked at, makes the verdict inconclusive, never
//!   passed.

mod against;
mod auth;
pub mod credential;
mod found;
mod gate;
mod http;
mod messages;
mod probes;
mod restart;
mod scoped;
mod sessions;
mod state;
mod tokens;
mod workspaces;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::Serialize;

pub use against::Against;
pub use gate::{Verification, gate};
pub use tokens::{TokenFiles, Tokens};
pub use workspaces::{Place, workspace_path};

use crate::cancel::{Cancel, LAST_RESORT};
use crate::config::profile::{Profile, Service};
use crate::finding::{Finding, Status};
use crate::providers::PROBE_LABEL;
pub use crate::providers::address::Address;
use crate::providers::engine;
use crate::{Error, ExitCode, Result, secret};
use found::Found;
use http::{Answer, Http, Trouble};

/// What to do about an answer that nobody gets whose token is refused.
const REFUSED: &str = "the token is refused: see the `auth` checks";
/// For all that is removed after a cancel: what could not be removed is to be said before the process is ended.
const HURRY: Duration = LAST_RESORT.saturating_sub(Duration::from_millis(400));

/// What is to be verified.
#[derive(Debug)]
pub struct Request<'a> {
    /// Where the service answers.
    pub address: &'a Address,
    /// What the profile says of it.
    pub service: &'a Service,
    /// The tokens that were given.
    pub tokens: &'a Tokens,
    /// Where the workspace that it should serve is, if that is known.
    pub workspace: Option<Place>,
    /// What it is compared with, if that was asked for.
    pub against: Option<Against>,
    /// Given to `sh -c` to restart it.
    pub restart: Option<String>,
    /// Whether a session may be made.
    pub write_probe: bool,
    /// Whether tokens may be made.
    pub create_probe_tokens: bool,
    /// Whether a token may travel in clear to another machine.
    pub strict: bool,
    /// How long the service may take to be up.
    pub timeout: Duration,
    /// How long everything else may take: see [`limit`].
    pub limit: Duration,
    /// Ends everything.
    pub cancel: &'a Cancel,
}

/// How it came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Every check that was made is well.
    Passed,
    /// A check failed.
    Failed,
    /// Something that was asked for could not be checked, or nobody looked at the data.
    Inconclusive,
}

/// The result of `verify`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Report {
    /// How it came out.
    pub verdict: Verdict,
    /// What was asked.
    pub url: String,
    /// Versions that the service told, by part.
    pub versions: BTreeMap<String, String>,
    /// Each check, in the order in which it was made.
    pub checks: Vec<Finding>,
}

impl Report {
    /// What the process ends with.
    #[must_use]
    pub const fn exit_code(&self) -> ExitCode {
        match self.verdict {
            Verdict::Passed => ExitCode::Ok,
            Verdict::Failed => ExitCode::Verification,
            Verdict::Inconclusive => ExitCode::Failed,
        }
    }

    /// The same without the tokens, which a service may repeat: a report is not only printed.
    fn without_tokens(mut self) -> Self {
        let texts = self.checks.iter_mut().flat_map(|check| std::iter::once(&mut check.detail).chain(&mut check.fix));
        for text in texts.chain(self.versions.values_mut()) {
            *text = secret::blank(text).into_owned();
        }
        self
    }

    /// The verdict in one line; an end point that is open to everybody comes first.
    #[must_use]
    pub fn sentence(&self) -> String {
        let named = |status| {
            let names = self.checks.iter().filter(|check| check.status == status).map(|check| check.name.as_str());
            names.collect::<Vec<_>>().join(", ")
        };
        let skipped = named(Status::Skipped);
        let but = if skipped.is_empty() { String::new() } else { format!("; not looked at: {skipped}") };
        match self.verdict {
            Verdict::Passed => format!("passed{but}"),
            Verdict::Inconclusive => format!("inconclusive{but}"),
            Verdict::Failed => {
                let open = self.checks.iter().find(|check| check.detail.starts_with(auth::OPEN));
                let open = open.map(|check| format!("{}; ", check.detail)).unwrap_or_default();
                format!("failed: {open}{}{but}", named(Status::Failed))
            }
        }
    }
}

/// How long the checks may take of a service that may take `timeout` to be up: as long again, and half a minute at least.
#[must_use]
pub fn limit(timeout: Duration) -> Duration {
    timeout.max(Duration::from_secs(30))
}

/// The service that a verification is about: the chosen one, or the only one with probes.
///
/// # Errors
/// Usage, when there is none, or several and none was chosen.
pub fn service(profile: &Profile) -> Result<&Service> {
    let with: Vec<&Service> = profile.chosen_services().filter(|service| !service.probes.is_empty()).collect();
    match with[..] {
        [service] => Ok(service),
        [] => Err(Error::usage(format!("the profile {} has no probes here: there is nothing to ask", profile.name))),
        [first, ..] => {
            let names: Vec<&str> = with.iter().map(|service| service.name.as_str()).collect();
            let hint = format!("each has its own URL; choose one: --profile {}:{}", profile.name, first.name);
            Err(Error::usage(format!("the profile {} has several services: {}", profile.name, names.join(", ")))
                .hint(hint))
        }
    }
}

/// Verifies a service.
///
/// # Errors
/// Interrupted; usage, when a token cannot be sent. Whatever is wrong with the service is a finding.
pub async fn verify(request: &Request<'_>) -> Result<Report> {
    let mut random = [0_u8; 8];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
    let label = format!("{PROBE_LABEL}{:016x}", u64::from_le_bytes(random));
    let run = Run { request, http: Http::new(request.address, request.timeout)?, label };
    let mut found = Found::default();
    if let Err(error) = request.cancel.guard(run.all(&mut found)).await {
        let hurried = Run { http: run.http.within(HURRY), ..run };
        let left = hurried.remove_traces(&found).await;
        let left: Vec<&str> = left.iter().map(|(_, left)| left.as_str()).collect();
        return Err(if left.is_empty() { error } else { error.hint(format!("remove by hand: {}", left.join(", "))) });
    }
    Ok(found.into_report(request.address.shown()).without_tokens())
}

/// One verification.
struct Run<'a> {
    request: &'a Request<'a>,
    http: Http,
    /// The name of what this run makes in the service.
    label: String,
}

impl Run<'_> {
    /// Ends in time, however slow the service is: what is not checked by then is said to be open.
    async fn all(&self, found: &mut Found) -> Result<()> {
        let whole = self.request.timeout + self.request.limit;
        match tokio::time::timeout(whole, self.checks(found)).await {
            Ok(ended) => ended?,
            Err(_) => self.out_of_time(found, whole).await,
        }
        match &self.request.restart {
            Some(command) if !found.has("restart") => restart::run(self, command, found).await,
            _ => {}
        }
        Ok(())
    }

    /// Says what was not checked, and removes what was made.
    async fn out_of_time(&self, found: &mut Found, whole: Duration) {
        let why = format!("not within {}: the service answers too slowly", crate::ui::duration(whole));
        for (name, left) in self.remove_traces(found).await {
            found.add(Finding::failed(name, format!("still there: {left}"), "remove it by hand"), true);
        }
        (found.has_tokens, found.has_session) = (false, false);
        let probes = self.request.service.probes.iter().map(|probe| probe.name.clone());
        for name in probes.chain(self.planned().into_iter().map(|(name, _)| name)) {
            if !found.has(&name) {
                found.add(Finding::skipped(&name, why.clone()), true);
            }
        }
    }

    async fn checks(&self, found: &mut Found) -> Result<()> {
        let begun = Instant::now();
        let may_go_on = self.transport(found);
        if !may_go_on || !probes::run(self, found).await? {
            let why = if may_go_on { "the service does not answer" } else { "nothing is sent over this connection" };
            for (name, is_asked) in self.planned() {
                found.add(Finding::skipped(&name, why), is_asked);
            }
            return Ok(());
        }
        // The server says that it is up before its engine is.
        let until = begun + self.request.timeout;
        let state = state::State::read_settled(self, self.captured_sessions(), until, state::State::may_pass).await;
        workspaces::run(self, &state, found).await;
        sessions::run(self, &state, found).await;
        auth::run(self, &state, found).await?;
        if self.request.create_probe_tokens {
            scoped::run(self, &state, found).await?;
        }
        if self.request.write_probe {
            sessions::write(self, &state, found).await;
        }
        if let Some(against) = &self.request.against {
            against::run(self, against, &state, found).await;
        }
        Ok(())
    }

    /// Whether requests may be sent at all.
    fn transport(&self, found: &mut Found) -> bool {
        let address = self.request.address;
        let fix = "use https, or run this on the machine of the service";
        found.add(
            match (address.is_encrypted(), address.is_loopback()) {
                (true, _) => Finding::ok("transport", "encrypted"),
                (false, true) => Finding::ok("transport", "plain HTTP to this machine"),
                (false, false) => {
                    let detail = format!("plain HTTP to {}: whoever is on the way reads the tokens", address.host());
                    if self.request.strict {
                        Finding::failed("transport", detail, fix)
                    } else {
                        Finding::warning("transport", detail, fix)
                    }
                }
            },
            false,
        );
        found.checks.iter().all(|check| check.finding.status != Status::Failed)
    }

    /// The names of the checks after the probes, and whether they were asked for.
    fn planned(&self) -> Vec<(String, bool)> {
        let (request, service) = (self.request, self.request.service);
        let mut names: Vec<(String, bool)> = Vec::new();
        let mut add = |applies: bool, is_asked: bool, list: &[&str]| {
            names.extend(list.iter().filter(|_| applies).map(|name| ((*name).to_owned(), is_asked)));
        };
        add(service.workspaces.is_some(), false, &["workspaces", "workspaces.config", "workspaces.audit"]);
        add(service.sessions.is_some(), false, &["engine", "sessions"]);
        add(!service.auth.is_empty(), false, &["auth.none", "auth.wrong"]);
        for identity in &service.identities {
            add(!service.auth.is_empty(), false, &[&format!("auth.{}", identity.name)]);
        }
        add(service.whoami.is_some(), false, &["auth.token"]);
        for scope in service.scoped_tokens.iter().flat_map(|tokens| &tokens.scopes) {
            add(request.create_probe_tokens, true, &[&format!("auth.{scope}")]);
        }
        add(request.create_probe_tokens, true, &[scoped::LEFT]);
        add(request.write_probe, true, &["sessions.write"]);
        add(request.against.is_some(), true, &against::NAMES);
        add(request.restart.is_some(), true, &["restart"]);
        names
    }

    fn captured_sessions(&self) -> usize {
        self.request.against.as_ref().map_or(0, Against::session_count)
    }

    /// Removes what this run has made and not removed yet; what cannot be removed, with the check that it is from.
    async fn remove_traces(&self, found: &Found) -> Vec<(&'static str, String)> {
        let mut left = Vec::new();
        if found.has_tokens {
            left.extend(scoped::remove(self, found).await.err().map(|ids| (scoped::LEFT, ids)));
        }
        if found.has_session {
            left.extend(sessions::remove(self, found).await.left.map(|id| (sessions::WRITE, id)));
        }
        left
    }
}

/// What is wrong, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wrong {
    detail: String,
    fix: String,
    /// Whether a service that is still booting would answer so.
    may_pass: bool,
}

impl Wrong {
    fn new(detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { detail: detail.into(), fix: fix.into(), may_pass: false }
    }

    /// An answer that is not the success that was asked for, explained where its code is known.
    fn answer(path: &str, answer: &Answer, fix: &str) -> Self {
        let code = answer.json().and_then(|body| {
            let code = body.get("code").or_else(|| body.get("name"))?.as_str()?;
            let is_word = code.len() <= 40 && code.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'_');
            is_word.then(|| code.to_owned())
        });
        let says = code.as_ref().map(|code| format!(" {code}")).unwrap_or_default();
        let code = code.unwrap_or_default();
        let known = engine::explain(&code);
        let may_pass = engine::may_pass(&code) || (answer.status >= 500 && known.is_none());
        let fix = if answer.status == 401 { REFUSED } else { fix };
        let (why, fix) = known.map_or((String::new(), fix), |(why, fix)| (format!(": {why}"), fix));
        Self { may_pass, ..Self::new(format!("{path} answers {}{says}{why}", answer.in_words()), fix) }
    }

    fn failed(self, name: &str) -> Finding {
        Finding::failed(name, self.detail, self.fix)
    }
}

impl From<Trouble> for Wrong {
    fn from(trouble: Trouble) -> Self {
        Self { may_pass: trouble.passes(), ..Self::new(trouble.to_string(), trouble.fix()) }
    }
}

/// Whether something may stand in a path: an id as services make them.
fn is_id(text: &str) -> bool {
    (1..=200).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        && !text.starts_with('.')
}

/// Those of the first ids that are not among the second.
fn missing<'i, 't>(
    ids: impl IntoIterator<Item = &'i String>,
    there: impl IntoIterator<Item = &'t String>,
) -> Vec<&'i String> {
    let there: BTreeSet<&String> = there.into_iter().collect();
    ids.into_iter().filter(|id| !there.contains(id)).collect()
}

/// Ids for people: the first ones, and how many more.
fn named<'a>(ids: impl IntoIterator<Item = &'a String>) -> String {
    const SHOWN: usize = 20;
    let ids: Vec<&str> = ids.into_iter().map(String::as_str).collect();
    let more = ids.len().saturating_sub(SHOWN);
    let shown = ids.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{shown} and {more} more") } else { shown }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(findings: Vec<(Finding, bool)>) -> Report {
        let mut found = Found::default();
        findings.into_iter().for_each(|(finding, is_asked)| found.add(finding, is_asked));
        found.into_report("http://h")
    }

    #[test]
    fn what_was_asked_for_and_not_done_is_never_passed() {
        let skipped = || Finding::skipped("sessions.against", "not captured");
        assert_eq!(report(vec![(skipped(), true)]).verdict, Verdict::Inconclusive);
        assert_eq!(report(vec![(skipped(), false)]).verdict, Verdict::Passed);
        // Nobody has to ask for a look at the data.
        for name in found::DATA {
            assert_eq!(
                report(vec![(Finding::skipped(name, "no token"), false)]).verdict,
                Verdict::Inconclusive,
                "{name}"
            );
        }
        let failed = Finding::failed("health", "x", "y");
        assert_eq!(report(vec![(skipped(), true), (failed, false)]).verdict, Verdict::Failed);
        assert_eq!(report(vec![(Finding::warning("a", "b", "c"), true)]).verdict, Verdict::Passed);
        assert_eq!(
            [Verdict::Passed, Verdict::Failed, Verdict::Inconclusive]
                .map(|verdict| { Report { verdict, ..report(vec![]) }.exit_code().code() }),
            [0, 5, 1]
        );
    }

    #[test]
    fn the_verdict_begins_with_what_is_open_to_everybody() {
        let open = Finding::failed("auth.none", format!("{}: GET /x", auth::OPEN), "close it");
        let said = report(vec![(Finding::failed("health", "x", "y"), false), (open, false)]).sentence();
        assert!(said.starts_with(&format!("failed: {}: GET /x; health, auth.none", auth::OPEN)), "{said}");
        let skipped = |name| report(vec![(Finding::skipped(name, "no token"), false)]).sentence();
        assert_eq!(skipped("auth.host"), "passed; not looked at: auth.host");
        assert_eq!(skipped("sessions"), "inconclusive; not looked at: sessions");
    }

    #[test]
    fn ids_that_could_change_a_path_are_none() {
        assert!(["ws_bd8634c3e63c", "ses_e03cc0eb1ffeCGJ6RP8JxbVrAA"].iter().all(|id| is_id(id)));
        assert!(!["", "..", "a/b", "a?b", "a%2fb", "a b", ".x"].iter().any(|id| is_id(id)));
    }

    #[test]
    fn at_most_twenty_ids_are_named() {
        let ids: Vec<String> = (0..25).map(|n| format!("s{n}")).collect();
        assert!(named(&ids).ends_with("s19 and 5 more"), "{}", named(&ids));
        assert_eq!(named(&ids[..2]), "s0, s1");
    }
}
