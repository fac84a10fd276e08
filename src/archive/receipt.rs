//! Receipts: the plaintext, signed JSON whose presence commits a snapshot.
//!
//! Invariants:
//! * No file name, no fact about content, no secret: an auditor without a key may read it.
//! * The id holds the first 16 hex digits of the receipt's SHA-256, so a listing alone gives the
//!   newest snapshot and a predecessor cannot be replaced by another.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use super::entry::{Entry, Extent, Kind};
use super::hash::Hash;
use super::{FormatError, check_envelope};

/// What a receipt calls itself.
pub const TYPE: &str = "opsctl-receipt";

/// `<end time>-<seq>-<first 16 hex of the receipt's SHA-256>`; sorts by time, then by sequence.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SnapshotId(String);

impl SnapshotId {
    /// The id of a receipt with these bytes.
    #[must_use]
    pub fn new(finished_at: Timestamp, seq: u64, receipt: Hash) -> Self {
        let time = finished_at.to_zoned(TimeZone::UTC).strftime("%Y%m%dT%H%M%SZ").to_string();
        Self(format!("{time}-{seq:06}-{}", receipt.short(16)))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn part(&self, n: usize) -> &str {
        self.0.split('-').nth(n).unwrap_or_default()
    }

    /// The sequence number.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.part(1).parse().unwrap_or_default()
    }

    /// The end time, to the second.
    #[must_use]
    pub fn finished_at(&self) -> Timestamp {
        parse_time(self.part(0)).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    /// True if a receipt with hash `hash` may carry this id.
    #[must_use]
    pub fn matches(&self, hash: Hash) -> bool {
        self.part(2) == hash.short(16)
    }
}

fn parse_time(text: &str) -> Option<Timestamp> {
    // By itself it would take spaces and signs.
    if !text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'T' | b'Z')) {
        return None;
    }
    let time = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", text).ok()?;
    time.to_zoned(TimeZone::UTC).ok().map(|z| z.timestamp())
}

impl FromStr for SnapshotId {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        let parts: Vec<&str> = text.split('-').collect();
        let ok = match parts[..] {
            [time, seq, hash] => {
                time.len() == 16
                    && parse_time(time).is_some()
                    && (6..=18).contains(&seq.len())
                    && seq.bytes().all(|b| b.is_ascii_digit())
                    && hash.len() == 16
                    && hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
            }
            _ => false,
        };
        if ok {
            Ok(Self(text.to_owned()))
        } else {
            let shown: String = text.chars().take(80).collect();
            Err(FormatError::malformed(format!(
                "{shown:?} is not a snapshot id (20260307T140000Z-000012-0123456789abcdef)"
            )))
        }
    }
}

impl TryFrom<String> for SnapshotId {
    type Error = FormatError;
    fn try_from(text: String) -> Result<Self, FormatError> {
        text.parse()
    }
}

impl From<SnapshotId> for String {
    fn from(id: SnapshotId) -> Self {
        id.0
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl schemars::JsonSchema for SnapshotId {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "SnapshotId".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "string", "pattern": "^[0-9]{8}T[0-9]{6}Z-[0-9]{6,}-[0-9a-f]{16}$"})
    }
}

/// Whether everything asked for is in the snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Every file was captured, consistent.
    Complete,
    /// Some files are missing or were changing; the manifest names them.
    Incomplete,
}

/// What a snapshot holds, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Counts {
    /// Regular files, with their hard links.
    pub files: u64,
    /// Directories, the root included.
    pub dirs: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Pipes, sockets and devices.
    pub special: u64,
    /// Bytes of content, holes not counted.
    pub bytes: u64,
    /// Paths whose content, or part of whose metadata, could not be captured.
    pub unreadable: u64,
    /// Files stored although they were still changing.
    pub changed: u64,
    /// Paths left out on purpose.
    pub excluded: u64,
    /// Files that vanished between listing and reading.
    pub vanished: u64,
}

