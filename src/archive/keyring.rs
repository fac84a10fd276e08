//! age keys as this tool uses them: recipients to encrypt to, identities to decrypt with.
//!
//! Invariants:
//! * Secret keys live in the `age` crate's own types and in [`SecretString`]; nothing here can print one.
//! * A key that cannot be used (plugin, passphrase-protected) is an error, never skipped.

use std::io::BufRead;
use std::str::FromStr;

use age::secrecy::{ExposeSecret, SecretString};

use super::hash::Hash;

/// A key could not be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The text is not a public key that can be encrypted to.
    #[error("recipient {shown:?} is not usable: {reason}")]
    Recipient {
        /// The start of the text, which is public.
        shown: String,
        /// Why.
        reason: &'static str,
    },
    /// No recipient at all.
    #[error("no recipients")]
    NoRecipients,
    /// The text is not an identity file.
    #[error("the identity is not usable: {0}")]
    Identity(&'static str),
    /// None of the identities opens the object.
    #[error("none of the given identities can decrypt it")]
    NoMatch,
    /// The object is not a whole age file, or was altered.
    #[error("it is not an intact age file: {0}")]
    Damaged(String),
}

/// One age recipient in its normal form: `age1…`, or `ssh-… base64` without comment.
#[derive(Clone, Debug)]
pub struct Recipient {
    text: String,
    key: PublicKey,
}

#[derive(Clone, Debug)]
enum PublicKey {
    X25519(age::x25519::Recipient),
    Ssh(age::ssh::Recipient),
}

impl FromStr for Recipient {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let text = text.trim();
        let refuse = |reason| KeyError::Recipient { shown: text.chars().take(24).collect(), reason };
        if text.to_ascii_uppercase().starts_with("AGE-SECRET-KEY-") {
            return Err(KeyError::Recipient {
                shown: "AGE-SECRET-KEY-…".into(),
                reason: "this is a secret key, not a recipient",
            });
        }
        if text.starts_with("ssh-") {
            let key = age::ssh::Recipient::from_str(text)
                .map_err(|_| refuse("not an ssh-ed25519 key, nor an ssh-rsa key of 2048 to 4096 bits"))?;
            let text = text.split_ascii_whitespace().take(2).collect::<Vec<_>>().join(" ");
            return Ok(Self { text, key: PublicKey::Ssh(key) });
        }
        let key = age::x25519::Recipient::from_str(text)
            .map_err(|_| refuse("expected age1…, ssh-ed25519 … or ssh-rsa … (plugins are not supported)"))?;
        Ok(Self { text: key.to_string(), key: PublicKey::X25519(key) })
    }
}

impl Recipient {
    /// The normal form.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    fn as_age(&self) -> &dyn age::Recipient {
        match &self.key {
            PublicKey::X25519(key) => key,
            PublicKey::Ssh(key) => key,
        }
    }
}

/// The set of recipients that every pack of a run is encrypted to. Never empty.
#[derive(Clone, Debug)]
pub struct Recipients(Vec<Recipient>);

impl Recipients {
    /// Sorts and removes repetitions.
    ///
    /// # Errors
    /// [`KeyError::NoRecipients`] for an empty list; [`KeyError::Recipient`] for a text that is not a key.
    pub fn parse<S: AsRef<str>>(texts: impl IntoIterator<Item = S>) -> Result<Self, KeyError> {
        let mut all = texts.into_iter().map(|t| t.as_ref().parse()).collect::<Result<Vec<Recipient>, _>>()?;
        all.sort_by(|a, b| a.text.cmp(&b.text));
        all.dedup_by(|a, b| a.text == b.text);
        if all.is_empty() { Err(KeyError::NoRecipients) } else { Ok(Self(all)) }
    }

    /// The normal forms in order.
    #[must_use]
    pub fn texts(&self) -> Vec<String> {
        self.0.iter().map(|r| r.text.clone()).collect()
    }

    /// Names the set: SHA-256 of the normal forms, sorted, each followed by a newline.
    #[must_use]
    pub fn hash(&self) -> Hash {
        let text: String = self.0.iter().flat_map(|r| [r.text.as_str(), "\n"]).collect();
        Hash::of(text.as_bytes())
    }

    /// An encryptor with a fresh file key.
    ///
    /// # Errors
    /// When the `age` crate refuses the set.
    pub fn encryptor(&self) -> Result<age::Encryptor, age::EncryptError> {
        age::Encryptor::with_recipients(self.0.iter().map(Recipient::as_age))
    }
}

/// The identities of one identity file, and the signers that it pins.
pub struct Identities {
    keys: Vec<Box<dyn age::Identity + Send + Sync>>,
    recipients: Vec<String>,
    pins: Vec<String>,
}

/// The comment by which an identity file pins a signer.
pub const PIN_COMMENT: &str = "# opsctl-signer:";

