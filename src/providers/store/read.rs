//! Reading objects, whole or in part.
//!
//! Invariant: what is returned has exactly the length that was asked for, or that the store announced.

use std::future::ready;
use std::ops::Range;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, GetResultPayload, collect_bytes};

use super::Store;
use super::error::{StoreError, is_beyond_end};

/// Memory set aside before the first byte of a body: enough for any pack.
const BODY_HINT: u64 = 64 * 1024 * 1024;

impl Store {
    /// A whole object.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn get(&self, key: &str) -> Result<Bytes, StoreError> {
        self.read(key, None, u64::MAX).await
    }

    /// A whole object that cannot rightly be larger than `limit`.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`] if it is, before any of it is taken; else see [`StoreError`].
    pub async fn get_at_most(&self, key: &str, limit: u64) -> Result<Bytes, StoreError> {
        self.read(key, None, limit).await
    }

    /// Exactly these bytes of an object.
    ///
    /// # Errors
    /// [`StoreError::RangeUnsupported`] if the store sends the whole object instead: then use [`Store::get`].
    /// [`StoreError::Short`] if the object ends before the range does.
    pub async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        if range.is_empty() {
            // HTTP has no way to ask for nothing.
            return Ok(Bytes::new());
        }
        self.read(key, Some(range), u64::MAX).await
    }

    async fn read(&self, key: &str, range: Option<Range<u64>>, limit: u64) -> Result<Bytes, StoreError> {
        let path = self.object_path(key)?;
        let counters = &self.inner.counters;
        let mut tries = self.retry.start("GET", key, &counters.retries);
        loop {
            counters.requests.fetch_add(1, Ordering::Relaxed);
            match self.read_once(&path, range.clone(), limit).await {
                Ok((served, None)) => {
                    let size = served.end - served.start;
                    return Err(StoreError::TooLarge { key: key.into(), size, limit });
                }
                Ok((served, Some(bytes))) => {
                    let received = bytes.len() as u64;
                    counters.bytes_received.fetch_add(received, Ordering::Relaxed);
                    if let Some(wanted) = &range
                        && served != *wanted
                    {
                        let found = served.end.saturating_sub(served.start);
                        return Err(StoreError::Short { key: key.into(), wanted: wanted.clone(), found });
                    }
                    if received == served.end - served.start {
                        return Ok(bytes);
                    }
                    let detail = format!("{received} bytes came where {served:?} was announced");
                    tries.wait_after(StoreError::Unavailable { key: key.into(), detail }).await?;
                }
                Err(error) => match (self.error(key, &error), &range) {
                    (StoreError::Other { .. }, Some(wanted)) if is_beyond_end(&error) => {
                        return Err(StoreError::Short { key: key.into(), wanted: wanted.clone(), found: 0 });
                    }
                    (error, _) => tries.wait_after(error).await?,
                },
            }
        }
    }

    /// The range that the store says it served, and what came; nothing is taken of what is larger than `limit`.
    async fn read_once(
        &self,
        path: &Path,
        range: Option<Range<u64>>,
        limit: u64,
    ) -> object_store::Result<(Range<u64>, Option<Bytes>)> {
        let options = GetOptions { range: range.map(GetRange::Bounded), ..GetOptions::default() };
        let result = self.inner.backend.get_opts(path, options).await?;
        let served = result.range.clone();
        if served.end.saturating_sub(served.start) > limit {
            return Ok((served, None));
        }
        if matches!(result.payload, GetResultPayload::File(..)) {
            return Ok((served, Some(result.bytes().await?)));
        }
        // A server may send more than it announced, or announce more than fits in memory: stop at the one, and do
        // not trust the other.
        let announced = served.end - served.start;
        let mut received = 0;
        let body = result.into_stream().try_take_while(|part| {
            received += part.len() as u64;
            ready(Ok(received <= announced))
        });
        let bytes = collect_bytes(body, Some(announced.min(BODY_HINT))).await?;
        Ok((served, Some(bytes)))
    }
}
