//! Which way a relay can go: from which source, to which address, or over which session that is
//! idle.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::config::Family;
use crate::mail::{Outcome, SessionId};
use crate::util::Timestamp;

use crate::deliver::relay::mx::Exchanger;
use crate::deliver::relay::routes::{Connections, Pace, Route};

use super::counts::Paces;
use super::lines::Wait;
use super::{Broken, Core, Limit, Relay, RelayId, RouteId, Trouble, UNPROVEN_PER_RELAY};

/// Connections of a route to a host that answers quickly: more of them would not make it faster.
const QUICK_CONNECTIONS: u32 = 5;

/// Connections of a route to a host that was slow to be ready for its first message, while that is
/// on its way: what waits behind it would wait for many round trips.
const EARLY_CONNECTIONS: u32 = 5;

/// What a relay can do.
pub(super) enum Choice {
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
pub(super) struct Way {
    pub(super) source: Option<IpAddr>,
    pub(super) to: SocketAddr,
    pub(super) exchanger: Exchanger,
    /// Connections there are on it.
    count: u32,
}

/// What a connector finds.
enum ConnectorChoice {
    Way(Way),
    Idle(SessionId),
    Wait(Wait),
    Error(Broken),
}

impl Core {
    pub(super) fn choose(&mut self, id: RelayId, now: Timestamp) -> Choice {
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
                ConnectorChoice::Idle(session) => return Choice::Reuse(session),
                ConnectorChoice::Way(way) => {
                    if best.as_ref().is_none_or(|best| way.count < best.count) {
                        best = Some(way);
                    }
                }
                ConnectorChoice::Wait(wait) => {
                    waits = Some(match waits {
                        Some(other) => other.or(wait),
                        None => wait,
                    });
                }
                ConnectorChoice::Error(broken) => self.break_connector(id, source, broken),
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

    /// The way of one connector.
    fn way(&self, id: RelayId, source: Option<IpAddr>, now: Timestamp) -> ConnectorChoice {
        let broken = |what| ConnectorChoice::Error(Broken { what, why: None });
        let Some(relay) = self.relays.get(&id) else {
            return broken(Trouble::Source);
        };
        if let Some(addr) = source
            && self.blocks.contains(&(addr, relay.key.name.clone()))
        {
            return broken(Trouble::Blocked);
        }
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
            let failure = route.and_then(|(_, route)| match route.disabled_until {
                Some(_) => route.failure.as_ref(),
                None => route.unfit_for(relay.talk(&exchanger.name), now),
            });
            if let Some(failure) = failure {
                failures.push(failure);
                continue;
            }
            if may_reuse
                && let Some((_, route)) = route
                && let Some(idle) = self.idle_for(relay, route, exchanger)
            {
                return ConnectorChoice::Idle(idle);
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
            (Some(_), _, Some(wait)) | (None, Some(wait), _) => ConnectorChoice::Wait(wait),
            (Some(way), ..) => ConnectorChoice::Way(way),
            (None, None, _) => {
                let last = failures.into_iter().max_by_key(|(at, _)| *at);
                match last {
                    Some((_, why)) => ConnectorChoice::Error(Broken {
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
        let most = limits.max_conn_per_route.max(1);
        let greets = route.validated && self.unproven < self.limits.few_unproven();
        let most = match (route.answers, route.is_slow()) {
            (false, true) if greets => most.min(EARLY_CONNECTIONS),
            (false, _) => 1,
            (true, false) => most.min(QUICK_CONNECTIONS),
            (true, true) => most,
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
