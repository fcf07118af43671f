//! Reading the spool: which messages there are, and their envelopes.
//!
//! The walk holds the names of one bucket at a time, so it can run for as long as it likes while
//! mail comes and goes; a message that is still being committed is not shown. A file that cannot
//! be read as an envelope goes to `corrupt`; one that the disk, its mode, or the lack of its key
//! does not let us read stays where it is, for the next look.

use std::ffi::OsString;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use crate::log::{self, stat};
use crate::mail::{Envelope, EvpId, MsgId};
use crate::queue::{LoadError, is_shortage};

use super::bags::form::Part;
use super::{EntryKind, Shared, bogus, buckets, layout};

/// A walk that finds descriptors used up waits for them: what it leaves out would lie there until
/// the next start.
const SHORT_PAUSE: Duration = Duration::from_secs(1);
const SHORT_TRIES: usize = 24 * 60 * 60;

/// The ids of all messages: of those in bags, then bucket by bucket. One that is unpacked meanwhile
/// may come twice.
pub(super) struct Walk {
    shared: Arc<Shared>,
    buckets: std::vec::IntoIter<u8>,
    current: std::vec::IntoIter<MsgId>,
}

impl Walk {
    pub(super) fn new(shared: Arc<Shared>) -> Walk {
        shared.await_bags();
        let bagged = shared.bags.messages();
        let buckets = found(shared.patiently(|| buckets::list(&*shared.disk)));
        Walk {
            shared,
            buckets: buckets.into_iter(),
            current: bagged.into_iter(),
        }
    }
}

impl Iterator for Walk {
    type Item = MsgId;

    fn next(&mut self) -> Option<MsgId> {
        loop {
            if let Some(id) = self.current.next() {
                if !self.shared.ids.is_live(id) {
                    return Some(id);
                }
                continue;
            }
            let bucket = self.buckets.next()?;
            self.current = found(self.shared.messages_in(bucket)).into_iter();
        }
    }
}

/// What was read of a message's envelopes.
#[derive(Default)]
struct Readings {
    envelopes: Vec<Envelope>,
    unreadable: Vec<(EvpId, String)>,
    /// Whether there are some that may be read another time.
    closed: bool,
}

/// The names in one message's directory.
#[derive(Default)]
pub(super) struct Listing {
    pub(super) envelopes: Vec<EvpId>,
    pub(super) body: bool,
    strays: Vec<OsString>,
}

impl Shared {
    pub(super) fn load(&self, id: EvpId) -> Result<Envelope, LoadError> {
        let result = self.read_envelope(id);
        match &result {
            Err(LoadError::Corrupt(why)) if self.bags.has(id.msgid()) => {
                self.unpack_unreadable(id.msgid(), why);
                let is_unpacked = !self.bags.has(id.msgid())
                    && matches!(self.disk.exists(&layout::envelope_path(id)), Ok(true));
                if is_unpacked {
                    return self.load(id);
                }
            }
            Err(LoadError::Corrupt(why)) => {
                let _turn = self.turn(id.msgid());
                self.set_aside_one(id, why);
            }
            Err(LoadError::Io(error)) => self.note(error),
            Ok(_) | Err(LoadError::Missing) => {}
        }
        result
    }

    pub(super) fn envelopes(&self, msgid: MsgId) -> io::Result<Vec<Envelope>> {
        if self.ids.is_live(msgid) {
            return Err(io::Error::from(io::ErrorKind::NotFound));
        }
        if let Some(ids) = self.bagged(msgid) {
            let read = self.read_these(&ids)?;
            let Some((id, why)) = read.unreadable.first() else {
                return Ok(read.envelopes);
            };
            self.unpack_unreadable(msgid, &format!("{id}: {why}"));
            if self.bags.has(msgid) {
                return Ok(read.envelopes);
            }
            if !self.disk.exists(&layout::message_dir(msgid))? {
                return Ok(Vec::new());
            }
        }
        let listing = self.listing(msgid).inspect_err(|error| self.note(error))?;
        if let Some(problem) = self.problem_of(msgid, &listing) {
            let _turn = self.turn(msgid);
            self.set_aside(msgid, problem);
            return Ok(Vec::new());
        }
        let read = self.read_these(&listing.envelopes)?;
        let others = read.closed || !read.envelopes.is_empty();
        self.set_aside_these(msgid, &read.unreadable, others);
        Ok(read.envelopes)
    }

