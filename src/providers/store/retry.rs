//! Trying again: how often, how long in between, and visibly.
//!
//! Invariants: tries and waiting time are bounded; every retry is logged with key, attempt and cause, and counted.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

use super::error::StoreError;

/// How transient failures are retried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryPolicy {
    /// How often a request is sent at most, the first time included.
    pub tries: usize,
    /// The wait before the second try; each later one is twice as long, and up to twice that at random.
    pub first_wait: Duration,
    /// The longest wait before the random part is added.
    pub longest_wait: Duration,
    /// The longest time spent waiting in total. Time inside requests is bounded by their own timeout.
    pub total_wait: Duration,
}

impl Default for RetryPolicy {
    /// 8 tries and at most 2 minutes of waiting.
    fn default() -> Self {
        Self {
            tries: 8,
            first_wait: Duration::from_millis(500),
            longest_wait: Duration::from_secs(30),
            total_wait: Duration::from_secs(120),
        }
    }
}

impl RetryPolicy {
    /// One try.
    #[must_use]
    pub fn never() -> Self {
        Self { tries: 1, ..Self::default() }
    }

    /// Starts the tries of one request.
    pub(super) fn start<'a>(&self, request: &'static str, key: &'a str, retries: &'a AtomicU64) -> Tries<'a> {
        let waits = ExponentialBuilder::new()
            .with_jitter()
            .with_min_delay(self.first_wait)
            .with_max_delay(self.longest_wait)
            .with_total_delay(Some(self.total_wait))
            .with_max_times(self.tries.saturating_sub(1))
            .build();
        Tries { request, key, retries, waits, attempt: 1 }
    }
}

/// The tries of one request.
pub(super) struct Tries<'a> {
    request: &'static str,
    key: &'a str,
    retries: &'a AtomicU64,
    waits: ExponentialBackoff,
    attempt: u32,
}

impl Tries<'_> {
    /// Waits until the request may be sent again, or gives the error back if it is final.
    pub(super) async fn wait_after(&mut self, error: StoreError) -> Result<(), StoreError> {
        if !error.is_transient() {
            return Err(error);
        }
        let Some(wait) = self.waits.next() else { return Err(error) };
        tracing::warn!(
            request = self.request,
            key = self.key,
            attempt = self.attempt,
            wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
            cause = %error,
            "request to the store failed, trying again"
        );
        self.attempt += 1;
        self.retries.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(wait).await;
        Ok(())
    }
}
