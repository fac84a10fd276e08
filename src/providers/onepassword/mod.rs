//! 1Password: references, and the two ways to read and to write items, the `op` command and a Connect server.
//!
//! Invariants:
//! * An edit is a new version of an item that differs from the one it was read as in what was asked for, and in nothing else;
//!   where somebody else has edited it meanwhile, it fails.
//! * An item that holds what an edit could lose is never edited.

mod child;
mod connect;
mod document;
mod failure;
pub mod item;
mod op;
pub mod reference;

use std::time::Duration;

pub use item::{Edit, Field, Item, Listed, Vault};
pub use reference::{Attribute, BadReference, Reference};

use crate::cancel::Cancel;
use crate::config::Environment;
use crate::error::Context as _;
use crate::providers::wiped::Wiped;
use crate::{Result, ui};
use connect::Connect;
use failure::Failure;
use op::Op;

/// For one answer.
const LIMIT: Duration = Duration::from_secs(60);
/// Between two tries of an edit that met another.
const PAUSES: [Duration; 3] = [Duration::from_millis(100), Duration::from_millis(250), Duration::from_millis(500)];

/// Items whose fields are all there is to them.
const PLAIN_CATEGORIES: [&str; 5] = ["API_CREDENTIAL", "SECURE_NOTE", "PASSWORD", "SERVER", "DATABASE"];
/// Items that somebody has given into the hands of this program.
const MANAGED: &str = "opsctl-managed";
/// Never, whatever their tags: more belongs to them than their fields.
const CLOSED_CATEGORIES: [&str; 2] = ["DOCUMENT", "SSH_KEY"];
/// Fields that come back from an edit as they were.
const PLAIN_KINDS: [&str; 10] =
    ["STRING", "CONCEALED", "EMAIL", "URL", "DATE", "MONTH_YEAR", "PHONE", "MENU", "OTP", "TOTP"];
const MOVE_IT: &str =
    "move the secret into an item of its own, of the category API Credential, and put its reference into the mapping";

/// Where items are read and written.
pub struct OnePassword(Way);

enum Way {
    Command(Op),
    Connect(Connect),
}

impl OnePassword {
    /// The `op` command, with a service account: `OP_SERVICE_ACCOUNT_TOKEN`, `OPSCTL_OP_BIN`.
    ///
    /// # Errors
    /// Denied without a token; not found without the command; usage where it is too old.
    pub async fn command(environment: &Environment, cancel: &Cancel) -> Result<Self> {
        Self::command_within(environment, cancel, LIMIT).await
    }

    /// The same with another time limit for one call.
    ///
    /// # Errors
    /// As [`OnePassword::command`].
    pub async fn command_within(environment: &Environment, cancel: &Cancel, limit: Duration) -> Result<Self> {
        Ok(Self(Way::Command(Op::new(environment, cancel, limit).await?)))
    }

    /// A Connect server: `OP_CONNECT_HOST`, `OP_CONNECT_TOKEN`.
    ///
    /// # Errors
    /// Usage, when either is missing or wrong.
    pub fn connect(environment: &Environment) -> Result<Self> {
        Self::connect_within(environment, LIMIT)
    }

    /// The same with another time limit for one answer.
    ///
    /// # Errors
    /// As [`OnePassword::connect`].
    pub fn connect_within(environment: &Environment, limit: Duration) -> Result<Self> {
        Ok(Self(Way::Connect(Connect::new(environment, limit)?)))
    }

    /// The items of a vault, named by id or name (in any case).
    ///
    /// # Errors
    /// Not found, where there is no such vault or it may not be seen: the two cannot be told apart.
    pub async fn list(&self, vault: &str) -> Result<Vec<Listed>> {
        let listed = match &self.0 {
            Way::Command(op) => op.list(vault).await,
            Way::Connect(connect) => connect.list(vault).await,
        };
        listed.context(|| format!("listing the vault `{}`", ui::escape(vault)))
    }

    /// An item with its values, both named by id: one request.
    ///
    /// # Errors
    /// Not found, denied, rate-limited.
    pub async fn get(&self, vault: &str, item: &str) -> Result<Item> {
        let read = async { Item::parse(&self.read(vault, item).await?) };
        read.await.context(|| format!("reading the item {}", ui::escape(item)))
    }

    /// Makes a new version of an item: all edits at once, or none. Values never stand in an argument.
    ///
    /// # Errors
    /// Usage, where the item holds what an edit would destroy (then nothing was asked of the server); busy, where somebody
    /// else has edited it since it was read.
    pub async fn edit(&self, item: &Item, edits: &[Edit]) -> Result<Item> {
        self.change(item, edits)
            .await
            .context(|| format!("editing the item `{}` ({})", ui::escape(&item.title), item.id))
    }

