//! An item of 1Password, as `op item get --format json` and the Connect server give it.

use serde::Deserialize;

use super::document::{self, parse};
use super::failure::Failure;
use crate::Result;
use crate::secret::Secret;

/// A vault: its id and its name.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Vault {
    /// 26 letters and digits.
    pub id: String,
    /// What people call it; empty where the server does not say.
    #[serde(default)]
    pub name: String,
}

/// An item as a list shows it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Listed {
    /// 26 letters and digits.
    pub id: String,
    /// What people call it. Several may have the same.
    #[serde(default)]
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
    /// What else is in it that an edit would lose, such as `files`.
    pub extras: Vec<String>,
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

#[derive(Deserialize)]
struct ItemJson {
    id: String,
    #[serde(default)]
    title: String,
    vault: Vault,
    version: u64,
    category: String,
    tags: Option<Vec<String>>,
    #[serde(alias = "updatedAt")]
    updated_at: Option<String>,
    sections: Option<Vec<SectionJson>>,
    fields: Option<Vec<FieldJson>>,
}

#[derive(Deserialize)]
struct SectionJson {
    id: String,
    label: Option<String>,
}

#[derive(Deserialize)]
struct FieldJson {
    id: String,
    section: Option<SectionJson>,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    label: String,
    value: Option<Secret>,
}

impl Item {
    /// Reads the JSON of an item.
    pub(super) fn parse(json: &[u8]) -> Result<Self, Failure> {
        let item: ItemJson = parse("an item", json)?;
        let mut sections: Vec<(String, String)> = Vec::new();
        let fields = item.fields.unwrap_or_default();
        // The list may be missing where the fields tell.
        let named = item.sections.iter().flatten().chain(fields.iter().filter_map(|field| field.section.as_ref()));
        for section in named {
            if !sections.iter().any(|(id, _)| *id == section.id) {
                sections.push((section.id.clone(), section.label.clone().unwrap_or_default()));
            }
        }
        // Also what nobody asked for: an edit sends the whole item, and an error may repeat it.
        let fields = fields.into_iter().map(|field| {
            let is_secret = matches!(field.kind.as_str(), "CONCEALED" | "OTP" | "TOTP");
            let hidden = |value: Secret| if is_secret { value.hidden() } else { value };
            Field {
                id: field.id,
                section: field.section.map(|section| section.id),
                kind: field.kind,
                label: field.label,
                value: field.value.filter(|value| !value.expose().is_empty()).map(hidden),
            }
        });
        Ok(Self {
            fields: fields.collect(),
            id: item.id,
            title: item.title,
            vault: item.vault,
            version: item.version,
            category: item.category,
            tags: item.tags.unwrap_or_default(),
            updated: item.updated_at.and_then(|time| time.parse().ok()),
            sections,
            extras: document::extras(json)?,
        })
    }

    /// The field that a reference names: by its id, or by its label in any case. Without a section it is looked for in all.
    ///
    /// # Errors
    /// Not found; usage, where several have this label, with their ids.
    pub fn field(&self, section: Option<&str>, name: &str) -> Result<&Field> {
        Ok(self.find(section, name)?)
    }

    fn find(&self, section: Option<&str>, name: &str) -> Result<&Field, Failure> {
        let section = section.map(|section| self.section(section)).transpose()?;
        let inside = |field: &&Field| section.is_none_or(|section| field.section.as_deref() == Some(section));
        let fields = || self.fields.iter().filter(inside);
        let mut found: Vec<&Field> = fields().filter(|field| field.id == name).collect();
        if found.is_empty() {
            found = fields().filter(|field| field.label.eq_ignore_ascii_case(name)).collect();
        }
        match found[..] {
            [field] => Ok(field),
            [] if section.is_some() => Err(self.without(&format!("field `{name}` in that section"))),
            [] => Err(self.without(&format!("field `{name}`"))),
            _ => Err(self.ambiguous("fields", name, found.iter().map(|field| field.id.as_str()))),
        }
    }

    /// The id of a section.
    fn section(&self, name: &str) -> Result<&str, Failure> {
        let mut found: Vec<&str> = self.sections.iter().map(|(id, _)| id.as_str()).filter(|id| *id == name).collect();
        if found.is_empty() {
            let labelled = self.sections.iter().filter(|(_, label)| label.eq_ignore_ascii_case(name));
            found = labelled.map(|(id, _)| id.as_str()).collect();
        }
        match found[..] {
            [id] => Ok(id),
            [] => Err(self.without(&format!("section `{name}`"))),
            _ => Err(self.ambiguous("sections", name, found.into_iter())),
        }
    }

    fn without(&self, what: &str) -> Failure {
        let message = format!("the item `{}` ({}) has no {what}", self.title, self.id);
        Failure::Absent { message, hint: "correct the reference, or add the field to the item in 1Password" }
    }

    fn ambiguous<'a>(&self, what: &str, name: &str, ids: impl Iterator<Item = &'a str>) -> Failure {
        let ids = ids.collect::<Vec<_>>().join(", ");
        let (title, id) = (&self.title, &self.id);
        Failure::Ambiguous(format!("the item `{title}` ({id}) has several {what} `{name}`, with the ids {ids}"))
    }
}
