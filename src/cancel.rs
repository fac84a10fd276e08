//! Designed cancellation: one flag that every loop and every network wait looks at.
//!
//! Invariant: after [`Cancel::cancel`] each stage stops at its next item, and no wait for the
//! network goes on, so a command ends within two seconds of SIGINT or SIGTERM.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::{Error, Result};

/// How long after a signal a command may take to end by itself.
pub const LAST_RESORT: Duration = Duration::from_millis(1800);

/// A flag shared by all parts of one command.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    flag: AtomicBool,
    notify: Notify,
    scratch: Mutex<Vec<PathBuf>>,
}

impl Cancel {
    /// Asks everything to stop.
    pub fn cancel(&self) {
        self.0.flag.store(true, Ordering::SeqCst);
        self.0.notify.notify_waiters();
    }

    /// True once [`Cancel::cancel`] was called.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.flag.load(Ordering::Relaxed)
    }

    /// Fails once [`Cancel::cancel`] was called.
    ///
    /// # Errors
    /// [`Error::interrupted`].
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() { Err(Error::interrupted()) } else { Ok(()) }
    }

    /// Names a folder that must be gone also if the process is ended before whoever made it comes to that.
    pub fn remove_at_the_end(&self, folder: PathBuf) {
        self.0.scratch.lock().unwrap_or_else(PoisonError::into_inner).push(folder);
    }

    /// Removes these folders: the process ends now.
    pub fn remove_scratch(&self) {
        for folder in self.0.scratch.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // A thread that still works in it may make a file meanwhile.
            for _ in 0..10 {
                if std::fs::remove_dir_all(&folder).is_ok() || !folder.exists() {
                    break;
                }
            }
        }
    }

    /// Ends when [`Cancel::cancel`] is called.
    pub async fn cancelled(&self) {
        loop {
            let notified = self.0.notify.notified();
            tokio::pin!(notified);
            // Registered before the flag is read, so a cancel in between is not missed.
            notified.as_mut().enable();
            if self.is_cancelled() {
                return;
            }
            notified.await;
        }
    }

    /// Waits for `work`, but not beyond a cancel.
    ///
    /// # Errors
    /// [`Error::interrupted`], or what `work` returns.
    pub async fn guard<T, E: Into<Error>>(&self, work: impl Future<Output = Result<T, E>>) -> Result<T> {
        tokio::select! {
            biased;
            () = self.cancelled() => Err(Error::interrupted()),
            done = work => done.map_err(Into::into),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ExitCode;

    #[test]
    fn a_cancel_ends_waits_that_began_before_and_after_it() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let cancel = Cancel::default();
        let waiting = cancel.clone();
        let before = runtime.spawn(async move { waiting.guard(std::future::pending::<Result<()>>()).await });
        cancel.cancel();
        assert_eq!(runtime.block_on(before).unwrap().unwrap_err().code(), ExitCode::Interrupted);
        let after = runtime.block_on(cancel.guard(std::future::pending::<Result<()>>()));
        assert_eq!(after.unwrap_err().code(), ExitCode::Interrupted);
        assert!(cancel.check().is_err());
    }

    #[test]
    fn what_was_named_is_gone_at_the_end_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let (ours, other) = (dir.path().join("ours"), dir.path().join("other"));
        [&ours, &other].into_iter().for_each(|folder| std::fs::create_dir(folder).unwrap());
        std::fs::write(ours.join("copy"), "x").unwrap();
        let cancel = Cancel::default();
        cancel.remove_at_the_end(ours.clone());
        cancel.remove_scratch();
        assert!(!ours.exists() && other.exists());
        std::fs::create_dir(&ours).unwrap();
        cancel.remove_scratch();
        assert!(ours.exists(), "once");
    }
}
