//! Secret keys: where they come from, and reading them.
//!
//! Invariants: a value is held in [`SecretString`], its buffers are zeroed, and no message repeats it; a key is read only
//! when a command needs it; a file of more than 1 MiB is no key.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use secrecy::SecretString;
use zeroize::Zeroizing;

use super::env::Environment;
use crate::ExitCode;
use crate::error::{Context as _, Error, Result};
use crate::providers::onepassword::Reference;
use crate::ui;

/// A larger file is refused unread.
const MAX_KEY_FILE: usize = 1024 * 1024;

/// Where a secret key comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// The value of this variable.
    Variable(&'static str),
    /// A file, or an inherited descriptor such as `/dev/fd/3`.
    File(PathBuf),
    /// Standard input.
    Stdin,
    /// A field in 1Password.
    Reference(Reference),
}

/// Reads a field of 1Password into memory.
pub type Fetch<'f> = &'f dyn Fn(&Reference) -> Result<SecretString>;

impl KeySource {
    /// The source that a `FILE` value stands for. A key pasted in place of a path is refused, and not repeated.
    pub(super) fn from_path(path: PathBuf, what: &str) -> Result<Self> {
        let text = path.to_string_lossy();
        if text != ui::redact(&text) {
            return Err(Error::usage(format!("the {what} itself stands where a file is expected"))
                .hint("that key is now in the list of processes and perhaps in a shell history: replace it"));
        }
        if is_reference(&text) {
            return Ok(Self::Reference(Reference::parse(&text)?.to_value()?));
        }
        Ok(if text == "-" { Self::Stdin } else { Self::File(path) })
    }

    /// Reads the key. Standard input and descriptors can be read only once.
    pub fn read(&self, environment: &Environment, fetch: Fetch<'_>, what: &str) -> Result<SecretString> {
        match self {
            Self::Reference(reference) => fetch(reference).context(|| format!("the {what}")),
            Self::Variable(name) => environment
                .secret(name)?
                .ok_or_else(|| Error::usage(format!("the {what} is missing: the variable {name} is not set"))),
            Self::File(path) => {
                let shown = ui::display_path(path.as_os_str().as_encoded_bytes());
                let file = File::open(path).map_err(|error| cannot_open(error, what, &shown))?;
                warn_if_exposed(&file, path, what);
                read_limited(file, what, &shown)
            }
            Self::Stdin => read_limited(io::stdin().lock(), what, "standard input"),
        }
    }
}

/// Whether a text in the place of a path is a reference to 1Password.
#[must_use]
pub(crate) fn is_reference(text: &str) -> bool {
    text.starts_with("op://")
}

/// Reads a file of public keys, one a line.
pub(super) fn read_public_keys(path: &Path, what: &str) -> Result<Vec<String>> {
    use secrecy::ExposeSecret as _;
    let shown = ui::display_path(path.as_os_str().as_encoded_bytes());
    let file = File::open(path).map_err(|error| cannot_open(error, what, &shown))?;
    let text = read_limited(file, what, &shown)?;
    let lines = text.expose_secret().lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    Ok(lines.map(str::to_owned).collect())
}

fn cannot_open(error: io::Error, what: &str, shown: &str) -> Error {
    let code = match error.kind() {
        io::ErrorKind::PermissionDenied => ExitCode::Denied,
        _ => ExitCode::Usage,
    };
    Error::new(code, format!("cannot open the {what} {shown}")).because(error)
}

pub(crate) fn read_limited(source: impl Read, what: &str, shown: &str) -> Result<SecretString> {
    // The whole capacity at once: a vector that grows leaves unzeroed copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_KEY_FILE + 64));
    let limit = u64::try_from(MAX_KEY_FILE + 1).unwrap_or(u64::MAX);
    source
        .take(limit)
        .read_to_end(&mut bytes)
        .map_err(|error| Error::usage(format!("cannot read the {what} {shown}")).because(error))?;
    if bytes.len() > MAX_KEY_FILE {
        return Err(Error::usage(format!("{shown} is larger than 1 MiB: that is no {what}")));
    }
    let text =
        std::str::from_utf8(&bytes).map_err(|_| Error::usage(format!("{shown} is not text: that is no {what}")))?;
    if text.trim().is_empty() {
        return Err(Error::usage(format!("{shown} is empty: the {what} is missing")));
    }
    Ok(SecretString::from(text.to_owned()))
}

