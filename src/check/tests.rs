//! Damage of every kind at every level.

use super::*;
use crate::archive::entry::{Entry, Kind};
use crate::archive::layout::{self, SIGNATURE};
use crate::archive::receipt::SnapshotId;
use crate::archive::signature::SigningKey;
use crate::repository::tests::refusing::{Says, refuse};
use crate::repository::tests::sample::{Sample, hash_of, noise, path};
use crate::repository::{Purpose, TrustOptions};

const LEVELS: [Level; 3] = [Level::List, Level::Hash, Level::Decrypt];

/// Two snapshots of several packs: small files, one of several chunks, one with holes; `late` only in the second.
async fn two() -> (Sample, SnapshotId, SnapshotId) {
    let mut sample = Sample::new().await;
    sample.pack_size = 600_000;
    let big = noise(3_000_000, 99);
    let mut files: Vec<(Vec<u8>, Vec<u8>)> =
        (0..12).map(|n| (format!("dir/f{n:02}").into_bytes(), noise(150_000, n))).collect();
    files.push((b"big".to_vec(), big));
    files.push((b"odd/\xff".to_vec(), b"odd".to_vec()));
    let refer = |files: &[(Vec<u8>, Vec<u8>)]| files.iter().map(|(n, c)| (n.clone(), c.clone())).collect::<Vec<_>>();
    let first = tree(&mut sample, &refer(&files)).await;
    let one = sample.snapshot("web", None, 200, &first).await;
    files.push((b"late".to_vec(), noise(400_000, 500)));
    let mut second = tree(&mut sample, &refer(&files)).await;
    second.push(sparse(&mut sample).await);
    let two = sample.snapshot("web", Some(&one), 100, &second).await;
    (sample, one, two)
}

async fn tree(sample: &mut Sample, files: &[(Vec<u8>, Vec<u8>)]) -> Vec<Entry> {
    let files: Vec<(&[u8], Vec<u8>)> = files.iter().map(|(n, c)| (n.as_slice(), c.clone())).collect();
    sample.tree(&files).await
}

/// 100 zeros, "ab", 50 zeros, "cde", 7 zeros; "abcde" is one chunk.
async fn sparse(sample: &mut Sample) -> Entry {
    let hash = hash_of(&[(None, 100), (Some(b"ab"), 0), (None, 50), (Some(b"cde"), 0), (None, 7)]);
    let mut entry = sample.file_of_chunks(b"sparse", &[b"abcde".to_vec()], hash).await;
    entry.size = 162;
    entry.holes = vec![(0, 100), (102, 50), (155, 7)];
    entry
}

async fn run(sample: &Sample, options: &CheckOptions<'_>, with_key: bool) -> Result<Report> {
    let repository = sample.open().await;
    let listing = repository.listing(None).await?;
    let identities = with_key.then_some(&sample.identities);
    check(&repository, &listing, options, identities, &Cancel::default()).await
}

fn at(level: Level) -> CheckOptions<'static> {
    CheckOptions { level, snapshots: vec![], subset: None, fetch: FetchOptions::default() }
}

async fn checked(sample: &Sample, level: Level, with_key: bool) -> Report {
    run(sample, &at(level), with_key).await.unwrap()
}

