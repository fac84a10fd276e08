//! What goes wrong with 1Password, by what the caller can do about it.
//!
//! Invariant: text of the other side is one short line without control characters ([`quoted`]).

use std::time::Duration;

use crate::{Error, ExitCode, ui};

/// Longer texts are cut.
const LONGEST: usize = 300;

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// No such vault, item or field, or it may not be seen.
    #[error("{0}")]
    Missing(String),
    /// What was named is not there.
    #[error("{message}")]
    Absent { message: String, hint: &'static str },
    /// A name stands for several things.
    #[error("{0}")]
    Ambiguous(String),
    /// The credential is missing, wrong or not allowed to.
    #[error("{0}")]
    Denied(String),
    /// Too many requests.
    #[error("{0}")]
    Limited(String),
    /// Two edits met: this one was not made.
    #[error("{0}")]
    Conflict(String),
    /// It is not any more what it was when it was read.
    #[error("{0}")]
    Changed(String),
    /// What is asked for cannot be done, or had better not be.
    #[error("{message}")]
    Unfit { message: String, hint: &'static str },
    /// Nothing came back in time.
    #[error("no answer within {} s", .0.as_secs_f64())]
    Slow(Duration),
    /// Everything else.
    #[error("{message}")]
    Broken { message: String, hint: &'static str },
    /// Asked to stop.
    #[error("interrupted")]
    Interrupted,
}

impl Failure {
    pub(super) fn unfit(message: impl Into<String>, hint: &'static str) -> Self {
        Self::Unfit { message: message.into(), hint }
    }

    pub(super) fn broken(message: impl Into<String>, hint: &'static str) -> Self {
        Self::Broken { message: message.into(), hint }
    }

    /// Whether what was asked for may have been done all the same.
    pub(super) const fn is_open(&self) -> bool {
        matches!(self, Self::Slow(_) | Self::Broken { .. })
    }

    const fn code(&self) -> ExitCode {
        match self {
            Self::Missing(_) | Self::Absent { .. } => ExitCode::NotFound,
            Self::Ambiguous(_) | Self::Unfit { .. } => ExitCode::Usage,
            Self::Denied(_) => ExitCode::Denied,
            Self::Limited(_) => ExitCode::RateLimited,
            Self::Conflict(_) | Self::Changed(_) => ExitCode::Busy,
            Self::Slow(_) | Self::Broken { .. } => ExitCode::Failed,
            Self::Interrupted => ExitCode::Interrupted,
        }
    }

    const fn fix(&self) -> &'static str {
        match self {
            Self::Missing(_) => {
                "1Password does not say whether it is missing or may not be seen: check the name, and which vaults the token may read"
            }
            Self::Ambiguous(_) => "put the id in place of the name, or rename one of them in 1Password",
            Self::Denied(_) => {
                "check the token, and that it may read (and for `rotate` write) the vault; tokens are made in 1Password under Developer"
            }
            Self::Limited(_) => {
                "wait as long as it says; `op service-account ratelimit` shows what is left, and the limit of a day is one for all tokens of the account"
            }
            Self::Conflict(_) | Self::Changed(_) => {
                "let the other edit come to its end, then run the same command again"
            }
            Self::Unfit { hint, .. } | Self::Absent { hint, .. } | Self::Broken { hint, .. } => hint,
            Self::Slow(_) => "look at the network and at status.1password.com, then run the same command again",
            Self::Interrupted => "",
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        if matches!(failure, Failure::Interrupted) {
            return Self::interrupted();
        }
        Self::new(failure.code(), failure.to_string()).hint(failure.fix())
    }
}

/// Text of the other side as it is shown: its first line, escaped, and not too much of it.
pub(super) fn quoted(text: &str) -> String {
    let line = text.trim().lines().next().unwrap_or_default();
    let mut shown: String = line.chars().take(LONGEST).collect();
    if shown.len() < line.len() {
        shown.push('…');
    }
    ui::escape(&shown)
}
