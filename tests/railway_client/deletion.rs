//! Deleting variables: one commit, no deploy, and nothing of anybody else.

use opsctl::ExitCode;
use opsctl::providers::railway::Place;
use serde_json::{Value, json};

use crate::railway::{FakeRailway, Fault, PRODUCTION, SHARED, When};
use crate::{CANARY, client, place, told, wait};

/// Two services and shared variables, with `OLD` and `KEPT` each.
fn scene() -> (FakeRailway, Vec<(Place, Vec<String>)>) {
    let fake = FakeRailway::start();
    let ids = [fake.service("a"), fake.service("b")];
    for at in ["a", "b", SHARED] {
        fake.set(at, "OLD", CANARY);
        fake.set(at, "KEPT", "${{shared.OLD}}");
    }
    let places = [Some(ids[0].as_str()), Some(ids[1].as_str()), None].map(|service| place(&fake, service));
    let old = places.map(|place| (place, vec!["OLD".to_owned()]));
    (fake, old.into())
}

fn ours(old: &[(Place, Vec<String>)]) -> Value {
    let gone = json!({ "variables": { "OLD": null } });
    let id = |at: usize| old[at].0.service.clone().unwrap();
    json!({ "services": { id(0): gone, id(1): gone }, "sharedVariables": { "OLD": null } })
}

fn is_gone(fake: &FakeRailway) -> bool {
    let left = ["a", "b", SHARED].map(|at| fake.get(at, "OLD"));
    for at in ["a", "b", SHARED] {
        assert_eq!(fake.get(at, "KEPT").as_deref(), Some("${{shared.OLD}}"));
    }
    let deployed = fake.deploys("a") + fake.deploys("b");
    assert_eq!(deployed, 0);
    assert!(left.iter().all(Option::is_none) || left.iter().all(Option::is_some), "all or none");
    left[0].is_none()
}

#[test]
fn variables_are_deleted_in_one_commit_that_deploys_nothing() {
    let (fake, old) = scene();
    let client = client(&fake);
    wait(client.delete(&old)).unwrap();
    assert!(is_gone(&fake));
    let asked: Vec<String> = fake.seen().into_iter().map(|seen| seen.operation).collect();
    let expected =
        ["environmentStagedChanges", "environmentStageChanges", "environmentPatchCommitStaged", "workflowStatus"];
    assert_eq!(asked, expected);
    assert_eq!(fake.staged(PRODUCTION), json!({}));
    assert_eq!(fake.seen()[1].variables["changes"], ours(&old));
    assert!(fake.seen()[2].document.contains("skipDeploys: true"));
    for seen in &fake.seen()[..2] {
        assert!(seen.document.contains("patch(decryptVariables: false)"), "{}", seen.document);
    }
}

#[test]
fn nothing_to_delete_asks_for_nothing() {
    let (fake, old) = scene();
    let client = client(&fake);
    wait(client.delete(&[])).unwrap();
    wait(client.delete(&[(old[0].0.clone(), Vec::new())])).unwrap();
    assert_eq!(client.requests(), 0);
}

#[test]
fn each_environment_has_its_own_commit() {
    let (fake, mut old) = scene();
    let staging = fake.add_environment("staging");
    fake.set("staging/shared", "OLD", "x");
    old.push((Place { environment: staging, ..place(&fake, None) }, vec!["OLD".to_owned()]));
    let account = [("OPSCTL_RAILWAY_URL", fake.url()), ("RAILWAY_API_TOKEN", fake.account_token().to_owned())];
    wait(crate::with(&account).delete(&old)).unwrap();
    assert!(is_gone(&fake));
    assert_eq!(fake.get("staging/shared", "OLD"), None);
    assert_eq!(fake.count("environmentPatchCommitStaged"), 2);
}

#[test]
fn what_somebody_else_has_staged_is_not_committed() {
    let (_, some) = scene();
    let service = some[0].0.service.clone().unwrap();
    let others = [
        json!({ "services": { service.clone(): { "deploy": { "startCommand": "x" } } } }),
        json!({ "services": { service.clone(): { "variables": { "NEW": { "value": CANARY } } } } }),
        json!({ "services": { service.clone(): { "variables": { "KEPT": null } } } }),
        // Not our deletion, although its value is not shown.
        json!({ "services": { service.clone(): { "variables": { "OLD": { "value": CANARY } } } } }),
        json!({ "services": { service: { "isDeleted": true } } }),
        json!({ "sharedVariables": { "OLD": null, "KEPT": null } }),
        json!({ "privateNetworkDisabled": true }),
    ];
    for changes in others {
        // The ids are the same in every scene.
        let (fake, old) = scene();
        fake.stage(PRODUCTION, &changes);
        let (code, text) = told(Some(&fake), &wait(client(&fake).delete(&old)).unwrap_err());
        assert_eq!(code, ExitCode::Busy);
        assert_eq!(
            text,
            "changes of somebody else are staged in the environment at Railway, so nothing was deleted: a commit would carry \
             them along | apply or discard the staged changes at Railway, then run the same command again"
        );
        assert_eq!((fake.mutations(), is_gone(&fake), fake.staged(PRODUCTION)), (0, false, changes));
    }
}

