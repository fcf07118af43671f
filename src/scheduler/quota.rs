//! How many envelopes of which kind may be in flight: nobody's mail keeps all of another's waiting.
//!
//! Each class of envelopes has an eighth of `max-inflight` to itself, and what the others do not
//! need of the rest. Of what a class may have, attempts after the first may be no more than a half;
//! and the last quarter is for destinations with nothing in flight.

use std::collections::HashMap;

use super::entry::{Entry, Lane};
use super::{Class, Destination};

/// Who shares.
const CLASSES: usize = 4;

/// What is in flight.
#[derive(Default)]
pub(super) struct Inflight {
    all: usize,
    by_class: [usize; CLASSES],
    /// Attempts after the first.
    again: [usize; CLASSES],
    by_destination: HashMap<(Class, Destination), usize>,
}

/// What a line may hand out now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Allowed {
    Nothing,
    /// Only for destinations with nothing in flight.
    Quiet,
    Anything,
}

impl Inflight {
    pub(super) fn len(&self) -> usize {
        self.all
    }

    /// Whether something for a destination is in flight.
    pub(super) fn is_busy(&self, class: Class, to: Destination) -> bool {
        self.by_destination.contains_key(&(class, to))
    }

    /// Counts an envelope that leaves from this line; says whether it is the first one for its
    /// destination.
    pub(super) fn add(&mut self, lane: Lane, entry: &Entry) -> bool {
        self.all += 1;
        self.by_class[index(lane)] += 1;
        self.again[index(lane)] += usize::from(lane.is_again());
        let count = self.by_destination.entry((entry.class, entry.to));
        let count = count.or_insert(0);
        *count += 1;
        *count == 1
    }

    /// The envelope is not in flight any more; says whether it was the last one for its
    /// destination.
    pub(super) fn take(&mut self, lane: Lane, entry: &Entry) -> bool {
        self.all -= 1;
        self.by_class[index(lane)] -= 1;
        self.again[index(lane)] -= usize::from(lane.is_again());
        let key = (entry.class, entry.to);
        let Some(count) = self.by_destination.get_mut(&key) else {
            return false;
        };
        *count -= 1;
        let last = *count == 0;
        if last {
            self.by_destination.remove(&key);
        }
        last
    }

    /// What a line may hand out when no more than `most` may be in flight.
    pub(super) fn allows(&self, lane: Lane, most: usize) -> Allowed {
        let class = index(lane);
        let own = most / (2 * CLASSES);
        let kept = |count: &usize| own.saturating_sub(*count);
        let kept: usize = self.by_class.iter().map(kept).sum();
        if self.all >= most || self.by_class[class] >= own && self.all + kept >= most {
            return Allowed::Nothing;
        }
        let share = most - (CLASSES - 1) * own;
        if lane.is_again() && self.again[class] >= share.div_ceil(2) {
            return Allowed::Nothing;
        }
        if self.by_class[class] >= (share - share / 4) && lane.has_destinations() {
            return Allowed::Quiet;
        }
        Allowed::Anything
    }

    #[cfg(test)]
    pub(super) fn check(&self) {
        assert_eq!(self.all, self.by_class.iter().sum::<usize>());
        assert_eq!(self.all, self.by_destination.values().sum::<usize>());
        assert!(self.by_destination.values().all(|count| *count > 0));
    }
}

/// The row of `by_class` and `again` for a line.
fn index(lane: Lane) -> usize {
    match lane {
        Lane::Removed | Lane::Expired => 0,
        Lane::Bounce | Lane::BounceAgain => 1,
        Lane::Mda | Lane::MdaAgain => 2,
        Lane::Mta | Lane::MtaAgain => 3,
    }
}
