//! The packs of one snapshot, as its pack list names them.
//!
//! Invariant: an extent that names a pack outside the list, or bytes outside the pack, is refused before anything
//! is asked for: only what the signed receipt leads to is ever fetched.

use std::collections::HashMap;

use crate::archive::entry::Extent;
use crate::archive::hash::Hash;
use crate::archive::layout;
use crate::archive::packlist::{self, PackLine};
use crate::archive::receipt::Receipt;
use crate::providers::store::StoreError;
use crate::{Context as _, Error, Result};

use super::Repository;

/// A larger pack list is none of ours: it would name more than a million packs.
const MAX_LIST: u64 = 256 << 20;

/// The packs that a snapshot may refer to.
#[derive(Clone, Debug, Default)]
pub struct Packs(HashMap<Hash, PackLine>);

impl Packs {
    /// The packs of a pack list.
    #[must_use]
    pub fn new(lines: impl IntoIterator<Item = PackLine>) -> Self {
        Self(lines.into_iter().map(|line| (line.pack, line)).collect())
    }

    /// Adds the packs of another list.
    pub fn add(&mut self, other: &Self) {
        self.0.extend(&other.0);
    }

    /// The line of the pack that holds `extent`.
    ///
    /// # Errors
    /// Exit 4 when the snapshot has no such pack, or the extent lies outside it.
    pub fn locate(&self, extent: &Extent) -> Result<PackLine> {
        let Extent { pack, frame, chunk, .. } = extent;
        let line = self.0.get(pack).ok_or_else(|| {
            Error::integrity(format!("chunk {chunk} is said to be in pack {pack}, which the pack list does not name"))
        })?;
        let end = frame.offset.saturating_add(u64::from(frame.stored)).saturating_add(u64::from(line.header));
        if end > line.size {
            let message = format!("chunk {chunk} is said to lie beyond the end of {}", layout::pack(*pack));
            return Err(Error::integrity(message));
        }
        Ok(*line)
    }

    /// The packs, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &PackLine> {
        self.0.values()
    }

    /// How many packs there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes of all objects together.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.iter().map(|line| line.size).sum()
    }
}

impl Repository {
    /// Reads the pack list that `receipt` names.
    ///
    /// # Errors
    /// Exit 4 when it is missing or is not what its name says; else what the store says.
    pub async fn packs(&self, receipt: &Receipt) -> Result<Packs> {
        let key = layout::pack_list(receipt.pack_list);
        let bytes = match self.store.get_at_most(&key, MAX_LIST).await {
            Ok(bytes) => bytes,
            Err(StoreError::NotFound { .. }) => {
                return Err(Error::integrity(format!("{key} is missing, and a snapshot needs it")));
            }
            Err(error) => return Err(error.into()),
        };
        let lines = packlist::read(receipt.pack_list, &bytes).context(|| format!("reading {key}"))?;
        Ok(Packs::new(lines))
    }
}
