//! What `restore` says: its documents, the same as text, and the exit code that goes with them.
//!
//! Invariant: only what the restored folder lacks makes it incomplete (exit 3). That versions differ, or that nothing
//! starts the service, is said and changes nothing.

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use super::compatibility::Versions;
use crate::cli::ErrorBody;
use crate::providers::store::StoreStats;
use crate::repository::Snapshot;
use crate::restore::in_place::Recovered;
use crate::restore::{self, RestorePlan, Restored, Seeding};
use crate::ui::{self, Output};
use crate::verify::Verification;
use crate::{Error, ExitCode, Result, time};

/// The result of `restore`.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct RestoreReport {
    /// The snapshot that was restored.
    pub snapshot_id: String,
    /// Its source.
    pub source: String,
    /// When it ended.
    pub finished_at: String,
    /// True if the folder was as the snapshot has it already, and nothing was done.
    pub unchanged: bool,
    /// Regular files in place.
    pub files: u64,
    /// Of these, files that an interrupted run had put in place.
    pub files_kept: u64,
    /// Of these, files that share their blocks with the folder that was replaced.
    pub files_cloned: u64,
    /// Bytes of content written that came from the store.
    pub bytes_written: u64,
    /// Bytes of content taken from the folder that was replaced.
    pub bytes_reused: u64,
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
    /// The id of the tree that was replaced and is kept; null if none is.
    pub previous: Option<String>,
    /// What was done about an earlier restore that had not come to its end.
    pub recovered: Recovered,
    /// Whether the service was well afterwards; null if nobody asked.
    pub verification: Option<Verification>,
    /// What is missing or not as it was, which versions differ, and what else is odd.
    pub warnings: Vec<String>,
    #[serde(skip)]
    lacks: bool,
    /// Whether the old folder was put back.
    #[serde(skip)]
    pub(super) rolled_back: bool,
}

impl RestoreReport {
    /// The report of a restore that begins. Work since the snapshot is lost until `wanted`.
    pub(super) fn begin(snapshot: &Snapshot, wanted: Timestamp) -> Self {
        let end = snapshot.receipt.finished_at;
        Self {
            snapshot_id: snapshot.id.to_string(),
            source: snapshot.source.clone(),
            finished_at: end.to_string(),
            unchanged: false,
            files: 0,
            files_kept: 0,
            files_cloned: 0,
            bytes_written: 0,
            bytes_reused: 0,
            bytes_fetched: 0,
            requests: 0,
            retries: 0,
            rto_seconds: 0.0,
            rpo_seconds: (wanted.as_second() - end.as_second()).max(0),
            previous: None,
            recovered: Recovered::None,
            verification: None,
            warnings: Vec::new(),
            lacks: false,
            rolled_back: false,
        }
    }

    /// Adds what is odd, and lacks nothing.
    pub(super) fn note(&mut self, warnings: impl IntoIterator<Item = String>) {
        self.warnings.extend(warnings);
    }

    /// Adds what the restored folder lacks.
    pub(super) fn lack(&mut self, warnings: Vec<String>) {
        self.lacks |= !warnings.is_empty();
        self.warnings.extend(warnings);
    }

    /// Adds what was put in place.
    pub(super) fn restored(&mut self, restored: &Restored) {
        self.files = restored.files;
        self.files_kept = restored.files_kept;
        self.files_cloned = restored.files_cloned;
        self.bytes_written = restored.bytes_written;
        self.bytes_reused = restored.bytes_reused;
        self.lack(result_warnings(restored));
        say_skipped_ownership(restored);
        if let Seeding::Skipped(why) = &restored.seeding {
            ui::say(format!("the next snapshot of it will read everything: {why}"));
        }
    }

    /// Adds that all of it was there before this run.
    pub(super) fn was_there(&mut self, plan: &RestorePlan) {
        (self.files, self.files_kept) = (plan.files, plan.files);
    }

