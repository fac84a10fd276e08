//! Which chunks the store already has, and where.
//!
//! Invariants:
//! * A chunk is claimed by exactly one worker, so it is stored once however often it occurs.
//! * A chunk that lies only in packs of earlier recipients counts as stored for no file but an unchanged
//!   one, and only as far as the budget of the run leaves it there.
//! * Memory is about 80 bytes a distinct chunk: hashes and small numbers, never content.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::archive::entry::{Extent, FrameRef};
use crate::archive::hash::Hash;
use crate::archive::packlist::PackLine;
use crate::{Error, Result};

const SHARDS: usize = 16;
/// Claimed, but its frame is not in a pack yet.
const CLAIMED: u32 = u32::MAX;

/// The chunks known to this run.
#[derive(Debug)]
pub struct ChunkIndex {
    shards: Vec<Mutex<HashMap<Hash, u32>>>,
    tables: Mutex<Tables>,
    earlier: Mutex<Earlier>,
}

/// The chunks in packs that are encrypted to earlier recipients, and what may become of them.
#[derive(Debug)]
struct Earlier {
    /// The numbers of these packs.
    packs: HashSet<u32>,
    chunks: HashMap<Hash, EarlierChunk>,
    /// Bytes of such chunks that this run may still store anew. The last chunk may exceed it, so that each run
    /// gets on however large its chunks are.
    budget: u64,
    /// What was decided before anything was read.
    planned: Rekey,
    /// Bytes of such chunks that unchanged files had stored anew.
    stored: u64,
}

#[derive(Clone, Copy, Debug)]
struct EarlierChunk {
    frame: u32,
    len: u32,
    verdict: Option<bool>,
}

/// What a run does about content that lies only in packs of earlier recipients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rekey {
    /// Bytes of unchanged files that are stored anew for today's recipients.
    pub stored_bytes: u64,
    /// Bytes that the snapshot still has only in packs of earlier recipients.
    pub left_bytes: u64,
    /// Chunks of these bytes.
    pub left_chunks: u64,
}

impl Rekey {
    /// Counts a chunk that stays where it is.
    pub fn leave(&mut self, len: u32) {
        self.left_bytes += u64::from(len);
        self.left_chunks += 1;
    }
}

/// What becomes of a chunk that lies only in packs of earlier recipients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InEarlierPacks {
    /// It stays there unless the budget of this run has room for it.
    MayStay,
    /// It is stored anew.
    StoredAnew,
}

#[derive(Debug, Default)]
struct Tables {
    packs: Vec<PackLine>,
    by_pack: HashMap<Hash, u32>,
    frames: Vec<Frame>,
    by_frame: HashMap<(u32, u64), u32>,
}

#[derive(Clone, Copy, Debug)]
struct Frame {
    pack: u32,
    place: FrameRef,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The maps are valid after every single operation, so a panic elsewhere leaves nothing half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Default for ChunkIndex {
    /// An index for which everything in packs of earlier recipients is stored anew.
    fn default() -> Self {
        Self::new(u64::MAX)
    }
}

impl ChunkIndex {
    /// An index of a run that stores anew at most about `budget` bytes of what lies only in packs of earlier
    /// recipients.
    #[must_use]
    pub fn new(budget: u64) -> Self {
        let (packs, chunks) = (HashSet::new(), HashMap::new());
        let earlier = Earlier { packs, chunks, budget, planned: Rekey::default(), stored: 0 };
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { shards, tables: Mutex::default(), earlier: Mutex::new(earlier) }
    }

    fn shard(&self, chunk: Hash) -> MutexGuard<'_, HashMap<Hash, u32>> {
        lock(&self.shards[usize::from(chunk.0[0]) % SHARDS])
    }

    /// True if the caller is the first to see `chunk` and must store it.
    pub fn claim(&self, chunk: Hash, earlier: InEarlierPacks) -> bool {
        match self.shard(chunk).entry(chunk) {
            std::collections::hash_map::Entry::Occupied(_) => false,
            std::collections::hash_map::Entry::Vacant(free) => {
                let new = earlier == InEarlierPacks::StoredAnew || self.leaves_earlier_packs(chunk);
                if new {
                    free.insert(CLAIMED);
                }
                new
            }
        }
    }

