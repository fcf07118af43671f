//! What is decided of relaying: no thread, no clock, no socket, no name server.
//!
//! [`Core`] knows every relay with its waiting messages, what is known of destinations, and every
//! session. Whatever happens comes in through a call with the time, and what is to be done about
//! it goes out as [`Action`]s. A relay takes the messages for one destination in one way; a
//! connector is a relay and a source address; a route is a source and a remote address, shared by
//! all relays. When a relay has no way left and no session, what waits for it fails at once.
//!
//! Bounds: sessions ([`Limits::sessions`]), those of them that are still connecting on a route that
//! has not proven itself ([`Limits::unproven`], and [`UNPROVEN_PER_RELAY`] of one relay), messages
//! waiting for a relay (`mta limit task-hiwat`). Relays that want a session when there are no more
//! take turns, so a destination that does not answer keeps none of the others waiting.

mod destinations;
mod drive;
mod intake;
mod sessions;
mod show;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::client::Credentials;
use crate::config::MtaLimits;
use crate::config::relayhost::RelayHost;
use crate::deliver::relay::Configured;
use crate::deliver::{HoldKey, Report};
use crate::log::maillog::{Delivery, mta_delivery};
use crate::log::stat;
use crate::mail::{Envelope, EvpId, MailAddr, MsgId, SessionId, Verdict};
use crate::util::{Line, Timestamp};

use super::books::{Book, Host, Ptr, Route};
use super::hoststat::HostStats;
use super::key::{Key, Security};
use super::mx::{AsHost, Exchanger, Failure, Lasting, Own, Question, Resolution};

pub use show::Listing;

/// Sessions of one relay that may be connecting on routes that have not proven themselves.
pub const UNPROVEN_PER_RELAY: usize = 8;
/// Recipients of one transaction; more go into the next one.
pub const RCPT_MAX: usize = 100;
/// Connections that may take nothing of a message before it is put off.
const VAIN_MAX: u32 = 2;
/// Relays that wait for a session and are looked at when there is room for a few of them only.
const TURNS_MAX: usize = 16;
/// How long a session with nothing to do is kept when its relay has others, in seconds.
const SPARE_S: u64 = 1;
/// How often what nobody uses any more is forgotten, in seconds.
const SWEEP_S: u64 = 60;

/// How much may go on at a time.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Sessions.
    pub sessions: usize,
    /// Sessions that are connecting on routes that have not proven themselves.
    pub unproven: usize,
}

/// What is to be done. Answers come back through the calls of [`Core`] that are named.
#[derive(Debug)]
pub enum Action {
    /// Ask the resolver; [`Core::answer`].
    Resolve(Destination, Question),
    /// Ask for the reverse name of an address, to be put there.
    Reverse(IpAddr, Ptr),
    /// Fetch or look up the smarthost of an envelope; [`Core::smarthosts`].
    Smarthost(EvpId, Ask),
    /// Fetch a source address; [`Core::source`].
    Source(Arc<Configured>, u64, String),
    /// Look up the credentials of a label in a table; [`Core::secret`].
    Secret(Arc<Configured>, u64, String, Line),
    /// Start a session; [`Core::ready`], [`Core::ended`].
    Open(Box<Start>),
    /// Send this; [`Core::done`].
    Send(SessionId, Arc<Load>),
    /// End a session; [`Core::ended`].
    Quit(SessionId),
    /// For the runner.
    Report(Report),
    /// A line for the log.
    Info(String),
    /// A line for the log.
    Warn(String),
}

/// Which smarthost an envelope goes to is asked of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// The next of this table.
    Next(String),
    /// The one of this domain.
    Of(String, String),
}

/// A domain, or a smarthost.
pub type Destination = (String, AsHost);

/// A session to be started.
#[derive(Clone, Debug)]
pub struct Start {
    /// Its name.
    pub id: SessionId,
    /// The configuration that the action is of.
    pub configured: Arc<Configured>,
    /// The action, with all that it says of sessions.
    pub action: Line,
    /// Whom to connect to.
    pub to: SocketAddr,
    /// The exchanger's name.
    pub exchanger: Line,
    /// What is spoken, for log lines.
    pub scheme: &'static str,
    /// Whether it is LMTP.
    pub lmtp: bool,
    /// What to do about TLS.
    pub security: Security,
    /// Who to log in as.
    pub login: Option<Credentials>,
    /// The address to connect from.
    pub source: Option<IpAddr>,
    /// The reverse name of the host, once known.
    pub ptr: Ptr,
    /// Seconds between transactions.
    pub transaction_delay_s: u32,
    /// Refused recipients in a row that end the session.
    pub max_failures: u32,
}