    /// Gives it out, after `elapsed`; gives back the exit code.
    pub(super) fn finish(
        mut self,
        elapsed: Duration,
        traffic: &StoreStats,
        out: &mut Output,
        render: impl FnOnce(&Self) -> String,
    ) -> Result<ExitCode> {
        self.rto_seconds = elapsed.as_secs_f64();
        self.bytes_fetched = traffic.bytes_received;
        self.requests = traffic.requests;
        self.retries = traffic.retries;
        self.warnings.iter().for_each(ui::warn);
        out.result(&self, |_| render(&self))?;
        Ok(if self.lacks { ExitCode::Incomplete } else { ExitCode::Ok })
    }
}

/// What `restore` gives with `--json` when the service was not well afterwards (exit 5).
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct UnwellReport {
    /// The failure.
    pub error: ErrorBody,
    /// What was asked of the service, and what was wrong; null if it was not even started.
    pub verification: Option<Verification>,
    /// True if the old folder is live again.
    pub rolled_back: bool,
    /// The id of the tree that was replaced and is kept; null if none is.
    pub previous: Option<String>,
    /// What was done about an earlier restore that had not come to its end.
    pub recovered: Recovered,
}

impl UnwellReport {
    pub(super) fn of(error: &Error, report: &RestoreReport) -> Self {
        Self {
            error: ErrorBody::of(error),
            verification: report.verification.clone(),
            rolled_back: report.rolled_back,
            previous: report.previous.clone(),
            recovered: report.recovered,
        }
    }
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
    /// Seconds since then.
    pub age_seconds: i64,
    /// The same for people.
    #[serde(skip)]
    age: String,
    /// Seconds between the snapshot's end and --at, or now.
    pub rpo_seconds: i64,
    /// What the snapshot was taken of, and what it would run on.
    pub versions: Versions,
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
    /// What would become of the folder; null for a new one.
    pub in_place: Option<InPlaceReport>,
    /// What would be missing or not as it was, which versions differ, and what else is odd.
    pub warnings: Vec<String>,
}

/// What would become of the folder that is replaced.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct InPlaceReport {
    /// True if it is as the snapshot has it already: nothing would be done.
    pub nothing_to_do: bool,
    /// Files to add.
    pub files_to_add: u64,
    /// Files that differ.
    pub files_to_change: u64,
    /// Files and links that are right already.
    pub files_same: u64,
    /// Entries to remove, folders not counted.
    pub files_to_remove: u64,
    /// Bytes of content that are right already, and are not fetched.
    pub bytes_reused: u64,
    /// Whether they share blocks with the folder, and take no space.
    pub clones: bool,
    /// What stays because the snapshot left it out: the first thousand.
    pub kept: Vec<String>,
    /// Since when the tree is kept that an earlier restore replaced; null if there is none.
    pub previous_since: Option<String>,
    /// Bytes that come free when it is deleted.
    pub previous_size: u64,
    /// True if it would be deleted.
    pub previous_deleted: bool,
    /// Processes that use the folder.
    pub in_use_by: Vec<String>,
    /// An unfinished restore or rollback that is found there.
    pub unfinished: Option<String>,
}

impl RestorePlanReport {
    pub(super) fn new(
        snapshot: &Snapshot,
        plan: &RestorePlan,
        in_place: Option<InPlaceReport>,
        versions: &Versions,
        report: &RestoreReport,
    ) -> Self {
        let end = snapshot.receipt.finished_at;
        // End times are rounded up to whole seconds.
        let now = Timestamp::now().max(end);
        // What is staged takes its space already.
        let ahead = |number: u64| if plan.is_staged { 0 } else { number };
        Self {
            dry_run: true,
            snapshot_id: report.snapshot_id.clone(),
            source: report.source.clone(),
            finished_at: report.finished_at.clone(),
            age_seconds: now.as_second() - end.as_second(),
            age: time::age(end, now),
            rpo_seconds: report.rpo_seconds,
            versions: versions.clone(),
            resumes: plan.resumes || plan.is_staged,
            files: plan.files,
            dirs: plan.dirs,
            bytes: plan.bytes,
            bytes_to_fetch: ahead(plan.bytes_to_fetch),
            requests: ahead(plan.requests),
            space_needed: ahead(plan.space),
            space_free: plan.free.bytes,
            in_place,
            warnings: report.warnings.clone(),
        }
    }

