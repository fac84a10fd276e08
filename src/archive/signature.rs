//! minisign signatures: who vouches for a receipt or a keys object.
//!
//! Signatures are prehashed Ed25519 in minisign's file format, so `minisign -V` checks them.
//! Invariant: a signature counts only if it verifies with a key that the caller listed.

use std::io::Cursor;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use minisign::{KeyPair, SecretKeyBox, SignatureBox};
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

/// A signing key or signature could not be used.
#[derive(Debug, thiserror::Error)]
pub enum SignatureError {
    /// The text is not a minisign public key.
    #[error("{0:?} is not a minisign public key (RW…)")]
    PublicKey(String),
    /// The text is not a passwordless minisign secret key.
    #[error("the signing key is not usable: {0}")]
    SecretKey(&'static str),
    /// The signature file is damaged, or belongs to other bytes.
    #[error("the signature does not hold: {0}")]
    Bad(String),
    /// Signed by a key that is not accepted.
    #[error("signed by key id {0}, which is not an accepted signer")]
    UnknownSigner(String),
}

impl From<SignatureError> for crate::Error {
    fn from(error: SignatureError) -> Self {
        match &error {
            SignatureError::PublicKey(_) | SignatureError::SecretKey(_) => Self::usage(error.to_string()),
            SignatureError::Bad(_) | SignatureError::UnknownSigner(_) => Self::integrity(error.to_string()),
        }
    }
}

/// A signer's public key: base64 as in a minisign public key file (`RW…`).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signer(String);

impl FromStr for Signer {
    type Err = SignatureError;

    fn from_str(text: &str) -> Result<Self, SignatureError> {
        // A whole public key file is accepted too: its last line is the key.
        let line = text.trim().lines().last().unwrap_or_default().trim();
        match minisign::PublicKey::from_base64(line) {
            Ok(key) => Ok(Self(key.to_base64())),
            Err(_) => Err(SignatureError::PublicKey(line.chars().take(64).collect())),
        }
    }
}

impl Signer {
    /// The key in base64.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The key id as minisign prints it.
    #[must_use]
    pub fn id(&self) -> String {
        self.key().map(|key| key_id(key.keynum())).unwrap_or_default()
    }

    fn key(&self) -> Option<minisign::PublicKey> {
        minisign::PublicKey::from_base64(&self.0).ok()
    }
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::fmt::Display for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

fn key_id(keynum: &[u8]) -> String {
    keynum.iter().rev().map(|b| format!("{b:02X}")).collect()
}

/// A passwordless minisign secret key.
pub struct SigningKey {
    secret: minisign::SecretKey,
    signer: Signer,
}

impl SigningKey {
    /// Makes a new key; returns it with the text of its secret key file.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn generate() -> crate::Result<(Self, SecretString)> {
        let refuse =
            |e: minisign::PError| crate::Error::new(crate::ExitCode::Failed, format!("cannot make a signing key: {e}"));
        let pair = KeyPair::generate_unencrypted_keypair().map_err(refuse)?;
        let text = pair.sk.to_box(Some("opsctl signing key")).map_err(refuse)?.into_string();
        Ok((Self { signer: Signer(pair.pk.to_base64()), secret: pair.sk }, SecretString::from(text)))
    }

    /// Reads the text of a passwordless minisign secret key file.
    ///
    /// # Errors
    /// [`SignatureError::SecretKey`], which never repeats any of the text.
    pub fn parse(text: &SecretString) -> Result<Self, SignatureError> {
        let text = Zeroizing::new(format!("{}\n", text.expose_secret().trim()));
        let parsed = SecretKeyBox::from_string(&text)
            .map_err(|_| SignatureError::SecretKey("expected a minisign secret key file"))?;
        let secret = parsed
            .into_unencrypted_secret_key()
            .map_err(|_| SignatureError::SecretKey("it must be passwordless (`minisign -G -W`)"))?;
        let public = minisign::PublicKey::from_secret_key(&secret)
            .map_err(|_| SignatureError::SecretKey("its public half cannot be derived"))?;
        Ok(Self { signer: Signer(public.to_base64()), secret })
    }

    /// The public half.
    #[must_use]
    pub const fn signer(&self) -> &Signer {
        &self.signer
    }

    /// Signs `bytes`; `comment` is covered by the signature. Returns the text of the `.minisig` file.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn sign(&self, bytes: &[u8], comment: &str) -> crate::Result<String> {
        minisign::sign(None, &self.secret, Cursor::new(bytes), Some(comment), Some("signature by opsctl"))
            .map(SignatureBox::into_string)
            .map_err(|e| crate::Error::new(crate::ExitCode::Failed, format!("cannot sign: {e}")))
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SigningKey({}, secret hidden)", self.signer)
    }
}

