//! The outermost layer of the command line: parsing, logging, rendering of errors, completions and manual pages.
//!
//! Invariants:
//! * Every way to end has its exit code from [`ExitCode`]; a wrong command line is 2.
//! * With `--json` (or `OPSCTL_JSON`) every failure gives one JSON document on stdout, also when the command line itself
//!   could not be understood.
//! * A command that already wrote its document and then fails adds no second one.
//! * A panic is a failure like any other, and tells no secret either.

use std::ffi::OsString;
use std::io::{IsTerminal as _, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};

use clap::error::ErrorKind;
use clap::{Arg, ArgMatches, Command, CommandFactory, FromArgMatches, ValueEnum as _};
use clap_complete::Shell;
use serde::Serialize;

pub use crate::config::GlobalArgs;
use crate::config::{self, Environment, Settings, env};
use crate::error::{Context as _, Error, Result};
use crate::exit::ExitCode;
use crate::secret;
use crate::ui::{self, ColorChoice, Output};

/// Gives every flag of the command tree its `OPSCTL_…` variable.
#[must_use]
pub fn augment(command: Command) -> Command {
    env::augment(command, &Environment::process())
}

/// Runs one command line: parses it, finds the settings, starts logging, calls `body`, and renders what failed.
///
/// `args` include the program's name.
pub fn run<C, F>(args: impl IntoIterator<Item = OsString>, body: F) -> ExitCode
where
    C: CommandFactory + FromArgMatches,
    F: FnOnce(C, &Settings, &mut Output) -> Result<ExitCode>,
{
    ui::report_panics();
    let args: Vec<OsString> = args.into_iter().collect();
    let environment = Environment::process();
    let style = Style::of(&args, &environment);
    let mut output = Output::stdout(style.json);
    let attempt = AssertUnwindSafe(|| attempt(args, &environment, style, &mut output, body));
    let code = catch_unwind(attempt).unwrap_or_else(|_| after_panic(style, &mut output));
    // Nothing is said any more.
    secret::forget();
    code
}

fn attempt<C, F>(args: Vec<OsString>, environment: &Environment, style: Style, output: &mut Output, body: F) -> ExitCode
where
    C: CommandFactory + FromArgMatches,
    F: FnOnce(C, &Settings, &mut Output) -> Result<ExitCode>,
{
    let command = env::augment(C::command(), environment);
    let unknown = env::unknown_variables(&command, environment);
    let (cli, matches) = match parse::<C>(command, args) {
        Ok(parsed) => parsed,
        Err(error) => return render_clap_error(&error, style, output),
    };
    let settings = match Settings::resolve(&matches, environment) {
        Ok(settings) => settings,
        Err(error) => return render_error(&error, style, output),
    };
    init_logging(&settings);
    for (name, near) in unknown {
        let hint = near.map(|near| format!(", did you mean {near}?")).unwrap_or_default();
        ui::warn(format!("the variable {name} is set, but nothing reads it{hint}"));
    }
    *output = Output::stdout(settings.json.value);
    match body(cli, &settings, output) {
        Ok(code) => code,
        Err(error) => render_error(&error, Style { json: settings.json.value, ..style }, output),
    }
}

/// What is left to do after a panic in this thread, of which stderr has been told.
fn after_panic(style: Style, output: &mut Output) -> ExitCode {
    let error =
        Error::new(ExitCode::Failed, "opsctl has a bug, and stopped").hint("stderr says where; please report it");
    write_error_document(ErrorBody::of(&error), Style { json: output.is_json(), ..style }, output);
    error.code()
}

fn parse<C: FromArgMatches>(mut command: Command, args: Vec<OsString>) -> Result<(C, ArgMatches), clap::Error> {
    let matches = command.try_get_matches_from_mut(args)?;
    let cli = C::from_arg_matches(&matches).map_err(|error| error.format(&mut command))?;
    Ok((cli, matches))
}

/// Starts logging to stderr as the settings say.
pub fn init_logging(settings: &Settings) {
    let lines = progress(settings).writes_lines();
    ui::init_logging(settings.log_format.value, &settings.run_id.value, settings.verbosity.value, lines);
}

/// How progress is shown: as the settings say, and not at all with `-q`.
#[must_use]
pub fn progress(settings: &Settings) -> ui::Progress {
    let wanted = settings.progress.value && settings.verbosity.value >= 0;
    ui::Progress::new(wanted, settings.log_format.value == ui::LogFormat::Json)
}

/// What every command gives with `--json` when it fails.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct ErrorDocument {
    /// The failure.
    pub error: ErrorBody,
}

/// A failure.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct ErrorBody {
    /// The exit code's word, such as `not_found`.
    pub kind: &'static str,
    /// The exit code.
    pub exit_code: u8,
    /// What failed, and why.
    pub message: String,
    /// What to do next, if that is known.
    pub hint: Option<String>,
}

impl ErrorBody {
    /// What `--json` says of a failure.
    #[must_use]
    pub fn of(error: &Error) -> Self {
        let safe = |text: &str| ui::escape(&ui::redact(text));
        let (code, message) = (error.code(), safe(&error.full_message()));
        Self { kind: code.name(), exit_code: code.code(), message, hint: error.hint_text().map(safe) }
    }
}

/// How errors look; known before the command line is understood.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Style {
    /// A JSON document on stdout, too.
    pub json: bool,
    /// Colour on stderr.
    pub color: bool,
    /// Colour on stdout, for help.
    color_stdout: bool,
}

