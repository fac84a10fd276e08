//! 1Password for tests: an `op` command ([`FakeOp`]) and a Connect server ([`connect::FakeConnect`]), each with vaults and items of
//! its own.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of this module")]
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "a test helper fails by panicking")]

pub mod connect;
pub mod data;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use serde_json::{Value, json};

/// The token that the stand-in takes for its service account's.
pub const TOKEN: &str = "ops_eyJ0b2tlbi1vZi10aGUtdGVzdHMiOjF9";

/// The program. Cargo builds examples with all tests, and not with one of them: so that it is never an old one, it is asked to.
static PROGRAM: LazyLock<PathBuf> = LazyLock::new(|| {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("a folder has a parent");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.args(["build", "--quiet", "--locked", "--offline", "--example", "fake-op", "--manifest-path"]);
    build.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).arg("--target-dir").arg(target);
    let output = build.output().expect("run cargo");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    target.join("debug/examples/fake-op")
});

/// An `op` command in a folder of its own.
#[derive(Clone, Debug)]
pub struct FakeOp {
    folder: PathBuf,
}

/// How the command was called.
#[derive(Clone, Debug)]
pub struct Call {
    pub args: Vec<String>,
    pub env: BTreeMap<String, String>,
    /// `fifo`, `device` or `other`.
    pub stdin: String,
}

impl Call {
    /// `list`, `get`, `edit`, or `--version`.
    pub fn verb(&self) -> &str {
        self.args.get(1).or_else(|| self.args.first()).map_or("", String::as_str)
    }
}

/// When a fault strikes: before or after the call takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    Before,
    After,
}

/// What goes wrong.
#[derive(Clone, Debug)]
pub enum Act {
    /// Its parent is killed, which is the program under test.
    Kill,
    /// It sits there, and so does a child of it, until they are killed.
    Hang,
    /// It says this and ends.
    Say { status: i32, stdout: String, stderr: String },
    /// It says 17 MiB.
    Large,
    /// Somebody else edits all items.
    Meddle,
}

impl Act {
    /// An error as the real one prints it.
    pub fn error(status: i32, message: &str) -> Self {
        Self::say(status, &format!("[ERROR] 2023/06/26 11:55:32 {message}\n"))
    }

    /// Exactly this on stderr.
    pub fn say(status: i32, stderr: &str) -> Self {
        Self::Say { status, stdout: String::new(), stderr: stderr.to_owned() }
    }

    /// Two edits meet.
    pub fn conflict() -> Self {
        Self::error(1, "(409) Conflict: Internal server conflict")
    }
}

/// A fault, of every call unless it says of which.
#[derive(Clone, Debug)]
pub struct Fault {
    act: Act,
    when: When,
    call: Option<u64>,
    verb: Option<&'static str>,
    times: Option<u64>,
}

impl Fault {
    pub const fn new(when: When, act: Act) -> Self {
        Self { act, when, call: None, verb: None, times: None }
    }

    /// Of this call alone. The first is 1; those of `--version` do not count.
    #[must_use]
    pub const fn at_call(mut self, call: u64) -> Self {
        self.call = Some(call);
        self
    }

    /// Of the calls of `list`, `get` or `edit`.
    #[must_use]
    pub const fn of(mut self, verb: &'static str) -> Self {
        self.verb = Some(verb);
        self
    }

    /// So many times.
    #[must_use]
    pub const fn times(mut self, times: u64) -> Self {
        self.times = Some(times);
        self
    }

    fn json(&self) -> Value {
        let mut fault = match &self.act {
            Act::Kill => json!({ "do": "kill" }),
            Act::Hang => json!({ "do": "hang" }),
            Act::Say { status, stdout, stderr } => {
                json!({ "do": "say", "status": status, "stdout": stdout, "stderr": stderr })
            }
            Act::Large => json!({ "do": "large" }),
            Act::Meddle => json!({ "do": "meddle" }),
        };
        fault["when"] = if self.when == When::Before { "before" } else { "after" }.into();
        fault["call"] = self.call.into();
        fault["verb"] = self.verb.into();
        fault["times"] = self.times.into();
        fault
    }
}

