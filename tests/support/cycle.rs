//! A store with its keys, and what a test does with it again and again: snapshot, restore, look inside with stock programs.
//!
//! Looking inside uses `age`, `zstd`, `tar` and `sha256sum` on purpose: a test that reads the store with opsctl's own code would
//! inherit its mistakes.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of this module")]
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "a test helper fails by panicking")]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::support::opsctl::noise;
use crate::support::{TestDir, clean_env, opsctl, stop, wait_for};

/// The source that the tests capture.
pub const SOURCE: &str = "web";

/// A new store in a scratch folder, and the keys of its host and of its reader.
pub struct Site {
    /// `identity`, `signing.key`, `state/` and, unless it is elsewhere, `store/`.
    pub dir: TestDir,
    pub url: String,
    /// What `init --json` printed.
    pub init: Value,
    /// Credentials of whoever reads and administers.
    env: Vec<(String, String)>,
}

/// Bytes of the large file of [`Site::data`], which does not compress, so the pack that holds it is larger.
pub const BIG: usize = 3_000_000;

impl Site {
    /// A small tree to capture.
    pub fn data(&self) -> PathBuf {
        self.dir.write("data/a.txt", "first\n");
        self.dir.write("data/sub/big.bin", noise(BIG, 5));
        self.dir.mkdir("data/empty");
        self.dir.join("data")
    }

    /// A store in a folder.
    pub fn new() -> Self {
        let dir = TestDir::new();
        let url = dir.file_url("store");
        Self::make(dir, url, Vec::new())
    }

    /// A store somewhere else, reached with these variables.
    pub fn at(url: &str, env: &[(&str, String)]) -> Self {
        let env = env.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        Self::make(TestDir::new(), url.to_owned(), env)
    }

    fn make(dir: TestDir, url: String, env: Vec<(String, String)>) -> Self {
        let mut site = Self { dir, url, init: Value::Null, env };
        let mut command = site.opsctl();
        command.args(["init", "--json", "--new-identity"]).arg(site.identity());
        command.arg("--new-signing-key").arg(site.signing_key());
        site.init = json(&mut command, 0);
        site
    }

    pub fn identity(&self) -> PathBuf {
        self.dir.join("identity")
    }

    pub fn signing_key(&self) -> PathBuf {
        self.dir.join("signing.key")
    }

    /// Where the objects lie.
    pub fn store(&self) -> PathBuf {
        self.dir.join("store")
    }

    /// The public key of the host's signer.
    pub fn signer(&self) -> String {
        self.init["signer"].as_str().expect("init prints the signer").to_owned()
    }

    /// The program, pointed at the store.
    pub fn opsctl(&self) -> assert_cmd::Command {
        let mut command = opsctl();
        command.env("OPSCTL_STORE", &self.url).env("OPSCTL_SOURCE", SOURCE).env("OPSCTL_NO_PROGRESS", "1");
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }

    /// `opsctl snapshot --json DIR` as the host runs it.
    pub fn snapshot_command(&self, data: &Path) -> assert_cmd::Command {
        let mut command = self.opsctl();
        command.env("OPSCTL_SIGNING_KEY_FILE", self.signing_key()).env("OPSCTL_STATE_DIR", self.dir.join("state"));
        command.args(["snapshot", "--json"]).arg(data);
        command
    }

    /// Takes a complete snapshot and returns its document.
    #[track_caller]
    pub fn snapshot(&self, data: &Path) -> Value {
        json(&mut self.snapshot_command(data), 0)
    }

    /// `opsctl restore --json --snapshot ID --to DIR` as whoever has the identity runs it.
    pub fn restore_command(&self, id: &str, to: &Path) -> assert_cmd::Command {
        let mut command = self.opsctl();
        command.env("OPSCTL_IDENTITY_FILE", self.identity());
        command.args(["restore", "--json", "--snapshot", id, "--to"]).arg(to);
        command
    }

    /// Restores a complete snapshot into a new folder of the scratch folder.
    #[track_caller]
    pub fn restore(&self, snapshot: &Value) -> PathBuf {
        let id = id(snapshot);
        let to = self.dir.join(format!("restored-{id}"));
        json(&mut self.restore_command(id, &to), 0);
        to
    }

    /// Every object of a store in a folder, by name.
    pub fn objects(&self) -> BTreeMap<String, PathBuf> {
        let mut found = BTreeMap::new();
        let mut todo = vec![self.store()];
        while let Some(dir) = todo.pop() {
            for entry in std::fs::read_dir(&dir).expect("list the store").map(|entry| entry.expect("an entry")) {
                if entry.file_type().expect("a type").is_dir() {
                    todo.push(entry.path());
                } else {
                    let path = entry.path();
                    let name = path.strip_prefix(self.store()).expect("below the store").to_str().expect("UTF-8");
                    found.insert(name.to_owned(), path.clone());
                }
            }
        }
        found
    }

    /// The receipt of a snapshot.
    pub fn receipt(&self, id: &str) -> Value {
        let path = self.store().join(format!("snapshots/{SOURCE}/{id}.json"));
        serde_json::from_slice(&std::fs::read(&path).expect("read the receipt")).expect("the receipt is JSON")
    }

