//! Exit codes: the one place that says what a finished process tells its caller.
//!
//! Invariants: codes never change meaning, an unknown code must be treated as failure,
//! and the table in `docs/exit-codes.md` is made from [`ExitCode::ALL`].

use std::fmt;

/// How a command ended. The number is the process's exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ExitCode {
    /// Everything asked for was done.
    Ok = 0,
    /// Failed for a reason that has no code of its own.
    Failed = 1,
    /// The command line, a variable or the configuration file is wrong, or a confirmation is missing.
    Usage = 2,
    /// Finished, but something is missing from the result: it is named in the output.
    Incomplete = 3,
    /// A hash, a signature or a format does not hold.
    Integrity = 4,
    /// A probe or a drill failed.
    Verification = 5,
    /// Changes are pending (`--detailed-exit-code`).
    Pending = 6,
    /// No such store, snapshot, source, path, vault, item, field or service.
    NotFound = 10,
    /// Another process holds the lock, or somebody changes the same thing.
    Busy = 11,
    /// A key or credential was refused or is missing.
    Denied = 12,
    /// The other side limits the rate of requests.
    RateLimited = 13,
    /// Not enough space.
    NoSpace = 14,
    /// Stopped by SIGINT or SIGTERM.
    Interrupted = 130,
}

impl ExitCode {
    /// Every code, in order of number.
    pub const ALL: [Self; 13] = [
        Self::Ok,
        Self::Failed,
        Self::Usage,
        Self::Incomplete,
        Self::Integrity,
        Self::Verification,
        Self::Pending,
        Self::NotFound,
        Self::Busy,
        Self::Denied,
        Self::RateLimited,
        Self::NoSpace,
        Self::Interrupted,
    ];

    /// The process exit status.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The stable word for this code, as it stands in `error.kind` of JSON output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::Usage => "usage",
            Self::Incomplete => "incomplete",
            Self::Integrity => "integrity",
            Self::Verification => "verification",
            Self::Pending => "pending",
            Self::NotFound => "not_found",
            Self::Busy => "busy",
            Self::Denied => "denied",
            Self::RateLimited => "rate_limited",
            Self::NoSpace => "no_space",
            Self::Interrupted => "interrupted",
        }
    }

    /// One line for the documentation.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Ok => "everything asked for was done",
            Self::Failed => "failed for a reason without a code of its own",
            Self::Usage => "wrong command line, variable or configuration; confirmation missing",
            Self::Incomplete => {
                "finished, but incomplete: files unreadable or changing, or a service not verified, written or deployed in whole; \
                 named in the output"
            }
            Self::Integrity => "integrity: a hash, signature or format does not hold",
            Self::Verification => "verification failed: a probe or a drill, or secrets that are not as 1Password says",
            Self::Pending => "changes are pending (`--detailed-exit-code`)",
            Self::NotFound => "no such store, snapshot, source or path; no such vault, item, field or service",
            Self::Busy => "busy: another process holds the lock, or another person changes the same thing",
            Self::Denied => "a key or credential is missing or was refused",
            Self::RateLimited => "the other side limits the rate of requests",
            Self::NoSpace => "not enough space",
            Self::Interrupted => "interrupted by SIGINT or SIGTERM",
        }
    }
}

impl fmt::Display for ExitCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
