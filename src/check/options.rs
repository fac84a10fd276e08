//! How deep a check goes, and how much of the store it covers.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::Serialize;

use crate::archive::hash::Hash;
use crate::{Error, Result};

/// How deep a check goes. Each level includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Every object that a receipt names exists with its size; signatures and pack lists hold. No key is needed.
    List,
    /// Every pack is downloaded and compared with its name. No key is needed.
    Hash,
    /// Everything is decrypted, down to the hash of each file.
    Decrypt,
}

impl FromStr for Level {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "list" => Ok(Self::List),
            "hash" => Ok(Self::Hash),
            "decrypt" => Ok(Self::Decrypt),
            _ => Err(Error::usage(format!("{text:?} is not a level of checking")).hint("use list, hash or decrypt")),
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::List => "list",
            Self::Hash => "hash",
            Self::Decrypt => "decrypt",
        })
    }
}

/// Which packs are read, chosen by their names alone: the same subset is the same packs on every run and host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subset {
    /// About this share of the packs, in hundredths of a percent.
    Share(u32),
    /// Part `part` (from 1) of `of` disjoint parts that together are everything.
    Part {
        /// Which part, from 1.
        part: u64,
        /// How many parts there are.
        of: u64,
    },
}

impl Subset {
    /// Whether `pack` belongs to the subset.
    #[must_use]
    pub fn contains(self, pack: Hash) -> bool {
        let [a, b, c, d, e, f, g, h, ..] = pack.0;
        let number = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
        match self {
            Self::Share(hundredths) => (u128::from(number) * 10_000) >> 64 < u128::from(hundredths),
            Self::Part { part, of } => number % of.max(1) + 1 == part,
        }
    }
}

impl FromStr for Subset {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parsed = match (text.strip_suffix('%'), text.split_once('/')) {
            (Some(percent), _) => hundredths(percent).filter(|n| (1..=10_000).contains(n)).map(Self::Share),
            (None, Some((part, of))) => match (part.parse(), of.parse()) {
                (Ok(part), Ok(of)) if 1 <= part && part <= of => Some(Self::Part { part, of }),
                _ => None,
            },
            (None, None) => None,
        };
        parsed.ok_or_else(|| {
            Error::usage(format!("{text:?} is not a subset"))
                .hint("use a share such as 10% or 0.5%, or a part such as 2/7 (the second of seven)")
        })
    }
}

/// A decimal number with up to two places, times 100.
fn hundredths(text: &str) -> Option<u32> {
    let (whole, places) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if whole.len() > 3 || places.is_empty() || places.len() > 2 || !digits(whole) || !digits(places) {
        return None;
    }
    let whole: u32 = whole.parse().ok()?;
    let places: u32 = format!("{places:0<2}").parse().ok()?;
    Some(whole * 100 + places)
}

impl fmt::Display for Subset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Share(hundredths) if hundredths % 100 == 0 => write!(f, "{}%", hundredths / 100),
            Self::Share(hundredths) => write!(f, "{}.{:02}%", hundredths / 100, hundredths % 100),
            Self::Part { part, of } => write!(f, "{part}/{of}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ExitCode;

    fn names() -> Vec<Hash> {
        (0..10_000_u32).map(|n| Hash::of(&n.to_le_bytes())).collect()
    }

    #[test]
    fn parts_are_disjoint_and_together_everything() {
        let parts: Vec<Subset> = (1..=7).map(|n| format!("{n}/7").parse().unwrap()).collect();
        for name in names() {
            assert_eq!(parts.iter().filter(|p| p.contains(name)).count(), 1);
        }
    }

    #[test]
    fn a_share_is_about_that_share() {
        for (text, low, high) in
            [("10%", 900, 1100), ("0.5%", 30, 70), ("100%", 10_000, 10_000), ("33.33%", 3100, 3500)]
        {
            let share: Subset = text.parse().unwrap();
            let count = names().into_iter().filter(|n| share.contains(*n)).count();
            assert!((low..=high).contains(&count), "{text}: {count}");
            assert_eq!(share.to_string().parse::<Subset>().unwrap(), share);
        }
    }

    #[test]
    fn other_texts_are_usage_errors() {
        for bad in ["", "10", "0%", "101%", "-1%", "1e2%", "0.001%", ".%", "0/7", "8/7", "1/0", "a/b", "1/7%", "é%"] {
            assert_eq!(bad.parse::<Subset>().unwrap_err().code(), ExitCode::Usage, "{bad}");
        }
        assert_eq!("full".parse::<Level>().unwrap_err().code(), ExitCode::Usage);
        for level in [Level::List, Level::Hash, Level::Decrypt] {
            assert_eq!(level.to_string().parse::<Level>().unwrap(), level);
        }
    }
}
