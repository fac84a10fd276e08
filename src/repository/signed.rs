//! Reads small signed documents (receipts, keys objects) together with their signatures.
//!
//! Invariant: one document that cannot be read does not fail the others; a store that cannot be reached fails all,
//! because a partial answer would make an old snapshot look like the newest.

use std::collections::HashSet;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;

use crate::archive::layout::SIGNATURE;
use crate::providers::store::{ObjectInfo, Store, StoreError};
use crate::{Error, Result};

/// Requests under way at once.
const PARALLEL: usize = 16;
/// A document or signature larger than this many bytes is not one of ours.
const MAX_SIZE: u64 = 1 << 20;

/// A document as found in the store.
#[derive(Debug)]
pub(super) struct Signed {
    pub key: String,
    pub modified: Timestamp,
    /// Its bytes, or why they cannot be had.
    pub bytes: Result<Vec<u8>, String>,
    /// The bytes of its signature, if that is there and readable.
    pub signature: Option<Vec<u8>>,
}

/// Reads every listed object that is not itself a signature, in order of keys.
///
/// # Errors
/// When the store cannot be reached, or denies access to every document.
pub(super) async fn read_all(store: &Store, listed: &[ObjectInfo]) -> Result<Vec<Signed>> {
    let keys: HashSet<&str> = listed.iter().map(|object| object.key.as_str()).collect();
    let documents = listed.iter().filter(|object| !object.key.ends_with(SIGNATURE));
    let read = |object: &'_ ObjectInfo| {
        let signature = format!("{}{SIGNATURE}", object.key);
        let signature = keys.contains(signature.as_str()).then_some(signature);
        read_one(store, object.clone(), signature)
    };
    let found: Vec<(Option<Signed>, Option<StoreError>)> =
        stream::iter(documents).map(read).buffered(PARALLEL).try_collect().await?;
    let (documents, mut failures): (Vec<_>, Vec<_>) = found.into_iter().unzip();
    if !failures.is_empty() && failures.iter().all(|f| matches!(f, Some(StoreError::Denied { .. }))) {
        // Not one bad object: these credentials may not read.
        return failures.swap_remove(0).map_or(Ok(Vec::new()), |denied| Err(denied.into()));
    }
    Ok(documents.into_iter().flatten().collect())
}

/// One document; `None` if it is gone since the listing.
async fn read_one(
    store: &Store,
    object: ObjectInfo,
    signature: Option<String>,
) -> Result<(Option<Signed>, Option<StoreError>), Error> {
    let signed = |bytes, signature| Signed { key: object.key.clone(), modified: object.modified, bytes, signature };
    if object.size > MAX_SIZE {
        let reason = format!("it is {} bytes long, more than any real one", object.size);
        return Ok((Some(signed(Err(reason), None)), None));
    }
    let bytes = match store.get(&object.key).await {
        Ok(bytes) => bytes.to_vec(),
        Err(StoreError::NotFound { .. }) => return Ok((None, None)),
        Err(error) if error.is_transient() => return Err(error.into()),
        Err(error) => return Ok((Some(signed(Err(error.to_string()), None)), Some(error))),
    };
    let signature = match signature {
        Some(key) => match store.get(&key).await {
            Ok(bytes) => Some(bytes.to_vec()),
            Err(error) if error.is_transient() => return Err(error.into()),
            Err(_) => None,
        },
        None => None,
    };
    Ok((Some(signed(Ok(bytes), signature)), None))
}
