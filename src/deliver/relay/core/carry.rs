//! What sessions are given, and what comes of it.

use std::sync::Arc;

use crate::deliver::Report;
use crate::log::stat;
use crate::mail::{EvpId, Outcome, SessionId, Status, Verdict};
use crate::util::{Line, Timestamp};

use crate::deliver::relay::mx::Failure;

use super::drive::Paces;
use super::{
    Action, Broken, Core, End, Load, Phase, RCPT_MAX, Relay, SPARE_S, Session, Task, Timer,
    VAIN_MAX,
};

/// Connections took nothing of a message, one after the other.
const CLOSED: Failure = Failure::temporary(Status::new(4, 4, 2), "Connection closed unexpectedly");
/// Seconds until a relay tries again after this host had no means for a session.
const SHORTAGE_S: u64 = 5;

impl Core {
    /// A session is ready for mail.
    pub fn ready(&mut self, id: SessionId, now: Timestamp) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        session.phase = Phase::Idle(now);
        session.proven = true;
        session.ready = true;
        let relay = session.relay;
        if let Some(route) = self.routes.get_mut(&session.route) {
            route.proven = true;
        }
        self.wake(relay);
        self.work(now);
        self.rest(id, now);
    }

    /// A transaction is over. `untried` recipients go to another connection.
    pub fn done(
        &mut self,
        id: SessionId,
        settled: Vec<(EvpId, Outcome)>,
        untried: &[EvpId],
        now: Timestamp,
    ) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let Phase::Busy(load) = std::mem::replace(&mut session.phase, Phase::Idle(now)) else {
            return;
        };
        let delivered = |(_, outcome): &(EvpId, Outcome)| outcome.verdict == Verdict::Delivered;
        if settled.iter().any(delivered) {
            session.messages += 1;
        }
        let relay = session.relay;
        for (envelope, outcome) in settled {
            self.outcome(&load, envelope, outcome, now);
        }
        self.again(relay, &load, untried, now);
        self.wake(relay);
        self.work(now);
        self.rest(id, now);
    }

    fn outcome(&mut self, load: &Load, id: EvpId, outcome: Outcome, now: Timestamp) {
        stat::MTA_ENVELOPE.dec();
        if let Some(envelope) = load.envelopes.iter().find(|envelope| envelope.id == id) {
            let domain = envelope.dest.domain();
            self.stats.heard(domain, &outcome.text, now);
            self.stats.replied(domain, id);
            if outcome.verdict == Verdict::Delivered {
                let deferred = self.stats.accepted(domain);
                if !deferred.is_empty() {
                    self.out.push(Action::Report(Report::Hurry(deferred)));
                }
            }
        }
        self.out.push(Action::Report(Report::Done(id, outcome)));
    }

    /// Puts recipients back in front: they have not been tried. When that happens again and again,
    /// they have.
    fn again(&mut self, relay: u64, load: &Load, untried: &[EvpId], now: Timestamp) {
        let envelopes: Vec<_> = load
            .envelopes
            .iter()
            .filter(|envelope| untried.contains(&envelope.id))
            .cloned()
            .collect();
        let Some(first) = envelopes.first() else {
            return;
        };
        let vain = load.vain + 1;
        let Some(relay) = self.relays.get_mut(&relay) else {
            return;
        };
        if vain < VAIN_MAX {
            stat::MTA_TASK.inc();
            relay.tasks.push_front(Task {
                msgid: first.id.msgid(),
                sender: load.sender.clone(),
                srs: load.srs.clone(),
                envelopes,
                vain,
            });
            return;
        }
        let name = relay.key.name.clone();
        for envelope in &envelopes {
            stat::MTA_ENVELOPE.dec();
            self.settle(envelope, &load.sender, &name, &CLOSED, now);
        }
    }

    /// Gives the sessions of a relay that are ready something to do.
    pub(super) fn feed(&mut self, relay: u64) {
        let ready: Vec<SessionId> = self
            .relays
            .get(&relay)
            .into_iter()
            .flat_map(|relay| &relay.sessions)
            .filter(|id| {
                let session = self.sessions.get(id);
                session.is_some_and(|session| matches!(session.phase, Phase::Idle(_)))
            })
            .copied()
            .collect();
        for id in ready {
            if !self.feed_one(relay, id) {
                continue;
            }
            self.low_water(relay);
        }
    }

    fn feed_one(&mut self, relay_id: u64, id: SessionId) -> bool {
        let Some(relay) = self.relays.get(&relay_id) else {
            return false;
        };
        let most = relay.limits.session_mail_max.max(1);
        let Some(session) = self.sessions.get(&id) else {
            return false;
        };
        if session.messages >= most {
            if let Some(session) = self.sessions.get_mut(&id) {
                session.spent = true;
            }
            self.quit(id);
            return false;
        }
        if relay.tasks.is_empty() {
            return false;
        }
        if self.is_greedy(relay_id) {
            self.quit(id);
            return false;
        }
        let Some(load) = self.relays.get_mut(&relay_id).and_then(next_load) else {
            return false;
        };
        let load = Arc::new(load);
        if let Some(session) = self.sessions.get_mut(&id) {
            session.phase = Phase::Busy(load.clone());
        }
        self.out.push(Action::Send(id, load));
        true
    }

    /// Whether a relay has more than its share of the sessions while others wait for one.
    fn is_greedy(&self, id: u64) -> bool {
        let waiting = self.hungry.iter().filter(|hungry| **hungry != id).count();
        if waiting == 0 || self.sessions.len() < self.limits.sessions {
            return false;
        }
        let sharing = self
            .relays
            .values()
            .filter(|relay| !relay.sessions.is_empty())
            .count();
        let share = (self.limits.sessions / (sharing + waiting).max(1)).max(1);
        let own = self.relays.get(&id).map_or(0, |relay| relay.sessions.len());
        own > share
    }

    /// A session with nothing to do ends at once if its relay has another one, else after a while.
    fn rest(&mut self, id: SessionId, now: Timestamp) {
        let Some(session) = self.sessions.get(&id) else {
            return;
        };
        if !matches!(session.phase, Phase::Idle(_)) {
            return;
        }
        let Some(relay) = self.relays.get(&session.relay) else {
            return self.quit(id);
        };
        let keep_s = self.keep_s(relay);
        if keep_s == 0 || self.stopping || !self.hungry.is_empty() {
            return self.quit(id);
        }
        self.timers.insert((now.plus(keep_s), Timer::Idle(id)));
    }

    /// How long a session of a relay may have nothing to do, in seconds.
    fn keep_s(&self, relay: &Relay) -> u64 {
        let keep_s = u64::from(relay.limits.session_keepalive_s);
        let sessions = relay.sessions.iter().filter_map(|id| self.sessions.get(id));
        let staying = sessions.filter(|session| !matches!(session.phase, Phase::Quitting));
        match staying.count() {
            ..=1 => keep_s,
            _ => keep_s.min(SPARE_S),
        }
    }

    pub(super) fn idle_time(&mut self, id: SessionId, now: Timestamp) {
        let Some(session) = self.sessions.get(&id) else {
            return;
        };
        let Phase::Idle(since) = session.phase else {
            return;
        };
        let keep_s = self
            .relays
            .get(&session.relay)
            .map_or(0, |relay| self.keep_s(relay));
        match since.plus(keep_s) {
            at if at <= now => self.quit(id),
            at => drop(self.timers.insert((at, Timer::Idle(id)))),
        }
    }

    pub(super) fn quit(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.phase = Phase::Quitting;
            self.out.push(Action::Quit(id));
        }
    }

    /// A session is no more. Recipients that it had and did not settle are tried elsewhere if it
    /// ended before it began with them; it tells the others itself, by [`Core::done`].
    pub fn ended(&mut self, id: SessionId, end: &End, now: Timestamp) {
        let Some(session) = self.sessions.remove(&id) else {
            return;
        };
        let relay = session.relay;
        if let Phase::Busy(load) = &session.phase {
            let ids: Vec<EvpId> = load.envelopes.iter().map(|envelope| envelope.id).collect();
            self.again(relay, load, &ids, now);
        }
        self.close_books(&session, id, end, now);
        match end {
            End::Quit => {}
            // A host that takes no more connections than it has is not one that fails.
            End::Failed(_) if session.ready || self.is_served(session.route) => {}
            End::Unfit(_) if self.serves(session.route, relay) => {}
            End::Unfit(_) if self.is_served(session.route) => self.avoid(&session),
            End::Failed(_) | End::Unfit(_) => self.penalise(session.route, now),
            End::Source(text) => self.bad_source(&session, text),
            End::Shortage(_) => self.set_relay_timer(relay, now.plus(SHORTAGE_S)),
        }
        if !matches!(end, End::Shortage(_)) {
            self.wake(relay);
        }
        self.work(now);
    }

    /// Whether another session on a route is at work.
    fn is_served(&self, route: u64) -> bool {
        self.sessions
            .values()
            .any(|session| session.route == route && session.ready)
    }

    /// Whether one of those is a relay's own.
    fn serves(&self, route: u64, relay: u64) -> bool {
        self.sessions
            .values()
            .any(|session| session.route == route && session.ready && session.relay == relay)
    }

    /// The relay of a session does not go that way again; others do.
    fn avoid(&mut self, session: &Session) {
        let Some(route) = self.routes.get(&session.route) else {
            return;
        };
        let connector = self
            .relays
            .get_mut(&session.relay)
            .and_then(|relay| relay.connectors.get_mut(&session.source));
        if let Some(connector) = connector {
            connector.unfit.insert(route.to);
        }
    }

    fn close_books(&mut self, session: &Session, id: SessionId, end: &End, now: Timestamp) {
        let mut destination = None;
        let mut paces = Paces::of(&self.configured.config().mta.limits);
        if let Some(relay) = self.relays.get_mut(&session.relay) {
            paces = Paces::of(&relay.limits);
            destination = Some((relay.key.name.clone(), relay.key.as_host));
            relay.sessions.remove(&id);
            relay.book.close();
            if let Some(connector) = relay.connectors.get_mut(&session.source) {
                connector.book.close();
                if session.spent {
                    connector.book.refund(paces.connector);
                }
            }
            if session.spent {
                relay.book.refund(paces.relay);
            }
        }
        if let Some(domain) = destination.and_then(|name| self.domains.get_mut(&name)) {
            domain.book.close();
        }
        if let Some(book) = self.sources.get_mut(&session.source) {
            book.close();
        }
        if let Some(route) = self.routes.get_mut(&session.route) {
            route.book.close();
            if session.spent {
                route.book.refund(paces.route);
            }
            route.lost = match end {
                End::Quit => None,
                _ => Some(now),
            };
            if let Some(host) = self.hosts.get_mut(&route.to.ip()) {
                host.book.close();
            }
        }
    }

    /// A session ended before it was ready for mail: its route is not used for a while.
    fn penalise(&mut self, id: u64, now: Timestamp) {
        let Some(route) = self.routes.get_mut(&id) else {
            return;
        };
        let seconds = route.fail(now);
        let addr = route.to.ip();
        self.timers.insert((now.plus(seconds), Timer::Route(id)));
        let ptr = self.ptr_of(addr);
        if let Some(route) = self.routes.get(&id) {
            let name = route.name(ptr.as_ref());
            let length = crate::util::time::Duration(seconds);
            self.info(format!("smtp-out: Disabling route {name} for {length}"));
        }
    }

    fn bad_source(&mut self, session: &Session, text: &Line) {
        let name = self.routes.get(&session.route).map(|route| {
            let ptr = self.ptr_of(route.to.ip());
            route.name(ptr.as_ref())
        });
        let connector = self
            .relays
            .get_mut(&session.relay)
            .and_then(|relay| relay.connectors.get_mut(&session.source));
        let Some(connector) = connector else {
            return;
        };
        if connector.error.replace(Broken::Source).is_none()
            && let Some(name) = name
        {
            self.info(format!("smtp-out: Error on {name}: {text}"));
        }
    }
}

/// The first message that waits, for at most [`RCPT_MAX`] of its recipients.
fn next_load(relay: &mut Relay) -> Option<Load> {
    let task = relay.tasks.front_mut()?;
    if task.envelopes.len() > RCPT_MAX {
        let rest = task.envelopes.split_off(RCPT_MAX);
        let envelopes = std::mem::replace(&mut task.envelopes, rest);
        return Some(Load {
            sender: task.sender.clone(),
            srs: task.srs.clone(),
            envelopes,
            vain: task.vain,
        });
    }
    let task = relay.tasks.pop_front()?;
    stat::MTA_TASK.dec();
    Some(Load {
        sender: task.sender,
        srs: task.srs,
        envelopes: task.envelopes,
        vain: task.vain,
    })
}
