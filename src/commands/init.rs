//! `opsctl init`: a new store, with its keys.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clap::Args;
use jiff::Timestamp;
use object_store::PutPayload;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;

use super::Session;
use crate::archive::keyring::{PIN_COMMENT, Recipients, generate_identity};
use crate::archive::keys::{Descriptor, Keys};
use crate::archive::layout;
use crate::archive::signature::{Signer, SigningKey};
use crate::config::args::{RecipientArgs, SigningKeyArgs};
use crate::providers::store::{Created, Location, ProcessEnv, Store};
use crate::ui::Output;
use crate::{Context as _, Error, ExitCode, Result};

/// Create a store, and the keys that go with it
///
/// Takes age recipients, or makes an identity (keep it away from the backup host:
/// it alone can read the backups). Makes a signing key for the backup host, or
/// takes one. Prints what the host needs.
///
/// Example: opsctl init --store s3://backups/web --new-identity web.identity --new-signing-key web.key
///
/// Exit codes: 0 ok, 2 usage, a file exists already, or the store is not empty,
/// 12 credentials refused
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub struct InitArgs {
    #[command(flatten)]
    recipients: RecipientArgs,
    #[command(flatten)]
    signing_key: SigningKeyArgs,
    /// Make an age identity and write it to this new file (mode 0600)
    #[arg(long, value_name = "FILE")]
    new_identity: Option<PathBuf>,
    /// Make a signing key and write it to this new file (mode 0600)
    #[arg(long, value_name = "FILE")]
    new_signing_key: Option<PathBuf>,
    /// Say what would be made, make nothing
    #[arg(long)]
    dry_run: bool,
}

/// The result of `init`.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct InitReport {
    /// True if nothing was made.
    pub dry_run: bool,
    /// The store's URL.
    pub store: String,
    /// The store's id.
    pub store_id: String,
    /// To whom it encrypts.
    pub recipients: Vec<String>,
    /// The public half of the signing key.
    pub signer: String,
    /// The identity file that was made.
    pub identity_file: Option<PathBuf>,
    /// The signing key file that was made.
    pub signing_key_file: Option<PathBuf>,
    /// Variables for the backup host. Secret values are not among them.
    pub variables: std::collections::BTreeMap<String, String>,
}

pub(super) fn run(args: &InitArgs, session: &Session<'_>, out: &mut Output) -> Result<ExitCode> {
    for file in [&args.new_identity, &args.new_signing_key].into_iter().flatten() {
        if file.symlink_metadata().is_ok() {
            return Err(Error::usage(format!("{} exists already; keys are never overwritten", file.display()))
                .hint("name another file, or use the key that is there"));
        }
    }
    let location = Location::parse(session.settings.store_url()?)?;
    let store =
        if args.dry_run { Store::open(&location, &ProcessEnv) } else { Store::open_or_make(&location, &ProcessEnv) };
    if let Ok(store) = &store {
        refuse_occupied(session, store)?;
    }
    let identity = args.new_identity.as_ref().map(|_| generate_identity());
    let mut texts = session.settings.recipients.value.clone();
    texts.extend(identity.as_ref().map(|(public, _)| public.clone()));
    let recipients = Recipients::parse(&texts).map_err(|e| {
        Error::from(e).hint("give --recipient, --recipients-file, or --new-identity FILE to make a new one")
    })?;
    let (signing_key, new_secret) = signing_key(args, session)?;
    let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default();
    let store_id = random_id()?;
    let report = InitReport {
        dry_run: args.dry_run,
        store: location.to_string(),
        recipients: recipients.texts(),
        signer: signing_key.signer().to_string(),
        identity_file: args.new_identity.clone(),
        signing_key_file: args.new_signing_key.clone(),
        variables: variables(&location, &store_id, &recipients, args),
        store_id: store_id.clone(),
    };
    if !args.dry_run {
        let store = store?;
        if let (Some(file), Some((public, secret))) = (&args.new_identity, &identity) {
            write_secret(file, &identity_text(public, secret, signing_key.signer(), now))?;
        }
        if let (Some(file), Some(secret)) = (&args.new_signing_key, &new_secret) {
            write_secret(file, secret)?;
        }
        let keys = Keys::first(store_id.clone(), now, recipients.texts(), vec![signing_key.signer().to_string()]);
        store_keys(session, &store, &keys, &signing_key)?;
        let descriptor = serde_json::to_vec_pretty(&Descriptor::new(store_id, now)).map_err(std::io::Error::from)?;
        let created = put(session, &store, layout::DESCRIPTOR, descriptor.clone())?;
        // All descriptors have one size, so another `init` at the same moment shows only in the content.
        match session.block(store.get(layout::DESCRIPTOR)) {
            Ok(stored) if stored != descriptor => {
                return Err(Error::usage(format!("another init created {} at the same moment", store.location()))
                    .hint("use the keys that it printed"));
            }
            Err(error) if created == Created::AlreadyThere => {
                let what = || format!("it is not known whether this init or another created {}", store.location());
                return Err(error.hint("look at `opsctl keys list`: if it shows this signer, all is well"))
                    .context(what);
            }
            // Created here; that the key may not read is its business.
            _ => {}
        }
    }
    out.result(&report, |_| render(&report))?;
    Ok(ExitCode::Ok)
}