impl FakeOp {
    /// A command without vaults in this folder, which holds nothing else.
    pub fn start(folder: &Path) -> Self {
        std::fs::create_dir_all(folder).expect("create the folder of op");
        std::os::unix::fs::symlink(&*PROGRAM, folder.join("op")).expect("link op");
        let it = Self { folder: folder.to_owned() };
        let state = json!({
            "version": "2.33.1", "token": TOKEN, "vaults": [], "items": [], "faults": [], "calls": 0, "made": 0, "used": 0, "limit": null,
        });
        std::fs::write(it.state_path(), state.to_string()).expect("write the state of op");
        it
    }

    /// For `OPSCTL_OP_BIN`.
    pub fn program(&self) -> PathBuf {
        self.folder.join("op")
    }

    /// The variables that point opsctl at it.
    pub fn env(&self) -> Vec<(&'static str, String)> {
        let program = self.program().to_str().expect("a path in UTF-8").to_owned();
        vec![("OPSCTL_OP_BIN", program), ("OP_SERVICE_ACCOUNT_TOKEN", TOKEN.to_owned())]
    }

    /// Adds a vault; its id.
    pub fn vault(&self, name: &str) -> String {
        self.change(|state| {
            let id = next_id('v', state);
            push(&mut state["vaults"], json!({ "id": id, "name": name }));
            id
        })
    }

    /// Adds an item of the category API Credential with these concealed fields, to a vault named by id; its id. An empty value is none.
    pub fn item(&self, vault: &str, title: &str, fields: &[(&str, &str)]) -> String {
        self.change(|state| {
            let vaults = state["vaults"].as_array().expect("vaults");
            let vault = vaults.iter().find(|known| known["id"] == vault).expect("a vault that was added").clone();
            let id = next_id('i', state);
            let reference = |label: &str| format!("op://{}/{title}/{label}", vault["name"].as_str().expect("a name"));
            let fields = fields.iter().enumerate().map(|(number, (label, value))| {
                let mut field = json!({ "id": format!("f{number:025}"), "type": "CONCEALED", "label": label,
                    "reference": reference(label), "entropy": 103.123_456_789 });
                if !value.is_empty() {
                    field["value"] = (*value).into();
                }
                field
            });
            let fields: Vec<Value> = fields.collect();
            push(
                &mut state["items"],
                json!({ "id": id, "title": title, "favorite": false, "tags": [], "version": 1, "vault": vault,
                    "category": "API_CREDENTIAL", "last_edited_by": "EDITOR", "created_at": "2026-01-02T03:04:05Z",
                    "updated_at": "2026-01-02T03:04:05Z", "additional_information": "none", "fields": fields }),
            );
            id
        })
    }

    /// Changes an item as it lies there: its version stays.
    pub fn alter(&self, item: &str, change: impl FnOnce(&mut Value)) {
        self.change(|state| change(find(state, item)));
    }

    /// Changes a value as somebody else would: a new version.
    pub fn set(&self, item: &str, label: &str, value: &str) {
        self.alter(item, |item| {
            let fields = item["fields"].as_array_mut().expect("fields");
            fields.iter_mut().find(|field| field["label"] == label).expect("a field of that label")["value"] =
                value.into();
            item["version"] = (item["version"].as_u64().expect("a version") + 1).into();
        });
    }

    /// An item as it lies there.
    pub fn stored(&self, item: &str) -> Value {
        find(&mut self.state(), item).clone()
    }

    /// The value of a field.
    pub fn value(&self, item: &str, label: &str) -> Option<String> {
        let item = self.stored(item);
        let field = item["fields"].as_array()?.iter().find(|field| field["label"] == label)?;
        field["value"].as_str().map(str::to_owned)
    }

