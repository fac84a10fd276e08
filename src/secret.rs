//! A secret value in memory.
//!
//! Why not a string: a value must leave nothing behind. It is kept once, in memory that is wiped when the last owner goes,
//! and that is kept out of swap where the system allows it; it has no way to be printed or serialised by accident.
//!
//! Invariants:
//! * `Debug` shows nothing of a value, and there is no `Display` and no `Serialize`: who needs the text says
//!   [`Secret::expose`].
//! * What is [hidden](Secret::hidden) is blanked out of everything that this program prints, until it [forgets](forget)
//!   at its end.

mod hidden;
mod json;
mod views;

use std::fmt;
use std::sync::Arc;

use secrecy::SecretString;
use zeroize::Zeroizing;

use crate::hardening;
pub use hidden::{blank, forget, hide, is_any};

/// A secret value. Cloning it shares it.
#[derive(Clone)]
pub struct Secret(Arc<Zeroizing<Box<str>>>);

impl Secret {
    /// Copies a text, and nothing but it: no buffer of it is left that is larger.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let text: Box<str> = Box::from(text);
        hardening::lock(text.as_bytes());
        Self(Arc::new(Zeroizing::new(text)))
    }

    /// The value itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The same value, [hidden](hide) from now on.
    #[must_use]
    pub fn hidden(self) -> Self {
        hide(self.expose());
        self
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl From<&Secret> for SecretString {
    fn from(secret: &Secret) -> Self {
        Self::from(secret.expose())
    }
}
