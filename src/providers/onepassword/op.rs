//! The `op` command with a service account.
//!
//! Invariants:
//! * It is started with an environment made from nothing ([`INHERITED`] and its one credential): a variable of another way
//!   to sign in would take precedence, and what is meant for this program is none of its business.
//! * No argument holds a value. A value goes in through a pipe and comes out through one.
//! * Success is an exit with 0 *and* a result: before 2.32.1 it could end with 0 after an error.

use std::ffi::OsString;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use zeroize::Zeroizing;

use super::child::{self, Trouble};
use super::document::parse;
use super::failure::{Failure, quoted};
use super::{Listed, is_id};
use crate::cancel::Cancel;
use crate::config::Environment;
use crate::providers::wiped::Wiped;
use crate::secret::Secret;
use crate::{Result, ui};

const TOKEN: &str = "OP_SERVICE_ACCOUNT_TOKEN";
const PROGRAM: &str = "OPSCTL_OP_BIN";

/// What it needs of the environment: where it keeps its settings, and how the network is reached.
const INHERITED: [&str; 16] = [
    "HOME",
    "USER",
    "PATH",
    "XDG_CONFIG_HOME",
    "LANG",
    "TMPDIR",
    "HTTPS_PROXY",
    "https_proxy",
    "HTTP_PROXY",
    "http_proxy",
    "ALL_PROXY",
    "all_proxy",
    "NO_PROXY",
    "no_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
];

/// It conceals values in what people read, and has `--reveal`.
const OLDEST: Version = (2, 30, 0);
/// It fails after every error of the server.
const TRUSTED: Version = (2, 32, 1);
const GET_OP: &str = "install 1Password CLI 2.32.1 or later, or name its program in OPSCTL_OP_BIN";

type Version = (u64, u64, u64);

pub(super) struct Op {
    program: OsString,
    environment: Vec<(&'static str, OsString)>,
    token: Secret,
    limit: Duration,
    cancel: Cancel,
    requests: AtomicU64,
}

impl Op {
    pub(super) async fn new(environment: &Environment, cancel: &Cancel, limit: Duration) -> Result<Self> {
        let token = environment.text(TOKEN)?.map(Zeroizing::new);
        let token = token.ok_or_else(|| Failure::Denied(format!("{TOKEN} is not set")))?;
        let token = Secret::new(&token).hidden();
        if !token.expose().starts_with("ops_") || token.expose().chars().any(char::is_whitespace) {
            let message = format!("{TOKEN} is no token of a service account: it must begin with `ops_`, and be whole");
            return Err(Failure::Denied(message).into());
        }
        let inherited = INHERITED.into_iter().filter_map(|name| Some((name, environment.get(name)?)));
        let op = Self {
            program: environment.get(PROGRAM).unwrap_or_else(|| "op".into()),
            environment: inherited.collect(),
            token,
            limit,
            cancel: cancel.clone(),
            requests: AtomicU64::new(0),
        };
        op.check_version().await?;
        Ok(op)
    }

    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    async fn check_version(&self) -> Result<(), Failure> {
        let said = self.run(self.command(&["--version"]), None).await?;
        let said = String::from_utf8_lossy(&said).into_owned();
        let unknown = || Failure::unfit(format!("`op --version` says no version, but `{}`", quoted(&said)), GET_OP);
        let version = version(&said).ok_or_else(unknown)?;
        let shown = quoted(&said);
        if version < OLDEST {
            return Err(Failure::unfit(format!("the `op` command is too old: {shown}"), GET_OP));
        }
        if version < TRUSTED {
            ui::warn(format!(
                "the `op` command is old ({shown}): before 2.32.1 it can take an error of the server for success"
            ));
        }
        Ok(())
    }

    pub(super) async fn list(&self, vault: &str) -> Result<Vec<Listed>, Failure> {
        let named_by_id = is_id(vault);
        // In one word: a name may begin with a hyphen.
        let vault = format!("--vault={vault}");
        let json = self
            .ask(if named_by_id { LIST - 1 } else { LIST }, &["item", "list", &vault, "--format", "json"], None)
            .await?;
        parse("a list of items", &json)
    }

    pub(super) async fn get(&self, vault: &str, item: &str) -> Result<Wiped, Failure> {
        self.ask(GET, &["item", "get", item, "--vault", vault, "--format", "json", "--reveal"], None).await
    }

    pub(super) async fn put(&self, vault: &str, item: &str, json: Wiped) -> Result<(), Failure> {
        self.ask(EDIT, &["item", "edit", item, "--vault", vault, "--format", "json"], Some(json)).await.map(drop)
    }

    /// One command with the credential; what it costs is counted also when it fails.
    async fn ask(&self, cost: u64, args: &[&str], input: Option<Wiped>) -> Result<Wiped, Failure> {
        self.requests.fetch_add(cost, Ordering::Relaxed);
        let mut command = self.command(args);
        command.env(TOKEN, self.token.expose());
        command.envs([("OP_INTEGRATION_NAME", "opsctl"), ("OP_INTEGRATION_ID", "OPS")]);
        command.env("OP_INTEGRATION_BUILDNUMBER", build_number());
        // Its daemon would keep what was read for a day, and show it in place of what somebody has written since.
        command.env("OP_CACHE", "false");
        self.run(command, input).await
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(args).env_clear().envs(self.environment.iter().cloned());
        command
    }

