//! Tests of `config::env`.

use super::*;

#[test]
fn names_follow_the_rule_and_its_exceptions() {
    let of = |command: &str, arg: Arg| variable_of(command, &arg);
    let name = |name: &str| Some(name.to_owned());
    assert_eq!(of("x", Arg::new("a").long("state-dir").value_name("DIR")), name("OPSCTL_STATE_DIR"));
    assert_eq!(of("x", Arg::new("a").long("identity").value_name("FILE")), name("OPSCTL_IDENTITY_FILE"));
    assert_eq!(of("x", Arg::new("a").long("recipients-file").value_name("FILE")), name("OPSCTL_RECIPIENTS_FILE"));
    assert_eq!(of("x", Arg::new("a").long("config").value_name("FILE")), name("OPSCTL_CONFIG"));
    assert_eq!(of("x", Arg::new("a").long("profile").value_name("NAME|FILE")), name("OPSCTL_PROFILE"));
    assert_eq!(of("init", Arg::new("a").long("recipient")), name("OPSCTL_RECIPIENTS"));
    assert_eq!(of("snapshot", Arg::new("a").long("exclude")), name("OPSCTL_EXCLUDE"));
    assert_eq!(of("restore", Arg::new("a").long("exclude")), name("OPSCTL_RESTORE_EXCLUDE"));
    assert_eq!(of("doctor", Arg::new("a").long("strict")), name("OPSCTL_DOCTOR_STRICT"));
    assert_eq!(of("verify", Arg::new("a").long("strict")), name("OPSCTL_VERIFY_STRICT"));
    assert_eq!(of("restore", Arg::new("a").long("verify-strict")), name("OPSCTL_VERIFY_STRICT"));
    assert_eq!(of("x", Arg::new("a").short('a')), None);
    assert_eq!(of("x", Arg::new("a").long("help").action(ArgAction::Help)), None);
}

#[test]
fn no_value_is_shown_in_help() {
    let command = Command::new("opsctl").arg(Arg::new("store").long("store").action(ArgAction::Set));
    let mut command = augment(command, &Environment::fixed([]));
    assert!(command.get_arguments().all(Arg::is_hide_env_values_set));
    assert!(command.render_long_help().to_string().contains("[env: OPSCTL_STORE]"));
}

#[test]
fn keys_are_split_but_ssh_keys_stay_whole() {
    assert_eq!(split_keys("age1a age1b,age1c\nage1d"), ["age1a", "age1b", "age1c", "age1d"]);
    assert_eq!(
        split_keys("ssh-ed25519 AAAA me@host, age1a\nssh-rsa BBBB\n\n# note\n  RWQa  RWQb "),
        ["ssh-ed25519 AAAA me@host", "age1a", "ssh-rsa BBBB", "RWQa", "RWQb"]
    );
    assert_eq!(split_list("OPSCTL_EXCLUDE", "a b, c\r\n\n*.tmp\n"), ["a b, c", "*.tmp"]);
}

#[test]
fn misspelt_variables_are_found() {
    let command = Command::new("opsctl").arg(Arg::new("store").long("store").action(ArgAction::Set));
    let environment = Environment::fixed([
        ("OPSCTL_STROE", "x"),
        ("OPSCTL_STORE", "x"),
        ("OPSCTL_IDENTITY", "x"),
        ("OPSCTL_EMPTY", ""),
        ("OTHER", "x"),
    ]);
    let found = unknown_variables(&command, &environment);
    assert_eq!(found, [("OPSCTL_STROE".to_owned(), Some("OPSCTL_STORE".to_owned()))]);
}

#[test]
fn an_environment_never_shows_a_value() {
    let environment = Environment::fixed([("OPSCTL_IDENTITY", "hunter2")]);
    assert!(!format!("{environment:?} {:?}", environment.secret("OPSCTL_IDENTITY")).contains("hunter2"));
}

#[test]
fn nearest_words() {
    assert_eq!(nearest("sorce", ["store", "source"]), Some("source".into()));
    assert_eq!(nearest("zzzzzz", ["store", "source"]), None);
    assert_eq!(nearest("x", []), None);
}
