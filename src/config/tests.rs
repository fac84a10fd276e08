//! Tests of the layers together.

use std::path::Path;

use clap::{Args as _, Command};
use secrecy::ExposeSecret as _;

use super::args::{IdentityArgs, RecipientArgs, SigningKeyArgs, SnapshotTuningArgs, TrustArgs};
use super::*;
use crate::ExitCode;

fn nobody(_: &crate::providers::onepassword::Reference) -> crate::Result<secrecy::SecretString> {
    panic!("nothing refers to 1Password here")
}

fn command() -> Command {
    let command = GlobalArgs::augment_args(Command::new("opsctl"));
    let run = SnapshotTuningArgs::augment_args(Command::new("run"));
    let run = SigningKeyArgs::augment_args(IdentityArgs::augment_args(run));
    let run = RecipientArgs::augment_args(TrustArgs::augment_args(run));
    command.subcommand(run).subcommand(Command::new("bare"))
}

fn resolve_in(folder: &Path, words: &str, variables: &[(&'static str, &'static str)]) -> Result<Settings> {
    let words = std::iter::once("opsctl").chain(words.split_whitespace());
    let matches = command().try_get_matches_from(words).unwrap();
    Settings::resolve_in(folder, &matches, &Environment::fixed(variables.iter().copied()))
}

fn resolve(words: &str, variables: &[(&'static str, &'static str)]) -> Result<Settings> {
    resolve_in(Path::new("/nonexistent"), words, variables)
}

fn folder_with(config: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("opsctl.toml"), config).unwrap();
    folder
}

fn value_and_origin(settings: &Settings, name: &str) -> (Option<String>, String) {
    let row = rows(settings).into_iter().find(|row| row.name == name).unwrap();
    (row.value, row.origin)
}

#[test]
fn flag_beats_variable_beats_file_beats_profile_beats_default() {
    let folder = folder_with("store = \"file:///f\"\nsource = \"by-file\"\ntz = \"Europe/Berlin\"\n");
    let path = folder.path().join("opsctl.toml");
    let variables = [("OPSCTL_STORE", "file:///v"), ("OPSCTL_SOURCE", "by-variable")];
    let settings = resolve_in(folder.path(), "run --store file:///a", &variables).unwrap();
    assert_eq!(settings.store, Sourced { value: Some("file:///a".into()), origin: Origin::Flag });
    assert_eq!(settings.source.value, "by-variable");
    assert_eq!(settings.source.origin, Origin::Variable("OPSCTL_SOURCE".into()));
    assert_eq!(settings.tz.origin, Origin::File(path));
    assert_eq!(value_and_origin(&settings, "tz").0.as_deref(), Some("Europe/Berlin"));
    assert_eq!(value_and_origin(&settings, "data-root"), (Some("/data".into()), "profile openwork".into()));
    assert_eq!(settings.log_format, Sourced::default(LogFormat::Text));
    let settings = resolve_in(folder.path(), "--source x bare", &[]).unwrap();
    assert_eq!(settings.source.origin, Origin::Flag, "a global flag may stand before the command");
}

#[test]
fn an_empty_variable_is_unset() {
    let settings = resolve("bare", &[("OPSCTL_STORE", ""), ("OPSCTL_SOURCE", "")]).unwrap();
    assert_eq!(settings.store.value, None);
    assert_eq!(settings.named_source(), None);
    assert_eq!(settings.store_url().unwrap_err().code(), ExitCode::Usage);
}

#[test]
fn the_source_falls_back_to_the_service_then_to_default() {
    let railway = ("RAILWAY_SERVICE_NAME", "openwork-production");
    let settings = resolve("bare", &[railway]).unwrap();
    assert_eq!(settings.source.value, "openwork-production");
    assert_eq!(settings.named_source(), None, "a reader does not mean the service that it runs in");
    assert_eq!(resolve("bare", &[railway, ("OPSCTL_SOURCE", "s")]).unwrap().named_source(), Some("s"));
    assert_eq!(resolve("bare", &[railway, ("OPSCTL_SOURCE", "s")]).unwrap().source.value, "s");
    assert_eq!(resolve("bare", &[]).unwrap().source, Sourced::default("default".into()));
    let error = resolve("bare", &[("RAILWAY_SERVICE_NAME", "my service")]).unwrap_err();
    assert!(error.hint_text().unwrap().contains("OPSCTL_SOURCE"));
}

