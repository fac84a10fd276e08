//! The only write: an object under a name that must not be taken.
//!
//! Invariant: settling a name that is taken needs LIST permission and nothing else.

use std::sync::atomic::Ordering;

use futures::TryStreamExt;
use jiff::Timestamp;
use object_store::path::Path;
use object_store::{PutMode, PutPayload};

use super::error::{Failure, StoreError, classify};
use super::{Created, ObjectInfo, Store, listing, modified};

impl Store {
    /// Stores an object under a name that must not be taken.
    ///
    /// If it is taken, or refused, the size decides: LIST shows it, and needs no permission to read. A store that does
    /// not know conditional requests gets the same PUT without the condition; names come from the content, so the worst
    /// that can happen is that equal bytes are written twice.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if the name is taken by an object of another size; else see [`StoreError`].
    pub async fn create(&self, key: &str, body: PutPayload) -> Result<Created, StoreError> {
        let path = self.object_path(key)?;
        let size = body.content_length() as u64;
        let counters = &self.inner.counters;
        let mut tries = self.retry.start("PUT", key, &counters.retries);
        loop {
            let conditional = self.conditional_put();
            let mode = if conditional { PutMode::Create } else { PutMode::Overwrite };
            counters.requests.fetch_add(1, Ordering::Relaxed);
            counters.bytes_sent.fetch_add(size, Ordering::Relaxed);
            let Err(error) = self.inner.backend.put_opts(&path, body.clone(), mode.into()).await else {
                return Ok(Created::New);
            };
            let error = match classify(key, &self.location().to_string(), &error) {
                Failure::NotImplemented(cause) if conditional => {
                    tracing::warn!(store = %self.location(), cause, "the store knows no create-only PUT, going on without");
                    self.inner.unconditional.store(true, Ordering::Relaxed);
                    continue;
                }
                // Taken, perhaps by an earlier try of this very call.
                Failure::Exists => match self.listed(key).await? {
                    Some(found) => return settled(key, size, found.size),
                    // Two requests at once (409), or the other writer failed: the name is free again.
                    None => StoreError::Unavailable {
                        key: key.into(),
                        detail: "the store reports a conflict but lists no such object".into(),
                    },
                },
                // Azure says so to whoever may create and not overwrite, whatever the condition.
                Failure::Plain(denied @ StoreError::Denied { .. }) => match self.listed(key).await {
                    Ok(Some(found)) => return settled(key, size, found.size),
                    _ => denied,
                },
                other => other.into_error(key),
            };
            tries.wait_after(error).await?;
        }
    }

    /// One object according to LIST, which needs no permission to read it. `None` if LIST does not show it.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn listed(&self, key: &str) -> Result<Option<ObjectInfo>, StoreError> {
        let path = self.object_path(key)?;
        let mut tries = self.retry.start("LIST", key, &self.inner.counters.retries);
        loop {
            self.inner.counters.requests.fetch_add(1, Ordering::Relaxed);
            match self.look_up(&path).await {
                Ok(found) => {
                    return Ok(found.map(|(size, modified)| ObjectInfo { key: key.into(), size, modified }));
                }
                Err(error) => tries.wait_after(self.error(key, &error)).await?,
            }
        }
    }

    /// One object that the store has just confirmed, according to LIST: one that is not shown yet is looked for again, as
    /// often as a request that fails is tried. `None` if it never shows.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn listed_in_time(&self, key: &str) -> Result<Option<ObjectInfo>, StoreError> {
        let mut tries = self.retry.start("LIST", key, &self.inner.counters.retries);
        loop {
            if let Some(found) = self.listed(key).await? {
                return Ok(Some(found));
            }
            let detail = "it was confirmed and is not listed".into();
            if tries.wait_after(StoreError::Unavailable { key: key.into(), detail }).await.is_err() {
                return Ok(None);
            }
        }
    }

    async fn look_up(&self, path: &Path) -> object_store::Result<Option<(u64, Timestamp)>> {
        if let Some(root) = &self.inner.root {
            // Asking a directory for one name needs no permission to read it either.
            return match std::fs::metadata(root.join(path.as_ref())) {
                Ok(metadata) => Ok(metadata.is_file().then(|| (metadata.len(), listing::modified(&metadata)))),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(object_store::Error::Generic { store: "directory", source: Box::new(error) }),
            };
        }
        let folder = path.parent().unwrap_or_default();
        // The name without its last character sorts before it, with next to nothing in between.
        let mut before = path.as_ref().to_owned();
        before.pop();
        let mut objects = match Path::parse(&before) {
            Ok(offset) if offset.as_ref() == before && !offset.is_root() => {
                self.inner.backend.list_with_offset(Some(&folder), &offset)
            }
            // What is left of a name of one character, or of `.x`, is no name: look at the whole folder.
            _ => self.inner.backend.list(Some(&folder)),
        };
        while let Some(object) = objects.try_next().await? {
            if object.location == *path {
                return Ok(Some((object.size, modified(&object))));
            }
            if object.location > *path && self.location().lists_in_order() {
                break;
            }
        }
        Ok(None)
    }
}

/// What a name that is taken means for an object of `size` bytes.
fn settled(key: &str, size: u64, found: u64) -> Result<Created, StoreError> {
    if found == size {
        Ok(Created::AlreadyThere)
    } else {
        Err(StoreError::Conflict { key: key.into(), expected: size, found })
    }
}
