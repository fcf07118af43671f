//! From messages that wait to a connection: who may have one, from where, and to which address.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::client::Credentials;
use crate::config::{Family, MtaLimits};
use crate::log::maillog::SmtpOut;
use crate::log::stat;
use crate::mail::{Outcome, SessionId, Status};
use crate::util::Timestamp;

use crate::deliver::relay::key::{Security, Spoken};
use crate::deliver::relay::mx::{Exchanger, RelayError};
use crate::deliver::relay::routes::{Connections, Pace, Route};

use super::{
    Action, Broken, Connector, Core, Limit, Login, Relay, RelayId, RouteId, Session, Start, State,
    Timer, Trouble, UNPROVEN_PER_RELAY,
};

const fn unreachable(text: &'static str) -> RelayError {
    RelayError::temporary(Status::new(4, 4, 1), text)
}

/// By what is wrong with its connectors.
const NETWORK: RelayError = unreachable("Network error on destination MXs");
const NO_MX: RelayError = unreachable("No MX found for destination");
const FAMILY: RelayError = unreachable("Address family mismatch on destination MXs");
const BLOCKED: RelayError = unreachable("All routes to destination blocked");
const NO_ROUTE: RelayError = unreachable("No valid route to destination");
const NO_SOURCE: RelayError =
    RelayError::temporary(Status::new(4, 3, 5), "Could not retrieve source address");
const NO_SECRET: RelayError =
    RelayError::temporary(Status::new(4, 3, 5), "Could not retrieve credentials");

/// Seconds after which a count of connections is looked at again, should nothing happen to it.
const COUNT_AGAIN_S: u64 = 5;
/// Seconds until another source address is drawn while messages wait.
const DRAW_NEW_S: u64 = 1;
const DRAW_KNOWN_S: u64 = 10;
/// The longest wait for a host while sessions are short.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a relay can do.
enum Choice {
    Open(Way),
    /// Use this session, which is idle.
    Reuse(SessionId),
    Wait(Wait),
    /// Ask for another source address.
    Draw,
    Nothing,
}

/// Where a connection goes from and to.
#[derive(Clone)]
struct Way {
    source: Option<IpAddr>,
    to: SocketAddr,
    exchanger: Exchanger,
    /// Connections there are on it.
    count: u32,
}

/// What a relay waits for: a time, a limit, or both.
#[derive(Default)]
struct Wait {
    until: Option<Timestamp>,
    limit: Option<Limit>,
}

/// What a connector finds.
enum Found {
    Way(Way),
    Idle(SessionId),
    Wait(Wait),
    Error(Broken),
}

impl Wait {
    fn until(at: Timestamp) -> Wait {
        Wait {
            until: Some(at),
            limit: None,
        }
    }

    fn limit(limit: Limit) -> Wait {
        Wait {
            until: None,
            limit: Some(limit),
        }
    }

