//! What is decided of relaying: no thread, no clock, no socket, no name server.
//!
//! [`Core`] knows every relay with its waiting messages, what is known of destinations, and every
//! session. Whatever happens comes in through a call with the time, and what is to be done about
//! it goes out as [`Action`]s. A relay takes the messages for one destination in one way; a
//! connector is a relay and a source address; a route is a source and a remote address, shared by
//! all relays. When a relay has no way left and no session, what waits for it fails at once.
//!
//! ```text
//! intake    envelope → smarthost? → relay → waiting message, or held
//! resolve   destination → exchangers and addresses, so many questions at a time
//! connect   relay → a session that is idle, a new one, a place in a line, a time, or failure
//! carry     session → message after message; then to whoever waits for it, or idle, or QUIT
//! ahead     session → what it is to send next, before it is through with what it sends
//! ```
//!
//! A call marks the relays that it concerns (`wake`) and the limits under which it made room
//! (`Waiting::free`), and then does the `work`: marked relays `advance`, and whoever is first in
//! the line of such a limit has his turn, until nothing is left to do.
//!
//! Promises: a connection is opened for one message, which nobody else takes unless the connection
//! is slow to come about (`overdue`, once a minute and host): so nobody is troubled by connections
//! that carry nothing. A session that is not needed any more serves other relays of the same host,
//! or makes room for them. A relay that cannot have a connection stands in the line of the limit
//! that is in its way, or has a time at which it looks again.
//!
//! Bounds: sessions ([`Limits::sessions`]). A quarter of them is kept for routes that have taken a
//! transaction to its end, so that hosts that hang never have all. From three quarters on a relay
//! has no more than its share. One relay has [`UNPROVEN_PER_RELAY`] sessions on other routes.
//! Messages waiting for a relay: `mta limit task-hiwat`. Questions to the resolver:
//! [`QUESTIONS_MAX`], of which a destination has a few once half of them are open.

mod action;
mod ahead;
mod carry;
#[cfg(test)]
mod check;
mod connect;
mod counts;
mod gone;
mod ids;
mod intake;
mod lines;
mod questions;
mod resolve;
mod sessions;
mod show;
mod sources;
#[cfg(test)]
mod tests;
mod waiting;
mod way;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::client::Credentials;
use crate::config::MtaLimits;
use crate::config::relayhost::RelayHost;
use crate::deliver::Report;
use crate::deliver::relay::Configured;
use crate::dns::Families;
use crate::log::maillog::{Delivery, SmtpOut, mta_delivery};
use crate::log::stat;
use crate::mail::{Envelope, EvpId, MailAddr, Outcome, SessionId, Verdict};
use crate::util::{Line, Timestamp};

use super::hoststat::HostStats;
use super::key::{Key, Security};
use super::mx::{Exchanger, Own, RelayError, Resolution};
use super::routes::{Connections, Host, Route};

use self::gone::{Gone, Whose};
use self::questions::{Names, Questions};
use self::sessions::{Phase, Session, Sessions};
use self::waiting::{InLine, Limit, Waiting};

pub use action::{Action, Ask, Destination, End, Load, Next, Start};
pub use ids::{RelayId, RouteId};
pub use questions::QUESTIONS_MAX;
pub use show::Listing;

/// Sessions of one relay that may be on routes that have not answered yet.
pub const UNPROVEN_PER_RELAY: usize = 8;
/// Recipients of one transaction; more go into the next one.
pub const RCPT_MAX: usize = 100;
/// How often what nobody uses any more is forgotten, in seconds.
const SWEEP_S: u64 = 60;

/// How much may go on at a time.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub sessions: usize,
}

impl Limits {
    /// Sessions that may be on routes that have not answered yet; also from where on shares count.
    fn unproven(self) -> usize {
        (self.sessions - self.sessions / 4).max(1)
    }

    /// Sessions on routes that have not answered yet, up to which a route may have several.
    fn few_unproven(self) -> usize {
        self.unproven() / 4
    }

    /// From where on hosts are not waited for as long as usual.
    fn many(self) -> usize {
        self.sessions.div_ceil(2)
    }
}

