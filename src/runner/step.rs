//! The runner's decisions, one at a time: no thread, no clock, no waiting.
//!
//! [`Core`] owns the scheduler and the agents. Everything that happens comes in through a call with
//! the time, and [`Core::step`] does what is due. With a [`super::disk::DiskWork`] without threads
//! all of it runs in the caller's thread, which is how the tests drive it.

mod admin;
mod stop;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::{DefaultHasher, Hasher};
use std::io;
use std::sync::Arc;

use crate::control::message::Answer;
use crate::deliver::{Agent, HoldKey, Offer, Report};
use crate::log::{self, Trace, stat};
use crate::mail::{Envelope, EvpId, Kind, Outcome, Verdict};
use crate::queue::{Committed, LoadError, Queue};
use crate::scheduler::{Class, Destination, Facts, Hold, Scheduler, Work};
use crate::util::alarm::Alarm;
use crate::util::time::Duration;
use crate::util::{Live, Timestamp};

use super::cache::Cache;
use super::clock::Step;
use super::disk::{DiskWork, Done};
use super::policy::Misfit;
use super::settle::{Cause, Settled, disk_refused, why};
use super::{Agents, Policy, Setup};

/// After how many seconds the disk is asked again when it refused.
const STUCK_RETRY_S: u64 = 10;
/// Held envelopes below which those that a full hold queue refused follow, in a single run.
const OVERFLOW_LOW: usize = 500;
/// Results of disk work taken per step.
const DONE_PER_STEP: usize = 256;
/// Ids remembered of envelopes that were settled while the scan runs.
const GONE_MAX: usize = 1 << 18;
/// Actions complained about once each.
const COMPLAINTS_MAX: usize = 64;

/// An envelope that an agent has.
struct Flight {
    envelope: Box<Envelope>,
    class: Class,
}

/// Work that the disk refused.
enum Stuck {
    Settle(Box<Envelope>, Cause),
    Load(Cause),
}

/// What is done once when the queue has been run.
type Finish = Box<dyn FnOnce() + Send>;

/// The runner without its thread.
pub struct Core {
    scheduler: Scheduler,
    queue: Queue,
    policy: Live<Policy>,
    agents: Agents,
    disk: DiskWork,
    cache: Cache,
    flights: HashMap<EvpId, Flight>,
    stuck: BTreeMap<(Timestamp, EvpId), Stuck>,
    /// Envelopes whose suspension has changed and is not on the disk yet.
    marks: BTreeSet<EvpId>,
    /// Settled while the scan runs, so that what it read before is not taken in again.
    gone: HashSet<EvpId>,
    scanning: bool,
    complained: HashSet<String>,
    once: Option<Finish>,
    /// Refused by a full hold queue during a single run, which still has to try them.
    overflow: Vec<EvpId>,
    stopping: bool,
}

impl Core {
    /// A runner that knows no envelope yet and expects a scan; `alarm` is called when
    /// [`Core::step`] has something to take. Fails only if threads cannot be started.
    pub fn new(setup: Setup, alarm: &Arc<Alarm>) -> io::Result<Core> {
        let limits = super::sensible(setup.limits);
        let mut scheduler = Scheduler::new(limits);
        scheduler.pause(Class::Mda, setup.pause_mda);
        scheduler.pause(Class::Mta, setup.pause_mta);
        let disk = DiskWork::new(
            setup.queue.clone(),
            setup.policy.clone(),
            setup.settle_threads,
            limits.max_inflight,
            alarm,
        )?;
        Ok(Core {
            scheduler,
            queue: setup.queue,
            policy: setup.policy,
            agents: setup.agents,
            disk,
            cache: Cache::default(),
            flights: HashMap::new(),
            stuck: BTreeMap::new(),
            marks: BTreeSet::new(),
            gone: HashSet::new(),
            scanning: true,
            complained: HashSet::new(),
            once: None,
            overflow: Vec::new(),
            stopping: false,
        })
    }

    /// A message of this run is durable.
    pub fn committed(&mut self, message: Committed, now: Timestamp) {
        for envelope in message.into_envelopes() {
            self.enter_fresh(envelope, now);
        }
    }

