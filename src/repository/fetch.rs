//! Carries out a [`FetchPlan`]: downloads on the async runtime, decrypts and decodes on threads of its own.
//!
//! Invariants:
//! * Bytes of packs in memory, downloading or waiting for a decoder, stay within the budget (one pack at least).
//! * A whole pack is compared with its name before anything in it is decrypted; of a pack that is read by ranges the
//!   chunk hashes must be checked by the sink (`frame::find` does).
//! * A damaged pack is told apart from a store that is away and from a wrong identity: the former can be collected, the
//!   latter end the fetch. A single pack that the store does not hand out counts as damaged; several in a row, or
//!   all, are a store that is away.

use std::num::NonZero;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender};
use futures::future::{AbortHandle, Abortable};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::archive::entry::FrameRef;
use crate::archive::frame::FrameCodec;
use crate::archive::hash::Hash;
use crate::archive::keyring::{Identities, KeyError, Recipients};
use crate::archive::pack::{PackReader, Segments};
use crate::archive::packlist::PackLine;
use crate::archive::{FormatError, layout};
use crate::cancel::Cancel;
use crate::progress::Progress;
use crate::providers::store::StoreError;
use crate::{Context as _, Error, ExitCode, Result};

use super::Repository;
use super::budget::Budget;
use super::plan::{FetchPlan, How, PackFetch};

/// So many packs in a row that the store does not hand out are no damage: the store is away.
const AWAY: usize = 4;

/// One frame of one pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FrameOf {
    /// The pack.
    pub pack: Hash,
    /// Its place in the pack.
    pub frame: FrameRef,
}

/// What takes the decoded frames. It is called on several threads at once, in no order. An error with exit code 4
/// counts as damage of that pack, any other ends the fetch.
pub type Sink<'a> = dyn Fn(FrameOf, &[u8]) -> Result<()> + Sync + 'a;

/// What to do about a damaged or missing pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// End with the first.
    Stop,
    /// Go on with what is left, and return all of them.
    Collect,
}

/// How to fetch.
#[derive(Clone, Copy)]
pub struct FetchOptions<'a> {
    /// Requests under way at once.
    pub parallel: usize,
    /// Bytes of packs in memory at most; a single pack may be larger.
    pub memory: u64,
    /// What to do about damage.
    pub on_failure: OnFailure,
    /// Also decode the frames of a whole pack that is not what its name says, or that ends too early; that it is
    /// damaged is recorded all the same. Only with [`OnFailure::Collect`], and only if the sink checks the chunks.
    pub salvage: bool,
    /// Is told what each request brought.
    pub progress: &'a dyn Progress,
}

impl Default for FetchOptions<'_> {
    /// 8 requests, 96 MiB, stop at the first failure.
    fn default() -> Self {
        Self { parallel: 8, memory: 96 << 20, on_failure: OnFailure::Stop, salvage: false, progress: &() }
    }
}

/// A pack, or one frame of it, that could not be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchError {
    /// The pack.
    pub pack: Hash,
    /// The frame, if the rest of the pack could be used.
    pub frame: Option<FrameRef>,
    /// What is wrong, without the object's name.
    pub reason: String,
    /// The exit code that belongs to it.
    pub code: ExitCode,
}

impl From<FetchError> for Error {
    fn from(failure: FetchError) -> Self {
        Self::new(failure.code, format!("{}: {}", layout::pack(failure.pack), failure.reason))
            .hint("`opsctl check --level hash` lists every damaged pack")
    }
}

/// What a fetch did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FetchStats {
    /// Bytes received.
    pub bytes: u64,
    /// Requests sent, retries not counted.
    pub requests: u64,
    /// What could not be used; empty with [`OnFailure::Stop`].
    pub failed: Vec<FetchError>,
}

impl Repository {
    /// The pack that the store refused last, if the store is not away as a whole. Asking forgets it.
    pub(crate) fn take_refused(&self) -> Option<Hash> {
        let is_away = self.health.in_a_row.load(Ordering::Relaxed) >= AWAY;
        lock(&self.health.last).take().filter(|_| !is_away)
    }

    /// Why none of the identities opens a pack.
    fn cannot_open(&self, line: &PackLine, error: KeyError) -> Error {
        let today = self.keys().and_then(|(_, keys)| Recipients::parse(&keys.recipients).ok());
        let is_earlier = today.is_some_and(|today| today.hash() != line.keys);
        match error {
            KeyError::NoMatch if is_earlier => Error::from(error).hint(
                "it is encrypted to other recipients than the store has today: give the earlier identity too (an identity \
                 file may hold several, one a line)",
            ),
            _ => error.into(),
        }
    }

