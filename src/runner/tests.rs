//! The order of settling against a store that fails, storms of everything on a fake clock, and the
//! thread with its handles.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use crossbeam_channel::unbounded;

use crate::control::message::{Listed, Subsystem, Which};
use crate::deliver::{HoldKey, Offer, Release};
use crate::mail::samples::{self, line};
use crate::mail::{
    BounceKind, DsnOffer, EvpId, Kind, MailAddr, Notify, Outcome, Past, Remote, Status, Verdict,
};
use crate::queue::ram::Ram;
use crate::queue::{BeginError, Draft, LoadError, Store};
use crate::scheduler::Limits;
use crate::util::Live;
use crate::util::dice::Dice;

use super::settle::{Cause, Settled, Settler};
use super::*;

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

/// One envelope on a faulty disk, settled until nothing is stuck. Asserts on the way that the
/// envelope or its report is there at any time.
fn settle_through(envelope: Envelope, cause: Cause, plan: u64, now: Timestamp) -> Vec<Envelope> {
    let store = Arc::new(Faulty::default());
    let dynamic: Arc<dyn Store> = store.clone();
    let committed = commit(&dynamic, vec![envelope]);
    let mut current = Box::new(committed.envelopes()[0].clone());
    let original = current.id;
    let settler = Settler::new(Queue::new(dynamic), Live::new(policy()));
    store.plan.store(plan, SeqCst);
    let mut cause = cause;
    for _ in 0..100 {
        let settled = settler.settle(current, cause, now);
        let left = store.on_disk();
        assert!(!left.is_empty() || matches!(settled, Settled::Gone { .. }));
        match settled {
            Settled::Stuck {
                envelope, cause: c, ..
            } => {
                assert!(left.iter().any(|e| e.id == original), "removed and stuck");
                (current, cause) = (envelope, c);
            }
            Settled::Gone { .. } => {
                assert!(left.iter().all(|e| e.id != original));
                return left;
            }
            Settled::Again { .. } => return left,
        }
    }
    panic!("never settled");
}

#[test]
fn whichever_call_fails_the_report_is_there_before_the_envelope_goes() {
    // Invariant 3: a failure is on disk as a bounce envelope before the envelope that failed is
    // deleted, or nothing is deleted.
    for plan in 0..32 {
        for cause in [
            Cause::Tried(fail(5)),
            Cause::Tried(Outcome::looped()),
            Cause::Expired,
        ] {
            let left = settle_through(envelope("bob", T0), cause.clone(), plan, T0);
            let kinds: Vec<&Kind> = left.iter().map(|e| &e.kind).collect();
            assert_eq!(
                kinds,
                [&Kind::Bounce(BounceKind::Failed)],
                "{plan:b} {cause:?}"
            );
        }
        let delivered = Cause::Tried(Outcome::delivered());
        assert_eq!(settle_through(envelope("bob", T0), delivered, plan, T0), []);
        assert_eq!(
            settle_through(envelope("bob", T0), Cause::Removed, plan, T0),
            []
        );
    }
}

#[test]
fn a_temporary_failure_is_written_down() {
    // spool-layout.md, Envelope files: errorline, esc-class, esc-code, and one more retry.
    let left = settle_through(envelope("bob", T0), Cause::Tried(fail(4)), 0, T0.plus(9));
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].retry, 1);
    assert_eq!(left[0].last_try, T0.plus(9));
    assert_eq!(left[0].errorline, Some(line("busy")));
    assert_eq!(left[0].status, Some(Status::new(4, 3, 0)));
}

#[test]
fn a_late_envelope_is_reported_once_per_interval() {
    // smtpd.conf(5), bounce warn-interval; last-bounce keeps it from being sent twice.
    let left = settle_through(
        envelope("bob", T0),
        Cause::Tried(fail(4)),
        0,
        T0.plus(14_400),
    );
    assert_eq!(left.len(), 2);
    assert_eq!(left[0].last_bounce, T0.plus(14_400));
    let expected = BounceKind::Delayed {
        delay_s: 14_400,
        ttl_s: 345_600,
    };
    assert_eq!(left[1].kind, Kind::Bounce(expected));
    let again = settle_through(left[0].clone(), Cause::Tried(fail(4)), 0, T0.plus(20_000));
    assert_eq!(again.len(), 1);
}

