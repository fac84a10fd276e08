//! Picks the snapshot that a command works on.
//!
//! Invariants: only an accepted snapshot is ever returned; which source is meant is never guessed; an older snapshot is
//! never returned in place of one that the store does not hand out.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::snapshots::{Listing, Problem, Snapshot};
use crate::archive::receipt::SnapshotId;
use crate::{Error, ExitCode, Result};

/// Which snapshot is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// The newest.
    Latest,
    /// The newest that ended at or before this time.
    At(Timestamp),
    /// By id, by a start of an id that only one snapshot has, or `latest`.
    Id(String),
}

/// The snapshot of `listing` that is asked for.
///
/// # Errors
/// Exit 2 if several sources or snapshots fit, 4 if what is asked for cannot be trusted or read, 10 if there is none, 1 if
/// the newest that fits may be one that the store does not hand out.
pub fn choose<'a>(listing: &'a Listing, source: Option<&str>, which: &Which) -> Result<&'a Snapshot> {
    let end = match which {
        Which::Id(id) if id != "latest" => return by_id(listing, source, id),
        Which::Id(_) | Which::Latest => Timestamp::MAX,
        Which::At(time) => *time,
    };
    let source = match source {
        Some(source) => source,
        None => only_source(listing)?,
    };
    let mut of_source = listing.accepted().filter(|s| s.source == source);
    let chosen = of_source.rfind(|s| s.receipt.finished_at <= end);
    if let Some(problem) = problems_after(listing, source, chosen, end).find(|p| p.unreachable) {
        return Err(unreachable(problem));
    }
    match chosen {
        Some(snapshot) => Ok(snapshot),
        None => Err(none_left(listing, source, end)),
    }
}

/// What was passed over because it cannot be trusted or read although it may be what `which` asks for instead of
/// `chosen`: one line each.
#[must_use]
pub fn skipped(listing: &Listing, chosen: &Snapshot, which: &Which) -> Vec<String> {
    let end = match which {
        Which::At(time) => *time,
        Which::Latest | Which::Id(_) => Timestamp::MAX,
    };
    let fits = |s: &Snapshot| s.source == chosen.source && s.id > chosen.id && s.receipt.finished_at <= end;
    let rejected = listing.rejected().filter(|(s, _)| fits(s)).map(|(s, why)| format!("{} is skipped: {why}", s.id));
    let problems = problems_after(listing, &chosen.source, Some(chosen), end);
    rejected.chain(problems.map(|p| format!("{} is skipped: {}", p.key, p.reason))).collect()
}

/// The unreadable receipts of a source that by their names are newer than `chosen` and ended at or before `end`.
fn problems_after<'a>(
    listing: &'a Listing,
    source: &'a str,
    chosen: Option<&'a Snapshot>,
    end: Timestamp,
) -> impl Iterator<Item = &'a Problem> {
    let fits = move |id: SnapshotId| id.finished_at() <= end && chosen.is_none_or(|chosen| id > chosen.id);
    let of_source = listing.problems.iter().filter(move |p| p.source.as_deref() == Some(source));
    of_source.filter(move |p| p.id().is_some_and(fits))
}

fn unreachable(problem: &Problem) -> Error {
    let message =
        format!("{} may be the snapshot that is asked for, but it cannot be had: {}", problem.key, problem.reason);
    Error::new(ExitCode::Failed, message).hint("try again later, or name another snapshot by --snapshot ID")
}

fn only_source(listing: &Listing) -> Result<&str> {
    let sources: BTreeSet<&str> = listing.accepted().map(|s| s.source.as_str()).collect();
    match sources.len() {
        1 => Ok(sources.first().copied().unwrap_or_default()),
        0 => Err(nothing_at_all(listing)),
        _ => {
            let names: Vec<&str> = sources.into_iter().collect();
            Err(Error::usage(format!("the store holds {} sources: {}", names.len(), names.join(", ")))
                .hint("name one by --source"))
        }
    }
}

