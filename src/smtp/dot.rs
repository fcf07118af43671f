//! Message data as the wire carries it, turned into text with LF line ends (RFC 5321 §4.5.2).
//!
//! - **Only CRLF.CRLF ends a message** (RFC 5321 §4.1.1.4), whichever way the bytes are split.
//!   `LF.LF`, `LF.CRLF` and `CRLF.LF` do not, or one peer's message text is the next peer's
//!   command ("SMTP smuggling"). The lone dot of such a line is text and comes out as a dot, so
//!   whoever relays it stuffs it.
//! - A line that ends in a bare LF is a line: senders of sloppy mail are many and nothing depends
//!   on telling their lines from others once the end of the message is certain.
//! - **A bare CR becomes a space.** RFC 5321 §2.3.8: CR and LF appear only together, and no
//!   receiver may take either alone as a line end. A CR that is kept would leave again, towards a
//!   host or reader that does take it as one; here is the one place that all mail passes. So the
//!   text that comes out holds no CR at all.
//! - The first dot of any other line that has one is removed.
//! - NUL passes; whether it may stay is for whoever takes the text.
//!
//! The work is done a line at a time by memchr(3) and copying; it keeps no bytes between calls. What
//! is left of CR after that was bare, and is looked for in all of a call's text at once.

/// Turns data into text; one for each message.
#[derive(Clone, Debug)]
pub struct Decoder {
    at: At,
    line_bytes: usize,
    size_bytes: u64,
}

/// How far [`Decoder::decode`] came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// All input is used; the message goes on.
    More,
    /// The final dot was found; this much of the input is used.
    End {
        /// Bytes of the input up to and with the final CRLF.
        used: usize,
    },
    /// A line is longer than a line may be.
    LineTooLong,
}

/// What precedes the next byte of input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// A line end.
    Start(Before),
    /// A line end and a dot.
    Dot(Before),
    /// A line end, a dot and a CR.
    DotCr(Before),
    /// Text of the line.
    Text,
    /// Text, or nothing, and a CR.
    Cr,
}

/// The line end before a line: only CRLF can start the end of data. The CRLF of the DATA command
/// counts, so that `.` may be the first line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Before {
    Crlf,
    BareLf,
}

impl Decoder {
    /// Bytes of a line, without its LF, from which on it is too long.
    pub const LINE_TOO_LONG: usize = 65535;

    /// A decoder at the start of a message.
    pub fn new() -> Decoder {
        Decoder {
            at: At::Start(Before::Crlf),
            line_bytes: 0,
            size_bytes: 0,
        }
    }

    /// Bytes so far as the size limit counts them: dots as they came, one for each line end.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Uses `input`, appends text to `text`.
    pub fn decode(&mut self, input: &[u8], text: &mut Vec<u8>) -> Progress {
        text.reserve(input.len());
        let start = text.len();
        let progress = self.lines(input, text);
        blank_crs(text.get_mut(start..).unwrap_or_default());
        progress
    }

    fn lines(&mut self, input: &[u8], text: &mut Vec<u8>) -> Progress {
        let mut rest = input;
        while let Some((&next, tail)) = rest.split_first() {
            if self.line_bytes >= Decoder::LINE_TOO_LONG && next != b'\n' {
                return Progress::LineTooLong;
            }
            match (self.at, next) {
                (At::Start(before), b'.') => rest = self.step(At::Dot(before), tail),
                (At::Start(_), _) => self.at = At::Text,
                (At::Dot(_), b'\n') => {
                    self.put(b".", text);
                    rest = self.end_line(Before::BareLf, tail, text);
                }
                (At::Dot(before), b'\r') => rest = self.step(At::DotCr(before), tail),
                (At::Dot(_), _) => self.unstuff(At::Text),
                (At::DotCr(Before::Crlf), b'\n') => {
                    let used = input.len() - tail.len();
                    *self = Decoder {
                        size_bytes: self.size_bytes,
                        ..Decoder::new()
                    };
                    return Progress::End { used };
                }
                (At::DotCr(Before::BareLf), b'\n') => {
                    self.put(b".", text);
                    rest = self.end_line(Before::Crlf, tail, text);
                }
                (At::DotCr(_), _) => self.unstuff(At::Cr),
                (At::Cr, b'\n') => rest = self.end_line(Before::Crlf, tail, text),
                (At::Cr, _) => {
                    self.put(b" ", text);
                    self.at = At::Text;
                }
                (At::Text, _) => match self.text_lines(rest, text) {
                    Some(after) => rest = after,
                    None => return Progress::LineTooLong,
                },
            }
        }
        Progress::More
    }

