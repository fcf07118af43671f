//! Frames: how requests and replies lie in packets.
//!
//! Length and version, a kind byte, and [fields](crate::util::frame). A wrong length, version or
//! kind, a byte too many or too few, a text that is not one line, is [`Malformed`]. Both ends are
//! ours, so a malformed frame means that the other end is no longer what was started.

use std::fmt;

use crate::mail::{Command, MailAddr};
use crate::util::Secret;
use crate::util::frame::{Bad, LENGTH_BYTES, Reader, Writer};

use super::{Extent, Found, Helper, MdaEnd, MdaJob, PasswordVerdict, Reply, Request};

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
        let mut w = Writer::frame(VERSION);
        match self {
            Request::StartMda { id, job } => {
                w.u8(1);
                w.u32(*id);
                job.write(&mut w);
            }
            Request::KillMda { id } => {
                w.u8(2);
                w.u32(*id);
            }
            Request::SetVerbose(verbose) => {
                w.u8(3);
                w.flag(*verbose);
            }
            Request::Ready => w.u8(4),
            Request::Finished => w.u8(5),
            Request::OpenForward { id, action, user } => {
                w.u8(7);
                w.u32(*id);
                w.line(action);
                w.line(user);
            }
            Request::UpdateTable { table } => {
                w.u8(8);
                w.line(table);
            }
            Request::CheckPassword { id, user, password } => {
                w.u8(9);
                w.u32(*id);
                w.line(user);
                w.text(password.reveal());
            }
            Request::StartHelper { id, helper } => {
                w.u8(10);
                w.u32(*id);
                let (kind, name) = match helper {
                    Helper::Table(name) => (1, name),
                    Helper::Proc(name) => (2, name),
                };
                w.u8(kind);
                w.line(name);
            }
            Request::KillHelper { id } => {
                w.u8(11);
                w.u32(*id);
            }
            Request::Reload { id, extent } => {
                w.u8(12);
                w.u32(*id);
                w.flag(extent.is_all());
            }
            Request::Reloaded(used) => {
                w.u8(13);
                w.flag(*used);
            }
        }
        finish(w, MAX_FRAME)
    }

    /// From a frame.
    pub fn decode(frame: &[u8]) -> Result<Request, Malformed> {
        let mut r = open(frame)?;
        let request = match r.u8()? {
            1 => Request::StartMda {
                id: r.u32()?,
                job: MdaJob::read(&mut r)?,
            },
            2 => Request::KillMda { id: r.u32()? },
            3 => Request::SetVerbose(r.flag()?),
            4 => Request::Ready,
            5 => Request::Finished,
            7 => Request::OpenForward {
                id: r.u32()?,
                action: r.line()?,
                user: r.line()?,
            },
            8 => Request::UpdateTable { table: r.line()? },
            9 => Request::CheckPassword {
                id: r.u32()?,
                user: r.line()?,
                password: Secret::new(r.line()?),
            },
            10 => Request::StartHelper {
                id: r.u32()?,
                helper: match (r.u8()?, r.line()?) {
                    (1, name) => Helper::Table(name),
                    (2, name) => Helper::Proc(name),
                    _ => return Err(Malformed),
                },
            },
            11 => Request::KillHelper { id: r.u32()? },
            12 => Request::Reload {
                id: r.u32()?,
                extent: Extent::read(&mut r)?,
            },
            13 => Request::Reloaded(r.flag()?),
            _ => return Err(Malformed),
        };
        r.end()?;
        Ok(request)
    }

    /// How many descriptors come with it.
    pub fn descriptors(&self) -> usize {
        match self {
            Request::StartMda { .. } | Request::StartHelper { .. } => 2,
            _ => 0,
        }
    }
}

impl Extent {
    fn is_all(self) -> bool {
        self == Extent::All
    }

    fn read(r: &mut Reader<'_>) -> Result<Extent, Malformed> {
        Ok(match r.flag()? {
            true => Extent::All,
            false => Extent::Certificates,
        })
    }
}

impl MdaEnd {
    fn write(self, w: &mut Writer) {
        let (how, number) = match self {
            MdaEnd::Exited(code) => (1, code),
            MdaEnd::Signaled(signal) => (2, signal),
            MdaEnd::TimedOut => (3, 0),
        };
        w.u8(how);
        w.i32(number);
    }

    fn read(r: &mut Reader<'_>) -> Result<MdaEnd, Malformed> {
        match (r.u8()?, r.i32()?) {
            (1, code) => Ok(MdaEnd::Exited(code)),
            (2, signal) => Ok(MdaEnd::Signaled(signal)),
            (3, 0) => Ok(MdaEnd::TimedOut),
            _ => Err(Malformed),
        }
    }
}

