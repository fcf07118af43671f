//! The queue: durable truth about what has been accepted and not yet settled.
//!
//! [`Queue`] is the door; a [`Store`] keeps the files (`fs`) or fakes them for tests (`ram`).
//! A message is made with [`Queue::begin`], given envelopes and a body, and committed: only a
//! finished commit makes a [`Committed`], and only a `Committed` entitles anyone to say 250.
//! A dropped [`Incoming`] leaves nothing behind.

#![forbid(unsafe_code)]

pub mod coding;
pub mod envelope_file;
pub mod fs;
pub mod ram;
mod body;
mod file;
mod shared_error;

#[cfg(test)]
mod contract;

use std::io;
use std::sync::Arc;

use crate::log::profile::{self, Profile};
use crate::log::{self, Trace, stat};
use crate::mail::{Dsn, Envelope, EvpId, MailAddr, MsgId};

pub use coding::Body;
pub use file::DiskFile;
pub use fs::bags::{MAX_PARCELS, Parcel};
use shared_error::SharedError;

/// The door to a store; clones share it.
#[derive(Clone)]
pub struct Queue(Arc<dyn Store>);

/// What keeps messages. Every call may block on the disk; none is made by the event loop.
/// Every implementation passes the same contract test.
pub trait Store: Send + Sync {
    /// Starts a message: draws its id and keeps it from being drawn again.
    fn begin(&self) -> Result<Box<dyn Draft>, BeginError>;
    /// Reads an envelope.
    fn load(&self, id: EvpId) -> Result<Envelope, LoadError>;
    /// Reads envelopes; the answers come in their order.
    fn load_these(&self, ids: &[EvpId]) -> Vec<Result<Envelope, LoadError>> {
        ids.iter().map(|id| self.load(*id)).collect()
    }
    /// Opens a message's body: plain text, LF line ends, from its first byte.
    fn open_body(&self, id: MsgId) -> io::Result<Body>;
    /// Replaces an envelope on disk, atomically and durably.
    fn update(&self, envelope: &Envelope) -> io::Result<()>;
    /// Adds an envelope (a bounce) to a committed message, atomically and durably. The `id` that
    /// it comes with only names the message; the new id is returned.
    fn add(&self, envelope: &Envelope) -> io::Result<EvpId>;
    /// Removes an envelope, and with the last one the message. Removing what is gone is no error.
    fn remove(&self, id: EvpId) -> io::Result<()>;
    /// Names of all committed messages now; the order means nothing.
    fn messages(&self) -> Box<dyn Iterator<Item = MsgId> + Send>;
    /// The envelopes of one message. What cannot be read is set aside with a log line.
    fn envelopes(&self, id: MsgId) -> io::Result<Vec<Envelope>>;
    /// The same of several messages; the answers come in their order.
    fn envelopes_of(&self, ids: &[MsgId]) -> Vec<io::Result<Vec<Envelope>>> {
        ids.iter().map(|id| self.envelopes(*id)).collect()
    }
    /// Makes messages durable and visible together, all of them or none.
    fn commit_parcels(&self, _: &[Parcel]) -> io::Result<()> {
        Err(io::Error::from(io::ErrorKind::Unsupported))
    }
}

/// A message being received, as a store sees it. Dropping it rolls back.
pub trait Draft: Send {
    /// Its id.
    fn msgid(&self) -> MsgId;
    /// Adds an envelope and names it; the `id` in `envelope` is ignored.
    fn add(&mut self, envelope: Envelope) -> io::Result<EvpId>;
    /// Gives an envelope that was added another recipient, and other wishes of the sender.
    fn readdress(&mut self, id: EvpId, rcpt: MailAddr, dsn: Dsn) -> io::Result<()>;
    /// Appends body bytes: LF line ends, header first. Does not touch the disk unless
    /// [`Draft::is_full`].
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Puts header fields, with LF line ends, in front of all that has been written. Does not touch
    /// the disk.
    fn put_in_front(&mut self, fields: &[u8]) -> io::Result<()>;
    /// Whether the next write may have to wait for the disk, unless [`Draft::spill`] comes first.
    fn is_full(&self) -> bool {
        false
    }
    /// Whether all of it is in memory, and no more than is best committed together with others.
    fn is_small(&self) -> bool {
        false
    }
    /// Writes to the disk what is in memory.
    fn spill(&mut self) -> io::Result<()> {
        Ok(())
    }
    /// Makes the message durable and visible, all of it or nothing.
    fn commit(self: Box<Self>) -> io::Result<Vec<Envelope>>;
    /// The message as [`Store::commit_parcels`] takes it, or `None` if it must be committed alone.
    fn pack(&mut self) -> io::Result<Option<Parcel>> {
        Ok(None)
    }
    /// Its parcel is committed: its envelopes.
    fn committed(&mut self) -> Vec<Envelope> {
        Vec::new()
    }
}

