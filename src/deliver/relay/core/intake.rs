//! From an envelope to a message that waits for a session.

use std::sync::Arc;

use crate::config::{MtaLimits, RelayAction, Route};
use crate::deliver::{HoldKey, Release, Report};
use crate::log::stat;
use crate::mail::{Envelope, EvpId, Status};
use crate::util::Timestamp;

use crate::deliver::relay::Configured;
use crate::deliver::relay::books::Book;
use crate::deliver::relay::key::{self, Key, NO_SMARTHOST, Security};
use crate::deliver::relay::mx::Failure;

use super::{
    Action, Ask, BadSmarthost, Connector, Core, Draws, Login, Relay, Smarthost, State, Task,
    is_temporary,
};

/// The action is not, or no longer, one that relays. The runner does not let it come here.
const NO_ACTION: Failure = Failure::temporary(Status::new(4, 3, 5), "Cannot find relay action");
/// What a URL in a table says is not in this version.
const BAD_SMARTHOST: Failure = Failure::temporary(Status::new(4, 3, 5), "Cannot parse smarthost");

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
            let held = Report::Held(envelope.id, HoldKey(0));
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
    fn give_up(&mut self, envelope: Envelope, failure: &Failure) {
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
        let waiting = relay
            .tasks
            .iter()
            .rposition(|task| task.msgid == msgid && task.sender == sender && task.srs == srs);
        let is_full = relay.on_hold || relay.tasks.len() >= high_water(&relay.limits);
        match waiting.and_then(|at| relay.tasks.get_mut(at)) {
            Some(task) => task.envelopes.push(envelope),
            None if is_full => return self.hold(id, envelope.id),
            None => {
                relay.tasks.push_back(Task {
                    msgid,
                    sender,
                    srs,
                    envelopes: vec![envelope],
                    vain: 0,
                });
                stat::MTA_TASK.inc();
            }
        }
        self.wake(id);
    }

    fn hold(&mut self, id: u64, envelope: EvpId) {
        stat::MTA_ENVELOPE.dec();
        let Some(relay) = self.relays.get_mut(&id) else {
            return;
        };
        relay.held = relay.held.saturating_add(1);
        let first = !std::mem::replace(&mut relay.on_hold, true);
        let printed = relay.printed.clone();
        self.out
            .push(Action::Report(Report::Held(envelope, HoldKey(id))));
        if first {
            self.info(format!(
                "smtp-out: hiwat reached on {printed}: holding envelopes"
            ));
        }
    }

    /// A message has left the queue of a relay: asks for held envelopes when few are left.
    pub(super) fn low_water(&mut self, id: u64) {
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
                key: HoldKey(id),
                count: step,
            };
            self.out.push(Action::Report(Report::Release(release)));
        }
        if was_on_hold {
            self.info(format!("smtp-out: back to lowat on {printed}: releasing"));
        }
    }

    fn create(
        &mut self,
        configured: &Arc<Configured>,
        key: Key,
        action: &RelayAction,
        now: Timestamp,
    ) -> u64 {
        let id = self.next_relay;
        self.next_relay = self.next_relay.wrapping_add(1);
        let limits = configured.limits_for(&key.name);
        let security = Security::of(key.scheme, action.tls).unwrap_or(Security::None);
        let mut relay = Relay {
            configured: configured.clone(),
            printed: key.printed(action),
            security,
            limits,
            src: action.src.clone(),
            state: State::Resolving,
            login: Login::No,
            below: None,
            tasks: Default::default(),
            sessions: Default::default(),
            book: Book::default(),
            connectors: Default::default(),
            draws: Draws::default(),
            on_hold: false,
            held: 0,
            expected: 0,
            is_hungry: false,
            timer: None,
            key: key.clone(),
        };
        if relay.src.is_none() {
            relay.connectors.insert(None, Connector::default());
            stat::MTA_CONNECTOR.inc();
        }
        if let (Some(table), Some(label)) = (&action.auth, &key.label) {
            relay.login = Login::Asked;
            let ask = Action::Secret(configured.clone(), id, table.clone(), label.clone());
            self.out.push(ask);
        }
        let destination = (key.name.clone(), key.as_host);
        self.by_key.insert((configured.snapshot.version, key), id);
        self.relays.insert(id, relay);
        self.use_domain(destination, now);
        id
    }

    /// Fails everything that waits for a relay.
    pub(super) fn flush(&mut self, id: u64, failure: &Failure, now: Timestamp) {
        let Some(relay) = self.relays.get_mut(&id) else {
            return;
        };
        let tasks = std::mem::take(&mut relay.tasks);
        let held = std::mem::take(&mut relay.held);
        relay.on_hold = false;
        let name = relay.key.name.clone();
        let unreachable = relay
            .connectors
            .values()
            .all(|connector| connector.error == Some(super::Broken::RouteNet));
        if held > 0 {
            // They would fail the same way; their time comes.
            let what = match is_temporary(failure) {
                true => Report::Postpone(HoldKey(id)),
                false => Report::Release(Release {
                    key: HoldKey(id),
                    count: usize::MAX,
                }),
            };
            self.out.push(Action::Report(what));
        }
        for task in tasks {
            stat::MTA_TASK.dec();
            for envelope in task.envelopes {
                stat::MTA_ENVELOPE.dec();
                if is_temporary(failure) && unreachable {
                    self.stats.defer(envelope.dest.domain(), envelope.id);
                }
                self.settle(&envelope, &task.sender, &name, failure, now);
            }
        }
    }

    /// A relay with nothing to do goes; whatever is still held for it comes back.
    pub(super) fn bury(&mut self, id: u64) {
        let Some(relay) = self.relays.get(&id) else {
            return;
        };
        if !relay.tasks.is_empty() || !relay.sessions.is_empty() {
            return;
        }
        if matches!(relay.state, State::Resolving) {
            return;
        }
        let Some(relay) = self.relays.remove(&id) else {
            return;
        };
        let version = relay.configured.snapshot.version;
        self.by_key.remove(&(version, relay.key.clone()));
        if let Some(at) = relay.timer {
            self.timers.remove(&(at, super::Timer::Relay(id)));
        }
        stat::MTA_CONNECTOR.add(-i64::try_from(relay.connectors.len()).unwrap_or(0));
        if relay.held > 0 {
            let release = Release {
                key: HoldKey(id),
                count: usize::MAX,
            };
            self.out.push(Action::Report(Report::Release(release)));
        }
        self.leave_domain(&(relay.key.name, relay.key.as_host));
    }
}

fn high_water(limits: &MtaLimits) -> usize {
    limits.task_hiwat.max(1) as usize
}