impl Style {
    /// Reads `--json` and `--color` off the raw arguments, anywhere before `--`, so that also a command line that cannot be
    /// parsed fails in the wanted form.
    #[must_use]
    pub fn of(args: &[OsString], environment: &Environment) -> Self {
        let words = || args.iter().skip(1).take_while(|arg| *arg != "--").filter_map(|arg| arg.to_str());
        let named = words().zip(words().skip(1)).filter(|(flag, _)| *flag == "--color").map(|(_, value)| value);
        let joined = words().filter_map(|word| word.strip_prefix("--color="));
        let variable = environment.text("OPSCTL_COLOR").ok().flatten();
        let choice = named.chain(joined).last().or(variable.as_deref());
        let choice = choice.and_then(|word| ColorChoice::from_str(word, false).ok()).unwrap_or_default();
        let json = environment.text("OPSCTL_JSON").ok().flatten().is_some_and(|text| config::truthy(&text));
        let no_color = environment.get("NO_COLOR").is_some();
        Self {
            json: json || words().any(|word| word == "--json"),
            color: choice.decide(std::io::stderr().is_terminal(), no_color),
            color_stdout: choice.decide(std::io::stdout().is_terminal(), no_color),
        }
    }
}

/// Says what failed: text on stderr, and with `--json` the error document on stdout. Returns the exit code.
pub fn render_error(error: &Error, style: Style, output: &mut Output) -> ExitCode {
    let body = ErrorBody::of(error);
    let (message, hint) = (&body.message, body.hint.as_deref());
    if ui::logs_are_json() {
        tracing::error!(kind = body.kind, hint, "{message}");
    } else {
        ui::error_lines(&error_text(message, hint, style.color));
    }
    write_error_document(body, style, output);
    error.code()
}

fn error_text(message: &str, hint: Option<&str>, color: bool) -> String {
    let (red, bold, end) = if color { ("\u{1b}[1;31m", "\u{1b}[1m", "\u{1b}[0m") } else { ("", "", "") };
    let hint = hint.map(|hint| format!("  {bold}hint:{end} {hint}\n")).unwrap_or_default();
    format!("{red}error:{end} {message}\n{hint}")
}

/// The error document, unless the command's own document is already out: there is only one.
fn write_error_document(error: ErrorBody, style: Style, output: &mut Output) {
    if !style.json || output.has_document() {
        return;
    }
    // stdout is broken as well: stderr has the message, and the exit code says the rest.
    let _ = output.document(&ErrorDocument { error });
}

/// Renders what clap ends with: help and version on stdout (exit 0), usage errors as errors (exit 2).
pub fn render_clap_error(error: &clap::Error, style: Style, output: &mut Output) -> ExitCode {
    let styled = error.render();
    let text = |color: bool| ui::redact(&if color { styled.ansi().to_string() } else { styled.to_string() });
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return match output.raw(text(style.color_stdout).as_bytes()) {
            Ok(()) => ExitCode::Ok,
            Err(failure) => render_error(&failure, Style { json: false, ..style }, output),
        };
    }
    ui::error_lines(&text(style.color));
    let plain = text(false);
    let (message, hint) = split_clap_text(&plain, error.kind());
    let (kind, exit_code) = (ExitCode::Usage.name(), ExitCode::Usage.code());
    write_error_document(ErrorBody { kind, exit_code, message, hint: Some(hint) }, style, output);
    ExitCode::Usage
}

/// Message and hint out of clap's text: the paragraph after `error:`, and its tips.
fn split_clap_text(text: &str, kind: ErrorKind) -> (String, String) {
    const HELP: &str = "`--help` shows how it is used";
    if kind == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return ("a command is missing".into(), HELP.into());
    }
    let one_line = |lines: &str| lines.split_whitespace().collect::<Vec<_>>().join(" ");
    let message = text.strip_prefix("error: ").unwrap_or(text).split("\n\n").next().unwrap_or_default();
    let tips: Vec<String> = text.lines().filter_map(|line| line.trim().strip_prefix("tip: ")).map(one_line).collect();
    let hint = if tips.is_empty() { HELP.to_owned() } else { tips.join("; ") };
    (ui::escape(&one_line(message)), ui::escape(&hint))
}

/// Writes the completion script of a shell.
pub fn completions(shell: Shell, command: &mut Command, out: &mut dyn Write) -> Result<()> {
    // In memory first: the generator panics where a write fails, such as on a closed pipe.
    let mut script = Vec::new();
    let name = command.get_name().to_owned();
    clap_complete::generate(shell, command, name, &mut script);
    out.write_all(&script).context(|| "writing the completion script".into())
}

/// Writes the manual: a page for the program, then one for each command.
pub fn man(command: Command, out: &mut dyn Write) -> Result<()> {
    let mut command = command;
    command.build();
    let name = command.get_name().to_owned();
    manual_page(command, &name, out)
}

fn manual_page(command: Command, name: &str, out: &mut dyn Write) -> Result<()> {
    let command = command.mut_args(name_variable);
    let deeper: Vec<Command> = command.get_subcommands().filter(|sub| sub.get_name() != "help").cloned().collect();
    let page = command.name(name.to_owned()).display_name(name.to_owned());
    let mut text = Vec::new();
    clap_mangen::Man::new(page).render(&mut text).context(|| "making the manual page".into())?;
    out.write_all(&text).context(|| "writing the manual page".into())?;
    for sub in deeper {
        let name = format!("{name}-{}", sub.get_name());
        manual_page(sub, &name, out)?;
    }
    Ok(())
}

/// Adds the variable to a flag's help: the generator leaves it out.
fn name_variable(arg: Arg) -> Arg {
    let Some(variable) = arg.get_env().map(|name| name.to_string_lossy().into_owned()) else { return arg };
    let help = arg.get_long_help().or(arg.get_help()).map(ToString::to_string).unwrap_or_default();
    let help = format!("{help} [variable: {variable}]");
    arg.help(help.clone()).long_help(help)
}

#[cfg(test)]
mod tests;
