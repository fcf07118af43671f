//! Recovery: a thread that walks the spool and offers the runner what it finds, while the daemon
//! serves. The runner's bounded channel sets its pace.
//!
//! A message that cannot be read is reported and left for the next start; the walk goes on.

use std::io;
use std::thread::JoinHandle;

use crate::log;
use crate::queue::Queue;

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
    for msgid in queue.messages() {
        let envelopes = match queue.envelopes(msgid) {
            Ok(envelopes) => envelopes,
            // It was delivered and removed since its name was read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => {
                log::warn(format_args!("queue: cannot read message {msgid}: {error}"));
                continue;
            }
        };
        count += envelopes.len() as u64;
        if !handle.found(msgid, envelopes) {
            return;
        }
    }
    log::debug(format_args!(
        "queue: done loading queue into scheduler ({count} envelopes)"
    ));
    handle.scanned();
}
