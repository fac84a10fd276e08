//! `opsctl keys`: who may read and who may sign, from now on.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde::Serialize;

use super::Session;
use super::init::store_keys;
use super::reading::Reading;
use crate::archive::hash::Hash;
use crate::archive::keyring::{Recipient, Recipients};
use crate::archive::keys::{Keys, MAX_SEQ, Revocation};
use crate::archive::layout;
use crate::archive::receipt::SnapshotId;
use crate::archive::signature::{Signer, SigningKey};
use crate::config::args::{SigningKeyArgs, TrustArgs};
use crate::repository::{Purpose, Repository};
use crate::ui::{self, Output};
use crate::{Error, ExitCode, Result};

/// Show and change the keys of a store
///
/// Each change writes a new, complete keys object, signed by --signing-key, which
/// the store must accept. Snapshots taken before a change stay encrypted as they
/// are; the next one stores what it needs anew.
///
/// Example: opsctl keys add-recipient age1… --store s3://backups/web --signing-key admin.key
///
/// Exit codes: 0 ok, 2 usage, 4 untrusted keys, 10 no store or key, 12 the
/// signing key is not accepted
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub struct KeysArgs {
    #[command(subcommand)]
    command: KeysCommand,
}

#[derive(Subcommand, Debug)]
enum KeysCommand {
    /// Show recipients, signers and revocations
    ///
    /// Example: opsctl keys list --store s3://backups/web
    List {
        #[command(flatten)]
        trust: TrustArgs,
    },
    /// Let another identity read snapshots from now on
    ///
    /// Example: opsctl keys add-recipient age1… --signing-key admin.key
    AddRecipient {
        /// age1…, ssh-ed25519 … or ssh-rsa …
        #[arg(value_name = "RECIPIENT", required = true)]
        keys: Vec<String>,
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Accept another signer from now on
    ///
    /// Example: opsctl keys add-signer RW… --signing-key admin.key
    AddSigner {
        /// minisign public key
        #[arg(value_name = "SIGNER", required = true)]
        keys: Vec<String>,
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Stop encrypting to a recipient, or stop accepting a signer
    ///
    /// Without --trusted-up-to every snapshot that the signer has signed becomes untrusted.
    ///
    /// Example: opsctl keys revoke RW… --trusted-up-to web/20260307T140000Z-000012-0123456789abcdef --signing-key admin.key
    Revoke {
        /// A recipient or signer
        #[arg(value_name = "KEY")]
        key: String,
        /// The newest snapshot of a source that is still trusted, with all before it; may be repeated
        #[arg(long, value_name = "SOURCE/ID")]
        trusted_up_to: Vec<String>,
        #[command(flatten)]
        change: ChangeArgs,
    },
}

/// The flags of a change.
#[derive(Args, Debug)]
struct ChangeArgs {
    #[command(flatten)]
    signing_key: SigningKeyArgs,
    #[command(flatten)]
    trust: TrustArgs,
    /// Say what would be written, write nothing
    #[arg(long)]
    dry_run: bool,
}

/// The result of `keys`.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct KeysReport {
    /// True if a change was only planned.
    pub dry_run: bool,
    /// The keys object that is in force, or would be.
    pub object: String,
    /// Its sequence number.
    pub seq: u32,
    /// To whom snapshots are encrypted.
    pub recipients: Vec<String>,
    /// Whose receipts and keys objects are accepted.
    pub signers: Vec<String>,
    /// Who is no longer accepted, and up to which snapshot of each source what they signed still is.
    pub revoked: BTreeMap<String, BTreeMap<String, SnapshotId>>,
}

pub(super) fn run(args: &KeysArgs, session: &Session<'_>, out: &mut Output) -> Result<ExitCode> {
    match &args.command {
        KeysCommand::List { trust } => {
            let reading = Reading::open(session, trust, Purpose::Look)?;
            let (hash, keys) = head(&reading)?;
            report(out, &layout::keys_object(keys.seq, *hash), keys, false)
        }
        KeysCommand::AddRecipient { keys, change } => {
            let new = keys
                .iter()
                .map(|text| Ok(text.parse::<Recipient>()?.as_str().to_owned()))
                .collect::<Result<Vec<_>>>()?;
            amend(change, session, out, |keys| add(&mut keys.recipients, new))
        }
        KeysCommand::AddSigner { keys, change } => {
            let new = keys.iter().map(|text| Ok(text.parse::<Signer>()?.to_string())).collect::<Result<Vec<_>>>()?;
            amend(change, session, out, |keys| {
                match new.iter().find(|s| keys.revoked.iter().any(|r| r.signer == **s)) {
                    Some(revoked) => Err(Error::usage(format!("{revoked} was revoked")).hint("make a new signing key")),
                    None => add(&mut keys.signers, new),
                }
            })
        }
        KeysCommand::Revoke { key, trusted_up_to, change } => {
            let up_to = trusted_up_to.iter().map(|text| parse_up_to(text)).collect::<Result<BTreeMap<_, _>>>()?;
            amend(change, session, out, |keys| revoke(keys, key, up_to))
        }
    }
}

fn head(reading: &Reading) -> Result<&(Hash, Keys)> {
    reading.repository.keys().ok_or_else(|| {
        Error::integrity("no keys object of this store can be believed")
            .hint("name a signer with --trusted-signer; `opsctl check` lists what is damaged")
    })
}

/// Writes the keys object that follows the newest one.
fn amend(
    args: &ChangeArgs,
    session: &Session<'_>,
    out: &mut Output,
    change: impl FnOnce(&mut Keys) -> Result<()>,
) -> Result<ExitCode> {
    let secret = session.signing_key()?;
    let secret =
        secret.ok_or_else(|| Error::usage("a change of keys must be signed").hint("give --signing-key FILE"))?;
    let signing_key = SigningKey::parse(&secret)?;
    let reading = Reading::open_as(session, &args.trust, Purpose::Content, &[signing_key.signer().clone()])?;
    let (hash, current) = head(&reading)?;
    let accepted = current.signers.iter().any(|s| s == signing_key.signer().as_str());
    if !accepted || current.revocation(signing_key.signer()).is_some() {
        let message = format!("the store does not accept the signer {}", signing_key.signer());
        return Err(
            Error::new(ExitCode::Denied, message).hint("sign with one of the signers that `opsctl keys list` shows")
        );
    }
    let mut next = current.clone();
    change(&mut next)?;
    next.seq = current.seq.checked_add(1).filter(|seq| *seq <= MAX_SEQ).ok_or_else(|| {
        Error::integrity(format!(
            "the newest keys object has the number {}, and none that follows would count",
            current.seq
        ))
        .hint("whoever signed it meant harm: delete it with the tools of the store, or make a new store with new keys")
    })?;
    next.previous = Some(*hash);
    next.created = Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default();
    Recipients::parse(&next.recipients)?;
    let object = if args.dry_run {
        layout::keys_object(next.seq, next.write()?.0)
    } else {
        let object = store_keys(session, reading.repository.store(), &next, &signing_key)?;
        let after = session.block(Repository::open(reading.repository.store().clone(), &reading.options))?;
        if after.keys().is_none_or(|(hash, _)| layout::keys_object(next.seq, *hash) != object) {
            return Err(Error::new(ExitCode::Busy, "another change of the keys came first; this one does not count")
                .hint("look at `opsctl keys list`, then make the change again"));
        }
        object
    };
    report(out, &object, &next, args.dry_run)
}

fn add(list: &mut Vec<String>, new: Vec<String>) -> Result<()> {
    for key in new {
        if list.contains(&key) {
            return Err(Error::usage(format!("{key} is there already")));
        }
        list.push(key);
    }
    Ok(())
}

fn revoke(keys: &mut Keys, key: &str, trusted_up_to: BTreeMap<String, SnapshotId>) -> Result<()> {
    if let Ok(signer) = key.parse::<Signer>() {
        if keys.revocation(&signer).is_some() {
            return Err(Error::usage(format!("{signer} is revoked already")));
        }
        let before = keys.signers.len();
        keys.signers.retain(|s| s != signer.as_str());
        if keys.signers.len() == before {
            return Err(unknown(key));
        }
        if keys.signers.is_empty() {
            return Err(
                Error::usage("that is the last signer").hint("add its successor first: `opsctl keys add-signer`")
            );
        }
        if trusted_up_to.is_empty() {
            ui::warn("every snapshot that this signer has signed becomes untrusted (--trusted-up-to keeps some)");
        }
        keys.revoked.push(Revocation { signer: signer.to_string(), trusted_up_to });
        return Ok(());
    }
    let recipient: Recipient = key.parse()?;
    let before = keys.recipients.len();
    keys.recipients.retain(|r| r != recipient.as_str());
    if keys.recipients.len() == before {
        return Err(unknown(key));
    }
    if keys.recipients.is_empty() {
        return Err(
            Error::usage("that is the last recipient").hint("add its successor first: `opsctl keys add-recipient`")
        );
    }
    if !trusted_up_to.is_empty() {
        return Err(Error::usage("--trusted-up-to is for signers; this is a recipient"));
    }
    Ok(())
}

fn unknown(key: &str) -> Error {
    Error::new(ExitCode::NotFound, format!("the store does not list {key}"))
        .hint("`opsctl keys list` shows what it lists")
}

fn parse_up_to(text: &str) -> Result<(String, SnapshotId)> {
    let parsed = text.split_once('/').and_then(|(source, id)| Some((source.to_owned(), id.parse().ok()?)));
    parsed.ok_or_else(|| Error::usage(format!("{text:?} is not of the form SOURCE/SNAPSHOT-ID")))
}

fn report(out: &mut Output, object: &str, keys: &Keys, dry_run: bool) -> Result<ExitCode> {
    let report = KeysReport {
        dry_run,
        object: object.to_owned(),
        seq: keys.seq,
        recipients: keys.recipients.clone(),
        signers: keys.signers.clone(),
        revoked: keys.revoked.iter().map(|r| (r.signer.clone(), r.trusted_up_to.clone())).collect(),
    };
    out.result(&report, |_| render(&report))?;
    Ok(ExitCode::Ok)
}

fn render(report: &KeysReport) -> String {
    let mut lines = vec![format!("{}{}", if report.dry_run { "would write " } else { "" }, report.object)];
    lines.extend(report.recipients.iter().map(|r| format!("recipient {r}")));
    lines.extend(report.signers.iter().map(|s| format!("signer    {s}")));
    for (signer, up_to) in &report.revoked {
        lines.push(format!("revoked   {signer}"));
        lines.extend(up_to.iter().map(|(source, id)| format!("          trusted up to {source}/{id}")));
    }
    lines.join("\n")
}
