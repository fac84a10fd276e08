//! A scratch store with its keys and a tree, and the real program run on them.

use std::ffi::{OsStr, OsString};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::{TestDir, clean_env, wait_for};

/// Longer than any run here takes on a busy machine; a run that hangs fails the test and not the whole suite.
const LIMIT: Duration = Duration::from_secs(180);
/// Longer than the two seconds that a file must have been at rest to count as unchanged.
const REST: Duration = Duration::from_millis(2100);

/// A store with its keys, and a tree to capture. Everything lies in one scratch folder.
#[derive(Debug)]
pub struct Bench {
    pub dir: TestDir,
    /// The captured folder.
    pub tree: PathBuf,
    /// The folder of the store.
    pub store: PathBuf,
    /// The folder of the state, outside the tree.
    pub state: PathBuf,
    /// The identity file, with the pin of the signer.
    pub identity: PathBuf,
    /// The signing key file.
    pub key: PathBuf,
    /// The public half of the signing key.
    pub signer: String,
    /// The public half of the identity.
    pub recipient: String,
    /// What `init` wrote to its two outputs.
    pub init: Done,
}

impl Bench {
    /// A new store with new keys, and an empty tree.
    pub fn new() -> Self {
        let dir = TestDir::new();
        let (tree, store) = (dir.mkdir("tree"), dir.join("store"));
        let (identity, key, state) = (dir.join("identity"), dir.join("key"), dir.join("state"));
        let mut init = super::opsctl_process();
        init.arg("init").arg("--json").args(["--store", &url(&store)]);
        init.arg("--new-identity").arg(&identity).arg("--new-signing-key").arg(&key);
        let init = run(init).ok();
        let recipient = init.json["recipients"][0].as_str().expect("a recipient").to_owned();
        let signer = init.json["signer"].as_str().expect("a signer").to_owned();
        Self { dir, tree, store, state, identity, key, signer, recipient, init }
    }

    /// The program with the store named and nothing else.
    pub fn command(&self) -> Command {
        let mut command = super::opsctl_process();
        command.env("OPSCTL_STORE", url(&self.store));
        command
    }

    /// `snapshot TREE …`, not yet run.
    pub fn snapshot_command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        self.snapshot_of(&self.tree, args)
    }

    /// `snapshot DIR …`, not yet run.
    pub fn snapshot_of<S: AsRef<OsStr>>(&self, tree: &Path, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = self.command();
        command.arg("snapshot").arg(tree).arg("--json");
        command.env("OPSCTL_SIGNING_KEY_FILE", &self.key).env("OPSCTL_STATE_DIR", &self.state);
        command.args(args);
        command
    }

    /// Runs `snapshot TREE …`.
    pub fn snapshot<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Done {
        run(self.snapshot_command(args))
    }

    /// Runs a snapshot that must be complete, without arguments.
    pub fn take(&self) -> Done {
        self.snapshot([""; 0]).ok()
    }

    /// `restore --to TO …` with the identity, not yet run.
    pub fn restore_command<S: AsRef<OsStr>>(&self, to: &Path, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = self.command();
        command.arg("restore").arg("--json").arg("--to").arg(to);
        command.env("OPSCTL_IDENTITY_FILE", &self.identity);
        command.args(args);
        command
    }

    /// Runs `restore --to TO …`.
    pub fn restore<S: AsRef<OsStr>>(&self, to: &Path, args: impl IntoIterator<Item = S>) -> Done {
        run(self.restore_command(to, args))
    }

    /// Restores one snapshot completely into a new folder and returns that.
    pub fn restored(&self, snapshot: &Done) -> PathBuf {
        let to = self.dir.join(format!("restored-{}", snapshot.id()));
        self.restore(&to, ["--snapshot", snapshot.id()]).ok();
        to
    }

    /// All objects of the store with their sizes, in order of name.
    pub fn objects(&self) -> Vec<(String, u64)> {
        let mut found: Vec<_> = files_below(&self.store)
            .into_iter()
            .map(|path| {
                let size = path.metadata().expect("an object").len();
                (
                    path.strip_prefix(&self.store).expect("below the store").to_str().expect("plain name").to_owned(),
                    size,
                )
            })
            .collect();
        found.sort();
        found
    }

    /// The objects whose name starts with `prefix`.
    pub fn objects_in(&self, prefix: &str) -> Vec<String> {
        self.objects().into_iter().map(|(name, _)| name).filter(|name| name.starts_with(prefix)).collect()
    }

    /// The receipts, oldest first.
    pub fn receipts(&self) -> Vec<Value> {
        let names = self.objects_in("snapshots/").into_iter().filter(|name| name.ends_with(".json"));
        names.map(|name| serde_json::from_slice(&std::fs::read(self.store.join(name)).unwrap()).unwrap()).collect()
    }

    /// The file of this name in the state of the only source.
    pub fn state_file(&self, name: &str) -> PathBuf {
        self.find_state_file(name).unwrap_or_else(|| panic!("no {name} in {}", self.state.display()))
    }

    /// The same where it may be missing.
    pub fn find_state_file(&self, name: &str) -> Option<PathBuf> {
        files_below(&self.state).into_iter().find(|path| path.file_name() == Some(OsStr::new(name)))
    }

    /// Gives the whole scratch folder to a user without any right, and returns how to run the program as that user.
    pub fn unprivileged(&self) -> Unprivileged {
        // The target folder may lie where that user cannot look.
        let program = self.dir.join("opsctl");
        copy_program(&program);
        let owned = [self.dir.path(), &self.store, &self.identity, &self.key];
        let chown = Command::new("chown").args(["-R", "65534:65534", "--"]).args(owned).status();
        assert!(chown.is_ok_and(|status| status.success()), "the tests run as root");
        Unprivileged { program }
    }
}

