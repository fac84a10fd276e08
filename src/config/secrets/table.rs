//! `[secrets]` as it stands in the file. What is wrong with it beyond its form is told by the module above.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};

use super::{Allow, Alphabet, Provider};
use crate::providers::onepassword::Reference;

/// The table `[secrets]`. Shown by the names of its targets alone: somebody may have pasted a value where a reference belongs.
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretsTable {
    #[serde(default)]
    pub(in crate::config) provider: Provider,
    pub(super) fingerprint_key: Option<String>,
    #[serde(default)]
    pub(in crate::config) targets: Vec<TargetTable>,
}

impl fmt::Debug for SecretsTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.targets.iter().map(|target| &target.name)).finish()
    }
}

impl SecretsTable {
    /// Where the key of fingerprints is; what is no reference may be the key itself.
    pub(in crate::config) fn shown_key(&self) -> Option<String> {
        let reference = Reference::parse(self.fingerprint_key.as_ref()?);
        Some(reference.map_or_else(|_| "(set, hidden)".to_owned(), |reference| reference.to_string()))
    }
}

/// One of `[[secrets.targets]]`.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct TargetTable {
    pub(in crate::config) name: String,
    pub(super) project: String,
    pub(super) environment: String,
    pub(super) vault: Option<String>,
    #[serde(default)]
    pub(super) production: bool,
    #[serde(default)]
    pub(super) services: Vec<ServiceTable>,
}

/// One of `[[secrets.targets.services]]`.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ServiceTable {
    pub(super) name: String,
    pub(super) service: Option<String>,
    #[serde(default)]
    pub(super) variables: BTreeMap<String, Entry>,
}

/// What stands after the name of a variable: a reference alone, or a table.
#[derive(Clone)]
pub(super) enum Entry {
    Reference(String),
    Table(EntryTable),
}

/// The table of a variable.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EntryTable {
    #[serde(rename = "ref")]
    pub(super) reference: Option<String>,
    pub(super) value: Option<String>,
    #[serde(default)]
    pub(super) multiline: bool,
    #[serde(default)]
    pub(super) allow: Vec<Allow>,
    pub(super) generate: Option<GenerateTable>,
}

/// How a new value is made.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GenerateTable {
    pub(super) length: usize,
    #[serde(default)]
    pub(super) alphabet: Alphabet,
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Entry;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a reference such as \"op://vault/item/field\", or a table with `ref` or `value`")
            }

            fn visit_str<E>(self, text: &str) -> Result<Entry, E> {
                Ok(Entry::Reference(text.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Entry, A::Error> {
                EntryTable::deserialize(MapAccessDeserializer::new(map)).map(Entry::Table)
            }
        }
        deserializer.deserialize_any(Either)
    }
}
