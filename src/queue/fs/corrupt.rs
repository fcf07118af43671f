//! Setting aside what cannot be read: moved to `corrupt/<msgid>.<n>/`, one log line, never deleted.
//!
//! A message of which nothing is deliverable goes as it is. An unreadable envelope among readable
//! ones goes alone, with a second name for the body, so that the administrator still has both
//! when the rest of the message has been delivered. Repaired, the directory (without its `.n`)
//! can be moved back into `queue`.

use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;

use crate::log::{self, stat};
use crate::mail::{EvpId, MsgId};

use super::{Shared, layout};

/// More than this of one message is somebody's loop.
const MAX_COPIES: u32 = 10_000;

impl Shared {
    /// Moves a whole message. The caller has the message's turn.
    pub(super) fn set_aside(&self, msgid: MsgId, why: &str) {
        let dir = layout::message_dir(msgid);
        let moved = self
            .free_place(msgid)
            .and_then(|place| self.disk.rename(&dir, &place).map(|()| place));
        said(&format!("message {msgid}"), why, moved);
    }

    /// Moves one envelope, or the whole message if it has no other. The caller has the message's
    /// turn.
    pub(super) fn set_aside_one(&self, id: EvpId, why: &str) {
        let alone = match self.is_alone(id) {
            Ok(alone) => alone,
            Err(error) => return said(&format!("envelope {id}"), why, Err(error)),
        };
        let moved = self.free_place(id.msgid()).and_then(|place| {
            if alone {
                self.disk.rename(&layout::message_dir(id.msgid()), &place)?;
                return Ok(place);
            }
            self.disk.mkdir(&place)?;
            let body = layout::body_path(id.msgid());
            if let Err(error) = self.disk.link(&body, &place.join(layout::BODY)) {
                log::warn(format_args!("queue: {error}"));
            }
            self.disk
                .rename(&layout::envelope_path(id), &place.join(id.to_string()))?;
            Ok(place)
        });
        said(&format!("envelope {id}"), why, moved);
    }

    /// Moves a bag of which nothing more can be read.
    pub(super) fn set_aside_bag(&self, number: u64, why: &str) {
        let place = layout::corrupt_bag(number);
        let moved = self.disk.rename(&layout::bag(number), &place);
        said(&format!("bag {number:016x}"), why, moved.map(|()| place));
    }

    fn is_alone(&self, id: EvpId) -> io::Result<bool> {
        let mut alone = true;
        self.disk.list(
            &layout::message_dir(id.msgid()),
            &mut |name, _| match layout::envelope_from(name, id.msgid()) {
                Some(other) if other != id => {
                    alone = false;
                    ControlFlow::Break(())
                }
                _ => ControlFlow::Continue(()),
            },
        )?;
        Ok(alone)
    }

    fn free_place(&self, msgid: MsgId) -> io::Result<PathBuf> {
        for serial in 0..MAX_COPIES {
            let place = layout::corrupt(msgid, serial);
            if !self.disk.exists(&place)? {
                return Ok(place);
            }
        }
        Err(io::Error::other("too many copies in corrupt"))
    }
}

fn said(what: &str, why: &str, moved: io::Result<PathBuf>) {
    match moved {
        Ok(place) => {
            stat::QUEUE_CORRUPT.inc();
            log::warn(format_args!(
                "queue: unreadable {what}: {why}: moved to {}",
                place.display()
            ));
        }
        // Somebody else has taken it away meanwhile.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => log::warn(format_args!(
            "queue: unreadable {what}: {why}: cannot be set aside: {error}"
        )),
    }
}
