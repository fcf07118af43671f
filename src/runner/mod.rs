//! The queue runner: asks the scheduler what is due, gives it to the agents, settles outcomes.
//!
//! One thread, `runner`, owns the scheduler and all agents; nobody else changes either, so neither
//! has a lock. Others speak to it through a [`Handle`]. Everything it decides is in [`Core`], which
//! knows no thread and no clock.
//!
//! Promises: an envelope leaves the disk only after it was delivered, or after the report that
//! tells of its failure is durable, or because the administrator removed it ([`settle`]). A failing
//! disk delays and never loses. An outcome nobody waits for is reported and ignored.
//!
//! The runner itself blocks on nothing but reading envelopes; writing is done by a few threads
//! beside it, so that the store can share its syncs.

#![forbid(unsafe_code)]

mod cache;
mod clock;
mod disk;
mod list;
mod policy;
pub mod scan;
pub mod settle;
mod step;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TryRecvError, TrySendError, bounded, never};

use crate::control::message::{Answer, Ask};
use crate::deliver::{Agent, Report, Reports};
use crate::log;
use crate::mail::{Envelope, EvpId};
use crate::queue::{Committed, Queue};
use crate::scheduler;
use crate::util::alarm::Alarm;
use crate::util::{Live, Timestamp};

use clock::Clock;

pub use policy::{ActionFacts, ActionKind, ActionLookup, Policy};
pub use step::Core;

/// How a question is answered. It is called once, from a thread of the runner, and must not block.
pub type Reply = Box<dyn FnOnce(Answer) + Send>;

/// Who settles what.
pub struct Agents {
    pub local: Box<dyn Agent>,
    /// Relaying, where there is any; without it such envelopes wait, visibly.
    pub relay: Option<Box<dyn Agent>>,
    /// Reports to senders.
    pub bounce: Box<dyn Agent>,
}

/// What the runner is made of.
pub struct Setup {
    pub queue: Queue,
    /// Who settles what.
    pub agents: Agents,
    /// Where the agents send outcomes; made by [`Inbox::reports`].
    pub reports: Receiver<Report>,
    pub limits: scheduler::Limits,
    /// What the configuration says about envelopes.
    pub policy: Live<Policy>,
    /// `-P mda`.
    pub pause_mda: bool,
    /// `-P mta`.
    pub pause_mta: bool,
    /// Threads that write outcomes to the disk; with none the runner does it itself.
    pub settle_threads: usize,
}

/// What others may say to the runner. Clones speak to the same one.
#[derive(Clone)]
pub struct Handle(Arc<Line>);

/// A line to the runner, which hears of its end.
struct Line {
    messages: Option<Sender<Message>>,
    found: Option<Sender<Found>>,
    alarm: Arc<Alarm>,
}

/// The runner's end of its [`Handle`]s, before it is started.
pub struct Inbox {
    messages: Receiver<Message>,
    found: Receiver<Found>,
    /// What the runner sleeps by.
    alarm: Arc<Alarm>,
}

enum Message {
    Committed(Committed),
    Ask(Ask, Reply),
    IsInflight(EvpId, Box<dyn FnOnce(bool) + Send>),
    RunOnce(Box<dyn FnOnce() + Send>),
    Shutdown,
}

/// What the walk over the spool says.
enum Found {
    These(Vec<Envelope>),
    All,
}

/// Most envelopes in flight, whatever `max-inflight` says: channels are sized for them.
const INFLIGHT_MAX: usize = 1 << 16;
/// Messages that may wait for the runner; then those who bring more wait.
const INBOX_MAX: usize = 1024;
/// The same of what the walk over the spool brings, which is much at a time.
const FOUND_MAX: usize = INBOX_MAX / scan::TOGETHER;
/// Messages and outcomes taken before work is handed out again.
const DRAIN_MAX: usize = 256;
/// The same of what the walk over the spool brings.
const FOUND_AT_ONCE: usize = DRAIN_MAX / scan::TOGETHER;
/// Steps before messages and outcomes are looked at again.
const STEPS_MAX: usize = 32;
/// The longest sleep: the system's clock may jump.
const SLEEP_MAX: Duration = Duration::from_secs(60);
/// The longest while an agent waits for time to pass.
const NAP: Duration = Duration::from_secs(1);
/// How long outcomes are awaited after [`Handle::shutdown`].
const GRACE: Duration = Duration::from_secs(5);

