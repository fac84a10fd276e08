//! Stops the service before a swap and starts it after.

use crate::Result;
use crate::cancel::Cancel;
use crate::providers::shell;

/// How to stop and start the service.
#[derive(Clone, Debug, Default)]
pub struct Gate {
    /// Given to `sh -c` before the swap.
    pub stop: Option<String>,
    /// Given to `sh -c` after the swap, and again after a rollback.
    pub start: Option<String>,
}

impl Gate {
    /// Stops the service, if it was said how.
    ///
    /// # Errors
    /// When the command fails; interrupted.
    pub fn stop(&self, cancel: &Cancel) -> Result<()> {
        self.stop.as_ref().map_or(Ok(()), |command| shell::run("--stop-cmd", command, cancel))
    }

    /// Starts the service, if it was said how.
    ///
    /// # Errors
    /// When the command fails; interrupted.
    pub fn start(&self, cancel: &Cancel) -> Result<()> {
        self.start.as_ref().map_or(Ok(()), |command| shell::run("--start-cmd", command, cancel))
    }
}
