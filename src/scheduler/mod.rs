//! The scheduler decides *when* an envelope is tried: a pure structure over envelope ids.
//!
//! It has no thread, no lock, no disk and no clock: the runner owns it and every call that needs
//! the time takes `now`. Every envelope is in exactly one [`State`]; the two functions `detach`
//! and `place` are the only ones that move an envelope between the indexes, and `Scheduler::check`
//! recounts all of it for the tests. Memory is about a hundred bytes per envelope; texts and
//! addresses stay on the disk.
//!
//! Nothing here fails: a call that does not fit an envelope's state says so in its answer and
//! changes nothing.
//!
//! Different from the scheduler we replace, on purpose: a hundred times as many envelopes may be
//! held, they are released oldest first, re-timing after a relay's failure needs no line of its
//! own, delay warnings wait for their threshold ([`backoff::warning_due`]), and scheduling what is
//! already due is a no-op.

#![forbid(unsafe_code)]

mod admin;
pub mod backoff;
mod entry;
mod line;
mod listing;
mod quota;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use crate::mail::EvpId;
use crate::util::Timestamp;

use entry::{Entry, Lane, Marks, Spot};
use line::Line;
use quota::{Allowed, Inflight};

pub use entry::State;
pub use listing::{Holding, Row};

/// Who settles an envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// The bounce agent.
    Bounce,
    Mda,
    Mta,
}

/// `scheduler limit …`, as far as it concerns what is handed out.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Envelopes handed out and not yet settled, all classes together.
    pub max_inflight: usize,
    /// Envelopes per batch.
    pub max_schedule: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_inflight: 5000,
            max_schedule: 10,
        }
    }
}

/// Where an envelope goes, as far as turns are taken: a number of its domain or user. That two have
/// the same one does no harm; they share a turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Destination(pub u32);

/// What the scheduler must know of an envelope.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// Who settles it.
    pub class: Class,
    /// Where it goes.
    pub to: Destination,
    /// When it was made: the origin of its grid of attempts.
    pub created: Timestamp,
    /// Life time in seconds, from then.
    pub ttl_s: u32,
    /// Temporary failures so far.
    pub retry: u16,
    /// Whether the administrator has paused it.
    pub suspended: bool,
}

/// One thing to do; the envelope is in flight until it is answered for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    Deliver(EvpId, Class),
    /// Its life time is over.
    Expire(EvpId),
    /// The administrator removed it.
    Remove(EvpId),
}

/// Where an envelope stands after a temporary failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// It waits until then (or until it expires).
    Pending(Timestamp),
    /// The administrator removed it meanwhile; it is handed out for removal next.
    Removing,
}

/// What became of an envelope that its agent could not take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// It is on the hold queue.
    Held,
    /// The hold queue is full: it comes back on the short grid.
    Overflow,
    /// The administrator had paused or removed it; it is not held.
    NotHeld,
}

/// The envelope is not in flight, so nobody can have an outcome for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotInflight;

/// How many envelopes stand where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// All that are known.
    pub envelopes: usize,
    /// The messages that these are of.
    pub messages: usize,
    /// Handed out.
    pub inflight: usize,
    /// On hold queues.
    pub held: usize,
    pub hold_queues: usize,
}

/// An envelope leaves a hold queue of this length no room. One that is not held waits for a point
/// of a grid that widens with its age, however idle its destination; so this is for floods only.
pub const HOLD_MAX: usize = 100_000;
/// Due envelopes that one batch moves into the lines.
const RIPEN_MAX: usize = 1024;
/// The time that does not come.
const NEVER: Timestamp = Timestamp(u64::MAX);

/// All envelopes of the queue, and when each is tried.
pub struct Scheduler {
    limits: Limits,
    entries: BTreeMap<EvpId, Entry>,
    pending: BTreeSet<(Timestamp, EvpId)>,
    due: [Line; Lane::ALL.len()],
    held: BTreeMap<(Class, u64), BTreeSet<(u64, EvpId)>>,
    held_count: usize,
    messages: usize,
    inflight: Inflight,
    tickets: u64,
    paused_mda: bool,
    paused_mta: bool,
}

