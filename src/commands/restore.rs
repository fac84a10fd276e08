//! `opsctl restore`: a snapshot back as files.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use jiff::Timestamp;
use serde::Serialize;

use super::Session;
use super::reading::{ReadArgs, Reading};
use crate::filter::Patterns;
use crate::repository::{Purpose, Snapshot, Which};
use crate::restore::target::TargetOptions;
use crate::restore::{self, RestorePlan, RestoreRequest, Restored, Selection};
use crate::ui::{self, Output};
use crate::{ExitCode, Result, time};

/// Restore a snapshot into a new folder
///
/// Chooses the newest trusted snapshot that ended at or before --at, says which, checks the space,
/// and restores content and metadata. Every file is verified before it gets its name. A restore that
/// was interrupted goes on when it is run again. Signers are pinned by the identity file, or by
/// --trusted-signer.
///
/// Example: opsctl restore --to /restore --at '2026-03-07 14:00' --store s3://backups/web --identity web.identity
///
/// Exit codes: 0 ok, 2 usage, or the folder is not empty, 3 restored, but something in it is missing
/// (named), 4 damaged or untrusted (everything intact is restored), 10 no such snapshot or path,
/// 12 wrong or missing key, 14 no space, 130 interrupted
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub struct RestoreArgs {
    /// The new folder
    #[arg(long, value_name = "NEWDIR")]
    to: PathBuf,
    /// The newest snapshot that ended by then: 2026-03-07T14:00:00Z, '2026-03-07 14:00', yesterday, '2h ago'
    #[arg(long, value_name = "TIME", conflicts_with = "snapshot")]
    at: Option<String>,
    /// The snapshot with this id, or the start of one
    #[arg(long, value_name = "ID")]
    snapshot: Option<String>,
    /// Only what matches, with everything below; may be repeated
    #[arg(long, value_name = "GLOB")]
    include: Vec<String>,
    /// Not what matches; may be repeated
    #[arg(id = "restore_exclude", long = "exclude", value_name = "GLOB")]
    exclude: Vec<String>,
    /// Create device files too
    #[arg(long)]
    allow_special: bool,
    #[command(flatten)]
    read: ReadArgs,
    /// Say what would be restored, restore nothing
    #[arg(long)]
    dry_run: bool,
}

/// The result of `restore`.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct RestoreReport {
    /// The snapshot that was restored.
    pub snapshot_id: String,
    /// Its source.
    pub source: String,
    /// When it ended.
    pub finished_at: String,
    /// Regular files in place.
    pub files: u64,
    /// Of these, files that an interrupted run had put in place.
    pub files_kept: u64,
    /// Bytes of content written.
    pub bytes_written: u64,
    /// Bytes received from the store, manifest and keys included.
    pub bytes_fetched: u64,
    /// Requests sent to the store, retries included.
    pub requests: u64,
    /// How many of them were retries.
    pub retries: u64,
    /// Seconds from start to finish: the measured recovery time.
    pub rto_seconds: f64,
    /// Seconds between the snapshot's end and --at, or now: the window of lost work.
    pub rpo_seconds: i64,
    /// What is missing or not as it was.
    pub warnings: Vec<String>,
}

/// The result of `restore --dry-run`.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct RestorePlanReport {
    /// Always true.
    pub dry_run: bool,
    /// The snapshot that would be restored.
    pub snapshot_id: String,
    /// Its source.
    pub source: String,
    /// When it ended.
    pub finished_at: String,
    /// Seconds between the snapshot's end and --at, or now.
    pub rpo_seconds: i64,
    /// True if an interrupted restore would go on.
    pub resumes: bool,
    /// Regular files to restore.
    pub files: u64,
    /// Folders to restore.
    pub dirs: u64,
    /// Bytes of content to write.
    pub bytes: u64,
    /// Bytes of content to fetch.
    pub bytes_to_fetch: u64,
    /// Requests for them.
    pub requests: u64,
    /// Bytes needed on disk.
    pub space_needed: u64,
    /// Bytes free on disk.
    pub space_free: u64,
    /// What would be missing or not as it was.
    pub warnings: Vec<String>,
}

