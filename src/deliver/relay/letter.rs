//! A message as a session sends it: opened once, read as often as it takes.

use std::io::{self, Read};
use std::sync::Arc;

use crate::client::{Content, Extensions, Message, Recipient};
use crate::log;
use crate::mail::MailAddr;
use crate::queue::{Body, Queue};
use crate::rfc5322::folded::Folded;

use super::core::Load;

/// A message and the recipients that it is sent to.
pub struct Letter {
    /// Its envelopes.
    pub load: Arc<Load>,
    /// The reverse-path.
    pub sender: MailAddr,
    /// What is sent, and what has to be said of it; none where it cannot be read.
    text: Option<(Body, Facts)>,
}

/// What a host is told of a message before it gets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Facts {
    size_bytes: u64,
    eight_bit: bool,
}

const CHUNK_BYTES: usize = 64 * 1024;

impl Letter {
    /// Opens a message, for a host that offers this. One that cannot be read is said so in the log.
    pub fn open(queue: &Queue, load: Arc<Load>, sender: MailAddr, offered: &Extensions) -> Letter {
        let first = load.envelopes.first();
        let text = first.and_then(|first| {
            let msgid = first.id.msgid();
            let opened = queue.open_body(msgid).and_then(|body| {
                let facts = Facts::of(&body, offered)?;
                Ok((body, facts))
            });
            let why = |error: &io::Error| {
                log::warn(format_args!("queue: cannot read message {msgid}: {error}"));
            };
            opened.inspect_err(why).ok()
        });
        Letter { load, sender, text }
    }

    /// What MAIL says of it, if it can be read.
    pub fn message(&self) -> Option<Message<'_>> {
        let (_, facts) = self.text.as_ref()?;
        let first = self.load.envelopes.first()?;
        Some(Message {
            sender: self.sender.clone(),
            size_bytes: Some(facts.size_bytes),
            eight_bit: facts.eight_bit,
            ret: first.dsn.ret,
            envid: first.dsn.envid.clone(),
            content: self,
        })
    }

    /// Whom it is sent to.
    pub fn recipients(&self) -> Vec<Recipient> {
        self.load.envelopes.iter().map(Recipient::of).collect()
    }
}

impl Content for Letter {
    fn open(&self) -> io::Result<Box<dyn Read + '_>> {
        let (body, _) = self.text.as_ref().ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(Folded::new(body.again()?)))
    }
}

impl Facts {
    /// The message is read through for what the host asks, and for nothing else.
    fn of(body: &Body, offered: &Extensions) -> io::Result<Facts> {
        if offered.size.is_some() || offered.eight_bit {
            let room = usize::try_from(body.size_bytes()?).unwrap_or(CHUNK_BYTES);
            Facts::read(Folded::new(body.again()?), room.clamp(1, CHUNK_BYTES))
        } else {
            Ok(Facts {
                size_bytes: body.size_bytes()?,
                eight_bit: false,
            })
        }
    }

    /// RFC 1870 section 5: the octets of the message with its line ends, which are CRLF there and
    /// LF in the queue. Dots that are doubled do not count.
    fn read(mut text: impl Read, at_once: usize) -> io::Result<Facts> {
        let mut buffer = vec![0; at_once];
        let (mut size_bytes, mut last, mut eight_bit) = (0, b'\n', false);
        loop {
            let n = match text.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let chunk = buffer.get(..n).unwrap_or_default();
            let ends = memchr::memchr_iter(b'\n', chunk).count();
            let whole = match memchr::memchr(b'\r', chunk) {
                Some(at) => chunk.get(at..).unwrap_or_default().windows(2),
                None => [].windows(2),
            };
            let whole = whole.filter(|two| *two == b"\r\n").count();
            let split = last == b'\r' && chunk.first() == Some(&b'\n');
            size_bytes += (n + ends - whole - usize::from(split)) as u64;
            eight_bit |= !chunk.is_ascii();
            last = chunk.last().copied().unwrap_or(last);
        }
        // What does not end with a line end gets one.
        size_bytes += if last == b'\n' { 0 } else { 2 };
        Ok(Facts {
            size_bytes,
            eight_bit,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_that_is_announced_counts_line_ends_as_they_are_sent() {
        // RFC 1870, section 5.
        for (text, wire) in [
            ("", ""),
            ("a\nb\n", "a\r\nb\r\n"),
            ("a\r\nb", "a\r\nb\r\n"),
            ("\n\n", "\r\n\r\n"),
            ("a\r\n\r\n\nb\r", "a\r\n\r\n\r\nb\r\r\n"),
        ] {
            for at_once in [1, 2, 100] {
                let facts = Facts::read(text.as_bytes(), at_once).unwrap();
                assert_eq!(facts.size_bytes, wire.len() as u64, "{text:?}");
            }
        }
        assert!(!Facts::read("a\n".as_bytes(), 9).unwrap().eight_bit);
        assert!(Facts::read("\u{e9}\n".as_bytes(), 1).unwrap().eight_bit);
    }
}
