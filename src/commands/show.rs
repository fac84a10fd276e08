//! `opsctl show`: one snapshot, as its receipt tells it.

use clap::Args;

use super::Session;
use super::reading::{ReadArgs, Reading};
use crate::archive::facts::Facts;
use crate::archive::receipt::Status;
use crate::repository::rows::{FactsRow, ShowDocument};
use crate::repository::{Purpose, Snapshot, Trust, Which};
use crate::ui::{self, Output};
use crate::{ExitCode, Result};

/// Show one snapshot
///
/// Needs no key: what is shown is in the receipt. With an identity it also says
/// how many sessions, tokens and workspaces were recorded.
///
/// Example: opsctl show latest --store s3://backups/web
///
/// Exit codes: 0 ok, 2 usage, 4 the snapshot cannot be trusted, 10 no such
/// snapshot
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
    let facts = match facts(session, &reading, snapshot) {
        Ok(facts) => facts.as_ref().map(FactsRow::from),
        // What the receipt says stands without it.
        Err(error) if error.code() != ExitCode::Interrupted => {
            ui::warn(format!("what was recorded about the content is not shown: {}", error.full_message()));
            None
        }
        Err(error) => return Err(error),
    };
    let document = ShowDocument { facts, ..ShowDocument::from(snapshot) };
    out.result(&document, |_| render(&document))?;
    Ok(ExitCode::Ok)
}

/// The facts, for whoever can read them. Of a snapshot that no pinned signer has signed no content is used.
fn facts(session: &Session<'_>, reading: &Reading, snapshot: &Snapshot) -> Result<Option<Facts>> {
    let Some(identities) = reading.identities().filter(|_| matches!(snapshot.trust, Trust::Trusted(_))) else {
        return Ok(None);
    };
    session.block(async {
        let manifest = reading.repository.manifest(snapshot, identities, &session.cancel).await?;
        manifest.facts().await
    })
}

/// Recorded facts in one line.
fn facts_line(facts: &FactsRow) -> String {
    let number = |found: Option<usize>, one: &str, more: &str| {
        Some(ui::count(found.and_then(|n| u64::try_from(n).ok())?, one, more))
    };
    let messages = facts.messages.map(|messages| format!(" with {}", ui::count(messages, "message", "messages")));
    let sessions = number(facts.sessions, "session", "sessions").map(|text| text + &messages.unwrap_or_default());
    let found =
        [sessions, number(facts.tokens, "token", "tokens"), number(facts.workspaces, "workspace", "workspaces")];
    found.into_iter().flatten().chain(facts.not_captured.iter().cloned()).collect::<Vec<_>>().join("; ")
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
    if let Some(facts) = &document.facts {
        rows.push(("recorded", facts_line(facts)));
    }
    if !receipt.tags.is_empty() {
        rows.push(("tags", list(&receipt.tags)));
    }
    rows.iter().map(|(name, value)| format!("{name:<12} {}", ui::escape(value))).collect::<Vec<_>>().join("\n")
}