/// The two ends between a runner that is not started yet and everybody else: an agent that needs
/// a handle can be made before the runner that will own it.
pub fn channel() -> (Handle, Inbox) {
    let (sender, messages) = bounded(INBOX_MAX);
    let (finder, found) = bounded(FOUND_MAX);
    let alarm = Arc::new(Alarm::default());
    let line = Line {
        messages: Some(sender),
        found: Some(finder),
        alarm: alarm.clone(),
    };
    let inbox = Inbox {
        messages,
        found,
        alarm,
    };
    (Handle(Arc::new(line)), inbox)
}

impl Inbox {
    /// The channel for outcomes. It has room for every envelope that can be in flight, so an agent
    /// never waits for the runner.
    pub fn reports(&self, limits: scheduler::Limits) -> (Reports, Receiver<Report>) {
        let (sender, reports) = bounded(sensible(limits).max_inflight);
        (Reports::new(sender, self.alarm.clone()), reports)
    }
}

/// Envelopes that can be in flight with these limits: what an agent may be offered before it has
/// settled any.
pub fn inflight_max(limits: scheduler::Limits) -> usize {
    sensible(limits).max_inflight
}

/// The limits, brought to where they can work.
fn sensible(limits: scheduler::Limits) -> scheduler::Limits {
    scheduler::Limits {
        max_inflight: limits.max_inflight.clamp(1, INFLIGHT_MAX),
        max_schedule: limits.max_schedule.clamp(1, INFLIGHT_MAX),
    }
}

/// Starts the runner. It ends after [`Handle::shutdown`], or when all handles are gone.
pub fn start(inbox: Inbox, setup: Setup) -> io::Result<JoinHandle<()>> {
    let reports = setup.reports.clone();
    let core = Core::new(setup, &inbox.alarm)?;
    std::thread::Builder::new()
        .name("runner".to_owned())
        .spawn(move || run(core, inbox, &reports))
}

impl Line {
    /// Waits while the runner is behind; false if it is gone.
    fn say(&self, message: Message) -> bool {
        let messages = self.messages.as_ref();
        let said = messages.is_some_and(|messages| messages.send(message).is_ok());
        self.alarm.call();
        said
    }

    fn found(&self, what: Found) -> bool {
        let found = self.found.as_ref();
        let said = found.is_some_and(|found| found.send(what).is_ok());
        self.alarm.call();
        said
    }

    /// The same without waiting.
    fn try_say(&self, message: Message) -> Result<(), TrySendError<Message>> {
        match &self.messages {
            Some(messages) => messages.try_send(message)?,
            None => return Err(TrySendError::Disconnected(message)),
        }
        self.alarm.call();
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        (self.messages, self.found) = (None, None);
        self.alarm.call();
    }
}

impl Handle {
    /// A message is durable: it will be delivered. Waits while the runner is behind.
    pub fn committed(&self, message: Committed) {
        let msgid = message.msgid();
        if !self.0.say(Message::Committed(message)) {
            log::debug(format_args!(
                "runner: message {msgid} waits in the spool for the next start"
            ));
        }
    }

