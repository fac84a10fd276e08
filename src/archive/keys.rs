//! The store descriptor and the keys objects: who may sign for this store, and whom it encrypts to.
//!
//! Each keys object is complete in itself and names the one before by hash. Which of them count is
//! decided here, by [`resolve`], from the caller's pins alone.
//!
//! Invariants:
//! * Nothing counts that does not lead back to a pinned signer.
//! * A signer revoked by the newest accepted object cannot add another one.
//! * Of two objects with one sequence number the one that the store received first counts: an
//!   attacker cannot write into the past.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::hash::Hash;
use super::receipt::{Envelope, SnapshotId};
use super::signature::{self, Signer};
use super::{FORMAT, FormatError, check_envelope};

/// The `type` of a descriptor.
pub const STORE_TYPE: &str = "opsctl-store";
/// The `type` of a keys object.
pub const TYPE: &str = "opsctl-keys";

/// The highest number of a keys object that is believed: whoever held a signer for a moment could otherwise take the last
/// number there is, so that nothing could follow, not even the revocation of that signer.
pub const MAX_SEQ: u32 = 1_000_000_000;

/// The store descriptor, `opsctl-store.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Descriptor {
    /// Always `opsctl-store`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The format version.
    pub format: u32,
    /// Abilities a reader must have.
    pub requires: Vec<String>,
    /// The store's random id, 32 hex digits.
    pub store_id: String,
    /// When it was made.
    #[schemars(with = "String")]
    pub created: Timestamp,
}

impl Descriptor {
    /// A descriptor for a new store.
    #[must_use]
    pub fn new(store_id: String, created: Timestamp) -> Self {
        Self { kind: STORE_TYPE.to_owned(), format: FORMAT, requires: Vec::new(), store_id, created }
    }

    /// Reads a descriptor.
    ///
    /// # Errors
    /// When it is damaged or of another format.
    pub fn read(bytes: &[u8]) -> Result<Self, FormatError> {
        let descriptor: Self = read_document("store descriptor", STORE_TYPE, bytes)?;
        check_store_id(&descriptor.store_id)?;
        Ok(descriptor)
    }
}

/// A keys object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Keys {
    /// Always `opsctl-keys`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The format version.
    pub format: u32,
    /// Abilities a reader must have.
    pub requires: Vec<String>,
    /// The store this belongs to.
    pub store_id: String,
    /// 1 for the first, then one more each time.
    pub seq: u32,
    /// SHA-256 of the keys object before this one.
    pub previous: Option<Hash>,
    /// When it was made.
    #[schemars(with = "String")]
    pub created: Timestamp,
    /// age recipients that packs are encrypted to.
    pub recipients: Vec<String>,
    /// Signers whose receipts and keys objects are accepted.
    pub signers: Vec<String>,
    /// Signers that are no longer accepted.
    pub revoked: Vec<Revocation>,
}

/// A signer that is no longer accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Revocation {
    /// The signer.
    pub signer: String,
    /// For each source the newest receipt of the signer that is still trusted, with all before it.
    /// A source that is not named trusts none.
    #[serde(default)]
    pub trusted_up_to: BTreeMap<String, SnapshotId>,
}

impl Keys {
    /// The first keys object of a store.
    #[must_use]
    pub fn first(store_id: String, created: Timestamp, recipients: Vec<String>, signers: Vec<String>) -> Self {
        Self {
            kind: TYPE.to_owned(),
            format: FORMAT,
            requires: Vec::new(),
            store_id,
            seq: 1,
            previous: None,
            created,
            recipients,
            signers,
            revoked: Vec::new(),
        }
    }

    /// The bytes to store and sign, and their hash.
    ///
    /// # Errors
    /// Only when memory runs out.
    pub fn write(&self) -> Result<(Hash, Vec<u8>), FormatError> {
        let mut bytes =
            serde_json::to_vec_pretty(self).map_err(|source| FormatError::Json { what: "keys object", source })?;
        bytes.push(b'\n');
        Ok((Hash::of(&bytes), bytes))
    }

    /// Reads a keys object.
    ///
    /// # Errors
    /// When it is damaged or of another format.
    pub fn read(bytes: &[u8]) -> Result<Self, FormatError> {
        let keys: Self = read_document("keys object", TYPE, bytes)?;
        check_store_id(&keys.store_id)?;
        Ok(keys)
    }

    /// The revocation of `signer`, if there is one.
    #[must_use]
    pub fn revocation(&self, signer: &Signer) -> Option<&Revocation> {
        self.revoked.iter().find(|r| r.signer == signer.as_str())
    }
}

