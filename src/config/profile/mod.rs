//! Profiles: the deployment contract of a hosted system, as data.
//!
//! Why data: the same binary serves the next system without new code. The built-in profiles are part of the binary, so a
//! container needs no extra file. A system is one or more services; each has its variables, its probes, and a volume of
//! its own or none.
//!
//! Invariants:
//! * Every path of a volume is relative to its data root and stays below it; an unknown key is an error.
//! * A profile that loads makes sense: names are unique, and whatever refers to a name finds it ([`validate`]).

mod auth;
mod place;
mod probe;
mod shape;
mod system;
mod validate;
mod variable;
mod volume;

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use auth::{AuthRow, Identity, ScopedTokens, Send, Whoami};
pub use probe::{Answer, Method, Probe};
pub use shape::{Fault, Shape, is_loopback};
pub use system::{Engine, Facts, Sessions, Sidecars, Workspaces};
pub use variable::{Condition, Need, Rule, Source, Variable};
pub use volume::{Candidate, DurablePath, Format, JsonType, Location};

use super::file::{TomlFault, toml_error, toml_fault};

pub use super::file::read_text;
use crate::error::{Error, Result};
pub(super) use place::line_at;

/// The profiles inside the binary, by name.
const BUILT_IN: [(&str, &str); 3] = [
    ("openwork", include_str!("../../../profiles/openwork.toml")),
    ("clawwork", include_str!("../../../profiles/clawwork.toml")),
    ("open-cowork", include_str!("../../../profiles/open-cowork.toml")),
];

/// The deployment contract of a hosted system.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// The name, as receipts record it.
    pub name: String,
    /// The version of the contract that this profile follows.
    pub contract_version: String,
    /// What the system is.
    #[serde(default)]
    pub note: String,
    /// Contract versions whose snapshots do not work under this profile; `0.*` is all that start with `0.`.
    #[serde(default)]
    pub incompatible: Vec<String>,
    /// The services of the system.
    pub services: Vec<Service>,
    /// The service that was asked for by `NAME:SERVICE`.
    #[serde(skip)]
    pub chosen: Option<String>,
}

/// One service of a system: what the platform deploys as a unit.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// The name, unique in the profile.
    pub name: String,
    /// What it does.
    #[serde(default)]
    pub note: String,
    /// The durable volume; a service without keeps nothing.
    pub volume: Option<Volume>,
    /// The environment variables that it is deployed with.
    #[serde(default)]
    pub variables: Vec<Variable>,
    /// Who may ask it something, and how they show who they are. `none` and `wrong` are always known.
    #[serde(default)]
    pub identities: Vec<Identity>,
    /// Requests whose answers show that the service works.
    #[serde(default)]
    pub probes: Vec<Probe>,
    /// What each identity is answered by each protected end point.
    #[serde(default)]
    pub auth: Vec<AuthRow>,
    /// How tokens of less power are made, to prove what they may do.
    pub scoped_tokens: Option<ScopedTokens>,
    /// How the service is asked which token it sees.
    pub whoami: Option<Whoami>,
    /// Its workspaces.
    pub workspaces: Option<Workspaces>,
    /// The sessions of its users.
    pub sessions: Option<Sessions>,
    /// What a snapshot records of its data, for a comparison after a restore.
    pub facts: Option<Facts>,
    /// Programs that it fetches again when they are missing.
    pub sidecars: Option<Sidecars>,
}

/// A durable volume, and what is on it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// The mount point: an absolute path.
    pub data_root: PathBuf,
    /// What the contract says about it, or leaves open.
    #[serde(default)]
    pub note: String,
    /// Paths that the system makes again by itself; `--exclude-recoverable` leaves them out.
    #[serde(default)]
    pub recoverable: Vec<String>,
    /// Paths that do not belong to the system and are never captured.
    #[serde(default)]
    pub not_ours: Vec<String>,
    /// What must survive.
    #[serde(default)]
    pub durable: Vec<DurablePath>,
    /// Where the service keeps what must survive, as its variables decide: each must be on the volume.
    #[serde(default)]
    pub locations: Vec<Location>,
}

/// Something in the text of a profile that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Problem {
    /// The line, counted from 1, if there is one.
    pub line: Option<usize>,
    /// What it is.
    pub says: String,
}

impl Problem {
    /// In one line, with the place in front.
    #[must_use]
    pub fn at(&self, path: &Path) -> String {
        match self.line {
            Some(line) => format!("{}:{line}: {}", path.display(), self.says),
            None => format!("{}: {}", path.display(), self.says),
        }
    }
}

