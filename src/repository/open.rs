//! Opens a store for reading: what it is, and whom its reader believes.
//!
//! Invariant: a damaged descriptor or keys object is a warning, never a reason not to read snapshots that can
//! still be verified.

use std::collections::HashSet;
use std::sync::atomic::AtomicBool;

use crate::archive::hash::Hash;
use crate::archive::keys::{Descriptor, Found, Keys};
use crate::archive::layout;
use crate::providers::store::{ObjectInfo, Store, StoreError};
use crate::{Error, ExitCode, Result};

use super::fetch::Health;
use super::signed;
use super::trust::{Anchors, TrustOptions};

/// A store opened for reading.
#[derive(Debug)]
pub struct Repository {
    pub(super) store: Store,
    pub(super) anchors: Anchors,
    /// The store answered a ranged request with the whole object: do not ask again.
    pub(super) no_ranges: AtomicBool,
    /// Whether the store hands out packs.
    pub(super) health: Health,
    store_id: Option<String>,
    descriptor_problem: Option<String>,
    warnings: Vec<String>,
}

impl Repository {
    /// Reads the store's descriptor and keys objects.
    ///
    /// # Errors
    /// Exit 10 if this is not an opsctl store, 12 if content is wanted and nothing says whom to believe, else what
    /// the store says.
    pub async fn open(store: Store, options: &TrustOptions) -> Result<Self> {
        let (descriptor, listed) =
            tokio::join!(store.get_at_most(layout::DESCRIPTOR, signed::MAX_SIZE), store.list(layout::KEYS));
        let listed = listed?;
        let descriptor = match descriptor {
            Err(StoreError::NotFound { .. }) if listed.is_empty() => return Err(not_a_store(&store)),
            // With other objects there it is one unreadable object; if the store is away, the keys objects will say so.
            Err(error) if error.is_transient() && listed.is_empty() => return Err(error.into()),
            Err(error) => Err(error.to_string()),
            Ok(bytes) => Descriptor::read(&bytes).map_err(|e| e.to_string()),
        };

        let (found, unreadable) = readable(signed::read_all(&store, &listed).await?);
        let mut anchors = Anchors::settle(found, options)?;
        anchors.rejected.extend(unreadable);
        let mut warnings: Vec<String> =
            anchors.rejected.iter().map(|(key, reason)| format!("{key} does not count: {reason}")).collect();
        let head = anchors.head.as_ref().map_or(0, |(_, keys)| keys.seq);
        warnings.extend(bereft_signatures(&listed, head));
        if anchors.head.is_none() {
            warnings.push("no keys object of this store is signed by a trusted signer".into());
        }

        let mut descriptor_problem = descriptor.as_ref().err().cloned();
        // The keys object is signed, the descriptor is not.
        let signed_id = anchors.head.as_ref().map(|(_, keys)| keys.store_id.clone());
        let store_id = match (descriptor, signed_id) {
            (Ok(descriptor), Some(signed)) => {
                if descriptor.store_id != signed {
                    let says = format!("store id {:?}, the signed keys object says {signed:?}", descriptor.store_id);
                    warnings.push(format!("{} says {says}: the latter counts", layout::DESCRIPTOR));
                    descriptor_problem = Some(format!("it says {says}"));
                }
                Some(signed)
            }
            (Ok(descriptor), None) => Some(descriptor.store_id),
            (Err(reason), signed) => {
                warnings.push(format!("{} is not usable: {reason}", layout::DESCRIPTOR));
                signed
            }
        };
        if store_id.is_none() {
            warnings.push("the store's id is not known, so it is not compared with that of the snapshots".into());
        }
        let (no_ranges, health) = (AtomicBool::new(false), Health::default());
        Ok(Self { store, anchors, no_ranges, health, store_id, descriptor_problem, warnings })
    }

    /// The store itself.
    #[must_use]
    pub const fn store(&self) -> &Store {
        &self.store
    }

    /// The store's id, unless neither descriptor nor keys objects are usable.
    #[must_use]
    pub fn store_id(&self) -> Option<&str> {
        self.store_id.as_deref()
    }

    /// What is wrong with the store's descriptor, if it is missing, damaged, or contradicts the keys object.
    #[must_use]
    pub fn descriptor_problem(&self) -> Option<&str> {
        self.descriptor_problem.as_deref()
    }

    /// The newest accepted keys object and its hash.
    #[must_use]
    pub const fn keys(&self) -> Option<&(Hash, Keys)> {
        self.anchors.head.as_ref()
    }

    /// Keys objects that do not count, as (object, reason).
    #[must_use]
    pub fn rejected_keys(&self) -> &[(String, String)] {
        &self.anchors.rejected
    }

    /// What was wrong with the store without keeping it from being read.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

/// Signatures of keys objects above number `head` that are not there: the newest may have been taken away.
fn bereft_signatures(listed: &[ObjectInfo], head: u32) -> Vec<String> {
    let keys: HashSet<&str> = listed.iter().map(|object| object.key.as_str()).collect();
    let documents = listed.iter().filter_map(|object| object.key.strip_suffix(layout::SIGNATURE));
    let bereft = documents.filter(|key| !keys.contains(key) && layout::keys_seq(key).is_some_and(|seq| seq > head));
    bereft.map(|key| format!("{key} is not there, but its signature is: it was deleted, or never stored")).collect()
}

fn not_a_store(store: &Store) -> Error {
    Error::new(ExitCode::NotFound, format!("{} is not an opsctl store", store.location()))
        .hint("check the store URL; a new store is made by `opsctl init`")
}

/// Keys objects that can be judged; and the others, with the reason.
fn readable(documents: Vec<signed::Signed>) -> (Vec<Found>, Vec<(String, String)>) {
    let mut found = Vec::new();
    let mut unreadable = Vec::new();
    for signed::Signed { key, modified, bytes, signature, .. } in documents {
        match bytes {
            Ok(bytes) => found.push(Found { key, modified, bytes, signature }),
            Err(reason) => unreadable.push((key, reason)),
        }
    }
    (found, unreadable)
}
