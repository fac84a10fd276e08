//! `opsctl verify` on services that work: what passes, what is skipped, and what a restart must keep.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod support;

#[path = "support/openwork/mod.rs"]
mod openwork;
#[path = "support/site.rs"]
mod site;
#[path = "support/stub_store.rs"]
mod stub_store;
#[path = "support/verifier.rs"]
mod verifier;

use std::fs;

use openwork::recorded::{Replay, recordings};
use openwork::{VERSIONS, Version};
use site::Site;
use support::opsctl::run;
use verifier::{Verified, as_text, command, verified};

// ---- services that work ----

#[test]
fn every_version_passes_with_everything_that_can_be_asked() {
    for version in VERSIONS {
        let site = Site::new(version, 3);
        let before = site.token_ids();
        let done = site.verify(&["--write-probe", "--create-probe-tokens"]).passed();
        assert_eq!(done.with("warning"), [""; 0], "{version:?}: {}", done.0.stdout);
        assert_eq!(done.with("skipped"), [""; 0], "{version:?}: {}", done.0.stdout);
        let names: Vec<&str> =
            done.0.json["checks"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
        let all = [
            "transport",
            "health",
            "ui",
            "workspaces",
            "workspaces.config",
            "workspaces.audit",
            "engine",
            "sessions",
            "auth.none",
            "auth.wrong",
            "auth.client",
            "auth.host",
            "auth.host-as-bearer",
            "auth.token",
            "auth.owner",
            "auth.collaborator",
            "auth.viewer",
            "auth.probe-tokens",
            "sessions.write",
        ];
        assert_eq!(names, all);
        assert_eq!(done.0.json["versions"]["server"], version.name());
        // Nothing of it is left.
        assert_eq!(site.token_ids(), before, "{version:?}");
        assert_eq!(site.work.sessions(), site.ids, "{version:?}");
    }
}

#[test]
fn without_leave_nothing_is_changed() {
    let site = Site::new(Version::V0_18_16, 1);
    site.verify(&[]).passed();
    let seen = site.work.seen();
    assert!(seen.len() > 40 && seen.iter().all(|request| request.starts_with("GET ")), "{seen:#?}");
}

#[test]
fn the_recorded_answers_of_all_three_versions_pass() {
    for recording in recordings() {
        let replay = Replay::start(&recording);
        let done = verified(&replay.url(), &replay.env(), &["--create-probe-tokens"]).passed();
        assert_eq!(done.0.json["versions"]["server"], recording.version.name());
        assert_eq!(done.with("skipped"), [""; 0], "{}", done.0.stdout);
    }
}

#[test]
fn what_later_versions_allow_is_said_and_no_failure() {
    let site = Site::new(Version::V0_18_16, 1);
    site.work.fault(|faults| faults.drift = true);
    let done = site.verify(&[]).passed();
    assert!(done.detail("auth.client").contains("GET /tokens 200"), "{}", done.0.stdout);
    assert_eq!(done.status("auth.client"), "ok");
}

#[test]
fn a_ui_that_is_switched_off_is_said_and_no_failure() {
    let site = Site::new(Version::V0_18_16, 1);
    site.work.fault(|faults| faults.ui_disabled = true);
    assert!(site.verify(&[]).passed().detail("ui").contains("switched off"));
}

#[test]
fn without_tokens_what_needs_them_is_skipped_with_how_to_give_them() {
    let site = Site::new(Version::V0_18_16, 1);
    // Nobody has looked at the data, so that it is not said to be well.
    let done = verified(&site.work.url(), &[], &[]).is("inconclusive");
    assert_eq!(done.status("auth.none"), "ok");
    for (name, variable, flag) in [
        ("auth.client", "OPENWORK_TOKEN", "--token-file client=FILE"),
        ("auth.host", "OPENWORK_HOST_TOKEN", "--token-file host=FILE"),
        ("auth.host-as-bearer", "OPENWORK_HOST_TOKEN", "--token-file host-as-bearer=FILE"),
        ("sessions", "OPENWORK_TOKEN", "--token-file client=FILE"),
        ("workspaces", "OPENWORK_TOKEN", "--token-file client=FILE"),
    ] {
        assert_eq!(done.status(name), "skipped");
        assert!(done.detail(name).contains(variable) && done.detail(name).contains(flag), "{}", done.detail(name));
    }
    let text = run(as_text(&site.work.url(), &[], &[])).ended(1).stdout;
    let last = text.lines().last().unwrap();
    assert!(last.starts_with("inconclusive; not looked at: ") && last.contains("sessions"), "{last}");
    // The data alone was looked at, by whoever may.
    let client = site.work.env().into_iter().filter(|(name, _)| *name != "OPENWORK_HOST_TOKEN").collect::<Vec<_>>();
    let done = verified(&site.work.url(), &client, &[]).passed();
    assert_eq!(done.with("skipped"), ["auth.host", "auth.host-as-bearer"]);
    // What was asked for is another matter.
    for flag in ["--write-probe", "--create-probe-tokens"] {
        verified(&site.work.url(), &[], &[flag]).is("inconclusive");
    }
    let restart = verified(&site.work.url(), &[], &["--restart-cmd", "exit 1"]).is("inconclusive");
    assert_eq!(restart.status("restart"), "skipped", "nothing is restarted where nothing can be compared");
}

// ---- a restart ----

#[test]
fn a_restart_that_keeps_everything_passes_and_one_that_loses_something_says_what() {
    let site = Site::new(Version::V0_18_1, 3);
    let minted = site.work.mint("viewer", "somebody's");
    site.work.upload("note.txt", "note");
    let restart = site.work.restart_command();
    let done = site.verify(&["--restart-cmd", &restart]).passed();
    assert!(
        done.detail("restart").starts_with("3 sessions, 2 tokens, 1 workspace are still there"),
        "{}",
        done.detail("restart")
    );

    let lose = format!("rm '{}' && {restart}", site.work.tokens_file().display());
    let done = site.verify(&["--restart-cmd", &lose]).failed(&["restart"]);
    assert!(done.detail("restart").contains(&minted.id), "{}", done.detail("restart"));

    let audit = site.dir.join("data/openwork-orchestrator/audit");
    let lose = format!("rm -r '{}' && {restart}", audit.display());
    let done = site.verify(&["--restart-cmd", &lose]).failed(&["restart"]);
    assert!(done.detail("restart").contains("audit log"), "{}", done.detail("restart"));

    let done = site.verify(&["--restart-cmd", "exit 7"]).failed(&["restart"]);
    assert!(done.detail("restart").contains("--restart-cmd failed") && done.detail("restart").contains('7'));
}

#[test]
fn a_restart_command_does_not_get_what_is_for_opsctl_alone() {
    let site = Site::new(Version::V0_18_16, 1);
    let seen = site.dir.join("seen");
    let restart = format!("env > '{}'; echo chatter; {}", seen.display(), site.work.restart_command());
    let mut command = command(&site.work.url(), &site.work.env(), &["--restart-cmd", &restart]);
    command.env("OPSCTL_TZ", "UTC").env("AWS_SECRET_ACCESS_KEY", "x").env("RAILWAY_TOKEN", "x");
    let done = Verified(run(command)).passed();
    assert!(done.0.stderr.contains("chatter"), "stdout is for the result");
    let seen = fs::read_to_string(seen).unwrap();
    assert!(seen.contains("PATH=") && !seen.contains("OPSCTL_") && !seen.contains("AWS_"), "{seen}");
    assert!(!seen.contains("RAILWAY_TOKEN"), "{seen}");
}

// ---- the documentation ----

#[test]
fn every_check_stands_in_the_documentation_under_its_name() {
    let site = Site::new(Version::V0_18_16, 1);
    let restart = site.work.restart_command();
    let all = site.verify(&["--create-probe-tokens", "--write-probe", "--restart-cmd", &restart]).passed();
    let names: Vec<String> = all.with("ok").into_iter().chain(site.compare(site.facts()).with("ok")).collect();
    assert!(names.contains(&"restart".to_owned()) && names.contains(&"tokens.against".to_owned()), "{names:?}");
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/verify.md")).unwrap();
    let lacks: Vec<&String> = names.iter().filter(|name| !text.contains(&format!("`{name}`"))).collect();
    assert!(lacks.is_empty() && text.contains("`versions.against`"), "{lacks:?}");
}
