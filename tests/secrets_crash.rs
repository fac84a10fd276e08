//! `opsctl secrets sync` and `rotate`, killed at every request, at every call of `op`, and at every change of the record: before it takes
//! effect, and after that and before the answer. The same command then leads to the end of a run that nobody stopped.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking, in its helpers too"
)]

mod support;

#[path = "support/onepassword/mod.rs"]
mod onepassword;
#[path = "support/railway/mod.rs"]
mod railway;
#[path = "support/server.rs"]
mod server;
#[path = "support/strike.rs"]
mod strike;
#[path = "support/vaulted.rs"]
mod vaulted;

use std::path::Path;
use std::process::Command;
use std::sync::mpsc;

use onepassword::Act;
use railway::{Fault, SHARED};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use server::Server;
use strike::{Ground, Point, Threads, each, points};
use support::opsctl::{Done, Guarded, files_below, run};
use vaulted::{CLIENT, DSN, FINGERPRINT_KEY, HOST, KEY, OLD_CLIENT, Scene};

const NEW: &str = "n3w-client-token-in-1password-0123456789";
const SYNC: &[&str] = &["sync", "--yes"];
const SERVICES: [&str; 2] = ["openwork", "web"];

/// Where a run is killed.
#[derive(Clone, Debug)]
enum Spot {
    Railway(usize, railway::When),
    OnePassword(u64, onepassword::When),
    /// A change of the record.
    Record(Point),
}

/// A scene whose next deployments run at once, and the service of it.
struct Stage {
    scene: Scene,
    server: Server,
}

impl Ground for Stage {
    fn dir(&self) -> &Path {
        self.scene.dir.path()
    }
}

impl Stage {
    fn new() -> Self {
        let scene = Scene::new();
        let server = scene.service();
        for service in SERVICES {
            (0..6).for_each(|_| scene.railway.next_deployment(service, &["SUCCESS"]));
        }
        Self { scene, server }
    }

    fn synced() -> Self {
        let stage = Self::new();
        stage.scene.run(SYNC).ok();
        stage.scene.railway.forget();
        stage
    }

    /// With a sealed variable, and a secret that has another value since.
    fn sealed() -> Self {
        let stage = Self::synced();
        stage.scene.railway.seal("web", "OPENWORK_TOKEN");
        stage.scene.op.set(&stage.scene.item, "client-token", NEW);
        stage
    }

    /// In the midst of a rotation that nobody has proved.
    fn open() -> Self {
        let stage = Self::synced();
        stage.scene.run(&["rotate", "OPENWORK_TOKEN", "--yes"]).ended(3);
        stage
    }

    fn rotate(&self, more: &[&str]) -> Command {
        let url = format!("http://127.0.0.1:{}", self.server.port);
        self.scene.command(&[&["rotate", "OPENWORK_TOKEN", "--yes", "--url", &url], more].concat())
    }

    fn sync(&self) -> Command {
        self.scene.command(SYNC)
    }

    fn deploys(&self) -> [usize; 2] {
        SERVICES.map(|service| self.scene.railway.deploys(service))
    }

    fn in_1password(&self) -> String {
        self.scene.op.value(&self.scene.item, "client-token").expect("a value")
    }

    fn fields(&self) -> usize {
        self.scene.op.stored(&self.scene.item)["fields"].as_array().expect("fields").len()
    }

    /// This is the client's token everywhere, nothing is left to do, and no value is on disk.
    #[track_caller]
    fn has_everywhere(&self, token: &str) {
        let railway = &self.scene.railway;
        assert_eq!(self.in_1password(), token);
        assert_eq!(self.fields(), 4, "the old value is left in the item");
        for service in SERVICES {
            assert_eq!(railway.get(service, "OPENWORK_TOKEN").as_deref(), Some(token), "{service}");
            assert_eq!(railway.running(service)["OPENWORK_TOKEN"], token, "{service} runs");
        }
        let [openwork, running] = [railway.variables("openwork"), railway.running("openwork")];
        for (name, value) in [
            ("OPENWORK_HOST_TOKEN", HOST),
            ("OPENWORK_WORKSPACE", "/data/workspace"),
            ("TLS_KEY", KEY),
            ("PORT", "8787"),
        ] {
            assert_eq!((openwork[name].as_str(), running[name].as_str()), (value, value), "{name}");
        }
        assert_eq!(openwork["DATABASE_URL"], "${{Postgres.DATABASE_URL}}");
        assert_eq!(railway.get(SHARED, "SENTRY_DSN").as_deref(), Some(DSN));
        self.scene.run(&["plan", "--detailed-exit-code"]).ok();
        self.keeps_no_value(&[token]);
    }

    #[track_caller]
    fn keeps_no_value(&self, more: &[&str]) {
        let known = [CLIENT, HOST, OLD_CLIENT, DSN, FINGERPRINT_KEY, NEW, "MC4CAQAwBQYDK2VwBCIEIA=="];
        for file in files_below(&self.scene.dir.join("state")) {
            let text = String::from_utf8_lossy(&std::fs::read(&file).unwrap()).into_owned();
            for value in known.iter().chain(more) {
                assert!(!text.contains(value), "a value is in {}", file.display());
            }
        }
    }