impl Profile {
    /// The names of the built-in profiles.
    pub fn names() -> impl Iterator<Item = &'static str> {
        BUILT_IN.iter().map(|(name, _)| *name)
    }

    /// Loads a built-in profile by name, or a file: text with a `/` or that ends in `.toml` is a file. `NAME:SERVICE`
    /// chooses a service of a built-in one, and so does `FILE.toml:SERVICE`.
    ///
    /// # Errors
    /// Usage, when there is no such profile or service, or when the file is none.
    pub fn load(text: &str) -> Result<Self> {
        let (name_or_file, chosen) = split_service(text);
        let mut profile = Self::read(name_or_file)?;
        if let Some(chosen) = chosen {
            profile.service_named(chosen)?;
            profile.chosen = Some(chosen.to_owned());
        }
        Ok(profile)
    }

    fn read(name_or_file: &str) -> Result<Self> {
        if is_file(name_or_file) {
            let text = read_text(Path::new(name_or_file))
                .map_err(|error| Error::usage(format!("cannot read the profile {name_or_file}")).because(error))?;
            return Self::parse(&text, Path::new(name_or_file));
        }
        let Some((name, text)) = BUILT_IN.iter().find(|(name, _)| *name == name_or_file) else {
            let known = Self::names().collect::<Vec<_>>().join(", ");
            return Err(Error::usage(format!("there is no profile `{name_or_file}`; known: {known}"))
                .hint("a profile of your own is named by its file, such as ./mine.toml"));
        };
        Self::parse(text, &Path::new("profiles").join(format!("{name}.toml")))
    }

    /// Reads a profile; `path` is for messages.
    ///
    /// # Errors
    /// Usage, with the line of what is wrong where the format is, and all that makes no sense otherwise.
    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        let profile: Self = toml::from_str(text).map_err(|error| toml_error(&error, text, path))?;
        let problems = validate::problems(&profile).with_lines(text);
        if problems.is_empty() {
            return Ok(profile);
        }
        let shown = problems.into_iter().map(|(line, says)| Problem { line, says }.at(path)).collect::<Vec<_>>();
        Err(Error::usage(shown.join("; ")).hint("`opsctl profile validate FILE` lists them"))
    }

    /// Everything that is wrong with the text of a profile, in order of lines. A text that cannot be read at all has only
    /// the first problem of that kind.
    #[must_use]
    pub fn problems(text: &str) -> Vec<Problem> {
        let mut found: Vec<Problem> = match toml::from_str::<Self>(text) {
            Err(error) => {
                let TomlFault { line, says, hint } = toml_fault(&error, text);
                let hint = hint.map(|hint| format!(" ({hint})")).unwrap_or_default();
                vec![Problem { line: Some(line), says: format!("{says}{hint}") }]
            }
            Ok(profile) => {
                let found = validate::problems(&profile).with_lines(text).into_iter();
                found.map(|(line, says)| Problem { line, says }).collect()
            }
        };
        found.sort_by_key(|problem| problem.line);
        found
    }

    /// The service of this name.
    ///
    /// # Errors
    /// Usage, naming those that there are.
    pub fn service_named(&self, name: &str) -> Result<&Service> {
        self.services.iter().find(|service| service.name == name).ok_or_else(|| {
            Error::usage(format!("the profile {} has no service `{name}`; it has {}", self.name, self.service_names()))
        })
    }

    /// The services that a command is about: the chosen one, or all.
    pub fn chosen_services(&self) -> impl Iterator<Item = &Service> {
        self.services.iter().filter(|service| self.chosen.as_ref().is_none_or(|chosen| *chosen == service.name))
    }

    /// The volume that a command is about: of the chosen service, or of the only one that has any.
    ///
    /// # Errors
    /// Usage, when there is none, or several and none was chosen.
    pub fn volume(&self) -> Result<&Volume> {
        self.volume_service().map(|(_, volume)| volume)
    }

    /// [`Profile::volume`] with its service.
    ///
    /// # Errors
    /// As [`Profile::volume`].
    pub fn volume_service(&self) -> Result<(&Service, &Volume)> {
        let mut with = self.chosen_services().filter_map(|service| Some((service, service.volume.as_ref()?)));
        match (with.next(), with.next()) {
            (Some(one), None) => Ok(one),
            (None, _) => Err(Error::usage(format!("the profile {} has no service with a volume here", self.name))),
            (Some((first, _)), Some(_)) => {
                let hint = format!("choose one: --profile {}:{}", self.name, first.name);
                let names = self.service_names();
                Err(Error::usage(format!("the profile {} has several services: {names}", self.name)).hint(hint))
            }
        }
    }

    /// The folder that a command is about, and what the profile says of it: the one that was named, else the data root.
    ///
    /// # Errors
    /// As [`Profile::volume`]; where a folder was named, only when it could be on several volumes.
    pub fn place(&self, dir: Option<&Path>) -> Result<(PathBuf, Volume)> {
        let volumes = || self.chosen_services().filter_map(|service| service.volume.as_ref());
        let Some(dir) = dir else { return self.volume().map(|volume| (volume.data_root.clone(), volume.clone())) };
        let volume = match volumes().find(|volume| volume.data_root == dir) {
            Some(volume) => volume.clone(),
            None if volumes().next().is_none() => Volume::default(),
            None => self.volume()?.clone(),
        };
        Ok((dir.to_owned(), volume))
    }

    fn service_names(&self) -> String {
        self.services.iter().map(|service| service.name.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// True if a snapshot of this contract version does not work under this profile.
    #[must_use]
    pub fn is_incompatible(&self, contract_version: &str) -> bool {
        let matches = |pattern: &String| match pattern.strip_suffix('*') {
            Some(start) => contract_version.starts_with(start),
            None => pattern == contract_version,
        };
        self.incompatible.iter().any(matches)
    }
}

/// Splits `NAME:SERVICE`. A colon that belongs to a path does not count.
fn split_service(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((name, service)) if !service.contains('/') && !service.ends_with(".toml") => (name, Some(service)),
        _ => (text, None),
    }
}

/// Whether a `--profile` value names a file.
pub(super) fn is_file(name_or_file: &str) -> bool {
    name_or_file.contains('/') || split_service(name_or_file).0.ends_with(".toml")
}

#[cfg(test)]
mod tests;
