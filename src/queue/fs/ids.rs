//! Drawing message ids, and which of them belong to messages not yet committed.
//!
//! The top byte of an id names its bucket. Were it random, two commits of the same moment would
//! nearly always sync different directories. So it follows the clock's second: messages begun
//! together land in one bucket and share its sync, while over 256 seconds all buckets fill
//! evenly. The other 24 bits are random, and an id is checked against what is being received
//! (here) and what is queued (on disk).

use std::collections::HashSet;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::log;
use crate::mail::MsgId;
use crate::queue::is_shortage;
use crate::sys;
use crate::util::Timestamp;

/// Draws until one is free; with a million messages in one bucket a draw fails one time in 16.
const ATTEMPTS: usize = 64;
/// Buckets that are tried.
const BUCKETS: usize = 8;

/// Ids of messages that are being received.
#[derive(Default)]
pub(super) struct Ids {
    live: Mutex<HashSet<MsgId>>,
    /// Whether the log has been told that a bucket takes no mail.
    refused: AtomicBool,
}

impl Ids {
    /// Draws an id that is nobody's and holds it until [`Ids::release`]. `taken` asks the disk;
    /// where that says no, which may be the fault of one bucket, the next one is tried.
    pub(super) fn draw(
        &self,
        now: Timestamp,
        taken: impl Fn(MsgId) -> io::Result<bool>,
    ) -> io::Result<MsgId> {
        let (mut bucket, mut refusals) = (now, 0);
        for _ in 0..ATTEMPTS {
            let Some(id) = candidate(bucket, sys::random::number_u32()) else {
                continue;
            };
            if !self.lock().insert(id) {
                continue;
            }
            match taken(id) {
                Ok(false) => return Ok(id),
                Ok(true) => self.release(id),
                Err(error) => {
                    self.release(id);
                    refusals += 1;
                    if refusals == BUCKETS || is_shortage(&error) {
                        return Err(error);
                    }
                    if !self.refused.swap(true, Relaxed) {
                        log::warn(format_args!(
                            "queue: {error}: such directories of the queue take no mail, others do"
                        ));
                    }
                    bucket = Timestamp(bucket.0 + 1);
                }
            }
        }
        Err(io::Error::other("no free message id found"))
    }

    /// The message is committed or gone.
    pub(super) fn release(&self, id: MsgId) {
        self.lock().remove(&id);
    }

    /// Whether a message with this id is being received.
    pub(super) fn is_live(&self, id: MsgId) -> bool {
        self.lock().contains(&id)
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<MsgId>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn candidate(now: Timestamp, random: u32) -> Option<MsgId> {
    MsgId::new((now.0 as u32) << 24 | random >> 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_one_second_share_a_bucket_and_none_is_zero() {
        assert_eq!(candidate(Timestamp(256), 0x12), None);
        let a = candidate(Timestamp(0x6543_21ab), u32::MAX).unwrap();
        assert_eq!(a.to_string(), "abffffff");
    }

    #[test]
    fn an_id_is_drawn_again_while_it_is_on_disk() {
        // spool-layout.md, Directories: no id is given to two live messages.
        let ids = Ids::default();
        let asked = std::cell::Cell::new(0);
        let id = ids
            .draw(Timestamp(5), |_| {
                asked.set(asked.get() + 1);
                Ok(asked.get() < 4)
            })
            .unwrap();
        assert_eq!(asked.get(), 4);
        assert!(ids.is_live(id));
        ids.release(id);
        assert!(!ids.is_live(id));
        assert!(ids.draw(Timestamp(5), |_| Ok(true)).is_err());
        assert!(ids.lock().is_empty());
    }
    #[test]
    fn a_bucket_that_the_system_refuses_costs_no_mail() {
        // spool-layout.md, Directories: nothing in the queue blocks new mail.
        let ids = Ids::default();
        let refuses = |bucket: u32| {
            ids.draw(Timestamp(5), |id| match id.get() >> 24 {
                at if at < bucket => Err(io::ErrorKind::PermissionDenied.into()),
                _ => Ok(false),
            })
        };
        assert_eq!(refuses(7).unwrap().get() >> 24, 7);
        // A disk that fails is said, after some.
        assert!(refuses(200).is_err());
        let full = |_| Err(io::ErrorKind::StorageFull.into());
        assert!(is_shortage(&ids.draw(Timestamp(5), full).unwrap_err()));
        assert_eq!(ids.lock().len(), 1);
    }
}
