//! A restore in place as whoever runs it meets it: what of theirs it leaves alone, what it does when there is nothing to
//! do, which commands its messages offer, and what it says about the snapshot and the service.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod support;

#[path = "support/incident.rs"]
mod incident;
#[path = "support/stub_store.rs"]
mod stub_store;
#[path = "support/terminal.rs"]
mod terminal;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::process::Command;

use incident::{Incident, cut_off_before_swap, cut_off_while_swapping, folders, in_place, killed, typed};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use serde_json::json;
use stub_store::service;
use support::clean_env;
use support::opsctl::{Done, noise, run, url};
use support::tree::{Tree, assert_equal};
use terminal::Terminal;

// ---- what is the operator's ----

#[test]
fn what_the_command_was_given_by_path_stays_in_its_place() {
    for mode in [&["--yes"][..], &["--yes", "--in-place"]] {
        let it = Incident::new();
        let own = it.tree().join("own/deep");
        fs::create_dir_all(&own).unwrap();
        let at = |name: &str| own.join(name);
        fs::rename(&it.bench.identity, at("identity")).unwrap();
        fs::copy(&it.bench.key, at("real-key")).unwrap();
        // A link is what was given; what it leads to is needed as well.
        symlink("real-key", at("key")).unwrap();
        fs::write(at("opsctl.toml"), "profile = \"mine.toml\"\n").unwrap();
        fs::write(at("mine.toml"), "name = \"openwork\"\ncontract_version = \"1.0\"\n[[services]]\nname = \"s\"\n[services.volume]\ndata_root = \"/data\"\n").unwrap();
        support::opsctl::copy_program(&at("program"));
        fs::write(at("somebody-else-s"), "goes").unwrap();
        let mut command = Command::new(at("program"));
        command.env_clear().envs(clean_env()).arg("restore").arg(it.tree()).args(["--json"]).args(mode);
        command.arg("--config").arg(at("opsctl.toml")).arg("--identity").arg(at("identity"));
        command.env("OPSCTL_STORE", url(&it.bench.store)).env("OPSCTL_STATE_DIR", &it.bench.state);
        command.env("OPSCTL_SIGNING_KEY_FILE", at("key"));
        run(command).ok();
        let left = ["identity", "key", "mine.toml", "opsctl.toml", "program", "real-key"];
        let mut found: Vec<_> =
            fs::read_dir(&own).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        found.sort();
        assert_eq!(found, left, "{mode:?}");
        assert!(fs::symlink_metadata(at("key")).unwrap().is_symlink());
        for kept in folders(it.tree(), "previous-") {
            assert!(!kept.join("own/deep/identity").exists(), "no copy of the identity is kept");
        }
        let rest = |tree: Tree| tree.without(|path| path.starts_with(b"own"));
        assert_equal(&it.good, &rest(Tree::read(it.tree())));
    }
}

// ---- nothing to do ----

#[test]
fn a_needless_restore_does_nothing_and_keeps_what_is_kept() {
    let it = Incident::new();
    let first = it.restore(["--yes"]).ok();
    assert_eq!(first.json["unchanged"], false);
    let log = it.bench.dir.join("log");
    let touch = format!("echo ran >> {}", log.display());
    let service = ["--stop-cmd", &touch, "--start-cmd", &touch];
    for mode in [&[][..], &["--yes"], &["--yes", "--in-place"], &["--yes", "--discard-previous"]] {
        // Nobody is asked about nothing.
        let again = it.restore(mode.iter().chain(&service)).ok();
        assert_eq!(again.json["unchanged"], true, "{mode:?}");
        assert_eq!(again.text("previous"), first.text("previous"), "{mode:?}");
        assert_eq!((again.number("files"), again.number("bytes_written")), (9, 0));
        assert!(!log.exists(), "the service is left alone");
        assert_equal(&it.bad, &Tree::read(&folders(it.tree(), "previous-")[0]));
    }
    let plan = it.restore(["--dry-run"]).ok();
    assert_eq!(plan.json["in_place"]["nothing_to_do"], true);
    let said = run(typed(&it.bench, ["restore", it.tree().to_str().unwrap()])).ok();
    assert!(said.stdout.contains("nothing was done"), "{}", said.stdout);
    it.rollback(["--yes"]).ok();
    it.assert_is(&it.bad);
}

