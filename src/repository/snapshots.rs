//! The snapshots of a store: every receipt, read and judged.
//!
//! Invariants: nothing that lies under `snapshots/` is silently left out: it is a [`Snapshot`] with a verdict or a
//! [`Problem`] with a reason. Order is by source, then by end time.

use std::collections::{BTreeMap, HashSet};

use jiff::Timestamp;

use crate::Result;
use crate::archive::layout::{self, SIGNATURE};
use crate::archive::receipt::{self, Receipt, SnapshotId};
use crate::providers::store::ObjectInfo;

use super::Repository;
use super::signed::{self, Signed};
use super::trust::{Candidate, STORE_TIME_TOLERANCE, Trust};

/// One committed snapshot.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Its id.
    pub id: SnapshotId,
    /// The source it belongs to.
    pub source: String,
    /// What it says of itself.
    pub receipt: Receipt,
    /// When the store received the receipt.
    pub modified: Timestamp,
    /// Whether it may be believed.
    pub trust: Trust,
}

impl Snapshot {
    /// The object that holds the receipt.
    #[must_use]
    pub fn key(&self) -> String {
        layout::receipt(&self.source, &self.id)
    }
}

/// An object that should be a receipt and cannot be read as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The object.
    pub key: String,
    /// The source that its name says.
    pub source: Option<String>,
    /// What is wrong.
    pub reason: String,
    /// Written by a newer opsctl: not damage, but nothing that this one can read.
    pub future_format: bool,
    /// The store does not hand it out: it may be the snapshot that is asked for.
    pub unreachable: bool,
}

impl Problem {
    /// The id in the name, if it is that of a receipt.
    #[must_use]
    pub fn id(&self) -> Option<SnapshotId> {
        layout::parse_receipt(&self.key).map(|(_, id)| id)
    }
}

/// The snapshots of a store, or of one source.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// Every readable receipt with its verdict, by source and end time.
    pub snapshots: Vec<Snapshot>,
    /// Everything else.
    pub problems: Vec<Problem>,
    /// Forks and gaps.
    pub warnings: Vec<String>,
}

impl Listing {
    /// The snapshots that may be believed, by source and end time.
    pub fn accepted(&self) -> impl DoubleEndedIterator<Item = &Snapshot> {
        self.snapshots.iter().filter(|s| s.trust.is_accepted())
    }

    /// The snapshots that may not be believed, with the reason.
    pub fn rejected(&self) -> impl Iterator<Item = (&Snapshot, &str)> {
        self.snapshots.iter().filter_map(|s| Some((s, s.trust.reason()?)))
    }
}

impl Repository {
    /// Reads and judges the receipts of `source`, or of all sources.
    ///
    /// # Errors
    /// Only what the store says about the listing as a whole; a receipt that cannot be read is a [`Problem`].
    pub async fn listing(&self, source: Option<&str>) -> Result<Listing> {
        let folder = match source {
            Some(source) => format!("{}/{source}", layout::SNAPSHOTS),
            None => layout::SNAPSHOTS.to_owned(),
        };
        let tombstones = format!("{}/{}", layout::TRASH, layout::SNAPSHOTS);
        let (listed, tombstones) = tokio::join!(self.store.list(&folder), self.store.list(&tombstones));
        let listed = listed?;
        let documents = signed::read_all(&self.store, &listed).await?;
        // Anybody may write; only a signed tombstone explains why a snapshot is gone.
        let tombstones = signed::read_all(&self.store, &tombstones?).await.unwrap_or_default();
        let mut present: HashSet<SnapshotId> =
            tombstones.iter().filter(|t| self.anchors.buries(t)).filter_map(|t| id_in_name(&t.key)).collect();
        present.extend(documents.iter().filter_map(|d| id_in_name(&d.key)));
        let (read, problems) = parse(documents);
        let candidates: Vec<Candidate<'_>> = read.iter().map(Parsed::candidate).collect();
        let verdicts = self.anchors.judge(&candidates, self.store_id());
        let mut snapshots: Vec<Snapshot> =
            read.into_iter().zip(verdicts).map(|(parsed, trust)| parsed.judged(trust)).collect();
        snapshots.sort_by(|a, b| (&a.source, &a.id).cmp(&(&b.source, &b.id)));

        let mut listing = Listing { snapshots, problems, warnings: Vec::new() };
        listing.warnings = chain_warnings(&listing, &present);
        listing.warnings.extend(bereft_signatures(&listed, &present));
        Ok(listing)
    }
}

/// A receipt that reads, before the verdict.
struct Parsed {
    id: SnapshotId,
    source: String,
    receipt: Receipt,
    modified: Timestamp,
    bytes: Vec<u8>,
    signature: Option<Vec<u8>>,
}