#[test]
fn malformed_settings_exit_2_and_name_their_place() {
    for (words, variables, place) in [
        ("bare --source .x", &[][..], "flag"),
        ("bare", &[("OPSCTL_SOURCE", "a/b")], "variable OPSCTL_SOURCE"),
        ("bare --tz Mars", &[], "flag"),
        ("bare", &[("OPSCTL_STORE", "ftp://x/y")], "variable OPSCTL_STORE"),
        ("bare", &[("OPSCTL_UPLOAD_CONCURRENCY", "0")], "variable OPSCTL_UPLOAD_CONCURRENCY"),
        ("run --memory 1KiB", &[], "flag"),
        ("bare", &[("OPSCTL_LOG_FORMAT", "xml")], "variable OPSCTL_LOG_FORMAT"),
        ("bare --config /nonexistent/x.toml", &[], "/nonexistent/x.toml"),
        ("bare --profile nope", &[], "flag"),
        ("bare --run-id a/b", &[], "flag"),
    ] {
        let error = resolve(words, variables).unwrap_err();
        assert_eq!(error.code(), ExitCode::Usage, "{words}");
        assert!(error.full_message().contains(place), "{}", error.full_message());
    }
    let folder = folder_with("[snapshot]\nmemory = \"lots\"\n");
    let error = resolve_in(folder.path(), "bare", &[]).unwrap_err().full_message();
    assert!(error.contains("opsctl.toml") && error.contains("memory"), "{error}");
}

#[test]
fn a_password_in_the_store_url_is_refused_and_not_repeated() {
    let error = resolve("bare", &[("OPSCTL_STORE", "s3://key:hunter2@bucket")]).unwrap_err();
    assert!(!format!("{error:?}").contains("hunter2"));
}

#[test]
fn paths_of_the_file_are_relative_to_it() {
    let folder = folder_with("state_dir = \"state\"\nidentity_file = \"id.txt\"\nsigning_key_file = \"/k\"\n");
    let settings = resolve_in(folder.path(), "bare", &[]).unwrap();
    assert_eq!(settings.state_dir.value, Some(folder.path().join("state")));
    assert_eq!(settings.identity.value, Some(KeySource::File(folder.path().join("id.txt"))));
    assert_eq!(settings.signing_key.value, Some(KeySource::File("/k".into())));
}

#[test]
fn keys_come_from_flag_then_variable_and_rivals_are_refused() {
    let both = [("OPSCTL_IDENTITY", "hunter2"), ("OPSCTL_IDENTITY_FILE", "/f")];
    let error = resolve("bare", &both).unwrap_err();
    assert!(error.full_message().contains("both OPSCTL_IDENTITY and OPSCTL_IDENTITY_FILE"));
    assert_eq!(resolve("run --identity /g", &both).unwrap().identity.value, Some(KeySource::File("/g".into())));
    assert_eq!(resolve("bare", &both[1..]).unwrap().identity.value, Some(KeySource::File("/f".into())));

    let environment = Environment::fixed([both[0]]);
    let settings = resolve("bare", &both[..1]).unwrap();
    assert_eq!(settings.read_identity(&environment, &nobody).unwrap().unwrap().expose_secret(), "hunter2");
    assert!(settings.read_signing_key(&environment, &nobody).unwrap().is_none());
    assert!(!format!("{settings:?}").contains("hunter2"));
    assert!(resolve("run --identity - --signing-key -", &[]).is_err(), "standard input has one key only");
}

