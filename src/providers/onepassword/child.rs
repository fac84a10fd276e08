//! Runs a command to its end: what it says is read into memory that is wiped, what it is told goes through a pipe.
//!
//! Invariant: it outlives neither its time limit nor whoever waits for it, and then neither do the processes of its group.

use std::io::{Read, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use zeroize::Zeroizing;

use crate::providers::wiped::{self, Wiped};

/// What is read of its result.
const LARGEST: usize = 16 << 20;
/// What is read of its messages; the rest is thrown away.
const MESSAGES: usize = 64 << 10;
/// Between two looks whether it has ended, once it said all it had to say.
const EVERY: Duration = Duration::from_millis(2);

/// How it ended.
pub(super) struct Done {
    pub status: ExitStatus,
    pub stdout: Wiped,
    pub stderr: Wiped,
}

/// Why there is no end that could be judged.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It cannot be started.
    Start(std::io::Error),
    /// It was ended: it took longer.
    Slow,
    /// It was ended: it said more than anybody asked for.
    Large,
    /// It is out of sight.
    Lost(std::io::Error),
}

/// Runs it. Dropped before the end, this ends it.
pub(super) async fn run(command: Command, input: Option<Wiped>, limit: Duration) -> Result<Done, Trouble> {
    let group = Group::default();
    let of_it = group.clone();
    let work = tokio::task::spawn_blocking(move || work(command, input, limit, &of_it));
    let guard = Guard(group);
    let done = work.await.unwrap_or_else(|e| Err(Trouble::Lost(std::io::Error::other(e))));
    drop(guard);
    done
}

fn work(mut command: Command, input: Option<Wiped>, limit: Duration, group: &Group) -> Result<Done, Trouble> {
    let end = Instant::now() + limit;
    command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    let mut child = group.start(&mut command)?;
    let said = talk(&mut child, input, end);
    let done = said.and_then(|(stdout, stderr)| Ok(Done { status: group.wait(&mut child, end)?, stdout, stderr }));
    if done.is_err() {
        group.end(&mut child);
    }
    done
}

/// Everything it says, up to the end of both.
fn talk(child: &mut Child, input: Option<Wiped>, end: Instant) -> Result<(Wiped, Wiped), Trouble> {
    if let (Some(input), Some(mut pipe)) = (input, child.stdin.take()) {
        // In a thread: it may first talk and then listen. Who does not want to hear it all says so by how it ends.
        std::thread::spawn(move || {
            let _ = pipe.write_all(&input);
        });
    }
    let result = child.stdout.take().map(|pipe| reader(pipe, LARGEST, true));
    let messages = child.stderr.take().map(|pipe| reader(pipe, MESSAGES, false));
    let told = |said: Option<mpsc::Receiver<Result<Wiped, Trouble>>>| match said {
        None => Ok(Wiped::default()),
        Some(said) => match said.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(said) => said,
            Err(RecvTimeoutError::Timeout) => Err(Trouble::Slow),
            Err(RecvTimeoutError::Disconnected) => Err(Trouble::Lost(std::io::Error::other("a reader has stopped"))),
        },
    };
    Ok((told(result)?, told(messages)?))
}

/// Reads it all, but keeps `limit` bytes at most; more is an error where it `matters`.
fn reader(mut pipe: impl Read + Send + 'static, limit: usize, matters: bool) -> mpsc::Receiver<Result<Wiped, Trouble>> {
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        let mut chunk = Zeroizing::new(vec![0; 64 << 10]);
        let mut said = Wiped::default();
        let all = loop {
            match pipe.read(&mut chunk) {
                Ok(0) => break Ok(said),
                Ok(length) => {
                    let room = limit - said.len();
                    if matters && length > room {
                        break Err(Trouble::Large);
                    }
                    wiped::append(&mut said, &chunk[..length.min(room)]);
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => break Err(Trouble::Lost(error)),
            }
        };
        let _ = tell.send(all);
    });
    told
}

/// A command that was or will be started, to be ended from elsewhere.
#[derive(Clone, Default)]
struct Group(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// While its number is its own.
    pid: Option<Pid>,
    is_unwanted: bool,
}

impl Group {
    fn start(&self, command: &mut Command) -> Result<Child, Trouble> {
        let mut state = self.lock();
        if state.is_unwanted {
            return Err(Trouble::Slow);
        }
        let child = command.spawn().map_err(Trouble::Start)?;
        state.pid = Some(Pid::from_child(&child));
        Ok(child)
    }

    /// Waits for it. Once that is done, its number may be another's.
    fn wait(&self, child: &mut Child, end: Instant) -> Result<ExitStatus, Trouble> {
        loop {
            let mut state = self.lock();
            if let Some(status) = child.try_wait().map_err(Trouble::Lost)? {
                state.pid = None;
                return Ok(status);
            }
            drop(state);
            if Instant::now() >= end {
                return Err(Trouble::Slow);
            }
            std::thread::sleep(EVERY);
        }
    }

    fn end(&self, child: &mut Child) {
        let mut state = self.lock();
        state.kill();
        let _ = child.wait();
        state.pid = None;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn kill(&mut self) {
        self.is_unwanted = true;
        if let Some(pid) = self.pid {
            // Who is gone needs no signal.
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

struct Guard(Group);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.lock().kill();
    }
}
