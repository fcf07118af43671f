//! Opening connections: who may, from where, and to which address.

use std::net::{IpAddr, SocketAddr};

use crate::client::Credentials;
use crate::config::Family;
use crate::mail::{SessionId, Status};
use crate::util::Timestamp;

use crate::deliver::relay::books::{Host, Pace, Route};
use crate::deliver::relay::key::{Security, Spoken};
use crate::deliver::relay::mx::{Exchanger, Failure};

use super::{
    Action, Broken, Connector, Core, Login, Phase, Session, Start, State, TURNS_MAX, Timer,
    UNPROVEN_PER_RELAY,
};

const fn unreachable(text: &'static str) -> Failure {
    Failure::temporary(Status::new(4, 4, 1), text)
}

/// By what is wrong with its connectors.
const NETWORK: Failure = unreachable("Network error on destination MXs");
const NO_MX: Failure = unreachable("No MX found for destination");
const FAMILY: Failure = unreachable("Address family mismatch on destination MXs");
const BLOCKED: Failure = unreachable("All routes to destination blocked");
const NO_ROUTE: Failure = unreachable("No valid route to destination");
const NO_SOURCE: Failure =
    Failure::temporary(Status::new(4, 3, 5), "Could not retrieve source address");
const NO_SECRET: Failure =
    Failure::temporary(Status::new(4, 3, 5), "Could not retrieve credentials");

/// Seconds after which a count of connections is looked at again.
const COUNT_AGAIN_S: u64 = 5;
/// Seconds until another source address is drawn while messages wait.
const DRAW_NEW_S: u64 = 1;
const DRAW_KNOWN_S: u64 = 10;

/// What a relay can do.
enum Choice {
    Open(IpAddrs, Exchanger),
    /// Look again then.
    Wait(Timestamp),
    /// Ask for another source address.
    Draw,
    /// Nothing.
    Nothing,
}

/// Where a connection goes from and to.
#[derive(Clone, Copy)]
struct IpAddrs {
    source: Option<IpAddr>,
    to: SocketAddr,
}

/// What a connector finds.
enum Way {
    To(SocketAddr, Exchanger, u32),
    Wait(Timestamp),
    Error(Broken),
}

impl Core {
    /// Does what relays that something has happened to can do now.
    pub(super) fn work(&mut self, now: Timestamp) {
        while let Some(id) = self.due.pop_first() {
            self.drive(id, now);
        }
        self.take_turns(now);
        self.gauges();
    }

    /// Something has happened to a relay.
    pub(super) fn wake(&mut self, id: u64) {
        self.due.insert(id);
    }

    fn drive(&mut self, id: u64, now: Timestamp) {
        let known = self
            .relays
            .get(&id)
            .map(|relay| (&relay.state, &relay.login));
        let failure = match known {
            None | Some((State::Resolving, _) | (State::Ready, Login::Asked)) => return,
            Some((State::Failed(failure), _)) => Some(*failure),
            Some((State::Ready, Login::Unknown)) => Some(NO_SECRET),
            Some((State::Ready, Login::No | Login::As(_))) => None,
        };
        match failure {
            Some(failure) => self.flush(id, &failure, now),
            None => {
                self.feed(id);
                self.connect(id, now);
            }
        }
        self.bury(id);
    }

    fn connect(&mut self, id: u64, now: Timestamp) {
        while self.wants_session(id) {
            if !self.has_room(id) {
                return self.queue_up(id);
            }
            match self.choose(id, now) {
                Choice::Open(addrs, exchanger) => self.open(id, addrs, &exchanger, now),
                Choice::Wait(at) => {
                    self.set_relay_timer(id, at.max(now.plus(1)));
                    return;
                }
                Choice::Draw => return self.draw(id),
                Choice::Nothing => return self.nothing_left(id, now),
            }
        }
    }

    /// No more sessions than are of use: none while those that are open will do.
    fn wants_session(&self, id: u64) -> bool {
        let Some(relay) = self.relays.get(&id) else {
            return false;
        };
        let waiting = relay.tasks.len();
        let count = |what: fn(&Phase) -> bool| {
            let sessions = relay.sessions.iter().filter_map(|id| self.sessions.get(id));
            sessions.filter(|session| what(&session.phase)).count()
        };
        let ready = count(|phase| matches!(phase, Phase::Idle(_)));
        let connecting = count(|phase| matches!(phase, Phase::Connecting));
        let open = relay.sessions.len();
        !self.stopping
            && matches!(relay.state, State::Ready)
            && matches!(relay.login, Login::No | Login::As(_))
            && ready + connecting < waiting
            && !(open > 2 && open >= waiting / 2)
    }

