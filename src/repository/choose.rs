//! Picks the snapshot that a command works on.
//!
//! Invariants: only an accepted snapshot is ever returned; which source is meant is never guessed.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::snapshots::{Listing, Snapshot};
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
/// Exit 2 if several sources or snapshots fit, 4 if what is asked for cannot be trusted or read, 10 if there is none.
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
    match of_source.rfind(|s| s.receipt.finished_at <= end) {
        Some(snapshot) => Ok(snapshot),
        None => Err(none_left(listing, source, end)),
    }
}

/// What was passed over because it cannot be trusted or read although it may be newer than `chosen`: one line each.
#[must_use]
pub fn skipped(listing: &Listing, chosen: &Snapshot) -> Vec<String> {
    let newer = |s: &Snapshot| s.source == chosen.source && s.id > chosen.id;
    let rejected = listing.rejected().filter(|(s, _)| newer(s)).map(|(s, why)| format!("{} is skipped: {why}", s.id));
    let of_source = listing.problems.iter().filter(|p| p.source.as_deref() == Some(&chosen.source));
    let unreadable = of_source.map(|p| format!("{} is skipped: {}", p.key, p.reason));
    rejected.chain(unreadable).collect()
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
            Some(why) => Err(Error::integrity(format!("snapshot {} cannot be trusted: {why}", snapshot.id))
                .hint("`opsctl list` shows which snapshots can be")),
        },
        [] => Err(no_such_id(listing, in_source, id)),
        _ => {
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
        return Error::integrity(format!("{} cannot be read: {}", problem.key, problem.reason));
    }
    let error = Error::new(ExitCode::NotFound, format!("there is no snapshot {id:?}"));
    let newest = listing.accepted().filter(|s| in_source(&s.source)).max_by_key(|s| &s.id);
    error.hint(newest_hint(newest))
}

fn none_left(listing: &Listing, source: &str, end: Timestamp) -> Error {
    let newest = listing.accepted().rfind(|s| s.source == source);
    if newest.is_some() {
        let oldest = listing.accepted().find(|s| s.source == source);
        let first = oldest.map(|s| format!("; the oldest ended at {}", s.receipt.finished_at)).unwrap_or_default();
        let message = format!("source {source:?} has no snapshot that ended at or before {end}{first}");
        return Error::new(ExitCode::NotFound, message).hint(newest_hint(newest));
    }
    if let Some(error) = all_refused(listing, Some(source)) {
        return error;
    }
    let sources: BTreeSet<&str> = listing.accepted().map(|s| s.source.as_str()).collect();
    let names: Vec<&str> = sources.into_iter().collect();
    let error = Error::new(ExitCode::NotFound, format!("the store has no source {source:?}"));
    if names.is_empty() {
        error.hint("it holds no snapshot yet")
    } else {
        error.hint(format!("it holds: {}", names.join(", ")))
    }
}

fn nothing_at_all(listing: &Listing) -> Error {
    all_refused(listing, None).unwrap_or_else(|| {
        Error::new(ExitCode::NotFound, "the store holds no snapshot yet").hint("`opsctl snapshot` takes one")
    })
}

/// The error for a source (or store) whose every snapshot is rejected or unreadable; `None` if there is none at all.
fn all_refused(listing: &Listing, source: Option<&str>) -> Option<Error> {
    let of_source = |s: Option<&str>| source.is_none() || s == source;
    let rejected = listing.rejected().filter(|(s, _)| of_source(Some(&s.source)));
    let rejected = rejected.map(|(s, why)| (s.key(), why)).last();
    let unreadable = listing.problems.iter().filter(|p| of_source(p.source.as_deref()));
    let (key, why) = rejected.or_else(|| unreadable.map(|p| (p.key.clone(), p.reason.as_str())).next_back())?;
    Some(
        Error::integrity(format!("no snapshot can be trusted; the newest, {key}: {why}"))
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
