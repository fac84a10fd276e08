//! Level `list`: what the store should hold by its receipts, against one LIST of what it does hold.

use std::collections::{BTreeMap, HashMap};

use crate::archive::hash::Hash;
use crate::archive::layout;
use crate::archive::packlist::PackLine;
use crate::archive::receipt::SnapshotId;
use crate::repository::{Listing, Problem, Repository, Snapshot, Which, choose};
use crate::{ExitCode, Result};

use super::findings::Findings;

/// What is to be checked.
#[derive(Debug, Default)]
pub(super) struct Inventory<'a> {
    /// The snapshots that may be believed.
    pub snapshots: Vec<&'a Snapshot>,
    /// Objects looked at.
    pub objects: u64,
    /// Every pack that is needed, with the indices of the snapshots that need it.
    packs: BTreeMap<Hash, (PackLine, Vec<usize>)>,
}

impl<'a> Inventory<'a> {
    /// Reads the pack lists of the snapshots and compares what they name with what is there.
    pub(super) async fn take(
        repository: &Repository,
        listing: &'a Listing,
        ids: &[String],
        findings: &mut Findings,
    ) -> Result<Self> {
        let mut inventory = Self::default();
        let present: HashMap<String, u64> =
            repository.store().list("").await?.into_iter().map(|object| (object.key, object.size)).collect();
        inventory.store_itself(repository, &present, findings);
        if ids.is_empty() {
            inventory.all(listing, findings);
        } else {
            inventory.named(listing, ids, findings)?;
        }
        // Receipt and signature.
        inventory.objects += 2 * inventory.snapshots.len() as u64;
        inventory.read_pack_lists(repository, findings).await?;
        inventory.compare_packs(&present, findings);
        Ok(inventory)
    }

    /// The ids of the snapshots that need `pack`.
    pub(super) fn users(&self, pack: Hash) -> impl Iterator<Item = &str> {
        let users = self.packs.get(&pack).map(|(_, users)| users.as_slice()).unwrap_or_default();
        users.iter().map(|at| self.snapshots[*at].id.as_str())
    }