    /// Whether a relay may have one more session, whatever its limits say.
    fn has_room(&self, id: u64) -> bool {
        let unproven = |session: &&Session| !session.proven;
        let all = self.sessions.values().filter(unproven).count();
        let its = self
            .relays
            .get(&id)
            .into_iter()
            .flat_map(|relay| &relay.sessions)
            .filter_map(|session| self.sessions.get(session));
        let proven_before = its.clone().any(|session| session.proven);
        let own = its.filter(unproven).count();
        self.sessions.len() < self.limits.sessions
            && own < UNPROVEN_PER_RELAY
            && (proven_before || all < self.limits.unproven)
    }

    fn queue_up(&mut self, id: u64) {
        if let Some(relay) = self.relays.get_mut(&id)
            && !std::mem::replace(&mut relay.is_hungry, true)
        {
            self.hungry.push_back(id);
        }
        // A session that waits for nothing in particular makes room.
        if self.sessions.len() >= self.limits.sessions {
            let idle = self.sessions.iter().filter_map(|(id, s)| match s.phase {
                Phase::Idle(since) => Some((since, *id)),
                _ => None,
            });
            if let Some((_, id)) = idle.min() {
                self.quit(id);
            }
        }
    }

    /// Relays that wait for a session, in turn, while there is room. When there is only for those
    /// with routes that have proven themselves, a few are looked at each time.
    fn take_turns(&mut self, now: Timestamp) {
        for turn in 0..self.hungry.len() {
            let unproven = self.sessions.values().filter(|s| !s.proven).count();
            if self.sessions.len() >= self.limits.sessions
                || unproven >= self.limits.unproven && turn >= TURNS_MAX
            {
                return;
            }
            let Some(id) = self.hungry.pop_front() else {
                return;
            };
            if let Some(relay) = self.relays.get_mut(&id) {
                relay.is_hungry = false;
                self.drive(id, now);
            }
        }
    }

    fn choose(&mut self, id: u64, now: Timestamp) -> Choice {
        let Some(relay) = self.relays.get(&id) else {
            return Choice::Nothing;
        };
        let exchangers = self.exchangers(id);
        let working: Vec<Option<IpAddr>> = relay
            .connectors
            .iter()
            .filter(|(_, connector)| connector.error.is_none())
            .map(|(source, _)| *source)
            .collect();
        let mut best: Option<(u32, IpAddrs, Exchanger)> = None;
        let mut wait: Option<Timestamp> = None;
        for source in working {
            match self.way(id, source, &exchangers, now) {
                Way::To(to, exchanger, nconn) => {
                    if best.as_ref().is_none_or(|(least, ..)| nconn < *least) {
                        best = Some((nconn, IpAddrs { source, to }, exchanger));
                    }
                }
                Way::Wait(at) => wait = Some(wait.map_or(at, |before| before.min(at))),
                Way::Error(broken) => self.break_connector(id, source, broken),
            }
        }
        let may_draw = self.may_draw(id);
        match (best, wait) {
            (Some((_, addrs, exchanger)), _) => Choice::Open(addrs, exchanger),
            (None, None) if may_draw => Choice::Draw,
            (None, None) => Choice::Nothing,
            (None, Some(at)) => match self.relays.get(&id).map(|relay| relay.draws.next) {
                Some(next) if may_draw && next <= now => Choice::Draw,
                Some(next) if may_draw => Choice::Wait(at.min(next)),
                _ => Choice::Wait(at),
            },
        }
    }

    /// Whether another source address may help.
    fn may_draw(&self, id: u64) -> bool {
        self.relays.get(&id).is_some_and(|relay| {
            relay.src.is_some() && !relay.draws.failed && relay.draws.vain <= relay.connectors.len()
        })
    }

    /// The way of one connector.
    fn way(
        &self,
        id: u64,
        source: Option<IpAddr>,
        exchangers: &[(Exchanger, SocketAddr)],
        now: Timestamp,
    ) -> Way {
        let Some(relay) = self.relays.get(&id) else {
            return Way::Error(Broken::Source);
        };
        if let Some(addr) = source
            && self.blocks.contains(&(addr, relay.key.name.clone()))
        {
            return Way::Error(Broken::Blocked);
        }
        if let Some(at) = self.must_wait(id, source, now) {
            return Way::Wait(at);
        }
        if exchangers.is_empty() {
            return Way::Error(Broken::Mx);
        }
        let connector = relay.connectors.get(&source);
        let (mut level, mut wait, mut disabled) = (None, None::<Timestamp>, false);
        let mut best: Option<(u32, SocketAddr, &Exchanger)> = None;
        for (exchanger, to) in exchangers {
            if level != Some(exchanger.preference) {
                if best.is_some() || wait.is_some() {
                    break;
                }
                level = Some(exchanger.preference);
            }
            if !fits(relay.limits.family, source, to.ip()) {
                continue;
            }
            let route = self.route_ids.get(&(source, *to));
            let route = route.and_then(|id| self.routes.get(id));
            let unfit = connector.is_some_and(|connector| connector.unfit.contains(to));
            if unfit || route.is_some_and(|route| route.disabled_until.is_some()) {
                disabled = true;
                continue;
            }
            if let Some(at) = self.route_must_wait(id, route, to.ip(), now) {
                wait = Some(wait.map_or(at, |before| before.min(at)));
                continue;
            }
            let nconn = route.map_or(0, |route| route.book.nconn);
            if best.as_ref().is_none_or(|(least, ..)| nconn < *least) {
                best = Some((nconn, *to, exchanger));
            }
        }
        match (best, wait) {
            (Some((nconn, to, exchanger)), _) => Way::To(to, exchanger.clone(), nconn),
            (None, Some(at)) => Way::Wait(at),
            (None, None) if disabled => Way::Error(Broken::RouteNet),
            (None, None) => Way::Error(Broken::Family),
        }
    }

