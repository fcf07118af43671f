//! Envelopes that are due, in the order in which they are handed out: destinations take turns, and
//! those of one destination go first come first served.
//!
//! A destination with nothing in flight is told apart from the others, because it may be handed out
//! where they may not.

use std::collections::{BTreeMap, BTreeSet};

use crate::mail::EvpId;

use super::Destination;

/// One line of due envelopes.
#[derive(Default)]
pub(super) struct Line {
    waiting: BTreeMap<Destination, Waiting>,
    /// Whose turn is when, of destinations with nothing in flight and of the others.
    quiet: BTreeMap<u64, Destination>,
    busy: BTreeMap<u64, Destination>,
    len: usize,
    turns: u64,
}

/// What waits for one destination.
struct Waiting {
    turn: u64,
    is_busy: bool,
    ids: BTreeSet<(u64, EvpId)>,
}

impl Line {
    /// How many envelopes are in line.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Puts an envelope at the end of what waits for its destination. `is_busy`: whether something
    /// for that is in flight.
    pub(super) fn insert(&mut self, to: Destination, place: (u64, EvpId), is_busy: bool) {
        if !self.waiting.contains_key(&to) {
            self.turns += 1;
            let turn = self.turns;
            self.ring(is_busy).insert(turn, to);
            let waiting = Waiting {
                turn,
                is_busy,
                ids: BTreeSet::new(),
            };
            self.waiting.insert(to, waiting);
        }
        if let Some(waiting) = self.waiting.get_mut(&to)
            && waiting.ids.insert(place)
        {
            self.len += 1;
        }
    }

    /// Takes an envelope out. Its destination goes to the end of the line.
    pub(super) fn remove(&mut self, to: Destination, place: (u64, EvpId)) {
        let Some(waiting) = self.waiting.get_mut(&to) else {
            return;
        };
        if waiting.ids.remove(&place) {
            self.len -= 1;
        }
        let (before, is_busy) = (waiting.turn, waiting.is_busy);
        self.turns += 1;
        let turn = self.turns;
        let is_empty = waiting.ids.is_empty();
        waiting.turn = turn;
        self.ring(is_busy).remove(&before);
        if is_empty {
            self.waiting.remove(&to);
        } else {
            self.ring(is_busy).insert(turn, to);
        }
    }

    /// Something for a destination is in flight now, or nothing is any more.
    pub(super) fn set_busy(&mut self, to: Destination, is_busy: bool) {
        let Some(waiting) = self.waiting.get_mut(&to) else {
            return;
        };
        if std::mem::replace(&mut waiting.is_busy, is_busy) != is_busy {
            let turn = waiting.turn;
            self.ring(!is_busy).remove(&turn);
            self.ring(is_busy).insert(turn, to);
        }
    }

    /// Whose turn it is; with `quiet` only destinations with nothing in flight count.
    pub(super) fn first(&self, quiet: bool) -> Option<EvpId> {
        let first = self.quiet.first_key_value();
        let busy = self.busy.first_key_value().filter(|_| !quiet);
        let (_, to) = match (first, busy) {
            (Some(a), Some(b)) => Some(if a.0 < b.0 { a } else { b }),
            (a, b) => a.or(b),
        }?;
        self.waiting.get(to)?.ids.first().map(|(_, id)| *id)
    }

    fn ring(&mut self, is_busy: bool) -> &mut BTreeMap<u64, Destination> {
        if is_busy {
            &mut self.busy
        } else {
            &mut self.quiet
        }
    }

    /// Whether an envelope is where it should be.
    #[cfg(test)]
    pub(super) fn has(&self, to: Destination, place: (u64, EvpId), is_busy: bool) -> bool {
        self.waiting.get(&to).is_some_and(|waiting| {
            let ring = if is_busy { &self.busy } else { &self.quiet };
            waiting.is_busy == is_busy
                && waiting.ids.contains(&place)
                && ring.get(&waiting.turn) == Some(&to)
        })
    }
}