#[test]
fn the_bounce_of_what_expired_names_the_last_error() {
    // RFC 3463 §3.5, X.4.7: delivery time expired. The report has the last real error, too.
    let mut late = envelope("bob", T0);
    late.errorline = Some(line("451 busy"));
    let left = settle_through(late, Cause::Expired, 0, T0.plus(345_600));
    assert_eq!(left[0].errorline, Some(line("Envelope expired: 451 busy")));
    assert_eq!(left[0].status, Some(Status::new(5, 4, 7)));
    assert_eq!((left[0].created, left[0].retry), (T0.plus(345_600), 0));
}

#[test]
fn a_report_has_whose_reply_it_was_and_when() {
    // RFC 3464 §2.2, §2.3: Arrival-Date, Remote-MTA, Last-Attempt-Date, and across an expiry.
    let by = |outcome: Outcome| {
        Cause::Tried(outcome.by(Remote {
            name: line("mx.example.com"),
            dsn: DsnOffer::NotOffered,
        }))
    };
    let past = |tried| Past {
        remote: Some(line("mx.example.com")),
        arrived: T0,
        tried,
    };
    let mut relay = envelope("bob", T0);
    relay.kind = Kind::Relay;
    relay.dsn.notify = Notify(Notify::SUCCESS | Notify::FAILURE);
    for outcome in [fail(5), Outcome::delivered()] {
        let left = settle_through(relay.clone(), by(outcome), 0, T0.plus(9));
        assert_eq!(left[0].past, past(T0.plus(9)));
        assert_eq!(left[0].created, T0.plus(9));
    }
    let tried = settle_through(relay.clone(), by(fail(4)), 0, T0.plus(9)).remove(0);
    assert_eq!(tried.past.remote, Some(line("mx.example.com")));
    let left = settle_through(tried.clone(), Cause::Expired, 0, T0.plus(345_600));
    assert_eq!(left[0].past, past(T0.plus(9)));
    let own = settle_through(tried, Cause::Tried(fail(4)), 0, T0.plus(99)).remove(0);
    assert_eq!(own.past.remote, None, "the last error is ours");
}

#[test]
fn only_a_host_without_dsn_leaves_the_success_to_us() {
    // RFC 3461 §5.2: who was given NOTIFY tells the sender; LMTP into a mailbox is a delivery.
    let offered = |dsn| Remote {
        name: line("mx.example.com"),
        dsn,
    };
    let relayed = |relayed| Some(Kind::Bounce(BounceKind::Delivered { relayed }));
    for (relay, remote, expected) in [
        (true, Some(offered(DsnOffer::Offered)), None),
        (true, Some(offered(DsnOffer::NotOffered)), relayed(true)),
        (true, None, None),
        (false, Some(offered(DsnOffer::Offered)), relayed(false)),
        (false, None, relayed(false)),
    ] {
        let mut envelope = envelope("bob", T0);
        envelope.dsn.notify = Notify(Notify::SUCCESS);
        if relay {
            envelope.kind = Kind::Relay;
        }
        let mut outcome = Outcome::delivered();
        outcome.remote = remote.map(Box::new);
        let left = settle_through(envelope, Cause::Tried(outcome), 0, T0);
        assert_eq!(left.first().map(|e| e.kind.clone()), expected);
    }
}

#[test]
fn notify_decides_who_hears_of_what() {
    // RFC 3461 §4.1: NOTIFY, where given, decides alone; without it failures and delays.
    let late = T0.plus(14_400);
    let causes = [
        (Cause::Tried(Outcome::delivered()), T0),
        (Cause::Tried(fail(5)), T0),
        (Cause::Tried(fail(4)), late),
    ];
    let table = [
        (0, [false, true, true]),
        (Notify::SUCCESS, [true, false, false]),
        (Notify::FAILURE, [false, true, false]),
        (Notify::DELAY, [false, false, true]),
        (Notify::SUCCESS | Notify::FAILURE, [true, true, false]),
        (Notify::NEVER, [false, false, false]),
    ];
    for (notify, expected) in table {
        for ((cause, now), told) in causes.iter().zip(expected) {
            let mut envelope = envelope("bob", T0);
            envelope.dsn.notify = Notify(notify);
            let left = settle_through(envelope.clone(), cause.clone(), 0, *now);
            let reports = left.iter().filter(|e| matches!(e.kind, Kind::Bounce(_)));
            assert_eq!(reports.count(), usize::from(told), "{notify} {cause:?}");
            envelope.sender = MailAddr::null();
            let left = settle_through(envelope, cause.clone(), 0, *now);
            assert!(left.iter().all(|e| !matches!(e.kind, Kind::Bounce(_))));
        }
    }
}

