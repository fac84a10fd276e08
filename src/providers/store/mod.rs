//! The object store that holds a repository: a directory, S3, Google Cloud Storage or Azure.
//!
//! It stands between the rest of the program and the crate `object_store`, and adds what a backup needs and that
//! crate leaves to its user: names relative to the store, create-only writes that are settled without read
//! permission, retries that can be seen, and errors told apart by what can be done about them.
//!
//! A key is made of parts with one slash between them. No part is empty, `.` or `..`; and a key has no control character, no
//! backslash, no white space at either end, and does not end in `#` and digits: one kind of store or another keeps such a
//! name under another one, or hides it. Other keys are refused before anything is sent, and left out of listings.
//!
//! Invariants:
//! * Nothing is ever rewritten or deleted here but a scratch object (`scratch.rs`); the only other write is [`Store::create`].
//! * Writing needs LIST and PUT permission only: no GET and no HEAD, so a host that is broken into cannot read
//!   backups with its own credentials.
//! * What [`Store::get`] and [`Store::get_range`] return has exactly the length that was asked for.
//! * No URL, message, log line or `Debug` output holds a credential.

mod cloud;
mod create;
mod env;
mod error;
#[cfg(test)]
#[path = "../../../tests/support/faulty.rs"]
pub(crate) mod faulty;
mod http;
mod listing;
mod location;
mod read;
mod retry;
mod s3;
pub mod scratch;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_http;

use std::fmt;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures::TryStreamExt;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore};

pub use env::{Env, ProcessEnv, is_credential};
pub use error::StoreError;
pub use location::Location;
pub use retry::RetryPolicy;

use error::classify;
use location::Scheme;

/// One object, as LIST shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    /// The name, relative to the store.
    pub key: String,
    /// The size in bytes.
    pub size: u64,
    /// When the store wrote it, by the clock of the store.
    pub modified: jiff::Timestamp,
}

/// What [`Store::create`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// The object was written now.
    New,
    /// An object of this name and size is there already: from an earlier run, or from an earlier try whose answer
    /// was lost.
    AlreadyThere,
}

/// What a store was asked for so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Requests sent, retries included: each page of a LIST is one over HTTP, and the whole LIST elsewhere.
    pub requests: u64,
    /// Bytes of object bodies sent, retries included.
    pub bytes_sent: u64,
    /// Bytes of object bodies received.
    pub bytes_received: u64,
    /// How many of the requests were retries.
    pub retries: u64,
}

#[derive(Default)]
struct Counters {
    requests: AtomicU64,
    bytes_sent: AtomicU64,
    bytes_received: AtomicU64,
    retries: AtomicU64,
}

/// An open store. Clones share connections and counters.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
    retry: RetryPolicy,
}

