//! Brings the content of files: fetches, writes, verifies and names them.
//!
//! Invariants:
//! * A file gets its name when its whole content has been written and verified, never before.
//! * A file is done when it has its name, and lost otherwise: nothing is concluded from counters.
//! * A frame may come twice, and a part of it may be damaged: what is good in it is used, once.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::plan::RestoreRequest;
use super::select::Selected;
use super::target::{Staged, Target};
use crate::archive::entry::{Entry, Extent};
use crate::archive::frame;
use crate::archive::hash::Hash;
use crate::progress::Progress;
use crate::repository::{FetchError, FetchOptions, FetchPlan, FrameOf, Manifest, OnFailure};
use crate::{Error, ExitCode, Result};

/// What came of fetching some files.
pub(super) struct Fetched<'w> {
    /// Files that could not be had; without a reason if a damaged object is the reason.
    pub(super) lost: Vec<(&'w Entry, Option<String>)>,
    /// Objects that could not be used.
    pub(super) failed: Vec<FetchError>,
    /// Bytes of content written.
    pub(super) written: u64,
}

/// Puts the content of `files` in place.
pub(super) async fn fetch<'w>(
    request: &RestoreRequest<'_>,
    manifest: &Manifest<'_>,
    target: &Target,
    progress: &dyn Progress,
    files: &[&'w Selected],
) -> Result<Fetched<'w>> {
    let plan = FetchPlan::new(manifest.packs(), files.iter().flat_map(|file| file.extents()))?;
    let mut wanted: HashMap<FrameOf, Vec<Piece>> = HashMap::new();
    let mut jobs = Vec::with_capacity(files.len());
    for file in files {
        let pieces = pieces(jobs.len(), &file.entry, file.extents());
        let progress = JobState { staged: None, missing: pieces.len(), done: false, error: None };
        jobs.push(Job { entry: &file.entry, state: Mutex::new(progress) });
        for (extent, piece) in pieces {
            wanted.entry(FrameOf { pack: extent.pack, frame: extent.frame }).or_default().push(piece);
        }
    }
    let writer = Writer { target, jobs, written: AtomicU64::new(0) };
    writer.finish_empty(request)?;
    let sink = |of: FrameOf, tar: &[u8]| wanted.get(&of).map_or(Ok(()), |pieces| writer.write(pieces, tar));
    let options = FetchOptions {
        memory: request.memory,
        on_failure: OnFailure::Collect,
        salvage: true,
        progress,
        ..FetchOptions::default()
    };
    let done = request.repository.fetch(&plan, Some(request.identities), &options, request.cancel, &sink);
    let failed = done.await?.failed;
    let lost = writer.jobs.into_iter().filter_map(|job| {
        let state = job.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        (!state.done).then_some((job.entry, state.error))
    });
    Ok(Fetched { lost: lost.collect(), failed, written: writer.written.into_inner() })
}

/// A file whose content is on its way.
struct Job<'w> {
    entry: &'w Entry,
    state: Mutex<JobState>,
}

struct JobState {
    staged: Option<Staged>,
    /// Pieces that are still missing.
    missing: usize,
    /// It has its name.
    done: bool,
    /// It will never be done.
    error: Option<String>,
}

impl JobState {
    /// Takes an error of this file: damage costs the file, anything else ends the restore.
    fn fail(&mut self, error: Error) -> Result<()> {
        if error.code() != ExitCode::Integrity {
            return Err(error);
        }
        self.error = Some(error.full_message());
        Ok(())
    }

    /// Verifies and names the file.
    fn complete(&mut self, target: &Target, staged: Staged, entry: &Entry) -> Result<()> {
        match staged.verify(entry).and_then(|verified| target.publish(verified, entry)) {
            Ok(()) => {
                self.done = true;
                Ok(())
            }
            Err(error) => self.fail(error),
        }
    }
}

/// A slice of a chunk and its place in a file.
struct Piece {
    job: usize,
    chunk: Hash,
    from: usize,
    len: usize,
    at: u64,
    written: AtomicBool,
}

struct Writer<'t, 'w> {
    target: &'t Target,
    jobs: Vec<Job<'w>>,
    written: AtomicU64,
}