pub(super) fn run(args: &RestoreArgs, session: &Session<'_>, out: &mut Output) -> Result<ExitCode> {
    let started = Instant::now();
    let now = Timestamp::now();
    let settings = session.settings;
    let asked = args.at.as_deref().map(|text| settings.parse_time(text, now)).transpose()?;
    let which = match (&args.snapshot, asked) {
        (Some(id), _) => Which::Id(id.clone()),
        (None, Some(at)) => Which::At(at),
        (None, None) => Which::Latest,
    };
    let selection = Selection { include: Patterns::new(&args.include)?, exclude: Patterns::new(&args.exclude)? };
    let reading = Reading::open(session, &args.read.trust, Purpose::Content)?;
    let identities = reading.need_identities()?;
    let listing = reading.listing(session)?;
    let snapshot = reading.choose(session, &listing, &which)?;
    announce(snapshot, asked, now);
    let request = RestoreRequest {
        repository: &reading.repository,
        snapshot,
        identities,
        to: args.to.clone(),
        selection,
        options: TargetOptions { allow_special: args.allow_special, ..TargetOptions::for_this_user() },
        seed: Some(settings.state_dir.value.clone().unwrap_or_else(|| args.to.join(".opsctl"))),
        memory: settings.snapshot.memory.value,
        cancel: &session.cancel,
    };
    let plan = session.block(RestorePlan::make(&request))?;
    let rpo_seconds = (asked.unwrap_or(now).as_second() - snapshot.receipt.finished_at.as_second()).max(0);
    let warnings = plan_warnings(&plan);
    if args.dry_run {
        let report = plan_report(snapshot, &plan, rpo_seconds, warnings);
        out.result(&report, |_| render_plan(&report))?;
        plan.check_space()?;
        return Ok(ExitCode::Ok);
    }
    plan.check_space()?;
    let bar = crate::cli::progress(settings).start("fetching", Some(plan.bytes_to_fetch));
    let restored = session.block(restore::restore(&request, plan, &bar));
    bar.finish();
    let restored = restored?;
    let traffic = reading.repository.store().stats();
    let report = RestoreReport {
        snapshot_id: snapshot.id.to_string(),
        source: snapshot.source.clone(),
        finished_at: snapshot.receipt.finished_at.to_string(),
        files: restored.files,
        files_kept: restored.files_kept,
        bytes_written: restored.bytes_written,
        bytes_fetched: traffic.bytes_received,
        requests: traffic.requests,
        retries: traffic.retries,
        rto_seconds: started.elapsed().as_secs_f64(),
        rpo_seconds,
        warnings: warnings.into_iter().chain(result_warnings(&restored)).collect(),
    };
    report.warnings.iter().for_each(ui::warn);
    say_skipped_ownership(&restored);
    if let restore::Seeding::Skipped(why) = &restored.seeding {
        ui::say(format!("the next snapshot of it will read everything: {why}"));
    }
    out.result(&report, |_| render(&report, &args.to))?;
    Ok(if report.warnings.is_empty() { ExitCode::Ok } else { ExitCode::Incomplete })
}

/// Says which snapshot it is and how far from the time asked for, before anything happens.
fn announce(snapshot: &Snapshot, asked: Option<Timestamp>, now: Timestamp) {
    let end = snapshot.receipt.finished_at;
    // End times are rounded up to whole seconds.
    let now = now.max(end);
    let distance = match asked {
        Some(asked) => format!("{} before the time asked for", time::age(end, asked)),
        None => format!("{} ago", time::age(end, now)),
    };
    ui::say(format!("restoring snapshot {} of {}, ended {end}, {distance}", snapshot.id, snapshot.source));
}

