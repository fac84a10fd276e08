//! What the integration tests share: the program, scratch folders, trees to compare, real servers.
//!
//! Each test binary that says `mod support;` compiles its own copy and uses a part of it.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of this module")]
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "a test helper fails by panicking")]

pub mod ask;
pub mod azurite;
pub mod daemon;
pub mod objects;
pub mod opsctl;
pub mod random;
pub mod rclone;
pub mod seaweed;
pub mod tree;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// The variables a test's child process starts from. Everything else of the developer's environment
/// (`OPSCTL_*`, `AWS_*`, `RAILWAY_*`, `LANG`, a real `HOME`) stays out, so that a test means the same on every machine.
pub fn clean_env() -> Vec<(&'static str, OsString)> {
    // One shared folder is enough: opsctl keeps nothing in HOME, and a test that says otherwise sets its own.
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("home");
    std::fs::create_dir_all(&home).expect("create the HOME of the tests");
    let path = std::env::var_os("PATH").expect("PATH is set");
    vec![("PATH", path), ("HOME", home.into_os_string()), ("TZ", "UTC".into())]
}

/// The built `opsctl` with a clean environment, to be run to its end.
pub fn opsctl() -> assert_cmd::Command {
    let mut command = assert_cmd::Command::new(env!("CARGO_BIN_EXE_opsctl"));
    command.env_clear().envs(clean_env());
    command
}

/// The same as [`opsctl`] for tests that need the child while it runs (signals, `/proc`, pipes).
pub fn opsctl_process() -> std::process::Command {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_opsctl"));
    command.env_clear().envs(clean_env());
    command
}

/// A scratch folder that is removed with its content when the guard goes.
#[derive(Debug)]
pub struct TestDir(PathBuf);

impl TestDir {
    pub fn new() -> Self {
        // A short prefix: unix sockets live in here, and their paths end at 107 bytes.
        let dir = tempfile::Builder::new().prefix("opsctl-").tempdir().expect("create a scratch folder");
        Self(dir.keep())
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn join(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.0.join(relative)
    }

    /// Creates a folder with its parents.
    pub fn mkdir(&self, relative: impl AsRef<Path>) -> PathBuf {
        let path = self.join(relative);
        std::fs::create_dir_all(&path).expect("create a folder");
        path
    }

    /// Writes a file, creating its folder.
    pub fn write(&self, relative: impl AsRef<Path>, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.join(relative);
        std::fs::create_dir_all(path.parent().expect("a file has a folder")).expect("create a folder");
        std::fs::write(&path, content).expect("write a file");
        path
    }

    /// The `file://` URL of a folder in here.
    pub fn file_url(&self, relative: impl AsRef<Path>) -> String {
        url::Url::from_file_path(self.join(relative)).expect("an absolute path").to_string()
    }
}

impl Drop for TestDir {
    fn drop(&mut self) {
        // rm and not the standard library, which holds a file descriptor and a stack frame for each level of a deep tree.
        let removed = std::process::Command::new("rm").arg("-rf").arg("--").arg(&self.0).status();
        if !std::thread::panicking() {
            assert!(removed.is_ok_and(|status| status.success()), "could not remove {}", self.0.display());
        }
    }
}

/// Asks until `ready` gives something, or panics after `limit`, saying what it waited for.
pub fn wait_for<T>(what: &str, limit: Duration, mut ready: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(Instant::now() < end, "waited {limit:?} in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Copies a folder to a name that is not taken, with everything that belongs to its files.
pub fn copy_folder(from: &Path, to: &Path) {
    let copied = std::process::Command::new("cp").args(["-a", "--"]).args([from, to]).status();
    assert!(copied.is_ok_and(|status| status.success()), "could not copy {}", from.display());
}

/// Sends a signal to one process that the test started.
pub fn signal(child: &Child, signal: Signal) {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a child has a pid");
    // Not reaped before `wait`, so the pid is still the child's; that it has ended already is no failure.
    let _ = kill_process(pid, signal);
}

/// Ends a process that the test started: SIGTERM, and SIGKILL when it is still there after `grace`.
pub fn stop_within(child: &mut Child, grace: Duration) {
    if matches!(child.try_wait(), Ok(Some(_))) {
        return;
    }
    signal(child, Signal::TERM);
    let end = Instant::now() + grace;
    while Instant::now() < end {
        if matches!(child.try_wait(), Ok(Some(_))) {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = child.kill();
    let _ = child.wait();
}

/// [`stop_within`] five seconds.
pub fn stop(child: &mut Child) {
    stop_within(child, Duration::from_secs(5));
}
