//! Manifests and file content, whole and in part, intact and damaged.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::sample::{Sample, noise, path};
use crate::ExitCode;
use crate::archive::entry::{Content, Entry, Kind};
use crate::archive::hash::Hash;
use crate::archive::keyring::{Identities, generate_identity};
use crate::archive::layout;
use crate::archive::receipt::Counts;
use crate::cancel::Cancel;
use crate::providers::store::{Location, RetryPolicy, Store};
use crate::repository::chunks::slice;
use crate::repository::{
    FetchOptions, FetchPlan, FetchStats, FrameOf, OnFailure, Packs, Repository, Snapshot, Which, choose,
};

async fn only(repository: &Repository) -> Snapshot {
    choose(&repository.listing(None).await.unwrap(), None, &Which::Latest).unwrap().clone()
}

async fn entries(sample: &Sample, below: Option<&[&[u8]]>) -> crate::Result<Vec<Entry>> {
    let repository = sample.open().await;
    let snapshot = only(&repository).await;
    let below: Option<Vec<_>> = below.map(|paths| paths.iter().map(|p| path(p)).collect());
    let cancel = Cancel::default();
    let manifest = repository.manifest(&snapshot, &sample.identities, &cancel).await?;
    let mut found = Vec::new();
    let each = |entry| {
        found.push(entry);
        Ok(())
    };
    manifest.entries(below.as_deref(), each).await?;
    Ok(found)
}

