//! Which receipts are believed, and which snapshot is chosen.

use std::collections::BTreeMap;

use jiff::SignedDuration;

use super::sample::{Sample, now};
use crate::ExitCode;
use crate::archive::keys::Revocation;
use crate::archive::layout::{self, SIGNATURE};
use crate::archive::receipt::Receipt;
use crate::archive::signature::SigningKey;
use crate::repository::{Listing, Purpose, Repository, Trust, TrustOptions, Which, choose};

const DAY: i64 = 24 * 3600;

async fn listing(sample: &Sample) -> Listing {
    sample.open().await.listing(None).await.unwrap()
}

fn latest(listing: &Listing) -> Result<String, crate::Error> {
    choose(listing, None, &Which::Latest).map(|s| s.id.to_string())
}

fn reason<'a>(listing: &'a Listing, id: &str) -> &'a str {
    listing.snapshots.iter().find(|s| s.id.as_str() == id).unwrap().trust.reason().unwrap_or_default()
}

/// Two good snapshots, 3 and 2 hours old.
async fn two() -> (Sample, Vec<String>) {
    let mut sample = Sample::new().await;
    let entries = sample.tree(&[(b"a", b"1".to_vec())]).await;
    let first = sample.snapshot("web", None, 3 * 3600, &entries).await;
    let second = sample.snapshot("web", Some(&first), 2 * 3600, &entries).await;
    (sample, vec![first.to_string(), second.to_string()])
}

async fn third(sample: &mut Sample, predecessor: &str) -> Receipt {
    let entries = sample.tree(&[(b"a", b"1".to_vec())]).await;
    let mut receipt = sample.receipt("web", 3, 60, &entries).await;
    receipt.predecessor = Some(predecessor.parse().unwrap());
    receipt
}

#[tokio::test]
async fn the_newest_trusted_snapshot_is_chosen() {
    let (sample, ids) = two().await;
    let listing = listing(&sample).await;
    assert!(listing.problems.is_empty() && listing.warnings.is_empty(), "{listing:?}");
    assert!(listing.snapshots.iter().all(|s| matches!(&s.trust, Trust::Trusted(s) if s == sample.signer.signer())));
    assert_eq!(latest(&listing).unwrap(), ids[1]);
    let between = now() - SignedDuration::from_secs(9000);
    assert_eq!(choose(&listing, Some("web"), &Which::At(between)).unwrap().id.as_str(), ids[0]);
    assert_eq!(choose(&listing, None, &Which::Id(ids[0].clone())).unwrap().id.as_str(), ids[0]);
    assert_eq!(choose(&listing, None, &Which::Id(ids[0][..23].into())).unwrap().id.as_str(), ids[0]);
    assert_eq!(choose(&listing, None, &Which::Id("latest".into())).unwrap().id.as_str(), ids[1]);
    let exact = listing.snapshots[0].receipt.finished_at;
    assert_eq!(choose(&listing, None, &Which::At(exact)).unwrap().id.as_str(), ids[0], "its end is not after itself");
}

#[tokio::test]
async fn what_is_not_there_is_said_with_what_is() {
    let (mut sample, ids) = two().await;
    let all = listing(&sample).await;
    for which in [Which::At(now() - SignedDuration::from_hours(9)), Which::Id("2001".into()), Which::Id(String::new())]
    {
        let error = choose(&all, None, &which).unwrap_err();
        assert_eq!(error.code(), ExitCode::NotFound, "{which:?}");
        assert!(error.hint_text().unwrap().contains(&ids[1]), "{error:?}");
    }
    let error = choose(&all, Some("nope"), &Which::Latest).unwrap_err();
    assert!(error.code() == ExitCode::NotFound && error.hint_text().unwrap().contains("web"));
    let several = choose(&all, None, &Which::Id("20".into())).unwrap_err();
    assert_eq!(several.code(), ExitCode::Usage);

    let entries = sample.tree(&[]).await;
    sample.snapshot("api", None, 60, &entries).await;
    let error = latest(&listing(&sample).await).unwrap_err();
    assert_eq!(error.code(), ExitCode::Usage);
    assert!(error.to_string().contains("api, web"), "{error}");

    let empty = Sample::new().await;
    assert_eq!(latest(&listing(&empty).await).unwrap_err().code(), ExitCode::NotFound);
}

