//! From an envelope to a message that waits for a session.

use std::sync::Arc;

use crate::config::{MtaLimits, RelayAction, Route};
use crate::deliver::{Release, Report};
use crate::log::maillog::SmtpOut;
use crate::log::stat;
use crate::mail::{Envelope, EvpId, Outcome, Status, Verdict};
use crate::util::Timestamp;

use crate::deliver::relay::Configured;
use crate::deliver::relay::key::{self, Key, NO_SMARTHOST, Security};
use crate::deliver::relay::mx::RelayError;

use super::{
    Action, Ask, BadSmarthost, Core, Draws, Load, Login, RCPT_MAX, Readiness, Relay, RelayId,
    Smarthost, Timer, Whose,
};

/// A relay that has failed stays for so many seconds after the last that came of what it had held:
/// that fails the same way.
const STAYS_S: u64 = 5;
/// But not longer than this.
const STAYS_MAX_S: u64 = 60;

/// The action is not, or no longer, one that relays. The runner does not let it come here.
const NO_ACTION: RelayError =
    RelayError::temporary(Status::new(4, 3, 5), "Cannot find relay action");
/// What a URL in a table says is not in this version.
const BAD_SMARTHOST: RelayError =
    RelayError::temporary(Status::new(4, 3, 5), "Cannot parse smarthost");

impl Core {
    /// Envelopes are due. Those of one message that go the same way leave together.
    pub fn offer(&mut self, envelopes: Vec<Envelope>, now: Timestamp) {
        for envelope in envelopes {
            self.take_in(envelope, now);
        }
        self.work(now);
    }

    fn take_in(&mut self, envelope: Envelope, now: Timestamp) {
        if self.stopping {
            let held = Report::Held(envelope.id, RelayId(0).hold_key());
            return self.out.push(Action::Report(held));
        }
        stat::MTA_ENVELOPE.inc();
        let configured = self.configured.clone();
        let Some(action) = configured.action(&envelope.action) else {
            return self.give_up(envelope, &NO_ACTION);
        };
        let ask = match &action.route {
            Route::Exchangers | Route::Backup(_) => {
                let key = key::of_domain(action, &envelope);
                return self.enter(&configured, key, envelope, now);
            }
            Route::Host(table) => Ask::Next(table.clone()),
            Route::Domain(table) => {
                Ask::Of(table.clone(), envelope.dest.domain().to_ascii_lowercase())
            }
        };
        self.out.push(Action::Smarthost(envelope.id, ask));
        self.asking.insert(envelope.id, (configured, envelope));
    }

    /// The smarthosts of envelopes.
    pub fn smarthosts(&mut self, hosts: Vec<(EvpId, Smarthost)>, now: Timestamp) {
        for (id, host) in hosts {
            self.smarthost(id, host, now);
        }
        self.work(now);
    }

    fn smarthost(&mut self, id: EvpId, host: Smarthost, now: Timestamp) {
        let Some((configured, envelope)) = self.asking.remove(&id) else {
            return;
        };
        let host = match host {
            Ok(host) => host,
            Err(BadSmarthost::None) => {
                self.warn(format!("Failed to retrieve smarthost for envelope {id}"));
                return self.give_up(envelope, &NO_SMARTHOST);
            }
            Err(BadSmarthost::Url(why)) => {
                self.warn(format!("Failed to parse smarthost URL: {why}"));
                return self.give_up(envelope, &BAD_SMARTHOST);
            }
        };
        let Some(action) = configured.action(&envelope.action) else {
            return self.give_up(envelope, &NO_ACTION);
        };
        match key::of_smarthost(action, &envelope, &host) {
            Ok(key) => self.enter(&configured, key, envelope, now),
            Err((warning, failure)) => {
                self.warn(warning);
                self.give_up(envelope, &failure);
            }
        }
    }

    /// Fails an envelope that has no relay; there is no delivery line for it.
    fn give_up(&mut self, envelope: Envelope, failure: &RelayError) {
        stat::MTA_ENVELOPE.dec();
        let done = Report::Done(envelope.id, failure.outcome());
        self.out.push(Action::Report(done));
    }

