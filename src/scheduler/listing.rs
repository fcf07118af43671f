//! What `show queue` learns from the scheduler: rows in order of their ids, page by page.

use std::ops::Bound;

use crate::mail::{EvpId, MsgId};
use crate::util::Timestamp;

use super::entry::{Entry, Marks, Spot};
use super::{Class, NEVER, Scheduler, State};

/// One envelope as the scheduler sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    pub id: EvpId,
    /// Who settles it.
    pub class: Class,
    /// Where it stands.
    pub state: State,
    /// When its life time ends.
    pub expire: Timestamp,
    /// In flight and due: since when. Otherwise: when it is tried next.
    pub at: Timestamp,
    /// Paused by the administrator.
    pub suspended: bool,
    /// Held, or parked because nobody can settle it.
    pub hold: Holding,
}

/// Why an envelope is not simply waiting for its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holding {
    No,
    /// On a hold queue.
    Held,
    /// Nobody can settle it as things are.
    Parked,
}

impl Scheduler {
    /// At most `max` envelopes behind `after`, of one message or of all, in order of their ids.
    /// What is leaving is not shown.
    pub fn list(&self, after: Option<EvpId>, only: Option<MsgId>, max: usize) -> Vec<Row> {
        let last = only.and_then(|msgid| EvpId::new(msgid, u32::MAX));
        let first = only.and_then(|msgid| EvpId::new(msgid, 1));
        let from = match (after, first) {
            (Some(after), Some(first)) if after < first => Bound::Included(first),
            (Some(after), _) => Bound::Excluded(after),
            (None, Some(first)) => Bound::Included(first),
            (None, None) => Bound::Unbounded,
        };
        self.entries
            .range((from, Bound::Unbounded))
            .take_while(|(id, _)| last.is_none_or(|last| **id <= last))
            .filter(|(_, entry)| !entry.is_leaving())
            .take(max)
            .map(|(id, entry)| row(*id, entry))
            .collect()
    }
}

fn row(id: EvpId, entry: &Entry) -> Row {
    let at = match entry.spot {
        Spot::Scheduled { since, .. } | Spot::Inflight { since, .. } => since,
        Spot::Pending | Spot::Held { .. } if entry.next == NEVER => entry.expire(),
        Spot::Pending | Spot::Held { .. } => entry.next,
    };
    let hold = if entry.state() == State::Held {
        Holding::Held
    } else if entry.marks.has(Marks::PARKED) {
        Holding::Parked
    } else {
        Holding::No
    };
    Row {
        id,
        class: entry.class,
        state: entry.state(),
        expire: entry.expire(),
        at,
        suspended: entry.is_suspended(),
        hold,
    }
}
