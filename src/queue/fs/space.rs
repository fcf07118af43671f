//! Whether there is room for another message.
//!
//! OpenSMTPD wants 5 % of blocks and inodes free. On a disk of 10 TB that is 500 GB of nothing, so
//! the share is capped; and because room is needed for what is about to come, the largest message
//! is added, as far as the file system is not itself tiny. The answer is kept for a second, or
//! until what was found free beyond that may have been used up: at full speed the check costs
//! nothing. A change is logged once, and back again.
//!
//! The disk may also refuse where room seemed to be: a quota, descriptors that have run out, a
//! second in which another program filled it. [`Space::refused`] is told of every such error and
//! logs the first; whoever met it need not.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::log;
use crate::sys::fs::Room;
use crate::util::Timestamp;

use super::Options;

/// What was found last, and what has been used since.
#[derive(Default)]
pub(super) struct Space {
    last: Mutex<LastLook>,
    spent_bytes: AtomicU64,
    spent_inodes: AtomicU64,
    /// When the disk refused last although nothing was found short; 0 when all is well.
    refused_s: AtomicU64,
}

/// So long nothing may have been refused before all is called well again.
const CALM_S: u64 = 5;

#[derive(Default)]
struct LastLook {
    looked: Option<Timestamp>,
    found: Headroom,
}

/// What is free beyond the reserve, or which reserve is not there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Headroom {
    bytes: u64,
    inodes: u64,
    short: Option<Shortage>,
}

/// What is short, and how much of it is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shortage {
    /// Percent of the bytes.
    Bytes(u64),
    /// Percent of the inodes.
    Inodes(u64),
}

impl Space {
    /// Whether something is short at `now`; `look` asks the disk if the last answer is too old.
    pub(super) fn short(
        &self,
        options: &Options,
        now: Timestamp,
        look: impl FnOnce() -> io::Result<Room>,
    ) -> io::Result<bool> {
        {
            let mut last = self.lock();
            if last.looked == Some(now) && !self.is_spent(last.found) {
                return Ok(last.found.short.is_some());
            }
            // Others go by the old answer while this thread asks; the lock is not held for that.
            last.looked = Some(now);
            self.spent_bytes.store(0, Ordering::Relaxed);
            self.spent_inodes.store(0, Ordering::Relaxed);
        }
        let found = look().map(|room| headroom(room, options));
        let mut last = self.lock();
        let Ok(found) = found else {
            last.looked = None;
            return found.map(|_| true);
        };
        report(last.found.short, found.short);
        last.found = found;
        Ok(found.short.is_some())
    }

    /// So much has been written.
    pub(super) fn spend(&self, bytes: u64, inodes: u64) {
        self.spent_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.spent_inodes.fetch_add(inodes, Ordering::Relaxed);
    }

    /// A call has just failed for want of room, of quota or of descriptors: looks again at once,
    /// and sees to it that the log says why.
    pub(super) fn refused(
        &self,
        error: &io::Error,
        options: &Options,
        now: Timestamp,
        look: impl FnOnce() -> io::Result<Room>,
    ) {
        self.lock().looked = None;
        if matches!(self.short(options, now, look), Ok(true)) {
            return;
        }
        if self.refused_s.swap(now.0.max(1), Ordering::Relaxed) == 0 {
            log::warn(format_args!("queue: {error}"));
            log::warn(format_args!("temporarily rejecting messages"));
        }
    }

    /// Something has become durable at `now`.
    pub(super) fn written(&self, now: Timestamp) {
        let refused_s = self.refused_s.load(Ordering::Relaxed);
        if refused_s == 0 || now.0 < refused_s.saturating_add(CALM_S) {
            return;
        }
        let well =
            self.refused_s
                .compare_exchange(refused_s, 0, Ordering::Relaxed, Ordering::Relaxed);
        if well.is_ok() {
            log::info(format_args!(
                "queue: can be written again: accepting messages"
            ));
        }
    }

    fn is_spent(&self, found: Headroom) -> bool {
        found.short.is_none()
            && (self.spent_bytes.load(Ordering::Relaxed) > found.bytes
                || self.spent_inodes.load(Ordering::Relaxed) > found.inodes)
    }

