//! Reading many envelopes, for listings and starts: what one of them is in stays open for the next,
//! and a file of its own is read by a single call.
//!
//! What is not whole or not understood then is read once more, alone and to its end, by those who
//! know what to do about it.

use std::fs::File;
use std::io::{self, Read};

use crate::mail::{Envelope, EvpId, MsgId};
use crate::queue::LoadError;
use crate::sys;

use super::bags::form::Part;
use super::{Shared, layout};

/// More than nearly all files of envelopes have.
const BUFFER_BYTES: usize = 4096;

/// The bag of an envelope, and its place there.
type Place = (u64, Part);

/// Envelopes that are read one after the other.
pub(super) struct Series<'s> {
    shared: &'s Shared,
    /// What the last one was in.
    bag: Option<(u64, File)>,
    bucket: Option<(u8, File)>,
    buffer: Box<[u8; BUFFER_BYTES]>,
}

impl Shared {
    /// These envelopes, in their order; each as [`Shared::load`] reads it.
    pub(super) fn load_these(&self, ids: &[EvpId]) -> Vec<Result<Envelope, LoadError>> {
        let mut places: Vec<(usize, EvpId, Option<Place>)> = ids
            .iter()
            .enumerate()
            .map(|(nth, id)| (nth, *id, self.bags.envelope(*id)))
            .collect();
        // A bag is opened once.
        places.sort_by_key(|(_, _, place)| place.map(|(bag, _)| bag));
        let mut series = Series::new(self);
        let mut read: Vec<Option<Envelope>> = ids.iter().map(|_| None).collect();
        for (nth, id, place) in places {
            if let Some(slot) = read.get_mut(nth) {
                *slot = series.read(id, place);
            }
        }
        let careful =
            |(id, read): (&EvpId, Option<Envelope>)| read.map_or_else(|| self.load(*id), Ok);
        ids.iter().zip(read).map(careful).collect()
    }

    /// The envelopes of these messages, in their order; each as [`Shared::envelopes`] reads it.
    pub(super) fn envelopes_of(&self, ids: &[MsgId]) -> Vec<io::Result<Vec<Envelope>>> {
        let mut series = Series::new(self);
        let careful = |id| series.message(id).map_or_else(|| self.envelopes(id), Ok);
        ids.iter().copied().map(careful).collect()
    }
}

impl<'s> Series<'s> {
    pub(super) fn new(shared: &'s Shared) -> Series<'s> {
        Series {
            shared,
            bag: None,
            bucket: None,
            buffer: Box::new([0; BUFFER_BYTES]),
        }
    }

    /// The next one, which is in a bag or in a file of its own; `None` if it is to be read carefully.
    pub(super) fn read(&mut self, id: EvpId, place: Option<Place>) -> Option<Envelope> {
        let shared = self.shared;
        let Some((bag, part)) = place else {
            return shared.understood(id, self.file(id)?);
        };
        let text = part.read(self.bag(bag)?).ok()?;
        shared.understood(id, &text)
    }

    /// All envelopes of the next message.
    fn message(&mut self, id: MsgId) -> Option<Vec<Envelope>> {
        if self.shared.ids.is_live(id) {
            return None;
        }
        if let Some((bag, parts)) = self.shared.bags.envelopes(id) {
            let each = |part: Part| self.read(part.envelope()?, Some((bag, part)));
            return parts.into_iter().map(each).collect();
        }
        let found = self.shared.listing(id).ok()?;
        if found.envelopes.is_empty() || !found.body {
            return None;
        }
        let each = |id| self.read(id, None);
        found.envelopes.into_iter().map(each).collect()
    }

    fn bag(&mut self, number: u64) -> Option<&File> {
        if self.bag.as_ref().is_none_or(|(open, _)| *open != number) {
            let file = self.shared.disk.open(&layout::bag(number)).ok()?;
            self.bag = Some((number, file));
        }
        self.bag.as_ref().map(|(_, file)| file)
    }

    /// What a single read gives: a system that is disturbed may give less than there is, and more
    /// than the buffer takes may be there.
    fn file(&mut self, id: EvpId) -> Option<&[u8]> {
        let number = layout::bucket_of(id.msgid());
        if self.bucket.as_ref().is_none_or(|(open, _)| *open != number) {
            let dir = self.shared.disk.hold(&layout::bucket_dir(number))?;
            self.bucket = Some((number, dir));
        }
        let (_, dir) = self.bucket.as_ref()?;
        let mut file = sys::open::foreign_at(dir, &layout::envelope_in_bucket(id)).ok()?;
        let count = file.read(&mut *self.buffer).ok()?;
        self.buffer.get(..count).filter(|_| count < BUFFER_BYTES)
    }
}
