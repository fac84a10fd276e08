//! `opsctl snapshot`: capture a folder into the store.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::{Session, snapshot_facts, snapshot_service};
use crate::archive::manifest::Excluded;
use crate::archive::path::EntryPath;
use crate::archive::receipt::{ProfileRef, Status};
use crate::archive::signature::SigningKey;
use crate::capture::{self, HostConfig, Outcome, Plan, ProblemKind, SnapshotRequest, WalkOptions};
use crate::config::args::{RecipientArgs, SigningKeyArgs, SnapshotTuningArgs};
use crate::filter::Patterns;
use crate::providers::store::{Store, StoreStats};
use crate::restore::in_place::refuse_unfinished;
use crate::state::index::Rekey;
use crate::ui::{self, Output};
use crate::{Error, ExitCode, Result};

/// Capture a folder into the store
///
/// Reads what changed since the last snapshot, stores what the store does not
/// have, and commits with a signed receipt. Databases (SQLite) and git
/// repositories are captured consistently while in use. Needs LIST and
/// create-only PUT on the store, and no key that could read it.
///
/// Example: opsctl snapshot /data --store s3://backups/web --signing-key web.key --exclude-recoverable
///
/// Exit codes: 0 complete, 3 committed but files are missing or were changing
/// (they are named); nothing committed: 1 store or host failed, 2 usage, 4 the
/// store's keys or a damaged pack list forbid it or a clock is a day off, 10 no
/// store or no such folder, 11 another run is active, 12 signer or credentials
/// refused, 13 rate-limited, 14 no space left, 130 interrupted (the next run goes
/// on)
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub struct SnapshotArgs {
    /// The folder [default: the profile's data root]
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
    #[command(flatten)]
    tuning: SnapshotTuningArgs,
    #[command(flatten)]
    signing_key: SigningKeyArgs,
    #[command(flatten)]
    recipients: RecipientArgs,
    /// Public key of a signer whose keys objects this host believes, beside its own; may be repeated
    #[arg(long, value_name = "KEY")]
    trusted_signer: Vec<String>,
    /// Label the snapshot; not encrypted; may be repeated
    #[arg(long, value_name = "K=V")]
    tag: Vec<String>,
    /// Read every file, changed or not
    #[arg(long)]
    rescan: bool,
    /// Also capture other file systems mounted below the folder
    #[arg(long)]
    cross_file_systems: bool,
    /// Ask the running service for its versions and record them; also for that of its engine and for the
    /// workspaces that it serves, if the variable of the profile has the token for it
    #[arg(long, value_name = "URL")]
    service_url: Option<String>,
    /// Say what would be read and stored, store nothing
    #[arg(long)]
    dry_run: bool,
}

/// The result of `snapshot`.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct SnapshotReport {
    /// The snapshot's id.
    pub snapshot_id: String,
    /// Whether everything asked for is in it.
    pub status: Status,
    /// Regular files in it.
    pub files: u64,
    /// Bytes of file content in it, holes not counted.
    pub bytes: u64,
    /// Bytes of file content that were read.
    pub bytes_read: u64,
    /// Bytes of packs that were stored.
    pub bytes_stored: u64,
    /// Chunks that were read but already stored.
    pub chunks_reused: u64,
    /// Paths taken over unchanged, without reading.
    pub unchanged: u64,
    /// What was done about content in packs of earlier recipients; null if there is none.
    pub rekey: Option<RekeyReport>,
    /// Requests sent to the store, retries included.
    pub requests: u64,
    /// How many of them were retries.
    pub retries: u64,
    /// Seconds from start to commit.
    pub duration_seconds: f64,
    /// Files that are missing, were changing or vanished, and anything else worth saying.
    pub warnings: Vec<String>,
}

/// What a run does about content that is only in packs of earlier recipients.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct RekeyReport {
    /// Bytes of unchanged files that were stored anew for today's recipients, before compression.
    pub stored_bytes: u64,
    /// Bytes that the snapshot still has only in packs of earlier recipients.
    pub left_bytes: u64,
    /// Chunks of these bytes.
    pub left_chunks: u64,
    /// About how many more runs that takes with this --max-rekey-size.
    pub runs_left: u64,
}

impl RekeyReport {
    fn new(rekey: Rekey, max_rekey: Option<u64>) -> Option<Self> {
        let Rekey { stored_bytes, left_bytes, left_chunks } = rekey;
        let runs_left = left_bytes.div_ceil(max_rekey.unwrap_or(u64::MAX).max(1));
        (rekey != Rekey::default()).then_some(Self { stored_bytes, left_bytes, left_chunks, runs_left })
    }