    fn enter(
        &mut self,
        configured: &Arc<Configured>,
        key: Key,
        envelope: Envelope,
        now: Timestamp,
    ) {
        let Some(action) = configured.action(&envelope.action) else {
            return self.give_up(envelope, &NO_ACTION);
        };
        let known = (configured.snapshot.version, key);
        let id = match self.by_key.get(&known) {
            Some(id) => *id,
            None => self.create(configured, known.1, action, now),
        };
        let Some(relay) = self.relays.get_mut(&id) else {
            return self.give_up(envelope, &NO_ACTION);
        };
        relay.expected = relay.expected.saturating_sub(1);
        let msgid = envelope.id.msgid();
        let sender = key::sender(action, &envelope);
        let srs = key::forwarded_by(action, &envelope);
        let is_same =
            |load: &Load| load.msgid() == Some(msgid) && load.sender == sender && load.srs == srs;
        // A message whose connection is still to come about is joined as well.
        let mut waiting = relay.tasks.len();
        for session in &relay.sessions {
            waiting += self.sessions.get(*session).map_or(0, |s| s.ahead.len());
            let Some(load) = self.sessions.reserved_mut(*session) else {
                continue;
            };
            if is_same(load) && load.envelopes.len() < RCPT_MAX {
                return load.envelopes.push(envelope);
            }
            waiting += 1;
        }
        let is_full = relay.on_hold || waiting >= high_water(&relay.limits);
        match relay.tasks.iter_mut().rfind(|load| is_same(load)) {
            Some(load) => load.envelopes.push(envelope),
            None if is_full => return self.hold(id, envelope.id),
            None => {
                relay.tasks.push_back(Load {
                    sender,
                    srs,
                    envelopes: vec![envelope],
                });
                stat::MTA_TASK.inc();
            }
        }
        self.wake(id);
    }

    /// Messages of a relay that no session is known to have begun with.
    pub(super) fn waiting_of(&self, relay: &Relay) -> usize {
        let sessions = relay.sessions.iter();
        let sessions = sessions.filter_map(|id| self.sessions.get(*id));
        let given = sessions.map(|s| s.ahead.len() + usize::from(s.reserved().is_some()));
        relay.tasks.len() + given.sum::<usize>()
    }

    fn hold(&mut self, id: RelayId, envelope: EvpId) {
        stat::MTA_ENVELOPE.dec();
        let Some(relay) = self.relays.get_mut(&id) else {
            return;
        };
        relay.held = relay.held.saturating_add(1);
        let first = !std::mem::replace(&mut relay.on_hold, true);
        let printed = relay.printed.clone();
        self.out
            .push(Action::Report(Report::Held(envelope, id.hold_key())));
        if first {
            self.info(SmtpOut::HighWater(&printed));
        }
    }

    /// A message has left the queue of a relay: asks for held envelopes when few are left.
    pub(super) fn low_water(&mut self, id: RelayId) {
        let Some(relay) = self.relays.get_mut(&id) else {
            return;
        };
        let limits = &relay.limits;
        let low = (limits.task_lowat as usize).min(high_water(limits) - 1);
        if !relay.on_hold && relay.held == 0 || relay.tasks.len() + relay.expected > low {
            return;
        }
        let was_on_hold = std::mem::take(&mut relay.on_hold);
        let step = limits.task_release.max(1) as usize;
        let printed = relay.printed.clone();
        if relay.held > 0 {
            relay.held = relay.held.saturating_sub(step);
            relay.expected += step;
            let release = Release {
                key: id.hold_key(),
                count: step,
            };
            self.out.push(Action::Report(Report::Release(release)));
        }
        if was_on_hold {
            self.info(SmtpOut::LowWater(&printed));
        }
    }