    /// The scan (or the administrator) found these on the disk. What is known is left alone.
    pub fn found(&mut self, envelopes: Vec<Envelope>, now: Timestamp) {
        for envelope in envelopes {
            if self.enter(&envelope, now) {
                self.cache.note(&envelope);
            }
        }
    }

    /// The system's clock was set anew.
    pub fn clock_set(&mut self, step: Step) {
        let (way, by_s) = match step {
            Step::Back(by_s) => ("back", by_s),
            Step::Ahead(by_s) => ("ahead", by_s),
        };
        log::warn(format_args!(
            "the clock was set {way} by {}; queued mail keeps its age",
            Duration(by_s)
        ));
        self.scheduler.clock_set(|time| step.shift(time));
        let stuck = std::mem::take(&mut self.stuck).into_iter();
        self.stuck = stuck
            .map(|((at, id), work)| ((at.min(step.shift(at)), id), work))
            .collect();
    }

    /// The scan has ended.
    pub fn scanned(&mut self) {
        self.scanning = false;
        self.gone = HashSet::new();
    }

    /// `smtpd -q`: everything known or found is tried once, whatever its time; then `finish` is
    /// called.
    pub fn run_once(&mut self, finish: Finish, now: Timestamp) {
        let ids: Vec<EvpId> = self.scheduler.all().collect();
        self.once = Some(finish);
        for id in ids {
            self.scheduler.schedule(id, now);
        }
    }

    /// Whether nothing is due, out, or still to be found.
    pub fn is_idle(&self, now: Timestamp) -> bool {
        !self.scanning
            && self.overflow.is_empty()
            && self.disk.is_idle()
            && self.scheduler.counts().inflight == self.stuck.len()
            && self.scheduler.next_event().is_none_or(|at| at > now)
    }

    /// Tells who waits for it that the queue has been run.
    pub fn finish_once(&mut self) {
        if let Some(finish) = self.once.take() {
            finish();
        }
    }