impl Scheduler {
    /// A scheduler without envelopes.
    pub fn new(limits: Limits) -> Scheduler {
        Scheduler {
            limits,
            entries: BTreeMap::new(),
            pending: BTreeSet::new(),
            due: Default::default(),
            held: BTreeMap::new(),
            held_count: 0,
            messages: 0,
            inflight: Inflight::default(),
            tickets: 0,
            paused_mda: false,
            paused_mta: false,
        }
    }

    /// Takes an envelope in. False if it is known already; then nothing changes.
    pub fn insert(&mut self, id: EvpId, facts: &Facts, now: Timestamp) -> bool {
        if self.entries.contains_key(&id) {
            return false;
        }
        let first = self.of_message(id.msgid()).next().is_none();
        self.messages += usize::from(first);
        let mut marks = Marks::default();
        if facts.suspended {
            marks.set(Marks::SUSPENDED);
        }
        let base_s = backoff::base_s(facts.class);
        let created = backoff::believable(facts.created, base_s, facts.retry, facts.ttl_s, now);
        let entry = Entry {
            created,
            next: backoff::on_load(created, base_s, facts.retry),
            spot: Spot::Pending,
            ttl_s: facts.ttl_s,
            retry: facts.retry,
            class: facts.class,
            to: facts.to,
            marks,
        };
        self.place(id, entry, Spot::Pending);
        true
    }

    /// The clock was set: `shift` gives a time of before as the clock has it now. Ages stay what
    /// they are. What waits goes on waiting after a step back; what a step ahead has made due is
    /// due.
    pub fn clock_set(&mut self, shift: impl Fn(Timestamp) -> Timestamp) {
        self.pending.clear();
        for (id, entry) in &mut self.entries {
            entry.created = shift(entry.created);
            if entry.next != NEVER {
                entry.next = entry.next.min(shift(entry.next));
            }
            let waits = entry.state() == State::Pending && !entry.is_suspended();
            if waits {
                self.pending.insert((entry.wake(), *id));
            }
            if let Spot::Scheduled { since, .. } | Spot::Inflight { since, .. } = &mut entry.spot {
                *since = shift(*since);
            }
        }
    }

    /// Whether this envelope is known.
    #[cfg(test)]
    pub fn knows(&self, id: EvpId) -> bool {
        self.entries.contains_key(&id)
    }

    /// Hands out what is to be done now, at most `max_schedule` things: one of each line in turn,
    /// and one of each destination in turn within a line, as far as the shares in `quota` go.
    pub fn batch(&mut self, now: Timestamp) -> Vec<Work> {
        self.ripen(now);
        self.batch_of(&Lane::ALL, now)
    }

    /// The same of what the administrator has removed, and of nothing else.
    pub fn removals(&mut self, now: Timestamp) -> Vec<Work> {
        self.batch_of(&[Lane::Removed], now)
    }

    /// How many removed envelopes are still to be handed out.
    pub fn count_removals(&self) -> usize {
        self.due[Lane::Removed as usize].len()
    }

    fn batch_of(&mut self, lanes: &[Lane], now: Timestamp) -> Vec<Work> {
        let room = self.limits.max_inflight.saturating_sub(self.inflight.len());
        let size = room.min(self.limits.max_schedule);
        let mut batch = Vec::with_capacity(size);
        while batch.len() < size {
            let before = batch.len();
            for lane in lanes {
                if batch.len() < size
                    && let Some(work) = self.hand_out(*lane, now)
                {
                    batch.push(work);
                }
            }
            if batch.len() == before {
                break;
            }
        }
        batch
    }

