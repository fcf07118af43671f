//! A message on its way in: nothing, then `incoming/<msgid>`, then `queue/XX/<msgid>`.
//!
//! Envelopes stay in memory until the commit. A 250 to RCPT promises nothing, the caller gets
//! them back from the commit anyway, and so a transaction that is reset or refused costs no file
//! at all; their number and size are bounded by [`super::Options`].
//!
//! A message that is still in memory at its commit goes into a bag, with others or alone. The
//! commit of a larger one, in this order: body and envelopes written and synced, the directory with
//! them synced, one rename into the bucket, the bucket synced. Files are first written, several at
//! a time, and then synced: the file system's journal then takes the first sync's write for all of
//! them.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::log;
use crate::mail::{Dsn, Envelope, EvpId, MailAddr, MsgId};
use crate::queue::body::BodyWriter;
use crate::queue::coding::Name;
use crate::queue::{DiskFile, Draft, envelope_file};
use crate::sys;

use super::bags::{Parcel, form};
use super::keyed::copy;
use super::{Shared, invalid, layout};

/// What a small file takes up.
const FILE_BYTES: u64 = 4096;
/// Files held open at a time during a commit.
const BATCH: usize = 16;
/// So much leaves memory when messages hold too much of it together.
const WORTH_WRITING_BYTES: usize = 4096;
/// A message with more bytes of envelopes shares no file.
const PACKED_ENVELOPE_BYTES: usize = 4 * 1024 * 1024;

/// A message being received.
pub(super) struct FsDraft {
    shared: Arc<Shared>,
    msgid: MsgId,
    envelopes: Vec<Ready>,
    /// Where each is among the envelopes.
    places: HashMap<EvpId, usize>,
    envelope_bytes: usize,
    body: BodyWriter,
    /// Header fields that came when a part of the body was on the disk.
    late_fields: Vec<u8>,
    held_bytes: usize,
    stage: Stage,
}

/// An envelope, and the text of its file.
struct Ready {
    envelope: Envelope,
    text: String,
}

