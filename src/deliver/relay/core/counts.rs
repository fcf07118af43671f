//! The counts that a session is in, and how far apart connections are.

use std::net::IpAddr;

use crate::config::MtaLimits;
use crate::mail::SessionId;

use crate::deliver::relay::routes::{Connections, Pace};

use super::sessions::Counted;
use super::{Core, Limit, RelayId, RouteId};

impl Core {
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
        session: Counted,
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

    /// It is known now, or not any more, that a route answers.
    pub(super) fn set_answers(&mut self, id: RouteId, answers: bool) {
        let Some(route) = self.routes.get_mut(&id) else {
            return;
        };
        if answers {
            route.recover();
        }
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
