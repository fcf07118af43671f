//! What a server says, read with bounds (RFC 5321 §4.2).
//!
//! A reply is three digits and text, on one line or several. Nothing about it is trusted: lines
//! and replies have a longest length, and whatever is not plain text is replaced before it goes
//! into a log, an envelope or a report.

use std::fmt;

use crate::mail::Status;
use crate::smtp::find;
use crate::util::Line;

/// Bytes of a line, with its line end, from which on it is too long. RFC 5321 §4.5.3.1.5 allows 512.
pub const LINE_TOO_LONG: usize = 2048;
/// Lines of a reply.
pub const MOST_LINES: usize = 128;
/// Bytes of the text that is kept of a reply of many lines; the rest is dropped.
const TEXT_MAX: usize = 8192;

/// A whole reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    code: u16,
    status: Option<Status>,
    text: Line,
    lines: Vec<Line>,
}

/// The first digit of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// 2: done.
    Done,
    /// 3: go on.
    GoOn,
    /// 4: not now.
    NotNow,
    /// 5: never.
    Never,
}

impl Reply {
    /// The three digits, those of the last line.
    pub fn code(&self) -> u16 {
        self.code
    }

    /// The first of them.
    pub fn class(&self) -> Class {
        match self.code / 100 {
            2 => Class::Done,
            3 => Class::GoOn,
            5 => Class::Never,
            _ => Class::NotNow,
        }
    }

    /// The enhanced code (RFC 2034) of the last line that has one, if its class is the reply's.
    pub fn status(&self) -> Option<Status> {
        self.status
    }

    /// The texts of the lines, without codes.
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// The whole reply as one line: the first line as it came, then the others without what they
    /// repeat of it.
    pub fn text(&self) -> &Line {
        &self.text
    }
}

/// [`Reply::text`].
impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Why bytes are not a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// No line end within [`LINE_TOO_LONG`].
    InputTooLong,
    /// A whole line of that length.
    LineTooLong,
    /// Less than three bytes.
    LineTooShort,
    /// Not three digits, or not of the classes 2 to 5.
    OutOfRange,
    /// More than [`MOST_LINES`].
    TooManyLines,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Malformed::InputTooLong => "Input too long",
            Malformed::LineTooLong => "Bad response: line too long",
            Malformed::LineTooShort => "Bad response: line too short",
            Malformed::OutOfRange => "Bad response: reply code out of range",
            Malformed::TooManyLines => "Bad response: too many lines",
        })
    }
}

/// Reads replies from bytes, however they are cut.
#[derive(Debug, Default)]
pub struct Parser {
    bytes: Vec<u8>,
    start: usize,
    lines: Vec<Line>,
    text: String,
    status: Option<Status>,
}

impl Parser {
    /// Bytes came. What is kept is never more than these and a line.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.start);
        self.start = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole reply. After an error the parser is of no more use.
    pub fn reply(&mut self) -> Result<Option<Reply>, Malformed> {
        loop {
            let rest = self.bytes.get(self.start..).unwrap_or_default();
            let Some(end) = find(b'\n', rest) else {
                return match rest.len() {
                    LINE_TOO_LONG.. => Err(Malformed::InputTooLong),
                    _ => Ok(None),
                };
            };
            let line = rest.get(..end).unwrap_or_default();
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let parsed = Parsed::of(line)?;
            if self.lines.len() >= MOST_LINES {
                return Err(Malformed::TooManyLines);
            }
            self.start += end + 1;
            self.keep(&parsed);
            if parsed.last {
                return Ok(Some(Reply {
                    code: parsed.code,
                    status: self.status.take(),
                    text: Line::sanitize(std::mem::take(&mut self.text).as_bytes()),
                    lines: std::mem::take(&mut self.lines),
                }));
            }
        }
    }

    /// Whether there are bytes that no reply was made of.
    pub fn has_rest(&self) -> bool {
        self.start < self.bytes.len() || !self.lines.is_empty()
    }

    fn keep(&mut self, line: &Parsed) {
        let more = match self.lines.is_empty() {
            true => &line.whole,
            false if line.status.is_some() && line.status == self.status => &line.after_status,
            false => &line.text,
        };
        if self.text.len() + more.len() < TEXT_MAX {
            if !self.lines.is_empty() && !more.is_empty() {
                self.text.push(' ');
            }
            self.text.push_str(more);
        }
        self.status = line.status.or(self.status);
        self.lines.push(line.text.clone());
    }
}

/// One line of a reply.
struct Parsed {
    code: u16,
    last: bool,
    status: Option<Status>,
    /// As it came.
    whole: Line,
    /// What follows the code.
    text: Line,
    /// What follows the enhanced code, too.
    after_status: Line,
}

impl Parsed {
    fn of(line: &[u8]) -> Result<Parsed, Malformed> {
        if line.len() + 2 >= LINE_TOO_LONG {
            return Err(Malformed::LineTooLong);
        }
        let (digits, rest) = line
            .split_first_chunk::<3>()
            .ok_or(Malformed::LineTooShort)?;
        if !matches!(digits, [b'2'..=b'5', b'0'..=b'9', b'0'..=b'9']) {
            return Err(Malformed::OutOfRange);
        }
        let code = digits
            .iter()
            .fold(0, |code, digit| code * 10 + u16::from(digit - b'0'));
        // Like others of its kind, it does not insist on the blank after the last line's code.
        let (last, text) = match rest.split_first() {
            None => (true, rest),
            Some((separator, text)) => (*separator != b'-', text),
        };
        let (status, after_status) = status(text, code / 100);
        Ok(Parsed {
            code,
            last,
            status,
            whole: Line::sanitize(line),
            text: Line::sanitize(text),
            after_status: Line::sanitize(after_status),
        })
    }
}

/// An enhanced code at the start of `text`, and what follows it.
fn status(text: &[u8], class: u16) -> (Option<Status>, &[u8]) {
    let end = find(b' ', text).unwrap_or(text.len());
    let (word, after) = text.split_at(end);
    let status = std::str::from_utf8(word).ok().and_then(|word| {
        let mut numbers = word.split('.').map(|number| {
            let plain = number.len() <= 3 && number.bytes().all(|b| b.is_ascii_digit());
            plain.then(|| number.parse::<u8>().ok()).flatten()
        });
        let status = Status::new(numbers.next()??, numbers.next()??, numbers.next()??);
        let fits = numbers.next().is_none() && u16::from(status.class) == class;
        fits.then_some(status)
    });
    match status {
        Some(status) => (Some(status), after.get(1..).unwrap_or_default()),
        None => (None, text),
    }
}
