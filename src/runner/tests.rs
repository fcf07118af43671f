//! The order of settling against a store that fails, storms of everything on a fake clock, and the
//! thread with its handles.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use crossbeam_channel::unbounded;

use crate::control::message::{Listed, Subsystem, Which};
use crate::deliver::{HoldKey, Offer, Release};
use crate::mail::samples::{self, line};
use crate::mail::{
    BounceKind, DsnOffer, EvpId, Flags, Kind, MailAddr, MsgId, Notify, Outcome, Past, Remote,
    Status, Verdict,
};
use crate::queue::ram::Ram;
use crate::queue::{BeginError, Draft, LoadError, Store};
use crate::scheduler::Limits;
use crate::util::Live;
use crate::util::dice::Dice;

use super::settle::{Cause, Settled, Settler};
use super::*;

mod listing;
mod settling;
mod storm;
mod thread;
mod weeks;

const T0: Timestamp = Timestamp(1_700_000_000);
const DAY_S: u64 = 86_400;

/// A local envelope; `rcpt` tells it apart.
fn envelope(rcpt: &str, now: Timestamp) -> Envelope {
    let rcpt = MailAddr::new(rcpt, "example.com").unwrap();
    Envelope {
        dest: rcpt.clone(),
        rcpt,
        created: now,
        ..samples::envelope("bob")
    }
}

fn policy() -> Policy {
    Policy {
        queue_ttl_s: 345_600,
        bounce_warn_s: vec![14_400],
        action: Arc::new(|name| match name {
            "local" => Some(ActionFacts {
                kind: ActionKind::Local,
                ttl_s: None,
            }),
            "outbound" => Some(ActionFacts {
                kind: ActionKind::Relay,
                ttl_s: Some(3600),
            }),
            _ => None,
        }),
    }
}

fn commit(store: &Arc<dyn Store>, envelopes: Vec<Envelope>) -> Committed {
    let mut incoming = Queue::new(store.clone()).begin().unwrap();
    incoming.write(b"Subject: x\n\nbody\n").unwrap();
    for envelope in envelopes {
        incoming.add(envelope).unwrap();
    }
    incoming.commit().unwrap()
}

/// A store in memory that refuses changes as told: bit n of `plan` refuses the nth of them, and
/// past the 64th none is refused.
#[derive(Default)]
struct Faulty {
    ram: Ram,
    plan: AtomicU64,
    /// How often an envelope was read.
    loads: AtomicU64,
    /// How long a change takes.
    pause: Duration,
}

impl Faulty {
    fn change(&self) -> io::Result<()> {
        std::thread::sleep(self.pause);
        let plan = self.plan.load(SeqCst);
        self.plan.store(plan >> 1, SeqCst);
        if plan & 1 == 1 {
            return Err(io::Error::other("planned"));
        }
        Ok(())
    }

    /// All envelopes on the disk.
    fn on_disk(&self) -> Vec<Envelope> {
        self.ram
            .messages()
            .flat_map(|msgid| self.ram.envelopes(msgid).unwrap())
            .collect()
    }
}

impl Store for Faulty {
    fn begin(&self) -> Result<Box<dyn Draft>, BeginError> {
        self.ram.begin()
    }
    fn load(&self, id: EvpId) -> Result<Envelope, LoadError> {
        self.loads.fetch_add(1, SeqCst);
        self.ram.load(id)
    }
    fn open_body(&self, id: MsgId) -> io::Result<crate::queue::Body> {
        self.ram.open_body(id)
    }
    fn update(&self, envelope: &Envelope) -> io::Result<()> {
        self.change()?;
        self.ram.update(envelope)
    }
    fn add(&self, envelope: &Envelope) -> io::Result<EvpId> {
        self.change()?;
        self.ram.add(envelope)
    }
    fn remove(&self, id: EvpId) -> io::Result<()> {
        self.change()?;
        self.ram.remove(id)
    }
    fn messages(&self) -> Box<dyn Iterator<Item = MsgId> + Send> {
        self.ram.messages()
    }
    fn envelopes(&self, id: MsgId) -> io::Result<Vec<Envelope>> {
        self.ram.envelopes(id)
    }
}