/// Puts the program at another place. By another process: while this one writes it, a child that another thread starts
/// would hold it open for writing for a moment, and nobody could run it.
pub fn copy_program(to: &Path) {
    let copied = Command::new("cp").args(["--", env!("CARGO_BIN_EXE_opsctl")]).arg(to).status();
    assert!(copied.is_ok_and(|status| status.success()), "the program was not copied");
}

/// See [`Bench::unprivileged`].
#[derive(Debug)]
pub struct Unprivileged {
    program: PathBuf,
}

impl Unprivileged {
    /// The same command, as user 65534.
    pub fn command(&self, command: &Command) -> Command {
        let mut prefix: Vec<OsString> =
            ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--"].map(Into::into).into();
        prefix.push(self.program.clone().into());
        rebuilt(command, &prefix)
    }
}

/// The same command under `strace`, whose own output goes to `log`.
pub fn traced(command: &Command, log: &Path, options: &[&str]) -> Command {
    let mut prefix: Vec<OsString> = ["strace", "-f", "-qq", "-s", "4096", "-o"].map(Into::into).into();
    prefix.push(log.into());
    prefix.extend(options.iter().map(Into::into));
    prefix.push("--".into());
    prefix.push(command.get_program().to_owned());
    rebuilt(command, &prefix)
}

/// `prefix` and the arguments of `command`, in the environment that `command` was given.
fn rebuilt(command: &Command, prefix: &[OsString]) -> Command {
    let mut new = Command::new(&prefix[0]);
    new.args(&prefix[1..]).args(command.get_args()).env_clear();
    // `env_clear` is not among what a command can be asked for; all commands here begin from this.
    new.envs(clean_env());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => new.env(name, value),
            None => new.env_remove(name),
        };
    }
    new
}

/// How a run ended.
#[derive(Debug, Clone)]
pub struct Done {
    pub code: i32,
    pub json: Value,
    pub stdout: String,
    pub stderr: String,
}

impl Done {
    /// Exit 0, or a panic with everything the program said.
    #[track_caller]
    pub fn ok(self) -> Self {
        self.ended(0)
    }

    /// This exit code, or a panic.
    #[track_caller]
    pub fn ended(self, code: i32) -> Self {
        assert_eq!(self.code, code, "exit code\n--- stdout\n{}\n--- stderr\n{}", self.stdout, self.stderr);
        self
    }

    #[track_caller]
    pub fn number(&self, key: &str) -> u64 {
        self.json[key].as_u64().unwrap_or_else(|| panic!("{key} is no number in {}", self.stdout))
    }

    #[track_caller]
    pub fn text(&self, key: &str) -> &str {
        self.json[key].as_str().unwrap_or_else(|| panic!("{key} is no text in {}", self.stdout))
    }

    #[track_caller]
    pub fn id(&self) -> &str {
        self.text("snapshot_id")
    }

