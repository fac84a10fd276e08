//! What one LIST of the store shows: the only thing a backup host ever reads there.

use std::collections::{HashMap, HashSet};

use jiff::SignedDuration;

use crate::archive::hash::Hash;
use crate::archive::layout;
use crate::archive::packlist::PackLine;
use crate::archive::receipt::SnapshotId;
use crate::providers::store::{ObjectInfo, Store, StoreError};

/// The objects of a store at one moment.
#[derive(Debug, Default)]
pub struct StoreView {
    packs: HashMap<Hash, u64>,
    marked: HashSet<Hash>,
    snapshots: HashMap<String, Vec<SnapshotId>>,
    /// Receipts that cannot count as anybody's predecessor, with the reason.
    odd: Vec<(String, &'static str)>,
    has_descriptor: bool,
    pack_lists: HashMap<String, u64>,
    /// The keys objects and their signatures.
    pub keys: Vec<ObjectInfo>,
}

impl StoreView {
    /// Lists the store.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn list(store: &Store) -> Result<Self, StoreError> {
        Ok(Self::new(store.list("").await?))
    }

    fn new(objects: Vec<ObjectInfo>) -> Self {
        let mut view = Self::default();
        let signatures: HashSet<String> =
            objects.iter().filter_map(|o| o.key.strip_suffix(layout::SIGNATURE)).map(str::to_owned).collect();
        for object in objects {
            let key = object.key.as_str();
            if let Some(pack) = layout::parse_pack(key) {
                view.packs.insert(pack, object.size);
            } else if let Some(pack) = layout::parse_pack_mark(key) {
                view.marked.insert(pack);
            } else if let Some((source, id)) = layout::parse_receipt(key) {
                match why_odd(&id, &object, &signatures) {
                    None => view.snapshots.entry(source.to_owned()).or_default().push(id),
                    Some(why) => view.odd.push((key.to_owned(), why)),
                }
            } else if key == layout::DESCRIPTOR {
                view.has_descriptor = true;
            } else if key.starts_with(layout::PACK_LISTS) {
                view.pack_lists.insert(object.key, object.size);
            } else if key.starts_with(layout::KEYS) {
                view.keys.push(object);
            }
        }
        view
    }

    /// True if this is an opsctl store at all.
    #[must_use]
    pub const fn has_descriptor(&self) -> bool {
        self.has_descriptor
    }

    /// Objects that are called like receipts and cannot be this host's.
    pub fn odd(&self) -> impl Iterator<Item = String> {
        self.odd.iter().map(|(key, why)| format!("{key} does not count: {why}"))
    }

    /// True if an object of this name is there that is called like a receipt, whether or not it can count.
    #[must_use]
    pub fn lists_receipt(&self, key: &str) -> bool {
        self.has_receipt(key) || self.odd.iter().any(|(odd, _)| odd == key)
    }

    /// True if a pack is there, whole as far as its size tells, and not marked for removal.
    #[must_use]
    pub fn has_pack(&self, line: &PackLine) -> bool {
        self.packs.get(&line.pack) == Some(&line.size) && !self.marked.contains(&line.pack)
    }

    /// True if a pack list is there, whole as far as its size tells.
    #[must_use]
    pub fn has_pack_list(&self, key: &str, size: usize) -> bool {
        self.pack_lists.get(key) == Some(&(size as u64))
    }

    /// True if the receipt with this object name is there.
    #[must_use]
    pub fn has_receipt(&self, key: &str) -> bool {
        layout::parse_receipt(key).is_some_and(|(source, id)| self.of(source).contains(&id))
    }

    /// The newest snapshot of a source: highest sequence, then latest.
    #[must_use]
    pub fn newest(&self, source: &str) -> Option<&SnapshotId> {
        self.of(source).iter().max_by_key(|id| (id.seq(), (*id).clone()))
    }

    fn of(&self, source: &str) -> &[SnapshotId] {
        self.snapshots.get(source).map_or(&[], Vec::as_slice)
    }
}

/// The highest sequence number that is believed: ids must stay readable when it goes on from there.
const MAX_SEQ: u64 = 1_000_000_000_000_000;
/// No receipt is stored long before the end that it claims.
const MAX_AHEAD: SignedDuration = SignedDuration::from_hours(24);

/// Why a receipt's name cannot be that of a predecessor. Whoever may only put objects could plant a name
/// from the far future, and all later snapshots, being later still, would be trusted by no reader.
fn why_odd(id: &SnapshotId, object: &ObjectInfo, signatures: &HashSet<String>) -> Option<&'static str> {
    if id.finished_at().duration_since(object.modified) > MAX_AHEAD {
        return Some("it claims a time long after it was stored");
    }
    if id.seq() > MAX_SEQ {
        return Some("its sequence number is absurd");
    }
    (!signatures.contains(&object.key)).then_some("it has no signature")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_planted_receipt_is_nobodys_predecessor() {
        let at = |text: &str| text.parse::<jiff::Timestamp>().unwrap();
        let receipt = |id: &str, modified: &str| {
            let key = format!("snapshots/web/{id}.json");
            ["", layout::SIGNATURE].map(|end| ObjectInfo {
                key: format!("{key}{end}"),
                size: 1,
                modified: at(modified),
            })
        };
        let good = receipt("20260307T140000Z-000001-0123456789abcdef", "2026-03-07T14:00:01Z");
        let future = receipt("20991230T000000Z-000777-0123456789abcdef", "2026-03-08T00:00:00Z");
        let absurd = receipt("20260307T150000Z-999999999999999999-0123456789abcdef", "2026-03-07T15:00:00Z");
        let [unsigned, _] = receipt("20260307T160000Z-000009-0123456789abcdef", "2026-03-07T16:00:00Z");
        let all = [&good[..], &future, &absurd, &[unsigned]].concat();
        let view = StoreView::new(all);
        assert_eq!(view.newest("web").map(|id| id.seq()), Some(1));
        assert_eq!(view.odd().count(), 3);
        // A store that was copied has later times, and its receipts count.
        let copied = receipt("20260307T140000Z-000001-0123456789abcdef", "2027-01-01T00:00:00Z");
        assert!(StoreView::new(copied.to_vec()).newest("web").is_some());
    }

    #[test]
    fn a_pack_counts_only_with_its_size_and_without_a_mark() {
        let pack = Hash::of(b"p");
        let object = |key: String, size| ObjectInfo { key, size, modified: jiff::Timestamp::UNIX_EPOCH };
        let line = PackLine { pack, size: 10, header: 1, keys: Hash::of(b"k") };
        assert!(StoreView::new(vec![object(layout::pack(pack), 10)]).has_pack(&line));
        assert!(!StoreView::new(vec![object(layout::pack(pack), 9)]).has_pack(&line));
        let marked = vec![object(layout::pack(pack), 10), object(format!("trash/packs/{pack}"), 0)];
        assert!(!StoreView::new(marked).has_pack(&line));
    }
}
