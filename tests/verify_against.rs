//! `opsctl verify --against` a snapshot, and a restore in place that asks the same before it is done.
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

use std::fs;

use deployment::Deployment;
use opencode::{Home, NEW, OpenCode, USER};
use openwork::{CLIENT, Engine, HOST, OpenWork, Version};
use support::opsctl::{Done, run, url};
use support::tree::{Tree, assert_equal};
use verifier::{Verified, verified};

/// A deployment with two sessions, and what serves it.
struct Site {
    it: Deployment,
    work: OpenWork,
    real: OpenCode,
    ids: Vec<String>,
}

impl Site {
    fn new() -> Self {
        let it = Deployment::new();
        let real = OpenCode::start(NEW, &it.workspace(), &it.home());
        let engine = Engine::real(real.port, USER, &real.password);
        let work = OpenWork::boot(Version::V0_18_1, &it.bench.tree, engine);
        work.upload("note.txt", "note");
        let ids = vec![real.create("first"), real.create("second")];
        real.say(&ids[0], "hello");
        Self { it, work, real, ids }
    }

    /// A service with these sessions, which it keeps elsewhere.
    fn with_sessions(it: &Deployment, ids: &[String]) -> OpenWork {
        let engine = Engine::memory(NEW, &it.workspace(), ids);
        OpenWork::boot(Version::V0_18_1, &it.bench.tree, engine)
    }
}

fn against(it: &Deployment, work: &OpenWork, snapshot: &str, more: &[&str]) -> Verified {
    let mut env = work.env();
    env.push(("OPSCTL_STORE", url(&it.bench.store)));
    env.push(("OPSCTL_IDENTITY_FILE", it.bench.identity.display().to_string()));
    verified(&work.url(), &env, &[&["--against", snapshot], more].concat())
}

#[test]
fn a_service_passes_against_a_snapshot_of_it_by_every_name_of_that() {
    let site = Site::new();
    let taken = site.it.take();
    // It goes on, and a boot makes one more token.
    site.real.say(&site.ids[1], "later");
    site.real.create("third");
    site.work.reboot(None);
    for snapshot in [taken.id(), &taken.id()[..24], "latest"] {
        let done = against(&site.it, &site.work, snapshot, &["--write-probe", "--create-probe-tokens"]).passed();
        assert_eq!(done.with("warning"), [""; 0], "{}", done.0.stdout);
        let details = ["sessions.against", "tokens.against", "workspaces.against"].map(|name| done.detail(name));
        assert!(details[0].starts_with("all 2 sessions that were captured are there"), "{details:?}");
        assert!(details[1].starts_with("1 token was captured, all there; 1 more since"), "{details:?}");
        assert_eq!(details[2], "1 workspace was captured, all there");
    }
}

#[test]
fn a_service_that_lost_what_was_captured_fails_with_each_loss() {
    let site = Site::new();
    let taken = site.it.take();
    let tokens = fs::read_to_string(site.work.tokens_file()).unwrap();
    let token = serde_json::from_str::<serde_json::Value>(&tokens).unwrap()["tokens"][0]["id"].clone();
    // A new container with an empty home, half a list of tokens, and no audit log.
    fs::write(site.work.tokens_file(), &tokens[..tokens.len() / 2]).unwrap();
    fs::remove_dir_all(site.it.bench.tree.join("openwork-orchestrator/audit")).unwrap();
    let real = OpenCode::start(NEW, &site.it.workspace(), &Home(site.it.bench.dir.join("elsewhere")));
    site.work.reboot(Some(Engine::real(real.port, USER, &real.password)));
    let done = against(&site.it, &site.work, taken.id(), &[]);
    let done = done.failed(&["sessions.against", "tokens.against", "workspaces.against"]);
    assert!(done.detail("sessions.against").starts_with("0 sessions where 2 were captured: "));
    for id in &site.ids {
        assert!(done.detail("sessions.against").contains(id), "{}", done.detail("sessions.against"));
    }
    assert!(done.detail("tokens.against").contains(token.as_str().unwrap()), "{}", done.detail("tokens.against"));
    assert!(done.detail("workspaces.against").contains("audit log"), "{}", done.detail("workspaces.against"));
    assert_eq!((done.status("health"), done.status("engine"), done.status("sessions")), ("ok", "ok", "ok"));
}

