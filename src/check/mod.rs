//! Proves that a store still holds what its receipts promise, and says exactly what is lost if it does not.
//!
//! Two levels need no key, so an auditor or a monitor can run them. Damage never stops a check: everything damaged is
//! listed, with the snapshots, and given an identity the files, that it hurts. What does stop it is a store that
//! cannot be reached or a wrong identity, because then nothing is known.
//!
//! Invariants:
//! * Every pack is downloaded once at most for its hash and its chunks; files of several chunks are read again, in
//!   order, for their own hash.
//! * Memory: the fetch budget, plus about 100 bytes for each object, and at level `decrypt` for each distinct chunk.

mod content;
mod findings;
mod hurt;
mod inventory;
pub mod options;
#[cfg(test)]
mod tests;

use schemars::JsonSchema;
use serde::Serialize;

use crate::archive::hash::Hash;
use crate::archive::keyring::Identities;
use crate::archive::packlist::PackLine;
use crate::cancel::Cancel;
use crate::repository::{FetchOptions, FetchPlan, Listing, OnFailure, Repository};
use crate::{Error, ExitCode, Result};

use findings::Findings;
use inventory::Inventory;
pub use options::{Level, Subset};

/// What to check.
#[derive(Clone)]
pub struct CheckOptions<'a> {
    /// How deep.
    pub level: Level,
    /// Ids or starts of ids of the snapshots to check; empty for all in the listing.
    pub snapshots: Vec<String>,
    /// Which packs to read; `None` for all. Level `list` covers all packs in any case.
    pub subset: Option<Subset>,
    /// Parallelism, memory and progress. What it says about failures does not count.
    pub fetch: FetchOptions<'a>,
}

/// One damaged object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Damaged {
    /// The object's name in the store.
    pub object: String,
    /// What is wrong with it.
    pub reason: String,
    /// The snapshots that need it.
    pub snapshots: Vec<String>,
    /// The files, of any of these snapshots, that cannot be restored without it. Empty without an identity. Bytes that
    /// are not UTF-8 and control characters are written as `\\xNN`, the backslash as `\\\\`.
    pub files: Vec<String>,
}

/// The result of a check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Report {
    /// How deep it went.
    pub level: Level,
    /// Snapshots checked.
    pub snapshots: u64,
    /// Objects checked.
    pub objects: u64,
    /// Bytes downloaded.
    pub bytes: u64,
    /// Requests sent to the store since it was opened, retries included.
    pub requests: u64,
    /// How many of them were retries.
    pub retries: u64,
    /// Everything that is damaged, missing or not to be believed, by name.
    pub damaged: Vec<Damaged>,
    /// What is odd, but is no damage.
    pub warnings: Vec<String>,
}

impl Report {
    /// Exit 4 if anything is damaged.
    #[must_use]
    pub const fn exit_code(&self) -> ExitCode {
        if self.damaged.is_empty() { ExitCode::Ok } else { ExitCode::Integrity }
    }
}

/// Checks the snapshots of `listing`. `identities` are needed for level `decrypt`; at the other levels they serve to
/// name the files that damage hurts.
///
/// # Errors
/// Exit 12 for an identity that is missing or wrong at level `decrypt`, 10 and 2 for a snapshot that is not there or not clear, 130 when
/// cancelled, else what the store says. Damage is no error but in the report.
pub async fn check(
    repository: &Repository,
    listing: &Listing,
    options: &CheckOptions<'_>,
    identities: Option<&Identities>,
    cancel: &Cancel,
) -> Result<Report> {
    if options.level == Level::Decrypt && identities.is_none() {
        return Err(Error::new(ExitCode::Denied, "level decrypt needs an identity")
            .hint("give --identity, or use --level hash, which needs no key"));
    }
    if options.level == Level::List && options.subset.is_some() {
        return Err(Error::usage("--subset needs --level hash or decrypt: level list reads no packs"));
    }
    let received_before = repository.store().stats().bytes_received;
    let mut findings = Findings::default();
    let inventory = cancel.guard(Inventory::take(repository, listing, &options.snapshots, &mut findings)).await?;

    let fetch = FetchOptions { on_failure: OnFailure::Collect, ..options.fetch };
    let is_chosen = |pack: Hash| options.subset.is_none_or(|subset| subset.contains(pack));
    let chosen: Vec<PackLine> = inventory.intact_packs(&findings).filter(|line| is_chosen(line.pack)).collect();
    match (options.level, identities) {
        (Level::Decrypt, Some(identities)) => {
            let check = content::Content { repository, inventory: &inventory, identities, fetch, cancel };
            check.run(&chosen, &mut findings).await?;
        }
        (Level::Hash | Level::Decrypt, _) => {
            let plan = FetchPlan::whole(chosen.iter().map(|line| (*line, Vec::new())));
            fetch.progress.set_total(plan.bytes());
            let stats = repository.fetch(&plan, None, &fetch, cancel, &|_, _| Ok(())).await?;
            findings.packs(stats.failed, &inventory);
        }
        (Level::List, _) => {}
    }
    if let Some(identities) = identities {
        match hurt::name_files(repository, &inventory, identities, cancel, &mut findings).await {
            // What was found without the key stands without it.
            Err(error) if options.level < Level::Decrypt && error.code() != ExitCode::Interrupted => {
                findings.warn(format!("files are not named: {}", error.full_message()));
            }
            other => other?,
        }
    }

    let after = repository.store().stats();
    let (damaged, warnings) = findings.into_parts();
    let snapshots = inventory.snapshots.len() as u64;
    Ok(Report {
        level: options.level,
        snapshots,
        objects: inventory.objects,
        bytes: after.bytes_received - received_before,
        requests: after.requests,
        retries: after.retries,
        damaged,
        warnings,
    })
}