    /// False if `chunk` stays where it is, in a pack of earlier recipients; else it is counted.
    fn leaves_earlier_packs(&self, chunk: Hash) -> bool {
        let mut earlier = lock(&self.earlier);
        match earlier.chunks.get(&chunk).copied() {
            None => true,
            Some(EarlierChunk { verdict: Some(false), .. }) => false,
            Some(EarlierChunk { len, .. }) => {
                earlier.stored += u64::from(len);
                true
            }
        }
    }

    /// Decides about the chunks of an unchanged file that lie in packs of earlier recipients. True if one of
    /// them is to be stored anew, so that the file must be read.
    pub fn decide(&self, chunks: &[(Hash, u32)]) -> bool {
        chunks.iter().fold(false, |any, (chunk, _)| self.decide_one(*chunk) || any)
    }

    fn decide_one(&self, chunk: Hash) -> bool {
        if self.shard(chunk).contains_key(&chunk) {
            // Stored for today's recipients already, by another file perhaps: reading gives its new place for nothing.
            return true;
        }
        let mut earlier = lock(&self.earlier);
        let has_room = earlier.budget > 0;
        let Some(known) = earlier.chunks.get_mut(&chunk) else { return true };
        if let Some(verdict) = known.verdict {
            return verdict;
        }
        known.verdict = Some(has_room);
        let len = known.len;
        if has_room {
            earlier.budget = earlier.budget.saturating_sub(len.into());
            earlier.planned.stored_bytes += u64::from(len);
        } else {
            earlier.planned.leave(len);
        }
        has_room
    }

    /// Bytes in packs of earlier recipients that may still be stored anew.
    #[must_use]
    pub fn budget(&self) -> u64 {
        lock(&self.earlier).budget
    }

    /// What was decided so far, before anything is read.
    #[must_use]
    pub fn planned(&self) -> Rekey {
        lock(&self.earlier).planned
    }

    /// Bytes in packs of earlier recipients that unchanged files had stored anew.
    #[must_use]
    pub fn stored_anew(&self) -> u64 {
        lock(&self.earlier).stored
    }

    /// Registers a pack that is encrypted to earlier recipients.
    pub fn add_earlier_pack(&self, line: PackLine) {
        let number = self.add_pack(line);
        lock(&self.earlier).packs.insert(number);
    }

    /// True if the pack with this number is encrypted to earlier recipients.
    #[must_use]
    pub fn is_earlier(&self, number: u32) -> bool {
        lock(&self.earlier).packs.contains(&number)
    }

    /// The packs that are encrypted to earlier recipients, by name.
    #[must_use]
    pub fn earlier_packs(&self) -> HashSet<Hash> {
        let numbers: Vec<u32> = lock(&self.earlier).packs.iter().copied().collect();
        numbers.into_iter().filter_map(|number| Some(self.pack(number)?.pack)).collect()
    }

    /// Registers a pack and returns its number in this run.
    pub fn add_pack(&self, line: PackLine) -> u32 {
        let mut tables = lock(&self.tables);
        if let Some(known) = tables.by_pack.get(&line.pack) {
            return *known;
        }
        let number = u32::try_from(tables.packs.len()).unwrap_or(CLAIMED);
        tables.packs.push(line);
        tables.by_pack.insert(line.pack, number);
        number
    }

    /// The number of a registered pack.
    #[must_use]
    pub fn pack_number(&self, pack: Hash) -> Option<u32> {
        lock(&self.tables).by_pack.get(&pack).copied()
    }

    /// The pack with a number.
    #[must_use]
    pub fn pack(&self, number: u32) -> Option<PackLine> {
        lock(&self.tables).packs.get(number as usize).copied()
    }

    fn frame(&self, pack: u32, place: FrameRef) -> u32 {
        let mut tables = lock(&self.tables);
        let next = u32::try_from(tables.frames.len()).unwrap_or(CLAIMED);
        let frame = *tables.by_frame.entry((pack, place.offset)).or_insert(next);
        if frame == next {
            tables.frames.push(Frame { pack, place });
        }
        frame
    }

    /// Records that `chunks` lie in one frame of a registered pack.
    pub fn place(&self, pack: u32, place: FrameRef, chunks: impl IntoIterator<Item = Hash>) {
        let frame = self.frame(pack, place);
        for chunk in chunks {
            self.shard(chunk).insert(chunk, frame);
        }
    }

