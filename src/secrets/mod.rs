//! Secrets out of 1Password into the variables of Railway's services: planned, written, deployed once, proved.
//!
//! ```text
//! scope of the token → all sources (resolve) → what Railway has → plan → writes, each read back → one deployment each
//! ```
//! Invariants:
//! * All sources are resolved before anything is written; one that is missing stops everything, and never means "delete".
//! * Only variables that the configuration names are written, and only those that an earlier sync has written are deleted.
//! * A service whose write failed is not deployed. What was written and is not deployed shows in Railway's own times, so that
//!   running the same command again leads to the same end from wherever it was stopped.
//! * Values are in no result, record or message: only [fingerprints](fingerprint).

pub mod deploy;
pub mod fingerprint;
pub mod generate;
pub mod plan;
pub mod propose;
pub mod record;
pub mod resolve;
pub mod rollout;
pub mod rotate;
pub mod sync;
pub mod value;
pub mod verify;
pub mod work;

pub use fingerprint::{Fingerprint, Fingerprints};
pub use plan::{Action, Change, Plan};
pub use record::RecordFile;
pub use work::{Requests, Work};

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::deploy::Deploy;
    use super::plan::ServicePlan;
    use super::resolve::{Resolved, Value};
    use super::rotate::Turn;
    use super::*;
    use crate::config::secrets::Source;
    use crate::providers::onepassword::{Edit, Field, Item, Vault};
    use crate::providers::railway::{Place, Values};
    use crate::secret::Secret;

    #[test]
    fn nothing_that_holds_a_value_shows_it() {
        let secret = Secret::new("hunter2");
        let place = Place { project: "p".to_owned(), environment: "e".to_owned(), service: None };
        let service = ServicePlan {
            name: "web".to_owned(),
            place,
            changes: Vec::new(),
            writes: [("A".to_owned(), secret.clone())].into(),
            deletes: Vec::new(),
            is_pruned: false,
            deploy: Deploy::None,
            managed: [].into(),
            references: BTreeMap::new(),
        };
        let plan = Plan { target: "production".to_owned(), services: vec![service] };
        let source = Source::Variable("A".to_owned());
        let value = Value { secret: secret.clone(), updated: None, field: None };
        let resolved = Resolved { values: [(source.clone(), value)].into(), ..Resolved::default() };
        let turn = Turn {
            source,
            variables: Vec::new(),
            new: Some(secret.clone()),
            old: Some(secret.clone()),
            is_open: true,
            is_back: false,
        };
        let field = Field {
            id: "f".to_owned(),
            section: None,
            kind: "CONCEALED".to_owned(),
            label: "token".to_owned(),
            value: Some(secret.clone()),
        };
        let item = Item {
            id: "i".to_owned(),
            title: "web".to_owned(),
            vault: Vault { id: "v".to_owned(), name: "Team".to_owned() },
            version: 1,
            category: "API_CREDENTIAL".to_owned(),
            tags: Vec::new(),
            updated: None,
            sections: Vec::new(),
            fields: vec![field],
            extras: Vec::new(),
        };
        let edits = [
            Edit::Set { field: "f".to_owned(), value: secret.clone() },
            Edit::Add { label: "old".to_owned(), value: secret.clone() },
        ];
        let values: Values = [("A".to_owned(), Some(secret.clone()))].into();
        let prints = Fingerprints::new(Some(&Secret::new("hunter2hunter2hunter2"))).unwrap();
        let shown = format!("{secret:?} {plan:?} {resolved:?} {turn:?} {item:?} {edits:?} {values:?} {prints:?}");
        assert!(!shown.contains("hunter2"), "{shown}");
        assert!(shown.contains("production") && shown.contains("API_CREDENTIAL"), "{shown}");
    }
}
