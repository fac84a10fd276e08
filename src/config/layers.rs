//! Finding one setting: flag, then variable, then file, and remembering which of them it was.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use clap::ArgMatches;
use clap::parser::ValueSource;

use super::env::{Environment, split_list};
use crate::error::{Error, Result};

/// Where a setting's value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A flag on the command line.
    Flag,
    /// This environment variable.
    Variable(String),
    /// The configuration file.
    File(PathBuf),
    /// The profile of this name.
    Profile(String),
    /// Nobody said anything.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("flag"),
            Self::Variable(name) => write!(f, "variable {name}"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Profile(name) => write!(f, "profile {name}"),
            Self::Default => f.write_str("default"),
        }
    }
}

/// A value and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sourced<T> {
    /// The value.
    pub value: T,
    /// Where it comes from.
    pub origin: Origin,
}

impl<T> Sourced<T> {
    /// A value that nobody asked for.
    pub const fn default(value: T) -> Self {
        Self { value, origin: Origin::Default }
    }

    /// The same origin with another value.
    pub(super) fn map<U>(self, change: impl FnOnce(T) -> U) -> Sourced<U> {
        Sourced { value: change(self.value), origin: self.origin }
    }
}

/// Everything that settings are looked up in.
pub(super) struct Layers<'a> {
    /// The matches of each command level, the deepest first.
    matches: Vec<&'a ArgMatches>,
    pub(super) environment: &'a Environment,
    /// Where values of the file come from.
    pub(super) file: Option<PathBuf>,
}

impl<'a> Layers<'a> {
    pub(super) fn new(matches: &'a ArgMatches, environment: &'a Environment) -> Self {
        let levels = std::iter::successors(Some(matches), |level| level.subcommand().map(|(_, deeper)| deeper));
        let mut matches: Vec<_> = levels.collect();
        matches.reverse();
        Self { matches, environment, file: None }
    }

    /// The level at which a flag stands on the command line itself. What clap took from a variable does not count: this
    /// module reads variables for every command alike, also where the command has no such flag.
    fn given(&self, id: &str) -> Option<&'a ArgMatches> {
        let present = |level: &&&ArgMatches| {
            level.try_contains_id(id).unwrap_or(false) && level.value_source(id) == Some(ValueSource::CommandLine)
        };
        self.matches.iter().find(present).copied()
    }

    /// The raw values of a flag.
    fn flag(&self, id: &str) -> Option<Vec<OsString>> {
        let values = self.given(id)?.try_get_raw(id).ok().flatten()?;
        Some(values.map(ToOwned::to_owned).collect())
    }

    /// How often a counting flag stands on the command line, else its variable.
    pub(super) fn counted(&self, id: &str, variable: &str) -> Result<Option<Sourced<u8>>> {
        if let Some(level) = self.given(id) {
            let value = level.get_one::<u8>(id).copied().unwrap_or(1);
            return Ok(Some(Sourced { value, origin: Origin::Flag }));
        }
        self.parsed(id, variable, None, |text| text.parse().map_err(|_| "is not a small number".into()))
    }

    /// A yes-or-no setting: a flag means yes, a variable as the command line library reads it.
    pub(super) fn switch(&self, id: &str, variable: &str, file: Option<bool>) -> Result<Sourced<bool>> {
        if self.given(id).is_some() {
            return Ok(Sourced { value: true, origin: Origin::Flag });
        }
        if let Some(text) = self.environment.text(variable)? {
            return Ok(Sourced { value: truthy(&text), origin: Origin::Variable(variable.to_owned()) });
        }
        Ok(file.map_or(Sourced::default(false), |value| Sourced { value, origin: self.file_origin() }))
    }

    /// A path; not necessarily UTF-8.
    pub(super) fn path(&self, id: &str, variable: &str, file: Option<String>) -> Option<Sourced<PathBuf>> {
        if let Some(value) = self.flag(id).and_then(|values| values.into_iter().next()) {
            return Some(Sourced { value: value.into(), origin: Origin::Flag });
        }
        if let Some(value) = self.environment.get(variable) {
            return Some(Sourced { value: value.into(), origin: Origin::Variable(variable.to_owned()) });
        }
        file.map(|value| Sourced { value: value.into(), origin: self.file_origin() })
    }

    /// A single value, checked by `parse`, whose error continues the sentence "`value` …".
    pub(super) fn parsed<T>(
        &self,
        id: &str,
        variable: &str,
        file: Option<String>,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<Sourced<T>>> {
        let Some(raw) = self.path(id, variable, file) else { return Ok(None) };
        let text = raw.value.to_str().ok_or_else(|| refuse(id, &raw.origin, "it is not valid UTF-8"))?;
        let value = parse(text).map_err(|why| refuse(id, &raw.origin, &format!("`{text}` {why}")))?;
        Ok(Some(Sourced { value, origin: raw.origin }))
    }

    /// A list. The highest layer that names any wins whole; lists of different layers are not mixed.
    pub(super) fn list(
        &self,
        id: &str,
        variable: &str,
        file: Option<Vec<String>>,
    ) -> Result<Option<Sourced<Vec<String>>>> {
        if let Some(values) = self.flag(id) {
            let texts: Result<Vec<String>, _> = values.into_iter().map(OsString::into_string).collect();
            let value = texts.map_err(|_| refuse(id, &Origin::Flag, "it is not valid UTF-8"))?;
            return Ok(Some(Sourced { value, origin: Origin::Flag }));
        }
        if let Some(text) = self.environment.text(variable)? {
            let value = split_list(variable, &text);
            return Ok(Some(Sourced { value, origin: Origin::Variable(variable.to_owned()) }));
        }
        Ok(file.map(|value| Sourced { value, origin: self.file_origin() }))
    }

    /// The origin of a value that stands in the file.
    pub(super) fn file_origin(&self) -> Origin {
        self.file.clone().map_or(Origin::Default, Origin::File)
    }
}

/// A setting that is wrong, with the place where to change it.
pub(super) fn refuse(id: &str, origin: &Origin, why: &str) -> Error {
    Error::usage(format!("the setting {} ({origin}) is wrong: {why}", id.replace('_', "-")))
}

/// As [`clap::builder::FalseyValueParser`] has it.
pub(crate) fn truthy(text: &str) -> bool {
    !matches!(text.to_ascii_lowercase().as_str(), "" | "n" | "no" | "f" | "false" | "off" | "0")
}