/// Thousands of small files in directories, with odd names among them, below branches of two levels.
async fn large() -> (Sample, Vec<Entry>) {
    let mut sample = Sample::new().await;
    sample.max_children = 2;
    let names: Vec<Vec<u8>> = (0..4000)
        .map(|n| match n % 1000 {
            7 => [format!("d{}/", n / 100).as_bytes(), b"\xff\xfe", n.to_string().as_bytes()].concat(),
            _ => format!("d{}/sub/file-{n}", n / 100).into_bytes(),
        })
        .collect();
    let files: Vec<(&[u8], Vec<u8>)> = names.iter().map(|n| (n.as_slice(), [b"of ", n.as_slice()].concat())).collect();
    let entries = sample.tree(&files).await;
    sample.snapshot("web", None, 60, &entries).await;
    (sample, entries)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_of_several_levels_reads_back_whole_and_in_order() {
    let (sample, written) = large().await;
    let repository = sample.open().await;
    let snapshot = only(&repository).await;
    let cancel = Cancel::default();
    let manifest = repository.manifest(&snapshot, &sample.identities, &cancel).await.unwrap();
    assert!(manifest.root().depth >= 2, "{}", manifest.root().depth);
    assert!(entries(&sample, None).await.unwrap() == written);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subtree_comes_with_the_directories_above_it_and_nothing_else() {
    let (sample, written) = large().await;
    let wanted: [&[u8]; 3] = [b"d3/sub", b"d12/sub/file-1234", b"d10/\xff\xfe1007"];
    let found = entries(&sample, Some(&wanted)).await.unwrap();
    let is_wanted = |e: &&Entry| wanted.iter().any(|w| e.path.is_within(&path(w)) || path(w).is_within(&e.path));
    let expected: Vec<Entry> = written.iter().filter(is_wanted).cloned().collect();
    assert!(expected.len() > 100 && found == expected);
    assert_eq!(entries(&sample, Some(&[b"nowhere"])).await.unwrap().len(), 1, "the root directory");
    assert_eq!(entries(&sample, Some(&[b""])).await.unwrap().len(), written.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_file_of_many_is_read_with_little() {
    let mut sample = Sample::new().await;
    sample.pack_size = 32 << 20;
    let names: Vec<String> = (0..600).map(|n| format!("d{}/file-{n}", n / 10)).collect();
    let files: Vec<(&[u8], Vec<u8>)> =
        names.iter().enumerate().map(|(n, name)| (name.as_bytes(), noise(100_000, n as u64))).collect();
    let tree = sample.tree(&files).await;
    sample.snapshot("web", None, 60, &tree).await;
    let repository = sample.open().await;
    let snapshot = only(&repository).await;
    let cancel = Cancel::default();
    let before = sample.store.stats();
    let manifest = repository.manifest(&snapshot, &sample.identities, &cancel).await.unwrap();
    let mut content = Vec::new();
    let mut walk = manifest.walk(Some(&[path(b"d30/file-300")]));
    while let Some(batch) = walk.next().await.unwrap() {
        for entry in batch.iter().filter(|e| e.kind == Kind::File) {
            content = manifest.chunks().read(&manifest.extents(entry).await.unwrap()).await.unwrap().concat();
        }
    }
    assert!(content == noise(100_000, 300));
    let after = sample.store.stats();
    let (bytes, requests) = (after.bytes_received - before.bytes_received, after.requests - before.requests);
    let stored: u64 = sample.packs().iter().map(|p| p.size).sum();
    assert!(bytes < stored / 80 && requests <= 12, "{bytes} of {stored} bytes, {requests} requests");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_extent_list_in_chunks_of_its_own_is_put_together() {
    let mut sample = Sample::new().await;
    let chunks: Vec<Vec<u8>> = (0..400).map(|n| noise(500, n)).collect();
    let file = sample.file_of_chunks(b"big", &chunks, Hash::of(&chunks.concat())).await;
    assert!(matches!(file.content, Content::Listed(_)));
    let tree = vec![Entry::new(path(b""), Kind::Dir), file.clone()];
    sample.snapshot("web", None, 60, &tree).await;
    let repository = sample.open().await;
    let snapshot = only(&repository).await;
    let cancel = Cancel::default();
    let manifest = repository.manifest(&snapshot, &sample.identities, &cancel).await.unwrap();
    let extents = manifest.extents(&file).await.unwrap();
    assert!(manifest.chunks().read(&extents).await.unwrap() == chunks);
    let short = Entry { size: file.size - 1, ..file };
    assert_eq!(manifest.extents(&short).await.unwrap_err().code(), ExitCode::Integrity);
}

#[tokio::test(flavor = "multi_thread")]
async fn lies_in_a_manifest_are_integrity_failures() {
    let dir = |p: &[u8]| Entry::new(path(p), Kind::Dir);
    let orders: [Vec<Entry>; 3] =
        [vec![dir(b""), dir(b"b"), dir(b"a")], vec![dir(b""), dir(b"a/b")], vec![dir(b""), dir(b"a"), dir(b"a")]];
    for tree in orders {
        let mut sample = Sample::new().await;
        sample.snapshot("web", None, 60, &tree).await;
        assert_eq!(entries(&sample, None).await.unwrap_err().code(), ExitCode::Integrity);
    }
    // Counts that differ from what is there.
    let mut sample = Sample::new().await;
    let mut receipt = sample.receipt("web", 1, 60, &[dir(b"")]).await;
    receipt.counts.files = 1;
    sample.commit(&receipt, &sample.signer).await;
    assert_eq!(entries(&sample, None).await.unwrap_err().code(), ExitCode::Integrity);
    assert_eq!(entries(&sample, Some(&[b"a"])).await.unwrap().len(), 1, "a part says nothing about counts");
    // A pack that the pack list does not name.
    let mut sample = Sample::new().await;
    let mut receipt = sample.receipt("web", 1, 60, &[dir(b"")]).await;
    receipt.root.pack = Hash([7; 32]);
    sample.commit(&receipt, &sample.signer).await;
    let error = entries(&sample, None).await.unwrap_err();
    assert!(error.code() == ExitCode::Integrity && error.full_message().contains("pack list"), "{error:?}");
}

#[test]
fn counts_follow_kinds() {
    let mut counts = Counts::default();
    let mut left_out = Entry::new(path(b"x"), Kind::Dir);
    left_out.excluded = Some("--exclude".into());
    let mut unreadable = Entry::new(path(b"y"), Kind::File);
    unreadable.missing = Some("EIO".into());
    let mut file = Entry::new(path(b"z"), Kind::File);
    (file.size, file.holes, file.changed) = (10, vec![(0, 4)], true);
    for entry in [&left_out, &unreadable, &file, &Entry::new(path(b"s"), Kind::Socket)] {
        counts.add(entry);
    }
    let expected =
        Counts { files: 1, special: 1, bytes: 6, unreadable: 1, changed: 1, excluded: 1, ..Counts::default() };
    assert_eq!(counts, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_identity_is_told_apart_from_damage() {
    let (mut sample, _) = large().await;
    sample.identities = Identities::parse(&generate_identity().1).unwrap();
    let error = entries(&sample, None).await.unwrap_err();
    assert_eq!(error.code(), ExitCode::Denied, "{error:?}");
}

/// A store of 36 files, one to a frame, and the plan to fetch all, or by ranges a third.
async fn packs(ranged: bool) -> (Sample, FetchPlan) {
    let mut sample = Sample::new().await;
    let mut extents = Vec::new();
    for n in 0..12 {
        // One frame a file; one of the three is asked for when reading by ranges.
        sample.pack_size = if ranged { 900_000 } else { 1 };
        let files =
            sample.tree(&[(b"a", noise(300_000, n)), (b"b", noise(300_001, n)), (b"c", noise(300_002, n))]).await;
        let wanted = if ranged { &files[1..2] } else { &files[1..4] };
        extents.extend(wanted.iter().flat_map(|f| f.inline_extents().to_vec()));
    }
    let plan = FetchPlan::new(&Packs::new(sample.packs().to_vec()), &extents).unwrap();
    (sample, plan)
}

async fn fetch(sample: &Sample, plan: &FetchPlan, options: &FetchOptions<'_>) -> (crate::Result<FetchStats>, usize) {
    let repository = sample.open().await;
    let seen = Mutex::new(Vec::new());
    let sink = |place: FrameOf, tar: &[u8]| {
        for entry in crate::archive::frame::entries(tar) {
            crate::archive::frame::find(tar, entry?.0)?;
        }
        seen.lock().unwrap().push(place);
        Ok(())
    };
    let result = repository.fetch(plan, Some(&sample.identities), options, &Cancel::default(), &sink).await;
    let mut seen = seen.into_inner().unwrap();
    let all = seen.len();
    seen.sort_by_key(|p| (p.pack, p.frame));
    seen.dedup();
    assert_eq!(seen.len(), all, "a frame came twice");
    (result, all)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_frame_comes_once_even_with_little_memory() {
    for ranged in [false, true] {
        let (sample, plan) = packs(ranged).await;
        let frames: usize = plan.packs.iter().map(|p| p.frames.len()).sum();
        for memory in [1, 400_000, 1 << 30] {
            let options = FetchOptions { memory, parallel: 3, ..FetchOptions::default() };
            let (stats, seen) = fetch(&sample, &plan, &options).await;
            let stats = stats.unwrap();
            assert_eq!(seen, frames);
            assert_eq!((stats.bytes, stats.requests), (plan.bytes(), plan.requests()));
        }
        let all: u64 = sample.packs().iter().map(|p| p.size).sum();
        assert_eq!(plan.bytes() < all / 2, ranged);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_packs_are_all_listed_and_the_others_still_read() {
    for ranged in [false, true] {
        let (sample, plan) = packs(ranged).await;
        let key = |n: usize| layout::pack(plan.packs[n].line.pack);
        sample.damage(&key(0), |bytes| bytes[70_000] ^= 1).await;
        sample.damage(&key(3), |bytes| bytes.truncate(1000)).await;
        sample.delete(&key(5)).await;
        sample.damage(&key(7), |bytes| bytes[30] ^= 1).await;
        let collect = FetchOptions { on_failure: OnFailure::Collect, ..FetchOptions::default() };
        let (stats, seen) = fetch(&sample, &plan, &collect).await;
        let failed = stats.unwrap().failed;
        let mut damaged: Vec<Hash> = [0, 3, 5, 7].map(|n| plan.packs[n].line.pack).to_vec();
        damaged.sort();
        assert_eq!(failed.iter().map(|f| f.pack).collect::<Vec<_>>(), damaged, "{failed:?}");
        assert!(failed.iter().all(|f| f.code == ExitCode::Integrity));
        let left: usize = plan.packs.iter().filter(|p| !damaged.contains(&p.line.pack)).map(|p| p.frames.len()).sum();
        assert_eq!(seen, left);

        let (result, _) = fetch(&sample, &plan, &FetchOptions::default()).await;
        let error = result.unwrap_err();
        assert_eq!(error.code(), ExitCode::Integrity);
        assert!(error.to_string().starts_with("packs/"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_fails_ends_the_fetch_and_a_cancel_does_too() {
    let (sample, plan) = packs(false).await;
    let repository = sample.open().await;
    let calls = AtomicU64::new(0);
    let full = |_: FrameOf, _: &[u8]| {
        calls.fetch_add(1, Ordering::Relaxed);
        Err(crate::Error::new(ExitCode::NoSpace, "disk full"))
    };
    let collect = FetchOptions { on_failure: OnFailure::Collect, memory: 1, ..FetchOptions::default() };
    let cancel = Cancel::default();
    let result = repository.fetch(&plan, Some(&sample.identities), &collect, &cancel, &full).await;
    assert_eq!(result.unwrap_err().code(), ExitCode::NoSpace);
    assert!(calls.load(Ordering::Relaxed) <= 2);

    let stopping = |_: FrameOf, _: &[u8]| {
        cancel.cancel();
        Ok(())
    };
    let result = repository.fetch(&plan, Some(&sample.identities), &collect, &cancel, &stopping).await;
    assert_eq!(result.unwrap_err().code(), ExitCode::Interrupted);
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_need_an_identity_and_whole_packs_do_not() {
    let (sample, plan) = packs(false).await;
    let repository = sample.open().await;
    let cancel = Cancel::default();
    let options = FetchOptions::default();
    let sink = |_: FrameOf, _: &[u8]| Ok(());
    let error = repository.fetch(&plan, None, &options, &cancel, &sink).await.unwrap_err();
    assert_eq!(error.code(), ExitCode::Denied);
    let names_only = FetchPlan::whole(sample.packs().iter().map(|line| (*line, vec![])));
    repository.fetch(&names_only, None, &options, &cancel, &sink).await.unwrap();
}

/// Serves objects over HTTP like S3, except that it ignores ranges.
fn serve_without_ranges(objects: BTreeMap<String, Vec<u8>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let objects = Arc::new(objects);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let objects = Arc::clone(&objects);
            std::thread::spawn(move || answer(&stream.unwrap(), &objects));
        }
    });
    endpoint
}

fn answer(mut stream: &TcpStream, objects: &BTreeMap<String, Vec<u8>>) {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(reader.read_line(&mut head).unwrap() > 0);
    }
    let target = head.split(' ').nth(1).unwrap();
    let body = target.strip_prefix("/bucket/").and_then(|key| objects.get(key));
    let (status, body) = body.map_or(("404 Not Found", &[][..]), |body| ("200 OK", body));
    let facts = "etag: \"1\"\r\nlast-modified: Thu, 01 Jan 2026 00:00:00 GMT\r\nconnection: close";
    write!(stream, "HTTP/1.1 {status}\r\n{facts}\r\ncontent-length: {}\r\n\r\n", body.len()).unwrap();
    // The client hangs up once it sees that this is not the range.
    let _ = stream.write_all(body);
}

fn s3(endpoint: &str) -> Store {
    let variables = [
        ("AWS_ACCESS_KEY_ID", "x"),
        ("AWS_SECRET_ACCESS_KEY", "x"),
        ("AWS_S3_URL_STYLE", "path"),
        ("AWS_REGION", "eu-west-1"),
        ("AWS_ENDPOINT_URL", endpoint),
    ];
    let variables: BTreeMap<String, String> = variables.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    Store::open(&Location::parse("s3://bucket").unwrap(), &variables).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_ends_a_wait_for_a_silent_store_within_two_seconds() {
    let (sample, plan) = packs(false).await;
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut repository = sample.open().await;
    repository.store = s3(&format!("http://{}", silent.local_addr().unwrap()));
    let cancel = Cancel::default();
    let later = cancel.clone();
    let began = Instant::now();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(200)).await;
        later.cancel();
    });
    let options = FetchOptions::default();
    let result = repository.fetch(&plan, Some(&sample.identities), &options, &cancel, &|_, _| Ok(())).await;
    assert_eq!(result.unwrap_err().code(), ExitCode::Interrupted);
    assert!((200..2000).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_without_ranges_is_asked_for_whole_packs() {
    let (sample, plan) = packs(true).await;
    let mut objects = BTreeMap::new();
    for line in sample.packs() {
        objects.insert(layout::pack(line.pack), sample.get(&layout::pack(line.pack)).await);
    }
    let store = s3(&serve_without_ranges(objects));
    let mut repository = sample.open().await;
    repository.store = store.with_retry(RetryPolicy::never());
    let seen = AtomicU64::new(0);
    let sink = |_: FrameOf, _: &[u8]| {
        seen.fetch_add(1, Ordering::Relaxed);
        Ok(())
    };
    let options = FetchOptions { parallel: 2, memory: 1 << 20, ..FetchOptions::default() };
    let cancel = Cancel::default();
    let stats = repository.fetch(&plan, Some(&sample.identities), &options, &cancel, &sink).await.unwrap();
    assert_eq!(seen.load(Ordering::Relaxed), plan.packs.iter().map(|p| p.frames.len() as u64).sum::<u64>());
    assert_eq!(stats.bytes, sample.packs().iter().map(|p| p.size).sum::<u64>());
    let again = repository.fetch(&plan, Some(&sample.identities), &options, &cancel, &sink).await.unwrap();
    assert_eq!(again.requests, plan.packs.len() as u64, "it is remembered");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_shorter_than_its_extent_is_refused() {
    let mut sample = Sample::new().await;
    let file = sample.file(b"a", b"hello").await;
    let mut extent = file.inline_extents()[0];
    let mut tar = Vec::new();
    crate::archive::frame::append_entry(&mut tar, extent.chunk, b"hello");
    assert_eq!(slice(&extent, &tar).unwrap(), b"hello");
    (extent.offset, extent.len) = (1, 3);
    assert_eq!(slice(&extent, &tar).unwrap(), b"ell");
    extent.len = 5;
    assert_eq!(slice(&extent, &tar).unwrap_err().code(), ExitCode::Integrity);
}