impl Reply {
    /// As a frame.
    pub fn encode(&self) -> Result<Vec<u8>, TooLong> {
        let mut w = Writer::frame(VERSION);
        match self {
            Reply::Config => w.u8(1),
            Reply::Listener { index } => {
                w.u8(2);
                w.u32(*index);
            }
            Reply::Control => w.u8(3),
            Reply::Start {
                verbose,
                pause_mda,
                pause_mta,
                pause_smtp,
                run_once,
            } => {
                w.u8(4);
                for flag in [verbose, pause_mda, pause_mta, pause_smtp, run_once] {
                    w.flag(*flag);
                }
            }
            Reply::MdaRefused { id, code, text } => {
                w.u8(5);
                w.u32(*id);
                w.i32(*code);
                w.line(text);
            }
            Reply::MdaDone { id, end } => {
                w.u8(6);
                w.u32(*id);
                end.write(&mut w);
            }
            Reply::HelperStarted { id, pid } => {
                w.u8(12);
                w.u32(*id);
                w.u32(*pid);
            }
            Reply::HelperRefused { id, text } => {
                w.u8(13);
                w.u32(*id);
                w.line(text);
            }
            Reply::HelperEnded { id, end } => {
                w.u8(14);
                w.u32(*id);
                end.write(&mut w);
            }
            Reply::Shutdown => w.u8(7),
            Reply::Forward { id, found } => {
                w.u8(8);
                w.u32(*id);
                match found {
                    Found::Absent => w.u8(1),
                    Found::Opened => w.u8(2),
                    Found::Unusable { text } => {
                        w.u8(3);
                        w.line(text);
                    }
                }
            }
            Reply::Keys => w.u8(10),
            Reply::Password { id, verdict } => {
                w.u8(11);
                w.u32(*id);
                match verdict {
                    PasswordVerdict::Right => w.u8(1),
                    PasswordVerdict::Wrong => w.u8(2),
                    PasswordVerdict::Unknown { text } => {
                        w.u8(3);
                        w.line(text);
                    }
                }
            }
            Reply::Hangup(extent) => {
                w.u8(15);
                w.flag(extent.is_all());
            }
            Reply::NewConfig {
                id,
                keys,
                listeners,
            } => {
                w.u8(16);
                w.u32(*id);
                w.flag(*keys);
                w.u32(*listeners);
            }
            Reply::BadConfig { id, text } => {
                w.u8(17);
                w.u32(*id);
                w.text(text);
            }
            Reply::QueueKey(key) => {
                w.u8(9);
                w.text(key.reveal());
            }
        }
        finish(w, MAX_FRAME)
    }

    /// From a frame.
    pub fn decode(frame: &[u8]) -> Result<Reply, Malformed> {
        let mut r = open(frame)?;
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
                end: MdaEnd::read(&mut r)?,
            },
            12 => Reply::HelperStarted {
                id: r.u32()?,
                pid: r.u32()?,
            },
            13 => Reply::HelperRefused {
                id: r.u32()?,
                text: r.line()?,
            },
            14 => Reply::HelperEnded {
                id: r.u32()?,
                end: MdaEnd::read(&mut r)?,
            },
            7 => Reply::Shutdown,
            8 => Reply::Forward {
                id: r.u32()?,
                found: match r.u8()? {
                    1 => Found::Absent,
                    2 => Found::Opened,
                    3 => Found::Unusable { text: r.line()? },
                    _ => return Err(Malformed),
                },
            },
            10 => Reply::Keys,
            11 => Reply::Password {
                id: r.u32()?,
                verdict: match r.u8()? {
                    1 => PasswordVerdict::Right,
                    2 => PasswordVerdict::Wrong,
                    3 => PasswordVerdict::Unknown { text: r.line()? },
                    _ => return Err(Malformed),
                },
            },
            15 => Reply::Hangup(Extent::read(&mut r)?),
            16 => Reply::NewConfig {
                id: r.u32()?,
                keys: r.flag()?,
                listeners: r.u32()?,
            },
            17 => Reply::BadConfig {
                id: r.u32()?,
                text: r.text()?.to_owned(),
            },
            9 => Reply::QueueKey(Secret::new(r.line()?)),
            _ => return Err(Malformed),
        };
        r.end()?;
        Ok(reply)
    }

    /// How many descriptors come with it.
    pub fn descriptors(&self) -> usize {
        match self {
            Reply::Config | Reply::Listener { .. } | Reply::Control | Reply::Keys => 1,
            Reply::Forward {
                found: Found::Opened,
                ..
            } => 1,
            Reply::NewConfig { keys, .. } => 1 + usize::from(*keys),
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
            sender: addr(r)?,
            rcpt: addr(r)?,
            dest: addr(r)?,
        })
    }
}

/// The whole frame, of at most `max` bytes.
pub(super) fn finish(w: Writer, max: usize) -> Result<Vec<u8>, TooLong> {
    let frame = w.into_frame();
    match frame.len() > max {
        true => Err(TooLong),
        false => Ok(frame),
    }
}

/// The fields of a frame, behind its length and version, which are checked.
pub(super) fn open(frame: &[u8]) -> Result<Reader<'_>, Malformed> {
    let mut r = Reader::new(frame);
    let follows = frame.len().checked_sub(LENGTH_BYTES).ok_or(Malformed)?;
    if r.u32()? as usize != follows || r.u8()? != VERSION {
        return Err(Malformed);
    }
    Ok(r)
}

fn addr(r: &mut Reader<'_>) -> Result<MailAddr, Malformed> {
    let (user, domain) = (r.text()?, r.text()?);
    MailAddr::new(user, domain).map_err(|_| Malformed)
}

pub(super) const VERSION: u8 = 1;

impl From<Bad> for Malformed {
    fn from(_: Bad) -> Malformed {
        Malformed
    }
}

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
