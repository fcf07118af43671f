//! [`Ask`] and [`Answer`] as bytes.
//!
//! Promises: decoding reads every byte or refuses the frame, allocates no more than the frame is
//! long, and never panics; what is encoded decodes to itself and fits [`MAX_FRAME`]. An answer
//! that would not fit is shortened: a list ends earlier (the client asks for the rest), a text is
//! cut.

use std::fmt;
use std::net::IpAddr;

use crate::mail::{EvpId, MailAddr, MsgId, Peer, Supposed};
use crate::util::cut;
use crate::util::frame::{Bad, Reader, Writer};

use super::message::{
    Answer, Ask, Block, Change, Listed, Listing, MAX_FRAME, Subsystem, VERSION, Which,
};

/// Why a frame was refused. Whatever it is, the connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadFrame {
    /// The other side speaks another version; this is what it said.
    Version(u8),
    /// No such request or answer.
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

/// Reads a request: the frame without its length.
pub fn decode_ask(body: &[u8]) -> Result<Ask, BadFrame> {
    let (kind, mut fields) = open(body)?;
    let ask = match kind {
        ASK_SUBMIT => Ask::Submit,
        ASK_SCHEDULE => Ask::Schedule(which(&mut fields)?),
        ASK_REMOVE => Ask::Remove(which(&mut fields)?),
        ASK_SUSPEND => Ask::Suspend(which(&mut fields)?),
        ASK_RESUME => Ask::Resume(which(&mut fields)?),
        ASK_REQUEUE => {
            let count = fields.u32()?;
            let ids = (0..count)
                .map(|_| evpid(&mut fields))
                .collect::<Result<_, _>>()?;
            let sender = fields.option(mailaddr)?;
            let rcpt = fields.option(mailaddr)?;
            Ask::Requeue(ids, Change { sender, rcpt })
        }
        ASK_DISCOVER => Ask::Discover(which(&mut fields)?),
        ASK_PAUSE => Ask::Pause(subsystem(&mut fields)?, fields.flag()?),
        ASK_VERBOSE => Ask::Verbose(fields.flag()?),
        ASK_LIST => Ask::List {
            after: fields.option(evpid)?,
            only: fields.option(msgid)?,
        },
        ASK_STATS => Ask::Stats,
        ASK_STATUS => Ask::Status,
        ASK_UPDATE_TABLE => Ask::UpdateTable(name(&mut fields)?),
        ASK_RELOAD => Ask::Reload,
        ASK_RELAYING => Ask::Relaying(listing(&mut fields)?, fields.u32()?),
        ASK_RESUME_ROUTE => Ask::ResumeRoute(fields.u64()?),
        ASK_BLOCK => Ask::Block(Block {
            source: address(&mut fields)?,
            domain: name(&mut fields)?,
            on: fields.flag()?,
        }),
        ASK_EXPLAIN => Ask::Explain(Box::new(supposed(&mut fields)?)),
        ASK_TRACE => Ask::Trace(name(&mut fields)?, fields.flag()?),
        other => return Err(BadFrame::Kind(other)),
    };
    fields.end()?;
    Ok(ask)
}

