//! One line of a manifest: everything about one path of a snapshot.
//!
//! The JSON keys are part of the format (`docs/format.md`); readers ignore keys they do not know.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::FormatError;
use super::hash::Hash;
use super::path::{EntryPath, bytes_from_json, json_text};

/// The largest decoded frame. A claim above it is refused before memory is taken for it.
pub const MAX_FRAME: u32 = 8 << 20;
/// The longest zstd stream of one pack that a reader takes for possible.
const MAX_PACK: u64 = 1 << 40;
/// Inline extents of one entry; a longer list is stored as chunks of its own.
pub const MAX_INLINE_EXTENTS: usize = 256;

/// Where a run of content lies: a slice of a chunk, inside a frame, inside a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Extent {
    /// The pack object's name.
    #[serde(rename = "p")]
    pub pack: Hash,
    /// The frame that holds the chunk.
    #[serde(rename = "f")]
    pub frame: FrameRef,
    /// The chunk: also the name of its tar entry.
    #[serde(rename = "c")]
    pub chunk: Hash,
    /// First byte used of the chunk.
    #[serde(rename = "o", default, skip_serializing_if = "is_zero")]
    pub offset: u32,
    /// Bytes used of the chunk.
    #[serde(rename = "l")]
    pub len: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
const fn is_zero(value: &u32) -> bool {
    *value == 0
}

/// A frame's place in a pack: `[offset, stored length, decoded length]`, in bytes of the zstd stream,
/// that is of the age plaintext. What is read is within the limits of the format, whichever document names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(try_from = "(u64, u32, u32)", into = "(u64, u32, u32)")]
pub struct FrameRef {
    /// First byte of the frame in the zstd stream.
    pub offset: u64,
    /// Compressed length.
    pub stored: u32,
    /// Length of the tar bytes inside.
    pub decoded: u32,
}

impl TryFrom<(u64, u32, u32)> for FrameRef {
    type Error = FormatError;

    fn try_from((offset, stored, decoded): (u64, u32, u32)) -> Result<Self, FormatError> {
        if decoded > MAX_FRAME || stored > 2 * MAX_FRAME || offset > MAX_PACK {
            let frame = (offset, stored, decoded);
            return Err(FormatError::malformed(format!("frame {frame:?} is larger than any, or farther in its pack")));
        }
        Ok(Self { offset, stored, decoded })
    }
}

impl From<FrameRef> for (u64, u32, u32) {
    fn from(frame: FrameRef) -> Self {
        (frame.offset, frame.stored, frame.decoded)
    }
}

impl Extent {
    /// Checks the claimed slice against the claimed frame.
    fn check(&self) -> Result<(), FormatError> {
        let end = u64::from(self.offset) + u64::from(self.len);
        if self.len == 0 || end > u64::from(self.frame.decoded) {
            return Err(FormatError::malformed(format!(
                "extent of chunk {} is empty or larger than its frame",
                self.chunk
            )));
        }
        Ok(())
    }
}

/// What a path is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A directory.
    Dir,
    /// A regular file.
    File,
    /// A symbolic link.
    Symlink,
    /// A named pipe; recorded, not read.
    Fifo,
    /// A socket; recorded, not read.
    Socket,
    /// A character device; recorded, not read.
    Char,
    /// A block device; recorded, not read.
    Block,
}

/// A captured database and how it was captured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Database {
    /// Always `sqlite` in format 1.
    pub kind: String,
    /// `wal` or `rollback`, as the file's header says.
    pub journal_mode: String,
    /// Bytes of a page.
    pub page_size: u32,
    /// The side files beside it that were left out because the capture holds their content, by what
    /// follows the database's name: `-wal`, `-shm`, `-journal`.
    pub left_out: Vec<String>,
}

/// An extended attribute. POSIX ACLs are extended attributes too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Xattr {
    /// Name with its namespace, such as `user.origin`.
    pub name: Vec<u8>,
    /// Raw value.
    pub value: Vec<u8>,
}

/// Where the content of a file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// The extents themselves, in order, holes left out.
    Inline(Vec<Extent>),
    /// Extents of chunks that, put together, are JSON Lines of the extents.
    Listed(Vec<Extent>),
}

