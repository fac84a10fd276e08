//! A target in which every value is a canary, and what may go where.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "a test helper fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::leaks::{Canary, Place, Trace};
use crate::onepassword::connect::{self, FakeConnect};
use crate::server::{Reply, Server};
use crate::support::TestDir;
use crate::support::opsctl::files_below;
use crate::vaulted::Scene;
use crate::{onepassword, support};

/// Where a value may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Out of 1Password: to Railway, to the service, back to 1Password.
    Field,
    /// Out of 1Password, and nowhere else.
    ReadOnly,
    /// Out of Railway, and nowhere else.
    Old,
    /// In the environment of opsctl.
    Variable(&'static str),
    /// On its standard input.
    Stdin,
}

pub struct Stage {
    pub scene: Scene,
    pub connect: Option<FakeConnect>,
    pub service: Server,
    pub canaries: Vec<(Canary, Way)>,
    /// What strace writes, and the real template: no part of what is looked through.
    pub aside: TestDir,
    /// The item whose fields are mapped.
    pub item: String,
}

pub const OPTIONS: [&[&str]; 4] =
    [&["-vv"], &["-vvv", "--log-format", "json"], &["--json", "-vv"], &["--json", "-vvv", "--log-format", "json"]];

impl Stage {
    pub fn new(is_connect: bool) -> Self {
        let scene = Scene::new();
        let word = |name: &str, seed| Canary::word(name, seed);
        let fields = [
            word("client-token", 100),
            word("host-token", 200),
            Canary::lines("tls-key", 300),
            Canary::odd("dsn", 400),
        ];
        let fields: Vec<Canary> = fields.into();
        let keys = [word("fingerprint-key", 500), word("identity", 600)];
        let old = [word("old-client", 700), Canary::odd("unmanaged", 800), Canary::lines("old-key", 900)];
        let railway_token = Canary::of("RAILWAY_TOKEN", &format!("rwpt-{}", crate::leaks::canary::word(1000)));
        let mut canaries: Vec<(Canary, Way)> = Vec::new();
        let pairs = |all: &[Canary]| -> Vec<(String, String)> {
            all.iter().map(|one| (one.name.clone(), one.value.clone())).collect()
        };
        let (of_item, of_keys) = (pairs(&fields), pairs(&keys));
        fn texts(all: &[(String, String)]) -> Vec<(&str, &str)> {
            all.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
        }
        let connect = is_connect.then(FakeConnect::start);
        let item = if let Some(connect) = &connect {
            let vault = connect.vault("Team");
            connect.item(&vault, "keys", &texts(&of_keys));
            canaries.push((Canary::of("OP_CONNECT_TOKEN", connect::TOKEN), Way::Variable("OP_CONNECT_TOKEN")));
            connect.item(&vault, "canaries", &texts(&of_item))
        } else {
            scene.op.item(&scene.vault, "keys", &texts(&of_keys));
            let token = Canary::of("OP_SERVICE_ACCOUNT_TOKEN", onepassword::TOKEN);
            canaries.push((token, Way::Variable("OP_SERVICE_ACCOUNT_TOKEN")));
            scene.op.item(&scene.vault, "canaries", &texts(&of_item))
        };
        let config = scene.config().replace("op://Team/openwork/", "op://Team/canaries/");
        // A target that is bound to a vault takes nothing from elsewhere.
        let config = config.replace("op://Team/opsctl/", "op://Team/keys/").replace("vault = \"Team\"\n", "");
        let provider = if is_connect { "provider = \"connect\"" } else { "provider = \"op\"" };
        let more = "FROM_VARIABLE = \"env://CANARY\"\nFROM_STDIN = \"stdin://\"\n";
        scene.configure(&(config.replace("provider = \"op\"", provider) + more));
        scene.railway.accept(&railway_token.value);
        for place in ["openwork", "web"] {
            scene.railway.set(place, "OPENWORK_TOKEN", &old[0].value);
            scene.railway.set(place, "DATABASE_PASSWORD", &old[1].value);
        }
        scene.railway.set("openwork", "TLS_KEY", &old[2].value);
        scene.railway.run("openwork");
        scene.railway.run("web");
        canaries.extend(fields.into_iter().map(|one| (one, Way::Field)));
        canaries.extend(keys.into_iter().map(|one| (one, Way::ReadOnly)));
        canaries.extend(old.into_iter().map(|one| (one, Way::Old)));
        canaries.push((railway_token, Way::Variable("RAILWAY_TOKEN")));
        canaries.push((Canary::odd("CANARY", 1100), Way::Variable("CANARY")));
        canaries.push((word("stdin", 1200), Way::Stdin));
        for folder in ["home", "tmp", "cwd"] {
            scene.dir.mkdir(folder);
        }
        let service = service(&scene);
        Self { scene, connect, service, canaries, aside: TestDir::new(), item }
    }

