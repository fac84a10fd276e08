//! Fingerprints: what is shown and recorded in place of a value.
//!
//! Why keyed: the plain hash of a short secret can be guessed. The key is a secret of its own, and without one each run takes
//! a new key: then values can be compared within the run, and with nothing that was recorded.
//!
//! Equal values have equal fingerprints, whatever variable holds them: that a token is the same in two services is what one
//! wants to see.

use std::fmt;

use hmac::{HmacReset, KeyInit as _, Mac as _};
use rustix::rand::{GetRandomFlags, getrandom};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::secret::Secret;
use crate::{Context as _, Error, Result};

/// A shorter key can be guessed.
const MIN_KEY: usize = 16;
/// What the key is used for, and for nothing else.
const DOMAIN: &[u8] = b"opsctl secret fingerprint 1\0";

/// Makes fingerprints with one key.
pub struct Fingerprints {
    key: Zeroizing<Vec<u8>>,
    lasts: bool,
}

impl fmt::Debug for Fingerprints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprints(lasts: {})", self.lasts)
    }
}

impl Fingerprints {
    /// With this key, if there is one, else with a new one.
    ///
    /// # Errors
    /// Usage, when the key is too short; when the system gives no random numbers.
    pub fn new(key: Option<&Secret>) -> Result<Self> {
        let Some(key) = key else {
            let mut random = Zeroizing::new(vec![0_u8; 32]);
            getrandom(&mut random[..], GetRandomFlags::empty()).context(|| "making a key for fingerprints".into())?;
            return Ok(Self { key: random, lasts: false });
        };
        if key.expose().len() < MIN_KEY {
            return Err(Error::usage(format!("secrets.fingerprint_key has less than {MIN_KEY} characters"))
                .hint("let 1Password generate a password of 32 characters for it"));
        }
        Ok(Self { key: Zeroizing::new(key.expose().as_bytes().to_vec()), lasts: true })
    }

    /// Whether fingerprints of other runs can be compared with these.
    #[must_use]
    pub const fn lasts(&self) -> bool {
        self.lasts
    }

    /// The fingerprint of a value.
    #[must_use]
    pub fn of(&self, value: &str) -> Fingerprint {
        // Boxed, so that what it buffers of the value is freed and wiped with the heap.
        let mac = HmacReset::<Sha256>::new_from_slice(&self.key);
        let mut mac = Box::new(mac.unwrap_or_else(|_| unreachable!("HMAC takes keys of any length")));
        mac.update(DOMAIN);
        mac.update(value.as_bytes());
        let digest = mac.finalize_reset().into_bytes();
        Fingerprint(digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect())
    }
}

/// A fingerprint: 32 hexadecimal digits, of which 8 are shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Fingerprint(String);

impl Fingerprint {
    /// As it is shown.
    #[must_use]
    pub fn shown(&self) -> String {
        self.0.chars().take(8).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPECTED: &str = "4a24dee03cfe11e8e8a2de42899f28b3";

    fn keyed(key: &str) -> Fingerprints {
        Fingerprints::new(Some(&Secret::new(key))).unwrap()
    }

    #[test]
    fn a_fingerprint_is_an_hmac_of_the_value() {
        // printf 'opsctl secret fingerprint 1\0value' | openssl dgst -sha256 -hmac 0123456789abcdef
        assert_eq!(keyed("0123456789abcdef").of("value").0, EXPECTED);
        assert_eq!(keyed("0123456789abcdef").of("value").shown(), EXPECTED[..8]);
    }

    #[test]
    fn it_tells_values_and_keys_apart_and_lasts_only_with_a_key() {
        let ours = keyed("0123456789abcdef");
        assert!(ours.lasts());
        assert_eq!(ours.of("a"), keyed("0123456789abcdef").of("a"));
        assert_ne!(ours.of("a"), ours.of("b"));
        assert_ne!(ours.of("a"), keyed("0123456789abcdeg").of("a"));
        let (one, two) = (Fingerprints::new(None).unwrap(), Fingerprints::new(None).unwrap());
        assert!(!one.lasts());
        assert_ne!(one.of("a"), two.of("a"));
    }

    #[test]
    fn a_short_key_is_refused_and_not_repeated() {
        let error = Fingerprints::new(Some(&Secret::new("hunter2hunter2"))).unwrap_err();
        assert_eq!(error.code(), crate::ExitCode::Usage);
        assert!(!format!("{error:?}").contains("hunter2"));
        assert!(!format!("{:?}", keyed("0123456789abcdef")).contains("0123"));
    }
}
