//! Making [`Settings`] out of the layers.

use std::path::{Path, PathBuf};

use clap::ArgMatches;
use jiff::tz::TimeZone;

use super::env::Environment;
use super::file::{DEFAULT_NAME, FileSettings};
use super::keys::{KeySource, read_public_keys};
use super::layers::{Layers, Origin, Sourced, refuse};
use super::parse::{
    check_store, parse_budget, parse_concurrency, parse_memory, parse_run_id, parse_source, parse_word,
};
use super::profile::{Profile, is_file};
use super::secrets::SecretsTable;
use super::{Settings, SnapshotSettings};
use crate::error::{Context as _, Error, Result};
use crate::ui;

const DEFAULT_PROFILE: &str = "openwork";
const DEFAULT_SOURCE: &str = "default";
const DEFAULT_UPLOADS: u16 = 2;
const DEFAULT_MEMORY: u64 = 96 << 20;

impl Settings {
    /// Finds and checks every setting. `matches` are those of the whole command line.
    pub fn resolve(matches: &ArgMatches, environment: &Environment) -> Result<Self> {
        Self::resolve_in(Path::new(""), matches, environment)
    }

    /// As [`Settings::resolve`], with the folder in which the default configuration file is looked for.
    pub(super) fn resolve_in(folder: &Path, matches: &ArgMatches, environment: &Environment) -> Result<Self> {
        let mut layers = Layers::new(matches, environment);
        let config = config_file(&layers, folder);
        let file = match &config.value {
            Some(path) => FileSettings::load(path).context(|| format!("the setting config ({})", config.origin))?,
            None => FileSettings::default(),
        };
        layers.file.clone_from(&config.value);
        let identity = key_source(&layers, "identity", "identity", IDENTITY, file.identity_file.clone())?;
        let signing_key =
            key_source(&layers, "signing_key", "signing key", SIGNING_KEY, file.signing_key_file.clone())?;
        if identity.value == Some(KeySource::Stdin) && signing_key.value == Some(KeySource::Stdin) {
            return Err(Error::usage("the identity and the signing key cannot both come from standard input"));
        }
        let (profile, profile_file) = profile(&layers, &file)?;
        Ok(Self {
            profile,
            profile_file,
            store: store(&layers, &file)?,
            store_id: optional(layers.parsed("store_id", "OPSCTL_STORE_ID", file.store_id.clone(), plain)?),
            source: source(&layers, &file)?,
            state_dir: optional(layers.path("state_dir", "OPSCTL_STATE_DIR", file.state_dir.clone())),
            tz: layers
                .parsed("tz", "OPSCTL_TZ", file.tz.clone(), |text| {
                    crate::time::parse_zone(text).map_err(|_| {
                        "is not a time zone: UTC, a name such as Europe/Berlin, an offset such as +02:00".into()
                    })
                })?
                .unwrap_or(Sourced::default(TimeZone::UTC)),
            json: layers.switch("json", "OPSCTL_JSON", None)?,
            log_format: layers
                .parsed("log_format", "OPSCTL_LOG_FORMAT", file.log_format.clone(), parse_word)?
                .unwrap_or(Sourced::default(ui::LogFormat::Text)),
            run_id: run_id(&layers)?,
            verbosity: verbosity(&layers)?,
            progress: layers.switch("no_progress", "OPSCTL_NO_PROGRESS", None)?.map(|no| !no),
            color: layers
                .parsed("color", "OPSCTL_COLOR", None, parse_word)?
                .unwrap_or(Sourced::default(ui::ColorChoice::Auto)),
            recipients: recipients(&layers, &file)?,
            trusted_signers: public_keys(
                "trusted_signer",
                layers.list("trusted_signer", "OPSCTL_TRUSTED_SIGNERS", file.trusted_signers.clone())?,
            )?,
            trust_store_keys: layers.switch("trust_store_keys", "OPSCTL_TRUST_STORE_KEYS", None)?,
            snapshot: snapshot(&layers, &file)?,
            secrets: secrets(&layers, file.secrets),
            config,
            identity,
            signing_key,
        })
    }
}

/// The variables of a secret key: the one with its value, the one with its file.
type KeyVariables = (&'static str, &'static str);
const IDENTITY: KeyVariables = ("OPSCTL_IDENTITY", "OPSCTL_IDENTITY_FILE");
const SIGNING_KEY: KeyVariables = ("OPSCTL_SIGNING_KEY", "OPSCTL_SIGNING_KEY_FILE");

