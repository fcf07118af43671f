//! Relaying: mail for other hosts, by SMTP or LMTP.
//!
//! ```text
//! runner → Agent ─ offers ─> relay thread (Core) ─ orders ─> sessions, a thread each
//!                              ↑   ↓                             │
//!                     answers ─┘   └─ reports ─> runner          │
//!                              └──────────── events ─────────────┘
//! ```
//!
//! [`Agent`] belongs to the runner's thread and never blocks it: it hands envelopes on to the relay
//! thread, which owns [`core::Core`], and with it everything that is known of relays, routes and
//! sessions. Addresses come from the resolver, smarthosts and sources from tables, asked by
//! threads beside it where a table may take its time. Each session has a thread of its own, of
//! which there are a bounded number.
//!
//! Promises: every envelope that was offered gets one report, with its line in the log; nothing is
//! called delivered that the other host did not take.

mod asks;
mod configured;
pub mod core;
pub mod hoststat;
pub mod key;
mod letter;
pub mod mx;
pub mod orders;
mod reports;
mod routes;
pub mod secure;
pub mod session;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Select, Sender, TryRecvError, bounded, unbounded};

use crate::client::Credentials;
use crate::config::Config;
use crate::dns::{self, DnsResult};
use crate::log;
use crate::mail::{Envelope, EvpId, SessionId};
use crate::queue::Queue;
use crate::sys;
use crate::util::{Line, Live, Timestamp};

pub use configured::Configured;

use self::asks::{Asks, TableAsk};
use self::core::{Action, Core, Destination, End, Limits, Listing, RelayId, RouteId, Smarthost};
use self::mx::Question;
use self::orders::{Order, Teller};
use self::session::{Sent, Tools};
use super::{Offer, Release, Reports};

/// What the agent is made of.
pub struct Setup {
    /// Actions, limits, tables and TLS.
    pub live: Live<Configured>,
    /// Where messages are.
    pub queue: Queue,
    /// Addresses of destinations.
    pub resolver: dns::Handle,
    /// Where outcomes go.
    pub reports: Reports,
    /// Envelopes that may be offered and not settled: the runner's `max-inflight`.
    pub offers_max: usize,
}

/// The agent for envelopes of relay actions.
pub struct Agent {
    /// Offered, and waiting for company.
    batch: Vec<Envelope>,
    offers: Sender<Vec<Envelope>>,
    events: Sender<Event>,
}

/// Reaches the relay thread for what the administrator asks.
#[derive(Clone)]
pub struct Handle(Sender<Event>);

/// What happens to the relay thread.
pub enum Event {
    /// The resolver's answer.
    Answer(Destination, Question, DnsResult),
    /// Answers of tables.
    Smarthosts(Vec<(EvpId, Smarthost)>),
    /// The name of an address has been looked up.
    Named,
    /// A table's answer.
    Source(RelayId, Option<IpAddr>),
    /// A table's answer.
    Secret(RelayId, Option<Credentials>),
    /// A session is ready for mail, and how long that took.
    Ready(SessionId, Duration),
    /// A transaction is over.
    Done(SessionId, Sent),
    Ended(SessionId, End),
    /// The administrator's question.
    Admin(Admin, Reply),
    /// Nothing more will be offered.
    Stop,
}

/// What the administrator asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admin {
    Show(Listing),
    ResumeRoute(RouteId),
    /// `pause mta from … for …` (true), `resume mta from … for …`.
    Block(IpAddr, String, bool),
}

/// The answer: lines of a listing; `None` when what was asked changed nothing.
pub type Reply = Box<dyn FnOnce(Option<Vec<String>>) + Send>;

/// Sessions at a time, unless `mta limit max-conn-per-source` allows more.
const SESSIONS: usize = 1000;
/// What a session may need of descriptors: its connection, the message, and what the TLS library or
/// the system's resolver opens for a moment. Half of all are left to others.
const DESCRIPTORS_EACH: usize = 2;
/// Memory for the stack of a session's thread. What is not touched costs nothing, but OpenBSD
/// counts it against the limit on data.
const STACK_BYTES: usize = 512 * 1024;
/// Events taken before actions are carried out.
const DRAIN_MAX: usize = 256;
/// The longest sleep.
const SLEEP_MAX: Duration = Duration::from_secs(60);

