//! All sources of a target, each item of 1Password read once.
//!
//! Invariants:
//! * Either every source has a value that its variables may have, or there is an error that names all that have none.
//! * A missing item cannot be told from one that may not be seen; it is never taken for one that is to be deleted.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;

use super::value;
use crate::cancel::Cancel;
use crate::config::Environment;
use crate::config::secrets::{Provider, Secrets, Service, Source, Target};
use crate::providers::onepassword::{Item, Listed, OnePassword, Reference, is_id};
use crate::secret::Secret;
use crate::{Error, ExitCode, Result, ui};

/// Items that are read at once.
const AT_ONCE: usize = 4;

/// A value and where it came from.
#[derive(Clone, Debug)]
pub struct Value {
    /// The value.
    pub secret: Secret,
    /// When its item was last edited.
    pub updated: Option<Timestamp>,
    /// Its item and the id of its field.
    pub field: Option<(ItemId, String)>,
}

/// Vault and item, by their ids.
pub type ItemId = (String, String);

/// Every source with its value.
#[derive(Clone, Debug, Default)]
pub struct Resolved {
    /// By source.
    pub values: BTreeMap<Source, Value>,
    /// Every item that was read.
    pub items: BTreeMap<ItemId, Item>,
}

/// Where sources are.
pub struct Sources<'a> {
    /// 1Password; `None` where nothing refers to it.
    pub vaults: Option<&'a OnePassword>,
    /// Variables.
    pub environment: &'a Environment,
    /// What standard input held.
    pub stdin: Option<Secret>,
}

/// The value of every source that `services` name, and of `key`, which reaches no environment and may be anywhere.
///
/// # Errors
/// Naming all sources that have no value, and all values that their variables may not have.
pub async fn resolve(
    target: &Target,
    services: &[&Service],
    key: Option<&Source>,
    sources: &Sources<'_>,
) -> Result<Resolved> {
    let of_services = services.iter().flat_map(|service| service.variables.values()).map(|mapping| &mapping.source);
    let of_services: BTreeSet<&Source> = of_services.collect();
    let wanted: BTreeSet<&Source> = of_services.iter().copied().chain(key).collect();
    let is_bound = |one: &Reference| of_services.iter().any(|source| reference(source) == Some(one));
    let vault = |one: &Reference| target.vault.as_deref().filter(|_| is_bound(one));
    let mut resolved = Resolved::default();
    let mut faults = Vec::new();
    let references: Vec<&Reference> = wanted.iter().filter_map(|source| reference(source)).collect();
    if let Some(vaults) = sources.vaults {
        let places = places(vaults, &vault, &references, &mut faults).await?;
        read(vaults, &places, &mut resolved, &mut faults).await?;
        for (reference, id) in &places {
            if let Some(item) = resolved.items.get(id) {
                match field(vault(reference), reference, item) {
                    Ok(value) => drop(resolved.values.insert(Source::OnePassword((*reference).clone()), value)),
                    Err(error) => faults.push(error),
                }
            }
        }
    }
    for source in wanted {
        let value = match source {
            Source::OnePassword(_) => continue,
            Source::Literal(text) => Ok(Secret::new(text)),
            Source::Variable(name) => variable(sources.environment, name),
            Source::Stdin => sources.stdin.clone().ok_or_else(|| Error::usage("standard input was not read")),
        };
        match value {
            Ok(secret) => drop(resolved.values.insert(source.clone(), Value { secret, updated: None, field: None })),
            Err(error) => faults.push(error),
        }
    }
    faults.extend(refused(services, &resolved));
    all_at_once(faults)?;
    Ok(resolved)
}

