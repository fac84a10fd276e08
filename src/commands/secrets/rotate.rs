//! `opsctl secrets rotate`: new values, everywhere, and proved.

use std::time::Duration;

use clap::Args;

use super::report::{RotateReport, Rotated, changes};
use super::{TargetArgs, WaitArgs, confirm, gather, lock_record, secrets};
use crate::commands::Session;
use crate::config::profile::Profile;
use crate::finding::Finding;
use crate::providers::address::Address;
use crate::secrets::rotate::{self, Selection, Turn};
use crate::secrets::sync::{ServiceResult, Sync, exit_code};
use crate::secrets::{Change, RecordFile, Work};
use crate::ui::Output;
use crate::{ExitCode, Result, ui};

/// Give secrets new values, everywhere, and prove it
///
/// Makes a new value for each named variable (`generate` in the configuration),
/// stores it in 1Password as a new version of its item, writes it to every
/// service that has the same reference, deploys each once, and asks the service
/// at --url until the new value works and the old one is refused. Until then the
/// old value stays in the item, in a field of its own.
///
/// A run that was stopped is taken up by the next one, on any machine, without
/// another new value. What is not proved stays open, with exit code 3: run it
/// again with --url, or with --no-verify if nobody can ask. With --rollback a
/// rotation that is open is taken back; where none is open a new one begins, and
/// the old value is put back if it fails. --dry-run says which.
///
/// Example: opsctl secrets rotate OPENWORK_TOKEN --url https://work.example.com
/// Example: opsctl secrets rotate OPENWORK_TOKEN OPENWORK_HOST_TOKEN --rollback --yes
///
/// Exit codes: 0 rotated, or taken back, 2 usage, an ambiguous item, or an item
/// that an edit would damage, 3 stopped in part, or not proved: run it again, 5
/// the proof failed, 10 no such vault, item, field or service, 11 another run or
/// another person works on it, 12 a token is missing, refused or of another
/// environment, 13 rate-limited, 130 interrupted
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub struct RotateArgs {
    /// Variables whose secrets get new values
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
    #[command(flatten)]
    target: TargetArgs,
    /// Where the service answers: scheme, host, port and perhaps a path
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// End the rotation without a proof
    #[arg(long, conflicts_with = "url")]
    no_verify: bool,
    /// Take back what is open; put the old value back if the proof fails
    #[arg(long)]
    rollback: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Show what would be rotated, change nothing
    #[arg(long)]
    dry_run: bool,
    /// How long the proof may take after the deployments
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = super::parse_wait)]
    proof_timeout: Duration,
    #[command(flatten)]
    wait: WaitArgs,
}

pub(super) fn run(args: &RotateArgs, session: &Session<'_>, out: &mut Output) -> Result<ExitCode> {
    let address = args.url.as_ref().map(|url| Address::parse(url, "--url")).transpose()?;
    let secrets = secrets(session)?;
    let target = args.target.target(session, &secrets)?;
    let selection = rotate::select(&secrets, target, &args.names, &args.target.service)?;
    let mut record = lock_record(session, target)?;
    let work = gather(session, &secrets, target, selection.services.iter().collect())?;
    let turns = rotate::turns(&work, &selection, args.rollback)?;
    turns.iter().map(announcement).for_each(ui::say);
    if args.rollback && turns.iter().all(|turn| !turn.is_open) {
        ui::warn("no rotation is open that could be taken back: this begins one");
    }
    if args.dry_run {
        let rotated = turns.iter().map(|turn| rotated(turn, "planned", false)).collect();
        let report = RotateReport { rotated, ..empty(&target.name) };
        out.result(&report, |width| report.text(width))?;
        return Ok(ExitCode::Ok);
    }
    rotate::adopt(&work, &selection, &turns, &mut record);
    confirm(target, args.yes, &format!("Rotate {} of {}?", args.names.join(", "), target.name))?;
    let mut rotation = Rotation {
        args,
        session,
        selection: &selection,
        work,
        record,
        address,
        is_stale: !args.yes,
        done: empty(&target.name),
    };
    let code = rotation.run(turns)?;
    let report = rotation.done;
    out.result(&report, |width| report.text(width))?;
    Ok(code)
}

fn announcement(turn: &Turn) -> String {
    let names: Vec<String> = turn.variables.iter().map(|(service, name)| format!("{service}.{name}")).collect();
    let what = match (turn.is_open, turn.is_back) {
        (_, true) => "the old value is put back",
        (true, false) => "a rotation is open, and goes on",
        (false, false) => "gets a new value",
    };
    format!("{} ({}): {what}", turn.source, names.join(", "))
}

/// A rotation under way.
struct Rotation<'r, 's> {
    args: &'r RotateArgs,
    session: &'r Session<'s>,
    selection: &'r Selection,
    work: Work<'r>,
    record: RecordFile,
    address: Option<Address>,
    /// Whether Railway may have changed since it was read.
    is_stale: bool,
    done: RotateReport,
}