/// The whole frame of a request, its length included.
pub fn encode_ask(ask: &Ask) -> Vec<u8> {
    let mut frame = Writer::frame(VERSION);
    match ask {
        Ask::Submit => frame.u8(ASK_SUBMIT),
        Ask::Schedule(which) => write_which(&mut frame, ASK_SCHEDULE, *which),
        Ask::Remove(which) => write_which(&mut frame, ASK_REMOVE, *which),
        Ask::Suspend(which) => write_which(&mut frame, ASK_SUSPEND, *which),
        Ask::Resume(which) => write_which(&mut frame, ASK_RESUME, *which),
        Ask::Requeue(ids, Change { sender, rcpt }) => {
            frame.u8(ASK_REQUEUE);
            frame.list(ids, MAX_FRAME / 2, |frame, id| frame.u64(id.get()));
            for addr in [sender, rcpt] {
                frame.option(addr.as_ref(), |frame, addr| frame.text(&addr.stored()));
            }
        }
        Ask::Discover(which) => write_which(&mut frame, ASK_DISCOVER, *which),
        Ask::Pause(subsystem, pause) => {
            frame.u8(ASK_PAUSE);
            frame.u8(match subsystem {
                Subsystem::Mda => 0,
                Subsystem::Mta => 1,
                Subsystem::Smtp => 2,
            });
            frame.flag(*pause);
        }
        Ask::Verbose(verbose) => {
            frame.u8(ASK_VERBOSE);
            frame.flag(*verbose);
        }
        Ask::List { after, only } => {
            frame.u8(ASK_LIST);
            frame.option(after.as_ref(), |frame, id| frame.u64(id.get()));
            frame.option(only.as_ref(), |frame, id| frame.u32(id.get()));
        }
        Ask::Stats => frame.u8(ASK_STATS),
        Ask::Status => frame.u8(ASK_STATUS),
        Ask::UpdateTable(name) => {
            frame.u8(ASK_UPDATE_TABLE);
            frame.text(cut(name, MAX_NAME));
        }
        Ask::Reload => frame.u8(ASK_RELOAD),
        Ask::Relaying(listing, seen) => {
            frame.u8(ASK_RELAYING);
            frame.u8(match listing {
                Listing::Hosts => 0,
                Listing::HostStats => 1,
                Listing::Blocks => 2,
                Listing::Relays => 3,
                Listing::Routes => 4,
                Listing::Filters => 5,
            });
            frame.u32(*seen);
        }
        Ask::ResumeRoute(route) => {
            frame.u8(ASK_RESUME_ROUTE);
            frame.u64(*route);
        }
        Ask::Block(block) => {
            frame.u8(ASK_BLOCK);
            frame.text(&block.source.to_string());
            frame.text(cut(&block.domain, MAX_NAME));
            frame.flag(block.on);
        }
        Ask::Explain(supposed) => write_supposed(&mut frame, supposed),
        Ask::Trace(word, on) => {
            frame.u8(ASK_TRACE);
            frame.text(cut(word, MAX_NAME));
            frame.flag(*on);
        }
    }
    frame.into_frame()
}

/// Reads an answer: the frame without its length.
pub fn decode_answer(body: &[u8]) -> Result<Answer, BadFrame> {
    let (kind, mut fields) = open(body)?;
    let answer = match kind {
        ANSWER_OK => Answer::Ok,
        ANSWER_FAIL => Answer::Fail(fields.text()?.to_owned()),
        ANSWER_COUNT => Answer::Count(fields.u32()?),
        ANSWER_REQUEUED => {
            let count = fields.u32()?;
            let lines = (0..fields.u32()?)
                .map(|_| fields.text().map(str::to_owned))
                .collect::<Result<_, _>>()?;
            Answer::Requeued(count, lines)
        }
        ANSWER_ENVELOPES => {
            let count = fields.u32()?;
            let mut list = Vec::new();
            for _ in 0..count {
                list.push(Listed {
                    id: evpid(&mut fields)?,
                    text: fields.text()?.to_owned(),
                    action: fields.text()?.to_owned(),
                    remote: fields.text()?.to_owned(),
                });
            }
            Answer::Envelopes(list)
        }
        ANSWER_STATS => {
            let count = fields.u32()?;
            let mut list = Vec::new();
            for _ in 0..count {
                list.push((fields.text()?.to_owned(), fields.u64()? as i64));
            }
            Answer::Stats(list)
        }
        ANSWER_LINES => {
            let count = fields.u32()?;
            let mut lines = Vec::new();
            for _ in 0..count {
                lines.push(fields.text()?.to_owned());
            }
            Answer::Lines(lines)
        }
        ANSWER_TEXT => Answer::Text(fields.text()?.to_owned()),
        ANSWER_STATUS => {
            let (mda, mta, smtp) = (fields.flag()?, fields.flag()?, fields.flag()?);
            let notes = (0..fields.u32()?)
                .map(|_| fields.text().map(str::to_owned))
                .collect::<Result<_, _>>()?;
            Answer::Status {
                mda,
                mta,
                smtp,
                notes,
            }
        }
        other => return Err(BadFrame::Kind(other)),
    };
    fields.end()?;
    Ok(answer)
}