    /// Records where an extent of a file lies, in a registered pack.
    pub fn place_extent(&self, pack: u32, extent: &Extent) {
        if !self.is_earlier(pack) {
            return self.place(pack, extent.frame, [extent.chunk]);
        }
        let frame = self.frame(pack, extent.frame);
        let known = EarlierChunk { frame, len: extent.len, verdict: None };
        lock(&self.earlier).chunks.insert(extent.chunk, known);
    }

    /// Forgets which frame began where; needed only while a saved index is loaded.
    pub fn loaded(&self) {
        lock(&self.tables).by_frame = HashMap::new();
    }

    /// Where `len` bytes of `chunk` are.
    ///
    /// # Errors
    /// When the chunk was never stored: a fault of this program.
    pub fn extent(&self, chunk: Hash, len: u32) -> Result<(u32, Extent)> {
        let frame = self.shard(chunk).get(&chunk).copied();
        let frame = frame.or_else(|| lock(&self.earlier).chunks.get(&chunk).map(|known| known.frame));
        let tables = lock(&self.tables);
        let found = frame.and_then(|f| tables.frames.get(f as usize));
        let found = found.and_then(|f| Some((f, tables.packs.get(f.pack as usize)?)));
        match found {
            Some((frame, pack)) => {
                Ok((frame.pack, Extent { pack: pack.pack, frame: frame.place, chunk, offset: 0, len }))
            }
            None => Err(Error::integrity(format!("chunk {chunk} was not stored; nothing is committed"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_is_claimed_once_and_found_where_it_was_placed() {
        let index = ChunkIndex::default();
        let chunk = Hash::of(b"x");
        assert!(index.claim(chunk, InEarlierPacks::StoredAnew));
        assert!(!index.claim(chunk, InEarlierPacks::StoredAnew));
        assert!(index.extent(chunk, 1).is_err(), "claimed is not stored");
        let pack = index.add_pack(PackLine { pack: Hash::of(b"p"), size: 1, header: 1, keys: Hash::of(b"k") });
        let place = FrameRef { offset: 7, stored: 8, decoded: 9 };
        index.place(pack, place, [chunk]);
        let (number, extent) = index.extent(chunk, 1).unwrap();
        assert_eq!((number, extent.pack, extent.frame, extent.len), (pack, Hash::of(b"p"), place, 1));
    }

    #[test]
    fn what_lies_in_earlier_packs_stays_there_only_for_unchanged_files_and_beyond_the_budget() {
        let index = ChunkIndex::new(10);
        let pack = PackLine { pack: Hash::of(b"p"), size: 1, header: 1, keys: Hash::of(b"k") };
        index.add_earlier_pack(pack);
        let number = index.pack_number(pack.pack).unwrap();
        let [a, b, c] = [b"a", b"b", b"c"].map(|text| Hash::of(text));
        for (chunk, len) in [(a, 6), (b, 6), (c, 6)] {
            let frame = FrameRef { offset: 7, stored: 8, decoded: 9 };
            index.place_extent(number, &Extent { pack: pack.pack, frame, chunk, offset: 0, len });
        }
        assert!(index.decide(&[(a, 6)]), "within the budget");
        assert!(index.decide(&[(b, 6)]), "the last one may exceed it");
        assert!(index.decide(&[(a, 6)]), "a second file with the same content costs nothing");
        assert!(!index.decide(&[(c, 6)]), "nothing is left");
        assert!(index.decide(&[(c, 6), (a, 6)]), "a file with one chunk to be stored anew is read");
        assert_eq!(index.planned(), Rekey { stored_bytes: 12, left_bytes: 6, left_chunks: 1 });
        assert!(index.claim(a, InEarlierPacks::MayStay));
        assert!(!index.claim(c, InEarlierPacks::MayStay));
        assert_eq!(index.extent(c, 6).unwrap().0, number);
        assert!(index.claim(c, InEarlierPacks::StoredAnew), "a changed file needs it anew");
        assert!(index.claim(Hash::of(b"new"), InEarlierPacks::MayStay));
        assert_eq!(index.stored_anew(), 6, "what unchanged files had stored anew, and no more");
    }
}
