//! What is read before any key is used: receipt, signature, keys objects, pack list, descriptor, names of objects; and
//! the files of keys that a person gives. One input is read as each of them.

use std::sync::LazyLock;

use jiff::Timestamp;
use opsctl::archive::hash::Hash;
use opsctl::archive::keyring::{Identities, Recipients};
use opsctl::archive::keys::{Descriptor, Found, Keys, Rule, resolve};
use opsctl::archive::receipt::{Receipt, SnapshotId};
use opsctl::archive::signature::{self, Signer, SigningKey};
use opsctl::archive::{layout, packlist};
use secrecy::SecretString;

/// The signer of the fixture, and a receipt that it signed.
const DOCUMENT: &[u8] =
    include_bytes!("../../fixtures/stores/v1/store/snapshots/fixture/20261121T092315Z-000001-500714f3895489b2.json");
const SIGNATURE: &[u8] = include_bytes!(
    "../../fixtures/stores/v1/store/snapshots/fixture/20261121T092315Z-000001-500714f3895489b2.json.minisig"
);
static PIN: LazyLock<Signer> =
    LazyLock::new(|| include_str!("../../fixtures/stores/v1/signer.pub").parse().expect("the fixture's signer"));

pub fn run(data: &[u8]) {
    receipt(data);
    descriptor_and_keys(data);
    pack_list(data);
    signatures(data);
    if let Ok(text) = std::str::from_utf8(data) {
        names(text);
        key_files(text);
    }
}

/// Under the name that the document itself asks for.
fn receipt(data: &[u8]) {
    let Ok(said) = serde_json::from_slice::<serde_json::Value>(data) else { return };
    let source = said["source"].as_str().unwrap_or_default();
    let time = said["finished_at"].as_str().and_then(|text| text.parse::<Timestamp>().ok());
    let (Some(time), Some(seq)) = (time, said["seq"].as_u64()) else { return };
    let Ok(id) = SnapshotId::new(time, seq, Hash::of(data)).as_str().parse::<SnapshotId>() else { return };
    let Ok(receipt) = Receipt::read(source, &id, data) else { return };
    assert_eq!((receipt.seq, receipt.finished_at, receipt.source.as_str()), (id.seq(), id.finished_at(), source));
    assert!(receipt.predecessor.as_ref().is_none_or(|before| before.seq() < receipt.seq));
    super::manifest::check_frame(&receipt.root);
    let (written_id, written) = receipt.write().unwrap();
    assert_eq!(Receipt::read(source, &written_id, &written).unwrap(), receipt);
    assert!(Receipt::read("another", &id, data).is_err() || source == "another");
    let mut other = data.to_vec();
    other.push(b' ');
    assert!(Receipt::read(source, &id, &other).is_err(), "the name binds the bytes");
}

fn descriptor_and_keys(data: &[u8]) {
    let is_id = |id: &str| id.len() == 32 && id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if let Ok(descriptor) = Descriptor::read(data) {
        assert!(is_id(&descriptor.store_id), "it becomes part of a path");
        assert_eq!(Descriptor::read(&serde_json::to_vec(&descriptor).unwrap()).unwrap(), descriptor);
    }
    if let Ok(keys) = Keys::read(data) {
        assert!(is_id(&keys.store_id));
        let (_, bytes) = keys.write().unwrap();
        assert_eq!(Keys::read(&bytes).unwrap(), keys);
    }
    // A document and its signature with a NUL between them, as the only keys object and behind one that is right.
    let end = data.iter().position(|b| *b == 0).unwrap_or(data.len());
    let (bytes, signature) = (data[..end].to_vec(), data.get(end + 1..).map(<[u8]>::to_vec));
    let seq = Keys::read(&bytes).map_or(1, |keys| keys.seq);
    let key = layout::keys_object(seq, Hash::of(&bytes));
    let object = Found { key, modified: Timestamp::UNIX_EPOCH, bytes, signature };
    for rule in [Rule::Chain, Rule::Direct] {
        let resolved = resolve(vec![object.clone()], std::slice::from_ref(&*PIN), rule);
        match &resolved.head {
            Some((hash, _)) => {
                assert_eq!(*hash, Hash::of(&object.bytes));
                let by = signature::verify(&object.bytes, object.signature.as_ref().unwrap(), [&*PIN]);
                assert_eq!(by.unwrap(), &*PIN, "nothing counts that no pinned signer signed");
            }
            None => assert_eq!(resolved.rejected.len(), 1, "each object counts or is named"),
        }
    }
}