/// Checks that a store id is 32 hex digits. It becomes part of a path on the host.
///
/// # Errors
/// [`FormatError::Malformed`] if it is anything else.
pub fn check_store_id(id: &str) -> Result<(), FormatError> {
    let ok = id.len() == 32 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if ok { Ok(()) } else { Err(FormatError::malformed("the store id is not 32 hex digits")) }
}

fn read_document<T: serde::de::DeserializeOwned>(
    what: &'static str,
    kind: &str,
    bytes: &[u8],
) -> Result<T, FormatError> {
    let json = |source| FormatError::Json { what, source };
    let envelope: Envelope = serde_json::from_slice(bytes).map_err(json)?;
    check_envelope(what, kind, &envelope.kind, envelope.format, &envelope.requires)?;
    serde_json::from_slice(bytes).map_err(json)
}

/// A keys object as found in a store.
#[derive(Clone, Debug)]
pub struct Found {
    /// The object's name.
    pub key: String,
    /// When the store received it.
    pub modified: Timestamp,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The bytes of its signature, if there is one.
    pub signature: Option<Vec<u8>>,
}

/// What the keys objects of a store amount to.
#[derive(Clone, Debug, Default)]
pub struct Resolved {
    /// The newest accepted keys object and its hash.
    pub head: Option<(Hash, Keys)>,
    /// Objects that do not count, with the reason.
    pub rejected: Vec<(String, String)>,
}

/// How much a keys object must show to be accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Signed by a pinned signer, or by one that the object before accepts: for readers.
    Chain,
    /// Signed by a pinned signer itself: for a backup host, which must not be led to other recipients.
    Direct,
}

/// Decides which keys objects count.
#[must_use]
pub fn resolve(mut found: Vec<Found>, pins: &[Signer], rule: Rule) -> Resolved {
    let mut resolved = Resolved::default();
    let mut parsed = Vec::new();
    for object in found.drain(..) {
        match Keys::read(&object.bytes) {
            Ok(keys) => parsed.push((keys, object)),
            Err(e) => resolved.rejected.push((object.key, e.to_string())),
        }
    }
    parsed.sort_by(|(a, x), (b, y)| (a.seq, x.modified, &x.key).cmp(&(b.seq, y.modified, &y.key)));
    for (keys, object) in parsed {
        match judge(&keys, &object, resolved.head.as_ref(), pins, rule) {
            Ok(()) => resolved.head = Some((Hash::of(&object.bytes), keys)),
            Err(reason) => resolved.rejected.push((object.key, reason)),
        }
    }
    resolved
}

