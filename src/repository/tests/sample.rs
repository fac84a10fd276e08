//! Small stores, made with the writers of `archive`, to be read and damaged.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStoreExt as _, PutPayload};

use crate::archive::chunker::Chunker;
use crate::archive::entry::{Content, Entry, Extent, Kind, MAX_INLINE_EXTENTS};
use crate::archive::frame::{FrameCodec, TAR_END, TARGET, append_entry};
use crate::archive::hash::{Hash, Hasher};
use crate::archive::keyring::{Identities, Recipients, generate_identity};
use crate::archive::keys::{Descriptor, Keys};
use crate::archive::layout::{self, SIGNATURE};
use crate::archive::manifest::{Excluded, NodeCutter, NodeRef, Root};
use crate::archive::pack::PackWriter;
use crate::archive::packlist::{self, PackLine};
use crate::archive::path::EntryPath;
use crate::archive::receipt::{Counts, Receipt, SnapshotId, Status, TYPE};
use crate::archive::signature::SigningKey;
use crate::providers::store::{Location, RetryPolicy, Store};
use crate::repository::{Purpose, Repository, TrustOptions};

pub(crate) fn path(text: &[u8]) -> EntryPath {
    EntryPath::new(text.to_vec()).unwrap()
}

/// Incompressible bytes.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let blocks = (0_u64..).flat_map(|n| Hash::of(&[seed.to_le_bytes(), n.to_le_bytes()].concat()).0);
    blocks.take(len).collect()
}

pub(crate) fn whole_second(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap()
}

/// A store with one signer and one recipient.
pub(crate) struct Sample {
    pub(crate) backend: Arc<InMemory>,
    pub(crate) store: Store,
    pub(crate) signer: SigningKey,
    pub(crate) identities: Identities,
    pub(crate) keys: Keys,
    keys_hash: Hash,
    recipients: Recipients,
    /// Where each chunk is, and in which pack.
    chunks: HashMap<Hash, Extent>,
    packs: Vec<PackLine>,
    /// Stored bytes after which a pack is closed.
    pub(crate) pack_size: u64,
    /// More nodes than this get a level above them.
    pub(crate) max_children: usize,
}

impl Sample {
    pub(crate) async fn new() -> Self {
        let (signer, _) = SigningKey::generate().unwrap();
        let (public, secret) = generate_identity();
        let backend = Arc::new(InMemory::new());
        let store = Store::from_backend(Location::parse("memory://").unwrap(), backend.clone())
            .with_retry(RetryPolicy::never());
        let keys = Keys::first(
            "11111111111111111111111111111111".into(),
            now(),
            vec![public.clone()],
            vec![signer.signer().to_string()],
        );
        let mut sample = Self {
            backend,
            store,
            identities: Identities::parse(&secret).unwrap(),
            keys,
            keys_hash: Hash::of(b""),
            recipients: Recipients::parse([public]).unwrap(),
            signer,
            chunks: HashMap::new(),
            packs: Vec::new(),
            pack_size: 1 << 20,
            max_children: 128,
        };
        let descriptor =
            serde_json::to_vec(&Descriptor::new("11111111111111111111111111111111".into(), now())).unwrap();
        sample.put(layout::DESCRIPTOR, descriptor).await;
        sample.put_keys(|_| ()).await;
        sample
    }

    /// Stores a (further) keys object, signed by the signer.
    pub(crate) async fn put_keys(&mut self, change: impl FnOnce(&mut Keys)) {
        if self.keys_hash != Hash::of(b"") {
            self.keys.seq += 1;
            self.keys.previous = Some(self.keys_hash);
        }
        change(&mut self.keys);
        let (hash, bytes) = self.keys.write().unwrap();
        self.keys_hash = hash;
        self.put_signed(&layout::keys_object(self.keys.seq, hash), bytes, &self.signer).await;
    }

    pub(crate) async fn put(&self, key: &str, bytes: Vec<u8>) {
        self.backend.put(&Path::from(key), PutPayload::from(bytes)).await.unwrap();
    }

    pub(crate) async fn put_signed(&self, key: &str, bytes: Vec<u8>, signer: &SigningKey) {
        let signature = signer.sign(&bytes, key).unwrap();
        self.put(&format!("{key}{SIGNATURE}"), signature.into_bytes()).await;
        self.put(key, bytes).await;
    }

    pub(crate) async fn get(&self, key: &str) -> Vec<u8> {
        self.backend.get(&Path::from(key)).await.unwrap().bytes().await.unwrap().to_vec()
    }

    pub(crate) async fn delete(&self, key: &str) {
        self.backend.delete(&Path::from(key)).await.unwrap();
    }

