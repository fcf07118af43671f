//! Frames: how requests and replies lie in packets.
//!
//! A frame is its own length (u32, little-endian), a version byte, a kind byte, and fields: numbers
//! little-endian, texts behind their length. Reading is strict: a wrong length, version or kind, a
//! byte too many or too few, a text that is not one line, is [`Malformed`]. Both ends are ours, so a
//! malformed frame means that the other end is no longer what was started.

use std::fmt;

use crate::mail::{Command, MailAddr};
use crate::util::Line;

use super::{MdaEnd, MdaJob, Reply, Request};

/// Longest frame between parent and engine, in bytes.
pub const MAX_FRAME: usize = 32 * 1024;

/// The frame is not one of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// The texts in it do not fit a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

impl Request {
    /// As a frame.
    pub fn encode(&self) -> Result<Vec<u8>, TooLong> {
        let mut w = Writer::new();
        match self {
            Request::StartMda { id, job } => {
                w.kind(1);
                w.u32(*id);
                job.write(&mut w);
            }
            Request::KillMda { id } => {
                w.kind(2);
                w.u32(*id);
            }
            Request::SetVerbose(verbose) => {
                w.kind(3);
                w.flag(*verbose);
            }
            Request::Ready => w.kind(4),
            Request::Finished => w.kind(5),
            Request::Fed { id } => {
                w.kind(6);
                w.u32(*id);
            }
        }
        w.finish(MAX_FRAME)
    }

    /// From a frame.
    pub fn decode(frame: &[u8]) -> Result<Request, Malformed> {
        let mut r = Reader::new(frame)?;
        let request = match r.u8()? {
            1 => Request::StartMda {
                id: r.u32()?,
                job: MdaJob::read(&mut r)?,
            },
            2 => Request::KillMda { id: r.u32()? },
            3 => Request::SetVerbose(r.flag()?),
            4 => Request::Ready,
            5 => Request::Finished,
            6 => Request::Fed { id: r.u32()? },
            _ => return Err(Malformed),
        };
        r.end()?;
        Ok(request)
    }

    /// How many descriptors come with it.
    pub fn descriptors(&self) -> usize {
        match self {
            Request::StartMda { job, .. } if job.is_batch() => 2,
            Request::StartMda { .. } => 3,
            _ => 0,
        }
    }
}

impl Reply {
    /// As a frame.
    pub fn encode(&self) -> Result<Vec<u8>, TooLong> {
        let mut w = Writer::new();
        match self {
            Reply::Config => w.kind(1),
            Reply::Listener { index } => {
                w.kind(2);
                w.u32(*index);
            }
            Reply::Control => w.kind(3),
            Reply::Start {
                verbose,
                pause_mda,
                pause_mta,
                pause_smtp,
                run_once,
            } => {
                w.kind(4);
                for flag in [verbose, pause_mda, pause_mta, pause_smtp, run_once] {
                    w.flag(*flag);
                }
            }
            Reply::MdaRefused { id, code, text } => {
                w.kind(5);
                w.u32(*id);
                w.i32(*code);
                w.line(text);
            }
            Reply::MdaDone { id, end } => {
                w.kind(6);
                w.u32(*id);
                let (how, number) = match end {
                    MdaEnd::Exited(code) => (1, *code),
                    MdaEnd::Signaled(signal) => (2, *signal),
                    MdaEnd::TimedOut => (3, 0),
                };
                w.u8(how);
                w.i32(number);
            }
            Reply::Shutdown => w.kind(7),
        }
        w.finish(MAX_FRAME)
    }

    /// From a frame.
    pub fn decode(frame: &[u8]) -> Result<Reply, Malformed> {
        let mut r = Reader::new(frame)?;
        let reply = match r.u8()? {
            1 => Reply::Config,
            2 => Reply::Listener { index: r.u32()? },
            3 => Reply::Control,
            4 => Reply::Start {
                verbose: r.flag()?,
                pause_mda: r.flag()?,
                pause_mta: r.flag()?,
                pause_smtp: r.flag()?,
                run_once: r.flag()?,
            },
            5 => Reply::MdaRefused {
                id: r.u32()?,
                code: r.i32()?,
                text: r.line()?,
            },
            6 => Reply::MdaDone {
                id: r.u32()?,
                end: match (r.u8()?, r.i32()?) {
                    (1, code) => MdaEnd::Exited(code),
                    (2, signal) => MdaEnd::Signaled(signal),
                    (3, 0) => MdaEnd::TimedOut,
                    _ => return Err(Malformed),
                },
            },
            7 => Reply::Shutdown,
            _ => return Err(Malformed),
        };
        r.end()?;
        Ok(reply)
    }