    /// When [`Scheduler::batch`] has something to do next; a time that has passed means now.
    /// `None`: not before another call changes something.
    pub fn next_event(&self) -> Option<Timestamp> {
        if self.inflight.len() >= self.limits.max_inflight {
            return None;
        }
        if Lane::ALL.iter().any(|lane| self.first(*lane).is_some()) {
            return Some(Timestamp(0));
        }
        let (wake, _) = self.pending.first()?;
        (*wake != NEVER).then_some(*wake)
    }

    /// The envelope is settled for good: it is forgotten.
    pub fn settled(&mut self, id: EvpId) -> Result<(), NotInflight> {
        let entry = self.inflight(id)?;
        self.detach(id, &entry);
        self.entries.remove(&id);
        let last = self.of_message(id.msgid()).next().is_none();
        self.messages -= usize::from(last);
        Ok(())
    }

    /// A temporary failure: the envelope comes back at the next point of its grid.
    pub fn tempfail(&mut self, id: EvpId, now: Timestamp) -> Result<After, NotInflight> {
        let mut entry = self.inflight(id)?;
        entry.retry = entry.retry.saturating_add(1);
        let base_s = backoff::base_s(entry.class);
        entry.next = backoff::after(entry.created, base_s, entry.retry, now);
        Ok(self.put_back(id, entry, now))
    }

    /// The agent has too many of these: the envelope waits on hold queue `key` of its class.
    pub fn hold(&mut self, id: EvpId, key: u64, now: Timestamp) -> Result<Hold, NotInflight> {
        let mut entry = self.inflight(id)?;
        if entry.is_suspended() || entry.is_leaving() {
            self.put_back(id, entry, now);
            return Ok(Hold::NotHeld);
        }
        let waiting = self.held.get(&(entry.class, key)).map_or(0, BTreeSet::len);
        if waiting >= HOLD_MAX {
            entry.next = backoff::after(entry.created, backoff::BASE_OVERFLOW_S, 0, now);
            self.put_back(id, entry, now);
            return Ok(Hold::Overflow);
        }
        self.detach(id, &entry);
        let ticket = self.ticket();
        self.place(id, entry, Spot::Held { key, ticket });
        Ok(Hold::Held)
    }

    /// Lets up to `count` envelopes of a hold queue go at once, oldest first; says how many went.
    pub fn release(&mut self, class: Class, key: u64, count: usize, now: Timestamp) -> usize {
        let Some(queue) = self.held.get(&(class, key)) else {
            return 0;
        };
        let going: Vec<EvpId> = queue.iter().take(count).map(|(_, id)| *id).collect();
        for id in &going {
            let Some(mut entry) = self.entries.get(id).copied() else {
                continue;
            };
            self.detach(*id, &entry);
            // One that was scheduled by hand before it was held may have its time to come.
            entry.next = entry.next.min(now);
            self.place(*id, entry, Spot::Pending);
        }
        going.len()
    }

    /// Nobody can settle the envelope as things are (its action is gone): it stays, visible, until
    /// the administrator schedules or removes it or it expires.
    pub fn park(&mut self, id: EvpId, now: Timestamp) -> Result<(), NotInflight> {
        let mut entry = self.inflight(id)?;
        entry.next = NEVER;
        entry.marks.set(Marks::PARKED);
        self.put_back(id, entry, now);
        Ok(())
    }

    /// Whether the administrator removed an envelope while it was in flight.
    pub fn is_removed(&self, id: EvpId) -> bool {
        self.has_mark(id, Marks::REMOVED)
    }

    /// Whether the administrator has paused an envelope.
    pub fn is_suspended(&self, id: EvpId) -> bool {
        self.has_mark(id, Marks::SUSPENDED)
    }

    /// Where an envelope stands.
    pub fn state(&self, id: EvpId) -> Option<State> {
        self.entries.get(&id).map(Entry::state)
    }

