//! `opsctl list`: the snapshots of a store.

use clap::Args;
use jiff::Timestamp;

use super::Session;
use super::reading::{ReadArgs, Reading};
use crate::archive::receipt::Status;
use crate::repository::Purpose;
use crate::repository::rows::{ListDocument, SnapshotRow};
use crate::time;
use crate::ui::{self, Output, Table};
use crate::{ExitCode, Result};

/// List snapshots
///
/// Needs no key. Without a pinned signer every row is marked `unpinned`; a row
/// marked `rejected` is never restored, and says why.
///
/// Example: opsctl list --store s3://backups/web
///
/// Exit codes: 0 ok, 2 usage, 10 no store, 12 credentials refused
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub struct ListArgs {
    #[command(flatten)]
    read: ReadArgs,
}

pub(super) fn run(args: &ListArgs, session: &Session<'_>, out: &mut Output) -> Result<ExitCode> {
    let reading = Reading::open(session, &args.read.trust, Purpose::Look)?;
    let listing = reading.listing(session)?;
    for problem in &listing.problems {
        ui::warn(format!("{}: {}", problem.key, problem.reason));
    }
    let document = ListDocument::new(&listing, reading.repository.warnings());
    out.result(&document, |width| render(&document, width))?;
    Ok(ExitCode::Ok)
}

fn render(document: &ListDocument, width: Option<u16>) -> String {
    if document.snapshots.is_empty() {
        return "no snapshots".to_owned();
    }
    let mut table = Table::new(["ID", "SOURCE", "AGE", "FILES", "SIZE", "STORED", "STATE"]).right([2, 3, 4, 5]);
    for row in &document.snapshots {
        table.row([
            row.id.to_string(),
            row.source.clone(),
            time::age(row.finished_at, Timestamp::now().max(row.finished_at)),
            row.files.to_string(),
            ui::bytes(row.bytes),
            ui::bytes(row.bytes_stored),
            state(row),
        ]);
    }
    table.render(width)
}

fn state(row: &SnapshotRow) -> String {
    let mut words = Vec::new();
    if row.status == Status::Incomplete {
        words.push("incomplete".to_owned());
    }
    match &row.reason {
        Some(reason) => words.push(format!("rejected: {reason}")),
        None if row.trust == "unpinned" => words.push("unpinned".to_owned()),
        None => {}
    }
    words.extend(row.tags.iter().map(|(key, value)| format!("{key}={value}")));
    words.join(", ")
}