    /// Damages an object: `change` gets its bytes.
    pub(crate) async fn damage(&self, key: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = self.get(key).await;
        change(&mut bytes);
        self.put(key, bytes).await;
    }

    pub(crate) fn packs(&self) -> &[PackLine] {
        &self.packs
    }

    pub(crate) fn pinned(&self) -> TrustOptions {
        TrustOptions {
            pins: vec![self.signer.signer().clone()],
            trust_store_keys: false,
            ignore_store_time: false,
            purpose: Purpose::Content,
        }
    }

    pub(crate) async fn open(&self) -> Repository {
        Repository::open(self.store.clone(), &self.pinned()).await.unwrap()
    }

    /// Stores those chunks that are not stored yet, frame by frame, pack by pack.
    pub(crate) async fn add_chunks(&mut self, chunks: &[Vec<u8>]) {
        let mut new: Vec<(Hash, &Vec<u8>)> = chunks.iter().map(|c| (Hash::of(c), c)).collect();
        let mut seen = std::collections::HashSet::new();
        new.retain(|(hash, _)| !self.chunks.contains_key(hash) && seen.insert(*hash));
        let mut codec = FrameCodec::new(1).unwrap();
        let mut rest = new.as_slice();
        while !rest.is_empty() {
            let mut writer = PackWriter::new(&self.recipients).unwrap();
            let mut extents = Vec::new();
            while !rest.is_empty() && writer.len() < self.pack_size {
                let mut tar = Vec::new();
                let mut names = Vec::new();
                while tar.len() < TARGET
                    && let Some(((name, content), left)) = rest.split_first()
                {
                    append_entry(&mut tar, *name, content);
                    names.push((*name, content.len()));
                    rest = left;
                }
                let decoded = u32::try_from(tar.len()).unwrap();
                let frame = writer.append(&codec.encode(&tar).unwrap(), decoded).unwrap();
                let extent = |(chunk, len): (Hash, usize)| {
                    let len = u32::try_from(len).unwrap();
                    Extent { pack: Hash([0; 32]), frame, chunk, offset: 0, len }
                };
                extents.extend(names.into_iter().map(extent));
            }
            let pack = writer.finish(&codec.encode(&TAR_END).unwrap()).unwrap();
            self.put(&layout::pack(pack.id), pack.body.concat()).await;
            let keys = self.recipients.hash();
            self.packs.push(PackLine { pack: pack.id, size: pack.size, header: pack.header, keys });
            self.chunks.extend(extents.into_iter().map(|x| (x.chunk, Extent { pack: pack.id, ..x })));
        }
    }

    /// A file entry for `content`, whose chunks get stored. `holes` are not.
    pub(crate) async fn file(&mut self, name: &[u8], content: &[u8]) -> Entry {
        let mut chunks = Vec::new();
        if content.len() <= crate::archive::chunker::WHOLE {
            chunks.extend((!content.is_empty()).then(|| content.to_vec()));
        } else {
            let each = |chunk: &[u8]| {
                chunks.push(chunk.to_vec());
                Ok::<_, std::io::Error>(())
            };
            Chunker::default().split(content, each).unwrap();
        }
        self.file_of_chunks(name, &chunks, Hash::of(content)).await
    }

    pub(crate) async fn file_of_chunks(&mut self, name: &[u8], chunks: &[Vec<u8>], sha256: Hash) -> Entry {
        self.add_chunks(chunks).await;
        let extents: Vec<Extent> = chunks.iter().map(|c| self.chunks[&Hash::of(c)]).collect();
        let mut entry = Entry::new(path(name), Kind::File);
        entry.mode = 0o644;
        entry.size = chunks.iter().map(|c| c.len() as u64).sum();
        entry.sha256 = Some(sha256);
        entry.content = if extents.len() <= MAX_INLINE_EXTENTS {
            Content::Inline(extents)
        } else {
            let text: Vec<u8> =
                extents.iter().flat_map(|x| [serde_json::to_vec(x).unwrap(), b"\n".to_vec()].concat()).collect();
            let pieces: Vec<Vec<u8>> = text.chunks(10_001).map(<[u8]>::to_vec).collect();
            self.add_chunks(&pieces).await;
            Content::Listed(pieces.iter().map(|p| self.chunks[&Hash::of(p)]).collect())
        };
        entry
    }