    #[track_caller]
    pub fn warnings(&self) -> Vec<String> {
        let list = self.json["warnings"].as_array().unwrap_or_else(|| panic!("no warnings in {}", self.stdout));
        list.iter().map(|line| line.as_str().expect("a line").to_owned()).collect()
    }

    /// The one warning that holds `part`.
    #[track_caller]
    pub fn warning(&self, part: &str) -> String {
        let mut found = self.warnings();
        found.retain(|line| line.contains(part));
        assert_eq!(found.len(), 1, "warnings with {part:?} in {}", self.stdout);
        found.remove(0)
    }

    /// The message of the error document.
    #[track_caller]
    pub fn error(&self) -> String {
        let error = &self.json["error"];
        assert_eq!(error["exit_code"].as_i64(), Some(self.code.into()), "{}", self.stdout);
        format!("{} {}", error["message"].as_str().expect("a message"), error["hint"].as_str().unwrap_or_default())
    }

    /// True if either output holds `part`.
    pub fn says(&self, part: &str) -> bool {
        self.stdout.contains(part) || self.stderr.contains(part)
    }
}

/// Runs to the end.
pub fn run(command: Command) -> Done {
    run_with(command, Vec::new())
}

/// Runs to the end with `input` on standard input.
pub fn run_with(command: Command, input: impl Into<Vec<u8>>) -> Done {
    let shown = format!("{command:?}");
    let mut command = assert_cmd::Command::from_std(command);
    let output = command.timeout(LIMIT).write_stdin(input.into()).output().unwrap_or_else(|e| panic!("{shown}: {e}"));
    let code = output.status.code();
    done(code.unwrap_or_else(|| panic!("{shown} ended with {}", output.status)), &output.stdout, &output.stderr)
}

fn done(code: i32, stdout: &[u8], stderr: &[u8]) -> Done {
    let stdout = String::from_utf8(stdout.to_vec()).expect("the output is text");
    let stderr = String::from_utf8(stderr.to_vec()).expect("the output is text");
    Done { code, json: serde_json::from_str(&stdout).unwrap_or(Value::Null), stdout, stderr }
}

/// A process that is stopped when it goes out of scope.
#[derive(Debug)]
pub struct Guarded(pub Child);

impl Guarded {
    /// Starts it with all three streams in pipes.
    pub fn spawn(command: &mut Command) -> Self {
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self(piped.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}")))
    }

    /// The end of it, within a bound.
    pub fn end(mut self) -> Done {
        let status = wait_for("the process to end", LIMIT, || self.0.try_wait().expect("wait for a child"));
        let read = |stream: Option<&mut dyn std::io::Read>| {
            let mut bytes = Vec::new();
            stream.map(|stream| stream.read_to_end(&mut bytes).expect("read its output"));
            bytes
        };
        let stdout = read(self.0.stdout.as_mut().map(|s| s as &mut dyn std::io::Read));
        let stderr = read(self.0.stderr.as_mut().map(|s| s as &mut dyn std::io::Read));
        // Ended by a signal: as a shell says it.
        let signal = std::os::unix::process::ExitStatusExt::signal(&status).unwrap_or_default();
        done(status.code().unwrap_or(128 + signal), &stdout, &stderr)
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs to the end, and the most memory that it had at any time, as often as the kernel was asked.
pub fn measured(dir: &TestDir, mut command: Command, limit: Duration) -> (Done, u64) {
    let (out, err) = (dir.join("stdout"), dir.join("stderr"));
    let file = |path| std::fs::File::create(path).expect("create a file");
    // As the kernel shows it; until the program has begun, the memory of this process is seen there under another name.
    let program = Path::new(command.get_program()).file_name().expect("a program").to_string_lossy().into_owned();
    let begins = format!("Name:\t{}\n", &program[..program.len().min(15)]);
    let mut running =
        Guarded(command.stdin(Stdio::null()).stdout(file(&out)).stderr(file(&err)).spawn().expect("start the program"));
    let status = format!("/proc/{}/status", running.0.id());
    let mut peak = 0;
    let ended = wait_for("the program to end", limit, || {
        // A high-water mark: it only misses what comes between the last look and the end.
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).filter(|_| text.starts_with(&begins));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        peak = peak.max(kib.unwrap_or_default() << 10);
        running.0.try_wait().expect("wait for the program")
    });
    let read = |path| std::fs::read(path).expect("read its output");
    let (stdout, stderr) = (read(out), read(err));
    let code = ended.code().unwrap_or_else(|| panic!("{ended}\n{}", String::from_utf8_lossy(&stderr)));
    (done(code, &stdout, &stderr), peak)
}

/// A mounted file system, unmounted when it goes out of scope.
#[derive(Debug)]
pub struct Mounted(PathBuf);

impl Mounted {
    /// An empty one in memory. Panics where mounting is not allowed: a test must not pass without.
    pub fn tmpfs(at: &Path, size: &str) -> Self {
        Self::new("tmpfs", &format!("size={size}"), at)
    }

