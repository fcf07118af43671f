//! A message on its way in: nothing, then `incoming/<msgid>`, then `queue/XX/<msgid>`.
//!
//! Envelopes stay in memory until the commit. A 250 to RCPT promises nothing, the caller gets
//! them back from the commit anyway, and so a transaction that is reset or refused costs no file
//! at all; their number and size are bounded by [`super::Options`].
//!
//! The commit, in this order: body and envelopes written and synced, the directory with them
//! synced, one rename into the bucket, the bucket synced. Files are first written, several at a
//! time, and then synced: the file system's journal then takes the first sync's write for all of
//! them.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use crate::log;
use crate::mail::{Dsn, Envelope, EvpId, MailAddr, MsgId};
use crate::queue::body::BodyWriter;
use crate::queue::coding::Name;
use crate::queue::{Draft, envelope_file};
use crate::sys;

use super::{DiskFile, Shared, invalid, layout};

/// What a small file takes up.
const FILE_BYTES: u64 = 4096;
/// Files held open at a time during a commit.
const BATCH: usize = 16;

/// A message being received.
pub(super) struct FsDraft {
    shared: Arc<Shared>,
    msgid: MsgId,
    envelopes: Vec<Envelope>,
    /// Where each is among the envelopes.
    places: HashMap<EvpId, usize>,
    envelope_bytes: usize,
    body: BodyWriter,
    place: Place,
}

/// What a rollback has to undo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Nothing: no file has been made, or the message is committed.
    Nowhere,
    /// `incoming/<msgid>`.
    Incoming,
    /// `queue/XX/<msgid>`, not known to be durable.
    Queue,
}

impl FsDraft {
    pub(super) fn new(shared: Arc<Shared>, msgid: MsgId) -> FsDraft {
        FsDraft {
            shared,
            msgid,
            envelopes: Vec::new(),
            places: HashMap::new(),
            envelope_bytes: 0,
            body: BodyWriter::default(),
            place: Place::Nowhere,
        }
    }

    fn store(&mut self) -> io::Result<()> {
        if self.envelopes.is_empty() {
            return Err(invalid("a message without envelopes"));
        }
        self.write_files()?;
        self.shared
            .disk
            .sync_dir(&layout::incoming_dir(self.msgid))?;
        self.move_in()?;
        let bucket = layout::bucket_dir(layout::bucket_of(self.msgid));
        self.shared.sync_dir(&bucket)?;
        self.place = Place::Nowhere;
        Ok(())
    }

    fn write_files(&mut self) -> io::Result<()> {
        let body = self
            .body
            .finish(|| create_body(&self.shared, self.msgid, &mut self.place))?;
        let dir = layout::incoming_dir(self.msgid);
        let mut written = vec![body];
        for envelope in &self.envelopes {
            if written.len() == BATCH {
                sync_files(&mut written)?;
            }
            let text = envelope_file::encode(envelope).map_err(|why| invalid(&why))?;
            let mut file = self
                .shared
                .disk
                .create(&dir.join(envelope.id.to_string()))?;
            let coding = &self.shared.options.coding;
            file.write(&coding.encode(Name::envelope(envelope.id), text.as_bytes())?)?;
            written.push(file);
        }
        sync_files(&mut written)
    }

    /// Only an administrator removes a bucket; then it is made again, once.
    fn move_in(&mut self) -> io::Result<()> {
        let bucket = layout::bucket_of(self.msgid);
        let from = layout::incoming_dir(self.msgid);
        let to = layout::message_dir(self.msgid);
        self.shared.ensure_bucket(bucket)?;
        let mut moved = self.shared.disk.rename(&from, &to);
        if matches!(&moved, Err(error) if error.kind() == io::ErrorKind::NotFound) {
            self.shared.buckets.lost(bucket);
            self.shared.ensure_bucket(bucket)?;
            moved = self.shared.disk.rename(&from, &to);
        }
        moved?;
        self.place = Place::Queue;
        Ok(())
    }

