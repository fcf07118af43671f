//! What a report returns of the original message: its header, or all of it where the sender asked
//! for that (RET=FULL), within bounds.
//!
//! Line ends are made LF, control characters that mail may not hold become blanks, so that no
//! original can break the report that carries it. A message too long to be returned whole is
//! represented by its header; a header too long is cut at a line.

use std::io::{self, BufRead, BufReader, Read};

use crate::mail::{BounceKind, Envelope, Ret};
use crate::queue::Queue;

use super::collect::kind_of;

/// Most bytes of a header that are returned.
const HEADER_MAX: usize = 64 * 1024;
/// Most bytes of a message that are returned whole.
const MESSAGE_MAX: usize = 1024 * 1024;

/// The returned part of an original message.
#[derive(Debug, PartialEq, Eq)]
pub struct Excerpt {
    /// The bytes, LF line ends, ending in one.
    pub bytes: Vec<u8>,
    /// How much of the message they are.
    pub extent: Extent,
}

/// How much of a message is returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    Header,
    Whole,
}

/// Reads what the report about `envelope` returns. `None`: the body is gone, and a report without
/// it is better than none.
pub(super) fn read(queue: &Queue, envelope: &Envelope) -> io::Result<Option<Excerpt>> {
    let file = match queue.open_body(envelope.id.msgid()) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let whole = envelope.dsn.ret == Some(Ret::Full) && kind_of(envelope) == BounceKind::Failed;
    excerpt(BufReader::new(file), whole).map(Some)
}

/// What a report quotes of a message: its header, or all of it if it is not too long.
pub fn excerpt(mut body: impl BufRead, whole: bool) -> io::Result<Excerpt> {
    let mut bytes = Vec::new();
    let complete = header(&mut body, &mut bytes)?;
    if !whole || !complete {
        return Ok(clean(bytes, Extent::Header));
    }
    let header_len = bytes.len();
    let room = (MESSAGE_MAX + 1).saturating_sub(header_len) as u64;
    body.by_ref().take(room).read_to_end(&mut bytes)?;
    if bytes.len() > MESSAGE_MAX {
        bytes.truncate(header_len);
        return Ok(clean(bytes, Extent::Header));
    }
    Ok(clean(bytes, Extent::Whole))
}

/// Reads up to and including the empty line, or as many whole lines as are allowed; false if there
/// was more.
fn header(body: &mut impl BufRead, bytes: &mut Vec<u8>) -> io::Result<bool> {
    while bytes.len() < HEADER_MAX {
        let start = bytes.len();
        let room = (HEADER_MAX - start) as u64;
        body.by_ref().take(room).read_until(b'\n', bytes)?;
        let line = bytes.get(start..).unwrap_or_default();
        if line == b"\n" || line == b"\r\n" {
            return Ok(true);
        }
        if !line.ends_with(b"\n") {
            if bytes.len() < HEADER_MAX {
                return Ok(true);
            }
            // Half a line says nothing, except when there is nothing else.
            if start > 0 {
                bytes.truncate(start);
            }
            return Ok(false);
        }
    }
    Ok(false)
}

fn clean(bytes: Vec<u8>, extent: Extent) -> Excerpt {
    let mut out = Vec::with_capacity(bytes.len() + 1);
    let mut rest = bytes.iter().copied().peekable();
    while let Some(byte) = rest.next() {
        match byte {
            b'\r' if rest.peek() == Some(&b'\n') => {}
            b'\r' | 0 => out.push(b' '),
            byte => out.push(byte),
        }
    }
    if !out.ends_with(b"\n") {
        out.push(b'\n');
    }
    if extent == Extent::Header {
        // The part holds header fields alone.
        while out.ends_with(b"\n\n") {
            out.pop();
        }
    }
    Excerpt { bytes: out, extent }
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, SeekFrom, Write};

    use super::*;

    fn of(text: &[u8], whole: bool) -> Excerpt {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text).unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        excerpt(BufReader::new(file), whole).unwrap()
    }

    #[test]
    fn only_the_header_is_returned_unless_all_is_asked_for() {
        // RFC 3461 §4.3: the header only, up to the first empty line, unless RET=FULL.
        let text = b"Subject: a\nTo: b\n\nbody\n";
        assert_eq!(of(text, false).bytes, b"Subject: a\nTo: b\n");
        assert_eq!(of(text, true).bytes, text);
        assert_eq!(of(text, true).extent, Extent::Whole);
        assert_eq!(of(b"", false).bytes, b"\n");
        assert_eq!(of(b"no end", true).bytes, b"no end\n");
    }

    #[test]
    fn what_is_too_long_is_cut_at_a_line() {
        // RFC 6522 §3: the message or a portion of it; of a large one the beginning.
        let long = [b"Subject: a\n\n".as_slice(), &[b'x'; MESSAGE_MAX]].concat();
        let cut = of(&long, true);
        assert_eq!(
            (cut.bytes.as_slice(), cut.extent),
            (&b"Subject: a\n"[..], Extent::Header)
        );
        let header = b"X-Field: 0123456789\n".repeat(HEADER_MAX / 10);
        let cut = of(&header, true);
        assert_eq!(cut.extent, Extent::Header);
        assert!(cut.bytes.len() <= HEADER_MAX);
        assert!(cut.bytes.ends_with(b"X-Field: 0123456789\n"));
    }

    #[test]
    fn line_ends_and_controls_cannot_break_the_report() {
        // RFC 5322 §2.3: CR and LF occur only together; NUL not at all.
        let text = b"A: b\r\nC: \rd\0\n\n.\r\n";
        assert_eq!(of(text, true).bytes, b"A: b\nC:  d \n\n.\n");
    }
}