#[test]
fn sessions_off_the_volume_make_it_inconclusive() {
    let mut it = Deployment::new();
    it.env.retain(|(name, _)| *name != "XDG_DATA_HOME");
    it.env.push(("HOME", it.bench.dir.join("home").display().to_string()));
    let work = Site::with_sessions(&it, &["ses_a".to_owned()]);
    let taken = it.take();
    let done = against(&it, &work, taken.id(), &[]).is("inconclusive");
    assert_eq!((done.status("sessions.against"), done.status("workspaces.against")), ("skipped", "ok"));
    assert!(done.detail("sessions.against").contains("not captured"), "{}", done.detail("sessions.against"));
}

#[test]
fn a_snapshot_that_recorded_nothing_makes_it_inconclusive() {
    let it = Deployment::new();
    let profile = "name = \"bare\"\ncontract_version = \"1.0\"\n[[services]]\nname = \"bare\"\n";
    let profile = it.bench.dir.write("bare.toml", format!("{profile}[services.volume]\ndata_root = \"/data\"\n"));
    let taken = it.bench.snapshot(["--profile", profile.to_str().unwrap()]).ok();
    let work = Site::with_sessions(&it, &["ses_a".to_owned()]);
    let done = against(&it, &work, taken.id(), &[]).is("inconclusive");
    let skipped = ["sessions.against", "tokens.against", "workspaces.against"];
    assert_eq!(done.with("skipped"), skipped, "{}", done.0.stdout);
}