// ---- settling ----

fn fail(class: u8) -> Outcome {
    let status = Status::new(class, 3, 0);
    match class {
        4 => Outcome::temp(status, line("busy")),
        _ => Outcome::perm(status, line("closed")),
    }
}

// ---- scripted agents ----

/// Takes what it is offered up to a limit; the test decides the outcomes.
#[derive(Clone, Default)]
struct Scripted(Arc<Mutex<Script>>);

#[derive(Default)]
struct Script {
    taken: BTreeMap<EvpId, Envelope>,
    /// How often it took anything.
    count: usize,
    limit: usize,
    holding: bool,
}

impl Scripted {
    fn with_limit(limit: usize) -> Scripted {
        let scripted = Scripted::default();
        scripted.0.lock().unwrap().limit = limit;
        scripted
    }

    fn taken(&self) -> Vec<Envelope> {
        self.0.lock().unwrap().taken.values().cloned().collect()
    }
}

impl Agent for Scripted {
    fn offer(&mut self, envelope: Envelope) -> Offer {
        let mut script = self.0.lock().unwrap();
        if script.taken.len() >= script.limit {
            script.holding = true;
            return Offer::Hold(HoldKey(7));
        }
        let twice = script.taken.insert(envelope.id, envelope);
        assert!(twice.is_none(), "offered twice");
        script.count += 1;
        Offer::Taken
    }

    fn finished(&mut self, id: EvpId) -> Vec<Release> {
        let mut script = self.0.lock().unwrap();
        script.taken.remove(&id).expect("finished but not taken");
        let count = match script.taken.len() {
            0 => usize::MAX,
            _ => 2,
        };
        let key = HoldKey(7);
        let release = script.holding.then_some(Release { key, count });
        release.into_iter().collect()
    }
}

struct Stage {
    core: Core,
    local: Scripted,
    bounce: Scripted,
}

fn stage(store: &Arc<Faulty>, limits: Limits) -> Stage {
    let local = Scripted::with_limit(6);
    let bounce = Scripted::with_limit(3);
    let core = Core::new(
        Setup {
            queue: Queue::new(store.clone()),
            agents: Agents {
                local: Box::new(local.clone()),
                relay: None,
                bounce: Box::new(bounce.clone()),
            },
            reports: unbounded().1,
            limits,
            policy: Live::new(policy()),
            pause_mda: false,
            pause_mta: false,
            settle_threads: 0,
        },
        &Arc::default(),
    )
    .unwrap();
    Stage {
        core,
        local,
        bounce,
    }
}

impl Stage {
    fn steps(&mut self, now: Timestamp) {
        for _ in 0..10_000 {
            if !self.core.step(now) {
                self.core.check();
                return;
            }
        }
        panic!("the runner is busy for ever");
    }

    fn ask(&mut self, ask: Ask, now: Timestamp) -> Answer {
        let (reply, answer) = unbounded();
        let reply = Box::new(move |answer| reply.send(answer).unwrap());
        self.core.ask(ask, reply, now);
        self.steps(now);
        answer.try_recv().unwrap()
    }

    fn list(&mut self, now: Timestamp) -> Vec<Listed> {
        let mut lines = Vec::new();
        loop {
            let after = lines.last().map(|line: &Listed| line.id);
            let Answer::Envelopes(page) = self.ask(Ask::List { after, only: None }, now) else {
                panic!("not a page");
            };
            if page.is_empty() {
                return lines;
            }
            lines.extend(page);
        }
    }
}

fn small() -> Limits {
    Limits {
        max_inflight: 9,
        max_schedule: 4,
    }
}

