//! Which messages are in bags: what the marks on the disk say, at hand.
//!
//! The index decides and the marks follow. A message that is being unpacked can be read meanwhile;
//! whoever wants to change it waits.

use std::collections::{HashMap, HashSet};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::mail::{EvpId, MsgId};
use crate::util::Timestamp;

use super::form::{Contents, Part};

/// The messages that are in bags.
#[derive(Default)]
pub(in crate::queue::fs) struct Index {
    bagged: Mutex<Bagged>,
    freed: Condvar,
}

#[derive(Default)]
struct Bagged {
    places: HashMap<MsgId, BagPlace>,
    bags: HashMap<u64, Bag>,
    /// Marks that could not be made, by the message that they are about.
    owed: HashMap<MsgId, Vec<Marks>>,
    /// Bags of which something cannot be read: they are not to be deleted.
    damaged: HashSet<u64>,
}

/// Where a message is.
#[derive(Clone, Copy)]
struct BagPlace {
    bag: u64,
    /// Which of the bag's parts is its body.
    body: usize,
    parts: usize,
    /// Envelopes that are not settled.
    live: usize,
    busy: bool,
}

struct Bag {
    parts: Box<[Part]>,
    gone: Box<[bool]>,
    marks_at: u64,
    /// Messages that are in it and nowhere else.
    live: usize,
    live_bytes: u64,
    bytes: u64,
    since: Timestamp,
}

/// Marks of a message or of an envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Marks {
    pub(super) bag: u64,
    /// Where in the bag.
    pub(super) at: u64,
    pub(super) count: usize,
}

/// What became of an envelope that is settled.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Settled {
    /// It is in no bag.
    Elsewhere,
    /// It is counted as settled; the bag stays.
    Here,
    /// It was the last one: the bag goes.
    Last(Marks),
}

/// A message that is taken out. Nobody else changes it until it is put back or forgotten.
pub(super) struct Taken {
    pub(super) msgid: MsgId,
    pub(super) bag: u64,
    pub(super) body: Part,
    pub(super) envelopes: Vec<Part>,
    /// Those of all its parts.
    pub(super) marks: Marks,
}

impl Bag {
    fn bytes_of(&self, place: &BagPlace) -> u64 {
        let parts = self.parts.get(place.body..place.body + place.parts);
        let lengths = parts.unwrap_or_default().iter();
        lengths.map(|part| u64::from(part.length())).sum()
    }

    /// The unsettled envelopes of a message, by their places among the parts.
    fn envelopes(&self, place: &BagPlace) -> impl Iterator<Item = (usize, Part)> {
        let places = place.body + 1..place.body + place.parts;
        places.filter_map(|at| match self.gone.get(at) {
            Some(false) => Some((at, *self.parts.get(at)?)),
            _ => None,
        })
    }

    /// Where an unsettled envelope of a message is among the parts, which are in the order of ids.
    fn find(&self, place: &BagPlace, id: EvpId) -> Option<usize> {
        let first = place.body + 1;
        let parts = self.parts.get(first..place.body + place.parts)?;
        let found = parts.binary_search_by_key(&Some(id), Part::envelope);
        let at = first + found.ok()?;
        (self.gone.get(at) == Some(&false)).then_some(at)
    }
}

impl Bagged {
    fn of(&self, msgid: MsgId) -> Option<(BagPlace, &Bag)> {
        let place = *self.places.get(&msgid)?;
        Some((place, self.bags.get(&place.bag)?))
    }

    /// Forgets a message; says whether its bag went with it.
    fn forget(&mut self, msgid: MsgId) -> bool {
        let Some(place) = self.places.remove(&msgid) else {
            return false;
        };
        let Some(bag) = self.bags.get_mut(&place.bag) else {
            return false;
        };
        bag.live -= 1;
        bag.live_bytes = bag.live_bytes.saturating_sub(bag.bytes_of(&place));
        if bag.live > 0 {
            return false;
        }
        self.bags.remove(&place.bag);
        true
    }
}

