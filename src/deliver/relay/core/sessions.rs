//! All sessions, with what has to be known of them at a glance.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use std::net::IpAddr;
use std::sync::Arc;

use crate::mail::SessionId;
use crate::util::{Line, Timestamp};

use super::{Load, RelayId, RouteId};

/// A connection, from before it is one until it is closed.
pub(super) struct Session {
    /// Whom it works for.
    pub relay: RelayId,
    pub route: RouteId,
    pub source: Option<IpAddr>,
    /// The exchanger's name.
    pub exchanger: Line,
    pub opened: Timestamp,
    phase: Phase,
    /// What it has been given to send after what it is sending.
    pub ahead: VecDeque<Arc<Load>>,
    /// Whether that has been asked back.
    pub recalled: bool,
    /// Messages that were delivered.
    pub messages: u32,
    /// Transactions after which the host was still there.
    pub transactions: u32,
    /// Whether it has been ready for mail.
    pub ready: bool,
}

/// What a session is counted for.
#[derive(Clone, Copy)]
pub(super) struct Counted {
    pub relay: RelayId,
    pub route: RouteId,
    pub source: Option<IpAddr>,
}

/// What a session is doing.
pub(super) enum Phase {
    /// It will be ready for mail; then it begins with this.
    Connecting(Option<Arc<Load>>),
    /// Nothing, since then.
    Idle(Timestamp),
    /// A transaction.
    Sending(Arc<Load>),
    /// It takes nothing more.
    Closing,
}

impl Session {
    pub(super) fn new(
        relay: RelayId,
        route: RouteId,
        source: Option<IpAddr>,
        exchanger: Line,
        load: Arc<Load>,
        now: Timestamp,
    ) -> Session {
        Session {
            relay,
            route,
            source,
            exchanger,
            opened: now,
            phase: Phase::Connecting(Some(load)),
            ahead: VecDeque::new(),
            recalled: false,
            messages: 0,
            transactions: 0,
            ready: false,
        }
    }

    pub(super) fn phase(&self) -> &Phase {
        &self.phase
    }

    pub(super) fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Idle(_))
    }

    /// Where it counts.
    pub(super) fn counted(&self) -> Counted {
        Counted {
            relay: self.relay,
            route: self.route,
            source: self.source,
        }
    }

    /// What it is at, or will begin with.
    pub(super) fn load(&self) -> Option<&Arc<Load>> {
        match &self.phase {
            Phase::Connecting(load) => load.as_ref(),
            Phase::Sending(load) => Some(load),
            Phase::Idle(_) | Phase::Closing => None,
        }
    }

    /// What it will begin with.
    pub(super) fn reserved(&self) -> Option<&Arc<Load>> {
        match &self.phase {
            Phase::Connecting(load) => load.as_ref(),
            Phase::Idle(_) | Phase::Sending(_) | Phase::Closing => None,
        }
    }
}

/// The sessions that are open or being opened, by their number.
#[derive(Default)]
pub(super) struct Sessions {
    by_id: BTreeMap<SessionId, Session>,
    idle: BTreeSet<(Timestamp, SessionId)>,
    sending: usize,
    closing: usize,
}

impl Sessions {
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn sending(&self) -> usize {
        self.sending
    }

    pub(super) fn closing(&self) -> usize {
        self.closing
    }

    pub(super) fn get(&self, id: SessionId) -> Option<&Session> {
        self.by_id.get(&id)
    }

    /// For everything but its phase.
    pub(super) fn get_mut(&mut self, id: SessionId) -> Option<&mut Session> {
        self.by_id.get_mut(&id)
    }

    pub(super) fn contains(&self, id: SessionId) -> bool {
        self.by_id.contains_key(&id)
    }

    /// What a session will begin with, as long as it has not.
    pub(super) fn reserved_mut(&mut self, id: SessionId) -> Option<&mut Load> {
        match &mut self.by_id.get_mut(&id)?.phase {
            Phase::Connecting(load) => load.as_mut().map(Arc::make_mut),
            Phase::Idle(_) | Phase::Sending(_) | Phase::Closing => None,
        }
    }

    #[cfg(test)]
    pub(super) fn iter(&self) -> impl Iterator<Item = (&SessionId, &Session)> {
        self.by_id.iter()
    }

    /// The idle ones, the longest idle first.
    pub(super) fn idle(&self) -> impl Iterator<Item = SessionId> {
        self.idle.iter().map(|(_, id)| *id)
    }

    pub(super) fn insert(&mut self, id: SessionId, session: Session) {
        self.count(id, &session.phase, true);
        self.by_id.insert(id, session);
    }

    pub(super) fn remove(&mut self, id: SessionId) -> Option<Session> {
        let session = self.by_id.remove(&id)?;
        self.count(id, &session.phase, false);
        Some(session)
    }

    /// The session goes over to another phase; says what it was in.
    pub(super) fn set_phase(&mut self, id: SessionId, phase: Phase) -> Option<Phase> {
        let mut session = self.remove(id)?;
        let before = std::mem::replace(&mut session.phase, phase);
        self.insert(id, session);
        Some(before)
    }

    fn count(&mut self, id: SessionId, phase: &Phase, comes: bool) {
        let count = |count: &mut usize| *count = if comes { *count + 1 } else { *count - 1 };
        match phase {
            Phase::Connecting(_) => {}
            Phase::Idle(since) if comes => {
                self.idle.insert((*since, id));
            }
            Phase::Idle(since) => {
                self.idle.remove(&(*since, id));
            }
            Phase::Sending(_) => count(&mut self.sending),
            Phase::Closing => count(&mut self.closing),
        }
    }

    /// Panics unless the counts are right.
    #[cfg(test)]
    pub(super) fn check(&self) {
        let count = |what: fn(&Phase) -> bool| {
            let phases = self.by_id.values().map(|session| &session.phase);
            phases.filter(|phase| what(phase)).count()
        };
        assert_eq!(self.sending, count(|p| matches!(p, Phase::Sending(_))));
        assert_eq!(self.closing, count(|p| matches!(p, Phase::Closing)));
        assert_eq!(self.idle.len(), count(|p| matches!(p, Phase::Idle(_))));
        for (since, id) in &self.idle {
            let phase = &self.by_id[id].phase;
            assert!(matches!(phase, Phase::Idle(at) if at == since), "{id}");
        }
    }
}