/// Everything known of relaying.
pub struct Core {
    configured: Arc<Configured>,
    own: Own,
    limits: Limits,
    random: fn() -> u32,
    relays: BTreeMap<RelayId, Relay>,
    /// By the version of the configuration, and key.
    by_key: HashMap<(u64, Key), RelayId>,
    domains: BTreeMap<Destination, Domain>,
    hosts: BTreeMap<IpAddr, Host>,
    sources: BTreeMap<Option<IpAddr>, Connections>,
    gone: Gone,
    routes: BTreeMap<RouteId, Route>,
    route_ids: HashMap<(Option<IpAddr>, SocketAddr), RouteId>,
    sessions: Sessions,
    /// Sessions on routes that have not answered yet.
    unproven: usize,
    /// Relays that have sessions.
    served: usize,
    /// This host had no means for a session: none is opened before.
    short_until: Timestamp,
    /// Envelopes whose smarthost is being asked for.
    asking: HashMap<EvpId, (Arc<Configured>, Envelope)>,
    waiting: Waiting,
    /// Relays that something has happened to.
    changed: BTreeSet<RelayId>,
    timers: BTreeSet<(Timestamp, Timer)>,
    questions: Questions,
    names: Names,
    stats: HostStats,
    blocks: BTreeSet<(IpAddr, String)>,
    out: Vec<Action>,
    next_relay: u64,
    next_route: u64,
    next_resolution: u64,
    swept: Timestamp,
    stopping: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Relay(RelayId),
    Route(RouteId),
    Idle(SessionId),
}

/// The messages for one destination.
struct Relay {
    configured: Arc<Configured>,
    key: Key,
    printed: String,
    security: Security,
    limits: MtaLimits,
    src: Option<String>,
    readiness: Readiness,
    login: Login,
    /// Only exchangers preferred to this are used.
    below: Option<u16>,
    /// What no session has.
    tasks: VecDeque<Load>,
    sessions: BTreeSet<SessionId>,
    connections: Connections,
    connectors: BTreeMap<Option<IpAddr>, Connector>,
    draws: Draws,
    on_hold: bool,
    /// Envelopes that the runner holds, and those that were asked back and have not come.
    held: usize,
    expected: usize,
    /// Where it stands in a line.
    place: Option<InLine>,
    /// The time of its timer.
    timer: Option<Timestamp>,
    /// A relay that has failed stays for what is still to come: until when, and until when at most.
    stays: Option<(Timestamp, Timestamp)>,
}

/// Who the sessions of a relay log in as.
enum Login {
    /// Nobody.
    No,
    /// A table is asked.
    Asked,
    /// The table does not know.
    Unknown,
    /// Known for as long as the relay is.
    As(Credentials),
}

enum Readiness {
    /// Waiting for the addresses of its destination.
    Resolving,
    /// Ready to connect.
    Ready,
    /// Nothing can be done; what its messages hear.
    Failed(Outcome),
}

/// A relay and a source address.
#[derive(Default)]
struct Connector {
    connections: Connections,
    error: Option<Broken>,
}

/// Why a connector is of no use any more.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Broken {
    what: Trouble,
    /// The words of a host, or the exact error, where there are any.
    why: Option<Outcome>,
}

/// The first one that some connector has names the failure of the relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Trouble {
    RouteNet,
    Mx,
    Family,
    Blocked,
    Source,
}

/// Source addresses out of a table.
#[derive(Default)]
struct Draws {
    asked: bool,
    /// Not before.
    next: Timestamp,
    /// In a row of which nothing new came.
    fruitless: usize,
    failed: bool,
}

/// A destination as far as it is known.
struct Domain {
    resolution: Resolution,
    known: Option<Result<Arc<[Exchanger]>, RelayError>>,
    relays: BTreeSet<RelayId>,
    connections: Connections,
    since: Timestamp,
    /// Whether it is being asked for again while the old answer serves.
    fresh: Option<Resolution>,
}

