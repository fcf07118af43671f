//! What sessions are given, what comes of it, and where they go then.

use std::sync::Arc;

use crate::deliver::Report;
use crate::log::maillog::SmtpOut;
use crate::log::stat;
use crate::mail::{EvpId, Outcome, SessionId, Status, Verdict};
use crate::util::{Line, Timestamp};

use crate::deliver::relay::mx::RelayError;
use crate::deliver::relay::routes::{Connections, Route};

use super::{
    Action, Broken, Core, End, Limit, Load, Next, Phase, RCPT_MAX, Relay, RelayId, RouteId,
    Session, Timer, Trouble,
};

/// A new connection took nothing of a message.
const CLOSED: RelayError =
    RelayError::temporary(Status::new(4, 4, 2), "Connection closed unexpectedly");
/// How long a session with nothing to do is kept when its relay has others, in seconds.
const SPARE_S: u64 = 1;
/// How long a message waits for its connection to come about while another one is idle, in seconds.
const OVERDUE_S: u64 = 2;
/// How often that may happen to the connections to one host: those may then carry nothing.
const PASSED_OVER_S: u64 = 60;
/// Seconds in which no session is started after this host had no means for one.
const SHORTAGE_S: u64 = 5;
/// How long a host that takes no further connection is left with those that it has, in seconds.
const CROWDED_S: u64 = 60;

impl Core {
    /// A session is ready for mail.
    pub fn ready(&mut self, id: SessionId, now: Timestamp) {
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        if !matches!(session.phase(), Phase::Connecting(_)) {
            return;
        }
        session.ready = true;
        let (relay, route) = (session.relay, session.route);
        let exchanger = session.exchanger.clone();
        let load = session.reserved().cloned();
        let phase = match &load {
            Some(load) => Phase::Sending(load.clone()),
            None => Phase::Idle(now),
        };
        self.sessions.set_phase(id, phase);
        self.out.extend(load.map(|load| Action::Send(id, load)));
        if let Some(known) = self.routes.get_mut(&route) {
            known.validated = true;
            if let Some(relay) = self.relays.get(&relay) {
                known.suits(relay.talk(&exchanger));
            }
            if known.is_slow() {
                // It may have more connections now.
                self.waiting.free(Limit::Route(route));
            }
        }
        self.wake(relay);
        self.rest(id, now);
        self.work(now);
    }

