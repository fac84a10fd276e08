//! An item of 1Password, as `op item get --format json` and the Connect server give it.

use crate::secret::Secret;

/// A vault: its id and its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vault {
    /// 26 letters and digits.
    pub id: String,
    /// What people call it; empty where the server does not say.
    pub name: String,
}

/// An item as a list shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// 26 letters and digits.
    pub id: String,
    /// What people call it. Several may have the same.
    pub title: String,
    /// Where it is.
    pub vault: Vault,
}

/// An item with its values.
#[derive(Clone, Debug)]
pub struct Item {
    /// 26 letters and digits.
    pub id: String,
    /// What people call it.
    pub title: String,
    /// Where it is.
    pub vault: Vault,
    /// Counted up by every edit.
    pub version: u64,
    /// Such as `API_CREDENTIAL`.
    pub category: String,
    /// Its tags.
    pub tags: Vec<String>,
    /// When it was last edited.
    pub updated: Option<jiff::Timestamp>,
    /// Its sections: (id, label).
    pub sections: Vec<(String, String)>,
    /// Its fields.
    pub fields: Vec<Field>,
}

/// A field of an item.
#[derive(Clone, Debug)]
pub struct Field {
    /// Unique in the item.
    pub id: String,
    /// The id of its section.
    pub section: Option<String>,
    /// Such as `CONCEALED`.
    pub kind: String,
    /// What people call it. Several may have the same.
    pub label: String,
    /// `None` where the field is empty.
    pub value: Option<Secret>,
}

/// A change of one field.
#[derive(Clone, Debug)]
pub enum Edit {
    /// Gives a field that there is another value.
    Set {
        /// The id of the field.
        field: String,
        /// Its value from now on.
        value: Secret,
    },
    /// Adds a concealed field without a section.
    Add {
        /// What people call it.
        label: String,
        /// Its value.
        value: Secret,
    },
    /// Removes a field.
    Remove {
        /// The id of the field.
        field: String,
    },
}
impl Item { pub fn field(&self, _s: Option<&str>, _n: &str) -> crate::Result<&Field> { unimplemented!() } }
