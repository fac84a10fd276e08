//! `opsctl secrets rotate`: new values, everywhere, and proved.

use std::time::Duration;

use clap::Args;
use jiff::Timestamp;

use super::report::{RotateReport, Rotated, changes};
use super::{TargetArgs, WaitArgs, confirm, gather, lock_record, read_record, secrets};
use crate::commands::Session;
use crate::config::secrets::Target;
use crate::finding::Finding;
use crate::providers::address::Address;
use crate::secrets::record::Closing;
use crate::secrets::rotate::{self, Selection, Turn};
use crate::secrets::sync::{ServiceResult, Sync, exit_code};
use crate::secrets::{Change, RecordFile, Work, work};
use crate::ui::Output;
use crate::{Error, ExitCode, Result, ui};

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
/// rotation that is open is taken back. Where none is open, it does nothing; with
/// --url too a new one begins, and the old value is put back if it fails.
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
    /// Take back what is open; with --url, put the old value back if a new one fails
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
    work::services(target, &args.target.service)?;
    let selection = rotate::select(&secrets, target, &args.names, &args.target.service)?;
    let record = if args.dry_run { read_record(session, target)? } else { lock_record(session, target)? };
    let work = gather(session, &secrets, target, selection.services.iter().collect())?;
    let (turns, waiting) = rotate::turns(&work, &selection, args.rollback)?;
    let (turns, mut ended) = over(&work, &record, turns);
    // What is at its end waits for nobody.
    let (waiting, also_ended) = over(&work, &record, waiting);
    ended.extend(also_ended);
    turns.iter().map(announcement).for_each(ui::say);
    for turn in &waiting {
        ui::warn(format!("{} waits: what is open comes first, then run this again", turn.source));
    }
    let mut rotation = Rotation {
        args,
        session,
        selection: &selection,
        work,
        record,
        address,
        is_stale: !args.yes,
        done: empty(target),
    };
    rotation.seen(&ended)?;
    let is_new = turns.iter().any(|turn| !turn.is_open);
    let code = if turns.is_empty() || (args.rollback && is_new && args.url.is_none()) {
        ui::say("no rotation is open; nothing was done");
        ExitCode::Ok
    } else if args.dry_run {
        rotation.done.rotated.extend(turns.iter().map(|turn| rotated(turn, "planned", false)));
        ExitCode::Ok
    } else {
        confirm(target, args.yes, &format!("Rotate {} of {}?", args.names.join(", "), target.name))?;
        rotation.run(turns)?
    };
    let report = rotation.done;
    out.result(&report, |width| report.text(width))?;
    Ok(if code == ExitCode::Ok && !waiting.is_empty() { ExitCode::Incomplete } else { code })
}

/// What is still to be done, and what an earlier run has done to its end without seeing that.
fn over(work: &Work<'_>, record: &RecordFile, turns: Vec<Turn>) -> (Vec<Turn>, Vec<Turn>) {
    let is_over = |turn: &Turn| {
        let closing = record.record.rotations.get(&turn.source.to_string()).filter(|closing| !closing.is_seen);
        let now =
            turn.old.as_ref().filter(|_| work.fingerprints.lasts()).map(|value| work.fingerprints.of(value.expose()));
        !turn.is_open && now.is_some() && closing.is_some_and(|closing| closing.fingerprint == now)
    };
    turns.into_iter().partition(|turn| !is_over(turn))
}

fn announcement(turn: &Turn) -> String {
    let what = match (turn.is_open, turn.is_back) {
        (_, true) => "the old value is put back",
        (true, false) => "a rotation is open, and goes on",
        (false, false) => "gets a new value",
    };
    format!("{} ({}): {what}", turn.source, variables(turn).join(", "))
}

