//! Differences between two snapshots, and what is put out about snapshots.

use super::sample::{Sample, path};
use crate::archive::entry::{Entry, Kind, Xattr};
use crate::archive::path::EntryPath;
use crate::cancel::Cancel;
use crate::repository::diff::{Change, ChangeRow, DiffCounts, diff};
use crate::repository::rows::{EntryRow, ListDocument, ShowDocument};

async fn differences(sample: &Sample, below: Option<&[EntryPath]>) -> (Vec<String>, DiffCounts) {
    let repository = sample.open().await;
    let listing = repository.listing(None).await.unwrap();
    let cancel = Cancel::default();
    let before = repository.manifest(&listing.snapshots[0], &sample.identities, &cancel).await.unwrap();
    let after = repository.manifest(&listing.snapshots[1], &sample.identities, &cancel).await.unwrap();
    let mut found = Vec::new();
    let each = |change: Change| {
        let row = serde_json::to_value(ChangeRow::from(&change)).unwrap();
        found.push(format!("{} {:?} {}", row["change"].as_str().unwrap(), change.path(), row["what"]));
        Ok(())
    };
    let counts = diff(&before, &after, below, each).await.unwrap();
    (found, counts)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_difference_is_found_and_nothing_else() {
    let mut sample = Sample::new().await;
    let names: Vec<String> = (0..3000).map(|n| format!("d{}/f{n:04}", n % 7)).collect();
    let files: Vec<(&[u8], Vec<u8>)> = names.iter().map(|n| (n.as_bytes(), n.as_bytes().to_vec())).collect();
    let before = sample.tree(&files).await;
    let mut after = before.clone();
    after.retain(|e| e.path != path(b"d1/f0008"));
    after.insert(after.partition_point(|e| e.path < path(b"d2/new")), Entry::new(path(b"d2/new"), Kind::Fifo));
    let new_content = sample.file(b"d6/f0013", b"new").await;
    for entry in &mut after {
        match entry.path.as_bytes() {
            b"d0/f0007" => (entry.mode, entry.uid) = (0o600, 7),
            b"d3" => entry.mtime = (5, 6),
            b"d3/f0010" => entry.xattrs.push(Xattr { name: b"user.x".to_vec(), value: vec![1] }),
            b"d6/f0006" => *entry = Entry::new(entry.path.clone(), Kind::Dir),
            b"d6/f0013" => *entry = new_content.clone(),
            b"d6/f0020" => entry.missing = Some("EACCES".into()),
            _ => {}
        }
    }
    let first = sample.snapshot("web", None, 200, &before).await;
    sample.snapshot("web", Some(&first), 100, &after).await;

    let (found, counts) = differences(&sample, None).await;
    let expected = [
        r#"changed "d0/f0007" ["mode","owner"]"#,
        r#"removed "d1/f0008" []"#,
        r#"added "d2/new" []"#,
        r#"changed "d3" ["mtime"]"#,
        r#"changed "d3/f0010" ["xattrs"]"#,
        r#"changed "d6/f0006" ["type","content","mode"]"#,
        r#"changed "d6/f0013" ["content"]"#,
        r#"changed "d6/f0020" ["captured"]"#,
    ];
    assert_eq!(found, expected);
    assert_eq!(counts, DiffCounts { added: 1, removed: 1, changed: 6 });

    let (found, _) = differences(&sample, Some(&[path(b"d3/f0010"), path(b"d1")])).await;
    assert_eq!(found, [expected[1], expected[4]], "the directories above are not part of it");
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_hold_what_scripts_ask_for() {
    let mut sample = Sample::new().await;
    let mut tree = sample.tree(&[(b"a\xff", b"1".to_vec())]).await;
    let mut link = Entry::new(path(b"b"), Kind::Symlink);
    link.target = b"a".to_vec();
    tree.push(link);
    sample.snapshot("web", None, 60, &tree).await;
    sample.put("snapshots/web/x", vec![]).await;
    let repository = sample.open().await;
    let listing = repository.listing(None).await.unwrap();
    let list = serde_json::to_value(ListDocument::new(&listing, repository.warnings())).unwrap();
    for key in
        ["id", "source", "started_at", "finished_at", "files", "bytes", "bytes_stored", "status", "tags", "trust"]
    {
        assert!(list["snapshots"][0].get(key).is_some(), "{key}");
    }
    assert_eq!(list["problems"][0]["object"], "snapshots/web/x");
    let show = serde_json::to_value(ShowDocument::from(&listing.snapshots[0])).unwrap();
    assert_eq!(show["signer"], sample.signer.signer().as_str());
    assert_eq!(show["receipt"]["type"], "opsctl-receipt");
    let rows: Vec<serde_json::Value> = tree.iter().map(|e| serde_json::to_value(EntryRow::from(e)).unwrap()).collect();
    assert_eq!((&rows[1]["path_b64"], &rows[1]["size"]), (&"Yf8=".into(), &1.into()));
    assert_eq!((&rows[2]["type"], &rows[2]["target"]), (&"symlink".into(), &"a".into()));
}
