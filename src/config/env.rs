//! Environment variables: which flag has which, and how they are read.
//!
//! Why by walking the command tree: a flag that somebody adds later has its variable at once, and a test can prove that
//! none is without.
//!
//! Invariants: an empty variable is an unset one; no value of a variable is ever shown in help or completions; values of
//! the secret variables are read only where a key is needed, and are never kept here.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;

use clap::builder::FalseyValueParser;
use clap::{Arg, ArgAction, Command};
use secrecy::SecretString;
use zeroize::Zeroizing;

use crate::error::{Error, Result};

/// Variables that no flag stands for.
pub const OTHER_VARIABLES: [&str; 6] = [
    "OPSCTL_IDENTITY",
    "OPSCTL_SIGNING_KEY",
    "OPSCTL_RECIPIENTS_FILE",
    "OPSCTL_STORE_ID",
    "OPSCTL_OP_BIN",
    "OPSCTL_RAILWAY_URL",
];

/// Flags whose variable does not follow the rule: (command, or "" for any; flag; variable).
///
/// One variable has one meaning: `restore --exclude` has a name of its own, because a host that sets `OPSCTL_EXCLUDE` for its
/// nightly snapshots must not thereby leave files out of a restore; and what is strict differs from command to command.
const EXCEPTIONS: [(&str, &str, &str); 6] = [
    ("", "config", "OPSCTL_CONFIG"),
    ("", "recipient", "OPSCTL_RECIPIENTS"),
    ("", "trusted-signer", "OPSCTL_TRUSTED_SIGNERS"),
    ("restore", "exclude", "OPSCTL_RESTORE_EXCLUDE"),
    ("doctor", "strict", "OPSCTL_DOCTOR_STRICT"),
    ("verify", "strict", "OPSCTL_VERIFY_STRICT"),
];

/// Where variables are read from: the process, or a fixed set in tests.
pub struct Environment(Option<BTreeMap<String, OsString>>);

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Environment(fixed)" } else { "Environment(process)" })
    }
}

impl Environment {
    /// The variables of this process.
    #[must_use]
    pub const fn process() -> Self {
        Self(None)
    }

    /// Exactly these variables.
    pub fn fixed<'a>(variables: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        Self(Some(variables.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect()))
    }

    /// The value of a variable; an empty one counts as unset.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<OsString> {
        let value = match &self.0 {
            Some(fixed) => fixed.get(name).cloned(),
            None => std::env::var_os(name),
        };
        value.filter(|value| !value.is_empty())
    }

    /// The value of a variable as text; other bytes than UTF-8 are an error that does not repeat them.
    pub fn text(&self, name: &str) -> Result<Option<String>> {
        let as_text = |value: OsString| {
            value.into_string().map_err(|_| Error::usage(format!("the variable {name} is not valid UTF-8")))
        };
        self.get(name).map(as_text).transpose()
    }

    /// The value of a secret variable.
    pub fn secret(&self, name: &str) -> Result<Option<SecretString>> {
        Ok(self.text(name)?.map(SecretString::from))
    }

    /// The names of all `OPSCTL_…` variables that are set.
    #[must_use]
    pub fn own_names(&self) -> Vec<String> {
        let names: Vec<String> = match &self.0 {
            Some(fixed) => fixed.keys().cloned().collect(),
            None => std::env::vars_os().filter_map(|(name, value)| own_name(name, value)).collect(),
        };
        names.into_iter().filter(|name| name.starts_with("OPSCTL_") && self.get(name).is_some()).collect()
    }
}

/// The name, and of the copy of the value nothing is left: it may be a secret's.
fn own_name(name: OsString, value: OsString) -> Option<String> {
    drop(Zeroizing::new(value.into_encoded_bytes()));
    name.into_string().ok()
}

/// The variable of a flag: its long name in upper case, `_FILE` added where the value is a FILE.
///
/// `None` for arguments without a long name, and for help and version.
#[must_use]
pub fn variable_of(command: &str, arg: &Arg) -> Option<String> {
    use ArgAction::{Help, HelpLong, HelpShort, Version};
    let long = arg.get_long()?;
    if matches!(arg.get_action(), Help | HelpLong | HelpShort | Version) {
        return None;
    }
    let exception = EXCEPTIONS.iter().find(|(of, flag, _)| (of.is_empty() || *of == command) && *flag == long);
    if let Some((_, _, variable)) = exception {
        return Some((*variable).to_owned());
    }
    let name = long.to_ascii_uppercase().replace('-', "_");
    let takes_file = arg.get_value_names().is_some_and(|names| names.iter().any(|value| value.as_str() == "FILE"));
    let suffix = if takes_file && !name.ends_with("_FILE") && name != "FILE" { "_FILE" } else { "" };
    Some(format!("OPSCTL_{name}{suffix}"))
}