#[test]
fn what_somebody_stages_meanwhile_is_not_committed() {
    let (fake, old) = scene();
    let fake = std::sync::Arc::new(fake);
    let theirs = json!({ "privateNetworkDisabled": true });
    let other = std::sync::Arc::downgrade(&fake);
    fake.at_request(2, When::Before, move || other.upgrade().unwrap().stage(PRODUCTION, &theirs));
    let (code, text) = told(Some(&fake), &wait(client(&fake).delete(&old)).unwrap_err());
    assert_eq!(code, ExitCode::Busy);
    assert!(text.contains("nothing was deleted; the deletion is staged beside them"), "{text}");
    assert_eq!((fake.count("environmentPatchCommitStaged"), is_gone(&fake)), (0, false));
    assert!(fake.other_changes().is_empty());
}

#[test]
fn a_deletion_that_was_staged_before_a_crash_is_committed() {
    let (fake, old) = scene();
    fake.stage(PRODUCTION, &ours(&old));
    // What is left of changes that were taken back.
    fake.stage(PRODUCTION, &json!({ "volumes": {}, "services": { "gone": { "variables": {} } } }));
    wait(client(&fake).delete(&old)).unwrap();
    assert!(is_gone(&fake));
    assert_eq!(fake.count("environmentStageChanges"), 0);
}

#[test]
fn a_part_of_the_deletion_that_was_staged_before_is_completed() {
    let (fake, old) = scene();
    fake.stage(PRODUCTION, &json!({ "sharedVariables": { "OLD": null } }));
    wait(client(&fake).delete(&old)).unwrap();
    assert!(is_gone(&fake));
}

#[test]
fn what_railway_has_no_need_to_delete_is_not_committed() {
    let (fake, old) = scene();
    let nothing = json!({ "data": { "environmentStageChanges": { "status": "STAGED", "patch": { "services": {} } } } });
    fake.fail("environmentStageChanges", 1, Fault::Answer(nothing));
    wait(client(&fake).delete(&old)).unwrap();
    assert_eq!(fake.count("environmentPatchCommitStaged"), 0);
}

#[test]
fn a_deletion_that_is_cut_off_anywhere_is_finished_by_the_next() {
    for (number, fault) in (1..=4).flat_map(|number| [(number, Fault::HangUp), (number, Fault::DoneAndHangUp)]) {
        let (fake, old) = scene();
        fake.fail_at(number, fault.clone());
        let client = client(&fake);
        let first = wait(client.delete(&old));
        // Reads are repeated.
        assert_eq!(first.is_err(), matches!(number, 2 | 3), "{number} {fault:?}");
        if let Err(error) = first {
            let (code, text) = told(Some(&fake), &error);
            assert_eq!(code, ExitCode::Failed, "{text}");
            let unsure =
                "nobody knows whether it was carried out: run the same command again: it goes on from what is staged";
            assert!(text.ends_with(unsure), "{text}");
        }
        assert!(fake.count("environmentStageChanges") <= 1 && fake.count("environmentPatchCommitStaged") <= 1);
        fake.commits_done();
        wait(client.delete(&old)).unwrap();
        assert!(is_gone(&fake), "{number} {fault:?}");
    }
}

#[test]
fn a_commit_is_waited_for_until_it_is_applied() {
    for course in
        [&["NotFound", "Running", "Running", "Complete"][..], &["NotFound", "Forgotten", "NotFound", "NotFound"]]
    {
        let (fake, old) = scene();
        fake.commits_go(course);
        wait(client(&fake).delete(&old)).unwrap();
        assert!(is_gone(&fake));
        assert!(fake.count("workflowStatus") >= 4);
    }
}

#[test]
fn a_commit_that_railway_could_not_apply_is_said() {
    let (fake, old) = scene();
    fake.commits_go(&["Running", "Error"]);
    let (code, text) = told(Some(&fake), &wait(client(&fake).delete(&old)).unwrap_err());
    assert_eq!(code, ExitCode::Failed);
    assert_eq!(
        text,
        "Railway could not apply the deletion of variables: could not be applied | it is staged again: look at it at Railway, \
         then run the same command again"
    );
    assert!(!is_gone(&fake));
    fake.commits_go(&["Complete"]);
    wait(client(&fake).delete(&old)).unwrap();
    assert!(is_gone(&fake));
}

#[test]
fn changes_that_are_being_applied_are_not_touched() {
    let (fake, old) = scene();
    fake.stage(PRODUCTION, &ours(&old));
    fake.commits_go(&["Running"; 9]);
    let client = client(&fake);
    // Somebody commits.
    fake.commit(PRODUCTION);
    let (code, text) = told(Some(&fake), &wait(client.delete(&old)).unwrap_err());
    assert_eq!(code, ExitCode::Busy);
    assert!(text.starts_with("changes of the environment are being applied at Railway | "), "{text}");
    assert_eq!(fake.mutations(), 0);
}
