//! A home directory without a .forward, for whoever wants to know later that there is still none.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::sys::sandbox;
use crate::util::Timestamp;

/// What a home directory is at a moment. Whoever makes a file in it changes that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HomeState {
    /// There is none.
    Missing,
    /// This directory.
    Is {
        device: u64,
        inode: u64,
        /// The time of the last change, which nobody can set, in seconds and nanoseconds.
        changed: (i64, i64),
    },
}

impl HomeState {
    /// As it is now; `None` if nobody can say.
    pub fn of(home: &Path) -> Option<HomeState> {
        if !home.is_absolute() {
            // Nobody looks at such a one.
            return Some(HomeState::Missing);
        }
        HomeState::seen(fs::metadata(home), sandbox::HIDES_FILES)
    }

    /// Where what is hidden seems not to be there, nothing is known of what seems so.
    fn seen(found: io::Result<Metadata>, may_be_hidden: bool) -> Option<HomeState> {
        match found {
            Ok(found) => Some(HomeState::Is {
                device: found.dev(),
                inode: found.ino(),
                changed: (found.ctime(), found.ctime_nsec()),
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !may_be_hidden => {
                Some(HomeState::Missing)
            }
            Err(_) => None,
        }
    }

    /// Whether a change from now on will show. A directory that has just been changed may be
    /// changed again within one tick of the clock of its file system.
    pub fn is_settled(&self, now: Timestamp) -> bool {
        match self {
            HomeState::Missing => true,
            HomeState::Is { changed, .. } => {
                let changed = u64::try_from(changed.0).unwrap_or(0);
                changed.saturating_add(TICK_SECONDS) <= now.0
            }
        }
    }
}

/// The coarsest clock that a file system has, FAT's.
const TICK_SECONDS: u64 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    // forward(5): one that is made later is followed, on OpenBSD as well.
    #[test]
    fn nothing_is_known_of_a_home_that_may_be_hidden() {
        let dir = tempfile::tempdir().unwrap();
        let missing = || fs::metadata(dir.path().join("bob"));
        assert_eq!(HomeState::seen(missing(), true), None);
        assert_eq!(HomeState::seen(missing(), false), Some(HomeState::Missing));
        let there = HomeState::seen(fs::metadata(dir.path()), true);
        assert!(matches!(there, Some(HomeState::Is { .. })));
    }

    #[test]
    fn nothing_is_known_of_a_home_that_cannot_be_looked_at() {
        // A file is no directory: no path leads through it.
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(HomeState::of(&file.path().join("bob")), None);
        // table(5): a user without a home.
        for home in ["", "tmp"] {
            assert_eq!(HomeState::of(Path::new(home)), Some(HomeState::Missing));
        }
    }

    #[test]
    fn a_change_shows_two_seconds_after_the_last_one() {
        let state = HomeState::Is {
            device: 1,
            inode: 1,
            changed: (100, 999_999_999),
        };
        let settled = |seconds| state.is_settled(Timestamp(seconds));
        assert_eq!([100, 101, 102].map(settled), [false, false, true]);
    }
}
