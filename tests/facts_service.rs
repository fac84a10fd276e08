//! What a snapshot asks of the running service, where its token goes, and which workspaces it records.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod support;

#[path = "support/deployed.rs"]
mod deployment;
#[path = "support/opencode.rs"]
mod opencode;
#[path = "support/openwork/mod.rs"]
mod openwork;
#[path = "support/stub_store.rs"]
mod stub_store;
#[path = "support/verifier.rs"]
mod verifier;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use deployment::{Deployment, sessions};
use opencode::NEW;
use openwork::{CLIENT, Engine, OpenWork, Setup, Version, multipart, workspace_id};
use rusqlite::Connection;
use serde_json::json;
use stub_store::{Reply, Server};
use support::opsctl::{run, url};
use verifier::{Verified, verified};

/// A database of sessions as OpenCode keeps it, with these ids and titles.
fn write_sessions(database: &Path, sessions: &[(&str, &str)]) {
    std::fs::create_dir_all(database.parent().unwrap()).unwrap();
    let db = Connection::open(database).unwrap();
    db.execute_batch("CREATE TABLE session (id text PRIMARY KEY, title text)").unwrap();
    for session in sessions {
        db.execute("INSERT INTO session VALUES (?1, ?2)", *session).unwrap();
    }
}

fn against(it: &Deployment, work: &OpenWork, snapshot: &str) -> Verified {
    let mut env = work.env();
    env.push(("OPSCTL_STORE", url(&it.bench.store)));
    env.push(("OPSCTL_IDENTITY_FILE", it.bench.identity.display().to_string()));
    verified(&work.url(), &env, &["--against", snapshot])
}

// ---- workspaces ----

/// A deployment whose `server.json` has two workspaces.
struct Two {
    it: Deployment,
    second: PathBuf,
}

impl Two {
    fn new() -> Self {
        let mut it = Deployment::new();
        write_sessions(&it.home().database(), &[("ses_a", "a title")]);
        let second = it.bench.dir.mkdir("tree/workspace/second");
        let config = json!({ "token": CLIENT, "workspaces": [{ "path": it.workspace() }, { "path": second }] });
        let config = it.bench.dir.write("tree/openwork-server/server.json", config.to_string());
        it.env.push(("OPENWORK_SERVER_CONFIG", config.display().to_string()));
        Self { it, second }
    }

    /// A service of it, started with `--workspace` or not.
    fn boot(&self, names_workspace: bool) -> OpenWork {
        let engine = Engine::memory(NEW, &self.it.workspace(), &["ses_a".to_owned()]);
        let (version, data) = (Version::V0_18_16, self.it.bench.tree.clone());
        OpenWork::boot_as(Setup { version, data, names_workspace, engine })
    }

    /// A snapshot; with the service to ask, if there is one.
    fn take(&self, asked: Option<&OpenWork>) -> String {
        let url = asked.map(|work| work.url());
        let args: Vec<&str> = url.iter().flat_map(|url| ["--service-url", url.as_str()]).collect();
        let mut command = self.it.snapshot_command(&args);
        command.env("OPENWORK_TOKEN", CLIENT);
        let done = run(command).ok();
        assert_eq!(done.warnings(), [] as [String; 0]);
        assert!(!done.says(CLIENT));
        done.id().to_owned()
    }

    /// The paths that were recorded.
    fn recorded(&self) -> Vec<PathBuf> {
        let facts = self.it.facts();
        let workspaces = facts.workspaces.recorded().unwrap_or_else(|| panic!("{facts:?}"));
        workspaces.iter().map(|workspace| PathBuf::from(&workspace.path)).collect()
    }

    fn both(&self) -> Vec<PathBuf> {
        vec![self.it.workspace(), self.second.clone()]
    }

    #[track_caller]
    fn names_the_second(&self, found: &Verified) {
        let missing = format!("{} of {} is missing", workspace_id(&self.second), self.second.display());
        assert!(found.detail("workspaces.against").contains(&missing), "{}", found.detail("workspaces.against"));
    }
}