    /// Takes `rest` up to a line that begins with a dot, or all of it.
    fn text_lines<'a>(&mut self, rest: &'a [u8], text: &mut Vec<u8>) -> Option<&'a [u8]> {
        let mut from = 0;
        for end in memchr::memchr_iter(b'\n', rest) {
            let (line, after) = (rest.get(from..end)?, rest.get(end + 1..)?);
            let before = match self.piece(line, text)? {
                At::Cr => Before::Crlf,
                _ => Before::BareLf,
            };
            self.end_line(before, after, text);
            if after.first() == Some(&b'.') {
                return Some(after);
            }
            from = end + 1;
        }
        let piece = rest.get(from..).filter(|piece| !piece.is_empty());
        if let Some(piece) = piece {
            self.at = self.piece(piece, text)?;
        }
        Some(&[])
    }

    /// Takes a piece of a line; a CR at its end is kept back. `None` if the line is too long.
    fn piece(&mut self, piece: &[u8], text: &mut Vec<u8>) -> Option<At> {
        self.line_bytes += piece.len();
        if self.line_bytes >= Decoder::LINE_TOO_LONG {
            return None;
        }
        let (body, at) = match piece.split_last() {
            Some((b'\r', body)) => (body, At::Cr),
            _ => (piece, At::Text),
        };
        self.put(body, text);
        Some(at)
    }

    fn step<'a>(&mut self, at: At, tail: &'a [u8]) -> &'a [u8] {
        self.at = at;
        self.line_bytes += 1;
        tail
    }

    fn end_line<'a>(&mut self, before: Before, tail: &'a [u8], text: &mut Vec<u8>) -> &'a [u8] {
        self.at = At::Start(before);
        self.line_bytes = 0;
        self.put(b"\n", text);
        tail
    }

    /// Drops the dot of a line that goes on after it.
    fn unstuff(&mut self, at: At) {
        self.size_bytes += 1;
        self.at = at;
    }

    fn put(&mut self, bytes: &[u8], text: &mut Vec<u8>) {
        self.size_bytes += bytes.len() as u64;
        text.extend_from_slice(bytes);
    }
}

/// A CR that stands alone becomes a space.
fn blank_crs(text: &mut [u8]) {
    let mut rest = text;
    while let Some(at) = memchr::memchr(b'\r', rest) {
        let (head, tail) = rest.split_at_mut(at + 1);
        head[at] = b' ';
        rest = tail;
    }
}