/// A message for some of its recipients: one transaction.
#[derive(Debug)]
pub struct Load {
    /// The reverse-path.
    pub sender: MailAddr,
    /// The domain that forwards the message and rewrites its sender.
    pub srs: Option<Line>,
    /// All of one message.
    pub envelopes: Vec<Envelope>,
    /// How often it was given to a connection that took nothing of it.
    pub vain: u32,
}

/// How a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// As it was told to.
    Quit,
    /// It failed, or never came to be.
    Failed(Line),
    /// The host has not what this relay demands: TLS, a certificate that holds, a login. Another
    /// relay may be content with it.
    Unfit(Line),
    /// Our own end cannot be had: the address, or the name that goes with it.
    Source(Line),
    /// This host had no socket, no thread, no memory: that says nothing of the destination.
    Shortage(Line),
}

/// Everything known of relaying.
pub struct Core {
    configured: Arc<Configured>,
    own: Own,
    limits: Limits,
    random: fn() -> u32,
    relays: BTreeMap<u64, Relay>,
    /// By the version of the configuration, and key.
    by_key: HashMap<(u64, Key), u64>,
    domains: BTreeMap<Destination, Domain>,
    hosts: BTreeMap<IpAddr, Host>,
    sources: BTreeMap<Option<IpAddr>, Book>,
    routes: BTreeMap<u64, Route>,
    route_ids: HashMap<(Option<IpAddr>, SocketAddr), u64>,
    sessions: BTreeMap<SessionId, Session>,
    /// Envelopes whose smarthost is being asked for.
    asking: HashMap<EvpId, (Arc<Configured>, Envelope)>,
    /// Relays that wait for their turn to open a session.
    hungry: VecDeque<u64>,
    /// Relays that something has happened to.
    due: BTreeSet<u64>,
    timers: BTreeSet<(Timestamp, Timer)>,
    stats: HostStats,
    blocks: BTreeSet<(IpAddr, String)>,
    out: Vec<Action>,
    next_relay: u64,
    next_route: u64,
    swept: Timestamp,
    stopping: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Relay(u64),
    Route(u64),
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
    state: State,
    login: Login,
    /// Only exchangers preferred to this are used.
    below: Option<u16>,
    tasks: VecDeque<Task>,
    sessions: BTreeSet<SessionId>,
    book: Book,
    connectors: BTreeMap<Option<IpAddr>, Connector>,
    draws: Draws,
    on_hold: bool,
    held: usize,
    expected: usize,
    is_hungry: bool,
    /// The time of its timer.
    timer: Option<Timestamp>,
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

enum State {
    /// Waiting for the addresses of its destination.
    Resolving,
    /// Ready to connect.
    Ready,
    /// Nothing can be done.
    Failed(Failure),
}

/// One message that waits for a session.
struct Task {
    msgid: MsgId,
    sender: MailAddr,
    srs: Option<Line>,
    envelopes: Vec<Envelope>,
    vain: u32,
}

/// A relay and a source address.
#[derive(Default)]
struct Connector {
    book: Book,
    error: Option<Broken>,
    /// Addresses that serve other relays and are of no use to this one.
    unfit: BTreeSet<SocketAddr>,
}

/// Why a connector is of no use any more; the first one that some connector has names the failure
/// of the relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Broken {
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
    vain: usize,
    failed: bool,
}

/// A destination as far as it is known.
struct Domain {
    resolution: Resolution,
    known: Option<Result<Vec<Exchanger>, Failure>>,
    users: usize,
    book: Book,
    since: Timestamp,
    /// Whether it is being asked for again while the old answer serves.
    fresh: Option<Resolution>,
}

struct Session {
    relay: u64,
    route: u64,
    source: Option<IpAddr>,
    phase: Phase,
    /// Messages that something came of.
    messages: u32,
    /// Whether its route is known to work.
    proven: bool,
    /// Whether it has ever been ready for mail.
    ready: bool,
    /// Whether it ended because it had done all it may.
    spent: bool,
}

