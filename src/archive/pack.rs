//! Packs: ordinary `.tar.zst.age` objects made of many frames, named by the SHA-256 of the object.
//!
//! Invariants:
//! * `age -d PACK | zstd -d | tar -x` gives every chunk as a file named by its hash.
//! * A frame can be read alone: age encrypts in blocks of 64 KiB, so the header and the blocks that
//!   cover the frame are enough ([`Segments`]).

use std::io::{self, BufRead, Read, Seek, SeekFrom, Write};
use std::ops::Range;

use bytes::Bytes;

use super::FormatError;
use super::entry::FrameRef;
use super::hash::{Hash, Hasher};
use super::keyring::{Identities, KeyError, Recipients};

/// A pack is closed before it holds more than this many stored bytes. Memory is counted in packs: three of these and
/// all that is needed beside them stay within 160 MiB.
pub const TARGET: u64 = 28 << 20;

const AGE_NONCE: u64 = 16;
const AGE_BLOCK: u64 = 64 << 10;
const AGE_STORED_BLOCK: u64 = AGE_BLOCK + 16;
/// Longest age header that is looked for: room for several hundred recipients.
const MAX_AGE_HEADER: usize = 256 << 10;

/// A finished pack, ready to be stored.
#[derive(Debug)]
pub struct Pack {
    /// SHA-256 of the object: its name.
    pub id: Hash,
    /// Bytes of the object.
    pub size: u64,
    /// Bytes of the age header, without the nonce that follows it.
    pub header: u32,
    /// The object, in pieces.
    pub body: Vec<Bytes>,
}

/// Encrypts frames into one pack, in order.
pub struct PackWriter {
    age: age::stream::StreamWriter<Sink>,
    stream_len: u64,
}

impl PackWriter {
    /// Starts a pack for `recipients`.
    ///
    /// # Errors
    /// When age refuses the recipients.
    pub fn new(recipients: &Recipients) -> crate::Result<Self> {
        let encryptor = recipients
            .encryptor()
            .map_err(|e| crate::Error::usage(format!("cannot encrypt to these recipients: {e}")))?;
        Ok(Self { age: encryptor.wrap_output(Sink::default())?, stream_len: 0 })
    }

    /// Appends one encoded frame and says where it lies.
    ///
    /// # Errors
    /// When encryption fails.
    pub fn append(&mut self, frame: &[u8], decoded: u32) -> crate::Result<FrameRef> {
        let stored = u32::try_from(frame.len()).map_err(|_| crate::Error::integrity("a frame is larger than 4 GiB"))?;
        self.age.write_all(frame)?;
        let place = FrameRef { offset: self.stream_len, stored, decoded };
        self.stream_len += u64::from(stored);
        Ok(place)
    }

    /// Bytes of frames appended so far.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.stream_len
    }

    /// True before the first frame.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.stream_len == 0
    }

    /// Adds the tar end marker and closes the pack.
    ///
    /// # Errors
    /// When encryption fails.
    pub fn finish(mut self, end_frame: &[u8]) -> crate::Result<Pack> {
        self.age.write_all(end_frame)?;
        let sink = self.age.finish()?;
        let (id, size, body) = sink.into_parts();
        let header = age_header_len(body.first().map_or(&[], |piece| piece))?;
        Ok(Pack { id, size, header, body })
    }
}

/// Collects an object in pieces (no growing buffer is ever copied) and hashes it.
#[derive(Default)]
struct Sink {
    pieces: Vec<Bytes>,
    current: Vec<u8>,
    hasher: Hasher,
    len: u64,
}

impl Sink {
    const PIECE: usize = 1 << 20;

