//! `[secrets]` of the configuration file: which variable of which service has its value from where.
//!
//! Invariants:
//! * No secret value stands in the file, and no message repeats what stands in the place of one.
//! * A target that names a vault takes nothing from anywhere else: a value of staging cannot reach production.
//! * What Railway sets itself (`RAILWAY_…`) is never written.

mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Deserialize;

use super::parse_source;
use crate::providers::onepassword::{Reference, is_id};
use crate::{Error, Result, ui};
pub use table::SecretsTable;
use table::{Entry, EntryTable, GenerateTable, ServiceTable, TargetTable};

/// A generated value that is easier to guess than this is refused.
const MIN_BITS: f64 = 128.0;
/// A longer one is no token.
const MAX_LENGTH: usize = 1024;

/// The secrets of all targets.
#[derive(Clone, Debug)]
pub struct Secrets {
    /// Who resolves `op://`.
    pub provider: Provider,
    /// The key of fingerprints. `None`: a new one each run.
    pub fingerprint_key: Option<Source>,
    /// Where secrets go.
    pub targets: Vec<Target>,
}

/// Who resolves `op://` references.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// The `op` command with a service account.
    #[default]
    Op,
    /// A 1Password Connect server.
    Connect,
    /// Nobody: every value comes from a variable or standard input.
    Env,
}

impl Provider {
    /// As the file has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Op => "op",
            Self::Connect => "connect",
            Self::Env => "env",
        }
    }
}

/// An environment of a Railway project.
#[derive(Clone, Debug)]
pub struct Target {
    /// What people call it here.
    pub name: String,
    /// Railway's id of the project.
    pub project: String,
    /// Railway's id of the environment.
    pub environment: String,
    /// The only vault that values may come from: its name or id.
    pub vault: Option<String>,
    /// Whether a person has to type its name before anything is written.
    pub production: bool,
    /// Its services; one at most has no id, the shared variables.
    pub services: Vec<Service>,
}

/// A service of a target.
#[derive(Clone, Debug)]
pub struct Service {
    /// What people call it here.
    pub name: String,
    /// Railway's id. `None`: the shared variables of the environment.
    pub id: Option<String>,
    /// What each variable gets.
    pub variables: BTreeMap<String, Mapping>,
}

/// What a variable gets.
#[derive(Clone, Debug)]
pub struct Mapping {
    /// Where its value is.
    pub source: Source,
    /// What the value may be in spite of the rules.
    pub allow: BTreeSet<Allow>,
    /// How a new value is made, if `rotate` may.
    pub generate: Option<Generate>,
}

/// Where a value is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// In the file itself: no secret.
    Literal(String),
    /// In 1Password.
    OnePassword(Reference),
    /// In this variable of opsctl's own environment.
    Variable(String),
    /// All of standard input.
    Stdin,
}

/// Something that a value may not be unless it is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Allow {
    /// Line feeds, also at the end.
    Multiline,
    /// Carriage returns.
    Cr,
    /// A byte order mark, or a character without width.
    Bom,
    /// Spaces or tabs at the beginning or the end.
    Spaces,
    /// Nothing at all.
    Empty,
    /// `${{…}}`, which Railway replaces by something else.
    Reference,
}

/// How a new value is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generate {
    /// Characters.
    pub length: usize,
    /// Out of these.
    pub alphabet: Alphabet,
}

/// The characters of a generated value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Alphabet {
    /// `0-9 A-Z a-z`.
    #[default]
    Base62,
    /// `0-9 a-f`.
    Hex,
    /// `0-9 A-Z a-z - _`.
    Base64url,
}

impl Alphabet {
    /// Its characters.
    #[must_use]
    pub const fn characters(self) -> &'static [u8] {
        match self {
            Self::Base62 => b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz",
            Self::Hex => b"0123456789abcdef",
            Self::Base64url => b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_",
        }
    }
}

impl Source {
    /// Whether the value is one to keep secret.
    #[must_use]
    pub const fn is_secret(&self) -> bool {
        !matches!(self, Self::Literal(_))
    }

    /// Reads a reference. The text is not repeated: it may be the value that belongs behind one.
    fn parse(text: &str) -> Result<Self, String> {
        if let Some(name) = text.strip_prefix("env://") {
            return match is_variable(name) {
                true => Ok(Self::Variable(name.to_owned())),
                false => Err("env:// takes the name of a variable, such as env://OPENWORK_TOKEN".to_owned()),
            };
        }
        if text == "stdin://" {
            return Ok(Self::Stdin);
        }
        if !text.starts_with("op://") {
            return Err("is no reference: op://vault/item/field, env://NAME or stdin:// \
                        (what is not secret goes into { value = … })"
                .to_owned());
        }
        let reference = Reference::parse(text).and_then(Reference::to_value);
        reference.map(Self::OnePassword).map_err(|bad| format!("the reference cannot be used: {bad}"))
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Literal(_) => f.write_str("the configuration file"),
            Self::OnePassword(reference) => write!(f, "{reference}"),
            Self::Variable(name) => write!(f, "env://{name}"),
            Self::Stdin => f.write_str("stdin://"),
        }
    }
}

/// Whether a name can be that of an environment variable.
#[must_use]
pub fn is_variable(name: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    !name.is_empty() && name.bytes().all(is_word) && !name.starts_with(|first: char| first.is_ascii_digit())
}