/// Starts the relay thread.
pub fn start(setup: Setup) -> io::Result<(Agent, Handle)> {
    // Every envelope in flight fits, so the runner never waits here.
    let (offers, offered) = bounded(setup.offers_max.max(1));
    // Each event answers an action or tells of a session, and both are bounded; the resolver's
    // thread, which sends some of them, must never wait.
    let (events, happened) = unbounded();
    let tools = Tools {
        queue: setup.queue,
        events: events.clone(),
    };
    let limits = Limits {
        sessions: sessions_max(setup.live.get().config()),
    };
    let core = Core::new(
        setup.live.get(),
        limits,
        sys::random::number_u32,
        sys::random::number_u64() >> 1,
    );
    let relay = Relay {
        live: setup.live,
        core,
        clock: Clock::new(),
        tools,
        resolver: setup.resolver,
        reports: setup.reports,
        asks: Asks::new(events.clone()),
        sessions: HashMap::new(),
    };
    thread::Builder::new()
        .name("relay".to_owned())
        .spawn(move || relay.run(&offered, &happened))?;
    let agent = Agent {
        batch: Vec::new(),
        offers,
        events: events.clone(),
    };
    Ok((agent, Handle(events)))
}

/// How many sessions there may be at a time.
fn sessions_max(config: &Config) -> usize {
    let mta = &config.mta;
    let sets = mta.domains.values().chain([&mta.limits]);
    let asked = sets.map(|limits| limits.max_conn_per_source as usize).max();
    let wanted = asked.unwrap_or(SESSIONS).max(SESSIONS);
    // A system that does not say how many descriptors there are has a limit that it tells of later.
    let descriptors = sys::descriptors::limit().unwrap_or(usize::MAX);
    let most = wanted.min(descriptors / 2 / DESCRIPTORS_EACH).max(1);
    if most < wanted {
        log::debug(format_args!(
            "relay: at most {most} sessions at a time with {descriptors} descriptors"
        ));
    }
    most
}

impl super::Agent for Agent {
    fn offer(&mut self, envelope: Envelope) -> Offer {
        self.batch.push(envelope);
        Offer::Taken
    }

    fn offered(&mut self) {
        if !self.batch.is_empty() {
            // The thread ends only when this agent does.
            let _ = self.offers.send(std::mem::take(&mut self.batch));
        }
    }

    fn finished(&mut self, _id: EvpId) -> Vec<Release> {
        Vec::new()
    }

    fn stop(&mut self) {
        let _ = self.events.send(Event::Stop);
    }
}

impl Handle {
    /// Asks; `reply` is called once, from the relay thread, and must not block.
    pub fn ask(&self, admin: Admin, reply: Reply) {
        let _ = self.0.send(Event::Admin(admin, reply));
    }
}

/// A clock that does not jump: the system's when it was made, and the time since then.
struct Clock {
    base: Timestamp,
    since: Instant,
}

impl Clock {
    fn new() -> Clock {
        Clock {
            base: Timestamp::now(),
            since: Instant::now(),
        }
    }

    fn now(&self) -> Timestamp {
        self.base.plus(self.since.elapsed().as_secs())
    }
}

/// The relay thread.
struct Relay {
    live: Live<Configured>,
    core: Core,
    clock: Clock,
    tools: Tools,
    resolver: dns::Handle,
    reports: Reports,
    asks: Asks,
    sessions: HashMap<SessionId, Teller>,
}

impl Relay {
    fn run(mut self, offers: &Receiver<Vec<Envelope>>, events: &Receiver<Event>) {
        loop {
            let mut ready = Select::new();
            ready.recv(offers);
            ready.recv(events);
            // Either something is ready or the time is over: both are looked at.
            let _ = ready.ready_timeout(self.sleep());
            for _ in 0..DRAIN_MAX {
                let Ok(event) = events.try_recv() else {
                    break;
                };
                self.happened(event);
                self.obey();
            }
            for _ in 0..DRAIN_MAX {
                match offers.try_recv() {
                    Ok(envelopes) => {
                        self.core.configure(self.live.get());
                        self.core.offer(envelopes, self.clock.now());
                    }
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return,
                }
                self.obey();
            }
            self.core.tick(self.clock.now());
            self.obey();
        }
    }

    fn sleep(&self) -> Duration {
        let now = self.clock.now();
        match self.core.next_event() {
            // A second has begun when its number comes.
            Some(at) => Duration::from_secs(at.since(now)).min(SLEEP_MAX),
            None => SLEEP_MAX,
        }
    }