    /// Limits of relay, domain, source and connector.
    fn must_wait(&self, id: u64, source: Option<IpAddr>, now: Timestamp) -> Option<Timestamp> {
        let relay = self.relays.get(&id)?;
        let limits = &relay.limits;
        let paces = Paces::of(limits);
        let domain = self
            .domains
            .get(&(relay.key.name.clone(), relay.key.as_host));
        let connector = relay.connectors.get(&source);
        let books = [
            (Some(&relay.book), limits.max_conn_per_relay, paces.relay),
            (
                domain.map(|d| &d.book),
                limits.max_conn_per_domain,
                paces.domain,
            ),
            (
                self.sources.get(&source),
                limits.max_conn_per_source,
                paces.source,
            ),
            (
                connector.map(|c| &c.book),
                limits.max_conn_per_connector,
                paces.connector,
            ),
        ];
        let counted = books
            .iter()
            .any(|(book, most, _)| book.is_some_and(|book| book.nconn >= *most));
        let ready = books
            .iter()
            .filter_map(|(book, _, pace)| Some(book.as_ref()?.ready_at(*pace)))
            .max();
        match (counted, ready) {
            (true, _) => Some(now.plus(COUNT_AGAIN_S)),
            (false, Some(at)) if at > now => Some(at),
            (false, _) => None,
        }
    }

    /// Limits of host and route.
    fn route_must_wait(
        &self,
        id: u64,
        route: Option<&Route>,
        addr: IpAddr,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let limits = &self.relays.get(&id)?.limits;
        let paces = Paces::of(limits);
        let host = self.hosts.get(&addr).map(|host| &host.book);
        let most = match route {
            Some(route) if route.proven => limits.max_conn_per_route,
            _ => 1,
        };
        let full = host.is_some_and(|book| book.nconn >= limits.max_conn_per_host)
            || route.is_some_and(|route| route.book.nconn >= most.max(1));
        if full {
            return Some(now.plus(COUNT_AGAIN_S));
        }
        let after_loss = route
            .and_then(|route| route.lost)
            .map(|at| at.plus(u64::from(limits.reconn_delay_route_s)));
        let ready = [
            host.map(|book| book.ready_at(paces.host)),
            route.map(|route| route.book.ready_at(paces.route)),
            after_loss,
        ];
        ready.into_iter().flatten().max().filter(|at| *at > now)
    }

    fn break_connector(&mut self, id: u64, source: Option<IpAddr>, broken: Broken) {
        let Some(relay) = self.relays.get_mut(&id) else {
            return;
        };
        let name = relay.connector_name(source);
        if let Some(connector) = relay.connectors.get_mut(&source) {
            connector.error = Some(broken);
        }
        let what = match broken {
            Broken::Mx => "No MX found",
            Broken::Family => "Address family mismatch",
            Broken::RouteNet => "No valid route",
            // The one is the administrator's doing, the other has been said.
            Broken::Blocked | Broken::Source => return,
        };
        let between = match broken {
            Broken::Family => "on",
            _ => "for",
        };
        self.info(format!("smtp-out: {what} {between} {name}"));
    }

