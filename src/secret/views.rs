//! A text as those see it who decode it: without the escapes of JSON, of `Debug` or of a URL, and without line breaks.
//!
//! Why not the other way round, each way to write a value: encoders differ in what they escape and how, and what is escaped
//! is escaped again where it is quoted.
//!
//! Invariant: each byte of a view knows the piece of the original text that it stands for.

use std::ops::Range;

use zeroize::Zeroizing;

/// How often a text is quoted inside of another at most: an answer, in an answer, in a message, in `Debug`.
const QUOTED: usize = 4;

/// One way to see a text.
pub(super) struct View {
    bytes: Zeroizing<Vec<u8>>,
    /// For each byte. `None`: the view is the text itself.
    places: Option<Vec<Range<usize>>>,
}

impl View {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The piece of the original text behind a place in the view, which is not empty.
    pub(super) fn original(&self, place: Range<usize>) -> Range<usize> {
        let Some(places) = &self.places else { return place };
        let (first, last) = (places.get(place.start), places.get(place.end.saturating_sub(1)));
        first.zip(last).map_or(0..0, |(first, last)| first.start..last.end)
    }

    /// What a decoder makes of it, if that is anything else.
    fn decoded(&self, decode: Decode) -> Option<Self> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(self.bytes.len()));
        let mut places = Vec::new();
        let mut at = 0;
        let mut is_other = false;
        while at < self.bytes.len() {
            let piece = decode(&self.bytes[at..]);
            is_other |= piece.is_some();
            let (used, piece) = piece.unwrap_or_else(|| (1, Piece::of(&self.bytes[at..=at])));
            let place = self.original(at..at + used);
            for byte in &piece.bytes[..piece.length] {
                bytes.push(*byte);
                places.push(place.clone());
            }
            at += used;
        }
        is_other.then_some(Self { bytes, places: Some(places) })
    }
}

/// The text itself, and what it is when it is decoded.
pub(super) fn views(text: &str) -> Vec<View> {
    let itself = || View { bytes: Zeroizing::new(text.as_bytes().to_vec()), places: None };
    let mut all = unescaped(itself(), QUOTED);
    // Encoded for a URL inside of a document, and a document that was encoded for one.
    let inside: Vec<View> =
        all.iter().flat_map(|view| [percent, form].map(|decode| view.decoded(decode))).flatten().collect();
    for decode in [percent, form] {
        let decoded = itself().decoded(decode).and_then(|view| view.decoded(backslash));
        all.extend(decoded.into_iter().flat_map(|view| unescaped(view, QUOTED - 2)));
    }
    all.extend(inside);
    let joined: Vec<View> = all.iter().filter_map(|view| view.decoded(line_break)).collect();
    all.extend(joined);
    all
}

/// A view, and up to so many others, each of which is the last one without its escapes.
fn unescaped(view: View, times: usize) -> Vec<View> {
    let mut all = vec![view];
    for _ in 0..times {
        all.extend(all.last().and_then(|view| view.decoded(backslash)));
    }
    all
}

/// What begins here: how many bytes of it are one piece, and what that stands for. `None` for an ordinary byte.
type Decode = fn(&[u8]) -> Option<(usize, Piece)>;

/// Up to four bytes.
struct Piece {
    bytes: [u8; 4],
    length: usize,
}

impl Piece {
    fn of(part: &[u8]) -> Self {
        let mut bytes = [0; 4];
        let length = part.len().min(bytes.len());
        bytes[..length].copy_from_slice(&part[..length]);
        Self { bytes, length }
    }

    fn character(number: u32) -> Option<Self> {
        Some(Self::of(char::from_u32(number)?.encode_utf8(&mut [0; 4]).as_bytes()))
    }
}

/// `%41`.
fn percent(text: &[u8]) -> Option<(usize, Piece)> {
    let digits = text.strip_prefix(b"%")?.get(..2)?;
    Some((3, Piece::of(&[u8::try_from(number(digits)?).ok()?])))
}

/// The same, with `+` for a space.
fn form(text: &[u8]) -> Option<(usize, Piece)> {
    if text.starts_with(b"+") { Some((1, Piece::of(b" "))) } else { percent(text) }
}

/// A text that was wrapped.
fn line_break(text: &[u8]) -> Option<(usize, Piece)> {
    let length = text.iter().take_while(|byte| b"\r\n".contains(byte)).count();
    let indent = text.iter().skip(length).take_while(|byte| b" \t".contains(byte)).count();
    (length > 0).then(|| (length + indent, Piece::of(b"")))
}

/// The escapes of JSON, of `Debug`, and of what this program shows of names.
fn backslash(text: &[u8]) -> Option<(usize, Piece)> {
    let rest = text.strip_prefix(b"\\")?;
    let plain = match *rest.first()? {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'0' => 0,
        b'b' => 8,
        b'f' => 12,
        same @ (b'\\' | b'"' | b'\'' | b'/') => same,
        b'x' => {
            let byte = u8::try_from(number(rest.get(1..3)?)?).ok()?;
            return Some((4, Piece::of(&[byte])));
        }
        b'u' => return unicode(text),
        _ => return None,
    };
    Some((2, Piece::of(&[plain])))
}

/// `\u00e9`, `\ud83d\ude00` and `\u{e9}`.
fn unicode(text: &[u8]) -> Option<(usize, Piece)> {
    if let Some(braced) = text.strip_prefix(b"\\u{") {
        let length = braced.iter().position(|byte| *byte == b'}').filter(|length| (1..=6).contains(length))?;
        return Some((length + 4, Piece::character(number(&braced[..length])?)?));
    }
    let unit = |at: usize| {
        let unit = text.get(at..at + 6)?.strip_prefix(b"\\u")?;
        number(unit)
    };
    let first = unit(0)?;
    if let Some(character) = Piece::character(first) {
        return Some((6, character));
    }
    let second = unit(6).filter(|second| (0xdc00..0xe000).contains(second))?;
    let high = first.checked_sub(0xd800).filter(|high| *high < 0x400)?;
    Some((12, Piece::character(0x1_0000 + (high << 10) + (second - 0xdc00))?))
}

/// The number that hex digits are.
fn number(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0_u32, |number, digit| {
        let digit = char::from(*digit).to_digit(16)?;
        number.checked_mul(16)?.checked_add(digit)
    })
}
