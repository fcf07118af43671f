//! Bags: files that small messages share which are committed at the same time.
//!
//! A bag is whole or not there, as a message is: it is written under a temporary name, synced,
//! renamed into `bags`, and `bags` synced; that makes all its messages durable. An envelope that is
//! settled gets a mark, and a bag of which nothing is left is unlinked; neither is synced, as no
//! removal is. Everything else that may happen to a message happens to it unpacked: written, as
//! any large message is, to a directory of its own, and then marked. Where both are found, because
//! a stop came between the two, the directory is the message.

use std::ffi::OsString;
use std::io;
use std::path::Path;

use crate::log;
use crate::mail::{Envelope, EvpId, MsgId};
use crate::queue::coding::{Name, Unreadable};
use crate::queue::{Body, envelope_file};
use crate::util::Timestamp;

use super::{Shared, invalid, layout};

mod bulk;
pub mod form;
mod index;
mod start;
#[cfg(test)]
mod tests;

use form::{GONE, Part};
pub use form::{MAX_PARCELS, Parcel};
pub(super) use index::Index;
use index::{Marks, Settled, Taken};
pub(super) use start::Reading;

/// What is different about a message when it is unpacked.
#[derive(Clone, Copy)]
pub(super) enum Change<'e> {
    Nothing,
    /// This state of an envelope replaces the one that is there.
    Replaced(&'e Envelope),
    /// This envelope is new.
    Added(&'e Envelope),
}

/// The files of a message: their names and what they hold.
type Files = Vec<(OsString, Vec<u8>)>;

/// Bags that are older and of which less than half is left are unpacked.
const LEFT_OVER_S: u64 = 60;
/// How often a part is looked for that is being unpacked.
const LOOKS: usize = 8;

impl Shared {
    /// Makes these messages durable and visible, all of them or none.
    pub(super) fn put_bag(&self, parcels: &[Parcel]) -> io::Result<()> {
        self.await_bags();
        let (bytes, contents) = form::build(parcels)?;
        let number = self.free_number()?;
        let (from, to) = (layout::scratch_bag(number), layout::bag(number));
        let written = self.disk.create(&from).and_then(|mut file| {
            file.write(&bytes)?;
            file.sync()
        });
        let moved = written.and_then(|()| self.disk.rename(&from, &to));
        if let Err(error) = moved {
            // What cannot be unlinked now is cleared away at the next start.
            let _ = self.disk.unlink(&from);
            return Err(error);
        }
        if let Err(error) = self.sync_dir(Path::new(layout::BAGS)) {
            if let Err(error) = self.disk.unlink(&to) {
                log::warn(format_args!("queue: cannot roll back a commit: {error}"));
            }
            return Err(error);
        }
        let gone = vec![false; contents.parts.len()];
        self.bags.add(number, contents, gone, self.now());
        Ok(())
    }

    /// Settles an envelope; says whether it was in a bag.
    pub(super) fn settle_in_bag(&self, id: EvpId) -> io::Result<bool> {
        // The mark does no harm if the message is being unpacked: the envelope is then there.
        if let Some(mark) = self.bags.mark_of(id) {
            self.mark(mark.bag, mark.at, mark.count)?;
        }
        match self.bags.settle(id) {
            Settled::Elsewhere => return Ok(false),
            Settled::Here => {}
            Settled::Last(mark) if self.bags.is_damaged(mark.bag) => {
                self.mark_last(id, mark)?;
                self.remove_bag(mark.bag);
            }
            Settled::Last(mark) => {
                if self.disk.unlink(&layout::bag(mark.bag)).is_err() {
                    self.mark_last(id, mark)?;
                }
            }
        }
        Ok(true)
    }

    /// The index knows nothing any more of what was the last of its bag: a mark that cannot be made
    /// is owed, for the next attempt to make it.
    fn mark_last(&self, id: EvpId, mark: Marks) -> io::Result<()> {
        let marked = self.mark(mark.bag, mark.at, mark.count);
        marked.inspect_err(|_| self.bags.owe(id.msgid(), mark))
    }

    /// Gives a message a directory of its own, if it is in a bag; says whether it was.
    pub(super) fn unpack(&self, msgid: MsgId, change: Change<'_>) -> io::Result<bool> {
        let Some(taken) = self.bags.take(msgid) else {
            return Ok(false);
        };
        let files = self
            .files_of(&taken)
            .and_then(|files| self.changed(files, change));
        match files.and_then(|files| self.put_message(msgid, &files)) {
            Ok(()) => {
                self.is_unpacked(&taken);
                Ok(true)
            }
            Err(error) => {
                self.bags.put_back(msgid);
                Err(error)
            }
        }
    }

    /// Unpacks what is left of bags that keep much space for little.
    pub(super) fn unpack_left_over(&self) {
        let since = Timestamp(self.now().0.saturating_sub(LEFT_OVER_S));
        self.unpack_these(&self.bags.left_over(since));
    }

    fn unpack_these(&self, messages: &[MsgId]) {
        for msgid in messages {
            let Some((bag, _)) = self.bags.body(*msgid) else {
                continue;
            };
            if let Err(error) = self.unpack(*msgid, Change::Nothing) {
                self.cannot_unpack(*msgid, &error);
                if is_damage(&error) {
                    self.salvage(bag, &error.to_string());
                }
            }
        }
    }

    fn cannot_unpack(&self, msgid: MsgId, error: &io::Error) {
        log::warn(format_args!(
            "queue: cannot unpack message {msgid}: {error}"
        ));
    }

    /// What is in a bag and cannot be read. A message whose files would be whole is unpacked, to be
    /// seen to as any other; else the bag is damaged, and everything in it is.
    pub(super) fn unpack_unreadable(&self, msgid: MsgId, why: &str) {
        let Some((bag, _)) = self.bags.body(msgid) else {
            return;
        };
        match self.unpack(msgid, Change::Nothing) {
            Err(error) if is_damage(&error) => self.salvage(bag, why),
            Err(error) => log::warn(format_args!("queue: {error}")),
            Ok(_) => {}
        }
    }

    /// Unpacks what can be read of a damaged bag, and sets the bag aside. If the disk says no, the
    /// bag is set aside when all that can be read of it is settled.
    fn salvage(&self, bag: u64, why: &str) {
        self.bags.note_damage(bag);
        for msgid in self.bags.messages_in(bag) {
            let Some(taken) = self.bags.take(msgid) else {
                continue;
            };
            let saved = self
                .readable_files_of(&taken)
                .and_then(|files| match files {
                    Some(files) => self.put_message(msgid, &files).map(|()| true),
                    None => Ok(false),
                });
            match saved {
                Ok(true) => {
                    self.mark_unpacked(msgid, taken.marks);
                }
                Ok(false) => {}
                // The disk says no: all is left as it is, for another time.
                Err(error) => {
                    self.bags.put_back(msgid);
                    return log::warn(format_args!("queue: {error}"));
                }
            }
            self.bags.forget(msgid);
        }
        self.set_aside_bag(bag, why);
    }

    /// The bytes of an envelope's file, if it is in a bag.
    pub(super) fn envelope_in_bag(&self, id: EvpId) -> Result<Option<Vec<u8>>, Unreadable> {
        self.part_in_bag(|| self.bags.envelope(id))
    }

    /// A message's body, if it is in a bag.
    pub(super) fn body_in_bag(&self, msgid: MsgId) -> Result<Option<Body>, Unreadable> {
        let Some(bytes) = self.part_in_bag(|| self.bags.body(msgid))? else {
            return Ok(None);
        };
        let coding = &self.options.coding;
        coding.open(Name::body(msgid), bytes).map(Some)
    }

    /// Between the look at the index and that at the disk a message may be unpacked.
    fn part_in_bag(
        &self,
        find: impl Fn() -> Option<(u64, Part)>,
    ) -> Result<Option<Vec<u8>>, Unreadable> {
        for _ in 0..LOOKS {
            let Some((bag, part)) = find() else {
                return Ok(None);
            };
            match self.disk.open(&layout::bag(bag)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                opened => return part.read(&opened?).map(Some),
            }
        }
        Err(Unreadable::Io(io::Error::from(io::ErrorKind::NotFound)))
    }

    /// What the files of a message would hold.
    fn files_of(&self, taken: &Taken) -> io::Result<Files> {
        let bag = self.disk.open(&layout::bag(taken.bag))?;
        let read = |part: &Part| part.read(&bag).map_err(io::Error::from);
        let mut files = vec![(layout::BODY.into(), read(&taken.body)?)];
        for part in &taken.envelopes {
            let id = part.envelope().ok_or_else(|| invalid("no envelope"))?;
            files.push((id.to_string().into(), read(part)?));
        }
        Ok(files)
    }

    /// The same, as far as it can be read; `None` if that is no message.
    fn readable_files_of(&self, taken: &Taken) -> io::Result<Option<Files>> {
        let bag = self.disk.open(&layout::bag(taken.bag))?;
        let mut files = Vec::new();
        for part in [&taken.body].into_iter().chain(&taken.envelopes) {
            let name = match part.envelope() {
                Some(id) => id.to_string(),
                None => layout::BODY.to_owned(),
            };
            match part.read(&bag) {
                Ok(bytes) => files.push((name.into(), bytes)),
                Err(Unreadable::Io(error)) => return Err(error),
                Err(_) if part == &taken.body => return Ok(None),
                Err(_) => {}
            }
        }
        Ok((files.len() > 1).then_some(files))
    }

    fn changed(&self, mut files: Files, change: Change<'_>) -> io::Result<Files> {
        let (Change::Replaced(envelope) | Change::Added(envelope)) = change else {
            return Ok(files);
        };
        let text = envelope_file::encode(envelope).map_err(|why| invalid(&why))?;
        let coding = &self.options.coding;
        let bytes = coding.encode(Name::envelope(envelope.id), text.as_bytes())?;
        let name = OsString::from(envelope.id.to_string());
        let old = files.iter_mut().find(|(known, _)| *known == name);
        match (change, old) {
            (Change::Replaced(_), Some(old)) => old.1 = bytes,
            (Change::Replaced(_), None) => return Err(io::ErrorKind::NotFound.into()),
            _ => files.push((name, bytes)),
        }
        Ok(files)
    }

    /// A message that was taken out has a durable directory of its own.
    fn is_unpacked(&self, taken: &Taken) {
        let is_marked = self.mark_unpacked(taken.msgid, taken.marks);
        // A bag that lacks a mark is looked at again at the next start.
        if self.bags.forget(taken.msgid) && is_marked {
            self.remove_bag(taken.bag);
        }
    }

    /// Marks a message that has been unpacked, and syncs that: else its directory might be gone for
    /// good before the mark is there, and the bag would bring back what it was before.
    /// Says whether it could; else nothing in its directory goes before it has been done.
    fn mark_unpacked(&self, msgid: MsgId, marks: Marks) -> bool {
        let marked = self.mark_durably(&marks);
        if let Err(error) = &marked {
            log::warn(format_args!("queue: {error}"));
            self.bags.owe(msgid, marks);
        }
        marked.is_ok()
    }

    /// Makes the marks of a message that could not be made when they were due. Other messages have
    /// theirs in bags that may still be out of order.
    pub(super) fn make_owed_marks(&self, msgid: MsgId) -> io::Result<()> {
        for marks in self.bags.owed(msgid) {
            self.mark_durably(&marks)?;
            self.bags.paid(msgid, marks);
        }
        Ok(())
    }

    fn mark_durably(&self, marks: &Marks) -> io::Result<()> {
        self.mark(marks.bag, marks.at, marks.count)?;
        self.sync_bag(marks.bag)
    }

    /// A bag goes, for nothing that can be read is left in it.
    fn remove_bag(&self, bag: u64) {
        if self.bags.is_damaged(bag) {
            return self.set_aside_bag(bag, "not all of it could be read");
        }
        if let Err(error) = self.disk.unlink(&layout::bag(bag)) {
            log::warn(format_args!("queue: {error}"));
        }
    }

    fn mark(&self, bag: u64, at: u64, count: usize) -> io::Result<()> {
        match self
            .disk
            .overwrite(&layout::bag(bag), at, &vec![GONE; count])
        {
            // Everything in it has been settled meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            marked => marked,
        }
    }

    fn sync_bag(&self, bag: u64) -> io::Result<()> {
        let sync = |path: &Path| self.disk.sync_file(path);
        match self.dirs.sync(&layout::bag(bag), sync) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            synced => synced,
        }
    }

    fn free_number(&self) -> io::Result<u64> {
        loop {
            let number = self.serial();
            if !self.bags.has_bag(number) && !self.disk.exists(&layout::bag(number))? {
                return Ok(number);
            }
        }
    }
}

/// Whether an error says that something in a bag cannot be read, whenever it is tried.
fn is_damage(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::InvalidData
}
