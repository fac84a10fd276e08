//! Why a request to Railway brought nothing.
//!
//! Invariants: no body is shown. Of an error that Railway tells, the message is shown shortened and escaped, and not at all
//! where the request held values or the message repeats the token: a server may repeat what it was sent.

use std::fmt;
use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use serde::Deserialize;

use crate::providers::wiped::Unread;
use crate::secret::Secret;
use crate::{Error, ExitCode};

/// Longer texts of a server are cut.
const LONGEST: usize = 300;

/// Which credential is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// For one environment of one project.
    Project,
    /// An account's, or a workspace's.
    Api,
}

/// What a request is for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Task {
    /// As it follows on "cannot".
    pub what: &'static str,
    /// Whether it may be sent again.
    pub repeat: Repeat,
    /// What to do where nobody knows whether it was carried out.
    pub unsure: &'static str,
}

/// Whether a request may be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repeat {
    /// It changes nothing.
    Read,
    /// Twice is the same as once.
    Write,
    /// Twice is more than once.
    Never,
}

/// A request that brought nothing.
#[derive(Debug, thiserror::Error)]
#[error("cannot {} at Railway: {why}", .task.what)]
pub(super) struct Failure {
    pub task: Task,
    pub token: Token,
    #[source]
    pub why: Why,
}

/// What happened, by what can be done about it.
#[derive(Debug, thiserror::Error)]
pub(super) enum Why {
    /// It was not sent.
    #[error("it could not be reached")]
    Unreached(#[source] reqwest::Error),
    /// It may have been sent.
    #[error("the connection failed before an answer was there")]
    Lost(#[source] reqwest::Error),
    #[error("no answer within {} s", .0.as_secs())]
    Silent(Duration),
    #[error("{0}")]
    Unread(#[source] Unread),
    #[error("it is out of order{0}")]
    Down(Told),
    #[error("the token was refused{0}")]
    Denied(Told),
    #[error("the workspace asks for two-factor authentication{0}")]
    TwoFactor(Told),
    #[error("there is no such thing{0}")]
    Missing(Told),
    #[error("it limits the rate of requests{}{}", .0.when(), .1)]
    Limited(Limit, Told),
    /// Not by Railway itself.
    #[error("Cloudflare, which stands before it, has blocked this address for sending too many requests (error 1015)")]
    Blocked,
    #[error("it refused the request{0}")]
    Refused(Told),
    #[error("{0}")]
    Strange(String),
    #[error("it sends whoever asks elsewhere, {0}")]
    Redirected(String),
}

impl Why {
    /// What stopped a request on its way.
    pub fn of_connection(error: reqwest::Error, limit: Duration) -> Self {
        let error = error.without_url();
        if error.is_connect() {
            Self::Unreached(error)
        } else if error.is_timeout() {
            Self::Silent(limit)
        } else {
            Self::Lost(error)
        }
    }

    /// What stopped an answer on its way.
    pub fn of_answer(unread: Unread, limit: Duration) -> Self {
        match unread {
            Unread::Cut(error) if error.is_timeout() => Self::Silent(limit),
            Unread::Cut(error) => Self::Unread(Unread::Cut(error.without_url())),
            large @ Unread::Large(_) => Self::Unread(large),
        }
    }

    /// What the first of the errors in an answer says.
    pub fn of_errors(status: StatusCode, headers: &HeaderMap, told: &[Telling], hide: &dyn Fn(&str) -> bool) -> Self {
        let first = told.first();
        let nothing = || (Default::default(), Told::status(status));
        let (words, told) = first.map_or_else(nothing, |first| (first.words(), Told::of(first, hide)));
        let says = |texts: &[&str]| texts.iter().any(|text| words.contains(text));
        if status == StatusCode::TOO_MANY_REQUESTS || says(&["rate limit", "too many requests", "too quickly"]) {
            Self::Limited(Limit::of(headers), told)
        } else if status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT {
            Self::Down(told)
        } else if says(&["two factor authentication required"]) {
            Self::TwoFactor(told)
        } else if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
            || says(&["not authorized", "unauthorized", "project token not found", "invalid token"])
            || matches!(told.code.as_deref(), Some("UNAUTHENTICATED" | "FORBIDDEN"))
        {
            Self::Denied(told)
        } else if says(&["not found"]) {
            Self::Missing(told)
        } else if first.is_none() {
            Self::Strange(format!("HTTP status {}", status.as_u16()))
        } else {
            Self::Refused(told)
        }
    }

    /// How long to wait before the same is sent again, where that may help: the time that Railway asks for, if it is short,
    /// or `delay`.
    pub fn wait(&self, longest: Duration, delay: Option<Duration>) -> Option<Duration> {
        match self {
            Self::Limited(limit, _) => limit.after.filter(|after| *after <= longest).and(delay).and(limit.after),
            Self::Unreached(_) | Self::Lost(_) | Self::Silent(_) | Self::Down(_) | Self::Unread(Unread::Cut(_)) => {
                delay
            }
            _ => None,
        }
    }

    /// Whether Railway may have done what it was asked for.
    fn is_unsure(&self, task: &Task) -> bool {
        let is_change = task.repeat != Repeat::Read;
        is_change
            && matches!(self, Self::Lost(_) | Self::Silent(_) | Self::Unread(_) | Self::Down(_) | Self::Strange(_))
    }

    const fn code(&self) -> ExitCode {
        match self {
            Self::Denied(_) | Self::TwoFactor(_) => ExitCode::Denied,
            Self::Limited(..) | Self::Blocked => ExitCode::RateLimited,
            Self::Missing(_) => ExitCode::NotFound,
            _ => ExitCode::Failed,
        }
    }
}

impl Failure {
    fn hint(&self) -> Option<String> {
        if self.why.is_unsure(&self.task) {
            return Some(format!("nobody knows whether it was carried out: {}", self.task.unsure));
        }
        let hint = match &self.why {
            Why::Denied(_) => self.token.hint(),
            Why::TwoFactor(_) => {
                "turn it on for the account of the token, or give a project token in RAILWAY_TOKEN, which needs none"
            }
            Why::Missing(_) => "check the ids of the project, the environment and the services in the configuration",
            Why::Limited(..) => "run the same command again then: what it has done before stays done",
            Why::Blocked => {
                "such a block has lasted for up to a day: wait, or run the command from another network address"
            }
            Why::Unreached(_) => "check the network, and OPSCTL_RAILWAY_URL if it is set",
            Why::Redirected(_) => "set OPSCTL_RAILWAY_URL to the end point that it redirects to, if that is Railway's",
            Why::Refused(told) if told.trace.is_some() => "Railway's support finds the request by its trace",
            Why::Strange(_) => "check that OPSCTL_RAILWAY_URL, if it is set, is the end point of Railway's GraphQL API",
            Why::Down(_) | Why::Lost(_) | Why::Silent(_) | Why::Unread(_) => "run the same command again later",
            Why::Refused(_) => return None,
        };
        Some(hint.to_owned())
    }
}

impl Token {
    /// What the credential may do.
    pub const fn hint(self) -> &'static str {
        match self {
            Self::Project => {
                "RAILWAY_TOKEN is used, which has to be a project token, for one environment of one project: make one in the \
                 settings of the project, for the environment that the configuration names. The token of an account or a \
                 workspace belongs into RAILWAY_API_TOKEN"
            }
            Self::Api => {
                "RAILWAY_API_TOKEN is used, the token of an account or a workspace: it needs access to the project. A project \
                 token in RAILWAY_TOKEN is enough, and can do less harm"
            }
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let hint = failure.hint();
        let error = Self::new(failure.why.code(), failure.to_string()).because(failure);
        hint.into_iter().fold(error, Self::hint)
    }
}

/// When Railway takes requests again.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Limit {
    after: Option<Duration>,
}

impl Limit {
    fn of(headers: &HeaderMap) -> Self {
        let text = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()).map(str::trim).unwrap_or_default();
        let at = || jiff::fmt::rfc2822::parse(text).ok().map(|at| at.timestamp());
        let left = || Duration::try_from(at()?.duration_since(jiff::Timestamp::now())).ok();
        Self { after: text.parse().ok().map(Duration::from_secs).or_else(left) }
    }

    fn when(&self) -> String {
        match self.after.map(|after| after.as_secs()) {
            None => ", and does not say for how long: the limits are for each second and each hour".to_owned(),
            Some(seconds @ ..120) => format!(": again in {seconds} s"),
            Some(seconds) => format!(": again in {} min", seconds.div_ceil(60)),
        }
    }
}

/// An error as it stands in an answer.
#[derive(Deserialize)]
pub(super) struct Telling {
    message: Option<Secret>,
    #[serde(default)]
    extensions: Option<Extensions>,
    #[serde(default, rename = "traceId")]
    trace: Option<Secret>,
}

#[derive(Deserialize)]
struct Extensions {
    code: Option<Secret>,
    #[serde(default, rename = "traceId")]
    trace: Option<Secret>,
}

impl Telling {
    /// The message in lower case, to be looked at and not to be shown.
    fn words(&self) -> zeroize::Zeroizing<String> {
        let message = self.message.as_ref().map(|text| text.expose()).unwrap_or_default();
        zeroize::Zeroizing::new(message.to_lowercase())
    }
}

/// What may be shown of it.
#[derive(Debug, Default)]
pub(super) struct Told {
    message: Option<String>,
    code: Option<String>,
    trace: Option<String>,
}

impl Told {
    /// What an answer says that holds no error.
    fn status(status: StatusCode) -> Self {
        Self { message: Some(format!("HTTP status {}", status.as_u16())), ..Self::default() }
    }

