//! The verbs, one file each: arguments → library call → rendering.
//!
//! Every verb takes its values from [`Settings`]; its own struct only declares what it alone knows.
//! The doc comment of an `Args` struct is the command's help.

mod check;
mod checks;
mod compatibility;
mod completions;
mod config;
mod diff;
mod doctor;
mod in_use;
mod init;
mod keys;
mod list;
mod ls;
mod man;
mod own_files;
mod profile;
mod reading;
mod restore;
mod restore_gate;
mod restore_in_place;
mod restore_report;
mod rollback;
mod same_options;
mod secrets;
mod show;
mod snapshot;
mod snapshot_facts;
mod snapshot_service;
mod unfinished;
mod verify;

use std::time::Duration;

use clap::{Parser, Subcommand};
use secrecy::SecretString;
use tokio::runtime::{Handle, Runtime};
use tokio::signal::unix::{SignalKind, signal};

use crate::cancel::{Cancel, LAST_RESORT};
use crate::config::profile::Service;
use crate::config::{Environment, GlobalArgs, Settings};
use crate::progress::Progress;
use crate::providers::onepassword::Reference;
use crate::providers::store::{Location, ProcessEnv, Store};
use crate::secrets::resolve;
use crate::ui::{Bar, Output};
use crate::verify::{TokenFiles, Tokens};
use crate::{ExitCode, Result, hardening};

/// Keeps a hosted service recoverable: encrypted snapshots, restore, checks
///
/// Snapshots of a folder go into an object store: encrypted to age recipients, deduplicated, signed.
/// Stock age, zstd and tar can open what is stored.
#[derive(Parser, Debug)]
#[command(name = "opsctl", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = "Exit codes: 0 ok, 1 failed, 2 usage, 3 incomplete, 4 integrity, \
                        5 verification failed, 6 changes pending, 10 not found, 11 busy, \
                        12 key or credential refused, 13 rate-limited, 14 no space, 130 interrupted")]
pub struct Cli {
    /// Flags of every command.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The verbs.
#[derive(Subcommand, Debug)]
pub enum Command {
    #[allow(missing_docs, reason = "the Args struct has the help")]
    Init(init::InitArgs),
    #[allow(missing_docs, reason = "the Args struct has the help")]
    Snapshot(snapshot::SnapshotArgs),
    #[allow(missing_docs, reason = "the Args struct has the help")]
    List(list::ListArgs),
    #[allow(missing_docs, reason = "the Args struct has the help")]
    Show(show::ShowArgs),
    #[allow(missing_docs, reason = "the Args struct has the help")]
    Ls(ls::LsArgs),
    #[allow(missing_docs, reason = "the Args struct has the help")]
    Diff(diff::DiffArgs),
    #[allow(missing_docs, reason = "the Args struct has the help")]
    Restore(Box<restore::RestoreArgs>),
    #[allow(missing_docs, reason = "the Args struct has the help")]
    Rollback(rollback::RollbackArgs),
    #[allow(missing_docs, reason = "the Args struct has the help")]
    Check(check::CheckArgs),
    #[allow(missing_docs, reason = "the Args struct has the help")]
    Doctor(doctor::DoctorArgs),
    #[allow(missing_docs, reason = "the Args struct has the help")]
    Verify(Box<verify::VerifyArgs>),
    #[allow(missing_docs, reason = "the Args struct has the help")]
    Secrets(Box<secrets::SecretsArgs>),
    #[allow(missing_docs, reason = "the Args struct has the help")]
    Keys(keys::KeysArgs),
    #[allow(missing_docs, reason = "the Args struct has the help")]
    Profile(profile::ProfileArgs),
    #[allow(missing_docs, reason = "the Args struct has the help")]
    Config(config::ConfigArgs),
    #[allow(missing_docs, reason = "the Args struct has the help")]
    Completions(completions::CompletionsArgs),
    #[allow(missing_docs, reason = "the Args struct has the help")]
    Man(man::ManArgs),
}

/// Runs one command.
///
/// # Errors
/// Whatever stops the command; it carries the exit code.
pub fn dispatch(cli: Cli, settings: &Settings, out: &mut Output) -> Result<ExitCode> {
    match cli.command {
        Command::Init(args) => init::run(&args, &Session::start(settings)?, out),
        Command::Snapshot(args) => snapshot::run(&args, &Session::start(settings)?, out),
        Command::List(args) => list::run(&args, &Session::start(settings)?, out),
        Command::Show(args) => show::run(&args, &Session::start(settings)?, out),
        Command::Ls(args) => ls::run(&args, &Session::start(settings)?, out),
        Command::Diff(args) => diff::run(&args, &Session::start(settings)?, out),
        Command::Restore(args) => restore::run(&args, &Session::start(settings)?, out),
        Command::Rollback(args) => rollback::run(&args, &Session::start(settings)?, out),
        Command::Check(args) => check::run(&args, &Session::start(settings)?, out),
        Command::Doctor(args) => doctor::run(&args, &Session::start(settings)?, out),
        Command::Verify(args) => verify::run(&args, &Session::start(settings)?, out),
        Command::Secrets(args) => secrets::run(&args, &Session::start(settings)?, out),
        Command::Keys(args) => keys::run(&args, &Session::start(settings)?, out),
        Command::Profile(args) => profile::run(&args, settings, out),
        Command::Config(args) => config::run(&args, settings, out),
        Command::Completions(args) => completions::run(&args, out),
        Command::Man(args) => man::run(&args, out),
    }
}

/// What a command that touches the world works with.
pub(crate) struct Session<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) environment: Environment,
    runtime: Option<Runtime>,
    pub(crate) handle: Handle,
    pub(crate) cancel: Cancel,
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        // Started lookups of names and writes to slow disks are not waited for.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_millis(100));
        }
    }
}