#[test]
fn what_differs_in_metadata_in_names_or_in_folders_only_is_put_right() {
    let it = Incident::new();
    it.bench.dir.write("tree/plain", "plain\n");
    fs::create_dir(it.tree().join("hollow")).unwrap();
    let mode = rustix::fs::Mode::from_raw_mode(0o640);
    rustix::fs::mknodat(rustix::fs::CWD, it.tree().join("pipe"), rustix::fs::FileType::Fifo, mode, 0).unwrap();
    it.bench.take();
    let good = Tree::read(it.tree());
    let at = |path: &str| it.tree().join(path);
    let sh = |script: &str| {
        let done = Command::new("sh").args(["-ec", script]).current_dir(it.tree()).output().unwrap();
        assert!(done.status.success(), "{script}: {}", String::from_utf8_lossy(&done.stderr));
    };
    let changes = [
        "chmod 600 plain",
        "chmod 700 workspace",
        "chmod 711 .",
        "chown 65534 plain",
        "chgrp 65534 workspace/app",
        "touch -d 2001-01-01 plain",
        "touch -d 2001-01-01 workspace",
        "touch -h -d 2001-01-01 workspace/link",
        "chown -h 65534 workspace/link",
        "mkdir extra; touch -r plain .",
        "mkdir -p workspace/extra/deep",
        "rmdir hollow",
        "cp -a workspace/three split; mv split workspace/three",
        "ln plain ../other-name",
        "chmod 600 pipe",
        "rm pipe; touch pipe",
    ];
    for change in changes {
        sh(change);
        let plan = it.restore(["--dry-run"]).ok();
        assert_eq!(plan.json["in_place"]["nothing_to_do"], false, "{change}");
        let done = it.restore(["--yes"]).ok();
        assert_eq!(done.json["unchanged"], false, "{change}");
        assert_equal(&good, &Tree::read(it.tree()));
        assert_eq!(fs::metadata(at("plain")).unwrap().nlink(), 1, "{change}");
        assert_eq!(it.restore(["--yes"]).ok().json["unchanged"], true, "{change}");
    }
    for (path, name) in [("plain", "user.note"), ("workspace", "user.note")] {
        rustix::fs::setxattr(at(path), name, b"of the incident", rustix::fs::XattrFlags::empty()).unwrap();
        assert_eq!(it.restore(["--yes"]).ok().json["unchanged"], false, "{path}");
        assert_equal(&good, &Tree::read(it.tree()));
    }
    // A part is compared as a part.
    sh("echo since >other/since; chmod 700 workspace");
    assert_eq!(it.restore(["--include", "workspace/app"]).ok().json["unchanged"], true);
    assert_eq!(it.restore(["--yes", "--include", "workspace"]).ok().json["unchanged"], false);
}

#[test]
fn the_plan_and_the_question_say_which_kept_tree_goes() {
    let it = Incident::new();
    it.bench.dir.write("tree/large", noise(300_000, 5));
    let first = it.restore(["--yes"]).ok();
    assert!(!first.says("the tree kept since"), "{}", first.stderr);
    let record = fs::read(it.tree().join(".opsctl/previous.json")).unwrap();
    let since = serde_json::from_slice::<serde_json::Value>(&record).unwrap()["since"].as_str().unwrap().to_owned();
    it.bench.dir.write("tree/since", "since");

    let plan = it.restore(["--dry-run"]).ok();
    let live = &plan.json["in_place"];
    assert_eq!((&live["previous_since"], &live["previous_deleted"]), (&since.as_str().into(), &true.into()));
    let size = live["previous_size"].as_u64().unwrap();
    assert!((300_000..500_000).contains(&size), "{size}");
    let by_file = it.restore(["--dry-run", "--in-place"]).ok();
    assert_eq!(by_file.json["in_place"]["previous_deleted"], false);
    let discards = it.restore(["--dry-run", "--in-place", "--discard-previous"]).ok();
    assert_eq!(discards.json["in_place"]["previous_deleted"], true);

    let mut terminal = Terminal::start(&typed(&it.bench, ["restore", it.tree().to_str().unwrap()]));
    terminal.wait_for("[y/N] ");
    terminal.types("n\n");
    let (_, screen) = terminal.end();
    assert!(screen.contains(&format!("the tree kept since {since} (")), "{screen}");
    assert!(screen.contains(&format!(", and delete the tree kept since {since}? [y/N]")), "{screen}");
    assert_eq!(folders(it.tree(), "previous-").len(), 1);
}