/// One path of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Wire", into = "Wire")]
pub struct Entry {
    /// Where it is, relative to the captured directory.
    pub path: EntryPath,
    /// What it is.
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time: seconds since 1970 and nanoseconds.
    pub mtime: (i64, u32),
    /// Extended attributes in order of name.
    pub xattrs: Vec<Xattr>,
    /// Extended attributes that are there but could not be read, with the reason.
    pub unread_xattrs: Vec<String>,
    /// Logical size of a file in bytes; 0 for anything else.
    pub size: u64,
    /// SHA-256 of a file's whole logical content, holes as zeros. `None` if the content was not captured.
    pub sha256: Option<Hash>,
    /// Holes of a sparse file as (offset, length), in order.
    pub holes: Vec<(u64, u64)>,
    /// Where the content is.
    pub content: Content,
    /// Target of a symbolic link.
    pub target: Vec<u8>,
    /// Device number of a device as (major, minor).
    pub rdev: Option<(u32, u32)>,
    /// Entries with the same value are names of one inode.
    pub hardlink: Option<String>,
    /// The file was still changing when it was stored.
    pub changed: bool,
    /// What kind of database the file is.
    pub database: Option<Database>,
    /// Why the content could not be captured.
    pub missing: Option<String>,
    /// Why the path was left out on purpose; what is below it was not looked at.
    pub excluded: Option<String>,
}

impl Entry {
    /// An entry with nothing but path and kind.
    #[must_use]
    pub const fn new(path: EntryPath, kind: Kind) -> Self {
        Self {
            path,
            kind,
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: (0, 0),
            xattrs: Vec::new(),
            unread_xattrs: Vec::new(),
            size: 0,
            sha256: None,
            holes: Vec::new(),
            content: Content::Inline(Vec::new()),
            target: Vec::new(),
            rdev: None,
            hardlink: None,
            changed: false,
            database: None,
            missing: None,
            excluded: None,
        }
    }

    /// Bytes of content that extents must provide: the size without the holes.
    #[must_use]
    pub fn data_len(&self) -> u64 {
        self.size - self.holes.iter().map(|(_, len)| len).sum::<u64>()
    }

    /// Where data lies between the holes, in order: offset and length of each run. The extents fill them one after the
    /// other.
    pub fn data_runs(&self) -> impl Iterator<Item = (u64, u64)> {
        let ends = self.holes.iter().copied().chain(std::iter::once((self.size, 0)));
        let runs = ends.scan(0, |start, (offset, len)| {
            let run = (*start, offset - *start);
            *start = offset + len;
            Some(run)
        });
        runs.filter(|(_, len)| *len > 0)
    }

    /// The extents written into the entry itself.
    #[must_use]
    pub fn inline_extents(&self) -> &[Extent] {
        match &self.content {
            Content::Inline(extents) | Content::Listed(extents) => extents,
        }
    }

    /// True if a restore puts something at this path.
    #[must_use]
    pub const fn is_captured(&self) -> bool {
        self.missing.is_none() && self.excluded.is_none()
    }

    fn check(&self) -> Result<(), FormatError> {
        let bad = |why: &str| Err(FormatError::malformed(format!("entry {:?}: {why}", self.path)));
        let mut end = 0_u64;
        for (offset, len) in &self.holes {
            match offset.checked_add(*len) {
                Some(next) if *offset >= end && *len > 0 && next <= self.size => end = next,
                _ => return bad("holes overlap or lie outside the file"),
            }
        }
        self.inline_extents().iter().try_for_each(Extent::check)?;
        if let Content::Inline(extents) = &self.content {
            let len: u64 = extents.iter().map(|x| u64::from(x.len)).sum();
            if self.sha256.is_some() && len != self.data_len() {
                return bad("extents do not add up to its size");
            }
        }
        if self.kind == Kind::File && self.is_captured() && self.sha256.is_none() {
            return bad("a captured file has no hash");
        }
        if self.mtime.1 >= 1_000_000_000 {
            return bad("nanoseconds out of range");
        }
        if self.kind == Kind::Symlink && (self.target.is_empty() || self.target.contains(&0)) {
            return bad("symbolic link without a usable target");
        }
        Ok(())
    }
}

/// The JSON shape of [`Entry`].
#[derive(Serialize, Deserialize, schemars::JsonSchema)]
struct Wire {
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_b64: Option<String>,
    #[serde(rename = "type")]
    kind: Kind,
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: (i64, u32),
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    xattrs: Vec<WireXattr>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    unread_xattrs: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<Hash>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    holes: Vec<(u64, u64)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_b64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rdev: Option<(u32, u32)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hardlink: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    changed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    database: Option<Database>,
    #[serde(skip_serializing_if = "Option::is_none")]
    missing: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    excluded: Option<String>,
    // Last, so that a line can be completed once the extents are known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    extents: Vec<Extent>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    extent_list: Vec<Extent>,
}

#[derive(Serialize, Deserialize, schemars::JsonSchema)]
struct WireXattr {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name_b64: Option<String>,
    value: String,
}

