//! The values that are blanked out of everything that is printed, in each form in which they could appear.
//!
//! Two ways find a value. Its own bytes, their base64 and their hex digits are looked for as they are; and the text is
//! looked at [as what decodes it would see it](super::views), which finds every way to escape or to wrap a value.
//!
//! Invariants:
//! * The list owns what it looks for: a message may be printed when the code that had the value is long done. It is
//!   emptied by [`forget`] when the command is over.
//! * Each of its copies is a [`Secret`].
//! * While the list is locked nothing is logged and nothing can panic: both need it.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::{GeneralPurpose, STANDARD, URL_SAFE};
use zeroize::Zeroizing;

use super::Secret;
use super::views::{View, views};

/// Shorter values cannot be told from ordinary words, and are not blanked out.
const SHORTEST: usize = 4;
/// The same for one line of a value, and for the beginning of a value that was cut off.
const SHORTEST_PIECE: usize = 8;
/// What stands where a text was cut off.
const CUTS: [&str; 2] = ["…", "..."];

static HIDDEN: Mutex<Option<Arc<Needles>>> = Mutex::new(None);

/// Blanks a value out of all output from now on: as it is, and in each form that it is sent or shown in. Values of less
/// than four bytes cannot be told from ordinary words.
pub fn hide(value: &str) {
    let needles = needles(value);
    Arc::make_mut(list().get_or_insert_default()).extend(needles);
}

/// Ends it for all values, and wipes the copies of them. For when nothing more is printed.
pub fn forget() {
    let forgotten = list().take();
    drop(forgotten);
}

/// Whether there is anything to blank out.
#[must_use]
pub fn is_any() -> bool {
    list().is_some()
}

/// The text without any hidden value.
#[must_use]
pub fn blank(text: &str) -> Cow<'_, str> {
    // Taken out, so that the lock is not held meanwhile.
    let needles = list().clone();
    needles.map_or(Cow::Borrowed(text), |needles| needles.blank(text))
}

fn list() -> MutexGuard<'static, Option<Arc<Needles>>> {
    HIDDEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is looked for.
#[derive(Clone)]
struct Needles {
    /// In order of their bytes.
    all: Vec<Needle>,
    /// Whether any begins with these two bytes: so most places of a text are passed by at once.
    begins: Vec<bool>,
}

impl Default for Needles {
    fn default() -> Self {
        Self { all: Vec::new(), begins: vec![false; 1 << 16] }
    }
}

#[derive(Clone)]
struct Needle {
    text: Secret,
    /// It stands inside a longer word of base64, of which all is blanked out: the first and the last digits hold bits of
    /// the value and of its neighbours.
    is_base64: bool,
}

impl Needle {
    fn new(text: &str, is_base64: bool) -> Self {
        Self { text: Secret::new(text), is_base64 }
    }

    fn bytes(&self) -> &[u8] {
        self.text.expose().as_bytes()
    }
}

/// What a value is found by.
fn needles(value: &str) -> Vec<Needle> {
    let mut all = Vec::new();
    for whole in [value, value.trim()].into_iter().filter(|whole| whole.len() >= SHORTEST) {
        let digits = [hex(whole, false), hex(whole, true), decimal(whole)];
        all.push(Needle::new(whole, false));
        all.extend(digits.iter().map(|digits| Needle::new(digits, false)));
        for before in 0..3 {
            all.extend([STANDARD, URL_SAFE].map(|engine| Needle::new(&base64_inside(whole, before, &engine), true)));
        }
    }
    let lines = value.lines().map(str::trim).filter(|line| line.len() >= SHORTEST_PIECE);
    all.extend(lines.map(|line| Needle::new(line, false)));
    all
}

/// The digits of base64 that nothing but the value decides when so many bytes stand before it.
fn base64_inside(value: &str, before: usize, engine: &GeneralPurpose) -> Zeroizing<String> {
    let mut bytes = Zeroizing::new(vec![0; before + value.len()]);
    bytes[before..].copy_from_slice(value.as_bytes());
    let digits = Zeroizing::new(engine.encode(&bytes));
    let inside = digits.get((before * 8).div_ceil(6)..bytes.len() * 8 / 6);
    Zeroizing::new(inside.unwrap_or_default().to_owned())
}

