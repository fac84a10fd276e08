//! One suite of checks on five stores, each a real one. What they can do is taken from the table in `docs/stores.md`, and what
//! a store cannot do is proven too.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

#[path = "support/conformance.rs"]
mod conformance;

use conformance::{Capabilities, MANY, Subject, open, run};
use opsctl::providers::store::Store;
use support::TestDir;
use support::azurite::Azurite;
use support::rclone::Rclone;
use support::seaweed::SeaweedFs;

/// A line of the table in `docs/stores.md`.
fn documented(store: &str) -> Capabilities {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/stores.md")).unwrap();
    let row = text.lines().find(|line| line.starts_with(&format!("| {store}"))).expect("a row of the store");
    let cells: Vec<&str> = row.split('|').map(str::trim).collect();
    let can = |cell: &str| match cell {
        "yes" => true,
        "**no**" => false,
        other => panic!("{other} is neither yes nor no"),
    };
    Capabilities { conditional_put: can(cells[3]), ranges: can(cells[4]) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_conforms() {
    let dir = TestDir::new();
    let missing = open(&dir.file_url("missing"), &[]);
    std::fs::remove_dir(dir.join("missing")).unwrap();
    run(&Subject {
        name: "file",
        can: documented("folder"),
        page: MANY,
        missing: Some(missing),
        folder: Some(dir.path().to_owned()),
        open: Box::new(move |prefix| open(&dir.file_url(prefix), &[])),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_conforms() {
    run(&Subject {
        name: "memory",
        can: documented("memory"),
        page: MANY,
        open: Box::new(|_| Store::in_memory()),
        folder: None,
        missing: None,
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn seaweedfs_conforms() {
    let server = SeaweedFs::start();
    let env = server.env();
    run(&Subject {
        name: "SeaweedFS",
        can: documented("SeaweedFS"),
        page: 1_000,
        missing: Some(open("s3://no-such-bucket/p", &env)),
        folder: None,
        open: Box::new(move |prefix| open(&server.store_url(prefix), &env)),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rclone_conforms_with_two_exemptions() {
    let server = Rclone::start();
    let env = server.env();
    run(&Subject {
        name: "rclone",
        can: documented("rclone"),
        page: 1_000,
        missing: Some(open("s3://no-such-bucket/p", &env)),
        folder: None,
        open: Box::new(move |prefix| open(&server.store_url(prefix), &env)),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn azurite_conforms() {
    let server = Azurite::start();
    let env = server.env();
    run(&Subject {
        name: "Azurite",
        can: documented("Azurite"),
        page: 5_000,
        missing: Some(open("az://no-such-container/p", &env)),
        folder: None,
        open: Box::new(move |prefix| open(&server.store_url(prefix), &env)),
    })
    .await;
}

#[test]
fn servers_are_gone_with_their_guards() {
    let (rclone, azurite) = (Rclone::start(), Azurite::start());
    let processes = [rclone.pid(), azurite.pid()].map(|pid| std::path::PathBuf::from(format!("/proc/{pid}")));
    assert!(processes.iter().all(|process| process.exists()));
    drop((rclone, azurite));
    assert!(!processes.iter().any(|process| process.exists()));
}

#[test]
fn what_is_documented_of_the_servers_is_what_is_installed() {
    let read = |name: &str| std::fs::read_to_string(format!("{}/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let (text, script) = (read("docs/stores.md"), read("scripts/install-tools.sh"));
    for (name, variable) in [("SeaweedFS", "seaweedfs="), ("rclone", "rclone="), ("Azurite", "azurite=")] {
        let version = script.lines().find_map(|line| line.strip_prefix(variable)).unwrap();
        assert!(text.contains(&format!("| {name} {version} ")), "{name} {version}");
    }
}

#[test]
fn every_variable_of_a_store_is_documented() {
    let read = |name: &str| std::fs::read_to_string(format!("{}/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let text = read("docs/configuration.md");
    let code = read("src/providers/store/s3.rs") + &read("src/providers/store/cloud.rs");
    let named = code.split('"').filter(|word| {
        ["AWS_", "AZURE_", "GOOGLE_", "STORAGE_"].iter().any(|family| word.starts_with(family))
            && word.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
    });
    let named: std::collections::BTreeSet<&str> = named.collect();
    assert!(named.len() > 25, "{named:?}");
    let lacks: Vec<&&str> = named.iter().filter(|name| !text.contains(&format!("`{name}`"))).collect();
    assert!(lacks.is_empty(), "docs/configuration.md lacks {lacks:?}");
}