    /// The same after a first sync.
    pub fn synced(is_connect: bool) -> Self {
        let stage = Self::new(is_connect);
        let done = support::opsctl::run_with(stage.command(&["sync", "--yes"], &[]), stage.input());
        done.ok();
        stage.scene.railway.forget();
        stage
    }

    pub fn value(&self, name: &str) -> &str {
        let found = self.canaries.iter().find(|(canary, _)| canary.name == name);
        &found.unwrap_or_else(|| panic!("no {name}")).0.value
    }

    pub fn input(&self) -> Vec<u8> {
        self.value("stdin").as_bytes().to_vec()
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.service.port)
    }

    /// `opsctl secrets …`, with the canaries in its environment and every folder that it could write to in the scene.
    pub fn command(&self, args: &[&str], options: &[&str]) -> Command {
        let mut command = self.scene.text_command(args);
        command.args(options);
        self.prepare(&mut command);
        command
    }

    /// Points any command at this stage.
    pub fn prepare(&self, command: &mut Command) {
        command.env_remove("OP_SERVICE_ACCOUNT_TOKEN").envs(self.scene.railway.variables_for());
        match &self.connect {
            Some(connect) => command.envs(connect.env()),
            None => command.envs(self.scene.op.env()),
        };
        for (canary, way) in &self.canaries {
            if let Way::Variable(name) = way {
                command.env(name, &canary.value);
            }
        }
        let folder = |name: &str| self.scene.dir.join(name);
        command.env("HOME", folder("home")).env("TMPDIR", folder("tmp")).env("XDG_STATE_HOME", folder("home/state"));
        // Nothing but this says more than it should.
        command.env("RUST_BACKTRACE", "full");
    }

    pub fn trace(&self, command: &Command, options: &[&str]) -> Trace {
        let log = self.aside.join(format!("strace-{}", files_below(self.aside.path()).len()));
        Trace::with(&command_in(&self.scene.dir.join("cwd"), command), &log, options, &self.input())
    }

    /// Runs it under strace, and looks at everything that it gave away.
    #[track_caller]
    pub fn run(&self, args: &[&str], options: &[&str]) -> Trace {
        let trace = self.trace(&self.command(args, options), &[]);
        self.examine(&trace, &format!("{args:?} {options:?}"));
        trace
    }

    /// All values there are, those that were made meanwhile among them.
    pub fn all(&self) -> Vec<(Canary, Way)> {
        let mut all = self.canaries.clone();
        let mut add = |value: &str| {
            let is_new = all.iter().all(|(canary, _)| canary.value != value);
            if value.len() == 48 && is_new {
                all.push((Canary::of("a new value", value), Way::Field));
            }
        };
        for seen in self.scene.railway.seen() {
            seen.variables["variables"]
                .as_object()
                .into_iter()
                .flatten()
                .for_each(|(_, value)| texts_of(value, &mut add));
            texts_of(&seen.variables, &mut add);
        }
        if self.connect.is_none() {
            texts_of(&self.scene.op.stored(&self.item), &mut add);
        }
        all
    }

    /// No value is anywhere but where it belongs.
    #[track_caller]
    pub fn examine(&self, trace: &Trace, what: &str) {
        assert!(trace.programs().contains("opsctl"), "{what}");
        for (canary, way) in self.all() {
            for (program, place, forms) in trace.seen(&canary) {
                let may = self.may(&canary, way, program, place);
                assert!(may, "{what}: {program} gave {} to {place:?} as {forms:?}\n{}", canary.name, trace.done.stderr);
            }
            canary.is_not_in(&format!("{what}: stdout"), trace.done.stdout.as_bytes());
            canary.is_not_in(&format!("{what}: stderr"), trace.done.stderr.as_bytes());
            for file in self.left() {
                canary.is_not_in(&format!("{what}: {}", file.display()), &std::fs::read(&file).expect("read a file"));
            }
        }
        for call in self.scene.op.calls() {
            let token = call.env.get("OP_SERVICE_ACCOUNT_TOKEN").map(String::as_str);
            assert!(call.verb() == "--version" || token == Some(onepassword::TOKEN), "{what}: {call:?}");
            let rest = call.env.iter().filter(|(name, _)| *name != "OP_SERVICE_ACCOUNT_TOKEN");
            let rest = format!("{:?} {:?}", call.args, rest.collect::<Vec<_>>());
            self.canaries.iter().for_each(|(canary, _)| canary.is_not_in("a call of op", rest.as_bytes()));
        }
    }

    /// The files that are there at the end, but for those of the stand-in and the store of a test.
    pub fn left(&self) -> Vec<PathBuf> {
        let all = files_below(self.scene.dir.path());
        all.into_iter().filter(|file| !file.starts_with(self.scene.dir.join("op"))).collect()
    }

    fn may(&self, canary: &Canary, way: Way, program: &str, place: &Place) -> bool {
        let port = |url: &str| url::Url::parse(url).expect("a URL").port().expect("a port");
        let goes_to = |place: &Place, ports: &[u16]| {
            let is_to = |shown: &str| ports.iter().any(|port| shown.contains(&format!("->127.0.0.1:{port}]")));
            matches!(place, Place::Socket(shown) if is_to(shown))
        };
        let railway = port(&self.scene.railway.url());
        let connect = self.connect.iter().map(|connect| port(&connect.url())).collect::<Vec<_>>();
        let op = self.scene.dir.join("op");
        let op = op.to_str().expect("a path in UTF-8");
        match (program, place) {
            // What the stand-in keeps is its own.
            ("op", Place::File(path)) => path.starts_with(op),
            // What it says is a test's doing.
            ("op", Place::Pipe(readers)) => *readers == ["opsctl"],
            ("op" | "sleep", Place::Environment) => way == Way::Variable("OP_SERVICE_ACCOUNT_TOKEN"),
            // Which changes the folder and becomes opsctl.
            ("env" | "opsctl", Place::Environment) => matches!(way, Way::Variable(_)),
            // Nobody reads what an `op` is told that fails at once. Both outputs of opsctl are looked at by themselves.
            ("opsctl", Place::Pipe(readers)) => way == Way::Field && (readers.is_empty() || *readers == ["op"]),
            ("opsctl", Place::Socket(_)) => match way {
                Way::Field => goes_to(place, &[&[railway, self.service.port], &connect[..]].concat()),
                Way::Variable("RAILWAY_TOKEN" | "CANARY") | Way::Stdin => goes_to(place, &[railway]),
                Way::Variable("OP_CONNECT_TOKEN") => goes_to(place, &connect),
                _ => false,
            },
            _ => panic!("{program} gave {} to {place:?}", canary.name),
        }
    }
}

