//! How a bag lies on the disk: small messages, bodies and envelopes, in one file.
//!
//! ```text
//! smtpd-bag 1 00000002 00001000 5e1a90c2           parts, where their marks are, checksum
//! 1a2b3c4d00000000 0000007f 00000005 2144df1c      a body: name, place, length, checksum
//! 1a2b3c4d8f3a6b01 00000084 00000190 8d2c0a77      an envelope of it
//! ...                                              the parts, each as its own file would be
//! --                                               at a multiple of 4096: a mark for each part
//! ```
//!
//! All numbers are hexadecimal. A part's name is the envelope's id, or for a body the message's id
//! and 32 zero bits; the envelopes of a message follow its body, in the order of their ids. A
//! checksum (CRC-32) covers the line before it and the part that it is of, so that a damaged line
//! or part is unreadable and the others are not. A mark is `-`, or `x` once the part is settled or
//! unpacked. Marks have blocks of their own: what was synced with the bag is never written again,
//! and they take no room that a full disk could refuse.

use std::fs::File;
use std::io;

use crc32fast::Hasher;

use crate::mail::{EvpId, MsgId};
use crate::queue::coding::{Name, Unreadable, fill_at};

/// A small message on its way into a bag: the bytes of its body's file, and then those of its
/// envelopes' in the order of their ids.
pub struct Parcel(pub(in crate::queue) Vec<(Name, Vec<u8>)>);

/// Where a part lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    name: u64,
    at: u32,
    length: u32,
    check: u32,
}

/// A message in a bag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub msgid: MsgId,
    /// Which of the bag's parts is its body; its envelopes are the next ones.
    pub body: usize,
    /// Parts that it has, the body counted.
    pub parts: usize,
}

/// What is in a bag.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// All parts, in their order.
    pub parts: Vec<Part>,
    /// The messages that they make up.
    pub messages: Vec<Message>,
    /// Where the marks begin.
    pub(super) marks_at: u64,
    /// Whether something in the lines makes no sense, so that a message is missing here.
    pub damaged: bool,
}

const FIRST: &str = "smtpd-bag 1 ";
const FIRST_BYTES: usize = FIRST.len() + 27;
/// Of the line of a part.
const LINE_BYTES: usize = 44;
const BLOCK_BYTES: usize = 4096;
/// Messages of one bag.
pub const MAX_PARCELS: usize = 512;
/// Envelopes of one message in a bag.
pub const MAX_ENVELOPES: usize = 4096;
/// Parts of one bag that are believed: as many as these make.
const MAX_PARTS: usize = MAX_PARCELS * (1 + MAX_ENVELOPES);
/// So much memory is taken without a look at whether the bag has as much.
const SMALL_BYTES: usize = 16 * 1024;
const LIVE: u8 = b'-';
/// The mark of what is settled or unpacked.
pub(super) const GONE: u8 = b'x';

impl Part {
    /// Which envelope it is; a body is none.
    pub fn envelope(&self) -> Option<EvpId> {
        EvpId::new(self.msgid()?, self.name as u32)
    }

    /// Its name as its own file would have it.
    pub fn coded_as(&self) -> Option<Name> {
        match self.envelope() {
            Some(id) => Some(Name::envelope(id)),
            None => self.msgid().map(Name::body),
        }
    }

    /// The message that it is of.
    pub fn msgid(&self) -> Option<MsgId> {
        MsgId::new((self.name >> 32) as u32)
    }

    /// What it takes up.
    pub(super) fn length(&self) -> u32 {
        self.length
    }

    /// Its bytes, as its own file would have them.
    pub fn read(&self, bag: &File) -> Result<Vec<u8>, Unreadable> {
        let length = self.length as usize;
        // A damaged length costs no memory.
        let is_there = length <= SMALL_BYTES
            || bag.metadata()?.len() >= u64::from(self.at) + u64::from(self.length);
        let bytes = if is_there {
            up_to(bag, u64::from(self.at), length)?
        } else {
            Vec::new()
        };
        if bytes.len() < length {
            return Err(Unreadable::Damaged("the bag ends early".to_owned()));
        }
        if check_of(&self.covered(), &bytes) == self.check {
            Ok(bytes)
        } else {
            Err(Unreadable::Damaged("checksum".to_owned()))
        }
    }

    fn covered(&self) -> String {
        format!("{:016x} {:08x} {:08x}", self.name, self.at, self.length)
    }

    fn of_line(line: &[u8]) -> Option<Part> {
        let text = std::str::from_utf8(line).ok()?.strip_suffix('\n')?;
        let number = |range: std::ops::Range<usize>| u32::from_str_radix(text.get(range)?, 16).ok();
        let part = Part {
            name: u64::from_str_radix(text.get(..16)?, 16).ok()?,
            at: number(17..25)?,
            length: number(26..34)?,
            check: number(35..43)?,
        };
        let same = format!("{} {:08x}", part.covered(), part.check) == text;
        same.then_some(part)
    }
}

