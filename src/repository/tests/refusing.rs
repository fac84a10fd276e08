//! A store that does not hand out single objects, and one that hands out more than anybody wants.

use std::sync::Mutex;

use jiff::SignedDuration;

use super::sample::{Sample, noise, now};
use crate::ExitCode;
use crate::archive::layout::{self, SIGNATURE};
use crate::cancel::Cancel;
use crate::providers::store::faulty::{Faulty, Rule, forbidden, timeout};
use crate::providers::store::{Location, RetryPolicy, Store};
use crate::repository::choose::skipped;
use crate::repository::{
    FetchOptions, FetchPlan, FetchStats, FrameOf, Listing, OnFailure, Packs, Repository, Which, choose,
};

/// What the store says instead of an object.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Says {
    Denied,
    Unavailable,
}

/// Makes the store of `sample` refuse the objects whose keys hold these texts.
pub(crate) fn refuse(sample: &mut Sample, refused: &[(&str, Says)]) {
    let rules = refused.iter().map(|(key, says)| match says {
        Says::Denied => Rule::get(key).fails(forbidden),
        Says::Unavailable => Rule::get(key).fails(timeout),
    });
    let backend = Faulty::over(sample.backend.clone(), rules);
    let location = Location::parse("memory://").unwrap();
    sample.store = Store::from_backend(location, backend).with_retry(RetryPolicy::never());
}

const BOTH: [Says; 2] = [Says::Denied, Says::Unavailable];

/// A store of 8 packs with three frames each, and the plan to fetch all.
async fn packs() -> (Sample, FetchPlan) {
    let mut sample = Sample::new().await;
    sample.pack_size = 900_000;
    let mut extents = Vec::new();
    for n in 0..8 {
        let files = [(b"a".as_slice(), 300_000), (b"b", 300_001), (b"c", 300_002)];
        let files = files.map(|(name, len)| (name, noise(len, n)));
        extents.extend(sample.tree(&files).await.iter().flat_map(|f| f.inline_extents().to_vec()));
    }
    let plan = FetchPlan::new(&Packs::new(sample.packs().to_vec()), &extents).unwrap();
    (sample, plan)
}