/// Appends the whole frame of an answer, its length included.
pub fn encode_answer(answer: &Answer, out: &mut Vec<u8>) {
    let mut frame = Writer::frame(VERSION);
    match answer {
        Answer::Ok => frame.u8(ANSWER_OK),
        Answer::Fail(text) => {
            frame.u8(ANSWER_FAIL);
            frame.text(cut(text, MAX_FAIL));
        }
        Answer::Count(count) => {
            frame.u8(ANSWER_COUNT);
            frame.u32(*count);
        }
        Answer::Requeued(count, lines) => {
            frame.u8(ANSWER_REQUEUED);
            frame.u32(*count);
            frame.list(lines, MAX_FRAME, |frame, line| {
                frame.text(cut(line, MAX_LISTED));
            });
        }
        Answer::Envelopes(list) => {
            frame.u8(ANSWER_ENVELOPES);
            frame.list(list, MAX_FRAME, |frame, listed| {
                frame.u64(listed.id.get());
                frame.text(cut(&listed.text, MAX_LISTED));
                frame.text(cut(&listed.action, MAX_NAME));
                frame.text(cut(&listed.remote, MAX_NAME));
            });
        }
        Answer::Stats(list) => {
            frame.u8(ANSWER_STATS);
            frame.list(list, MAX_FRAME, |frame, (key, value)| {
                frame.text(cut(key, MAX_NAME));
                frame.u64(*value as u64);
            });
        }
        Answer::Lines(lines) => {
            frame.u8(ANSWER_LINES);
            frame.list(lines, MAX_FRAME, |frame, line| {
                frame.text(cut(line, MAX_LISTED));
            });
        }
        Answer::Text(text) => {
            frame.u8(ANSWER_TEXT);
            frame.text(cut(text, MAX_TEXT));
        }
        Answer::Status {
            mda,
            mta,
            smtp,
            notes,
        } => {
            frame.u8(ANSWER_STATUS);
            frame.flag(*mda);
            frame.flag(*mta);
            frame.flag(*smtp);
            frame.list(notes, MAX_FRAME, |frame, note| {
                frame.text(cut(note, MAX_LISTED));
            });
        }
    }
    out.extend_from_slice(&frame.into_frame());
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

/// Longest name (of a table, of a counter) in bytes.
const MAX_NAME: usize = 1024;
/// Longest explanation of a failure in bytes: some lines about a configuration.
const MAX_FAIL: usize = 16 * 1024;
/// Longest line of a listing in bytes: addresses are bounded by SMTP, error lines by 2047.
const MAX_LISTED: usize = 32 * 1024;

/// Longest text of an answer in bytes.
pub const MAX_TEXT: usize = MAX_FRAME - 1024;
/// Longest word of a supposed session in bytes: more than any session would take.
const MAX_WORD: usize = 4096;

const ASK_SUBMIT: u8 = 1;
const ASK_SCHEDULE: u8 = 2;
const ASK_REMOVE: u8 = 3;
const ASK_SUSPEND: u8 = 4;
const ASK_RESUME: u8 = 5;
const ASK_DISCOVER: u8 = 6;
const ASK_PAUSE: u8 = 7;
const ASK_VERBOSE: u8 = 8;
const ASK_LIST: u8 = 9;
const ASK_STATS: u8 = 10;
const ASK_STATUS: u8 = 11;
const ASK_UPDATE_TABLE: u8 = 12;
const ASK_EXPLAIN: u8 = 13;
const ASK_TRACE: u8 = 14;
const ASK_RELAYING: u8 = 15;
const ASK_RESUME_ROUTE: u8 = 16;
const ASK_BLOCK: u8 = 17;
const ASK_RELOAD: u8 = 18;
const ASK_REQUEUE: u8 = 19;

// Answers start elsewhere, so that an echo of a request is no answer.
const ANSWER_OK: u8 = 129;
const ANSWER_FAIL: u8 = 130;
const ANSWER_COUNT: u8 = 131;
const ANSWER_ENVELOPES: u8 = 132;
const ANSWER_STATS: u8 = 133;
const ANSWER_STATUS: u8 = 134;
const ANSWER_TEXT: u8 = 135;
const ANSWER_LINES: u8 = 136;
const ANSWER_REQUEUED: u8 = 137;

fn open(body: &[u8]) -> Result<(u8, Reader<'_>), BadFrame> {
    if body.len() > MAX_FRAME {
        return Err(BadFrame::TooLong);
    }
    let mut fields = Reader::new(body);
    match fields.u8()? {
        VERSION => Ok((fields.u8()?, fields)),
        other => Err(BadFrame::Version(other)),
    }
}

/// A text that goes into log lines and lookups: not empty, no control characters.
fn name(fields: &mut Reader<'_>) -> Result<String, BadFrame> {
    let name = fields.text()?;
    if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
        return Err(BadFrame::Value);
    }
    Ok(name.to_owned())
}

