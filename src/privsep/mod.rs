//! The wire between the parent and the engine: the whole privileged surface.
//!
//! One SOCK_SEQPACKET socket pair, one frame per packet, descriptors attached to the frame that
//! names them. Requests name things (an action, a user), never commands built from mail.

#![forbid(unsafe_code)]

pub mod batch;
pub mod job;
pub mod reply;
pub mod request;

pub use reply::{MdaEnd, Reply};
pub use request::{MdaJob, Request};

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};

use crate::util::Line;

/// What the engine's rooms ask of the parent.
pub trait Calls: Send + Sync {
    /// Starts a local delivery that reads `stdin` and writes its output to `output`.
    fn start_mda(&self, job: MdaJob, stdin: OwnedFd, output: OwnedFd) -> io::Result<Pending>;
}

/// A local delivery that the parent has been asked for.
pub struct Pending {
    result: Receiver<MdaResult>,
    kill: Box<dyn Fn() + Send + Sync>,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MdaResult {
    /// It was not started.
    Refused {
        /// What a delivery program would have exited with.
        code: i32,
        /// Why.
        text: Line,
    },
    /// It ended.
    Done(MdaEnd),
    /// The parent is gone.
    Lost,
}

impl Pending {
    /// A delivery whose result comes through `result` and which `kill` ends.
    pub fn new(result: Receiver<MdaResult>, kill: Box<dyn Fn() + Send + Sync>) -> Pending {
        Pending { result, kill }
    }

    /// The result, if it comes within `timeout`. It is handed out once.
    pub fn try_wait(&self, timeout: Duration) -> Option<MdaResult> {
        match self.result.recv_timeout(timeout) {
            Ok(result) => Some(result),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(MdaResult::Lost),
        }
    }

    /// Ends the delivery; its result follows.
    pub fn kill(&self) {
        (self.kill)();
    }
}
