//! What the administrator asks of the queue.

use std::collections::BTreeSet;

use crate::control::message::{Answer, Ask, Subsystem, Which};
use crate::control::summary::Summary;
use crate::log;
use crate::mail::{EvpId, MsgId};
use crate::runner::Reply;
use crate::runner::disk::Job;
use crate::runner::list::{self, Wanted};
use crate::runner::settle::why;
use crate::scheduler::{Class, Holding, Row, Scheduler, State};
use crate::util::Timestamp;

use super::Core;

/// Suspensions written to the disk per step: few, because the runner itself writes them.
const MARKS_PER_STEP: usize = 2;

impl Core {
    /// Carries out a request of smtpctl(8), and answers it now or later.
    pub fn ask(&mut self, ask: Ask, reply: Reply, now: Timestamp) {
        match ask {
            Ask::Schedule(which) => {
                let count = self.each(which, |scheduler, id| scheduler.schedule(id, now));
                reply(Answer::Count(count));
            }
            Ask::Remove(which) => {
                let count = self.each(which, |scheduler, id| scheduler.remove(id, now));
                reply(Answer::Count(count));
            }
            Ask::Suspend(which) => {
                let count = self.suspend(which, Scheduler::suspend);
                reply(Answer::Count(count));
            }
            Ask::Resume(which) => {
                let count = self.suspend(which, Scheduler::resume);
                reply(Answer::Count(count));
            }
            Ask::Discover(Which::Message(id)) => self.disk.other(Job::DiscoverMessage(id, reply)),
            Ask::Discover(Which::Envelope(id)) => self.disk.other(Job::DiscoverEnvelope(id, reply)),
            Ask::List { after, only } => self.list(after, only, reply, now),
            Ask::Pause(Subsystem::Mda, on) => reply(self.pause(Class::Mda, "mda", on)),
            Ask::Pause(Subsystem::Mta, on) => reply(self.pause(Class::Mta, "mta", on)),
            Ask::Status => reply(Answer::Status {
                mda: self.scheduler.paused(Class::Mda),
                mta: self.scheduler.paused(Class::Mta),
                smtp: false,
                notes: Vec::new(),
            }),
            Ask::Discover(Which::All)
            | Ask::Pause(Subsystem::Smtp, _)
            | Ask::Submit
            | Ask::Verbose(_)
            | Ask::Stats
            | Ask::UpdateTable(_)
            | Ask::Reload
            | Ask::Requeue(..)
            | Ask::Relaying(..)
            | Ask::ResumeRoute(_)
            | Ask::Block(_)
            | Ask::Explain(_)
            | Ask::Trace(..)
            | Ask::TraceOf(..)
            | Ask::Profile(..) => reply(Answer::Fail(String::new())),
        }
    }

    /// Whether an agent has this envelope, also if it is to be removed when it comes back.
    pub fn is_inflight(&self, id: EvpId) -> bool {
        self.scheduler.state(id) == Some(State::Inflight)
    }

    /// Applies `what` to the envelopes asked for and counts those it affected.
    fn each(&mut self, which: Which, mut what: impl FnMut(&mut Scheduler, EvpId) -> bool) -> u32 {
        let ids = self.ids(which);
        let affected = ids
            .into_iter()
            .filter(|id| what(&mut self.scheduler, *id))
            .count();
        u32::try_from(affected).unwrap_or(u32::MAX)
    }

    fn ids(&self, which: Which) -> Vec<EvpId> {
        match which {
            Which::Envelope(id) => vec![id],
            Which::Message(msgid) => self.scheduler.of_message(msgid).collect(),
            Which::All => self.scheduler.all().collect(),
        }
    }

    /// Suspends or resumes, and remembers to write it down: it outlives a restart.
    fn suspend(&mut self, which: Which, what: fn(&mut Scheduler, EvpId) -> bool) -> u32 {
        let mut changed = BTreeSet::new();
        let count = self.each(which, |scheduler, id| {
            let done = what(scheduler, id);
            if done {
                changed.insert(id);
            }
            done
        });
        self.marks.append(&mut changed);
        count
    }

    /// Writes some suspensions to the disk. An envelope that is just being settled is written by that.
    pub(super) fn write_marks(&mut self) -> bool {
        let mut busy = false;
        for _ in 0..MARKS_PER_STEP {
            let Some(id) = self.marks.pop_first() else {
                break;
            };
            busy = true;
            let is_elsewhere = match self.scheduler.state(id) {
                Some(State::Inflight) => !self.flights.contains_key(&id),
                state => state.is_none(),
            };
            if is_elsewhere {
                continue;
            }
            if let Err(why) = self.write_mark(id) {
                log::warn(format_args!(
                    "queue: envelope {id} is not paused or resumed on disk: {why}"
                ));
            }
        }
        busy
    }

    fn write_mark(&mut self, id: EvpId) -> Result<(), String> {
        let suspended = self.scheduler.is_suspended(id);
        let mut loaded;
        let envelope = match self.flights.get_mut(&id) {
            Some(flight) => &mut *flight.envelope,
            None => {
                loaded = self.load(id).map_err(|error| why(&error))?;
                &mut loaded
            }
        };
        if envelope.flags.suspended == suspended {
            return Ok(());
        }
        envelope.flags.suspended = suspended;
        self.queue
            .update(envelope)
            .map_err(|error| error.to_string())
    }

    fn pause(&mut self, class: Class, name: &str, on: bool) -> Answer {
        if !self.scheduler.pause(class, on) {
            return Answer::Fail(String::new());
        }
        let what = if on { "paused" } else { "resumed" };
        log::info(format_args!("info: {name} {what}"));
        Answer::Ok
    }

    pub(super) fn list(
        &mut self,
        after: Option<EvpId>,
        only: Option<MsgId>,
        reply: Reply,
        now: Timestamp,
    ) {
        let rows = self.scheduler.list(after, only, list::PAGE);
        let wanted: Vec<Wanted> = rows
            .into_iter()
            .map(|row| (row, self.summary(&row)))
            .collect();
        self.disk.other(Job::List {
            wanted,
            only,
            now,
            reply,
        });
    }

    /// What is listed of an envelope, as far as it is known without the disk.
    fn summary(&self, row: &Row) -> Option<Summary> {
        match self.flights.get(&row.id) {
            // The configuration says why.
            _ if row.hold == Holding::Parked => None,
            Some(flight) => Some(Summary::of(&flight.envelope)),
            None => self.cache.summary(row.id),
        }
    }
}
