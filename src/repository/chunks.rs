//! Reads single chunks, such as the nodes of a manifest, from wherever they lie.
//!
//! Invariants: every chunk is checked against its hash; a call asks for each frame at most once, and frames read
//! lately are not asked for again.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use crate::archive::entry::Extent;
use crate::archive::frame;
use crate::archive::keyring::Identities;
use crate::archive::layout;
use crate::cancel::Cancel;
use crate::{Context as _, Error, Result};

use super::fetch::{FetchOptions, FrameOf};
use super::plan::FetchPlan;
use super::{Packs, Repository};

/// Bytes of decoded frames that are kept.
const CACHE: usize = 4 << 20;
/// A larger frame would push out many others, and is hardly asked for twice: it holds one chunk of one large file.
const MAX_CACHED: usize = CACHE / 4;

/// Reads chunks of one snapshot.
pub struct ChunkReader<'a> {
    repository: &'a Repository,
    identities: &'a Identities,
    cancel: &'a Cancel,
    packs: Packs,
    cache: Mutex<FrameCache>,
}

impl<'a> ChunkReader<'a> {
    /// A reader of chunks in `packs`.
    #[must_use]
    pub fn new(repository: &'a Repository, packs: Packs, identities: &'a Identities, cancel: &'a Cancel) -> Self {
        Self { repository, identities, cancel, packs, cache: Mutex::default() }
    }

    /// The packs that are read from.
    #[must_use]
    pub const fn packs(&self) -> &Packs {
        &self.packs
    }

    /// The bytes that each extent names, in the same order. All are in memory at once: the caller limits how many.
    ///
    /// # Errors
    /// Exit 4 for damage, 12 for a wrong identity, 130 when cancelled, else what the store says.
    pub async fn read(&self, extents: &[Extent]) -> Result<Vec<Vec<u8>>> {
        let mut by_frame: HashMap<FrameOf, Vec<usize>> = HashMap::new();
        for (at, extent) in extents.iter().enumerate() {
            self.packs.locate(extent)?;
            by_frame.entry(FrameOf { pack: extent.pack, frame: extent.frame }).or_default().push(at);
        }
        let read = Mutex::new(vec![Vec::new(); extents.len()]);
        let take = |place: FrameOf, tar: &[u8]| {
            for at in by_frame.get(&place).into_iter().flatten() {
                let bytes = slice(&extents[*at], tar)?;
                lock(&read)[*at] = bytes.to_vec();
            }
            Ok(())
        };

        let mut missing = HashSet::new();
        for place in by_frame.keys() {
            let cached = lock(&self.cache).get(*place);
            match cached {
                Some(tar) => take(*place, &tar)?,
                None => {
                    missing.insert(*place);
                }
            }
        }
        let is_missing = |x: &&Extent| missing.contains(&FrameOf { pack: x.pack, frame: x.frame });
        let plan = FetchPlan::new(&self.packs, extents.iter().filter(is_missing))?;
        if !plan.packs.is_empty() {
            let sink = |place: FrameOf, tar: &[u8]| {
                lock(&self.cache).put(place, tar);
                take(place, tar)
            };
            let options = FetchOptions::default();
            self.repository.fetch(&plan, Some(self.identities), &options, self.cancel, &sink).await?;
        }
        Ok(read.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// The bytes that one extent names.
    ///
    /// # Errors
    /// As [`ChunkReader::read`].
    pub async fn read_one(&self, extent: &Extent) -> Result<Vec<u8>> {
        Ok(self.read(std::slice::from_ref(extent)).await?.swap_remove(0))
    }
}

/// The bytes that `extent` names, out of its decoded frame. The whole chunk is checked against its hash.
///
/// # Errors
/// Exit 4 when the chunk is not there, is another, or is shorter than the extent says.
pub fn slice<'t>(extent: &Extent, tar: &'t [u8]) -> Result<&'t [u8]> {
    let chunk = frame::find(tar, extent.chunk).context(|| format!("reading {}", layout::pack(extent.pack)))?;
    let start = extent.offset as usize;
    let end = start.saturating_add(extent.len as usize);
    chunk.get(start..end).ok_or_else(|| {
        let message = format!("chunk {} is {} bytes long, {start}..{end} is asked for", extent.chunk, chunk.len());
        Error::integrity(message)
    })
}

/// The frames read last, oldest first.
#[derive(Default)]
struct FrameCache {
    frames: VecDeque<(FrameOf, Arc<[u8]>)>,
    bytes: usize,
}

impl FrameCache {
    fn get(&mut self, place: FrameOf) -> Option<Arc<[u8]>> {
        let at = self.frames.iter().position(|(p, _)| *p == place)?;
        let frame = self.frames.remove(at)?;
        let tar = frame.1.clone();
        self.frames.push_back(frame);
        Some(tar)
    }

    fn put(&mut self, place: FrameOf, tar: &[u8]) {
        if tar.len() > MAX_CACHED {
            return;
        }
        self.bytes += tar.len();
        self.frames.push_back((place, tar.into()));
        while self.bytes > CACHE {
            let Some((_, oldest)) = self.frames.pop_front() else { return };
            self.bytes -= oldest.len();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::entry::FrameRef;
    use crate::archive::hash::Hash;

    #[test]
    fn a_frame_that_does_not_fit_pushes_out_no_other() {
        let place = |offset| FrameOf { pack: Hash::of(b"p"), frame: FrameRef { offset, stored: 1, decoded: 1 } };
        let mut cache = FrameCache::default();
        cache.put(place(0), b"small");
        cache.put(place(1), &vec![0; CACHE + 1]);
        assert_eq!(cache.get(place(0)).as_deref(), Some(&b"small"[..]));
        assert!(cache.get(place(1)).is_none());
        // What fits is kept as far as there is room, the oldest goes first.
        (2..7).for_each(|offset| cache.put(place(offset), &vec![0; MAX_CACHED]));
        assert!(cache.get(place(0)).is_none() && cache.get(place(6)).is_some() && cache.bytes <= CACHE);
    }
}