#[test]
fn an_earlier_kept_tree_is_given_up_before_anything_is_staged_and_only_when_asked() {
    let it = Incident::new();
    it.restore(["--yes"]).ok();
    // Nothing can be staged: the large file is wanted again, and is not to be had.
    fs::remove_file(it.tree().join("opencode/blob")).unwrap();
    let packs = it.bench.objects_in("packs/");
    let largest = packs.iter().max_by_key(|key| fs::metadata(it.bench.store.join(key)).unwrap().len()).unwrap();
    fs::remove_file(it.bench.store.join(largest)).unwrap();
    it.restore(["--yes"]).ended(4);
    assert_equal(&it.bad, &Tree::read(&folders(it.tree(), "previous-")[0]));
    it.restore(["--yes", "--discard-previous"]).ended(4);
    assert_eq!(folders(it.tree(), "previous-"), [] as [std::path::PathBuf; 0]);
    it.rollback(["--yes"]).ended(10);
}

// ---- what it says ----

#[test]
fn the_plan_has_the_age_of_the_snapshot_and_all_versions() {
    let it = Incident::new();
    let health = it.bench.dir.write("health", r#"{"ok":true,"version":"0.18.1","opencodeVersion":"1.17.11"}"#);
    let (_server, url) = service(&health);
    let taken = it.bench.snapshot(["--service-url", &url]).ok();
    fs::write(&health, r#"{"ok":true,"version":"0.19.0","opencodeVersion":"1.18.0"}"#).unwrap();
    it.bench.dir.write("tree/since", "since");

    let known = json!({"profile": "openwork", "contract": "1.0", "server": "0.18.1", "opencode-pin": "1.17.11"});
    let now = json!({"profile": "openwork", "contract": "1.0", "server": "0.19.0", "opencode-pin": "1.18.0"});
    let unasked = json!({"profile": "openwork", "contract": "1.0"});
    let plan = it.restore(["--dry-run", "--service-url", &url]).ok();
    assert_eq!(plan.json["versions"], json!({"snapshot": known, "here": now}));
    let end: jiff::Timestamp = plan.text("finished_at").parse().unwrap();
    assert!(plan.number("age_seconds") <= (jiff::Timestamp::now() - end).get_seconds().unsigned_abs());
    assert_eq!(it.restore(["--dry-run"]).ok().json["versions"], json!({"snapshot": known, "here": unasked}));
    // The age counts from now, whatever time was asked for.
    let asked = (end + jiff::SignedDuration::from_secs(90)).to_string();
    let plan = it.restore(["--dry-run", "--at", &asked]).ok();
    assert_eq!(plan.json["rpo_seconds"], 90);
    assert!(plan.number("age_seconds") < 90 || jiff::Timestamp::now() > end + jiff::SignedDuration::from_secs(90));

    let tree = it.tree().to_str().unwrap();
    let text = run(typed(&it.bench, ["restore", tree, "--dry-run", "--service-url", &url])).ok().stdout;
    for part in [
        format!("\nit ended {end}, "),
        " ago, and was taken of profile openwork 1.0, opencode-pin 1.17.11, server 0.18.1\n".to_owned(),
        "\nhere: profile openwork 1.0, opencode-pin 1.18.0, server 0.19.0\n".to_owned(),
    ] {
        assert!(text.contains(&part), "no {part:?} in {text}");
    }
    let to = it.bench.restore(&it.bench.dir.join("new"), ["--dry-run", "--service-url", &url]).ok();
    assert_eq!(to.json["versions"], json!({"snapshot": known, "here": now}));
    assert_eq!(taken.id(), to.id());
}

#[test]
fn how_long_it_took_and_what_work_is_lost_is_measured_in_place_too() {
    let it = Incident::new();
    let end: jiff::Timestamp = it.restore(["--dry-run"]).ok().text("finished_at").parse().unwrap();
    let asked = (end + jiff::SignedDuration::from_secs(90)).to_string();
    let begun = std::time::Instant::now();
    let done = it.restore(["--yes", "--at", &asked, "--stop-cmd", "sleep 0.3"]).ok();
    let rto = done.json["rto_seconds"].as_f64().unwrap();
    assert!((0.3..=begun.elapsed().as_secs_f64()).contains(&rto), "from start to finish: {rto}");
    assert_eq!(done.json["rpo_seconds"], 90);
    it.rollback(["--yes"]).ok();
    let text = run(typed(&it.bench, ["restore", it.tree().to_str().unwrap(), "--yes", "--at", &asked])).ok().stdout;
    assert!(text.contains(" s; lost work: 1m 30s"), "{text}");
}

#[test]
fn a_restore_that_goes_on_counts_what_was_staged_before() {
    let it = Incident::new();
    cut_off_before_swap(&it.bench);
    let plan = it.restore(["--dry-run"]).ok();
    assert_eq!((plan.number("bytes_to_fetch"), plan.number("requests"), plan.number("space_needed")), (0, 0, 0));
    assert_eq!(plan.json["resumes"], true);
    let done = it.restore(["--yes"]).ok();
    assert_eq!((done.number("files"), done.number("files_kept")), (9, 9));
    it.rollback(["--yes"]).ok();
    cut_off_before_swap(&it.bench);
    let text = run(typed(&it.bench, ["restore", it.tree().to_str().unwrap(), "--yes"])).ok().stdout;
    assert!(text.contains("9 files, all of them from the run that was cut off"), "{text}");
}

#[test]
fn a_restore_that_is_only_put_away_still_says_what_is_missing() {
    let it = Incident::new();
    let (pipe, device) = (it.tree().join("pipe"), it.tree().join("device"));
    for (path, kind) in [(&pipe, FileType::Fifo), (&device, FileType::CharacterDevice)] {
        mknodat(CWD, path, kind, Mode::RUSR, makedev(1, 3)).unwrap();
    }
    it.bench.take();
    it.bench.dir.write("tree/since", "since");
    killed(in_place(&it.bench, it.tree(), ["--yes", "--start-cmd", "kill -9 $PPID"]));
    let done = it.restore(["--yes"]).ended(3);
    assert_eq!(done.text("recovered"), "finished");
    done.warning("device left out");
    assert_eq!((done.number("files"), done.number("files_kept")), (9, 9));
}

// ---- commands that can be pasted ----

/// Runs a command line as a shell does, with nothing of this run's environment.
fn pasted(it: &Incident, line: &str) -> Done {
    let bin = it.bench.dir.mkdir("bin");
    let _ = symlink(env!("CARGO_BIN_EXE_opsctl"), bin.join("opsctl"));
    let mut command = Command::new("sh");
    let path = std::env::join_paths([bin].into_iter().chain(std::env::split_paths(&std::env::var_os("PATH").unwrap())));
    command.args(["-c", &format!("{line} --json --yes")]).env_clear().envs(clean_env()).env("PATH", path.unwrap());
    run(command)
}

#[test]
fn the_command_that_goes_on_can_be_pasted_with_all_that_was_given() {
    let mut it = Incident::new();
    // A name that no shell takes as it is.
    let tree = it.bench.dir.join("the $(service)'s tree");
    fs::rename(&it.bench.tree, &tree).unwrap();
    let identity = it.bench.dir.join("my identity");
    fs::rename(&it.bench.identity, &identity).unwrap();
    (it.bench.tree, it.bench.identity) = (tree, identity);
    cut_off_before_swap(&it.bench);
    let mut command = support::opsctl_process();
    command.arg("restore").arg(it.tree()).args(["--json", "--yes", "--include", "top"]);
    command.arg("--store").arg(url(&it.bench.store)).arg("--identity").arg(&it.bench.identity);
    command.arg("--state-dir").arg(&it.bench.state).args(["--source", "default", "--start-cmd", "echo 'it runs' >&2"]);
    let refused = run(command).ended(2);
    let hint = refused.json["error"]["hint"].as_str().unwrap();
    let between = |start: &str, end: &str| hint.split(start).nth(1).unwrap().split(end).next().unwrap().to_owned();
    let line = format!("{} {}", between("go on with it: ", "; or"), between("add what was given here: ", "\0"));
    assert!(line.starts_with("opsctl restore '"), "{line}");
    let done = pasted(&it, &line).ok();
    assert!(done.stderr.contains("it runs"), "{}", done.stderr);
    it.assert_is(&it.good);

    let text = run(typed(&it.bench, ["rollback", it.tree().to_str().unwrap(), "--yes"])).ok();
    assert!(text.stdout.contains("as it was before"), "{}", text.stdout);
    let text = run(typed(&it.bench, ["restore", it.tree().to_str().unwrap(), "--yes"])).ok().stdout;
    let line = text.split('`').find(|part| part.starts_with("opsctl rollback")).unwrap();
    pasted(&it, line).ok();
    it.assert_is(&it.bad);

    let snapshot = {
        cut_off_while_swapping(&it.bench);
        it.bench.snapshot([""; 0]).ended(2)
    };
    let hint = snapshot.json["error"]["hint"].as_str().unwrap().to_owned();
    let line = hint.strip_prefix("finish it: ").unwrap();
    let options = format!("--store {} --identity '{}'", url(&it.bench.store), it.bench.identity.display());
    pasted(&it, &format!("{line} {options}")).ok();
    it.assert_is(&it.good);
}

// ---- without a folder ----

#[test]
fn without_a_folder_the_profile_s_data_root_is_meant() {
    let it = Incident::new();
    let root = it.tree().display();
    let text = format!(
        "name = \"openwork\"\ncontract_version = \"1.0\"\n[[services]]\nname = \"s\"\n[services.volume]\ndata_root = \"{root}\"\n"
    );
    let profile = it.bench.dir.write("profile.toml", text);
    let verb = |words: &[&str]| {
        let mut command = typed(&it.bench, words);
        command.arg("--json").arg("--profile").arg(&profile);
        run(command)
    };
    verb(&["restore", "--yes"]).ok();
    it.assert_is(&it.good);
    verb(&["rollback", "--yes"]).ok();
    it.assert_is(&it.bad);
    verb(&["rollback", "--discard", "--yes"]).ok();
    assert!(!it.tree().join(".opsctl").exists());
}

// ---- snapshots meanwhile ----

#[test]
fn snapshots_go_on_beside_a_restore_that_is_whole_and_not_put_away() {
    let it = Incident::new();
    killed(in_place(&it.bench, it.tree(), ["--yes", "--start-cmd", "kill -9 $PPID"]));
    let journal = it.tree().join(".opsctl/journal.json");
    for phase in ["swapped", "keeping"] {
        let text = fs::read_to_string(&journal).unwrap();
        fs::write(&journal, text.replace("\"swapped\"", &format!("\"{phase}\""))).unwrap();
        let taken = it.bench.snapshot([""; 0]).ok();
        assert!(taken.says("is not finished, and the folder is whole; finish it: opsctl restore"), "{}", taken.stderr);
        assert_eq!(taken.text("status"), "complete", "{phase}");
    }
    for phase in ["swapping", "undoing", "overwriting"] {
        let text = fs::read_to_string(&journal).unwrap();
        let was = text.split("\"phase\":\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
        fs::write(&journal, text.replace(&format!("\"phase\":\"{was}\""), &format!("\"phase\":\"{phase}\""))).unwrap();
        it.bench.snapshot([""; 0]).ended(2);
    }
}
