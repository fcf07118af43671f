//! A message as the wire carries it: CRLF line ends, dots doubled, the final dot (RFC 5321 §4.5.2).
//!
//! Whatever bytes go in, what comes out has CR and LF only together and one lone dot, at the end:
//! a line end of CRLF stays one, a CR alone becomes a space, a last line without an end gets one.
//! NUL and bytes beyond ASCII pass; to change them would break signatures.

/// Encodes a message, however it is cut.
#[derive(Clone, Debug)]
pub struct Encoder {
    at: At,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    LineStart,
    Text,
    /// After a CR that has not been written.
    Cr,
}

impl Encoder {
    /// An encoder at the start of a message.
    pub fn new() -> Encoder {
        Encoder { at: At::LineStart }
    }

    /// Appends `text` to `wire`.
    pub fn encode(&mut self, text: &[u8], wire: &mut Vec<u8>) {
        wire.reserve(text.len() + text.len() / 32);
        let mut from = 0;
        for end in memchr::memchr2_iter(b'\n', b'\r', text) {
            self.piece(text.get(from..end).unwrap_or_default(), wire);
            match text.get(end) {
                Some(b'\r') => self.cr(wire),
                _ => {
                    wire.extend_from_slice(b"\r\n");
                    self.at = At::LineStart;
                }
            }
            from = end + 1;
        }
        self.piece(text.get(from..).unwrap_or_default(), wire);
    }

    /// Appends the end of the message.
    pub fn finish(&self, wire: &mut Vec<u8>) {
        if self.at != At::LineStart {
            wire.extend_from_slice(b"\r\n");
        }
        wire.extend_from_slice(b".\r\n");
    }

    /// A piece of a line, without CR and LF.
    fn piece(&mut self, piece: &[u8], wire: &mut Vec<u8>) {
        let Some(first) = piece.first() else {
            return;
        };
        match self.at {
            At::LineStart if *first == b'.' => wire.push(b'.'),
            At::Cr => wire.push(b' '),
            At::LineStart | At::Text => {}
        }
        self.at = At::Text;
        wire.extend_from_slice(piece);
    }

    /// A CR is kept back: it may belong to the line end. One before it does not.
    fn cr(&mut self, wire: &mut Vec<u8>) {
        if self.at == At::Cr {
            wire.push(b' ');
        }
        self.at = At::Cr;
    }
}

impl Default for Encoder {
    fn default() -> Encoder {
        Encoder::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtp::dot::{Decoder, Progress};
    use crate::util::dice::Dice;

    fn encode(pieces: &[&[u8]]) -> Vec<u8> {
        let (mut encoder, mut wire) = (Encoder::new(), Vec::new());
        for piece in pieces {
            encoder.encode(piece, &mut wire);
        }
        encoder.finish(&mut wire);
        wire
    }

    #[test]
    fn lines_end_in_crlf_and_their_dots_are_doubled_however_they_are_cut() {
        // RFC 5321 §4.5.2, §2.3.8.
        for (text, wire) in [
            ("", ".\r\n"),
            ("a\n", "a\r\n.\r\n"),
            ("a", "a\r\n.\r\n"),
            (".", "..\r\n.\r\n"),
            (
                ".\n..x\na.b\n\n.\nlast",
                "..\r\n...x\r\na.b\r\n\r\n..\r\nlast\r\n.\r\n",
            ),
            ("a\r\nb\r\n", "a\r\nb\r\n.\r\n"),
            ("a\r.\r\nb\rc\r\r\nd\r", "a .\r\nb c \r\nd\r\n.\r\n"),
            ("\r.\n", " .\r\n.\r\n"),
            ("\r\n.\r\n", "\r\n..\r\n.\r\n"),
            ("a\0b\n\u{e9}\n", "a\0b\r\n\u{e9}\r\n.\r\n"),
        ] {
            let text = text.as_bytes();
            for cut in 0..=text.len() {
                let (head, tail) = text.split_at(cut);
                let got = encode(&[head, tail]);
                assert_eq!(
                    got.escape_ascii().to_string(),
                    wire.as_bytes().escape_ascii().to_string(),
                    "{cut}"
                );
            }
            assert_eq!(encode(&text.chunks(1).collect::<Vec<_>>()), wire.as_bytes());
        }
    }

    #[test]
    fn what_is_encoded_is_decoded_whole_and_nothing_ends_it_early() {
        let mut dice = Dice::new(7);
        for _ in 0..20_000 {
            let text: Vec<u8> = (0..dice.roll(40))
                .map(|_| b"\r\n..\n\nab\0"[dice.roll(9)])
                .collect();
            let wire = encode(&[&text]);
            let (mut pieces, mut rest) = (Vec::new(), text.as_slice());
            while !rest.is_empty() {
                let (head, tail) = rest.split_at(1 + dice.roll(rest.len()));
                pieces.push(head);
                rest = tail;
            }
            assert_eq!(encode(&pieces), wire, "{}", text.escape_ascii());
            let mut back = Vec::new();
            let end = Decoder::new().decode(&wire, &mut back);
            assert_eq!(end, Progress::End { used: wire.len() });
            let mut expected = Vec::new();
            let mut lines = text.split(|b| *b == b'\n').peekable();
            while let Some(line) = lines.next() {
                let last = lines.peek().is_none();
                let line = line.strip_suffix(b"\r").unwrap_or(line);
                if last && text.ends_with(b"\n") || text.is_empty() {
                    break;
                }
                expected.extend(line.iter().map(|b| if *b == b'\r' { b' ' } else { *b }));
                expected.push(b'\n');
            }
            assert_eq!(
                back.escape_ascii().to_string(),
                expected.escape_ascii().to_string()
            );
        }
    }
}
