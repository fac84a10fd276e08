//! Does to a copy of the store what a cell says.

use std::path::Path;
use std::process::{Command, Stdio};

use opsctl::archive::hash::Hash;
use opsctl::archive::keys::{Descriptor, Keys};
use opsctl::archive::layout;
use opsctl::archive::receipt::Receipt;
use opsctl::archive::signature::SigningKey;

use crate::expect::{Damage, Object, Snap};
use crate::site::{Copy, Site, keys_of, signature};
use crate::support::clean_env;

/// What was done.
#[derive(Debug, Default)]
pub struct Applied {
    /// The objects that a finding must name. A bad signature is told of the document that it belongs to.
    pub objects: Vec<String>,
    /// The id of a receipt that was added.
    pub planted: Option<String>,
}

/// Damages `copy`.
pub fn apply(site: &Site, copy: &Copy, object: Object, damage: Damage) -> Applied {
    let name = site.name(object);
    let document = name.strip_suffix(layout::SIGNATURE).unwrap_or(&name).to_owned();
    let named =
        |objects: &[&str]| Applied { objects: objects.iter().map(|name| (*name).to_owned()).collect(), planted: None };
    let change = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = copy.get(&name);
        change(&mut bytes);
        copy.put(&name, bytes);
        named(&[&document])
    };
    match damage {
        Damage::FlipFirst => change(&|bytes| bytes[0] ^= 1),
        // Behind `age-encryption.org/v1` and `-> X25519 `: a recipient's share.
        Damage::FlipHeader => change(&|bytes| bytes[40] ^= 1),
        Damage::FlipMiddle => change(&|bytes| {
            let header = if object.is_pack() { site.line(&name).header as usize } else { 0 };
            let middle = header.midpoint(bytes.len());
            bytes[middle] ^= 1;
        }),
        Damage::FlipLast => change(&|bytes| *bytes.last_mut().unwrap() ^= 1),
        Damage::CutByte => change(&|bytes| bytes.truncate(bytes.len() - 1)),
        Damage::CutHalf => change(&|bytes| bytes.truncate(bytes.len() / 2)),
        Damage::CutAll => change(&Vec::clear),
        Damage::Append => change(&|bytes| bytes.push(b'x')),
        Damage::Delete => {
            copy.delete(&name);
            named(&[&document])
        }
        Damage::DeleteWhole => {
            copy.delete(&name);
            copy.delete(&signature(&name));
            named(&[&document])
        }
        Damage::Swap => {
            let sibling = site.sibling(object);
            let (ours, theirs) = (copy.get(&name), copy.get(&sibling));
            copy.put(&name, theirs);
            copy.put(&sibling, ours);
            named(&[&document, sibling.strip_suffix(layout::SIGNATURE).unwrap_or(&sibling)])
        }
        Damage::Sibling => {
            copy.put(&name, copy.get(&site.sibling(object)));
            named(&[&document])
        }
        Damage::Foreign => {
            foreign(site, copy, object, &name);
            named(&[&document])
        }
        Damage::Replayed => {
            for of in [<str>::to_owned, signature] {
                copy.put(&of(&name), copy.get(&of(&site.sibling(object))));
            }
            named(&[&document])
        }
        Damage::Renamed => renamed(site, copy, object),
        Damage::Copied => copied(site, copy, Snap::Other, "production"),
        Damage::CopiedOut => copied(site, copy, Snap::Three, "staging"),
        Damage::Format | Damage::Requires if object == Object::Descriptor => change(&|bytes| {
            let mut descriptor: Descriptor = serde_json::from_slice(bytes).unwrap();
            newer(damage, &mut descriptor.format, &mut descriptor.requires);
            *bytes = serde_json::to_vec(&descriptor).unwrap();
        }),
        Damage::Forged | Damage::Format | Damage::Requires | Damage::SameNumber | Damage::Lied => {
            planted(site, copy, object, damage)
        }
        Damage::Stray => {
            let stray = match object {
                Object::Data => "packs/zz/pack.tar.zst.age",
                Object::List => "packlists/list.jsonl",
                Object::Newest => "snapshots/production/latest.json",
                Object::Keys => "keys/keys.json",
                _ => "notes.txt",
            };
            copy.put(stray, "{}");
            named(&[stray])
        }
    }
}

fn newer(damage: Damage, format: &mut u32, requires: &mut Vec<String>) {
    match damage {
        Damage::Format => *format = 2,
        Damage::Requires => requires.push("unknown".to_owned()),
        _ => {}
    }
}

/// What another store has under such a name, with its signature where there is one. For a pack something that can be
/// made of what everybody may know, the recipient.
fn foreign(site: &Site, copy: &Copy, object: Object, name: &str) {
    let other = &site.elsewhere;
    let theirs = |name: &str| std::fs::read(other.store.join(name)).unwrap();
    let first =
        |folder: &str, end: &str| other.objects_in(folder).into_iter().find(|name| name.ends_with(end)).unwrap();
    let signed = |theirs_name: &str| {
        copy.put(name, theirs(theirs_name));
        copy.put(&signature(name), theirs(&signature(theirs_name)));
    };
    match object {
        Object::Data | Object::Leaves | Object::Root => {
            let size = copy.get(name).len();
            copy.put(name, stock_pack(copy.dir.path(), &site.bench.recipient, size));
        }
        Object::List => copy.put(name, theirs(&first("packlists/", ".jsonl"))),
        Object::Newest | Object::Older => signed(&first("snapshots/", ".json")),
        Object::Signature => copy.put(name, theirs(&signature(&first("snapshots/", ".json")))),
        Object::Keys => signed(&keys_of(other, 1)),
        Object::KeysSignature => copy.put(name, theirs(&signature(&keys_of(other, 1)))),
        Object::Descriptor => copy.put(name, theirs(layout::DESCRIPTOR)),
    }
}