    fn into_parts(mut self) -> (Hash, u64, Vec<Bytes>) {
        self.pieces.push(Bytes::from(self.current));
        (self.hasher.finish(), self.len, self.pieces)
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.current.capacity() == 0 {
            self.current.reserve_exact(Self::PIECE);
        }
        let n = bytes.len().min(Self::PIECE - self.current.len());
        self.current.extend_from_slice(&bytes[..n]);
        self.hasher.update(&bytes[..n]);
        self.len += n as u64;
        if self.current.len() == Self::PIECE {
            self.pieces.push(Bytes::from(std::mem::take(&mut self.current)));
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The length of the age header at the start of `object`, without the nonce.
///
/// # Errors
/// When there is none.
pub fn age_header_len(object: &[u8]) -> Result<u32, FormatError> {
    let bad = || FormatError::malformed("it does not start with an age header");
    let start = &object[..object.len().min(MAX_AGE_HEADER)];
    if !start.starts_with(b"age-encryption.org/v1\n") {
        return Err(bad());
    }
    let mac = start.windows(5).position(|w| w == b"\n--- ").ok_or_else(bad)? + 1;
    let end = start[mac..].iter().position(|b| *b == b'\n').ok_or_else(bad)?;
    u32::try_from(mac + end + 1).map_err(|_| bad())
}

/// The bytes of the object that hold `frame`, for a pack with an age header of `header` bytes and `size` bytes in all.
#[must_use]
pub fn object_range(frame: FrameRef, header: u32, size: u64) -> Range<u64> {
    let payload = u64::from(header) + AGE_NONCE;
    let first = frame.offset / AGE_BLOCK;
    let last = frame.offset.saturating_add(u64::from(frame.stored)).div_ceil(AGE_BLOCK);
    let place = |block: u64| payload.saturating_add(block.saturating_mul(AGE_STORED_BLOCK)).min(size);
    place(first)..place(last)
}

/// The bytes of the object that must be read to decrypt anything: age header and nonce.
#[must_use]
pub fn header_range(header: u32) -> Range<u64> {
    0..u64::from(header) + AGE_NONCE
}

/// Parts of an object at their places; what was not fetched reads as an error.
#[derive(Debug, Default)]
pub struct Segments {
    parts: Vec<(u64, Bytes)>,
    position: u64,
}

impl Segments {
    /// The parts as (offset in the object, bytes), in any order.
    #[must_use]
    pub fn new(mut parts: Vec<(u64, Bytes)>) -> Self {
        parts.sort_by_key(|(offset, _)| *offset);
        Self { parts, position: 0 }
    }
}

impl Read for Segments {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.read(out)?;
        self.consume(n);
        Ok(n)
    }
}

impl BufRead for Segments {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let at = self.parts.partition_point(|(offset, _)| *offset <= self.position);
        let Some((offset, part)) = at.checked_sub(1).and_then(|i| self.parts.get(i)) else { return Ok(&[]) };
        let within = usize::try_from(self.position - offset).unwrap_or(usize::MAX);
        Ok(part.get(within..).unwrap_or_default())
    }

    fn consume(&mut self, n: usize) {
        self.position += n as u64;
    }
}

impl Seek for Segments {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.position = match to {
            SeekFrom::Start(position) => position,
            SeekFrom::Current(delta) => {
                self.position.checked_add_signed(delta).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?
            }
            SeekFrom::End(_) => return Err(io::Error::new(io::ErrorKind::Unsupported, "the length is not known")),
        };
        Ok(self.position)
    }
}

/// A pack as the age crate is given it. That asks for the header line by line and parses all that it has after each,
/// which for a header of many short lines takes minutes. So the first line that it asks for is the whole header.
struct Object {
    parts: Segments,
    header: u64,
}

impl Read for Object {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.parts.read(out)
    }
}

impl Seek for Object {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.parts.seek(to)
    }
}

impl BufRead for Object {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.parts.fill_buf()
    }

    fn consume(&mut self, n: usize) {
        self.parts.consume(n);
    }

    fn read_until(&mut self, end: u8, out: &mut Vec<u8>) -> io::Result<usize> {
        match std::mem::take(&mut self.header) {
            0 => self.parts.read_until(end, out),
            header => (&mut self.parts).take(header).read_to_end(out),
        }
    }
}

/// Reads frames out of a pack of which all, or only the needed parts, were fetched.
pub struct PackReader {
    age: age::stream::StreamReader<Object>,
}