impl Rotation<'_, '_> {
    fn run(&mut self, turns: Vec<Turn>) -> Result<ExitCode> {
        let (turns, code) = self.forward(turns)?;
        let is_back = turns.iter().all(|turn| turn.is_back);
        if code == ExitCode::Ok || is_back || !self.args.rollback || self.is_undecided(code) {
            return Ok(code);
        }
        ui::warn("the old values are put back");
        let back = turns.iter().filter_map(Turn::reversed).collect();
        let (_, back) = self.forward(back)?;
        // That it was taken back does not make the rotation one that succeeded.
        Ok(if back == ExitCode::Ok { code } else { back })
    }

    /// Whether nothing failed, and a proof is merely not made.
    fn is_undecided(&self, code: ExitCode) -> bool {
        code == ExitCode::Incomplete && self.done.services.iter().all(ServiceResult::is_well)
    }

    /// New value, services, proof, end.
    fn forward(&mut self, mut turns: Vec<Turn>) -> Result<(Vec<Turn>, ExitCode)> {
        self.session.block(rotate::store(&mut self.work, self.selection, &mut turns))?;
        let code = self.push()?;
        if code != ExitCode::Ok {
            return Ok((self.left(turns, "open", false), code));
        }
        let profile = &self.session.settings.profile.value;
        let (code, is_proved) = self.prove(profile, &turns)?;
        if code != ExitCode::Ok {
            return Ok((self.left(turns, "open", false), code));
        }
        self.session.block(rotate::close(&mut self.work, &turns))?;
        let status = if turns.iter().all(|turn| turn.is_back) { "rolled_back" } else { "rotated" };
        Ok((self.left(turns, status, is_proved), code))
    }

    fn left(&mut self, turns: Vec<Turn>, status: &'static str, is_proved: bool) -> Vec<Turn> {
        self.done.rotated = turns.iter().map(|turn| rotated(turn, status, is_proved)).collect();
        turns
    }

    /// Writes to the services and deploys them.
    fn push(&mut self) -> Result<ExitCode> {
        if std::mem::replace(&mut self.is_stale, true) {
            self.session.block(self.work.reread())?;
        }
        let mut plan = self.work.plan(&self.record, false)?;
        let managed = |change: &&Change| {
            plan.services
                .iter()
                .any(|service| service.name == change.service && service.managed.contains(&change.variable))
        };
        let planned: Vec<Change> = plan.changes().filter(managed).cloned().collect();
        self.done.deploys = plan.deploys();
        changes(&planned, None).lines().for_each(ui::say);
        self.done.changes = planned;
        let conflicts = plan.conflicts().count();
        let state = self.work.state.clone();
        let work = &self.work;
        let sync = Sync {
            railway: &work.railway,
            fingerprints: &work.fingerprints,
            deploy: true,
            timeout: self.args.wait.deploy_timeout,
        };
        let services = self.session.block(sync.run(&mut plan, state, &mut self.record))?;
        let is_reached = |one: &ServiceResult| {
            self.selection.services.iter().any(|service| service.name == one.service && !service.variables.is_empty())
        };
        let code = exit_code(&services);
        self.done.services = services.into_iter().filter(|one| is_reached(one) || one.status != "unchanged").collect();
        if code != ExitCode::Ok {
            return Ok(code);
        }
        // A variable that refers to another one gets its value from there.
        if conflicts > 0 {
            ui::warn("a variable that refers to another one was left as it is: it has what that one has");
        }
        Ok(code)
    }

    /// Whether the new values work and the old ones do not: what the rotation comes to, and whether it was proved.
    fn prove(&mut self, profile: &Profile, turns: &[Turn]) -> Result<(ExitCode, bool)> {
        let is_provable = turns.iter().any(|turn| rotate::provable(profile, turn));
        let Some(address) = &self.address else {
            if !is_provable {
                ui::say("the profile knows no question that would prove it");
                return Ok((ExitCode::Ok, false));
            }
            if self.args.no_verify {
                return Ok((ExitCode::Ok, false));
            }
            ui::warn("nobody has proved that the new value works and the old one does not: give --url, or --no-verify");
            return Ok((ExitCode::Incomplete, false));
        };
        let proof = rotate::prove(profile, turns, address, self.args.proof_timeout);
        self.done.checks = self.session.block(proof)?;
        let failed: Vec<&Finding> = self.done.checks.iter().filter(|check| check.fix.is_some()).collect();
        if !failed.is_empty() {
            let hint = "opsctl secrets rotate … --rollback puts the old value back; without it, it is tried again";
            ui::warn(format!("the proof failed; {hint}"));
            return Ok((ExitCode::Verification, false));
        }
        Ok((ExitCode::Ok, !self.done.checks.is_empty()))
    }
}

fn rotated(turn: &Turn, status: &'static str, proved: bool) -> Rotated {
    let variables = turn.variables.iter().map(|(service, name)| format!("{service}.{name}")).collect();
    Rotated { reference: turn.source.to_string(), variables, status, proved }
}

fn empty(target: &str) -> RotateReport {
    RotateReport {
        target: target.to_owned(),
        rotated: Vec::new(),
        changes: Vec::new(),
        deploys: 0,
        services: Vec::new(),
        checks: Vec::new(),
    }
}
