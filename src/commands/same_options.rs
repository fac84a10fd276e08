//! The options of a restore that a message repeats, so that the command which it offers can be pasted.

use super::restore::RestoreArgs;
use crate::config::{KeySource, Origin, Settings, Sourced};
use crate::ui::shell_word;

/// What was given by flag and is needed again: store, keys, trust and the service. Which snapshot, and what of it, is for
/// the message to say.
pub(super) fn same_options(args: &RestoreArgs, settings: &Settings) -> String {
    let mut words = Vec::new();
    let mut add = |flag: &str, value: Option<String>| {
        words.extend(value.map(|value| format!("{flag} {}", shell_word(value))));
    };
    add("--config", flagged(&settings.config, |path| Some(path.as_ref()?.display().to_string())));
    let profile = |profile: &crate::config::Profile| match &settings.profile_file {
        Some(file) => Some(file.display().to_string()),
        None => Some(profile.name.clone()),
    };
    add("--profile", flagged(&settings.profile, profile));
    add("--store", flagged(&settings.store, Clone::clone));
    add("--source", flagged(&settings.source, |source| Some(source.clone())));
    add("--state-dir", flagged(&settings.state_dir, |dir| Some(dir.as_ref()?.display().to_string())));
    let file = |source: &Option<KeySource>| match source.as_ref()? {
        KeySource::File(path) => Some(path.display().to_string()),
        KeySource::Stdin => Some("-".to_owned()),
        KeySource::Reference(reference) => Some(reference.to_string()),
        KeySource::Variable(_) => None,
    };
    add("--identity", flagged(&settings.identity, file));
    for signer in flagged(&settings.trusted_signers, |all| Some(all.clone())).unwrap_or_default() {
        add("--trusted-signer", Some(signer));
    }
    add("--stop-cmd", args.stop_cmd.clone());
    add("--start-cmd", args.start_cmd.clone());
    add("--verify-url", args.verify_url.clone());
    add("--verify-timeout", args.verify_url.as_ref().map(|_| args.verify_timeout.to_string()));
    for file in &args.token_file {
        add("--token-file", Some(file.clone()));
    }
    let switches = [
        ("--verify-strict", args.verify_strict),
        ("--trust-store-keys", args.read.trust.trust_store_keys),
        ("--ignore-store-time", args.read.trust.ignore_store_time),
        ("--no-rollback", args.no_rollback),
    ];
    words.extend(switches.iter().filter(|(_, is_given)| *is_given).map(|(flag, _)| (*flag).to_owned()));
    words.join(" ")
}

/// The value, if it came by flag: variables and files are there again by themselves.
fn flagged<T, V>(setting: &Sourced<T>, value: impl FnOnce(&T) -> Option<V>) -> Option<V> {
    if setting.origin == Origin::Flag { value(&setting.value) } else { None }
}
