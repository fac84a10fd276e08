//! Values that stand for secrets, and the forms in which they could get out.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};

use crate::support::opsctl::noise;

/// So much of a value is no accident.
const PIECE: usize = 12;

/// How a value was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Form {
    Whole,
    /// 12 bytes in a row of it.
    Piece,
    Json,
    Debug,
    Percent,
    Query,
    Base64,
    Hex,
    /// The numbers of its bytes.
    Bytes,
}

/// A value that is found again wherever it gets. The same for the same seed.
#[derive(Clone, Debug)]
pub struct Canary {
    pub name: String,
    pub value: String,
    forms: Vec<(Form, Vec<u8>)>,
}

impl Canary {
    /// One word: 40 letters and digits.
    pub fn word(name: &str, seed: u64) -> Self {
        Self::of(name, &word(seed))
    }

    /// Letters and digits with what has to be escaped somewhere, and with what base64 writes in two ways.
    pub fn odd(name: &str, seed: u64) -> Self {
        let word = word(seed);
        Self::of(name, &format!("{}\"é\\{}>>?~&+%/ '{}", &word[..13], &word[13..26], &word[26..]))
    }

    /// A value of many lines, such as a key.
    pub fn lines(name: &str, seed: u64) -> Self {
        let body: String = (0..8).map(|line| format!("{}{}\n", word(seed + line), &word(!seed - line)[..24])).collect();
        Self::of(name, &format!("-----BEGIN PRIVATE KEY-----\n{body}-----END PRIVATE KEY-----\n"))
    }

    /// This value.
    pub fn of(name: &str, value: &str) -> Self {
        let mut forms = vec![(Form::Whole, value.as_bytes().to_vec())];
        let json = serde_json::Value::String(value.into()).to_string();
        forms.push((Form::Json, json[1..json.len() - 1].into()));
        let debug = format!("{value:?}");
        forms.push((Form::Debug, debug[1..debug.len() - 1].into()));
        for plain in ["-_.~", "-_.!~*'()", ":@&=+$,/"] {
            forms.push((Form::Percent, percent(value, plain).into_bytes()));
            forms.push((Form::Percent, lower_hex(&percent(value, plain)).into_bytes()));
        }
        let form: String = url::form_urlencoded::byte_serialize(value.as_bytes()).collect();
        forms.push((Form::Query, lower_hex(&form).into_bytes()));
        forms.push((Form::Query, form.into_bytes()));
        let hex: String = value.bytes().map(|byte| format!("{byte:02x}")).collect();
        forms.push((Form::Hex, hex.to_uppercase().into_bytes()));
        forms.push((Form::Hex, hex.into_bytes()));
        let bytes = format!("{:?}", value.as_bytes());
        forms.push((Form::Bytes, bytes[1..bytes.len() - 1].into()));
        for before in 0..3_usize {
            for engine in [STANDARD, URL_SAFE] {
                let digits = engine.encode([&vec![0; before], value.as_bytes()].concat());
                let inner = &digits[(before * 8).div_ceil(6)..(before + value.len()) * 8 / 6];
                forms.push((Form::Base64, inner.as_bytes().to_vec()));
            }
        }
        // Of a value of many lines not its first and last line, which every such value has.
        let body = value
            .split_once('\n')
            .map_or(value, |(_, rest)| rest.rsplit_once("-----END").map_or(rest, |(body, _)| body));
        forms.extend(body.as_bytes().windows(PIECE).map(|piece| (Form::Piece, piece.to_vec())));
        Self { name: name.to_owned(), value: value.to_owned(), forms }
    }

    /// Each form, as it would stand in a text.
    pub fn forms(&self) -> impl Iterator<Item = (Form, &str)> {
        let whole = self.forms.iter().filter(|(form, _)| *form != Form::Piece);
        whole.map(|(form, bytes)| (*form, std::str::from_utf8(bytes).expect("forms are text")))
    }

    /// The forms that are in there.
    pub fn found_in(&self, bytes: &[u8]) -> Vec<Form> {
        let mut found: Vec<Form> =
            self.forms.iter().filter(|(_, needle)| contains(bytes, needle)).map(|(form, _)| *form).collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Fails if anything of it is in there.
    #[track_caller]
    pub fn is_not_in(&self, what: &str, bytes: &[u8]) {
        let found = self.found_in(bytes);
        assert!(found.is_empty(), "{what} holds {} as {found:?}:\n{}", self.name, String::from_utf8_lossy(bytes));
    }
}

/// 40 letters and digits.
pub fn word(seed: u64) -> String {
    const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    noise(40, seed).iter().map(|byte| char::from(DIGITS[usize::from(*byte) % DIGITS.len()])).collect()
}

pub fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    places(bytes, needle).next().is_some()
}

/// Where it stands.
pub fn places(bytes: &[u8], needle: &[u8]) -> impl Iterator<Item = usize> {
    let finder = memchr::memmem::Finder::new(needle).into_owned();
    let mut at = 0;
    std::iter::from_fn(move || {
        let place = at + finder.find(&bytes[at..])?;
        at = place + 1;
        Some(place)
    })
}

fn percent(value: &str, plain: &str) -> String {
    let one = |byte: u8| match char::from(byte) {
        same if same.is_ascii_alphanumeric() || plain.contains(same) => same.to_string(),
        _ => format!("%{byte:02X}"),
    };
    value.bytes().map(one).collect()
}

/// The same with small digits after each `%`.
fn lower_hex(encoded: &str) -> String {
    let mut parts = encoded.split('%');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| format!("{text}%{}{}", part[..2].to_lowercase(), &part[2..]))
}