    fn render(&self, is_plan: bool) -> String {
        let stored = if is_plan { "would be stored anew" } else { "stored anew" };
        let mut text = format!("recipients changed: {} of unchanged files {stored}", ui::bytes(self.stored_bytes));
        if self.left_bytes > 0 {
            text += &format!(
                "; {} in {} still only in packs of earlier recipients; about {} at this limit",
                ui::bytes(self.left_bytes),
                ui::count(self.left_chunks, "chunk", "chunks"),
                ui::count(self.runs_left, "more run", "more runs"),
            );
        }
        text
    }
}

/// The result of `snapshot --dry-run`.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct SnapshotPlan {
    /// Always true.
    pub dry_run: bool,
    /// Regular files.
    pub files: u64,
    /// Paths that would be taken over unchanged.
    pub unchanged: u64,
    /// Files that would be read.
    pub to_read: u64,
    /// Bytes that would be read: at most this much would be stored.
    pub bytes_to_read: u64,
    /// The first thousand files that would be read.
    pub read: Vec<String>,
    /// Paths that would be left out, with the reason.
    pub excluded: Vec<(String, String)>,
    /// Paths that cannot be captured, with the reason.
    pub missing: Vec<(String, String)>,
    /// To whom the snapshot would be encrypted.
    pub recipients: Vec<String>,
    /// What would be done about content in packs of earlier recipients; null if there is none.
    pub rekey: Option<RekeyReport>,
}

pub(super) fn run(args: &SnapshotArgs, session: &Session<'_>, out: &mut Output) -> Result<ExitCode> {
    let started = std::time::Instant::now();
    let settings = session.settings;
    let profile = &settings.profile.value;
    let (root, volume) = profile.place(args.dir.as_deref())?;
    refuse_unfinished(&root)?.iter().for_each(ui::warn);
    let secret = session.signing_key()?;
    let secret = secret.ok_or_else(|| {
        Error::usage("no signing key")
            .hint("give --signing-key FILE, or set OPSCTL_SIGNING_KEY; `opsctl init` makes one")
    })?;
    let signing_key = SigningKey::parse(&secret)?;
    let tags = parse_tags(&args.tag)?;
    let store = session.store()?;
    let state_dir = settings.state_dir.value.clone().unwrap_or_else(|| root.join(".opsctl"));
    let recoverable = if settings.snapshot.exclude_recoverable.value { volume.recoverable.clone() } else { Vec::new() };
    let exclude = Patterns::new(&settings.snapshot.exclude.value)?;
    let excluded = Excluded { globs: exclude.texts().to_vec(), recoverable: recoverable.clone() };
    let pins = settings.trusted_signers.value.iter().map(|s| Ok(s.parse()?)).collect::<Result<_>>()?;
    let max_rekey = settings.snapshot.max_rekey_size.value;
    let told = snapshot_service::told(args.service_url.as_deref(), session, snapshot_facts::service(profile, &volume))?;
    let value_of = |name: &str| session.environment.get(name);
    let facts = snapshot_facts::request(profile, &volume, &root, &told, &value_of);
    let progress = crate::cli::progress(settings);
    let bar = progress.start("reading", None);
    let request = SnapshotRequest {
        store: &store,
        runtime: &session.handle,
        signing_key: &signing_key,
        keys: HostConfig {
            pins,
            recipients: settings.recipients.value.clone(),
            store_id: settings.store_id.value.clone(),
        },
        source: settings.source.value.clone(),
        walk: WalkOptions {
            not_ours: not_ours(volume.not_ours),
            recoverable: recoverable.into_iter().map(|p| Ok(EntryPath::new(p.into_bytes())?)).collect::<Result<_>>()?,
            exclude,
            own: store_directory(&store).into_iter().collect(),
            cross_file_systems: args.cross_file_systems,
            rescan: args.rescan,
            root,
        },
        state_dir,
        excluded,
        tags,
        profile: Some(ProfileRef { name: profile.name.clone(), contract_version: profile.contract_version.clone() }),
        versions: told.versions,
        facts,
        host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        upload_concurrency: settings.snapshot.upload_concurrency.value.into(),
        memory: settings.snapshot.memory.value,
        max_rekey: max_rekey.unwrap_or(u64::MAX),
        clock: &jiff::Timestamp::now,
        cancel: &session.cancel,
        progress: &bar,
    };
    if args.dry_run {
        let plan = plan_report(capture::plan(&request)?, max_rekey);
        bar.finish();
        out.result(&plan, |_| render_plan(&plan))?;
        return Ok(ExitCode::Ok);
    }
    let outcome = capture::snapshot(&request);
    bar.finish();
    let report = report(outcome?, max_rekey, store.stats(), started.elapsed().as_secs_f64());
    for warning in &report.warnings {
        ui::warn(warning);
    }
    if let Some(rekey) = &report.rekey {
        ui::say(rekey.render(false));
    }
    out.result(&report, |_| render(&report))?;
    Ok(match report.status {
        Status::Complete => ExitCode::Ok,
        Status::Incomplete => ExitCode::Incomplete,
    })
}

