//! `opsctl profile`: the deployment contracts that opsctl knows, and whether one of your own makes sense.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::Serialize;

use crate::config::Settings;
use crate::config::profile::{
    Candidate, Condition, Format, Need, Problem, Profile, Service, Source, Variable, Volume, read_text,
};
use crate::ui::{self, Output, Table};
use crate::{Error, ExitCode, Result};

/// Show a deployment contract, or check one of your own
///
/// A profile says in data what a hosted system needs: its services, their
/// variables and volumes, what must survive, and what they must answer. Built in:
/// openwork, clawwork, open-cowork.
///
/// Example: opsctl profile show clawwork
///
/// Exit codes: 0 ok, 2 there is no such profile, or it makes no sense (each
/// problem with its line)
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub struct ProfileArgs {
    #[command(subcommand)]
    command: ProfileCommand,
}

#[derive(Subcommand, Debug)]
enum ProfileCommand {
    /// Print a profile; with --json as the document that a profile file stands for
    ///
    /// Example: opsctl profile show openwork --json
    Show {
        /// Name or file, also NAME:SERVICE for one service [default: the profile in force]
        #[arg(value_name = "NAME|FILE")]
        name: Option<String>,
    },
    /// Check a profile file, and list everything that is wrong with it
    ///
    /// Example: opsctl profile validate ./mine.toml
    Validate {
        /// The file
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

/// The result of `profile validate`.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct ValidateReport {
    /// The file.
    pub file: PathBuf,
    /// Whether it can be used.
    pub valid: bool,
    /// Everything that is wrong with it, in order of lines.
    pub problems: Vec<Problem>,
}

pub(super) fn run(args: &ProfileArgs, settings: &Settings, out: &mut Output) -> Result<ExitCode> {
    match &args.command {
        ProfileCommand::Show { name } => {
            let named = name.as_deref().map(Profile::load).transpose()?;
            let profile = named.as_ref().unwrap_or(&settings.profile.value);
            out.result(profile, |width| shown(profile, width))?;
            Ok(ExitCode::Ok)
        }
        ProfileCommand::Validate { file } => validate(file, out),
    }
}

fn validate(file: &Path, out: &mut Output) -> Result<ExitCode> {
    let text = read_text(file).map_err(|error| {
        Error::usage(format!("cannot read the profile {}", ui::display_path(file.as_os_str().as_encoded_bytes())))
            .because(error)
    })?;
    let problems = Profile::problems(&text);
    let report = ValidateReport { file: file.to_owned(), valid: problems.is_empty(), problems };
    out.result(&report, |_| {
        if report.valid {
            return format!("{} is a profile that makes sense", file.display());
        }
        let mut lines: Vec<String> = report.problems.iter().map(|problem| problem.at(file)).collect();
        let count = report.problems.len() as u64;
        lines.push(ui::count(count, "problem", "problems"));
        lines.join("\n")
    })?;
    Ok(if report.valid { ExitCode::Ok } else { ExitCode::Usage })
}

fn shown(profile: &Profile, width: Option<u16>) -> String {
    let mut text = format!("{}, contract {}\n", profile.name, profile.contract_version);
    text += &line("", &profile.note);
    if !profile.incompatible.is_empty() {
        text += &format!("incompatible with snapshots of contract {}\n", profile.incompatible.join(", "));
    }
    for service in profile.chosen_services() {
        text += &format!("\nservice {}\n", service.name);
        text += &line("", &service.note);
        if let Some(volume) = &service.volume {
            text += &of_volume(volume, width);
        }
        if !service.variables.is_empty() {
            text += &format!("\n{}", variables(&service.variables, width));
        }
        text += &requests(service, width);
    }
    text
}

fn line(what: &str, text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("{what}{text}\n") }
}

fn of_volume(volume: &Volume, width: Option<u16>) -> String {
    let mut text = format!("\nvolume {}\n", volume.data_root.display());
    text += &line("", &volume.note);
    for (what, paths) in [("recoverable", &volume.recoverable), ("not ours", &volume.not_ours)] {
        text += &line(&format!("{what}: "), &paths.join(", "));
    }
    let mut durable = Table::new(["DURABLE", "KIND", "WHAT IS THERE"]);
    for path in &volume.durable {
        let optional = if path.optional { " (once it is needed)" } else { "" };
        durable.row([path.path.clone(), path.format.map(kind).unwrap_or_default(), format!("{}{optional}", path.note)]);
    }
    let mut locations = Table::new(["LOCATION", "KIND", "BY THE FIRST THAT IS SET", "PUT IT ON THE VOLUME BY"]);
    for location in &volume.locations {
        let candidates: Vec<String> = location.candidates.iter().map(candidate).collect();
        let fix: Vec<String> = location.fix.iter().map(|(name, value)| format!("{name}={value}")).collect();
        locations.row([
            location.name.clone(),
            location.format.map(kind).unwrap_or_default(),
            candidates.join(", "),
            fix.join(" "),
        ]);
    }
    for table in [durable, locations].iter().filter(|table| !table.is_empty()) {
        text += &format!("\n{}", table.render(width));
    }
    text
}