    fn happened(&mut self, event: Event) {
        let now = self.clock.now();
        match event {
            Event::Answer(name, question, found) => {
                self.core.reach(self.resolver.families());
                self.core.answer(name, &question, found, now);
            }
            Event::Smarthosts(hosts) => self.core.smarthosts(hosts, now),
            Event::Source(relay, addr) => self.core.source(relay, addr, now),
            Event::Secret(relay, found) => self.core.secret(relay, found, now),
            Event::Ready(id, time) => {
                self.core.greeted(id, time);
                self.core.ready(id, now);
            }
            Event::Done(id, sent) => {
                if let Some(kept) = sent.in_step {
                    self.core.in_step(id, kept);
                }
                self.core.took(id, sent.time);
                self.core
                    .done(id, sent.settled, &sent.untried, sent.next, now);
            }
            Event::Named => self.core.named(),
            Event::Ended(id, end) => {
                self.sessions.remove(&id);
                self.core.ended(id, end, now);
            }
            Event::Admin(admin, reply) => reply(self.admin(admin, now)),
            Event::Stop => self.core.stop(),
        }
    }

    fn admin(&mut self, admin: Admin, now: Timestamp) -> Option<Vec<String>> {
        match admin {
            Admin::Show(listing) => Some(self.core.list(listing, now)),
            Admin::ResumeRoute(id) => {
                self.core.resume_route(id, now);
                Some(Vec::new())
            }
            Admin::Block(source, name, on) => {
                let changed = self.core.block(source, &name, on, now);
                changed.then(Vec::new)
            }
        }
    }

    fn obey(&mut self) {
        // Asked together, they are answered together.
        let mut smarthosts = Vec::new();
        let mut actions = VecDeque::from(self.core.take_actions());
        while let Some(action) = actions.pop_front() {
            match action {
                Action::Resolve(name, question) => self.resolve(name, question),
                Action::Reverse(addr, ptr) => {
                    let events = self.tools.events.clone();
                    let put = move |found: dns::Reverse| {
                        let _ = ptr.set(found);
                        let _ = events.send(Event::Named);
                    };
                    self.resolver.reverse(addr, Box::new(put));
                }
                Action::Smarthost(id, ask) => smarthosts.push((id, ask)),
                Action::Source(now, relay, table) => {
                    self.asks.ask(&now, TableAsk::Source(relay, table));
                }
                Action::Secret(now, relay, table, label) => {
                    self.asks.ask(&now, TableAsk::Secret(relay, table, label));
                }
                Action::Open(start) => self.open(*start),
                Action::Send(id, load) => self.order(id, Order::Send(load)),
                Action::Recall(id, most) => {
                    let session = self.sessions.get(&id);
                    let count = session.map_or(0, |session| session.take_back(most));
                    self.core.recalled(id, count, self.clock.now());
                    actions.extend(self.core.take_actions());
                }
                Action::Quit(id) => self.order(id, Order::Quit),
                // The runner takes all it is sent, or is gone.
                Action::Report(report) => drop(self.reports.send(report)),
                Action::Info(line) => log::info(format_args!("{line}")),
                Action::Warn(line) => log::warn(format_args!("{line}")),
            }
        }
        if !smarthosts.is_empty() {
            self.asks.smarthosts(self.core.configured(), smarthosts);
        }
    }

    fn resolve(&self, name: Destination, question: Question) {
        let events = self.tools.events.clone();
        let (asked, kind) = (question.name.clone(), question.kind);
        let reply = move |found| {
            let _ = events.send(Event::Answer(name, question, found));
        };
        self.resolver.lookup(&asked, kind, Box::new(reply));
    }

    fn order(&self, id: SessionId, order: Order) {
        if let Some(session) = self.sessions.get(&id) {
            session.tell(order);
        }
    }

    fn open(&mut self, start: core::Start) {
        let id = start.id;
        let (teller, orders) = orders::channel();
        let tools = self.tools.clone();
        let spawned = thread::Builder::new()
            .name("relay session".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || session::run(&tools, &start, &orders));
        match spawned {
            Ok(_) => {
                self.sessions.insert(id, teller);
            }
            Err(error) => {
                log::warn(format_args!("relay: cannot start a session: {error}"));
                let end = End::Shortage(Line::sanitize(error.to_string().as_bytes()));
                let _ = self.tools.events.send(Event::Ended(id, end));
            }
        }
    }
}