    async fn change(&self, item: &Item, edits: &[Edit]) -> Result<Item, Failure> {
        check_is_plain(item)?;
        let mut pauses = PAUSES.iter();
        let written = loop {
            let json = self.read(&item.vault.id, &item.id).await?;
            let now = Item::parse(&json)?;
            if now.version != item.version {
                return Err(changed(item, &now));
            }
            check_is_plain(&now)?;
            let json = document::edited(&json, edits, new_id)?;
            match (self.write(&item.vault.id, &item.id, json).await, pauses.next()) {
                (Err(Failure::Conflict(_)), Some(pause)) => tokio::time::sleep(*pause).await,
                (written, _) => break written,
            }
        };
        match written {
            Ok(()) => {}
            // Whether it was made can only be told by looking.
            Err(failure) if failure.is_open() => {
                let now = self.read(&item.vault.id, &item.id).await.and_then(|json| Item::parse(&json));
                return now.ok().filter(|now| is_done(item, now, edits)).ok_or(failure);
            }
            Err(failure) => return Err(failure),
        }
        let now = Item::parse(&self.read(&item.vault.id, &item.id).await?)?;
        if now.version > item.version + 1 {
            return Err(changed(item, &now));
        }
        if !is_done(item, &now, edits) {
            let message = "the edit was accepted, but the item does not hold what was asked for";
            return Err(Failure::broken(message, "look at the item in 1Password: its history has every version"));
        }
        Ok(now)
    }

    async fn read(&self, vault: &str, item: &str) -> Result<Wiped, Failure> {
        if !is_id(vault) || !is_id(item) {
            return Err(Failure::unfit(
                "an item is read by ids, of 26 letters and digits each",
                "list the vault first",
            ));
        }
        match &self.0 {
            Way::Command(op) => op.get(vault, item).await,
            Way::Connect(connect) => connect.get(vault, item).await,
        }
    }

    async fn write(&self, vault: &str, item: &str, json: Wiped) -> Result<(), Failure> {
        match &self.0 {
            Way::Command(op) => op.put(vault, item, json).await,
            Way::Connect(connect) => connect.put(vault, item, json).await,
        }
    }

    /// Requests so far, as the limits of a service account count them.
    #[must_use]
    pub fn requests(&self) -> u64 {
        match &self.0 {
            Way::Command(op) => op.requests(),
            Way::Connect(connect) => connect.requests(),
        }
    }

    /// What reading `items` items out of `vaults` vaults takes at most, and an edit. For the budget of a plan.
    ///
    /// An edit is a read, the edit and a read. With Connect each is one request, and so is the list of all vaults that a name
    /// is looked up in; there is no limit on these. What has to be tried again comes on top.
    #[must_use]
    pub fn budget(&self, vaults: u64, items: u64, edits: u64) -> u64 {
        let (list, get, put) = match &self.0 {
            Way::Command(_) => (op::LIST, op::GET, op::EDIT),
            Way::Connect(_) => (2, 1, 1),
        };
        vaults * list + items * get + edits * (get + put + get)
    }
}

/// Whether it has the form of an id.
#[must_use]
pub fn is_id(text: &str) -> bool {
    text.len() == 26 && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

/// An id for a new field.
fn new_id() -> Result<String, Failure> {
    let mut random = [0; 26];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
        .map_err(|error| Failure::broken(format!("the system gives no random bytes: {error}"), ""))?;
    Ok(random.iter().map(|byte| char::from(b"abcdefghijklmnopqrstuvwxyz234567"[usize::from(byte & 31)])).collect())
}

/// Refuses what an edit would damage: it replaces the whole item by what JSON can say of it, and that has no passkeys, no files,
/// and not all of every field.
fn check_is_plain(item: &Item) -> Result<(), Failure> {
    let category = item.category.as_str();
    let is_managed = item.tags.iter().any(|tag| tag == MANAGED) && !CLOSED_CATEGORIES.contains(&category);
    if !PLAIN_CATEGORIES.contains(&category) && !is_managed {
        let message = format!(
            "an item of the category {} can hold what an edit would destroy, such as a passkey",
            failure::quoted(category)
        );
        return Err(Failure::unfit(message, MOVE_IT));
    }
    if let Some(extra) = item.extras.first() {
        return Err(Failure::unfit(
            format!("it holds what an edit would destroy: `{}`", failure::quoted(extra)),
            MOVE_IT,
        ));
    }
    if let Some(field) = item.fields.iter().find(|field| !PLAIN_KINDS.contains(&field.kind.as_str())) {
        let (label, kind) = (failure::quoted(&field.label), failure::quoted(&field.kind));
        return Err(Failure::unfit(format!("an edit would destroy its field `{label}` of the type {kind}"), MOVE_IT));
    }
    Ok(())
}

/// Whether the edits were made.
fn is_done(before: &Item, now: &Item, edits: &[Edit]) -> bool {
    let find = |id: &str| now.fields.iter().find(|field| field.id == id);
    let is_made = |edit: &Edit| match edit {
        Edit::Set { field, value } => find(field).is_some_and(|field| holds(field, value)),
        Edit::Remove { field } => find(field).is_none(),
        // The server may give it another id.
        Edit::Add { label, value } => {
            let is_new = |field: &Field| !before.fields.iter().any(|old| old.id == field.id);
            now.fields.iter().any(|field| is_new(field) && field.label == *label && holds(field, value))
        }
    };
    now.version == before.version + 1 && edits.iter().all(is_made)
}

fn holds(field: &Field, value: &crate::secret::Secret) -> bool {
    field.value.as_ref().map_or(value.expose().is_empty(), |held| held == value)
}

fn changed(read: &Item, now: &Item) -> Failure {
    Failure::Changed(format!(
        "somebody else edited it: it was version {}, and is version {} now",
        read.version, now.version
    ))
}