fn msgid(fields: &mut Reader<'_>) -> Result<MsgId, BadFrame> {
    MsgId::new(fields.u32()?).ok_or(BadFrame::Value)
}

fn evpid(fields: &mut Reader<'_>) -> Result<EvpId, BadFrame> {
    EvpId::from_u64(fields.u64()?).ok_or(BadFrame::Value)
}

/// In the one form that is written.
fn mailaddr(fields: &mut Reader<'_>) -> Result<MailAddr, Bad> {
    MailAddr::from_stored(fields.text()?).ok_or(Bad::Value)
}

fn which(fields: &mut Reader<'_>) -> Result<Which, BadFrame> {
    match fields.u8()? {
        0 => Ok(Which::All),
        1 => Ok(Which::Message(msgid(fields)?)),
        2 => Ok(Which::Envelope(evpid(fields)?)),
        _ => Err(BadFrame::Value),
    }
}

fn supposed(fields: &mut Reader<'_>) -> Result<Supposed, BadFrame> {
    let mut line = || fields.option(Reader::line);
    Ok(Supposed {
        sender: line()?,
        rcpt: line()?,
        rdns: line()?,
        helo: line()?,
        username: line()?,
        tag: line()?,
        peer: fields.option(peer)?,
        tls: fields.flag()?,
    })
}

/// In the one form that is written.
fn peer(fields: &mut Reader<'_>) -> Result<Peer, Bad> {
    let text = fields.text()?;
    let peer = Peer::parse(text).filter(|peer| peer.to_string() == text);
    peer.ok_or(Bad::Value)
}

fn write_supposed(frame: &mut Writer, supposed: &Supposed) {
    frame.u8(ASK_EXPLAIN);
    let lines = [
        &supposed.sender,
        &supposed.rcpt,
        &supposed.rdns,
        &supposed.helo,
        &supposed.username,
        &supposed.tag,
    ];
    for line in lines {
        frame.option(line.as_ref(), |frame, line| frame.text(cut(line, MAX_WORD)));
    }
    frame.option(supposed.peer.as_ref(), |frame, peer| {
        frame.text(&peer.to_string());
    });
    frame.flag(supposed.tls);
}

fn write_which(frame: &mut Writer, kind: u8, which: Which) {
    frame.u8(kind);
    match which {
        Which::All => frame.u8(0),
        Which::Message(id) => {
            frame.u8(1);
            frame.u32(id.get());
        }
        Which::Envelope(id) => {
            frame.u8(2);
            frame.u64(id.get());
        }
    }
}

fn listing(fields: &mut Reader<'_>) -> Result<Listing, BadFrame> {
    match fields.u8()? {
        0 => Ok(Listing::Hosts),
        1 => Ok(Listing::HostStats),
        2 => Ok(Listing::Blocks),
        3 => Ok(Listing::Relays),
        4 => Ok(Listing::Routes),
        5 => Ok(Listing::Filters),
        _ => Err(BadFrame::Value),
    }
}

/// An address in the one form that it is printed in.
fn address(fields: &mut Reader<'_>) -> Result<IpAddr, BadFrame> {
    let text = fields.text()?;
    let addr: IpAddr = text.parse().map_err(|_| BadFrame::Value)?;
    match addr.to_string() == text {
        true => Ok(addr),
        false => Err(BadFrame::Value),
    }
}

fn subsystem(fields: &mut Reader<'_>) -> Result<Subsystem, BadFrame> {
    match fields.u8()? {
        0 => Ok(Subsystem::Mda),
        1 => Ok(Subsystem::Mta),
        2 => Ok(Subsystem::Smtp),
        _ => Err(BadFrame::Value),
    }
}

impl From<Bad> for BadFrame {
    fn from(bad: Bad) -> BadFrame {
        match bad {
            Bad::Short => BadFrame::Short,
            Bad::Trailing => BadFrame::Trailing,
            Bad::Value => BadFrame::Value,
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
