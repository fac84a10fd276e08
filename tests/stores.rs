//! One suite of checks on five stores, each a real one. `docs/stores.md` has the same table of what they can do.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

#[path = "support/conformance.rs"]
mod conformance;

use conformance::{Capabilities, Subject, open, run};
use opsctl::providers::store::Store;
use support::TestDir;
use support::azurite::Azurite;
use support::rclone::Rclone;
use support::seaweed::SeaweedFs;

const EVERYTHING: Capabilities = Capabilities { conditional_put: true, ranges: true };
const RCLONE: Capabilities = Capabilities { conditional_put: false, ranges: false };

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_conforms() {
    let dir = std::sync::Arc::new(TestDir::new());
    let (stores, folders) = (dir.clone(), dir.clone());
    let missing = open(&dir.file_url("missing"), &[]);
    std::fs::remove_dir(dir.join("missing")).unwrap();
    run(&Subject {
        name: "file",
        can: EVERYTHING,
        open: Box::new(move |prefix| open(&stores.file_url(prefix), &[])),
        folder: Some(Box::new(move |prefix| folders.join(prefix))),
        missing: Some(missing),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_conforms() {
    run(&Subject {
        name: "memory",
        can: EVERYTHING,
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
        can: EVERYTHING,
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
        can: RCLONE,
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
        can: EVERYTHING,
        missing: Some(open("az://no-such-container/p", &env)),
        folder: None,
        open: Box::new(move |prefix| open(&server.store_url(prefix), &env)),
    })
    .await;
}