    fn new_id(&self) -> io::Result<EvpId> {
        let id = || EvpId::new(self.msgid, sys::random::number_u32());
        let new = |id: &EvpId| !self.places.contains_key(id);
        (0..ID_ATTEMPTS)
            .find_map(|_| id().filter(new))
            .ok_or_else(|| io::Error::other("could not allocate evpid"))
    }

    /// Counts the bytes of an envelope's file.
    fn weigh(&mut self, envelope: &Envelope) -> io::Result<()> {
        let text = envelope_file::encode(envelope).map_err(|why| invalid(&why))?;
        self.envelope_bytes += text.len();
        if self.envelope_bytes > self.shared.options.max_envelope_bytes {
            return Err(invalid("too many bytes of envelopes in one message"));
        }
        Ok(())
    }

    fn roll_back(&mut self) {
        let undone = match self.place {
            Place::Nowhere => return,
            Place::Incoming => self.shared.discard(&layout::incoming_dir(self.msgid)),
            Place::Queue => self.shared.discard(&layout::message_dir(self.msgid)),
        };
        if let Err(error) = undone {
            log::warn(format_args!(
                "queue: cannot roll back message {}: {error}",
                self.msgid
            ));
        }
    }
}

/// Ids that are taken are passed over so many times; a crowded spool does not hold up a session.
pub(super) const ID_ATTEMPTS: usize = 20;

impl Draft for FsDraft {
    fn msgid(&self) -> MsgId {
        self.msgid
    }

    fn add(&mut self, envelope: Envelope) -> io::Result<EvpId> {
        if self.envelopes.len() >= self.shared.options.max_envelopes {
            return Err(invalid("too many envelopes in one message"));
        }
        let id = self.new_id()?;
        let envelope = Envelope { id, ..envelope };
        self.weigh(&envelope)?;
        self.shared.space.spend(FILE_BYTES, 1);
        self.places.insert(id, self.envelopes.len());
        self.envelopes.push(envelope);
        Ok(id)
    }

    fn readdress(&mut self, id: EvpId, rcpt: MailAddr, dsn: Dsn) -> io::Result<()> {
        let place = self.places.get(&id).copied().unwrap_or(usize::MAX);
        let old = self.envelopes.get(place).cloned();
        let old = old.ok_or_else(|| invalid("no such envelope in this message"))?;
        let envelope = Envelope { rcpt, dsn, ..old };
        self.weigh(&envelope)?;
        if let Some(place) = self.envelopes.get_mut(place) {
            *place = envelope;
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let (shared, msgid, place) = (&self.shared, self.msgid, &mut self.place);
        shared.space.spend(bytes.len() as u64, 0);
        self.body
            .write(bytes, || create_body(shared, msgid, place))
            .inspect_err(|error| shared.note(error))
    }

    fn is_full(&self) -> bool {
        self.body.is_full()
    }

    fn spill(&mut self) -> io::Result<()> {
        let (shared, msgid, place) = (&self.shared, self.msgid, &mut self.place);
        self.body
            .spill(|| create_body(shared, msgid, place))
            .inspect_err(|error| shared.note(error))
    }

    fn commit(mut self: Box<Self>) -> io::Result<Vec<Envelope>> {
        let stored = self.store();
        self.shared.noted(stored)?;
        Ok(std::mem::take(&mut self.envelopes))
    }
}

impl Drop for FsDraft {
    fn drop(&mut self) {
        self.roll_back();
        self.shared.ids.release(self.msgid);
    }
}

fn create_body(shared: &Shared, msgid: MsgId, place: &mut Place) -> io::Result<Box<dyn DiskFile>> {
    let dir = layout::incoming_dir(msgid);
    shared.disk.mkdir(&dir)?;
    *place = Place::Incoming;
    let file = shared.disk.create(&dir.join(layout::BODY))?;
    shared.options.coding.writer(Name::body(msgid), file)
}

fn sync_files(written: &mut Vec<Box<dyn DiskFile>>) -> io::Result<()> {
    for file in written.iter_mut() {
        file.start_writeback();
    }
    for mut file in written.drain(..) {
        file.sync()?;
    }
    Ok(())
}
