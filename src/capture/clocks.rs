//! Which end time a snapshot claims, and whether readers will believe it.
//!
//! Invariants:
//! * An end time is later than the predecessor's, whatever this host's clock says.
//! * No snapshot is committed that readers would refuse because its end time is too far from the time at
//!   which the store received it: a wrong clock is said on the host, on the day on which it is wrong.

use jiff::{SignedDuration, Timestamp};

use crate::archive::receipt::SnapshotId;
use crate::{Error, Result};

/// How far a claimed end may lie from a real clock. Readers take a day; the receipt is stored a little
/// later than the time that is compared.
const MAX_APART: SignedDuration = SignedDuration::from_mins(24 * 60 - 5);
/// Clocks that are further apart are worth a warning.
const WORTH_SAYING: SignedDuration = SignedDuration::from_mins(5);

/// What to do about any of it; nothing is lost by it.
const SET_THE_CLOCK: &str = "set the clock of this host and run again: what is stored already is used";

/// When a snapshot ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EndTime {
    /// What the receipt says.
    pub at: Timestamp,
    /// Seconds that this lies ahead of the host's clock, where it is more than two runs in one second explain.
    pub skew: Option<i64>,
}

impl EndTime {
    /// Whole seconds, rounded up so that nothing in the snapshot is younger than it says; after the
    /// predecessor.
    pub(super) fn after(predecessor: Option<&SnapshotId>, now: Timestamp) -> Self {
        let up = i64::from(now.subsec_nanosecond() > 0);
        let now = Timestamp::from_second(now.as_second() + up).unwrap_or(now);
        let after = predecessor.and_then(|p| p.finished_at().checked_add(SignedDuration::from_secs(1)).ok());
        let at = after.map_or(now, |after| after.max(now));
        let skew = at.as_second() - now.as_second();
        Self { at, skew: (skew > 1).then_some(skew) }
    }

    /// Whether the predecessor lets this host go on; a warning if its clock must have stepped back.
    ///
    /// # Errors
    /// Exit 4 if the predecessor ends a day ahead.
    pub(super) fn check_skew(&self) -> Result<Option<String>> {
        let skew = SignedDuration::from_secs(self.skew.unwrap_or_default());
        if skew > MAX_APART {
            let message = format!("the newest snapshot ends {} ahead of this host's clock", in_words(skew));
            return Err(Error::integrity(message)
                .hint(format!("{SET_THE_CLOCK}; a snapshot with such a time would not be trusted")));
        }
        Ok((skew > WORTH_SAYING).then(|| {
            format!(
                "the newest snapshot ends {} ahead of this host's clock, which has stepped back; \
                 this one claims to end a second later",
                in_words(skew)
            )
        }))
    }

    /// Compares with the time at which the store received an object of this run just now; a warning if the
    /// clocks differ by more than a little.
    ///
    /// # Errors
    /// Exit 4 if no reader would believe the end time.
    pub(super) fn check_store_time(&self, now: Timestamp, store: Timestamp) -> Result<Option<String>> {
        let apart = self.at.duration_since(store).abs();
        if apart > MAX_APART {
            let message = format!(
                "this snapshot would end at {}, {} from the store's time ({store:.0}); no reader would trust it, \
                 so it is not committed",
                self.at,
                in_words(apart)
            );
            return Err(Error::integrity(message).hint(SET_THE_CLOCK));
        }
        let ahead = now.duration_since(store);
        Ok((ahead.abs() > WORTH_SAYING).then(|| {
            let side = if ahead.is_positive() { "ahead of" } else { "behind" };
            format!(
                "the clock of this host is {} {side} the store's; from 24 hours on no reader would trust its snapshots",
                in_words(ahead.abs())
            )
        }))
    }
}

fn in_words(apart: SignedDuration) -> String {
    match (apart.as_hours(), apart.as_mins() % 60) {
        (hours @ 48.., _) => format!("{} days", hours / 24),
        (0, minutes) => format!("{minutes} minutes"),
        (hours, minutes) => format!("{hours} h {minutes} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn the_end_time_is_after_the_predecessor_whatever_the_clock_says() {
        let before: SnapshotId = "20260307T140000Z-000001-0123456789abcdef".parse().unwrap();
        let end = |predecessor, now: &str| {
            let EndTime { at, skew } = EndTime::after(predecessor, at(now));
            (at, skew)
        };
        assert_eq!(end(Some(&before), "2026-03-07T15:00:00.1Z"), (at("2026-03-07T15:00:01Z"), None));
        assert_eq!(end(Some(&before), "2026-03-07T14:00:00Z"), (at("2026-03-07T14:00:01Z"), None));
        assert_eq!(end(Some(&before), "2026-03-06T14:00:00Z"), (at("2026-03-07T14:00:01Z"), Some(86_401)));
        assert_eq!(end(None, "2026-03-06T14:00:00Z").1, None);
    }

    #[test]
    fn what_no_reader_would_trust_is_refused_and_a_large_difference_is_said() {
        let store = at("2026-03-07T14:00:00Z");
        let check = |now: &str| EndTime::after(None, at(now)).check_store_time(at(now), store);
        for quiet in ["2026-03-07T14:05:00Z", "2026-03-07T13:55:00Z"] {
            assert_eq!(check(quiet).unwrap(), None, "{quiet}");
        }
        let ahead = check("2026-03-08T13:55:00Z").unwrap().unwrap();
        assert!(ahead.contains("23 h 55 min ahead of"), "{ahead}");
        let behind = check("2026-03-06T14:05:00Z").unwrap().unwrap();
        assert!(behind.contains("23 h 55 min behind"), "{behind}");
        for refused in ["2026-03-08T13:55:01Z", "2026-03-06T14:04:59Z", "1970-01-01T00:00:00Z", "2100-01-01T00:00:00Z"]
        {
            assert_eq!(check(refused).unwrap_err().code(), crate::ExitCode::Integrity, "{refused}");
        }
    }
}
