//! A server as a process of its own that never outlives the test that started it.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

pub use super::random::{random, random_hex};
use super::{TestDir, stop_within};

/// A running server. Dropping it stops the process; so does the kernel when the test process is killed.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    name: String,
    log: PathBuf,
    /// Lets the thread end that started the process; see [`spawn`].
    _spawner: mpsc::Sender<()>,
}

impl Daemon {
    /// A command for [`start`](Self::start): `program` in an environment of its own, with `dir` as HOME and working directory.
    pub fn command(program: &Path, dir: &TestDir) -> Command {
        let mut command = Command::new("setpriv");
        // The kernel ends the server with the test process, also when that is killed and no destructor runs.
        command.args(["--pdeathsig", "KILL", "--"]).arg(program);
        // Both are searched for configuration files by one server or another: both are ours.
        command.current_dir(dir.path()).env_clear().env("HOME", dir.path());
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command
    }

    /// Starts it. What it prints goes to the file `log` in `dir`.
    pub fn start(name: &str, mut command: Command, dir: &TestDir) -> Self {
        let log = dir.join("log");
        let file = File::create(&log).expect("create the server's log");
        command.stdin(Stdio::null()).stderr(file.try_clone().expect("share the log")).stdout(file);
        let (child, spawner) = spawn(command);
        Self { child, name: name.to_owned(), log, _spawner: spawner }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it. A short grace: nobody wants the data, and some servers wait for ever for clients that stay connected.
    pub fn stop(&mut self) {
        stop_within(&mut self.child, Duration::from_millis(100));
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// The last lines of the server's log.
    pub fn log_tail(&self) -> String {
        let log = std::fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// Waits for the server to say `announcement` followed by `http://127.0.0.1:PORT`, and returns the port. The server took a free
    /// one itself and listens already, so no other process can have it.
    pub fn port_after(&mut self, announcement: &str, limit: Duration) -> u16 {
        let end = Instant::now() + limit;
        loop {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            let port = log
                .lines()
                .filter_map(|line| line.split_once(announcement)?.1.split_once("http://127.0.0.1:"))
                .find_map(|(_, rest)| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok());
            if let Some(port) = port {
                return port;
            }
            let ended = self.ended();
            let over = ended.is_some() || Instant::now() >= end;
            assert!(!over, "{} did not start within {limit:?} (ended: {ended:?}):\n{}", self.name, self.log_tail());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Starts the process from a thread that lives as long as the guard: the death signal is tied to the thread that forks, and a guard
/// may outlive the thread that asked for it.
fn spawn(mut command: Command) -> (Child, mpsc::Sender<()>) {
    let (started, child) = mpsc::channel();
    let (alive, guard_gone) = mpsc::channel::<()>();
    std::thread::spawn(move || {
        let _ = started.send(command.spawn());
        // Ends with an error when the guard drops its half.
        let _ = guard_gone.recv();
    });
    let child = child.recv().expect("the spawning thread answers").expect("start setpriv (Debian: util-linux)");
    (child, alive)
}

/// A program that `make tools` puts into `.tools/`.
pub fn tool(relative: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools").join(relative);
    // A missing server must not pass as a tested one, hence no skip.
    assert!(path.is_file(), "{} is missing: run `make tools`", path.display());
    path
}

/// One HTTP/1.1 request over an open connection; the answer's status. By hand, because a client library would need a runtime of its
/// own inside the test's.
pub fn http(
    mut stream: impl Read + Write,
    host: &str,
    method: &str,
    path: &str,
    headers: &[(&str, String)],
    body: &[u8],
) -> std::io::Result<u16> {
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n"
    )?;
    stream.write_all(body)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    status.ok_or_else(|| std::io::Error::other(format!("not an HTTP answer: {}", answer.escape_debug())))
}
