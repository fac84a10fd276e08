//! Tests of `cli`.

use clap::{Parser, Subcommand};

use super::*;
use crate::config::args::{IdentityArgs, RecipientArgs, SigningKeyArgs, SnapshotTuningArgs, TrustArgs};
use crate::ui::tests_support::Captured;

/// The program
#[derive(Parser, Debug)]
#[command(name = "opsctl", version)]
struct Cli {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Takes a snapshot
    Snapshot {
        #[command(flatten)]
        tuning: SnapshotTuningArgs,
        #[command(flatten)]
        signing: SigningKeyArgs,
    },
    Restore {
        #[command(flatten)]
        identity: IdentityArgs,
        #[command(flatten)]
        trust: TrustArgs,
        #[arg(long)]
        exclude: Vec<String>,
    },
    Init {
        #[command(flatten)]
        recipients: RecipientArgs,
    },
}

fn args(words: &[&str]) -> Vec<OsString> {
    std::iter::once("opsctl").chain(words.iter().copied()).map(OsString::from).collect()
}

fn style(words: &[&str], variables: &[(&'static str, &'static str)]) -> Style {
    Style::of(&args(words), &Environment::fixed(variables.iter().copied()))
}

fn output(json: bool) -> (Captured, Output) {
    let sink = Captured::default();
    (sink.clone(), Output::to(Box::new(sink), json))
}

fn document(sink: &Captured) -> serde_json::Value {
    serde_json::from_str(&sink.text()).unwrap()
}

#[test]
fn an_error_is_one_document_with_kind_code_message_and_hint() {
    let error = Error::integrity("hash differs\u{1b}[2J AGE-SECRET-KEY-1ABC").hint("run check");
    let (sink, mut out) = output(true);
    let style = Style { json: true, ..Style::default() };
    assert_eq!(render_error(&error, style, &mut out), ExitCode::Integrity);
    assert_eq!(render_error(&error, style, &mut out), ExitCode::Integrity);
    let error = &document(&sink)["error"];
    assert_eq!(error["kind"], "integrity");
    assert_eq!(error["exit_code"], 4);
    assert_eq!(error["message"], "hash differs\\x1b[2J AGE-SECRET-KEY-…");
    assert_eq!(error["hint"], "run check");
}

#[test]
fn text_errors_have_colour_only_when_asked() {
    assert_eq!(error_text("m: c", Some("h"), false), "error: m: c\n  hint: h\n");
    assert!(error_text("m", None, true).starts_with("\u{1b}[1;31merror:\u{1b}[0m m\n"));
}

#[test]
fn wrong_command_lines_exit_2_with_a_document() {
    for words in
        [&["--json", "snapshto"][..], &["snapshot", "--nope", "--json"], &["--json"], &["--json", "--color", "x"]]
    {
        let command = env::augment(Cli::command(), &Environment::fixed([]));
        let error = parse::<Cli>(command, args(words)).unwrap_err();
        let (sink, mut out) = output(true);
        assert_eq!(render_clap_error(&error, style(words, &[]), &mut out), ExitCode::Usage);
        let document = document(&sink);
        assert_eq!(document["error"]["exit_code"], 2, "{words:?}");
        assert!(!document["error"]["message"].as_str().unwrap().is_empty());
        assert!(!document["error"]["hint"].as_str().unwrap().is_empty());
    }
}

#[test]
fn a_misspelt_command_gets_a_hint() {
    let error = parse::<Cli>(Cli::command(), args(&["snapshto"])).unwrap_err();
    let (message, hint) = split_clap_text(&error.render().to_string(), error.kind());
    assert_eq!(message, "unrecognized subcommand 'snapshto'");
    assert!(hint.contains("snapshot"), "{hint}");
}

#[test]
fn help_and_version_are_no_failures() {
    for words in [&["--help"][..], &["--version"], &["snapshot", "--help"]] {
        let error = parse::<Cli>(Cli::command(), args(words)).unwrap_err();
        let (sink, mut out) = output(false);
        assert_eq!(render_clap_error(&error, style(words, &[]), &mut out), ExitCode::Ok);
        assert!(sink.text().contains("opsctl"));
    }
}

#[test]
fn the_style_is_read_off_raw_arguments_and_variables() {
    assert!(style(&["x", "--json"], &[]).json && !style(&["x", "--", "--json"], &[]).json);
    assert!(style(&[], &[("OPSCTL_JSON", "1")]).json && !style(&[], &[("OPSCTL_JSON", "0")]).json);
    assert!(style(&["--color", "always"], &[("NO_COLOR", "1")]).color);
    assert!(style(&[], &[("OPSCTL_COLOR", "always")]).color);
    assert!(!style(&["--color=always", "--color=never"], &[]).color);
}