impl Index {
    /// Takes in a bag; says whether anything in it is still to be delivered. `gone` says which
    /// parts are not.
    pub(super) fn add(
        &self,
        number: u64,
        contents: Contents,
        gone: Vec<bool>,
        now: Timestamp,
    ) -> bool {
        let mut bagged = self.lock();
        if contents.damaged {
            bagged.damaged.insert(number);
        }
        let mut bag = Bag {
            parts: contents.parts.into(),
            gone: gone.into(),
            marks_at: contents.marks_at,
            live: 0,
            live_bytes: 0,
            bytes: 0,
            since: now,
        };
        for message in contents.messages {
            let mut place = BagPlace {
                bag: number,
                body: message.body,
                parts: message.parts,
                live: 0,
                busy: false,
            };
            place.live = bag.envelopes(&place).count();
            let bytes = bag.bytes_of(&place);
            bag.bytes += bytes;
            if place.live > 0 && !bagged.places.contains_key(&message.msgid) {
                bagged.places.insert(message.msgid, place);
                bag.live += 1;
                bag.live_bytes += bytes;
            }
        }
        let lives = bag.live > 0;
        if lives {
            bagged.bags.insert(number, bag);
        }
        lives
    }

    /// Whether a bag has this number.
    pub(super) fn has_bag(&self, number: u64) -> bool {
        self.lock().bags.contains_key(&number)
    }

    /// Notes that something in a bag cannot be read.
    pub(super) fn note_damage(&self, number: u64) {
        self.lock().damaged.insert(number);
    }

    /// Whether something in a bag cannot be read.
    pub(super) fn is_damaged(&self, number: u64) -> bool {
        self.lock().damaged.contains(&number)
    }

    /// Whether a message is in a bag.
    pub(in crate::queue::fs) fn has(&self, msgid: MsgId) -> bool {
        self.lock().places.contains_key(&msgid)
    }

    /// Whether an envelope is in a bag.
    pub(in crate::queue::fs) fn has_envelope(&self, id: EvpId) -> bool {
        self.envelope(id).is_some()
    }

    /// All messages, bag by bag.
    pub(in crate::queue::fs) fn messages(&self) -> Vec<MsgId> {
        let bagged = self.lock();
        let places = bagged.places.iter();
        let mut all: Vec<_> = places.map(|(id, at)| (at.bag, at.body, *id)).collect();
        drop(bagged);
        all.sort_unstable();
        all.into_iter().map(|(_, _, id)| id).collect()
    }

    /// Messages of one bag.
    pub(super) fn messages_in(&self, bag: u64) -> Vec<MsgId> {
        let bagged = self.lock();
        let of_bag = bagged.places.iter().filter(|(_, place)| place.bag == bag);
        of_bag.map(|(msgid, _)| *msgid).collect()
    }

    /// Messages in bags that came before `since` and of which less than half is left.
    pub(super) fn left_over(&self, since: Timestamp) -> Vec<MsgId> {
        let bagged = self.lock();
        let wasteful = |place: &BagPlace| {
            let bag = bagged.bags.get(&place.bag);
            bag.is_some_and(|bag| bag.since <= since && bag.live_bytes * 2 < bag.bytes)
        };
        let found = bagged.places.iter().filter(|(_, place)| wasteful(place));
        found.map(|(msgid, _)| *msgid).collect()
    }

    /// The bag of a message, and its body there.
    pub(super) fn body(&self, msgid: MsgId) -> Option<(u64, Part)> {
        let bagged = self.lock();
        let (place, bag) = bagged.of(msgid)?;
        Some((place.bag, *bag.parts.get(place.body)?))
    }

    /// The bag of an envelope that is not settled, and its place there.
    pub(in crate::queue::fs) fn envelope(&self, id: EvpId) -> Option<(u64, Part)> {
        let bagged = self.lock();
        let (place, bag) = bagged.of(id.msgid())?;
        let at = bag.find(&place, id)?;
        Some((place.bag, *bag.parts.get(at)?))
    }

    /// The bag of a message, and its envelopes that are not settled.
    pub(in crate::queue::fs) fn envelopes(&self, msgid: MsgId) -> Option<(u64, Vec<Part>)> {
        let bagged = self.lock();
        let (place, bag) = bagged.of(msgid)?;
        let parts = bag.envelopes(&place).map(|(_, part)| part).collect();
        Some((place.bag, parts))
    }

