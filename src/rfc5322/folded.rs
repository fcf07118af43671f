//! Header lines that are longer than SMTP allows, folded on their way to another host.
//!
//! RFC 5322 §2.1.1 and RFC 5321 §4.5.3.1.6: a line has at most 998 bytes. A longer one of the
//! header is cut at its last blank, else behind a comma, else where it must; what follows begins
//! with a blank (§2.2.3), so it stays the same field. Everything else, the body included, passes as
//! it is. At most one line is held in memory.

use std::io::{self, Read};

/// A message with LF line ends, whose header lines fit.
#[derive(Debug)]
pub struct Folded<R> {
    source: R,
    /// The line of the header at hand.
    line: Vec<u8>,
    /// It is the rest of a longer one.
    is_rest: bool,
    ready: Vec<u8>,
    taken: usize,
    in_body: bool,
}

const LONGEST: usize = 998;
const CHUNK_BYTES: usize = 8 * 1024;

impl<R: Read> Folded<R> {
    /// The message that `source` holds.
    pub fn new(source: R) -> Folded<R> {
        Folded {
            source,
            line: Vec::new(),
            is_rest: false,
            ready: Vec::new(),
            taken: 0,
            in_body: false,
        }
    }

    fn feed(&mut self, bytes: &[u8]) {
        for (at, byte) in bytes.iter().enumerate() {
            if *byte != b'\n' {
                if self.line.len() == LONGEST {
                    self.fold();
                }
                self.line.push(*byte);
                continue;
            }
            self.in_body = self.line.is_empty();
            self.end_line(b"\n");
            if self.in_body {
                let rest = bytes.get(at + 1..).unwrap_or_default();
                self.ready.extend_from_slice(rest);
                return;
            }
        }
    }

    fn end_line(&mut self, end: &[u8]) {
        // A line of blanks alone might be taken for the end of the header.
        let nothing = self.is_rest && self.line.iter().all(|byte| is_blank(*byte));
        if !nothing {
            self.ready.extend_from_slice(&self.line);
            self.ready.extend_from_slice(end);
        }
        self.line.clear();
        self.is_rest = false;
    }

    fn fold(&mut self) {
        if self.is_rest && self.line.iter().all(|byte| is_blank(*byte)) {
            // As many blanks say as much as one.
            self.line.truncate(1);
            return;
        }
        let text = self.line.iter().position(|byte| !is_blank(*byte));
        let text = text.map_or(self.line.len(), |at| at + 1);
        let behind = self.line.get(text..).unwrap_or_default();
        let (end, blank): (usize, &[u8]) = match behind.iter().rposition(|byte| is_blank(*byte)) {
            Some(at) => (text + at, b""),
            None => match behind.iter().rposition(|byte| *byte == b',') {
                Some(at) => (text + at + 1, b" "),
                None => (self.line.len(), b" "),
            },
        };
        let rest = self.line.split_off(end);
        self.ready.append(&mut self.line);
        self.ready.push(b'\n');
        self.line = [blank, &rest].concat();
        self.is_rest = true;
    }
}

impl<R: Read> Read for Folded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let ready = self.ready.get(self.taken..).unwrap_or_default();
            if !ready.is_empty() {
                let count = ready.len().min(buffer.len());
                buffer[..count].copy_from_slice(&ready[..count]);
                self.taken += count;
                return Ok(count);
            }
            self.ready.clear();
            self.taken = 0;
            if self.in_body {
                return self.source.read(buffer);
            }
            let mut chunk = [0; CHUNK_BYTES];
            let count = self.source.read(&mut chunk)?;
            match count {
                0 if self.line.is_empty() => return Ok(0),
                0 => self.end_line(b""),
                _ => self.feed(&chunk[..count]),
            }
        }
    }
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The message as it leaves, when it comes in pieces of this size.
    fn folded(text: &str, piece: usize) -> String {
        struct Pieces<'t>(&'t [u8], usize);
        impl Read for Pieces<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let count = self.1.min(self.0.len()).min(buffer.len());
                let (now, later) = self.0.split_at(count);
                buffer[..count].copy_from_slice(now);
                self.0 = later;
                Ok(count)
            }
        }
        let mut out = Vec::new();
        let mut message = Folded::new(Pieces(text.as_bytes(), piece));
        message.read_to_end(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    /// A field without its folds (RFC 5322 §2.2.3).
    fn unfolded(text: &str) -> String {
        text.replace("\n ", " ").replace("\n\t", "\t")
    }

    #[test]
    fn lines_that_fit_and_bodies_pass_as_they_are() {
        let fits = format!("To: {}\n", "x".repeat(994));
        let long = "y".repeat(5000);
        for text in [
            String::new(),
            "Subject: x".to_owned(),
            fits.clone(),
            format!("{fits}Cc: a,\n\tb\n\n{long}\n \n{long}"),
            format!("\n{long}"),
        ] {
            for piece in [1, 7, 100_000] {
                assert_eq!(folded(&text, piece), text);
            }
        }
    }

    #[test]
    fn longer_header_lines_are_folded_and_say_the_same() {
        // RFC 5322 §2.1.1: no line of more than 998 characters.
        let list: Vec<String> = (0..400).map(|n| format!("user{n}@example.org")).collect();
        for field in [
            format!("To: {}", list.join(", ")),
            format!("X-A: {}\tb", "a".repeat(993)),
            format!("X-A:{}b", " ".repeat(3000)),
        ] {
            for piece in [1, 1000, 100_000] {
                let text = format!("From: x\n{field}\nSubject: y\n\n{field}\n");
                let out = folded(&text, piece);
                let (header, body) = out.split_once("\n\n").unwrap();
                assert!(header.lines().all(|line| line.len() <= 998));
                assert!(header.lines().all(|line| !line.trim().is_empty()));
                assert!(header.lines().count() > 3);
                assert_eq!(body, format!("{field}\n"));
                let blank = |text: &str| text.replace([' ', '\t'], "");
                let whole = format!("From: x\n{field}\nSubject: y");
                assert_eq!(blank(&unfolded(header)), blank(&whole));
            }
        }
        // Without a blank: behind a comma, else anywhere.
        let commas = format!("To:{}", list.join(","));
        let out = folded(&format!("{commas}\n\n"), 100);
        assert!(out.lines().all(|line| line.len() <= 998));
        assert!(out.lines().rev().skip(2).all(|line| line.ends_with(',')));
        let out = folded(&format!("X:{}\n\n", "z".repeat(2500)), 100);
        assert!(out.lines().all(|line| line.len() <= 998));
        assert_eq!(out.matches('z').count(), 2500);
        // Blanks at the end make no line of their own.
        let out = folded(
            &format!("X: {}{}\nY: z\n\n", "z".repeat(990), " ".repeat(2000)),
            64,
        );
        assert!(
            out.ends_with("\nY: z\n\n")
                && out.lines().all(|l| l.is_empty() || !l.trim().is_empty())
        );
    }
}