    /// How many envelopes stand where.
    pub fn counts(&self) -> Counts {
        Counts {
            envelopes: self.entries.len(),
            messages: self.messages,
            inflight: self.inflight.len(),
            held: self.held_count,
            hold_queues: self.held.len(),
        }
    }

    /// Proves that every envelope is in exactly one state and one index: it recounts everything and
    /// panics where the books do not balance.
    #[cfg(test)]
    pub fn check(&self) {
        let mut counts = [0usize; 5];
        for (id, entry) in &self.entries {
            let line = &self.due[entry.lane() as usize];
            let (to, is_busy) = self.turn_of(entry);
            let queue = |key| self.held.get(&(entry.class, key));
            let (slot, indexed) = match entry.spot {
                Spot::Pending if entry.is_suspended() => (0, true),
                Spot::Pending => (1, self.pending.contains(&(entry.wake(), *id))),
                Spot::Scheduled { ticket, .. } => (2, line.has(to, (ticket, *id), is_busy)),
                Spot::Inflight { .. } => (3, true),
                Spot::Held { key, ticket } => {
                    (4, queue(key).is_some_and(|q| q.contains(&(ticket, *id))))
                }
            };
            assert!(indexed, "{id} is {:?} and not in its index", entry.spot);
            counts[slot] += 1;
        }
        let due: usize = self.due.iter().map(Line::len).sum();
        let held: usize = self.held.values().map(BTreeSet::len).sum();
        let messages: BTreeSet<_> = self.entries.keys().map(|id| id.msgid()).collect();
        assert_eq!(messages.len(), self.messages, "messages miscounted");
        assert_eq!(counts[1], self.pending.len(), "strangers in pending");
        assert_eq!(counts[2], due, "strangers among the due");
        assert_eq!(counts[3], self.inflight.len(), "inflight miscounted");
        self.inflight.check();
        assert_eq!(counts[4], held, "strangers among the held");
        assert_eq!(held, self.held_count, "held miscounted");
        assert!(
            self.held
                .values()
                .all(|q| !q.is_empty() && q.len() <= HOLD_MAX)
        );
        assert!(self.inflight.len() <= self.limits.max_inflight);
    }

    fn has_mark(&self, id: EvpId, mark: u8) -> bool {
        self.entries.get(&id).is_some_and(|e| e.marks.has(mark))
    }

    fn inflight(&self, id: EvpId) -> Result<Entry, NotInflight> {
        match self.entries.get(&id) {
            Some(entry) if entry.state() == State::Inflight => Ok(*entry),
            _ => Err(NotInflight),
        }
    }

    /// Moves what has become due into the lines.
    fn ripen(&mut self, now: Timestamp) {
        let (mut due, mut expired) = (0, 0);
        while due < RIPEN_MAX && expired < RIPEN_MAX {
            let Some(&(wake, id)) = self.pending.first() else {
                return;
            };
            if wake > now {
                return;
            }
            let Some(mut entry) = self.entries.get(&id).copied() else {
                self.pending.pop_first();
                continue;
            };
            self.detach(id, &entry);
            if entry.expire() <= now {
                entry.marks.set(Marks::EXPIRED);
                expired += 1;
            } else {
                due += 1;
            }
            self.line_up(id, entry, now);
        }
    }

    fn hand_out(&mut self, lane: Lane, now: Timestamp) -> Option<Work> {
        let id = self.first(lane)?;
        let entry = *self.entries.get(&id)?;
        self.detach(id, &entry);
        let flight = Spot::Inflight {
            since: now,
            from: lane,
        };
        self.place(id, entry, flight);
        Some(match lane {
            Lane::Removed => Work::Remove(id),
            Lane::Expired => Work::Expire(id),
            _ => Work::Deliver(id, entry.class),
        })
    }

    /// What a line may hand out next.
    fn first(&self, lane: Lane) -> Option<EvpId> {
        if self.is_paused(lane) {
            return None;
        }
        let line = &self.due[lane as usize];
        match self.inflight.allows(lane, self.limits.max_inflight) {
            Allowed::Nothing => None,
            Allowed::Quiet => line.first(true),
            Allowed::Anything => line.first(false),
        }
    }

