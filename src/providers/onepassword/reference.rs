//! References to a field of an item: `op://<vault>/<item>/[section/]field[?attribute=otp]`.
//!
//! Invariants:
//! * What is accepted here is accepted by 1Password's own libraries. Some that they accept is refused: a part that is empty,
//!   nothing but dots, or with a space at an end can only be a slip.
//! * No error repeats the text: somebody may have put a secret where its reference belongs.

use std::fmt;
use std::str::FromStr;

use crate::Error;

const PREFIX: &str = "op://";

/// Where a value is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    /// Name or id.
    pub vault: String,
    /// Title or id.
    pub item: String,
    /// Label or id.
    pub section: Option<String>,
    /// Label or id.
    pub field: String,
    /// What is wanted in place of the value.
    pub attribute: Option<Attribute>,
}

/// What a reference may ask for in place of the value of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Attribute {
    /// The one-time password of the moment.
    Otp,
    /// The same by its other name.
    Totp,
    /// A private key in the form of OpenSSH.
    OpenSsh,
}

impl Attribute {
    const ALL: [Self; 3] = [Self::Otp, Self::Totp, Self::OpenSsh];

    /// As it stands behind the question mark.
    #[must_use]
    pub const fn query(self) -> &'static str {
        match self {
            Self::Otp => "attribute=otp",
            Self::Totp => "attribute=totp",
            Self::OpenSsh => "ssh-format=openssh",
        }
    }
}

/// A part of a reference, for messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The first.
    Vault,
    /// The second.
    Item,
    /// The third of four.
    Section,
    /// The last.
    Field,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vault => "vault",
            Self::Item => "item",
            Self::Section => "section",
            Self::Field => "field",
        })
    }
}

/// Why a text is no reference that can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadReference {
    /// Something else, or a prefix in upper case.
    #[error("it does not begin with `op://`, in small letters")]
    Prefix,
    /// Two parts, or five.
    #[error("it has not the three or four parts of `op://<vault>/<item>/[section/]field`")]
    Parts,
    /// Nothing between two slashes.
    #[error("its {0} is empty")]
    Empty(Part),
    /// There is no way to write the others.
    #[error("its {0} has a character other than A-Z a-z 0-9 `_` `.` `-` and space: put the id in place of the name")]
    Character(Part),
    /// Before or behind a name.
    #[error("its {0} begins or ends with a space")]
    Space(Part),
    /// `.` and the like.
    #[error("its {0} is nothing but dots")]
    Dots(Part),
    /// Behind the question mark.
    #[error("behind the `?` stands something other than `attribute=otp`, `attribute=totp` or `ssh-format=openssh`")]
    Query,
    /// A reference, but not to the value of a field.
    #[error("it asks for `{}`, which is computed from a field: only the value of a field can be used", .0.query())]
    Computed(Attribute),
}

impl From<BadReference> for Error {
    fn from(bad: BadReference) -> Self {
        Self::usage(format!("the reference cannot be used: {bad}"))
            .hint("1Password shows the reference of a field: `Copy Secret Reference` in its menu")
    }
}

impl Reference {
    /// Reads a reference.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, BadReference> {
        let rest = text.strip_prefix(PREFIX).ok_or(BadReference::Prefix)?;
        let (path, query) = rest.split_once('?').map_or((rest, None), |(path, query)| (path, Some(query)));
        let attribute = match query {
            None => None,
            Some(query) => {
                let known = Attribute::ALL.into_iter().find(|attribute| attribute.query() == query);
                Some(known.ok_or(BadReference::Query)?)
            }
        };
        let mut parts = path.split('/');
        let found = [parts.next(), parts.next(), parts.next(), parts.next(), parts.next()];
        let (vault, item, section, field) = match found {
            [Some(vault), Some(item), Some(field), None, _] => (vault, item, None, field),
            [Some(vault), Some(item), Some(section), Some(field), None] => (vault, item, Some(section), field),
            _ => return Err(BadReference::Parts),
        };
        let section = section.map(|section| name(Part::Section, section));
        Ok(Self {
            vault: name(Part::Vault, vault)?,
            item: name(Part::Item, item)?,
            section: section.transpose()?,
            field: name(Part::Field, field)?,
            attribute,
        })
    }

    /// The same, if it is to the value of a field and to nothing that is computed from it.
    ///
    /// # Errors
    /// [`BadReference::Computed`].
    pub fn to_value(self) -> Result<Self, BadReference> {
        self.attribute.map_or(Ok(self), |attribute| Err(BadReference::Computed(attribute)))
    }
}

/// One part, if it can be the name or id of something.
fn name(part: Part, text: &str) -> Result<String, BadReference> {
    let is_plain = |character: char| character.is_ascii_alphanumeric() || "_.- ".contains(character);
    if text.is_empty() {
        Err(BadReference::Empty(part))
    } else if !text.chars().all(is_plain) {
        Err(BadReference::Character(part))
    } else if text.starts_with(' ') || text.ends_with(' ') {
        Err(BadReference::Space(part))
    } else if text.chars().all(|character| character == '.') {
        Err(BadReference::Dots(part))
    } else {
        Ok(text.to_owned())
    }
}

impl FromStr for Reference {
    type Err = BadReference;

    fn from_str(text: &str) -> Result<Self, BadReference> {
        Self::parse(text)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}/{}/", self.vault, self.item)?;
        if let Some(section) = &self.section {
            write!(f, "{section}/")?;
        }
        f.write_str(&self.field)?;
        self.attribute.map_or(Ok(()), |attribute| write!(f, "?{}", attribute.query()))
    }
}
