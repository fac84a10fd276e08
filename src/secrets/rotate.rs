//! Gives secrets new values, everywhere, and proves it.
//!
//! ```text
//! new value and the old one into one new version of the item → services → deployments → proof → the old one out of the item
//! ```
//! The old value stays in the item, in a field of its own, from the first edit to the last. So the item itself tells that a
//! rotation is open, and how far it is: a run that was stopped anywhere, on any machine, is taken up by the next one, and no
//! value is ever kept anywhere else.
//!
//! | the item has | then |
//! |---|---|
//! | no old value | nothing is open: a new value is made |
//! | an old value, another than the current one | the rotation is open: services, proof, and out with the old one |
//! | an old value, the same as the current one | a rollback is open: services, proof, and out with it. The value that failed is gone |

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::generate::generate;
use super::verify::PATIENCE;
use super::work::Work;
use crate::config::profile::Profile;
use crate::config::secrets::{Allow, Generate, Secrets, Service, Source, Target};
use crate::finding::Finding;
use crate::providers::address::Address;
use crate::providers::onepassword::{Edit, Field, Item, Reference};
use crate::secret::Secret;
use crate::verify::credential::{self, Door};
use crate::{Error, ExitCode, Result, ui};

/// How the names of checks end: the new value is let in, the old one is not.
const WORKS: &str = ".works";
const REFUSED: &str = ".old-refused";
/// How the label of a field ends that keeps an old value.
const KEPT: &str = "kept by opsctl while it is rotated";
/// Between two questions to a service whose old deployment may still answer.
const EVERY: Duration = Duration::from_millis(500);

/// Which references are rotated, and how their new values are made.
#[derive(Clone, Debug)]
pub struct Selection {
    /// How new values are made.
    pub sources: BTreeMap<Source, Generate>,
    /// Every service of the target, with nothing but the variables that get one of them.
    pub services: Vec<Service>,
}

/// What is rotated when these variables are.
///
/// # Errors
/// Usage, when a name is not mapped, has no `generate`, or reaches services that were not asked for.
pub fn select(secrets: &Secrets, target: &Target, names: &[String], only: &[String]) -> Result<Selection> {
    let mut sources = BTreeMap::new();
    for name in names {
        let mut found = false;
        for service in &target.services {
            let Some(mapping) = service.variables.get(name) else { continue };
            found = true;
            let generate = generate_of(target, &mapping.source).ok_or_else(|| {
                Error::usage(format!("{name} of `{}` has no `generate` in the configuration", service.name))
                    .hint("add generate = { length = 48, alphabet = \"base62\" }, or edit it in 1Password and sync")
            })?;
            sources.insert(mapping.source.clone(), generate?);
        }
        if !found {
            return Err(Error::usage(format!("no service of `{}` maps {}", target.name, ui::escape(name))));
        }
    }
    // What it needs besides a new value is decided by the rules for generated ones.
    let all = [Allow::Multiline, Allow::Cr, Allow::Bom, Allow::Spaces, Allow::Empty, Allow::Reference];
    let mut services = target.services.clone();
    for service in &mut services {
        service.variables.retain(|_, mapping| sources.contains_key(&mapping.source));
        service.variables.values_mut().for_each(|mapping| mapping.allow.extend(all));
        if !service.variables.is_empty() && !only.is_empty() && !only.contains(&service.name) {
            let message =
                format!("the service `{}` has the same secret, and would be left with the old one", service.name);
            return Err(Error::usage(message).hint(format!("name it too: --service {}", service.name)));
        }
    }
    for other in secrets.targets.iter().filter(|other| other.name != target.name) {
        let mappings = other.services.iter().flat_map(|service| &service.variables);
        for (name, _) in mappings.filter(|(_, mapping)| sources.contains_key(&mapping.source)) {
            ui::warn(format!("{name} of the target `{}` has the same secret: sync that target afterwards", other.name));
        }
    }
    Ok(Selection { sources, services })
}