    /// Another machine goes on: what this one remembers is not there.
    fn forget(&self) {
        let state = self.scene.dir.join("state");
        if state.exists() {
            std::fs::remove_dir_all(state).unwrap();
        }
    }
}

/// All the spots of a command, which ends well on this stage.
fn spots(name: &str, make: fn() -> Stage, command: fn(&Stage) -> Command) -> Vec<Spot> {
    let stage = make();
    stage.scene.railway.forget();
    stage.scene.op.mend();
    let before = stage.scene.op.calls().len();
    run(command(&stage)).ok();
    let requests = stage.scene.railway.seen().len();
    let asked = stage.scene.op.calls()[before..].iter().filter(|call| call.verb() != "--version").count() as u64;
    let both = [railway::When::Before, railway::When::After];
    let mut spots: Vec<Spot> = (1..=requests).flat_map(|number| both.map(|when| Spot::Railway(number, when))).collect();
    let both = [onepassword::When::Before, onepassword::When::After];
    spots.extend((1..=asked).flat_map(|number| both.map(|when| Spot::OnePassword(number, when))));
    println!("{name}: {requests} requests to Railway, {asked} calls of op");
    spots
}

/// The changes of the record by a command. Bytes go into a file that nobody reads before its name is the right one, so they are none.
fn records(name: &str, make: fn() -> Stage, command: fn(&Stage) -> Command) -> Vec<Spot> {
    let stage = make();
    let (done, mut points) = points(&command(&stage), stage.dir(), Threads::Main, &[]);
    done.ok();
    let steps: Vec<&Point> = points.iter().skip_while(|point| point.call != "write").collect();
    for step in steps.chunks(4) {
        let calls: Vec<&str> = step.iter().map(|point| point.call.as_str()).collect();
        assert_eq!(calls, ["write", "fsync", "rename", "fsync"], "{step:#?}");
        assert!(step[..3].iter().all(|point| point.text.contains("production.json.next")), "{step:#?}");
    }
    points.retain(|point| point.call != "write");
    println!("{name}: {} changes of the record", points.len());
    points.into_iter().map(Spot::Record).collect()
}

/// Kills the command there, and gives the stage as it is left.
fn killed(make: fn() -> Stage, command: fn(&Stage) -> Command, spot: &Spot) -> Stage {
    if let Spot::Record(point) = spot {
        return strike::kill(make, command, point, &[]);
    }
    let stage = make();
    let (railway, op) = (&stage.scene.railway, &stage.scene.op);
    railway.forget();
    op.mend();
    let (tell, told) = mpsc::channel();
    match spot {
        Spot::Railway(number, when) => {
            if *when == railway::When::Before {
                railway.fail_at(*number, Fault::HangUp);
            }
            railway.at_request(*number, *when, move || end(told.recv().expect("it was started")));
        }
        Spot::OnePassword(number, when) => op.fail(&onepassword::Fault::new(*when, Act::Kill).at_call(*number)),
        Spot::Record(_) => {}
    }
    let child = Guarded::spawn(&mut command(&stage));
    // Nobody listens where op is the one that kills.
    let _ = tell.send(i32::try_from(child.0.id()).unwrap());
    child.end().ended(128 + 9);
    railway.heal();
    op.mend();
    railway.finish_deployments();
    stage.keeps_no_value(&[&stage.in_1password()]);
    stage
}

/// Kills a child and sees it dead. It stays to be waited for.
fn end(child: i32) {
    let child = Pid::from_raw(child).expect("a process");
    kill_process(child, Signal::KILL).expect("it is there");
    // An error: somebody else has waited for it.
    let _ = waitid(WaitId::Pid(child), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
}

#[test]
fn a_sync_killed_at_any_request_is_finished_by_the_next_and_deploys_once() {
    let spots = spots("sync", Stage::new, Stage::sync);
    assert!(spots.len() >= 2 * (14 + 3), "{spots:#?}");
    each(&spots, |_, spot| {
        let stage = killed(Stage::new, Stage::sync, spot);
        run(stage.sync()).ok();
        stage.has_everywhere(CLIENT);
        assert_eq!(stage.deploys(), [1, 1]);
    });
}

#[test]
fn a_sync_killed_at_any_change_of_its_record_is_finished_by_the_next_and_deploys_once() {
    let spots = records("sync", Stage::new, Stage::sync);
    assert!(spots.len() >= 20, "{spots:#?}");
    each(&spots, |_, spot| {
        let stage = killed(Stage::new, Stage::sync, spot);
        run(stage.sync()).ok();
        stage.has_everywhere(CLIENT);
        assert_eq!(stage.deploys(), [1, 1]);
    });
}

#[test]
fn a_sealed_variable_is_written_and_known_after_a_kill_anywhere() {
    let spots = spots("sync of a sealed variable", Stage::sealed, Stage::sync);
    each(&spots, |_, spot| {
        let stage = killed(Stage::sealed, Stage::sync, spot);
        run(stage.sync()).ok();
        stage.has_everywhere(NEW);
        assert_eq!(stage.deploys(), [2, 2]);
        assert!(stage.scene.railway.is_sealed("web", "OPENWORK_TOKEN"));
        // What is in it is known, and not merely taken for well.
        let known = stage.scene.run(&["verify"]);
        let checks = known.json["checks"].as_array().unwrap();
        let check = checks.iter().find(|check| check["name"] == "web.OPENWORK_TOKEN").unwrap();
        assert_eq!(check["status"], "ok", "{check}");
    });
}

/// How far a rotation was when it was killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// 1Password has no new value.
    Before,
    /// It has the new one and the old one.
    Open,
    /// It has the new one alone: only the report is missing.
    Over,
}