    fn is_paused(&self, lane: Lane) -> bool {
        match lane {
            Lane::Mda | Lane::MdaAgain => self.paused_mda,
            Lane::Mta | Lane::MtaAgain => self.paused_mta,
            Lane::Removed | Lane::Expired | Lane::Bounce | Lane::BounceAgain => false,
        }
    }

    /// Ends a flight that settled nothing.
    fn put_back(&mut self, id: EvpId, entry: Entry, now: Timestamp) -> After {
        self.detach(id, &entry);
        if entry.is_leaving() {
            self.line_up(id, entry, now);
            return After::Removing;
        }
        self.place(id, entry, Spot::Pending);
        After::Pending(entry.next)
    }

    /// Puts a detached envelope at the end of its line.
    fn line_up(&mut self, id: EvpId, entry: Entry, now: Timestamp) {
        let ticket = self.ticket();
        self.place(id, entry, Spot::Scheduled { since: now, ticket });
    }

    /// Takes an envelope out of the index of its state. `entry` is as it was placed.
    fn detach(&mut self, id: EvpId, entry: &Entry) {
        match entry.spot {
            Spot::Pending => {
                // A suspended envelope is in no index: only the administrator moves it.
                self.pending.remove(&(entry.wake(), id));
            }
            Spot::Scheduled { ticket, .. } => {
                let (to, _) = self.turn_of(entry);
                self.due[entry.lane() as usize].remove(to, (ticket, id));
            }
            Spot::Inflight { from, .. } => {
                if self.inflight.take(from, entry) {
                    self.set_busy(entry, false);
                }
            }
            Spot::Held { key, ticket } => self.leave_hold_queue((entry.class, key), (ticket, id)),
        }
    }

    fn leave_hold_queue(&mut self, key: (Class, u64), place: (u64, EvpId)) {
        let Some(queue) = self.held.get_mut(&key) else {
            return;
        };
        if queue.remove(&place) {
            self.held_count -= 1;
        }
        if queue.is_empty() {
            self.held.remove(&key);
        }
    }

    /// Puts a detached envelope into a state and the index that goes with it.
    fn place(&mut self, id: EvpId, mut entry: Entry, spot: Spot) {
        entry.spot = spot;
        match spot {
            Spot::Pending if entry.is_suspended() => {}
            Spot::Pending => {
                self.pending.insert((entry.wake(), id));
            }
            Spot::Scheduled { ticket, .. } => {
                let (to, is_busy) = self.turn_of(&entry);
                self.due[entry.lane() as usize].insert(to, (ticket, id), is_busy);
            }
            Spot::Inflight { from, .. } => {
                if self.inflight.add(from, &entry) {
                    self.set_busy(&entry, true);
                }
            }
            Spot::Held { key, ticket } => {
                let queue = self.held.entry((entry.class, key)).or_default();
                queue.insert((ticket, id));
                self.held_count += 1;
            }
        }
        self.entries.insert(id, entry);
    }

    /// Whose turns an envelope shares in its line, and whether something of that is in flight.
    fn turn_of(&self, entry: &Entry) -> (Destination, bool) {
        if entry.lane().has_destinations() {
            let is_busy = self.inflight.is_busy(entry.class, entry.to);
            (entry.to, is_busy)
        } else {
            (Destination::default(), false)
        }
    }

    /// Something for an envelope's destination is in flight now, or nothing is any more.
    fn set_busy(&mut self, entry: &Entry, is_busy: bool) {
        for lane in Lane::of(entry.class) {
            if lane.has_destinations() {
                self.due[lane as usize].set_busy(entry.to, is_busy);
            }
        }
    }

    fn ticket(&mut self) -> u64 {
        self.tickets += 1;
        self.tickets
    }
}