    /// Whatever comes first will do.
    fn or(self, other: Wait) -> Wait {
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
    /// Does what can be done now, until nothing is left.
    pub(super) fn work(&mut self, now: Timestamp) {
        loop {
            while let Some(id) = self.changed.pop_first() {
                self.advance(id, now);
            }
            let Some((limit, id)) = self.waiting.next() else {
                break;
            };
            self.take_turn(&limit, id, now);
        }
        self.gauges();
    }

    /// Something has happened to a relay.
    pub(super) fn wake(&mut self, id: RelayId) {
        self.changed.insert(id);
    }

    /// The first in a line does what he can; if he still waits there, all do.
    fn take_turn(&mut self, limit: &Limit, id: RelayId, now: Timestamp) {
        self.advance(id, now);
        let place = self.relays.get(&id).and_then(|relay| relay.place.as_ref());
        if place.is_some_and(|(at, _)| at == limit) {
            self.waiting.is_full(limit);
        }
    }

    fn advance(&mut self, id: RelayId, now: Timestamp) {
        let known = self
            .relays
            .get(&id)
            .map(|relay| (&relay.state, &relay.login));
        let failure = match known {
            None | Some((State::Resolving, _) | (State::Ready, Login::Asked)) => return,
            Some((State::Failed(failure), _)) => Some(failure.clone()),
            Some((State::Ready, Login::Unknown)) => Some(NO_SECRET.outcome()),
            Some((State::Ready, Login::No | Login::As(_))) => None,
        };
        match failure {
            Some(failure) => {
                self.leave_line(id);
                self.flush(id, &failure, now);
            }
            None => {
                self.feed(id, now);
                self.connect(id, now);
            }
        }
        self.remove_if_done(id, now);
    }

    fn connect(&mut self, id: RelayId, now: Timestamp) {
        while self.wants_session(id) {
            match self.choose(id, now) {
                Choice::Open(way) => self.open(id, &way, now),
                Choice::Reuse(session) => {
                    self.take_over(session, id);
                    self.feed(id, now);
                }
                Choice::Wait(wait) => return self.wait(id, wait, now),
                Choice::Draw => {
                    self.leave_line(id);
                    return self.draw(id);
                }
                Choice::Nothing => {
                    self.leave_line(id);
                    return self.nothing_left(id, now);
                }
            }
        }
        self.leave_line(id);
    }

    /// No more sessions than are of use: none while those that are open will do.
    fn wants_session(&self, id: RelayId) -> bool {
        let Some(relay) = self.relays.get(&id) else {
            return false;
        };
        let session = |id: &SessionId| self.sessions.get(*id);
        let sessions = || relay.sessions.iter().filter_map(session);
        let reserved = || sessions().filter(|s| s.reserved().is_some()).count();
        let open = relay.sessions.len();
        !self.stopping
            && !relay.tasks.is_empty()
            && (open <= 2 || open < (relay.tasks.len() + reserved()) / 2)
            && !sessions().any(Session::is_idle)
    }

    fn wait(&mut self, id: RelayId, wait: Wait, now: Timestamp) {
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

    fn choose(&mut self, id: RelayId, now: Timestamp) -> Choice {
        let Some(relay) = self.relays.get(&id) else {
            return Choice::Nothing;
        };
        let working: Vec<Option<IpAddr>> = relay
            .connectors
            .iter()
            .filter(|(_, connector)| connector.error.is_none())
            .map(|(source, _)| *source)
            .collect();
        let mut best: Option<Way> = None;
        let mut waits: Option<Wait> = None;
        for source in working {
            match self.way(id, source, now) {
                Found::Idle(session) => return Choice::Reuse(session),
                Found::Way(way) => {
                    if best.as_ref().is_none_or(|best| way.count < best.count) {
                        best = Some(way);
                    }
                }
                Found::Wait(wait) => {
                    waits = Some(match waits {
                        Some(other) => other.or(wait),
                        None => wait,
                    });
                }
                Found::Error(broken) => self.break_connector(id, source, broken),
            }
        }
        if let Some(way) = best {
            return match self.lacks_room(id, &way, now) {
                Some(wait) => Choice::Wait(wait),
                None => Choice::Open(way),
            };
        }
        let may_draw = self.may_draw(id);
        let next = self.relays.get(&id).map(|relay| relay.draws.next);
        match (waits, next) {
            (None, _) if may_draw => Choice::Draw,
            (None, _) => Choice::Nothing,
            (Some(_), Some(next)) if may_draw && next <= now => Choice::Draw,
            (Some(wait), Some(next)) if may_draw => Choice::Wait(wait.or(Wait::until(next))),
            (Some(wait), _) => Choice::Wait(wait),
        }
    }

    /// Whether there is no session for a relay that could go this way, whatever its limits say.
    fn lacks_room(&self, id: RelayId, way: &Way, now: Timestamp) -> Option<Wait> {
        if self.short_until > now {
            return Some(Wait::until(self.short_until));
        }
        if self.sessions.len() >= self.limits.sessions {
            return Some(Wait::limit(Limit::Sessions));
        }
        let relay = self.relays.get(&id)?;
        let own = relay.sessions.len();
        if self.sessions.len() >= self.limits.unproven() && own >= self.share() {
            return Some(Wait::limit(Limit::Sessions));
        }
        let answers = |id: &RouteId| self.routes.get(id).is_some_and(|route| route.answers);
        if self
            .route_ids
            .get(&(way.source, way.to))
            .is_some_and(answers)
        {
            return None;
        }
        if self.unproven >= self.limits.unproven() {
            return Some(Wait::limit(Limit::Unproven));
        }
        let session = |id: &SessionId| self.sessions.get(*id);
        let sessions = relay.sessions.iter().filter_map(session);
        let unproven = sessions.filter(|session| !answers(&session.route)).count();
        (unproven >= UNPROVEN_PER_RELAY).then(|| Wait::limit(Limit::Own("sessions-to-new-hosts")))
    }

    /// How many sessions a relay has a right to when there are not enough for all.
    pub(super) fn share(&self) -> usize {
        let all = self.served + self.waiting.len(&Limit::Sessions);
        (self.limits.sessions / all.max(1)).max(1)
    }

    /// Whether another source address may help.
    fn may_draw(&self, id: RelayId) -> bool {
        self.relays.get(&id).is_some_and(|relay| {
            let draws = &relay.draws;
            relay.src.is_some() && !draws.failed && draws.fruitless <= relay.connectors.len()
        })
    }

    /// The way of one connector.
    fn way(&self, id: RelayId, source: Option<IpAddr>, now: Timestamp) -> Found {
        let broken = |what| Found::Error(Broken { what, why: None });
        let Some(relay) = self.relays.get(&id) else {
            return broken(Trouble::Source);
        };
        if let Some(addr) = source
            && self.blocks.contains(&(addr, relay.key.name.clone()))
        {
            return broken(Trouble::Blocked);
        }
        let connector = relay.connectors.get(&source);
        let exchangers = self.exchangers(relay);
        let preferred = |e: &&Exchanger| relay.below.is_none_or(|below| e.preference < below);
        let exchangers = exchangers.iter().flat_map(|list| list.iter());
        let mut exchangers = exchangers.filter(preferred).peekable();
        if exchangers.peek().is_none() {
            return broken(Trouble::Mx);
        }
        let own_wait = self.must_wait(relay, source, now);
        let own_limit = own_wait.as_ref().and_then(|wait| wait.limit.as_ref());
        let may_reuse = !matches!(own_limit, Some(Limit::Own(_) | Limit::Domain(_)));
        let (mut level, mut wait, mut best) = (None, None::<Wait>, None::<Way>);
        let mut failures: Vec<&(Timestamp, Outcome)> = Vec::new();
        for exchanger in exchangers {
            if level != Some(exchanger.preference) {
                if best.is_some() || wait.is_some() {
                    break;
                }
                level = Some(exchanger.preference);
            }
            let to = SocketAddr::new(exchanger.addr, relay.key.port_or_default());
            if !fits(relay.limits.family, source, to.ip()) {
                continue;
            }
            let route = self.route_ids.get(&(source, to));
            let route = route.and_then(|id| Some((*id, self.routes.get(id)?)));
            let unfit = connector.and_then(|connector| connector.unfit.get(&to));
            let disabled = route.filter(|(_, route)| route.disabled_until.is_some());
            if let Some(failure) = unfit.or(disabled.and_then(|(_, r)| r.failure.as_ref())) {
                failures.push(failure);
                continue;
            }
            if may_reuse
                && let Some((_, route)) = route
                && let Some(idle) = self.idle_for(relay, route, exchanger)
            {
                return Found::Idle(idle);
            }
            if let Some(why) = self.route_must_wait(relay, route, to.ip(), now) {
                wait = Some(match wait {
                    Some(other) => other.or(why),
                    None => why,
                });
                continue;
            }
            let count = route.map_or(0, |(_, route)| route.connections.count());
            if best.as_ref().is_none_or(|best| count < best.count) {
                best = Some(Way {
                    source,
                    to,
                    exchanger: exchanger.clone(),
                    count,
                });
            }
        }
        match (best, wait, own_wait) {
            (Some(_), _, Some(wait)) | (None, Some(wait), _) => Found::Wait(wait),
            (Some(way), ..) => Found::Way(way),
            (None, None, _) => {
                let last = failures.into_iter().max_by_key(|(at, _)| *at);
                match last {
                    Some((_, why)) => Found::Error(Broken {
                        what: Trouble::RouteNet,
                        why: Some(why.clone()),
                    }),
                    None => broken(Trouble::Family),
                }
            }
        }
    }

    /// A session of another relay on a route that would do as well, and that has nothing to do.
    fn idle_for(&self, relay: &Relay, route: &Route, exchanger: &Exchanger) -> Option<SessionId> {
        route.sessions.iter().copied().find(|id| {
            self.sessions.get(*id).is_some_and(|session| {
                let other = self.relays.get(&session.relay);
                session.is_idle()
                    && session.exchanger == exchanger.name
                    && session.messages < relay.limits.session_mail_max.max(1)
                    && other.is_some_and(|other| {
                        other.key.is_as_good_as(&relay.key)
                            && other.limits == relay.limits
                            && Arc::ptr_eq(&other.configured, &relay.configured)
                    })
            })
        })
    }

    /// Limits of relay, domain, source and connector.
    fn must_wait(&self, relay: &Relay, source: Option<IpAddr>, now: Timestamp) -> Option<Wait> {
        let limits = &relay.limits;
        let paces = Paces::of(limits);
        let domain = self.domains.get(&relay.key.destination());
        let connector = relay.connectors.get(&source);
        let counts = [
            (
                Some(&relay.connections),
                limits.max_conn_per_relay,
                paces.relay,
            ),
            (
                connector.map(|connector| &connector.connections),
                limits.max_conn_per_connector,
                paces.connector,
            ),
            (
                domain.map(|domain| &domain.connections),
                limits.max_conn_per_domain,
                paces.domain,
            ),
            (
                self.sources.get(&source),
                limits.max_conn_per_source,
                paces.source,
            ),
        ];
        let is_full = |(connections, most, _): &(Option<&Connections>, u32, Pace)| {
            connections.is_some_and(|all| all.count() >= (*most).max(1))
        };
        let limit = match counts.iter().position(is_full) {
            Some(0) => Some(Limit::Own("max-conn-per-relay")),
            Some(1) => Some(Limit::Own("max-conn-per-connector")),
            Some(2) => Some(Limit::Domain(relay.key.destination())),
            Some(_) => Some(Limit::Source(source)),
            None => None,
        };
        if let Some(limit) = limit {
            return Some(Wait::limit(limit));
        }
        let ready = counts
            .iter()
            .filter_map(|(connections, _, pace)| Some(connections.as_ref()?.ready_at(*pace)));
        ready.max().filter(|at| *at > now).map(Wait::until)
    }

    /// Limits of host and route.
    fn route_must_wait(
        &self,
        relay: &Relay,
        route: Option<(RouteId, &Route)>,
        addr: IpAddr,
        now: Timestamp,
    ) -> Option<Wait> {
        let limits = &relay.limits;
        let paces = Paces::of(limits);
        let host = self.hosts.get(&addr).map(|host| &host.connections);
        if host.is_some_and(|all| all.count() >= limits.max_conn_per_host.max(1)) {
            return Some(Wait::limit(Limit::Host(addr)));
        }
        let host_at = host.map(|all| all.ready_at(paces.host));
        let Some((id, route)) = route else {
            return host_at.filter(|at| *at > now).map(Wait::until);
        };
        let most = if route.answers {
            limits.max_conn_per_route.max(1)
        } else {
            1
        };
        let count = route.connections.count();
        let crowded = count > 0 && route.crowded_until.is_some_and(|at| at > now);
        if count >= most || crowded {
            return Some(Wait::limit(Limit::Route(id)));
        }
        let after_loss = route
            .lost
            .map(|at| at.plus(u64::from(limits.reconn_delay_route_s)));
        let ready = [
            host_at,
            Some(route.connections.ready_at(paces.route)),
            after_loss,
        ];
        let ready = ready.into_iter().flatten().max();
        ready.filter(|at| *at > now).map(Wait::until)
    }

    fn break_connector(&mut self, id: RelayId, source: Option<IpAddr>, broken: Broken) {
        let Some(relay) = self.relays.get_mut(&id) else {
            return;
        };
        let name = relay.connector_name(source);
        let trouble = broken.what;
        if let Some(connector) = relay.connectors.get_mut(&source) {
            connector.error = Some(broken);
        }
        self.info(match trouble {
            Trouble::Mx => SmtpOut::NoExchanger(&name),
            Trouble::Family => SmtpOut::OtherFamily(&name),
            Trouble::RouteNet => SmtpOut::NoRoute(&name),
            // The one is the administrator's doing, the other has been said.
            Trouble::Blocked | Trouble::Source => return,
        });
    }

    fn draw(&mut self, id: RelayId) {
        let Some(relay) = self.relays.get_mut(&id) else {
            return;
        };
        let Some(table) = relay.src.clone() else {
            return;
        };
        if !std::mem::replace(&mut relay.draws.asked, true) {
            let configured = relay.configured.clone();
            self.out.push(Action::Source(configured, id, table));
        }
    }

    /// A source address for a relay; `None` when the table has none or cannot be asked.
    pub fn source(&mut self, id: RelayId, addr: Option<IpAddr>, now: Timestamp) {
        let Some(relay) = self.relays.get_mut(&id) else {
            return;
        };
        let draws = &mut relay.draws;
        draws.asked = false;
        match addr {
            None => {
                draws.failed = true;
                let line = format!("Failed to get source address for {}", relay.printed);
                self.warn(line);
            }
            Some(addr) => {
                let known = relay.connectors.get(&Some(addr));
                let wait_s = if known.is_some() {
                    DRAW_KNOWN_S
                } else {
                    DRAW_NEW_S
                };
                draws.next = now.plus(wait_s);
                draws.fruitless = match known {
                    Some(connector) if connector.error.is_some() => draws.fruitless + 1,
                    Some(_) | None => 0,
                };
                if known.is_none() {
                    relay.connectors.insert(Some(addr), Connector::default());
                    stat::MTA_CONNECTOR.inc();
                }
            }
        }
        self.wake(id);
        self.work(now);
    }

    /// The credentials of a relay; `None` when the table has none or cannot be asked.
    pub fn secret(&mut self, id: RelayId, found: Option<Credentials>, now: Timestamp) {
        let Some(relay) = self.relays.get_mut(&id) else {
            return;
        };
        if let Some(credentials) = found {
            relay.login = Login::As(credentials);
        } else {
            relay.login = Login::Unknown;
            let line = format!("Failed to retrieve secret for {}", relay.printed);
            self.warn(line);
        }
        self.wake(id);
        self.work(now);
    }

    /// No connector is of use. While a session is left, it carries on.
    fn nothing_left(&mut self, id: RelayId, now: Timestamp) {
        let Some(relay) = self.relays.get_mut(&id) else {
            return;
        };
        if !relay.sessions.is_empty() {
            return;
        }
        let broken = relay.connectors.values().filter_map(|c| c.error.as_ref());
        let broken = broken.min_by_key(|broken| broken.what);
        let generic = match broken.map(|broken| broken.what) {
            Some(Trouble::RouteNet) => NETWORK,
            Some(Trouble::Mx) => NO_MX,
            Some(Trouble::Family) => FAMILY,
            Some(Trouble::Blocked) => BLOCKED,
            None if relay.draws.failed => NO_SOURCE,
            Some(Trouble::Source) | None => NO_ROUTE,
        };
        let why = broken.and_then(|broken| broken.why.clone());
        let failure = why.unwrap_or_else(|| generic.outcome());
        relay.state = State::Failed(failure.clone());
        self.flush(id, &failure, now);
    }

    /// Opens a connection for the first message that waits.
    fn open(&mut self, id: RelayId, way: &Way, now: Timestamp) {
        let Some(load) = self.next_load(id) else {
            return;
        };
        let route = self.route_to(way);
        let session_id = self.session_name();
        let session = Session::new(
            id,
            route,
            way.source,
            way.exchanger.name.clone(),
            Arc::new(load),
            now,
        );
        self.each_count(&session, |connections, pace| connections.open(pace, now));
        if let Some(route) = self.routes.get_mut(&route) {
            route.sessions.insert(session_id);
            self.unproven += usize::from(!route.answers);
        }
        self.sessions.insert(session_id, session);
        self.join_relay(session_id, id);
        if let Some(start) = self.start_of(id, session_id, way) {
            self.out.push(Action::Open(Box::new(start)));
        }
        if let Some(destination) = self.relays.get(&id).map(|relay| relay.key.destination()) {
            self.renew(&destination, now);
        }
        self.low_water(id);
    }

    pub(super) fn join_relay(&mut self, session: SessionId, id: RelayId) {
        if let Some(relay) = self.relays.get_mut(&id) {
            self.served += usize::from(relay.sessions.is_empty());
            relay.sessions.insert(session);
        }
    }

    pub(super) fn leave_relay(&mut self, session: SessionId, id: RelayId) {
        if let Some(relay) = self.relays.get_mut(&id)
            && relay.sessions.remove(&session)
        {
            self.served -= usize::from(relay.sessions.is_empty());
        }
    }

    /// Does something to all counts that a session is in.
    pub(super) fn each_count(
        &mut self,
        session: &Session,
        mut act: impl FnMut(&mut Connections, Pace),
    ) {
        let paces = self.each_own_count(session.relay, session.source, &mut act);
        act(
            self.sources.entry(session.source).or_default(),
            paces.source,
        );
        if let Some(route) = self.routes.get_mut(&session.route) {
            act(&mut route.connections, paces.route);
            let host = self.hosts.entry(route.to.ip()).or_default();
            act(&mut host.connections, paces.host);
        }
    }

    /// The same for those of relay, connector and domain alone.
    pub(super) fn each_own_count(
        &mut self,
        id: RelayId,
        source: Option<IpAddr>,
        act: &mut impl FnMut(&mut Connections, Pace),
    ) -> Paces {
        let Some(relay) = self.relays.get_mut(&id) else {
            return Paces::of(&self.configured.config().mta.limits);
        };
        let paces = Paces::of(&relay.limits);
        act(&mut relay.connections, paces.relay);
        if let Some(connector) = relay.connectors.get_mut(&source) {
            act(&mut connector.connections, paces.connector);
        }
        if let Some(domain) = self.domains.get_mut(&relay.key.destination()) {
            act(&mut domain.connections, paces.domain);
        }
        paces
    }

    fn start_of(&self, id: RelayId, session: SessionId, way: &Way) -> Option<Start> {
        let relay = self.relays.get(&id)?;
        let host = self.hosts.get(&way.to.ip());
        let lmtp = relay.key.scheme == Spoken::Lmtp;
        let many = self.sessions.len() >= self.limits.many();
        Some(Start {
            id: session,
            configured: relay.configured.clone(),
            action: relay.key.action.clone(),
            to: way.to,
            exchanger: way.exchanger.name.clone(),
            scheme: relay.key.scheme.name(),
            lmtp,
            security: if lmtp { Security::None } else { relay.security },
            login: match &relay.login {
                Login::As(credentials) => Some(credentials.clone()),
                Login::No | Login::Asked | Login::Unknown => None,
            },
            source: way.source,
            ptr: host.map(|host| host.ptr.clone()).unwrap_or_default(),
            transaction_delay_s: relay.limits.session_transaction_delay_s,
            max_failures: relay.limits.max_failures_per_session,
            patience: many.then_some(PATIENCE),
        })
    }

    fn route_to(&mut self, way: &Way) -> RouteId {
        let key = (way.source, way.to);
        if let Some(id) = self.route_ids.get(&key) {
            return *id;
        }
        let id = RouteId(self.next_route);
        self.next_route += 1;
        self.routes.insert(id, Route::new(way.source, way.to));
        self.route_ids.insert(key, id);
        id
    }

    fn session_name(&self) -> SessionId {
        loop {
            let (high, low) = ((self.random)(), (self.random)());
            let id = SessionId(u64::from(high) << 32 | u64::from(low));
            if id.0 != 0 && !self.sessions.contains(id) {
                return id;
            }
        }
    }

    /// It is known now, or not any more, that a route answers.
    pub(super) fn set_answers(&mut self, id: RouteId, answers: bool) {
        let Some(route) = self.routes.get_mut(&id) else {
            return;
        };
        if std::mem::replace(&mut route.answers, answers) == answers {
            return;
        }
        if answers {
            self.unproven -= route.sessions.len();
            self.waiting.free(Limit::Route(id));
            self.waiting.free(Limit::Unproven);
        } else {
            self.unproven += route.sessions.len();
        }
    }

    /// A route's time of being disabled, or of carrying a penalty, is over.
    pub(super) fn route_time(&mut self, id: RouteId, now: Timestamp) {
        let Some(route) = self.routes.get_mut(&id) else {
            return;
        };
        if route.disabled_until.is_some_and(|at| at <= now) {
            route.enable(now);
            let (addr, timer) = (route.to.ip(), route.timer);
            self.set_answers(id, false);
            let line = self.routes.get(&id).map(|route| {
                let ptr = self.ptr_of(addr);
                SmtpOut::RouteEnabled(&route.name(ptr.as_ref())).to_string()
            });
            self.out.extend(line.map(Action::Info));
            self.timers.extend(timer.map(|at| (at, Timer::Route(id))));
        } else if route.timer.is_some_and(|at| at <= now) {
            route.decay(now);
            let timer = route.timer;
            self.timers.extend(timer.map(|at| (at, Timer::Route(id))));
        }
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

/// How far apart connections are, by what they are counted for.
pub(super) struct Paces {
    pub host: Pace,
    pub route: Pace,
    pub source: Pace,
    pub connector: Pace,
    pub relay: Pace,
    pub domain: Pace,
}

impl Paces {
    /// Those of `mta limit`, which may hold for a domain.
    pub fn of(limits: &MtaLimits) -> Paces {
        let usual = MtaLimits::default();
        Paces {
            host: Pace::of(limits.conn_delay_host_s, usual.conn_delay_host_s),
            route: Pace::of(limits.conn_delay_route_s, usual.conn_delay_route_s),
            source: Pace::of(limits.conn_delay_source_s, usual.conn_delay_source_s),
            connector: Pace::of(limits.conn_delay_connector_s, usual.conn_delay_connector_s),
            relay: Pace::of(limits.conn_delay_relay_s, usual.conn_delay_relay_s),
            domain: Pace::of(limits.conn_delay_domain_s, usual.conn_delay_domain_s),
        }
    }
}

/// Whether an address may be connected to: `inet4` and `inet6` of the limits, and the source's
/// family.
fn fits(family: Option<Family>, source: Option<IpAddr>, to: IpAddr) -> bool {
    let wanted = match family {
        None => true,
        Some(Family::Inet4) => to.is_ipv4(),
        Some(Family::Inet6) => to.is_ipv6(),
    };
    wanted && source.is_none_or(|source| source.is_ipv4() == to.is_ipv4())
}