/// What a rollback has to undo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
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
            late_fields: Vec::new(),
            held_bytes: 0,
            stage: Stage::Nowhere,
        }
    }

    fn store(&mut self) -> io::Result<()> {
        self.has_envelopes()?;
        self.shared.is_unique(self.msgid)?;
        self.write_files()?;
        self.shared.move_in(self.msgid)?;
        self.stage = Stage::Queue;
        self.shared.sync_bucket(self.msgid)?;
        self.stage = Stage::Nowhere;
        Ok(())
    }

    fn has_envelopes(&self) -> io::Result<()> {
        if self.envelopes.is_empty() {
            Err(invalid("a message without envelopes"))
        } else {
            Ok(())
        }
    }

    /// The envelope's file, as it is on the disk.
    fn encoded(&self, ready: &Ready) -> io::Result<Vec<u8>> {
        let coding = &self.shared.options.coding;
        coding.encode(Name::envelope(ready.envelope.id), ready.text.as_bytes())
    }

    fn write_files(&mut self) -> io::Result<()> {
        let mut body = self
            .body
            .finish(|| create_body(&self.shared, self.msgid, &mut self.stage))?;
        if !self.late_fields.is_empty() {
            drop(body);
            body = self.copy_behind_late_fields()?;
        }
        let mut files = Files::of(&self.shared, self.msgid);
        files.written.push(body);
        for ready in &self.envelopes {
            let name = ready.envelope.id.to_string();
            files.add(name.as_ref(), &self.encoded(ready)?)?;
        }
        files.sync()
    }

    /// Writes the body once more, for nothing can be put in front of what a file holds.
    fn copy_behind_late_fields(&self) -> io::Result<Box<dyn DiskFile>> {
        let (disk, coding) = (&self.shared.disk, &self.shared.options.coding);
        let name = Name::body(self.msgid);
        let path = layout::incoming_dir(self.msgid).join(layout::BODY);
        let mut body = coding.open(name, disk.open(&path)?)?;
        disk.unlink(&path)?;
        let mut file = coding.writer(name, disk.create(&path)?)?;
        file.write(&self.late_fields)?;
        copy(&mut body, &mut *file)?;
        Ok(file)
    }

    /// Notes how much of the message is in memory.
    fn count_held(&mut self, held_bytes: usize) {
        let held = &self.shared.held_bytes;
        held.fetch_add(held_bytes, Ordering::Relaxed);
        held.fetch_sub(self.held_bytes, Ordering::Relaxed);
        self.held_bytes = held_bytes;
    }

    fn try_pack(&mut self) -> io::Result<Option<Parcel>> {
        if !self.is_small() {
            return Ok(None);
        }
        self.has_envelopes()?;
        self.shared.is_unique(self.msgid)?;
        let Some(text) = self.body.take_unwritten() else {
            return Ok(None);
        };
        let body = Name::body(self.msgid);
        let mut parts = vec![(body, self.shared.options.coding.encode(body, &text)?)];
        let mut envelopes: Vec<_> = self.envelopes.iter().collect();
        envelopes.sort_unstable_by_key(|ready| ready.envelope.id);
        for ready in envelopes {
            let name = Name::envelope(ready.envelope.id);
            parts.push((name, self.encoded(ready)?));
        }
        Ok(Some(Parcel(parts)))
    }

    fn new_id(&self) -> io::Result<EvpId> {
        let id = || EvpId::new(self.msgid, sys::random::number_u32());
        let new = |id: &EvpId| !self.places.contains_key(id);
        (0..ID_ATTEMPTS)
            .find_map(|_| id().filter(new))
            .ok_or_else(|| io::Error::other("could not allocate evpid"))
    }

    /// Writes the text of an envelope's file, and counts its bytes.
    fn ready(&mut self, envelope: Envelope) -> io::Result<Ready> {
        let text = envelope_file::encode(&envelope).map_err(|why| invalid(&why))?;
        self.envelope_bytes += text.len();
        if self.envelope_bytes > self.shared.options.max_envelope_bytes {
            return Err(invalid("too many bytes of envelopes in one message"));
        }
        Ok(Ready { envelope, text })
    }

    fn roll_back(&mut self) {
        let dir = match self.stage {
            Stage::Nowhere => return,
            Stage::Incoming => layout::incoming_dir(self.msgid),
            Stage::Queue => layout::message_dir(self.msgid),
        };
        self.shared.undo(self.msgid, &dir);
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
        let ready = self.ready(Envelope { id, ..envelope })?;
        self.shared.space.spend(FILE_BYTES, 1);
        self.places.insert(id, self.envelopes.len());
        self.envelopes.push(ready);
        Ok(id)
    }

    fn readdress(&mut self, id: EvpId, rcpt: MailAddr, dsn: Dsn) -> io::Result<()> {
        let place = self.places.get(&id).copied().unwrap_or(usize::MAX);
        let old = self
            .envelopes
            .get(place)
            .map(|ready| ready.envelope.clone());
        let old = old.ok_or_else(|| invalid("no such envelope in this message"))?;
        let ready = self.ready(Envelope { rcpt, dsn, ..old })?;
        if let Some(place) = self.envelopes.get_mut(place) {
            *place = ready;
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let (shared, msgid, stage) = (&self.shared, self.msgid, &mut self.stage);
        shared.space.spend(bytes.len() as u64, 0);
        let written = self
            .body
            .write(bytes, || create_body(shared, msgid, stage))
            .inspect_err(|error| shared.note(error));
        self.count_held(self.body.held_bytes());
        written
    }

    fn put_in_front(&mut self, fields: &[u8]) -> io::Result<()> {
        if self.body.put_in_front(fields) {
            self.count_held(self.body.held_bytes());
        } else {
            self.late_fields.splice(0..0, fields.iter().copied());
        }
        Ok(())
    }

    fn is_full(&self) -> bool {
        let all_held = self.shared.held_bytes.load(Ordering::Relaxed);
        self.body.is_full()
            || all_held > self.shared.options.max_held_bytes
                && self.body.held_bytes() >= WORTH_WRITING_BYTES
    }

    fn is_small(&self) -> bool {
        self.shared.options.bags
            && self.body.is_unwritten()
            && self.envelopes.len() <= form::MAX_ENVELOPES
            && self.envelope_bytes <= PACKED_ENVELOPE_BYTES
    }

    fn spill(&mut self) -> io::Result<()> {
        let (shared, msgid, stage) = (&self.shared, self.msgid, &mut self.stage);
        let spilled = self
            .body
            .spill(|| create_body(shared, msgid, stage))
            .inspect_err(|error| shared.note(error));
        self.count_held(self.body.held_bytes());
        spilled
    }

    fn commit(mut self: Box<Self>) -> io::Result<Vec<Envelope>> {
        let stored = match self.try_pack() {
            Ok(Some(parcel)) => self.shared.put_bag(&[parcel]),
            Ok(None) => self.store(),
            Err(error) => Err(error),
        };
        self.shared.noted(stored)?;
        Ok(self.committed())
    }

    fn pack(&mut self) -> io::Result<Option<Parcel>> {
        let packed = self.try_pack();
        packed.inspect_err(|error| self.shared.note(error))
    }

    fn committed(&mut self) -> Vec<Envelope> {
        let envelopes = std::mem::take(&mut self.envelopes).into_iter();
        envelopes.map(|ready| ready.envelope).collect()
    }
}