fn variables(turn: &Turn) -> Vec<String> {
    turn.variables.iter().map(|(service, name)| format!("{service}.{name}")).collect()
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
        let is_back = turns.iter().any(|turn| turn.is_back);
        if is_back && !self.args.rollback && code == ExitCode::Ok {
            ui::warn("a rollback was open, and is over: run this again for a new value");
            return Ok(ExitCode::Incomplete);
        }
        if code == ExitCode::Ok || is_back || !self.args.rollback || self.is_undecided(code) {
            return Ok(code);
        }
        self.take_back(&turns, code)
    }

    /// Puts the old values back after a failure. That does not make the rotation one that succeeded.
    fn take_back(&mut self, turns: &[Turn], code: ExitCode) -> Result<ExitCode> {
        let back: Vec<Turn> = turns.iter().filter_map(Turn::reversed).collect();
        let first = turns.iter().filter(|turn| turn.old.is_none());
        let open: Vec<Rotated> = first.map(|turn| rotated(turn, "open", false)).collect();
        if back.is_empty() {
            ui::warn("there is no old value to put back");
            return Ok(code);
        }
        ui::warn("the old values are put back");
        let (_, back) = self.forward(back)?;
        self.done.rotated.retain(|one| open.iter().all(|other| other.reference != one.reference));
        self.done.rotated.extend(open);
        Ok(if back == ExitCode::Ok { code } else { back })
    }

    /// Whether nothing failed, and a proof is merely not made.
    fn is_undecided(&self, code: ExitCode) -> bool {
        let is_well = self.done.services.iter().all(ServiceResult::is_well);
        code == ExitCode::Incomplete && is_well && self.address.is_none()
    }

    /// New value, services, proof, end.
    fn forward(&mut self, mut turns: Vec<Turn>) -> Result<(Vec<Turn>, ExitCode)> {
        self.session.block(rotate::store(&mut self.work, self.selection, &mut turns))?;
        let code = self.push().map_err(|error| self.open(error))?;
        if code != ExitCode::Ok {
            // Something was written: at least the item.
            self.told(&turns, "open", &[]);
            return Ok((turns, ExitCode::Incomplete));
        }
        let (code, found) = self.prove(&turns).map_err(|error| self.open(error))?;
        if code != ExitCode::Ok {
            self.told(&turns, "open", &found);
            return Ok((turns, code));
        }
        self.close(&turns).map_err(|error| self.open(error))?;
        self.told(&turns, "", &found);
        Ok((turns, code))
    }

    /// An earlier run has brought these to their end, and did not see that.
    fn seen(&mut self, over: &[Turn]) -> Result<()> {
        for turn in over {
            ui::say(format!("{}: the last rotation was over already", turn.source));
            self.done.rotated.push(rotated(turn, "rotated", false));
            if let Some(closing) = self.record.record.rotations.get_mut(&turn.source.to_string()) {
                closing.is_seen = true;
            }
        }
        if over.is_empty() || self.args.dry_run { Ok(()) } else { self.record.save() }
    }

    /// What became of each secret; without a status, that it is at its end.
    fn told(&mut self, turns: &[Turn], status: &'static str, found: &[Vec<Finding>]) {
        let none = Vec::new();
        let one = |(at, turn): (usize, &Turn)| {
            let end = if turn.is_back { "rolled_back" } else { "rotated" };
            let proved = rotate::proves(turn, found.get(at).unwrap_or(&none));
            rotated(turn, if status.is_empty() { end } else { status }, proved)
        };
        let told: Vec<Rotated> = turns.iter().enumerate().map(one).collect();
        self.done.rotated.retain(|earlier| told.iter().all(|now| now.reference != earlier.reference));
        self.done.rotated.extend(told);
        self.done.checks = found.concat();
    }

    /// An error in the midst of it: what the person has to know besides.
    fn open(&self, error: Error) -> Error {
        let names = self.args.names.join(" ");
        error.and_hint(&format!(
            "1Password has the new value and the old one; `opsctl secrets rotate {names}` goes on from here, and with --rollback goes back"
        ))
    }

    /// Takes the old values out of 1Password. Before, the record says so: should nobody see the end of that, the next run does
    /// not take the secret for one that is to be rotated again.
    fn close(&mut self, turns: &[Turn]) -> Result<()> {
        for is_seen in [false, true] {
            for turn in turns {
                let fingerprints = &self.work.fingerprints;
                let print = turn.new.as_ref().filter(|_| fingerprints.lasts()).map(|new| fingerprints.of(new.expose()));
                let closing = Closing { fingerprint: print, closed: Timestamp::now(), is_seen };
                self.record.record.rotations.insert(turn.source.to_string(), closing);
            }
            self.record.save()?;
            if !is_seen {
                self.session.block(rotate::close(&mut self.work, turns))?;
            }
        }
        Ok(())
    }

    /// Writes to the services and deploys them.
    fn push(&mut self) -> Result<ExitCode> {
        if std::mem::replace(&mut self.is_stale, true) {
            self.session.block(self.work.reread())?;
        }
        let mut plan = self.work.plan_of_new(&self.record)?;
        let planned: Vec<Change> = plan.changes().filter(|change| plan.manages(change)).cloned().collect();
        self.done.deploys = plan.deploys();
        changes(&planned, None).lines().for_each(ui::say);
        let left_behind: Vec<String> = plan.left_behind(&self.work.state);
        self.done.changes = planned;
        let state = self.work.state.clone();
        let sync = Sync {
            railway: &self.work.railway,
            fingerprints: &self.work.fingerprints,
            deploy: true,
            timeout: self.args.wait.deploy_timeout,
        };
        let services = self.session.block(sync.run(&mut plan, state, &mut self.record))?;
        let is_reached = |one: &ServiceResult| {
            self.selection.services.iter().any(|service| service.name == one.service && !service.variables.is_empty())
        };
        let code = exit_code(&services);
        self.done.services = services.into_iter().filter(|one| is_reached(one) || one.status != "unchanged").collect();
        if code == ExitCode::Ok && !left_behind.is_empty() {
            let names = left_behind.join(", ");
            ui::warn(format!(
                "{names} refers to something else, and did not get the value: remove the reference in Railway"
            ));
            return Ok(ExitCode::Incomplete);
        }
        Ok(code)
    }

    /// Whether the new values work and the old ones do not: what the rotation comes to, and what was found for each turn.
    fn prove(&self, turns: &[Turn]) -> Result<(ExitCode, Vec<Vec<Finding>>)> {
        let profile = &self.session.settings.profile.value;
        let Some(address) = &self.address else {
            if !turns.iter().any(|turn| rotate::provable(profile, turn)) {
                ui::say("the profile knows no question that would prove it");
                return Ok((ExitCode::Ok, Vec::new()));
            }
            if self.args.no_verify {
                return Ok((ExitCode::Ok, Vec::new()));
            }
            ui::warn("nobody has proved that the new value works and the old one does not: give --url, or --no-verify");
            return Ok((ExitCode::Incomplete, Vec::new()));
        };
        let found = self.session.block(rotate::prove(profile, turns, address, self.args.proof_timeout))?;
        if found.iter().flatten().all(|check| check.fix.is_none()) {
            return Ok((ExitCode::Ok, found));
        }
        let names = self.args.names.join(" ");
        ui::warn(format!(
            "the proof failed: `opsctl secrets rotate {names} --rollback` puts the old value back; without it, it is tried again"
        ));
        Ok((ExitCode::Verification, found))
    }
}

fn rotated(turn: &Turn, status: &'static str, proved: bool) -> Rotated {
    Rotated { reference: turn.source.to_string(), variables: variables(turn), status, proved }
}

fn empty(target: &Target) -> RotateReport {
    RotateReport {
        target: target.name.clone(),
        rotated: Vec::new(),
        changes: Vec::new(),
        deploys: 0,
        services: Vec::new(),
        checks: Vec::new(),
    }
}
