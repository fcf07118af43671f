//! What a server says, read with bounds (RFC 5321 §4.2).
//!
//! A reply is three digits and text, on one line or several. Nothing about it is trusted: lines
//! and replies have a longest length, and whatever is not plain text is replaced before it goes
//! into a log, an envelope or a report.

use std::fmt;

use crate::mail::Status;
use crate::util::Line;

/// Bytes of a line, with its line end, from which on it is too long. RFC 5321 §4.5.3.1.5 allows
/// 512.
pub const LINE_TOO_LONG: usize = 2048;
/// Lines of a reply.
pub const MOST_LINES: usize = 128;
/// Bytes of the text that is kept of a reply of many lines; the rest is dropped.
const TEXT_MAX: usize = 8192;

/// A reply of a server, with all its lines.
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

    /// The lines with what is in front of their texts.
    pub fn whole_lines(&self) -> impl Iterator<Item = String> {
        let last = self.lines.len().saturating_sub(1);
        self.lines.iter().enumerate().map(move |(at, text)| {
            let separator = if at == last { ' ' } else { '-' };
            format!("{}{separator}{text}", self.code)
        })
    }

    /// The whole reply as one line: the first line as it came, then the others without what they
    /// repeat of it.
    pub fn text(&self) -> &Line {
        &self.text
    }
}

#[cfg(test)]
impl Reply {
    /// The reply that these lines are.
    pub fn sample(text: &str) -> Reply {
        let mut parser = Parser::default();
        parser.push(format!("{text}\n").as_bytes());
        parser.reply().ok().flatten().expect("a reply")
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
            let Some(end) = memchr::memchr(b'\n', rest) else {
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
    let end = memchr::memchr(b' ', text).unwrap_or(text.len());
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::util::dice::Dice;

    fn parse(bytes: &[u8]) -> Result<Vec<Reply>, Malformed> {
        let mut parser = Parser::default();
        parser.push(bytes);
        let mut replies = Vec::new();
        while let Some(reply) = parser.reply()? {
            replies.push(reply);
        }
        Ok(replies)
    }

    fn one(text: &str) -> Reply {
        let mut replies = parse(text.as_bytes()).unwrap();
        assert_eq!(replies.len(), 1, "{text}");
        replies.remove(0)
    }

    #[test]
    fn a_reply_is_kept_whole_without_what_its_lines_repeat() {
        // RFC 5321 §4.2.1, RFC 2034 §4.
        for (wire, code, status, text) in [
            (
                "250 2.0.0 Ok: queued\r\n",
                250,
                "2.0.0",
                "250 2.0.0 Ok: queued",
            ),
            ("250\r\n", 250, "", "250"),
            ("250-\r\n250 \r\n", 250, "", "250-"),
            (
                "550-5.1.1 no such user\r\n550-5.1.1 really\r\n550 none\r\n",
                550,
                "5.1.1",
                "550-5.1.1 no such user really none",
            ),
            ("550-no\n550 5.7.1 way\n", 550, "5.7.1", "550-no 5.7.1 way"),
            ("450-a\r\n550 b\r\n", 550, "", "450-a b"),
            ("250 4.0.0 odd\r\n", 250, "", "250 4.0.0 odd"),
            ("550 5.1.300 odd\r\n", 550, "", "550 5.1.300 odd"),
            ("550 5.1.1.1 odd\r\n", 550, "", "550 5.1.1.1 odd"),
            ("550 5.1.1\r\n", 550, "5.1.1", "550 5.1.1"),
            ("250 a\0b\rc\u{1b}[31m\r\n", 250, "", "250 a?b?c?[31m"),
        ] {
            let reply = one(wire);
            assert_eq!(reply.code(), code);
            assert_eq!(
                reply.status().map(|s| s.to_string()).unwrap_or_default(),
                status,
                "{wire}"
            );
            assert_eq!(reply.to_string(), text);
        }
        let reply = parse(b"550 caf\xe9\r\n").unwrap().remove(0);
        assert_eq!(reply.to_string(), "550 caf\u{fffd}");
    }

    #[test]
    fn what_is_no_reply_is_refused_and_nothing_grows_without_bound() {
        let long = "x".repeat(LINE_TOO_LONG);
        for (bytes, error) in [
            (format!("250 {long}\r\n"), Malformed::LineTooLong),
            (format!("250 {long}"), Malformed::InputTooLong),
            ("25\r\n".to_owned(), Malformed::LineTooShort),
            ("\r\n".to_owned(), Malformed::LineTooShort),
            ("199 x\r\n".to_owned(), Malformed::OutOfRange),
            ("650 x\r\n".to_owned(), Malformed::OutOfRange),
            ("2x0 x\r\n".to_owned(), Malformed::OutOfRange),
            ("250-x\r\n".repeat(MOST_LINES + 1), Malformed::TooManyLines),
        ] {
            assert_eq!(parse(bytes.as_bytes()), Err(error));
        }
        // A reply without end, as it would come over a connection.
        let mut parser = Parser::default();
        let error = (0..10_000).find_map(|_| {
            parser.push(format!("250-{}\r\n", "y".repeat(1000)).as_bytes());
            assert!(parser.bytes.len() < 4096 && parser.text.len() <= TEXT_MAX);
            parser.reply().err()
        });
        assert_eq!(error, Some(Malformed::TooManyLines));
    }

    #[test]
    fn replies_are_the_same_however_their_bytes_are_cut() {
        let mut dice = Dice::new(3);
        for _ in 0..5_000 {
            let mut wire = Vec::new();
            for _ in 0..dice.roll(6) {
                let line = [
                    "250 Ok\r\n",
                    "250-a\r\n",
                    "550 5.1.1 x\n",
                    "354 \r\n",
                    "4",
                    "\r\n",
                ][dice.roll(6)];
                wire.extend_from_slice(line.as_bytes());
            }
            let whole = parse(&wire);
            let mut parser = Parser::default();
            let mut replies = Ok(Vec::new());
            for byte in &wire {
                parser.push(&[*byte]);
                match (parser.reply(), &mut replies) {
                    (Ok(Some(reply)), Ok(all)) => all.push(reply),
                    (Ok(_), _) => {}
                    (Err(error), _) => {
                        replies = Err(error);
                        break;
                    }
                }
            }
            assert_eq!(replies, whole, "{}", wire.escape_ascii());
        }
    }
}