fn refuse_occupied(session: &Session<'_>, store: &Store) -> Result<()> {
    if session.block(store.is_empty())? {
        return Ok(());
    }
    let objects = session.block(store.list(""))?;
    if objects.iter().any(|o| o.key == layout::DESCRIPTOR) {
        return Err(Error::usage(format!("{} is an opsctl store already", store.location()))
            .hint("use it as it is, or change its keys with `opsctl keys`"));
    }
    let first = objects.first().map_or("objects with names that no store of ours has", |first| &first.key);
    Err(Error::usage(format!("{} is not empty: it holds {first}", store.location()))
        .hint("choose a prefix that nothing else uses; if an init was interrupted here, delete what is in keys/ first"))
}

/// The signing key that was named, or a new one with the text to write.
fn signing_key(args: &InitArgs, session: &Session<'_>) -> Result<(SigningKey, Option<SecretString>)> {
    if args.new_signing_key.is_some() {
        let (key, text) = SigningKey::generate()?;
        return Ok((key, Some(text)));
    }
    match session.signing_key()? {
        Some(text) => Ok((SigningKey::parse(&text)?, None)),
        None => {
            Err(Error::usage("no signing key").hint("give --new-signing-key FILE to make one, or --signing-key FILE"))
        }
    }
}

fn random_id() -> Result<String> {
    let mut bytes = [0_u8; 16];
    let filled = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    if filled != bytes.len() {
        return Err(Error::new(ExitCode::Failed, "the system gave too little randomness"));
    }
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}

fn identity_text(public: &str, secret: &SecretString, signer: &Signer, now: Timestamp) -> SecretString {
    SecretString::from(format!(
        "# created: {now}\n# public key: {public}\n{PIN_COMMENT} {signer}\n\
         # Whoever has this file can read every backup; without it nobody can. Keep it offline and in\n\
         # two places, such as a password manager and a printed copy. Never on the backup host.\n\
         {}\n",
        secret.expose_secret()
    ))
}

/// Writes a new file that only its owner may read.
fn write_secret(file: &Path, text: &SecretString) -> Result<()> {
    let write = || -> std::io::Result<()> {
        let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
        out.write_all(text.expose_secret().as_bytes())?;
        out.sync_all()
    };
    write().context(|| format!("cannot write {}", file.display()))
}

/// Stores a keys object: the signature first, so that it is never seen without.
pub(super) fn store_keys(
    session: &Session<'_>,
    store: &Store,
    keys: &Keys,
    signing_key: &SigningKey,
) -> Result<String> {
    let (hash, bytes) = keys.write()?;
    let key = layout::keys_object(keys.seq, hash);
    let signature = signing_key.sign(&bytes, &format!("opsctl {key}"))?;
    put(session, store, &format!("{key}{}", layout::SIGNATURE), signature.into_bytes())?;
    put(session, store, &key, bytes)?;
    Ok(key)
}

fn put(session: &Session<'_>, store: &Store, key: &str, bytes: Vec<u8>) -> Result<Created> {
    session.block(store.create(key, PutPayload::from(bytes))).context(|| format!("storing {key}"))
}

fn variables(
    location: &Location,
    store_id: &str,
    recipients: &Recipients,
    args: &InitArgs,
) -> std::collections::BTreeMap<String, String> {
    let mut variables = std::collections::BTreeMap::from([
        ("OPSCTL_STORE".to_owned(), location.to_string()),
        ("OPSCTL_STORE_ID".to_owned(), store_id.to_owned()),
        ("OPSCTL_RECIPIENTS".to_owned(), recipients.texts().join(",")),
    ]);
    if let Some(file) = &args.new_signing_key {
        variables.insert("OPSCTL_SIGNING_KEY_FILE".to_owned(), file.display().to_string());
    }
    variables
}

fn render(report: &InitReport) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    let made = if report.dry_run { "would create" } else { "created" };
    let _ = writeln!(text, "{made} store {} ({})", report.store, report.store_id);
    if let Some(file) = &report.identity_file {
        let _ = writeln!(text, "{made} identity {}: keep it offline, not on the backup host", file.display());
    }
    if let Some(file) = &report.signing_key_file {
        let _ = writeln!(text, "{made} signing key {}: for the backup host", file.display());
    }
    let _ = writeln!(text, "signer {}", report.signer);
    for recipient in &report.recipients {
        let _ = writeln!(text, "recipient {recipient}");
    }
    let _ = writeln!(text, "\nVariables for the backup host:");
    for (name, value) in &report.variables {
        let _ = writeln!(text, "  {name}={value}");
    }
    let _ = writeln!(text, "  OPSCTL_SIGNING_KEY=<content of the signing key file>   (instead of the file)");
    let _ = write!(text, "\nVariable for whoever reads backups:\n  OPSCTL_TRUSTED_SIGNERS={}", report.signer);
    text
}
