//! To whom a backup host encrypts, and which store it believes to be in front of.
//!
//! Invariants: only a keys object that this host's own signing key or a pinned signer has signed is
//! believed; recipients that the host pins itself are never widened by what the store says; without
//! permission to read, both come from the configuration.

use super::view::StoreView;
use crate::archive::keyring::Recipients;
use crate::archive::keys::{self, Descriptor, Found, Keys, Rule, check_store_id, resolve};
use crate::archive::layout;
use crate::archive::signature::{self, Signer};
use crate::providers::store::{Store, StoreError};
use crate::repository::MAX_DOCUMENT;
use crate::{Context as _, Error, ExitCode, Result};

#[cfg(test)]
mod tests;

/// What the host was told about keys.
#[derive(Clone, Debug, Default)]
pub struct HostConfig {
    /// Signers pinned beside its own.
    pub pins: Vec<Signer>,
    /// `OPSCTL_RECIPIENTS`.
    pub recipients: Vec<String>,
    /// `OPSCTL_STORE_ID`.
    pub store_id: Option<String>,
}

impl HostKeys {
    /// Refuses keys that went back: who may delete objects could delete the newest keys object, and with it the removal
    /// of a recipient. Who may take away the right to read could do the same: that none can be read any more is a warning,
    /// because a host may do without if it is told its recipients.
    ///
    /// # Errors
    /// Exit 4 if the last snapshot of this host went by a newer keys object.
    pub fn not_older_than(mut self, last: Option<u32>) -> Result<Self> {
        match (self.seq, last) {
            (Some(now), Some(last)) if now < last => Err(Error::integrity(format!(
                "the newest keys object that can be believed is number {now}; this host has gone by number {last}, which \
                 is gone or damaged"
            ))
            .hint(format!(
                "put it back from another copy of the store, or make the changes again with `opsctl keys`, up to a number {last}"
            ))),
            (None, Some(last)) => {
                self.warnings.push(format!(
                    "the keys objects cannot be read any more; this host has gone by number {last}, and whether the keys \
                     changed since is not known: it encrypts to the recipients of its configuration"
                ));
                Ok(self)
            }
            _ => Ok(self),
        }
    }
}

impl HostConfig {
    fn pins_with(&self, own: &Signer) -> Vec<Signer> {
        self.pins.iter().chain([own]).cloned().collect()
    }
}

/// What it goes by.
#[derive(Clone, Debug)]
pub struct HostKeys {
    /// The store.
    pub store_id: String,
    /// To whom packs are encrypted.
    pub recipients: Recipients,
    /// The number of the keys object that says so; `None` if it may not be read.
    pub seq: Option<u32>,
    /// Keys objects that were not believed.
    pub warnings: Vec<String>,
}

impl HostKeys {
    /// Reads what may be read and compares it with the configuration.
    ///
    /// # Errors
    /// Exit 2 if neither the store nor the configuration says enough, 4 if they disagree, 10 if this is no
    /// store, 12 if readers would not trust what this host signs.
    pub async fn establish(store: &Store, view: &StoreView, config: &HostConfig, own: &Signer) -> Result<Self> {
        if !view.has_descriptor() && view.keys.is_empty() {
            let message = format!("{} is not an opsctl store", store.location());
            return Err(Error::new(ExitCode::NotFound, message).hint("check the URL; `opsctl init` makes a store"));
        }
        let descriptor = described(store, view).await?;
        let KeysObjects { found, denied, unfit } = read_keys(store, view).await?;
        let pins = config.pins_with(own);
        let newest = resolve(found.clone(), &pins, Rule::Chain).head.map(|(_, keys)| keys);
        refuse_what_is_newer(&found, &pins, newest.as_ref())?;
        let resolved = resolve(found, &pins, Rule::Direct);
        let head = resolved.head.map(|(_, keys)| keys);
        match &newest {
            Some(newest) => refuse_what_readers_would(own, newest, head.as_ref())?,
            None if !denied.is_empty() => {}
            None => {
                let message = "no keys object of the store is signed by this host's signing key or a pinned signer";
                return Err(Error::new(ExitCode::Denied, message)
                    .hint("pin the signer that `opsctl keys list` shows with OPSCTL_TRUSTED_SIGNERS, or use its key"));
            }
        }
        let signed = head.as_ref().map(|keys| keys.store_id.clone());
        let problem = match (&descriptor, &signed) {
            (Err(reason), _) => Some(reason.clone()),
            (Ok(Some(says)), Some(signed)) if says != signed => Some(format!("it says store id {says:?}")),
            _ => None,
        };
        let problem = problem.map(|problem| format!("{} does not count: {problem}", layout::DESCRIPTOR));
        let stated = signed.or(descriptor.unwrap_or_default());
        let store_id = agree("the store id (OPSCTL_STORE_ID)", config.store_id.clone(), stated, |id| id.clone())?;
        check_store_id(&store_id)
            .map_err(|e| Error::usage(e.to_string()).hint("compare OPSCTL_STORE_ID with `opsctl keys list`"))?;
        let pinned = if config.recipients.is_empty() { None } else { Some(Recipients::parse(&config.recipients)?) };
        let seq = head.as_ref().map(|keys| keys.seq);
        let stated = head.map(|keys| Recipients::parse(keys.recipients)).transpose()?;
        let recipients = agree("the recipients (OPSCTL_RECIPIENTS)", pinned, stated, Recipients::hash)?;
        // Where none may be read, that is how the host was set up.
        let denied = denied.into_iter().filter(|_| seq.is_some());
        let rejected = resolved.rejected.into_iter().chain(unfit).chain(denied);
        let rejected = rejected.map(|(key, reason)| format!("{key} is not believed: {reason}"));
        Ok(Self {
            store_id,
            recipients,
            seq,
            warnings: problem.into_iter().chain(rejected).chain(view.odd()).collect(),
        })
    }
}

