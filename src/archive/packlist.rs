//! Pack lists: which packs one snapshot needs. Plain JSON Lines, named by their own SHA-256, so
//! that someone without a key can check that everything is there and intact.

use serde::{Deserialize, Serialize};

use super::FormatError;
use super::hash::Hash;

/// A larger pack is none: twice the limit of the stream in it, so that sums over a whole list fit 64 bits.
const MAX_SIZE: u64 = 1 << 41;

/// One line of a pack list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
pub struct PackLine {
    /// The pack: SHA-256 of the object.
    pub pack: Hash,
    /// Bytes of the object.
    pub size: u64,
    /// Bytes of its age header, without the nonce.
    pub header: u32,
    /// Names the recipient set it is encrypted to.
    pub keys: Hash,
}

/// The bytes of a pack list, in order of pack, and their name.
#[must_use]
pub fn write(mut packs: Vec<PackLine>) -> (Hash, Vec<u8>) {
    packs.sort();
    let mut out = Vec::new();
    for line in &packs {
        // A struct of hashes and integers cannot fail to serialise into memory.
        if serde_json::to_writer(&mut out, line).is_ok() {
            out.push(b'\n');
        }
    }
    (Hash::of(&out), out)
}

/// Reads a pack list and checks it against its name.
///
/// # Errors
/// When the bytes hash to another name, or a line is not a pack line or claims a size that no pack has.
pub fn read(name: Hash, bytes: &[u8]) -> Result<Vec<PackLine>, FormatError> {
    let found = Hash::of(bytes);
    if found != name {
        return Err(FormatError::Hash { what: "pack list", expected: name, found });
    }
    let lines = bytes.split(|b| *b == b'\n').filter(|line| !line.is_empty());
    lines.map(read_line).collect()
}

fn read_line(line: &[u8]) -> Result<PackLine, FormatError> {
    let line: PackLine =
        serde_json::from_slice(line).map_err(|source| FormatError::Json { what: "pack list", source })?;
    if line.size > MAX_SIZE {
        return Err(FormatError::malformed(format!("the pack list claims {} bytes of pack {}", line.size, line.pack)));
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_sorted_named_by_content_and_checked() {
        let line = |n: u8| PackLine { pack: Hash([n; 32]), size: 5, header: 2, keys: Hash([0; 32]) };
        let (name, bytes) = write(vec![line(2), line(1)]);
        assert_eq!(write(vec![line(1), line(2)]).0, name);
        assert_eq!(read(name, &bytes).unwrap(), [line(1), line(2)]);
        assert!(read(Hash([0; 32]), &bytes).is_err());
    }

    #[test]
    fn a_size_that_no_pack_has_is_refused() {
        for (size, is_pack) in [(MAX_SIZE, true), (MAX_SIZE + 1, false), (u64::MAX, false)] {
            let (name, bytes) =
                write(vec![PackLine { pack: Hash([1; 32]), size, header: u32::MAX, keys: Hash([0; 32]) }]);
            assert_eq!(read(name, &bytes).is_ok(), is_pack, "{size}");
        }
    }
}
