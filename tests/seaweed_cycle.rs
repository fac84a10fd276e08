//! The whole cycle on a real object store, with the rights and the variables that hosts have.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

mod support;

#[path = "support/cycle.rs"]
mod cycle;

use std::path::{Path, PathBuf};

use cycle::{SOURCE, Site, id, json, noise};
use futures::TryStreamExt as _;
use object_store::ObjectStore as _;
use object_store::aws::AmazonS3Builder;
use serde_json::{Value, json};
use support::seaweed::{BUCKET, REGION, SeaweedFs};
use support::tree::{Tree, assert_equal};

const HOST: (&str, &str) = ("hostkey", "hostsecret");

/// A server with a host that may list and create, and not read.
fn server() -> SeaweedFs {
    SeaweedFs::start_with(json!({"identities": [{
        "name": "host",
        "credentials": [{"accessKey": HOST.0, "secretKey": HOST.1}],
        "actions": [format!("List:{BUCKET}"), format!("Write:{BUCKET}")],
    }]}))
}

/// Names and sizes of all objects below a prefix, by a client that is not opsctl's.
fn objects(server: &SeaweedFs, prefix: &str) -> Vec<(String, u64)> {
    let client = AmazonS3Builder::new()
        .with_bucket_name(BUCKET)
        .with_region(REGION)
        .with_endpoint(server.endpoint())
        .with_allow_http(true)
        .with_virtual_hosted_style_request(false)
        .with_access_key_id(server.access_key())
        .with_secret_access_key(server.secret_key())
        .build()
        .unwrap();
    let list = async { client.list(Some(&prefix.into())).try_collect::<Vec<_>>().await };
    let found = tokio::runtime::Runtime::new().unwrap().block_on(list).unwrap();
    let below = |path: String| path.strip_prefix(&format!("{prefix}/")).unwrap().to_owned();
    let mut found: Vec<_> = found.into_iter().map(|o| (below(o.location.to_string()), o.size)).collect();
    found.sort();
    found
}

fn data(site: &Site) -> PathBuf {
    site.dir.write("data/a.txt", "first\n");
    site.dir.write("data/sub/big.bin", noise(5, 3_000_000));
    site.dir.mkdir("data/empty");
    site.dir.join("data")
}

/// As `site.snapshot_command`, as the host that cannot read.
fn as_host(site: &Site, server: &SeaweedFs, data: &Path) -> assert_cmd::Command {
    let mut command = site.snapshot_command(data);
    command.envs(server.env_for(HOST.0, HOST.1));
    command
}

/// The same, told what it cannot read.
fn as_told_host(site: &Site, server: &SeaweedFs, data: &Path) -> assert_cmd::Command {
    let mut command = as_host(site, server, data);
    command.env("OPSCTL_STORE_ID", site.init["store_id"].as_str().unwrap());
    command.env("OPSCTL_RECIPIENTS", site.init["recipients"][0].as_str().unwrap());
    command
}

#[test]
fn the_whole_cycle() {
    let server = server();
    let site = Site::at(&server.store_url("deep/prefix"), &server.env());
    let data = data(&site);
    let first = site.snapshot(&data);
    let then = Tree::read(&data);
    std::fs::write(data.join("a.txt"), "second\n").unwrap();
    std::fs::write(data.join("new.txt"), "new\n").unwrap();
    let second = site.snapshot(&data);
    assert!(second["bytes_stored"].as_u64() < first["bytes_stored"].as_u64(), "{second}");

    let listed = json(site.opsctl().args(["list", "--json"]), 0);
    let mut rows: Vec<&Value> = listed["snapshots"].as_array().unwrap().iter().collect();
    rows.sort_by_key(|row| row["finished_at"].as_str().unwrap());
    assert_eq!(rows.iter().map(|row| row["id"].as_str().unwrap()).collect::<Vec<_>>(), [id(&first), id(&second)]);

    let to = site.dir.join("at");
    let mut restore = site.opsctl();
    restore.args(["restore", "--json", "--at", rows[0]["finished_at"].as_str().unwrap(), "--to"]).arg(&to);
    let restored = json(restore.env("OPSCTL_IDENTITY_FILE", site.identity()), 0);
    assert_eq!(restored["snapshot_id"], id(&first));
    assert_eq!(restored["rpo_seconds"], 0);
    assert_equal(&then, &Tree::read(&to));
    assert_equal(&Tree::read(&data), &Tree::read(&site.restore(&second)));

    for level in ["list", "hash", "decrypt"] {
        let mut check = site.opsctl();
        check.args(["check", "--json", "--level", level]).env("OPSCTL_IDENTITY_FILE", site.identity());
        let report = json(&mut check, 0);
        assert_eq!((&report["level"], &report["damaged"]), (&json!(level), &json!([])));
    }

    // What lies in the store is what the format says, and nothing else.
    let objects = objects(&server, "deep/prefix");
    let count = |prefix: &str, suffix: &str| {
        objects.iter().filter(|(name, _)| name.starts_with(prefix) && name.ends_with(suffix)).count()
    };
    let (packs, lists) = (count("packs/", ".tar.zst.age"), count("packlists/", ".jsonl"));
    assert_eq!(count(&format!("snapshots/{SOURCE}/"), ".json"), 2);
    assert_eq!(count(&format!("snapshots/{SOURCE}/"), ".json.minisig"), 2);
    assert_eq!((count("keys/000001-", ".json"), count("keys/000001-", ".json.minisig")), (1, 1));
    assert_eq!((count("opsctl-store.json", ""), lists), (1, 2));
    assert!(packs >= 2);
    assert_eq!(objects.len(), packs + lists + 4 + 2 + 1, "{objects:?}");
    let stored = |snapshot: &Value| snapshot["bytes_stored"].as_u64().unwrap();
    let sizes: u64 = objects.iter().filter(|(name, _)| name.starts_with("packs/")).map(|(_, size)| size).sum();
    assert_eq!(sizes, stored(&first) + stored(&second), "each snapshot says what it added");
}

