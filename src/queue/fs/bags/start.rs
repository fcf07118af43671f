//! The bags that an earlier process has left: their tables are read at the start, most of them
//! beside everything else.
//!
//! Mail is received meanwhile. A commit waits for the last table: only then is it known that no
//! message that lies there has the new one's id.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::log::{self, stat};
use crate::mail::MsgId;
use crate::queue::fs::{EntryKind, Shared, bogus, layout};

use super::form;
use super::index::Marks;

/// What is still to be read.
#[derive(Default)]
pub(in crate::queue::fs) struct Reading {
    unread: Mutex<Unread>,
    ended: Condvar,
}

#[derive(Default)]
struct Unread {
    bags: Vec<u64>,
    is_over: bool,
    repairs: Repairs,
}

/// What has to be done about bags that were found.
#[derive(Default)]
struct Repairs {
    /// Messages that lie in a directory as well, and the marks that they should have.
    unpacked: Vec<(MsgId, Marks)>,
    /// Those of which nothing is left.
    empty: Vec<u64>,
    /// Those that are damaged.
    damaged: Vec<u64>,
}

impl Reading {
    fn lock(&self) -> MutexGuard<'_, Unread> {
        self.unread.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// Notes which bags there are, and reads tables until so many envelopes are known.
    pub(in crate::queue::fs) fn find_bags(&self, envelopes: usize) -> io::Result<()> {
        let mut unread = self.reading.lock();
        let room = Path::new(layout::BAGS);
        self.disk.list(room, &mut |name, kind| {
            match layout::bag_from(name) {
                Some(number) if kind == EntryKind::File => unread.bags.push(number),
                _ => bogus(room, name),
            }
            ControlFlow::Continue(())
        })?;
        let mut known = 0;
        while known < envelopes
            && let Some(number) = unread.bags.pop()
        {
            known += self.find_bag(number, &mut unread.repairs);
        }
        Ok(())
    }

    /// Reads all tables, and does what that has shown to be necessary. For one thread alone.
    pub(in crate::queue::fs) fn read_bags(&self) {
        let Unread {
            bags, mut repairs, ..
        } = std::mem::take(&mut *self.reading.lock());
        for number in bags {
            self.find_bag(number, &mut repairs);
        }
        self.mend_bags(repairs);
        self.reading.lock().is_over = true;
        self.reading.ended.notify_all();
    }

    /// Returns when all tables are read.
    pub(in crate::queue::fs) fn await_bags(&self) {
        let unread = self.reading.lock();
        let waited = self.reading.ended.wait_while(unread, |it| !it.is_over);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// Waits so long for it; says whether all tables are read.
    pub(super) fn await_bags_for(&self, time: Duration) -> bool {
        let unread = self.reading.lock();
        let waited = self
            .reading
            .ended
            .wait_timeout_while(unread, time, |it| !it.is_over);
        waited.unwrap_or_else(PoisonError::into_inner).0.is_over
    }

    /// No message in a bag has this id. One that was received while tables were read may have been
    /// given it.
    pub(in crate::queue::fs) fn is_unique(&self, msgid: MsgId) -> io::Result<()> {
        self.await_bags();
        if self.bags.has(msgid) {
            Err(io::Error::other("another message has its id"))
        } else {
            Ok(())
        }
    }

    /// How many envelopes a bag has. One that cannot be read stays where it is.
    fn find_bag(&self, number: u64, repairs: &mut Repairs) -> usize {
        self.try_find_bag(number, repairs).unwrap_or_else(|error| {
            // It stays where it is.
            stat::QUEUE_UNREADABLE.inc();
            log::warn(format_args!("queue: {error}"));
            0
        })
    }

    fn try_find_bag(&self, number: u64, repairs: &mut Repairs) -> io::Result<usize> {
        // Clients may have used up all descriptors meanwhile.
        let file = self.patiently(|| self.disk.open(&layout::bag(number)))?;
        let contents = form::read(&file)?;
        let mut gone = contents.gone(&file)?;
        for message in &contents.messages {
            let parts = gone.get_mut(message.body..message.body + message.parts);
            let parts = parts.unwrap_or_default();
            let is_live = parts.iter().skip(1).any(|gone| !gone);
            if is_live && self.disk.exists(&layout::message_dir(message.msgid))? {
                parts.fill(true);
                let marks = Marks {
                    bag: number,
                    at: contents.marks_at + message.body as u64,
                    count: message.parts,
                };
                repairs.unpacked.push((message.msgid, marks));
            }
        }
        let envelopes = gone.iter().filter(|gone| !**gone).count();
        let damaged = contents.damaged;
        if damaged {
            repairs.damaged.push(number);
        }
        if !self.bags.add(number, contents, gone, self.now()) && !damaged {
            repairs.empty.push(number);
        }
        Ok(envelopes)
    }

    /// The process that has unpacked a message may have died before its place in `queue` was
    /// durable. Until it is the bag stays as it is: without that sync it is the only copy that
    /// survives, now and at the next start.
    fn mend_bags(&self, repairs: Repairs) {
        let mut synced = BTreeMap::new();
        let mut needed = BTreeSet::new();
        for (msgid, marks) in repairs.unpacked {
            let is_durable = *synced
                .entry(layout::bucket_of(msgid))
                .or_insert_with(|| self.is_place_durable(msgid));
            if is_durable {
                self.mark_unpacked(msgid, marks);
            } else {
                needed.insert(marks.bag);
            }
        }
        let stays = |bag: &u64| !needed.contains(bag);
        for bag in repairs.empty.into_iter().filter(stays) {
            self.remove_bag(bag);
        }
        for bag in repairs.damaged.into_iter().filter(stays) {
            self.salvage(bag, "its table is damaged");
        }
    }

    fn is_place_durable(&self, msgid: MsgId) -> bool {
        let synced = self.sync_bucket(msgid);
        synced
            .inspect_err(|error| log::warn(format_args!("queue: {error}")))
            .is_ok()
    }
}
