//! Envelopes that wait in memory for a session of a group, up to a mark; the runner holds the others.

use std::collections::VecDeque;

use crate::config::MdaLimits;
use crate::deliver::{HoldKey, Offer, Release};

/// The water marks count deliveries. A shared session makes many of them in one go, so a group
/// that shares may have as many times more waiting.
const SHARE_FACTOR: usize = 16;

/// The water marks of `mda limit task-…`.
pub(super) struct Marks {
    pub(super) high: usize,
    low: usize,
    step: usize,
}

/// A line, and what is held back from it.
pub(super) struct Waiting<T> {
    pub(super) line: VecDeque<T>,
    key: HoldKey,
    /// Whether what comes is held until fewer wait.
    on_hold: bool,
    /// Envelopes the runner was told to hold and not yet asked for.
    held: usize,
    /// Envelopes it was asked for that have not come yet.
    expected: usize,
}

impl Marks {
    pub(super) fn of(limits: &MdaLimits, is_shared: bool) -> Marks {
        let factor = if is_shared { SHARE_FACTOR } else { 1 };
        let high = limits.task_hiwat.max(1).saturating_mul(factor);
        Marks {
            high,
            low: limits.task_lowat.saturating_mul(factor).min(high - 1),
            step: limits.task_release.max(1).saturating_mul(factor),
        }
    }
}

impl<T> Waiting<T> {
    /// An empty line; the runner knows by the key what it holds for it.
    pub(super) fn new(key: HoldKey) -> Waiting<T> {
        Waiting {
            line: VecDeque::new(),
            key,
            on_hold: false,
            held: 0,
            expected: 0,
        }
    }

    pub(super) fn offer(&mut self, item: T, marks: &Marks) -> Offer {
        self.expected = self.expected.saturating_sub(1);
        self.on_hold |= self.line.len() >= marks.high;
        if self.on_hold {
            self.held = self.held.saturating_add(1);
            return Offer::Hold(self.key);
        }
        self.line.push_back(item);
        Offer::Taken
    }

    /// What to ask the runner for, if few enough wait.
    pub(super) fn release(&mut self, marks: &Marks) -> Option<Release> {
        if self.line.len() + self.expected > marks.low {
            return None;
        }
        self.on_hold = false;
        let count = self.held.min(marks.step);
        self.held -= count;
        self.expected += count;
        (count > 0).then_some(Release {
            key: self.key,
            count,
        })
    }

    /// All that is held, for nothing will be asked for any more.
    pub(super) fn rest(&self) -> Option<Release> {
        (self.held > 0).then_some(Release {
            key: self.key,
            count: usize::MAX,
        })
    }
}
