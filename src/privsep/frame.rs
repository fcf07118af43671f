//! Frames: how requests and replies lie in packets.
//!
//! Length and version, a kind byte, and [fields](crate::util::wire). A wrong length, version or
//! kind, a byte too many or too few, a text that is not one line, is [`Malformed`]. Both ends are
//! ours, so a malformed frame means that the other end is no longer what was started.

use std::fmt;

use crate::util::frame::{Bad, LENGTH_BYTES, Reader, Writer};
use crate::util::wire::{Wire, wire};

use super::{
    Extent, ForwardFound, Helper, HomeState, MdaEnd, MdaJob, MdaRefusal, MdaTask, PasswordVerdict,
    Reply, Request, Setting, Single,
};

/// Longest frame between parent and engine, in bytes.
pub const MAX_FRAME: usize = 32 * 1024;

/// The frame is not one of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// The texts in it do not fit a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

wire! {
    enum Request {
        1 = StartMda { id, job },
        2 = KillMda { id },
        3 = Set { what, on },
        4 = Ready,
        5 = Finished,
        7 = OpenForward { id, action, user },
        8 = UpdateTable { table },
        9 = CheckPassword { id, user, password },
        10 = StartHelper { id, helper },
        11 = KillHelper { id },
        12 = Reload { id, extent },
        13 = Reloaded(used),
    }
}

wire! {
    enum Reply {
        1 = Config,
        2 = Listener { index },
        3 = Control,
        4 = Start { verbose, pause_mda, pause_mta, pause_smtp, run_once },
        5 = MdaRefused { id, why },
        6 = MdaDone { id, end },
        7 = Shutdown,
        8 = Forward { id, found },
        9 = QueueKey(key),
        10 = Keys,
        11 = Password { id, verdict },
        12 = HelperStarted { id, pid },
        13 = HelperRefused { id, text },
        14 = HelperEnded { id, end },
        15 = Hangup(extent),
        16 = NewConfig { id, keys, listeners },
        17 = BadConfig { id, text },
    }
}

wire! { struct MdaJob { action, user, task } }

wire! {
    enum MdaTask {
        1 = Single(single),
        2 = Batch,
        3 = Connection,
    }
}

wire! { struct Single { subaddress, command, sender, rcpt, dest } }

wire! {
    enum Extent {
        0 = Certificates,
        1 = All,
    }
}

wire! {
    enum Setting {
        1 = Verbose,
        2 = PauseMda,
        3 = PauseMta,
        4 = PauseSmtp,
    }
}

wire! {
    enum Helper {
        1 = Table(name),
        2 = Proc(name),
    }
}

wire! {
    enum MdaRefusal {
        1 = NoUser,
        2 = NoLookup,
        3 = Exit { code, text },
    }
}

wire! {
    enum MdaEnd {
        1 = Exited(code),
        2 = Signaled(signal),
        3 = TimedOut,
    }
}

wire! {
    enum ForwardFound {
        1 = Absent { home },
        2 = Opened,
        3 = Unusable { text },
    }
}

wire! {
    enum HomeState {
        1 = Missing,
        2 = Is { device, inode, changed },
    }
}

wire! {
    enum PasswordVerdict {
        1 = Right,
        2 = Wrong,
        3 = Unknown { text },
    }
}

impl Request {
    /// As a frame.
    pub fn encode(&self) -> Result<Vec<u8>, TooLong> {
        encode(self, MAX_FRAME)
    }

    /// From a frame.
    pub fn decode(frame: &[u8]) -> Result<Request, Malformed> {
        decode(frame)
    }

    /// How many descriptors come with it.
    pub fn descriptors(&self) -> usize {
        match self {
            Request::StartMda { .. } | Request::StartHelper { .. } => 2,
            _ => 0,
        }
    }
}

impl Reply {
    /// As a frame.
    pub fn encode(&self) -> Result<Vec<u8>, TooLong> {
        encode(self, MAX_FRAME)
    }

    /// From a frame.
    pub fn decode(frame: &[u8]) -> Result<Reply, Malformed> {
        decode(frame)
    }

    /// How many descriptors come with it.
    pub fn descriptors(&self) -> usize {
        match self {
            Reply::Config | Reply::Listener { .. } | Reply::Control | Reply::Keys => 1,
            Reply::Forward {
                found: ForwardFound::Opened,
                ..
            } => 1,
            Reply::NewConfig { keys, .. } => 1 + usize::from(*keys),
            _ => 0,
        }
    }
}

/// A value as a frame of at most `most_bytes`.
pub(super) fn encode(value: &impl Wire, most_bytes: usize) -> Result<Vec<u8>, TooLong> {
    let frame = whole(value);
    if frame.len() > most_bytes {
        Err(TooLong)
    } else {
        Ok(frame)
    }
}

/// A value as a frame. Whoever reads it has a bound.
pub(super) fn whole(value: &impl Wire) -> Vec<u8> {
    let mut w = Writer::frame(VERSION);
    value.write(&mut w);
    w.into_frame()
}

/// The value of a frame.
pub(super) fn decode<T: Wire>(frame: &[u8]) -> Result<T, Malformed> {
    let mut r = Reader::new(frame);
    let follows = frame.len().checked_sub(LENGTH_BYTES).ok_or(Malformed)?;
    if r.u32()? as usize != follows || r.u8()? != VERSION {
        return Err(Malformed);
    }
    let value = T::read(&mut r)?;
    r.end()?;
    Ok(value)
}

const VERSION: u8 = 1;

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