    /// One whose times of files are as coarse as the ticks of the kernel, as on all file systems before Linux 6.13.
    pub fn coarse(at: &Path) -> Self {
        Self::new("ramfs", "mode=755", at)
    }

    fn new(kind: &str, options: &str, at: &Path) -> Self {
        std::fs::create_dir_all(at).expect("create the mount point");
        let status = Command::new("mount").args(["-t", kind, "-o", options, "none"]).arg(at).status();
        assert!(status.is_ok_and(|status| status.success()), "mounting a {kind} failed: the tests run as root");
        Self(at.to_owned())
    }

    /// The file system in a file.
    pub fn image(image: &Path, options: &str, at: &Path) -> Self {
        std::fs::create_dir_all(at).expect("create the mount point");
        let status = Command::new("mount").args(["-o", &format!("loop,{options}"), "--"]).args([image, at]).status();
        assert!(status.is_ok_and(|status| status.success()), "mounting a file failed: the tests run as root");
        Self(at.to_owned())
    }

    /// A file or folder once more at another place.
    pub fn bind(what: &Path, at: &Path) -> Self {
        let status = Command::new("mount").args(["-o", "bind", "--"]).args([what, at]).status();
        assert!(status.is_ok_and(|status| status.success()), "mounting failed: the tests run as root");
        Self(at.to_owned())
    }

    /// A folder once more, and there it cannot be written to. Panics where mounting is not allowed.
    pub fn read_only(folder: &Path, at: &Path) -> Self {
        let mount = |options: &str, paths: &[&Path]| {
            let status = Command::new("mount").args(["-o", options, "--"]).args(paths).status();
            assert!(status.is_ok_and(|status| status.success()), "mounting {options} failed: the tests run as root");
        };
        mount("bind", &[folder, at]);
        let mounted = Self(at.to_owned());
        mount("remount,bind,ro", &[at]);
        mounted
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let unmount = || {
            let status = Command::new("umount").arg(&self.0).stderr(Stdio::null()).status();
            status.is_ok_and(|status| status.success()).then_some(())
        };
        if unmount().is_none() && !std::thread::panicking() {
            // A child that another test is just starting may still have a file of it open.
            wait_for(&format!("{} to be unmounted", self.0.display()), Duration::from_secs(20), unmount);
        }
    }
}

/// The `file://` URL of a folder.
pub fn url(path: &Path) -> String {
    format!("file://{}", path.display())
}

/// Every file below a folder; links are not followed.
pub fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(dir) = todo.pop() {
        let Ok(entries) = std::fs::read_dir(&dir) else { continue };
        for entry in entries {
            let entry = entry.expect("list a folder");
            let kind = entry.file_type().expect("the type of a file");
            if kind.is_dir() {
                todo.push(entry.path());
            } else if kind.is_file() {
                found.push(entry.path());
            }
        }
    }
    found
}

/// Waits until everything that was written before this call counts as being at rest.
pub fn rest() {
    let end = SystemTime::now() + REST;
    wait_for("two seconds of rest", Duration::from_secs(30), || (SystemTime::now() >= end).then_some(()));
}

/// Bytes that do not compress, the same for the same seed.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    // Spread, so that neighbouring seeds have nothing in common; xorshift must not begin at 0.
    let mut x = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        out.extend_from_slice(&x.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    out.truncate(len);
    out
}

/// What `stat` says of a file, as far as it shows whether it was touched.
pub fn stat_of(path: &Path) -> (u64, u64, i64, i64, i64, i64) {
    let m = path.symlink_metadata().expect("stat");
    (m.ino(), m.size(), m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec())
}

/// Sets the permission bits.
pub fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("chmod");
}
