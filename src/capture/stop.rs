//! How the threads of one run stop together: at a signal, or when one of them fails.

use std::sync::{Mutex, PoisonError};

use crate::cancel::Cancel;
use crate::{Error, Result};

/// Shared by all threads of a run.
#[derive(Debug)]
pub struct Stop {
    outer: Cancel,
    inner: Cancel,
    first: Mutex<Option<Error>>,
}

impl Stop {
    /// A stop that also ends when `outer` is cancelled.
    #[must_use]
    pub fn new(outer: Cancel) -> Self {
        Self { outer, inner: Cancel::default(), first: Mutex::new(None) }
    }

    /// True once the run must end.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.outer.is_cancelled() || self.inner.is_cancelled()
    }

    /// Fails once the run must end.
    ///
    /// # Errors
    /// [`Error::interrupted`]; the real cause comes from [`Stop::into_result`].
    pub fn check(&self) -> Result<()> {
        self.outer.check()?;
        self.inner.check()
    }

    /// Waits for `work`, but not beyond the end of the run.
    ///
    /// # Errors
    /// [`Error::interrupted`], or what `work` returns.
    pub async fn guard<T, E: Into<Error>>(&self, work: impl Future<Output = Result<T, E>>) -> Result<T> {
        self.outer.guard(self.inner.guard(work)).await
    }

    /// Ends the run if `result` is an error; the first one is kept.
    pub fn note<T>(&self, result: Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
                if !self.is_stopped() {
                    *first = Some(error);
                }
                self.inner.cancel();
                None
            }
        }
    }

    /// The first failure, if there was one.
    ///
    /// # Errors
    /// That failure, or [`Error::interrupted`].
    pub fn into_result(self) -> Result<()> {
        self.outer.check()?;
        match self.first.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => self.inner.check(),
        }
    }
}
