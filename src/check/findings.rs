//! What a check found so far.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::Error;
use crate::archive::hash::Hash;
use crate::archive::layout;
use crate::archive::path::EntryPath;
use crate::repository::{FetchError, Snapshot};

use super::Damaged;
use super::inventory::Inventory;

/// Damage by object, and what of it matters to later steps.
#[derive(Debug, Default)]
pub(super) struct Findings {
    damaged: BTreeMap<String, Found>,
    warnings: Vec<String>,
    /// Packs that are missing or damaged as a whole.
    pub bad_packs: HashSet<Hash>,
    /// Chunks that are damaged inside a pack that is what its name says, with that pack.
    pub bad_chunks: HashMap<Hash, Hash>,
    /// Pack lists that cannot be had: nothing more can be said about their snapshots.
    pub bad_lists: HashSet<Hash>,
    /// Receipts of snapshots whose manifest could not be read to the end.
    unreadable: HashSet<String>,
}

#[derive(Debug, Default)]
struct Found {
    /// In the order in which they were found, each with its number.
    reasons: HashMap<String, usize>,
    snapshots: BTreeSet<String>,
    files: BTreeSet<String>,
}

impl Findings {
    /// Notes damage of an object that `snapshots` need. The same object may be named again with more.
    pub(super) fn damage<'a>(
        &mut self,
        object: impl Into<String>,
        reason: impl Into<String>,
        snapshots: impl IntoIterator<Item = &'a str>,
    ) {
        let found = self.damaged.entry(object.into()).or_default();
        let number = found.reasons.len();
        found.reasons.entry(reason.into()).or_insert(number);
        found.snapshots.extend(snapshots.into_iter().map(str::to_owned));
    }

    /// Notes a pack as missing or damaged.
    pub(super) fn pack(&mut self, pack: Hash, reason: impl Into<String>, inventory: &Inventory<'_>) {
        self.bad_packs.insert(pack);
        self.damage(layout::pack(pack), reason, inventory.users(pack));
    }

    /// Notes what a fetch could not use.
    pub(super) fn packs(&mut self, failed: Vec<FetchError>, inventory: &Inventory<'_>) {
        for failure in failed {
            match failure.frame {
                None => self.pack(failure.pack, failure.reason, inventory),
                Some(_) => self.damage(layout::pack(failure.pack), failure.reason, inventory.users(failure.pack)),
            }
        }
    }

    /// Notes that the manifest of `snapshot` could not be read to its end. Only the first reason counts: which of
    /// several damaged nodes is met first is chance.
    pub(super) fn unreadable_manifest(&mut self, snapshot: &Snapshot, error: &Error) {
        let key = snapshot.key();
        if self.unreadable.insert(key.clone()) {
            let reason = format!("its manifest cannot be read to the end: {}", error.full_message());
            self.damage(key, reason, [snapshot.id.as_str()]);
        }
    }

    /// Notes a damaged file of a snapshot.
    pub(super) fn damaged_file(&mut self, snapshot: &Snapshot, path: &EntryPath, reason: &str) {
        let (key, name) = (snapshot.key(), shown(path));
        self.damage(&key, format!("{name}: {reason}"), [snapshot.id.as_str()]);
        self.file(&key, name);
    }

    /// Notes that `snapshot` needs a damaged object.
    pub(super) fn damage_of(&mut self, object: &str, snapshot: &Snapshot) {
        if let Some(found) = self.damaged.get_mut(object) {
            found.snapshots.insert(snapshot.id.to_string());
        }
    }

    /// Notes a file that damage of `object` hurts.
    pub(super) fn file(&mut self, object: &str, file: String) {
        if let Some(found) = self.damaged.get_mut(object) {
            found.files.insert(file);
        }
    }

    pub(super) fn warn(&mut self, warning: impl Into<String>) {
        self.warnings.push(warning.into());
    }

    /// The report's lists.
    pub(super) fn into_parts(self) -> (Vec<Damaged>, Vec<String>) {
        let damaged = self.damaged.into_iter().map(|(object, found)| {
            let mut reasons: Vec<(String, usize)> = found.reasons.into_iter().collect();
            reasons.sort_by_key(|(_, number)| *number);
            let reasons: Vec<String> = reasons.into_iter().map(|(reason, _)| reason).collect();
            Damaged {
                object,
                reason: reasons.join("; "),
                snapshots: found.snapshots.into_iter().collect(),
                files: found.files.into_iter().collect(),
            }
        });
        (damaged.collect(), self.warnings)
    }
}

/// A path as it is shown in a report: no two paths look the same, UTF-8 or not.
pub(super) fn shown(path: &EntryPath) -> String {
    crate::ui::display_path(path.as_bytes())
}