/// Gives every flag of the command tree its variable.
#[must_use]
pub fn augment(command: Command, environment: &Environment) -> Command {
    let name = command.get_name().to_owned();
    command
        .mut_args(|arg| match variable_of(&name, &arg) {
            Some(variable) => with_variable(arg, variable, environment),
            None => arg,
        })
        .mut_subcommands(|sub| augment(sub, environment))
}

/// Binds one flag to its variable.
fn with_variable(arg: Arg, variable: String, environment: &Environment) -> Arg {
    let arg = arg.hide_env_values(true);
    let arg = match arg.get_action() {
        ArgAction::SetTrue => arg.value_parser(FalseyValueParser::new()),
        _ => arg,
    };
    let value = environment.get(&variable);
    let is_empty_in_process = std::env::var_os(&variable).is_some_and(|value| value.is_empty());
    let items = value.as_deref().and_then(|value| value.to_str()).map(|text| split_list(&variable, text));
    match (arg.get_action(), items) {
        // A list in one variable: clap would take it as one value, so its items stand in as the default, which a flag
        // replaces as it would replace the variable.
        (ArgAction::Append, Some(items)) if !items.is_empty() => {
            arg.required(false).default_values(items).hide_default_value(true)
        }
        // clap takes an empty variable for an empty value.
        _ if is_empty_in_process => arg,
        _ => arg.env(variable),
    }
}

/// The items of a list that stands in one variable. Values of flags are never split.
#[must_use]
pub fn split_list(variable: &str, text: &str) -> Vec<String> {
    match variable {
        "OPSCTL_RECIPIENTS" | "OPSCTL_TRUSTED_SIGNERS" => split_keys(text),
        _ => lines(text).map(str::to_owned).collect(),
    }
}

/// Public keys separated by line feeds, commas or spaces. A key of SSH form (`ssh-ed25519 AAAA… comment`) contains spaces,
/// so such a piece ends only at a line feed or a comma.
#[must_use]
pub fn split_keys(text: &str) -> Vec<String> {
    let mut keys = Vec::new();
    for piece in text.split(['\n', ',']).map(str::trim).filter(|piece| !piece.is_empty() && !piece.starts_with('#')) {
        if piece.starts_with("ssh-") {
            keys.push(piece.to_owned());
        } else {
            keys.extend(piece.split_whitespace().map(str::to_owned));
        }
    }
    keys
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(|line| line.trim_end_matches('\r')).filter(|line| !line.trim().is_empty())
}

/// Every flag of the tree with its variable: (`opsctl snapshot --tag`, `OPSCTL_TAG`), global flags once.
#[must_use]
pub fn flag_variables(command: &Command) -> Vec<(String, String)> {
    fn walk(command: &Command, path: &str, found: &mut Vec<(String, String)>) {
        for arg in command.get_arguments() {
            if let (Some(long), Some(variable)) = (arg.get_long(), variable_of(command.get_name(), arg)) {
                found.push((format!("{path} --{long}"), variable));
            }
        }
        for sub in command.get_subcommands() {
            walk(sub, &format!("{path} {}", sub.get_name()), found);
        }
    }
    let mut found = Vec::new();
    walk(command, command.get_name(), &mut found);
    found
}

/// Flags of an augmented tree that have no variable after all. A test wants this to be empty.
#[must_use]
pub fn flags_without_variable(command: &Command) -> Vec<String> {
    let own = command.get_arguments().filter(|arg| {
        variable_of(command.get_name(), arg).is_some() && arg.get_env().is_none() && arg.get_default_values().is_empty()
    });
    let own = own.map(|arg| format!("{} --{}", command.get_name(), arg.get_long().unwrap_or_default()));
    own.chain(command.get_subcommands().flat_map(flags_without_variable)).collect()
}

/// Set `OPSCTL_…` variables that nothing reads, each with the nearest known one: most likely misspelt.
#[must_use]
pub fn unknown_variables(command: &Command, environment: &Environment) -> Vec<(String, Option<String>)> {
    let mut known: Vec<String> = flag_variables(command).into_iter().map(|(_, variable)| variable).collect();
    known.extend(OTHER_VARIABLES.map(str::to_owned));
    let unknown = environment.own_names().into_iter().filter(|name| !known.contains(name));
    unknown
        .map(|name| (nearest(&name, known.iter().map(String::as_str)), name))
        .map(|(near, name)| (name, near))
        .collect()
}

/// The candidate with the fewest edits to `word`, if it is near enough to be a misspelling.
#[must_use]
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let near = candidates.into_iter().map(|candidate| (distance(word, candidate), candidate)).min()?;
    (near.0 <= 1 + word.chars().count() / 4).then(|| near.1.to_owned())
}

/// Edits (insert, delete, replace) between two words.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replace = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replace.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests;
