//! What `Store` promises, as named checks that hold on every kind of store.
//!
//! A check gets a store that is empty and its own, and panics when a promise is broken. What a kind of store cannot do stands in its
//! [`Capabilities`]; a check then proves that it really cannot, so that the row is noticed when it no longer holds.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of this module")]
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "a test helper fails by panicking")]
#![allow(clippy::print_stdout, reason = "a failure shows which check took how long")]

use std::collections::BTreeMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use object_store::PutPayload;
use opsctl::providers::store::{Created, Location, RetryPolicy, Store, StoreError};
use sha2::{Digest as _, Sha256};

use crate::support::opsctl::noise;

/// How many requests are under way at once where a check needs many objects.
const IN_FLIGHT: usize = 32;
/// Objects of the check of long listings: ten pages, and two on Azure.
pub const MANY: usize = 10_000;
/// More than any pack, and than any buffer on the way.
const LARGE: usize = 64 << 20;

/// What a kind of store can do.
#[derive(Debug, Clone, Copy)]
pub struct Capabilities {
    /// A PUT that creates or fails.
    pub conditional_put: bool,
    /// Parts of objects.
    pub ranges: bool,
}

/// A kind of store, as the checks see it.
pub struct Subject {
    pub name: &'static str,
    pub can: Capabilities,
    /// Objects on one page of a LIST; all of them where there are no pages.
    pub page: usize,
    /// The store at a prefix of its own.
    pub open: Box<dyn Fn(&str) -> Store + Send + Sync>,
    /// The folder of all prefixes, where a check may write files as objects, which is faster.
    pub folder: Option<PathBuf>,
    /// A store in a bucket that does not exist. A store in memory has none.
    pub missing: Option<Store>,
}

type Check = for<'a> fn(&'a Subject, &'a Store) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

macro_rules! checks {
    ($($check:ident),* $(,)?) => {
        /// Every check with its name.
        pub const CHECKS: &[(&str, Check)] =
            &[$((stringify!($check), |subject, store| Box::pin($check(subject, store)))),*];
    };
}

checks![
    an_empty_store_is_empty,
    a_folder_lists_what_is_in_it_and_nothing_beside_it,
    a_list_is_in_order_whatever_the_order_of_writing,
    a_list_tells_sizes_and_times,
    ten_thousand_objects_are_listed_once_each,
    every_possible_key_is_kept_as_it_is,
    impossible_keys_are_refused_before_anything_is_sent,
    small_and_large_objects_come_back_byte_for_byte,
    a_limit_is_kept,
    ranges_are_exact_or_an_error,
    what_is_missing_is_not_found,
    a_missing_bucket_is_named,
    a_taken_name_is_settled_by_list,
    a_taken_name_is_found_beside_folders_of_like_names,
    nothing_is_overwritten,
    of_many_writers_one_wins,
    of_many_writers_of_other_lengths_one_wins,
];

/// Runs every check and reports all that fail.
pub async fn run(subject: &Subject) {
    let mut failures = Vec::new();
    for (name, check) in CHECKS {
        let started = Instant::now();
        let store = (subject.open)(name);
        let outcome = AssertUnwindSafe(check(subject, &store)).catch_unwind().await;
        println!("{}: {name}: {:.2} s", subject.name, started.elapsed().as_secs_f64());
        if let Err(panic) = outcome {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            failures.push(format!("{}: {name}: {}", subject.name, text.unwrap_or_default()));
        }
    }
    assert!(failures.is_empty(), "{} of {} checks failed:\n{}", failures.len(), CHECKS.len(), failures.join("\n\n"));
}

/// A store as the program opens it, except that it gives up soon.
pub fn open(url: &str, env: &[(&str, String)]) -> Store {
    let env: BTreeMap<String, String> = env.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    let wait = Duration::from_millis(50);
    let retry = RetryPolicy { tries: 6, first_wait: wait, longest_wait: 10 * wait, total_wait: 100 * wait };
    Store::open_or_make(&Location::parse(url).unwrap(), &env).unwrap().with_retry(retry)
}

async fn put(store: &Store, key: &str, body: impl Into<Bytes>) -> Result<Created, StoreError> {
    store.create(key, PutPayload::from_bytes(body.into())).await
}