/// Checks `signature` over `bytes` against `accepted` and returns the signer that made it.
///
/// # Errors
/// [`SignatureError::UnknownSigner`] when no accepted key has its id, [`SignatureError::Bad`] when it does not verify.
pub fn verify<'a>(
    bytes: &[u8],
    signature: &[u8],
    accepted: impl IntoIterator<Item = &'a Signer>,
) -> Result<&'a Signer, SignatureError> {
    let text = std::str::from_utf8(signature).map_err(|_| SignatureError::Bad("it is not text".into()))?;
    check_lengths(text)?;
    let parsed = SignatureBox::from_string(text).map_err(|e| SignatureError::Bad(e.to_string()))?;
    let mut reason = None;
    for signer in accepted {
        let Some(key) = signer.key().filter(|key| key.keynum() == parsed.keynum()) else { continue };
        match minisign::verify(&key, &parsed, Cursor::new(bytes), true, false, false) {
            Ok(()) => return Ok(signer),
            Err(e) => reason = Some(e.to_string()),
        }
    }
    match reason {
        Some(reason) => Err(SignatureError::Bad(reason)),
        None => Err(SignatureError::UnknownSigner(key_id(parsed.keynum()))),
    }
}

/// The `minisign` crate takes it for granted that the comment's signature is a whole one, and panics if it is not.
fn check_lengths(text: &str) -> Result<(), SignatureError> {
    for (line, what, len) in [(1, "signature", 74), (3, "comment's signature", 64)] {
        let decoded = STANDARD.decode(text.lines().nth(line).unwrap_or_default().trim());
        if decoded.map_or(0, |bytes| bytes.len()) != len {
            return Err(SignatureError::Bad(format!("its {what} is not {len} bytes in base64")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_verifies_with_its_signer_only() {
        let (mine, text) = SigningKey::generate().unwrap();
        let (other, _) = SigningKey::generate().unwrap();
        let reread = SigningKey::parse(&text).unwrap();
        assert_eq!(reread.signer(), mine.signer());
        let signature = reread.sign(b"receipt", "comment").unwrap();
        let both = [other.signer().clone(), mine.signer().clone()];
        assert_eq!(verify(b"receipt", signature.as_bytes(), &both).unwrap(), mine.signer());
        assert!(matches!(
            verify(b"receipt", signature.as_bytes(), [other.signer()]),
            Err(SignatureError::UnknownSigner(_))
        ));
        assert!(matches!(verify(b"Receipt", signature.as_bytes(), &both), Err(SignatureError::Bad(_))));
    }

    #[test]
    fn a_changed_trusted_comment_is_noticed() {
        let (key, _) = SigningKey::generate().unwrap();
        let signature = key.sign(b"x", "seq 1").unwrap().replace("seq 1", "seq 2");
        assert!(verify(b"x", signature.as_bytes(), [key.signer()]).is_err());
    }

    #[test]
    fn a_signature_of_the_comment_that_is_too_short_is_refused_without_panic() {
        let (key, _) = SigningKey::generate().unwrap();
        let whole = key.sign(b"x", "comment").unwrap();
        for (line, len) in [(3, 0), (3, 1), (3, 63), (3, 66), (1, 0), (1, 73), (1, 75)] {
            let mut lines: Vec<String> = whole.lines().map(str::to_owned).collect();
            let mut bytes = STANDARD.decode(&lines[line]).unwrap();
            bytes.resize(len, 0);
            lines[line] = STANDARD.encode(bytes);
            let error = verify(b"x", lines.join("\n").as_bytes(), [key.signer()]).unwrap_err();
            assert!(matches!(error, SignatureError::Bad(_)), "{len} bytes in line {line}: {error}");
        }
    }

    #[test]
    fn garbage_is_refused_without_panic_and_without_repeating_it() {
        let (key, text) = SigningKey::generate().unwrap();
        for bad in ["", "x", "untrusted comment: x\nAAAA\n", "\u{0}\n\n\n\n"] {
            assert!(verify(b"x", bad.as_bytes(), [key.signer()]).is_err());
            assert!(bad.parse::<Signer>().is_err());
        }
        let cut = SecretString::from(text.expose_secret()[..80].to_owned());
        let error = SigningKey::parse(&cut).unwrap_err().to_string();
        assert!(!error.contains(&text.expose_secret()[40..60]));
        assert!(format!("{key:?}").contains("hidden"));
    }
}
