//! Recovery: a few threads that walk the spool and offer the runner what they find, while the daemon
//! serves. The runner's bounded channel sets their pace.
//!
//! A message that cannot be read is reported and left for the next start; the walk goes on.

use std::io;
use std::num::NonZero;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::log::{self, stat};
use crate::mail::{Envelope, MsgId};
use crate::queue::{Queue, is_shortage};

use super::Handle;

/// Threads that walk: reading takes several times as long as what the runner does with it.
const THREADS_MAX: usize = 4;
/// Messages read at a time: a runner that is woken for each does little else.
pub(super) const TOGETHER: usize = 16;

/// Starts the walk. It ends by telling the runner so, or when the runner is gone.
pub fn start(queue: Queue, handle: Handle) -> io::Result<JoinHandle<()>> {
    thread::Builder::new()
        .name("scan".to_owned())
        .spawn(move || walk(&queue, &handle))
}

/// A walk under way.
struct Walk<'w> {
    queue: &'w Queue,
    handle: &'w Handle,
    messages: Mutex<Box<dyn Iterator<Item = MsgId> + Send>>,
    envelopes: AtomicU64,
    /// Messages that belong to another user.
    closed: AtomicU64,
    /// Whether the runner has gone.
    is_over: AtomicBool,
}

/// Walks the spool; returns when all of it has been found.
pub fn walk(queue: &Queue, handle: &Handle) {
    let walk = Walk::over(queue.messages(), queue, handle);
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    thread::scope(|scope| {
        for number in 2..=threads.min(THREADS_MAX) {
            let helper = thread::Builder::new().name(format!("scan {number}"));
            // Without it the walk takes longer.
            let _ = helper.spawn_scoped(scope, || walk.read_on());
        }
        walk.read_on();
    });
    if walk.is_over.into_inner() {
        return;
    }
    let closed = walk.closed.into_inner();
    if closed > 0 {
        log::warn(format_args!(
            "queue: {closed} messages belong to another user and are not delivered: stop smtpd and \
             give them to the owner of the directory queue with chown -R"
        ));
    }
    let count = walk.envelopes.into_inner();
    log::debug(format_args!(
        "queue: done loading queue into scheduler ({count} envelopes)"
    ));
    handle.scanned();
}

impl<'w> Walk<'w> {
    fn over(
        messages: Box<dyn Iterator<Item = MsgId> + Send>,
        queue: &'w Queue,
        handle: &'w Handle,
    ) -> Walk<'w> {
        Walk {
            queue,
            handle,
            messages: Mutex::new(messages),
            envelopes: AtomicU64::new(0),
            closed: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
        }
    }

    /// Reads messages that nobody has read, until there are none.
    fn read_on(&self) {
        while !self.is_over.load(Relaxed) {
            let ids = self.next();
            if ids.is_empty() {
                return;
            }
            let read = self.queue.envelopes_of(&ids);
            let found = ids.into_iter().zip(read);
            let found: Vec<Envelope> = found.flat_map(|(id, read)| self.found(id, read)).collect();
            self.envelopes.fetch_add(found.len() as u64, Relaxed);
            if !found.is_empty() && !self.handle.found(found) {
                self.is_over.store(true, Relaxed);
            }
        }
    }

    fn next(&self) -> Vec<MsgId> {
        let messages = self.messages.lock();
        let mut messages = messages.unwrap_or_else(PoisonError::into_inner);
        messages.by_ref().take(TOGETHER).collect()
    }

    fn found(&self, msgid: MsgId, read: io::Result<Vec<Envelope>>) -> Vec<Envelope> {
        match patiently(self.queue, msgid, read) {
            Ok(envelopes) => return envelopes,
            // It was delivered and removed since its name was read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                stat::QUEUE_UNREADABLE.inc();
                // Whole trees of them are told in one line.
                let is_closed = error.kind() == io::ErrorKind::PermissionDenied;
                let is_first = self.closed.fetch_add(u64::from(is_closed), Relaxed) == 0;
                if is_first || !is_closed {
                    log::warn(format_args!("queue: cannot read message {msgid}: {error}"));
                }
            }
        }
        Vec::new()
    }
}

/// How long the walk waits when descriptors or memory have run out, and how often: a message that
/// it leaves out lies there until the next start.
const SHORT_PAUSE: Duration = Duration::from_secs(1);
const SHORT_TRIES: usize = 24 * 60 * 60;

fn patiently(
    queue: &Queue,
    msgid: MsgId,
    mut read: io::Result<Vec<Envelope>>,
) -> io::Result<Vec<Envelope>> {
    for _ in 0..SHORT_TRIES {
        match read {
            Err(error) if is_shortage(&error) => thread::sleep(SHORT_PAUSE),
            read => return read,
        }
        read = queue.envelopes(msgid);
    }
    read
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::mail::EvpId;
    use crate::mail::samples::envelope;
    use crate::queue::fs::{Fs, Options, envelope_path};
    use crate::runner::{Found, channel};

    /// A spool with as many messages as several threads take.
    fn filled(dir: &Path) -> (Queue, BTreeSet<EvpId>) {
        let queue = Queue::new(Arc::new(Fs::open(dir, Options::default()).unwrap()));
        let ids = (0..10 * TOGETHER).map(|_| {
            let mut message = queue.begin().unwrap();
            message.add(envelope("ann")).unwrap();
            message.write(b"text\n").unwrap();
            message.commit().unwrap().envelopes()[0].id
        });
        let ids = ids.collect();
        (queue, ids)
    }

    #[test]
    fn a_walk_ends_when_nobody_listens() {
        // smtpd(8): SIGTERM ends the daemon; what is in the queue is found at the next start.
        let dir = tempfile::tempdir().unwrap();
        let (queue, _) = filled(dir.path());
        let (handle, inbox) = channel();
        drop(inbox);
        let taken = Arc::new(AtomicU64::new(0));
        let count = taken.clone();
        let messages = queue.messages().inspect(move |_| {
            count.fetch_add(1, Relaxed);
        });
        Walk::over(Box::new(messages), &queue, &handle).read_on();
        assert_eq!(taken.load(Relaxed), TOGETHER as u64);
    }

    #[test]
    fn every_message_is_found_once_and_a_damaged_one_stops_nothing() {
        // smtpd(8): mail that is in the queue at the start is delivered.
        let dir = tempfile::tempdir().unwrap();
        let (queue, mut left) = filled(dir.path());
        let damaged = left.pop_first().unwrap();
        std::fs::write(dir.path().join(envelope_path(damaged)), "damaged").unwrap();
        let (handle, inbox) = channel();
        walk(&queue, &handle);
        let mut is_over = false;
        for what in inbox.found.try_iter() {
            assert!(!is_over);
            match what {
                Found::These(found) => found.iter().for_each(|one| {
                    assert!(left.remove(&one.id), "{}", one.id);
                }),
                Found::All => is_over = true,
            }
        }
        assert!(is_over && left.is_empty());
    }
}
