//! What the delivery program reads: added header lines, then the message.
//!
//! An existing Return-Path is left out, for it would be another delivery's. A message whose header
//! says that it was delivered to this destination before is a loop and is not read further.

use std::io::{self, Cursor, Read};

use crate::mail::Envelope;
use crate::queue::{Body, Queue};
use crate::rfc5322::{fields, header_end};

/// Most bytes of header that are looked at; what comes after is passed on as it is.
const HEADER_MAX: usize = 1 << 20;

const STEP: usize = 64 * 1024;

/// A message with the headers of this delivery in front.
pub struct Content {
    start: Cursor<Vec<u8>>,
    rest: Body,
}

/// Why there is nothing to deliver.
#[derive(Debug)]
pub enum NoContent {
    /// It was delivered to this destination before.
    Loop,
    /// The message cannot be read.
    Io(io::Error),
}

impl From<io::Error> for NoContent {
    fn from(error: io::Error) -> NoContent {
        NoContent::Io(error)
    }
}

impl Content {
    /// Opens the message of `envelope`.
    pub fn open(queue: &Queue, envelope: &Envelope) -> Result<Content, NoContent> {
        Content::with(queue, envelope, &added_headers(envelope), true)
    }

    /// Opens the message of `envelope` for several recipients, whom it does not name: they may not
    /// know of each other. Whether it loops has been looked at.
    pub fn open_shared(queue: &Queue, envelope: &Envelope) -> io::Result<Content> {
        let added = format!("Return-Path: <{}>\n", envelope.sender);
        Content::with(queue, envelope, &added, false).map_err(|why| match why {
            NoContent::Io(error) => error,
            NoContent::Loop => io::Error::other("loop"),
        })
    }

    fn with(
        queue: &Queue,
        envelope: &Envelope,
        added: &str,
        check: bool,
    ) -> Result<Content, NoContent> {
        let mut rest = queue.open_body(envelope.id.msgid())?;
        let body = read_header(&mut rest)?;
        let dest = envelope.dest.to_string();
        let mut start = added.as_bytes().to_vec();
        let mut kept_from = 0;
        for field in fields(&body) {
            if check && field.is("Delivered-To") && same_address(field.value, &dest) {
                return Err(NoContent::Loop);
            }
            if field.is("Return-Path") {
                let kept = body.get(kept_from..field.place.start);
                start.extend_from_slice(kept.unwrap_or_default());
                kept_from = field.place.end;
            }
        }
        start.extend_from_slice(body.get(kept_from..).unwrap_or_default());
        Ok(Content {
            start: Cursor::new(start),
            rest,
        })
    }
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.start.read(buffer)? {
            0 => self.rest.read(buffer),
            n => Ok(n),
        }
    }
}

fn added_headers(envelope: &Envelope) -> String {
    format!(
        "Return-Path: <{}>\nDelivered-To: {}\n",
        envelope.sender, envelope.rcpt
    )
}

/// Reads until an empty line has come, to the bound, or to the end of the message.
fn read_header(from: &mut Body) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    loop {
        let before = bytes.len();
        from.by_ref().take(STEP as u64).read_to_end(&mut bytes)?;
        if bytes.len() == before || bytes.len() >= HEADER_MAX || header_end(&bytes).is_some() {
            return Ok(bytes);
        }
    }
}

fn same_address(value: &[u8], dest: &str) -> bool {
    value.trim_ascii().eq_ignore_ascii_case(dest.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deliver::local::tests::{envelope, queue_with};
    use crate::mail::MailAddr;

    fn content(body: &[u8], null_sender: bool) -> Result<Vec<u8>, NoContent> {
        let mut wanted = envelope(1, "bob");
        if null_sender {
            wanted.sender = MailAddr::null();
        }
        let (queue, envelope) = queue_with(wanted, body);
        let mut bytes = Vec::new();
        Content::open(&queue, &envelope)?.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn text(body: &[u8]) -> String {
        String::from_utf8_lossy(&content(body, false).unwrap()).into_owned()
    }

    const ADDED: &str = "Return-Path: <al@e.org>\nDelivered-To: bob@e.net\n";

    #[test]
    fn headers_are_put_in_front_and_the_message_is_unchanged() {
        // RFC 5321 §4.4: the last server puts Return-Path in front. Delivered-To follows it.
        for body in ["A: b\n\nhi\n", "", "\n", "no header", "A: b", "x\0\r\n\n"] {
            assert_eq!(text(body.as_bytes()), format!("{ADDED}{body}"));
        }
        let bounce = content(b"A: b\n", true).unwrap();
        assert!(bounce.starts_with(b"Return-Path: <>\nDelivered-To: bob@e.net\nA: b\n"));
    }

    #[test]
    fn an_older_return_path_is_left_out_and_nothing_else() {
        for (body, kept) in [
            ("Return-Path: <x@y>\nA: b\n\nhi\n", "A: b\n\nhi\n"),
            (
                "A: b\nRETURN-path:\n <x@y>\n\tfolded\nC: d\n\nx",
                "A: b\nC: d\n\nx",
            ),
            (
                "A: b\n\nReturn-Path: <x@y>\n",
                "A: b\n\nReturn-Path: <x@y>\n",
            ),
            ("Return-Path-Not: x\n\n", "Return-Path-Not: x\n\n"),
            ("Return-Path: <x@y>", ""),
        ] {
            assert_eq!(text(body.as_bytes()), format!("{ADDED}{kept}"), "{body:?}");
        }
    }

    #[test]
    fn a_message_delivered_here_before_is_a_loop() {
        for body in [
            "A: b\nDelivered-To: bob@host.e.net\n\nhi",
            "delivered-TO: Bob@HOST.e.net\n\nhi",
            "A: b\n folded\nDelivered-To:  bob@host.e.net",
        ] {
            let result = content(body.as_bytes(), false);
            assert!(matches!(result, Err(NoContent::Loop)), "{body:?}");
        }
        for body in [
            "A: b\n\nDelivered-To: bob@host.e.net\n",
            "Delivered-To: bob@e.net\n\n",
            "Delivered-To: xbob@host.e.net\n\n",
            "no header\nDelivered-To: bob@host.e.net\n",
        ] {
            assert!(content(body.as_bytes(), false).is_ok(), "{body:?}");
        }
    }

    #[test]
    fn a_long_header_is_searched_to_its_bound_and_passed_on_whole() {
        let mut body = Vec::new();
        while body.len() < 300_000 {
            body.extend_from_slice(b"Received: by somebody\n\tfor somebody else\n");
        }
        let mut looped = body.clone();
        looped.extend_from_slice(b"Delivered-To: bob@host.e.net\n\nhi");
        assert!(matches!(content(&looped, false), Err(NoContent::Loop)));
        body.resize(3 * HEADER_MAX, b'x');
        let got = content(&body, false).unwrap();
        assert!(got.len() == body.len() + ADDED.len() && got.ends_with(&body));
    }
}
