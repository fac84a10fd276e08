//! The test program once more, as a process of its own: what a whole process has (its memory, its limits, its outputs, its
//! end) is looked at from outside.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of this module")]
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "a test helper fails by panicking")]

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{ChildStdout, Command, ExitStatus};

use rustix::process::Signal;

use crate::support::opsctl::Guarded;
use crate::support::{clean_env, signal};

const ROLE: &str = "TEST_ROLE";
/// What such a process says when it is where the test wants to look at it.
const READY: &str = "\nready\n";

/// What this process is to do, if it is one of those. A test that starts some begins with it.
pub fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// The process that plays `role` in the test `test`, given by its full name.
pub fn again(test: &str, role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]).env_clear().envs(clean_env()).env(ROLE, role);
    command
}

/// The words of a command that does something first, such as `prlimit`, and the command.
pub fn under<S: Into<OsString>>(prefix: impl IntoIterator<Item = S>, command: &Command) -> Command {
    let mut words = prefix.into_iter().map(Into::into);
    let mut new = Command::new(words.next().expect("a command"));
    new.args(words).arg(command.get_program()).args(command.get_args()).env_clear();
    new.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    new
}

/// In the other process: waits until the test has looked.
pub fn hold() {
    print(READY);
    let _ = std::io::stdin().lock().read(&mut [0]);
}

#[allow(clippy::print_stdout, reason = "it talks to the test")]
fn print(text: &str) {
    print!("{text}");
    std::io::stdout().flush().expect("the test listens");
}

/// One that [holds](hold).
#[derive(Debug)]
pub struct Held {
    process: Guarded,
    output: BufReader<ChildStdout>,
}

impl Held {
    pub fn start(command: &mut Command) -> Self {
        let mut process = Guarded::spawn(command);
        let mut output = BufReader::new(process.0.stdout.take().expect("its output"));
        let mut line = String::new();
        while line != READY.trim_start() {
            line.clear();
            if output.read_line(&mut line).expect("its output") == 0 {
                panic!("it ended by itself: {:?}", process.end());
            }
        }
        Self { process, output }
    }

    /// The process that holds: not the one that was started where that was strace.
    pub fn pid(&self) -> u32 {
        self.process.0.id()
    }

    /// Ends it by the signal that writes a core.
    pub fn abort(&mut self) -> ExitStatus {
        signal(&self.process.0, Signal::ABORT);
        self.process.0.wait().expect("wait for a child")
    }

    /// Lets it go on, and gives what it said on stderr.
    pub fn go_on(mut self) -> String {
        drop(self.process.0.stdin.take());
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).expect("its output");
        let done = self.process.end();
        assert_eq!(done.code, 0, "{rest}\n{}", done.stderr);
        done.stderr
    }
}