impl PackReader {
    /// Decrypts the header. One that is longer than any real one is refused unread: the age crate sets no limit.
    ///
    /// # Errors
    /// As [`Identities::decrypt`].
    pub fn open(mut parts: Segments, identities: &Identities) -> Result<Self, KeyError> {
        let start = parts.fill_buf().map_err(|e| KeyError::Damaged(e.to_string()))?;
        let header = age_header_len(start).map_err(|e| KeyError::Damaged(e.to_string()))?;
        Ok(Self { age: identities.decrypt(Object { parts, header: header.into() })? })
    }

    /// The still compressed bytes of `frame`.
    ///
    /// # Errors
    /// When the blocks that hold it are damaged or were not fetched.
    pub fn frame(&mut self, frame: FrameRef) -> Result<Vec<u8>, KeyError> {
        let damaged = |e: io::Error| KeyError::Damaged(e.to_string());
        // Seeking to the first byte of a block makes the age crate look for the last block, which
        // may not be here. One byte further it reads this block only; then it steps back inside it.
        let within = frame.offset % AGE_BLOCK;
        let block = frame.offset - within;
        self.age.seek(SeekFrom::Start(block + 1)).map_err(damaged)?;
        self.age.seek(SeekFrom::Start(block)).map_err(damaged)?;
        // Read up to the frame: a seek beyond the end of a short block makes the age crate panic.
        io::copy(&mut (&mut self.age).take(within), &mut io::sink()).map_err(damaged)?;
        let mut out = vec![0; frame.stored as usize];
        self.age.read_exact(&mut out).map_err(damaged)?;
        Ok(out)
    }