/// The named file must exist; the default one is used only if it does.
fn config_file(layers: &Layers<'_>, folder: &Path) -> Sourced<Option<PathBuf>> {
    if let Some(named) = layers.path("config", "OPSCTL_CONFIG", None) {
        return named.map(Some);
    }
    let default = folder.join(DEFAULT_NAME);
    Sourced::default(default.exists().then_some(default))
}

/// The profile, and its file if it has one.
fn profile(layers: &Layers<'_>, file: &FileSettings) -> Result<(Sourced<Profile>, Option<PathBuf>)> {
    let name = layers
        .parsed("profile", "OPSCTL_PROFILE", file.profile.clone(), plain)?
        .unwrap_or_else(|| Sourced::default(DEFAULT_PROFILE.to_owned()));
    let value = Profile::load(&name.value).context(|| format!("loading the profile ({})", name.origin))?;
    let file = is_file(&name.value).then(|| PathBuf::from(&name.value));
    Ok((Sourced { value, origin: name.origin }, file))
}

fn store(layers: &Layers<'_>, file: &FileSettings) -> Result<Sourced<Option<String>>> {
    let store = layers.parsed("store", "OPSCTL_STORE", file.store.clone(), plain)?;
    if let Some(store) = &store {
        // The URL itself is not repeated: it may hold a password.
        check_store(&store.value).map_err(|why| {
            refuse("store", &store.origin, &why).hint("such as file:///var/backups/openwork or s3://bucket/prefix")
        })?;
    }
    Ok(optional(store))
}

/// Railway's own variable, which names the source where nobody else does.
pub(super) const RAILWAY: &str = "RAILWAY_SERVICE_NAME";

fn source(layers: &Layers<'_>, file: &FileSettings) -> Result<Sourced<String>> {
    if let Some(named) = layers.parsed("source", "OPSCTL_SOURCE", file.source.clone(), parse_source)? {
        return Ok(named);
    }
    let Some(service) = layers.environment.text(RAILWAY)? else {
        return Ok(Sourced::default(DEFAULT_SOURCE.to_owned()));
    };
    let origin = Origin::Variable(RAILWAY.to_owned());
    match parse_source(&service) {
        Ok(value) => Ok(Sourced { value, origin }),
        Err(why) => Err(refuse("source", &origin, &format!("`{service}` {why}"))
            .hint("set OPSCTL_SOURCE to the name that the store shall know this service by")),
    }
}

fn run_id(layers: &Layers<'_>) -> Result<Sourced<String>> {
    if let Some(named) = layers.parsed("run_id", "OPSCTL_RUN_ID", None, parse_run_id)? {
        return Ok(named);
    }
    let mut random = [0_u8; 8];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty()).context(|| "making a run id".into())?;
    Ok(Sourced::default(format!("{:016x}", u64::from_le_bytes(random))))
}

fn verbosity(layers: &Layers<'_>) -> Result<Sourced<i8>> {
    let up = layers.counted("verbose", "OPSCTL_VERBOSE")?;
    let down = layers.counted("quiet", "OPSCTL_QUIET")?;
    let level =
        |count: &Option<Sourced<u8>>| count.as_ref().map_or(0, |count| i8::try_from(count.value).unwrap_or(i8::MAX));
    // A flag beats a variable also where the two pull in opposite directions.
    let (up_level, down_level) = match (&up, &down) {
        (Some(a), Some(b)) if a.origin == Origin::Flag && b.origin != Origin::Flag => (level(&up), 0),
        (Some(a), Some(b)) if b.origin == Origin::Flag && a.origin != Origin::Flag => (0, level(&down)),
        _ => (level(&up), level(&down)),
    };
    let decisive = if down_level > up_level { down } else { up };
    let origin = decisive.map_or(Origin::Default, |count| count.origin);
    Ok(Sourced { value: up_level - down_level, origin })
}

