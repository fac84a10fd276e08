//! The tokens of the identities, and where they come from.
//!
//! Invariants: a token is never an argument and no message repeats one; nor the name of a file that could be a token in
//! the wrong place. A file that others can read is refused.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret as _, SecretString};

use super::http::Caller;
use crate::config::profile::{Identity, Service};
use crate::config::{Environment, Fetch, is_reference, read_limited};
use crate::providers::onepassword::Reference;
use crate::{Context as _, Error, ExitCode, Result, secret};

/// Identities whose token has a flag of its own: (identity, flag).
const FLAGS: [(&str, &str); 2] = [("client", "--client-token-file"), ("host", "--host-token-file")];
/// The flag for any of them: `IDENTITY=FILE`.
const ANY: &str = "--token-file";

/// The files that flags name, each with its identity.
#[derive(Clone, Debug, Default)]
pub struct TokenFiles(Vec<TokenFile>);

#[derive(Clone, Debug)]
struct TokenFile {
    identity: String,
    file: PathBuf,
    flag: &'static str,
}

impl TokenFiles {
    /// Those of `--client-token-file` and `--host-token-file`, and `others` as `--token-file` takes them.
    ///
    /// # Errors
    /// Usage, when one of the `others` is not of the form `IDENTITY=FILE`.
    pub fn new(client: Option<&Path>, host: Option<&Path>, others: &[String]) -> Result<Self> {
        let own = FLAGS.into_iter().zip([client, host]).filter_map(|((identity, flag), file)| {
            Some(Ok(TokenFile { identity: identity.to_owned(), file: file?.to_owned(), flag }))
        });
        let others = others.iter().map(|text| {
            let split = text.split_once('=').filter(|(identity, file)| !identity.is_empty() && !file.is_empty());
            let (identity, file) = split.ok_or_else(|| {
                Error::usage(format!("{ANY} takes IDENTITY=FILE")).hint("such as front=/run/secrets/front")
            })?;
            Ok(TokenFile { identity: identity.to_owned(), file: file.into(), flag: ANY })
        });
        Ok(Self(own.chain(others).collect::<Result<_>>()?))
    }
}

/// The tokens, by the variable that the profile names for them.
#[derive(Debug, Default)]
pub struct Tokens(BTreeMap<String, SecretString>);

impl Tokens {
    /// Reads the tokens that there are: a file, or a reference in its place, goes before the variable. `fetch` reads 1Password. `stdin_is_taken` says that standard input is
    /// read by somebody else.
    ///
    /// # Errors
    /// Usage, when a token or its file cannot be one; denied, when a file can be read by others.
    pub fn read(
        service: &Service,
        files: &TokenFiles,
        environment: &Environment,
        fetch: Fetch<'_>,
        stdin_is_taken: bool,
    ) -> Result<Self> {
        let mut tokens = BTreeMap::new();
        let mut stdin_is_taken = stdin_is_taken;
        for TokenFile { identity: name, file, flag } in &files.0 {
            // What was given may be a token: it is not repeated.
            let Some(identity) = service.identities.iter().find(|identity| identity.name == *name) else {
                let known: Vec<&str> = service.identities.iter().map(|identity| identity.name.as_str()).collect();
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                return Err(Error::usage(format!(
                    "{flag}: the service {} has no such identity; it has: {known}",
                    service.name
                )));
            };
            if file == Path::new("-") && std::mem::replace(&mut stdin_is_taken, true) {
                return Err(Error::usage(format!("{flag}: standard input holds something else already"))
                    .hint("use a file or an inherited descriptor such as /dev/fd/3"));
            }
            if tokens.insert(identity.variable.clone(), from_file(file, flag, fetch)?).is_some() {
                return Err(Error::usage(format!("{flag}: the token in {} is given twice", identity.variable)));
            }
        }
        for variable in service.identities.iter().map(|identity| &identity.variable) {
            if !tokens.contains_key(variable)
                && let Some(token) = environment.secret(variable)?
            {
                tokens.insert(variable.clone(), checked(&token, &format!("the variable {variable}"))?);
            }
        }
        Ok(Self(tokens))
    }

    /// The token of an identity, if there is one.
    pub(super) fn of(&self, identity: &Identity) -> Option<&SecretString> {
        self.0.get(&identity.variable)
    }

    /// Somebody who has the token of this identity; `Err` says how to give it.
    pub(super) fn caller(&self, service: &Service, name: &str) -> Result<Caller, Missing> {
        let Some(identity) = service.identities.iter().find(|identity| identity.name == name) else {
            return Ok(Caller::default());
        };
        let token = self.of(identity).ok_or_else(|| Missing(how_to_give(identity)))?;
        Caller::new(identity, token).map_err(|error| Missing(error.full_message()))
    }
}

impl FromIterator<(String, SecretString)> for Tokens {
    fn from_iter<I: IntoIterator<Item = (String, SecretString)>>(tokens: I) -> Self {
        Self(tokens.into_iter().collect())
    }
}

/// Why there is no token: how to give it.
#[derive(Clone, Debug)]
pub(super) struct Missing(pub(super) String);

fn how_to_give(identity: &Identity) -> String {
    // `restore` has this flag alone.
    format!("no token of `{0}`: set {1}, or give {ANY} {0}=FILE", identity.name, identity.variable)
}

fn from_file(path: &Path, flag: &str, fetch: Fetch<'_>) -> Result<SecretString> {
    let shown = format!("the file of {flag}");
    if let Some(text) = path.to_str().filter(|text| is_reference(text)) {
        let reference =
            Reference::parse(text).and_then(Reference::to_value).map_err(Error::from).context(|| flag.to_owned())?;
        return checked(&fetch(&reference).context(|| flag.to_owned())?, &format!("the field of {flag}"));
    }
    let token = if path == Path::new("-") {
        read_limited(std::io::stdin().lock(), "token", "standard input")?
    } else {
        let cannot = |error: std::io::Error| {
            Error::usage(format!("cannot open {shown}")).because(error).hint("it takes a file, not the token itself")
        };
        let file = File::open(path).map_err(cannot)?;
        let metadata = file.metadata().map_err(cannot)?;
        // What was handed over by descriptor has no name, and a mode that says nothing.
        let is_inherited = path.starts_with("/dev/fd") || path.starts_with("/proc/self/fd");
        if metadata.is_file() && !is_inherited && metadata.permissions().mode() & 0o077 != 0 {
            return Err(Error::new(ExitCode::Denied, format!("{shown} can be read or written by others"))
                .hint("chmod 600 FILE, and replace the token if somebody could have read it"));
        }
        read_limited(file, "token", &shown)?
    };
    checked(&token, &shown)
}

/// The token without white space around it, hidden from now on: a service may repeat what it was sent.
fn checked(token: &SecretString, shown: &str) -> Result<SecretString> {
    let trimmed = token.expose_secret().trim();
    if trimmed.is_empty() || !trimmed.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Error::usage(format!("{shown} holds no token: one word of printable ASCII is wanted")));
    }
    secret::hide(trimmed);
    Ok(SecretString::from(trimmed))
}