fn by_id<'a>(listing: &'a Listing, source: Option<&str>, id: &str) -> Result<&'a Snapshot> {
    let in_source = |s: &str| source.is_none_or(|wanted| wanted == s);
    let fits = |s: &&Snapshot| in_source(&s.source) && s.id.as_str().starts_with(id);
    let found: Vec<&Snapshot> =
        if id.is_empty() { Vec::new() } else { listing.snapshots.iter().filter(fits).collect() };
    match found[..] {
        [snapshot] => match snapshot.trust.reason() {
            None => Ok(snapshot),
            Some(why) => Err(Error::integrity(format!("the receipt {} cannot be trusted: {why}", snapshot.key()))
                .hint("`opsctl list` shows which snapshots can be")),
        },
        [] => Err(no_such_id(listing, in_source, id)),
        _ => {
            // What nobody may use makes nothing ambiguous.
            let mut accepted = found.iter().filter(|s| s.trust.is_accepted());
            if let (Some(only), None) = (accepted.next(), accepted.next()) {
                return Ok(only);
            }
            let ids: Vec<String> = found.iter().take(5).map(|s| format!("{} ({})", s.id, s.source)).collect();
            Err(Error::usage(format!("{id:?} fits {} snapshots: {}", found.len(), ids.join(", ")))
                .hint("give more of the id, or name the source by --source"))
        }
    }
}

fn no_such_id(listing: &Listing, in_source: impl Fn(&str) -> bool, id: &str) -> Error {
    let named = |key: &str| !id.is_empty() && key.rsplit('/').next().is_some_and(|name| name.starts_with(id));
    let mut of_source = listing.problems.iter().filter(|p| p.source.as_deref().is_none_or(&in_source));
    if let Some(problem) = of_source.find(|p| named(&p.key)) {
        if problem.unreachable {
            return unreachable(problem);
        }
        return Error::integrity(format!("{} cannot be read: {}", problem.key, problem.reason));
    }
    let error = Error::new(ExitCode::NotFound, format!("there is no snapshot {id:?}"));
    let newest = listing.accepted().filter(|s| in_source(&s.source)).max_by_key(|s| &s.id);
    error.hint(newest_hint(newest))
}

fn none_left(listing: &Listing, source: &str, end: Timestamp) -> Error {
    if let Some(error) = all_refused(listing, Some(source), end) {
        return error;
    }
    let newest = listing.accepted().rfind(|s| s.source == source);
    if newest.is_some() {
        let oldest = listing.accepted().find(|s| s.source == source);
        let first = oldest.map(|s| format!("; the oldest ended at {}", s.receipt.finished_at)).unwrap_or_default();
        let message = format!("source {source:?} has no snapshot that ended at or before {end}{first}");
        return Error::new(ExitCode::NotFound, message).hint(newest_hint(newest));
    }
    let sources: BTreeSet<&str> = listing.accepted().map(|s| s.source.as_str()).collect();
    let names: Vec<&str> = sources.into_iter().collect();
    let error = Error::new(ExitCode::NotFound, format!("the store has no source {source:?}"));
    if names.is_empty() {
        error.hint("`opsctl list` without --source shows what it holds")
    } else {
        error.hint(format!("it holds: {}", names.join(", ")))
    }
}

fn nothing_at_all(listing: &Listing) -> Error {
    all_refused(listing, None, Timestamp::MAX).unwrap_or_else(|| {
        Error::new(ExitCode::NotFound, "the store holds no snapshot yet").hint("`opsctl snapshot` takes one")
    })
}

/// The error for a source (or store) whose every snapshot that ended by `end` is rejected or unreadable; `None` if there
/// is none at all.
fn all_refused(listing: &Listing, source: Option<&str>, end: Timestamp) -> Option<Error> {
    let of_source = |s: Option<&str>| source.is_none() || s == source;
    // An object whose name says no time counts only where no time was asked for.
    let by_end = |p: &&Problem| end == Timestamp::MAX || p.id().is_some_and(|id| id.finished_at() <= end);
    let unreadable = || listing.problems.iter().filter(|p| of_source(p.source.as_deref())).filter(by_end);
    if let Some(problem) = unreadable().find(|p| p.unreachable) {
        return Some(unreachable(problem));
    }
    let rejected = listing.rejected().filter(|(s, _)| of_source(Some(&s.source)) && s.receipt.finished_at <= end);
    let rejected = rejected.map(|(s, why)| (s.key(), why)).last();
    let (key, why) = rejected.or_else(|| unreadable().map(|p| (p.key.clone(), p.reason.as_str())).next_back())?;
    let by = if end == Timestamp::MAX { String::new() } else { format!(" that ended at or before {end}") };
    Some(
        Error::integrity(format!("no snapshot{by} can be trusted; the newest, {key}: {why}"))
            .hint("`opsctl list` shows the reason for each; check --trusted-signer, and the clock of the host"),
    )
}

fn newest_hint(newest: Option<&Snapshot>) -> String {
    match newest {
        Some(s) => {
            format!("the newest available is {} of source {:?}, ended at {}", s.id, s.source, s.receipt.finished_at)
        }
        None => "there is no snapshot that could be used instead".into(),
    }
}
