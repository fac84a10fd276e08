//! Carries out a restore into a new directory.
//!
//! Invariants:
//! * A file gets its name when its whole content has been written and verified, never before.
//! * A damaged object costs the files that need it and nothing else; they are named, and the
//!   directory stays marked as unfinished.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::plan::{RestorePlan, RestoreRequest};
use super::seed::Seed;
use super::select::{Selected, Windows};
use super::target::{Outcome, Problems, Staged, Target};
use crate::archive::FormatError;
use crate::archive::entry::{Entry, Extent, Kind};
use crate::archive::frame;
use crate::archive::hash::Hash;
use crate::archive::layout;
use crate::archive::path::EntryPath;
use crate::progress::Progress;
use crate::repository::{FetchError, FetchOptions, FetchPlan, FrameOf, Manifest, OnFailure};
use crate::{Error, Result};

/// Names of files that an error lists, at most.
const MAX_NAMED: usize = 20;

/// What a restore did.
#[derive(Debug)]
pub struct Restored {
    /// Regular files that are in place, hard links included.
    pub files: u64,
    /// Of these, files that an earlier run had put in place.
    pub files_kept: u64,
    /// Bytes of content written.
    pub bytes_written: u64,
    /// Metadata that could not be set.
    pub problems: Problems,
    /// True if the state for the next snapshot was seeded.
    pub seeded: bool,
}

/// Restores what `plan` says.
///
/// # Errors
/// Exit 4 when objects are damaged: everything else is in place then, and the message names the
/// objects and the files; 14 when space runs out; 130 when interrupted. In each case a further run goes on.
pub async fn restore(request: &RestoreRequest<'_>, mut plan: RestorePlan, progress: &dyn Progress) -> Result<Restored> {
    let mut target = Target::open(&request.to, request.options)?;
    target.begin(request.snapshot.id.as_str())?;
    let manifest = request.repository.manifest(request.snapshot, request.identities, request.cancel).await?;
    let mut run = Run {
        request,
        manifest: &manifest,
        target: &target,
        progress,
        resumes: plan.resumes,
        seed: Seed::start(request)?,
        links: HashMap::new(),
        dirs: Vec::new(),
        files: 0,
        files_kept: 0,
        written: AtomicU64::new(0),
        failed: Vec::new(),
        lost: Vec::new(),
        lost_count: 0,
    };
    match plan.window.take() {
        Some(window) => run.window(window).await?,
        None => {
            let mut windows = Windows::new(&manifest, &request.selection);
            while let Some(window) = windows.next().await? {
                run.window(window).await?;
            }
        }
    }
    run.finish()?;
    let Run { files, files_kept, written, seed, .. } = run;
    let seeded = seed.map(Seed::finish).transpose()?.is_some();
    let problems = target.problems();
    target.sync()?;
    target.complete()?;
    Ok(Restored { files, files_kept, bytes_written: written.into_inner(), problems, seeded })
}

struct Run<'a> {
    request: &'a RestoreRequest<'a>,
    manifest: &'a Manifest<'a>,
    target: &'a Target,
    progress: &'a dyn Progress,
    resumes: bool,
    seed: Option<Seed>,
    /// The first restored name of each hard-link group.
    links: HashMap<String, EntryPath>,
    dirs: Vec<Entry>,
    files: u64,
    files_kept: u64,
    written: AtomicU64,
    failed: Vec<FetchError>,
    lost: Vec<EntryPath>,
    lost_count: usize,
}

/// A file whose content is on its way.
struct Job<'w> {
    entry: &'w Entry,
    staged: Mutex<Option<Staged>>,
    /// Pieces that are still missing.
    missing: AtomicUsize,
}

/// A slice of a chunk and its place in a file.
struct Piece {
    job: usize,
    chunk: Hash,
    from: usize,
    len: usize,
    at: u64,
}