/// Stores something under each of these keys.
async fn put_all(store: &Store, keys: &[&str]) {
    for key in keys {
        assert_eq!(put(store, key, "x").await, Ok(Created::New), "{key:?}");
    }
}

async fn keys(store: &Store, folder: &str) -> Vec<String> {
    store.list(folder).await.unwrap().into_iter().map(|object| object.key).collect()
}

// ---- listing ----

async fn an_empty_store_is_empty(_: &Subject, store: &Store) {
    assert!(store.is_empty().await.unwrap());
    assert_eq!(store.list("").await.unwrap(), []);
    assert_eq!(store.list("packs/ab").await.unwrap(), []);
    put(store, "x", "").await.unwrap();
    assert!(!store.is_empty().await.unwrap());
}

async fn a_folder_lists_what_is_in_it_and_nothing_beside_it(subject: &Subject, store: &Store) {
    put_all(store, &["a/1", "a/b/2", "a-b/3", "a.b/4", "ab/5", "b/a/6", "A/7", "a0/8", "one"]).await;
    assert_eq!(keys(store, "a").await, ["a/1", "a/b/2"]);
    assert_eq!(keys(store, "a/").await, ["a/1", "a/b/2"]);
    assert_eq!(keys(store, "a/b").await, ["a/b/2"]);
    assert_eq!(keys(store, "ab").await, ["ab/5"]);
    assert_eq!(keys(store, "b").await, ["b/a/6"]);
    for none in ["c", "a/b/2/3", "on", "a/1"] {
        assert_eq!(keys(store, none).await, [""; 0], "{none}");
    }
    // The same of whole stores: one whose prefix begins like another's sees nothing of it.
    let own = keys(store, "").await;
    let neighbour = (subject.open)("a_folder_lists_what_is_in_it_and_nothing_beside_it-2");
    put(&neighbour, "z", "").await.unwrap();
    assert_eq!(keys(store, "").await, own);
    assert_eq!(keys(&neighbour, "").await, ["z"]);
}

async fn a_list_is_in_order_whatever_the_order_of_writing(_: &Subject, store: &Store) {
    let mut names: Vec<String> =
        (0..60).map(|n| format!("d{}/{:x}", n % 7, u32::wrapping_mul(n, 0x9e37_79b9))).collect();
    names.extend(["d1-x/y", "d1.x", "d10/a", "Z", "z", "~", "ä", "d1/ä", "d1/é/a"].map(str::to_owned));
    for name in &names {
        put(store, name, "").await.unwrap();
    }
    names.sort();
    assert_eq!(keys(store, "").await, names);
}

async fn a_list_tells_sizes_and_times(_: &Subject, store: &Store) {
    let before = jiff::Timestamp::now();
    let sizes = [0_usize, 1, 1000, 70_000];
    for size in sizes {
        put(store, &format!("s/{size}"), noise(size, 1)).await.unwrap();
    }
    let after = jiff::Timestamp::now();
    let listed = store.list("s").await.unwrap();
    assert_eq!(listed.len(), sizes.len());
    for object in listed {
        assert_eq!(object.key, format!("s/{}", object.size));
        // Most stores keep whole seconds only.
        let second = jiff::SignedDuration::from_secs(1);
        assert!(before - second <= object.modified && object.modified <= after + second, "{object:?}");
    }
}

async fn ten_thousand_objects_are_listed_once_each(subject: &Subject, store: &Store) {
    let names: Vec<String> = (0..MANY).map(|n| format!("packs/{:02x}/{n:05}", n % 16)).collect();
    if let Some(folder) = &subject.folder {
        let folder = folder.join("ten_thousand_objects_are_listed_once_each");
        for n in 0..16 {
            std::fs::create_dir_all(folder.join(format!("packs/{n:02x}"))).unwrap();
        }
        for name in &names {
            std::fs::write(folder.join(name), "x").unwrap();
        }
    } else {
        let puts: Vec<_> = names.iter().map(|name| put(store, name, "x")).collect();
        let puts = futures::stream::iter(puts).buffer_unordered(IN_FLIGHT);
        let done: Vec<_> = puts.try_collect().await.unwrap();
        assert!(done.iter().all(|created| *created == Created::New));
    }
    let mut names = names;
    names.sort();
    let before = store.stats().requests;
    let listed = keys(store, "packs").await;
    let other = names.iter().zip(&listed).find(|(name, listed)| name != listed);
    assert!(listed == names, "{} of {MANY} names; the first other one: {other:?}", listed.len());
    let (pages, asked) = (MANY / subject.page, usize::try_from(store.stats().requests - before).unwrap());
    // One more, if the last page does not say that it is the last.
    assert!((pages..=pages + 1).contains(&asked), "{asked} requests where {pages} pages are");
    assert_eq!(keys(store, "packs/0f").await.len(), MANY / 16);
    // One name among them is found, the last one as well.
    for name in [&names[0], &names[MANY / 2], &names[MANY - 1]] {
        if subject.can.conditional_put {
            assert_eq!(put(store, name, "y").await, Ok(Created::AlreadyThere), "{name}");
        }
    }
}