    fn create(
        &mut self,
        configured: &Arc<Configured>,
        key: Key,
        action: &RelayAction,
        now: Timestamp,
    ) -> RelayId {
        let id = RelayId(self.next_relay);
        self.next_relay = self.next_relay.wrapping_add(1);
        let limits = configured.limits_for(&key.name);
        let security = Security::of(key.scheme, action.tls).unwrap_or(Security::None);
        let mut relay = Relay {
            configured: configured.clone(),
            printed: key.printed(action),
            security,
            limits,
            src: action.src.clone(),
            readiness: Readiness::Resolving,
            login: Login::No,
            below: None,
            tasks: Default::default(),
            sessions: Default::default(),
            connections: self.gone.take(&Whose::Relay(key.clone())),
            connectors: Default::default(),
            draws: Draws::default(),
            on_hold: false,
            held: 0,
            expected: 0,
            place: None,
            timer: None,
            stays: None,
            key: key.clone(),
        };
        if relay.src.is_none() {
            let connector = self.connector(&key, None);
            relay.connectors.insert(None, connector);
            stat::MTA_CONNECTOR.inc();
        }
        if let (Some(table), Some(label)) = (&action.auth, &key.label) {
            relay.login = Login::Asked;
            let ask = Action::Secret(configured.clone(), id, table.clone(), label.clone());
            self.out.push(ask);
        }
        let destination = key.destination();
        self.by_key.insert((configured.snapshot.version, key), id);
        self.relays.insert(id, relay);
        self.join_domain(id, destination, now);
        id
    }

    /// Fails everything that waits for a relay. What is held for it is asked back, to fail as well:
    /// it has been tried as much as the others.
    pub(super) fn flush(&mut self, id: RelayId, outcome: &Outcome, now: Timestamp) {
        let Some(relay) = self.relays.get_mut(&id) else {
            return;
        };
        let tasks = std::mem::take(&mut relay.tasks);
        let held = std::mem::take(&mut relay.held);
        (relay.on_hold, relay.expected) = (false, 0);
        let name = relay.key.name.clone();
        let unreachable = relay.connectors.values().all(|connector| {
            let what = connector.error.as_ref().map(|broken| broken.what);
            what == Some(super::Trouble::RouteNet)
        });
        if held > 0 {
            let release = Release {
                key: id.hold_key(),
                count: usize::MAX,
            };
            self.out.push(Action::Report(Report::Release(release)));
        }
        if held > 0 || relay.stays.is_some() && !tasks.is_empty() {
            let (_, at_most) = relay.stays.unwrap_or((now, now.plus(STAYS_MAX_S)));
            relay.stays = Some((at_most.min(now.plus(STAYS_S)), at_most));
        }
        for task in tasks {
            stat::MTA_TASK.dec();
            for envelope in task.envelopes {
                stat::MTA_ENVELOPE.dec();
                if outcome.verdict == Verdict::TempFail && unreachable {
                    self.stats.defer(envelope.dest.domain(), envelope.id);
                }
                self.settle(&envelope, &task.sender, &name, outcome.clone(), now);
            }
        }
    }

    /// A relay with nothing to do goes; whatever is still held for it comes back.
    pub(super) fn remove_if_done(&mut self, id: RelayId, now: Timestamp) {
        let Some(relay) = self.relays.get(&id) else {
            return;
        };
        if !relay.tasks.is_empty()
            || !relay.sessions.is_empty()
            || matches!(relay.readiness, Readiness::Resolving)
        {
            return;
        }
        let stays = relay.stays.map(|(until, _)| until);
        if let Some(at) = stays.filter(|at| *at > now && !self.stopping) {
            return self.set_relay_timer(id, at);
        }
        self.leave_line(id);
        let Some(relay) = self.relays.remove(&id) else {
            return;
        };
        let version = relay.configured.snapshot.version;
        self.by_key.remove(&(version, relay.key.clone()));
        if let Some(at) = relay.timer {
            self.timers.remove(&(at, Timer::Relay(id)));
        }
        stat::MTA_CONNECTOR.add(-i64::try_from(relay.connectors.len()).unwrap_or(0));
        if relay.held > 0 {
            let release = Release {
                key: id.hold_key(),
                count: usize::MAX,
            };
            self.out.push(Action::Report(Report::Release(release)));
        }
        self.leave_domain(id, &relay.key.destination(), now);
        for (source, connector) in relay.connectors {
            let whose = Whose::Connector(relay.key.clone(), source);
            self.gone.keep(whose, connector.connections, now);
        }
        let whose = Whose::Relay(relay.key);
        self.gone.keep(whose, relay.connections, now);
    }
}

fn high_water(limits: &MtaLimits) -> usize {
    limits.task_hiwat.max(1) as usize
}
