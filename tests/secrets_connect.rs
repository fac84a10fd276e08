//! The Connect server in the place of `op`, and references to 1Password in the place of files: the identity of a store, and the token of
//! a service.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking, in its helpers too"
)]

mod support;

#[path = "support/onepassword/mod.rs"]
mod onepassword;
#[path = "support/openwork/mod.rs"]
mod openwork;
#[path = "support/railway/mod.rs"]
mod railway;
#[path = "support/stub_store.rs"]
mod stub_store;
#[path = "support/vaulted.rs"]
mod vaulted;
#[path = "support/verifier.rs"]
mod verifier;

use std::process::Command;

use onepassword::FakeOp;
use onepassword::connect::FakeConnect;
use openwork::{Engine, OpenWork, Version};
use railway::SHARED;
// The same server by its other name: a module is part of a program once.
use stub_store as server;
use support::TestDir;
use support::opsctl::{Bench, Done, files_below, run};
use support::tree::{Tree, assert_equal};
use vaulted::{CLIENT, DSN, FINGERPRINT_KEY, HOST, KEY, OLD_CLIENT, Scene, change, result};
use verifier::Verified;

/// The scene with its vault in a Connect server. The `op` that is there is never started, though its token is set too.
struct Connected {
    scene: Scene,
    connect: FakeConnect,
    item: String,
}

impl Connected {
    fn new() -> Self {
        let scene = Scene::new();
        scene.reconfigure("provider = \"op\"", "provider = \"connect\"");
        let connect = FakeConnect::start();
        let vault = connect.vault("Team");
        let fields = [("client-token", CLIENT), ("host-token", HOST), ("tls-key", KEY), ("dsn", DSN)];
        let item = connect.item(&vault, "openwork", &fields);
        connect.item(&vault, "opsctl", &[("fingerprint-key", FINGERPRINT_KEY)]);
        Self { scene, connect, item }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.scene.command(args);
        command.envs(self.connect.env());
        command
    }

    fn run(&self, args: &[&str]) -> Done {
        let done = run(self.command(args));
        for value in [CLIENT, HOST, OLD_CLIENT, DSN, FINGERPRINT_KEY, onepassword::connect::TOKEN] {
            assert!(!done.says(value), "{}\n{}", done.stdout, done.stderr);
        }
        done
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert!(self.scene.op.calls().is_empty(), "op was started: {:?}", self.scene.op.calls());
        }
    }
}

#[test]
fn a_plan_and_a_sync_read_each_item_once_and_count_their_requests() {
    let it = Connected::new();
    let done = it.run(&["plan"]).ok();
    assert_eq!(done.json["requests"]["onepassword"].as_u64(), Some(it.connect.requests().len() as u64));
    let of_item = it.connect.requests().into_iter().filter(|(_, path)| path.ends_with(&it.item)).count();
    assert_eq!(of_item, 1, "{:?}", it.connect.requests());
    assert_eq!(change(&done, "web", "OPENWORK_TOKEN")["action"], "update");
    let done = it.run(&["sync", "--yes"]).ok();
    let railway = &it.scene.railway;
    assert_eq!(railway.running("openwork")["OPENWORK_HOST_TOKEN"], HOST);
    assert_eq!(railway.running("openwork")["TLS_KEY"], KEY);
    assert_eq!(railway.running("web")["OPENWORK_TOKEN"], CLIENT);
    assert_eq!(railway.get(SHARED, "SENTRY_DSN").as_deref(), Some(DSN));
    assert_eq!(
        (&result(&done, "web")["status"], railway.deploys("web"), railway.deploys("openwork")),
        (&"success".into(), 1, 1)
    );
    it.run(&["plan", "--detailed-exit-code"]).ok();
    assert!(it.connect.requests().iter().all(|(method, _)| method == "GET"), "nothing was edited");
}

#[test]
fn a_rotation_is_proved_and_leaves_one_value() {
    let it = Connected::new();
    it.run(&["sync", "--yes"]).ok();
    let server = it.scene.service();
    let url = format!("http://127.0.0.1:{}", server.port);
    let done = it.run(&["rotate", "OPENWORK_TOKEN", "--yes", "--url", &url]).ok();
    assert_eq!(
        (&done.json["rotated"][0]["status"], &done.json["rotated"][0]["proved"]),
        (&"rotated".into(), &true.into())
    );
    let new = it.connect.value(&it.item, "client-token").unwrap();
    assert!(new != CLIENT && new.len() == 48 && !done.says(&new));
    for service in ["openwork", "web"] {
        assert_eq!(it.scene.railway.running(service)["OPENWORK_TOKEN"], new);
        assert_eq!(it.scene.railway.deploys(service), 2);
    }
    let item = it.connect.stored(&it.item);
    assert_eq!((item["fields"].as_array().map(Vec::len), &item["version"]), (Some(4), &3.into()));
    assert_eq!(it.connect.value(&it.item, "host-token").as_deref(), Some(HOST));
    it.run(&["plan", "--detailed-exit-code"]).ok();
}