    /// When [`Core::step`] has something to do by the clock alone.
    pub fn next_event(&self) -> Option<Timestamp> {
        if !self.marks.is_empty() {
            return Some(Timestamp(0));
        }
        if self.stopping {
            return None;
        }
        let stuck = self.stuck.first_key_value().map(|((at, _), _)| *at);
        match (self.scheduler.next_event(), stuck) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Whether [`Core::step`] is to be called again soon, for time passes.
    pub fn is_waiting(&self) -> bool {
        self.agents.local.is_waiting()
    }

    /// Where finished disk work waits for [`Core::step`].
    pub(super) fn done(&self) -> crossbeam_channel::Receiver<Done> {
        self.disk.done()
    }

    /// Does what can be done now; false when that was nothing.
    pub fn step(&mut self, now: Timestamp) -> bool {
        let mut busy = self.collect(now) | self.write_marks();
        if self.stopping {
            busy |= self.remove_some(now);
        } else {
            let again = self.retry_stuck(now) | self.retry_overflow(now);
            let batch = self.scheduler.batch(now);
            let offered = again || !batch.is_empty();
            for work in batch {
                self.carry_out(work, now);
            }
            if offered || self.is_waiting() {
                self.all_offered();
            }
            busy |= offered;
        }
        self.gauges();
        busy
    }

    /// What an agent tells. What it says of an envelope that it does not have is ignored.
    pub fn report(&mut self, report: Report, now: Timestamp) {
        match report {
            Report::Done(id, outcome) => self.done_with(id, outcome, now),
            Report::Held(id, key) => match self.flights.remove(&id) {
                Some(flight) => self.hold(*flight.envelope, key, now),
                None => log::warn(format_args!(
                    "runner: cannot hold envelope {id}, which is not in flight"
                )),
            },
            Report::Release(release) => {
                let key = release.key.0;
                self.scheduler.release(Class::Mta, key, release.count, now);
            }
            Report::Hurry(ids) => {
                for id in ids {
                    self.scheduler.schedule(id, now);
                }
            }
        }
    }

    fn done_with(&mut self, id: EvpId, outcome: Outcome, now: Timestamp) {
        let Some(mut flight) = self.flights.remove(&id) else {
            log::warn(format_args!(
                "runner: ignored an outcome for envelope {id}, which is not in flight"
            ));
            return;
        };
        count(outcome.verdict);
        if outcome.verdict == Verdict::Delivered {
            let delay_s = now.since(flight.envelope.created);
            stat::SCHEDULER_DELIVERY_DELAY.took_ms(delay_s.saturating_mul(1000));
        }
        self.let_others_follow(id, flight.class, now);
        flight.envelope.flags.suspended = self.scheduler.is_suspended(id);
        let cause = match outcome.verdict {
            Verdict::TempFail if self.scheduler.is_removed(id) => Cause::Removed,
            _ => Cause::Tried(outcome),
        };
        self.disk.settle(flight.envelope, cause, now);
    }

    /// Proves that the books balance.
    #[cfg(test)]
    pub fn check(&self) {
        self.scheduler.check();
        for id in self.flights.keys() {
            let state = self.scheduler.state(*id);
            assert_eq!(state, Some(crate::scheduler::State::Inflight), "{id}");
        }
        self.cache.check(|id| self.scheduler.knows(id));
    }

    /// Whether the scheduler knows an envelope.
    #[cfg(test)]
    pub fn knows(&self, id: EvpId) -> bool {
        self.scheduler.knows(id)
    }

    // ---- envelopes in ----

    /// Takes an envelope in that was just written; it is kept at hand if it is wanted at once.
    fn enter_fresh(&mut self, envelope: Envelope, now: Timestamp) {
        if self.enter(&envelope, now) && !envelope.flags.suspended {
            self.cache.put(envelope);
        }
    }

    /// Says whether it was new. While the scan runs, it or whoever wrote the envelope may be late.
    fn enter(&mut self, envelope: &Envelope, now: Timestamp) -> bool {
        let class = self.policy.get().class(envelope);
        let facts = Facts {
            class,
            to: destination(class, envelope),
            created: envelope.created,
            ttl_s: self.policy.get().ttl_s(envelope),
            retry: envelope.retry,
            suspended: envelope.flags.suspended,
        };
        let is_gone = self.gone.contains(&envelope.id);
        let new = !is_gone && self.scheduler.insert(envelope.id, &facts, now);
        if new && self.once.is_some() {
            self.scheduler.schedule(envelope.id, now);
        }
        new
    }

    // ---- work out ----

    fn carry_out(&mut self, work: Work, now: Timestamp) {
        let (id, what) = match work {
            Work::Deliver(id, Class::Bounce) => (id, "scheduled (bounce)"),
            Work::Deliver(id, Class::Mda) => (id, "scheduled (mda)"),
            Work::Deliver(id, Class::Mta) => (id, "scheduled (mta)"),
            Work::Expire(id) => (id, "expired"),
            Work::Remove(id) => (id, "removed"),
        };
        log::debug(format_args!("scheduler: evp:{id} {what}"));
        log::trace(Trace::Scheduler, format_args!("scheduler: evp:{id} {what}"));
        match work {
            Work::Deliver(_, class) => self.deliver(id, class, now),
            Work::Expire(_) => self.end(id, Cause::Expired, now),
            Work::Remove(_) => self.end(id, Cause::Removed, now),
        }
    }

    fn deliver(&mut self, id: EvpId, class: Class, now: Timestamp) {
        let envelope = match self.load(id) {
            Ok(envelope) => envelope,
            Err(LoadError::Io(error)) => {
                disk_refused(
                    &error,
                    format_args!("deliver: failed to load envelope {id}"),
                );
                // It is in flight, so this cannot fail.
                let _ = self.scheduler.tempfail(id, now);
                return;
            }
            Err(error) => return self.lost(id, &error),
        };
        if let Some(misfit) = self.misfit(&envelope, class) {
            self.complain(&envelope, misfit);
            let _ = self.scheduler.park(id, now);
            return;
        }
        self.offer(envelope, class, now);
    }

    fn offer(&mut self, envelope: Envelope, class: Class, now: Timestamp) {
        let id = envelope.id;
        let Some(agent) = self.agent(class) else {
            return;
        };
        match agent.offer(envelope.clone()) {
            Offer::Taken => {
                let envelope = Box::new(envelope);
                self.flights.insert(id, Flight { envelope, class });
            }
            Offer::Hold(key) => self.hold(envelope, key, now),
        }
    }

    fn hold(&mut self, envelope: Envelope, key: HoldKey, now: Timestamp) {
        let id = envelope.id;
        match self.scheduler.hold(id, key.0, now) {
            Ok(Hold::Held) => self.cache.put(envelope),
            Ok(Hold::Overflow) => {
                stat::SCHEDULER_HOLD_OVERFLOW.inc();
                if self.once.is_some() {
                    self.overflow.push(id);
                }
            }
            Ok(Hold::NotHeld) | Err(_) => {}
        }
    }

    /// Ends an envelope that was not tried.
    fn end(&mut self, id: EvpId, cause: Cause, now: Timestamp) {
        match self.load(id) {
            Ok(envelope) => self.disk.settle(Box::new(envelope), cause, now),
            Err(LoadError::Io(error)) => {
                disk_refused(&error, format_args!("failed to load envelope {id}"));
                let at = now.plus(STUCK_RETRY_S);
                self.stuck.insert((at, id), Stuck::Load(cause));
            }
            Err(error) => self.lost(id, &error),
        }
    }

    /// The envelope vanished from the spool or was set aside there.
    fn lost(&mut self, id: EvpId, error: &LoadError) {
        log::warn(format_args!(
            "queue: failed to load envelope {id}: {}",
            why(error)
        ));
        self.forget(id);
    }

    fn load(&mut self, id: EvpId) -> Result<Envelope, LoadError> {
        match self.cache.take(id) {
            Some(envelope) => {
                stat::QUEUE_CACHE_LOAD_HIT.inc();
                Ok(envelope)
            }
            None => {
                stat::QUEUE_CACHE_LOAD_MISSED.inc();
                self.queue.load(id)
            }
        }
    }

    fn misfit(&self, envelope: &Envelope, class: Class) -> Option<Misfit> {
        let misfit = self.policy.get().misfit(envelope);
        match class {
            Class::Mta if self.agents.relay.is_none() => misfit.or(Some(Misfit::NoRelay)),
            _ => misfit,
        }
    }

    /// Once per action: a queue full of such envelopes must not fill the log.
    fn complain(&mut self, envelope: &Envelope, misfit: Misfit) {
        let text = misfit.text(&envelope.action);
        if self.complained.len() < COMPLAINTS_MAX && self.complained.insert(text.clone()) {
            log::warn(format_args!(
                "invalid envelope {}: {text}; it and others like it are kept until they expire",
                envelope.id
            ));
        }
    }

    fn all_offered(&mut self) {
        for class in [Class::Mda, Class::Mta, Class::Bounce] {
            if let Some(agent) = self.agent(class) {
                agent.offered();
            }
        }
    }

    fn agent(&mut self, class: Class) -> Option<&mut Box<dyn Agent>> {
        match class {
            Class::Mda => Some(&mut self.agents.local),
            Class::Mta => self.agents.relay.as_mut(),
            Class::Bounce => Some(&mut self.agents.bounce),
        }
    }

    // ---- outcomes ----

    fn let_others_follow(&mut self, id: EvpId, class: Class, now: Timestamp) {
        let releases = self.agent(class).map(|agent| agent.finished(id));
        for release in releases.into_iter().flatten() {
            self.scheduler
                .release(class, release.key.0, release.count, now);
        }
    }

    /// Takes results of disk work.
    fn collect(&mut self, now: Timestamp) -> bool {
        let mut busy = false;
        for _ in 0..DONE_PER_STEP {
            let Some(done) = self.disk.collect() else {
                break;
            };
            busy = true;
            match done {
                Done::Settled(id, settled) => self.settled(id, settled, now),
                Done::ListOn { after, only, reply } => self.list(Some(after), only, reply, now),
                Done::Discovered(envelopes, reply) => {
                    let count = u32::try_from(envelopes.len()).unwrap_or(u32::MAX);
                    self.found(envelopes, now);
                    reply(Answer::Count(count));
                }
                Done::Nothing => {}
            }
        }
        busy
    }

    fn settled(&mut self, id: EvpId, settled: Settled, now: Timestamp) {
        let reports = match settled {
            Settled::Gone { reports } => {
                self.forget(id);
                reports
            }
            Settled::Again { envelope, reports } => {
                stat::QUEUE_CACHE_UPDATE_MISSED.inc();
                stat::SCHEDULER_ENVELOPE_UPDATED.inc();
                self.cache.note(&envelope);
                // The administrator may have paused it while it was being written.
                if envelope.flags.suspended != self.scheduler.is_suspended(id) {
                    self.marks.insert(id);
                }
                let after = self.scheduler.tempfail(id, now);
                log::trace(
                    Trace::Scheduler,
                    format_args!("scheduler: evp:{id} {after:?}"),
                );
                reports
            }
            Settled::Stuck {
                envelope,
                cause,
                reports,
            } => {
                let at = now.plus(STUCK_RETRY_S);
                self.stuck.insert((at, id), Stuck::Settle(envelope, cause));
                reports
            }
        };
        for report in reports {
            self.enter_fresh(report, now);
        }
    }

    fn forget(&mut self, id: EvpId) {
        let _ = self.scheduler.settled(id);
        self.cache.forget(id);
        if self.scanning && self.gone.len() < GONE_MAX {
            self.gone.insert(id);
        }
    }

    fn retry_stuck(&mut self, now: Timestamp) -> bool {
        let mut busy = false;
        while let Some(first) = self.stuck.first_entry()
            && first.key().0 <= now
        {
            busy = true;
            let ((_, id), stuck) = first.remove_entry();
            match stuck {
                Stuck::Settle(envelope, cause) => self.disk.settle(envelope, cause, now),
                Stuck::Load(cause) => self.end(id, cause, now),
            }
        }
        busy
    }

    /// A single run tries everything once, also what found its hold queue full.
    fn retry_overflow(&mut self, now: Timestamp) -> bool {
        if self.overflow.is_empty() || self.scheduler.counts().held >= OVERFLOW_LOW {
            return false;
        }
        let from = self.overflow.len().saturating_sub(OVERFLOW_LOW);
        for id in self.overflow.split_off(from) {
            self.scheduler.schedule(id, now);
        }
        true
    }

    // ---- numbers ----

    fn gauges(&self) {
        let counts = self.scheduler.counts();
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        stat::SCHEDULER_ENVELOPE.set(gauge(counts.envelopes));
        stat::SCHEDULER_ENVELOPE_INFLIGHT.set(gauge(counts.inflight));
        stat::SCHEDULER_RAM_ENVELOPE.set(gauge(counts.envelopes));
        stat::SCHEDULER_RAM_MESSAGE.set(gauge(counts.messages));
        stat::QUEUE_CACHE_SIZE.set(gauge(self.cache.whole()));
        stat::SCHEDULER_HOLD.set(gauge(counts.held));
        stat::SCHEDULER_HOLDQ.set(gauge(counts.hold_queues));
    }
}

/// Whose turns an envelope shares: those of its domain, or of its user.
fn destination(class: Class, envelope: &Envelope) -> Destination {
    let name = match (class, &envelope.kind) {
        (Class::Mda, Kind::Local(local)) => local.user.as_bytes(),
        (Class::Mda | Class::Mta, _) => envelope.dest.domain().as_bytes(),
        (Class::Bounce, _) => return Destination::default(),
    };
    let mut hasher = DefaultHasher::new();
    for byte in name {
        hasher.write_u8(byte.to_ascii_lowercase());
    }
    Destination(hasher.finish() as u32)
}

fn count(verdict: Verdict) {
    match verdict {
        Verdict::Delivered => stat::SCHEDULER_DELIVERY_OK.inc(),
        Verdict::TempFail => stat::SCHEDULER_DELIVERY_TEMPFAIL.inc(),
        Verdict::PermFail => stat::SCHEDULER_DELIVERY_PERMFAIL.inc(),
        Verdict::Loop => stat::SCHEDULER_DELIVERY_LOOP.inc(),
    }
}
