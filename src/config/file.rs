//! The configuration file (TOML).
//!
//! Invariants: an unknown key is an error that names key, file and line; the file has no key for a secret value; no message
//! repeats a value of the file, because people paste secrets into the wrong line.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::env::nearest;
use super::keys::is_reference;
use super::secrets::SecretsTable;
use crate::error::{Error, Result};

/// The name that is looked for in the working directory.
pub(super) const DEFAULT_NAME: &str = "opsctl.toml";

/// Every key of the file, those of tables with their table.
pub const FILE_KEYS: [&str; 19] = [
    "store",
    "store_id",
    "source",
    "profile",
    "state_dir",
    "tz",
    "log_format",
    "recipients",
    "trusted_signers",
    "identity_file",
    "signing_key_file",
    "snapshot.exclude",
    "snapshot.exclude_recoverable",
    "snapshot.upload_concurrency",
    "snapshot.memory",
    "snapshot.max_rekey_size",
    "secrets.provider",
    "secrets.fingerprint_key",
    "secrets.targets",
];

/// What the file holds.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileSettings {
    pub(super) store: Option<String>,
    pub(super) store_id: Option<String>,
    pub(super) source: Option<String>,
    pub(super) profile: Option<String>,
    pub(super) state_dir: Option<String>,
    pub(super) tz: Option<String>,
    pub(super) log_format: Option<String>,
    pub(super) recipients: Option<Vec<String>>,
    pub(super) trusted_signers: Option<Vec<String>>,
    pub(super) identity_file: Option<String>,
    pub(super) signing_key_file: Option<String>,
    #[serde(default)]
    pub(super) snapshot: SnapshotTable,
    pub(super) secrets: Option<SecretsTable>,
}

/// The table `[snapshot]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SnapshotTable {
    pub(super) exclude: Option<Vec<String>>,
    pub(super) exclude_recoverable: Option<bool>,
    pub(super) upload_concurrency: Option<u16>,
    pub(super) memory: Option<String>,
    pub(super) max_rekey_size: Option<String>,
}

impl FileSettings {
    /// Reads the file. Relative paths in it are relative to its own folder.
    pub(super) fn load(path: &Path) -> Result<Self> {
        let text = read_text(path).map_err(|error| {
            Error::usage(format!("cannot read the configuration file {}", path.display())).because(error)
        })?;
        let mut settings = Self::parse(&text, path)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        for entry in [&mut settings.state_dir, &mut settings.identity_file, &mut settings.signing_key_file] {
            *entry = entry.take().map(|value| below(folder, value));
        }
        settings.profile = settings.profile.map(|value| match super::profile::is_file(&value) {
            true => below(folder, value),
            false => value,
        });
        Ok(settings)
    }

    fn parse(text: &str, path: &Path) -> Result<Self> {
        toml::from_str(text).map_err(|error| toml_error(&error, text, path))
    }
}

/// The text of a configuration file or profile, both of which any name may be given for: nothing without end is read.
///
/// # Errors
/// What the system says, and that the file is larger than 1 MiB.
pub fn read_text(path: &Path) -> io::Result<String> {
    const MAX: u64 = 1 << 20;
    let mut text = String::new();
    let read = std::fs::File::open(path)?.take(MAX + 1).read_to_string(&mut text)?;
    if read as u64 > MAX { Err(io::Error::from(io::ErrorKind::FileTooLarge)) } else { Ok(text) }
}

/// A path of the file as seen from the working directory; `-` (standard input) and a reference stay.
fn below(folder: &Path, value: String) -> String {
    if value == "-" || is_reference(&value) || folder.as_os_str().is_empty() {
        return value;
    }
    // Both parts were UTF-8 or the value is kept as it is; a lossy path would name another file.
    let joined: PathBuf = folder.join(&value);
    joined.into_os_string().into_string().unwrap_or(value)
}

/// What the TOML reader complains about: line, key and the nearest known key, and never a value.
#[derive(Debug)]
pub(super) struct TomlFault {
    /// Counted from 1.
    pub(super) line: usize,
    pub(super) says: String,
    pub(super) hint: Option<String>,
}

