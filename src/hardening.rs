//! Makes the process keep its memory to itself before it handles secrets.
//!
//! Invariants:
//! * Nothing here can fail a command: what the system does not allow is told with `-v`, and the rest still holds.
//! * All memory that is to come is locked only where no limit can be hit: under one, an allocation would fail later.

use std::sync::atomic::{AtomicBool, Ordering};

use rustix::mm::{MlockAllFlags, mlock, mlockall};
use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};
use rustix::thread::{CapabilitySet, capabilities};

use crate::{ui, wiping};

/// Whether each secret is locked by itself.
static ONE_BY_ONE: AtomicBool = AtomicBool::new(false);

/// To be called before the first secret is there: what is freed is wiped, no core is dumped, no other process of the same
/// user can look in, and no secret goes to swap where the system lets us say so. A second call changes nothing.
pub fn protect() {
    wiping::turn_on();
    no_core_dumps();
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::info!("other processes of this user can read the memory of this one: {error}");
    }
    lock_memory();
}

/// No core file, whatever happens. A child inherits it.
pub fn no_core_dumps() {
    // Lowering a limit is always allowed.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
}

fn lock_memory() {
    let is_allowed = raise_limit() || may_lock_all();
    // On fault: what is reserved and never used takes no memory.
    let all = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    let refused = if is_allowed { mlockall(all).err() } else { None };
    if is_allowed && refused.is_none() {
        return;
    }
    ONE_BY_ONE.store(true, Ordering::Relaxed);
    let limit = getrlimit(Resource::Memlock).current.unwrap_or(u64::MAX);
    match refused {
        Some(error) => tracing::info!("the memory cannot be kept out of swap as a whole: {error}"),
        None => tracing::info!(
            "of this process {} may be kept out of swap: the secrets are, and not all memory",
            ui::bytes(limit)
        ),
    }
}

/// Asks for as much as there is; whether there is no limit now.
fn raise_limit() -> bool {
    let no_limit = Rlimit { current: None, maximum: None };
    if setrlimit(Resource::Memlock, no_limit).is_err() {
        let maximum = getrlimit(Resource::Memlock).maximum;
        // To raise it up to the maximum is always allowed.
        let _ = setrlimit(Resource::Memlock, Rlimit { current: maximum, maximum });
    }
    getrlimit(Resource::Memlock).current.is_none()
}

/// Whether the limit does not count for this process.
fn may_lock_all() -> bool {
    capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::IPC_LOCK))
}

/// Keeps the pages of a secret out of swap, if that is not so for all memory. They stay locked when it goes: others may lie
/// on the same pages, and whoever frees a page unlocks it.
#[expect(unsafe_code, reason = "the system call takes an address")]
pub(crate) fn lock(secret: &[u8]) {
    static IS_TOLD: AtomicBool = AtomicBool::new(false);
    if secret.is_empty() || !ONE_BY_ONE.load(Ordering::Relaxed) {
        return;
    }
    // SAFETY: the pages are those of a slice that we hold; locking them changes none of their bytes.
    let locked = unsafe { mlock(secret.as_ptr().cast_mut().cast(), secret.len()) };
    if let Err(error) = locked
        && !IS_TOLD.swap(true, Ordering::Relaxed)
    {
        tracing::info!("not every secret can be kept out of swap: {error}");
    }
}