struct Inner {
    location: Location,
    backend: Arc<dyn ObjectStore>,
    /// The directory, if that is what the store is: it is listed without the backend.
    root: Option<PathBuf>,
    /// What stands before each key in the backend.
    prefix: Path,
    counters: Counters,
    /// What the HTTP client sent, which knows better than the callers do.
    sent: Option<Arc<AtomicU64>>,
    /// The store answered "not implemented" to a conditional PUT.
    unconditional: AtomicBool,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the backend: its `Debug` may show credentials.
        f.debug_struct("Store").field("location", &self.inner.location).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens a store. Nothing is sent; a directory must exist.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] for a missing directory, [`StoreError::Denied`] and [`StoreError::BadConfig`] for
    /// missing and wrong variables.
    pub fn open(location: &Location, env: &dyn Env) -> Result<Self, StoreError> {
        Self::open_with(location, env, http::REQUEST_TIMEOUT)
    }

    /// Like [`Store::open`], with another limit to the time that one HTTP request may take with its body.
    ///
    /// # Errors
    /// Those of [`Store::open`].
    pub fn open_with(location: &Location, env: &dyn Env, request_timeout: Duration) -> Result<Self, StoreError> {
        let http = http::Connector::new(request_timeout);
        let mut location = location.clone();
        let backend = match location.scheme {
            Scheme::File => directory(&location)?,
            Scheme::S3 => {
                let settings = s3::Settings::read(&location, env)?;
                settings.bucket().clone_into(&mut location.bucket);
                settings.build(&http)?
            }
            Scheme::Gs => cloud::google(&location, env, &http)?,
            Scheme::Az => cloud::azure(&location, env, &http)?,
            // It would take a backup and lose it when the process ends.
            Scheme::Memory => {
                return Err(StoreError::BadLocation { detail: "memory:// keeps nothing, it exists for tests".into() });
            }
        };
        let sent = (!location.is_local()).then_some(http.sent);
        Ok(Self::on(location, backend, sent))
    }

    /// Like [`Store::open`], but makes the directory of a `file://` store that does not exist yet, for its owner
    /// only. A bucket is never made: where it lives and who owns it is not for a backup tool to decide.
    ///
    /// # Errors
    /// Those of [`Store::open`], and what the file system says.
    pub fn open_or_make(location: &Location, env: &dyn Env) -> Result<Self, StoreError> {
        if location.is_local() {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(location.directory())
                .map_err(|source| error::from_io(&location.to_string(), &source))?;
        }
        Self::open(location, env)
    }

    /// An empty store in memory, for tests.
    #[must_use]
    pub fn in_memory() -> Self {
        let location = Location { scheme: Scheme::Memory, bucket: String::new(), path: String::new() };
        Self::from_backend(location, Arc::new(InMemory::new()))
    }

    /// A store on a given backend, for tests and wrappers. The path of the location is put before each key, except
    /// for `file://`, whose backend is expected to be rooted there.
    #[must_use]
    pub fn from_backend(location: Location, backend: Arc<dyn ObjectStore>) -> Self {
        Self::on(location, backend, None)
    }

    fn on(location: Location, backend: Arc<dyn ObjectStore>, sent: Option<Arc<AtomicU64>>) -> Self {
        let prefix = Path::parse(location.key_prefix()).unwrap_or_default();
        let inner = Inner {
            root: location.is_local().then(|| location.directory()),
            location,
            backend,
            prefix,
            counters: Counters::default(),
            sent,
            unconditional: AtomicBool::new(false),
        };
        Self { inner: Arc::new(inner), retry: RetryPolicy::default() }
    }

    /// The same store with other retries.
    #[must_use]
    pub fn with_retry(mut self, retry: RetryPolicy) -> Self {
        self.retry = retry;
        self
    }

    /// Where the store is. The bucket is filled in, wherever it came from.
    #[must_use]
    pub fn location(&self) -> &Location {
        &self.inner.location
    }

    /// What was asked of this store so far.
    #[must_use]
    pub fn stats(&self) -> StoreStats {
        let Counters { requests, bytes_sent, bytes_received, retries } = &self.inner.counters;
        StoreStats {
            requests: self.inner.sent.as_deref().unwrap_or(requests).load(Ordering::Relaxed),
            bytes_sent: bytes_sent.load(Ordering::Relaxed),
            bytes_received: bytes_received.load(Ordering::Relaxed),
            retries: retries.load(Ordering::Relaxed),
        }
    }

    /// Whether PUTs still carry the condition "only if the name is free". `false` means that the store answered
    /// "not implemented" (Backblaze B2), so that [`Store::create`] cannot keep two writers of one name apart.
    /// `true` is no proof: there are servers that ignore the condition (`rclone serve s3`), which only a second PUT
    /// to the same name brings to light.
    #[must_use]
    pub fn conditional_put(&self) -> bool {
        !self.inner.unconditional.load(Ordering::Relaxed)
    }

    /// Everything below the folder `prefix` (`""` is the whole store), in order of keys. A folder that does not
    /// exist is empty. Objects with names that no store of ours can hold are left out, and said in the log.
    ///
    /// # Errors
    /// See [`StoreError`]; a missing bucket is [`StoreError::NotFound`].
    pub async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        let folder = self.folder_path(prefix)?;
        let what = if prefix.is_empty() { self.location().to_string() } else { prefix.to_owned() };
        let mut tries = self.retry.start("LIST", &what, &self.inner.counters.retries);
        loop {
            if let Some(walked) = self.walk(&folder).await {
                match walked {
                    Ok(mut walked) => {
                        walked.objects.sort_unstable_by(|a, b| a.key.cmp(&b.key));
                        return Ok(walked.objects);
                    }
                    Err(error) => tries.wait_after(error).await?,
                }
                continue;
            }
            self.inner.counters.requests.fetch_add(1, Ordering::Relaxed);
            match self.inner.backend.list(Some(&folder)).try_collect::<Vec<_>>().await {
                Ok(objects) => return Ok(self.in_order(objects)),
                Err(error) => tries.wait_after(self.error(&what, &error)).await?,
            }
        }
    }

    /// Whether nothing at all is stored below this location.
    ///
    /// # Errors
    /// Those of [`Store::list`].
    pub async fn is_empty(&self) -> Result<bool, StoreError> {
        let what = self.location().to_string();
        let mut tries = self.retry.start("LIST", &what, &self.inner.counters.retries);
        loop {
            if let Some(walked) = self.walk(&self.inner.prefix).await {
                match walked {
                    Ok(walked) => return Ok(walked.objects.is_empty() && walked.foreign.is_empty()),
                    Err(error) => tries.wait_after(error).await?,
                }
                continue;
            }
            self.inner.counters.requests.fetch_add(1, Ordering::Relaxed);
            // A folder made in a web console is an object without a name of its own, and nothing that anyone stored.
            let mut objects = self
                .inner
                .backend
                .list(Some(&self.inner.prefix))
                .try_filter(|object| std::future::ready(object.location != self.inner.prefix));
            match objects.try_next().await {
                Ok(object) => return Ok(object.is_none()),
                Err(error) => tries.wait_after(self.error(&what, &error)).await?,
            }
        }
    }

    /// Lists a store that is a directory; `None` for any other.
    async fn walk(&self, folder: &Path) -> Option<Result<listing::Walked, StoreError>> {
        let (root, folder) = (self.inner.root.clone()?, folder.as_ref().to_owned());
        let walked = tokio::task::spawn_blocking(move || listing::walk(&root, &folder)).await;
        self.inner.counters.requests.fetch_add(1, Ordering::Relaxed);
        Some(walked.unwrap_or_else(|error| {
            Err(StoreError::Other { key: self.location().to_string(), detail: error.to_string() })
        }))
    }

    fn error(&self, key: &str, error: &object_store::Error) -> StoreError {
        classify(key, &self.location().to_string(), error).into_error(key)
    }

    /// The backend's path of a folder; `""` is the whole store.
    fn folder_path(&self, folder: &str) -> Result<Path, StoreError> {
        let relative = Path::parse(folder).map_err(|_| not_a_key(folder))?;
        Ok(self.inner.prefix.parts().chain(relative.parts()).collect())
    }

    /// The backend's path of an object.
    fn object_path(&self, key: &str) -> Result<Path, StoreError> {
        if listing::is_key(key) { self.folder_path(key) } else { Err(not_a_key(key)) }
    }

    /// Turns what a backend lists into keys of this store.
    fn in_order(&self, objects: Vec<ObjectMeta>) -> Vec<ObjectInfo> {
        let mut found = Vec::with_capacity(objects.len());
        for object in objects {
            let location = object.location.as_ref();
            let key = match self.inner.prefix.as_ref() {
                "" => location,
                prefix => location.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('/')).unwrap_or_default(),
            };
            // The folder itself, made in a web console.
            if key.is_empty() {
                continue;
            }
            found.push(ObjectInfo { key: key.into(), size: object.size, modified: modified(&object) });
        }
        found.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        found
    }
}

/// When the store received an object.
fn modified(object: &ObjectMeta) -> jiff::Timestamp {
    let modified = object.last_modified;
    i32::try_from(modified.timestamp_subsec_nanos())
        .ok()
        .and_then(|nanos| jiff::Timestamp::new(modified.timestamp(), nanos).ok())
        // Beyond the calendar: later than any receipt can claim.
        .unwrap_or(jiff::Timestamp::MAX)
}

fn not_a_key(key: &str) -> StoreError {
    StoreError::Other { key: key.escape_debug().to_string(), detail: "not a valid key".into() }
}

/// The backend of an existing directory.
fn directory(location: &Location) -> Result<Arc<dyn ObjectStore>, StoreError> {
    let path = location.directory();
    let metadata = std::fs::metadata(&path).map_err(|source| error::from_io(&location.to_string(), &source))?;
    if !metadata.is_dir() {
        return Err(StoreError::BadLocation { detail: format!("{location} is not a directory") });
    }
    let store = LocalFileSystem::new_with_prefix(&path)
        .map_err(|source| classify("", &location.to_string(), &source).into_error(&location.to_string()))?;
    // A snapshot counts as stored only when it survives a power cut.
    Ok(Arc::new(store.with_fsync(true)))
}
