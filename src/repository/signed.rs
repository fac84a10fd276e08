//! Reads small signed documents (receipts, keys objects) together with their signatures.
//!
//! Invariant: one document that cannot be read does not fail the others, but it is returned as unreachable, so that
//! nobody takes an old snapshot for the newest. A store that hands out none of them fails the whole.

use std::collections::HashSet;

use futures::{StreamExt as _, stream};
use jiff::Timestamp;

use crate::Result;
use crate::archive::layout::SIGNATURE;
use crate::providers::store::{ObjectInfo, Store, StoreError};

/// Requests under way at once.
const PARALLEL: usize = 16;
/// A document or signature larger than this many bytes is not one of ours.
pub(crate) const MAX_SIZE: u64 = 1 << 20;

/// A document as found in the store.
#[derive(Debug)]
pub(super) struct Signed {
    pub key: String,
    pub modified: Timestamp,
    /// Its bytes, or why they cannot be had.
    pub bytes: Result<Vec<u8>, String>,
    /// The bytes of its signature, if that is there and readable.
    pub signature: Option<Vec<u8>>,
    /// It, or its signature, is there, but the store does not hand it out: it could say anything.
    pub unreachable: bool,
}

/// Reads every listed object that is not itself a signature, in order of keys.
///
/// # Errors
/// When the store hands out none of them.
pub(super) async fn read_all(store: &Store, listed: &[ObjectInfo]) -> Result<Vec<Signed>> {
    let keys: HashSet<&str> = listed.iter().map(|object| object.key.as_str()).collect();
    let listed = listed.iter().filter(|object| !object.key.ends_with(SIGNATURE));
    let read = |object: &'_ ObjectInfo| {
        let signature = format!("{}{SIGNATURE}", object.key);
        let signature = keys.contains(signature.as_str()).then_some(signature);
        read_one(store, object.clone(), signature)
    };
    let mut documents = Vec::new();
    let (mut refused, mut any_answer) = (None, false);
    let mut answers = stream::iter(listed).map(read).buffered(PARALLEL);
    while let Some(answer) = answers.next().await {
        match answer {
            Answer::Read(document) => {
                any_answer = true;
                documents.push(document);
            }
            Answer::Gone => any_answer = true,
            Answer::Refused(document, error) => {
                documents.push(document);
                refused.get_or_insert(error);
            }
        }
    }
    match refused {
        // Not one bad object: the store is away, or these credentials may not read.
        Some(error) if !any_answer => Err(error.into()),
        _ => Ok(documents),
    }
}

/// What came of one document.
enum Answer {
    /// It was read, or is known to be none of ours.
    Read(Signed),
    /// It is gone since the listing.
    Gone,
    /// The store does not hand it out.
    Refused(Signed, StoreError),
}

async fn read_one(store: &Store, object: ObjectInfo, signature: Option<String>) -> Answer {
    let ObjectInfo { key, size, modified } = object;
    let signed = |key, bytes, signature| Signed { key, modified, bytes, signature, unreachable: false };
    if size > MAX_SIZE {
        let reason = format!("it is {size} bytes long, more than any real one");
        return Answer::Read(signed(key, Err(reason), None));
    }
    let refused = |key: String, what: &str, error: StoreError| {
        let document = signed(key, Err(format!("{what}{error}")), None);
        match error {
            // An answer, though not one to go on with.
            StoreError::TooLarge { .. } => Answer::Read(document),
            error => Answer::Refused(Signed { unreachable: true, ..document }, error),
        }
    };
    let bytes = match store.get_at_most(&key, MAX_SIZE).await {
        Ok(bytes) => bytes.to_vec(),
        Err(StoreError::NotFound { .. }) => return Answer::Gone,
        Err(error) => return refused(key, "", error),
    };
    let signature = match signature {
        Some(signature) => match store.get_at_most(&signature, MAX_SIZE).await {
            Ok(bytes) => Some(bytes.to_vec()),
            Err(StoreError::NotFound { .. }) => None,
            Err(error) => return refused(key, "its signature: ", error),
        },
        None => None,
    };
    Answer::Read(signed(key, Ok(bytes), signature))
}