async fn fetch(sample: &Sample, plan: &FetchPlan, salvage: bool) -> (crate::Result<FetchStats>, Vec<FrameOf>) {
    let repository = sample.open().await;
    let seen = Mutex::new(Vec::new());
    let sink = |place: FrameOf, tar: &[u8]| {
        for entry in crate::archive::frame::entries(tar) {
            crate::archive::frame::find(tar, entry?.0)?;
        }
        seen.lock().unwrap().push(place);
        Ok(())
    };
    let options = FetchOptions { parallel: 1, on_failure: OnFailure::Collect, salvage, ..FetchOptions::default() };
    let result = repository.fetch(plan, Some(&sample.identities), &options, &Cancel::default(), &sink).await;
    (result, seen.into_inner().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_that_is_refused_is_recorded_and_a_store_that_is_away_ends_the_fetch() {
    for (says, code) in BOTH.into_iter().zip([ExitCode::Denied, ExitCode::Failed]) {
        let (mut sample, plan) = packs().await;
        let names: Vec<String> = plan.packs.iter().map(|p| layout::pack(p.line.pack)).collect();
        refuse(&mut sample, &[(&names[0], says), (&names[3], says), (&names[7], says)]);
        let (stats, seen) = fetch(&sample, &plan, false).await;
        let failed = stats.unwrap().failed;
        assert!(failed.len() == 3 && failed.iter().all(|f| f.code == code && f.frame.is_none()), "{failed:?}");
        let frames: usize = plan.packs.iter().map(|p| p.frames.len()).sum();
        assert!(seen.len() < frames && seen.len() >= frames / 2);

        let four: Vec<(&str, Says)> = names[2..6].iter().map(|name| (name.as_str(), says)).collect();
        refuse(&mut sample, &four);
        assert_eq!(fetch(&sample, &plan, false).await.0.unwrap_err().code(), code);
        refuse(&mut sample, &[("packs/", says)]);
        let one = FetchPlan { packs: plan.packs[..1].to_vec() };
        assert_eq!(fetch(&sample, &one, false).await.0.unwrap_err().code(), code, "nothing was had at all");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_of_a_damaged_pack_can_be_saved() {
    let (sample, plan) = packs().await;
    let plan = FetchPlan::whole(plan.packs.iter().map(|p| (p.line, p.frames.clone())));
    let all: usize = plan.packs.iter().map(|p| p.frames.len()).sum();
    let name = |n: usize| layout::pack(plan.packs[n].line.pack);
    // In the first frame; in the age header; cut off in the last frame.
    sample.damage(&name(0), |bytes| bytes[60_000] ^= 1).await;
    sample.damage(&name(1), |bytes| bytes[40] ^= 1).await;
    sample.damage(&name(2), |bytes| bytes.truncate(bytes.len() - 100_000)).await;
    let lost: usize = plan.packs[..3].iter().map(|p| p.frames.len()).sum();
    let (stats, seen) = fetch(&sample, &plan, false).await;
    assert_eq!((stats.unwrap().failed.len(), seen.len()), (3, all - lost));

    let (stats, seen) = fetch(&sample, &plan, true).await;
    let failed = stats.unwrap().failed;
    let whole = failed.iter().filter(|f| f.frame.is_none()).count();
    assert_eq!(whole, 3, "{failed:?}");
    assert_eq!(failed.len(), 5, "{failed:?}");
    assert!(failed.iter().all(|f| f.code == ExitCode::Integrity));
    assert_eq!(seen.len(), all - plan.packs[1].frames.len() - 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_ranges_no_more_than_the_pack_list_says_is_taken() {
    let (sample, plan) = packs().await;
    let plan = FetchPlan::whole(plan.packs.iter().map(|p| (p.line, p.frames.clone())));
    sample.damage(&layout::pack(plan.packs[0].line.pack), |bytes| bytes.resize(50 << 20, 0)).await;
    let repository = sample.open().await;
    repository.no_ranges.store(true, std::sync::atomic::Ordering::Relaxed);
    let before = sample.store.stats().bytes_received;
    let options = FetchOptions { on_failure: OnFailure::Collect, ..FetchOptions::default() };
    let cancel = Cancel::default();
    let stats = repository.fetch(&plan, Some(&sample.identities), &options, &cancel, &|_, _| Ok(())).await.unwrap();
    assert!(stats.failed.len() == 1 && stats.failed[0].reason.contains("bytes long"), "{:?}", stats.failed);
    assert!(sample.store.stats().bytes_received - before < 20 << 20);
}

/// Three snapshots, 3, 2 and 1 hours old.
async fn three() -> (Sample, Vec<String>) {
    let mut sample = Sample::new().await;
    let entries = sample.tree(&[(b"a", b"1".to_vec())]).await;
    let mut ids = vec![sample.snapshot("web", None, 3 * 3600, &entries).await];
    for age in [2 * 3600, 3600] {
        ids.push(sample.snapshot("web", ids.last(), age, &entries).await);
    }
    (sample, ids.iter().map(ToString::to_string).collect())
}

async fn listing(sample: &Sample) -> crate::Result<Listing> {
    sample.open().await.listing(None).await
}

#[tokio::test]
async fn an_older_snapshot_never_stands_in_for_one_that_is_refused() {
    for says in BOTH {
        for end in ["", SIGNATURE] {
            let (mut sample, ids) = three().await;
            let key = format!("snapshots/web/{}.json", ids[1]);
            refuse(&mut sample, &[(&format!("{key}{end}"), says)]);
            let listing = listing(&sample).await.unwrap();
            assert!(listing.problems.len() == 1 && listing.problems[0].unreachable, "{:?}", listing.problems);
            let pick = |which: &Which| choose(&listing, None, which).map(|s| s.id.to_string());
            let ago = |minutes: i64| Which::At(now() - SignedDuration::from_mins(minutes));
            assert_eq!(pick(&Which::Latest).unwrap(), ids[2], "it is older than the answer");
            let error = pick(&ago(90)).unwrap_err();
            assert!(error.code() == ExitCode::Failed && error.to_string().contains(&key), "{error:?}");
            assert_eq!(pick(&ago(150)).unwrap(), ids[0], "it is newer than what is asked for");
            assert_eq!(pick(&Which::Id(ids[0].clone())).unwrap(), ids[0]);
            assert_eq!(pick(&Which::Id(ids[1].clone())).unwrap_err().code(), ExitCode::Failed);
        }
        let (mut sample, ids) = three().await;
        refuse(&mut sample, &[(&ids[2], says)]);
        let one = listing(&sample).await.unwrap();
        assert_eq!(choose(&one, None, &Which::Latest).unwrap_err().code(), ExitCode::Failed);
        refuse(&mut sample, &[("snapshots/", says)]);
        assert!(listing(&sample).await.is_err(), "the store hands out none");
        refuse(&mut sample, &[(layout::DESCRIPTOR, says)]);
        assert_eq!(listing(&sample).await.unwrap().accepted().count(), 3, "one unreadable object");
        refuse(&mut sample, &[("", says)]);
        assert!(Repository::open(sample.store.clone(), &sample.pinned()).await.is_err());
    }
}

#[tokio::test]
async fn only_what_could_have_been_the_answer_is_said_to_be_skipped() {
    let (sample, ids) = three().await;
    sample.delete(&format!("snapshots/web/{}.json{SIGNATURE}", ids[2])).await;
    sample.put("snapshots/web/readme", vec![]).await;
    let listing = listing(&sample).await.unwrap();
    let skips = |which: &Which| skipped(&listing, choose(&listing, None, which).unwrap(), which);
    assert_eq!(skips(&Which::At(now() - SignedDuration::from_mins(90))), [""; 0]);
    let latest = skips(&Which::Latest);
    assert!(latest.len() == 1 && latest[0].contains(&ids[2]), "{latest:?}");
}

#[tokio::test]
async fn a_rejected_receipt_makes_no_prefix_ambiguous() {
    let (mut sample, ids) = three().await;
    for id in &ids[1..] {
        sample.delete(&format!("snapshots/web/{id}.json{SIGNATURE}")).await;
    }
    let one = listing(&sample).await.unwrap();
    assert_eq!(choose(&one, None, &Which::Id("20".into())).unwrap().id.as_str(), ids[0]);
    let entries = sample.tree(&[]).await;
    sample.snapshot("web", None, 60, &entries).await;
    let two = listing(&sample).await.unwrap();
    assert_eq!(choose(&two, None, &Which::Id("20".into())).unwrap_err().code(), ExitCode::Usage);
}