/// The pack that holds the content of `name`.
async fn pack_of(sample: &Sample, name: &[u8]) -> PackLine {
    let repository = sample.open().await;
    let listing = repository.listing(None).await.unwrap();
    let cancel = Cancel::default();
    let snapshot = listing.snapshots.last().unwrap();
    let manifest = repository.manifest(snapshot, &sample.identities, &cancel).await.unwrap();
    let mut found = None;
    manifest
        .entries(Some(&[path(name)]), |entry| {
            found = entry.inline_extents().first().copied().or(found);
            Ok(())
        })
        .await
        .unwrap();
    manifest.packs().locate(&found.unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_intact_store_is_intact_at_every_level() {
    let (sample, _, _) = two().await;
    for level in LEVELS {
        let report = checked(&sample, level, true).await;
        assert_eq!((&report.damaged[..], &report.warnings[..]), (&[][..], &[][..]), "{level}");
        assert_eq!(report.exit_code(), ExitCode::Ok);
        assert_eq!(report.snapshots, 2);
        let listed = sample.store.list("").await.unwrap().len() as u64;
        assert_eq!(report.objects, listed);
    }
    let all: u64 = sample.packs().iter().map(|line| line.size).sum();
    let (list, hash) = (checked(&sample, Level::List, false).await, checked(&sample, Level::Hash, false).await);
    assert!(list.bytes < 20_000 && hash.bytes >= all && hash.bytes < all + 20_000, "{} {}", list.bytes, hash.bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_or_cut_pack_is_found_at_every_level() {
    for level in LEVELS {
        let (sample, one, two) = two().await;
        let early = layout::pack(pack_of(&sample, b"dir/f00").await.pack);
        let late = layout::pack(pack_of(&sample, b"late").await.pack);
        assert_ne!(early, late);
        sample.delete(&early).await;
        sample.damage(&late, |bytes| bytes.truncate(1000)).await;
        let report = checked(&sample, level, level == Level::Decrypt).await;
        assert_eq!(report.exit_code(), ExitCode::Integrity);
        let found = |key: &str| report.damaged.iter().find(|d| d.object == key).unwrap();
        assert_eq!(found(&early).reason, "it is missing");
        assert_eq!(found(&early).snapshots, [one.to_string(), two.to_string()]);
        assert!(found(&late).reason.contains("1000 bytes"));
        assert_eq!(found(&late).snapshots, [two.to_string()]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_is_found_by_reading_and_the_files_are_named_with_the_key() {
    let (sample, one, two) = two().await;
    let pack = layout::pack(pack_of(&sample, b"dir/f00").await.pack);
    sample.damage(&pack, |bytes| bytes[100_000] ^= 4).await;
    assert!(checked(&sample, Level::List, true).await.damaged.is_empty(), "nothing is read at this level");
    for (level, with_key) in [(Level::Hash, false), (Level::Hash, true), (Level::Decrypt, true)] {
        let report = checked(&sample, level, with_key).await;
        assert_eq!(report.damaged.len(), 1, "{:?}", report.damaged);
        let damaged = &report.damaged[0];
        assert_eq!(damaged.object, pack);
        assert!(damaged.reason.contains("not to its name"), "{}", damaged.reason);
        assert_eq!(damaged.snapshots, [one.to_string(), two.to_string()]);
        assert_eq!(damaged.files.contains(&"dir/f00".to_owned()), with_key, "{:?}", damaged.files);
        assert!(!damaged.files.contains(&"late".to_owned()) && damaged.files.len() < 6);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_manifest_is_said_and_does_not_hide_other_damage() {
    let (sample, _, two) = two().await;
    let repository = sample.open().await;
    let listing = repository.listing(None).await.unwrap();
    let root = listing.snapshots[1].receipt.root.pack;
    let pack = layout::pack(pack_of(&sample, b"dir/f00").await.pack);
    sample.damage(&layout::pack(root), |bytes| bytes[500] ^= 1).await;
    sample.damage(&pack, |bytes| bytes[100_000] ^= 4).await;
    for level in [Level::Hash, Level::Decrypt] {
        let report = checked(&sample, level, true).await;
        let objects: Vec<&str> = report.damaged.iter().map(|d| d.object.as_str()).collect();
        assert!(objects.contains(&pack.as_str()) && objects.contains(&layout::pack(root).as_str()), "{objects:?}");
        let receipt = report.damaged.iter().find(|d| d.object.contains(two.as_str())).unwrap();
        assert!(receipt.reason.contains("manifest"), "{receipt:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_whose_chunks_are_right_but_whose_hash_is_not_is_found_by_decrypting() {
    let whole = |data: &[u8]| vec![data.to_vec()];
    let cases: [(&str, Vec<Vec<u8>>); 3] =
        [("one", whole(b"abc")), ("several", vec![noise(9000, 1), noise(9000, 2)]), ("sparse", whole(b"abcde"))];
    for (name, chunks) in cases {
        let mut sample = Sample::new().await;
        let wrong = Hash::of(b"something else");
        let mut file = sample.file_of_chunks(b"file", &chunks, wrong).await;
        if name == "sparse" {
            (file.size, file.holes) = (105, vec![(0, 100)]);
        }
        let tree = [Entry::new(path(b""), Kind::Dir), file];
        sample.snapshot("web", None, 60, &tree).await;
        assert!(checked(&sample, Level::Hash, true).await.damaged.is_empty());
        let report = checked(&sample, Level::Decrypt, true).await;
        assert_eq!(report.damaged.len(), 1, "{name}");
        assert_eq!(report.damaged[0].files, ["file"]);
        assert!(report.damaged[0].reason.contains("the manifest says"), "{}", report.damaged[0].reason);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hash_that_fits_the_chunk_but_not_the_part_of_it_that_is_used_is_found() {
    let mut sample = Sample::new().await;
    let mut file = sample.file(b"file", b"abcdef").await;
    let crate::archive::entry::Content::Inline(extents) = &mut file.content else { panic!("listed") };
    extents[0].len = 3;
    file.size = 3;
    let tree = [Entry::new(path(b""), Kind::Dir), file];
    sample.snapshot("web", None, 60, &tree).await;
    assert_eq!(checked(&sample, Level::Decrypt, true).await.damaged.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_under_the_name_of_another_is_found_in_an_intact_pack() {
    let mut sample = Sample::new().await;
    let good = sample.file(b"good", b"good").await;
    let mut bad = sample.file(b"other", b"other").await;
    let missing = Hash::of(b"never stored");
    bad.sha256 = Some(missing);
    if let crate::archive::entry::Content::Inline(extents) = &mut bad.content {
        extents[0].chunk = missing;
    }
    let tree = [Entry::new(path(b""), Kind::Dir), good, bad];
    sample.snapshot("web", None, 60, &tree).await;
    let report = checked(&sample, Level::Decrypt, true).await;
    assert_eq!(report.damaged.len(), 1, "{report:?}");
    assert!(report.damaged[0].object.starts_with("packs/") && report.damaged[0].files == ["other"], "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pack_lists_receipts_keys_and_the_descriptor_are_checked() {
    let (sample, one, two) = two().await;
    let repository = sample.open().await;
    let listing = repository.listing(None).await.unwrap();
    let list = layout::pack_list(listing.snapshots[0].receipt.pack_list);
    sample.damage(&list, |bytes| bytes[20] ^= 1).await;
    sample.delete(&format!("snapshots/web/{two}.json{SIGNATURE}")).await;
    sample.put("keys/000002-00000000.json", b"{}".to_vec()).await;
    sample.delete(layout::DESCRIPTOR).await;
    sample.put("snapshots/web/readme", vec![]).await;
    let report = checked(&sample, Level::List, false).await;
    let objects: Vec<&str> = report.damaged.iter().map(|d| d.object.as_str()).collect();
    let receipt = format!("snapshots/web/{two}.json");
    let expected = ["keys/000002-00000000.json", layout::DESCRIPTOR, &list, receipt.as_str(), "snapshots/web/readme"];
    assert_eq!(objects, expected, "{:?}", report.damaged);
    assert_eq!(report.damaged[2].snapshots, [one.to_string()]);
    assert_eq!(report.damaged[3].reason, "it has no signature");
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_receipts_are_damage_and_newer_ones_are_not() {
    let (mut sample, _, two) = two().await;
    let tree = sample.tree(&[]).await;
    let mut receipt = sample.receipt("web", 3, 10, &tree).await;
    receipt.predecessor = Some(two);
    let (thief, _) = SigningKey::generate().unwrap();
    let forged = sample.commit(&receipt, &thief).await;
    receipt.format = 2;
    let newer = sample.commit(&receipt, &sample.signer).await;
    for ids in [vec![], vec![forged.to_string(), newer.to_string()]] {
        let report = run(&sample, &CheckOptions { snapshots: ids, ..at(Level::List) }, false).await.unwrap();
        assert_eq!(report.damaged.len(), 1, "{:?}", report.damaged);
        assert!(report.damaged[0].object.contains(forged.as_str()));
        assert!(report.warnings.iter().any(|w| w.contains(newer.as_str())), "{:?}", report.warnings);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_snapshot_can_be_checked_alone() {
    let (sample, one, _) = two().await;
    sample.delete(&layout::pack(pack_of(&sample, b"late").await.pack)).await;
    let only_one = CheckOptions { snapshots: vec![one.as_str()[..23].to_owned()], ..at(Level::Hash) };
    let report = run(&sample, &only_one, false).await.unwrap();
    assert!(report.damaged.is_empty() && report.snapshots == 1, "{report:?}");
    let unknown = CheckOptions { snapshots: vec!["2001".into()], ..at(Level::List) };
    assert_eq!(run(&sample, &unknown, false).await.unwrap_err().code(), ExitCode::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_parts_of_a_check_read_every_pack_once_and_find_all_damage() {
    let (sample, _, _) = two().await;
    for line in sample.packs() {
        sample.damage(&layout::pack(line.pack), |bytes| bytes[300] ^= 1).await;
    }
    let mut found = Vec::new();
    for part in 1..=3 {
        let subset = Some(Subset::Part { part, of: 3 });
        let report = run(&sample, &CheckOptions { subset, ..at(Level::Hash) }, false).await.unwrap();
        found.extend(report.damaged.into_iter().map(|d| d.object));
    }
    found.sort();
    let mut all: Vec<String> = sample.packs().iter().map(|line| layout::pack(line.pack)).collect();
    all.sort();
    assert_eq!(found, all);
}

#[tokio::test(flavor = "multi_thread")]
async fn decrypting_a_subset_reports_nothing_about_what_was_not_read() {
    let (sample, _, _) = two().await;
    for part in 1..=2 {
        let subset = Some(Subset::Part { part, of: 2 });
        let report = run(&sample, &CheckOptions { subset, ..at(Level::Decrypt) }, true).await.unwrap();
        assert!(report.damaged.is_empty(), "{report:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_needed_for_decrypting_only() {
    let (mut sample, _, _) = two().await;
    assert_eq!(run(&sample, &at(Level::Decrypt), false).await.unwrap_err().code(), ExitCode::Denied);
    let unpinned =
        TrustOptions { pins: vec![], trust_store_keys: false, ignore_store_time: false, purpose: Purpose::Look };
    let repository = Repository::open(sample.store.clone(), &unpinned).await.unwrap();
    let listing = repository.listing(None).await.unwrap();
    let report = check(&repository, &listing, &at(Level::Hash), None, &Cancel::default()).await.unwrap();
    assert!(report.damaged.is_empty() && report.snapshots == 2);

    let late = layout::pack(pack_of(&sample, b"late").await.pack);
    sample.delete(&late).await;
    sample.identities = Identities::parse(&crate::archive::keyring::generate_identity().1).unwrap();
    for level in [Level::List, Level::Hash] {
        let report = checked(&sample, level, true).await;
        assert!(report.damaged.len() == 1 && report.damaged[0].object == late, "{report:?}");
        assert!(report.warnings[0].starts_with("files are not named: "), "{report:?}");
    }
    assert_eq!(run(&sample, &at(Level::Decrypt), true).await.unwrap_err().code(), ExitCode::Denied);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_needed_pack_that_is_marked_for_deletion_is_a_warning() {
    let (sample, _, two) = two().await;
    let pack = pack_of(&sample, b"late").await.pack;
    sample.put(&format!("trash/packs/{pack}"), vec![]).await;
    let report = checked(&sample, Level::List, false).await;
    assert!(report.damaged.is_empty() && report.warnings[0].contains(two.as_str()), "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subset_of_nothing_is_refused() {
    let (sample, _, _) = two().await;
    let options = CheckOptions { subset: Some(Subset::Part { part: 1, of: 2 }), ..at(Level::List) };
    let error = run(&sample, &options, false).await.unwrap_err();
    assert!(error.code() == ExitCode::Usage && error.to_string().contains("--subset needs"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_is_refused_is_damage_and_the_rest_is_checked() {
    for says in [Says::Denied, Says::Unavailable] {
        let (mut sample, _, two) = two().await;
        let late = layout::pack(pack_of(&sample, b"late").await.pack);
        let listing = sample.open().await.listing(None).await.unwrap();
        let root = layout::pack(listing.snapshots[1].receipt.root.pack);
        let list = layout::pack_list(listing.snapshots[0].receipt.pack_list);
        for refused in [&late, &root, &list] {
            refuse(&mut sample, &[(refused, says)]);
            for level in [Level::Hash, Level::Decrypt] {
                let report = checked(&sample, level, true).await;
                assert!(report.damaged.iter().any(|d| d.object == *refused), "{refused} {level} {report:?}");
                assert_eq!(report.snapshots, 2, "{two}");
            }
        }
        refuse(&mut sample, &[("packs/", says)]);
        assert!(run(&sample, &at(Level::Hash), false).await.is_err(), "the store is away");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_list_of_extents_is_the_fault_of_its_pack() {
    let mut sample = Sample::new().await;
    sample.pack_size = 1;
    let chunks: Vec<Vec<u8>> = (0..400).map(|n| noise(500, n)).collect();
    let mut file = sample.file_of_chunks(b"b\xffg\\", &chunks, Hash::of(&chunks.concat())).await;
    let tree = [Entry::new(path(b""), Kind::Dir), file.clone()];
    let id = sample.snapshot("web", None, 60, &tree).await;
    let pack = layout::pack(file.inline_extents()[0].pack);
    let intact = sample.get(&pack).await;
    sample.damage(&pack, |bytes| bytes[500] ^= 1).await;
    for level in [Level::Hash, Level::Decrypt] {
        let report = checked(&sample, level, true).await;
        assert_eq!(report.damaged.len(), 1, "{level} {report:?}");
        assert_eq!(report.damaged[0].object, pack);
        assert_eq!(report.damaged[0].files, [r"b\xffg\\"]);
        assert_eq!(report.damaged[0].snapshots, [id.to_string()]);
    }
    // A list that lies in intact packs and lies about its chunks: the receipt's manifest is wrong.
    sample.put(&pack, intact).await;
    let crate::archive::entry::Content::Listed(list) = &mut file.content else { panic!("inline") };
    list.pop();
    let id = sample.snapshot("web", Some(&id), 30, &[Entry::new(path(b""), Kind::Dir), file]).await;
    let report = checked(&sample, Level::Decrypt, true).await;
    assert!(report.damaged.len() == 1 && report.damaged[0].object.contains(id.as_str()), "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_descriptor_that_contradicts_the_keys_is_damage() {
    let (sample, _, _) = two().await;
    sample
        .damage(layout::DESCRIPTOR, |bytes| {
            let text = String::from_utf8(bytes.clone()).unwrap();
            *bytes = text.replace(&sample.keys.store_id, &"2".repeat(32)).into_bytes();
        })
        .await;
    let report = checked(&sample, Level::List, false).await;
    assert_eq!(report.damaged.len(), 1, "{report:?}");
    assert!(report.damaged[0].object == layout::DESCRIPTOR && report.damaged[0].reason.contains("2222"));
}
