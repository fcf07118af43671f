//! [`Ask`] and [`Answer`] as bytes.
//!
//! Promises: decoding reads every byte or refuses the frame, allocates no more than the frame is
//! long, and never panics; what is encoded decodes to itself and fits [`MAX_FRAME`]. An answer
//! that would not fit is shortened: a list ends earlier (the client asks for the rest), a text is
//! cut.

use std::fmt;

use crate::mail::{EvpId, Supposed};
use crate::util::cut;
use crate::util::frame::{Bad, Reader, Writer};
use crate::util::wire::{Cut, Each, Form, Maybe, Wire, wire};

use super::message::{
    Answer, Ask, Block, Change, Listed, Listing, MAX_FRAME, Subsystem, TraceOf, VERSION, Which,
};

/// Why a frame was refused. Whatever it is, the connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadFrame {
    /// The other side speaks another version; this is what it said.
    Version(u8),
    /// No such request or answer, or no such kind of field in it.
    Kind(u8),
    /// The frame ends inside a field.
    Short,
    /// Bytes are left behind the last field.
    Trailing,
    /// A field holds what it must not.
    Value,
    /// Longer than [`MAX_FRAME`].
    TooLong,
}

wire! {
    enum Ask {
        1 = Submit,
        2 = Schedule(which),
        3 = Remove(which),
        4 = Suspend(which),
        5 = Resume(which),
        6 = Discover(which),
        7 = Pause(subsystem, pause),
        8 = Verbose(verbose),
        9 = List { after, only },
        10 = Stats,
        11 = Status,
        12 = UpdateTable(name as Name),
        13 = Explain(supposed),
        14 = Trace(word as Name, on),
        15 = Relaying(listing, seen),
        16 = ResumeRoute(route),
        17 = Block(block),
        18 = Reload,
        19 = Requeue(ids as Half, change),
        20 = TraceOf(word as Name, whom),
        21 = Profile(word as Name, on),
    }
}

// Answers start elsewhere, so that an echo of a request is no answer.
wire! {
    enum Answer {
        129 = Ok,
        130 = Fail(text as Cut<MAX_FAIL>),
        131 = Count(count),
        132 = Envelopes(list),
        133 = Stats(list),
        134 = Status { mda, mta, smtp, notes as Each<Cut<MAX_LISTED>> },
        135 = Text(text as Cut<MAX_TEXT>),
        136 = Lines(lines as Each<Cut<MAX_LISTED>>),
        137 = Requeued(count, lines as Each<Cut<MAX_LISTED>>),
    }
}

wire! {
    struct Listed {
        id,
        text as Cut<MAX_LISTED>,
        action as Cut<MAX_NAME>,
        remote as Cut<MAX_NAME>,
    }
}

wire! { struct Change { sender, rcpt } }

wire! { struct Block { source, domain as Name, on } }

wire! {
    enum TraceOf {
        0 = From(network as Name),
        1 = To(network as Name),
        2 = Tag(tag as Name),
    }
}

wire! {
    enum Which {
        0 = All,
        1 = Message(id),
        2 = Envelope(id),
    }
}

wire! {
    enum Subsystem {
        0 = Mda,
        1 = Mta,
        2 = Smtp,
    }
}

wire! {
    enum Listing {
        0 = Hosts,
        1 = HostStats,
        2 = Blocks,
        3 = Relays,
        4 = Routes,
        5 = Filters,
    }
}

wire! {
    struct Supposed {
        sender as Maybe<Cut<MAX_WORD>>,
        rcpt as Maybe<Cut<MAX_WORD>>,
        rdns as Maybe<Cut<MAX_WORD>>,
        helo as Maybe<Cut<MAX_WORD>>,
        username as Maybe<Cut<MAX_WORD>>,
        tag as Maybe<Cut<MAX_WORD>>,
        peer,
        tls,
    }
}

/// A text that goes into log lines and lookups: not empty, no control characters.
struct Name;