    /// Opens every pack with stock programs, one after the other, and returns the folders of chunks by pack.
    pub fn open_packs(&self) -> BTreeMap<String, PathBuf> {
        let mut found = BTreeMap::new();
        for (name, object) in self.objects() {
            let Some(pack) = name.strip_suffix(".tar.zst.age") else { continue };
            let pack = pack.rsplit('/').next().expect("a name").to_owned();
            let chunks = self.dir.join(format!("opened/{pack}"));
            if !chunks.exists() {
                std::fs::create_dir_all(&chunks).expect("a folder for chunks");
                let (zst, tar) = (self.dir.join("pack.zst"), self.dir.join("pack.tar"));
                run(Command::new("age").arg("-d").arg("-i").arg(self.identity()).arg("-o").arg(&zst).arg(&object));
                run(Command::new("zstd").args(["-dqf", "-o"]).arg(&tar).arg(&zst));
                run(Command::new("tar").arg("-xf").arg(&tar).arg("-C").arg(&chunks));
                std::fs::remove_file(&zst).expect("remove");
            }
            found.insert(pack, chunks);
        }
        found
    }

    /// The lines of a snapshot's manifest, read as `docs/format.md` says.
    pub fn manifest(&self, id: &str) -> Vec<Value> {
        let packs = self.open_packs();
        let read = |extent: &Value| -> Vec<u8> {
            let pack = &packs[extent["p"].as_str().expect("p")];
            let chunk = std::fs::read(pack.join(extent["c"].as_str().expect("c"))).expect("the chunk is in its pack");
            let number = |key: &str| extent[key].as_u64().map(|n| usize::try_from(n).expect("fits"));
            let from = number("o").unwrap_or(0);
            chunk[from..from + number("l").expect("l")].to_vec()
        };
        let root: Value = serde_json::from_slice(&read(&self.receipt(id)["root"])).expect("the root is JSON");
        let mut nodes = root["children"].as_array().expect("children").clone();
        for _ in 0..root["depth"].as_u64().expect("depth") {
            nodes = nodes.iter().flat_map(|node| lines(&read(&node["x"]))).collect();
        }
        nodes.iter().flat_map(|node| lines(&read(&node["x"]))).collect()
    }

    /// The manifest's line of one path.
    pub fn line(&self, id: &str, path: &str) -> Value {
        let found = self.manifest(id).into_iter().find(|line| line["path"] == path);
        found.unwrap_or_else(|| panic!("no line of {path} in the manifest of {id}"))
    }
}

fn lines(text: &[u8]) -> Vec<Value> {
    let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice(line).expect("a line is JSON")).collect()
}

/// The id in the document of a snapshot.
pub fn id(snapshot: &Value) -> &str {
    snapshot["snapshot_id"].as_str().unwrap_or_else(|| panic!("no snapshot_id in {snapshot}"))
}

/// Runs opsctl to its end, checks its exit code and returns its document.
#[track_caller]
pub fn json(command: &mut assert_cmd::Command, code: i32) -> Value {
    let output = command.output().expect("run opsctl");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{command:?}\n{out}\n{err}");
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("no JSON ({error}): {out}\n{err}"))
}

/// Runs another program to its end and returns what it printed; a failure panics with all that it said.
#[track_caller]
pub fn run(command: &mut Command) -> String {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.env_clear().envs(clean_env()).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{name} does not start ({error}): run `make tools`"));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{out}\n{err}", output.status);
    out.into_owned()
}

/// A Python script run to its end.
#[track_caller]
pub fn python(script: &str, arguments: &[&Path]) -> String {
    run(Command::new("python3").args(["-c", script]).args(arguments))
}

/// A process that works in a loop and prints the number of each step that it has finished.
pub struct Worker {
    child: Child,
    stdin: Option<ChildStdin>,
    last: Arc<AtomicU64>,
    what: String,
}

impl Worker {
    /// Starts it, and waits for its first step.
    pub fn start(command: &mut Command) -> Self {
        let what = command.get_program().to_string_lossy().into_owned();
        command.env_clear().envs(clean_env()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{what} does not start ({error})"));
        let last = Arc::new(AtomicU64::new(0));
        let (seen, lines) = (last.clone(), BufReader::new(child.stdout.take().expect("stdout is piped")));
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                if let Ok(number) = line.trim().parse() {
                    seen.store(number, Ordering::SeqCst);
                }
            }
        });
        let stdin = child.stdin.take();
        let mut worker = Self { child, stdin, last, what };
        worker.wait_past(0);
        worker
    }

    /// The last step that was finished before now.
    pub fn last(&self) -> u64 {
        self.last.load(Ordering::SeqCst)
    }

    /// Waits until a step after `step` is finished; panics if the process ended.
    pub fn wait_past(&mut self, step: u64) -> u64 {
        let (child, last, what) = (&mut self.child, &self.last, &self.what);
        wait_for("the next step of a worker", Duration::from_secs(60), || {
            if let Ok(Some(status)) = child.try_wait() {
                panic!("{what} ended by itself ({status}) after step {}", last.load(Ordering::SeqCst));
            }
            Some(last.load(Ordering::SeqCst)).filter(|last| *last > step)
        })
    }

    /// Sends a line to the process and waits for the step that it leads to.
    pub fn step(&mut self) -> u64 {
        let before = self.last();
        let stdin = self.stdin.as_mut().expect("stdin is piped");
        writeln!(stdin).and_then(|()| stdin.flush()).expect("the worker reads");
        self.wait_past(before)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        stop(&mut self.child);
    }
}