/// A pack made with tar, zstd and age, with exactly this size: a zstd stream may be filled up with a frame that readers
/// skip.
fn stock_pack(dir: &Path, recipient: &str, size: usize) -> Vec<u8> {
    std::fs::write(dir.join("other"), "other content\n").unwrap();
    let shell = |script: &str| {
        let mut command = Command::new("sh");
        command.args(["-ec", script, "sh", recipient]).current_dir(dir).env_clear().envs(clean_env());
        let output = command.stderr(Stdio::inherit()).output().unwrap();
        assert!(output.status.success(), "run `make tools`: {script}");
        output.stdout
    };
    let stream = shell("tar -c --owner=0 --group=0 --numeric-owner other | zstd -q -c");
    // Header and nonce of an empty age file, which has one block with nothing but its tag.
    let fixed = shell("age -r \"$1\" </dev/null").len() - 16;
    let tags = |payload: usize| 16 * payload.div_ceil(65536).max(1);
    let payload = (0..size).rev().find(|payload| fixed + payload + tags(*payload) == size).unwrap();
    let skipped = payload - stream.len() - 8;
    let mut plain = stream;
    plain.extend_from_slice(&0x184D_2A50_u32.to_le_bytes());
    plain.extend_from_slice(&u32::try_from(skipped).unwrap().to_le_bytes());
    plain.resize(payload, 0);
    std::fs::write(dir.join("plain"), plain).unwrap();
    let pack = shell("age -r \"$1\" <plain");
    assert_eq!(pack.len(), size);
    pack
}

/// An old object with its good signature, under a name that makes it the newest.
fn renamed(site: &Site, copy: &Copy, object: Object) -> Applied {
    let old = site.sibling(object);
    let (new, planted) = match object {
        Object::Keys => (layout::keys_object(3, Hash::of(&copy.get(&old))), None),
        _ => {
            let (id, _) = next_receipt(site).write().unwrap();
            (layout::receipt("production", &id), Some(id.to_string()))
        }
    };
    copy.put(&new, copy.get(&old));
    copy.put(&signature(&new), copy.get(&signature(&old)));
    Applied { objects: vec![new], planted }
}

/// A receipt among those of another source.
fn copied(site: &Site, copy: &Copy, snap: Snap, source: &str) -> Applied {
    let id = &site.taken(snap).id;
    let (from, to) = (site.receipt(snap), format!("snapshots/{source}/{id}.json"));
    for of in [<str>::to_owned, signature] {
        copy.put(&of(&to), copy.get(&of(&from)));
    }
    Applied { objects: vec![to], planted: Some(id.clone()) }
}

/// Adds a well-formed document under its right name, with a good signature.
fn planted(site: &Site, copy: &Copy, object: Object, damage: Damage) -> Applied {
    let thief = SigningKey::generate().unwrap().0;
    let signer = if damage == Damage::Forged { &thief } else { &site.signer };
    let (name, bytes, planted) = if object == Object::Keys {
        let mut keys: Keys = serde_json::from_slice(&copy.get(&site.keys(2))).unwrap();
        if damage != Damage::SameNumber {
            (keys.seq, keys.previous) = (3, Some(Hash::of(&copy.get(&site.keys(2)))));
        }
        keys.recipients.push(site.elsewhere.recipient.clone());
        newer(damage, &mut keys.format, &mut keys.requires);
        let (hash, bytes) = keys.write().unwrap();
        (layout::keys_object(keys.seq, hash), bytes, None)
    } else {
        let mut receipt = next_receipt(site);
        if damage == Damage::SameNumber {
            let three = &site.taken(Snap::Three).receipt;
            (receipt.seq, receipt.predecessor) = (three.seq, three.predecessor.clone());
        }
        if damage == Damage::Lied {
            receipt.pack_list = site.taken(Snap::One).receipt.pack_list;
        }
        newer(damage, &mut receipt.format, &mut receipt.requires);
        let (id, bytes) = receipt.write().unwrap();
        (layout::receipt("production", &id), bytes, Some(id.to_string()))
    };
    copy.put(&signature(&name), signer.sign(&bytes, &format!("opsctl {name}")).unwrap());
    copy.put(&name, bytes);
    Applied { objects: vec![name], planted }
}

/// What the snapshot after Three would say if nothing had changed.
fn next_receipt(site: &Site) -> Receipt {
    let three = site.taken(Snap::Three);
    let mut receipt = three.receipt.clone();
    receipt.predecessor = Some(three.id.parse().unwrap());
    receipt.seq += 1;
    receipt.finished_at += jiff::SignedDuration::from_secs(1);
    receipt
}
