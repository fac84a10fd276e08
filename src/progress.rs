//! How long work tells how far it is, without knowing who looks.

/// Receives progress; called from many threads.
pub trait Progress: Sync {
    /// More bytes are done.
    fn advance(&self, bytes: u64);
    /// The bytes there will be in all, as far as known now.
    fn set_total(&self, _bytes: u64) {}
}

/// Nobody looks.
impl Progress for () {
    fn advance(&self, _bytes: u64) {}
}
