//! What Railway's scalars hold.
//!
//! Invariants:
//! * A value is copied once, out of the buffer of the answer, which is wiped, into a [`Secret`]. So the strings of an answer
//!   are not read by `serde_json`: it keeps a copy of each string that has an escape.
//! * A value can be sent only by a name that says so, [`Exposed`].
//! * Of a part of the configuration no value is kept at all.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, Serializer};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use super::Values;
use super::operations::schema;
use crate::secret::Secret;

/// A text that may hold a secret.
#[derive(Debug)]
pub(super) struct Text(pub Secret);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <&RawValue>::deserialize(deserializer)?;
        unescape(raw.get()).map(Self).ok_or_else(|| D::Error::custom("not a text"))
    }
}

/// The text of a JSON string.
fn unescape(json: &str) -> Option<Secret> {
    let inside = json.strip_prefix('"')?.strip_suffix('"')?;
    // It never becomes longer than it is in JSON: this buffer does not move.
    let mut text = Zeroizing::new(String::with_capacity(inside.len()));
    let mut rest = inside;
    while let Some((plain, escaped)) = rest.split_once('\\') {
        text.push_str(plain);
        let kind = escaped.chars().next()?;
        rest = escaped.get(kind.len_utf8()..)?;
        text.push(match kind {
            '"' | '\\' | '/' => kind,
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => {
                let first = unit(&mut rest)?;
                let is_half = (0xd800..0xdc00).contains(&first);
                let second =
                    if is_half { Some(unit(&mut rest.strip_prefix("\\u")?).zip(rest.get(6..))?) } else { None };
                match second {
                    None => char::from_u32(first)?,
                    Some((second, after)) => {
                        rest = after;
                        char::decode_utf16([u16::try_from(first).ok()?, u16::try_from(second).ok()?]).next()?.ok()?
                    }
                }
            }
            _ => return None,
        });
    }
    text.push_str(rest);
    Some(Secret::new(&text))
}

/// The four digits behind `\u`.
fn unit(rest: &mut &str) -> Option<u32> {
    let (digits, after) = rest.split_at_checked(4)?;
    *rest = after;
    u32::from_str_radix(digits, 16).ok()
}

/// Variables as they are read.
pub(super) struct Received(pub Values);

impl<'de> Deserialize<'de> for Received {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let values = BTreeMap::<String, Option<Text>>::deserialize(deserializer)?;
        Ok(Self(values.into_iter().map(|(name, text)| (name, text.map(|text| text.0))).collect()))
    }
}

impl cynic::schema::IsScalar<schema::EnvironmentVariables> for Received {
    type SchemaType = schema::EnvironmentVariables;
}

/// Variables as they are sent.
pub(super) struct Exposed<'a>(pub &'a BTreeMap<String, Secret>);

impl Serialize for Exposed<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value.expose())))
    }
}

impl cynic::schema::IsScalar<schema::EnvironmentVariables> for Exposed<'_> {
    type SchemaType = schema::EnvironmentVariables;
}

impl cynic::coercions::CoercesTo<schema::EnvironmentVariables> for Exposed<'_> {}

impl schema::variable::Variable for Exposed<'_> {
    const TYPE: cynic::variables::VariableType = cynic::variables::VariableType::Named("EnvironmentVariables");
}

/// A part of an environment's configuration, by the names in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Config {
    /// What stands here is taken away.
    Nothing,
    /// There is a value here.
    Something,
    /// What there is below.
    Parts(BTreeMap<String, Config>),
}

impl Config {
    /// Whether no name in it has anything.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Parts(parts) if parts.values().all(Self::is_empty))
    }

    /// Whether everything that is done here is done there too.
    pub fn is_within(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Nothing, Self::Nothing) => true,
            (Self::Parts(here), Self::Parts(there)) => {
                here.iter().all(|(name, part)| there.get(name).is_some_and(|other| part.is_within(other)))
            }
            _ => false,
        }
    }

    /// The same without what is empty.
    pub fn without_empty(self) -> Self {
        match self {
            Self::Parts(parts) => {
                let kept = parts.into_iter().filter(|(_, part)| !part.is_empty());
                Self::Parts(kept.map(|(name, part)| (name, part.without_empty())).collect())
            }
            other => other,
        }
    }

    /// The part of that name, made where there is none.
    pub fn part(&mut self, name: &str) -> &mut Self {
        if !matches!(self, Self::Parts(_)) {
            *self = Self::Parts(BTreeMap::new());
        }
        match self {
            Self::Parts(parts) => parts.entry(name.to_owned()).or_insert_with(|| Self::Parts(BTreeMap::new())),
            other => other,
        }
    }
}