/// A message being received. Dropping it leaves nothing behind.
pub struct Incoming {
    queue: Queue,
    draft: Box<dyn Draft>,
    size_bytes: u64,
    counted: Counted,
}

/// Envelopes of a message that is not in the queue yet, as `show stats` counts them.
#[derive(Default)]
struct Counted(i64);

impl Counted {
    fn one_more(&mut self) {
        self.0 += 1;
        stat::SCHEDULER_ENVELOPE_INCOMING.inc();
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if self.0 != 0 {
            stat::SCHEDULER_ENVELOPE_INCOMING.add(-self.0);
        }
    }
}

/// Proof that a message is durable: only [`Incoming::commit`] makes one.
#[derive(Debug)]
pub struct Committed {
    msgid: MsgId,
    envelopes: Vec<Envelope>,
}

/// Why no message can be started now.
#[derive(Debug)]
pub enum BeginError {
    /// The spool is short of space or inodes: 452.
    Full,
    /// Anything else: 421.
    Io(io::Error),
}

/// Why an envelope cannot be read.
#[derive(Debug)]
pub enum LoadError {
    Missing,
    /// It was unreadable and has been set aside.
    Corrupt(String),
    /// The disk said no, or the key is not there; the file stays, and trying again may help.
    Io(io::Error),
}

impl Queue {
    /// A queue over this store.
    pub fn new(store: Arc<dyn Store>) -> Queue {
        Queue(store)
    }

    /// Starts a message.
    pub fn begin(&self) -> Result<Incoming, BeginError> {
        let _timed = profile::time(Profile::Queue, "begin");
        Ok(Incoming {
            queue: self.clone(),
            draft: self.0.begin()?,
            size_bytes: 0,
            counted: Counted::default(),
        })
    }

    /// Reads an envelope.
    pub fn load(&self, id: EvpId) -> Result<Envelope, LoadError> {
        let _timed = profile::time(Profile::Queue, "load");
        log::trace(Trace::Queue, format_args!("queue: load {id}"));
        self.0.load(id)
    }

    /// Reads envelopes; the answers come in their order.
    pub fn load_these(&self, ids: &[EvpId]) -> Vec<Result<Envelope, LoadError>> {
        let _timed = profile::time(Profile::Queue, "load-these");
        for id in ids {
            log::trace(Trace::Queue, format_args!("queue: load {id}"));
        }
        self.0.load_these(ids)
    }

    /// Opens a message's body.
    pub fn open_body(&self, id: MsgId) -> io::Result<Body> {
        let _timed = profile::time(Profile::Queue, "open-body");
        log::trace(Trace::Queue, format_args!("queue: body of {id}"));
        self.0.open_body(id)
    }

    /// Replaces an envelope on disk.
    pub fn update(&self, envelope: &Envelope) -> io::Result<()> {
        let _timed = profile::time(Profile::Queue, "update");
        log::trace(Trace::Queue, format_args!("queue: update {}", envelope.id));
        self.0.update(envelope)
    }

    /// Adds an envelope to a committed message and returns its id.
    pub fn add(&self, envelope: &Envelope) -> io::Result<EvpId> {
        let _timed = profile::time(Profile::Queue, "add");
        let added = self.0.add(envelope);
        if let Ok(id) = &added {
            log::trace(Trace::Queue, format_args!("queue: add {id}"));
        }
        added
    }

    /// Removes an envelope, and with the last one the message.
    pub fn remove(&self, id: EvpId) -> io::Result<()> {
        let _timed = profile::time(Profile::Queue, "remove");
        log::trace(Trace::Queue, format_args!("queue: remove {id}"));
        self.0.remove(id)
    }

    /// Names of all committed messages now.
    pub fn messages(&self) -> Box<dyn Iterator<Item = MsgId> + Send> {
        self.0.messages()
    }

    /// The envelopes of one message.
    pub fn envelopes(&self, id: MsgId) -> io::Result<Vec<Envelope>> {
        let _timed = profile::time(Profile::Queue, "envelopes");
        log::trace(Trace::Queue, format_args!("queue: envelopes of {id}"));
        self.0.envelopes(id)
    }

