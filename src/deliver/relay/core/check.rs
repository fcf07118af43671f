//! What must hold between any two calls, for the tests.

use std::collections::{BTreeMap, BTreeSet};

use crate::deliver::relay::routes::Step;
use crate::mail::SessionId;

use super::ahead::AHEAD_MAX;
use super::{Core, Limit, Login, Phase, Readiness, Session, Timer};

impl Core {
    /// Panics where counts and indexes disagree, an envelope is in two places, or a relay waits for
    /// nothing.
    pub fn check(&self) {
        self.sessions.check();
        self.check_counts();
        self.check_relays();
        self.check_envelopes();
        self.check_ahead();
        self.check_lines();
    }

    fn check_counts(&self) {
        let count = |what: &dyn Fn(&Session) -> bool| {
            let all = self.sessions.iter();
            all.filter(|(_, session)| what(session)).count()
        };
        for (id, route) in &self.routes {
            let sessions = count(&|s| s.route == *id);
            assert_eq!(route.connections.count() as usize, sessions, "route {id}");
            assert_eq!(route.sessions.len(), sessions, "route {id}");
            assert!(route.sessions.iter().all(|id| self.sessions.contains(*id)));
        }
        let to = |s: &Session| self.routes[&s.route].to.ip();
        for (addr, host) in &self.hosts {
            let sessions = count(&|s| to(s) == *addr);
            assert_eq!(host.connections.count() as usize, sessions, "host {addr}");
        }
        for (source, connections) in &self.sources {
            let sessions = count(&|s| s.source == *source);
            assert_eq!(connections.count() as usize, sessions, "source {source:?}");
        }
        for (name, domain) in &self.domains {
            let sessions = count(&|s| self.relays[&s.relay].key.destination() == *name);
            assert_eq!(
                domain.connections.count() as usize,
                sessions,
                "domain {name:?}"
            );
        }
        for (id, relay) in &self.relays {
            let sessions = count(&|s| s.relay == *id);
            assert_eq!(relay.connections.count() as usize, sessions, "{id:?}");
            assert_eq!(relay.sessions.len(), sessions, "{id:?}");
            for (source, connector) in &relay.connectors {
                let sessions = count(&|s| s.relay == *id && s.source == *source);
                assert_eq!(connector.connections.count() as usize, sessions, "{id:?}");
            }
        }
        let unproven = count(&|s| !self.routes[&s.route].answers);
        assert_eq!(
            self.unproven, unproven,
            "sessions on routes that have not answered"
        );
        let served = self.relays.values().filter(|r| !r.sessions.is_empty());
        assert_eq!(self.served, served.count(), "relays with sessions");
        assert!(self.sessions.len() <= self.limits.sessions);
        assert!(self.unproven <= self.limits.unproven() || self.limits.sessions < 4);
    }

    fn check_relays(&self) {
        assert_eq!(self.by_key.len(), self.relays.len());
        for (id, relay) in &self.relays {
            let key = (relay.configured.snapshot.version, relay.key.clone());
            assert_eq!(self.by_key.get(&key), Some(id));
            let domain = &self.domains[&relay.key.destination()];
            assert!(domain.relays.contains(id));
            if let Some(at) = relay.timer {
                assert!(self.timers.contains(&(at, Timer::Relay(*id))));
            }
            // Nobody is forgotten: something will happen, or somebody has been asked.
            let asked = matches!(relay.readiness, Readiness::Resolving)
                || matches!(relay.login, Login::Asked)
                || relay.draws.asked;
            let goes_on = asked
                || relay.timer.is_some()
                || relay.place.is_some()
                || !relay.sessions.is_empty();
            assert!(
                goes_on || self.stopping,
                "{} waits for nothing",
                relay.printed
            );
        }
        for domain in self.domains.values() {
            assert!(!domain.relays.is_empty());
            assert!(domain.relays.iter().all(|id| self.relays.contains_key(id)));
        }
        for (key, id) in &self.route_ids {
            let route = &self.routes[id];
            assert_eq!(*key, (route.source, route.to));
        }
    }

    fn check_envelopes(&self) {
        let mut seen = BTreeSet::new();
        let waiting = self.relays.values().flat_map(|relay| &relay.tasks);
        let sessions = self.sessions.iter().map(|(_, session)| session);
        let given = sessions.flat_map(|s| s.load().into_iter().chain(&s.ahead));
        for load in waiting.chain(given.map(|load| &**load)) {
            assert!(!load.envelopes.is_empty());
            for envelope in &load.envelopes {
                assert_eq!(envelope.id.msgid(), load.envelopes[0].id.msgid());
                assert!(seen.insert(envelope.id), "{} is in two places", envelope.id);
            }
        }
        for id in self.asking.keys() {
            assert!(seen.insert(*id), "{id} is in two places");
        }
    }

    /// Only who is at work has something at hand, no more than is of use, and not from a host that
    /// has lost step before; until one has kept it, one session tries.
    fn check_ahead(&self) {
        for (id, session) in self.sessions.iter() {
            if session.ahead.is_empty() {
                continue;
            }
            assert!(matches!(session.phase(), Phase::Sending(_)), "{id}");
            assert!(session.ahead.len() <= AHEAD_MAX, "{id}");
            assert!(session.messages > 0, "{id}");
        }
        for (id, route) in &self.routes {
            let has_some = |id: &&SessionId| !self.sessions.get(**id).unwrap().ahead.is_empty();
            let count = route.sessions.iter().filter(has_some).count();
            assert!(count <= 1 || route.step != Step::Untried, "route {id}");
        }
    }

    fn check_lines(&self) {
        let places: BTreeMap<_, _> = self.waiting.all().collect();
        for (id, relay) in &self.relays {
            if let Some(place) = &relay.place {
                assert_eq!(places.get(place), Some(id), "{place:?}");
                assert!(!relay.tasks.is_empty(), "{place:?} for nothing");
            }
        }
        for (place, id) in &places {
            let relay = self.relays.get(id).and_then(|relay| relay.place.as_ref());
            assert_eq!(relay, Some(place));
            // An idle session is never kept while somebody waits for one.
            if place.0 == Limit::Sessions {
                let idle = self.sessions.idle().count();
                assert!(idle == 0 || self.sessions.closing() > 0);
            }
        }
    }
}