#[test]
fn every_flag_has_its_variable_and_stands_in_the_documentation() {
    let command = env::augment(Cli::command(), &Environment::fixed([]));
    assert_eq!(env::flags_without_variable(&command), Vec::<String>::new());
    let document = include_str!("../../docs/configuration.md");
    for (flag, variable) in env::flag_variables(&command) {
        assert!(document.contains(&format!("`{variable}`")), "docs/configuration.md lacks {variable} ({flag})");
    }
    for name in config::FILE_KEYS.iter().chain(&env::OTHER_VARIABLES) {
        assert!(document.contains(&format!("`{name}`")), "docs/configuration.md lacks {name}");
    }
}

#[test]
fn completions_and_manual_name_every_command_and_no_value() {
    let command = env::augment(Cli::command(), &Environment::fixed([]));
    for shell in Shell::value_variants() {
        let mut script = Vec::new();
        completions(*shell, &mut command.clone(), &mut script).unwrap();
        assert!(String::from_utf8(script).unwrap().contains("exclude-recoverable"), "{shell}");
    }
    let mut pages = Vec::new();
    man(command, &mut pages).unwrap();
    let pages = String::from_utf8(pages).unwrap();
    for title in [".TH opsctl 1", ".TH opsctl-snapshot 1", ".TH opsctl-restore 1"] {
        assert!(pages.contains(title), "{title}");
    }
    assert!(
        pages.contains("The program") && pages.contains("Takes a snapshot"),
        "groups of flags do not rename commands"
    );
    assert!(pages.replace('\\', "").contains("OPSCTL_STORE"), "{pages}");
}

/// Runs a test of this file in a process of its own, with these variables.
fn in_process(test: &str, variables: &[(&str, &str)]) {
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", &format!("cli::tests::{test}"), "--ignored"]).envs(variables.iter().copied());
    let output = child.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[test]
fn variables_of_the_process_reach_the_arguments() {
    in_process(
        "child_with_variables",
        &[
            ("OPSCTL_STORE", ""),
            ("OPSCTL_SOURCE", "by-variable"),
            ("OPSCTL_JSON", "yes"),
            ("OPSCTL_NO_PROGRESS", "0"),
            ("OPSCTL_VERBOSE", "2"),
            ("OPSCTL_EXCLUDE", "*.tmp\na b/**\n"),
            ("OPSCTL_RECIPIENTS", "age1a age1b,ssh-ed25519 AAAA me@host"),
        ],
    );
}

#[test]
#[ignore = "runs as a child of variables_of_the_process_reach_the_arguments"]
fn child_with_variables() {
    let cli: Cli = parse(augment(Cli::command()), args(&["snapshot"])).unwrap().0;
    assert_eq!(cli.global.store, None, "an empty variable is unset");
    assert_eq!(cli.global.source.as_deref(), Some("by-variable"));
    assert!(cli.global.json && !cli.global.no_progress);
    assert_eq!(cli.global.verbose, 2);
    let Verb::Snapshot { tuning, .. } = cli.command else { panic!("{cli:?}") };
    assert_eq!(tuning.exclude, ["*.tmp", "a b/**"]);

    let cli: Cli = parse(augment(Cli::command()), args(&["snapshot", "--exclude", "x\ny", "--source", "s"])).unwrap().0;
    let Verb::Snapshot { tuning, .. } = cli.command else { panic!() };
    assert_eq!(tuning.exclude, ["x\ny"], "a flag replaces the variable and is not split");
    assert_eq!(cli.global.source.as_deref(), Some("s"));

    let (cli, matches): (Cli, _) = parse(augment(Cli::command()), args(&["restore"])).unwrap();
    let Verb::Restore { exclude, .. } = cli.command else { panic!() };
    assert!(exclude.is_empty(), "what snapshots leave out, a restore does not");
    let settings = Settings::resolve(&matches, &Environment::process()).unwrap();
    assert_eq!(settings.source.origin.to_string(), "variable OPSCTL_SOURCE");
    assert_eq!(settings.snapshot.exclude.value, ["*.tmp", "a b/**"]);

    let cli: Cli = parse(augment(Cli::command()), args(&["init"])).unwrap().0;
    let Verb::Init { recipients } = cli.command else { panic!() };
    assert_eq!(recipients.recipient, ["age1a", "age1b", "ssh-ed25519 AAAA me@host"]);
}
