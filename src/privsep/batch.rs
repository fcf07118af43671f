//! Many deliveries to one child: the frames between the engine and a batch.
//!
//! On the child's standard input, for each message: a frame with its head (sequence number,
//! addresses), the body in chunks, and an end mark; or, when the body could not be read to its end,
//! an abort mark. On its output, one frame with an [`Answer`] per message, in order. Every length
//! has a bound: a reader that meets more, or anything out of place, gives up on the stream, because
//! after that nothing in it can be trusted.

use std::io::{self, Read, Write};

use crate::mail::MailAddr;
use crate::util::Line;
use crate::util::frame::LENGTH_BYTES;
use crate::util::wire::{Cut, wire};

use super::frame::{decode, whole};

/// Most bytes of body in a chunk.
pub const CHUNK_MAX: usize = 64 * 1024;

/// Most bytes of text in an answer.
pub const TEXT_MAX: usize = 1024;

/// Most bytes of a part of an address or a sub-address.
pub const FIELD_MAX: usize = 8 * 1024;

const END: u32 = 0;
const ABORT: u32 = u32::MAX;
/// Longest frames, in bytes: texts, and what stands between them.
const HEAD_MAX: usize = 7 * (FIELD_MAX + 4) + 16;
const ANSWER_MAX: usize = TEXT_MAX + 32;

/// What comes before a message's body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub sequence: u32,
    /// What followed the sub-address delimiter.
    pub subaddress: Option<Line>,
    /// The reverse-path.
    pub sender: MailAddr,
    /// The recipient as RCPT TO gave it.
    pub rcpt: MailAddr,
    /// The recipient after expansion.
    pub dest: MailAddr,
}

/// One piece of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chunk {
    /// So many bytes follow.
    Bytes(usize),
    /// The body is complete.
    End,
    /// The body stops here and is not to be delivered.
    Abort,
}

/// What came of one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Of the head.
    pub sequence: u32,
    /// As a delivery program would have exited.
    pub code: i32,
    /// The last line it would have written; empty when all went well.
    pub text: Line,
}

wire! { struct Head { sequence, subaddress, sender, rcpt, dest } }

wire! { struct Answer { sequence, code, text as Cut<TEXT_MAX> } }

impl Head {
    /// Appends the frame to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&whole(self));
    }

    /// Reads a head; `None` at an end of file between messages.
    pub fn read(from: &mut impl Read) -> io::Result<Option<Head>> {
        let Some(length) = number_or_eof(from)? else {
            return Ok(None);
        };
        let mut frame = length.to_le_bytes().to_vec();
        let rest = u64::from(length);
        if rest > HEAD_MAX as u64 {
            return Err(garbage());
        }
        if from.take(rest).read_to_end(&mut frame)? as u64 != rest {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        decode(&frame).map(Some).map_err(|_| garbage())
    }
}

impl Chunk {
    /// Appends the mark to `out`; the bytes themselves follow it.
    pub fn encode(self, out: &mut Vec<u8>) {
        let word = match self {
            Chunk::Bytes(len) => u32::try_from(len).unwrap_or(ABORT),
            Chunk::End => END,
            Chunk::Abort => ABORT,
        };
        out.extend_from_slice(&word.to_le_bytes());
    }

    /// Reads a mark.
    pub fn read(from: &mut impl Read) -> io::Result<Chunk> {
        match number(from)? {
            END => Ok(Chunk::End),
            ABORT => Ok(Chunk::Abort),
            len if len as usize <= CHUNK_MAX => Ok(Chunk::Bytes(len as usize)),
            _ => Err(garbage()),
        }
    }
}

/// The body of a single delivery, in chunks on the child's standard input. Its end is where the
/// end mark is: a stream that stops before, because whoever wrote it is gone, is an error.
#[derive(Debug)]
pub struct BodyReader<R> {
    from: R,
    /// Bytes of the chunk that are still to come.
    left: usize,
    is_over: bool,
}

impl<R: Read> BodyReader<R> {
    /// At the first chunk.
    pub fn new(from: R) -> BodyReader<R> {
        BodyReader {
            from,
            left: 0,
            is_over: false,
        }
    }

    /// What it reads from.
    pub fn get_ref(&self) -> &R {
        &self.from
    }

    /// The reader below, to be changed but not to be read from.
    pub fn get_mut(&mut self) -> &mut R {
        &mut self.from
    }

    /// Whether `rest`, all that is still to come, has the end mark where it should be.
    pub fn check_rest(&self, rest: impl FnOnce(&R) -> &[u8]) -> io::Result<()> {
        let mut rest = BodyReader {
            from: rest(&self.from),
            left: self.left,
            is_over: self.is_over,
        };
        io::copy(&mut rest, &mut io::sink()).map(drop)
    }
}

