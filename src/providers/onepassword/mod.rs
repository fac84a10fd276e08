//! 1Password: references, and the two ways to read and to write items, the `op` command and a Connect server.

pub mod item;
pub mod reference;

pub use item::{Edit, Field, Item, Listed, Vault};

use crate::Result;
use crate::cancel::Cancel;
use crate::config::Environment;

/// Where items are read and written.
pub struct OnePassword {}

impl OnePassword {
    /// The `op` command, with a service account: `OP_SERVICE_ACCOUNT_TOKEN`, `OPSCTL_OP_BIN`.
    ///
    /// # Errors
    /// Denied without a token; not found without the command; usage where it is too old.
    pub async fn command(_environment: &Environment, _cancel: &Cancel) -> Result<Self> {
        unimplemented!()
    }

    /// A Connect server: `OP_CONNECT_HOST`, `OP_CONNECT_TOKEN`.
    ///
    /// # Errors
    /// Usage, when either is missing or wrong.
    pub fn connect(_environment: &Environment) -> Result<Self> {
        unimplemented!()
    }

    /// The items of a vault, named by id or name (in any case).
    ///
    /// # Errors
    /// Not found, where there is no such vault or it may not be seen: the two cannot be told apart.
    pub async fn list(&self, _vault: &str) -> Result<Vec<Listed>> {
        unimplemented!()
    }

    /// An item with its values, both named by id: one request.
    ///
    /// # Errors
    /// Not found, denied, rate-limited.
    pub async fn get(&self, _vault: &str, _item: &str) -> Result<Item> {
        unimplemented!()
    }

    /// Makes a new version of an item: all edits at once, or none. Values never stand in an argument.
    ///
    /// # Errors
    /// Usage, where the item holds what an edit would destroy (then nothing was asked of the server); busy, where somebody
    /// else has edited it since it was read.
    pub async fn edit(&self, _item: &Item, _edits: &[Edit]) -> Result<Item> {
        unimplemented!()
    }

    /// Requests so far, as the limits of a service account count them.
    #[must_use]
    pub fn requests(&self) -> u64 {
        unimplemented!()
    }

    /// What reading `items` items out of `vaults` vaults takes at most, and an edit. For the budget of a plan.
    #[must_use]
    pub fn budget(&self, _vaults: u64, _items: u64, _edits: u64) -> u64 {
        unimplemented!()
    }
}
