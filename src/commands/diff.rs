//! `opsctl diff`: what changed between two snapshots.

use clap::Args;
use serde::Serialize;

use super::Session;
use super::ls::go_on;
use super::reading::{ReadArgs, Reading};
use crate::archive::receipt::SnapshotId;
use crate::repository::diff::{Change, ChangeRow, diff};
use crate::repository::{Purpose, Which};
use crate::ui::{self, Output};
use crate::{ExitCode, Result};

/// Show what changed between two snapshots
///
/// Compares manifests; no content is fetched. `+` added, `-` removed, `M` content
/// or metadata changed.
///
/// Example: opsctl diff 20260306 latest --store s3://backups/web --identity web.identity
///
/// Exit codes: 0 whether or not there are differences, 2 usage, 4 damaged or
/// untrusted, 10 no such snapshot, 12 wrong or missing key
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub struct DiffArgs {
    /// The earlier snapshot: id, the start of one, or `latest`
    #[arg(value_name = "A")]
    before: String,
    /// The later snapshot
    #[arg(value_name = "B")]
    after: String,
    #[command(flatten)]
    read: ReadArgs,
}

/// What stands before the changes in a [`DiffDocument`](crate::repository::diff::DiffDocument), which is written piece by
/// piece.
#[derive(Serialize)]
struct Head<'a> {
    from: &'a SnapshotId,
    to: &'a SnapshotId,
}

pub(super) fn run(args: &DiffArgs, session: &Session<'_>, out: &mut Output) -> Result<ExitCode> {
    let reading = Reading::open(session, &args.read.trust, Purpose::Content)?;
    let identities = reading.need_identities()?;
    let listing = reading.listing(session)?;
    let before = reading.choose(session, &listing, &Which::Id(args.before.clone()))?;
    let after = reading.choose(session, &listing, &Which::Id(args.after.clone()))?;
    let open = |snapshot| session.block(reading.repository.manifest(snapshot, identities, &session.cancel));
    let (old, new) = (open(before)?, open(after)?);
    let head = Head { from: &before.id, to: &after.id };
    let json = out.is_json();
    let mut begun = false;
    let each = |change: Change| {
        if json {
            if !begun {
                out.begin_list(&head, "changes")?;
            }
            begun = true;
            out.list_item(&ChangeRow::from(&change))?;
        } else {
            out.raw(line(&change).as_bytes())?;
        }
        go_on(out)
    };
    let compared = session.block(diff(&old, &new, None, each));
    if out.is_closed() {
        return Ok(ExitCode::Ok);
    }
    let counts = compared?;
    if json {
        if !begun {
            out.begin_list(&head, "changes")?;
        }
        out.end_list(&counts)?;
    } else {
        out.text(&format!("{} added, {} removed, {} changed", counts.added, counts.removed, counts.changed))?;
    }
    Ok(ExitCode::Ok)
}

fn line(change: &Change) -> String {
    let path = change.path().as_bytes();
    let path = ui::display_path(if path.is_empty() { b"." } else { path });
    match change {
        Change::Added(_) => format!("+ {path}\n"),
        Change::Removed(_) => format!("- {path}\n"),
        Change::Changed { what, .. } => {
            let what: Vec<String> = what.iter().map(|aspect| format!("{aspect:?}").to_lowercase()).collect();
            format!("M {path} ({})\n", what.join(", "))
        }
    }
}