// ---- keys ----

/// Keys that a store can hold, apart from plain ones.
const ODD: &[&str] = &[
    "a b",
    "two  spaces",
    "plus+plus",
    "100%",
    "%41",
    "%2F",
    "a%2Fb",
    "%zz",
    "%",
    "a=b",
    "a&b",
    "&amp;",
    "a~b",
    "'single'",
    "\"double\"",
    "`back`",
    "semi;colon",
    "co:lon",
    "com,ma",
    "at@at",
    "ex!cl",
    "dollar$",
    "star*",
    "(round)",
    "[square]",
    "{curly}",
    "<angle>",
    "pi|pe",
    "ca^ret",
    "hash#",
    "#hash",
    "ques?tion",
    "?list-type=2",
    "..a",
    "a..",
    "...",
    ".hidden",
    "-",
    "ä",
    "a\u{308}",
    "日本",
    "😀",
    "f 1/f%2F2/f+3/ä",
];

async fn every_possible_key_is_kept_as_it_is(subject: &Subject, store: &Store) {
    let mut problems = Vec::new();
    for key in ODD {
        let body = format!("content of {key}");
        for key in [(*key).to_owned(), format!("odd/{key}"), format!("odd/{key}/x")] {
            // A key that is a folder too is possible in object storage only.
            let key = if key.ends_with("/x") { key } else { format!("plain/{key}") };
            let created = put(store, &key, body.clone()).await;
            if created != Ok(Created::New) {
                problems.push(format!("{key:?}: create: {created:?}"));
                continue;
            }
            match store.get(&key).await {
                Ok(found) if found == body => {}
                other => problems.push(format!("{key:?}: get: {other:?}")),
            }
            let folder = key.rsplit_once('/').unwrap().0;
            let listed = keys(store, folder).await;
            if !listed.contains(&key) {
                problems.push(format!("{key:?} is not in the list of {folder:?}: {listed:?}"));
            }
            if subject.can.conditional_put {
                let again = put(store, &key, body.clone()).await;
                if again != Ok(Created::AlreadyThere) {
                    problems.push(format!("{key:?}: again: {again:?}"));
                }
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// Keys that no store holds.
const IMPOSSIBLE: &[&str] = &[
    "", "/", "/a", "a/", "a//b", ".", "..", "a/..", "../a", "./a", "a/./b", "a\nb", "a\0", "\u{7f}", "a\tb", " a",
    "a ", "a#1", "a/b#23", "a\\b",
];

async fn impossible_keys_are_refused_before_anything_is_sent(_: &Subject, store: &Store) {
    for key in IMPOSSIBLE {
        let created = put(store, key, "x").await;
        assert!(matches!(created, Err(StoreError::Other { .. })), "create {key:?}: {created:?}");
        let got = store.get(key).await;
        assert!(matches!(got, Err(StoreError::Other { .. })), "get {key:?}: {got:?}");
        let range = store.get_range(key, 0..1).await;
        assert!(matches!(range, Err(StoreError::Other { .. })), "range of {key:?}: {range:?}");
    }
    assert_eq!(store.stats().requests, 0);
    assert!(store.is_empty().await.unwrap());
}

// ---- reading ----

async fn small_and_large_objects_come_back_byte_for_byte(subject: &Subject, store: &Store) {
    for size in [0, 1, LARGE] {
        let body = Bytes::from(noise(size, 64));
        let hash = Sha256::digest(&body);
        let key = format!("size/{size}");
        assert_eq!(put(store, &key, body).await.unwrap(), Created::New, "{size}");
        let found = store.get(&key).await.unwrap();
        assert_eq!(found.len(), size);
        assert_eq!(Sha256::digest(&found), hash, "{size} bytes came back as others");
        if subject.can.ranges && size > 0 {
            let last = store.get_range(&key, size as u64 - 1..size as u64).await.unwrap();
            assert_eq!(last, found[size - 1..]);
        }
    }
}

async fn a_limit_is_kept(_: &Subject, store: &Store) {
    put(store, "k", noise(1000, 2)).await.unwrap();
    assert_eq!(store.get_at_most("k", 1000).await.unwrap().len(), 1000);
    let received = store.stats().bytes_received;
    let error = store.get_at_most("k", 999).await.unwrap_err();
    assert_eq!(error, StoreError::TooLarge { key: "k".into(), size: 1000, limit: 999 });
    assert_eq!(store.stats().bytes_received, received, "nothing of it is taken");
}

async fn ranges_are_exact_or_an_error(subject: &Subject, store: &Store) {
    const SIZE: u64 = 200_001;
    let body = noise(200_001, 3);
    put(store, "k", body.clone()).await.unwrap();
    put(store, "nothing", "").await.unwrap();
    assert_eq!(store.get_range("k", 7..7).await.unwrap(), "", "nothing is asked for, nothing is sent");
    let inside = [0..1, 1..2, 65_535..65_537, 65_536..131_072, 3..SIZE - 1, SIZE - 1..SIZE, 100_000..SIZE, 0..SIZE];
    if !subject.can.ranges {
        for range in inside {
            let error = store.get_range("k", range).await.unwrap_err();
            assert_eq!(error, StoreError::RangeUnsupported { key: "k".into() }, "so it can do ranges now");
        }
        assert_eq!(store.get("k").await.unwrap(), body);
        return;
    }
    for range in inside {
        let found = store.get_range("k", range.clone()).await.unwrap();
        let (from, to) = (usize::try_from(range.start).unwrap(), usize::try_from(range.end).unwrap());
        assert!(found == body[from..to], "{range:?}: {} bytes", found.len());
    }
    for (wanted, found) in [(SIZE - 1..SIZE + 1, 1), (0..SIZE + 1, SIZE), (SIZE..SIZE + 1, 0), (SIZE + 9..SIZE + 10, 0)]
    {
        let short = StoreError::Short { key: "k".into(), wanted: wanted.clone(), found };
        assert_eq!(store.get_range("k", wanted).await, Err(short));
    }
    let short = StoreError::Short { key: "nothing".into(), wanted: 0..1, found: 0 };
    assert_eq!(store.get_range("nothing", 0..1).await, Err(short));
}

async fn what_is_missing_is_not_found(_: &Subject, store: &Store) {
    put(store, "there/k", "x").await.unwrap();
    for key in ["none", "there/none", "there", "there/k2", "none/k"] {
        let missing = StoreError::NotFound { key: key.into() };
        assert_eq!(store.get(key).await, Err(missing.clone()), "{key}");
        assert_eq!(store.get_range(key, 0..1).await, Err(missing.clone()), "{key}");
        assert_eq!(store.get_at_most(key, 1).await, Err(missing), "{key}");
    }
}

async fn a_missing_bucket_is_named(subject: &Subject, _: &Store) {
    let Some(missing) = &subject.missing else { return };
    let not_found = StoreError::NotFound { key: missing.location().to_string() };
    assert_eq!(missing.list("").await, Err(not_found.clone()));
    assert_eq!(missing.list("packs").await.unwrap_err(), not_found);
    assert_eq!(missing.is_empty().await, Err(not_found.clone()));
    let got = missing.get("k").await.unwrap_err();
    assert!(matches!(got, StoreError::NotFound { .. }), "{got:?}");
}

// ---- writing ----

async fn a_taken_name_is_settled_by_list(subject: &Subject, store: &Store) {
    assert_eq!(put(store, "packs/ab/k", "1234").await.unwrap(), Created::New);
    let before = store.stats();
    let again = put(store, "packs/ab/k", "1234").await.unwrap();
    let longer = put(store, "packs/ab/k", "12345").await;
    let after = store.stats();
    assert_eq!(after.bytes_received, before.bytes_received, "nothing is read");
    if !subject.can.conditional_put {
        assert_eq!((again, longer), (Created::New, Ok(Created::New)), "so it can create now");
        // It does not say that it cannot, and no option of ours turns the condition off.
        assert!(store.conditional_put());
        return;
    }
    assert_eq!(again, Created::AlreadyThere);
    assert_eq!(longer, Err(StoreError::Conflict { key: "packs/ab/k".into(), expected: 5, found: 4 }));
    assert_eq!(after.requests - before.requests, 4, "a PUT and a LIST each");
    assert!(store.conditional_put());
}

async fn a_taken_name_is_found_beside_folders_of_like_names(subject: &Subject, store: &Store) {
    if !subject.can.conditional_put {
        return;
    }
    // By bytes `b-` comes before `b/x`, and by parts after it: a store may list either way.
    let names = ["a/b/x", "a/b/y/z", "a/b-", "a/b-c", "a/b.c", "a/b0", "a/bb", "a/a", "a/c/x", "b", "a0"];
    put_all(store, &names).await;
    for name in names {
        assert_eq!(put(store, name, "y").await, Ok(Created::AlreadyThere), "{name}");
    }
}

async fn nothing_is_overwritten(subject: &Subject, store: &Store) {
    put(store, "k", "first").await.unwrap();
    let listed = store.list("").await.unwrap();
    for other in ["other", "", "longer than the first"] {
        let _ = put(store, "k", other).await;
    }
    let kept = store.get("k").await.unwrap();
    if subject.can.conditional_put {
        assert_eq!(kept, "first");
        assert_eq!(store.list("").await.unwrap(), listed);
    } else {
        assert_eq!(kept, "longer than the first", "so it can create now");
    }
}

async fn of_many_writers_one_wins(subject: &Subject, store: &Store) {
    race(subject, store, |n| noise(5000, n)).await;
}

async fn of_many_writers_of_other_lengths_one_wins(subject: &Subject, store: &Store) {
    race(subject, store, |n| noise(5000 + usize::try_from(n).unwrap(), n)).await;
}

/// Sixteen writers of one name, all at once, over and over. Where nothing keeps writers apart, what they leave of different bytes may be
/// a mixture (rclone was seen to do that), so there they write the same, as those of opsctl do: names hold a hash. Some names are fought for side by side: SeaweedFS gives its lock for a
/// name to one writer a quarter of a second, and would take minutes.
async fn race(subject: &Subject, store: &Store, body: impl Fn(u64) -> Vec<u8>) {
    const WRITERS: u64 = 16;
    const ROUNDS: u64 = 20;
    const SIDE_BY_SIDE: usize = 5;
    let rounds = (0..ROUNDS).map(|round| {
        let writers = (0..WRITERS).map(|n| if subject.can.conditional_put { n } else { 0 });
        let bodies = writers.map(|n| body(round * WRITERS + n).into()).collect();
        race_for(subject, store, format!("packs/{round}"), bodies)
    });
    futures::stream::iter(rounds).buffer_unordered(SIDE_BY_SIDE).collect::<()>().await;
}

async fn race_for(subject: &Subject, store: &Store, key: String, bodies: Vec<Bytes>) {
    let gate = std::sync::Arc::new(tokio::sync::Barrier::new(bodies.len()));
    let writers = bodies.iter().map(|body| {
        let (store, key, body, gate) = (store.clone(), key.clone(), body.clone(), gate.clone());
        tokio::spawn(async move {
            gate.wait().await;
            put(&store, &key, body).await
        })
    });
    let outcomes: Vec<_> = futures::future::join_all(writers).await.into_iter().map(Result::unwrap).collect();
    let kept = store.get(&key).await.unwrap();
    let winner = bodies.iter().position(|body| *body == kept).expect("one of the bodies, whole");
    for (n, outcome) in outcomes.iter().enumerate() {
        let expected = match n {
            _ if n == winner || !subject.can.conditional_put => Ok(Created::New),
            _ if bodies[n].len() == kept.len() => Ok(Created::AlreadyThere),
            _ => Err(StoreError::Conflict {
                key: key.clone(),
                expected: bodies[n].len() as u64,
                found: kept.len() as u64,
            }),
        };
        assert_eq!(*outcome, expected, "{key}: writer {n}, and {winner} won");
    }
}
