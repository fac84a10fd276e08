//! With the least rights that will do: credentials that cannot read or delete, a user that is not root, a folder that is read-only.
//!
//! What a credential cannot do is proven first, by requests of another client: a test with rights that are not denied proves nothing.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

mod support;

#[path = "support/cycle.rs"]
mod cycle;
#[path = "support/relay.rs"]
mod relay;

use std::collections::BTreeMap;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use cycle::Site;
use object_store::PutPayload;
use object_store::signer::{Method, Signer as _};
use opsctl::providers::store::{Created, Location, Store, StoreError};
use relay::Relay;
use serde_json::json;
use support::azurite::{Azurite, CONTAINER};
use support::daemon::http;
use support::objects::names_and_sizes;
use support::opsctl::{Bench, Done, Guarded, Mounted, chmod, noise, rest, run, stat_of};
use support::seaweed::{BUCKET, SeaweedFs};
use support::tree::{Tree, assert_equal, assert_same_tree};
use support::wait_for;

const MIB: usize = 1 << 20;
const NONE: [&str; 0] = [];
const HOST: (&str, &str) = ("hostkey", "hostsecret");
const READER: (&str, &str) = ("readerkey", "readersecret");

/// A server with a host that may list and create, and a reader that may list and read. As policies, because SeaweedFS's own word
/// `Write` allows to delete too.
fn server() -> SeaweedFs {
    let policy = |name: &str, action: &str| {
        let allow =
            |action: &str, resource: String| json!({"Effect": "Allow", "Action": [action], "Resource": [resource]});
        let statements = [
            allow("s3:ListBucket", format!("arn:aws:s3:::{BUCKET}")),
            allow(action, format!("arn:aws:s3:::{BUCKET}/*")),
        ];
        let content = json!({"Version": "2012-10-17", "Statement": statements});
        json!({"name": name, "content": content.to_string()})
    };
    let identity = |name: &str, (access, secret): (&str, &str)| json!({"name": name, "credentials": [{"accessKey": access, "secretKey": secret}], "policyNames": [name]});
    SeaweedFs::start_with(json!({
        "identities": [identity("host", HOST), identity("reader", READER)],
        "policies": [policy("host", "s3:PutObject"), policy("reader", "s3:GetObject")],
    }))
}

