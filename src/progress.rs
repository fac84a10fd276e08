//! How long work tells how far it is, without knowing who looks.

/// Receives progress; called from many threads.
pub trait Progress: Sync {
    /// More bytes are done.
    fn advance(&self, bytes: u64);
    /// The bytes there will be in all, as far as known now.
    fn set_total(&self, _bytes: u64) {}
    /// True if somebody watches, so that finding out the total is worth a walk of its own.
    fn is_watched(&self) -> bool {
        false
    }
}

/// Nobody looks.
impl Progress for () {
    fn advance(&self, _bytes: u64) {}
}