impl Secrets {
    /// Checks what the file says.
    ///
    /// # Errors
    /// Usage, naming target, service and variable.
    pub(super) fn new(table: &SecretsTable) -> Result<Self> {
        let provider = table.provider;
        let key = table.fingerprint_key.as_deref().map(|text| source(text, provider, None));
        let fingerprint_key = key.transpose().map_err(|why| refuse("fingerprint_key", &why))?;
        let mut names = BTreeSet::new();
        let mut targets = Vec::new();
        for target in table.targets.clone() {
            let place = format!("the target `{}`", ui::escape(&target.name));
            if !names.insert(target.name.clone()) {
                return Err(refuse(&place, "there are two of this name"));
            }
            targets.push(check_target(target, provider, &place)?);
        }
        Ok(Self { provider, fingerprint_key, targets })
    }
}

fn check_target(table: TargetTable, provider: Provider, place: &str) -> Result<Target> {
    parse_source(&table.name).map_err(|why| refuse(place, &format!("its name {why}")))?;
    for (what, id) in [("project", &table.project), ("environment", &table.environment)] {
        check_id(id).map_err(|why| refuse(place, &format!("`{what}` {why}")))?;
    }
    let (mut names, mut ids) = (BTreeSet::new(), BTreeSet::new());
    let mut services = Vec::new();
    for service in table.services {
        let place = format!("{place}, service `{}`", ui::escape(&service.name));
        if !names.insert(service.name.clone()) {
            return Err(refuse(&place, "there are two of this name"));
        }
        if !ids.insert(service.service.clone()) {
            return Err(refuse(&place, "another one has the same `service`, or none either: put them together"));
        }
        services.push(check_service(service, provider, table.vault.as_deref(), &place)?);
    }
    let TargetTable { name, project, environment, vault, production, .. } = table;
    Ok(Target { name, project, environment, vault, production, services })
}

fn check_service(table: ServiceTable, provider: Provider, vault: Option<&str>, place: &str) -> Result<Service> {
    parse_source(&table.name).map_err(|why| refuse(place, &format!("its name {why}")))?;
    if let Some(id) = &table.service {
        check_id(id).map_err(|why| refuse(place, &format!("`service` {why}")))?;
    }
    let mut variables = BTreeMap::new();
    for (name, entry) in table.variables {
        let place = format!("{place}, {}", ui::escape(&name));
        if !is_variable(&name) {
            return Err(refuse(&place, "this is no name of a variable"));
        }
        if name.starts_with("RAILWAY_") {
            return Err(refuse(&place, "Railway sets what begins with RAILWAY_ itself: leave it out"));
        }
        let mapping = check_entry(entry, provider, vault).map_err(|why| refuse(&place, &why))?;
        variables.insert(name, mapping);
    }
    Ok(Service { name: table.name, id: table.service, variables })
}

fn check_entry(entry: Entry, provider: Provider, vault: Option<&str>) -> Result<Mapping, String> {
    let EntryTable { reference, value, multiline, allow, generate } = match entry {
        Entry::Table(table) => table,
        Entry::Reference(reference) => {
            EntryTable { reference: Some(reference), value: None, multiline: false, allow: Vec::new(), generate: None }
        }
    };
    let source = match (reference, value) {
        (Some(reference), None) => source(&reference, provider, vault)?,
        (None, Some(value)) => Source::Literal(value),
        _ => return Err("needs either `ref` or `value`".to_owned()),
    };
    let multiline = multiline.then_some(Allow::Multiline);
    let generate = generate.map(check_generate).transpose()?;
    if generate.is_some() && !matches!(source, Source::OnePassword(_)) {
        return Err("`generate` needs a reference to 1Password: that is where a new value is kept".to_owned());
    }
    Ok(Mapping { source, allow: allow.into_iter().chain(multiline).collect(), generate })
}

fn source(text: &str, provider: Provider, vault: Option<&str>) -> Result<Source, String> {
    let source = Source::parse(text)?;
    match (&source, vault) {
        (Source::OnePassword(_), _) if provider == Provider::Env => {
            Err("op:// cannot be resolved with provider = \"env\"".to_owned())
        }
        // A name cannot be compared with an id: that is done when the item was read.
        (Source::OnePassword(reference), Some(vault)) => {
            let is_same = reference.vault.eq_ignore_ascii_case(vault) || is_id(&reference.vault) != is_id(vault);
            if is_same { Ok(source) } else { Err(format!("refers to another vault than `{}`", ui::escape(vault))) }
        }
        (Source::Variable(_) | Source::Stdin, Some(_)) => {
            Err("does not come from the vault of the target: leave `vault` out, or refer to the vault".to_owned())
        }
        _ => Ok(source),
    }
}

fn check_generate(table: GenerateTable) -> Result<Generate, String> {
    let GenerateTable { length, alphabet } = table;
    let characters = u32::try_from(alphabet.characters().len()).unwrap_or(u32::MAX);
    let bits = f64::from(u32::try_from(length).unwrap_or(u32::MAX)) * f64::from(characters).log2();
    if length > MAX_LENGTH {
        return Err(format!("`generate.length` is more than {MAX_LENGTH}"));
    }
    if bits < MIN_BITS {
        let least = (MIN_BITS / f64::from(characters).log2()).ceil();
        return Err(format!("`generate.length` is too short to be safe: at least {least} for this alphabet"));
    }
    Ok(Generate { length, alphabet })
}

/// Ids of Railway are UUIDs; that they are is Railway's matter, not ours.
fn check_id(id: &str) -> Result<(), String> {
    let is_plain = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    if is_plain { Ok(()) } else { Err("is no id of Railway: it stands in the URL of the dashboard".to_owned()) }
}

fn refuse(place: &str, why: &str) -> Error {
    Error::usage(format!("[secrets]: {place}: {why}"))
}

#[cfg(test)]
mod tests;