    /// Files with these contents, and the directories that they need, in order.
    pub(crate) async fn tree(&mut self, files: &[(&[u8], Vec<u8>)]) -> Vec<Entry> {
        let contents: Vec<Vec<u8>> = files.iter().map(|(_, c)| c.clone()).filter(|c| c.len() <= 512 << 10).collect();
        self.add_chunks(&contents).await;
        let mut entries = BTreeMap::new();
        for (name, content) in files {
            let entry = self.file(name, content).await;
            let mut above = entry.path.clone();
            while let Some((parent, _)) = above.split_last() {
                entries.entry(parent.clone()).or_insert_with(|| Entry::new(parent.clone(), Kind::Dir));
                above = parent;
            }
            entries.insert(entry.path.clone(), entry);
        }
        entries.entry(EntryPath::root()).or_insert_with(|| Entry::new(EntryPath::root(), Kind::Dir));
        entries.into_values().collect()
    }

    /// Stores the manifest of `entries` and returns the root's place.
    pub(crate) async fn manifest(&mut self, entries: &[Entry], counts: Counts) -> Extent {
        let lines: Vec<(EntryPath, Vec<u8>)> =
            entries.iter().map(|e| (e.path.clone(), serde_json::to_vec(e).unwrap())).collect();
        let mut nodes = self.nodes(&lines).await;
        let mut depth = 0;
        while nodes.len() > self.max_children {
            let lines: Vec<(EntryPath, Vec<u8>)> =
                nodes.iter().map(|n| (n.first.clone(), serde_json::to_vec(n).unwrap())).collect();
            nodes = self.nodes(&lines).await;
            depth += 1;
        }
        let root = serde_json::to_vec(&Root::new(depth, nodes, counts, Excluded::default())).unwrap();
        self.add_chunks(std::slice::from_ref(&root)).await;
        self.chunks[&Hash::of(&root)]
    }

    async fn nodes(&mut self, lines: &[(EntryPath, Vec<u8>)]) -> Vec<NodeRef> {
        let mut cutter = NodeCutter::default();
        let mut nodes: Vec<_> = lines.iter().filter_map(|(path, line)| cutter.push(path, line)).collect();
        nodes.extend(cutter.finish());
        let chunks: Vec<Vec<u8>> = nodes.iter().map(|n| n.bytes.clone()).collect();
        self.add_chunks(&chunks).await;
        nodes.into_iter().map(|n| NodeRef { first: n.first, extent: self.chunks[&Hash::of(&n.bytes)] }).collect()
    }

    /// A receipt, not yet stored, of a snapshot that is and that ended `age` seconds ago.
    pub(crate) async fn receipt(&mut self, source: &str, seq: u64, age: i64, entries: &[Entry]) -> Receipt {
        let mut counts = Counts::default();
        entries.iter().for_each(|entry| counts.add(entry));
        let root = self.manifest(entries, counts).await;
        let (pack_list, bytes) = packlist::write(self.packs.clone());
        self.put(&layout::pack_list(pack_list), bytes).await;
        let finished_at = whole_second(now() - SignedDuration::from_secs(age));
        Receipt {
            kind: TYPE.into(),
            format: crate::archive::FORMAT,
            requires: vec![],
            store_id: self.keys.store_id.clone(),
            source: source.into(),
            host: "host".into(),
            seq,
            predecessor: None,
            started_at: finished_at,
            finished_at,
            clock_skew_seconds: None,
            status: Status::Complete,
            profile: None,
            versions: None,
            tags: BTreeMap::new(),
            counts,
            packs_stored: 0,
            bytes_stored: 0,
            pack_list,
            root,
            program: "opsctl test".into(),
        }
    }

    /// Commits a receipt.
    pub(crate) async fn commit(&self, receipt: &Receipt, signer: &SigningKey) -> SnapshotId {
        let (id, bytes) = receipt.write().unwrap();
        self.put_signed(&layout::receipt(&receipt.source, &id), bytes, signer).await;
        id
    }

    /// Commits a snapshot that ended `age` seconds ago.
    pub(crate) async fn snapshot(
        &mut self,
        source: &str,
        predecessor: Option<&SnapshotId>,
        age: i64,
        entries: &[Entry],
    ) -> SnapshotId {
        let seq = predecessor.map_or(1, |p| p.seq() + 1);
        let mut receipt = self.receipt(source, seq, age, entries).await;
        receipt.predecessor = predecessor.cloned();
        self.commit(&receipt, &self.signer).await
    }
}

pub(crate) fn now() -> Timestamp {
    Timestamp::now()
}

/// The hash of a file that consists of these pieces, `None` being a hole.
pub(crate) fn hash_of(pieces: &[(Option<&[u8]>, u64)]) -> Hash {
    let mut hasher = Hasher::default();
    for (data, len) in pieces {
        match data {
            Some(data) => hasher.update(data),
            None => hasher.update_zeros(*len),
        }
    }
    hasher.finish()
}