/// What a reader believes that starts from the same pins may not widen what this host does, but it may stop
/// it: nobody would trust the snapshots of a signer that is revoked there, and keys that changed there were
/// changed for a reason.
fn refuse_what_readers_would(own: &Signer, newest: &Keys, believed: Option<&Keys>) -> Result<()> {
    if newest.revocation(own).is_some() || !newest.signers.iter().any(|s| s == own.as_str()) {
        return Err(Error::new(ExitCode::Denied, format!("the store does not accept this host's signer {own}"))
            .hint("no reader would trust its snapshots: `opsctl keys add-signer`, or use an accepted signing key"));
    }
    if believed.is_some_and(|believed| believed.seq < newest.seq && believed.recipients != newest.recipients) {
        return Err(Error::integrity("the recipients were changed by a signer that this host does not pin")
            .hint("if `opsctl keys list` shows what is meant, pin its signer with OPSCTL_TRUSTED_SIGNERS"));
    }
    Ok(())
}

/// Keys that a believed signer wrote with a newer opsctl were changed for a reason that this one cannot read. A pinned signer
/// that was revoked could otherwise stop the host for ever.
fn refuse_what_is_newer(found: &[Found], pins: &[Signer], newest: Option<&Keys>) -> Result<()> {
    let is_revoked = |pin: &Signer| newest.is_some_and(|keys| keys.revocation(pin).is_some());
    let pins: Vec<Signer> = pins.iter().filter(|pin| !is_revoked(pin)).cloned().collect();
    for object in found {
        let Err(error) = Keys::read(&object.bytes) else { continue };
        let signature = object.signature.as_deref().unwrap_or_default();
        if error.is_newer(keys::TYPE) && signature::verify(&object.bytes, signature, &pins).is_ok() {
            return Err(Error::from(error))
                .context(|| format!("reading {}, which a trusted signer signed", object.key));
        }
    }
    Ok(())
}

/// `configured` if it is set, else `stated`; both must agree.
fn agree<T, K: PartialEq>(what: &str, configured: Option<T>, stated: Option<T>, key: impl Fn(&T) -> K) -> Result<T> {
    match (configured, stated) {
        (Some(configured), Some(stated)) if key(&configured) != key(&stated) => Err(Error::integrity(format!(
            "{what} configured here and the store's signed keys object differ"
        ))
        .hint("compare with `opsctl keys list`; if the change is meant, change the configuration of this host too")),
        (Some(value), _) | (None, Some(value)) => Ok(value),
        (None, None) => Err(Error::usage(format!("{what} cannot be learned from the store")).hint(
            "set OPSCTL_STORE_ID and OPSCTL_RECIPIENTS; or let the host read `opsctl-store.json` and `keys/`, and pin \
                   their signer with OPSCTL_TRUSTED_SIGNERS",
        )),
    }
}

/// The store id that the descriptor says, if it may be read; or what is wrong with it. It is not signed: nothing hangs on
/// it where a keys object can be believed.
///
/// # Errors
/// Exit 4 if a newer opsctl wrote it, and with it the store.
async fn described(store: &Store, view: &StoreView) -> Result<Result<Option<String>, String>> {
    if !view.has_descriptor() {
        return Ok(Err("it is missing".into()));
    }
    let bytes = match optional(store.get_at_most(layout::DESCRIPTOR, MAX_DOCUMENT).await) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Ok(Ok(None)),
        Err(error @ StoreError::TooLarge { .. }) => return Ok(Err(error.to_string())),
        Err(error) => return Err(error.into()),
    };
    match Descriptor::read(&bytes) {
        Ok(descriptor) => Ok(Ok(Some(descriptor.store_id))),
        Err(error) if error.is_newer(keys::STORE_TYPE) => Err(error.into()),
        Err(error) => Ok(Err(error.to_string())),
    }
}

/// The keys objects of a store, as far as they may be read.
#[derive(Default)]
struct KeysObjects {
    found: Vec<Found>,
    /// Those that may not be read, with what the store said.
    denied: Vec<(String, String)>,
    /// Those that cannot be keys objects, with the reason.
    unfit: Vec<(String, String)>,
}

async fn read_keys(store: &Store, view: &StoreView) -> Result<KeysObjects> {
    let mut keys = KeysObjects::default();
    for object in view.keys.iter().filter(|o| !o.key.ends_with(layout::SIGNATURE)) {
        let key = object.key.clone();
        if layout::keys_seq(&key).is_none() {
            keys.unfit.push((key, "its name is not that of a keys object".into()));
            continue;
        }
        let signature =
            async || optional(store.get_at_most(&format!("{key}{}", layout::SIGNATURE), MAX_DOCUMENT).await);
        let read = match store.get_at_most(&key, MAX_DOCUMENT).await {
            Ok(bytes) => signature().await.map(|signature| (bytes.to_vec(), signature)),
            Err(error) => Err(error),
        };
        match read {
            Ok((bytes, signature)) => keys.found.push(Found { key, modified: object.modified, bytes, signature }),
            Err(error @ StoreError::Denied { .. }) => keys.denied.push((key, error.to_string())),
            Err(error @ StoreError::TooLarge { .. }) => keys.unfit.push((key, error.to_string())),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(keys)
}

/// Not there, or not for us to read, is `None`.
fn optional(got: Result<bytes::Bytes, StoreError>) -> Result<Option<Vec<u8>>, StoreError> {
    match got {
        Ok(bytes) => Ok(Some(bytes.to_vec())),
        Err(StoreError::NotFound { .. } | StoreError::Denied { .. }) => Ok(None),
        Err(e) => Err(e),
    }
}