/// A flag, else the variables, else the file. Two variables that rival each other are an error: one would go unheeded.
fn key_source(
    layers: &Layers<'_>,
    id: &str,
    what: &str,
    (value_variable, file_variable): KeyVariables,
    file: Option<String>,
) -> Result<Sourced<Option<KeySource>>> {
    let path = layers.path(id, file_variable, file);
    let by_flag = path.as_ref().is_some_and(|path| path.origin == Origin::Flag);
    if !by_flag && layers.environment.get(value_variable).is_some() {
        if layers.environment.get(file_variable).is_some() {
            return Err(Error::usage(format!("both {value_variable} and {file_variable} are set"))
                .hint("unset one of them: only one can be used"));
        }
        let origin = Origin::Variable(value_variable.to_owned());
        return Ok(Sourced { value: Some(KeySource::Variable(value_variable)), origin });
    }
    let Some(path) = path else { return Ok(Sourced::default(None)) };
    let value = KeySource::from_path(path.value, what).context(|| format!("the setting {id} ({})", path.origin))?;
    Ok(Sourced { value: Some(value), origin: path.origin })
}

/// Recipients of the highest layer that names any: single ones and those of a file together.
fn recipients(layers: &Layers<'_>, file: &FileSettings) -> Result<Sourced<Vec<String>>> {
    let listed = layers.list("recipient", "OPSCTL_RECIPIENTS", file.recipients.clone())?;
    let in_file = layers.path("recipients_file", "OPSCTL_RECIPIENTS_FILE", None);
    let rank = |origin: &Origin| match origin {
        Origin::Flag => 2,
        Origin::Variable(_) => 1,
        _ => 0,
    };
    let (listed_rank, file_rank) =
        (listed.as_ref().map(|l| rank(&l.origin)), in_file.as_ref().map(|f| rank(&f.origin)));
    let listed = listed.filter(|_| listed_rank >= file_rank);
    let in_file = in_file.filter(|_| file_rank >= listed_rank);
    let mut all = listed;
    if let Some(path) = in_file {
        let more = read_public_keys(&path.value, "recipients file")?;
        match &mut all {
            Some(listed) => listed.value.extend(more),
            None => all = Some(Sourced { value: more, origin: path.origin }),
        }
    }
    public_keys("recipient", all)
}

/// Checks that no secret key stands among public ones. Their form is checked by the code that uses them.
fn public_keys(id: &str, keys: Option<Sourced<Vec<String>>>) -> Result<Sourced<Vec<String>>> {
    let Some(keys) = keys else { return Ok(Sourced::default(Vec::new())) };
    if keys.value.iter().any(|key| *key != ui::redact(key)) {
        return Err(refuse(id, &keys.origin, "a secret key stands where a public key is expected")
            .hint("only public keys belong there; if others could see it, replace the secret key"));
    }
    Ok(keys.map(|keys| keys.iter().map(|key| key.trim().to_owned()).filter(|key| !key.is_empty()).collect()))
}

fn snapshot(layers: &Layers<'_>, file: &FileSettings) -> Result<SnapshotSettings> {
    let table = &file.snapshot;
    let uploads = table.upload_concurrency.map(|number| number.to_string());
    Ok(SnapshotSettings {
        exclude: layers
            .list("snapshot_exclude", "OPSCTL_EXCLUDE", table.exclude.clone())?
            .unwrap_or(Sourced::default(Vec::new())),
        exclude_recoverable: layers.switch(
            "exclude_recoverable",
            "OPSCTL_EXCLUDE_RECOVERABLE",
            table.exclude_recoverable,
        )?,
        upload_concurrency: layers
            .parsed("upload_concurrency", "OPSCTL_UPLOAD_CONCURRENCY", uploads, parse_concurrency)?
            .unwrap_or(Sourced::default(DEFAULT_UPLOADS)),
        memory: layers
            .parsed("memory", "OPSCTL_MEMORY", table.memory.clone(), parse_memory)?
            .unwrap_or(Sourced::default(DEFAULT_MEMORY)),
        max_rekey_size: optional(layers.parsed(
            "max_rekey_size",
            "OPSCTL_MAX_REKEY_SIZE",
            table.max_rekey_size.clone(),
            parse_budget,
        )?),
    })
}

/// Only the file has them; a mapping does not fit into a variable.
fn secrets(layers: &Layers<'_>, table: Option<SecretsTable>) -> Sourced<Option<SecretsTable>> {
    table.map_or(Sourced::default(None), |table| Sourced { value: Some(table), origin: layers.file_origin() })
}

fn optional<T>(setting: Option<Sourced<T>>) -> Sourced<Option<T>> {
    setting.map_or(Sourced::default(None), |setting| setting.map(Some))
}

fn plain(text: &str) -> Result<String, String> {
    Ok(text.to_owned())
}