#[test]
fn what_was_removed_is_off_the_disk_when_the_daemon_stops() {
    // smtpctl(8), remove: it is answered at once, and nothing of it is delivered after a restart.
    let store = Arc::new(Faulty::default());
    let dynamic: Arc<dyn Store> = store.clone();
    let mut stage = stage(&store, small());
    let mut later = envelope("bob", T0);
    later.retry = 100;
    stage
        .core
        .found(commit(&dynamic, vec![later; 300]).into_envelopes(), T0);
    let (reply, answer) = unbounded();
    let reply = Box::new(move |answer| reply.send(answer).unwrap());
    stage.core.ask(Ask::Remove(Which::All), reply, T0);
    assert_eq!(answer.try_recv(), Ok(Answer::Count(300)));
    stage.core.stop();
    assert!(stage.core.is_settling());
    stage.steps(T0);
    assert_eq!(store.on_disk(), []);
    assert!(!stage.core.is_settling());
}

#[test]
fn a_pause_outlives_a_restart_although_the_envelope_is_in_flight() {
    // smtpctl(8), pause envelope and resume envelope. An agent that is told to stop gives back what it
    // has not begun with, and no outcome ever writes that down.
    let store = Arc::new(Faulty::default());
    let dynamic: Arc<dyn Store> = store.clone();
    let mut stage = stage(&store, Limits::default());
    let message = commit(&dynamic, vec![envelope("bob", T0)]);
    let bob = message.envelopes()[0].id;
    stage.core.committed(message, T0);
    stage.steps(T0);
    assert_eq!(stage.local.taken().len(), 1);
    assert!(stage.core.is_inflight(bob));
    for (ask, is_paused) in [
        (Ask::Suspend as fn(Which) -> Ask, true),
        (Ask::Resume, false),
    ] {
        let count = stage.ask(ask(Which::Envelope(bob)), T0);
        assert_eq!(count, Answer::Count(1));
        assert_eq!(store.on_disk()[0].flags.suspended, is_paused);
    }
    stage.ask(Ask::Suspend(Which::Envelope(bob)), T0);
    stage.core.report(Report::Held(bob, HoldKey(7)), T0);
    stage.steps(T0);
    assert!(!stage.core.is_inflight(bob));
    assert!(store.on_disk()[0].flags.suspended);
}

#[test]
fn what_the_scan_found_and_was_delivered_is_not_taken_in_when_its_commit_is_told() {
    // The scan may be faster with a message than the session that took it.
    let store = Arc::new(Faulty::default());
    let dynamic: Arc<dyn Store> = store.clone();
    let mut stage = stage(&store, Limits::default());
    let message = commit(&dynamic, vec![envelope("bob", T0), envelope("carol", T0)]);
    let bob = message.envelopes()[0].id;
    stage.core.found(message.envelopes().to_vec(), T0);
    stage.steps(T0);
    stage
        .core
        .report(Report::Done(bob, Outcome::delivered()), T0);
    stage.steps(T0);
    stage.core.committed(message, T0);
    stage.steps(T0);
    let users: Vec<_> = stage.local.taken().into_iter().map(|e| e.rcpt).collect();
    assert_eq!(users, [envelope("carol", T0).rcpt]);
    assert_eq!(stage.local.0.lock().unwrap().count, 2);
}

#[test]
fn a_failure_of_a_message_that_was_taken_away_is_not_reported_for_ever() {
    // spool-layout.md: an administrator may take a message away while the daemon runs.
    let store = Arc::new(Faulty::default());
    let dynamic: Arc<dyn Store> = store.clone();
    let mut stage = stage(&store, Limits::default());
    let message = commit(&dynamic, vec![envelope("bob", T0)]);
    let bob = message.envelopes()[0].id;
    stage.core.committed(message, T0);
    stage.steps(T0);
    store.ram.remove(bob).unwrap();
    store.plan.store(1, SeqCst);
    stage.core.report(Report::Done(bob, fail(5)), T0);
    stage.steps(T0);
    assert!(!stage.core.knows(bob));
    assert_eq!(stage.bounce.taken().len(), 0);
}

