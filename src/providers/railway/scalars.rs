//! What Railway's scalars hold.
//!
//! Invariants:
//! * A value is copied once, out of the buffer of the answer, which is wiped, into a [`Secret`].
//! * A value can be sent only by a name that says so, [`Exposed`].
//! * Of a part of the configuration no value is kept at all.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, Serializer};

use super::Values;
use super::operations::schema;
use crate::secret::Secret;

/// Variables as they are read.
pub(super) struct Received(pub Values);

impl<'de> Deserialize<'de> for Received {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Values::deserialize(deserializer).map(Self)
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
