//! Recovery: a thread that walks the spool and offers the runner what it finds, while the daemon
//! serves. The runner's bounded channel sets its pace.
//!
//! A message that cannot be read is reported and left for the next start; the walk goes on.

use std::io;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::log::{self, stat};
use crate::mail::{Envelope, MsgId};
use crate::queue::{Queue, is_shortage};

use super::Handle;

/// Starts the walk. It ends by telling the runner so, or when the runner is gone.
pub fn start(queue: Queue, handle: Handle) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new()
        .name("scan".to_owned())
        .spawn(move || walk(&queue, &handle))
}

/// Walks the spool in the caller's thread.
pub fn walk(queue: &Queue, handle: &Handle) {
    let mut count = 0u64;
    let mut closed = 0u64;
    for msgid in queue.messages() {
        let envelopes = match read(queue, msgid) {
            Ok(envelopes) => envelopes,
            // It was delivered and removed since its name was read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => {
                stat::QUEUE_UNREADABLE.inc();
                // Whole trees of them are told in one line.
                let is_first = closed == 0;
                let is_closed = error.kind() == io::ErrorKind::PermissionDenied;
                closed += u64::from(is_closed);
                if is_first || !is_closed {
                    log::warn(format_args!("queue: cannot read message {msgid}: {error}"));
                }
                continue;
            }
        };
        count += envelopes.len() as u64;
        if !handle.found(envelopes) {
            return;
        }
    }
    if closed > 0 {
        log::warn(format_args!(
            "queue: {closed} messages belong to another user and are not delivered: stop smtpd and \
             give them to the owner of the directory queue with chown -R"
        ));
    }
    log::debug(format_args!(
        "queue: done loading queue into scheduler ({count} envelopes)"
    ));
    handle.scanned();
}

/// How long the walk waits when descriptors or memory have run out, and how often: a message that
/// it leaves out lies there until the next start.
const SHORT_PAUSE: Duration = Duration::from_secs(1);
const SHORT_TRIES: usize = 24 * 60 * 60;

fn read(queue: &Queue, msgid: MsgId) -> io::Result<Vec<Envelope>> {
    for _ in 0..SHORT_TRIES {
        match queue.envelopes(msgid) {
            Err(error) if is_shortage(&error) => std::thread::sleep(SHORT_PAUSE),
            read => return read,
        }
    }
    queue.envelopes(msgid)
}