#[test]
fn pitfall_7_a_workspace_that_a_start_with_the_flag_hides_is_missing() {
    let two = Two::new();
    let (whole, hiding) = (two.boot(false), two.boot(true));
    let told = two.take(Some(&whole));
    assert_eq!(two.recorded(), two.both());
    against(&two.it, &whole, &told).passed();
    two.names_the_second(&against(&two.it, &hiding, &told).failed(&["workspaces.against"]));
    // No reason to take a restore back: no other tree would make it served.
    let mut command = two.it.bench.command();
    command.arg("restore").arg(&two.it.bench.tree).args(["--json", "--yes", "--force", "--snapshot", &told]);
    command.args(["--verify-url", &hiding.url()]).envs(hiding.env());
    command.env("OPSCTL_IDENTITY_FILE", &two.it.bench.identity).env("OPSCTL_STATE_DIR", &two.it.bench.state);
    std::fs::write(two.it.workspace().join("made-since.txt"), "made since").unwrap();
    let done = run(command).ended(3);
    assert_eq!(done.json["verification"]["ok"], true, "{}", done.stdout);
    assert!(done.stderr.contains("workspaces.against was not checked"), "{}", done.stderr);
    assert!(!two.it.workspace().join("made-since.txt").exists());
    // Nobody was asked, and a variable names one: whether the other was served at capture nobody knows.
    let untold = two.take(None);
    assert_eq!(two.recorded(), two.both());
    against(&two.it, &whole, &untold).passed();
    let unknown = against(&two.it, &hiding, &untold).is("inconclusive");
    assert_eq!(unknown.status("workspaces.against"), "skipped");
    two.names_the_second(&unknown);
    // Nothing names one: the list is what is served.
    let mut two = two;
    two.it.env.retain(|(name, _)| *name != "OPENWORK_WORKSPACE");
    let listed = two.take(None);
    assert_eq!(two.recorded(), two.both());
    two.names_the_second(&against(&two.it, &hiding, &listed).failed(&["workspaces.against"]));
}

#[test]
fn a_workspace_that_was_hidden_at_capture_is_not_missed_after_a_restore() {
    let two = Two::new();
    let hiding = two.boot(true);
    let told = two.take(Some(&hiding));
    assert_eq!(two.recorded(), [two.it.workspace()]);
    against(&two.it, &hiding, &told).passed();
}

#[test]
fn a_workspace_that_is_served_from_outside_the_snapshot_is_said_and_no_fact() {
    let two = Two::new();
    let outside = two.it.bench.dir.mkdir("outside");
    let config = two.it.bench.tree.join("openwork-server/server.json");
    let take = |workspaces: serde_json::Value| {
        std::fs::write(&config, json!({ "workspaces": workspaces }).to_string()).unwrap();
        let work = two.boot(false);
        let mut command = two.it.snapshot_command(&["--service-url", &work.url()]);
        command.env("OPENWORK_TOKEN", CLIENT);
        let done = run(command).ok();
        let said = format!("the workspace {} is outside {}", outside.display(), two.it.bench.tree.display());
        assert!(done.says(&said), "{}", done.stderr);
        two.it.facts().workspaces
    };
    take(json!([{ "path": two.it.workspace() }, { "path": outside }]));
    assert_eq!(two.recorded(), [two.it.workspace()]);
    // Of nothing else is it known that it is served, whatever there is.
    let reason = take(json!([{ "path": outside }])).reason().unwrap().to_owned();
    assert_eq!(reason, format!("the service serves {}, which is not in the snapshot", outside.display()));
}