impl Run<'_> {
    async fn window(&mut self, window: Vec<Selected>) -> Result<()> {
        let mut jobs = Vec::new();
        let mut later_links = Vec::new();
        for selected in &window {
            self.request.cancel.check()?;
            let entry = &selected.entry;
            match entry.kind {
                _ if !entry.is_captured() => {}
                Kind::Dir => {
                    self.target.make_dir(entry)?;
                    self.dirs.push(entry.clone());
                }
                Kind::Symlink => self.target.symlink(entry)?,
                // A refused device is part of the plan.
                Kind::Fifo | Kind::Socket | Kind::Char | Kind::Block => match self.target.special(entry)? {
                    Outcome::Created | Outcome::Refused => {}
                },
                Kind::File => match self.first_name(entry) {
                    Some(first) => later_links.push((first, entry)),
                    None if self.is_in_place(entry)? => {}
                    None if selected.extents.is_empty() => publish(self.target, self.target.stage(entry)?, entry)?,
                    None => jobs.push(selected),
                },
            }
        }
        let lost = self.fetch(&jobs).await?;
        for (first, entry) in later_links {
            if !lost.contains(&first) {
                self.target.hard_link(&first, entry)?;
            }
        }
        self.lost_count += lost.len();
        self.lost.extend(lost.into_iter().take(MAX_NAMED.saturating_sub(self.lost.len())));
        self.files += window.iter().filter(|s| s.entry.kind == Kind::File && s.entry.is_captured()).count() as u64;
        match &mut self.seed {
            Some(seed) => window.iter().try_for_each(|selected| seed.line(self.target, self.manifest, selected)),
            None => Ok(()),
        }
    }

    /// The name under which the content of a hard-linked file is restored, unless it is this one.
    fn first_name(&mut self, entry: &Entry) -> Option<EntryPath> {
        let group = entry.hardlink.clone()?;
        let first = self.links.entry(group).or_insert_with(|| entry.path.clone());
        (*first != entry.path).then(|| first.clone())
    }

    /// True if an interrupted run has put the file in place. What is there but not right is removed.
    fn is_in_place(&mut self, entry: &Entry) -> Result<bool> {
        if !self.resumes {
            return Ok(false);
        }
        let there = self.target.existing_matches(entry)?;
        if there {
            self.files_kept += 1;
        } else {
            self.target.discard(entry)?;
        }
        Ok(there)
    }

    /// Fetches, writes, verifies and names files. Returns those that could not be had.
    async fn fetch(&mut self, files: &[&Selected]) -> Result<Vec<EntryPath>> {
        let plan = FetchPlan::new(self.manifest.packs(), files.iter().flat_map(|file| &file.extents))?;
        let mut wanted: HashMap<(Hash, u64), Vec<Piece>> = HashMap::new();
        let mut jobs = Vec::with_capacity(files.len());
        for file in files {
            let pieces = pieces(jobs.len(), &file.entry, &file.extents);
            jobs.push(Job { entry: &file.entry, staged: Mutex::default(), missing: AtomicUsize::new(pieces.len()) });
            for (extent, piece) in pieces {
                wanted.entry((extent.pack, extent.frame.offset)).or_default().push(piece);
            }
        }
        let sink = |of: FrameOf, tar: &[u8]| -> Result<()> {
            match wanted.get(&(of.pack, of.frame.offset)) {
                Some(pieces) => self.write(pieces, &jobs, tar),
                None => Ok(()),
            }
        };
        let options = FetchOptions {
            memory: self.request.memory,
            on_failure: OnFailure::Collect,
            progress: self.progress,
            ..FetchOptions::default()
        };
        let done =
            self.request.repository.fetch(&plan, Some(self.request.identities), &options, self.request.cancel, &sink);
        let failed = done.await?.failed;
        let lost = jobs
            .iter()
            .filter(|job| job.missing.load(Ordering::Acquire) > 0)
            .map(|job| job.entry.path.clone())
            .collect();
        self.failed.extend(failed);
        Ok(lost)
    }

    /// Writes what one frame has for the files that need it.
    fn write(&self, pieces: &[Piece], jobs: &[Job<'_>], tar: &[u8]) -> Result<()> {
        let contents: HashMap<Hash, &[u8]> = frame::entries(tar).collect::<Result<_, FormatError>>()?;
        let mut verified: HashMap<Hash, &[u8]> = HashMap::new();
        for piece in pieces {
            let content = match verified.get(&piece.chunk) {
                Some(content) => content,
                None => {
                    let content = verify(&contents, piece.chunk)?;
                    verified.entry(piece.chunk).or_insert(content)
                }
            };
            let bytes = content.get(piece.from..).and_then(|rest| rest.get(..piece.len));
            let bytes = bytes
                .ok_or_else(|| Error::integrity(format!("chunk {} is shorter than its extent says", piece.chunk)))?;
            self.write_piece(&jobs[piece.job], piece.at, bytes)?;
        }
        Ok(())
    }

    fn write_piece(&self, job: &Job<'_>, at: u64, bytes: &[u8]) -> Result<()> {
        let mut slot = job.staged.lock().unwrap_or_else(PoisonError::into_inner);
        let staged = match slot.take() {
            Some(staged) => staged,
            None => self.target.stage(job.entry)?,
        };
        staged.write_at(at, bytes)?;
        self.written.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if job.missing.load(Ordering::Acquire) == 1 {
            publish(self.target, staged, job.entry)?;
        } else {
            *slot = Some(staged);
        }
        // Only now: whoever sees zero may rely on the file being in place.
        job.missing.fetch_sub(1, Ordering::AcqRel);
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        self.target.finish_dirs(&self.dirs)?;
        if self.failed.is_empty() {
            return Ok(());
        }
        let objects: Vec<String> =
            self.failed.iter().map(|f| format!("{} ({})", layout::pack(f.pack), f.reason)).collect();
        let names: Vec<String> = self.lost.iter().map(|path| format!("{path:?}")).collect();
        let more = self.lost_count.saturating_sub(names.len());
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let message = format!(
            "snapshot {} is damaged: {}; not restored: {}{more}",
            self.request.snapshot.id,
            objects.join(", "),
            names.join(", "),
        );
        Err(Error::integrity(message).hint(format!(
            "everything else is in {}; another snapshot may have these files: `opsctl list`, then restore with --snapshot",
            self.request.to.display()
        )))
    }
}

