//! Which chunks the store already has, and where.
//!
//! Invariants:
//! * A chunk is claimed by exactly one worker, so it is stored once however often it occurs.
//! * Memory is about 80 bytes a distinct chunk: hashes and small numbers, never content.

use std::collections::HashMap;
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
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), tables: Mutex::default() }
    }
}

impl ChunkIndex {
    fn shard(&self, chunk: Hash) -> MutexGuard<'_, HashMap<Hash, u32>> {
        lock(&self.shards[usize::from(chunk.0[0]) % SHARDS])
    }

    /// True if the caller is the first to see `chunk` and must store it.
    pub fn claim(&self, chunk: Hash) -> bool {
        match self.shard(chunk).entry(chunk) {
            std::collections::hash_map::Entry::Occupied(_) => false,
            std::collections::hash_map::Entry::Vacant(free) => {
                free.insert(CLAIMED);
                true
            }
        }
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

    /// Records that `chunks` lie in one frame of a registered pack.
    pub fn place(&self, pack: u32, place: FrameRef, chunks: impl IntoIterator<Item = Hash>) {
        let frame = {
            let mut tables = lock(&self.tables);
            let next = u32::try_from(tables.frames.len()).unwrap_or(CLAIMED);
            let frame = *tables.by_frame.entry((pack, place.offset)).or_insert(next);
            if frame == next {
                tables.frames.push(Frame { pack, place });
            }
            frame
        };
        for chunk in chunks {
            self.shard(chunk).insert(chunk, frame);
        }
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
        assert!(index.claim(chunk));
        assert!(!index.claim(chunk));
        assert!(index.extent(chunk, 1).is_err(), "claimed is not stored");
        let pack = index.add_pack(PackLine { pack: Hash::of(b"p"), size: 1, header: 1, keys: Hash::of(b"k") });
        let place = FrameRef { offset: 7, stored: 8, decoded: 9 };
        index.place(pack, place, [chunk]);
        let (number, extent) = index.extent(chunk, 1).unwrap();
        assert_eq!((number, extent.pack, extent.frame, extent.len), (pack, Hash::of(b"p"), place, 1));
    }
}