#[test]
fn every_workspace_is_recorded_with_the_end_of_its_audit_log() {
    let two = Two::new();
    let work = two.boot(false);
    let id = workspace_id(&two.second);
    let upload = |id: &str| {
        let (kind, body) = multipart("a.txt", "hello");
        let bearer = format!("Bearer {CLIENT}");
        let headers = [("Authorization", bearer.as_str()), ("Content-Type", kind.as_str())];
        work.ask("POST", &format!("/workspace/{id}/inbox"), &headers, body.as_bytes()).is(200);
    };
    upload(&work.workspace_id());
    upload(&id);
    let taken = two.take(None);
    let last = |id: &str| work.get(&format!("/workspace/{id}/audit?limit=1"))["items"][0]["id"].clone();
    let facts = two.it.facts();
    for workspace in facts.workspaces.recorded().unwrap() {
        assert_eq!(json!(workspace.last_audit), last(&workspace.id), "{workspace:?}");
    }
    let text = serde_json::to_string(&facts).unwrap();
    assert!(!text.contains(CLIENT), "of the configuration nothing is recorded but ids and paths");
    // Unchanged, it is the same again, of what is remembered.
    let again = two.take(None);
    assert_eq!(two.it.facts(), facts);
    // Its log is lost.
    std::fs::remove_file(two.it.bench.tree.join(format!("openwork-orchestrator/audit/{id}.jsonl"))).unwrap();
    for snapshot in [taken, again] {
        let lost = against(&two.it, &work, &snapshot).failed(&["workspaces.against"]);
        assert!(lost.detail("workspaces.against").contains(&format!("the audit log of {id} is empty")));
    }
}

#[test]
fn where_an_audit_log_has_its_entries_and_their_times_is_in_the_profile() {
    let two = Two::new();
    let work = two.boot(true);
    work.upload("a.txt", "hello");
    let contract =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("profiles/openwork.toml")).unwrap();
    for (from, to, says) in [
        ("audit_items_at = \"/items\"", "audit_items_at = \"/entries\"", "without a list at /entries"),
        ("audit_time_at = \"/timestamp\"", "audit_time_at = \"/action\"", "has no time"),
    ] {
        assert!(contract.contains(from));
        let profile = two.it.bench.dir.write("other.toml", contract.replace(from, to));
        let done = verified(&work.url(), &work.env(), &["--profile", profile.to_str().unwrap()]);
        let done = done.failed(&["workspaces.audit"]);
        assert!(done.detail("workspaces.audit").contains(says), "{}", done.detail("workspaces.audit"));
    }
}

#[test]
fn a_broken_list_of_workspaces_is_a_warning_and_no_short_one() {
    let two = Two::new();
    let config = two.it.bench.tree.join("openwork-server/server.json");
    let whole = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, &whole[..whole.len() - 5]).unwrap();
    let done = run(two.it.snapshot_command(&[])).ok();
    done.warning("workspaces: not captured, openwork-server/server.json: it is not a valid list of workspaces (line");
    assert!(!done.says(CLIENT) && two.it.facts().workspaces.reason().is_some());
    // The service itself takes it for an empty one.
    let work = two.boot(false);
    let mut command = two.it.snapshot_command(&["--service-url", &work.url()]);
    command.env("OPENWORK_TOKEN", CLIENT);
    run(command).ok().warning("workspaces: not captured, openwork-server/server.json");
    assert!(work.seen().iter().any(|request| request.starts_with("GET /workspaces")), "{:?}", work.seen());
    std::fs::write(&config, whole).unwrap();
    let done = run(two.it.snapshot_command(&["--exclude", "server.json"])).ok();
    done.warning("workspaces: not captured, openwork-server/server.json is not in the snapshot");
}

// ---- what verify makes meanwhile ----

#[test]
fn what_a_verify_has_just_made_is_no_fact() {
    let it = Deployment::new();
    let label = "opsctl-verify-0123456789abcdef";
    write_sessions(&it.home().database(), &[("ses_a", "of a person"), ("ses_probe", label)]);
    let server = OpenWork::boot(Version::V0_18_16, &it.bench.tree, Engine::Unconfigured);
    let kept = server.mint("viewer", "of a person");
    server.mint("viewer", label);
    it.take();
    let facts = it.facts();
    assert_eq!(facts.tokens.recorded(), Some(&vec![kept.id]));
    assert_eq!(sessions(&facts).messages.keys().collect::<Vec<_>>(), ["ses_a"]);
}

// ---- versions ----