    /// The mark to make for an envelope that is to be settled; the last one of a bag needs none.
    pub(super) fn mark_of(&self, id: EvpId) -> Option<Marks> {
        let bagged = self.lock();
        let (place, bag) = bagged.of(id.msgid())?;
        let at = bag.find(&place, id)?;
        let is_last = place.live == 1 && bag.live == 1;
        let mark = Marks {
            bag: place.bag,
            at: bag.marks_at + at as u64,
            count: 1,
        };
        (!is_last).then_some(mark)
    }

    /// Counts an envelope as settled.
    pub(super) fn settle(&self, id: EvpId) -> Settled {
        let mut bagged = self.wait(id.msgid());
        let Some((place, bag)) = bagged.of(id.msgid()) else {
            return Settled::Elsewhere;
        };
        let Some(at) = bag.find(&place, id) else {
            return Settled::Here;
        };
        let mark = Marks {
            bag: place.bag,
            at: bag.marks_at + at as u64,
            count: 1,
        };
        if place.live == 1 {
            return if bagged.forget(id.msgid()) {
                Settled::Last(mark)
            } else {
                Settled::Here
            };
        }
        if let Some(place) = bagged.places.get_mut(&id.msgid()) {
            place.live -= 1;
        }
        let bag = bagged.bags.get_mut(&mark.bag);
        if let Some(gone) = bag.and_then(|bag| bag.gone.get_mut(at)) {
            *gone = true;
        }
        Settled::Here
    }

    /// Takes a message out, if it is in a bag.
    pub(super) fn take(&self, msgid: MsgId) -> Option<Taken> {
        let mut bagged = self.wait(msgid);
        let (place, bag) = bagged.of(msgid)?;
        let taken = Taken {
            msgid,
            bag: place.bag,
            body: *bag.parts.get(place.body)?,
            envelopes: bag.envelopes(&place).map(|(_, part)| part).collect(),
            marks: Marks {
                bag: place.bag,
                at: bag.marks_at + place.body as u64,
                count: place.parts,
            },
        };
        if let Some(place) = bagged.places.get_mut(&msgid) {
            place.busy = true;
        }
        Some(taken)
    }

    /// A message that was taken out is as before.
    pub(super) fn put_back(&self, msgid: MsgId) {
        if let Some(place) = self.lock().places.get_mut(&msgid) {
            place.busy = false;
        }
        self.freed.notify_all();
    }

    /// A message that was taken out is no longer in a bag. Says whether the bag goes with it.
    pub(super) fn forget(&self, msgid: MsgId) -> bool {
        let last = self.lock().forget(msgid);
        self.freed.notify_all();
        last
    }

    /// Notes marks that could not be made.
    pub(super) fn owe(&self, msgid: MsgId, marks: Marks) {
        self.lock().owed.entry(msgid).or_default().push(marks);
    }

    /// The marks of a message that are still to be made.
    pub(super) fn owed(&self, msgid: MsgId) -> Vec<Marks> {
        self.lock().owed.get(&msgid).cloned().unwrap_or_default()
    }

    /// Notes that owed marks are durable.
    pub(super) fn paid(&self, msgid: MsgId, marks: Marks) {
        let mut bagged = self.lock();
        if let Some(owed) = bagged.owed.get_mut(&msgid) {
            owed.retain(|other| *other != marks);
            if owed.is_empty() {
                bagged.owed.remove(&msgid);
            }
        }
    }

    /// Waits until nobody has taken the message.
    fn wait(&self, msgid: MsgId) -> MutexGuard<'_, Bagged> {
        let mut bagged = self.lock();
        while bagged.places.get(&msgid).is_some_and(|place| place.busy) {
            let woken = self.freed.wait(bagged);
            bagged = woken.unwrap_or_else(PoisonError::into_inner);
        }
        bagged
    }

    fn lock(&self) -> MutexGuard<'_, Bagged> {
        self.bagged.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