    /// How many descriptors come with it.
    pub fn descriptors(&self) -> usize {
        match self {
            Reply::Config | Reply::Listener { .. } | Reply::Control => 1,
            _ => 0,
        }
    }
}

impl MdaJob {
    /// Adds its fields.
    pub(super) fn write(&self, w: &mut Writer) {
        w.line(&self.action);
        w.line(&self.user);
        w.option(self.subaddress.as_ref(), Writer::line);
        w.option(self.command.as_ref(), |w, command| {
            let (kind, text) = match command {
                Command::Pipe(text) => (1, text),
                Command::File(text) => (2, text),
            };
            w.u8(kind);
            w.line(text);
        });
        for addr in [&self.sender, &self.rcpt, &self.dest] {
            w.text(addr.user());
            w.text(addr.domain());
        }
    }

    /// Takes its fields.
    pub(super) fn read(r: &mut Reader<'_>) -> Result<MdaJob, Malformed> {
        Ok(MdaJob {
            action: r.line()?,
            user: r.line()?,
            subaddress: r.option(Reader::line)?,
            command: r.option(|r| match r.u8()? {
                1 => Ok(Command::Pipe(r.line()?)),
                2 => Ok(Command::File(r.line()?)),
                _ => Err(Malformed),
            })?,
            sender: r.addr()?,
            rcpt: r.addr()?,
            dest: r.addr()?,
        })
    }
}

/// Puts a frame together.
pub(super) struct Writer(Vec<u8>);

impl Writer {
    /// Room for the length, then the version.
    pub(super) fn new() -> Writer {
        Writer(vec![0, 0, 0, 0, VERSION])
    }

    pub(super) fn kind(&mut self, kind: u8) {
        self.u8(kind);
    }

    pub(super) fn u8(&mut self, n: u8) {
        self.0.push(n);
    }

    pub(super) fn u32(&mut self, n: u32) {
        self.0.extend_from_slice(&n.to_le_bytes());
    }

    pub(super) fn i32(&mut self, n: i32) {
        self.0.extend_from_slice(&n.to_le_bytes());
    }

    pub(super) fn flag(&mut self, flag: bool) {
        self.u8(u8::from(flag));
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        // A text whose length does not fit a u32 makes the frame too long, which finish() tells.
        self.u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        self.0.extend_from_slice(bytes);
    }

    pub(super) fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    pub(super) fn line(&mut self, line: &Line) {
        self.text(line);
    }

    pub(super) fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Writer, T)) {
        self.flag(value.is_some());
        if let Some(value) = value {
            write(self, value);
        }
    }

    pub(super) fn finish(mut self, max: usize) -> Result<Vec<u8>, TooLong> {
        if self.0.len() > max {
            return Err(TooLong);
        }
        let length = u32::try_from(self.0.len()).map_err(|_| TooLong)?;
        self.0[..4].copy_from_slice(&length.to_le_bytes());
        Ok(self.0)
    }
}

/// Takes a frame apart.
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Checks length and version.
    pub(super) fn new(frame: &'a [u8]) -> Result<Reader<'a>, Malformed> {
        let mut r = Reader(frame);
        if r.u32()? as usize != frame.len() || r.u8()? != VERSION {
            return Err(Malformed);
        }
        Ok(r)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Malformed> {
        match self.take(1)? {
            [n] => Ok(*n),
            _ => Err(Malformed),
        }
    }

    pub(super) fn u32(&mut self) -> Result<u32, Malformed> {
        self.take(4)?
            .try_into()
            .map(u32::from_le_bytes)
            .map_err(|_| Malformed)
    }

    pub(super) fn i32(&mut self) -> Result<i32, Malformed> {
        self.take(4)?
            .try_into()
            .map(i32::from_le_bytes)
            .map_err(|_| Malformed)
    }

    pub(super) fn flag(&mut self) -> Result<bool, Malformed> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed),
        }
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.u32()?;
        self.take(length as usize)
    }

    pub(super) fn text(&mut self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Malformed)
    }

    pub(super) fn line(&mut self) -> Result<Line, Malformed> {
        Line::new(self.text()?).map_err(|_| Malformed)
    }

    fn addr(&mut self) -> Result<MailAddr, Malformed> {
        let (user, domain) = (self.text()?, self.text()?);
        MailAddr::new(user, domain).map_err(|_| Malformed)
    }

    pub(super) fn option<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Option<T>, Malformed> {
        self.flag()?.then(|| read(self)).transpose()
    }

    pub(super) fn end(self) -> Result<(), Malformed> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Malformed)
        }
    }
}

const VERSION: u8 = 1;

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("malformed frame")
    }
}

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("too long for a frame")
    }
}

impl std::error::Error for Malformed {}
impl std::error::Error for TooLong {}

#[cfg(test)]
pub(super) mod tests;
