//! `opsctl show`: one snapshot, as its receipt tells it.

use clap::Args;

use super::Session;
use super::reading::{ReadArgs, Reading};
use crate::archive::receipt::Status;
use crate::repository::rows::ShowDocument;
use crate::repository::{Purpose, Which};
use crate::ui::{self, Output};
use crate::{ExitCode, Result};

/// Show one snapshot
///
/// Needs no key: what is shown is in the receipt.
///
/// Example: opsctl show latest --store s3://backups/web
///
/// Exit codes: 0 ok, 2 usage, 4 the snapshot cannot be trusted, 10 no such snapshot
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub struct ShowArgs {
    /// Id, the start of one, or `latest`
    #[arg(value_name = "SNAPSHOT")]
    snapshot: String,
    #[command(flatten)]
    read: ReadArgs,
}

pub(super) fn run(args: &ShowArgs, session: &Session<'_>, out: &mut Output) -> Result<ExitCode> {
    let reading = Reading::open(session, &args.read.trust, Purpose::Look)?;
    let listing = reading.listing(session)?;
    let snapshot = reading.choose(session, &listing, &Which::Id(args.snapshot.clone()))?;
    let document = ShowDocument::from(snapshot);
    out.result(&document, |_| render(&document))?;
    Ok(ExitCode::Ok)
}

fn render(document: &ShowDocument) -> String {
    let receipt = &document.receipt;
    let counts = &receipt.counts;
    let status = match receipt.status {
        Status::Complete => "complete",
        Status::Incomplete => "incomplete",
    };
    let list = |map: &std::collections::BTreeMap<String, String>| {
        map.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(", ")
    };
    let mut rows = vec![
        ("snapshot", document.row.id.to_string()),
        ("source", receipt.source.clone()),
        ("host", receipt.host.clone()),
        ("status", status.to_owned()),
        ("started", receipt.started_at.to_string()),
        ("finished", receipt.finished_at.to_string()),
        ("stored", document.stored_at.to_string()),
        ("trust", document.row.reason.clone().unwrap_or_else(|| document.row.trust.to_owned())),
        ("signer", document.signer.clone().unwrap_or_default()),
        ("predecessor", receipt.predecessor.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string)),
        (
            "content",
            format!(
                "{}, {} folders, {}",
                ui::count(counts.files, "file", "files"),
                counts.dirs,
                ui::bytes(counts.bytes)
            ),
        ),
        ("added", format!("{} in {} packs", ui::bytes(receipt.bytes_stored), receipt.packs_stored)),
        (
            "left out",
            format!(
                "{} excluded, {} unreadable, {} changing, {} vanished",
                counts.excluded, counts.unreadable, counts.changed, counts.vanished
            ),
        ),
    ];
    if let Some(profile) = &receipt.profile {
        rows.push(("profile", format!("{} {}", profile.name, profile.contract_version)));
    }
    if let Some(versions) = &receipt.versions {
        rows.push(("versions", list(versions)));
    }
    if !receipt.tags.is_empty() {
        rows.push(("tags", list(&receipt.tags)));
    }
    rows.iter().map(|(name, value)| format!("{name:<12} {}", ui::escape(value))).collect::<Vec<_>>().join("\n")
}