impl Serialize for Config {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Nothing => serializer.serialize_unit(),
            Self::Something => Err(serde::ser::Error::custom("a value was not kept")),
            Self::Parts(parts) => serializer.collect_map(parts),
        }
    }
}

impl<'de> Deserialize<'de> for Config {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Shape;
        impl<'de> Visitor<'de> for Shape {
            type Value = Config;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a configuration")
            }

            fn visit_unit<E>(self) -> Result<Config, E> {
                Ok(Config::Nothing)
            }

            fn visit_bool<E>(self, _: bool) -> Result<Config, E> {
                Ok(Config::Something)
            }

            fn visit_i64<E>(self, _: i64) -> Result<Config, E> {
                Ok(Config::Something)
            }

            fn visit_u64<E>(self, _: u64) -> Result<Config, E> {
                Ok(Config::Something)
            }

            fn visit_f64<E>(self, _: f64) -> Result<Config, E> {
                Ok(Config::Something)
            }

            fn visit_str<E>(self, _: &str) -> Result<Config, E> {
                Ok(Config::Something)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Config, A::Error> {
                while items.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Config::Something)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Config, A::Error> {
                let mut parts = BTreeMap::new();
                while let Some((name, part)) = entries.next_entry()? {
                    parts.insert(name, part);
                }
                Ok(Config::Parts(parts))
            }
        }
        deserializer.deserialize_any(Shape)
    }
}

cynic::impl_scalar!(Config, schema::EnvironmentConfig);
cynic::impl_scalar!(jiff::Timestamp, schema::DateTime);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_is_read_as_serde_json_reads_it() {
        let samples = [
            "",
            "plain",
            "-----BEGIN-----\nline\r\n\ttab\u{8}\u{c}",
            "quote \" and \\ and / and \u{0} \u{1f}",
            "é ü 漢字 🦀 \u{10ffff} \u{fffd}",
        ];
        for sample in samples {
            let escaped = serde_json::to_string(sample).unwrap();
            let units: String = sample.encode_utf16().map(|unit| format!("\\u{unit:04X}")).collect();
            for json in [escaped, format!("\"{units}\"")] {
                assert_eq!(serde_json::from_str::<String>(&json).unwrap(), sample);
                assert_eq!(serde_json::from_str::<Text>(&json).unwrap().0.expose(), sample, "{json}");
            }
        }
    }

    #[test]
    fn what_is_no_text_is_refused_without_repeating_it() {
        for json in [r#""\ud800""#, r#""\udc00hunter2""#, r#""\ud800\u0041hunter2""#, r#"{"a":"hunter2"}"#, "17"] {
            let error = serde_json::from_str::<Text>(json).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_configuration_keeps_names_and_no_value() {
        let json =
            r#"{"services":{"s":{"variables":{"GONE":null,"SET":{"value":"hunter2"}},"deploy":{}}},"n":[1,"hunter2"]}"#;
        let config: Config = serde_json::from_str(json).unwrap();
        assert!(!format!("{config:?}").contains("hunter2"));
        assert!(!config.is_empty());
        let empty: Config =
            serde_json::from_str(r#"{"services":{"s":{"variables":{}}},"sharedVariables":{}}"#).unwrap();
        assert!(empty.is_empty());
        assert_eq!(empty.without_empty(), Config::Parts(BTreeMap::new()));
        assert!(!Config::Nothing.is_empty());
    }

    #[test]
    fn what_is_within_a_configuration_does_nothing_else() {
        let config = |json| serde_json::from_str::<Config>(json).unwrap();
        let whole = config(r#"{"s":{"a":null,"b":null}}"#);
        for (json, is_within) in [
            ("{}", true),
            (r#"{"s":{"a":null}}"#, true),
            (r#"{"s":{"a":null,"b":null}}"#, true),
            (r#"{"s":{"a":{"value":null}}}"#, false),
            (r#"{"s":{"a":"x"}}"#, false),
            (r#"{"s":{"c":null}}"#, false),
            (r#"{"s":null}"#, false),
            ("null", false),
        ] {
            assert_eq!(config(json).is_within(&whole), is_within, "{json}");
        }
    }
}
