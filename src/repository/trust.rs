//! Whose receipts count. A store can hold whatever somebody with its credentials put there; this file decides what
//! of it is believed.
//!
//! Invariants:
//! * Belief starts at the caller's pins. The store's own word is taken only where the caller said so, or only looks,
//!   and the result is then marked [`Trust::Unpinned`].
//! * A revoked signer vouches for nothing but the receipts that its revocation names, and their ancestors.
//! * The clock of the store bounds what a stolen signing key can claim: a receipt cannot be put into the past.

use std::collections::{HashMap, HashSet};

use jiff::{SignedDuration, Timestamp};

use crate::archive::hash::Hash;
use crate::archive::keys::{self, Found, Keys, Resolved, Rule};
use crate::archive::receipt::{self, Receipt, SnapshotId};
use crate::archive::signature::{self, Signer};
use crate::{Error, ExitCode, Result};

use super::signed::Signed;

/// How far the time at which the store received a receipt may lie from the end time that it claims.
pub(super) const STORE_TIME_TOLERANCE: SignedDuration = SignedDuration::from_hours(24);

/// What the caller is about to do with what it reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Show or compare what is there: no pin is needed.
    Look,
    /// Use the content of a snapshot: it must come from somebody who is trusted.
    Content,
}

/// What the caller trusts.
#[derive(Clone, Debug)]
pub struct TrustOptions {
    /// Pinned signers: from `--trusted-signer`, `OPSCTL_TRUSTED_SIGNERS` and the identity file.
    pub pins: Vec<Signer>,
    /// Without pins, believe the signers that the store itself lists (`--trust-store-keys`).
    pub trust_store_keys: bool,
    /// Do not compare claimed times with the store's (`--ignore-store-time`): for a store that was copied.
    pub ignore_store_time: bool,
    /// What the result is for.
    pub purpose: Purpose,
}

/// The verdict on one receipt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Signed by an accepted signer, whose acceptance leads back to a pin.
    Trusted(Signer),
    /// Signed by a signer that only the store itself lists.
    Unpinned(Signer),
    /// Not to be used, and why.
    Rejected(String),
}

impl Trust {
    /// Whether the snapshot may be chosen.
    #[must_use]
    pub const fn is_accepted(&self) -> bool {
        !matches!(self, Self::Rejected(_))
    }

    /// Why it may not be chosen.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Rejected(reason) => Some(reason),
            _ => None,
        }
    }

    /// `trusted`, `unpinned` or `rejected`.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Trusted(_) => "trusted",
            Self::Unpinned(_) => "unpinned",
            Self::Rejected(_) => "rejected",
        }
    }
}

/// A parsed receipt with everything that a verdict on it needs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate<'a> {
    pub source: &'a str,
    pub id: &'a SnapshotId,
    pub receipt: &'a Receipt,
    pub bytes: &'a [u8],
    pub signature: Option<&'a [u8]>,
    pub modified: Timestamp,
}

/// Receipts of revoked signers that still count, by signer and source.
type Upheld<'a> = HashMap<(&'a str, &'a str), HashSet<&'a SnapshotId>>;

/// Whom the reader believes.
#[derive(Clone, Debug)]
pub(super) struct Anchors {
    /// Accepted signers, without revoked ones.
    accepted: Vec<Signer>,
    revoked: Vec<Signer>,
    pinned: bool,
    ignore_store_time: bool,
    pub head: Option<(Hash, Keys)>,
    /// Keys objects that do not count, as (key, reason).
    pub rejected: Vec<(String, String)>,
}

impl Anchors {
    /// Settles whom to believe, from the caller's pins and the keys objects of the store.
    pub(super) fn settle(found: Vec<Found>, options: &TrustOptions) -> Result<Self> {
        let pinned = !options.pins.is_empty();
        let pins = match pinned {
            true => options.pins.clone(),
            false if options.purpose == Purpose::Content && !options.trust_store_keys => return Err(no_pins()),
            false => own_signers(&found),
        };
        let Resolved { head, rejected } = keys::resolve(found, &pins, Rule::Chain);
        let keys = head.as_ref().map(|(_, keys)| keys);
        let parse = |text: &String| text.parse::<Signer>().ok();
        let listed = keys.into_iter().flat_map(|k| &k.signers).filter_map(parse);
        let revoked: Vec<Signer> = keys.into_iter().flat_map(|k| &k.revoked).filter_map(|r| parse(&r.signer)).collect();
        let mut accepted: Vec<Signer> = pins.into_iter().chain(listed).filter(|s| !revoked.contains(s)).collect();
        accepted.sort();
        accepted.dedup();
        Ok(Self { accepted, revoked, pinned, ignore_store_time: options.ignore_store_time, head, rejected })
    }

