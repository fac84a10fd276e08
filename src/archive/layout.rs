//! Names of the objects in a store.

use super::hash::Hash;
use super::receipt::SnapshotId;

/// The store descriptor: written once, nothing else at the top.
pub const DESCRIPTOR: &str = "opsctl-store.json";
/// Folder of the keys objects.
pub const KEYS: &str = "keys";
/// Folder of the packs.
pub const PACKS: &str = "packs";
/// Folder of the pack lists.
pub const PACK_LISTS: &str = "packlists";
/// Folder of the receipts, with a folder for each source below.
pub const SNAPSHOTS: &str = "snapshots";
/// Folder of tombstones and marks of the two-phase prune.
pub const TRASH: &str = "trash";
/// What a signature is called: the signed object's name with this behind it.
pub const SIGNATURE: &str = ".minisig";

const PACK_END: &str = ".tar.zst.age";

/// The object of a pack.
#[must_use]
pub fn pack(id: Hash) -> String {
    format!("{PACKS}/{}/{id}{PACK_END}", id.short(2))
}

/// The pack that an object holds, if its name is that of a pack.
#[must_use]
pub fn parse_pack(key: &str) -> Option<Hash> {
    let (_, name) = key.strip_prefix(PACKS)?.rsplit_once('/')?;
    let id: Hash = name.strip_suffix(PACK_END)?.parse().ok()?;
    (pack(id) == key).then_some(id)
}

/// The object of a pack list.
#[must_use]
pub fn pack_list(id: Hash) -> String {
    format!("{PACK_LISTS}/{}/{id}.jsonl", id.short(2))
}

/// The object of a receipt.
#[must_use]
pub fn receipt(source: &str, id: &SnapshotId) -> String {
    format!("{SNAPSHOTS}/{source}/{id}.json")
}

/// True for the name of a source: 1 to 64 of `A-Z a-z 0-9 . _ -`, the first no dot.
#[must_use]
pub fn is_source(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    (1..=64).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(allowed)
}

/// Source and id of a receipt, if the object's name is that of a receipt.
#[must_use]
pub fn parse_receipt(key: &str) -> Option<(&str, SnapshotId)> {
    let rest = key.strip_prefix(SNAPSHOTS)?.strip_prefix('/')?;
    let (source, name) = rest.split_once('/')?;
    if !is_source(source) {
        return None;
    }
    Some((source, name.strip_suffix(".json")?.parse().ok()?))
}

/// The object of keys object `seq` with content `hash`.
#[must_use]
pub fn keys_object(seq: u32, hash: Hash) -> String {
    format!("{KEYS}/{seq:06}-{}.json", hash.short(8))
}

/// The number of a keys object, if the object's name is that of one.
#[must_use]
pub fn keys_seq(key: &str) -> Option<u32> {
    let (seq, _) = key.strip_prefix(KEYS)?.strip_prefix('/')?.strip_suffix(".json")?.split_once('-')?;
    seq.parse().ok()
}

/// The mark that the prune left on a pack, if the object's name is that of a mark.
#[must_use]
pub fn parse_pack_mark(key: &str) -> Option<Hash> {
    key.strip_prefix(TRASH)?.strip_prefix("/packs/")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_others_are_not_taken() {
        let id = Hash::of(b"x");
        assert_eq!(parse_pack(&pack(id)), Some(id));
        assert_eq!(parse_pack(&format!("packs/zz/{id}.tar.zst.age")), None);
        assert_eq!(parse_pack("packs/2d/short.tar.zst.age"), None);
        let snapshot: SnapshotId = "20260307T140000Z-000012-0123456789abcdef".parse().unwrap();
        let key = receipt("web", &snapshot);
        assert_eq!(parse_receipt(&key), Some(("web", snapshot)));
        assert_eq!(parse_receipt(&format!("{key}{SIGNATURE}")), None);
        assert_eq!(parse_receipt(&key.replace("web", "..")), None);
        assert_eq!(keys_seq(&keys_object(12, id)), Some(12));
        assert_eq!(keys_seq("keys/keys.json"), None);
        assert_eq!(parse_pack_mark(&format!("trash/packs/{id}")), Some(id));
    }
}