    /// Removes an item.
    pub fn remove(&self, item: &str) {
        self.change(|state| state["items"].as_array_mut().expect("items").retain(|known| known["id"] != item));
    }

    /// Every call so far, those for the version as well.
    pub fn calls(&self) -> Vec<Call> {
        let log = std::fs::read_to_string(self.folder.join("op-calls.jsonl")).unwrap_or_default();
        log.lines().map(call).collect()
    }

    /// Lets something go wrong from now on.
    pub fn fail(&self, fault: &Fault) {
        self.change(|state| push(&mut state["faults"], fault.json()));
    }

    /// Nothing goes wrong any more; and the calls are counted from 1 again.
    pub fn mend(&self) {
        self.change(|state| {
            state["faults"] = json!([]);
            state["calls"] = 0.into();
        });
    }

    /// Lets the service account make so many requests and no more.
    pub fn limit(&self, requests: Option<u64>) {
        self.change(|state| {
            let used = state["used"].as_u64().expect("a number");
            state["limit"] = requests.map_or(Value::Null, |more| (used + more).into());
        });
    }

    /// Requests so far, as the service account is charged for them.
    pub fn requests(&self) -> u64 {
        self.state()["used"].as_u64().expect("a number")
    }

    /// Says that it is of this version.
    pub fn version(&self, version: &str) {
        self.change(|state| state["version"] = version.into());
    }

    /// The processes that hang, once they do: the command and its child.
    pub fn hanging(&self) -> Option<Vec<i32>> {
        let pids = std::fs::read_to_string(self.folder.join("op-hangs")).ok()?;
        let pids: Option<Vec<i32>> = pids.split(' ').map(|pid| pid.parse().ok()).collect();
        pids.filter(|pids| pids.len() == 2)
    }

    /// Nothing hangs any more.
    pub fn forget_hanging(&self) {
        std::fs::remove_file(self.folder.join("op-hangs")).expect("something hung");
    }

    fn state_path(&self) -> PathBuf {
        self.folder.join("op-state.json")
    }

    fn state(&self) -> Value {
        self.change(|state| state.clone())
    }

    fn change<T>(&self, change: impl FnOnce(&mut Value) -> T) -> T {
        let lock = File::options().create(true).truncate(false).write(true).open(self.folder.join("op-lock"));
        let lock = lock.expect("open the lock of op");
        lock.lock().expect("lock the state of op");
        let before = std::fs::read(self.state_path()).expect("read the state of op");
        let mut state = serde_json::from_slice(&before).expect("the state is JSON");
        let done = change(&mut state);
        let after = serde_json::to_vec_pretty(&state).expect("the state has JSON");
        if after != before {
            let new = self.folder.join("op-state.new");
            std::fs::write(&new, after).expect("write the state of op");
            std::fs::rename(new, self.state_path()).expect("put the state of op in place");
        }
        done
    }
}

fn call(line: &str) -> Call {
    let line: Value = serde_json::from_str(line).expect("a line of JSON");
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    Call {
        args: line["args"].as_array().expect("arguments").iter().map(text).collect(),
        env: line["env"]
            .as_object()
            .expect("variables")
            .iter()
            .map(|(name, value)| (name.clone(), text(value)))
            .collect(),
        stdin: text(&line["stdin"]),
    }
}

fn push(list: &mut Value, value: Value) {
    list.as_array_mut().expect("a list").push(value);
}

fn find<'a>(state: &'a mut Value, item: &str) -> &'a mut Value {
    let items = state["items"].as_array_mut().expect("items");
    items.iter_mut().find(|known| known["id"] == item).expect("an item that was added")
}

/// An id of 26 letters and digits.
fn next_id(kind: char, state: &mut Value) -> String {
    let made = state["made"].as_u64().expect("a number") + 1;
    state["made"] = made.into();
    format!("{kind}{made:025}")
}