/// How the new value of a source is made, by any of its mappings; they must agree.
fn generate_of(target: &Target, source: &Source) -> Option<Result<Generate>> {
    let mappings = target.services.iter().flat_map(|service| service.variables.values());
    let mut all = mappings.filter(|mapping| mapping.source == *source).filter_map(|mapping| mapping.generate);
    let first = all.next()?;
    Some(match all.all(|other| other == first) {
        true => Ok(first),
        false => Err(Error::usage(format!("{source} is generated in different ways")).hint("make them the same")),
    })
}

/// One secret on its way.
#[derive(Clone, Debug)]
pub struct Turn {
    /// Where it is kept.
    pub source: Source,
    /// The variables that get it: (service, variable).
    pub variables: Vec<(String, String)>,
    /// The value that services shall have at the end. `None`: it is still to be made.
    pub new: Option<Secret>,
    /// The value that shall be worth nothing at the end; `None` if the field was empty.
    pub old: Option<Secret>,
    /// Whether an earlier run began it.
    pub is_open: bool,
    /// Whether the old value is put back.
    pub is_back: bool,
}

impl Turn {
    /// The way back; `None` where there was no old value.
    #[must_use]
    pub fn reversed(&self) -> Option<Self> {
        let old = self.old.clone()?;
        Some(Self { new: Some(old), old: self.new.clone(), is_back: true, ..self.clone() })
    }
}

/// What there is to do, and what has to wait: an open rotation is brought to its end before another one begins, and so is
/// what a run was stopped in the midst of. With `rollback`, what is open is put back.
///
/// # Errors
/// Usage, when a field is referred to in several ways; when a source has no field.
pub fn turns(work: &Work<'_>, selection: &Selection, rollback: bool) -> Result<(Vec<Turn>, Vec<Turn>)> {
    check_names(work, selection)?;
    let turns = selection.sources.keys().map(|source| turn(work, selection, source, rollback));
    let turns = turns.collect::<Result<Vec<Turn>>>()?;
    let is_any_open = turns.iter().any(|turn| turn.is_open);
    Ok(turns.into_iter().partition(|turn| turn.is_open || !is_any_open))
}

fn turn(work: &Work<'_>, selection: &Selection, source: &Source, rollback: bool) -> Result<Turn> {
    let (item, field) = place(work, source)?;
    let value = field.value.clone().filter(|value| !value.expose().is_empty());
    let kept = previous(item, field).and_then(|field| field.value.clone());
    let of = |service: &Service| {
        let mine = service.variables.iter().filter(|(_, mapping)| mapping.source == *source);
        mine.map(|(name, _)| (service.name.clone(), name.clone())).collect::<Vec<_>>()
    };
    let is_back = kept.is_some() && (rollback || kept == value);
    let (new, old) = match &kept {
        None => (None, value),
        Some(kept) if is_back => (Some(kept.clone()), value.filter(|value| value != kept)),
        Some(kept) => (value, Some(kept.clone())),
    };
    Ok(Turn {
        source: source.clone(),
        variables: selection.services.iter().flat_map(of).collect(),
        new: new.map(Secret::hidden),
        old: old.map(Secret::hidden),
        is_open: kept.is_some(),
        is_back,
    })
}

/// Makes what is missing, and puts it into 1Password beside the old value; one edit for each item.
///
/// # Errors
/// Usage, where an item holds what an edit would destroy; busy, where somebody edits it at the same time.
pub async fn store(work: &mut Work<'_>, selection: &Selection, turns: &mut [Turn]) -> Result<()> {
    let mut edits: BTreeMap<_, Vec<Edit>> = BTreeMap::new();
    for turn in turns.iter_mut() {
        let (item, field) = place(work, &turn.source)?;
        let id = (item.vault.id.clone(), item.id.clone());
        let mut of_item = Vec::new();
        if turn.new.is_none() {
            let wanted = selection.sources.get(&turn.source).copied();
            let wanted = wanted.ok_or_else(|| Error::usage(format!("{} has no `generate`", turn.source)))?;
            let new = generate(wanted)?.hidden();
            of_item.push(Edit::Set { field: field.id.clone(), value: new.clone() });
            let label = previous_label(field);
            of_item.extend(turn.old.clone().map(|value| Edit::Add { label, value }));
            turn.new = Some(new);
        } else if turn.is_back && turn.new != field.value {
            of_item.extend(turn.new.clone().map(|value| Edit::Set { field: field.id.clone(), value }));
        }
        if !of_item.is_empty() {
            edits.entry(id).or_default().extend(of_item);
        }
    }
    edit(work, edits).await?;
    for turn in turns {
        let updated = place(work, &turn.source)?.0.updated;
        if let (Some(value), Some(new)) = (work.resolved.values.get_mut(&turn.source), &turn.new) {
            value.secret = new.clone();
            value.updated = updated;
        }
    }
    Ok(())
}

