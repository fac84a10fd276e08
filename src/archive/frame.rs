//! Frames: one zstd frame that holds whole tar entries, each named by its chunk's SHA-256.
//!
//! Invariants:
//! * What [`FrameCodec::encode`] returns has been decoded again and compared: a compressor fault
//!   can never reach a store.
//! * Decoding takes no more memory than the caller's limit, whatever the bytes claim.

use super::FormatError;
use super::entry::MAX_FRAME;
use super::hash::Hash;

/// A frame is closed once it holds this many bytes of tar. Between 128 and 512 KiB the ratio is
/// within two percent of one solid stream, while one file still costs a small read.
pub const TARGET: usize = 256 << 10;
const BLOCK: usize = 512;
/// The largest window a reader must be ready for; stock `zstd -d` takes up to 2^27.
const WINDOW_LOG_MAX: u32 = 23;

/// The tar end marker, which stands only in the last frame of a pack.
pub const TAR_END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

/// Appends one tar entry to `tar`.
pub fn append_entry(tar: &mut Vec<u8>, chunk: Hash, content: &[u8]) {
    let mut header = tar::Header::new_ustar();
    header.as_mut_bytes()[..64].copy_from_slice(&chunk.to_hex());
    header.set_mode(0o600);
    header.set_size(content.len() as u64);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_cksum();
    tar.extend_from_slice(header.as_bytes());
    tar.extend_from_slice(content);
    tar.resize(tar.len().next_multiple_of(BLOCK), 0);
}

/// Bytes that a chunk of `len` bytes takes in a frame.
#[must_use]
pub const fn entry_size(len: usize) -> usize {
    BLOCK + len.next_multiple_of(BLOCK)
}

/// The chunks of a decoded frame, in order, as (name, content). Contents are *not* hashed here.
///
/// # Errors
/// When the bytes are not tar entries named by a SHA-256.
pub fn entries(tar: &[u8]) -> impl Iterator<Item = Result<(Hash, &[u8]), FormatError>> {
    let mut rest = tar;
    std::iter::from_fn(move || {
        if rest.is_empty() || rest.iter().take(BLOCK).all(|b| *b == 0) {
            return None;
        }
        let entry = split_entry(rest);
        rest = match &entry {
            Ok((_, content)) => rest.get(entry_size(content.len())..).unwrap_or_default(),
            Err(_) => &[],
        };
        Some(entry)
    })
}

fn split_entry(tar: &[u8]) -> Result<(Hash, &[u8]), FormatError> {
    let bad = || FormatError::malformed("a frame does not hold tar entries named by SHA-256");
    let header = tar::Header::from_byte_slice(tar.get(..BLOCK).ok_or_else(bad)?);
    let name = Hash::from_hex(&header.path_bytes()).ok_or_else(bad)?;
    let len = header.entry_size().ok().and_then(|n| usize::try_from(n).ok()).ok_or_else(bad)?;
    let content = tar.get(BLOCK..).and_then(|rest| rest.get(..len)).ok_or_else(bad)?;
    Ok((name, content))
}

/// Finds `chunk` in a decoded frame and checks its hash.
///
/// # Errors
/// When it is not there or its content has another hash.
pub fn find(tar: &[u8], chunk: Hash) -> Result<&[u8], FormatError> {
    for entry in entries(tar) {
        let (name, content) = entry?;
        if name == chunk {
            return proved(chunk, content);
        }
    }
    Err(absent(chunk))
}

/// `content`, if it is what the name `chunk` says.
///
/// # Errors
/// When it has another hash.
pub fn proved(chunk: Hash, content: &[u8]) -> Result<&[u8], FormatError> {
    let found = Hash::of(content);
    if found == chunk { Ok(content) } else { Err(FormatError::Hash { what: "chunk", expected: chunk, found }) }
}

/// What is wrong with a frame that should hold `chunk` and does not.
#[must_use]
pub fn absent(chunk: Hash) -> FormatError {
    FormatError::malformed(format!("chunk {chunk} is not in the frame that should hold it"))
}

/// Compressor and decompressor, reused from frame to frame by one thread.
pub struct FrameCodec {
    compressor: zstd::bulk::Compressor<'static>,
    decompressor: zstd::bulk::Decompressor<'static>,
    /// The frame decoded last. Kept, because new memory for every frame costs more than the copy into it.
    decoded: Vec<u8>,
}

impl FrameCodec {
    /// A codec that compresses at `level` (1 to 19).
    ///
    /// # Errors
    /// When zstd cannot be set up (out of memory).
    pub fn new(level: i32) -> std::io::Result<Self> {
        let mut compressor = zstd::bulk::Compressor::new(level)?;
        compressor.include_checksum(true)?;
        compressor.include_contentsize(true)?;
        let mut decompressor = zstd::bulk::Decompressor::new()?;
        decompressor.window_log_max(WINDOW_LOG_MAX)?;
        Ok(Self { compressor, decompressor, decoded: Vec::new() })
    }