impl Core {
    /// Nothing is known yet. Relays are numbered from `first`.
    pub fn new(
        configured: Arc<Configured>,
        limits: Limits,
        random: fn() -> u32,
        first: u64,
    ) -> Core {
        Core {
            stats: HostStats::new(configured.config().mta.max_deferred),
            own: configured.own(),
            configured,
            limits,
            random,
            relays: BTreeMap::new(),
            by_key: HashMap::new(),
            domains: BTreeMap::new(),
            hosts: BTreeMap::new(),
            sources: BTreeMap::new(),
            gone: Gone::default(),
            routes: BTreeMap::new(),
            route_ids: HashMap::new(),
            sessions: Sessions::default(),
            unproven: 0,
            served: 0,
            short_until: Timestamp(0),
            asking: HashMap::new(),
            waiting: Waiting::default(),
            changed: BTreeSet::new(),
            timers: BTreeSet::new(),
            questions: Questions::default(),
            names: Names::default(),
            blocks: BTreeSet::new(),
            out: Vec::new(),
            next_relay: first,
            next_route: 1,
            next_resolution: 1,
            swept: Timestamp(0),
            stopping: false,
        }
    }

    /// Envelopes that are offered from now on go by this configuration. Relays go on with it if
    /// their action says what it said before. What hosts have not had is asked of them again:
    /// authorities and certificates of our own may be others.
    pub fn configure(&mut self, configured: Arc<Configured>) {
        let old = std::mem::replace(&mut self.configured, configured);
        let new = &self.configured;
        if Arc::ptr_eq(&old, new) {
            return;
        }
        let families = self.own.families;
        self.own = new.own();
        self.own.families = families;
        self.routes.values_mut().for_each(Route::reconsider);
        let mut same = HashMap::new();
        for (id, relay) in &mut self.relays {
            let action = &relay.key.action;
            let goes_on = Arc::ptr_eq(&relay.configured, &old)
                && *same
                    .entry(action.clone())
                    .or_insert_with(|| old.has_the_same(new, action));
            if goes_on {
                let key = (old.snapshot.version, relay.key.clone());
                self.by_key.remove(&key);
                self.by_key.insert((new.snapshot.version, key.1), *id);
                relay.limits = new.limits_for(&relay.key.name);
                relay.configured = new.clone();
            }
        }
    }

    /// What is resolved from now on is connected to at addresses of these families.
    pub fn reach(&mut self, families: Families) {
        self.own.families = families;
    }

    /// The configuration of what is offered now.
    pub fn configured(&self) -> &Arc<Configured> {
        &self.configured
    }