    /// The verdict on each candidate, in the same order.
    pub(super) fn judge(&self, candidates: &[Candidate<'_>], store_id: Option<&str>) -> Vec<Trust> {
        let upheld = self.upheld(candidates);
        let verdict = |c: &Candidate<'_>| match self.signer_of(c, store_id, &upheld) {
            Ok(signer) if self.pinned => Trust::Trusted(signer.clone()),
            Ok(signer) => Trust::Unpinned(signer.clone()),
            Err(reason) => Trust::Rejected(reason),
        };
        candidates.iter().map(verdict).collect()
    }

    /// Whether `tombstone` is signed by an accepted signer. A receipt under the name of a tombstone is none.
    pub(super) fn buries(&self, tombstone: &Signed) -> bool {
        let (Ok(bytes), Some(signature)) = (&tombstone.bytes, &tombstone.signature) else { return false };
        let kind = serde_json::from_slice::<serde_json::Value>(bytes).ok();
        let is_receipt = kind.is_none_or(|document| document.get("type").is_some_and(|kind| kind == receipt::TYPE));
        !is_receipt && signature::verify(bytes, signature, &self.accepted).is_ok()
    }

    fn signer_of(
        &self,
        candidate: &Candidate<'_>,
        store_id: Option<&str>,
        upheld: &Upheld<'_>,
    ) -> Result<&Signer, String> {
        let Candidate { source, id, receipt, .. } = *candidate;
        let signature = candidate.signature.ok_or("it has no signature")?;
        let signers = self.accepted.iter().chain(&self.revoked);
        let signer = signature::verify(candidate.bytes, signature, signers).map_err(|e| e.to_string())?;
        if self.revoked.contains(signer) {
            let counts = upheld.get(&(signer.as_str(), source)).is_some_and(|ids| ids.contains(id));
            if !counts {
                return Err(format!("its signer {} is revoked, and the revocation does not uphold it", signer.id()));
            }
        }
        if let Some(ours) = store_id.filter(|ours| receipt.store_id != *ours) {
            return Err(format!("it belongs to store {:?}, this is store {ours:?}", receipt.store_id));
        }
        // The predecessor's time stands in its id, so this needs no other object. Its sequence was checked on reading.
        if receipt.predecessor.as_ref().is_some_and(|p| p.finished_at() >= receipt.finished_at) {
            return Err("its end time is not after its predecessor's".into());
        }
        self.check_store_time(receipt, candidate.modified)?;
        Ok(signer)
    }

    fn check_store_time(&self, receipt: &Receipt, modified: Timestamp) -> Result<(), String> {
        let apart = modified.duration_since(receipt.finished_at).abs();
        if self.ignore_store_time || apart <= STORE_TIME_TOLERANCE {
            return Ok(());
        }
        Err(format!(
            "the store received it at {modified:.0}, {} hours from the end time that it claims ({}); \
             if the store was copied, use --ignore-store-time",
            apart.as_hours(),
            receipt.finished_at
        ))
    }

    /// For each revoked signer the receipt up to which it is trusted, and its ancestors as far as links lead.
    fn upheld<'a>(&'a self, candidates: &[Candidate<'a>]) -> Upheld<'a> {
        let mut upheld = Upheld::new();
        let Some((_, keys)) = &self.head else { return upheld };
        let links: HashMap<_, _> =
            candidates.iter().map(|c| ((c.source, c.id), c.receipt.predecessor.as_ref())).collect();
        for revocation in &keys.revoked {
            for (source, newest) in &revocation.trusted_up_to {
                let chain = std::iter::successors(Some(newest), |id| links.get(&(source.as_str(), *id)).copied()?);
                upheld.insert((&revocation.signer, source), chain.collect());
            }
        }
        upheld
    }
}

fn no_pins() -> Error {
    Error::new(ExitCode::Denied, "no signer is pinned, so nothing says whose snapshots to believe").hint(
        "give the signer's public key by --trusted-signer or OPSCTL_TRUSTED_SIGNERS, use the identity file that \
         `opsctl init` wrote (it pins the signer), or believe what the store says of itself by --trust-store-keys",
    )
}

/// The signers that the first keys object lists, if one of them signed it.
fn own_signers(found: &[Found]) -> Vec<Signer> {
    let parsed = found.iter().filter_map(|object| Keys::read(&object.bytes).ok().map(|keys| (keys, object)));
    let first = parsed.min_by(|(a, x), (b, y)| (a.seq, x.modified, &x.key).cmp(&(b.seq, y.modified, &y.key)));
    let Some((keys, object)) = first else { return Vec::new() };
    let signers: Vec<Signer> = keys.signers.iter().filter_map(|text| text.parse().ok()).collect();
    let signature = object.signature.as_deref().unwrap_or_default();
    let signed = signature::verify(&object.bytes, signature, &signers).is_ok();
    if signed { signers } else { Vec::new() }
}
