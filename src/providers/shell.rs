//! Commands that somebody gave on the command line, to stop, start or restart the service.
//!
//! Invariants:
//! * A child gets the environment of this process without anything that is meant for opsctl alone: its own settings, keys,
//!   and the credentials of stores and of Railway. A command that fails is an error with its exit status.
//! * A command has no time limit, for nobody knows how long a service may take; while it runs that is said. Who stops
//!   waiting for it ends it, with its children.

use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, getpgrp, kill_process, kill_process_group, test_kill_process_group};

use super::store;
use crate::cancel::Cancel;
use crate::{Error, ExitCode, Result, ui};

/// Between two looks whether it has ended.
const EVERY: Duration = Duration::from_millis(20);
/// After this time it is said that it still runs, and again each time that as much has gone by.
const SAID_EVERY: Duration = Duration::from_secs(10);
/// To end by itself, once it was asked to.
const GRACE: Duration = Duration::from_secs(1);

/// Gives `command` to `sh -c` and waits for its end. `flag` names it in messages. A cancel while it runs ends it; one
/// that came before does not, for then it puts right what was interrupted.
///
/// # Errors
/// When it cannot be run or fails; interrupted.
pub fn run(flag: &'static str, command: &str, cancel: &Cancel) -> Result<()> {
    let was_cancelled = cancel.is_cancelled();
    let mut running = Running::start(flag, command)?;
    while !running.has_ended()? {
        if !was_cancelled {
            cancel.check()?;
        }
        std::thread::sleep(EVERY);
    }
    Ok(())
}

/// The same without holding up a thread; dropped, it ends the command.
///
/// # Errors
/// When it cannot be run or fails.
pub async fn wait(flag: &'static str, command: &str) -> Result<()> {
    let mut running = Running::start(flag, command)?;
    while !running.has_ended()? {
        tokio::time::sleep(EVERY).await;
    }
    Ok(())
}

/// A command that was started. Dropped before its end, it is ended.
struct Running {
    flag: &'static str,
    child: Child,
    /// Whether it and its children are a group of their own.
    is_group: bool,
    ended: bool,
    since: Instant,
    said: u32,
}

impl Running {
    fn start(flag: &'static str, command: &str) -> Result<Self> {
        let mut child = Command::new("sh");
        child.arg("-c").arg(command).stdin(Stdio::null());
        // stdout is for the result.
        child.stdout(std::io::stderr());
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_none_or(is_private) {
                child.env_remove(name);
            }
        }
        // In the foreground of a terminal it stays there: it may have to ask for a password, and Ctrl-C reaches all of it.
        let is_group = !is_in_foreground();
        if is_group {
            child.process_group(0);
        }
        let child =
            child.spawn().map_err(|e| Error::new(ExitCode::Failed, format!("{flag} cannot be run")).because(e))?;
        Ok(Self { flag, child, is_group, ended: false, since: Instant::now(), said: 0 })
    }

    fn has_ended(&mut self) -> Result<bool> {
        let flag = self.flag;
        let status = self.child.try_wait();
        let status = status.map_err(|e| Error::new(ExitCode::Failed, format!("{flag} is out of sight")).because(e))?;
        let Some(status) = status else {
            let elapsed = self.since.elapsed();
            if elapsed >= SAID_EVERY * (self.said + 1) {
                self.said += 1;
                ui::say(format!("{flag} has run for {}, and has no time limit; Ctrl-C ends it", ui::duration(elapsed)));
            }
            return Ok(false);
        };
        self.ended = true;
        if status.success() {
            return Ok(true);
        }
        Err(Error::new(ExitCode::Failed, format!("{flag} failed: {status}")).hint("its own messages are above"))
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        // Who is gone needs no signal.
        let _ = if self.is_group { kill_process_group(pid, signal) } else { kill_process(pid, signal) };
    }

    /// Whether nothing of it runs any more.
    fn is_over(&mut self) -> bool {
        self.ended |= !matches!(self.child.try_wait(), Ok(None));
        self.ended && !(self.is_group && test_kill_process_group(Pid::from_child(&self.child)).is_ok())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        self.signal(Signal::TERM);
        let end = Instant::now() + GRACE;
        while !self.is_over() {
            if Instant::now() >= end {
                self.signal(Signal::KILL);
                let _ = self.child.wait();
                return;
            }
            std::thread::sleep(EVERY);
        }
    }
}

/// Whether this process is in the foreground of a terminal.
fn is_in_foreground() -> bool {
    let terminal = std::fs::File::open("/dev/tty");
    terminal.is_ok_and(|terminal| rustix::termios::tcgetpgrp(terminal).is_ok_and(|group| group == getpgrp()))
}

/// Whether a variable is for this program alone.
fn is_private(name: &str) -> bool {
    let ours = name.starts_with("OPSCTL_") || name.starts_with("OP_");
    ours || (name.starts_with("RAILWAY_") && name.ends_with("TOKEN")) || store::is_credential(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_for_this_program_alone_is_not_inherited() {
        for name in ["OPSCTL_IDENTITY", "OP_SERVICE_ACCOUNT_TOKEN", "RAILWAY_TOKEN", "RAILWAY_API_TOKEN"] {
            assert!(is_private(name), "{name}");
        }
        for name in
            ["AWS_SECRET_ACCESS_KEY", "AZURE_STORAGE_KEY", "GOOGLE_APPLICATION_CREDENTIALS", "SECRET_ACCESS_KEY"]
        {
            assert!(is_private(name), "{name}");
        }
        for name in ["PATH", "HOME", "RAILWAY_SERVICE_NAME", "OPENWORK_TOKEN", "PORT"] {
            assert!(!is_private(name), "{name}");
        }
    }

    #[test]
    fn a_cancel_ends_what_began_before_it_and_not_what_puts_it_right() {
        let dir = tempfile::tempdir().unwrap();
        let begun = dir.path().join("begun");
        let command = format!("touch '{}'; exec sleep 600", begun.display());
        let cancel = Cancel::default();
        let ends = cancel.clone();
        let waits = std::thread::spawn(move || run("--stop-cmd", &command, &ends));
        while !begun.exists() {
            std::thread::sleep(EVERY);
        }
        cancel.cancel();
        assert_eq!(waits.join().unwrap().unwrap_err().code(), ExitCode::Interrupted);
        assert!(run("--start-cmd", "true", &cancel).is_ok());
    }
}