impl Identities {
    /// Reads an age identity file (`AGE-SECRET-KEY-1…` lines and `#` comments) or an unencrypted OpenSSH private key.
    ///
    /// # Errors
    /// [`KeyError::Identity`], which never repeats any of the text.
    pub fn parse(text: &SecretString) -> Result<Self, KeyError> {
        let text = text.expose_secret();
        let pins =
            text.lines().filter_map(|l| l.trim().strip_prefix(PIN_COMMENT)).map(|p| p.trim().to_owned()).collect();
        if text.contains("-----BEGIN") {
            let key = Self::parse_ssh(text)?;
            return Ok(Self { keys: vec![Box::new(key)], recipients: Vec::new(), pins });
        }
        let mut keys: Vec<Box<dyn age::Identity + Send + Sync>> = Vec::new();
        let mut recipients = Vec::new();
        for line in text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
            let key = age::x25519::Identity::from_str(line).map_err(|_| {
                KeyError::Identity(
                    "expected AGE-SECRET-KEY-1… lines or an OpenSSH private key; \
                                    passphrase-protected files and plugins are not supported",
                )
            })?;
            recipients.push(key.to_public().to_string());
            keys.push(Box::new(key));
        }
        if keys.is_empty() {
            return Err(KeyError::Identity("it holds no key"));
        }
        Ok(Self { keys, recipients, pins })
    }

    fn parse_ssh(text: &str) -> Result<age::ssh::Identity, KeyError> {
        let start = text.find("-----BEGIN").unwrap_or(0);
        match age::ssh::Identity::from_buffer(&text.as_bytes()[start..], None) {
            Ok(key @ age::ssh::Identity::Unencrypted(_)) => Ok(key),
            Ok(age::ssh::Identity::Encrypted(_)) => Err(KeyError::Identity(
                "the SSH key is protected by a passphrase; give an unencrypted copy through a descriptor",
            )),
            Ok(age::ssh::Identity::Unsupported(_)) | Err(_) => {
                Err(KeyError::Identity("only ssh-ed25519 and ssh-rsa private keys can be used"))
            }
        }
    }

    /// Signers that the file pins by `# opsctl-signer:` lines.
    #[must_use]
    pub fn pins(&self) -> &[String] {
        &self.pins
    }

    /// Public forms of the native identities; empty for SSH keys.
    #[must_use]
    pub fn recipients(&self) -> &[String] {
        &self.recipients
    }

    /// Opens an age file.
    ///
    /// # Errors
    /// [`KeyError::NoMatch`] if it is for other recipients, [`KeyError::Damaged`] if it is not intact.
    pub fn decrypt<R: BufRead>(&self, input: R) -> Result<age::stream::StreamReader<R>, KeyError> {
        let damaged = |e: age::DecryptError| match e {
            age::DecryptError::NoMatchingKeys => KeyError::NoMatch,
            other => KeyError::Damaged(other.to_string()),
        };
        let keys = self.keys.iter().map(|k| k.as_ref() as &dyn age::Identity);
        age::Decryptor::new_buffered(input).map_err(damaged)?.decrypt(keys).map_err(damaged)
    }
}

/// A new identity as (public form, identity file line).
#[must_use]
pub fn generate_identity() -> (String, SecretString) {
    let identity = age::x25519::Identity::generate();
    (identity.to_public().to_string(), identity.to_string())
}

impl std::fmt::Debug for Identities {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identities({} hidden)", self.keys.len())
    }
}

impl From<KeyError> for crate::Error {
    fn from(error: KeyError) -> Self {
        use crate::ExitCode;
        let (code, hint) = match &error {
            KeyError::Recipient { .. } | KeyError::NoRecipients => (ExitCode::Usage, None),
            KeyError::Identity(_) => (ExitCode::Denied, None),
            KeyError::NoMatch => {
                (ExitCode::Denied, Some("give the identity of one of the store's recipients (`opsctl keys list`)"))
            }
            KeyError::Damaged(_) => (ExitCode::Integrity, None),
        };
        let built = Self::new(code, error.to_string());
        match hint {
            Some(hint) => built.hint(hint),
            None => built,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SSH: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHsKLqeplhpW+uObz5dvMgjz1OxfM/XXUB+VHtZ6isGN alice@host";

    #[test]
    fn recipients_are_normalised_sorted_and_named() {
        let (age1, _) = generate_identity();
        let set = Recipients::parse([SSH, &age1, &age1]).unwrap();
        assert_eq!(set.texts().len(), 2);
        assert!(!set.texts().concat().contains("alice"));
        let same = Recipients::parse([age1.as_str(), &SSH.replace("alice@host", "bob")]).unwrap();
        assert_eq!(set.hash(), same.hash());
    }

    #[test]
    fn a_secret_key_given_as_recipient_is_refused_and_not_repeated() {
        let (_, secret) = generate_identity();
        let error = secret.expose_secret().parse::<Recipient>().unwrap_err().to_string();
        assert!(error.contains("secret key"));
        assert!(!error.contains(&secret.expose_secret()[16..]), "{error}");
    }

    #[test]
    fn an_identity_file_gives_keys_and_pins() {
        let (public, secret) = generate_identity();
        let file = format!("# created: today\n# opsctl-signer: RWabc\n{}\n", secret.expose_secret());
        let ids = Identities::parse(&SecretString::from(file)).unwrap();
        assert_eq!(ids.pins(), ["RWabc"]);
        assert_eq!(ids.recipients(), [public]);
        assert_eq!(format!("{ids:?}"), "Identities(1 hidden)");
    }

    #[test]
    fn other_texts_are_refused_without_repeating_them() {
        for bad in [
            "",
            "# only a comment",
            "hunter2",
            "AGE-PLUGIN-YUBIKEY-1QQQQ",
            "-----BEGIN OPENSSH PRIVATE KEY-----\nhunter2\n",
        ] {
            let error = Identities::parse(&SecretString::from(bad.to_owned())).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