    /// The envelopes of several messages; the answers come in their order.
    pub fn envelopes_of(&self, ids: &[MsgId]) -> Vec<io::Result<Vec<Envelope>>> {
        let _timed = profile::time(Profile::Queue, "envelopes-together");
        for id in ids {
            log::trace(Trace::Queue, format_args!("queue: envelopes of {id}"));
        }
        self.0.envelopes_of(ids)
    }
}

impl Incoming {
    /// The message's id.
    pub fn msgid(&self) -> MsgId {
        self.draft.msgid()
    }

    /// Body bytes written so far.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Adds an envelope; its id is given to it here.
    pub fn add(&mut self, envelope: Envelope) -> io::Result<EvpId> {
        let added = self.draft.add(envelope)?;
        self.counted.one_more();
        Ok(added)
    }

    /// Gives an envelope that was added another recipient, and other wishes of the sender.
    pub fn readdress(&mut self, id: EvpId, rcpt: MailAddr, dsn: Dsn) -> io::Result<()> {
        self.draft.readdress(id, rcpt, dsn)
    }

    /// Appends body bytes: LF line ends, header first.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.draft.write(bytes)?;
        self.size_bytes += bytes.len() as u64;
        Ok(())
    }

    /// Puts header fields, with LF line ends, in front of all that has been written: those that
    /// nobody could know before the message was complete. A few kilobytes; what is on the disk
    /// already is copied behind them by the commit.
    pub fn put_in_front(&mut self, fields: &[u8]) -> io::Result<()> {
        self.draft.put_in_front(fields)?;
        self.size_bytes += fields.len() as u64;
        Ok(())
    }

    /// Whether so much is in memory that the next write may have to wait for the disk.
    pub fn is_full(&self) -> bool {
        self.draft.is_full()
    }

    /// Whether it is so small that it is best committed together with others.
    pub fn is_small(&self) -> bool {
        self.draft.is_small()
    }

    /// Writes what is in memory to the disk.
    pub fn spill(&mut self) -> io::Result<()> {
        self.draft.spill()
    }

    /// Makes the message durable. On an error nothing of it is left.
    pub fn commit(self) -> io::Result<Committed> {
        let _timed = profile::time(Profile::Queue, "commit");
        let msgid = self.msgid();
        Ok(Committed::new(msgid, self.draft.commit()?))
    }
}

/// Makes messages durable, of one queue, those that can be together: at most [`MAX_PARCELS`]. The
/// answers come in their order.
pub fn commit_all(mut messages: Vec<Incoming>) -> Vec<io::Result<Committed>> {
    let Some(queue) = messages.first().map(|first| first.queue.clone()) else {
        return Vec::new();
    };
    let mut parcels = Vec::new();
    let packed: Vec<io::Result<bool>> = messages
        .iter_mut()
        .map(|message| {
            let parcel = message.draft.pack()?;
            let is_packed = parcel.is_some();
            parcels.extend(parcel);
            Ok(is_packed)
        })
        .collect();
    let stored = if parcels.is_empty() {
        Ok(())
    } else {
        let _timed = profile::time(Profile::Queue, "commit-together");
        queue.0.commit_parcels(&parcels)
    };
    let stored = stored.map_err(|error| SharedError::of(&error));
    let answer = |(mut message, packed): (Incoming, io::Result<bool>)| {
        if packed? {
            stored.as_ref().map_err(SharedError::to_error)?;
            Ok(Committed::new(message.msgid(), message.draft.committed()))
        } else {
            message.commit()
        }
    };
    messages.into_iter().zip(packed).map(answer).collect()
}

/// Whether an error of the queue says that space, a quota or descriptors have run out: 452, and
/// the session may go on.
pub fn is_shortage(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::OutOfMemory
    )
}

impl Committed {
    fn new(msgid: MsgId, envelopes: Vec<Envelope>) -> Committed {
        log::trace(
            Trace::Queue,
            format_args!("queue: commit {msgid} of {} envelopes", envelopes.len()),
        );
        Committed { msgid, envelopes }
    }

    /// The message's id.
    pub fn msgid(&self) -> MsgId {
        self.msgid
    }

    /// Its envelopes, for the scheduler.
    pub fn envelopes(&self) -> &[Envelope] {
        &self.envelopes
    }

    /// The same, taken out.
    pub fn into_envelopes(self) -> Vec<Envelope> {
        self.envelopes
    }
}