impl<R: Read> Read for BodyReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 && !self.is_over {
            match Chunk::read(&mut self.from)? {
                Chunk::Bytes(len) => self.left = len,
                Chunk::End => self.is_over = true,
                Chunk::Abort => return Err(io::Error::other("the message cannot be read")),
            }
        }
        let room = self.left.min(buffer.len());
        let Some(buffer) = buffer.get_mut(..room).filter(|_| room > 0) else {
            return Ok(0);
        };
        let n = self.from.read(buffer)?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= n;
        Ok(n)
    }
}

impl Answer {
    /// Writes the frame.
    pub fn write(&self, to: &mut impl Write) -> io::Result<()> {
        to.write_all(&whole(self))
    }

    /// Takes one answer from the front of `buffer`; `None` while it is incomplete.
    pub fn take(buffer: &mut Vec<u8>) -> io::Result<Option<Answer>> {
        let Some(head) = buffer.first_chunk::<LENGTH_BYTES>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*head) as usize;
        if length > ANSWER_MAX {
            return Err(garbage());
        }
        let Some(frame) = buffer.get(..LENGTH_BYTES + length) else {
            return Ok(None);
        };
        let answer = decode(frame).map_err(|_| garbage())?;
        buffer.drain(..LENGTH_BYTES + length);
        Ok(Some(answer))
    }
}

fn number(from: &mut impl Read) -> io::Result<u32> {
    let mut bytes = [0; 4];
    from.read_exact(&mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}

fn number_or_eof(from: &mut impl Read) -> io::Result<Option<u32>> {
    let mut bytes = [0; 4];
    let mut have = 0;
    while have < bytes.len() {
        match from.read(&mut bytes[have..]) {
            Ok(0) if have == 0 => return Ok(None),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => have += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Some(u32::from_le_bytes(bytes)))
}

fn garbage() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "not a batch frame")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> Head {
        Head {
            sequence: 7,
            subaddress: Line::new("tag").ok(),
            sender: MailAddr::null(),
            rcpt: MailAddr::new("bob", "example.org").unwrap(),
            dest: MailAddr::new("b.ob", "host").unwrap(),
        }
    }

    #[test]
    fn heads_read_back_as_written_and_end_cleanly_only_between_messages() {
        let mut bytes = Vec::new();
        head().encode(&mut bytes);
        let whole = bytes.clone();
        let mut from = whole.as_slice();
        assert_eq!(Head::read(&mut from).unwrap(), Some(head()));
        assert_eq!(Head::read(&mut from).unwrap(), None);
        for cut in 1..whole.len() {
            assert!(Head::read(&mut &whole[..cut]).is_err(), "cut at {cut}");
        }
        bytes[0] ^= 1;
        assert!(Head::read(&mut bytes.as_slice()).is_err());
    }

    #[test]
    fn answers_come_out_of_any_split_and_overlong_ones_end_the_stream() {
        let answer = Answer {
            sequence: 7,
            code: 75,
            text: Line::new("mail.maildir: full").unwrap(),
        };
        let mut bytes = Vec::new();
        answer.write(&mut bytes).unwrap();
        let mut buffer = Vec::new();
        for (at, byte) in bytes.iter().enumerate() {
            buffer.push(*byte);
            let taken = Answer::take(&mut buffer).unwrap();
            assert_eq!(taken.is_some(), at + 1 == bytes.len());
        }
        assert!(buffer.is_empty());
        bytes[2] = 0xff;
        assert!(Answer::take(&mut bytes).is_err());
        assert!(Chunk::read(&mut [0, 0, 2, 0].as_slice()).is_err());
    }

    #[test]
    fn a_body_that_stops_before_its_end_mark_is_never_whole() {
        // smtpd(8): the parent's death does not make a part of a message look like all of it.
        let mut stream = Vec::new();
        for part in [&b"A: b\n"[..], b"\n", &[b'x'; 300]] {
            Chunk::Bytes(part.len()).encode(&mut stream);
            stream.extend_from_slice(part);
        }
        let mut aborted = stream.clone();
        Chunk::End.encode(&mut stream);
        let read = |bytes: &[u8]| {
            let mut all = Vec::new();
            BodyReader::new(bytes).read_to_end(&mut all).map(|_| all)
        };
        assert_eq!(read(&stream).unwrap().len(), 306);
        for cut in 0..stream.len() {
            let error = read(&stream[..cut]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{cut}");
        }
        Chunk::Abort.encode(&mut aborted);
        assert!(read(&aborted).is_err());
    }
}