    /// The snapshots whose pack list could be read.
    pub(super) fn readable(&self, findings: &Findings) -> Vec<&'a Snapshot> {
        self.snapshots.iter().copied().filter(|s| !findings.bad_lists.contains(&s.receipt.pack_list)).collect()
    }

    /// The needed packs that are not known to be damaged.
    pub(super) fn intact_packs<'s>(&'s self, findings: &'s Findings) -> impl Iterator<Item = PackLine> + 's {
        self.packs.values().map(|(line, _)| *line).filter(|line| !findings.bad_packs.contains(&line.pack))
    }

    fn store_itself(&mut self, repository: &Repository, present: &HashMap<String, u64>, findings: &mut Findings) {
        let keys_folder = format!("{}/", layout::KEYS);
        self.objects += 1 + present.keys().filter(|key| key.starts_with(&keys_folder)).count() as u64;
        if let Some(reason) = repository.descriptor_problem() {
            findings.damage(layout::DESCRIPTOR, reason, []);
        }
        for (key, reason) in repository.rejected_keys() {
            findings.damage(key, reason, []);
        }
        if repository.keys().is_none() {
            findings.damage(keys_folder, "it holds no keys object that a trusted signer signed", []);
        }
    }

    fn all(&mut self, listing: &'a Listing, findings: &mut Findings) {
        self.snapshots = listing.accepted().collect();
        for (snapshot, reason) in listing.rejected() {
            findings.damage(snapshot.key(), reason, [snapshot.id.as_str()]);
        }
        for problem in &listing.problems {
            note_problem(problem, findings);
        }
        listing.warnings.iter().for_each(|warning| findings.warn(warning));
    }

    fn named(&mut self, listing: &'a Listing, ids: &[String], findings: &mut Findings) -> Result<()> {
        for id in ids {
            match choose(listing, None, &Which::Id(id.clone())) {
                Ok(snapshot) if self.snapshots.iter().any(|s| s.key() == snapshot.key()) => {}
                Ok(snapshot) => self.snapshots.push(snapshot),
                Err(error) if error.code() == ExitCode::Integrity => refused(listing, id, findings),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn read_pack_lists(&mut self, repository: &Repository, findings: &mut Findings) -> Result<()> {
        // Snapshots between which nothing changed share their list.
        let mut users: BTreeMap<Hash, Vec<usize>> = BTreeMap::new();
        for (at, snapshot) in self.snapshots.iter().enumerate() {
            users.entry(snapshot.receipt.pack_list).or_default().push(at);
        }
        let (mut refused, mut any_answer) = (None, users.is_empty());
        for (list, users) in users {
            self.objects += 1;
            let Some(first) = users.first() else { continue };
            let packs = match repository.packs(&self.snapshots[*first].receipt).await {
                Ok(packs) => packs,
                Err(error) if matches!(error.code(), ExitCode::Denied | ExitCode::Failed) => {
                    let ids = users.iter().map(|at| self.snapshots[*at].id.as_str());
                    findings.damage(layout::pack_list(list), error.full_message(), ids);
                    findings.bad_lists.insert(list);
                    refused.get_or_insert(error);
                    continue;
                }
                Err(error) if error.code() == ExitCode::Integrity => {
                    let ids = users.iter().map(|at| self.snapshots[*at].id.as_str());
                    findings.damage(layout::pack_list(list), error.full_message(), ids);
                    findings.bad_lists.insert(list);
                    any_answer = true;
                    continue;
                }
                Err(error) => return Err(error),
            };
            any_answer = true;
            for line in packs.iter() {
                let (known, pack_users) = self.packs.entry(line.pack).or_insert_with(|| (*line, Vec::new()));
                if (known.size, known.header) != (line.size, line.header) {
                    let ids = users.iter().map(|at| self.snapshots[*at].id.as_str());
                    let reason = format!("it contradicts another pack list about {}", layout::pack(line.pack));
                    findings.damage(layout::pack_list(list), reason, ids);
                }
                pack_users.extend(&users);
            }
        }
        self.objects += self.packs.len() as u64;
        // Not one bad object: the store is away.
        refused.filter(|_| !any_answer).map_or(Ok(()), Err)
    }

    fn compare_packs(&self, present: &HashMap<String, u64>, findings: &mut Findings) {
        for (line, _) in self.packs.values() {
            match present.get(&layout::pack(line.pack)) {
                Some(size) if *size == line.size => {}
                Some(size) => {
                    findings.pack(line.pack, format!("it has {size} bytes, {} are expected", line.size), self);
                }
                None => findings.pack(line.pack, "it is missing", self),
            }
        }
        let marks = present.keys().filter_map(|key| layout::parse_pack_mark(key));
        let mut marked: Vec<Hash> = marks.filter(|pack| self.packs.contains_key(pack)).collect();
        marked.sort();
        for pack in marked {
            let ids: Vec<&str> = self.users(pack).collect();
            findings.warn(format!("{} is marked for deletion, but {} needs it", layout::pack(pack), ids.join(", ")));
        }
    }
}

fn note_problem(problem: &Problem, findings: &mut Findings) {
    if problem.future_format {
        findings.warn(format!("{} is not checked: {}", problem.key, problem.reason));
    } else {
        findings.damage(&problem.key, &problem.reason, problem.id().iter().map(SnapshotId::as_str));
    }
}

/// Notes a snapshot that was asked for by name and is there, but cannot be believed or read.
fn refused(listing: &Listing, id: &str, findings: &mut Findings) {
    for (snapshot, reason) in listing.rejected().filter(|(s, _)| s.id.as_str().starts_with(id)) {
        findings.damage(snapshot.key(), reason, [snapshot.id.as_str()]);
    }
    let named = |p: &&Problem| p.key.rsplit('/').next().is_some_and(|name| name.starts_with(id));
    listing.problems.iter().filter(named).for_each(|problem| note_problem(problem, findings));
}