#[test]
fn what_cannot_be_read_is_told_by_its_exit_code_and_nothing_is_asked() {
    let it = Deployment::new();
    let taken = it.take();
    let work = Site::with_sessions(&it, &["ses_a".to_owned()]);
    against(&it, &work, "20990101T000000Z", &[]).0.ended(10);
    let with_store = |more: &[(&'static str, String)]| {
        let env = [vec![("OPSCTL_STORE", url(&it.bench.store))], work.env(), more.to_vec()].concat();
        verified(&work.url(), &env, &["--against", taken.id()]).0
    };
    with_store(&[]).ended(12);
    let other = support::opsctl::Bench::new();
    let stranger = with_store(&[("OPSCTL_IDENTITY_FILE", other.identity.display().to_string())]);
    assert!([4, 12].contains(&stranger.code), "{}", stranger.stderr);
    assert!(work.seen().is_empty(), "{:?}", work.seen());
}

// ---- the gate of a restore in place ----

/// `restore TREE --yes --verify-url …` with the tokens of the service.
fn restore(it: &Deployment, work: &OpenWork, snapshot: &Done, more: &[&str]) -> Done {
    restore_as(it, work, snapshot, &work.env(), more)
}

/// The same with these tokens.
fn restore_as(
    it: &Deployment,
    work: &OpenWork,
    snapshot: &Done,
    tokens: &[(&'static str, String)],
    more: &[&str],
) -> Done {
    let mut command = it.bench.command();
    command.arg("restore").arg(&it.bench.tree).args(["--json", "--yes", "--force", "--snapshot", snapshot.id()]);
    command.args(["--verify-timeout", "20", "--verify-url", &work.url()]).args(more);
    command.env("OPSCTL_IDENTITY_FILE", &it.bench.identity).env("OPSCTL_STATE_DIR", &it.bench.state);
    command.envs(tokens.iter().cloned());
    let done = run(command);
    assert!(!done.says(CLIENT) && !done.says(HOST), "{}\n{}", done.stdout, done.stderr);
    done
}

#[test]
fn a_restored_service_without_the_sessions_that_were_captured_gets_its_old_tree_back() {
    let site = Site::new();
    let taken = site.it.take();
    let Site { it, work, real, ids } = site;
    real.stop();
    drop(work);
    fs::write(it.bench.tree.join("workspace/made-since.txt"), "made since\n").unwrap();
    let before = Tree::read(&it.bench.tree);
    // Its engine looks for its database elsewhere.
    let lost = Site::with_sessions(&it, &ids[..1]);
    let changed = |path: &[u8]| path.starts_with(b"openwork-server");
    let done = restore(&it, &lost, &taken, &[]).ended(5);
    assert!(done.error().contains(&format!("1 of 2 sessions are missing: {}", ids[1])), "{}", done.error());
    assert_equal(&before.without(changed), &Tree::read(&it.bench.tree).without(changed));
    // Of a part nothing can be said, and that is.
    let part = restore(&it, &lost, &taken, &["--include", "workspace"]).ok();
    part.warning("the service is not compared with the snapshot");
    assert!(!lost.seen().is_empty());
}

#[test]
fn a_restored_service_with_everything_that_was_captured_keeps_its_new_tree() {
    let site = Site::new();
    let taken = site.it.take();
    let Site { it, work, real, ids: _ } = site;
    real.stop();
    fs::remove_dir_all(it.bench.tree.join("xdg")).unwrap();
    fs::write(work.tokens_file(), "{").unwrap();
    // The start of the service: the server finds its tokens, and OpenCode its database.
    let engine = it.bench.dir.join("engine");
    let booted = std::thread::scope(|scope| {
        let boots = scope.spawn(|| {
            support::wait_for("the start", std::time::Duration::from_secs(120), || engine.exists().then_some(()));
            let real = OpenCode::start(NEW, &it.workspace(), &it.home());
            work.reboot(Some(Engine::real(real.port, USER, &real.password)));
            fs::write(it.bench.dir.join("booted"), "").unwrap();
            real
        });
        let start = format!(
            "touch '{}'; until [ -e '{}' ]; do sleep 0.05; done",
            engine.display(),
            it.bench.dir.join("booted").display()
        );
        let done = restore(&it, &work, &taken, &["--start-cmd", &start]).ok();
        let verification = &done.json["verification"];
        assert_eq!((&verification["ok"], &verification["verdict"]), (&true.into(), &"passed".into()));
        for name in ["sessions.against", "tokens.against", "workspaces.against", "auth.client", "auth.host"] {
            let checks = verification["checks"].as_array().unwrap();
            let check = checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("no {name}"));
            assert_eq!(check["status"], "ok", "{check}");
        }
        boots.join().unwrap()
    });
    booted.stop();
}

/// The service as it was captured, with its engine in memory, and something to restore.
fn damaged(site: Site) -> (Deployment, OpenWork) {
    let Site { it, work, real, ids } = site;
    real.stop();
    drop(work);
    fs::write(it.bench.tree.join("workspace/made-since.txt"), "made since\n").unwrap();
    let work = Site::with_sessions(&it, &ids);
    (it, work)
}

#[test]
fn the_gate_takes_tokens_from_files_and_refuses_a_network_in_clear_before_anything_is_done() {
    let site = Site::new();
    let taken = site.it.take();
    let (it, work) = damaged(site);
    let before = Tree::read(&it.bench.tree);
    let workspace = [("OPENWORK_WORKSPACE", work.workspace().display().to_string())];
    let strict = |more: &[&str], variable: Option<&str>| {
        let mut command = it.bench.command();
        command.arg("restore").arg(&it.bench.tree).args(["--json", "--yes", "--snapshot", taken.id()]).args(more);
        // Nobody's address: it would be waited for.
        command.args(["--verify-url", "http://192.0.2.1", "--stop-cmd", "touch stopped"]);
        command.envs(variable.map(|name| (name, "1"))).env("OPSCTL_IDENTITY_FILE", &it.bench.identity);
        let done = run(command).ended(2);
        assert!(done.error().contains("plain HTTP to another machine (192.0.2.1)"), "{}", done.error());
        assert_equal(&before, &Tree::read(&it.bench.tree));
    };
    strict(&["--verify-strict"], None);
    strict(&["--strict"], None);
    strict(&[], Some("OPSCTL_VERIFY_STRICT"));
    let files = [("client", CLIENT), ("host", HOST)].map(|(identity, token)| {
        let file = it.bench.dir.write(identity, token);
        support::opsctl::chmod(&file, 0o600);
        format!("{identity}={}", file.display())
    });
    let args = ["--include", "workspace", "--verify-strict", "--token-file", &files[0], "--token-file", &files[1]];
    let done = restore_as(&it, &work, &taken, &workspace, &args).ok();
    let checks = done.json["verification"]["checks"].as_array().unwrap();
    for name in ["auth.client", "auth.host"] {
        assert!(checks.iter().any(|check| check["name"] == name && check["status"] == "ok"), "{}", done.stdout);
    }
}

#[test]
fn an_engine_that_boots_after_its_server_is_waited_for() {
    let site = Site::new();
    let taken = site.it.take();
    let (it, work) = damaged(site);
    type Break = fn(&openwork::Faults);
    // It does not answer yet; and the server does not know yet where it is.
    let breaks: [Break; 2] = [|faults| faults.engine_booting.set(7), |faults| faults.engine_unknown.set(7)];
    for break_it in breaks {
        fs::write(it.bench.tree.join("workspace/made-since.txt"), "made since\n").unwrap();
        work.fault(|faults| break_it(faults));
        let done = restore(&it, &work, &taken, &["--include", "workspace"]).ok();
        assert_eq!(
            (&done.json["verification"]["ok"], &done.json["verification"]["verdict"]),
            (&true.into(), &"passed".into())
        );
        assert!(!it.bench.tree.join("workspace/made-since.txt").exists());
    }
}

#[test]
fn a_token_that_the_service_refuses_is_no_reason_to_take_a_restore_back() {
    let site = Site::new();
    let taken = site.it.take();
    let (it, work) = damaged(site);
    let tokens = [("OPENWORK_TOKEN", "of-another-environment-0123456789".to_owned())];
    let done = restore_as(&it, &work, &taken, &tokens, &[]).ended(3);
    assert_eq!(
        (&done.json["verification"]["ok"], &done.json["verification"]["verdict"]),
        (&true.into(), &"failed".into())
    );
    assert!(done.warning("not everything could be verified").contains("auth.client"), "{}", done.stdout);
    assert!(!it.bench.tree.join("workspace/made-since.txt").exists());
}

#[test]
fn tokens_that_the_host_misses_take_a_restore_back_though_the_client_is_refused() {
    let site = Site::new();
    let kept = site.work.mint("viewer", "somebody's");
    let taken = site.it.take();
    let (it, work) = damaged(site);
    // The new tree has half a list, which counts as none.
    let start = format!("printf '{{' > '{}'; {}", work.tokens_file().display(), work.restart_command());
    let tokens =
        [("OPENWORK_TOKEN", "of-another-environment-0123456789".to_owned()), ("OPENWORK_HOST_TOKEN", HOST.to_owned())];
    let done = restore_as(&it, &work, &taken, &tokens, &["--start-cmd", &start]).ended(5);
    assert!(done.error().contains("tokens are missing") && done.error().contains(&kept.id), "{}", done.error());
    assert!(it.bench.tree.join("workspace/made-since.txt").exists());
}

#[test]
fn a_restore_of_a_snapshot_that_recorded_nothing_stays_and_is_not_said_to_be_verified() {
    let it = Deployment::new();
    let profile = "name = \"bare\"\ncontract_version = \"1.0\"\n[[services]]\nname = \"bare\"\n";
    let profile = it.bench.dir.write("bare.toml", format!("{profile}[services.volume]\ndata_root = \"/data\"\n"));
    let taken = it.bench.snapshot(["--profile", profile.to_str().unwrap()]).ok();
    fs::write(it.bench.tree.join("workspace/made-since.txt"), "made since\n").unwrap();
    let work = Site::with_sessions(&it, &["ses_a".to_owned()]);
    let done = restore(&it, &work, &taken, &[]).ended(3);
    assert_eq!(done.json["verification"]["verdict"], "inconclusive");
    assert!(done.warning("not everything could be verified").contains("sessions.against"), "{}", done.stdout);
    assert!(!it.bench.tree.join("workspace/made-since.txt").exists());
}

#[test]
fn an_engine_that_fails_is_not_put_down_to_the_token_and_takes_the_restore_back() {
    let site = Site::new();
    let taken = site.it.take();
    let (it, work) = damaged(site);
    work.fault(|faults| faults.session_list_fails = true);
    let done = restore(&it, &work, &taken, &["--include", "workspace"]).ended(5);
    assert!(done.error().contains("sessions: ") && done.error().contains("500 ConfigInvalidError"), "{}", done.error());
    assert!(it.bench.tree.join("workspace/made-since.txt").exists());
}
