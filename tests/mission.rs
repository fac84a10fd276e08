//! The whole mission: a deployment in use, snapshots meanwhile, an incident, a restore in its place that asks the service before it is
//! done, and every session is there again for whoever asks it: in a new container, of which nothing but the volume is the old one.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod support;

#[path = "support/deployed.rs"]
mod deployment;
#[path = "support/opencode.rs"]
mod opencode;
#[path = "support/openwork/mod.rs"]
mod openwork;
#[path = "support/openwork_process.rs"]
mod openwork_process;
#[path = "support/stub_store.rs"]
mod stub_store;
#[path = "support/verifier.rs"]
mod verifier;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use deployment::{Deployment, Ends, facts, sessions};
use opencode::{Home, NEW, OLD, OpenCode};
use openwork::{CLIENT, Minted, Version, forward};
use openwork_process::Process;
use serde_json::json;
use stub_store::Server;
use support::opsctl::{Done, run, url};
use support::tree::{Tree, assert_equal};
use support::wait_for;
use verifier::{Verified, verified};

/// A deployment that is in use: a server in front of a real OpenCode, both processes of their own, at a URL that stays.
struct Running {
    it: Deployment,
    engine: &'static str,
    version: Version,
    real: Option<OpenCode>,
    server: Option<Process>,
    front: Server,
    behind: Arc<Mutex<String>>,
}

impl Running {
    fn boot(engine: &'static str, version: Version) -> Self {
        let mut running = Self::new(Deployment::new(), engine, version);
        let home = running.it.home();
        running.boot_at(&home);
        running
    }

    /// Nothing runs yet.
    fn new(it: Deployment, engine: &'static str, version: Version) -> Self {
        let behind = Arc::new(Mutex::new(String::new()));
        let server = behind.clone();
        let front = Server::start(move |request, body| {
            let server = server.lock().unwrap().clone();
            forward(&server, request, body)
        });
        Self { it, engine, version, real: None, server: None, front, behind }
    }

    fn server(&self) -> &Process {
        self.server.as_ref().expect("it runs")
    }

    /// Ends the container: its HOME goes with it.
    fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            server.stop();
        }
        if let Some(real) = self.real.take() {
            let container = real.container();
            real.stop();
            assert!(!container.exists(), "nothing of the old container is left");
        }
    }

    /// A new container with this volume: HOME is empty. The durable folders of OpenCode are in this one.
    fn boot_at(&mut self, home: &Home) {
        let real = OpenCode::start(self.engine, &self.it.workspace(), home);
        let server = Process::start(self.version, &self.it.bench.tree, (&real.url(), &real.password));
        *self.behind.lock().unwrap() = server.url();
        (self.real, self.server) = (Some(real), Some(server));
    }

    /// The server comes up on what the incident has left, and its engine does not.
    fn incident(&mut self) {
        let real = self.real.as_ref().expect("it runs");
        let engine = (real.url(), real.password.clone());
        self.stop();
        destroy(&self.it);
        self.server = Some(Process::start(self.version, &self.it.bench.tree, (&engine.0, &engine.1)));
    }

    /// A session with so many messages, made by HTTP as a user's client does.
    fn use_it(&self, title: &str, messages: usize) -> String {
        let path = format!("/w/{}/opencode/session", self.server().workspace_id());
        let post = |path: &str, body: serde_json::Value| {
            let bearer = format!("Bearer {CLIENT}");
            let headers = [("Authorization", bearer.as_str()), ("Content-Type", "application/json")];
            self.server().ask("POST", path, &headers, body.to_string().as_bytes()).is(200).json()
        };
        let made = post(&path, json!({ "title": title }));
        let id = made["id"].as_str().unwrap().to_owned();
        for number in 0..messages {
            let text = json!([{ "type": "text", "text": format!("message {number} of {title}") }]);
            post(&format!("{path}/{id}/message"), json!({ "noReply": true, "parts": text }));
        }
        id
    }

    /// Sessions and their messages, as the service tells them.
    fn told(&self) -> BTreeMap<String, u64> {
        let count = |id: &str| {
            let path = format!("/w/{}/opencode/session/{id}/message", self.server().workspace_id());
            self.server().get(&path).as_array().unwrap().len() as u64
        };
        self.server().sessions().into_iter().map(|id| (id.clone(), count(&id))).collect()
    }

    /// What somebody who has only the URL, the tokens and the store can know.
    fn verify(&self, snapshot: &str) -> Verified {
        let mut env = self.server().env();
        env.push(("OPSCTL_STORE", url(&self.it.bench.store)));
        env.push(("OPSCTL_IDENTITY_FILE", self.it.bench.identity.display().to_string()));
        verified(&self.server().url(), &env, &["--against", snapshot, "--write-probe", "--create-probe-tokens"])
    }

    /// A restore in place that asks the service before it is done. The test is the platform: it ends the container when the
    /// stop command asks for that, and the start command gets a new one with this volume.
    fn restore(&mut self, snapshot: &str) -> Done {
        let (dir, tree) = (self.it.bench.dir.path().to_owned(), self.it.bench.tree.clone());
        let asks = |what: &str| {
            let path = dir.join(what).display().to_string();
            format!("touch '{path}.asked'; until [ -e '{path}.done' ]; do sleep 0.05; done; rm '{path}.done'")
        };
        let mut command = self.it.bench.command();
        command.arg("restore").arg(&tree).args(["--json", "--yes", "--snapshot", snapshot]);
        command.args(["--stop-cmd", &asks("stop"), "--start-cmd", &asks("start"), "--verify-url"]);
        command.arg(format!("http://127.0.0.1:{}", self.front.port)).envs(self.server().env());
        let (identity, state) = (&self.it.bench.identity, &self.it.bench.state);
        command.env("OPSCTL_IDENTITY_FILE", identity).env("OPSCTL_STATE_DIR", state);
        let over = AtomicBool::new(false);
        let is_asked = |what: &str| {
            let asked = dir.join(format!("{what}.asked"));
            wait_for(what, Duration::from_secs(120), || match std::fs::remove_file(&asked) {
                Ok(()) => Some(true),
                Err(_) => over.load(Ordering::SeqCst).then_some(false),
            })
        };
        let is_done = |what: &str| std::fs::write(dir.join(format!("{what}.done")), "").unwrap();
        let done = std::thread::scope(|scope| {
            let platform = scope.spawn(|| {
                if is_asked("stop") {
                    self.stop();
                    is_done("stop");
                }
                if is_asked("start") {
                    let home = self.it.home();
                    self.boot_at(&home);
                    is_done("start");
                }
            });
            let done = {
                let _ends_with_this = Ends(&over);
                run(command)
            };
            platform.join().unwrap();
            done
        })
        .ok();
        let verification = &done.json["verification"];
        assert_eq!(verification["ok"], true, "{}", done.stdout);
        for name in ["health", "sessions", "sessions.against", "tokens.against", "workspaces.against"] {
            let mut checks = verification["checks"].as_array().unwrap().iter();
            assert!(checks.any(|check| check["name"] == name && check["status"] == "ok"), "{name}: {}", done.stdout);
        }
        done
    }
}

