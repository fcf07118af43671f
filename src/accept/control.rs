//! One connection to the control socket: frames in, answers out.
//!
//! Callers are untrusted. One question is worked on at a time; while it is, and while an answer
//! has not been taken, nothing is read. A frame that is too long or that nobody can read ends the
//! connection, and nothing else.

use std::io::{self, Read, Write};
use std::time::Duration;

use mio::net::UnixStream;

use crate::control::message::{BadFrame, MAX_FRAME, decode_ask, encode_answer};
use crate::control::{Answer, Ask};

use super::limits::Limits;
use super::would_block;

/// A connection over the control socket: who asks, and what is still to be written.
pub(super) struct Client {
    pub(super) stream: UnixStream,
    /// Who connected.
    pub(super) uid: u32,
    input: Vec<u8>,
    output: Vec<u8>,
    /// A question is with the host.
    waiting: bool,
    /// Since this was last asked, a frame has begun or ended, or an answer.
    advanced: bool,
}

/// What the loop does next for a client.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Ask somebody; the answer comes by [`Client::answer`].
    Ask(Ask),
    /// Wait for bytes, so long at most.
    Read(Duration),
    /// Wait for room, so long at most.
    Write(Duration),
    /// Wait for the answer.
    Wait,
    /// It sent what nobody can read.
    Garbage(BadFrame),
    Gone,
}

impl Client {
    pub(super) fn new(stream: UnixStream, uid: u32) -> Client {
        Client {
            stream,
            uid,
            input: Vec::new(),
            output: Vec::new(),
            waiting: false,
            advanced: true,
        }
    }

    /// Goes on until it must ask or wait.
    pub(super) fn step(&mut self, limits: &Limits) -> Step {
        match self.write() {
            Ok(true) => {}
            Ok(false) => return Step::Write(limits.frame),
            Err(_) => return Step::Gone,
        }
        if self.waiting {
            return Step::Wait;
        }
        // Each read brings at least one byte of one frame, and a frame has a longest length.
        loop {
            match self.take_frame() {
                Ok(Some(frame)) => {
                    return match decode_ask(&frame) {
                        Ok(ask) => {
                            self.waiting = true;
                            Step::Ask(ask)
                        }
                        Err(bad) => Step::Garbage(bad),
                    };
                }
                Ok(None) => {}
                Err(bad) => return Step::Garbage(bad),
            }
            match self.read() {
                Ok(0) if self.input.is_empty() => return Step::Gone,
                Ok(0) => return Step::Garbage(BadFrame::Short),
                Ok(_) => {}
                Err(error) if would_block(&error) => {
                    return Step::Read(if self.input.is_empty() {
                        limits.control_idle
                    } else {
                        limits.frame
                    });
                }
                Err(_) => return Step::Gone,
            }
        }
    }

    /// The answer to the question it has asked; [`Client::step`] sends it.
    pub(super) fn answer(&mut self, answer: &Answer) {
        self.waiting = false;
        self.advanced = true;
        encode_answer(answer, &mut self.output);
    }

    /// Says why the connection ends, if the socket takes it at once.
    pub(super) fn farewell(&mut self, frame: &[u8]) {
        // A client that does not read loses this text, and nothing else.
        let _ = self.stream.write(frame);
    }

    /// Whether its time starts anew: a byte now and then is not enough for that.
    pub(super) fn has_advanced(&mut self) -> bool {
        std::mem::take(&mut self.advanced)
    }

    /// Whether a question of its is open.
    pub(super) fn waits(&self) -> bool {
        self.waiting
    }

    /// The connection, and what has been read beyond the last frame; `None` when the last answer
    /// cannot be sent at once.
    pub(super) fn into_session(mut self) -> Option<(UnixStream, Vec<u8>)> {
        matches!(self.write(), Ok(true)).then_some((self.stream, self.input))
    }

    /// Whether everything is written.
    fn write(&mut self) -> io::Result<bool> {
        let mut written = 0;
        let result = loop {
            match self.output.get(written..) {
                None | Some([]) => break Ok(true),
                Some(rest) => match self.stream.write(rest) {
                    Ok(0) => break Err(io::ErrorKind::WriteZero.into()),
                    Ok(count) => written += count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) if would_block(&error) => break Ok(false),
                    Err(error) => break Err(error),
                },
            }
        };
        self.output.drain(..written.min(self.output.len()));
        if self.output.is_empty() {
            self.advanced |= written > 0;
            self.output = Vec::new();
        }
        result
    }

    fn read(&mut self) -> io::Result<usize> {
        let mut chunk = [0; READ_BYTES];
        loop {
            match self.stream.read(&mut chunk) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                result => {
                    let count = result?;
                    self.advanced |= self.input.is_empty() && count > 0;
                    self.input.extend_from_slice(&chunk[..count]);
                    return Ok(count);
                }
            }
        }
    }

    /// The first frame, if it is complete.
    fn take_frame(&mut self) -> Result<Option<Vec<u8>>, BadFrame> {
        let Some((head, rest)) = self.input.split_first_chunk() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*head) as usize;
        if length > MAX_FRAME {
            return Err(BadFrame::TooLong);
        }
        let Some(frame) = rest.get(..length).map(<[u8]>::to_vec) else {
            return Ok(None);
        };
        self.input.drain(..head.len() + length);
        self.advanced = true;
        if self.input.is_empty() {
            self.input = Vec::new();
        }
        Ok(Some(frame))
    }
}

const READ_BYTES: usize = 16 * 1024;
