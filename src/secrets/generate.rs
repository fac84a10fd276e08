//! New values, out of the system's own random numbers.

use rustix::rand::{GetRandomFlags, getrandom};
use zeroize::Zeroizing;

use crate::config::secrets::Generate;
use crate::secret::Secret;
use crate::{Context as _, Result};

/// A new value: each character equally likely.
///
/// # Errors
/// When the system gives no random numbers.
pub fn generate(wanted: Generate) -> Result<Secret> {
    let characters = wanted.alphabet.characters();
    // Bytes from here on would make the first characters likelier than the others.
    let fair = 256 - 256 % characters.len();
    let mut value = Zeroizing::new(String::with_capacity(wanted.length));
    let mut random = Zeroizing::new([0_u8; 64]);
    while value.len() < wanted.length {
        let got = getrandom(&mut random[..], GetRandomFlags::empty()).context(|| "making a new value".into())?;
        for byte in random[..got].iter().map(|byte| usize::from(*byte)).filter(|byte| *byte < fair) {
            if value.len() < wanted.length {
                value.push(char::from(characters[byte % characters.len()]));
            }
        }
    }
    Ok(Secret::new(&value))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::secrets::Alphabet;

    #[test]
    fn a_new_value_has_the_length_and_the_characters_that_were_asked_for() {
        for alphabet in [Alphabet::Base62, Alphabet::Hex, Alphabet::Base64url] {
            let value = generate(Generate { length: 48, alphabet }).unwrap();
            assert_eq!(value.expose().len(), 48);
            assert!(value.expose().bytes().all(|byte| alphabet.characters().contains(&byte)), "{alphabet:?}");
            assert_ne!(value, generate(Generate { length: 48, alphabet }).unwrap());
        }
    }

    #[test]
    fn every_character_is_equally_likely() {
        // 62,000 draws: the expected count is 1,000 each, and a bias of `byte % 62` would give some 1.25 times as many.
        let mut counts = BTreeMap::new();
        for _ in 0..62 {
            let value = generate(Generate { length: 1000, alphabet: Alphabet::Base62 }).unwrap();
            value.expose().bytes().for_each(|byte| *counts.entry(byte).or_insert(0) += 1);
        }
        assert_eq!(counts.len(), 62);
        // Eight standard deviations of one count.
        assert!(counts.values().all(|count| (750..=1250).contains(count)), "{counts:?}");
        let first_eight: u32 = counts.iter().filter(|(c, _)| (b'0'..=b'7').contains(c)).map(|(_, n)| n).sum();
        assert!(first_eight < 8_600, "{first_eight} of the first eight characters");
    }
}