impl Needles {
    fn extend(&mut self, more: Vec<Needle>) {
        let more = more.into_iter().filter(|needle| needle.bytes().len() >= SHORTEST);
        for needle in more {
            self.begins[pair(needle.bytes())] = true;
            self.all.push(needle);
        }
        self.all.sort_by(|a, b| a.bytes().cmp(b.bytes()));
        self.all.dedup_by(|a, b| a.bytes() == b.bytes());
    }

    fn blank<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut found: Vec<Range<usize>> = views(text).iter().flat_map(|view| self.find(view)).collect();
        if found.is_empty() {
            return Cow::Borrowed(text);
        }
        found.sort_by_key(|range| range.start);
        let mut shown = String::with_capacity(text.len());
        let mut at = 0;
        for range in found {
            // What overlaps or touches is one gap.
            if range.start > at || shown.is_empty() {
                shown.push_str(text.get(at..range.start).unwrap_or_default());
                shown.push('…');
            }
            at = at.max(range.end);
        }
        shown.push_str(text.get(at..).unwrap_or_default());
        Cow::Owned(shown)
    }

    /// Where values stand, as places in the original text.
    fn find(&self, view: &View) -> Vec<Range<usize>> {
        let bytes = view.bytes();
        let mut found = Vec::new();
        for start in 0..bytes.len().saturating_sub(SHORTEST - 1) {
            let rest = &bytes[start..];
            if !self.begins[pair(rest)] {
                continue;
            }
            let longest = self.beginning_like(rest).filter_map(|needle| Some((matched(needle, rest)?, needle)));
            if let Some((length, needle)) = longest.max_by_key(|(length, _)| *length) {
                let range = start..start + length;
                found.push(view.original(if needle.is_base64 { word_around(bytes, range) } else { range }));
            }
        }
        found
    }

    /// The needles that have the first bytes of this text.
    fn beginning_like<'a>(&'a self, text: &'a [u8]) -> impl Iterator<Item = &'a Needle> {
        let key = text.get(..SHORTEST).unwrap_or_default();
        let first = self.all.partition_point(|needle| needle.bytes() < key);
        let like = move |needle: &&Needle| !key.is_empty() && needle.bytes().starts_with(key);
        self.all.iter().skip(first).take_while(like)
    }
}

/// The first two bytes, as a number.
fn pair(bytes: &[u8]) -> usize {
    bytes.iter().take(2).fold(0, |number, byte| number << 8 | usize::from(*byte))
}

/// How much of a text is this needle: all of it, or its beginning where the text was cut off.
fn matched(needle: &Needle, text: &[u8]) -> Option<usize> {
    let needle = needle.bytes();
    let same = needle.iter().zip(text).take_while(|(a, b)| a == b).count();
    let is_cut = || {
        let rest = &text[same..];
        same >= SHORTEST_PIECE && (rest.is_empty() || CUTS.iter().any(|cut| rest.starts_with(cut.as_bytes())))
    };
    (same == needle.len() || is_cut()).then_some(same)
}

/// The whole word of base64 around a place.
fn word_around(bytes: &[u8], place: Range<usize>) -> Range<usize> {
    let is_digit = |byte: &&u8| byte.is_ascii_alphanumeric() || b"+/-_=".contains(byte);
    let before = bytes[..place.start].iter().rev().take_while(is_digit).count();
    let after = bytes[place.end..].iter().take_while(is_digit).count();
    place.start - before..place.end + after
}

fn hex(value: &str, upper: bool) -> Zeroizing<String> {
    let mut digits = Zeroizing::new(String::with_capacity(value.len() * 2));
    for byte in value.bytes() {
        // Writing to a string does not fail.
        let _ = if upper { write!(digits, "{byte:02X}") } else { write!(digits, "{byte:02x}") };
    }
    digits
}

/// As `Debug` shows bytes.
fn decimal(value: &str) -> Zeroizing<String> {
    let mut numbers = Zeroizing::new(String::with_capacity(value.len() * 5));
    for byte in value.bytes() {
        let comma = if numbers.is_empty() { "" } else { ", " };
        let _ = write!(numbers, "{comma}{byte}");
    }
    numbers
}

#[cfg(test)]
mod tests;