impl Parsed {
    fn candidate(&self) -> Candidate<'_> {
        Candidate {
            source: &self.source,
            id: &self.id,
            receipt: &self.receipt,
            bytes: &self.bytes,
            signature: self.signature.as_deref(),
            modified: self.modified,
        }
    }

    fn judged(self, trust: Trust) -> Snapshot {
        let Self { id, source, receipt, modified, .. } = self;
        Snapshot { id, source, receipt, modified, trust }
    }
}

fn parse(documents: Vec<Signed>) -> (Vec<Parsed>, Vec<Problem>) {
    let mut read = Vec::new();
    let mut problems = Vec::new();
    for document in documents {
        match parse_one(document) {
            Ok(parsed) => read.push(parsed),
            Err(problem) => problems.push(problem),
        }
    }
    (read, problems)
}

fn parse_one(document: Signed) -> Result<Parsed, Problem> {
    let Signed { key, modified, bytes, signature, unreachable } = document;
    let folder = key.split('/').nth(1).map(str::to_owned);
    let problem = |reason: String, future_format| Problem {
        key: key.clone(),
        source: folder,
        reason,
        future_format,
        unreachable,
    };
    let Some((source, id)) = layout::parse_receipt(&key) else {
        return Err(problem("its name is not that of a receipt".into(), false));
    };
    let bytes = match bytes {
        Ok(bytes) => bytes,
        Err(reason) => return Err(problem(reason, false)),
    };
    match Receipt::read(source, &id, &bytes) {
        Ok(receipt) => Ok(Parsed { id, source: source.to_owned(), receipt, modified, bytes, signature }),
        Err(error) => Err(problem(error.to_string(), error.is_newer(receipt::TYPE))),
    }
}

/// The id in the last part of a name, wherever the object lies.
fn id_in_name(key: &str) -> Option<SnapshotId> {
    key.strip_suffix(SIGNATURE).unwrap_or(key).rsplit('/').next()?.strip_suffix(".json")?.parse().ok()
}

/// Signatures without their receipt, where no receipt is newer: the newest snapshot may have been taken away. A commit
/// that stopped between the two leaves the same, until the next snapshot. What claims a time long after the store received
/// it was never believed, such as the signature of a host that then saw how wrong its clock is: nobody took that away.
fn bereft_signatures(listed: &[ObjectInfo], present: &HashSet<SnapshotId>) -> Vec<String> {
    let mut newest: BTreeMap<&str, SnapshotId> = BTreeMap::new();
    for object in listed {
        let receipt = object.key.strip_suffix(SIGNATURE).unwrap_or(&object.key);
        let Some((source, id)) = layout::parse_receipt(receipt) else { continue };
        if id.finished_at().duration_since(object.modified) > STORE_TIME_TOLERANCE {
            continue;
        }
        if newest.get(source).is_none_or(|known| *known < id) {
            newest.insert(source, id);
        }
    }
    newest.retain(|_, id| !present.contains(id));
    let warn = |(source, id): (&str, SnapshotId)| {
        let receipt = layout::receipt(source, &id);
        format!("{receipt} is not there, but its signature is: it was deleted, or its commit was interrupted")
    };
    newest.into_iter().map(warn).collect()
}

/// Forks and gaps in the chains of accepted receipts. `present` are the ids that are there or were pruned.
fn chain_warnings(listing: &Listing, present: &HashSet<SnapshotId>) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut by_seq: BTreeMap<(&str, u64), Vec<&SnapshotId>> = BTreeMap::new();
    let mut by_predecessor: BTreeMap<(&str, &SnapshotId), Vec<&SnapshotId>> = BTreeMap::new();
    for Snapshot { id, source, receipt, .. } in listing.accepted() {
        by_seq.entry((source, receipt.seq)).or_default().push(id);
        if let Some(predecessor) = &receipt.predecessor {
            by_predecessor.entry((source, predecessor)).or_default().push(id);
            if !present.contains(predecessor) {
                warnings.push(format!("gap: {source} {id} follows {predecessor}, which is not in the store"));
            }
        }
    }
    let mut forks: Vec<(&str, Vec<&SnapshotId>)> = by_seq.into_iter().map(|((source, _), ids)| (source, ids)).collect();
    forks.extend(by_predecessor.into_iter().map(|((source, _), ids)| (source, ids)));
    forks.retain(|(_, ids)| ids.len() > 1);
    forks.sort();
    // Two writers that followed one predecessor chose the same sequence too: that is one fork.
    forks.dedup();
    warnings.extend(forks.into_iter().map(|(source, ids)| {
        let ids: Vec<&str> = ids.iter().map(|id| id.as_str()).collect();
        format!("fork: {source} {} continue the same snapshot: two hosts write this source", ids.join(" and "))
    }));
    warnings
}