impl Counts {
    /// Counts one entry of a manifest. A path that was left out on purpose counts as `excluded` only, one
    /// that could not be captured as `unreadable` only. Each name of a hard-linked file counts, with its bytes.
    pub fn add(&mut self, entry: &Entry) {
        if entry.excluded.is_some() {
            self.excluded += 1;
        } else if entry.missing.is_some() {
            self.unreadable += 1;
        } else {
            self.add_captured(entry.kind, entry.data_len());
            self.changed += u64::from(entry.changed);
            self.unreadable += u64::from(!entry.unread_xattrs.is_empty());
        }
    }

    /// Counts one captured path of `kind` with `bytes` of content, which may be a hostile claim: more than there can be
    /// is counted as the most there can be.
    pub const fn add_captured(&mut self, kind: Kind, bytes: u64) {
        match kind {
            Kind::File => self.files += 1,
            Kind::Dir => self.dirs += 1,
            Kind::Symlink => self.symlinks += 1,
            Kind::Fifo | Kind::Socket | Kind::Char | Kind::Block => self.special += 1,
        }
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

/// The profile a snapshot was taken under.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ProfileRef {
    /// Its name.
    pub name: String,
    /// The version of the deployment contract that it states.
    pub contract_version: String,
}

/// The receipt of one snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Receipt {
    /// Always `opsctl-receipt`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The format version.
    pub format: u32,
    /// Abilities a reader must have; none are defined in format 1.
    pub requires: Vec<String>,
    /// The store this belongs to.
    pub store_id: String,
    /// The source; must equal the folder it lies in.
    pub source: String,
    /// The host that took the snapshot.
    pub host: String,
    /// One more than the predecessor's.
    pub seq: u64,
    /// The newest snapshot of the source when this one was committed.
    pub predecessor: Option<SnapshotId>,
    /// When the walk began, RFC 3339.
    #[schemars(with = "String")]
    pub started_at: Timestamp,
    /// When the snapshot was committed, RFC 3339, whole seconds.
    #[schemars(with = "String")]
    pub finished_at: Timestamp,
    /// Seconds that `finished_at` lies ahead of the host's clock, because that had stepped back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_skew_seconds: Option<i64>,
    /// Whether everything asked for is there.
    pub status: Status,
    /// The profile, if one was used.
    pub profile: Option<ProfileRef>,
    /// Versions that the running service reported.
    pub versions: Option<BTreeMap<String, String>>,
    /// `--tag k=v`, in plaintext.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// What the snapshot holds.
    pub counts: Counts,
    /// Packs that this run added.
    pub packs_stored: u64,
    /// Bytes of packs that this run added.
    pub bytes_stored: u64,
    /// SHA-256 of the pack list, which names every pack the snapshot needs.
    pub pack_list: Hash,
    /// Where the manifest root is.
    pub root: Extent,
    /// The program that wrote it, as `opsctl <version>`.
    pub program: String,
}

impl Receipt {
    /// The bytes to store and sign, and the id they have.
    ///
    /// # Errors
    /// Only when memory runs out.
    pub fn write(&self) -> Result<(SnapshotId, Vec<u8>), FormatError> {
        let mut bytes =
            serde_json::to_vec_pretty(self).map_err(|source| FormatError::Json { what: "receipt", source })?;
        bytes.push(b'\n');
        Ok((SnapshotId::new(self.finished_at, self.seq, Hash::of(&bytes)), bytes))
    }

    /// Reads a receipt found under `source` as `id`, and checks that it says the same of itself.
    ///
    /// # Errors
    /// When it is damaged, of another format, or was copied from another place.
    pub fn read(source: &str, id: &SnapshotId, bytes: &[u8]) -> Result<Self, FormatError> {
        let found = Hash::of(bytes);
        if !id.matches(found) {
            return Err(FormatError::malformed(format!(
                "the receipt hashes to {}, not to what its name says",
                found.short(16)
            )));
        }
        let json = |source| FormatError::Json { what: "receipt", source };
        let envelope: Envelope = serde_json::from_slice(bytes).map_err(json)?;
        check_envelope("receipt", TYPE, &envelope.kind, envelope.format, &envelope.requires)?;
        let receipt: Self = serde_json::from_slice(bytes).map_err(json)?;
        if receipt.source != source {
            return Err(FormatError::malformed(format!(
                "the receipt is of source {:?}, found under {source:?}",
                receipt.source
            )));
        }
        if (receipt.seq, receipt.finished_at) != (id.seq(), id.finished_at()) {
            return Err(FormatError::malformed("sequence or time of the receipt differ from its name"));
        }
        if receipt.predecessor.as_ref().is_some_and(|p| p.seq() >= receipt.seq) {
            return Err(FormatError::malformed("the receipt's sequence is not above its predecessor's"));
        }
        Ok(receipt)
    }
}