    /// Fetches what `plan` says and gives every decoded frame to `sink`. Without identities a plan can only name whole
    /// packs without frames, which are then compared with their names.
    ///
    /// Needs a multi-threaded tokio runtime.
    ///
    /// # Errors
    /// Exit 12 for a wrong identity, 130 when cancelled, what the store says, the sink's errors, and with
    /// [`OnFailure::Stop`] the first damaged pack (4).
    pub async fn fetch(
        &self,
        plan: &FetchPlan,
        identities: Option<&Identities>,
        options: &FetchOptions<'_>,
        cancel: &Cancel,
        sink: &Sink<'_>,
    ) -> Result<FetchStats> {
        let (abort, registration) = AbortHandle::new_pair();
        let runtime = Handle::current();
        let run = Run {
            repository: self,
            runtime: &runtime,
            identities,
            options,
            cancel,
            sink,
            requests: Semaphore::new(options.parallel.max(1)),
            budget: Budget::new(options.memory),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            failed: Mutex::default(),
            refused: Mutex::default(),
            fatal: Mutex::default(),
            abort,
        };
        let threads = std::thread::available_parallelism().map_or(1, NonZero::get).min(plan.packs.len());
        // The sink borrows from the caller, so the decoders are scoped threads, and this thread waits for them.
        tokio::task::block_in_place(|| {
            std::thread::scope(|scope| {
                // Not bounded: the budget bounds what can be in it.
                let (sender, receiver) = crossbeam_channel::unbounded();
                for _ in 0..threads {
                    let receiver = receiver.clone();
                    scope.spawn(|| run.decode(receiver));
                }
                let downloads = Abortable::new(run.download(plan, sender), registration);
                // Aborted: a decoder failed, and said why.
                let downloads = async { downloads.await.unwrap_or(Ok(())) };
                if let Err(error) = runtime.block_on(cancel.guard(downloads)) {
                    run.stop(error);
                }
            });
        });
        run.finish()
    }
}

/// A downloaded pack, or the needed parts of it.
struct Job<'r> {
    fetch: &'r PackFetch,
    parts: Vec<(u64, Bytes)>,
    whole: bool,
    /// Given back when the job is dropped.
    _room: SemaphorePermit<'r>,
}

/// Whether the store hands out packs, over all fetches of a repository.
#[derive(Debug, Default)]
pub(super) struct Health {
    /// Packs that were refused since the last answer about a pack.
    in_a_row: AtomicUsize,
    /// Whether the store answered for any pack.
    any_answer: AtomicBool,
    /// The last pack that was refused.
    last: Mutex<Option<Hash>>,
}

impl Health {
    fn answered(&self) {
        self.in_a_row.store(0, Ordering::Relaxed);
        self.any_answer.store(true, Ordering::Relaxed);
    }

    /// Counts a refusal; `true` if there are so many that the store is away.
    fn refused(&self, pack: Hash) -> bool {
        *lock(&self.last) = Some(pack);
        self.in_a_row.fetch_add(1, Ordering::Relaxed) + 1 >= AWAY
    }
}

/// One fetch under way.
struct Run<'r> {
    repository: &'r Repository,
    runtime: &'r Handle,
    identities: Option<&'r Identities>,
    options: &'r FetchOptions<'r>,
    cancel: &'r Cancel,
    sink: &'r Sink<'r>,
    requests: Semaphore,
    budget: Budget,
    received: AtomicU64,
    sent: AtomicU64,
    failed: Mutex<Vec<FetchError>>,
    /// The first pack that the store did not hand out.
    refused: Mutex<Option<Error>>,
    fatal: Mutex<Option<Error>>,
    /// Ends the downloads when a decoder fails.
    abort: AbortHandle,
}

impl<'r> Run<'r> {
    async fn download(&'r self, plan: &'r FetchPlan, decoders: Sender<Job<'r>>) -> Result<()> {
        let decoders = &decoders;
        let one = |fetch| async move {
            let job = self.job(fetch).await?;
            if let Some(job) = job {
                // Fails only if every decoder is gone, and then the reason is recorded.
                let _ = decoders.send(job);
            }
            Ok(())
        };
        let ahead = self.options.parallel.max(1) * 2;
        stream::iter(&plan.packs).map(one).buffer_unordered(ahead).try_collect().await
    }

