//! How many sessions there are, and whose: counted when they are let in, by the event loop, and
//! when they are over, by their workers.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::log::{self, stat};
use crate::mail::Peer;
use crate::sys::waker::Waker;

use super::Door;
use super::limits::Limits;
use super::source::{Counts, Entry, Source};

/// The count. Its lock is a leaf and is held for no longer than a look into a table takes.
pub(super) struct Census {
    sessions: AtomicUsize,
    sources: Mutex<Counts<Source>>,
    /// The event loop wants to know when somebody leaves.
    is_awaited: AtomicBool,
    /// Somebody has left since.
    has_left: AtomicBool,
    waker: Arc<Waker>,
}

impl Census {
    /// Nobody is there; `waker` wakes the event loop.
    pub(super) fn new(waker: Arc<Waker>) -> Census {
        Census {
            sessions: AtomicUsize::new(0),
            sources: Mutex::new(Counts::new()),
            is_awaited: AtomicBool::new(false),
            has_left: AtomicBool::new(false),
            waker,
        }
    }

    /// How many sessions there are.
    pub(super) fn sessions(&self) -> usize {
        self.sessions.load(Ordering::Acquire)
    }

    /// Counts a client, and says where it comes from; `None` if it is one too many.
    pub(super) fn let_in(
        &self,
        client: &Peer,
        address: IpAddr,
        door: &Door,
        limits: &Limits,
    ) -> Option<Source> {
        let source = Source::of(address);
        let limit = match source {
            Source::Loopback => limits.sessions_per_loopback,
            _ => door.most_per_source,
        };
        let is_exempt = || door.exempt.as_ref().is_some_and(|exempt| exempt(client));
        let mut entry = self.enter(source, limit);
        if entry != Entry::Counted && is_exempt() {
            entry = self.enter(source, usize::MAX);
        }
        if entry == Entry::RefusedAloud {
            log::warn(format_args!("smtp: too many connections from {client}"));
        }
        (entry == Entry::Counted).then_some(source)
    }

    /// Counts one more of `source`, unless there are `limit` of it.
    pub(super) fn enter(&self, source: Source, limit: usize) -> Entry {
        let entry = self.sources().enter(source, limit, Instant::now());
        if entry == Entry::Counted {
            self.sessions.fetch_add(1, Ordering::AcqRel);
            stat::SMTP_SESSION.inc();
        }
        entry
    }

    /// One of `source` is over.
    pub(super) fn leave(&self, source: Source) {
        self.sources().leave(source);
        self.sessions.fetch_sub(1, Ordering::AcqRel);
        stat::SMTP_SESSION.dec();
        if self.is_awaited.swap(false, Ordering::AcqRel) {
            self.has_left.store(true, Ordering::Release);
            self.waker.wake();
        }
    }

    /// Rings when the next session is over; from then on [`Census::has_left`] says so.
    pub(super) fn await_room(&self) {
        self.is_awaited.store(true, Ordering::Release);
    }

    /// Whether a session that was waited for is over. This is said once.
    pub(super) fn has_left(&self) -> bool {
        self.has_left.swap(false, Ordering::AcqRel)
    }

    fn sources(&self) -> MutexGuard<'_, Counts<Source>> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