#[test]
fn a_bounce_never_bounces_and_keeps_what_it_reports() {
    // RFC 5321 §6.1: no report is sent about a report. The reason it carries stays.
    let mut bounce = envelope("bob", T0);
    bounce.kind = Kind::Bounce(BounceKind::Failed);
    bounce.errorline = Some(line("the reason"));
    for cause in [Cause::Tried(fail(5)), Cause::Expired] {
        assert_eq!(settle_through(bounce.clone(), cause, 0, T0.plus(DAY_S)), []);
    }
    let left = settle_through(bounce, Cause::Tried(fail(4)), 0, T0.plus(DAY_S));
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].errorline, Some(line("the reason")));
    assert_eq!(left[0].retry, 1);
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

// ---- storms ----

/// What the test knows of each recipient, by its unique address.
#[derive(Default)]
struct Ledger {
    promised: BTreeSet<String>,
    delivered: BTreeSet<String>,
    reported: BTreeSet<String>,
    removed: BTreeSet<String>,
}

impl Ledger {
    /// Every recipient is delivered, told of, removed by hand, or still on the disk: as itself or
    /// as a report.
    fn check(&self, store: &Faulty, seed: u64, turn: usize) {
        let queued: BTreeSet<String> = store
            .on_disk()
            .iter()
            .filter(|e| !matches!(e.kind, Kind::Bounce(BounceKind::Delayed { .. })))
            .map(|e| e.rcpt.user().to_owned())
            .collect();
        for rcpt in &self.promised {
            let settled = self.delivered.contains(rcpt)
                || self.reported.contains(rcpt)
                || self.removed.contains(rcpt);
            assert!(
                settled || queued.contains(rcpt),
                "{rcpt} is lost: seed {seed} turn {turn}"
            );
        }
    }
}

#[test]
fn in_a_storm_every_envelope_is_delivered_reported_or_still_queued() {
    // Invariants 3 and 7, with a disk that refuses, restarts, an impatient administrator.
    for seed in 0..10 {
        storm(seed);
    }
}

fn storm(seed: u64) {
    let mut dice = Dice::new(seed);
    let store = Arc::new(Faulty::default());
    let dynamic: Arc<dyn Store> = store.clone();
    let mut stage_now = stage(&store, small());
    let mut ledger = Ledger::default();
    let mut now = T0;
    for turn in 0..600 {
        match dice.roll(12) {
            0..3 => arrive(&mut dice, &mut stage_now, &dynamic, &mut ledger, now),
            3..8 => answer(&mut dice, &mut stage_now, &mut ledger, now),
            8 => now = now.plus(dice.roll(4000) as u64),
            9 => administer(&mut dice, &mut stage_now, &store, &mut ledger, now),
            10 => store.plan.store(dice.roll(8) as u64, SeqCst),
            _ if dice.roll(6) == 0 => {
                // The process dies; everything in memory is forgotten.
                stage_now = restart(&store, now);
            }
            _ => {}
        }
        for _ in 0..dice.roll(4) {
            stage_now.core.step(now);
        }
        stage_now.core.check();
        if turn % 5 == 0 {
            ledger.check(&store, seed, turn);
        }
    }
    store.plan.store(0, SeqCst);
    calm_down(&mut stage_now, &mut ledger, now, seed);
    ledger.check(&store, seed, usize::MAX);
    assert_eq!(store.on_disk(), [], "seed {seed}");
}