/// Turns an error of the TOML reader into ours.
pub(super) fn toml_error(error: &toml::de::Error, text: &str, path: &Path) -> Error {
    let TomlFault { line, says, hint } = toml_fault(error, text);
    let failure = Error::usage(format!("{}:{line}: {says}", path.display()));
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

/// See [`TomlFault`].
pub(super) fn toml_fault(error: &toml::de::Error, text: &str) -> TomlFault {
    let line = super::profile::line_at(text, error.span().map_or(0, |span| span.start));
    let message = error.message();
    let mut quoted = message.split('`').skip(1).step_by(2);
    if !message.starts_with("unknown field") {
        return TomlFault { line, says: shortened(&without_value(message)), hint: None };
    }
    let key = quoted.next().unwrap_or_default().to_owned();
    let known: Vec<&str> = quoted.collect();
    let hint = if key == "identity" || key == "signing_key" {
        let variable = key.to_ascii_uppercase();
        format!("secret values do not belong in the file: name a file by `{key}_file`, or set OPSCTL_{variable}")
    } else {
        match nearest(&key, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("known here: {}", known.join(", ")),
        }
    };
    TomlFault { line, says: format!("unknown key `{}`", crate::ui::escape(&shortened(&key))), hint: Some(hint) }
}

/// A text of the file may be as long as the file.
fn shortened(text: &str) -> String {
    const SHOWN: usize = 200;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Drops the value from messages such as `invalid type: string "…", expected a boolean`.
fn without_value(message: &str) -> String {
    let quotes_value = message.starts_with("invalid type") || message.starts_with("invalid value");
    match message.rsplit_once(", expected ") {
        Some((_, expected)) if quotes_value => format!("wrong type, expected {expected}"),
        _ if quotes_value => "wrong type".to_owned(),
        _ => message.lines().collect::<Vec<_>>().join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> Error {
        let error = FileSettings::parse(text, Path::new("opsctl.toml")).unwrap_err();
        assert_eq!(error.code(), crate::ExitCode::Usage);
        error
    }

    #[test]
    fn an_unknown_key_names_key_file_line_and_the_nearest() {
        let error = refused("store = \"file:///s\"\n\nsorce = \"x\"\n");
        assert_eq!(error.full_message(), "opsctl.toml:3: unknown key `sorce`");
        assert_eq!(error.hint_text(), Some("did you mean `source`?"));
        let error = refused("[snapshot]\nexlude = []\n");
        assert_eq!(error.full_message(), "opsctl.toml:2: unknown key `exlude`");
        assert_eq!(error.hint_text(), Some("did you mean `exclude`?"));
        assert!(refused("zzzzzzzzz = 1").hint_text().unwrap().starts_with("known here: store"));
    }

    #[test]
    fn a_secret_has_no_key_and_no_value_is_repeated() {
        for text in [
            "identity = \"AGE-SECRET-KEY-1X\"",
            "signing_key = \"AGE-SECRET-KEY-1X\"",
            "recipients = \"AGE-SECRET-KEY-1X\"",
            "[snapshot]\nexclude_recoverable = \"AGE-SECRET-KEY-1X\"",
            "tz = AGE-SECRET-KEY-1X",
            "tz = \"AGE-SECRET-KEY-1X",
        ] {
            let error = refused(text);
            let shown = format!("{} {:?} {error:?}", error.full_message(), error.hint_text());
            assert!(!shown.contains("SECRET-KEY-1X"), "{shown}");
        }
        assert!(refused("identity = \"x\"").hint_text().unwrap().contains("identity_file"));
    }

    #[test]
    fn the_list_of_keys_is_the_one_that_is_read() {
        for (text, prefix) in [
            ("zzzzzzzzz = 1", ""),
            ("[snapshot]\nzzzzzzzzz = 1", "snapshot."),
            ("[secrets]\nzzzzzzzzz = 1", "secrets."),
        ] {
            let hint = refused(text).hint_text().unwrap().to_owned();
            let listed = hint
                .trim_start_matches("known here: ")
                .split(", ")
                .filter(|key| !["snapshot", "secrets"].contains(key));
            let mut listed: Vec<String> = listed.map(|key| format!("{prefix}{key}")).collect();
            let of = |key: &str| key.split_once('.').map_or(String::new(), |(table, _)| format!("{table}."));
            let ours = FILE_KEYS.iter().filter(|key| of(key) == prefix);
            let mut ours: Vec<String> = ours.map(|key| (*key).to_owned()).collect();
            listed.sort();
            ours.sort();
            assert_eq!(listed, ours);
        }
    }
}
