//! `opsctl check`: is everything there, and is it intact?

use clap::Args;

use super::Session;
use super::reading::{ReadArgs, Reading};
use crate::check::{self, CheckOptions, Level, Report, Subset};
use crate::repository::{FetchOptions, Purpose};
use crate::ui::{self, Output};
use crate::{ExitCode, Result};

/// Check that snapshots are there and intact
///
/// Levels: `list` compares names and sizes; `hash` downloads every pack and
/// compares it with its name; `decrypt` goes down to the hash of every file and
/// needs the identity. Lists every damaged object and, with the identity, the
/// files that it hurts.
///
/// Example: opsctl check --level hash --subset 1/7 --store s3://backups/web
///
/// Exit codes: 0 intact, 2 usage, 4 damage found (listed), 10 no such snapshot,
/// 12 wrong or missing key, 130 interrupted
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub struct CheckArgs {
    /// Only this snapshot: id or the start of one; may be repeated
    #[arg(long, value_name = "ID")]
    snapshot: Vec<String>,
    /// How deep: list, hash or decrypt
    #[arg(long, value_name = "LEVEL", default_value = "list")]
    level: String,
    /// Only a part of the packs: 10%, or 2/7 for the second of seven parts
    #[arg(long, value_name = "PART")]
    subset: Option<String>,
    #[command(flatten)]
    read: ReadArgs,
}

pub(super) fn run(args: &CheckArgs, session: &Session<'_>, out: &mut Output) -> Result<ExitCode> {
    let level: Level = args.level.parse()?;
    let subset = args.subset.as_deref().map(str::parse::<Subset>).transpose()?;
    let purpose = if level == Level::Decrypt { Purpose::Content } else { Purpose::Look };
    let reading = Reading::open(session, &args.read.trust, purpose)?;
    let listing = reading.listing(session)?;
    let bar = crate::cli::progress(session.settings).start("checking", None);
    let options = CheckOptions {
        level,
        snapshots: args.snapshot.clone(),
        subset,
        fetch: FetchOptions {
            memory: session.settings.snapshot.memory.value,
            progress: &bar,
            ..FetchOptions::default()
        },
    };
    let work = check::check(&reading.repository, &listing, &options, reading.identities(), &session.cancel);
    let report = session.block(work);
    bar.finish();
    let report = report?;
    // Forks and gaps were said when the listing was read.
    report.warnings.iter().filter(|warning| !listing.warnings.contains(warning)).for_each(ui::warn);
    out.result(&report, |_| render(&report))?;
    Ok(report.exit_code())
}

fn render(report: &Report) -> String {
    let mut lines = Vec::new();
    for damaged in &report.damaged {
        lines.push(format!("DAMAGED {}: {}", ui::escape(&damaged.object), ui::escape(&damaged.reason)));
        lines.extend(damaged.snapshots.iter().map(|id| format!("  snapshot {}", ui::escape(id))));
        lines.extend(damaged.files.iter().map(|file| format!("  file {}", ui::escape(file))));
    }
    lines.push(format!(
        "checked {} of {} at level {}, {} read: {}",
        ui::count(report.objects, "object", "objects"),
        ui::count(report.snapshots, "snapshot", "snapshots"),
        report.level,
        ui::bytes(report.bytes),
        if report.damaged.is_empty() { "intact".to_owned() } else { format!("{} damaged", report.damaged.len()) },
    ));
    lines.join("\n")
}