impl Default for Decoder {
    fn default() -> Decoder {
        Decoder::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::util::dice::Dice;

    /// The same rules, a whole message at once and with no thought of speed: text and bytes used.
    fn naive(wire: &[u8]) -> (Vec<u8>, Option<usize>) {
        let (mut text, mut used, mut before) = (Vec::new(), 0, Before::Crlf);
        while let Some(lf) = wire[used..].iter().position(|&b| b == b'\n') {
            let line = &wire[used..used + lf];
            used += lf + 1;
            let (line, ended) = match line {
                [line @ .., b'\r'] => (line, Before::Crlf),
                line => (line, Before::BareLf),
            };
            match line {
                b"." if (before, ended) == (Before::Crlf, Before::Crlf) => {
                    return (text, Some(used));
                }
                b"." => text.push(b'.'),
                [b'.', line @ ..] | line => {
                    text.extend(line.iter().map(|&b| if b == b'\r' { b' ' } else { b }));
                }
            }
            text.push(b'\n');
            before = ended;
        }
        (text, None)
    }

    fn decode(pieces: &[&[u8]]) -> (Vec<u8>, Option<usize>) {
        let (mut decoder, mut text, mut used) = (Decoder::new(), Vec::new(), 0);
        for piece in pieces {
            match decoder.decode(piece, &mut text) {
                Progress::More => used += piece.len(),
                Progress::End { used: last } => return (text, Some(used + last)),
                Progress::LineTooLong => panic!("short lines only"),
            }
        }
        (text, None)
    }

    const WIRES: [&str; 22] = [
        ".\r\n",
        "\r\n.\r\n",
        "a\r\nb\r\n.\r\nQUIT\r\n",
        "..\r\n...\r\n.x\r\n.\r\n",
        "a\n.\nb\r\n.\r\n",
        "a\n.\r\nb\r\n.\r\n",
        "a\r\n.\nb\r\n.\r\n",
        "a\r.\rb\r\n.\r\n",
        "a\r.\nb\r\n.\r\n",
        "a\n.\rb\r\n.\r\n",
        "a\r.\r\nb\r\n.\r\n",
        "a\r\n.\rb\r\n.\r\n",
        "a\r\n.\r\r\nb\r\n.\r\n",
        "a\r\r\n.\r\r\nb\r\n.\r\n",
        "a\r\n\0.\r\nb\r\n.\r\n",
        "a\r\n.\0\r\nb\r\n.\r\n",
        ".\n.\r\n.\r\n",
        "\n.\r\n.\r\n",
        "\r.\r\n\r\r\n\r\n.\r\n",
        ".\r.\r\n.\r\n",
        "..\n..\r\n.\r\n",
        "\r\r\r\n.\r\r.\r\n.\r\n",
    ];

    #[test]
    fn only_crlf_dot_crlf_ends_a_message_however_it_is_split() {
        // RFC 5321 §4.1.1.4, and the fake ends of data of CVE-2023-51764, -51765 and -51766.
        for wire in WIRES.map(str::as_bytes) {
            let whole = naive(wire);
            assert!(whole.1.is_some(), "{wire:?}");
            for split in 0..=wire.len() {
                let (head, tail) = wire.split_at(split);
                assert_eq!(
                    decode(&[head, tail]),
                    whole,
                    "{:?} at {split}",
                    wire.escape_ascii()
                );
            }
            let bytes: Vec<&[u8]> = wire.chunks(1).collect();
            assert_eq!(decode(&bytes), whole, "{:?} by bytes", wire.escape_ascii());
        }
    }

    #[test]
    fn random_bytes_decode_as_the_naive_reading_does() {
        let mut dice = Dice::new(1);
        let mut draw = |below: usize| dice.roll(below);
        for _ in 0..20_000 {
            let mut wire: Vec<u8> = (0..draw(40)).map(|_| b"\r\n..\r\nab\0"[draw(9)]).collect();
            wire.extend_from_slice(b"\r\n.\r\n");
            let whole = naive(&wire);
            let (mut pieces, mut rest) = (Vec::new(), wire.as_slice());
            while !rest.is_empty() {
                let (head, tail) = rest.split_at(1 + draw(rest.len()));
                pieces.push(head);
                rest = tail;
            }
            assert_eq!(decode(&pieces), whole, "{:?}", wire.escape_ascii());
            assert!(!whole.0.contains(&b'\r'));
        }
    }

    #[test]
    fn the_size_counts_dots_as_sent_and_one_byte_for_each_line_end() {
        let mut decoder = Decoder::new();
        decoder.decode(b"..a\r\nb\n.\r\r\n.\n", &mut Vec::new());
        assert_eq!(decoder.size_bytes(), 4 + 2 + 3 + 2);
        decoder.decode(b"\r\n.\r\n", &mut Vec::new());
        assert_eq!(decoder.size_bytes(), 12, "the final dot does not count");
    }

    #[test]
    fn a_line_of_65535_bytes_is_too_long_however_it_comes() {
        let mut line = vec![b'x'; Decoder::LINE_TOO_LONG - 2];
        line.extend_from_slice(b"\r\n");
        let mut decoder = Decoder::new();
        assert_eq!(decoder.decode(&line, &mut Vec::new()), Progress::More);
        line.insert(0, b'x');
        assert_eq!(
            decoder.decode(&line, &mut Vec::new()),
            Progress::LineTooLong
        );
        let mut decoder = Decoder::new();
        let end = line
            .chunks(1000)
            .map(|piece| decoder.decode(piece, &mut Vec::new()))
            .last();
        assert_eq!(end, Some(Progress::LineTooLong));
        for filler in [b"\r", b"."] {
            let mut decoder = Decoder::new();
            let many = filler.repeat(70_000);
            let end = many
                .chunks(1)
                .map(|piece| decoder.decode(piece, &mut Vec::new()))
                .last();
            assert_eq!(end, Some(Progress::LineTooLong));
        }
    }
}