#[tokio::test]
async fn a_receipt_signed_by_another_is_skipped_and_refused_by_name() {
    let (mut sample, ids) = two().await;
    let forged = third(&mut sample, &ids[1]).await;
    let (thief, _) = SigningKey::generate().unwrap();
    let id = sample.commit(&forged, &thief).await;
    let listing = listing(&sample).await;
    assert!(reason(&listing, id.as_str()).contains(&thief.signer().id()));
    assert_eq!(latest(&listing).unwrap(), ids[1]);
    let error = choose(&listing, None, &Which::Id(id.to_string())).unwrap_err();
    assert_eq!(error.code(), ExitCode::Integrity);
    let chosen = choose(&listing, None, &Which::Latest).unwrap();
    assert!(crate::repository::choose::skipped(&listing, chosen, &Which::Latest)[0].contains(id.as_str()));
}

#[tokio::test]
async fn a_store_with_nothing_but_forgeries_is_an_integrity_failure() {
    let mut sample = Sample::new().await;
    let entries = sample.tree(&[]).await;
    let receipt = sample.receipt("web", 1, 60, &entries).await;
    let (thief, _) = SigningKey::generate().unwrap();
    sample.commit(&receipt, &thief).await;
    let listing = listing(&sample).await;
    assert_eq!(latest(&listing).unwrap_err().code(), ExitCode::Integrity);
    assert_eq!(choose(&listing, Some("web"), &Which::Latest).unwrap_err().code(), ExitCode::Integrity);
}

#[tokio::test]
async fn a_missing_signature_is_a_reason_and_an_orphan_signature_is_nothing() {
    let (sample, ids) = two().await;
    let key = format!("snapshots/web/{}.json", ids[1]);
    sample.delete(&format!("{key}{SIGNATURE}")).await;
    let one = listing(&sample).await;
    assert_eq!(reason(&one, &ids[1]), "it has no signature");
    assert_eq!(latest(&one).unwrap(), ids[0]);
    let (sample, ids) = two().await;
    sample.delete(&format!("snapshots/web/{}.json", ids[1])).await;
    let one = listing(&sample).await;
    assert!(one.snapshots.len() == 1 && one.problems.is_empty());
}

#[tokio::test]
async fn a_receipt_of_another_source_or_store_does_not_count() {
    let (mut sample, ids) = two().await;
    let staging = format!("snapshots/web/{}.json", ids[1]);
    let production = staging.replace("web", "production");
    for end in ["", SIGNATURE] {
        sample.put(&format!("{production}{end}"), sample.get(&format!("{staging}{end}")).await).await;
    }
    let mut foreign = third(&mut sample, &ids[1]).await;
    foreign.store_id = "22222222222222222222222222222222".into();
    let id = sample.commit(&foreign, &sample.signer).await;
    let listing = listing(&sample).await;
    assert_eq!(listing.problems.len(), 1);
    assert!(listing.problems[0].reason.contains("\"web\"") && !listing.problems[0].future_format);
    assert!(reason(&listing, id.as_str()).contains("22222222222222222222222222222222"));
    assert_eq!(latest(&listing).unwrap(), ids[1], "neither is chosen, and the copy is no source of its own");
}

#[tokio::test]
async fn unreadable_and_newer_receipts_hide_nothing() {
    let (mut sample, ids) = two().await;
    let mut newer = third(&mut sample, &ids[1]).await;
    newer.format = 2;
    let newer = sample.commit(&newer, &sample.signer).await;
    sample.put("snapshots/web/notes.txt", b"x".to_vec()).await;
    sample.damage(&format!("snapshots/web/{}.json", ids[0]), |bytes| bytes[40] ^= 1).await;
    sample.put("snapshots/web/20260307T140000Z-000012-0123456789abcdef.json", vec![b' '; 2 << 20]).await;
    let listing = listing(&sample).await;
    assert_eq!(latest(&listing).unwrap(), ids[1]);
    assert_eq!(listing.problems.len(), 4, "{:?}", listing.problems);
    let future: Vec<_> = listing.problems.iter().filter(|p| p.future_format).collect();
    assert!(future.len() == 1 && future[0].key.contains(newer.as_str()));
    let error = choose(&listing, None, &Which::Id(ids[0].clone())).unwrap_err();
    assert_eq!(error.code(), ExitCode::Integrity);
}