    fn of(telling: &Telling, hide: &dyn Fn(&str) -> bool) -> Self {
        let shown = |text: &Secret| (!hide(text.expose())).then(|| safe(text.expose())).filter(|text| !text.is_empty());
        let word = |text: &Secret| is_word(text.expose()).then(|| text.expose().to_owned());
        let extensions = telling.extensions.as_ref();
        let trace = telling.trace.as_ref().or_else(|| extensions?.trace.as_ref());
        Self {
            message: telling.message.as_ref().and_then(shown),
            code: extensions.and_then(|extensions| extensions.code.as_ref()).and_then(word),
            trace: trace.and_then(word),
        }
    }
}

/// Whether it is an id or a code, and short: then it repeats no value.
fn is_word(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-:.".contains(&byte))
}

/// A text of the server as it may be shown.
pub(super) fn safe(text: &str) -> String {
    let mut safe: String = text.chars().take(LONGEST).flat_map(shown).collect();
    if text.chars().nth(LONGEST).is_some() {
        safe.push('…');
    }
    safe
}

fn shown(c: char) -> impl Iterator<Item = char> {
    // Quotation marks need no escape in a message.
    let plain = matches!(c, '"' | '\'').then_some(c);
    plain.into_iter().chain(plain.is_none().then(|| c.escape_debug()).into_iter().flatten())
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(message) = &self.message {
            write!(f, ": {message}")?;
        }
        match (&self.code, &self.trace) {
            (None, None) => Ok(()),
            (Some(code), None) => write!(f, " ({code})"),
            (None, Some(trace)) => write!(f, " (trace {trace})"),
            (Some(code), Some(trace)) => write!(f, " ({code}, trace {trace})"),
        }
    }
}