enum Phase {
    Connecting,
    Idle(Timestamp),
    Busy(Arc<Load>),
    Quitting,
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
            own: configured.own_addresses(),
            configured,
            limits,
            random,
            relays: BTreeMap::new(),
            by_key: HashMap::new(),
            domains: BTreeMap::new(),
            hosts: BTreeMap::new(),
            sources: BTreeMap::new(),
            routes: BTreeMap::new(),
            route_ids: HashMap::new(),
            sessions: BTreeMap::new(),
            asking: HashMap::new(),
            hungry: VecDeque::new(),
            due: BTreeSet::new(),
            timers: BTreeSet::new(),
            blocks: BTreeSet::new(),
            out: Vec::new(),
            next_relay: first,
            next_route: 1,
            swept: Timestamp(0),
            stopping: false,
        }
    }

    /// Envelopes that are offered from now on go by this configuration. Relays go on with it if
    /// their action says what it said before.
    pub fn configure(&mut self, configured: Arc<Configured>) {
        let old = std::mem::replace(&mut self.configured, configured);
        let new = &self.configured;
        if Arc::ptr_eq(&old, new) {
            return;
        }
        self.own = new.own_addresses();
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
        match self.hosts.is_empty() && self.domains.is_empty() && self.routes.is_empty() {
            true => timer,
            false => Some(timer.map_or(sweep, |at| at.min(sweep))),
        }
    }

    /// Time has passed.
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
        let ids: Vec<u64> = self.relays.keys().copied().collect();
        for id in ids {
            let Some(relay) = self.relays.get_mut(&id) else {
                continue;
            };
            for task in std::mem::take(&mut relay.tasks) {
                for envelope in task.envelopes {
                    let held = Report::Held(envelope.id, HoldKey(id));
                    self.out.push(Action::Report(held));
                }
            }
        }
        for (id, _) in self.asking.drain() {
            self.out.push(Action::Report(Report::Held(id, HoldKey(0))));
        }
        let idle: Vec<SessionId> = self
            .sessions
            .iter()
            .filter(|(_, session)| matches!(session.phase, Phase::Idle(_)))
            .map(|(id, _)| *id)
            .collect();
        for id in idle {
            self.quit(id);
        }
    }

    fn info(&mut self, line: String) {
        self.out.push(Action::Info(line));
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
        failure: &Failure,
        now: Timestamp,
    ) {
        let outcome = failure.outcome();
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

    fn set_relay_timer(&mut self, id: u64, at: Timestamp) {
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
        let unused = |route: &Route| {
            route.book.nconn == 0
                && route.penalty == 0
                && route.disabled_until.is_none()
                && route
                    .book
                    .lastconn
                    .is_none_or(|at| now.since(at) >= SWEEP_S)
        };
        self.routes.retain(|_, route| !unused(route));
        let routes = &self.routes;
        self.route_ids.retain(|_, id| routes.contains_key(id));
        let used: BTreeSet<IpAddr> = self
            .domains
            .values()
            .filter_map(|domain| domain.known.as_ref()?.as_ref().ok())
            .flatten()
            .map(|exchanger| exchanger.addr)
            .chain(self.routes.values().map(|route| route.to.ip()))
            .collect();
        self.hosts
            .retain(|addr, host| host.book.nconn > 0 || used.contains(addr));
        self.sources.retain(|_, book| {
            book.nconn > 0 || book.lastconn.is_some_and(|at| now.since(at) < SWEEP_S)
        });
    }

    fn gauges(&self) {
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let busy = |session: &&Session| matches!(session.phase, Phase::Busy(_));
        stat::MTA_RELAY.set(gauge(self.relays.len()));
        stat::MTA_DOMAIN.set(gauge(self.domains.len()));
        stat::MTA_HOST.set(gauge(self.hosts.len()));
        stat::MTA_SOURCE.set(gauge(self.sources.len()));
        stat::MTA_ROUTE.set(gauge(self.routes.len()));
        stat::MTA_SESSION.set(gauge(self.sessions.len()));
        stat::MTA_TASK_RUNNING.set(gauge(self.sessions.values().filter(busy).count()));
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

fn is_temporary(failure: &Failure) -> bool {
    failure.lasting == Lasting::Temporary
}
