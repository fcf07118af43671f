//! Who waits for what: the lines of [`super::waiting`], and the sessions that make room in them.

use crate::mail::SessionId;
use crate::util::Timestamp;

use super::{Core, Limit, RelayId, Session};

/// Seconds after which a count of connections is looked at again, should nothing happen to it.
const COUNT_AGAIN_S: u64 = 5;

/// What a relay waits for: a time, a limit, or both.
#[derive(Default)]
pub(super) struct Wait {
    pub(super) until: Option<Timestamp>,
    pub(super) limit: Option<Limit>,
}

impl Wait {
    pub(super) fn until(at: Timestamp) -> Wait {
        Wait {
            until: Some(at),
            limit: None,
        }
    }

    pub(super) fn limit(limit: Limit) -> Wait {
        Wait {
            until: None,
            limit: Some(limit),
        }
    }

    /// Whatever comes first will do.
    pub(super) fn or(self, other: Wait) -> Wait {
        Wait {
            until: match (self.until, other.until) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            },
            limit: self.limit.or(other.limit),
        }
    }
}

impl Core {
    pub(super) fn wait(&mut self, id: RelayId, wait: Wait, now: Timestamp) {
        let again = now.plus(COUNT_AGAIN_S);
        let at = match (wait.until, &wait.limit) {
            (Some(at), Some(_)) => at.min(again),
            (Some(at), None) => at,
            (None, _) => again,
        };
        self.set_relay_timer(id, at.max(now.plus(1)));
        match wait.limit {
            Some(limit) => self.line_up(id, limit),
            None => self.leave_line(id),
        }
    }

    /// A relay waits for room under a limit. Who waits there already keeps his place.
    fn line_up(&mut self, id: RelayId, limit: Limit) {
        let place = self.relays.get(&id).and_then(|relay| relay.place.as_ref());
        if place.is_none_or(|(at, _)| *at != limit) {
            self.leave_line(id);
            let place = self.waiting.join(limit.clone(), id);
            if let Some(relay) = self.relays.get_mut(&id) {
                relay.place = Some(place);
            }
        }
        if let Some(idle) = self.idle_under(&limit) {
            self.quit(idle);
        }
    }

    pub(super) fn leave_line(&mut self, id: RelayId) {
        let place = self
            .relays
            .get_mut(&id)
            .and_then(|relay| relay.place.take());
        if let Some(place) = place {
            self.waiting.leave(&place);
        }
    }

    /// A session that is idle and makes room under a limit when it ends, unless enough are ending.
    fn idle_under(&self, limit: &Limit) -> Option<SessionId> {
        if self.sessions.closing() >= self.waiting.len(limit) {
            return None;
        }
        let counts = |session: &Session| {
            let route = self.routes.get(&session.route);
            match limit {
                Limit::Sessions => true,
                Limit::Unproven => route.is_some_and(|route| !route.answers),
                Limit::Source(source) => session.source == *source,
                Limit::Host(addr) => route.is_some_and(|route| route.to.ip() == *addr),
                Limit::Route(id) => session.route == *id,
                Limit::Domain(domain) => {
                    let relay = self.relays.get(&session.relay);
                    relay.is_some_and(|relay| relay.key.destination() == *domain)
                }
                Limit::Own(_) => false,
            }
        };
        let mut idle = self.sessions.idle();
        idle.find(|id| self.sessions.get(*id).is_some_and(counts))
    }

    /// There may be room under the limits that a session counts for.
    pub(super) fn free_limits(&mut self, session: SessionLimits) {
        for limit in session.0 {
            self.waiting.free(limit);
        }
    }

    /// The limits that a session counts for.
    pub(super) fn limits_of(&self, session: &Session) -> SessionLimits {
        let mut limits = vec![
            Limit::Sessions,
            Limit::Unproven,
            Limit::Source(session.source),
            Limit::Route(session.route),
        ];
        if let Some(route) = self.routes.get(&session.route) {
            limits.push(Limit::Host(route.to.ip()));
        }
        if let Some(relay) = self.relays.get(&session.relay) {
            limits.push(Limit::Domain(relay.key.destination()));
        }
        SessionLimits(limits)
    }
}

/// The limits that a session counts for.
pub(super) struct SessionLimits(Vec<Limit>);

impl SessionLimits {
    /// Whether somebody waits under one of them.
    pub(super) fn are_wanted(&self, core: &Core) -> bool {
        self.0.iter().any(|limit| core.waiting.len(limit) > 0)
    }
}