/// Takes the old values out of 1Password: the rotation is over. That somebody else has done so is as well.
///
/// # Errors
/// As [`store`].
pub async fn close(work: &mut Work<'_>, turns: &[Turn]) -> Result<()> {
    let mut edits: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
    for turn in turns {
        let (item, field) = place(work, &turn.source)?;
        let kept = item.fields.iter().filter(|one| is_previous(one, field)).map(|one| one.id.clone());
        edits.entry((item.vault.id.clone(), item.id.clone())).or_default().extend(kept);
    }
    for (id, fields) in edits.into_iter().filter(|(_, fields)| !fields.is_empty()) {
        let removals = fields.into_iter().map(|field| Edit::Remove { field }).collect();
        let Err(error) = edit(work, [(id.clone(), removals)].into()).await else { continue };
        let Some(vaults) = &work.vaults else { return Err(error) };
        let Ok(now) = vaults.get(&id.0, &id.1).await else { return Err(error) };
        work.resolved.items.insert(id.clone(), now);
        let is_of_item = |turn: &&Turn| {
            work.resolved
                .values
                .get(&turn.source)
                .is_some_and(|value| value.field.as_ref().is_some_and(|(item, _)| *item == id))
        };
        if !turns.iter().filter(is_of_item).all(|turn| is_closed(work, turn)) {
            return Err(error);
        }
    }
    Ok(())
}

/// Whether the item has the value of the turn and no other.
fn is_closed(work: &Work<'_>, turn: &Turn) -> bool {
    place(work, &turn.source)
        .is_ok_and(|(item, field)| field.value == turn.new && !item.fields.iter().any(|one| is_previous(one, field)))
}

async fn edit(work: &mut Work<'_>, edits: BTreeMap<(String, String), Vec<Edit>>) -> Result<()> {
    let Some(vaults) = &work.vaults else { return Ok(()) };
    for (id, edits) in edits {
        if let Some(item) = work.resolved.items.get(&id) {
            ui::say(format!("1Password: a new version of the item `{}`", item.title));
            let edited = vaults.edit(item, &edits).await?;
            work.resolved.items.insert(id, edited);
        }
    }
    Ok(())
}

/// The item and the field of a source.
fn place<'w>(work: &'w Work<'_>, source: &Source) -> Result<(&'w Item, &'w Field)> {
    let known = work.resolved.values.get(source).and_then(|value| value.field.as_ref());
    let found = known.and_then(|(item, field)| {
        let item = work.resolved.items.get(item)?;
        Some((item, item.fields.iter().find(|one| one.id == *field)?))
    });
    found.ok_or_else(|| Error::new(ExitCode::NotFound, format!("{source} is no field of an item of 1Password")))
}

/// The label of the field that keeps the old value of another one. The id is in it: several fields may have one label.
fn previous_label(field: &Field) -> String {
    format!("old value of {} ({}), {KEPT}", field.label, field.id)
}

fn previous<'i>(item: &'i Item, field: &Field) -> Option<&'i Field> {
    item.fields.iter().find(|one| is_previous(one, field))
}

/// By the id of the field: its label may change while a rotation is open.
fn is_previous(one: &Field, field: &Field) -> bool {
    one.label.ends_with(&format!("({}), {KEPT}", field.id))
}