    /// Downloads one pack; `None` if it is damaged or missing and that was recorded.
    async fn job(&'r self, fetch: &'r PackFetch) -> Result<Option<Job<'r>>> {
        let no_ranges = &self.repository.no_ranges;
        loop {
            let ranged = !no_ranges.load(Ordering::Relaxed);
            let ranges: &[Range<u64>] = match &fetch.how {
                How::Ranges(ranges) if ranged => ranges,
                _ => &[],
            };
            let whole = ranges.is_empty();
            let room = self.budget.room(if whole { fetch.line.size } else { fetch.bytes() }).await?;
            let parts = if whole { self.whole(fetch, ranged).await } else { self.parts(fetch, ranges).await };
            let error = match parts {
                Ok(parts) => {
                    self.repository.health.answered();
                    return Ok(Some(Job { fetch, parts, whole, _room: room }));
                }
                // Once more, now as a whole; the room that this takes is waited for anew.
                Err(StoreError::RangeUnsupported { .. }) if ranged => {
                    no_ranges.store(true, Ordering::Relaxed);
                    continue;
                }
                Err(StoreError::Short { .. }) if whole && self.options.salvage => {
                    match self.whole(fetch, false).await {
                        // Its hash will tell that it is damaged.
                        Ok(parts) => {
                            self.repository.health.answered();
                            return Ok(Some(Job { fetch, parts, whole, _room: room }));
                        }
                        Err(error) => error,
                    }
                }
                Err(error) => error,
            };
            return self.not_had(fetch.line.pack, error).map(|()| None);
        }
    }

    /// Records a pack that could not be downloaded, or makes it an error that ends the fetch.
    fn not_had(&self, pack: Hash, error: StoreError) -> Result<()> {
        let reason = match &error {
            StoreError::NotFound { .. } => "the object is missing".to_owned(),
            _ => error.to_string(),
        };
        let code = match &error {
            StoreError::NotFound { .. } | StoreError::Short { .. } | StoreError::TooLarge { .. } => {
                self.repository.health.answered();
                ExitCode::Integrity
            }
            StoreError::Other { .. } => ExitCode::Failed,
            StoreError::Denied { .. } | StoreError::Unavailable { .. } => {
                let error = Error::from(error);
                let code = error.code();
                let is_away = self.repository.health.refused(pack);
                if is_away || self.options.on_failure == OnFailure::Stop {
                    return Err(error);
                }
                lock(&self.refused).get_or_insert(error);
                code
            }
            _ => return Err(error.into()),
        };
        self.failed(FetchError { pack, frame: None, reason, code })
    }

    /// The whole object, and never more than the pack list says: the store could hold anything under that name.
    async fn whole(&self, fetch: &PackFetch, ranged: bool) -> Result<Vec<(u64, Bytes)>, StoreError> {
        let range = ranged.then_some(0..fetch.line.size);
        let bytes = self.get(&fetch.line, range).await?;
        Ok(vec![(0, bytes)])
    }

    async fn parts(&self, fetch: &PackFetch, ranges: &[Range<u64>]) -> Result<Vec<(u64, Bytes)>, StoreError> {
        let get = |range: &Range<u64>| {
            let range = range.clone();
            async move { Ok((range.start, self.get(&fetch.line, Some(range)).await?)) }
        };
        stream::iter(ranges).map(get).buffer_unordered(self.options.parallel.max(1)).try_collect().await
    }

    async fn get(&self, line: &PackLine, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        let (key, size) = (layout::pack(line.pack), line.size);
        // The semaphore is never closed.
        let _turn = self.requests.acquire().await;
        self.sent.fetch_add(1, Ordering::Relaxed);
        let bytes = match range {
            Some(range) => self.repository.store.get_range(&key, range).await?,
            None => self.repository.store.get_at_most(&key, size).await?,
        };
        self.received.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.options.progress.advance(bytes.len() as u64);
        Ok(bytes)
    }

    /// The work of one decoder thread.
    fn decode(&self, jobs: Receiver<Job<'_>>) {
        let mut codec = FrameCodec::new(1);
        for job in jobs {
            if self.is_over() {
                continue;
            }
            let result = match &mut codec {
                Ok(codec) => self.decode_pack(&job, codec),
                Err(error) => Err(Error::new(ExitCode::Failed, format!("cannot set up zstd: {error}"))),
            };
            if let Err(error) = result {
                self.stop(error);
            }
        }
    }

    fn decode_pack(&self, job: &Job<'_>, codec: &mut FrameCodec) -> Result<()> {
        let pack = job.fetch.line.pack;
        let mut damaged = false;
        if job.whole {
            let found = job.parts.first().map_or_else(|| Hash::of(&[]), |(_, bytes)| Hash::of(bytes));
            if found != pack {
                let reason = format!("its content hashes to {found}, not to its name");
                self.failed(FetchError { pack, frame: None, reason, code: ExitCode::Integrity })?;
                if !self.options.salvage {
                    return Ok(());
                }
                damaged = true;
            }
        }
        if job.fetch.frames.is_empty() {
            return Ok(());
        }
        let identities = self.identities.ok_or_else(|| {
            Error::new(ExitCode::Denied, "reading the content of a snapshot needs an identity").hint("give --identity")
        })?;
        let mut reader = match PackReader::open(Segments::new(job.parts.clone()), identities) {
            Ok(reader) => reader,
            // Nothing can be saved, and that it is damaged is recorded already.
            Err(_) if damaged => return Ok(()),
            Err(KeyError::Damaged(reason)) => {
                let reason = format!("it is not an intact age file: {reason}");
                return self.failed(FetchError { pack, frame: None, reason, code: ExitCode::Integrity });
            }
            // A flipped bit in the age header looks like a wrong identity. The whole object tells them apart.
            Err(KeyError::NoMatch) if !job.whole && !self.is_intact(job.fetch)? => {
                let reason = "its age header is damaged".to_owned();
                return self.failed(FetchError { pack, frame: None, reason, code: ExitCode::Integrity });
            }
            Err(error) => {
                let error = self.repository.cannot_open(&job.fetch.line, error);
                return Err(error).context(|| format!("decrypting {}", layout::pack(pack)));
            }
        };
        for frame in job.fetch.frames.iter().copied() {
            if self.is_over() {
                return Ok(());
            }
            if let Err(error) = self.decode_frame(&mut reader, codec, FrameOf { pack, frame }) {
                if error.code() != ExitCode::Integrity {
                    return Err(error);
                }
                let (reason, code) = (error.full_message(), error.code());
                self.failed(FetchError { pack, frame: Some(frame), reason, code })?;
                // After a block that does not decrypt, a reader gives nothing more.
                reader = PackReader::open(Segments::new(job.parts.clone()), identities)
                    .context(|| format!("decrypting {}", layout::pack(pack)))?;
            }
        }
        Ok(())
    }

    /// Downloads the whole pack, beside the budget, and compares it with its name.
    fn is_intact(&self, fetch: &PackFetch) -> Result<bool> {
        let ranged = !self.repository.no_ranges.load(Ordering::Relaxed);
        let whole = async {
            match self.whole(fetch, ranged).await {
                Ok(parts) => Ok(parts.first().is_some_and(|(_, bytes)| Hash::of(bytes) == fetch.line.pack)),
                Err(StoreError::Short { .. } | StoreError::TooLarge { .. }) => Ok(false),
                Err(error) => Err(error),
            }
        };
        self.runtime.block_on(self.cancel.guard(whole))
    }

    fn decode_frame(&self, reader: &mut PackReader, codec: &mut FrameCodec, place: FrameOf) -> Result<()> {
        let stored = reader.frame(place.frame)?;
        let tar = codec.decode(&stored, place.frame.decoded).map_err(|e: FormatError| Error::from(e))?;
        (self.sink)(place, tar)
    }

    /// Records damage, or makes it an error if the first ends the fetch.
    fn failed(&self, failure: FetchError) -> Result<()> {
        match self.options.on_failure {
            OnFailure::Stop => Err(failure.into()),
            OnFailure::Collect => {
                lock(&self.failed).push(failure);
                Ok(())
            }
        }
    }

    /// Ends the fetch with the first error that comes.
    fn stop(&self, error: Error) {
        lock(&self.fatal).get_or_insert(error);
        self.abort.abort();
    }

    fn is_over(&self) -> bool {
        self.cancel.is_cancelled() || lock(&self.fatal).is_some()
    }

    fn finish(self) -> Result<FetchStats> {
        if let Some(error) = self.fatal.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        self.cancel.check()?;
        let refused = self.refused.into_inner().unwrap_or_else(PoisonError::into_inner);
        let any_answer = self.repository.health.any_answer.load(Ordering::Relaxed);
        if let Some(error) = refused.filter(|_| !any_answer) {
            return Err(error);
        }
        let mut failed = self.failed.into_inner().unwrap_or_else(PoisonError::into_inner);
        failed.sort_by_key(|f| (f.pack, f.frame));
        Ok(FetchStats { bytes: self.received.into_inner(), requests: self.sent.into_inner(), failed })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