impl Drop for FsDraft {
    fn drop(&mut self) {
        self.roll_back();
        self.count_held(0);
        self.shared.ids.release(self.msgid);
    }
}

fn create_body(shared: &Shared, msgid: MsgId, stage: &mut Stage) -> io::Result<Box<dyn DiskFile>> {
    let dir = layout::incoming_dir(msgid);
    shared.disk.mkdir(&dir)?;
    *stage = Stage::Incoming;
    let file = shared.disk.create(&dir.join(layout::BODY))?;
    shared.options.coding.writer(Name::body(msgid), file)
}

/// Files of a message being written to `incoming`.
struct Files<'s> {
    shared: &'s Shared,
    dir: PathBuf,
    written: Vec<Box<dyn DiskFile>>,
}

impl Files<'_> {
    fn of(shared: &Shared, msgid: MsgId) -> Files<'_> {
        Files {
            shared,
            dir: layout::incoming_dir(msgid),
            written: Vec::new(),
        }
    }

    fn add(&mut self, name: &OsStr, bytes: &[u8]) -> io::Result<()> {
        if self.written.len() >= BATCH {
            self.sync_files()?;
        }
        let mut file = self.shared.disk.create(&self.dir.join(name))?;
        file.write(bytes)?;
        self.written.push(file);
        Ok(())
    }

    /// Makes the files and their directory durable.
    fn sync(mut self) -> io::Result<()> {
        self.sync_files()?;
        self.shared.disk.sync_dir(&self.dir)
    }

    fn sync_files(&mut self) -> io::Result<()> {
        for file in &mut self.written {
            file.start_writeback();
        }
        for mut file in self.written.drain(..) {
            file.sync()?;
        }
        Ok(())
    }
}

impl Shared {
    /// A message with these files appears in `queue`, durable, or not at all.
    pub(super) fn put_message(
        &self,
        msgid: MsgId,
        files: &[(OsString, Vec<u8>)],
    ) -> io::Result<()> {
        let (from, to) = (layout::incoming_dir(msgid), layout::message_dir(msgid));
        self.disk.mkdir(&from)?;
        let mut writing = Files::of(self, msgid);
        let written = files
            .iter()
            .try_for_each(|(name, bytes)| writing.add(name, bytes))
            .and_then(|()| writing.sync());
        if let Err(error) = written.and_then(|()| self.move_in(msgid)) {
            self.undo(msgid, &from);
            return Err(error);
        }
        self.sync_bucket(msgid)
            .inspect_err(|_| self.undo(msgid, &to))
    }

    /// Writes these files of a message to `incoming`, for somebody who syncs them.
    pub(super) fn write_message(
        &self,
        msgid: MsgId,
        files: &[(OsString, Vec<u8>)],
    ) -> io::Result<()> {
        let dir = layout::incoming_dir(msgid);
        self.disk.mkdir(&dir)?;
        files.iter().try_for_each(|(name, bytes)| {
            let mut file = self.disk.create(&dir.join(name))?;
            file.write(bytes)
        })
    }

    pub(super) fn undo(&self, msgid: MsgId, dir: &Path) {
        if let Err(error) = self.discard(dir) {
            log::warn(format_args!(
                "queue: cannot roll back message {msgid}: {error}"
            ));
        }
    }

    /// Only an administrator removes a bucket; then it is made again, once.
    pub(super) fn move_in(&self, msgid: MsgId) -> io::Result<()> {
        let bucket = layout::bucket_of(msgid);
        let (from, to) = (layout::incoming_dir(msgid), layout::message_dir(msgid));
        self.ensure_bucket(bucket)?;
        let moved = self.disk.rename(&from, &to);
        if !matches!(&moved, Err(error) if error.kind() == io::ErrorKind::NotFound) {
            return moved;
        }
        self.buckets.lost(bucket);
        self.ensure_bucket(bucket)?;
        self.disk.rename(&from, &to)
    }

    pub(super) fn sync_bucket(&self, msgid: MsgId) -> io::Result<()> {
        self.sync_dir(&layout::bucket_dir(layout::bucket_of(msgid)))
    }
}
