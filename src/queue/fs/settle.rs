//! Changes to committed messages: an envelope replaced, added or removed.
//!
//! A new state is a new file, synced, renamed into place, the directory synced. Scratch names
//! are distinct, so any number of these run at once; short locks, by message and never held
//! across a sync, keep a removal from overlapping an arrival in the same directory.
//!
//! What is in a bag is only marked when it is removed; any other change unpacks it, in one step
//! with the change.
//!
//! A removal is not synced. Power lost right after it may bring the envelope back, and the mail
//! goes out twice: that is the at-least-once that was promised, at half the price.

use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use crate::mail::{Envelope, EvpId, MsgId};
use crate::queue::coding::Name;
use crate::queue::envelope_file;
use crate::sys;

use super::bags::Change;
use super::incoming::ID_ATTEMPTS;
use super::{Shared, invalid, layout};

/// What else is in a message's directory.
#[derive(Default)]
struct Others {
    envelopes: bool,
    strays: bool,
}

impl Shared {
    pub(super) fn update(&self, envelope: &Envelope) -> io::Result<()> {
        if self.unpack(envelope.id.msgid(), Change::Replaced(envelope))? {
            return Ok(());
        }
        let path = layout::envelope_path(envelope.id);
        let scratch = self.write_scratch(envelope)?;
        let placed = {
            let _turn = self.turn(envelope.id.msgid());
            match self.disk.exists(&path) {
                Ok(true) => self.disk.rename(&scratch, &path),
                Ok(false) => Err(io::Error::from(io::ErrorKind::NotFound)),
                Err(error) => Err(error),
            }
        };
        self.settled(placed, &scratch, envelope.id.msgid())
    }

    pub(super) fn add(&self, envelope: &Envelope) -> io::Result<EvpId> {
        let msgid = envelope.id.msgid();
        let id = self.free_id(msgid)?;
        let added = Envelope {
            id,
            ..envelope.clone()
        };
        if self.unpack(msgid, Change::Added(&added))? {
            return Ok(id);
        }
        let scratch = self.write_scratch(&added)?;
        let placed = {
            let _turn = self.turn(msgid);
            self.disk.rename(&scratch, &layout::envelope_path(id))
        };
        if let Err(error) = self.settled(placed, &scratch, msgid) {
            // The next attempt has another name.
            let _ = self.disk.unlink(&layout::envelope_path(id));
            return Err(error);
        }
        Ok(id)
    }

    /// The last envelope takes the message with it: its directory leaves `queue` by one rename,
    /// whole, and is then taken apart. What is there decides, not what was there once.
    pub(super) fn remove(&self, id: EvpId) -> io::Result<()> {
        if self.settle_in_bag(id)? {
            return Ok(());
        }
        let msgid = id.msgid();
        self.make_owed_marks(msgid)?;
        let dir = layout::message_dir(msgid);
        let _turn = self.turn(msgid);
        let others = match self.others(id) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            others => others?,
        };
        if !others.envelopes && !others.strays {
            return self.discard(&dir);
        }
        match self.disk.unlink(&layout::envelope_path(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        if !others.envelopes {
            self.set_aside(msgid, "files that are no envelopes are left");
        }
        Ok(())
    }

    fn write_scratch(&self, envelope: &Envelope) -> io::Result<PathBuf> {
        let text = envelope_file::encode(envelope).map_err(|why| invalid(&why))?;
        let name = Name::envelope(envelope.id);
        let bytes = self.options.coding.encode(name, text.as_bytes())?;
        let path = layout::scratch(envelope.id, self.serial());
        let written = self.disk.create(&path).and_then(|mut file| {
            file.write(&bytes)?;
            file.sync()
        });
        match written {
            Ok(()) => Ok(path),
            Err(error) => Err(self.give_up(&path, error)),
        }
    }

    fn settled(&self, placed: io::Result<()>, scratch: &Path, msgid: MsgId) -> io::Result<()> {
        match placed {
            Ok(()) => self.sync_dir(&layout::message_dir(msgid)),
            Err(error) => Err(self.give_up(scratch, error)),
        }
    }

    fn give_up(&self, scratch: &Path, error: io::Error) -> io::Error {
        // What cannot be unlinked now is cleared away at the next start.
        let _ = self.disk.unlink(scratch);
        error
    }

    fn free_id(&self, msgid: MsgId) -> io::Result<EvpId> {
        for _ in 0..ID_ATTEMPTS {
            let Some(id) = EvpId::new(msgid, sys::random::number_u32()) else {
                continue;
            };
            if !self.bags.has_envelope(id) && !self.disk.exists(&layout::envelope_path(id))? {
                return Ok(id);
            }
        }
        Err(io::Error::other("could not allocate evpid"))
    }

    /// Looks until another envelope is found: with many left that is one look.
    fn others(&self, id: EvpId) -> io::Result<Others> {
        let mut others = Others::default();
        self.disk
            .list(&layout::message_dir(id.msgid()), &mut |name, _| {
                match layout::envelope_from(name, id.msgid()) {
                    Some(other) if other == id => {}
                    Some(_) => {
                        others.envelopes = true;
                        return ControlFlow::Break(());
                    }
                    None => others.strays |= name != layout::BODY,
                }
                ControlFlow::Continue(())
            })?;
        Ok(others)
    }
}
