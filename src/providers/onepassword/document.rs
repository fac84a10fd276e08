//! The JSON of an item, and how it is edited: what is not asked for passes through byte by byte, also keys and numbers that
//! this program does not know.
//!
//! Invariant: no value is copied on the way into the new document but by [`wiped::json`].

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeMap as _, SerializeSeq as _, Serializer};
use serde_json::value::RawValue;

use super::failure::Failure;
use super::item::Edit;
use crate::providers::wiped::{self, Wiped};
use crate::secret::Secret;

const NOT_AN_ITEM: &str = "update the `op` command or the Connect server; is this 1Password at all?";

/// A JSON object: its members in their order, their values as they are written.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'a> Members<'a> {
    fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| *value)
    }
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// Reads JSON of the other side. The error does not repeat a piece of it.
pub(super) fn parse<'a, T: Deserialize<'a>>(what: &str, json: &'a [u8]) -> Result<T, Failure> {
    serde_json::from_slice(json).map_err(|error| {
        let place = format!("line {}, column {}", error.line(), error.column());
        Failure::broken(format!("the answer is not {what} ({place})"), NOT_AN_ITEM)
    })
}

/// What else than fields is in an item, and would be lost in an edit: files, passkeys.
pub(super) fn extras(json: &[u8]) -> Result<Vec<String>, Failure> {
    let holds = |(key, value): &(String, &RawValue)| {
        let key = key.to_ascii_lowercase();
        let is_extra = matches!(key.as_str(), "files" | "documents" | "attachments") || key.contains("passkey");
        is_extra && !matches!(value.get(), "null" | "[]" | "{}" | "false")
    };
    let item: Members<'_> = parse("an item", json)?;
    let mut found: Vec<String> = item.0.iter().filter(|member| holds(member)).map(|(key, _)| key.clone()).collect();
    for field in fields(&item)? {
        let field: Members<'_> = parse("a field", field.get().as_bytes())?;
        found.extend(field.0.iter().filter(|member| holds(member)).map(|(key, _)| key.clone()));
    }
    Ok(found)
}

fn fields<'a>(item: &Members<'a>) -> Result<Vec<&'a RawValue>, Failure> {
    match item.get("fields") {
        None => Ok(Vec::new()),
        Some(fields) => {
            Ok(parse::<Option<Vec<&RawValue>>>("a list of fields", fields.get().as_bytes())?.unwrap_or_default())
        }
    }
}

/// The document with all edits made, or none where one of them names a field that is not there.
pub(super) fn edited(
    json: &[u8],
    edits: &[Edit],
    new_id: impl Fn() -> Result<String, Failure>,
) -> Result<Wiped, Failure> {
    let item: Members<'_> = parse("an item", json)?;
    let mut new_fields = Vec::new();
    for raw in fields(&item)? {
        let members: Members<'_> = parse("a field", raw.get().as_bytes())?;
        let id: String = match members.get("id") {
            Some(id) => parse("the id of a field", id.get().as_bytes())?,
            None => String::new(),
        };
        new_fields.push((id, NewField::Same(raw, members)));
    }
    for edit in edits {
        let place = |id: &str| {
            let place = new_fields.iter().position(|(of, _)| of == id);
            place.ok_or_else(|| {
                Failure::Missing(format!("the item has no field with the id `{}`", super::failure::quoted(id)))
            })
        };
        match edit {
            Edit::Set { field, value } => {
                let place = place(field)?;
                let (_, old) = &mut new_fields[place];
                old.set(value);
            }
            Edit::Remove { field } => {
                let place = place(field)?;
                new_fields.remove(place);
            }
            Edit::Add { label, value } => {
                let id = new_id()?;
                new_fields.push((id.clone(), NewField::Added { id, label, value }));
            }
        }
    }
    let fields = new_fields.into_iter().map(|(_, field)| field).collect();
    let document = Document { members: &item, fields };
    wiped::json(&document).map_err(|_| Failure::broken("the edited item has no JSON", NOT_AN_ITEM))
}