#[test]
fn an_open_rotation_is_taken_back_through_it_too() {
    let it = Connected::new();
    it.run(&["sync", "--yes"]).ok();
    let server = it.scene.service();
    let url = format!("http://127.0.0.1:{}", server.port);
    it.run(&["rotate", "OPENWORK_TOKEN", "--yes"]).ended(3);
    assert_ne!(it.connect.value(&it.item, "client-token").as_deref(), Some(CLIENT));
    it.run(&["rotate", "OPENWORK_TOKEN", "--yes", "--rollback", "--url", &url]).ok();
    assert_eq!(it.connect.value(&it.item, "client-token").as_deref(), Some(CLIENT));
    assert_eq!(it.connect.stored(&it.item)["fields"].as_array().map(Vec::len), Some(4));
    assert_eq!(it.scene.railway.running("web")["OPENWORK_TOKEN"], CLIENT);
}

#[test]
fn what_is_missing_or_refused_stops_everything_with_its_code() {
    for (from, to) in [
        ("\"Team\"", "\"Taem\""),
        ("op://Team/openwork/dsn", "op://Team/openwrok/dsn"),
        ("op://Team/openwork/dsn", "op://Team/openwork/dns"),
    ] {
        let it = Connected::new();
        it.scene.reconfigure(from, to);
        if from == "\"Team\"" {
            it.scene.reconfigure("op://Team/", "op://Taem/");
        }
        for args in [&["plan"][..], &["sync", "--yes"]] {
            let error = it.run(args).ended(10).error();
            assert!(["Taem", "openwrok", "dns"].iter().any(|name| error.contains(name)), "{error}");
        }
        assert_eq!(it.scene.railway.mutations(), 0);
    }
    let it = Connected::new();
    for (name, value, code) in
        [("OP_CONNECT_TOKEN", "wr0ng-token-of-connect", 12), ("OP_CONNECT_TOKEN", "", 2), ("OP_CONNECT_HOST", "", 2)]
    {
        let mut command = it.command(&["sync", "--yes"]);
        match value {
            "" => command.env_remove(name),
            value => command.env(name, value),
        };
        let done = run(command);
        assert_eq!(done.code, code, "{name}={value}: {}", done.stdout);
        assert!(!done.says("wr0ng"), "{}", done.stdout);
    }
    assert_eq!(it.scene.railway.mutations(), 0);
}

/// 1Password, by either way, with one item that has these fields.
struct Vaults {
    dir: TestDir,
    op: FakeOp,
    connect: FakeConnect,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Op,
    Connect,
}

impl Vaults {
    fn new(fields: &[(&str, &str)]) -> Self {
        let dir = TestDir::new();
        let (op, connect) = (FakeOp::start(&dir.join("op")), FakeConnect::start());
        let vaults = [op.vault("Recovery"), connect.vault("Recovery")];
        op.item(&vaults[0], "opsctl", fields);
        connect.item(&vaults[1], "opsctl", fields);
        Self { dir, op, connect }
    }

    /// The command asks 1Password in this way.
    fn to(&self, way: Way, mut command: Command) -> Command {
        match way {
            Way::Op => command.envs(self.op.env()),
            Way::Connect => command.env("OPSCTL_OP_BIN", self.op.program()).envs(self.connect.env()),
        };
        command
    }

    /// One item was read in this way, by its id, and `op` was never told any of these.
    #[track_caller]
    fn asked(&self, way: Way, values: &[&str]) {
        let (calls, requests) = (self.op.calls(), self.connect.requests());
        assert_eq!((calls.is_empty(), requests.is_empty()), (way == Way::Connect, way == Way::Op), "{way:?}");
        for call in &calls {
            let told = call.args.iter().chain(call.env.values());
            assert!(told.into_iter().all(|told| values.iter().all(|value| !told.contains(value))), "{:?}", call.args);
            assert!(call.args.iter().all(|arg| arg != "edit"));
        }
    }
}