fn candidate(candidate: &Candidate) -> String {
    let Candidate { variable, join, beside, .. } = candidate;
    match (join.as_str(), beside) {
        ("", _) => format!("${variable}"),
        (join, false) => format!("${variable}/{join}"),
        (join, true) => format!("{join} beside ${variable}"),
    }
}

fn kind(format: Format) -> String {
    match format {
        Format::Directory => "folder",
        Format::Json => "JSON",
        Format::Sqlite => "SQLite",
    }
    .to_owned()
}

fn variables(variables: &[Variable], width: Option<u16>) -> String {
    let mut table = Table::new(["VARIABLE", "NEED", "KEPT IN", "VALUE", "WHAT FOR"]);
    for variable in variables {
        let mut value = match &variable.value {
            Some(value) => value.clone(),
            None => variable.shape.in_words(),
        };
        if variable.secret {
            value = format!("secret: {value}");
        }
        table.row([variable.name.clone(), need(variable), source(variable.source), value, variable.note.clone()]);
    }
    table.render(width)
}

fn need(variable: &Variable) -> String {
    let all = |conditions: &[Condition], between: &str| {
        conditions.iter().map(ToString::to_string).collect::<Vec<_>>().join(between)
    };
    let mut text = match variable.need {
        Need::Required => "required",
        Need::DurableMetadata => "durable metadata",
        Need::Hardening => "hardening",
        Need::Optional => "optional",
    }
    .to_owned();
    if !variable.when.is_empty() {
        text += &format!(" when {}", all(&variable.when, " and "));
    }
    if let Some(words) = &variable.only_if {
        text += &format!(" if {words}");
    }
    if !variable.or.is_empty() {
        text += &format!(", or {}", variable.or.join(" or "));
    }
    if !variable.required_when.is_empty() {
        text += &format!("; required when {}", all(&variable.required_when, " or "));
    }
    text
}

fn source(source: Source) -> String {
    match source {
        Source::OnePassword => "1Password",
        Source::Railway => "Railway",
        Source::SecretManager => "secret manager",
        Source::Platform => "platform",
    }
    .to_owned()
}

fn requests(service: &Service, width: Option<u16>) -> String {
    let mut probes = Table::new(["PROBE", "REQUEST", "RIGHT ANSWERS"]);
    for probe in &service.probes {
        let answers = probe.expect.iter().map(|answer| {
            let kind = answer.content_type.as_deref().map(|kind| format!(" {kind}")).unwrap_or_default();
            let says = answer.says.as_deref().map(|says| format!(" ({says})")).unwrap_or_default();
            format!("{}{kind}{says}", statuses(&answer.status))
        });
        probes.row([
            probe.name.clone(),
            format!("{} {}", probe.method.as_str(), probe.path),
            answers.collect::<Vec<_>>().join(", or "),
        ]);
    }
    let mut rows = Table::new(["PROTECTED", "WHO GETS WHICH STATUS"]);
    let order: Vec<&str> = identities(service);
    for row in &service.auth {
        let answer = |name: &&str| row.answers.get(*name).map(|some| format!("{name} {}", statuses(some)));
        let answers: Vec<String> = order.iter().filter_map(answer).collect();
        rows.row([format!("{} {}", row.method.as_str(), row.path), answers.join(", ")]);
    }
    [probes, rows].iter().filter(|table| !table.is_empty()).map(|table| format!("\n{}", table.render(width))).collect()
}

/// All who appear in the matrix: nobody first, then as the profile names them.
fn identities(service: &Service) -> Vec<&str> {
    let named = service.identities.iter().map(|identity| identity.name.as_str());
    let scopes = service.scoped_tokens.iter().flat_map(|tokens| tokens.scopes.iter().map(String::as_str));
    ["none", "wrong"].into_iter().chain(named).chain(scopes).collect()
}

fn statuses(some: &[u16]) -> String {
    some.iter().map(ToString::to_string).collect::<Vec<_>>().join("/")
}
