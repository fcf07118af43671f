//! When to look at a row of the table again.
//!
//! Each row has at most one live entry in a heap, and keeps it when its deadline moves back, which
//! is what happens with every line a client sends: nothing is touched then. When the entry comes
//! up, its owner compares the row's real deadline with the clock and sets the timer again if it is
//! early. A deadline that moves forward pushes a second entry and makes the first one void; void
//! entries are dropped when they come up, or all at once when they outnumber the rows.
//! Setting costs O(log n), at most 40 bytes per row are held, and time is milliseconds of the
//! loop's own clock.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

pub(super) struct Timers {
    heap: BinaryHeap<Reverse<(u64, u32)>>,
    /// When each row's live entry comes up.
    live: Vec<u64>,
}

const NONE: u64 = u64::MAX;

impl Timers {
    pub(super) fn new() -> Timers {
        Timers {
            heap: BinaryHeap::new(),
            live: Vec::new(),
        }
    }

    /// Looks at row `index` at `at_ms` or before.
    pub(super) fn set(&mut self, index: usize, at_ms: u64) {
        if index >= self.live.len() {
            self.live.resize(index + 1, NONE);
        }
        if self.live[index] <= at_ms {
            return;
        }
        self.live[index] = at_ms;
        self.heap.push(Reverse((at_ms, index as u32)));
        if self.heap.len() > 2 * self.live.len() + SLACK {
            self.compact();
        }
    }

    /// When the next entry comes up.
    pub(super) fn next_ms(&self) -> Option<u64> {
        self.heap.peek().map(|Reverse((at_ms, _))| *at_ms)
    }

    /// A row whose entry has come up. It has none now.
    pub(super) fn pop(&mut self, now_ms: u64) -> Option<usize> {
        while let Some(&Reverse((at_ms, index))) = self.heap.peek() {
            if at_ms > now_ms {
                return None;
            }
            self.heap.pop();
            let live = &mut self.live[index as usize];
            if *live == at_ms {
                *live = NONE;
                return Some(index as usize);
            }
        }
        None
    }

    fn compact(&mut self) {
        let live = &self.live;
        self.heap
            .retain(|Reverse((at_ms, index))| live[*index as usize] == *at_ms);
    }
}

const SLACK: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_comes_up_once_and_not_before_its_time() {
        let mut timers = Timers::new();
        timers.set(3, 300);
        timers.set(1, 100);
        assert_eq!(timers.next_ms(), Some(100));
        assert_eq!(timers.pop(99), None);
        assert_eq!(timers.pop(100), Some(1));
        assert_eq!(timers.pop(100), None);
        assert_eq!(timers.pop(1000), Some(3));
        assert_eq!(timers.pop(1000), None);
    }

    #[test]
    fn moving_back_keeps_the_entry_and_moving_forward_voids_it() {
        let mut timers = Timers::new();
        timers.set(0, 100);
        timers.set(0, 200);
        assert_eq!(
            timers.pop(100),
            Some(0),
            "its owner looks, and sets it again"
        );
        timers.set(0, 200);
        timers.set(0, 150);
        assert_eq!(timers.pop(150), Some(0));
        assert_eq!(timers.pop(1000), None, "the entry at 200 is void");
    }

    #[test]
    fn void_entries_do_not_pile_up() {
        let mut timers = Timers::new();
        for round in 0..10_000 {
            timers.set(0, 1_000_000 - round);
        }
        assert!(timers.heap.len() <= 2 + SLACK + 1);
        assert_eq!(timers.next_ms(), Some(990_001));
    }
}