/// The value of one field, with the provider of the configuration; without one, with what there is a token for.
///
/// # Errors
/// When there is no such field, or it is empty; when 1Password refuses.
pub async fn fetch(
    reference: &Reference,
    secrets: Option<&Secrets>,
    environment: &Environment,
    cancel: &Cancel,
) -> Result<Secret> {
    let has = |name: &str| environment.get(name).is_some();
    let provider = match secrets.map(|secrets| secrets.provider) {
        Some(provider @ (Provider::Op | Provider::Connect)) => provider,
        _ if has("OP_CONNECT_HOST") && !has("OP_SERVICE_ACCOUNT_TOKEN") => Provider::Connect,
        _ => Provider::Op,
    };
    let vaults = provider_of(provider, environment, cancel).await?;
    let (mut resolved, mut faults) = (Resolved::default(), Vec::new());
    let places = places(&vaults, &|_| None, &[reference], &mut faults).await?;
    read(&vaults, &places, &mut resolved, &mut faults).await?;
    all_at_once(faults)?;
    let item = resolved.items.values().next();
    let item = item.ok_or_else(|| Error::new(ExitCode::NotFound, format!("{reference}: there is no such item")))?;
    let value = field(None, reference, item)?.secret;
    match value.expose().is_empty() {
        true => Err(Error::new(ExitCode::NotFound, format!("{reference}: the field is empty"))),
        false => Ok(value),
    }
}

const fn reference(source: &Source) -> Option<&Reference> {
    match source {
        Source::OnePassword(reference) => Some(reference),
        _ => None,
    }
}

/// The ids behind each reference. A vault is listed once if any of its items is named, or the vault itself, or the one that
/// everything has to come from: whether a name and an id are the same vault, only a list tells.
async fn places<'r>(
    vaults: &OnePassword,
    bound: &dyn for<'x> Fn(&'x Reference) -> Option<&'r str>,
    references: &[&'r Reference],
    faults: &mut Vec<Error>,
) -> Result<Vec<(&'r Reference, ItemId)>> {
    let mut by_vault: BTreeMap<String, Vec<&Reference>> = BTreeMap::new();
    for reference in references {
        by_vault.entry(reference.vault.to_lowercase()).or_default().push(reference);
    }
    let mut places = Vec::new();
    for references in by_vault.into_values() {
        let Some(vault) = references.first().map(|reference| reference.vault.as_str()) else { continue };
        let name = references.iter().find_map(|reference| bound(reference)).filter(|name| is_id(vault) && !is_id(name));
        if name.is_none() && is_id(vault) && references.iter().all(|reference| is_id(&reference.item)) {
            places.extend(references.into_iter().map(|one| (one, (one.vault.clone(), one.item.clone()))));
            continue;
        }
        let listed = match vaults.list(name.unwrap_or(vault)).await {
            Ok(listed) => listed,
            Err(error) if is_final(&error) => return Err(error),
            Err(error) => {
                faults.push(error);
                continue;
            }
        };
        for reference in references {
            match named(reference, &listed) {
                Ok(item) if name.is_some() && item.vault.id != reference.vault => {
                    faults.push(elsewhere(reference, name.unwrap_or_default()));
                }
                Ok(item) => places.push((reference, (item.vault.id.clone(), item.id.clone()))),
                Err(error) => faults.push(error),
            }
        }
    }
    Ok(places)
}

fn named<'l>(reference: &Reference, listed: &'l [Listed]) -> Result<&'l Listed> {
    if let Some(item) = listed.iter().find(|item| item.id == reference.item) {
        return Ok(item);
    }
    let name = reference.item.to_lowercase();
    let found: Vec<&Listed> = listed.iter().filter(|item| item.title.to_lowercase() == name).collect();
    match found.as_slice() {
        [item] => Ok(item),
        [] => Err(Error::new(ExitCode::NotFound, format!("{reference}: there is no such item, or it may not be seen"))
            .hint("look at the vault in 1Password, and at what the service account was granted")),
        several => {
            let ids: Vec<&str> = several.iter().map(|item| item.id.as_str()).collect();
            Err(Error::usage(format!("{reference}: several items have this title: {}", ids.join(", ")))
                .hint("put the id of the one that is meant in the place of the title"))
        }
    }
}

fn elsewhere(reference: &Reference, vault: &str) -> Error {
    Error::usage(format!("{reference}: the item is not in the vault `{}` of the target", ui::escape(vault)))
}