#[tokio::test]
async fn a_claimed_time_far_from_the_stores_is_refused_unless_asked_for() {
    let (mut sample, ids) = two().await;
    let entries = sample.tree(&[]).await;
    // Put into the past by somebody who stole the signing key today, or copied from another store.
    let old = sample.snapshot("web", None, 2 * DAY, &entries).await;
    let one = listing(&sample).await;
    assert!(reason(&one, old.as_str()).contains("--ignore-store-time"));
    assert!(reason(&one, old.as_str()).contains("48 hours"));
    assert_eq!(latest(&one).unwrap(), ids[1]);
    let options = TrustOptions { ignore_store_time: true, ..sample.pinned() };
    let repository = Repository::open(sample.store.clone(), &options).await.unwrap();
    let listing = repository.listing(None).await.unwrap();
    assert_eq!(choose(&listing, None, &Which::At(now() - SignedDuration::from_hours(30))).unwrap().id, old);
}

#[tokio::test]
async fn an_end_time_before_the_predecessors_is_refused() {
    let (mut sample, ids) = two().await;
    let mut receipt = third(&mut sample, &ids[1]).await;
    receipt.finished_at -= SignedDuration::from_hours(5);
    let id = sample.commit(&receipt, &sample.signer).await;
    let listing = listing(&sample).await;
    assert!(reason(&listing, id.as_str()).contains("predecessor"));
}

#[tokio::test]
async fn a_revoked_signer_vouches_for_the_upheld_receipt_and_its_ancestors_only() {
    let (mut sample, ids) = two().await;
    let receipt = third(&mut sample, &ids[1]).await;
    let late = sample.commit(&receipt, &sample.signer).await;
    let (next, _) = SigningKey::generate().unwrap();
    let old = sample.signer.signer().to_string();
    sample
        .put_keys(|keys| {
            keys.signers = vec![next.signer().to_string()];
            let trusted_up_to = BTreeMap::from([("web".to_owned(), ids[1].parse().unwrap())]);
            keys.revoked.push(Revocation { signer: old, trusted_up_to });
        })
        .await;
    // Still pinned: the revocation counts more.
    let listing = listing(&sample).await;
    assert!(reason(&listing, late.as_str()).contains("revoked"));
    assert_eq!(latest(&listing).unwrap(), ids[1]);
    assert_eq!(listing.accepted().count(), 2);
}

#[tokio::test]
async fn a_signer_added_by_a_keys_object_is_accepted() {
    let (mut sample, ids) = two().await;
    let (next, _) = SigningKey::generate().unwrap();
    sample.put_keys(|keys| keys.signers.push(next.signer().to_string())).await;
    let receipt = third(&mut sample, &ids[1]).await;
    let id = sample.commit(&receipt, &next).await;
    assert_eq!(latest(&listing(&sample).await).unwrap(), id.to_string());
}

