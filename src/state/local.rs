//! What the file system says of a file, kept to recognise it unchanged.

use rustix::fs::Stat;
use serde::{Deserialize, Serialize};

/// What the file system said of a file when it was read: equal means unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Local {
    /// Device, inode, size.
    pub id: (u64, u64, i64),
    /// Modification time.
    pub mtime: (i64, i64),
    /// Change time.
    pub ctime: (i64, i64),
    /// When the run that read it had the file system write out what was dirty, by this host's clock.
    pub read: (i64, i32),
    /// The same of a database's `-wal`; `None` if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wal: Option<Side>,
    /// The same of a database's `-journal`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub journal: Option<Side>,
}

/// What the file system said of a database's side file: inode, size, mtime, ctime.
pub type Side = (u64, i64, (i64, i64), (i64, i64));

/// The stat of a side file in comparable form.
#[must_use]
pub fn side(stat: &Stat) -> Side {
    (stat.st_ino, stat.st_size, times(stat).0, times(stat).1)
}

#[expect(clippy::cast_possible_wrap, reason = "nanoseconds are below 2^30")]
#[expect(clippy::unnecessary_cast, reason = "the width differs between architectures")]
const fn times(stat: &Stat) -> ((i64, i64), (i64, i64)) {
    ((stat.st_mtime as i64, stat.st_mtime_nsec as i64), (stat.st_ctime as i64, stat.st_ctime_nsec as i64))
}

impl Local {
    /// The local columns of a file that a run reads which began at `read`.
    #[must_use]
    pub fn new(stat: &Stat, read: jiff::Timestamp, wal: Option<Side>, journal: Option<Side>) -> Self {
        let (mtime, ctime) = times(stat);
        let id = (stat.st_dev, stat.st_ino, stat.st_size);
        Self { id, mtime, ctime, read: (read.as_second(), read.subsec_nanosecond()), wal, journal }
    }

    /// True if a file that looks like `now` is the one recorded here, unchanged since it was read.
    ///
    /// A change in the same clock tick as the reading would not show, nor one through a memory mapping to
    /// a page that is dirty already. So everything must have been at rest for two seconds when the run
    /// that read it began and had dirty pages written out: a later change to a clean page shows.
    #[must_use]
    pub fn is_unchanged(&self, now: &Self) -> bool {
        let same = (self.id, self.mtime, self.ctime, self.wal, self.journal)
            == (now.id, now.mtime, now.ctime, now.wal, now.journal);
        let rested = |ctime: (i64, i64)| (ctime.0.saturating_add(2), ctime.1) < (self.read.0, i64::from(self.read.1));
        same && rested(self.ctime) && [self.wal, self.journal].iter().flatten().all(|s| rested(s.2) && rested(s.3))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(ctime: i64, read: i64, wal: Option<Side>) -> Local {
        Local { id: (1, 2, 3), mtime: (4, 5), ctime: (ctime, 0), read: (read, 0), wal, journal: None }
    }

    #[test]
    fn a_file_counts_as_unchanged_only_if_it_had_rested_for_two_seconds() {
        assert!(local(10, 13, None).is_unchanged(&local(10, 99, None)));
        assert!(!local(10, 12, None).is_unchanged(&local(10, 99, None)), "read in the second second");
        assert!(!local(10, 13, None).is_unchanged(&local(11, 99, None)), "changed since");
    }

    #[test]
    fn a_database_counts_as_unchanged_only_with_its_side_files() {
        let wal = |size, at| Some((7, size, (at, 0), (at, 0)));
        assert!(local(10, 30, wal(100, 20)).is_unchanged(&local(10, 99, wal(100, 20))));
        assert!(!local(10, 30, wal(100, 20)).is_unchanged(&local(10, 99, wal(200, 20))), "the WAL grew");
        assert!(!local(10, 30, wal(100, 20)).is_unchanged(&local(10, 99, wal(100, 25))), "the WAL was written");
        assert!(!local(10, 30, None).is_unchanged(&local(10, 99, wal(100, 20))), "a WAL appeared");
        assert!(!local(10, 30, wal(100, 29)).is_unchanged(&local(10, 99, wal(100, 29))), "the WAL had not rested");
    }
}