impl Writer<'_, '_> {
    /// Names the files that wait for nothing: empty ones, and those that are all hole.
    fn finish_empty(&self, request: &RestoreRequest<'_>) -> Result<()> {
        for job in &self.jobs {
            request.cancel.check()?;
            let mut state = lock(&job.state);
            if state.missing == 0 {
                match self.target.stage(job.entry) {
                    Ok(staged) => state.complete(self.target, staged, job.entry)?,
                    Err(error) => state.fail(error)?,
                }
            }
        }
        Ok(())
    }

    /// Writes what one frame has for the files that need it. What is damaged in it is told at the end.
    fn write(&self, pieces: &[Piece], tar: &[u8]) -> Result<()> {
        let mut damage: Option<Error> = None;
        let mut contents: HashMap<Hash, &[u8]> = HashMap::new();
        for content in frame::entries(tar) {
            match content {
                Ok((chunk, bytes)) => {
                    contents.insert(chunk, bytes);
                }
                Err(error) => {
                    damage = Some(error.into());
                    break;
                }
            }
        }
        let mut verified: HashMap<Hash, Option<&[u8]>> = HashMap::new();
        for piece in pieces {
            let content = match verified.get(&piece.chunk) {
                Some(content) => *content,
                None => {
                    let content = match verify(&contents, piece.chunk) {
                        Ok(content) => Some(content),
                        Err(error) => {
                            damage.get_or_insert(error);
                            None
                        }
                    };
                    verified.insert(piece.chunk, content);
                    content
                }
            };
            let Some(content) = content else { continue };
            match content.get(piece.from..).and_then(|rest| rest.get(..piece.len)) {
                Some(bytes) => self.write_piece(piece, bytes)?,
                None => {
                    damage.get_or_insert_with(|| {
                        Error::integrity(format!("chunk {} is shorter than its extent says", piece.chunk))
                    });
                }
            }
        }
        damage.map_or(Ok(()), Err)
    }

    fn write_piece(&self, piece: &Piece, bytes: &[u8]) -> Result<()> {
        let job = &self.jobs[piece.job];
        let mut state = lock(&job.state);
        // Seen under the lock of the file, so that each piece counts once.
        if state.done || state.error.is_some() || piece.written.load(Ordering::Relaxed) {
            return Ok(());
        }
        let staged = match state.staged.take() {
            Some(staged) => staged,
            None => match self.target.stage(job.entry) {
                Ok(staged) => staged,
                Err(error) => return state.fail(error),
            },
        };
        if let Err(error) = staged.write_at(piece.at, bytes) {
            return state.fail(error);
        }
        piece.written.store(true, Ordering::Relaxed);
        self.written.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        state.missing = state.missing.saturating_sub(1);
        if state.missing == 0 {
            return state.complete(self.target, staged, job.entry);
        }
        state.staged = Some(staged);
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn verify<'t>(contents: &HashMap<Hash, &'t [u8]>, chunk: Hash) -> Result<&'t [u8]> {
    let content = contents.get(&chunk).copied().ok_or_else(|| frame::absent(chunk))?;
    Ok(frame::proved(chunk, content)?)
}

