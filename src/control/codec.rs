//! [`Ask`] and [`Answer`] as bytes.
//!
//! Promises: decoding reads every byte or refuses the frame, allocates no more than the frame is
//! long, and never panics; what is encoded decodes to itself and fits [`MAX_FRAME`]. An answer
//! that would not fit is shortened: a list ends earlier (the client asks for the rest), a text is
//! cut.

use std::fmt;

use crate::mail::{EvpId, MsgId};

use super::message::{Answer, Ask, Listed, MAX_FRAME, Subsystem, VERSION, Which};

/// Why a frame was refused. None of these is worth more than closing the connection.
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
        ASK_SCHEDULE => Ask::Schedule(fields.which()?),
        ASK_REMOVE => Ask::Remove(fields.which()?),
        ASK_SUSPEND => Ask::Suspend(fields.which()?),
        ASK_RESUME => Ask::Resume(fields.which()?),
        ASK_DISCOVER => Ask::Discover(fields.which()?),
        ASK_PAUSE => Ask::Pause(fields.subsystem()?, fields.flag()?),
        ASK_VERBOSE => Ask::Verbose(fields.flag()?),
        ASK_LIST => Ask::List {
            after: fields.optional(Fields::evpid)?,
            only: fields.optional(Fields::msgid)?,
        },
        ASK_STATS => Ask::Stats,
        ASK_STATUS => Ask::Status,
        ASK_UPDATE_TABLE => Ask::UpdateTable(fields.name()?),
        other => return Err(BadFrame::Kind(other)),
    };
    fields.end()?;
    Ok(ask)
}

/// The whole frame of a request, its length included.
pub fn encode_ask(ask: &Ask) -> Vec<u8> {
    let mut frame = Frame::new();
    match ask {
        Ask::Submit => frame.u8(ASK_SUBMIT),
        Ask::Schedule(which) => frame.which(ASK_SCHEDULE, *which),
        Ask::Remove(which) => frame.which(ASK_REMOVE, *which),
        Ask::Suspend(which) => frame.which(ASK_SUSPEND, *which),
        Ask::Resume(which) => frame.which(ASK_RESUME, *which),
        Ask::Discover(which) => frame.which(ASK_DISCOVER, *which),
        Ask::Pause(subsystem, pause) => {
            frame.u8(ASK_PAUSE);
            frame.u8(match subsystem {
                Subsystem::Mda => 0,
                Subsystem::Mta => 1,
                Subsystem::Smtp => 2,
            });
            frame.u8(u8::from(*pause));
        }
        Ask::Verbose(verbose) => {
            frame.u8(ASK_VERBOSE);
            frame.u8(u8::from(*verbose));
        }
        Ask::List { after, only } => {
            frame.u8(ASK_LIST);
            frame.u8(u8::from(after.is_some()));
            if let Some(id) = after {
                frame.u64(id.get());
            }
            frame.u8(u8::from(only.is_some()));
            if let Some(id) = only {
                frame.u32(id.get());
            }
        }
        Ask::Stats => frame.u8(ASK_STATS),
        Ask::Status => frame.u8(ASK_STATUS),
        Ask::UpdateTable(name) => {
            frame.u8(ASK_UPDATE_TABLE);
            frame.text(cut(name, MAX_NAME));
        }
    }
    frame.finish()
}

/// Reads an answer: the frame without its length.
pub fn decode_answer(body: &[u8]) -> Result<Answer, BadFrame> {
    let (kind, mut fields) = open(body)?;
    let answer = match kind {
        ANSWER_OK => Answer::Ok,
        ANSWER_FAIL => Answer::Fail(fields.text()?),
        ANSWER_COUNT => Answer::Count(fields.u32()?),
        ANSWER_ENVELOPES => {
            let count = fields.u32()?;
            let mut list = Vec::new();
            for _ in 0..count {
                list.push(Listed {
                    id: fields.evpid()?,
                    text: fields.text()?,
                });
            }
            Answer::Envelopes(list)
        }
        ANSWER_STATS => {
            let count = fields.u32()?;
            let mut list = Vec::new();
            for _ in 0..count {
                list.push((fields.text()?, fields.u64()? as i64));
            }
            Answer::Stats(list)
        }
        ANSWER_STATUS => Answer::Status {
            mda: fields.flag()?,
            mta: fields.flag()?,
            smtp: fields.flag()?,
        },
        other => return Err(BadFrame::Kind(other)),
    };
    fields.end()?;
    Ok(answer)
}

/// Appends the whole frame of an answer, its length included.
pub fn encode_answer(answer: &Answer, out: &mut Vec<u8>) {
    let mut frame = Frame::new();
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
        Answer::Envelopes(list) => {
            frame.u8(ANSWER_ENVELOPES);
            frame.list(list, |frame, listed| {
                frame.u64(listed.id.get());
                frame.text(cut(&listed.text, MAX_LISTED));
            });
        }
        Answer::Stats(list) => {
            frame.u8(ANSWER_STATS);
            frame.list(list, |frame, (key, value)| {
                frame.text(cut(key, MAX_NAME));
                frame.u64(*value as u64);
            });
        }
        Answer::Status { mda, mta, smtp } => {
            frame.u8(ANSWER_STATUS);
            frame.u8(u8::from(*mda));
            frame.u8(u8::from(*mta));
            frame.u8(u8::from(*smtp));
        }
    }
    out.extend_from_slice(&frame.finish());
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
/// Longest explanation of a failure in bytes.
const MAX_FAIL: usize = 1024;
/// Longest line of a listing in bytes: addresses are bounded by SMTP, error lines by 2047.
const MAX_LISTED: usize = 32 * 1024;

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