fn judge(keys: &Keys, object: &Found, head: Option<&(Hash, Keys)>, pins: &[Signer], rule: Rule) -> Result<(), String> {
    if object.key != super::layout::keys_object(keys.seq, Hash::of(&object.bytes)) {
        return Err("its name does not match its content".into());
    }
    if keys.seq > MAX_SEQ {
        return Err("its number is absurd".into());
    }
    let signature = object.signature.as_deref().ok_or("it has no signature")?;
    let Some((head_hash, head)) = head else {
        return signature::verify(&object.bytes, signature, pins).map(|_| ()).map_err(|e| e.to_string());
    };
    if keys.store_id != head.store_id {
        return Err("it belongs to another store".into());
    }
    if keys.seq <= head.seq {
        return Err(format!("another keys object with sequence {} came first", keys.seq));
    }
    let follows = keys.previous == Some(*head_hash) && keys.seq == head.seq + 1;
    let listed: Vec<Signer> = match rule {
        Rule::Chain if follows => head.signers.iter().filter_map(|s| s.parse().ok()).collect(),
        _ => Vec::new(),
    };
    let accepted = pins.iter().chain(&listed).filter(|s| head.revocation(s).is_none());
    signature::verify(&object.bytes, signature, accepted).map(|_| ()).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::signature::SigningKey;
    use super::*;

    struct Chain {
        found: Vec<Found>,
        keys: Keys,
    }

    impl Chain {
        fn start(signer: &SigningKey) -> Self {
            let keys = Keys::first(
                "0".repeat(32),
                Timestamp::UNIX_EPOCH,
                vec!["age1a".into()],
                vec![signer.signer().to_string()],
            );
            let mut chain = Self { found: vec![], keys };
            chain.store(signer, 0);
            chain
        }

        fn store(&mut self, signer: &SigningKey, at: i64) {
            let (hash, bytes) = self.keys.write().unwrap();
            let signature = signer.sign(&bytes, "keys").unwrap().into_bytes();
            let key = super::super::layout::keys_object(self.keys.seq, hash);
            self.found.push(Found {
                key,
                modified: Timestamp::from_second(at).unwrap(),
                bytes,
                signature: Some(signature),
            });
        }

        fn next(&mut self, signer: &SigningKey, at: i64, change: impl FnOnce(&mut Keys)) {
            self.keys.previous = Some(Hash::of(&self.found.last().unwrap().bytes));
            self.keys.seq += 1;
            change(&mut self.keys);
            self.store(signer, at);
        }
    }

    fn key() -> SigningKey {
        SigningKey::generate().unwrap().0
    }

    fn head_seq(chain: &Chain, pin: &SigningKey, rule: Rule) -> Option<u32> {
        resolve(chain.found.clone(), &[pin.signer().clone()], rule).head.map(|(_, k)| k.seq)
    }

    #[test]
    fn a_store_id_that_could_be_a_path_is_refused() {
        for bad in ["", "/tmp/x", "../../x", "0123456789ABCDEF0123456789ABCDEF", &"0".repeat(33)] {
            let text = serde_json::to_vec(&Descriptor::new(bad.to_owned(), Timestamp::UNIX_EPOCH)).unwrap();
            assert!(Descriptor::read(&text).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_chain_is_followed_from_the_pin() {
        let (a, b, stranger) = (key(), key(), key());
        let mut chain = Chain::start(&a);
        chain.next(&a, 1, |k| k.signers.push(b.signer().to_string()));
        chain.next(&b, 2, |k| k.recipients.push("age1b".into()));
        assert_eq!(head_seq(&chain, &a, Rule::Chain), Some(3));
        assert_eq!(head_seq(&chain, &a, Rule::Direct), Some(2), "a host believes its pins only");
        assert_eq!(head_seq(&chain, &stranger, Rule::Chain), None);
    }

    #[test]
    fn a_recipient_added_by_an_unaccepted_signer_does_not_count() {
        let (a, thief) = (key(), key());
        let mut chain = Chain::start(&a);
        chain.next(&thief, 1, |k| k.recipients.push("age1thief".into()));
        let resolved = resolve(chain.found.clone(), &[a.signer().clone()], Rule::Chain);
        assert_eq!(resolved.head.unwrap().1.recipients, ["age1a"]);
        assert_eq!(resolved.rejected.len(), 1);
    }

    #[test]
    fn a_revoked_signer_cannot_come_back_even_if_pinned() {
        let (a, b) = (key(), key());
        let mut chain = Chain::start(&a);
        chain.next(&a, 1, |k| k.signers.push(b.signer().to_string()));
        chain.next(&b, 2, |k| {
            k.signers.retain(|s| s != a.signer().as_str());
            k.revoked.push(Revocation { signer: a.signer().to_string(), trusted_up_to: BTreeMap::new() });
        });
        chain.next(&a, 3, |k| k.recipients.push("age1thief".into()));
        assert_eq!(head_seq(&chain, &a, Rule::Chain), Some(3));
    }

    #[test]
    fn of_two_with_one_sequence_the_earlier_in_the_store_counts() {
        let a = key();
        let mut chain = Chain::start(&a);
        let mut fork = Chain { found: chain.found.clone(), keys: chain.keys.clone() };
        chain.next(&a, 1, |k| k.recipients.push("age1true".into()));
        fork.next(&a, 2, |k| k.recipients.push("age1late".into()));
        let mut all = chain.found.clone();
        all.insert(0, fork.found.pop().unwrap());
        let resolved = resolve(all, &[a.signer().clone()], Rule::Chain);
        assert!(resolved.head.unwrap().1.recipients.contains(&"age1true".into()));
        assert_eq!(resolved.rejected.len(), 1);
    }

    #[test]
    fn an_absurd_number_does_not_count_and_the_chain_goes_on() {
        let a = key();
        for absurd in [u32::MAX, MAX_SEQ + 1] {
            let mut chain = Chain::start(&a);
            chain.keys.seq = absurd;
            chain.store(&a, 1);
            assert_eq!(head_seq(&chain, &a, Rule::Chain), Some(1));
        }
        let mut chain = Chain::start(&a);
        chain.keys.seq = MAX_SEQ;
        chain.store(&a, 1);
        assert_eq!(head_seq(&chain, &a, Rule::Direct), Some(MAX_SEQ));
    }

    #[test]
    fn a_renamed_or_unsigned_object_does_not_count() {
        let a = key();
        let mut chain = Chain::start(&a);
        chain.found[0].key = "keys/000009-00000000.json".into();
        assert_eq!(head_seq(&chain, &a, Rule::Chain), None);
        let mut chain = Chain::start(&a);
        chain.found[0].signature = None;
        assert_eq!(head_seq(&chain, &a, Rule::Chain), None);
    }
}