    /// The whole zstd stream, from its start to the authenticated end of the age file.
    ///
    /// # Errors
    /// When any block is damaged or missing.
    pub fn into_stream(mut self) -> Result<Vec<u8>, KeyError> {
        let mut out = Vec::new();
        self.age.read_to_end(&mut out).map_err(|e| KeyError::Damaged(e.to_string()))?;
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::{FrameCodec, TAR_END, append_entry, find};
    use super::super::keyring::generate_identity;
    use super::*;

    /// A pack of `frames` frames of incompressible chunks, with the chunk and place of each.
    fn sample(frames: u32) -> (Pack, Vec<(Hash, FrameRef)>, Identities) {
        let (public, secret) = generate_identity();
        let recipients = Recipients::parse([public]).unwrap();
        let mut writer = PackWriter::new(&recipients).unwrap();
        let mut codec = FrameCodec::new(3).unwrap();
        let mut places = Vec::new();
        for n in 0..frames {
            let content: Vec<u8> =
                (0..40_000_u32).flat_map(|i| Hash::of(&(n * 100_000 + i).to_le_bytes()).0[..2].to_vec()).collect();
            let mut tar = Vec::new();
            append_entry(&mut tar, Hash::of(&content), &content);
            let frame = codec.encode(&tar).unwrap();
            places.push((Hash::of(&content), writer.append(&frame, u32::try_from(tar.len()).unwrap()).unwrap()));
        }
        let pack = writer.finish(&codec.encode(&TAR_END).unwrap()).unwrap();
        (pack, places, Identities::parse(&secret).unwrap())
    }

    fn at(offset: u64) -> usize {
        usize::try_from(offset).unwrap()
    }

    #[test]
    fn every_frame_reads_alone_from_its_blocks_only() {
        let (pack, places, ids) = sample(12);
        let object = Bytes::from(pack.body.concat());
        assert_eq!((Hash::of(&object), object.len() as u64), (pack.id, pack.size));
        assert_eq!(age_header_len(&object).unwrap(), pack.header);
        let mut codec = FrameCodec::new(3).unwrap();
        let slice = |r: Range<u64>| (r.start, object.slice(at(r.start)..at(r.end)));
        for (chunk, place) in places {
            let range = object_range(place, pack.header, pack.size);
            assert!(range.end - range.start <= u64::from(place.stored) + 2 * AGE_STORED_BLOCK);
            let parts = Segments::new(vec![slice(header_range(pack.header)), slice(range)]);
            let mut reader = PackReader::open(parts, &ids).unwrap();
            let tar = codec.decode(&reader.frame(place).unwrap(), place.decoded).unwrap();
            find(tar, chunk).unwrap();
        }
    }

    #[test]
    fn a_frame_that_starts_on_a_block_boundary_reads_alone() {
        let (public, secret) = generate_identity();
        let mut writer = PackWriter::new(&Recipients::parse([public]).unwrap()).unwrap();
        let blob = vec![9; at(AGE_BLOCK)];
        let places: Vec<FrameRef> = (0..3).map(|_| writer.append(&blob, 1).unwrap()).collect();
        let pack = writer.finish(b"end").unwrap();
        let object = Bytes::from(pack.body.concat());
        for place in places {
            let range = object_range(place, pack.header, pack.size);
            let parts = [header_range(pack.header), range].map(|r| (r.start, object.slice(at(r.start)..at(r.end))));
            let ids = Identities::parse(&secret).unwrap();
            assert_eq!(PackReader::open(Segments::new(parts.to_vec()), &ids).unwrap().frame(place).unwrap(), blob);
        }
    }

    #[test]
    fn damage_anywhere_is_noticed_and_a_wrong_key_is_told_apart() {
        let (pack, _, ids) = sample(3);
        let object = pack.body.concat();
        for at in [0, 30, pack.header as usize + 20, object.len() / 2, object.len() - 1] {
            let mut bad = object.clone();
            bad[at] ^= 1;
            let whole = Segments::new(vec![(0, Bytes::from(bad))]);
            let result = PackReader::open(whole, &ids).and_then(PackReader::into_stream);
            assert!(result.is_err(), "byte {at}");
        }
        let cut = Segments::new(vec![(0, Bytes::from(object[..object.len() - 1].to_vec()))]);
        assert!(PackReader::open(cut, &ids).and_then(PackReader::into_stream).is_err());
        let (_, secret) = generate_identity();
        let stranger = Identities::parse(&secret).unwrap();
        let whole = Segments::new(vec![(0, Bytes::from(object))]);
        assert!(matches!(PackReader::open(whole, &stranger), Err(KeyError::NoMatch)));
    }

    #[test]
    fn a_header_longer_than_any_is_refused_and_the_longest_takes_no_longer_than_it_must() {
        let (pack, _, ids) = sample(1);
        let object = pack.body.concat();
        let (first, rest) = object.split_at(b"age-encryption.org/v1\n".len());
        for (stanzas, damage) in [(MAX_AGE_HEADER / 8 - 200, "MAC"), (MAX_AGE_HEADER / 8 + 1, "age header")] {
            // The shortest stanza that there is, with an empty last line.
            let bytes = [first, &b"-> x y\n\n".repeat(stanzas), rest].concat();
            let error = PackReader::open(Segments::new(vec![(0, Bytes::from(bytes))]), &ids).err().unwrap();
            assert!(matches!(&error, KeyError::Damaged(why) if why.contains(damage)), "{error}");
        }
    }

    #[test]
    fn a_frame_beyond_the_end_of_the_last_block_is_damage() {
        let (pack, _, ids) = sample(1);
        let object = Bytes::from(pack.body.concat());
        let end = pack.size - u64::from(pack.header) - AGE_NONCE;
        for offset in [end - 17, end - 16, end - 15, end, end + 40, 2 * AGE_BLOCK, 1 << 40] {
            for stored in [1, 16, 1 << 20] {
                let mut reader = PackReader::open(Segments::new(vec![(0, object.clone())]), &ids).unwrap();
                let place = FrameRef { offset, stored, decoded: 0 };
                assert!(reader.frame(place).is_err() || (offset, stored) == (end - 17, 1), "{place:?}");
            }
        }
    }

    #[test]
    fn absurd_places_do_not_overflow() {
        let place = FrameRef { offset: u64::MAX - 1, stored: u32::MAX, decoded: 0 };
        assert_eq!(object_range(place, u32::MAX, 1000), 1000..1000);
    }
}