fn plan_warnings(plan: &RestorePlan) -> Vec<String> {
    let path = |path: &crate::archive::path::EntryPath| ui::display_path(path.as_bytes());
    let mut warnings = Vec::new();
    listed(&mut warnings, &plan.missing, "not in the snapshot", |(p, why)| format!("{}: {why}", path(p)));
    listed(&mut warnings, &plan.changed, "was changing when it was captured", path);
    listed(&mut warnings, &plan.devices, "device left out (--allow-special creates it)", path);
    let attributes = "extended attributes that could not be read when it was captured";
    listed(&mut warnings, &plan.unread_xattrs, attributes, |(p, why)| format!("{}: {why}", path(p)));
    listed(&mut warnings, &plan.lost, "damaged", String::clone);
    warnings
}

/// A line for each item, and one for those that are only counted.
fn listed<T>(warnings: &mut Vec<String>, items: &restore::Listed<T>, what: &str, one: impl Fn(&T) -> String) {
    warnings.extend(items.first.iter().map(|item| format!("{what}: {}", one(item))));
    if items.unlisted() > 0 {
        warnings.push(format!("{what}: and {} more", items.unlisted()));
    }
}

fn result_warnings(restored: &Restored) -> Vec<String> {
    let problems = &restored.problems;
    let one = |p: &restore::target::Problem| {
        format!("{}: cannot set {}: {}", ui::display_path(p.path.as_bytes()), p.what, p.errno)
    };
    let mut warnings: Vec<String> = problems.first.iter().map(one).collect();
    let unlisted = problems.count.saturating_sub(warnings.len() as u64);
    if unlisted > 0 {
        warnings.push(format!("metadata could not be set on {unlisted} more"));
    }
    if let Some(damaged) = &restored.damaged {
        warnings.push(format!("damaged in the store, though all that was wanted could be read: {damaged}"));
    }
    warnings
}

/// Only root may give files away; that is no fault of the restore, and said once.
fn say_skipped_ownership(restored: &Restored) {
    let problems = &restored.problems;
    if problems.ownership_skipped > 0 {
        ui::say(format!(
            "{} kept the current user as owner, {} lost setuid or setgid: restore as root to set them",
            ui::count(problems.ownership_skipped, "path", "paths"),
            problems.set_id_dropped,
        ));
    }
}

fn plan_report(snapshot: &Snapshot, plan: &RestorePlan, rpo_seconds: i64, warnings: Vec<String>) -> RestorePlanReport {
    RestorePlanReport {
        dry_run: true,
        snapshot_id: snapshot.id.to_string(),
        source: snapshot.source.clone(),
        finished_at: snapshot.receipt.finished_at.to_string(),
        rpo_seconds,
        resumes: plan.resumes,
        files: plan.files,
        dirs: plan.dirs,
        bytes: plan.bytes,
        bytes_to_fetch: plan.bytes_to_fetch,
        requests: plan.requests,
        space_needed: plan.space,
        space_free: plan.free.bytes,
        warnings,
    }
}

fn render_plan(plan: &RestorePlanReport) -> String {
    let mut text = format!(
        "would restore {} and {} ({}) of snapshot {}\nwould fetch {} in {}; needs {} of {} free",
        ui::count(plan.files, "file", "files"),
        ui::count(plan.dirs, "folder", "folders"),
        ui::bytes(plan.bytes),
        plan.snapshot_id,
        ui::bytes(plan.bytes_to_fetch),
        ui::count(plan.requests, "request", "requests"),
        ui::bytes(plan.space_needed),
        ui::bytes(plan.space_free),
    );
    for warning in &plan.warnings {
        text.push('\n');
        // Reasons are texts of the manifest: without this, one could look like further lines.
        text.push_str(&ui::escape(warning));
    }
    text
}

fn render(report: &RestoreReport, to: &std::path::Path) -> String {
    format!(
        "restored snapshot {} to {}\n{}, {} written, {} fetched in {} s; lost work: {} s",
        report.snapshot_id,
        to.display(),
        ui::count(report.files, "file", "files"),
        ui::bytes(report.bytes_written),
        ui::bytes(report.bytes_fetched),
        format_args!("{:.1}", report.rto_seconds),
        report.rpo_seconds,
    )
}