/// The service itself: it is well, and lets in who has a token that the running deployment has.
fn service(scene: &Scene) -> Server {
    let railway = scene.railway.clone();
    Server::start(move |request, _| {
        let running = railway.running("openwork");
        let has = |header: &str, variable: &str| {
            let (shown, wanted) = (request.headers.get(header), running.get(variable));
            shown.zip(wanted).is_some_and(|(shown, wanted)| shown.trim_start_matches("Bearer ") == wanted)
        };
        let is_in = has("authorization", "OPENWORK_TOKEN") || has("x-openwork-host-token", "OPENWORK_HOST_TOKEN");
        let is_open = request.target.starts_with("/health") || is_in;
        Reply::Send(if is_open { "200 OK" } else { "401 Unauthorized" }.to_owned(), b"{\"ok\":true}".to_vec())
    })
}

/// The command in this folder.
pub fn command_in(folder: &Path, command: &Command) -> Command {
    let mut new = Command::new("env");
    new.arg("--chdir").arg(folder).arg(command.get_program()).args(command.get_args()).env_clear();
    new.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    new
}

fn texts_of(value: &Value, add: &mut dyn FnMut(&str)) {
    match value {
        Value::String(text) => add(text),
        Value::Array(items) => items.iter().for_each(|item| texts_of(item, add)),
        Value::Object(members) => members.values().for_each(|member| texts_of(member, add)),
        _ => {}
    }
}
