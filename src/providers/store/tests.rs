//! Behaviour on backends of this host, and on one that fails on command.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use object_store::memory::InMemory;
use object_store::{Error as BackendError, PutPayload};

use super::faulty::{Asked, Faulty, Op, Rule, exists, generic, reset, timeout};
use super::http::HttpFault;
use super::*;
use crate::ExitCode;

pub(super) fn env(variables: &[(&str, &str)]) -> BTreeMap<String, String> {
    variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

pub(super) fn fast() -> RetryPolicy {
    let short = Duration::from_millis(1);
    RetryPolicy { tries: 4, first_wait: short, longest_wait: short, total_wait: Duration::from_secs(1) }
}

fn body(text: &'static str) -> PutPayload {
    PutPayload::from_static(text.as_bytes())
}

fn local(directory: &std::path::Path) -> Store {
    let location = Location::parse(&format!("file://{}", directory.display())).unwrap();
    Store::open(&location, &env(&[])).unwrap()
}

/// A store in memory that fails as these rules say.
fn faulty(rules: impl IntoIterator<Item = Rule>) -> (Store, Arc<Faulty>) {
    let backend = Faulty::over(Arc::new(InMemory::new()), rules);
    let location = Location::parse("s3://bucket/pre/fix").unwrap();
    (Store::from_backend(location, Arc::clone(&backend) as Arc<dyn ObjectStore>).with_retry(fast()), backend)
}

/// What was asked of it, in short.
fn log(backend: &Faulty) -> Vec<&'static str> {
    let word = |asked: Asked| match asked.op {
        Op::Put if asked.create_only => "PUT new",
        Op::Put => "PUT",
        Op::Get => "GET",
        Op::List => "LIST",
    };
    backend.asked().into_iter().map(word).collect()
}

fn http(status: u16, code: &str) -> BackendError {
    generic(HttpFault { status, code: code.into(), message: String::new() })
}

#[tokio::test]
async fn names_are_taken_once_on_every_backend() {
    let directory = tempfile::tempdir().unwrap();
    for store in [Store::in_memory(), local(directory.path()), faulty([]).0] {
        assert!(store.is_empty().await.unwrap(), "{store:?}");
        assert_eq!(store.create("packs/ab/one", body("1234")).await.unwrap(), Created::New);
        assert_eq!(store.create("packs/ab/one", body("1234")).await.unwrap(), Created::AlreadyThere);
        let conflict = store.create("packs/ab/one", body("12345")).await.unwrap_err();
        assert_eq!(conflict, StoreError::Conflict { key: "packs/ab/one".into(), expected: 5, found: 4 });
        // In the root, and under names that cannot be made shorter to be the offset of a LIST.
        for key in ["opsctl-store.json", "x", "packs/y", "packs/.z"] {
            assert_eq!(store.create(key, body("{}")).await.unwrap(), Created::New);
            assert_eq!(store.create(key, body("{}")).await.unwrap(), Created::AlreadyThere, "{key}");
        }
        assert!(!store.is_empty().await.unwrap());
        assert_eq!(&store.get("packs/ab/one").await.unwrap()[..], b"1234");
        assert!(store.conditional_put());
    }
}

#[tokio::test]
async fn lists_are_sorted_and_relative() {
    let directory = tempfile::tempdir().unwrap();
    for store in [Store::in_memory(), local(directory.path()), faulty([]).0] {
        for key in ["b/2", "b/10", "a", "b/c/d", "b-/x", "bb/1"] {
            store.create(key, body("12")).await.unwrap();
        }
        let keys = async |prefix: &str| -> Vec<String> {
            store.list(prefix).await.unwrap().into_iter().map(|object| object.key).collect()
        };
        assert_eq!(keys("").await, ["a", "b-/x", "b/10", "b/2", "b/c/d", "bb/1"]);
        assert_eq!(keys("b").await, ["b/10", "b/2", "b/c/d"]);
        assert_eq!(keys("b/").await, ["b/10", "b/2", "b/c/d"]);
        assert_eq!(keys("none").await, [""; 0]);
        let object = &store.list("a-folder-that-is-a-file").await.unwrap();
        assert!(object.is_empty());
        let first = &store.list("b").await.unwrap()[0];
        assert_eq!(first.size, 2);
        let age = jiff::Timestamp::now().duration_since(first.modified);
        assert!(age.abs() < jiff::SignedDuration::from_mins(1), "{age}");
    }
}

#[tokio::test]
async fn ranges_are_exact_or_an_error() {
    let directory = tempfile::tempdir().unwrap();
    for store in [Store::in_memory(), local(directory.path())] {
        store.create("k", body("0123456789")).await.unwrap();
        assert_eq!(&store.get_range("k", 2..5).await.unwrap()[..], b"234");
        assert_eq!(&store.get_range("k", 0..10).await.unwrap()[..], b"0123456789");
        assert_eq!(&store.get_range("k", 3..3).await.unwrap()[..], b"");
        let short = store.get_range("k", 8..12).await.unwrap_err();
        assert_eq!(short, StoreError::Short { key: "k".into(), wanted: 8..12, found: 2 });
        let beyond = store.get_range("k", 10..11).await.unwrap_err();
        assert_eq!(beyond, StoreError::Short { key: "k".into(), wanted: 10..11, found: 0 });
        assert_eq!(store.get("none").await.unwrap_err(), StoreError::NotFound { key: "none".into() });
        assert_eq!(store.get_range("none", 0..1).await.unwrap_err(), StoreError::NotFound { key: "none".into() });
    }
}