    fn draw(&mut self, id: u64) {
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
    pub fn source(&mut self, id: u64, addr: Option<IpAddr>, now: Timestamp) {
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
                draws.vain = match known.map(|connector| connector.error) {
                    Some(Some(_)) => draws.vain + 1,
                    Some(None) | None => 0,
                };
                if known.is_none() {
                    relay.connectors.insert(Some(addr), Connector::default());
                    crate::log::stat::MTA_CONNECTOR.inc();
                }
            }
        }
        self.wake(id);
        self.work(now);
    }

    /// The credentials of a relay; `None` when the table has none or cannot be asked.
    pub fn secret(&mut self, id: u64, found: Option<Credentials>, now: Timestamp) {
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
    fn nothing_left(&mut self, id: u64, now: Timestamp) {
        let Some(relay) = self.relays.get_mut(&id) else {
            return;
        };
        if !relay.sessions.is_empty() {
            return;
        }
        let broken = relay.connectors.values().filter_map(|c| c.error).min();
        let failure = match broken {
            Some(Broken::RouteNet) => NETWORK,
            Some(Broken::Mx) => NO_MX,
            Some(Broken::Family) => FAMILY,
            Some(Broken::Blocked) => BLOCKED,
            None if relay.draws.failed => NO_SOURCE,
            Some(Broken::Source) | None => NO_ROUTE,
        };
        relay.state = State::Failed(failure);
        self.flush(id, &failure, now);
    }

    fn open(&mut self, id: u64, addrs: IpAddrs, exchanger: &Exchanger, now: Timestamp) {
        let Some(relay) = self.relays.get(&id) else {
            return;
        };
        let destination = (relay.key.name.clone(), relay.key.as_host);
        let paces = Paces::of(&relay.limits);
        let route_id = self.route_to(addrs);
        let session_id = self.session_name();
        let start = self.start_of(id, session_id, addrs, exchanger);
        let proven = self.routes.get(&route_id).is_some_and(|route| route.proven);
        if let Some(route) = self.routes.get_mut(&route_id) {
            route.book.open(paces.route, now);
        }
        let host = self.hosts.entry(addrs.to.ip()).or_default();
        host.book.open(paces.host, now);
        let source = self.sources.entry(addrs.source).or_default();
        source.open(paces.source, now);
        if let Some(domain) = self.domains.get_mut(&destination) {
            domain.book.open(paces.domain, now);
        }
        let session = Session {
            relay: id,
            route: route_id,
            source: addrs.source,
            phase: Phase::Connecting,
            messages: 0,
            proven,
            ready: false,
            spent: false,
        };
        self.sessions.insert(session_id, session);
        if let Some(relay) = self.relays.get_mut(&id) {
            relay.book.open(paces.relay, now);
            if let Some(connector) = relay.connectors.get_mut(&addrs.source) {
                connector.book.open(paces.connector, now);
            }
            relay.sessions.insert(session_id);
        }
        if let Some(start) = start {
            self.out.push(Action::Open(Box::new(start)));
        }
        self.renew(&destination, now);
    }

    fn start_of(
        &self,
        id: u64,
        session: SessionId,
        addrs: IpAddrs,
        exchanger: &Exchanger,
    ) -> Option<Start> {
        let relay = self.relays.get(&id)?;
        let host: Option<&Host> = self.hosts.get(&addrs.to.ip());
        let lmtp = relay.key.scheme == Spoken::Lmtp;
        Some(Start {
            id: session,
            configured: relay.configured.clone(),
            action: relay.key.action.clone(),
            to: addrs.to,
            exchanger: exchanger.name.clone(),
            scheme: relay.key.scheme.name(),
            lmtp,
            security: if lmtp { Security::None } else { relay.security },
            login: match &relay.login {
                Login::As(credentials) => Some(credentials.clone()),
                Login::No | Login::Asked | Login::Unknown => None,
            },
            source: addrs.source,
            ptr: host.map(|host| host.ptr.clone()).unwrap_or_default(),
            transaction_delay_s: relay.limits.session_transaction_delay_s,
            max_failures: relay.limits.max_failures_per_session,
        })
    }

    fn route_to(&mut self, addrs: IpAddrs) -> u64 {
        if let Some(id) = self.route_ids.get(&(addrs.source, addrs.to)) {
            return *id;
        }
        let id = self.next_route;
        self.next_route += 1;
        self.routes.insert(id, Route::new(addrs.source, addrs.to));
        self.route_ids.insert((addrs.source, addrs.to), id);
        id
    }

    fn session_name(&self) -> SessionId {
        loop {
            let (high, low) = ((self.random)(), (self.random)());
            let id = SessionId(u64::from(high) << 32 | u64::from(low));
            if id.0 != 0 && !self.sessions.contains_key(&id) {
                return id;
            }
        }
    }

    /// A route's time of being disabled, or of carrying a penalty, is over.
    pub(super) fn route_time(&mut self, id: u64, now: Timestamp) {
        let Some(route) = self.routes.get_mut(&id) else {
            return;
        };
        if route.disabled_until.is_some_and(|at| at <= now) {
            route.enable(now);
            let (addr, timer) = (route.to.ip(), route.timer);
            let line = self.routes.get(&id).map(|route| {
                let ptr = self.ptr_of(addr);
                format!("smtp-out: Enabling route {}", route.name(ptr.as_ref()))
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
    pub fn of(limits: &crate::config::MtaLimits) -> Paces {
        let usual = crate::config::MtaLimits::default();
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