    /// What is to be done now, in order.
    pub fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.out)
    }

    /// When [`Core::tick`] has something to do.
    pub fn next_event(&self) -> Option<Timestamp> {
        let timer = self.timers.first().map(|(at, _)| *at);
        let sweep = self.swept.plus(SWEEP_S);
        let is_known = !self.hosts.is_empty() || !self.domains.is_empty();
        if !is_known && self.routes.is_empty() && self.gone.is_empty() {
            timer
        } else {
            Some(timer.map_or(sweep, |at| at.min(sweep)))
        }
    }

    /// Does what is due by now.
    pub fn tick(&mut self, now: Timestamp) {
        while let Some((at, timer)) = self.timers.first().copied()
            && at <= now
        {
            self.timers.pop_first();
            match timer {
                Timer::Relay(id) => {
                    if let Some(relay) = self.relays.get_mut(&id) {
                        relay.timer = None;
                    }
                    self.wake(id);
                }
                Timer::Route(id) => self.route_time(id, now),
                Timer::Idle(id) => self.idle_time(id, now),
            }
        }
        if now.since(self.swept) >= SWEEP_S {
            self.swept = now;
            self.sweep(now);
        }
        self.work(now);
    }

    /// Nothing more will come: what has not begun goes back, idle sessions end.
    pub fn stop(&mut self) {
        self.stopping = true;
        let ids: Vec<RelayId> = self.relays.keys().copied().collect();
        for id in ids {
            let Some(relay) = self.relays.get_mut(&id) else {
                continue;
            };
            let mut loads: Vec<Load> = relay.tasks.drain(..).collect();
            for session in relay.sessions.clone() {
                loads.extend(self.take_reserved(session));
                self.recall(session);
            }
            for envelope in loads.into_iter().flat_map(|load| load.envelopes) {
                let held = Report::Held(envelope.id, id.hold_key());
                self.out.push(Action::Report(held));
            }
            self.leave_line(id);
        }
        for (id, _) in self.asking.drain() {
            let held = Report::Held(id, RelayId(0).hold_key());
            self.out.push(Action::Report(held));
        }
        let idle: Vec<SessionId> = self.sessions.idle().collect();
        for id in idle {
            self.quit(id);
        }
    }

    fn info(&mut self, line: SmtpOut<'_>) {
        self.out.push(Action::Info(line.to_string()));
    }

    fn warn(&mut self, line: String) {
        self.out.push(Action::Warn(line));
    }

    /// An envelope is settled without a session.
    fn settle(
        &mut self,
        envelope: &Envelope,
        sender: &MailAddr,
        relay: &str,
        outcome: Outcome,
        now: Timestamp,
    ) {
        mta_delivery(
            &Delivery {
                session: SessionId(0),
                envelope,
                sender,
                source: None,
                relay,
                result: result_word(outcome.verdict),
                stat: &outcome.text,
            },
            now,
        );
        self.out
            .push(Action::Report(Report::Done(envelope.id, outcome)));
    }

    fn set_relay_timer(&mut self, id: RelayId, at: Timestamp) {
        let Some(relay) = self.relays.get_mut(&id) else {
            return;
        };
        if relay.timer.is_some_and(|set| set <= at) {
            return;
        }
        if let Some(set) = relay.timer.replace(at) {
            self.timers.remove(&(set, Timer::Relay(id)));
        }
        self.timers.insert((at, Timer::Relay(id)));
    }

    /// Forgets what nobody uses.
    fn sweep(&mut self, now: Timestamp) {
        self.stats.tick(now);
        let of_use = |all: &Connections| {
            let lately = all.last().is_some_and(|at| now.since(at) < SWEEP_S);
            all.count() > 0 || lately || all.are_delayed(now)
        };
        let mta = &self.configured.config().mta;
        let limits = mta.domains.values().chain([&mta.limits]);
        let lost_s = limits.map(|limits| limits.reconn_delay_route_s).max();
        let lost_s = u64::from(lost_s.unwrap_or_default());
        self.routes.retain(|_, route| {
            of_use(&route.connections)
                || route.lost.is_some_and(|at| at.plus(lost_s) > now)
                || route.penalty > 0
                || route.disabled_until.is_some()
                || route.was_unfit(now)
        });
        let routes = &self.routes;
        self.route_ids.retain(|_, id| routes.contains_key(id));
        let used: BTreeSet<IpAddr> = self
            .domains
            .values()
            .filter_map(|domain| domain.known.as_ref()?.as_ref().ok())
            .flat_map(|list| list.iter())
            .map(|exchanger| exchanger.addr)
            .chain(self.routes.values().map(|route| route.to.ip()))
            .collect();
        self.hosts
            .retain(|addr, host| of_use(&host.connections) || used.contains(addr));
        self.sources.retain(|_, source| of_use(source));
        self.gone.sweep(now);
    }

    fn gauges(&self) {
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        stat::MTA_RELAY.set(gauge(self.relays.len()));
        stat::MTA_DOMAIN.set(gauge(self.domains.len()));
        stat::MTA_HOST.set(gauge(self.hosts.len()));
        stat::MTA_SOURCE.set(gauge(self.sources.len()));
        stat::MTA_ROUTE.set(gauge(self.routes.len()));
        stat::MTA_SESSION.set(gauge(self.sessions.len()));
        stat::MTA_TASK_RUNNING.set(gauge(self.sessions.sending()));
    }
}

/// `Ok`, `TempFail` or `PermFail`, as delivery lines have it.
pub fn result_word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Delivered => "Ok",
        Verdict::TempFail => "TempFail",
        Verdict::PermFail | Verdict::Loop => "PermFail",
    }
}

/// The smarthost that a table gave, or why it gave none.
pub type Smarthost = Result<RelayHost, BadSmarthost>;

/// Why a table gave no smarthost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadSmarthost {
    /// It has none, or cannot be asked.
    None,
    /// What it gave is no URL.
    Url(Line),
}