/// The bytes of a bag with these messages in it, and what a reader will find.
pub(super) fn build(parcels: &[Parcel]) -> io::Result<(Vec<u8>, Contents)> {
    let parts = || parcels.iter().flat_map(|parcel| &parcel.0);
    let count = parts().count();
    if parcels.len() > MAX_PARCELS || count > MAX_PARTS {
        return Err(too_much());
    }
    let mut at = FIRST_BYTES + count * LINE_BYTES;
    let text_bytes: usize = parts().map(|(_, text)| text.len()).sum();
    let marks_at = (at + text_bytes).next_multiple_of(BLOCK_BYTES);
    let first = format!("{FIRST}{count:08x} {:08x}", in_32_bits(marks_at)?);
    let mut bytes = Vec::with_capacity(marks_at + count);
    bytes.extend_from_slice(format!("{first} {:08x}\n", check_of(&first, &[])).as_bytes());
    let mut contents = Contents {
        marks_at: marks_at as u64,
        ..Contents::default()
    };
    for (name, text) in parts() {
        let mut part = Part {
            name: name.number(),
            at: in_32_bits(at)?,
            length: in_32_bits(text.len())?,
            check: 0,
        };
        let covered = part.covered();
        part.check = check_of(&covered, text);
        bytes.extend_from_slice(format!("{covered} {:08x}\n", part.check).as_bytes());
        contents.take(part);
        at += text.len();
    }
    parts().for_each(|(_, text)| bytes.extend_from_slice(text));
    bytes.resize(marks_at, 0);
    bytes.resize(marks_at + count, LIVE);
    Ok((bytes, contents))
}

/// What is in a bag. Nothing is, if not even its first line can be read.
pub fn read(bag: &File) -> io::Result<Contents> {
    let mut contents = Contents::default();
    let Some((count, marks_at)) = of_first(&up_to(bag, 0, FIRST_BYTES)?) else {
        contents.damaged = true;
        return Ok(contents);
    };
    contents.marks_at = marks_at;
    let lines = up_to(bag, FIRST_BYTES as u64, count * LINE_BYTES)?;
    for line in lines.chunks(LINE_BYTES) {
        // A line that makes no sense keeps its place, for the marks.
        contents.take(Part::of_line(line).unwrap_or(NONE));
    }
    contents.damaged |= contents.parts.len() < count;
    Ok(contents)
}

impl Contents {
    /// Adds a part. An envelope that does not follow its body is passed over.
    fn take(&mut self, part: Part) {
        let place = self.parts.len();
        self.parts.push(part);
        match (part.msgid(), part.envelope(), self.messages.last_mut()) {
            (Some(msgid), None, _) => self.messages.push(Message {
                msgid,
                body: place,
                parts: 1,
            }),
            (Some(msgid), Some(_), Some(message))
                if message.msgid == msgid && message.body + message.parts == place =>
            {
                message.parts += 1;
            }
            _ => self.damaged = true,
        }
    }

    /// Which parts are settled or unpacked. Marks that cannot be read say nothing.
    pub fn gone(&self, bag: &File) -> io::Result<Vec<bool>> {
        let marks = up_to(bag, self.marks_at, self.parts.len())?;
        let gone = |place: usize| marks.get(place) == Some(&GONE);
        let mut gone: Vec<bool> = (0..self.parts.len()).map(gone).collect();
        for message in &self.messages {
            // A body goes with the last envelope.
            let parts = gone.get_mut(message.body..message.body + message.parts);
            if let Some([body, envelopes @ ..]) = parts {
                *body = envelopes.iter().all(|gone| *gone);
            }
        }
        Ok(gone)
    }
}

/// A line that is none.
const NONE: Part = Part {
    name: 0,
    at: 0,
    length: 0,
    check: 0,
};

/// How many parts there are, and where their marks are.
fn of_first(line: &[u8]) -> Option<(usize, u64)> {
    let text = std::str::from_utf8(line).ok()?.strip_suffix('\n')?;
    let (covered, check) = text.split_at_checked(FIRST.len() + 17)?;
    if check.strip_prefix(' ')? != format!("{:08x}", check_of(covered, &[])) {
        return None;
    }
    let (count, marks_at) = covered.strip_prefix(FIRST)?.split_once(' ')?;
    let count = usize::from_str_radix(count, 16).ok()?;
    let marks_at = u64::from_str_radix(marks_at, 16).ok()?;
    (count <= MAX_PARTS).then_some((count, marks_at))
}

/// As much as there is.
fn up_to(file: &File, at: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    let count = fill_at(file, &mut bytes, at)?;
    bytes.truncate(count);
    Ok(bytes)
}

fn in_32_bits(number: usize) -> io::Result<u32> {
    u32::try_from(number).map_err(|_| too_much())
}

fn too_much() -> io::Error {
    io::Error::other("too much for one bag")
}

fn check_of(covered: &str, bytes: &[u8]) -> u32 {
    let mut crc = Hasher::new();
    crc.update(covered.as_bytes());
    crc.update(bytes);
    crc.finalize()
}