    /// A transaction is over. `untried` recipients go to another connection.
    pub fn done(
        &mut self,
        id: SessionId,
        settled: Vec<(EvpId, Outcome)>,
        untried: &[EvpId],
        next: Next,
        now: Timestamp,
    ) {
        let session = self.sessions.get_mut(id);
        let Some(session) = session.filter(|s| matches!(s.phase(), Phase::Sending(_))) else {
            return;
        };
        let following = match next {
            Next::More => session.ahead.pop_front(),
            Next::Over => None,
        };
        let phase = match (following, next) {
            (Some(load), _) => Phase::Sending(load),
            (None, Next::More) => Phase::Idle(now),
            (None, Next::Over) => Phase::Closing,
        };
        let Some(Phase::Sending(load)) = self.sessions.set_phase(id, phase) else {
            return;
        };
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        let delivered = |(_, outcome): &(EvpId, Outcome)| outcome.verdict == Verdict::Delivered;
        let delivered = settled.iter().any(delivered);
        session.messages += u32::from(delivered);
        let tried = settled.is_empty() && session.transactions == 0;
        let answers = delivered || next == Next::More;
        session.transactions += u32::from(answers);
        let is_first = delivered && session.messages == 1;
        let counted = session.counted();
        let (relay, route) = (counted.relay, counted.route);
        if answers {
            self.set_answers(route, true);
        }
        if is_first {
            // It is of use, and does not count as one more.
            self.each_count(counted, Connections::refund);
        }
        if next == Next::Over {
            self.take_back_ahead(id);
        }
        for (envelope, outcome) in settled {
            self.outcome(&load, envelope, outcome, now);
        }
        self.take_back(relay, &load, untried, tried, now);
        self.wake(relay);
        self.feed(relay, now);
        self.rest(id, now);
        self.work(now);
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

    /// Puts recipients back in front, as hosts close connections that they have served. A new
    /// connection that took nothing has `tried` them.
    fn take_back(
        &mut self,
        relay: RelayId,
        load: &Load,
        untried: &[EvpId],
        tried: bool,
        now: Timestamp,
    ) {
        let envelopes: Vec<_> = load
            .envelopes
            .iter()
            .filter(|envelope| untried.contains(&envelope.id))
            .cloned()
            .collect();
        let Some(relay) = self
            .relays
            .get_mut(&relay)
            .filter(|_| !envelopes.is_empty())
        else {
            return;
        };
        if !tried {
            stat::MTA_TASK.inc();
            relay.tasks.push_front(Load {
                envelopes,
                ..load.clone_head()
            });
            return;
        }
        let name = relay.key.name.clone();
        for envelope in &envelopes {
            stat::MTA_ENVELOPE.dec();
            self.settle(envelope, &load.sender, &name, CLOSED.outcome(), now);
        }
    }

    /// Gives the sessions of a relay that are idle something to do.
    pub(super) fn feed(&mut self, id: RelayId, now: Timestamp) {
        let idle: Vec<SessionId> = self
            .relays
            .get(&id)
            .into_iter()
            .flat_map(|relay| &relay.sessions)
            .filter(|id| self.sessions.get(**id).is_some_and(Session::is_idle))
            .copied()
            .collect();
        for session in idle {
            self.feed_one(id, session, now);
            self.low_water(id);
        }
    }

    fn feed_one(&mut self, relay_id: RelayId, id: SessionId, now: Timestamp) {
        let (Some(relay), Some(session)) = (self.relays.get(&relay_id), self.sessions.get(id))
        else {
            return;
        };
        if session.messages >= relay.limits.session_mail_max.max(1) {
            return self.quit(id);
        }
        let load = if relay.tasks.is_empty() {
            self.recall_one(relay_id);
            self.take_overdue(relay_id, now)
        } else if self.has_too_many(relay) {
            // It has carried something, and somebody else has nothing yet.
            return self.quit(id);
        } else {
            self.next_load(relay_id).map(Arc::new)
        };
        if let Some(load) = load {
            self.sessions.set_phase(id, Phase::Sending(load.clone()));
            self.out.push(Action::Send(id, load));
        }
    }

    /// The first message that waits, for at most [`RCPT_MAX`] of its recipients.
    pub(super) fn next_load(&mut self, id: RelayId) -> Option<Load> {
        let relay = self.relays.get_mut(&id)?;
        let task = relay.tasks.front_mut()?;
        if task.envelopes.len() > RCPT_MAX {
            let rest = task.envelopes.split_off(RCPT_MAX);
            let envelopes = std::mem::replace(&mut task.envelopes, rest);
            return Some(Load {
                envelopes,
                ..task.clone_head()
            });
        }
        let task = relay.tasks.pop_front()?;
        stat::MTA_TASK.dec();
        Some(task)
    }

    /// Whether a relay has more than its share of the sessions while others wait for one.
    pub(super) fn has_too_many(&self, relay: &Relay) -> bool {
        self.waiting.len(&Limit::Sessions) > 0
            && self.sessions.len() >= self.limits.sessions
            && relay.sessions.len() > self.share()
    }

    /// A message of a relay whose own connection has been slow to come about for long enough.
    fn take_overdue(&mut self, id: RelayId, now: Timestamp) -> Option<Arc<Load>> {
        let relay = self.relays.get(&id)?;
        let slow = relay.sessions.iter().copied().find(|id| {
            self.sessions.get(*id).is_some_and(|session| {
                session.reserved().is_some()
                    && now.since(session.opened) >= OVERDUE_S
                    && self.may_pass_over(session.route, now)
            })
        })?;
        let route = self.sessions.get(slow)?.route;
        let addr = self.routes.get(&route)?.to.ip();
        if let Some(host) = self.hosts.get_mut(&addr) {
            host.passed_over = Some(now);
        }
        match self.sessions.set_phase(slow, Phase::Connecting(None))? {
            Phase::Connecting(load) => load,
            Phase::Idle(_) | Phase::Sending(_) | Phase::Closing => None,
        }
    }

    /// Whether a connection may go without its message: once a minute and host.
    fn may_pass_over(&self, route: RouteId, now: Timestamp) -> bool {
        let host = self.routes.get(&route).map(|route| route.to.ip());
        let host = host.and_then(|addr| self.hosts.get(&addr));
        host.is_some_and(|host| {
            let lately = |at| now.since(at) < PASSED_OVER_S;
            !host.passed_over.is_some_and(lately)
        })
    }

    /// What a session would have begun with, if it has not.
    pub(super) fn take_reserved(&mut self, id: SessionId) -> Option<Load> {
        self.sessions.get(id)?.reserved()?;
        match self.sessions.set_phase(id, Phase::Connecting(None))? {
            Phase::Connecting(load) => load.map(Arc::unwrap_or_clone),
            Phase::Idle(_) | Phase::Sending(_) | Phase::Closing => None,
        }
    }

    /// A session with nothing to do is there for others who wait; else it ends after a while.
    fn rest(&mut self, id: SessionId, now: Timestamp) {
        let Some(session) = self.sessions.get(id).filter(|session| session.is_idle()) else {
            return;
        };
        let Some(relay) = self.relays.get(&session.relay) else {
            return self.quit(id);
        };
        let keep_s = self.keep_s(relay);
        let limits = self.limits_of(session);
        if limits.are_wanted(self) && !self.stopping {
            self.free_limits(limits);
        } else if keep_s == 0 || self.stopping {
            return self.quit(id);
        }
        self.timers
            .insert((now.plus(keep_s.max(1)), Timer::Idle(id)));
    }

    /// How long a session of a relay may have nothing to do, in seconds.
    fn keep_s(&self, relay: &Relay) -> u64 {
        let keep_s = u64::from(relay.limits.session_keepalive_s);
        let sessions = relay
            .sessions
            .iter()
            .filter_map(|id| self.sessions.get(*id));
        if sessions.clone().any(|session| session.reserved().is_some()) {
            return OVERDUE_S;
        }
        let staying = sessions.filter(|session| !matches!(session.phase(), Phase::Closing));
        match staying.count() {
            ..=1 => keep_s,
            _ => keep_s.min(SPARE_S),
        }
    }

    pub(super) fn idle_time(&mut self, id: SessionId, now: Timestamp) {
        let Some(session) = self.sessions.get(id) else {
            return;
        };
        let (relay, Phase::Idle(since)) = (session.relay, session.phase()) else {
            return;
        };
        let since = *since;
        self.feed_one(relay, id, now);
        if !self.sessions.get(id).is_some_and(Session::is_idle) {
            return;
        }
        let keep_s = self
            .relays
            .get(&relay)
            .map_or(0, |relay| self.keep_s(relay));
        match since.plus(keep_s) {
            at if at <= now => self.quit(id),
            at => drop(self.timers.insert((at, Timer::Idle(id)))),
        }
    }

    pub(super) fn quit(&mut self, id: SessionId) {
        if self.sessions.set_phase(id, Phase::Closing).is_some() {
            self.out.push(Action::Quit(id));
        }
    }

    /// A session that is idle goes over to another relay.
    pub(super) fn take_over(&mut self, id: SessionId, relay: RelayId) {
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        let before = std::mem::replace(&mut session.relay, relay);
        let source = session.source;
        self.each_own_count(before, source, &mut |connections, _| connections.leave());
        self.each_own_count(relay, source, &mut |connections, _| connections.join());
        self.leave_relay(id, before);
        self.join_relay(id, relay);
        if let Some(relay) = self.relays.get(&before) {
            let destination = relay.key.destination();
            self.waiting.free(Limit::Domain(destination));
        }
        self.wake(before);
    }

    /// A session is over. Recipients that it had and did not settle are tried elsewhere; it tells
    /// of the others itself, by [`Core::done`].
    pub fn ended(&mut self, id: SessionId, end: End, now: Timestamp) {
        self.take_back_ahead(id);
        let Some(session) = self.sessions.remove(id) else {
            return;
        };
        let relay = session.relay;
        let limits = self.limits_of(&session);
        self.close(&session, id, &end, now);
        self.free_limits(limits);
        if let Some(load) = session.load() {
            let ids: Vec<EvpId> = load.envelopes.iter().map(|envelope| envelope.id).collect();
            // A connection that never came about has not been given anything.
            let tried = session.ready && session.transactions == 0;
            self.take_back(relay, load, &ids, tried, now);
        }
        let serves_others = self.serves(session.route, None);
        let is_known = self
            .routes
            .get(&session.route)
            .is_some_and(|route| route.answers);
        match end {
            End::Quit => {}
            End::Failed(_) if session.transactions > 0 || session.ready && is_known => {}
            // A host that takes no more connections than it has is not one that fails.
            End::Failed(_) | End::NoWay(_) if serves_others => self.crowded(session.route, now),
            End::Unfit(_) if self.serves(session.route, Some(&session)) => {
                self.crowded(session.route, now);
            }
            End::Unfit(why) => self.avoid(&session, why, now),
            End::Failed(why) => self.disable(session.route, |route| route.fail(why, now), now),
            End::NoWay(why) => self.disable(session.route, |route| route.pause(why, now), now),
            End::Source(text) => self.bad_source(&session, &text),
            End::Shortage(_) => self.short_until = now.plus(SHORTAGE_S),
        }
        self.wake(relay);
        self.work(now);
    }

    /// Whether another session on a route is at work, or one that was made in the same way.
    fn serves(&self, route: RouteId, like: Option<&Session>) -> bool {
        let sessions = self
            .routes
            .get(&route)
            .into_iter()
            .flat_map(|r| &r.sessions);
        let mut sessions = sessions.filter_map(|id| self.sessions.get(*id));
        sessions.any(|other| other.ready && like.is_none_or(|like| self.are_alike(like, other)))
    }

    /// Whether what one session demands of a host is what another has got.
    fn are_alike(&self, one: &Session, other: &Session) -> bool {
        let relays = (self.relays.get(&one.relay), self.relays.get(&other.relay));
        let (Some(relay), Some(others)) = relays else {
            return false;
        };
        relay.key.is_as_good_as(&others.key) && one.exchanger == other.exchanger
    }

    fn crowded(&mut self, route: RouteId, now: Timestamp) {
        if let Some(route) = self.routes.get_mut(&route) {
            route.crowded_until = Some(now.plus(CROWDED_S));
        }
    }

    /// The relay of a session does not go that way for a while; others do.
    fn avoid(&mut self, session: &Session, why: Outcome, now: Timestamp) {
        let relay = self.relays.get(&session.relay);
        if let (Some(relay), Some(route)) = (relay, self.routes.get_mut(&session.route)) {
            route.avoid(relay.talk(&session.exchanger), why, now);
        }
    }

    /// Takes a session that is over out of everything that counts it. One that was of use, though
    /// nothing was delivered, leaves no trace either.
    fn close(&mut self, session: &Session, id: SessionId, end: &End, now: Timestamp) {
        let of_use = session.messages == 0 && session.transactions > 0 && *end == End::Quit;
        self.each_count(session.counted(), |connections, pace| {
            connections.leave();
            if of_use {
                connections.refund(pace);
            }
        });
        self.leave_relay(id, session.relay);
        if let Some(route) = self.routes.get_mut(&session.route) {
            route.sessions.remove(&id);
            self.unproven -= usize::from(!route.answers);
            route.lost = match end {
                End::Quit => None,
                _ => Some(now),
            };
        }
    }

    /// A session ended before it was of any use: its route is not used for as many seconds as
    /// `fail` says. Sessions that fail together fail once.
    fn disable(&mut self, id: RouteId, fail: impl FnOnce(&mut Route) -> u64, now: Timestamp) {
        let Some(route) = self.routes.get_mut(&id) else {
            return;
        };
        // Who waits for this route has to look for another one.
        self.waiting.free(Limit::Route(id));
        if route.disabled_until.is_some() {
            route.errors = route.errors.saturating_add(1);
            return;
        }
        let seconds = fail(route);
        let addr = route.to.ip();
        self.timers.insert((now.plus(seconds), Timer::Route(id)));
        let ptr = self.ptr_of(addr);
        if let Some(route) = self.routes.get(&id) {
            let name = route.name(ptr.as_ref());
            let length = crate::util::time::Duration(seconds);
            self.info(SmtpOut::RouteDisabled(&name, length));
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
        let words = format!("No valid route to destination: {text}");
        let why = Outcome::temp(Status::new(4, 4, 1), Line::sanitize(words.as_bytes()));
        let broken = Broken {
            what: Trouble::Source,
            why: Some(why),
        };
        if connector.error.replace(broken).is_none()
            && let Some(name) = name
        {
            self.info(SmtpOut::RouteError(&name, text));
        }
    }
}

impl Load {
    /// The same message without recipients.
    fn clone_head(&self) -> Load {
        Load {
            sender: self.sender.clone(),
            srs: self.srs.clone(),
            envelopes: Vec::new(),
        }
    }
}
