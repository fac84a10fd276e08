//! The program through its whole cycle on four real stores, and with the variables that hosts have for them.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

mod support;

#[path = "support/cycle.rs"]
mod cycle;

use std::sync::Arc;

use cycle::{BIG, SOURCE, Site, id, json};
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use serde_json::{Value, json};
use support::TestDir;
use support::azurite::Azurite;
use support::objects::names_and_sizes;
use support::rclone::Rclone;
use support::seaweed::{BUCKET, SeaweedFs};
use support::tree::{Tree, assert_equal};

/// `client` is one that is not opsctl's.
fn whole_cycle(url: &str, env: &[(&str, String)], client: &Arc<dyn ObjectStore>, prefix: &str, ranges: bool) {
    let site = Site::at(url, env);
    let data = site.data();
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

    let mut ls = site.opsctl();
    let ls = json(ls.args(["ls", "--json", "latest"]).env("OPSCTL_IDENTITY_FILE", site.identity()), 0);
    let paths: Vec<&str> =
        ls["entries"].as_array().unwrap().iter().map(|entry| entry["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["", "a.txt", "empty", "new.txt", "sub", "sub/big.bin"], "{ls}");

    let to = site.dir.join("at");
    let mut restore = site.opsctl();
    restore.args(["restore", "--json", "--at", rows[0]["finished_at"].as_str().unwrap(), "--to"]).arg(&to);
    let restored = json(restore.env("OPSCTL_IDENTITY_FILE", site.identity()), 0);
    assert_eq!((&restored["snapshot_id"], &restored["rpo_seconds"]), (&first["snapshot_id"], &json!(0)));
    assert_equal(&then, &Tree::read(&to));
    assert_equal(&Tree::read(&data), &Tree::read(&site.restore(&second)));

    // One small file lies in one pack with a big one. Where there are no ranges, the whole pack comes, and will do.
    let one = site.dir.join("one");
    let restored = json(site.restore_command(id(&first), &one).args(["--include", "a.txt"]), 0);
    assert_eq!(std::fs::read(one.join("a.txt")).unwrap(), b"first\n");
    assert_eq!(std::fs::read_dir(&one).unwrap().count(), 1);
    let fetched = restored["bytes_fetched"].as_u64().unwrap();
    assert_eq!(fetched < BIG as u64, ranges, "{fetched} bytes were fetched");

    for level in ["list", "hash", "decrypt"] {
        let mut check = site.opsctl();
        check.args(["check", "--json", "--level", level]).env("OPSCTL_IDENTITY_FILE", site.identity());
        let report = json(&mut check, 0);
        assert_eq!((&report["level"], &report["damaged"]), (&json!(level), &json!([])));
    }

    // What lies in the store is what the format says, and nothing else.
    let objects = names_and_sizes(client, prefix);
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

// ---- the whole cycle ----

#[test]
fn the_whole_cycle_in_a_folder() {
    let dir = TestDir::new();
    let root: Arc<dyn ObjectStore> = Arc::new(LocalFileSystem::new_with_prefix(dir.path()).unwrap());
    whole_cycle(&dir.file_url("deep/prefix"), &[], &root, "deep/prefix", true);
}

#[test]
fn the_whole_cycle_on_seaweedfs() {
    let server = SeaweedFs::start();
    whole_cycle(&server.store_url("deep/prefix"), &server.env(), &server.client(), "deep/prefix", true);
}

#[test]
fn the_whole_cycle_on_rclone_without_ranges_and_create_only_puts() {
    let server = Rclone::start();
    whole_cycle(&server.store_url("deep/prefix"), &server.env(), &server.client(), "deep/prefix", false);
}

#[test]
fn the_whole_cycle_on_azurite() {
    let server = Azurite::start();
    whole_cycle(&server.store_url("deep/prefix"), &server.env(), &server.client(), "deep/prefix", true);
}

// ---- variables ----

#[test]
fn names_of_railway_and_of_aws() {
    let server = SeaweedFs::start();
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
    let data = site.data();
    let snapshot = site.snapshot(&data);
    assert_equal(&Tree::read(&data), &Tree::read(&site.restore(&snapshot)));
    assert!(names_and_sizes(&server.client(), "nightly").iter().any(|(name, _)| name == "opsctl-store.json"));

    // AWS names win: right ones over wrong ones of Railway, and wrong ones over right ones.
    let mut command = site.opsctl();
    command.envs(railway("nobody", "wrong")).env("ENDPOINT", "http://127.0.0.1:1").envs(server.env());
    json(command.args(["list", "--json"]), 0);
    let mut command = site.opsctl();
    command.envs(server.env_for(server.access_key(), "wrong"));
    json(command.args(["list", "--json"]), 12);
}

#[test]
fn credentials_that_s3_refuses() {
    let server = SeaweedFs::start();
    let site = Site::at(&server.store_url("refused"), &server.env());
    let data = site.data();
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
    assert_eq!(names_and_sizes(&server.client(), "nothing/here"), [], "a failed snapshot makes no store");
}

#[test]
fn names_of_azure_and_credentials_that_it_refuses() {
    let server = Azurite::start();
    // A shared access signature, for whoever administers.
    let token = server.sas("rwcl");
    let sas = [
        ("AZURE_STORAGE_ACCOUNT_NAME", server.account().to_owned()),
        ("AZURE_STORAGE_SAS_TOKEN", token.clone()),
        ("AZURE_STORAGE_ENDPOINT", server.endpoint()),
    ];
    let site = Site::at(&server.store_url("sas"), &sas);
    let data = site.data();
    let snapshot = site.snapshot(&data);
    assert_equal(&Tree::read(&data), &Tree::read(&site.restore(&snapshot)));

    // The names that Azure's own command has for them.
    let list = |env: &[(&str, String)], store: &str, code: i32| {
        let mut command = support::opsctl();
        command.env("OPSCTL_STORE", store).envs(env.iter().map(|(name, value)| (name, value)));
        let output = command.args(["list", "--json", "-vv"]).output().unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert_eq!(output.status.code(), Some(code), "{env:?}: {said}");
        let signature = token.rsplit_once("sig=").unwrap().1;
        assert!(!said.contains(&server.account_key()) && !said.contains(signature), "a credential is printed: {said}");
        said
    };
    let with = |name: &'static str, value: &str| {
        let account = ("AZURE_STORAGE_ACCOUNT", server.account().to_owned());
        [account, (name, value.to_owned()), ("AZURE_STORAGE_ENDPOINT", server.endpoint())]
    };
    let url = server.store_url("sas");
    assert!(list(&with("AZURE_STORAGE_KEY", &server.account_key()), &url, 0).contains(id(&snapshot)));
    assert!(list(&with("AZURE_STORAGE_SAS_TOKEN", &format!("?{token}")), &url, 0).contains(id(&snapshot)));

    // Refused: another key, a signature that was changed, a right that it does not give.
    let other_key = Azurite::new_key();
    list(&with("AZURE_STORAGE_KEY", &other_key), &url, 12);
    list(&with("AZURE_STORAGE_SAS_TOKEN", &token.replace("sp=rwcl", "sp=rwdcl")), &url, 12);
    list(&with("AZURE_STORAGE_SAS_TOKEN", &server.sas("r")), &url, 12);
    // Missing: the container, the store in it.
    list(&with("AZURE_STORAGE_KEY", &server.account_key()), "az://no-such-container/p", 10);
    list(&with("AZURE_STORAGE_KEY", &server.account_key()), &server.store_url("nothing"), 10);
    // Never sent: a credential in the clear to another host.
    let mut elsewhere = with("AZURE_STORAGE_SAS_TOKEN", &token);
    // Not the loopback address that it looks like, and not one that leads off this machine should it be asked.
    elsewhere[2].1 = "http://[::ffff:127.0.0.1]:1/account".into();
    assert!(list(&elsewhere, &url, 2).contains("AZURE_STORAGE_ENDPOINT"));
    assert!(list(&[("AZURE_STORAGE_USE_EMULATOR", "true".into())], &url, 2).contains("AZURE_STORAGE_ENDPOINT"));
    assert!(list(&[], &url, 12).contains("AZURE_STORAGE_ACCOUNT_NAME"));
}