struct Document<'a> {
    members: &'a Members<'a>,
    fields: Vec<NewField<'a>>,
}

impl Serialize for Document<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (key, value) in &self.members.0 {
            if key == "fields" {
                map.serialize_entry(key, &Fields(&self.fields))?;
            } else {
                map.serialize_entry(key, value)?;
            }
        }
        if self.members.get("fields").is_none() {
            map.serialize_entry("fields", &Fields(&self.fields))?;
        }
        map.end()
    }
}

struct Fields<'a>(&'a [NewField<'a>]);

impl Serialize for Fields<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(Some(self.0.len()))?;
        self.0.iter().try_for_each(|field| list.serialize_element(field))?;
        list.end()
    }
}

enum NewField<'a> {
    Same(&'a RawValue, Members<'a>),
    Set(Members<'a>, &'a Secret),
    Added { id: String, label: &'a str, value: &'a Secret },
}

impl<'a> NewField<'a> {
    fn set(&mut self, new: &'a Secret) {
        match self {
            Self::Same(_, members) => *self = Self::Set(Members(std::mem::take(&mut members.0)), new),
            Self::Set(_, value) | Self::Added { value, .. } => *value = new,
        }
    }
}

impl Serialize for NewField<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Same(raw, _) => raw.serialize(serializer),
            Self::Set(members, value) => {
                let mut map = serializer.serialize_map(None)?;
                for (key, old) in members.0.iter().filter(|(key, _)| key != "value") {
                    map.serialize_entry(key, old)?;
                }
                map.serialize_entry("value", value.expose())?;
                map.end()
            }
            Self::Added { id, label, value } => {
                let mut map = serializer.serialize_map(None)?;
                map.serialize_entry("id", id)?;
                map.serialize_entry("type", "CONCEALED")?;
                map.serialize_entry("label", label)?;
                map.serialize_entry("value", value.expose())?;
                map.end()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ODD: &str =
        r#"{ "big" : 123456789012345678901234567890, "far":1e400,"text":"\u00e9\/" , "twice":1,"twice":2 }"#;

    fn text(edited: Result<Wiped, Failure>) -> String {
        String::from_utf8(edited.unwrap().to_vec()).unwrap()
    }

    fn set(field: &str, value: &str) -> Edit {
        Edit::Set { field: field.into(), value: Secret::new(value) }
    }

    #[test]
    fn what_is_not_edited_stays_as_it_is_written() {
        let item =
            format!(r#"{{"odd":{ODD},"fields":[{{"id":"a","odd":{ODD},"value":"old"}},{ODD},{{"id":"b"}}],"n":-0.0}}"#);
        let new_id = || Ok("new".to_owned());
        let added = Edit::Add { label: "l".into(), value: Secret::new("\"") };
        let edited = edited(item.as_bytes(), &[set("a", "x\n"), set("b", "y"), added], new_id);
        let wanted = format!(
            r#"{{"odd":{ODD},"fields":[{{"id":"a","odd":{ODD},"value":"x\n"}},{ODD},{{"id":"b","value":"y"}},{{"id":"new","type":"CONCEALED","label":"l","value":"\""}}],"n":-0.0}}"#
        );
        assert_eq!(text(edited), wanted);
    }

    #[test]
    fn an_item_without_fields_gets_its_first() {
        let added = [Edit::Add { label: "l".into(), value: Secret::new("v") }, set("new", "w")];
        for item in [r#"{"fields":null}"#, "{}"] {
            let edited = text(edited(item.as_bytes(), &added, || Ok("new".to_owned())));
            assert_eq!(edited, r#"{"fields":[{"id":"new","type":"CONCEALED","label":"l","value":"w"}]}"#);
        }
        for (edit, item) in [(set("a", "v"), r#"{"fields":[]}"#), (Edit::Remove { field: "a".into() }, "{}")] {
            assert!(matches!(edited(item.as_bytes(), &[edit], || Ok(String::new())), Err(Failure::Missing(_))));
        }
    }
}