    /// The same for people.
    pub(super) fn text(&self) -> String {
        let mut text = format!(
            "would restore {} and {} ({}) of snapshot {}\nit ended {}, {} ago, and was taken of {}\nhere: {}\n\
             would fetch {} in {}; needs {} of {} free",
            ui::count(self.files, "file", "files"),
            ui::count(self.dirs, "folder", "folders"),
            ui::bytes(self.bytes),
            self.snapshot_id,
            self.finished_at,
            self.age,
            self.versions.snapshot,
            self.versions.here,
            ui::bytes(self.bytes_to_fetch),
            ui::count(self.requests, "request", "requests"),
            ui::bytes(self.space_needed),
            ui::bytes(self.space_free),
        );
        if let Some(live) = &self.in_place {
            text.push_str(&live.text());
        }
        for warning in &self.warnings {
            text.push('\n');
            // Reasons are texts of the manifest: without this, one could look like further lines.
            text.push_str(&ui::escape(warning));
        }
        text
    }
}

impl InPlaceReport {
    fn text(&self) -> String {
        let mut text = format!(
            "\nin the folder: {} to add, {} to change, {} to remove, {} right already ({}, {})",
            self.files_to_add,
            self.files_to_change,
            self.files_to_remove,
            self.files_same,
            ui::bytes(self.bytes_reused),
            if self.clones { "shared, not copied" } else { "copied" },
        );
        if self.nothing_to_do {
            text.push_str("\nit is as the snapshot has it: there is nothing to do");
        }
        if let Some(since) = &self.previous_since {
            let fate = if self.previous_deleted { "will be deleted" } else { "stays" };
            let size = ui::bytes(self.previous_size);
            text.push_str(&format!("\nthe tree kept since {} ({size}) {fate}", ui::escape(since)));
        }
        self.kept.iter().for_each(|path| text.push_str(&format!("\nstays, the snapshot left it out: {path}")));
        self.in_use_by.iter().for_each(|who| text.push_str(&format!("\nin use by {}", ui::escape(who))));
        self.unfinished.iter().for_each(|what| text.push_str(&format!("\nunfinished: {}", ui::escape(what))));
        text
    }
}

/// What the snapshot lacks.
pub(super) fn plan_warnings(plan: &RestorePlan) -> Vec<String> {
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

/// The result of a restore into a new folder, for people.
pub(super) fn render_to(report: &RestoreReport, to: &Path) -> String {
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

/// The result of a restore in place, for people.
pub(super) fn render_in_place(report: &RestoreReport, dir: &Path) -> String {
    let (id, shown) = (&report.snapshot_id, dir.display());
    if report.unchanged {
        return format!("{shown} is as snapshot {id} has it already: nothing was done");
    }
    let mut text = format!("restored snapshot {id} in place of {shown}");
    let files = ui::count(report.files, "file", "files");
    if report.files > 0 && report.files_kept == report.files {
        text.push_str(&format!("\n{files}, all of them from the run that was cut off"));
    } else {
        let (fetched, reused) = (ui::bytes(report.bytes_fetched), ui::bytes(report.bytes_reused));
        text.push_str(&format!("\n{files}, {fetched} fetched, {reused} reused"));
    }
    let lost = ui::duration(Duration::from_secs(report.rpo_seconds.unsigned_abs()));
    text.push_str(&format!("\nin {:.1} s; lost work: {lost}", report.rto_seconds));
    if let Some(found) = &report.verification {
        let how = if found.doubt().is_some() { "up, and not verified in whole" } else { "well" };
        text.push_str(&format!("\nthe service is {how}, after {:.1} s: {}", found.seconds, found.url));
    }
    if report.previous.is_some() {
        let dir = ui::shell_word(shown);
        text.push_str(&format!(
            "\nthe replaced tree is kept: `opsctl rollback {dir}` puts it back, `opsctl rollback {dir} --discard` deletes it"
        ));
    }
    text
}