/// Refuses what would leave a service behind: a variable that refers to the same field in another way.
fn check_names(work: &Work<'_>, selection: &Selection) -> Result<()> {
    for service in &work.target.services {
        for (name, mapping) in &service.variables {
            let Source::OnePassword(other) = &mapping.source else { continue };
            for source in selection.sources.keys().filter(|source| **source != mapping.source) {
                if is_same_field(work, source, other)? {
                    let message =
                        format!("{name} of `{}` is the same field as {source}, and is written {other}", service.name);
                    return Err(
                        Error::usage(message).hint("write both in the same way, so that both get the new value")
                    );
                }
            }
        }
    }
    Ok(())
}

fn is_same_field(work: &Work<'_>, source: &Source, other: &Reference) -> Result<bool> {
    let Source::OnePassword(reference) = source else { return Ok(false) };
    let (item, field) = place(work, source)?;
    let is = |text: &str, names: &[&String]| names.iter().any(|name| name.eq_ignore_ascii_case(text));
    let is_item = is(&other.vault, &[&reference.vault, &item.vault.id, &item.vault.name])
        && is(&other.item, &[&reference.item, &item.id, &item.title]);
    let found = item.field(other.section.as_deref(), &other.field);
    Ok(is_item && found.is_ok_and(|found| found.id == field.id))
}

/// What a proof can be about: the variables of a turn that are tokens of the profile's identities.
#[must_use]
pub fn provable(profile: &Profile, turn: &Turn) -> bool {
    let names: BTreeSet<&String> = turn.variables.iter().map(|(_, name)| name).collect();
    let mut services = profile.chosen_services();
    services.any(|service| names.iter().any(|name| credential::identities(service, name).next().is_some()))
}

/// Whether these findings prove a turn: the new value works, and the old one, if there was any, does not.
#[must_use]
pub fn proves(turn: &Turn, findings: &[Finding]) -> bool {
    let has = |end: &str| findings.iter().any(|finding| finding.name.ends_with(end));
    let is_well = findings.iter().all(|finding| finding.fix.is_none());
    // The other value of a rollback that was taken up again is not known any more.
    let is_whole = has(REFUSED) || (turn.old.is_none() && !turn.is_open);
    is_well && has(WORKS) && is_whole
}

/// Asks the service until the new values are let in and the old ones are refused, at most until `timeout`: an old deployment
/// may answer for a while. What was found for each turn.
///
/// # Errors
/// When the service cannot be asked at all.
pub async fn prove(
    profile: &Profile,
    turns: &[Turn],
    address: &Address,
    timeout: Duration,
) -> Result<Vec<Vec<Finding>>> {
    let until = Instant::now() + timeout;
    loop {
        let mut findings = Vec::new();
        for turn in turns {
            findings.push(prove_one(profile, turn, address).await?);
        }
        let is_well = findings.iter().flatten().all(|finding| finding.fix.is_none());
        if is_well || Instant::now() + EVERY >= until {
            return Ok(findings);
        }
        tokio::time::sleep(EVERY).await;
    }
}

async fn prove_one(profile: &Profile, turn: &Turn, address: &Address) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let names: BTreeSet<&String> = turn.variables.iter().map(|(_, name)| name).collect();
    for contract in profile.chosen_services() {
        for (name, identity) in
            names.iter().flat_map(|name| credential::identities(contract, name).map(move |one| (name, one)))
        {
            let (works, refused) = (format!("{name}{WORKS}"), format!("{name}{REFUSED}"));
            if let Some(new) = &turn.new {
                findings.push(match credential::ask(contract, identity, address, new, PATIENCE).await? {
                    Door::Open => Finding::ok(&works, format!("`{}` is let in", identity.name)),
                    Door::Closed => Finding::failed(&works, "the value is refused", "does the service run with it?"),
                    Door::Unclear(why) => Finding::failed(&works, why, "is this the service, and is it up?"),
                });
            }
            if let Some(old) = turn.old.as_ref().filter(|old| Some(*old) != turn.new.as_ref()) {
                findings.push(match credential::ask(contract, identity, address, old, PATIENCE).await? {
                    Door::Closed => Finding::ok(&refused, "the old value is refused"),
                    Door::Open => {
                        Finding::failed(&refused, "the old value is still let in", "what still runs with it?")
                    }
                    Door::Unclear(why) => Finding::failed(&refused, why, "is this the service, and is it up?"),
                });
            }
        }
    }
    Ok(findings)
}