/// The token of a person, and what is kept about the workspace.
struct Kept {
    person: Minted,
    workspace: String,
    last_audit: serde_json::Value,
}

impl Kept {
    fn of(running: &Running) -> Self {
        let server = running.server();
        let person = server.mint("viewer", "of a person");
        server.upload("report.txt", "hello");
        let (workspace, last_audit) = (server.workspace_id(), Self::last_audit(running));
        Self { person, workspace, last_audit }
    }

    fn last_audit(running: &Running) -> serde_json::Value {
        running.server().get(&format!("/workspace/{}/audit?limit=1", running.server().workspace_id()))["items"][0]
            .clone()
    }

    #[track_caller]
    fn is_there(&self, running: &Running) {
        let server = running.server();
        let person = format!("Bearer {}", self.person.secret);
        let who = server.ask("GET", "/whoami", &[("Authorization", &person)], b"").is(200).json();
        assert_eq!(who["actor"]["scope"], "viewer");
        assert_eq!(server.get("/workspaces")["items"][0]["id"], self.workspace);
        server.get(&format!("/workspace/{}/config", self.workspace));
        assert_eq!(Self::last_audit(running), self.last_audit);
        let report = running.it.workspace().join(".opencode/openwork/inbox/report.txt");
        assert_eq!(std::fs::read(report).unwrap(), b"hello");
    }
}

/// What the incident leaves: a database of something else beside the log of the old one, half a list of tokens, an empty workspace.
fn destroy(it: &Deployment) {
    let database = it.home().database();
    assert!(database.with_extension("db-wal").exists(), "OpenCode leaves its log behind");
    std::fs::write(&database, "overwritten").unwrap();
    let tokens = it.bench.tree.join("openwork-server/tokens.json");
    let text = std::fs::read(&tokens).unwrap();
    std::fs::write(&tokens, &text[..text.len() / 3]).unwrap();
    for gone in ["workspace", "openwork-orchestrator"] {
        std::fs::remove_dir_all(it.bench.tree.join(gone)).unwrap();
    }
}

