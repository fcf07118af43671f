//! What the administrator may do to envelopes: `schedule`, `remove`, `pause`, `resume`.
//!
//! Each call is for one envelope and says whether it had an effect; [`Scheduler::of_message`] and
//! [`Scheduler::all`] give the ids for the others.

use crate::mail::{EvpId, MsgId};
use crate::util::Timestamp;

use super::entry::{Marks, Spot};
use super::{Class, Scheduler, State};

impl Scheduler {
    /// `schedule`: due now, whatever its time. Refused in flight, and for what is paused, which
    /// only [`Scheduler::resume`] lets go; a no-op for what is due already.
    pub fn schedule(&mut self, id: EvpId, now: Timestamp) -> bool {
        let Some(mut entry) = self.entries.get(&id).copied() else {
            return false;
        };
        if entry.is_leaving() || entry.is_suspended() {
            return false;
        }
        match entry.state() {
            State::Inflight => false,
            State::Scheduled => true,
            State::Pending | State::Held => {
                self.detach(id, &entry);
                entry.marks.clear(Marks::PARKED);
                self.line_up(id, entry, now);
                true
            }
        }
    }

    /// `remove`: handed out for removal next. In flight it is only marked, and a delivery that
    /// succeeds meanwhile counts. Refused for what is leaving already.
    pub fn remove(&mut self, id: EvpId, now: Timestamp) -> bool {
        let Some(mut entry) = self.entries.get(&id).copied() else {
            return false;
        };
        if entry.is_leaving() {
            return false;
        }
        if entry.state() == State::Inflight {
            entry.marks.set(Marks::REMOVED);
            self.entries.insert(id, entry);
            return true;
        }
        self.detach(id, &entry);
        entry.marks.set(Marks::REMOVED);
        self.line_up(id, entry, now);
        true
    }

    /// `pause envelope`: kept and shown, not tried and not expired. Refused if paused already.
    pub fn suspend(&mut self, id: EvpId) -> bool {
        let Some(mut entry) = self.entries.get(&id).copied() else {
            return false;
        };
        if entry.is_leaving() || entry.is_suspended() {
            return false;
        }
        if entry.state() == State::Inflight {
            entry.marks.set(Marks::SUSPENDED);
            self.entries.insert(id, entry);
            return true;
        }
        self.detach(id, &entry);
        entry.marks.set(Marks::SUSPENDED);
        self.place(id, entry, Spot::Pending);
        true
    }

    /// `resume envelope`: back with its old time. Refused if not paused.
    pub fn resume(&mut self, id: EvpId) -> bool {
        let Some(mut entry) = self.entries.get(&id).copied() else {
            return false;
        };
        if entry.is_leaving() || !entry.is_suspended() {
            return false;
        }
        if entry.state() == State::Pending {
            self.detach(id, &entry);
            entry.marks.clear(Marks::SUSPENDED);
            self.place(id, entry, Spot::Pending);
        } else {
            entry.marks.clear(Marks::SUSPENDED);
            self.entries.insert(id, entry);
        }
        true
    }

    /// `pause mda|mta` (true) and `resume`: what is due waits in its line. False if it was so
    /// already; bounces cannot be paused.
    pub fn pause(&mut self, class: Class, paused: bool) -> bool {
        let flag = match class {
            Class::Mda => &mut self.paused_mda,
            Class::Mta => &mut self.paused_mta,
            Class::Bounce => return false,
        };
        let changed = *flag != paused;
        *flag = paused;
        changed
    }

    /// Whether a class is paused.
    pub fn paused(&self, class: Class) -> bool {
        match class {
            Class::Mda => self.paused_mda,
            Class::Mta => self.paused_mta,
            Class::Bounce => false,
        }
    }

    /// The envelopes of a message, in order.
    pub fn of_message(&self, msgid: MsgId) -> impl Iterator<Item = EvpId> + '_ {
        let first = EvpId::new(msgid, 1);
        let last = EvpId::new(msgid, u32::MAX);
        first
            .zip(last)
            .into_iter()
            .flat_map(|(first, last)| self.entries.range(first..=last))
            .map(|(id, _)| *id)
    }

    /// All envelopes, in order.
    pub fn all(&self) -> impl Iterator<Item = EvpId> + '_ {
        self.entries.keys().copied()
    }
}
