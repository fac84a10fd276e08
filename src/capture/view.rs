//! What one LIST of the store shows: the only thing a backup host ever reads there.

use std::collections::{HashMap, HashSet};

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
    pack_lists: HashSet<String>,
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
        for object in objects {
            let key = object.key.as_str();
            if let Some(pack) = layout::parse_pack(key) {
                view.packs.insert(pack, object.size);
            } else if let Some(pack) = layout::parse_pack_mark(key) {
                view.marked.insert(pack);
            } else if let Some((source, id)) = layout::parse_receipt(key) {
                view.snapshots.entry(source.to_owned()).or_default().push(id);
            } else if key.starts_with(layout::PACK_LISTS) {
                view.pack_lists.insert(object.key);
            } else if key.starts_with(layout::KEYS) {
                view.keys.push(object);
            }
        }
        view
    }

    /// True if a pack is there, whole as far as its size tells, and not marked for removal.
    #[must_use]
    pub fn has_pack(&self, line: &PackLine) -> bool {
        self.packs.get(&line.pack) == Some(&line.size) && !self.marked.contains(&line.pack)
    }

    /// True if a pack list is there.
    #[must_use]
    pub fn has_pack_list(&self, key: &str) -> bool {
        self.pack_lists.contains(key)
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

#[cfg(test)]
mod tests {
    use super::*;

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
