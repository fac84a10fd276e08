//! The stand-in for 1Password's `op` command, as a program of its own.
//!
//! It gets no settings by variables, for whoever starts it gives it a clean environment: vaults, items, faults and limits are in
//! `op-state.json` in the folder of the name that it is called by, and each call is added to `op-calls.jsonl` there. It behaves as was
//! recorded of the real one, with what is odd about it, and refuses what it does not know.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "part of the tests: it fails by panicking")]

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Signal, getppid, kill_process};
use serde_json::{Value, json};

/// What the program says before its end, and how it ends.
struct End {
    stdout: String,
    /// Below the time.
    stderr: String,
    status: i32,
}

impl End {
    fn ok(stdout: String) -> Self {
        Self { stdout, stderr: String::new(), status: 0 }
    }

    fn error(status: i32, message: impl AsRef<str>) -> Self {
        let stderr = format!("[ERROR] 2026/11/22 10:20:30 {}\n", message.as_ref());
        Self { stdout: String::new(), stderr, status }
    }

    fn leave(self) -> ! {
        // Who does not listen any more is not told.
        let _ = std::io::stdout().write_all(self.stdout.as_bytes());
        let _ = std::io::stderr().write_all(self.stderr.as_bytes());
        std::process::exit(self.status)
    }
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let folder = folder(&args[0]);
    let _lock = lock(&folder);
    let mut state: Value = serde_json::from_slice(&std::fs::read(folder.join("op-state.json")).unwrap()).unwrap();
    let stdin = stdin_kind();
    log(&folder, &args[1..], stdin);
    if args[1..] == ["--version"] {
        End::ok(format!("{}\n", state["version"].as_str().unwrap())).leave();
    }
    let call = state["calls"].as_u64().unwrap() + 1;
    state["calls"] = call.into();
    let verb = args.get(2).cloned().unwrap_or_default();
    let fault = take_fault(&mut state, call, &verb);
    let is = |when: &str| fault.as_ref().is_some_and(|fault| fault["when"] == when);
    save(&folder, &state);
    if is("before") {
        strike(fault.as_ref().unwrap(), &mut state, &folder);
    }
    let end = signed_in(&state).and_then(|()| run(&args[1..], &mut state, stdin)).unwrap_or_else(|end| end);
    save(&folder, &state);
    if is("after") {
        strike(fault.as_ref().unwrap(), &mut state, &folder);
    }
    end.leave()
}

/// Where the name that it was called by stands.
fn folder(name: &str) -> PathBuf {
    if name.contains('/') {
        return Path::new(name).parent().unwrap().to_owned();
    }
    let path = std::env::var_os("PATH").unwrap();
    std::env::split_paths(&path).find(|folder| folder.join(name).exists()).unwrap()
}

fn lock(folder: &Path) -> File {
    let file = File::options().create(true).truncate(false).write(true).open(folder.join("op-lock")).unwrap();
    file.lock().unwrap();
    file
}

fn save(folder: &Path, state: &Value) {
    let new = folder.join("op-state.new");
    std::fs::write(&new, serde_json::to_vec_pretty(state).unwrap()).unwrap();
    std::fs::rename(new, folder.join("op-state.json")).unwrap();
}

fn stdin_kind() -> &'static str {
    let metadata = std::fs::metadata("/dev/stdin");
    match metadata.map(|metadata| metadata.file_type()) {
        Ok(kind) if kind.is_fifo() => "fifo",
        Ok(kind) if kind.is_char_device() => "device",
        _ => "other",
    }
}

fn log(folder: &Path, args: &[String], stdin: &str) {
    let env: serde_json::Map<String, Value> = std::env::vars().map(|(name, value)| (name, value.into())).collect();
    let line = json!({ "args": args, "env": env, "stdin": stdin });
    let mut file = File::options().create(true).append(true).open(folder.join("op-calls.jsonl")).unwrap();
    file.write_all(format!("{line}\n").as_bytes()).unwrap();
}

/// The fault that is meant for this call. One that is not for ever is used up by it.
fn take_fault(state: &mut Value, call: u64, verb: &str) -> Option<Value> {
    let faults = state["faults"].as_array_mut().unwrap();
    let place = faults.iter().position(|fault| {
        let is_call = fault["call"].is_null() || fault["call"] == call;
        is_call && (fault["verb"].is_null() || fault["verb"] == verb)
    })?;
    match faults[place]["times"].as_u64() {
        None => Some(faults[place].clone()),
        Some(1) => Some(faults.remove(place)),
        Some(times) => {
            faults[place]["times"] = (times - 1).into();
            Some(faults[place].clone())
        }
    }
}