/// Where the extents of a file go: they are the content between the holes, in order.
fn pieces<'x>(job: usize, entry: &Entry, extents: &'x [Extent]) -> Vec<(&'x Extent, Piece)> {
    let mut runs = entry.data_runs();
    let (mut at, mut room) = (0, 0);
    let mut pieces = Vec::with_capacity(extents.len());
    for extent in extents {
        let (mut from, mut left) = (extent.offset, extent.len);
        while left > 0 {
            if room == 0 {
                // More than the runs hold is refused where extents are read.
                (at, room) = runs.next().unwrap_or((at, u64::MAX));
            }
            let len = u32::try_from(room).unwrap_or(u32::MAX).min(left);
            let written = AtomicBool::new(false);
            let piece = Piece { job, chunk: extent.chunk, from: from as usize, len: len as usize, at, written };
            pieces.push((extent, piece));
            at += u64::from(len);
            room -= u64::from(len);
            from += len;
            left -= len;
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::super::target_tests::{begun, file};
    use super::*;
    use crate::archive::entry::{FrameRef, Kind};
    use crate::archive::frame::{TAR_END, append_entry};
    use crate::archive::path::EntryPath;

    #[test]
    fn extents_fill_what_the_holes_leave() {
        let mut entry = Entry::new(EntryPath::root(), Kind::File);
        entry.size = 100;
        entry.holes = vec![(0, 10), (30, 20), (90, 10)];
        let zero = Hash([0; 32]);
        let frame = FrameRef { offset: 0, stored: 1, decoded: 512 };
        let extent = |offset, len| Extent { pack: zero, frame, chunk: zero, offset, len };
        let extents = [extent(5, 30), extent(0, 0), extent(0, 30)];
        let got: Vec<_> = pieces(0, &entry, &extents).iter().map(|(_, p)| (p.from, p.len, p.at)).collect();
        assert_eq!(got, [(5, 20, 10), (25, 10, 50), (0, 30, 60)]);
    }

    fn job(entry: &Entry, missing: usize) -> Job<'_> {
        Job { entry, state: Mutex::new(JobState { staged: None, missing, done: false, error: None }) }
    }

    fn piece(job: usize, content: &[u8], at: u64) -> Piece {
        let written = AtomicBool::new(false);
        Piece { job, chunk: Hash::of(content), from: 0, len: content.len(), at, written }
    }

    /// A frame with these chunks; a chunk that is `None` stands under the right name with other content.
    fn tar(chunks: &[(&[u8], bool)]) -> Vec<u8> {
        let mut tar = Vec::new();
        for (content, good) in chunks {
            let start = tar.len();
            append_entry(&mut tar, Hash::of(content), content);
            if !good {
                tar[start + 512] ^= 1;
            }
        }
        tar.extend_from_slice(&TAR_END);
        tar
    }

    #[test]
    fn a_bad_piece_costs_its_file_and_no_other_in_the_frame() {
        let scratch = tempfile::tempdir().unwrap();
        let target = begun(scratch.path());
        let (bad, good) = (file("bad", b"one"), file("good", b"two"));
        let writer = Writer { target: &target, jobs: vec![job(&bad, 1), job(&good, 1)], written: AtomicU64::new(0) };
        let pieces = [piece(0, b"one", 0), piece(1, b"two", 0)];
        let error = writer.write(&pieces, &tar(&[(b"one", false), (b"two", true)])).unwrap_err();
        assert_eq!(error.code(), ExitCode::Integrity);
        assert!(!scratch.path().join("bad").exists());
        assert_eq!(std::fs::read(scratch.path().join("good")).unwrap(), b"two");
        // The same frame once more, intact this time: what is done is left alone, the rest is made good.
        writer.write(&pieces, &tar(&[(b"one", true), (b"two", true)])).unwrap();
        assert_eq!(std::fs::read(scratch.path().join("bad")).unwrap(), b"one");
        assert_eq!(writer.written.into_inner(), 6);
    }

    #[test]
    fn a_frame_that_comes_twice_counts_once() {
        let scratch = tempfile::tempdir().unwrap();
        let target = begun(scratch.path());
        let entry = file("f", b"onetwo");
        let writer = Writer { target: &target, jobs: vec![job(&entry, 2)], written: AtomicU64::new(0) };
        let (first, second) = ([piece(0, b"one", 0)], [piece(0, b"two", 3)]);
        writer.write(&first, &tar(&[(b"one", true)])).unwrap();
        writer.write(&first, &tar(&[(b"one", true)])).unwrap();
        assert!(!scratch.path().join("f").exists(), "half of it is missing");
        writer.write(&second, &tar(&[(b"two", true)])).unwrap();
        writer.write(&second, &tar(&[(b"two", true)])).unwrap();
        assert_eq!(std::fs::read(scratch.path().join("f")).unwrap(), b"onetwo");
    }

    #[test]
    fn content_that_differs_from_the_recorded_hash_costs_the_file_only() {
        let scratch = tempfile::tempdir().unwrap();
        let target = begun(scratch.path());
        let mut entry = file("f", b"one");
        entry.sha256 = Some(Hash::of(b"other"));
        let writer = Writer { target: &target, jobs: vec![job(&entry, 1)], written: AtomicU64::new(0) };
        writer.write(&[piece(0, b"one", 0)], &tar(&[(b"one", true)])).unwrap();
        let state = lock(&writer.jobs[0].state);
        assert!(!state.done && state.error.as_ref().is_some_and(|why| why.contains("expected")));
        assert!(!scratch.path().join("f").exists());
    }
}