fn arrive(
    dice: &mut Dice,
    stage: &mut Stage,
    store: &Arc<dyn Store>,
    ledger: &mut Ledger,
    now: Timestamp,
) {
    let mut envelopes = Vec::new();
    for _ in 0..=dice.roll(4) {
        let name = format!("rcpt{}", ledger.promised.len());
        let mut envelope = envelope(&name, now);
        match dice.roll(8) {
            0 => envelope.action = line("renamed"),
            1 => {
                envelope.action = line("outbound");
                envelope.kind = Kind::Relay;
            }
            2 => envelope.dsn.notify = Notify(Notify::SUCCESS | Notify::FAILURE),
            _ => {}
        }
        ledger.promised.insert(name);
        envelopes.push(envelope);
    }
    stage.core.committed(commit(store, envelopes), now);
}

/// One of the agents finishes one of its envelopes, one way or another.
fn answer(dice: &mut Dice, stage: &mut Stage, ledger: &mut Ledger, now: Timestamp) {
    let bounce = dice.roll(3) == 0;
    let agent = if bounce { &stage.bounce } else { &stage.local };
    let taken = agent.taken();
    if taken.is_empty() {
        return;
    }
    let envelope = &taken[dice.roll(taken.len())];
    let rcpt = envelope.rcpt.user().to_owned();
    let outcome = match dice.roll(5) {
        0 => fail(4),
        1 if !bounce => fail(5),
        2 if !bounce => Outcome::looped(),
        _ => Outcome::delivered(),
    };
    if outcome.verdict == Verdict::Delivered {
        match envelope.kind {
            Kind::Bounce(BounceKind::Failed) => ledger.reported.insert(rcpt),
            Kind::Bounce(_) => false,
            Kind::Local(_) | Kind::Relay => ledger.delivered.insert(rcpt),
        };
    }
    stage.core.report(Report::Done(envelope.id, outcome), now);
}

fn administer(
    dice: &mut Dice,
    stage: &mut Stage,
    store: &Arc<Faulty>,
    ledger: &mut Ledger,
    now: Timestamp,
) {
    let all = store.on_disk();
    if all.is_empty() {
        return;
    }
    let envelope = &all[dice.roll(all.len())];
    let which = match dice.roll(3) {
        0 => Which::Message(envelope.id.msgid()),
        _ => Which::Envelope(envelope.id),
    };
    let ask = match dice.roll(6) {
        0 => Ask::Suspend(which),
        1 => Ask::Resume(Which::All),
        2 => Ask::Remove(Which::Envelope(envelope.id)),
        3 => Ask::Discover(which),
        4 => Ask::List {
            after: None,
            only: None,
        },
        _ => Ask::Schedule(which),
    };
    if let Ask::Remove(_) = ask {
        ledger.removed.insert(envelope.rcpt.user().to_owned());
    }
    stage.core.ask(ask, Box::new(|_| ()), now);
}

fn restart(store: &Arc<Faulty>, now: Timestamp) -> Stage {
    let mut stage = stage(store, small());
    for msgid in store.messages() {
        stage.core.found(store.envelopes(msgid).unwrap(), now);
    }
    stage.core.scanned();
    stage
}

/// The weather clears: everything must leave the queue within its life time and a little.
fn calm_down(stage: &mut Stage, ledger: &mut Ledger, start: Timestamp, seed: u64) {
    let mut now = start;
    stage
        .core
        .ask(Ask::Resume(Which::All), Box::new(|_| ()), now);
    for _ in 0..20_000 {
        stage.steps(now);
        let taken = [stage.local.taken(), stage.bounce.taken()].concat();
        for envelope in &taken {
            let rcpt = envelope.rcpt.user().to_owned();
            match envelope.kind {
                Kind::Bounce(BounceKind::Failed) => ledger.reported.insert(rcpt),
                Kind::Bounce(_) => false,
                Kind::Local(_) | Kind::Relay => ledger.delivered.insert(rcpt),
            };
            stage
                .core
                .report(Report::Done(envelope.id, Outcome::delivered()), now);
        }
        if !taken.is_empty() {
            continue;
        }
        match stage.core.next_event() {
            Some(at) => now = now.max(at),
            None => return,
        }
    }
    panic!("the queue does not empty: seed {seed}");
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
    let (handle, inbox) = channel();
    let limits = Limits::default();
    let (reports, outcomes) = inbox.reports(limits);
    let delivered = Arc::new(AtomicU64::new(0));
    let prompt = || Box::new(Prompt(reports.clone(), delivered.clone()));
    let queue = Queue::new(dynamic.clone());
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
    let runner = start(inbox, setup).unwrap();
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