fn strike(fault: &Value, state: &mut Value, folder: &Path) {
    match fault["do"].as_str().unwrap() {
        "kill" => {
            kill_process(getppid().unwrap(), Signal::KILL).unwrap();
            // Its pipes are gone: it is of no use to go on.
            std::process::exit(1);
        }
        "hang" => {
            // One of its children holds its pipes open as well.
            let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
            std::fs::write(folder.join("op-hangs"), format!("{} {}", std::process::id(), child.id())).unwrap();
            let _ = child.wait();
            std::thread::sleep(Duration::from_secs(600));
        }
        "say" => {
            let text = |name: &str| fault[name].as_str().unwrap_or_default().to_owned();
            let status = fault["status"].as_i64().unwrap().try_into().unwrap();
            End { stdout: text("stdout"), stderr: text("stderr"), status }.leave();
        }
        "large" => End::ok("x".repeat(17 << 20)).leave(),
        "meddle" => {
            for item in state["items"].as_array_mut().unwrap() {
                bump(item);
                item["title"] = format!("{} (meddled)", item["title"].as_str().unwrap()).into();
            }
            save(folder, state);
        }
        other => panic!("{other}: no such fault"),
    }
}

fn bump(item: &mut Value) {
    item["version"] = (item["version"].as_u64().unwrap() + 1).into();
}

fn signed_in(state: &Value) -> Result<(), End> {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    if !variable("OP_CONNECT_HOST").is_empty() {
        // It takes precedence over the service account.
        return Err(End::error(1, "could not connect to the Connect server"));
    }
    let token = variable("OP_SERVICE_ACCOUNT_TOKEN");
    if token.is_empty() {
        return Err(End::error(1, "You are not currently signed in. Please run `op signin --help` for instructions"));
    }
    if state["token"] != token {
        return Err(End::error(
            1,
            "error initializing client: Authentication: (failed to auth.LookupAuth), Network: (failed to request.DoUnencrypted), \
             Server: (403) (Forbidden (Service Account Deleted)), The Service Account used in this integration has been deleted.",
        ));
    }
    Ok(())
}

fn run(args: &[String], state: &mut Value, stdin: &str) -> Result<End, End> {
    let call = Call::parse(args)?;
    let vault_is_id = call.vault.len() == 26;
    let is_id = call.item.len() == 26;
    let cost = match call.verb.as_str() {
        "list" if vault_is_id => 2,
        "list" => 3,
        "get" if vault_is_id && is_id => 1,
        "get" => 3,
        "edit" if vault_is_id => 5,
        "edit" => 6,
        other => return Err(End::error(1, format!("unknown command \"{other}\" for \"op item\""))),
    };
    charge(state, cost)?;
    let vault = find_vault(state, &call.vault)?;
    if call.verb == "list" {
        return Ok(End::ok(printed(&list(state, &vault))));
    }
    let place = find_item(state, &vault, &call.item)?;
    if call.verb == "get" {
        return Ok(End::ok(printed(&shown(&state["items"][place], call.reveal))));
    }
    if stdin != "fifo" {
        return Err(End::error(1, "expected data on stdin but none found"));
    }
    let mut template = Vec::new();
    std::io::stdin().read_to_end(&mut template).unwrap();
    let new_id = format!("n{:025}", state["calls"]);
    let item = &mut state["items"][place];
    *item = edited(item, &template, &new_id)?;
    let item = item.clone();
    Ok(End::ok(printed(&shown(&item, call.reveal))))
}

/// `item VERB [ITEM] --vault VAULT --format json [--reveal]`
struct Call {
    verb: String,
    item: String,
    vault: String,
    reveal: bool,
}

impl Call {
    fn parse(args: &[String]) -> Result<Self, End> {
        let usage = |message: String| End::error(1, message);
        let [noun, verb, rest @ ..] = args else { return Err(usage("a command is missing".into())) };
        if noun != "item" {
            return Err(usage(format!("unknown command \"{noun}\" for \"op\"")));
        }
        let mut call = Self { verb: verb.clone(), item: String::new(), vault: String::new(), reveal: false };
        let mut format = String::new();
        let mut rest = rest.iter();
        while let Some(arg) = rest.next() {
            let (flag, value) = arg.split_once('=').map_or((arg.as_str(), None), |(flag, value)| (flag, Some(value)));
            let mut value = || value.map(str::to_owned).or_else(|| rest.next().cloned()).unwrap_or_default();
            match flag {
                "--vault" => call.vault = value(),
                "--format" => format = value(),
                "--reveal" => call.reveal = true,
                _ if arg.starts_with('-') => return Err(usage(format!("unknown flag: {arg}"))),
                _ if call.item.is_empty() => call.item.clone_from(arg),
                // An assignment: its value would stand in the list of processes.
                _ => return Err(usage(format!("unexpected argument: {flag}"))),
            }
        }
        if call.vault.is_empty() {
            return Err(usage(
                "a vault query must be provided when this command is called by a service account".into(),
            ));
        }
        if format != "json" {
            return Err(usage("this stand-in speaks JSON".into()));
        }
        Ok(call)
    }
}