#[test]
fn a_message_of_this_run_is_not_taken_in_again_by_the_scan() {
    // Recovery runs while the daemon serves: what the scan read may have been settled since.
    let store = Arc::new(Faulty::default());
    let dynamic: Arc<dyn Store> = store.clone();
    let mut stage = stage(&store, Limits::default());
    let message = commit(&dynamic, vec![envelope("bob", T0)]);
    let read_by_scan = message.envelopes().to_vec();
    let id = read_by_scan[0].id;
    stage.core.committed(message, T0);
    stage.core.found(read_by_scan.clone(), T0);
    stage.steps(T0);
    stage
        .core
        .report(Report::Done(id, Outcome::delivered()), T0);
    stage.steps(T0);
    stage.core.found(read_by_scan, T0);
    assert!(!stage.core.knows(id));
    assert_eq!(store.on_disk(), []);
    stage
        .core
        .report(Report::Done(id, Outcome::delivered()), T0);
    stage.core.check();
}

#[test]
fn paused_delivery_waits_and_answers_say_so() {
    // smtpctl(8): pausing what is paused, and resuming what is not, fails.
    let store = Arc::new(Faulty::default());
    let dynamic: Arc<dyn Store> = store.clone();
    let mut stage = stage(&store, Limits::default());
    let pause = |on| Ask::Pause(Subsystem::Mda, on);
    assert_eq!(stage.ask(pause(true), T0), Answer::Ok);
    assert_eq!(stage.ask(pause(true), T0), Answer::Fail(String::new()));
    let message = commit(&dynamic, vec![envelope("bob", T0)]);
    let msgid = message.msgid();
    stage.core.committed(message, T0);
    stage.steps(T0);
    assert_eq!(stage.local.taken().len(), 0);
    assert_eq!(
        stage.ask(Ask::Status, T0),
        Answer::Status {
            mda: true,
            mta: false,
            smtp: false,
            notes: Vec::new(),
        }
    );
    assert_eq!(stage.ask(pause(false), T0), Answer::Ok);
    assert_eq!(stage.local.taken().len(), 1);
    assert_eq!(
        stage.ask(Ask::Remove(Which::Message(msgid)), T0),
        Answer::Count(1)
    );
}

#[test]
fn discover_takes_in_what_was_moved_into_the_spool() {
    // smtpctl(8), discover: all envelopes of a message that were put into the spool by hand.
    let store = Arc::new(Faulty::default());
    let dynamic: Arc<dyn Store> = store.clone();
    let mut stage = stage(&store, Limits::default());
    let message = commit(&dynamic, vec![envelope("bob", T0), envelope("carol", T0)]);
    let discover = Ask::Discover(Which::Message(message.msgid()));
    assert_eq!(stage.ask(discover, T0), Answer::Count(2));
    assert_eq!(stage.local.taken().len(), 2);
    let absent = Ask::Discover(Which::Message(MsgId::new(99).unwrap()));
    assert_eq!(stage.ask(absent, T0), Answer::Count(0));
}

#[test]
fn a_single_run_tries_everything_exactly_once() {
    // smtpd -q: also what is not due for hours, and what finds its hold queue full.
    let store = Arc::new(Faulty::default());
    let dynamic: Arc<dyn Store> = store.clone();
    let mut stage = stage(&store, Limits::default());
    let now = T0.plus(DAY_S);
    let mut old = envelope("bob", T0);
    old.retry = 150;
    old.dsn.notify = Notify(Notify::FAILURE);
    for _ in 0..1050 {
        let message = commit(&dynamic, vec![old.clone()]);
        stage.core.found(message.into_envelopes(), now);
    }
    let (finish, finished) = unbounded();
    stage
        .core
        .run_once(Box::new(move || finish.send(()).unwrap()), now);
    stage.core.scanned();
    stage.steps(now);
    while let Some(first) = stage.local.taken().first() {
        assert!(!stage.core.is_idle(now));
        stage.core.report(Report::Done(first.id, fail(4)), now);
        stage.steps(now);
    }
    assert_eq!(stage.local.0.lock().unwrap().count, 1050);
    assert!(stage.core.is_idle(now));
    stage.core.finish_once();
    finished.try_recv().unwrap();
}