async fn read(
    vaults: &OnePassword,
    places: &[(&Reference, ItemId)],
    resolved: &mut Resolved,
    faults: &mut Vec<Error>,
) -> Result<()> {
    let ids: BTreeSet<&ItemId> = places.iter().map(|(_, id)| id).collect();
    let work = ids.into_iter().map(async |id| match vaults.get(&id.0, &id.1).await {
        Err(error) if is_final(&error) => Err(error),
        result => Ok((id.clone(), result)),
    });
    let read: Vec<(ItemId, Result<Item>)> = futures::stream::iter(work).buffered(AT_ONCE).try_collect().await?;
    for (id, item) in read {
        match item {
            Ok(item) => drop(resolved.items.insert(id, item)),
            Err(error) => faults.push(error),
        }
    }
    Ok(())
}

/// Whether every further question would be answered in the same way.
const fn is_final(error: &Error) -> bool {
    !matches!(error.code(), ExitCode::NotFound | ExitCode::Usage)
}

fn field(vault: Option<&str>, reference: &Reference, item: &Item) -> Result<Value> {
    if let Some(vault) = vault {
        // Between an id and a name the list of the vault has decided.
        let is_decided = reference.vault.eq_ignore_ascii_case(vault) || is_id(&reference.vault) && !is_id(vault);
        if !is_decided && item.vault.id != vault {
            return Err(elsewhere(reference, vault));
        }
    }
    let field = item.field(reference.section.as_deref(), &reference.field).map_err(|error| {
        let hint = error.hint_text().unwrap_or("look at the item in 1Password").to_owned();
        Error::new(error.code(), format!("{reference}: {}", error.full_message())).hint(hint)
    })?;
    Ok(Value {
        // An empty field has no value in the answer.
        secret: field.value.clone().unwrap_or_else(|| Secret::new("")).hidden(),
        updated: item.updated,
        field: Some(((item.vault.id.clone(), item.id.clone()), field.id.clone())),
    })
}

fn variable(environment: &Environment, name: &str) -> Result<Secret> {
    use secrecy::ExposeSecret as _;
    let value = environment.secret(name)?;
    let missing = || {
        Error::new(ExitCode::NotFound, format!("env://{name}: the variable is not set"))
            .hint("set it for this one command, out of the keeping of a secret manager")
    };
    Ok(Secret::new(value.ok_or_else(missing)?.expose_secret()).hidden())
}

/// Values that a variable may not have.
fn refused(services: &[&Service], resolved: &Resolved) -> Vec<Error> {
    let mut faults = Vec::new();
    for service in services {
        for (name, mapping) in &service.variables {
            let value = resolved.values.get(&mapping.source).map(|value| value.secret.expose());
            if let Some(why) = value.and_then(|value| value::fault(value, &mapping.allow)) {
                let message = format!("{} of `{}` ({}) {why}", name, service.name, mapping.source);
                faults.push(Error::usage(message).hint("correct it where it is kept; nothing was written"));
            }
        }
    }
    faults
}

/// One error for all: with the code and the hint of the first.
fn all_at_once(faults: Vec<Error>) -> Result<()> {
    let mut faults = faults.into_iter();
    let Some(first) = faults.next() else { return Ok(()) };
    let mut message = first.full_message();
    for fault in faults {
        message.push_str("; ");
        message.push_str(&fault.full_message());
    }
    Err(Error::new(first.code(), message).hint(first.hint_text().unwrap_or("nothing was written").to_owned()))
}

/// 1Password by the provider of the configuration.
///
/// # Errors
/// Usage or denied, when it is not set up; not found without the `op` command.
pub async fn provider_of(provider: Provider, environment: &Environment, cancel: &Cancel) -> Result<OnePassword> {
    match provider {
        Provider::Op => OnePassword::command(environment, cancel).await,
        Provider::Connect => OnePassword::connect(environment),
        Provider::Env => Err(Error::usage("op:// cannot be resolved with provider = \"env\"")),
    }
}
