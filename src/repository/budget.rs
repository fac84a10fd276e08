//! Bounds the bytes that are in memory at once.

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::{Error, Result};

/// The memory budget, counted in KiB because permits are 32 bits wide.
pub(super) struct Budget {
    permits: Semaphore,
    all: u32,
}

impl Budget {
    pub(super) fn new(bytes: u64) -> Self {
        let all = u32::try_from(bytes >> 10).unwrap_or(u32::MAX).clamp(1, u32::MAX >> 4);
        Self { permits: Semaphore::new(all as usize), all }
    }

    /// Waits for room. What is larger than the whole budget gets all of it.
    pub(super) async fn room(&self, bytes: u64) -> Result<SemaphorePermit<'_>> {
        let wanted = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX).min(self.all);
        self.permits.acquire_many(wanted).await.map_err(|_| Error::interrupted())
    }
}