    /// Compresses `tar` into one frame, then decodes it and compares.
    ///
    /// # Errors
    /// When zstd fails, or what it wrote does not decode to `tar`.
    pub fn encode(&mut self, tar: &[u8]) -> crate::Result<Vec<u8>> {
        let frame = self.compressor.compress(tar)?;
        self.prove(&frame, tar)?;
        Ok(frame)
    }

    /// Fails unless `frame` decodes to `tar`.
    fn prove(&mut self, frame: &[u8], tar: &[u8]) -> crate::Result<()> {
        match self.decompress(frame, tar.len()) {
            Ok(decoded) if decoded == tar => Ok(()),
            _ => Err(crate::Error::integrity("zstd wrote a frame that does not decode to its input")
                .hint("suspect the memory of this machine; nothing was stored from this frame")),
        }
    }

    /// Decodes one frame that must hold exactly `decoded` bytes.
    ///
    /// # Errors
    /// When the frame is damaged, or longer or shorter than `decoded`.
    pub fn decode(&mut self, frame: &[u8], decoded: u32) -> Result<&[u8], FormatError> {
        if decoded > MAX_FRAME {
            return Err(FormatError::malformed("a frame claims to decode to more than 8 MiB"));
        }
        let tar = self
            .decompress(frame, decoded as usize)
            .map_err(|e| FormatError::malformed(format!("a frame does not decode: {e}")))?;
        if tar.len() != decoded as usize {
            return Err(FormatError::malformed("a frame decodes to another length than recorded"));
        }
        Ok(tar)
    }

    /// Decodes one frame. At least `limit` bytes have room, and at most [`MAX_FRAME`] or the longest limit so far.
    fn decompress(&mut self, frame: &[u8], limit: usize) -> std::io::Result<&[u8]> {
        self.decoded.clear();
        self.decoded.reserve_exact(limit);
        self.decompressor.decompress_to_buffer(frame, &mut self.decoded)?;
        Ok(&self.decoded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame_of(contents: &[&[u8]]) -> Vec<u8> {
        let mut tar = Vec::new();
        for content in contents {
            append_entry(&mut tar, Hash::of(content), content);
        }
        tar
    }

    #[test]
    fn entries_come_back_in_order_with_exact_lengths() {
        let big = vec![7; 1025];
        let tar = frame_of(&[b"", b"abc", &big]);
        let lens: Vec<usize> = entries(&tar).map(|e| e.unwrap().1.len()).collect();
        assert_eq!(lens, [0, 3, 1025]);
        assert_eq!(tar.len(), entry_size(0) + entry_size(3) + entry_size(1025));
        assert_eq!(find(&tar, Hash::of(b"abc")).unwrap(), b"abc");
    }

    #[test]
    fn a_swapped_chunk_is_noticed() {
        let mut tar = Vec::new();
        append_entry(&mut tar, Hash::of(b"abc"), b"abd");
        assert!(matches!(find(&tar, Hash::of(b"abc")), Err(FormatError::Hash { .. })));
        assert!(find(&tar, Hash::of(b"missing")).is_err());
    }

    #[test]
    fn a_frame_that_the_compressor_got_wrong_is_not_let_out() {
        let mut codec = FrameCodec::new(3).unwrap();
        let tar = frame_of(&[b"abc"]);
        let good = codec.encode(&tar).unwrap();
        codec.prove(&good, &tar).unwrap();
        let other = codec.encode(&frame_of(&[b"abd"])).unwrap();
        let mut flipped = good.clone();
        *flipped.last_mut().unwrap() ^= 1;
        for bad in [&other, &flipped, &good[..good.len() - 1].to_vec()] {
            assert_eq!(codec.prove(bad, &tar).unwrap_err().code(), crate::ExitCode::Integrity);
        }
    }

    #[test]
    fn a_bomb_and_a_short_frame_are_refused() {
        let mut codec = FrameCodec::new(3).unwrap();
        let frame = codec.encode(&vec![0; 1 << 20]).unwrap();
        assert!(codec.decode(&frame, 1024).is_err(), "decodes to more than claimed");
        assert!(codec.decode(&frame, (1 << 20) + 1).is_err(), "decodes to less than claimed");
        assert!(codec.decode(&frame, u32::MAX).is_err());
        assert_eq!(codec.decode(&frame, 1 << 20).unwrap().len(), 1 << 20);
    }

    #[test]
    fn damaged_tar_does_not_panic() {
        let tar = frame_of(&[b"abc"]);
        for cut in 0..tar.len() {
            for entry in entries(&tar[..cut]) {
                let _ = entry;
            }
        }
        let mut huge = tar;
        huge[124..136].copy_from_slice(b"77777777777\0");
        assert!(entries(&huge).next().unwrap().is_err());
    }
}
