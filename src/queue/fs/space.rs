//! Whether there is room for another message.
//!
//! OpenSMTPD wants 5 % of blocks and inodes free. On a disk of 10 TB that is 500 GB of nothing, so
//! the share is capped; and because room is needed for what is about to come, the largest message
//! is added, as far as the file system is not itself tiny. The answer is kept for a second: at
//! full speed the check costs nothing. A change is logged once, and back again.

use std::io;
use std::sync::{Mutex, PoisonError};

use crate::log;
use crate::sys::fs::Room;
use crate::util::Timestamp;

use super::Options;

/// What was found last.
#[derive(Default)]
pub(super) struct Space(Mutex<State>);

#[derive(Default)]
struct State {
    looked: Option<Timestamp>,
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
    /// Whether something is short at `now`; `look` asks the disk if that was not done this second.
    pub(super) fn short(
        &self,
        options: &Options,
        now: Timestamp,
        look: impl FnOnce() -> io::Result<Room>,
    ) -> io::Result<bool> {
        {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if state.looked == Some(now) {
                return Ok(state.short.is_some());
            }
            // Others go by the old answer while this thread asks; the lock is not held for that.
            state.looked = Some(now);
        }
        let found = look().map(|room| shortage(room, options));
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Ok(found) = found else {
            state.looked = None;
            return found.map(|_| true);
        };
        report(state.short, found);
        state.short = found;
        Ok(found.is_some())
    }

    /// A write has just failed for want of room: look again before the next message.
    pub(super) fn doubt(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).looked = None;
    }
}

/// What is short, if anything. File systems that report no total have no such limit.
fn shortage(room: Room, options: &Options) -> Option<Shortage> {
    let share = |total: u64| total / 100 * options.min_free_percent;
    let coming = options.max_message_bytes.min(room.total_bytes / 4);
    let need_bytes = share(room.total_bytes)
        .min(options.min_free_bytes)
        .saturating_add(coming);
    if room.total_bytes > 0 && room.free_bytes < need_bytes {
        return Some(Shortage::Bytes(percent(room.free_bytes, room.total_bytes)));
    }
    let need_inodes = share(room.total_inodes).min(options.min_free_inodes);
    if room.total_inodes > 0 && room.free_inodes < need_inodes.max(MESSAGE_INODES) {
        return Some(Shortage::Inodes(percent(
            room.free_inodes,
            room.total_inodes,
        )));
    }
    None
}

/// A directory, a body, an envelope and a bucket.
const MESSAGE_INODES: u64 = 4;

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
        let short = |total, free| shortage(room(total, free), &options).is_some();
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
        assert_eq!(shortage(room, &options), Some(Shortage::Inodes(4)));
        room.free_inodes = 50;
        assert_eq!(shortage(room, &options), None);
        room.total_inodes = 1 << 30;
        room.free_inodes = options.min_free_inodes;
        assert_eq!(shortage(room, &options), None);
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
        space.doubt();
        assert!(!at(2, 900));
        let failed = space.short(&options, Timestamp(3), || Err(io::Error::other("gone")));
        assert!(failed.is_err());
        assert!(!at(3, 900));
    }
}