#[tokio::test]
async fn keys_mean_what_they_say() {
    let (store, backend) = faulty([]);
    for key in ["", "/a", "a/", "a//b", "../a", "a/./b", "a\nb"] {
        assert!(matches!(store.create(key, body("")).await, Err(StoreError::Other { .. })), "{key:?}");
        assert!(matches!(store.get(key).await, Err(StoreError::Other { .. })), "{key:?}");
    }
    assert!(log(&backend).is_empty());
}

#[tokio::test]
async fn a_burst_of_failures_is_outlasted_and_counted() {
    let (store, backend) = faulty([
        Rule::put("").nth(1).fails(|_| http(503, "SlowDown")),
        Rule::put("").nth(2).fails(|_| http(500, "InternalError")),
        Rule::put("").nth(3).fails(reset),
    ]);
    assert_eq!(store.create("k", body("1234")).await.unwrap(), Created::New);
    assert_eq!(log(&backend), ["PUT new"; 4]);
    assert_eq!(store.stats(), StoreStats { requests: 4, bytes_sent: 16, bytes_received: 0, retries: 3 });
    store.get("k").await.unwrap();
    assert_eq!(store.clone().stats().bytes_received, 4);
}

#[tokio::test]
async fn retries_end() {
    let (store, backend) = faulty([Rule::put("").fails(|_| http(503, "SlowDown"))]);
    let error = store.create("k", body("1")).await.unwrap_err();
    assert!(matches!(error, StoreError::RateLimited { .. }), "{error:?}");
    assert_eq!(crate::Error::from(error).code(), ExitCode::RateLimited);
    assert_eq!(log(&backend).len(), 4);

    let (store, backend) = faulty([Rule::put("").fails(|_| http(403, "AccessDenied"))]);
    assert!(matches!(store.create("k", body("1")).await, Err(StoreError::Denied { .. })));
    assert_eq!(log(&backend), ["PUT new", "LIST"]);

    let (store, backend) = faulty([Rule::put("").fails(|_| http(500, ""))]);
    assert!(store.with_retry(RetryPolicy::never()).create("k", body("1")).await.is_err());
    assert_eq!(log(&backend).len(), 1);
}

#[tokio::test]
async fn a_lost_answer_is_settled_by_list_alone() {
    let (store, backend) = faulty([Rule::put("").nth(1).loses_its_answer(timeout)]);
    assert_eq!(store.create("a/k", body("1234")).await.unwrap(), Created::AlreadyThere);
    assert_eq!(log(&backend), ["PUT new", "PUT new", "LIST"]);
}

#[tokio::test]
async fn a_refusal_of_a_taken_name_is_settled_by_list_too() {
    let lost = Rule::put("").nth(1).loses_its_answer(|_| http(500, ""));
    let refused = |n| Rule::put("").nth(n).fails(|_| http(403, "AuthorizationPermissionMismatch"));
    let (store, backend) = faulty([lost, refused(2), refused(3)]);
    assert_eq!(store.create("k", body("1234")).await.unwrap(), Created::AlreadyThere);
    assert_eq!(log(&backend), ["PUT new", "PUT new", "LIST"]);
    assert!(matches!(store.create("k", body("12345")).await, Err(StoreError::Conflict { found: 4, .. })));
}

#[tokio::test]
async fn a_conflict_without_an_object_is_tried_again() {
    // 409: two conditional requests at once, and neither has won yet.
    let (store, backend) = faulty([
        Rule::put("fix/k").nth(2).fails(exists),
        Rule::put("fix/k").nth(3).fails(|_| http(409, "Conditional")),
    ]);
    // A longer name with the same beginning is another object.
    assert_eq!(store.create("k2", body("1")).await.unwrap(), Created::New);
    assert_eq!(store.create("k", body("1")).await.unwrap(), Created::New);
    assert_eq!(log(&backend), ["PUT new", "PUT new", "LIST", "PUT new", "LIST", "PUT new"]);
}

#[tokio::test]
async fn a_store_without_conditional_put_is_remembered() {
    fn not_implemented(_: &str) -> BackendError {
        BackendError::NotImplemented { operation: "x".into(), implementer: "y".into() }
    }
    for error in [not_implemented, |_: &str| http(501, "NotImplemented")] {
        let (store, backend) = faulty([Rule::put("").nth(1).fails(error)]);
        assert_eq!(store.create("a", body("1")).await.unwrap(), Created::New);
        assert_eq!(store.clone().create("b", body("1")).await.unwrap(), Created::New);
        assert_eq!(log(&backend), ["PUT new", "PUT", "PUT"]);
        assert!(!store.conditional_put());
        assert_eq!(store.stats().retries, 0);
    }
}

