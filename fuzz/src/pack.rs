//! What lies in a pack: the age file, its zstd frames, their tar entries. The first byte says how the rest is read.

use std::cell::RefCell;
use std::io::Read as _;
use std::sync::LazyLock;

use bytes::Bytes;
use opsctl::archive::chunker::{self, Chunker};
use opsctl::archive::entry::{FrameRef, MAX_FRAME};
use opsctl::archive::frame::{FrameCodec, TAR_END, append_entry, entries, entry_size, find};
use opsctl::archive::hash::Hash;
use opsctl::archive::keyring::{Identities, Recipients};
use opsctl::archive::pack::{PackReader, PackWriter, Segments, age_header_len, header_range, object_range};
use secrecy::SecretString;

static IDENTITIES: LazyLock<Identities> = LazyLock::new(|| {
    let text = include_str!("../../fixtures/stores/v1/identity.txt");
    Identities::parse(&SecretString::from(text.to_owned())).expect("the fixture's identity")
});

thread_local! {
    static CODEC: RefCell<FrameCodec> = RefCell::new(FrameCodec::new(1).expect("a codec"));
    static CHUNKER: RefCell<Chunker> = RefCell::default();
}

pub fn run(data: &[u8]) {
    let Some((how, rest)) = data.split_first() else { return };
    match how {
        b'0' | 0 => tar(rest),
        b'1' | 1 => frame(rest),
        b'2' | 2 => object(rest),
        b'3' | 3 => written(rest),
        b'4' | 4 => segments(rest),
        _ => chunks(rest),
    }
}

/// A decoded frame.
fn tar(data: &[u8]) {
    let mut rebuilt = Vec::new();
    let mut taken = 0;
    for entry in entries(data) {
        let Ok((name, content)) = entry else { break };
        taken += entry_size(content.len());
        assert!(taken <= data.len().next_multiple_of(512), "contents do not overlap and lie within the frame");
        append_entry(&mut rebuilt, name, content);
        match find(data, name) {
            // The first of a name counts.
            Ok(found) => assert_eq!(Hash::of(found), name),
            Err(_) => assert!(entries(data).any(|e| e.is_err() || e.is_ok_and(|(n, c)| n == name && Hash::of(c) != n))),
        }
    }
    let read = |tar: &[u8]| entries(tar).map_while(Result::ok).map(|(n, c)| (n, c.to_vec())).collect::<Vec<_>>();
    assert_eq!(read(&rebuilt), read(data));
    assert!(find(data, Hash([7; 32])).is_err() || read(data).iter().any(|(name, _)| *name == Hash([7; 32])));
}

/// A stored frame; its first four bytes are the length that a manifest claims.
fn frame(data: &[u8]) {
    let Some((claim, stored)) = data.split_first_chunk::<4>() else { return };
    CODEC.with_borrow_mut(|codec| {
        let claim = u32::from_le_bytes(*claim);
        match codec.decode(stored, claim).map(<[u8]>::to_vec) {
            Ok(tar) => {
                assert!(tar.len() == claim as usize && claim <= MAX_FRAME);
                if tar.len() <= 64 << 10 {
                    let again = codec.encode(&tar).unwrap();
                    assert_eq!(codec.decode(&again, claim).unwrap(), tar);
                    self::tar(&tar);
                }
            }
            Err(error) => assert!(error.to_string().len() < 300),
        }
    });
}

/// A stored object; its last eight bytes are the place of a frame.
fn object(data: &[u8]) {
    let Some((bytes, place)) = data.split_last_chunk::<8>() else { return };
    if let Ok(header) = age_header_len(bytes) {
        let header = &bytes[..header as usize];
        assert!(header.len() <= 256 << 10 && header.starts_with(b"age-encryption.org/v1\n") && header.ends_with(b"\n"));
    }
    let whole = || Segments::new(vec![(0, Bytes::copy_from_slice(bytes))]);
    let Ok(reader) = PackReader::open(whole(), &IDENTITIES) else { return };
    let stream = reader.into_stream();
    let [a, b, c, d, e, f, g, _] = *place;
    let offset = u64::from(u32::from_le_bytes([a, b, c, d]));
    // The format allows no empty frame.
    let place = FrameRef { offset, stored: u32::from_le_bytes([e, f, g, 0]).max(1), decoded: 0 };
    let mut reader = PackReader::open(whole(), &IDENTITIES).expect("it opened before");
    let read = reader.frame(place);
    if let Ok(stream) = stream {
        let (start, len) = (usize::try_from(offset).unwrap(), place.stored as usize);
        assert_eq!(read.ok().as_deref(), stream.get(start..start + len), "a frame is a piece of the stream");
    }
}

