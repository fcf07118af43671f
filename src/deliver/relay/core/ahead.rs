//! What sessions are given before they are through with what they are sending.
//!
//! A session at work has the next messages of its relay at hand, so that it waits for nobody
//! between two of them, and can send the first commands of one with the end of the other (RFC
//! 2920). What it has not begun with is asked back for a session that has nothing to do. Whether a
//! host copes with that is tried by one session at a time; where it does not, messages go one by
//! one.

use std::time::Duration;

use crate::mail::SessionId;
use crate::util::Timestamp;

use crate::deliver::Report;
use crate::deliver::relay::key::Spoken;
use crate::deliver::relay::routes::Step;

use super::{Action, Arc, Core, Limit, Load, Phase, Relay, RelayId};

/// Messages that a session has at hand besides the one that it sends: one that is begun with its
/// end, and one more, as that may be all that is known of by then.
pub const AHEAD_MAX: usize = 2;

impl Core {
    /// Gives messages that wait to sessions at work. Those that are idle or opened for them come
    /// first.
    pub(super) fn look_ahead(&mut self, id: RelayId) {
        for count in 0..AHEAD_MAX {
            let Some(relay) = self.relays.get(&id).filter(|relay| !relay.tasks.is_empty()) else {
                return;
            };
            if self.stopping || self.has_too_many(relay) {
                return;
            }
            let takes = |id: &SessionId| self.takes_ahead(relay, *id, count);
            let sessions: Vec<SessionId> = relay.sessions.iter().copied().filter(takes).collect();
            for session in sessions {
                self.give_ahead(id, session);
            }
        }
    }

    /// Whether a session may have one more than so many messages at hand.
    fn takes_ahead(&self, relay: &Relay, id: SessionId, count: usize) -> bool {
        let Some(session) = self.sessions.get(id) else {
            return false;
        };
        let limits = &relay.limits;
        let after = session.messages as usize + 1 + session.ahead.len();
        session.messages > 0
            && matches!(session.phase(), Phase::Sending(_))
            && session.ahead.len() == count
            && !session.recalled
            && after < limits.session_mail_max.max(1) as usize
            && limits.session_transaction_delay_s == 0
            && relay.key.scheme != Spoken::Lmtp
    }

    fn give_ahead(&mut self, id: RelayId, session_id: SessionId) {
        let Some(route) = self.sessions.get(session_id).map(|session| session.route) else {
            return;
        };
        let Some(route) = self.routes.get(&route) else {
            return;
        };
        let has_some = |id: &SessionId| {
            let session = self.sessions.get(*id).filter(|_| *id != session_id);
            session.is_some_and(|session| !session.ahead.is_empty())
        };
        let may = match route.step {
            Step::Kept => true,
            Step::Untried => !route.sessions.iter().any(has_some),
            Step::Lost => false,
        };
        let Some(load) = may.then(|| self.next_load(id)).flatten() else {
            return;
        };
        let load = Arc::new(load);
        if let Some(session) = self.sessions.get_mut(session_id) {
            session.ahead.push_back(load.clone());
        }
        self.out.push(Action::Send(session_id, load));
        if self
            .relays
            .get(&id)
            .is_some_and(|relay| relay.tasks.is_empty())
        {
            self.leave_line(id);
        }
        self.low_water(id);
    }

    /// A message has followed another in one go, and the host has kept step or has not.
    pub fn in_step(&mut self, id: SessionId, kept: bool) {
        let route = self.sessions.get(id).map(|session| session.route);
        let Some(route) = route.and_then(|id| self.routes.get_mut(&id)) else {
            return;
        };
        route.step = if kept { Step::Kept } else { Step::Lost };
    }

    /// How long a session took to be ready for mail: all that is known of how slow a host is that
    /// has not answered a message yet.
    pub fn greeted(&mut self, id: SessionId, time: Duration) {
        let route = self.sessions.get(id).map(|session| session.route);
        let route = route.and_then(|id| self.routes.get_mut(&id));
        if let Some(route) = route.filter(|route| !route.answers) {
            route.took(time);
        }
    }

    /// How long a session took for a message.
    pub fn took(&mut self, id: SessionId, time: Duration) {
        let Some(id) = self.sessions.get(id).map(|session| session.route) else {
            return;
        };
        let Some(route) = self.routes.get_mut(&id) else {
            return;
        };
        route.took(time);
        if route.is_slow() {
            // It may have more connections now.
            self.waiting.free(Limit::Route(id));
        }
    }

    /// Asks a session of a relay for what it has not begun with: another one has nothing to do.
    pub(super) fn recall_one(&mut self, id: RelayId) {
        let sessions = self.relays.get(&id).map(|relay| &relay.sessions);
        let has_some = |id: &&SessionId| {
            let session = self.sessions.get(**id);
            session.is_some_and(|session| !session.ahead.is_empty() && !session.recalled)
        };
        let session = sessions.and_then(|sessions| sessions.iter().find(has_some));
        if let Some(session) = session.copied() {
            self.recall(session);
        }
    }

    pub(super) fn recall(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.get_mut(id)
            && !session.ahead.is_empty()
            && !std::mem::replace(&mut session.recalled, true)
        {
            self.out.push(Action::Recall(id, session.ahead.len()));
        }
    }

    /// A session has given back so many of the messages that it was given last.
    pub fn recalled(&mut self, id: SessionId, count: usize, now: Timestamp) {
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        session.recalled = false;
        if count == 0 {
            return;
        }
        let rest = session.ahead.len().saturating_sub(count);
        let loads = session.ahead.split_off(rest);
        let relay = session.relay;
        self.put_back(relay, loads.into_iter().map(Arc::unwrap_or_clone));
        self.wake(relay);
        self.work(now);
    }

    /// A session takes nothing more of what it was given.
    pub(super) fn take_back_ahead(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        let loads = std::mem::take(&mut session.ahead);
        let relay = session.relay;
        self.put_back(relay, loads.into_iter().map(Arc::unwrap_or_clone));
    }

    /// Messages are waiting again, before all others.
    fn put_back(&mut self, id: RelayId, loads: impl DoubleEndedIterator<Item = Load>) {
        for load in loads.rev() {
            if self.stopping {
                let held = |id| Action::Report(Report::Held(id, RelayId(0).hold_key()));
                self.out
                    .extend(load.envelopes.iter().map(|envelope| held(envelope.id)));
            } else if let Some(relay) = self.relays.get_mut(&id) {
                crate::log::stat::MTA_TASK.inc();
                relay.tasks.push_front(load);
            }
        }
    }
}