#[tokio::test]
async fn forks_and_gaps_are_warnings_unless_a_signed_tombstone_explains_them() {
    let (mut sample, ids) = two().await;
    let mut fork = third(&mut sample, &ids[0]).await;
    fork.seq = 2;
    let fork = sample.commit(&fork, &sample.signer).await;
    let one = listing(&sample).await;
    assert_eq!(one.warnings.len(), 1, "{:?}", one.warnings);
    assert!(one.warnings[0].starts_with("fork: web ") && one.warnings[0].contains(fork.as_str()));

    sample.delete(&format!("snapshots/web/{}.json", ids[0])).await;
    let one = listing(&sample).await;
    let gaps = |l: &Listing| l.warnings.iter().filter(|w| w.starts_with("gap: ") && w.contains(&ids[0])).count();
    // A signature without its receipt is no receipt.
    assert_eq!(gaps(&one), 2, "{:?}", one.warnings);
    let tombstone = format!("{}/snapshots/{}.json", layout::TRASH, ids[0]);
    sample.put(&tombstone, b"{}".to_vec()).await;
    assert_eq!(gaps(&listing(&sample).await), 2, "anybody could have put it there");
    let (thief, _) = SigningKey::generate().unwrap();
    sample.put_signed(&tombstone, b"{}".to_vec(), &thief).await;
    assert_eq!(gaps(&listing(&sample).await), 2);
    let receipt = sample.get(&format!("snapshots/web/{}.json", ids[1])).await;
    sample.put_signed(&tombstone, receipt, &sample.signer).await;
    assert_eq!(gaps(&listing(&sample).await), 2, "a receipt is no tombstone");
    sample.put_signed(&tombstone, b"{}".to_vec(), &sample.signer).await;
    assert_eq!(gaps(&listing(&sample).await), 0);
}

#[tokio::test]
async fn without_pins_looking_is_possible_and_content_is_not() {
    let (sample, ids) = two().await;
    let none = TrustOptions { pins: vec![], trust_store_keys: false, ignore_store_time: false, purpose: Purpose::Look };
    let repository = Repository::open(sample.store.clone(), &none).await.unwrap();
    let listing = repository.listing(None).await.unwrap();
    assert!(listing.snapshots.iter().all(|s| s.trust.word() == "unpinned"));
    assert_eq!(latest(&listing).unwrap(), ids[1]);

    let content = TrustOptions { purpose: Purpose::Content, ..none };
    let error = Repository::open(sample.store.clone(), &content).await.unwrap_err();
    assert_eq!(error.code(), ExitCode::Denied);
    let hint = error.hint_text().unwrap();
    for name in ["--trusted-signer", "OPSCTL_TRUSTED_SIGNERS", "--trust-store-keys"] {
        assert!(hint.contains(name), "{hint}");
    }
    let believing = TrustOptions { trust_store_keys: true, ..content };
    let repository = Repository::open(sample.store.clone(), &believing).await.unwrap();
    assert_eq!(latest(&repository.listing(None).await.unwrap()).unwrap(), ids[1]);
}

#[tokio::test]
async fn without_pins_a_keys_object_that_vouches_for_a_stranger_does_not_count() {
    let (sample, _) = two().await;
    let key = layout::keys_object(1, sample.keys.write().unwrap().0);
    let (thief, _) = SigningKey::generate().unwrap();
    let signature = thief.sign(&sample.get(&key).await, "x").unwrap();
    sample.put(&format!("{key}{SIGNATURE}"), signature.into_bytes()).await;
    let none = TrustOptions { pins: vec![], trust_store_keys: false, ignore_store_time: false, purpose: Purpose::Look };
    let repository = Repository::open(sample.store.clone(), &none).await.unwrap();
    assert_eq!(repository.listing(None).await.unwrap().accepted().count(), 0);
    assert!(repository.warnings().iter().any(|w| w.contains("trusted signer")));
}

#[tokio::test]
async fn an_empty_place_is_no_store_and_a_damaged_descriptor_is_a_warning() {
    let (sample, ids) = two().await;
    sample.put(layout::DESCRIPTOR, b"{".to_vec()).await;
    let repository = sample.open().await;
    assert_eq!(repository.store_id(), Some("11111111111111111111111111111111"));
    assert!(repository.warnings()[0].contains(layout::DESCRIPTOR));
    assert_eq!(latest(&listing(&sample).await).unwrap(), ids[1]);
    sample.delete(layout::DESCRIPTOR).await;
    assert_eq!(latest(&listing(&sample).await).unwrap(), ids[1]);

    let empty = Sample::new().await;
    for object in empty.store.list("").await.unwrap() {
        empty.delete(&object.key).await;
    }
    let error = Repository::open(empty.store.clone(), &empty.pinned()).await.unwrap_err();
    assert_eq!(error.code(), ExitCode::NotFound);
    assert!(error.hint_text().unwrap().contains("opsctl init"));
}
