//! Looks at a file so that a change after the look would show.
//!
//! Invariant: a look that says so was taken when no change could get the same time any more as the last one before it.

use std::fs::File;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::fs::Stat;
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};

use crate::state::Local;

/// How often the end of a clock tick is looked for, and how often it is waited for.
const TICK: Duration = Duration::from_millis(5);
const LOOKS: u32 = 4;

/// How long all changes may get the same time on a file system that keeps whole seconds only (two of them on FAT).
pub(super) const COARSE_TICK: Duration = Duration::from_secs(2);

/// Looks at a file that is about to be read, and says whether a change after this look would show.
///
/// File systems stamp files with the time of the kernel's last tick, or with a later one that others were given in this
/// tick; two changes in one tick look the same. The tick of the last change is waited for to be over; that takes some
/// milliseconds, or two seconds where times are coarse, unless changes keep coming.
pub(super) fn look(file: &File) -> Result<(Stat, bool), Errno> {
    let clock = |id| {
        let now = clock_gettime(id);
        (now.tv_sec, now.tv_nsec)
    };
    let begun = Instant::now();
    loop {
        let tick = clock(ClockId::RealtimeCoarse);
        let stat = rustix::fs::fstat(file)?;
        let stamp = Local::new(&stat, Timestamp::UNIX_EPOCH, None, None).ctime;
        // A stamp from the future is from before the clock stepped back.
        let shows_changes = is_over(stamp, tick) || stamp > clock(ClockId::Realtime);
        if shows_changes || begun.elapsed() >= tick_of(stamp) + TICK * LOOKS {
            return Ok((stat, shows_changes));
        }
        std::thread::sleep(TICK);
    }
}

/// How much longer than the kernel's tick a file system gives the time `stamp`.
const fn tick_of(stamp: (i64, i64)) -> Duration {
    if stamp.1 == 0 { COARSE_TICK } else { Duration::ZERO }
}

/// True if at `tick` no change gets the time `stamp` any more.
fn is_over(stamp: (i64, i64), tick: (i64, i64)) -> bool {
    let longer = i64::try_from(tick_of(stamp).as_secs()).unwrap_or(i64::MAX);
    if longer == 0 { stamp < tick } else { stamp.0.saturating_add(longer) <= tick.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On a file system of whole seconds a file that is rewritten in place a moment later looks as before.
    #[test]
    fn a_reading_counts_only_when_no_change_gets_the_same_time_any_more() {
        assert!(is_over((100, 7), (100, 8)) && !is_over((100, 7), (100, 7)));
        for still in [(100, 1), (100, 999_999_999), (101, 999_999_999)] {
            assert!(!is_over((100, 0), still), "{still:?}");
        }
        assert!(is_over((100, 0), (102, 0)));
    }
}