fn pack_list(data: &[u8]) {
    let Ok(lines) = packlist::read(Hash::of(data), data) else { return };
    let (name, bytes) = packlist::write(lines.clone());
    let mut sorted = lines;
    assert!(sorted.iter().all(|line| line.size <= 1 << 41));
    sorted.sort();
    assert_eq!(packlist::read(name, &bytes).unwrap(), sorted);
    assert!(packlist::read(Hash([0; 32]), data).is_err());
}

/// The input as the signature of a known document, and as a document with a known signature.
fn signatures(data: &[u8]) {
    if let Ok(by) = signature::verify(DOCUMENT, data, [&*PIN]) {
        assert_eq!(by, &*PIN);
        let line = |text: &[u8], n: usize| {
            let text = String::from_utf8_lossy(text);
            text.lines().nth(n).unwrap_or_default().trim().to_owned()
        };
        for n in 1..4 {
            assert_eq!(line(data, n), line(SIGNATURE, n), "all but the untrusted comment is signed");
        }
    }
    assert_eq!(signature::verify(data, SIGNATURE, [&*PIN]).is_ok(), data == DOCUMENT);
    assert!(signature::verify(DOCUMENT, data, []).is_err());
}

fn names(text: &str) {
    if let Ok(id) = text.parse::<SnapshotId>() {
        assert_eq!(id.as_str(), text);
        assert!(id.as_str().bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'), "it is part of a name");
        let key = layout::receipt("web", &id);
        assert_eq!(layout::parse_receipt(&key), Some(("web", id.clone())));
        let spelled = SnapshotId::new(id.finished_at(), id.seq(), Hash([0; 32]));
        assert_eq!(spelled.finished_at(), id.finished_at());
        assert_eq!(spelled.seq(), id.seq());
    }
    if let Some((source, id)) = layout::parse_receipt(text) {
        assert!(layout::is_source(source) && !source.contains('/') && source != "." && source != "..");
        assert_eq!(layout::receipt(source, &id), text);
    }
    if let Some(pack) = layout::parse_pack(text) {
        assert_eq!(layout::pack(pack), text);
    }
    if let Some(pack) = layout::parse_pack_mark(text) {
        assert_eq!(format!("trash/packs/{pack}"), text);
    }
    if let Ok(hash) = text.parse::<Hash>() {
        assert_eq!(hash.to_string(), text);
    }
}

/// What a person gives: public keys, an identity file, a signing key file. No message repeats a secret.
fn key_files(text: &str) {
    if let Ok(signer) = text.parse::<Signer>() {
        assert_eq!(signer.as_str().parse::<Signer>().unwrap(), signer);
    }
    match Recipients::parse(text.lines()) {
        Ok(recipients) => {
            let texts = recipients.texts();
            assert!(texts.is_sorted() && !texts.is_empty());
            assert_eq!(Recipients::parse(&texts).unwrap().hash(), recipients.hash());
        }
        Err(error) => assert!(error.to_string().len() < 400, "a bounded message"),
    }
    let secret = SecretString::from(text.to_owned());
    if let Err(error) = Identities::parse(&secret) {
        assert!(error.to_string().len() < 250, "a fixed message");
    }
    if let Ok(key) = SigningKey::parse(&secret) {
        let signature = key.sign(DOCUMENT, "comment").unwrap();
        assert_eq!(signature::verify(DOCUMENT, signature.as_bytes(), [key.signer()]).unwrap(), key.signer());
    }
}