    /// The same without waiting: gives the message back while the runner is behind.
    pub fn try_committed(&self, message: Committed) -> Result<(), Committed> {
        match self.0.try_say(Message::Committed(message)) {
            Err(TrySendError::Full(Message::Committed(message))) => Err(message),
            Err(TrySendError::Disconnected(Message::Committed(message))) => {
                self.committed(message);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// These envelopes were found on the disk. Waits while the runner is behind; false if it is
    /// gone.
    pub fn found(&self, envelopes: Vec<Envelope>) -> bool {
        self.0.found(Found::These(envelopes))
    }

    /// All that was on the disk has been found.
    pub fn scanned(&self) {
        self.0.found(Found::All);
    }

    /// Asks `Schedule`, `Remove`, `Suspend`, `Resume`, `Discover`, `List`, `Status`, or `Pause` of
    /// mda or mta; other questions are answered by `Fail`. Does not wait: when the runner is far
    /// behind, the answer comes back at once and `reply` is not called.
    pub fn ask(&self, ask: Ask, reply: Reply) -> Option<Answer> {
        match self.0.try_say(Message::Ask(ask, reply)) {
            Ok(()) => None,
            Err(_) => Some(Answer::Fail("the queue runner is busy".to_owned())),
        }
    }

    /// Asks whether an agent has this envelope. Does not wait: when the runner is far behind, this is
    /// false and `reply` is not called.
    pub fn ask_inflight(&self, id: EvpId, reply: Box<dyn FnOnce(bool) + Send>) -> bool {
        self.0.try_say(Message::IsInflight(id, reply)).is_ok()
    }

    /// `smtpd -q`: tries everything in the queue once, whatever its time, and calls `finish` when
    /// the scan has ended and nothing is due or in flight any more.
    pub fn run_once(&self, finish: Box<dyn FnOnce() + Send>) {
        self.0.say(Message::RunOnce(finish));
    }

    /// Ends the runner: nothing more is handed out, outcomes that come within a few seconds are
    /// recorded, the rest is found on the disk at the next start.
    pub fn shutdown(&self) {
        self.0.say(Message::Shutdown);
    }
}

/// Whether the runner goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Course {
    On,
    Stop,
}

fn run(mut core: Core, inbox: Inbox, reports: &Receiver<Report>) {
    let Inbox {
        messages: inbox,
        mut found,
        alarm,
    } = inbox;
    let mut last_call: Option<Instant> = None;
    let done = core.done();
    let mut clock = Clock::new(Timestamp::now(), Instant::now());
    loop {
        // One time for all of a turn: what is late is seen before anything is done by it.
        let now = Timestamp::now();
        if let Some(step) = clock.look(now, Instant::now()) {
            core.clock_set(step);
        }
        let (course, mut busy) = read(&mut core, &inbox, now);
        busy |= take_found(&mut core, &found, now);
        busy |= settle_reports(&mut core, reports, now);
        if course == Course::Stop && last_call.is_none() {
            core.stop();
            // Nobody hears of what is found any more: the walk over the spool ends.
            found = never();
            last_call = Some(Instant::now() + GRACE);
        }
        busy |= work(&mut core, now);
        if last_call.is_some_and(|deadline| Instant::now() >= deadline) {
            core.give_up();
            break;
        }
        if busy {
            continue;
        }
        if last_call.is_some() {
            if !core.is_settling() {
                break;
            }
        } else if inbox.is_empty() && reports.is_empty() && core.is_idle(now) {
            core.finish_once();
        }
        alarm.sleep(sleep(&core, last_call, now), || {
            (last_call.is_none() && !inbox.is_empty())
                || !found.is_empty()
                || !reports.is_empty()
                || !done.is_empty()
        });
    }
    // An agent's thread may be waiting for room in the inbox, and the core waits for the agents'
    // threads: nobody listens any more, then they are told to end.
    drop((inbox, found));
    drop(core);
}

/// Takes what others say, a bounded number at a time.
fn read(core: &mut Core, inbox: &Receiver<Message>, now: Timestamp) -> (Course, bool) {
    let mut busy = false;
    for _ in 0..DRAIN_MAX {
        let message = match inbox.try_recv() {
            Ok(message) => message,
            Err(TryRecvError::Empty) => break,
            Err(TryRecvError::Disconnected) => return (Course::Stop, busy),
        };
        busy = true;
        match message {
            Message::Committed(message) => core.committed(message, now),
            Message::Ask(ask, reply) => core.ask(ask, reply, now),
            Message::IsInflight(id, reply) => reply(core.is_inflight(id)),
            Message::RunOnce(finish) => core.run_once(finish, now),
            Message::Shutdown => return (Course::Stop, busy),
        }
    }
    (Course::On, busy)
}

fn take_found(core: &mut Core, found: &Receiver<Found>, now: Timestamp) -> bool {
    let mut busy = false;
    for what in found.try_iter().take(FOUND_AT_ONCE) {
        match what {
            Found::These(envelopes) => core.found(envelopes, now),
            Found::All => core.scanned(),
        }
        busy = true;
    }
    busy
}

fn settle_reports(core: &mut Core, reports: &Receiver<Report>, now: Timestamp) -> bool {
    let mut busy = false;
    for report in reports.try_iter().take(DRAIN_MAX) {
        core.report(report, now);
        busy = true;
    }
    busy
}

fn work(core: &mut Core, now: Timestamp) -> bool {
    let mut busy = false;
    for _ in 0..STEPS_MAX {
        if !core.step(now) {
            break;
        }
        busy = true;
    }
    busy
}

fn sleep(core: &Core, last_call: Option<Instant>, now: Timestamp) -> Duration {
    if let Some(deadline) = last_call {
        return deadline.saturating_duration_since(Instant::now());
    }
    let until = core
        .next_event()
        .map_or(SLEEP_MAX, |at| Duration::from_secs(at.since(now)));
    let most = if core.is_waiting() { NAP } else { SLEEP_MAX };
    until.min(most)
}