#[tokio::test]
async fn a_directory_is_opened_only_if_it_is_one() {
    let directory = tempfile::tempdir().unwrap();
    let new = directory.path().join("new/store");
    let location = Location::parse(&format!("file://{}", new.display())).unwrap();
    assert!(matches!(Store::open(&location, &env(&[])), Err(StoreError::NotFound { .. })));
    let store = Store::open_or_make(&location, &env(&[])).unwrap();
    store.create("packs/k", body("1")).await.unwrap();
    Store::open_or_make(&location, &env(&[])).unwrap();
    // What a crash leaves behind is no object.
    std::fs::write(new.join("packs/k2#1"), "half").unwrap();
    assert_eq!(store.list("").await.unwrap().len(), 1);
    let file = Location::parse(&format!("{location}/packs/k")).unwrap();
    assert!(Store::open(&file, &env(&[])).is_err() && Store::open_or_make(&file, &env(&[])).is_err());
    let memory = Location::parse("memory://").unwrap();
    assert!(matches!(Store::open(&memory, &env(&[])), Err(StoreError::BadLocation { .. })));
}

#[tokio::test]
async fn a_directory_lists_in_no_order_and_names_are_found_all_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let store = local(directory.path());
    let keys: Vec<String> = (0..40).map(|number| format!("packs/{number:02}")).collect();
    for key in &keys {
        store.create(key, body("1")).await.unwrap();
    }
    for key in &keys {
        assert_eq!(store.create(key, body("1")).await.unwrap(), Created::AlreadyThere, "{key}");
    }
}

#[test]
fn every_error_has_its_exit_code() {
    let key = || "k".to_owned();
    for (error, code) in [
        (generic(io::Error::from(io::ErrorKind::StorageFull)), ExitCode::NoSpace),
        (generic(io::Error::from(io::ErrorKind::PermissionDenied)), ExitCode::Denied),
        (http(507, ""), ExitCode::NoSpace),
        (http(404, "NoSuchBucket"), ExitCode::NotFound),
        (http(401, ""), ExitCode::Denied),
        (http(400, "ExpiredToken"), ExitCode::Denied),
        (http(400, "MalformedXML"), ExitCode::Failed),
        (http(301, "PermanentRedirect"), ExitCode::Usage),
        (http(429, ""), ExitCode::RateLimited),
        (http(503, ""), ExitCode::Failed),
        (http(501, ""), ExitCode::Failed),
        (exists("x"), ExitCode::Failed),
    ] {
        let error = crate::Error::from(classify("k", "s3://b", &error).into_error("k"));
        assert_eq!(error.code(), code, "{error}");
        assert!(error.hint_text().is_some_and(|hint| !hint.is_empty()));
    }
    let conflict = StoreError::Conflict { key: key(), expected: 1, found: 2 };
    assert_eq!(crate::Error::from(conflict).code(), ExitCode::Integrity);
    assert_eq!(crate::Error::from(StoreError::BadConfig { detail: key() }).code(), ExitCode::Usage);
}

#[test]
fn debug_of_a_store_shows_no_backend() {
    let (store, _) = faulty([]);
    assert_eq!(
        format!("{store:?}"),
        "Store { location: Location { scheme: S3, bucket: \"bucket\", path: \"pre/fix\" }, .. }"
    );
    assert_eq!(format!("{store:#?}").matches("AKIA").count(), 0);
}

#[test]
fn requests_can_move_between_threads() {
    fn movable<T: Send + 'static>(_: T) {}
    let store = Store::in_memory();
    movable(async move {
        drop((store.is_empty().await, store.list("").await, store.get_range("k", 0..1).await));
        store.create("k", body("1")).await
    });
}

#[tokio::test]
async fn a_directory_lists_past_foreign_names_and_circles() {
    use std::os::unix::ffi::OsStrExt as _;
    let directory = tempfile::tempdir().unwrap();
    let store = local(directory.path());
    let packs = directory.path().join("packs");
    store.create("packs/a", body("12")).await.unwrap();
    for name in [b"\xff".as_slice(), b"b\x01"] {
        std::fs::write(packs.join(std::ffi::OsStr::from_bytes(name)), "x").unwrap();
    }
    store.create("packs/z", body("1")).await.unwrap();
    std::os::unix::fs::symlink("..", packs.join("circle")).unwrap();
    std::os::unix::fs::symlink("nowhere", packs.join("dangling")).unwrap();
    std::os::unix::fs::symlink("a", packs.join("link")).unwrap();
    let found: Vec<String> = store.list("").await.unwrap().into_iter().map(|object| object.key).collect();
    assert_eq!(found, ["packs/a", "packs/link", "packs/z"]);
    assert_eq!(
        store.get_at_most("packs/a", 1).await.unwrap_err().to_string(),
        "packs/a is 2 bytes long, at most 1 are expected"
    );
    let odd = tempfile::tempdir().unwrap();
    std::fs::write(odd.path().join(std::ffi::OsStr::from_bytes(b"\xff")), "x").unwrap();
    assert!(!local(odd.path()).is_empty().await.unwrap(), "it is somebody's");
}
