//! What a host makes of keys objects that are refused, too large, or none; and of a newer format.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use object_store::memory::InMemory;
use object_store::{ObjectStoreExt as _, PutPayload};

use super::*;
use crate::archive::hash::Hash;
use crate::archive::keyring::generate_identity;
use crate::archive::keys::Revocation;
use crate::archive::signature::SigningKey;
use crate::providers::store::Location;
use crate::providers::store::faulty::{Faulty, Op, Rule, forbidden};

/// A store with a descriptor, and the newest of its keys objects.
struct Scene {
    memory: Arc<InMemory>,
    keys: Keys,
    hash: Hash,
}

impl Scene {
    async fn new(signer: &SigningKey) -> Self {
        let (id, now) = ("1".repeat(32), Timestamp::UNIX_EPOCH);
        let (recipient, _) = generate_identity();
        let keys = Keys::first(id.clone(), now, vec![recipient], vec![signer.signer().to_string()]);
        let mut scene = Self { memory: Arc::default(), keys, hash: Hash::of(b"") };
        let descriptor = serde_json::to_vec(&Descriptor::new(id, now)).unwrap();
        scene.put(layout::DESCRIPTOR, descriptor).await;
        scene.store(signer).await;
        scene
    }

    async fn put(&self, key: &str, bytes: Vec<u8>) {
        self.memory.put(&key.into(), PutPayload::from(bytes)).await.unwrap();
    }

    async fn store(&mut self, signer: &SigningKey) {
        let (hash, bytes) = self.keys.write().unwrap();
        self.hash = hash;
        let key = layout::keys_object(self.keys.seq, hash);
        let signature = signer.sign(&bytes, &key).unwrap();
        self.put(&format!("{key}{}", layout::SIGNATURE), signature.into_bytes()).await;
        self.put(&key, bytes).await;
    }

    async fn next(&mut self, signer: &SigningKey, change: impl FnOnce(&mut Keys)) {
        self.keys.previous = Some(self.hash);
        self.keys.seq += 1;
        change(&mut self.keys);
        self.store(signer).await;
    }

    /// What a host makes of it; and the store that it asked.
    async fn establish(
        &self,
        own: &SigningKey,
        config: &HostConfig,
        rules: impl IntoIterator<Item = Rule>,
    ) -> (Result<HostKeys>, Arc<Faulty>) {
        let backend = Faulty::over(self.memory.clone(), rules);
        let store = Store::from_backend(Location::parse("s3://bucket").unwrap(), backend.clone());
        let view = StoreView::list(&store).await.unwrap();
        (HostKeys::establish(&store, &view, config, own.signer()).await, backend)
    }
}

fn key() -> SigningKey {
    SigningKey::generate().unwrap().0
}

#[tokio::test]
async fn one_keys_object_that_is_refused_hides_no_other() {
    let own = key();
    let mut scene = Scene::new(&own).await;
    scene.next(&own, |_| {}).await;
    let refused = || Rule::get("keys/000002").fails(forbidden);
    let keys = scene.establish(&own, &HostConfig::default(), [refused()]).await.0.unwrap();
    assert_eq!(keys.seq, Some(1));
    assert!(keys.warnings.iter().any(|said| said.contains("keys/000002") && said.contains("denied")), "{keys:?}");
    let error = keys.clone().not_older_than(Some(2)).unwrap_err();
    assert_eq!(error.code(), ExitCode::Integrity);
    assert!(error.hint_text().unwrap().contains("up to a number 2"), "{error:?}");
    assert_eq!(keys.clone().not_older_than(Some(1)).unwrap().warnings, keys.warnings);
}

#[tokio::test]
async fn a_host_that_could_read_keys_once_says_that_it_cannot_any_more() {
    let own = key();
    let scene = Scene::new(&own).await;
    let refused = || Rule::get("").fails(forbidden);
    let config = HostConfig {
        recipients: scene.keys.recipients.clone(),
        store_id: Some(scene.keys.store_id.clone()),
        ..HostConfig::default()
    };
    let keys = scene.establish(&own, &config, [refused()]).await.0.unwrap();
    assert_eq!((keys.seq, &keys.warnings[..]), (None, &[][..]), "a host of little privilege is nothing unusual");
    assert_eq!(keys.clone().not_older_than(None).unwrap().warnings, [""; 0]);
    let warnings = keys.not_older_than(Some(3)).unwrap().warnings;
    assert!(warnings.len() == 1 && warnings[0].contains("number 3"), "{warnings:?}");
    let error = scene.establish(&own, &HostConfig::default(), [refused()]).await.0.unwrap_err();
    assert_eq!(error.code(), ExitCode::Usage, "without recipients there is nobody to encrypt to");
}

#[tokio::test]
async fn what_cannot_be_a_keys_object_is_named_and_not_fetched() {
    let own = key();
    let scene = Scene::new(&own).await;
    let large = vec![b' '; usize::try_from(MAX_DOCUMENT).unwrap() + 1];
    let names = ["keys/000002-00000000.json", "keys/readme.txt"];
    scene.put(names[0], large.clone()).await;
    scene.put(names[1], b"hello".to_vec()).await;
    scene.put(layout::DESCRIPTOR, large).await;
    let (keys, backend) = scene.establish(&own, &HostConfig::default(), []).await;
    let keys = keys.unwrap();
    assert_eq!((keys.seq, keys.warnings.len()), (Some(1), 3), "{keys:?}");
    for (name, why) in [(names[0], "bytes long"), (names[1], "name"), (layout::DESCRIPTOR, "bytes long")] {
        assert!(keys.warnings.iter().any(|said| said.contains(name) && said.contains(why)), "{name}: {keys:?}");
    }
    assert_eq!(backend.count(Op::Get, "readme"), 0);
}

#[tokio::test]
async fn a_newer_format_stops_a_host_unless_its_signer_was_revoked() {
    let (own, thief) = (key(), key());
    let mut scene = Scene::new(&own).await;
    scene.next(&own, |keys| keys.signers.push(thief.signer().to_string())).await;
    let config = HostConfig { pins: vec![thief.signer().clone()], ..HostConfig::default() };
    let revoked = Revocation { signer: thief.signer().to_string(), trusted_up_to: BTreeMap::new() };
    scene.next(&own, |keys| keys.revoked.push(revoked)).await;
    scene.next(&thief, |keys| keys.format = 2).await;
    let keys = scene.establish(&own, &config, []).await.0.unwrap();
    assert_eq!((keys.seq, keys.warnings.len()), (Some(3), 1), "{keys:?}");
    assert!(keys.warnings[0].contains("keys/000004"), "{keys:?}");
    scene.next(&own, |_| {}).await;
    let error = scene.establish(&own, &config, []).await.0.unwrap_err();
    assert_eq!(error.code(), ExitCode::Integrity);
    assert!(error.full_message().contains("keys/000005"), "{error:?}");
}