/// The program with these credentials and the store of `site`.
fn opsctl(site: &Site, env: &[(&'static str, String)]) -> Command {
    let mut command = support::opsctl_process();
    command.env("OPSCTL_STORE", &site.url).env("OPSCTL_SOURCE", cycle::SOURCE);
    command.envs(env.iter().map(|(name, value)| (name, value)));
    command
}

/// The same with a verb that prints a document.
fn opsctl_with(site: &Site, env: &[(&'static str, String)], args: &[&str]) -> Command {
    let mut command = opsctl(site, env);
    command.env("OPSCTL_IDENTITY_FILE", site.identity()).args(args).arg("--json");
    command
}

/// `snapshot` as a host that may not read, and is not told what it would have read.
fn snapshot(site: &Site, env: &[(&'static str, String)], data: &Path) -> Command {
    let mut command = opsctl(site, env);
    command.env("OPSCTL_SIGNING_KEY_FILE", site.signing_key()).env("OPSCTL_STATE_DIR", site.dir.join("state"));
    command.args(["snapshot", "--json"]).arg(data);
    command
}

/// The same, told.
fn told_snapshot(site: &Site, env: &[(&'static str, String)], data: &Path) -> Command {
    let mut command = snapshot(site, env, data);
    command.env("OPSCTL_STORE_ID", site.init["store_id"].as_str().unwrap());
    command.env("OPSCTL_RECIPIENTS", site.init["recipients"][0].as_str().unwrap());
    command
}

/// `restore`, `ls`, `list` and `check` as a reader. Returns the folder of the restored tree.
fn read_everything(site: &Site, env: &[(&'static str, String)], taken: &Done) -> PathBuf {
    let to = site.dir.join(format!("read-{}", taken.id()));
    let to_text = to.to_str().unwrap();
    run(opsctl_with(site, env, &["restore", "--snapshot", taken.id(), "--to", to_text])).ok();
    assert!(run(opsctl_with(site, env, &["list"])).ok().stdout.contains(taken.id()));
    assert!(run(opsctl_with(site, env, &["ls", taken.id()])).ok().stdout.contains("a.txt"));
    for level in ["list", "hash", "decrypt"] {
        let report = run(opsctl_with(site, env, &["check", "--level", level])).ok();
        assert_eq!(report.json["damaged"], json!([]), "{level}");
    }
    to
}

/// The status of one request, signed for this identity by a client that is not opsctl's.
fn status(server: &SeaweedFs, (access, secret): (&str, &str), method: &Method, key: &str, body: &str) -> u16 {
    let client = server.client_for(access, secret);
    let signed = async { client.signed_url(method.clone(), &key.into(), Duration::from_secs(600)).await.unwrap() };
    let url = tokio::runtime::Runtime::new().unwrap().block_on(signed);
    let address = format!("127.0.0.1:{}", url.port().unwrap());
    let stream = TcpStream::connect(&address).unwrap();
    let path = format!("{}?{}", url.path(), url.query().unwrap());
    http(stream, &address, method.as_str(), &path, &[], body.as_bytes()).unwrap()
}

// ---- credentials ----

#[test]
fn the_credentials_of_these_tests_cannot_do_more_than_they_should() {
    let server = server();
    let admin = (server.access_key(), server.secret_key());
    assert_eq!(status(&server, admin, &Method::PUT, "x/theirs", "content"), 200);
    // The same requests as the administrator, so that a refusal is one of rights.
    assert_eq!(status(&server, admin, &Method::GET, "x/theirs", ""), 200);
    assert_eq!(status(&server, admin, &Method::HEAD, "x/theirs", ""), 200);

    assert_eq!(status(&server, HOST, &Method::PUT, "x/own", "content"), 200);
    for key in ["x/theirs", "x/own"] {
        for method in [Method::GET, Method::HEAD, Method::DELETE] {
            assert_eq!(status(&server, HOST, &method, key, ""), 403, "{method} {key}");
        }
        assert_eq!(status(&server, READER, &Method::GET, key, ""), 200);
        for method in [Method::PUT, Method::DELETE] {
            assert_eq!(status(&server, READER, &method, key, "other"), 403, "{method} {key}");
        }
    }
    assert_eq!(names_and_sizes(&server.client(), "x"), [("own".to_owned(), 7), ("theirs".to_owned(), 7)]);
    assert_eq!(status(&server, admin, &Method::DELETE, "x/own", ""), 204);
}

#[test]
fn a_host_that_may_only_list_and_create() {
    let server = server();
    let site = Site::at(&server.store_url("host"), &server.env());
    let data = site.data();
    let (host, reader) = (server.env_for(HOST.0, HOST.1), server.env_for(READER.0, READER.1));

    // Without the two variables it cannot know to whom to encrypt, and says which are missing.
    let said = run(snapshot(&site, &host, &data)).ended(2).error();
    assert!(said.contains("OPSCTL_STORE_ID") && said.contains("OPSCTL_RECIPIENTS"), "{said}");
    for name in ["OPSCTL_STORE_ID", "OPSCTL_RECIPIENTS"] {
        let mut half = told_snapshot(&site, &host, &data);
        half.env_remove(name);
        assert!(run(half).ended(2).error().contains(name), "without {name}");
    }
    let objects = || names_and_sizes(&server.client(), "host");
    assert!(objects().iter().all(|(name, _)| !name.starts_with("packs/")), "nothing was stored");

    let first = run(told_snapshot(&site, &host, &data)).ok();
    std::fs::write(data.join("a.txt"), "second\n").unwrap();
    let second = run(told_snapshot(&site, &host, &data)).ok();
    assert!(second.number("bytes_stored") < 1_000_000, "with the state little is stored: {}", second.stdout);
    assert_equal(&Tree::read(&data), &Tree::read(&read_everything(&site, &reader, &second)));
    std::fs::remove_dir_all(site.dir.join("state")).unwrap();
    let third = run(told_snapshot(&site, &host, &data)).ok();
    assert!(third.number("bytes_stored") > 3_000_000, "without the state all is stored again: {}", third.stdout);
    assert_equal(&Tree::read(&data), &Tree::read(&read_everything(&site, &reader, &third)));
    let listed = run(opsctl_with(&site, &reader, &["list"])).ok();
    for taken in [&first, &second, &third] {
        assert!(listed.stdout.contains(taken.id()));
    }

    // They may be set where reading is allowed; and are compared then.
    run(told_snapshot(&site, &server.env(), &data)).ok();
    let mut wrong = told_snapshot(&site, &server.env(), &data);
    wrong.env("OPSCTL_STORE_ID", "0".repeat(32));
    run(wrong).ended(4);
    let mut wrong = told_snapshot(&site, &server.env(), &data);
    wrong.env("OPSCTL_RECIPIENTS", Site::new().init["recipients"][0].as_str().unwrap());
    run(wrong).ended(4);
}

#[test]
fn a_host_that_may_only_list_and_create_repeats_an_interrupted_upload() {
    let server = server();
    let site = Site::at(&server.store_url("host"), &server.env());
    let data = site.dir.mkdir("data");
    // Three packs.
    site.dir.write("data/a.txt", noise(80 * MIB, 9));
    let (host, reader) = (server.env_for(HOST.0, HOST.1), server.env_for(READER.0, READER.1));
    // Packs of content; those of manifests are small.
    let packs = || {
        let objects = names_and_sizes(&server.client(), "host").into_iter();
        objects.filter(|(name, size)| name.starts_with("packs/") && *size > MIB as u64).collect::<Vec<_>>()
    };
    let interrupted = || {
        // Enough for one pack and not for two.
        let relay = Relay::start(&server.endpoint(), 48 << 20);
        let mut command = told_snapshot(&site, &host, &data);
        command.args(["--upload-concurrency", "1"]).env("AWS_ENDPOINT_URL_S3", relay.endpoint());
        let mut running = Guarded::spawn(&mut command);
        let over = wait_for("the line to break", Duration::from_secs(120), || {
            let ended = running.0.try_wait().unwrap();
            (relay.is_broken() || ended.is_some()).then_some(ended)
        });
        if over.is_some() {
            let done = running.end();
            panic!("it ended by itself: {}\n{}", done.stdout, done.stderr);
        }
        running.0.kill().unwrap();
        assert_ne!(running.end().code, 0);
    };

    interrupted();
    let before = packs();
    assert_eq!(before.len(), 1, "{before:?}");
    let taken = run(told_snapshot(&site, &host, &data)).ok();
    let after = packs();
    assert!(after.contains(&before[0]) && after.len() == 3, "the stored pack is used: {after:?}");
    assert!(taken.number("bytes_stored") < 60 << 20, "two of three are stored: {}", taken.stdout);
    assert_same_tree(&data, &read_everything(&site, &reader, &taken));

    // Without what the state knew of it, the pack that was stored is of no use, and of no harm.
    site.dir.write("data/a.txt", noise(80 * MIB, 10));
    interrupted();
    assert_eq!(packs().len(), 4);
    std::fs::remove_dir_all(site.dir.join("state")).unwrap();
    let taken = run(told_snapshot(&site, &host, &data)).ok();
    assert_eq!(packs().len(), 7, "{}", taken.stdout);
    assert_same_tree(&data, &read_everything(&site, &reader, &taken));
}

#[test]
fn a_reader_that_may_only_list_and_get() {
    let server = server();
    let site = Site::at(&server.store_url("reader"), &server.env());
    let data = site.data();
    let reader = server.env_for(READER.0, READER.1);
    let taken = run(snapshot(&site, &server.env(), &data)).ok();
    let before = names_and_sizes(&server.client(), "reader");
    assert_same_tree(&data, &read_everything(&site, &reader, &taken));
    let refused = run(snapshot(&site, &reader, &data)).ended(12);
    assert_eq!(refused.json["error"]["kind"], "denied");
    assert_eq!(names_and_sizes(&server.client(), "reader"), before);
}

/// The variables of whoever has a shared access signature with these permissions.
fn sas(server: &Azurite, permissions: &str) -> Vec<(&'static str, String)> {
    vec![
        ("AZURE_STORAGE_ACCOUNT_NAME", server.account().to_owned()),
        ("AZURE_STORAGE_SAS_TOKEN", server.sas(permissions)),
        ("AZURE_STORAGE_ENDPOINT", server.endpoint()),
    ]
}

#[test]
fn on_azure_signatures_to_list_and_create_and_to_list_and_read_are_enough() {
    let server = Azurite::start();
    let (host, reader) = (sas(&server, "cl"), sas(&server, "rl"));
    let site = Site::at(&server.store_url("rights"), &server.env());
    let data = site.data();

    // What the two cannot do, by requests that others can.
    let ask = |permissions: &str, method: &str, key: &str| {
        let address = server.endpoint()["http://".len()..].split('/').next().unwrap().to_owned();
        let path = format!("/{}/{CONTAINER}/{key}?{}", server.account(), server.sas(permissions));
        let headers = [("x-ms-blob-type", "BlockBlob".to_owned())];
        http(TcpStream::connect(&address).unwrap(), &address, method, &path, &headers, b"").unwrap()
    };
    assert_eq!((ask("cl", "PUT", "x"), ask("rl", "GET", "x"), ask("w", "PUT", "x")), (201, 200, 201));
    assert_eq!(["PUT", "GET", "HEAD", "DELETE"].map(|method| ask("cl", method, "x")), [403; 4], "not even overwrite");
    assert_eq!(["PUT", "DELETE"].map(|method| ask("rl", method, "x")), [403; 2]);

    let said = run(snapshot(&site, &host, &data)).ended(2).error();
    assert!(said.contains("OPSCTL_STORE_ID"), "it cannot read: {said}");
    let first = run(told_snapshot(&site, &host, &data)).ok();
    std::fs::write(data.join("a.txt"), "second\n").unwrap();
    let second = run(told_snapshot(&site, &host, &data)).ok();
    assert!(second.number("bytes_stored") < first.number("bytes_stored"));
    assert_same_tree(&data, &read_everything(&site, &reader, &second));
    run(told_snapshot(&site, &host, &data)).ok();
    run(snapshot(&site, &reader, &data)).ended(12);
    run(opsctl_with(&site, &host, &["list"])).ended(12);
}

/// What this credential gets when it stores `body` under this name.
fn create(url: &str, env: &[(&'static str, String)], key: &str, body: &'static str) -> Result<Created, StoreError> {
    let env: BTreeMap<String, String> = env.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    let store = Store::open(&Location::parse(url).unwrap(), &env).unwrap();
    tokio::runtime::Runtime::new().unwrap().block_on(store.create(key, PutPayload::from_static(body.as_bytes())))
}

/// Where the answer to a PUT is lost, it is sent again, and the name is taken by then. Azure does not look at the condition of whoever
/// may not overwrite: it refuses.
#[test]
fn a_host_that_may_only_list_and_create_knows_what_it_has_stored() {
    let (seaweed, azurite) = (server(), Azurite::start());
    let (s3, az) = (seaweed.store_url("again"), azurite.store_url("again"));
    for (url, host, reader) in [
        (s3, seaweed.env_for(HOST.0, HOST.1), seaweed.env_for(READER.0, READER.1)),
        (az, sas(&azurite, "cl"), sas(&azurite, "rl")),
    ] {
        assert_eq!(create(&url, &host, "packs/k", "1234"), Ok(Created::New), "{url}");
        assert_eq!(create(&url, &host, "packs/k", "1234"), Ok(Created::AlreadyThere), "{url}");
        let conflict = StoreError::Conflict { key: "packs/k".into(), expected: 5, found: 4 };
        assert_eq!(create(&url, &host, "packs/k", "12345"), Err(conflict), "{url}");
        let denied = create(&url, &reader, "packs/k2", "1234");
        assert!(matches!(denied, Err(StoreError::Denied { .. })), "{url}: {denied:?}");
    }
}

// ---- users ----

#[test]
fn a_user_without_any_right_snapshots_what_it_can_read_and_restores_it() {
    let bench = Bench::new();
    bench.dir.write("tree/a.txt", "first");
    bench.dir.write("tree/sub/big.bin", noise(MIB, 3));
    std::os::unix::fs::symlink("a.txt", bench.tree.join("link")).unwrap();
    let user = bench.unprivileged();
    // Somebody else's, readable for all: such files cannot be opened without touching their access time.
    let theirs = bench.dir.write("tree/theirs/file", "root's");
    for path in [theirs.parent().unwrap(), &theirs] {
        std::os::unix::fs::chown(path, Some(0), Some(0)).unwrap();
    }
    chmod(&theirs, 0o444);

    let first = run(user.command(&bench.snapshot_command(NONE))).ok();
    assert_eq!(first.text("status"), "complete");
    bench.dir.write("tree/new.txt", "new");
    let second = run(user.command(&bench.snapshot_command(NONE))).ok();
    assert!(second.number("bytes_stored") < first.number("bytes_stored"), "the state is used");

    let to = bench.dir.join("to");
    run(user.command(&bench.restore_command(&to, ["--snapshot", second.id()]))).ok();
    // Only root may give files away: what was root's is the user's now, and everything else is as it was.
    let own = |path: &[u8]| !path.starts_with(b"theirs") && path != b"new.txt";
    let (tree, restored) = (Tree::read(&bench.tree), Tree::read(&to));
    assert_equal(&tree.clone().without(|path| !own(path)), &restored.clone().without(|path| !own(path)));
    assert_eq!(restored.entry("theirs/file").sha256, tree.entry("theirs/file").sha256);
    assert_eq!((restored.entry("theirs/file").uid, restored.entry("theirs/file").mode), (65534, 0o444));
    // With the rights to give files away, the whole tree is as it was.
    assert_same_tree(&bench.tree, &bench.restored(&second));
}

// ---- a folder that is read-only ----

#[test]
fn a_read_only_folder_is_captured_twice_and_nothing_is_written_below_it() {
    let bench = Bench::new();
    bench.dir.write("tree/a.txt", "first");
    bench.dir.write("tree/sub/big.bin", noise(3 * MIB, 4));
    // A database in WAL mode whose newest rows are in the log alone, as a service leaves it that was killed.
    let database = bench.tree.join("live.db");
    cycle::python(
        "import os, sqlite3, sys\n\
         db = sqlite3.connect(sys.argv[1], isolation_level=None)\n\
         db.execute('pragma journal_mode=wal')\n\
         db.execute('pragma wal_autocheckpoint=0')\n\
         db.execute('create table t(x)')\n\
         db.executemany('insert into t values(?)', [(n,) for n in range(1000)])\n\
         os._exit(0)",
        &[&database],
    );
    assert!(bench.tree.join("live.db-wal").metadata().unwrap().len() > 0);
    rest();
    let stats = || {
        let tree = Tree::read(&bench.tree);
        let paths = tree.0.keys().map(|path| bench.tree.join(std::str::from_utf8(path).unwrap()));
        paths.map(|path| (stat_of(&path), path)).collect::<Vec<_>>()
    };
    let before = stats();

    let data = bench.dir.mkdir("data");
    let _mounted = Mounted::read_only(&bench.tree, &data);
    let written = std::fs::write(data.join("new"), "x").unwrap_err();
    assert_eq!(written.kind(), std::io::ErrorKind::ReadOnlyFilesystem);

    let first = run(bench.snapshot_of(&data, NONE)).ok();
    assert_eq!((first.text("status"), first.warnings()), ("complete", vec![]));
    let second = run(bench.snapshot_of(&data, NONE)).ok();
    assert_eq!(second.number("bytes_read"), 0, "nothing changed, nothing is read: {}", second.stdout);
    assert_eq!(stats(), before, "nothing below the folder was touched");

    let to = bench.restored(&second);
    let rows = cycle::python(
        "import sqlite3, sys; print(*sqlite3.connect(sys.argv[1]).execute('select count(*), sum(x) from t').fetchone())",
        &[&to.join("live.db")],
    );
    assert_eq!(rows.trim(), "1000 499500");
    let plain = |path: &[u8]| path.starts_with(b"live.db");
    assert_equal(&Tree::read(&bench.tree).without(plain), &Tree::read(&to).without(plain));

    // The state would lie in the folder itself, and the message says how it need not.
    let mut inside = bench.snapshot_of(&data, NONE);
    inside.env_remove("OPSCTL_STATE_DIR");
    let done = run(inside);
    assert_ne!(done.code, 0);
    assert!(done.error().contains("--state-dir"), "{}", done.stdout);
}
