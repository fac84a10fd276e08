//! Decides how to get frames out of packs: whole objects where most is needed, ranges where little is.
//!
//! Invariants: a plan asks for every byte at most once; no request is for more than 16 MiB unless it is for a whole
//! pack; packs keep the order in which they were first asked for.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;

use crate::Result;
use crate::archive::entry::{Extent, FrameRef};
use crate::archive::hash::Hash;
use crate::archive::pack;
use crate::archive::packlist::PackLine;

use super::Packs;

/// Needed ranges with less than this between them are fetched as one: a request costs more than the gap.
const MERGE_GAP: u64 = 256 << 10;
/// The longest range.
const MAX_RANGE: u64 = 16 << 20;

/// What to fetch from one pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackFetch {
    /// The pack.
    pub line: PackLine,
    /// The frames that are needed, in order.
    pub frames: Vec<FrameRef>,
    /// How to get them.
    pub how: How,
}

/// How to fetch from a pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum How {
    /// The whole object, which is then compared with its name.
    Whole,
    /// These bytes of the object, in order; only the chunks in them are verified.
    Ranges(Vec<Range<u64>>),
}

impl PackFetch {
    /// Bytes to fetch.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        match &self.how {
            How::Whole => self.line.size,
            How::Ranges(ranges) => ranges.iter().map(|r| r.end - r.start).sum(),
        }
    }

    /// Requests to send.
    #[must_use]
    pub fn requests(&self) -> u64 {
        match &self.how {
            How::Whole => 1,
            How::Ranges(ranges) => ranges.len() as u64,
        }
    }
}

/// What to fetch, pack by pack.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FetchPlan {
    /// The packs in the order in which they are fetched.
    pub packs: Vec<PackFetch>,
}

impl FetchPlan {
    /// Plans to fetch the frames of all `extents`.
    ///
    /// # Errors
    /// As [`Packs::locate`].
    pub fn new<'a>(packs: &Packs, extents: impl IntoIterator<Item = &'a Extent>) -> Result<Self> {
        let mut order = Vec::new();
        let mut wanted: HashMap<Hash, BTreeSet<FrameRef>> = HashMap::new();
        for extent in extents {
            let line = packs.locate(extent)?;
            let frames = wanted.entry(line.pack).or_insert_with(|| {
                order.push(line);
                BTreeSet::new()
            });
            frames.insert(extent.frame);
        }
        let plan = |line: PackLine| {
            let frames = wanted.remove(&line.pack).unwrap_or_default().into_iter().collect();
            plan_pack(line, frames)
        };
        Ok(Self { packs: order.into_iter().map(plan).collect() })
    }

    /// Plans to fetch whole packs and to decode `frames` of each.
    #[must_use]
    pub fn whole(packs: impl IntoIterator<Item = (PackLine, Vec<FrameRef>)>) -> Self {
        let whole = |(line, frames)| PackFetch { line, frames, how: How::Whole };
        Self { packs: packs.into_iter().map(whole).collect() }
    }

    /// Bytes to fetch.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.packs.iter().map(PackFetch::bytes).sum()
    }

    /// Requests to send, without retries.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.packs.iter().map(PackFetch::requests).sum()
    }
}

fn plan_pack(line: PackLine, frames: Vec<FrameRef>) -> PackFetch {
    let mut needed: Vec<Range<u64>> = vec![pack::header_range(line.header)];
    needed.extend(frames.iter().map(|frame| pack::object_range(*frame, line.header, line.size)));
    // What must be read decides, before gaps are filled up.
    let covered: u64 = merge(needed.clone(), 0, u64::MAX).iter().map(|r| r.end - r.start).sum();
    let how = if covered > line.size / 2 { How::Whole } else { How::Ranges(merge(needed, MERGE_GAP, MAX_RANGE)) };
    PackFetch { line, frames, how }
}

/// Joins overlapping and near ranges, and cuts those that are too long.
fn merge(mut ranges: Vec<Range<u64>>, gap: u64, longest: u64) -> Vec<Range<u64>> {
    ranges.sort_by_key(|range| range.start);
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.start <= last.end.saturating_add(gap) => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    let cut = |range: Range<u64>| {
        let starts = std::iter::successors(Some(range.start), move |at| at.checked_add(longest));
        starts.take_while(move |at| *at < range.end).map(move |at| at..range.end.min(at.saturating_add(longest)))
    };
    joined.into_iter().flat_map(cut).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn line(size: u64) -> PackLine {
        PackLine { pack: Hash([1; 32]), size, header: 200, keys: Hash([0; 32]) }
    }

    fn extent(offset: u64, stored: u32) -> Extent {
        let frame = FrameRef { offset, stored, decoded: 1024 };
        Extent { pack: Hash([1; 32]), frame, chunk: Hash([2; 32]), offset: 0, len: 1 }
    }

    fn plan(size: u64, extents: &[Extent]) -> PackFetch {
        FetchPlan::new(&Packs::new([line(size)]), extents).unwrap().packs.remove(0)
    }

    #[test]
    fn little_is_fetched_by_ranges_and_much_as_a_whole() {
        let one = plan(32 * MIB, &[extent(10 * MIB, 100_000)]);
        assert!(one.bytes() < 300_000, "{}", one.bytes());
        assert_eq!(one.requests(), 2);
        let many: Vec<Extent> = (0..20).map(|n| extent(n * MIB, 1 << 20)).collect();
        assert_eq!(plan(32 * MIB, &many).how, How::Whole);
        assert_eq!(plan(32 * MIB, &many).bytes(), 32 * MIB);
    }

    #[test]
    fn near_ranges_become_one_and_the_same_frame_is_fetched_once() {
        let near = plan(32 * MIB, &[extent(5 * MIB, 1000), extent(5 * MIB + 200_000, 1000), extent(5 * MIB, 1000)]);
        assert_eq!(near.frames.len(), 2);
        assert_eq!(near.requests(), 2);
        let at_start = plan(32 * MIB, &[extent(0, 1000)]);
        assert_eq!(at_start.requests(), 1, "the age header comes along");
    }

    #[test]
    fn long_ranges_are_cut_without_gaps() {
        let many: Vec<Extent> = (0..40).map(|n| extent(n * MIB, 1 << 20)).collect();
        let How::Ranges(ranges) = plan(200 * MIB, &many).how else { panic!("whole") };
        assert!(ranges.len() >= 3 && ranges.iter().all(|r| r.end - r.start <= MAX_RANGE));
        assert!(ranges.windows(2).all(|pair| pair[0].end == pair[1].start));
    }

    #[test]
    fn what_the_pack_list_does_not_name_is_refused() {
        let packs = Packs::new([line(MIB)]);
        let elsewhere = Extent { pack: Hash([9; 32]), ..extent(0, 1) };
        let beyond = extent(MIB, 1);
        for bad in [elsewhere, beyond, extent(u64::MAX, u32::MAX)] {
            let error = FetchPlan::new(&packs, &[bad]).unwrap_err();
            assert_eq!(error.code(), crate::ExitCode::Integrity);
        }
    }
}
