//! How the threads of one run stop together: at a signal, or when one of them fails.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};

use crate::cancel::Cancel;
use crate::{Error, Result};

/// How often a wait looks whether the run has ended.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The error of a thread whose other end has gone: that only happens when the run is ending, and the
/// cause is kept in [`Stop`].
pub fn ended<T>(_: T) -> Error {
    Error::interrupted()
}

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

    /// Waits for a message, but not beyond the end of the run; `None` when nobody can send any more.
    ///
    /// A plain `recv` could wait for ever: messages left in the queue of a thread that has ended keep the
    /// senders inside them alive.
    ///
    /// # Errors
    /// As [`Stop::check`].
    pub fn recv<T>(&self, from: &Receiver<T>) -> Result<Option<T>> {
        loop {
            match from.recv_timeout(LOOK_EVERY) {
                Ok(message) => return Ok(Some(message)),
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Err(RecvTimeoutError::Timeout) => self.check()?,
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_with_the_run_even_if_the_sender_never_goes() {
        let stop = Stop::new(Cancel::default());
        let (sender, receiver) = crossbeam_channel::bounded::<()>(1);
        stop.note::<()>(Err(Error::integrity("first")));
        assert!(stop.recv(&receiver).is_err());
        drop(sender);
        assert_eq!(stop.into_result().unwrap_err().to_string(), "first");
    }
}