fn mission(engine: &'static str, version: Version) {
    let mut running = Running::boot(engine, version);
    let kept = Kept::of(&running);
    let (made, over) = (Mutex::new(Vec::new()), AtomicBool::new(false));
    let use_it = |number: usize| {
        let id = running.use_it(&format!("session {number}"), number % 3);
        made.lock().unwrap().push(id);
    };
    use_it(0);
    // Snapshots while it is in use.
    let mut taken = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| (1..).take_while(|_| !over.load(Ordering::SeqCst)).for_each(use_it));
        let _ends_with_this = Ends(&over);
        for _ in 0..3 {
            let before = made.lock().unwrap().clone();
            taken.push((before.clone(), running.it.take().id().to_owned()));
            wait_for("more sessions", Duration::from_secs(60), || {
                (made.lock().unwrap().len() > before.len()).then_some(())
            });
        }
    });
    let last = running.it.take();
    assert_eq!(last.warnings(), [] as [String; 0]);
    let told = running.told();
    assert_eq!(told.len(), made.lock().unwrap().len());
    assert_eq!(sessions(&running.it.facts()).messages, told, "the facts are what the service tells");
    // Work that no snapshot has, so that the log at the time of the incident is another one.
    let late = running.use_it("after the last snapshot", 5);
    running.incident();
    assert!(running.server().get("/health")["ok"] == true, "the health of the server says nothing about all this");
    let lost = running.verify(last.id()).is("failed");
    assert_eq!((lost.status("health"), lost.status("sessions.against")), ("ok", "failed"));

    running.restore(last.id());
    assert_eq!(running.told(), told, "every session with every message");
    assert!(!told.contains_key(&late));
    kept.is_there(&running);
    let verified = running.verify(last.id()).passed();
    let all = format!("all {} sessions that were captured are there", told.len());
    assert!(verified.detail("sessions.against").starts_with(&all), "{}", verified.detail("sessions.against"));
    assert_eq!(running.told(), told, "verify leaves nothing");
    // It is in use again, and the next snapshot records that.
    let next = running.use_it("after the restore", 1);
    running.it.take();
    assert_eq!(sessions(&running.it.facts()).messages[&next], 1);

    // Every snapshot that was taken meanwhile has what was committed before it began, and what it says that it has.
    for (before, id) in taken {
        running.restore(&id);
        let told = running.told();
        assert!(before.iter().all(|session| told.contains_key(session)), "{before:?} in {told:?}");
        assert_eq!(told, sessions(&facts(&running.it.bench, &id).unwrap()).messages);
        running.verify(&id).passed();
        kept.is_there(&running);
    }
    running.stop();
    stock_tools(&running, last.id());
}

/// The break-glass script restores a snapshot with facts as it does any other.
fn stock_tools(running: &Running, snapshot: &str) {
    let bench = &running.it.bench;
    let (by_script, by_us) = (bench.dir.join("by-script"), bench.dir.join("by-us"));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("runbooks/break-glass.sh");
    let mut command = Command::new("sh");
    command.env_clear().envs(support::clean_env()).arg(script).arg(&bench.store).arg(snapshot);
    let output = command.arg(&bench.identity).arg(&bench.signer).arg(&by_script).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    bench.restore(&by_us, ["--snapshot", snapshot]).ok();
    assert_equal(&Tree::read(&by_us), &Tree::read(&by_script));
}

#[test]
fn every_session_of_opencode_1_2_is_there_after_an_incident() {
    mission(OLD, Version::V0_11_135);
}

#[test]
fn every_session_of_opencode_1_18_is_there_after_an_incident() {
    mission(NEW, Version::V0_18_16);
}

#[test]
fn only_the_volume_restored_while_sessions_were_elsewhere_is_known_before_the_incident() {
    let mut it = Deployment::new();
    let elsewhere: PathBuf = it.bench.dir.join("container");
    it.env.retain(|(name, _)| *name != "XDG_DATA_HOME");
    it.env.push(("HOME", elsewhere.display().to_string()));
    let mut running = Running::new(it, NEW, Version::V0_18_16);
    running.boot_at(&Home(elsewhere.join(".local")));
    running.use_it("lost with the container", 1);
    let done = running.it.take();
    assert!(done.warning("sessions: not captured").contains("XDG_DATA_HOME=/data/xdg/share keeps them inside"));
    running.stop();
    // A new container: every end point is well, and there is no session.
    let new = Home(running.it.bench.dir.join("new/.local"));
    running.boot_at(&new);
    running.server().ask("GET", "/health", &[], b"").is(200);
    assert_eq!(running.server().sessions(), [] as [String; 0]);
    assert!(running.it.facts().sessions.reason().is_some());
    let verified = running.verify("latest").is("inconclusive");
    assert_eq!(verified.status("sessions.against"), "skipped", "nobody can know, and that is no success");
}
