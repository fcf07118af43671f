//! From messages that wait to a connection: whose turn it is, and what is opened for him.

use std::sync::Arc;
use std::time::Duration;

use crate::log::maillog::SmtpOut;
use crate::mail::{SessionId, Status};
use crate::util::Timestamp;

use crate::deliver::relay::key::{Security, Spoken};
use crate::deliver::relay::mx::RelayError;
use crate::deliver::relay::routes::Route;

use super::way::{Choice, Way};
use super::{Action, Core, Limit, Login, Readiness, RelayId, RouteId, Session, Start, Timer};

const NO_SECRET: RelayError =
    RelayError::temporary(Status::new(4, 3, 5), "Could not retrieve credentials");
/// The longest wait for a host while sessions are short.
const PATIENCE: Duration = Duration::from_secs(60);

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
            .map(|relay| (&relay.readiness, &relay.login));
        let failure = match known {
            None | Some((Readiness::Resolving, _) | (Readiness::Ready, Login::Asked)) => return,
            Some((Readiness::Failed(failure), _)) => Some(failure.clone()),
            Some((Readiness::Ready, Login::Unknown)) => Some(NO_SECRET.outcome()),
            Some((Readiness::Ready, Login::No | Login::As(_))) => None,
        };
        match failure {
            Some(failure) => {
                self.leave_line(id);
                self.flush(id, &failure, now);
            }
            None => {
                self.feed(id, now);
                self.connect(id, now);
                self.look_ahead(id);
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
        let open = relay.sessions.len();
        !self.stopping
            && !relay.tasks.is_empty()
            && (open <= 2 || open < self.waiting_of(relay) / 2)
            && !sessions().any(Session::is_idle)
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
        self.each_count(session.counted(), |connections, pace| {
            connections.open(pace, now)
        });
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
            login: relay.talk(&way.exchanger.name).login.cloned(),
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