    async fn run(&self, command: Command, input: Option<Wiped>) -> Result<Wiped, Failure> {
        let done = tokio::select! {
            biased;
            () = self.cancel.cancelled() => return Err(Failure::Interrupted),
            done = child::run(command, input, self.limit) => done,
        };
        let done = done.map_err(|trouble| match trouble {
            Trouble::Start(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Failure::Absent { message: "there is no `op` command".into(), hint: GET_OP }
            }
            Trouble::Start(error) => Failure::unfit(format!("the `op` command cannot be run: {error}"), GET_OP),
            Trouble::Slow => Failure::Slow(self.limit),
            Trouble::Large => Failure::broken("`op` says more than 16 MiB", "take this item out of the mapping"),
            Trouble::Lost(error) => Failure::broken(format!("`op` is out of sight: {error}"), AGAIN),
        })?;
        if done.status.success() && !done.stdout.is_empty() {
            return Ok(done.stdout);
        }
        let messages = Zeroizing::new(String::from_utf8_lossy(&done.stderr).into_owned());
        Err(failure(&messages, &done.status.to_string()))
    }
}

// Requests of one command as 1Password counts them, for items and vaults named by id.
/// `op item list --vault`, of a vault named otherwise; one less by id.
pub(super) const LIST: u64 = 3;
/// `op item get`.
pub(super) const GET: u64 = 1;
/// `op item edit`: four reads and a write.
pub(super) const EDIT: u64 = 5;

const AGAIN: &str = "run the same command again";

/// `0001000` for 0.1.0: the form in which 1Password's own tools name their build.
fn build_number() -> String {
    let mut numbers = env!("CARGO_PKG_VERSION").split('.');
    let mut next = || numbers.next().unwrap_or_default();
    format!("{:0>2}{:0>2}{:0>2}01", next(), next(), next())
}

/// `2.30.3`, or `2.33.0-beta.02`.
fn version(said: &str) -> Option<Version> {
    let numbers = said.trim().split(['-', '+']).next()?;
    let mut numbers = numbers.split('.').map(|number| number.parse().ok());
    let version = (numbers.next()??, numbers.next()??, numbers.next()??);
    numbers.next().is_none().then_some(version)
}

/// What its messages mean. Its exit status says no more than that it failed: 1, 2 and 4 were seen, for whatever reason.
fn failure(messages: &str, status: &str) -> Failure {
    let Some(line) = telling(messages) else {
        let message = format!("`op` ended without a result or a message ({status})");
        return Failure::broken(message, "run it with the same token by hand: `op item list --vault …`");
    };
    let said = format!("`op` says: {}", quoted(line));
    // Names stand in quotes, and may hold any words.
    let words: String = line.split('"').step_by(2).collect();
    let has = |text: &str| words.contains(text);
    if has("More than one item matches") {
        let ids: Vec<&str> = messages.split_whitespace().filter(|word| is_id(word)).collect();
        return Failure::Ambiguous(format!("{said} The ids are: {}", ids.join(", ")));
    }
    if has("(429)") || has("Too Many Requests") {
        return Failure::Limited(said);
    }
    if has("(401)")
        || has("(403)")
        || has("signed in")
        || has("not authenticated")
        || has("no account found")
        || has("Service Account Deleted")
        || has("service account token")
        || has("error initializing client: Authentication")
    {
        return Failure::Denied(said);
    }
    if has("(409)") {
        return Failure::Conflict(said);
    }
    if has("(404)")
        || has("isn't an item")
        || has("isn't a vault")
        || has("could not find item")
        || has("could not get item")
        || has("does not have a field")
    {
        return Failure::Missing(said);
    }
    if has("panic:") {
        return Failure::broken(
            format!("`op` crashed ({status}): {}", quoted(line)),
            "update `op`, and see that the token is whole",
        );
    }
    if has("expected data on stdin") || has("(400)") {
        return Failure::broken(said, "update `op`, and see that the item can be edited in 1Password");
    }
    Failure::broken(format!("{said} ({status})"), AGAIN)
}

/// The first error among its messages, or the first message, without the time.
fn telling(messages: &str) -> Option<&str> {
    let mut lines = messages.lines().map(str::trim).filter(|line| !line.is_empty());
    let line = lines.clone().find(|line| line.starts_with("[ERROR]")).or_else(|| lines.next())?;
    let Some(rest) = line.strip_prefix("[ERROR]") else { return Some(line) };
    let is_time =
        |word: &str| word.contains(['/', ':']) && word.chars().all(|c| c.is_ascii_digit() || c == '/' || c == ':');
    let mut rest = rest.trim_start();
    while let Some((_, behind)) = rest.split_once(' ').filter(|(word, _)| is_time(word)) {
        rest = behind.trim_start();
    }
    Some(rest)
}