/// Warns about a key file that others can read. Pipes have no such mode worth a word.
fn warn_if_exposed(file: &File, path: &Path, what: &str) {
    let Ok(metadata) = file.metadata() else { return };
    let mode = metadata.permissions().mode();
    if metadata.is_file() && exposes(mode) {
        let shown = ui::display_path(path.as_os_str().as_encoded_bytes());
        let owner = metadata.uid();
        ui::warn(format!(
            "the {what} {shown} can be read by others than user {owner} (mode {:04o}): chmod 600",
            mode & 0o7777
        ));
    }
}

const fn exposes(mode: u32) -> bool {
    mode & 0o044 != 0
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    fn nobody(_: &Reference) -> Result<SecretString> {
        panic!("nothing refers to 1Password here")
    }

    fn file(content: &[u8]) -> (tempfile::TempDir, KeySource) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        (folder, KeySource::File(path))
    }

    #[test]
    fn a_key_is_read_from_a_file_and_from_a_variable() {
        let environment = Environment::fixed([("OPSCTL_IDENTITY", "value")]);
        let (_folder, source) = file(b"AGE-SECRET-KEY-1X\n");
        assert_eq!(source.read(&environment, &nobody, "identity").unwrap().expose_secret(), "AGE-SECRET-KEY-1X\n");
        let source = KeySource::Variable("OPSCTL_IDENTITY");
        assert_eq!(source.read(&environment, &nobody, "identity").unwrap().expose_secret(), "value");
    }

    #[test]
    fn what_is_no_key_is_refused_without_being_repeated() {
        for (content, why) in [
            (vec![b'A'; MAX_KEY_FILE + 1], "larger than 1 MiB"),
            (b"SECRET\xff".to_vec(), "not text"),
            (b" \n".to_vec(), "is empty"),
        ] {
            let (_folder, source) = file(&content);
            let error = source.read(&Environment::fixed([]), &nobody, "identity").unwrap_err();
            assert!(error.full_message().contains(why), "{error}");
            assert!(!format!("{error:?}").contains("SECRET"));
        }
        let (_folder, source) = file(&vec![b'A'; MAX_KEY_FILE]);
        assert!(source.read(&Environment::fixed([]), &nobody, "identity").is_ok(), "exactly 1 MiB");
    }

    #[test]
    fn a_key_in_place_of_a_path_is_refused_and_not_repeated() {
        let error = KeySource::from_path("AGE-SECRET-KEY-1XYZ".into(), "identity").unwrap_err();
        assert_eq!(error.code(), ExitCode::Usage);
        assert!(!format!("{error:?}").contains("1XYZ"));
        assert_eq!(KeySource::from_path("-".into(), "identity").unwrap(), KeySource::Stdin);
    }

    #[test]
    fn modes_that_expose_a_key() {
        assert!(exposes(0o100_644) && exposes(0o640) && exposes(0o604));
        assert!(!exposes(0o100_600) && !exposes(0o400) && !exposes(0o611));
    }

    #[test]
    fn a_reference_in_place_of_a_path_is_fetched_and_its_failure_says_what_for() {
        let source = KeySource::from_path("op://vault/item/field".into(), "identity").unwrap();
        let fetched = |reference: &Reference| Ok(SecretString::from(reference.to_string()));
        let read = source.read(&Environment::fixed([]), &fetched, "identity").unwrap();
        assert_eq!(read.expose_secret(), "op://vault/item/field");
        let fails = |_: &Reference| Err(Error::new(ExitCode::NotFound, "no such item"));
        let error = source.read(&Environment::fixed([]), &fails, "identity").unwrap_err();
        assert_eq!((error.code(), error.full_message().as_str()), (ExitCode::NotFound, "the identity: no such item"));
        for bad in ["op://vault/item", "op://vault/item/field?attribute=otp"] {
            let error = KeySource::from_path(bad.into(), "identity").unwrap_err();
            assert_eq!(error.code(), ExitCode::Usage, "{bad}");
        }
    }
}