/// The part of every document that is read before anything else.
#[derive(Deserialize)]
pub(super) struct Envelope {
    #[serde(rename = "type")]
    pub kind: String,
    pub format: u32,
    #[serde(default)]
    pub requires: Vec<String>,
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::archive::FORMAT;
    use crate::archive::entry::FrameRef;

    pub(crate) fn sample() -> Receipt {
        let zero = Hash([0; 32]);
        Receipt {
            kind: TYPE.into(),
            format: FORMAT,
            requires: vec![],
            store_id: "s".into(),
            source: "web".into(),
            host: "h".into(),
            seq: 2,
            predecessor: Some("20260307T130000Z-000001-0123456789abcdef".parse().unwrap()),
            started_at: "2026-03-07T13:59:00Z".parse().unwrap(),
            finished_at: "2026-03-07T14:00:00Z".parse().unwrap(),
            clock_skew_seconds: None,
            status: Status::Complete,
            profile: None,
            versions: None,
            tags: BTreeMap::new(),
            counts: Counts::default(),
            packs_stored: 0,
            bytes_stored: 0,
            pack_list: zero,
            root: Extent {
                pack: zero,
                frame: FrameRef { offset: 0, stored: 1, decoded: 512 },
                chunk: zero,
                offset: 0,
                len: 0,
            },
            program: "opsctl 0".into(),
        }
    }

    #[test]
    fn a_receipt_round_trips_under_its_own_name_only() {
        let (id, bytes) = sample().write().unwrap();
        assert!(id.as_str().starts_with("20260307T140000Z-000002-"), "{id}");
        assert_eq!(Receipt::read("web", &id, &bytes).unwrap(), sample());
        assert!(Receipt::read("staging", &id, &bytes).is_err());
        let mut other = bytes;
        other.push(b' ');
        assert!(Receipt::read("web", &id, &other).is_err());
    }

    #[test]
    fn newer_formats_and_unknown_requirements_are_told_apart_from_damage() {
        for (format, requires) in [(2, vec![]), (1, vec!["delta".to_owned()])] {
            let (id, bytes) = Receipt { format, requires, ..sample() }.write().unwrap();
            let error = Receipt::read("web", &id, &bytes).unwrap_err();
            assert!(matches!(error, FormatError::Version { .. } | FormatError::Requires { .. }), "{error}");
        }
    }

    #[test]
    fn a_time_or_sequence_that_differs_from_the_name_is_refused() {
        let (id, bytes) = sample().write().unwrap();
        for bad in [id.as_str().replace("T14", "T15"), id.as_str().replace("-000002-", "-000003-")] {
            assert!(Receipt::read("web", &bad.parse().unwrap(), &bytes).is_err(), "{bad}");
        }
    }

    #[test]
    fn counted_claims_do_not_overflow() {
        let mut counts = Counts::default();
        counts.add_captured(Kind::File, u64::MAX);
        counts.add_captured(Kind::File, u64::MAX);
        assert_eq!((counts.files, counts.bytes), (2, u64::MAX));
    }

    #[test]
    fn ids_sort_by_time_and_refuse_other_spellings() {
        let early: SnapshotId = "20260307T130000Z-000009-0123456789abcdef".parse().unwrap();
        let late: SnapshotId = "20260307T140000Z-000001-0123456789abcdef".parse().unwrap();
        assert!(early < late);
        for bad in [
            "",
            "latest",
            "20260307T130000Z-9-0123456789abcdef",
            "20261307T130000Z-000009-0123456789abcdef",
            "../x",
            " 2026307T130000Z-000009-0123456789abcdef",
            "+2026307T130000Z-000009-0123456789abcdef",
        ] {
            assert!(bad.parse::<SnapshotId>().is_err(), "{bad}");
        }
    }
}