#[test]
fn recipients_of_the_highest_layer_win_whole() {
    let folder = folder_with("recipients = [\"age1file\"]\n");
    let list = folder.path().join("recipients");
    std::fs::write(&list, "# ops\nage1x\n\nssh-ed25519 AAAA me\n").unwrap();
    let of = |words: &str, variables: &[(&'static str, &'static str)]| {
        resolve_in(folder.path(), words, variables).unwrap().recipients
    };
    assert_eq!(of("bare", &[]).value, ["age1file"]);
    let variable = [("OPSCTL_RECIPIENTS", "age1a, ssh-ed25519 AAAA c\nage1b")];
    assert_eq!(of("bare", &variable).value, ["age1a", "ssh-ed25519 AAAA c", "age1b"]);
    let flags = format!("run --recipient age1flag --recipients-file {}", list.display());
    assert_eq!(of(&flags, &variable).value, ["age1flag", "age1x", "ssh-ed25519 AAAA me"]);
    let file_flag = format!("run --recipients-file {}", list.display());
    assert_eq!(of(&file_flag, &variable), Sourced { value: of(&flags, &[]).value[1..].to_vec(), origin: Origin::Flag });
}

#[test]
fn a_secret_among_public_keys_is_refused_and_not_repeated() {
    let error = resolve("bare", &[("OPSCTL_RECIPIENTS", "AGE-SECRET-KEY-1HUNTER")]).unwrap_err();
    assert!(!format!("{error:?}").contains("HUNTER"));
}

#[test]
fn snapshot_settings_have_their_layers_too() {
    let folder = folder_with("[snapshot]\nexclude = [\"a\"]\nexclude_recoverable = true\nmemory = \"1GiB\"\n");
    let settings = resolve_in(folder.path(), "bare", &[("OPSCTL_EXCLUDE_RECOVERABLE", "no")]).unwrap().snapshot;
    assert_eq!(settings.exclude.value, ["a"]);
    assert!(!settings.exclude_recoverable.value, "the variable beats the file");
    assert_eq!((settings.memory.value, settings.upload_concurrency.value), (1 << 30, 2));
    let settings =
        resolve_in(folder.path(), "run --exclude b --exclude c", &[("OPSCTL_EXCLUDE", "v")]).unwrap().snapshot;
    assert_eq!(settings.exclude, Sourced { value: vec!["b".into(), "c".into()], origin: Origin::Flag });
}

#[test]
fn verbosity_counts_up_and_down_and_a_flag_beats_a_variable() {
    let level =
        |words: &str, variables: &[(&'static str, &'static str)]| resolve(words, variables).unwrap().verbosity.value;
    assert_eq!(level("bare", &[]), 0);
    assert_eq!(level("-vv bare", &[]), 2);
    assert_eq!(level("bare -q", &[("OPSCTL_VERBOSE", "3")]), -1);
    assert_eq!(level("bare -v", &[("OPSCTL_QUIET", "2")]), 1);
    assert_eq!(level("bare", &[("OPSCTL_VERBOSE", "1")]), 1);
}

#[test]
fn the_listing_names_everything_once_and_hides_secrets() {
    let variables = [("OPSCTL_IDENTITY", "hunter2"), ("OPSCTL_SIGNING_KEY", "hunter3")];
    let settings = resolve("bare --run-id r1", &variables).unwrap();
    let rows = rows(&settings);
    let text = rows_table(&rows, None) + &serde_json::to_string(&rows).unwrap();
    assert!(!text.contains("hunter"), "{text}");
    assert_eq!(
        value_and_origin(&settings, "identity"),
        (Some("(set, hidden)".into()), "variable OPSCTL_IDENTITY".into())
    );
    assert_eq!(value_and_origin(&settings, "run-id"), (Some("r1".into()), "flag".into()));
    let mut names: Vec<_> = rows.iter().map(|row| row.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), rows.len());
    for key in FILE_KEYS {
        let name = key.trim_start_matches("snapshot.").trim_end_matches("_file").replace('_', "-");
        assert!(names.contains(&name.as_str()), "{key} has no row");
    }
}