/// Frames that are written and read again, whole and by ranges. Lengths are bytes of the input.
fn written(data: &[u8]) {
    static RECIPIENTS: LazyLock<Recipients> =
        LazyLock::new(|| Recipients::parse(IDENTITIES.recipients()).expect("the fixture's recipient"));
    let mut writer = PackWriter::new(&RECIPIENTS).unwrap();
    let mut places = Vec::new();
    let mut rest = data;
    while let Some((len, after)) = rest.split_first().filter(|_| places.len() < 6) {
        // Some longer than a block of age, so that frames cross borders.
        let (some, left) = after.split_at(after.len().min(usize::from(*len)));
        let frame = some.repeat(if len % 4 == 3 { 300 } else { 1 });
        places.push((writer.append(&frame, 1).unwrap(), frame));
        rest = left;
    }
    let pack = writer.finish(&TAR_END).unwrap();
    let object = Bytes::from(pack.body.concat());
    assert_eq!((Hash::of(&object), object.len() as u64), (pack.id, pack.size));
    assert_eq!(age_header_len(&object).unwrap(), pack.header);
    let at = |n: u64| usize::try_from(n).unwrap();
    for (place, frame) in places.iter().take(1) {
        let ranges = [header_range(pack.header), object_range(*place, pack.header, pack.size)];
        let parts = ranges.map(|r| (r.start, object.slice(at(r.start)..at(r.end))));
        let mut reader = PackReader::open(Segments::new(parts.to_vec()), &IDENTITIES).unwrap();
        assert_eq!(&reader.frame(*place).unwrap(), frame);
    }
    let stream = PackReader::open(Segments::new(vec![(0, object)]), &IDENTITIES).unwrap().into_stream().unwrap();
    let all: Vec<u8> = places.into_iter().flat_map(|(_, frame)| frame).chain(TAR_END).collect();
    assert_eq!(stream, all);
}

/// Parts of an object read like the object, up to the first gap.
fn segments(data: &[u8]) {
    let Some((cut, bytes)) = data.split_first() else { return };
    // Neither part is empty.
    if bytes.len() < 2 {
        return;
    }
    let cut = usize::from(*cut).clamp(1, bytes.len() - 1);
    let object = Bytes::copy_from_slice(bytes);
    let read = |parts: Vec<(u64, Bytes)>| {
        let mut out = Vec::new();
        Segments::new(parts).read_to_end(&mut out).map(|_| out).unwrap()
    };
    let (first, second) = ((0, object.slice(..cut)), (cut as u64, object.slice(cut..)));
    assert_eq!(read(vec![second.clone(), first.clone()]), bytes);
    assert_eq!(read(vec![(second.0 + 1, second.1), first]), &bytes[..cut], "a gap ends it");
    assert_eq!(read(vec![(u64::MAX, object)]), b"");
}

/// Any content, in chunks: nothing is lost, and none is larger than a frame can hold.
fn chunks(data: &[u8]) {
    // A few are long enough to be cut by content.
    let times = if data.len() % 16 == 1 { (768 << 10) / data.len() } else { 1 };
    let content = data.repeat(times);
    let mut joined = Vec::with_capacity(content.len());
    CHUNKER.with_borrow_mut(|chunker| {
        let each = |chunk: &[u8]| {
            assert!((1..=chunker::MAX).contains(&chunk.len()) && entry_size(chunk.len()) <= MAX_FRAME as usize);
            joined.extend_from_slice(chunk);
            Ok::<_, std::io::Error>(())
        };
        chunker.split(content.as_slice(), each).unwrap();
    });
    assert_eq!(joined, content);
}