// Answers start elsewhere, so that an echo of a request is no answer.
const ANSWER_OK: u8 = 129;
const ANSWER_FAIL: u8 = 130;
const ANSWER_COUNT: u8 = 131;
const ANSWER_ENVELOPES: u8 = 132;
const ANSWER_STATS: u8 = 133;
const ANSWER_STATUS: u8 = 134;

fn open(body: &[u8]) -> Result<(u8, Fields<'_>), BadFrame> {
    if body.len() > MAX_FRAME {
        return Err(BadFrame::TooLong);
    }
    let mut fields = Fields(body);
    match fields.u8()? {
        VERSION => Ok((fields.u8()?, fields)),
        other => Err(BadFrame::Version(other)),
    }
}

/// At most `limit` bytes of `text`, cut between characters.
fn cut(text: &str, limit: usize) -> &str {
    let mut end = text.len().min(limit);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

/// What is left of a frame.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], BadFrame> {
        let (head, tail) = self.0.split_at_checked(count).ok_or(BadFrame::Short)?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], BadFrame> {
        let (head, tail) = self.0.split_first_chunk().ok_or(BadFrame::Short)?;
        self.0 = tail;
        Ok(*head)
    }

    fn u8(&mut self) -> Result<u8, BadFrame> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Result<u32, BadFrame> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, BadFrame> {
        self.array().map(u64::from_le_bytes)
    }

    fn flag(&mut self) -> Result<bool, BadFrame> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(BadFrame::Value),
        }
    }

    fn text(&mut self) -> Result<String, BadFrame> {
        let length = self.u32()? as usize;
        let bytes = self.take(length)?;
        let text = std::str::from_utf8(bytes).map_err(|_| BadFrame::Value)?;
        Ok(text.to_owned())
    }

    /// A text that goes into log lines and lookups: not empty, no control characters.
    fn name(&mut self) -> Result<String, BadFrame> {
        let name = self.text()?;
        if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
            return Err(BadFrame::Value);
        }
        Ok(name)
    }

    fn msgid(&mut self) -> Result<MsgId, BadFrame> {
        MsgId::new(self.u32()?).ok_or(BadFrame::Value)
    }

    fn evpid(&mut self) -> Result<EvpId, BadFrame> {
        EvpId::from_u64(self.u64()?).ok_or(BadFrame::Value)
    }

    fn optional<T>(
        &mut self,
        read: impl Fn(&mut Self) -> Result<T, BadFrame>,
    ) -> Result<Option<T>, BadFrame> {
        if self.flag()? {
            read(self).map(Some)
        } else {
            Ok(None)
        }
    }

    fn which(&mut self) -> Result<Which, BadFrame> {
        match self.u8()? {
            0 => Ok(Which::All),
            1 => Ok(Which::Message(self.msgid()?)),
            2 => Ok(Which::Envelope(self.evpid()?)),
            _ => Err(BadFrame::Value),
        }
    }

    fn subsystem(&mut self) -> Result<Subsystem, BadFrame> {
        match self.u8()? {
            0 => Ok(Subsystem::Mda),
            1 => Ok(Subsystem::Mta),
            2 => Ok(Subsystem::Smtp),
            _ => Err(BadFrame::Value),
        }
    }

    fn end(&self) -> Result<(), BadFrame> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(BadFrame::Trailing)
        }
    }
}

/// A frame being written: room for the length, the version, then what is pushed.
struct Frame(Vec<u8>);

impl Frame {
    fn new() -> Frame {
        Frame(vec![0, 0, 0, 0, VERSION])
    }

    fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.u32(text.len() as u32);
        self.0.extend_from_slice(text.as_bytes());
    }

    fn which(&mut self, kind: u8, which: Which) {
        self.u8(kind);
        match which {
            Which::All => self.u8(0),
            Which::Message(id) => {
                self.u8(1);
                self.u32(id.get());
            }
            Which::Envelope(id) => {
                self.u8(2);
                self.u64(id.get());
            }
        }
    }

    /// A count and as many of `items` as fit.
    fn list<T>(&mut self, items: &[T], write: impl Fn(&mut Frame, &T)) {
        let count_at = self.0.len();
        self.u32(0);
        let mut count: u32 = 0;
        for item in items {
            let before = self.0.len();
            write(self, item);
            if self.0.len() - LENGTH_BYTES > MAX_FRAME {
                self.0.truncate(before);
                break;
            }
            count += 1;
        }
        for (to, from) in self.0.iter_mut().skip(count_at).zip(count.to_le_bytes()) {
            *to = from;
        }
    }

    fn finish(mut self) -> Vec<u8> {
        let length = (self.0.len() - LENGTH_BYTES) as u32;
        for (to, from) in self.0.iter_mut().zip(length.to_le_bytes()) {
            *to = from;
        }
        self.0
    }
}

const LENGTH_BYTES: usize = 4;

impl fmt::Display for BadFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadFrame::Version(_) => f.write_str("incompatible smtpctl and smtpd"),
            BadFrame::Kind(kind) => write!(f, "unknown kind of frame: {kind}"),
            BadFrame::Short => f.write_str("message too short"),
            BadFrame::Trailing | BadFrame::Value => f.write_str("bogus data"),
            BadFrame::TooLong => f.write_str("message too long"),
        }
    }
}

impl std::error::Error for BadFrame {}

#[cfg(test)]
#[path = "codec_tests.rs"]
mod tests;