#[test]
fn an_identity_in_1password_decrypts_and_is_nowhere_else() {
    for way in [Way::Op, Way::Connect] {
        let bench = Bench::new();
        bench.dir.write("tree/a", "one");
        bench.dir.write("tree/folder/b", "two");
        let id = bench.take().id().to_owned();
        let file = std::fs::read_to_string(&bench.identity).unwrap();
        let key = file.lines().find(|line| line.starts_with("AGE-SECRET-KEY-")).expect("a key").to_owned();
        let vaults = Vaults::new(&[("identity", &file), ("key", &key), ("empty", "")]);
        // Nothing but 1Password has it.
        std::fs::remove_file(&bench.identity).unwrap();
        let command = |args: &[&str]| {
            let mut command = bench.command();
            command.args(args).arg("--json");
            vaults.to(way, command)
        };

        let to = bench.dir.join("restored");
        let restore = ["restore", "--to", to.to_str().unwrap(), "--identity", "op://Recovery/opsctl/identity", "-vv"];
        let restored = run(command(&restore)).ok();
        assert_equal(&Tree::read(&bench.tree), &Tree::read(&to));
        let check = ["check", "--level", "decrypt", "--snapshot", &id, "--identity", "op://Recovery/opsctl/identity"];
        let checked = run(command(&check)).ok();
        // The key alone; whom to believe is said beside it.
        let mut alone = command(&["check", "--level", "decrypt", "--identity", "op://recovery/OPSCTL/key"]);
        alone.env("OPSCTL_TRUSTED_SIGNERS", &bench.signer);
        let alone = run(alone).ok();
        vaults.asked(way, &[&key]);
        for done in [&restored, &checked, &alone] {
            assert!(!done.says(&key), "{}\n{}", done.stdout, done.stderr);
        }
        for file in files_below(bench.dir.path()) {
            let content = std::fs::read(&file).unwrap();
            let has = content.windows(key.len()).any(|part| part == key.as_bytes());
            assert!(!has, "the identity is in {}", file.display());
        }

        for (reference, code) in [
            ("op://Recovery/opsctl/no-such-field", 10),
            ("op://Recovery/opsctl/empty", 10),
            ("op://Recovery/no-such-item/identity", 10),
            ("op://Elsewhere/opsctl/identity", 10),
            ("op://Recovery/opsctl", 2),
        ] {
            let done = run(command(&["check", "--level", "decrypt", "--identity", reference])).ended(code);
            assert!(done.error().contains("identity"), "{way:?} {reference}: {}", done.stdout);
        }
    }
}

#[test]
fn the_configuration_says_which_way_where_both_could_be() {
    let bench = Bench::new();
    bench.take();
    let file = std::fs::read_to_string(&bench.identity).unwrap();
    for (provider, way) in [("op", Way::Op), ("connect", Way::Connect)] {
        let vaults = Vaults::new(&[("identity", &file)]);
        let config = vaults.dir.write("opsctl.toml", format!("[secrets]\nprovider = \"{provider}\"\n"));
        let mut command = bench.command();
        // Both could be, by their variables.
        command.arg("--config").arg(config).envs(vaults.connect.env()).envs(vaults.op.env());
        command.args(["check", "--level", "decrypt", "--identity", "op://Recovery/opsctl/identity", "--json"]);
        run(command).ok();
        vaults.asked(way, &[]);
    }
}

#[test]
fn a_token_in_1password_opens_the_service_for_verify() {
    for way in [Way::Op, Way::Connect] {
        let fields =
            [("client", openwork::CLIENT), ("host", openwork::HOST), ("wrong", "an0ther-token-than-the-service-has")];
        let vaults = Vaults::new(&fields);
        let data = vaults.dir.mkdir("data");
        let engine = Engine::memory("1.17.11", &data.join("workspace"), &["ses_a".to_owned()]);
        let work = OpenWork::boot(Version::V0_18_16, &data, engine);
        let workspace = [("OPENWORK_WORKSPACE", work.workspace().display().to_string())];
        let verify = |client: &str| {
            let args = ["-vv", "--client-token-file", client, "--host-token-file", "op://Recovery/opsctl/host"];
            run(vaults.to(way, verifier::command(&work.url(), &workspace, &args)))
        };
        let done = Verified(verify("op://Recovery/opsctl/client")).passed();
        assert_eq!(done.with("skipped"), [""; 0]);
        vaults.asked(way, &[openwork::CLIENT, openwork::HOST]);
        let wrong = verify("op://Recovery/opsctl/wrong").ended(5);
        for done in [&done.0, &wrong] {
            assert!(fields.iter().all(|(_, token)| !done.says(token)), "{}\n{}", done.stdout, done.stderr);
        }
        let missing = verify("op://Recovery/opsctl/no-such-field").ended(10);
        assert!(missing.error().contains("--client-token-file"), "{}", missing.stdout);
    }
}