impl From<Entry> for Wire {
    fn from(entry: Entry) -> Self {
        let (path, path_b64) = entry.path.to_json();
        let (target, target_b64) = if entry.kind == Kind::Symlink { json_text(&entry.target) } else { (None, None) };
        let (extents, extent_list) = match entry.content {
            Content::Inline(extents) => (extents, Vec::new()),
            Content::Listed(list) => (Vec::new(), list),
        };
        let xattrs = entry.xattrs.iter().map(|x| {
            let (name, name_b64) = json_text(&x.name);
            WireXattr { name, name_b64, value: STANDARD.encode(&x.value) }
        });
        Self {
            path,
            path_b64,
            kind: entry.kind,
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            mtime: entry.mtime,
            xattrs: xattrs.collect(),
            unread_xattrs: entry.unread_xattrs,
            size: (entry.kind == Kind::File).then_some(entry.size),
            sha256: entry.sha256,
            holes: entry.holes,
            extents,
            extent_list,
            target,
            target_b64,
            rdev: entry.rdev,
            hardlink: entry.hardlink,
            changed: entry.changed,
            database: entry.database,
            missing: entry.missing,
            excluded: entry.excluded,
        }
    }
}

impl TryFrom<Wire> for Entry {
    type Error = FormatError;

    fn try_from(wire: Wire) -> Result<Self, FormatError> {
        let xattrs = wire.xattrs.into_iter().map(|x| {
            let name = bytes_from_json("name", x.name, x.name_b64)?;
            let value = bytes_from_json("value", None, Some(x.value))?;
            Ok(Xattr { name, value })
        });
        let target = match wire.kind {
            Kind::Symlink => bytes_from_json("target", wire.target, wire.target_b64)?,
            _ => Vec::new(),
        };
        let content = match (wire.extents, wire.extent_list) {
            (extents, list) if list.is_empty() => Content::Inline(extents),
            (extents, list) if extents.is_empty() => Content::Listed(list),
            _ => return Err(FormatError::malformed("both extents and extent_list are set")),
        };
        let entry = Self {
            path: EntryPath::from_json(wire.path, wire.path_b64)?,
            kind: wire.kind,
            mode: wire.mode & 0o7777,
            uid: wire.uid,
            gid: wire.gid,
            mtime: wire.mtime,
            xattrs: xattrs.collect::<Result<_, FormatError>>()?,
            unread_xattrs: wire.unread_xattrs,
            // Of a file only, as is the target of a link only.
            size: wire.size.filter(|_| wire.kind == Kind::File).unwrap_or(0),
            sha256: wire.sha256,
            holes: wire.holes,
            content,
            target,
            rdev: wire.rdev,
            hardlink: wire.hardlink,
            changed: wire.changed,
            database: wire.database,
            missing: wire.missing,
            excluded: wire.excluded,
        };
        entry.check()?;
        Ok(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"{"path":"a","type":"file","mode":420,"uid":0,"gid":0,"mtime":[1,2],"size":3,"sha256":"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad","extents":[{"p":"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad","f":[0,40,1024],"c":"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad","l":3}]}"#;

    #[test]
    fn a_file_line_is_stable_and_round_trips() {
        let entry: Entry = serde_json::from_str(FILE).unwrap();
        assert_eq!(serde_json::to_string(&entry).unwrap(), FILE);
    }

    #[test]
    fn unknown_keys_are_ignored() {
        let newer = FILE.replacen('{', r#"{"birth":[1,2],"#, 1);
        assert_eq!(serde_json::from_str::<Entry>(&newer).unwrap(), serde_json::from_str(FILE).unwrap());
    }

    #[test]
    fn only_a_file_has_a_size() {
        let pipe = r#"{"path":"p","type":"fifo","mode":384,"uid":0,"gid":0,"mtime":[1,2],"size":18446744073709551615}"#;
        let entry: Entry = serde_json::from_str(pipe).unwrap();
        assert_eq!((entry.size, entry.data_len()), (0, 0));
        let again = serde_json::to_string(&entry).unwrap();
        assert_eq!(serde_json::from_str::<Entry>(&again).unwrap(), entry);
    }

    #[test]
    fn lies_about_sizes_are_refused() {
        for (from, to) in [
            ("\"size\":3", "\"size\":4"),
            ("[0,40,1024]", "[0,40,4294967295]"),
            ("\"l\":3", "\"l\":1025"),
            ("\"size\":3,", "\"size\":0,"),
            ("\"mtime\":[1,2]", "\"mtime\":[1,1000000000]"),
            ("\"size\":3,", "\"size\":3,\"holes\":[[2,18446744073709551615]],"),
            ("\"size\":3,", "\"size\":3,\"holes\":[[0,2],[1,2]],"),
            ("\"path\":\"a\"", "\"path\":\"../a\""),
            ("\"path\":\"a\"", "\"path_b64\":\"L2V0Yw==\""),
        ] {
            let bad = FILE.replacen(from, to, 1);
            assert_ne!(bad, FILE);
            assert!(serde_json::from_str::<Entry>(&bad).is_err(), "{to}");
        }
    }
}
