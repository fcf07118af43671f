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

mod settling;
mod storm;
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
}

impl Faulty {
    fn change(&self) -> io::Result<()> {
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

    fn finished(&mut self, id: EvpId) -> Option<Release> {
        let mut script = self.0.lock().unwrap();
        script.taken.remove(&id).expect("finished but not taken");
        let count = match script.taken.len() {
            0 => usize::MAX,
            _ => 2,
        };
        let key = HoldKey(7);
        script.holding.then_some(Release { key, count })
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
fn listed_lines_have_the_fields_that_scripts_split() {
    // smtpctl(8), The queue listing: fields 2 to 14, with the real expiry.
    let store = Arc::new(Faulty::default());
    let dynamic: Arc<dyn Store> = store.clone();
    let mut stage = stage(&store, Limits::default());
    let message = commit(&dynamic, vec![envelope("bob", T0), envelope("carol", T0)]);
    let (bob, carol) = (message.envelopes()[0].id, message.envelopes()[1].id);
    stage.core.committed(message, T0);
    assert_eq!(
        stage.ask(Ask::Suspend(Which::Envelope(carol)), T0),
        Answer::Count(1)
    );
    let lines = stage.list(T0.plus(5));
    let expected = [
        "local|mda||alice@example.net|bob@example.com|bob@example.com\
         |1700000000|1700345600|1700000000|0|inflight|5|",
        "local|mda|suspend|alice@example.net|carol@example.com|carol@example.com\
         |1700000000|1700345600|0|0|pending|-5|",
    ];
    let texts: Vec<&str> = lines.iter().map(|line| line.text.as_str()).collect();
    assert_eq!(texts, expected);
    assert!(store.on_disk()[1].flags.suspended, "it outlives a restart");
    stage.core.report(Report::Done(bob, fail(4)), T0.plus(5));
    stage.steps(T0.plus(5));
    let text = stage.list(T0.plus(6)).remove(0).text;
    assert!(
        text.ends_with("|1700345600|1700000005|1|pending|4|busy"),
        "{text}"
    );
}

#[test]
fn an_envelope_without_its_action_stays_visible_and_bounces_when_it_expires() {
    // smtpd.conf(5), action: envelopes keep the name of their action, and it may be gone.
    let store = Arc::new(Faulty::default());
    let dynamic: Arc<dyn Store> = store.clone();
    let mut stage = stage(&store, Limits::default());
    let mut renamed = envelope("bob", T0);
    renamed.action = line("old-name");
    let mut relayed = envelope("carol", T0);
    relayed.action = line("outbound");
    relayed.kind = Kind::Relay;
    stage
        .core
        .committed(commit(&dynamic, vec![renamed, relayed]), T0);
    stage.steps(T0);
    let lines = stage.list(T0);
    assert_eq!(lines.len(), 2);
    assert!(lines[0].text.contains("|mda|hold|"));
    assert!(
        lines[0]
            .text
            .ends_with("no action \"old-name\" in the configuration")
    );
    assert!(lines[1].text.contains("|mta|hold|"));
    assert!(lines[1].text.contains("|1700003600|"), "the action's ttl");
    assert_eq!(stage.local.taken().len(), 0);
    stage.steps(T0.plus(345_600));
    let reports = stage.bounce.taken();
    assert_eq!(reports.len(), 2);
    assert!(
        reports
            .iter()
            .all(|r| r.kind == Kind::Bounce(BounceKind::Failed))
    );
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
fn a_long_listing_comes_whole_and_in_order() {
    // smtpctl(8), The queue listing: in order of the envelope ids. An answer fits a frame.
    let store = Arc::new(Faulty::default());
    let dynamic: Arc<dyn Store> = store.clone();
    let mut stage = stage(&store, Limits::default());
    let mut paused = envelope("bob", T0);
    paused.flags.suspended = true;
    paused.errorline = Some(line(&"\u{7f}".repeat(2000)));
    for _ in 0..150 {
        let message = commit(&dynamic, vec![paused.clone(), paused.clone()]);
        stage.core.committed(message, T0);
    }
    let lines = stage.list(T0);
    assert_eq!(lines.len(), 300);
    assert!(lines.is_sorted_by_key(|line| line.id));
}

#[test]
fn a_listing_reads_nothing_that_is_known() {
    // smtpctl(8), The queue listing: as things are now, whatever the disk is busy with.
    let store = Arc::new(Faulty::default());
    let dynamic: Arc<dyn Store> = store.clone();
    let mut stage = stage(&store, Limits::default());
    let waiting = |n: u32| Envelope {
        retry: 1,
        errorline: Some(line("451 busy")),
        ..envelope(&format!("rcpt{n}"), T0)
    };
    let message = commit(&dynamic, (0..2000).map(waiting).collect());
    stage.core.found(message.into_envelopes(), T0);
    let fresh = commit(&dynamic, vec![envelope("bob", T0.plus(1))]);
    let bob = fresh.envelopes()[0].id;
    stage.core.committed(fresh, T0.plus(1));
    stage.steps(T0.plus(1));
    stage.core.report(Report::Done(bob, fail(4)), T0.plus(1));
    stage.steps(T0.plus(1));
    let before = store.loads.load(SeqCst);
    let lines = stage.list(T0.plus(2));
    assert_eq!(lines.len(), 2001);
    let texts = |error: &str| lines.iter().filter(|l| l.text.ends_with(error)).count();
    assert_eq!((texts("|451 busy"), texts("|busy")), (2000, 1));
    assert!(lines.iter().all(|line| line.action == "local"));
    assert_eq!(store.loads.load(SeqCst), before);
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

// ---- the thread ----

/// Delivers at once.
struct Prompt(Reports, Arc<AtomicU64>);

impl Agent for Prompt {
    fn offer(&mut self, envelope: Envelope) -> Offer {
        self.1.fetch_add(1, SeqCst);
        let done = Report::Done(envelope.id, Outcome::delivered());
        self.0.send(done).unwrap();
        Offer::Taken
    }
    fn finished(&mut self, _id: EvpId) -> Option<Release> {
        None
    }
}

/// A runner in its own thread, whose agents count what they deliver.
fn started(queue: &Queue, delivered: &Arc<AtomicU64>) -> (Handle, JoinHandle<()>) {
    let (handle, inbox) = channel();
    let limits = Limits::default();
    let (reports, outcomes) = inbox.reports(limits);
    let prompt = || Box::new(Prompt(reports.clone(), delivered.clone()));
    let setup = Setup {
        queue: queue.clone(),
        agents: Agents {
            local: prompt(),
            relay: None,
            bounce: prompt(),
        },
        reports: outcomes,
        limits,
        policy: Live::new(policy()),
        pause_mda: false,
        pause_mta: false,
        settle_threads: 2,
    };
    (handle, start(inbox, setup).unwrap())
}

#[test]
fn the_thread_runs_the_queue_once_and_stops_when_told() {
    // smtpd -q: everything schedulable is tried once, then the run is over.
    let store = Arc::new(Faulty::default());
    let dynamic: Arc<dyn Store> = store.clone();
    let now = Timestamp::now();
    let mut later = envelope("later", now);
    // Its grid says: not for hours. Running the queue once does not wait for that.
    later.retry = 100;
    commit(&dynamic, vec![later]);
    let delivered = Arc::new(AtomicU64::new(0));
    let queue = Queue::new(dynamic.clone());
    let (handle, runner) = started(&queue, &delivered);
    let (finish, finished) = unbounded();
    handle.run_once(Box::new(move || finish.send(()).unwrap()));
    for n in 0..500 {
        let rcpt = format!("rcpt{n}");
        handle.committed(commit(&dynamic, vec![envelope(&rcpt, now)]));
    }
    let scan = scan::start(queue, handle.clone()).unwrap();
    finished.recv_timeout(Duration::from_secs(180)).unwrap();
    scan.join().unwrap();
    assert_eq!(delivered.load(SeqCst), 501);
    assert_eq!(store.on_disk(), []);
    handle.shutdown();
    runner.join().unwrap();
    let answer = handle.ask(Ask::Status, Box::new(|_| unreachable!("nobody listens")));
    assert!(matches!(answer, Some(Answer::Fail(_))));
}

#[test]
fn a_stop_does_not_wait_for_the_end_of_the_walk_over_the_spool() {
    // smtpd(8): SIGTERM ends the daemon, however much mail is found at the same time.
    let queue = Queue::new(Arc::new(Faulty::default()));
    let (handle, runner) = started(&queue, &Arc::default());
    let suspended = Envelope {
        flags: Flags {
            suspended: true,
            ..Flags::default()
        },
        ..envelope("ann", Timestamp::now())
    };
    let (ended, seen) = unbounded();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            // A walk that never ends.
            scope.spawn(|| {
                while !is_over.load(SeqCst) && handle.found(vec![suspended.clone(); 500]) {
                    std::hint::spin_loop();
                }
            });
        }
        scope.spawn(move || {
            runner.join().unwrap();
            ended.send(()).unwrap();
        });
        handle.shutdown();
        let told = seen.recv_timeout(Duration::from_secs(60));
        is_over.store(true, SeqCst);
        assert!(told.is_ok(), "it goes on reading");
    });
}