fn charge(state: &mut Value, cost: u64) -> Result<(), End> {
    let used = state["used"].as_u64().unwrap();
    if state["limit"].as_u64().is_some_and(|limit| used + cost > limit) {
        return Err(End::error(
            1,
            "(429) Too Many Requests: You've reached the maximum number of this type of requests this service account is allowed to \
             make. Please retry in 58 minutes or try other requests.",
        ));
    }
    state["used"] = (used + cost).into();
    Ok(())
}

fn same(one: &Value, other: &str) -> bool {
    one.as_str().unwrap().to_lowercase() == other.to_lowercase()
}

fn find_vault(state: &Value, name: &str) -> Result<Value, End> {
    let vaults = state["vaults"].as_array().unwrap();
    let found = vaults.iter().find(|vault| vault["id"] == name || same(&vault["name"], name));
    let missing = || format!("\"{name}\" isn't a vault in this account. Specify the vault with its ID or name.");
    found.cloned().ok_or_else(|| End::error(1, missing()))
}

/// Where the item is in the list of all.
fn find_item(state: &Value, vault: &Value, name: &str) -> Result<usize, End> {
    let items = state["items"].as_array().unwrap();
    let inside = || items.iter().enumerate().filter(|(_, item)| item["vault"]["id"] == vault["id"]);
    if let Some((place, _)) = inside().find(|(_, item)| item["id"] == name) {
        return Ok(place);
    }
    let found: Vec<(usize, &Value)> = inside().filter(|(_, item)| same(&item["title"], name)).collect();
    let vault = vault["name"].as_str().unwrap();
    match found[..] {
        [(place, _)] => Ok(place),
        [] => Err(End::error(
            1,
            format!(
                "\"{name}\" isn't an item in the \"{vault}\" vault. Specify the item with its UUID, name, or domain."
            ),
        )),
        _ => {
            let mut message =
                format!("More than one item matches \"{name}\". Try again and specify the item by its ID:");
            for (_, item) in found {
                message.push_str(&format!(
                    "\n\t* for the item \"{name}\" in vault {vault}: {}",
                    item["id"].as_str().unwrap()
                ));
            }
            Err(End::error(1, message))
        }
    }
}

fn list(state: &Value, vault: &Value) -> Value {
    let inside = state["items"].as_array().unwrap().iter().filter(|item| item["vault"]["id"] == vault["id"]);
    inside
        .map(|item| {
            let mut shown = item.clone();
            shown.as_object_mut().unwrap().retain(|key, _| !matches!(key.as_str(), "fields" | "sections" | "_passkey"));
            shown
        })
        .collect()
}

/// An item as it is printed: nothing of a passkey, no value where a field is empty.
fn shown(item: &Value, reveal: bool) -> Value {
    let mut shown = item.clone();
    shown.as_object_mut().unwrap().remove("_passkey");
    for field in shown["fields"].as_array_mut().into_iter().flatten() {
        if field["value"] == "" {
            field.as_object_mut().unwrap().remove("value");
        } else if !reveal && field["type"] == "CONCEALED" && field.get("value").is_some() {
            field["value"] = "[use 'op item get --reveal' to reveal]".into();
        }
    }
    shown
}

fn printed(value: &Value) -> String {
    format!("{}\n", serde_json::to_string_pretty(value).unwrap())
}

/// The item that a template makes of it: what the template does not say is gone, a passkey always.
fn edited(item: &Value, template: &[u8], new_id: &str) -> Result<Value, End> {
    let bad = || End::error(4, "(400) Bad Request: The structure of request was invalid.");
    if template.is_empty() {
        return Err(End::error(1, "expected data on stdin but none found"));
    }
    let mut new: Value = serde_json::from_slice(template).map_err(|_| bad())?;
    if !new.is_object() || new["category"] != item["category"] || !new["title"].is_string() {
        return Err(bad());
    }
    for field in new["fields"].as_array_mut().ok_or_else(bad)? {
        if !field["type"].is_string() || field.get("value").is_some_and(|value| !value.is_string()) {
            return Err(bad());
        }
        if field["id"].as_str().unwrap_or_default().is_empty() {
            field["id"] = new_id.into();
        }
    }
    for kept in ["id", "vault", "version", "created_at"] {
        new[kept] = item[kept].clone();
    }
    bump(&mut new);
    new["updated_at"] = "2026-11-22T10:20:30Z".into();
    Ok(new)
}