    fn lock(&self) -> MutexGuard<'_, LastLook> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether something is short, by the usual reserves.
pub fn is_short(room: Room) -> bool {
    headroom(room, &Options::default()).short.is_some()
}

/// What is short, if anything. File systems that report no total have no such limit.
fn headroom(room: Room, options: &Options) -> Headroom {
    let share = |total: u64| total / 100 * options.min_free_percent;
    let coming = options.max_message_bytes.min(room.total_bytes / 4);
    let reserve = share(room.total_bytes).min(options.min_free_bytes);
    let bytes = room.free_bytes.checked_sub(reserve.saturating_add(coming));
    let reserve = share(room.total_inodes).min(options.min_free_inodes);
    let inodes = room.free_inodes.checked_sub(reserve.max(MESSAGE_INODES));
    let short = if room.total_bytes > 0 && bytes.is_none() {
        Some(Shortage::Bytes(percent(room.free_bytes, room.total_bytes)))
    } else if room.total_inodes > 0 && inodes.is_none() {
        Some(Shortage::Inodes(percent(
            room.free_inodes,
            room.total_inodes,
        )))
    } else {
        None
    };
    let or_endless = |total: u64, left: Option<u64>| match total {
        0 => u64::MAX,
        _ => left.unwrap_or(0),
    };
    Headroom {
        bytes: or_endless(room.total_bytes, bytes),
        inodes: or_endless(room.total_inodes, inodes),
        short,
    }
}

/// A directory, a body, an envelope and a bucket.
pub(super) const MESSAGE_INODES: u64 = 4;

fn percent(part: u64, whole: u64) -> u64 {
    (u128::from(part) * 100)
        .checked_div(u128::from(whole))
        .map_or(0, |percent| percent as u64)
}

fn report(before: Option<Shortage>, after: Option<Shortage>) {
    match (before, after) {
        (None, Some(shortage)) => {
            let (what, left) = match shortage {
                Shortage::Bytes(left) => ("disk space", left),
                Shortage::Inodes(left) => ("inodes", left),
            };
            log::warn(format_args!("not enough {what}: {left}% left"));
            log::warn(format_args!("temporarily rejecting messages"));
        }
        (Some(_), None) => log::info(format_args!(
            "queue: enough disk space again: accepting messages"
        )),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn room(total_mib: u64, free_mib: u64) -> Room {
        Room {
            total_bytes: total_mib * MIB,
            free_bytes: free_mib * MIB,
            total_inodes: 0,
            free_inodes: 0,
        }
    }

    #[test]
    fn the_reserve_is_small_on_large_and_possible_on_small_file_systems() {
        let options = Options::default();
        let short = |total, free| headroom(room(total, free), &options).short.is_some();
        assert!(!short(10 << 20, 300));
        assert!(short(10 << 20, 290));
        assert!(!short(16, 5));
        assert!(short(16, 4));
        assert!(!short(0, 0));
    }

    #[test]
    fn inodes_count_where_the_file_system_counts_them() {
        let options = Options::default();
        let mut room = room(1000, 1000);
        room.total_inodes = 1000;
        room.free_inodes = 49;
        assert_eq!(headroom(room, &options).short, Some(Shortage::Inodes(4)));
        room.free_inodes = 50;
        assert_eq!(headroom(room, &options).short, None);
        room.total_inodes = 1 << 30;
        room.free_inodes = options.min_free_inodes;
        assert_eq!(headroom(room, &options).short, None);
    }

    #[test]
    fn the_answer_is_kept_for_a_second_and_comes_back() {
        let (space, options) = (Space::default(), Options::default());
        let at = |second, free| {
            space
                .short(&options, Timestamp(second), || Ok(room(1000, free)))
                .unwrap()
        };
        assert!(!at(1, 900));
        assert!(!at(1, 0));
        assert!(at(2, 0));
        assert!(at(2, 900));
        assert!(!at(3, 900));
        space.spend(800 * MIB, 1000);
        assert!(!at(3, 0), "there was more");
        space.spend(200 * MIB, 0);
        assert!(at(3, 0));
        let failed = space.short(&options, Timestamp(4), || Err(io::Error::other("gone")));
        assert!(failed.is_err());
        assert!(!at(4, 900));
    }

    #[test]
    fn a_refusal_makes_the_answer_old() {
        let (space, options) = (Space::default(), Options::default());
        let at = |free| {
            let room = room(1000, free);
            space.short(&options, Timestamp(7), || Ok(room)).unwrap()
        };
        let full = io::Error::from(io::ErrorKind::StorageFull);
        assert!(!at(900));
        space.refused(&full, &options, Timestamp(7), || Ok(room(1000, 0)));
        assert!(at(900), "found short a moment ago");
        space.refused(&full, &options, Timestamp(7), || Ok(room(1000, 900)));
        assert!(!at(0));
    }

    #[test]
    fn a_refusal_without_a_shortage_lasts_until_writing_has_worked_for_a_while() {
        let (space, options) = (Space::default(), Options::default());
        let refuse = |second| {
            let error = io::Error::from(io::ErrorKind::QuotaExceeded);
            let look = || Ok(room(1000, 900));
            space.refused(&error, &options, Timestamp(second), look);
        };
        let is_refusing = || space.refused_s.load(Ordering::Relaxed) != 0;
        refuse(10);
        space.written(Timestamp(11));
        refuse(12);
        space.written(Timestamp(12 + CALM_S - 1));
        assert!(is_refusing());
        space.written(Timestamp(12 + CALM_S));
        assert!(!is_refusing());
    }
}