#[test]
fn a_host_that_may_only_list_and_create() {
    let server = server();
    let site = Site::at(&server.store_url("host"), &server.env());
    let data = data(&site);

    // Without the two variables it cannot know to whom to encrypt, and says which are missing.
    let output = as_host(&site, &server, &data).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    for name in ["OPSCTL_STORE_ID", "OPSCTL_RECIPIENTS"] {
        assert!(said.contains(name), "{said}");
        let mut half = as_told_host(&site, &server, &data);
        let output = half.env_remove(name).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "without {name}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(name), "without {name}");
    }
    assert!(objects(&server, "host").iter().all(|(name, _)| !name.starts_with("packs/")), "nothing was stored");

    let first = json(&mut as_told_host(&site, &server, &data), 0);
    std::fs::write(data.join("a.txt"), "second\n").unwrap();
    let second = json(&mut as_told_host(&site, &server, &data), 0);
    assert!(
        second["bytes_stored"].as_u64() < first["bytes_stored"].as_u64(),
        "with the state little is stored: {second}"
    );
    let mut fresh = as_told_host(&site, &server, &data);
    let third = json(fresh.env("OPSCTL_STATE_DIR", site.dir.join("fresh")), 0);
    assert_eq!(third["files"], second["files"], "without the state it works as well");
    for snapshot in [&second, &third] {
        assert_equal(&Tree::read(&data), &Tree::read(&site.restore(snapshot)));
    }

    // They may be set where reading is allowed; and are compared then.
    let mut reader = as_told_host(&site, &server, &data);
    json(reader.envs(server.env()), 0);
    let mut wrong = as_told_host(&site, &server, &data);
    json(wrong.envs(server.env()).env("OPSCTL_STORE_ID", "0".repeat(32)), 4);
    let stranger = Site::new();
    let mut wrong = as_told_host(&site, &server, &data);
    json(wrong.envs(server.env()).env("OPSCTL_RECIPIENTS", stranger.init["recipients"][0].as_str().unwrap()), 4);
}

#[test]
fn names_of_railway_and_of_aws() {
    let server = server();
    let railway = |key: &str, secret: &str| {
        vec![
            ("BUCKET", BUCKET.to_owned()),
            ("ACCESS_KEY_ID", key.to_owned()),
            ("SECRET_ACCESS_KEY", secret.to_owned()),
            ("REGION", "auto".to_owned()),
            ("ENDPOINT", server.endpoint()),
            ("AWS_S3_URL_STYLE", "path".to_owned()),
        ]
    };
    let site = Site::at("s3:///nightly", &railway(server.access_key(), server.secret_key()));
    let data = data(&site);
    let snapshot = site.snapshot(&data);
    assert_equal(&Tree::read(&data), &Tree::read(&site.restore(&snapshot)));
    assert!(objects(&server, "nightly").iter().any(|(name, _)| name == "opsctl-store.json"));

    // AWS names win: right ones over wrong ones of Railway, and wrong ones over right ones.
    let mut command = site.opsctl();
    command.envs(railway("nobody", "wrong")).env("ENDPOINT", "http://127.0.0.1:1").envs(server.env());
    json(command.args(["list", "--json"]), 0);
    let mut command = site.opsctl();
    command.envs(server.env_for(server.access_key(), "wrong"));
    json(command.args(["list", "--json"]), 12);
}

#[test]
fn credentials_that_are_refused() {
    let server = server();
    let site = Site::at(&server.store_url("refused"), &server.env());
    let data = data(&site);
    for (key, secret) in [(server.access_key(), "wrong"), ("nobody", server.secret_key())] {
        let mut command = site.snapshot_command(&data);
        let error = json(command.envs(server.env_for(key, secret)), 12);
        assert_eq!(error["error"]["kind"], "denied", "{error}");
        assert!(!error.to_string().contains(server.secret_key()) && !error.to_string().contains("wrong"), "{error}");
        let mut command = site.opsctl();
        json(command.envs(server.env_for(key, secret)).args(["list", "--json"]), 12);
    }
    // A bucket or a prefix in which there is no store.
    let mut command = site.opsctl();
    json(command.env("OPSCTL_STORE", server.store_url("nothing/here")).args(["list", "--json"]), 10);
    let mut command = site.snapshot_command(&data);
    json(command.env("OPSCTL_STORE", server.store_url("nothing/here")), 10);
    assert_eq!(objects(&server, "nothing/here"), [], "a failed snapshot makes no store");
}