impl Form<String> for Name {
    fn write(name: &String, w: &mut Writer) {
        w.text(cut(name, MAX_NAME));
    }

    fn read(r: &mut Reader<'_>) -> Result<String, Bad> {
        let name = r.text()?;
        if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
            return Err(Bad::Value);
        }
        Ok(name.to_owned())
    }
}

/// Ids that leave half of a frame to what comes behind them.
struct Half;

impl Form<Vec<EvpId>> for Half {
    fn write(ids: &Vec<EvpId>, w: &mut Writer) {
        let most = ids.len().min(MAX_FRAME / 2 / size_of::<EvpId>());
        w.list(ids.get(..most).unwrap_or(ids), |w, id| id.write(w));
    }

    fn read(r: &mut Reader<'_>) -> Result<Vec<EvpId>, Bad> {
        Vec::read(r)
    }
}

/// Longest name (of a table, of a counter) in bytes.
const MAX_NAME: usize = 1024;
/// Longest explanation of a failure in bytes: some lines about a configuration.
const MAX_FAIL: usize = 16 * 1024;
/// Longest line of a listing in bytes: addresses are bounded by SMTP, error lines by 2047.
const MAX_LISTED: usize = 32 * 1024;
/// Longest word of a supposed session in bytes: more than any session would take.
const MAX_WORD: usize = 4096;

/// Longest text of an answer in bytes.
pub const MAX_TEXT: usize = MAX_FRAME - 1024;

/// Reads a request: the frame without its length.
pub fn decode_ask(body: &[u8]) -> Result<Ask, BadFrame> {
    decode(body)
}

/// The whole frame of a request, its length included.
pub fn encode_ask(ask: &Ask) -> Vec<u8> {
    encode(ask)
}

/// Reads an answer: the frame without its length.
pub fn decode_answer(body: &[u8]) -> Result<Answer, BadFrame> {
    decode(body)
}

/// Appends the whole frame of an answer, its length included.
pub fn encode_answer(answer: &Answer, out: &mut Vec<u8>) {
    out.extend_from_slice(&encode(answer));
}

/// Reads a frame's length, of what follows it.
pub fn frame_length(head: [u8; 4]) -> Result<usize, BadFrame> {
    let length = u32::from_le_bytes(head) as usize;
    match length {
        0 | 1 => Err(BadFrame::Short),
        2..=MAX_FRAME => Ok(length),
        _ => Err(BadFrame::TooLong),
    }
}

fn encode(value: &impl Wire) -> Vec<u8> {
    let mut frame = Writer::bounded_frame(VERSION, MAX_FRAME);
    value.write(&mut frame);
    frame.into_frame()
}

fn decode<T: Wire>(body: &[u8]) -> Result<T, BadFrame> {
    if body.len() > MAX_FRAME {
        return Err(BadFrame::TooLong);
    }
    let mut fields = Reader::new(body);
    match fields.u8()? {
        VERSION => {}
        other => return Err(BadFrame::Version(other)),
    }
    let value = T::read(&mut fields)?;
    fields.end()?;
    Ok(value)
}

impl From<Bad> for BadFrame {
    fn from(bad: Bad) -> BadFrame {
        match bad {
            Bad::Short => BadFrame::Short,
            Bad::Trailing => BadFrame::Trailing,
            Bad::Value => BadFrame::Value,
            Bad::Kind(kind) => BadFrame::Kind(kind),
        }
    }
}

impl fmt::Display for BadFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadFrame::Version(_) => f.write_str("incompatible smtpctl and smtpd"),
            BadFrame::Kind(kind) => write!(f, "unknown kind of frame: {kind}"),
            BadFrame::Short => Bad::Short.fmt(f),
            BadFrame::Trailing => Bad::Trailing.fmt(f),
            BadFrame::Value => Bad::Value.fmt(f),
            BadFrame::TooLong => f.write_str("message too long"),
        }
    }
}

impl std::error::Error for BadFrame {}

#[cfg(test)]
#[path = "codec_tests.rs"]
mod tests;