    fn read_these(&self, ids: &[EvpId]) -> io::Result<Readings> {
        let mut read = Readings::default();
        for &id in ids {
            match self.read_envelope(id) {
                Ok(envelope) => read.envelopes.push(envelope),
                Err(LoadError::Missing) => {}
                Err(LoadError::Corrupt(why)) => read.unreadable.push((id, why)),
                // All of it can be read a little later.
                Err(LoadError::Io(error)) if is_shortage(&error) => {
                    self.note(&error);
                    return Err(error);
                }
                Err(LoadError::Io(error)) => {
                    read.closed = true;
                    stat::QUEUE_UNREADABLE.inc();
                    log::warn(format_args!("queue: {error}"));
                }
            }
        }
        Ok(read)
    }

    /// The envelopes of a message that is in a bag.
    fn bagged(&self, msgid: MsgId) -> Option<Vec<EvpId>> {
        let (_, parts) = self.bags.envelopes(msgid)?;
        Some(parts.iter().filter_map(Part::envelope).collect())
    }

    /// Unreadable envelopes go one by one while there are `others` to stay for, else all together.
    fn set_aside_these(&self, msgid: MsgId, unreadable: &[(EvpId, String)], others: bool) {
        let Some((first, why)) = unreadable.first() else {
            return;
        };
        let _turn = self.turn(msgid);
        if !others {
            return self.set_aside(msgid, &format!("{first}: {why}"));
        }
        for (id, why) in unreadable {
            self.set_aside_one(*id, why);
        }
    }

    /// What makes a whole message undeliverable. An empty directory is the remains of a removal
    /// that a power cut tore; it goes without a word.
    fn problem_of(&self, msgid: MsgId, listing: &Listing) -> Option<&'static str> {
        if listing.envelopes.is_empty() && !listing.body && listing.strays.is_empty() {
            let _ = self.disk.rmdir(&layout::message_dir(msgid));
            return None;
        }
        if listing.envelopes.is_empty() {
            return Some("no envelope");
        }
        (!listing.body).then_some("no body")
    }

    /// The names of a message's envelopes, as far as they can be had.
    pub(super) fn listed(&self, msgid: MsgId) -> Vec<EvpId> {
        self.bagged(msgid).unwrap_or_else(|| {
            let listing = self.listing(msgid);
            listing.map(|found| found.envelopes).unwrap_or_default()
        })
    }

    pub(super) fn listing(&self, msgid: MsgId) -> io::Result<Listing> {
        let dir = layout::message_dir(msgid);
        let mut listing = Listing::default();
        self.disk.list(&dir, &mut |name, kind| {
            match layout::envelope_from(name, msgid) {
                _ if kind != EntryKind::File => listing.strays.push(name.to_owned()),
                Some(id) => listing.envelopes.push(id),
                None if name == layout::BODY => listing.body = true,
                None => listing.strays.push(name.to_owned()),
            }
            ControlFlow::Continue(())
        })?;
        for name in &listing.strays {
            bogus(&dir, name);
        }
        listing.envelopes.sort_unstable();
        Ok(listing)
    }

    pub(super) fn messages_in(&self, bucket: u8) -> io::Result<Vec<MsgId>> {
        let dir = layout::bucket_dir(bucket);
        self.patiently(|| {
            let mut ids = Vec::new();
            self.disk.list(&dir, &mut |name, kind| {
                match layout::message_from(name, bucket) {
                    Some(id) if kind == EntryKind::Dir => ids.push(id),
                    _ => bogus(&dir, name),
                }
                ControlFlow::Continue(())
            })?;
            Ok(ids)
        })
    }

    /// What `look` finds. While descriptors are used up it is asked again.
    pub(super) fn patiently<T>(&self, look: impl Fn() -> io::Result<T>) -> io::Result<T> {
        let mut result = look();
        for _ in 0..SHORT_TRIES {
            match &result {
                Err(error) if is_shortage(error) => self.note(error),
                _ => break,
            }
            std::thread::sleep(SHORT_PAUSE);
            result = look();
        }
        result
    }
}

/// What cannot be listed is left out, with a line in the log.
fn found<T>(listed: io::Result<Vec<T>>) -> Vec<T> {
    listed.unwrap_or_else(|error| {
        stat::QUEUE_UNREADABLE.inc();
        log::warn(format_args!("queue: {error}"));
        Vec::new()
    })
}