#[test]
fn a_restore_compares_the_engine_that_runs_and_not_the_one_that_the_server_was_made_with() {
    let two = Two::new();
    let work = two.boot(false);
    let taken = two.take(Some(&work));
    let plan = |token: Option<&str>| {
        let mut command = two.it.bench.command();
        command.arg("restore").arg(&two.it.bench.tree).args(["--json", "--dry-run", "--snapshot", &taken]);
        command.args(["--service-url", &work.url()]).envs(token.map(|token| ("OPENWORK_TOKEN", token)));
        command.env("OPSCTL_IDENTITY_FILE", &two.it.bench.identity).env("OPSCTL_STATE_DIR", &two.it.bench.state);
        run(command).ok()
    };
    let is_said = |done: &support::opsctl::Done| done.warnings().iter().any(|line| line.contains("taken of opencode "));
    let same = plan(Some(CLIENT));
    assert!(same.json["versions"]["here"]["opencode"] == NEW && !is_said(&same), "{}", same.stdout);
    work.reboot(Some(Engine::memory("1.99.0", &two.it.workspace(), &[])));
    let other = plan(Some(CLIENT));
    other.warning(&format!("the snapshot was taken of opencode {NEW}, the service runs 1.99.0"));
    let here = &other.json["versions"]["here"];
    assert_eq!((here["opencode"].as_str(), here["opencode-pin"].as_str()), (Some("1.99.0"), Some("1.17.11")));
    // Without a token nobody knows, and the one that the server was made with is not taken for it.
    let unknown = plan(None);
    assert!(unknown.json["versions"]["here"]["opencode"].is_null() && !is_said(&unknown), "{}", unknown.stdout);
}

// ---- the way to the service ----

#[test]
fn no_token_goes_through_a_proxy_that_could_read_it() {
    let it = Deployment::new();
    write_sessions(&it.home().database(), &[("ses_a", "a title")]);
    let engine = Engine::memory(NEW, &it.workspace(), &[]);
    let work = OpenWork::boot(Version::V0_18_16, &it.bench.tree, engine);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let heard = seen.clone();
    let proxy = Server::start(move |request, _| {
        heard.lock().unwrap().push(request.target.clone());
        Reply::Send("200 OK".to_owned(), br#"{"version":"of the proxy"}"#.to_vec())
    });
    let proxy = format!("http://127.0.0.1:{}", proxy.port);
    let with_proxy = |mut command: Command| {
        for name in ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"] {
            command.env(name, &proxy);
        }
        command
    };
    let mut command = it.snapshot_command(&["--service-url", &work.url()]);
    command.env("OPENWORK_TOKEN", CLIENT);
    run(with_proxy(command)).ok();
    let versions = it.facts().versions;
    assert_eq!((versions["server"].as_str(), versions["opencode"].as_str()), ("0.18.16", NEW));
    run(with_proxy(verifier::command(&work.url(), &work.env(), &[]))).ok();
    assert!(seen.lock().unwrap().is_empty(), "{:?}", seen.lock().unwrap());
}

#[test]
fn a_password_in_a_url_is_refused_and_repeated_nowhere() {
    let it = Deployment::new();
    let taken = it.take();
    let to = it.bench.dir.join("new").display().to_string();
    let tree = it.bench.tree.display().to_string();
    let ways: [(&[&str], &str); 5] = [
        (&["snapshot", &tree], "--service-url"),
        (&["restore", "--to", &to, "--snapshot", taken.id()], "--service-url"),
        (&["restore", &tree, "--yes"], "--service-url"),
        (&["restore", &tree, "--yes"], "--verify-url"),
        (&["verify"], "--url"),
    ];
    for (args, flag) in ways {
        for (url, is_by_variable) in [
            "http://me:hunter2@127.0.0.1:9",
            "http://hunter2@127.0.0.1:9",
            "me:hunter2@127.0.0.1",
            "https://h/?t=hunter2",
        ]
        .into_iter()
        .flat_map(|url| [(url, false), (url, true)])
        {
            for format in [&["--json", "-vvv"][..], &[]] {
                let mut command = it.bench.command();
                command.args(args).args(format).env("OPSCTL_IDENTITY_FILE", &it.bench.identity);
                command.env("OPSCTL_SIGNING_KEY_FILE", &it.bench.key).env("OPSCTL_STATE_DIR", &it.bench.state);
                match is_by_variable {
                    true => command.env(format!("OPSCTL_{}", flag[2..].to_uppercase().replace('-', "_")), url),
                    false => command.args([flag, url]),
                };
                let done = run(command).ended(2);
                assert!(!done.says("hunter2") && done.says(flag), "{args:?} {flag} {url}: {}", done.stderr);
            }
        }
    }
}