fn verify<'t>(contents: &HashMap<Hash, &'t [u8]>, chunk: Hash) -> Result<&'t [u8]> {
    let content = contents.get(&chunk);
    let content =
        content.ok_or_else(|| Error::integrity(format!("chunk {chunk} is not in the frame that should hold it")))?;
    let found = Hash::of(content);
    if found == chunk { Ok(content) } else { Err(FormatError::Hash { what: "chunk", expected: chunk, found }.into()) }
}

fn publish(target: &Target, staged: Staged, entry: &Entry) -> Result<()> {
    let verified = staged.verify(entry)?;
    target.publish(verified, entry)
}

/// Where the extents of a file go: they are the content between the holes, in order.
fn pieces<'x>(job: usize, entry: &Entry, extents: &'x [Extent]) -> Vec<(&'x Extent, Piece)> {
    let mut holes = entry.holes.iter().copied().peekable();
    let mut at = 0;
    let mut pieces = Vec::with_capacity(extents.len());
    for extent in extents {
        let (mut from, mut left) = (extent.offset, extent.len);
        while left > 0 {
            while let Some((_, len)) = holes.next_if(|(offset, _)| *offset <= at) {
                at += len;
            }
            let room = holes.peek().map_or(u64::MAX, |(offset, _)| offset - at);
            let len = u32::try_from(room).unwrap_or(u32::MAX).min(left);
            pieces.push((extent, Piece { job, chunk: extent.chunk, from: from as usize, len: len as usize, at }));
            at += u64::from(len);
            from += len;
            left -= len;
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::entry::FrameRef;

    #[test]
    fn extents_fill_what_the_holes_leave() {
        let mut entry = Entry::new(EntryPath::root(), Kind::File);
        entry.size = 100;
        entry.holes = vec![(0, 10), (30, 20), (90, 10)];
        let zero = Hash([0; 32]);
        let frame = FrameRef { offset: 0, stored: 1, decoded: 512 };
        let extent = |offset, len| Extent { pack: zero, frame, chunk: zero, offset, len };
        let extents = [extent(5, 30), extent(0, 30)];
        let got: Vec<_> = pieces(0, &entry, &extents).iter().map(|(_, p)| (p.from, p.len, p.at)).collect();
        assert_eq!(got, [(5, 20, 10), (25, 10, 50), (0, 30, 60)]);
    }
}