impl<'a> Session<'a> {
    /// Starts the network runtime and begins to listen for SIGINT and SIGTERM.
    fn start(settings: &'a Settings) -> Result<Self> {
        set_limits();
        // Keys must not end up in one.
        hardening::no_core_dumps();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let cancel = Cancel::default();
        let (mut interrupt, mut terminate) = {
            let _inside = runtime.enter();
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
        };
        let asked = cancel.clone();
        runtime.spawn(async move {
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
            asked.cancel();
            // Everything is safe to be cut off at any point; what does not end by itself (a read from standard
            // input, a long hash) is ended. So is everything when asked twice.
            let again = async {
                tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
            };
            let _ = tokio::time::timeout(LAST_RESORT, again).await;
            asked.remove_scratch();
            std::process::exit(ExitCode::Interrupted.code().into());
        });
        let handle = runtime.handle().clone();
        Ok(Self { settings, environment: Environment::process(), runtime: Some(runtime), handle, cancel })
    }

    /// The store that the settings name.
    fn store(&self) -> Result<Store> {
        Ok(Store::open(&Location::parse(self.settings.store_url()?)?, &ProcessEnv)?)
    }

    /// The age identity, if one is named. Call once: standard input and descriptors give it once only.
    fn identity(&self) -> Result<Option<SecretString>> {
        self.settings.read_identity(&self.environment, &|reference| self.fetch(reference))
    }

    /// The signing key, if one is named. Call once: standard input and descriptors give it once only.
    fn signing_key(&self) -> Result<Option<SecretString>> {
        self.settings.read_signing_key(&self.environment, &|reference| self.fetch(reference))
    }

    /// The tokens of a service: see [`Tokens::read`].
    fn tokens(&self, service: &Service, files: &TokenFiles, stdin_is_taken: bool) -> Result<Tokens> {
        let fetch = |reference: &Reference| self.fetch(reference);
        Tokens::read(service, files, &self.environment, &fetch, stdin_is_taken)
    }

    /// The value of a field in 1Password, into memory that is kept to this process.
    fn fetch(&self, reference: &Reference) -> Result<SecretString> {
        hardening::protect();
        let secrets = self.settings.secrets()?;
        let fetch = resolve::fetch(reference, secrets.as_ref(), &self.environment, &self.cancel);
        Ok(SecretString::from(&self.block(fetch)?))
    }

    /// Runs network work until it is done or the command is stopped.
    fn block<T, E: Into<crate::Error>>(&self, work: impl Future<Output = Result<T, E>>) -> Result<T> {
        self.handle.block_on(self.cancel.guard(work))
    }
}

impl Progress for Bar {
    fn advance(&self, bytes: u64) {
        self.add_bytes(bytes);
    }

    fn set_total(&self, bytes: u64) {
        Self::set_total(self, bytes);
    }

    fn is_watched(&self) -> bool {
        self.is_drawn()
    }
}

/// Deep trees and files that arrive in pieces keep many descriptors open, and the soft limit is often 1,024.
fn set_limits() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let files = getrlimit(Resource::Nofile);
    // Without more descriptors everything still works, only large cases fail, and then say so.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: files.maximum, maximum: files.maximum });
}

/// The JSON Schema of every document that `--json` gives, by the name of its command.
#[must_use]
pub fn schemas() -> Vec<(&'static str, schemars::Schema)> {
    use schemars::schema_for;
    vec![
        ("check", schema_for!(crate::check::Report)),
        ("config-show", schema_for!(config::ConfigReport)),
        ("diff", schema_for!(crate::repository::diff::DiffDocument)),
        ("doctor", schema_for!(crate::doctor::Report)),
        ("error", schema_for!(crate::cli::ErrorDocument)),
        ("init", schema_for!(init::InitReport)),
        ("keys", schema_for!(keys::KeysReport)),
        ("list", schema_for!(crate::repository::rows::ListDocument)),
        ("ls", schema_for!(ls::LsReport)),
        ("profile", schema_for!(crate::config::Profile)),
        ("profile-validate", schema_for!(profile::ValidateReport)),
        ("restore", schema_for!(restore_report::RestoreReport)),
        ("restore-dry-run", schema_for!(restore_report::RestorePlanReport)),
        ("restore-unwell", schema_for!(restore_report::UnwellReport)),
        ("rollback", schema_for!(rollback::RollbackReport)),
        ("secrets-import", schema_for!(secrets::ImportReport)),
        ("secrets-init", schema_for!(secrets::InitReport)),
        ("secrets-plan", schema_for!(secrets::PlanReport)),
        ("secrets-rotate", schema_for!(secrets::RotateReport)),
        ("secrets-sync", schema_for!(secrets::SyncReport)),
        ("secrets-verify", schema_for!(crate::secrets::verify::Report)),
        ("show", schema_for!(crate::repository::rows::ShowDocument)),
        ("snapshot", schema_for!(snapshot::SnapshotReport)),
        ("snapshot-dry-run", schema_for!(snapshot::SnapshotPlan)),
        ("verify", schema_for!(crate::verify::Report)),
    ]
}
