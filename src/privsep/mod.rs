//! The wire between the parent and the engine: the whole privileged surface.
//!
//! One SOCK_SEQPACKET socket pair, one frame per packet, descriptors attached to the frame that
//! names them. Requests name things (an action, a user), never commands built from mail.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::OwnedFd;

pub mod batch;
pub mod channel;
pub mod client;
pub mod forward_file;
pub mod frame;
pub mod handover;
pub mod home;
pub mod identity;
pub mod keys;
pub mod job;
pub mod password;
pub mod reply;
pub mod request;

pub use channel::Channel;
pub use client::{Client, Event, Pending, PendingHelper, Reloaded};
pub use handover::Handover;
pub use home::HomeState;
pub use job::ChildJob;
pub use reply::{ForwardFound, MdaEnd, MdaRefusal, PasswordVerdict, Reply};
pub use request::{Extent, Helper, MdaJob, MdaTask, Request, Setting, Single};

use crate::util::{Line, Secret};

/// What the engine's rooms ask of the parent.
pub trait Calls: Send + Sync {
    /// Asks for a delivery; what comes of it, refusals included, is told by the [`Pending`]. An
    /// error means that it could not be asked for: the parent is gone or does not read, or the texts
    /// are too long.
    fn start_mda(&self, job: MdaJob, stdin: OwnedFd, output: OwnedFd) -> io::Result<Pending>;
}

/// What expansion asks of the parent.
pub trait Forwards: Send + Sync {
    /// Opens the .forward of `user`, a key of the userbase of `action`, and waits for it a bounded
    /// time. An error means that the parent is gone or does not answer.
    fn open_forward(&self, action: &Line, user: &Line) -> io::Result<Forward>;
}

/// What AUTH asks of the parent.
pub trait Passwords: Send + Sync {
    /// Checks the password of a user of the system, and waits for it a bounded time. An error
    /// means that the parent is gone or does not answer.
    fn check_password(&self, user: &Line, password: &Secret) -> io::Result<PasswordVerdict>;
}

/// A user's .forward.
#[derive(Debug)]
pub enum Forward {
    /// The user has no .forward: mail is delivered as usual. With what the home was before it was
    /// looked at, where a look waits for this system alone.
    Absent(Option<HomeState>),
    /// It may be read. Nobody but its owner and root can have written it.
    File(OwnedFd),
    /// It cannot be used, or nobody can say now whether there is one.
    Unusable(Line),
}

/// Without a parent nobody has a .forward: for checks that no daemon takes part in.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoParent;

impl Forwards for NoParent {
    fn open_forward(&self, _action: &Line, _user: &Line) -> io::Result<Forward> {
        Ok(Forward::Absent(None))
    }
}

/// What came of a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MdaResult {
    /// It was not started.
    Refused(MdaRefusal),
    /// It was started and has ended.
    Done(MdaEnd),
    /// The parent is gone; nobody knows.
    Lost,
}