fn parse_tags(tags: &[String]) -> Result<BTreeMap<String, String>> {
    let mut parsed = BTreeMap::new();
    for tag in tags {
        let (key, value) = tag
            .split_once('=')
            .filter(|(key, _)| !key.is_empty())
            .ok_or_else(|| Error::usage(format!("the tag {tag:?} is not of the form k=v")))?;
        if parsed.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err(Error::usage(format!("the tag {key:?} is given twice")));
        }
    }
    Ok(parsed)
}

/// The profile's list, and in any case what opsctl and the file system keep at the root.
fn not_ours(mut names: Vec<String>) -> Vec<String> {
    for always in [".opsctl", "lost+found"] {
        if !names.iter().any(|name| name == always) {
            names.push(always.to_owned());
        }
    }
    names
}

/// A store in a folder must not become part of the snapshot although it may lie below the root.
fn store_directory(store: &Store) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt as _;
    let url = store.location().to_string();
    let metadata = std::fs::metadata(url.strip_prefix("file://")?).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

fn report(outcome: Outcome, max_rekey: Option<u64>, traffic: StoreStats, duration_seconds: f64) -> SnapshotReport {
    let mut warnings = outcome.warnings;
    warnings.extend(outcome.problems.iter().map(|problem| {
        let path = ui::display_path(problem.path.as_bytes());
        match problem.kind {
            ProblemKind::Missing => format!("not captured: {path}: {}", problem.reason),
            ProblemKind::Changed => format!("captured while changing: {path}: {}", problem.reason),
            ProblemKind::Vanished => format!("note: {path}: {}", problem.reason),
        }
    }));
    let counts = outcome.receipt.counts;
    SnapshotReport {
        snapshot_id: outcome.id.to_string(),
        status: outcome.receipt.status,
        files: counts.files,
        bytes: counts.bytes,
        bytes_read: outcome.bytes_read,
        bytes_stored: outcome.receipt.bytes_stored,
        chunks_reused: outcome.chunks_reused,
        unchanged: outcome.unchanged,
        rekey: RekeyReport::new(outcome.rekey, max_rekey),
        requests: traffic.requests,
        retries: traffic.retries,
        duration_seconds,
        warnings,
    }
}

fn render(report: &SnapshotReport) -> String {
    let state = match report.status {
        Status::Complete => "",
        Status::Incomplete => " (incomplete)",
    };
    format!(
        "snapshot {}{state}\n{}, {}; read {}, stored {} in {:.1} s",
        report.snapshot_id,
        ui::count(report.files, "file", "files"),
        ui::bytes(report.bytes),
        ui::bytes(report.bytes_read),
        ui::bytes(report.bytes_stored),
        report.duration_seconds,
    )
}

fn plan_report(plan: Plan, max_rekey: Option<u64>) -> SnapshotPlan {
    let path = |path: &EntryPath| ui::display_path(path.as_bytes());
    let reasons = |list: &[(EntryPath, String)]| list.iter().map(|(p, why)| (path(p), why.clone())).collect();
    SnapshotPlan {
        dry_run: true,
        files: plan.counts.files,
        unchanged: plan.unchanged,
        to_read: plan.to_read,
        bytes_to_read: plan.bytes_to_read,
        read: plan.read.iter().map(path).collect(),
        excluded: reasons(&plan.excluded),
        missing: reasons(&plan.missing),
        recipients: plan.recipients,
        rekey: RekeyReport::new(plan.rekey, max_rekey),
    }
}

fn render_plan(plan: &SnapshotPlan) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    for path in &plan.read {
        let _ = writeln!(text, "read      {path}");
    }
    for (path, why) in &plan.excluded {
        let _ = writeln!(text, "leave out {path} ({why})");
    }
    for (path, why) in &plan.missing {
        let _ = writeln!(text, "missing   {path} ({why})");
    }
    let _ = write!(
        text,
        "would read {} of {} ({}) and store at most that, compressed; {} unchanged",
        plan.to_read,
        ui::count(plan.files, "file", "files"),
        ui::bytes(plan.bytes_to_read),
        ui::count(plan.unchanged, "path", "paths"),
    );
    if let Some(rekey) = &plan.rekey {
        let _ = write!(text, "\n{}", rekey.render(true));
    }
    text
}
