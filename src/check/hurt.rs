//! Which files damage hurts: the part of a report that needs the key.

use std::collections::HashSet;

use crate::archive::entry::Extent;
use crate::archive::keyring::Identities;
use crate::archive::layout;
use crate::archive::path::EntryPath;
use crate::cancel::Cancel;
use crate::repository::{Repository, Snapshot};
use crate::{ExitCode, Result};

use super::findings::{Findings, shown};
use super::inventory::Inventory;

/// Reads the manifests of the snapshots that need damaged packs, and names the files in those packs.
pub(super) async fn name_files(
    repository: &Repository,
    inventory: &Inventory<'_>,
    identities: &Identities,
    cancel: &Cancel,
    findings: &mut Findings,
) -> Result<()> {
    let bad = findings.bad_packs.iter().chain(findings.bad_chunks.values());
    let hurt: HashSet<&str> = bad.flat_map(|pack| inventory.users(*pack)).collect();
    let hurt: Vec<&Snapshot> =
        inventory.readable(findings).into_iter().filter(|s| hurt.contains(s.id.as_str())).collect();
    for snapshot in hurt {
        let named = name_files_of(repository, snapshot, identities, cancel, findings).await;
        tolerate(repository, inventory, snapshot, named, findings)?;
    }
    Ok(())
}

/// Turns a manifest that cannot be read, because it is damaged or a pack of it is refused, into a finding.
pub(super) fn tolerate(
    repository: &Repository,
    inventory: &Inventory<'_>,
    snapshot: &Snapshot,
    result: Result<()>,
    findings: &mut Findings,
) -> Result<()> {
    let Err(error) = result else { return Ok(()) };
    if error.code() != ExitCode::Integrity {
        let is_refusal = matches!(error.code(), ExitCode::Denied | ExitCode::Failed);
        // A wrong identity has the same code, but then no pack was refused.
        let Some(pack) = repository.take_refused().filter(|_| is_refusal) else { return Err(error) };
        // Its reason stands there already if it is known to be damaged.
        if !findings.bad_packs.contains(&pack) {
            findings.pack(pack, error.full_message(), inventory);
        }
    }
    findings.unreadable_manifest(snapshot, &error);
    Ok(())
}

async fn name_files_of(
    repository: &Repository,
    snapshot: &Snapshot,
    identities: &Identities,
    cancel: &Cancel,
    findings: &mut Findings,
) -> Result<()> {
    let manifest = repository.manifest(snapshot, identities, cancel).await?;
    let mut walk = manifest.walk(None);
    while let Some(batch) = walk.next().await? {
        for entry in batch {
            // The list itself may lie in a damaged pack.
            note(&entry.path, entry.inline_extents(), findings);
            match manifest.extents(&entry).await {
                Ok(extents) => note(&entry.path, &extents, findings),
                Err(error) if error.code() == ExitCode::Integrity => {}
                Err(error) => return Err(error),
            }
            cancel.check()?;
        }
    }
    Ok(())
}

fn note(path: &EntryPath, extents: &[Extent], findings: &mut Findings) {
    for extent in extents {
        let is_bad = findings.bad_packs.contains(&extent.pack) || findings.bad_chunks.contains_key(&extent.chunk);
        if is_bad {
            findings.file(&layout::pack(extent.pack), shown(path));
        }
    }
}