fn phase(stage: &Stage) -> Phase {
    match (stage.in_1password() == CLIENT, stage.fields()) {
        (true, 4) => Phase::Before,
        (false, 5) => Phase::Open,
        (false, 4) => Phase::Over,
        other => panic!("an item that no rotation leaves: {other:?}"),
    }
}

fn rotate(stage: &Stage) -> Command {
    stage.rotate(&[])
}

/// The same command leads to one new value everywhere, and it is the one that 1Password took.
fn goes_on(stage: &Stage) {
    let taken = stage.in_1password();
    match phase(stage) {
        Phase::Over => stage.has_everywhere(&taken),
        phase => {
            run(rotate(stage)).ok();
            let new = stage.in_1password();
            assert_ne!(new, CLIENT);
            assert!(phase == Phase::Before || new == taken, "a second new value");
            stage.has_everywhere(&new);
        }
    }
    assert_eq!(stage.deploys(), [2, 2]);
}

#[test]
fn a_rotation_killed_at_any_request_goes_on_with_the_same_new_value_on_this_machine_and_on_another() {
    let spots = spots("rotate", Stage::synced, rotate);
    assert!(spots.len() >= 2 * (14 + 4), "{spots:#?}");
    let open = std::sync::atomic::AtomicUsize::new(0);
    each(&spots, |_, spot| {
        for is_elsewhere in [false, true] {
            let stage = killed(Stage::synced, rotate, spot);
            if is_elsewhere {
                stage.forget();
            }
            open.fetch_add(usize::from(phase(&stage) == Phase::Open), std::sync::atomic::Ordering::Relaxed);
            goes_on(&stage);
        }
    });
    let open = open.into_inner();
    println!("rotate: {open} of {} left it open", 2 * spots.len());
    assert!(open >= 30, "{open}");
}

#[test]
fn a_rotation_killed_at_a_change_of_its_record_goes_on_with_the_same_new_value() {
    let spots = records("rotate", Stage::synced, rotate);
    assert!(spots.len() >= 15, "{spots:#?}");
    each(&spots, |_, spot| goes_on(&killed(Stage::synced, rotate, spot)));
}

#[test]
fn a_rotation_killed_anywhere_is_taken_back_with_rollback() {
    let spots = spots("rotate", Stage::synced, rotate);
    let open = std::sync::atomic::AtomicUsize::new(0);
    each(&spots, |at, spot| {
        let stage = killed(Stage::synced, rotate, spot);
        if at % 2 == 0 {
            stage.forget();
        }
        // Where nothing is open there is nothing to take back: it begins a rotation.
        match phase(&stage) {
            Phase::Before => return assert_eq!(stage.deploys(), [1, 1]),
            Phase::Over => return stage.has_everywhere(&stage.in_1password()),
            Phase::Open => {}
        }
        open.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        run(stage.rotate(&["--rollback"])).ok();
        stage.has_everywhere(CLIENT);
        // There, if it came so far, and back; or neither.
        assert!(stage.deploys().iter().all(|deploys| (1..=3).contains(deploys)), "{:?}", stage.deploys());
    });
    let open = open.into_inner();
    println!("rollback: {open} of {} were open", spots.len());
    assert!(open >= 15, "{open}");
}

fn goes_back(done: &Done) {
    assert_eq!(done.json["rotated"][0]["status"], "rolled_back");
}

#[test]
fn a_rollback_killed_anywhere_goes_on_back_with_either_command() {
    let rollback = |stage: &Stage| stage.rotate(&["--rollback"]);
    let spots = spots("rollback", Stage::open, rollback);
    assert!(spots.len() >= 2 * (12 + 4), "{spots:#?}");
    each(&spots, |_, spot| {
        for is_elsewhere in [false, true] {
            let stage = killed(Stage::open, rollback, spot);
            if is_elsewhere {
                stage.forget();
            }
            match (stage.in_1password() == CLIENT, stage.fields()) {
                // Taken back in full, and nobody heard.
                (true, 4) => {}
                // Begun: both commands know it by the item.
                // Nobody asked for the way back here, so this is no success.
                (true, 5) if is_elsewhere => goes_back(&run(rotate(&stage)).ended(3)),
                (_, 5) => goes_back(&run(rollback(&stage)).ok()),
                other => panic!("an item that no rollback leaves: {other:?}"),
            }
            stage.has_everywhere(CLIENT);
            assert_eq!(stage.deploys(), [3, 3]);
        }
    });
}
