//! The only event loop: listening sockets in, sessions handed to fixed workers.
//!
//! A session is a value. The loop owns it while it is *parked*: waiting for its peer, or for the
//! name of its peer. When there is something to do, the value travels over a bounded channel to
//! one of a fixed number of worker threads, which reads, lets the session answer, writes, and
//! sends it back the moment the socket would block. So no lock surrounds a session, and ten
//! thousand slow clients cost memory, not threads.
//!
//! ```text
//! listener → admission → name of the peer → [parked] ⇄ worker → closed
//!                                               ↑
//! control socket → frames → Ask::Submit ────────┘     other asks → Host
//! ```
//!
//! Workers are of two groups, [`Lane`]: those that take message data wait for the disk most of the
//! time, and are many so that commits share syncs; greetings and commands have workers of their
//! own and do not wait behind them.
//!
//! Promises: the loop never blocks and never runs SMTP; every buffer, table and wait has a bound
//! in [`Limits`]; whatever comes over the control socket costs its sender the connection at most.
//! When descriptors or sessions run out the listeners are taken out of the loop, with a line in
//! the log, until there is room again. A parked session keeps only what it has not digested, and
//! that is normally nothing.
//!
//! Time-outs: a peer that neither sends nor takes a byte for [`Limits::inactivity`] is told so
//! and dropped; so is one that keeps moving bytes but earns no reply and sends less than
//! [`Limits::stall_bytes`] in [`Limits::stall`]. No time runs while we are busy for the peer.

#![forbid(unsafe_code)]

use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use crate::control::{Answer, Ask};
use crate::dns;
use crate::mail::{Peer, SessionId};
use crate::session::{self, Disconnect, Listening, Next, Services, Session};
use crate::util::Live;

mod conn;
mod control;
mod event_loop;
mod gate;
mod limits;
mod mailbox;
mod slab;
mod source;
mod timers;
mod worker;

#[cfg(test)]
mod tests;

pub use event_loop::Acceptor;
pub use limits::Limits;
pub use mailbox::Mailbox;
pub use slab::ConnId;

/// What the loop and its workers need of a session. Output is appended; input is taken from the
/// front, and what stays comes back with the next bytes.
pub trait Conversation: Send + Sized + 'static {
    /// What a session knows of its listener.
    type Listening: Send + Sync + 'static;

    /// A session that has said nothing yet.
    fn new(id: SessionId, listening: Arc<Self::Listening>, peer: Peer) -> Self;
    /// The peer has connected to this address of ours.
    fn reached(&mut self, ours: Peer);
    /// Begins; the banner comes when the peer's name has been asked for.
    fn open(&mut self, out: &mut Vec<u8>) -> Next;
    /// Goes on after an answer.
    fn answered(
        &mut self,
        answer: session::Answer,
        input: &mut Vec<u8>,
        out: &mut Vec<u8>,
        world: &dyn Services,
    ) -> Next;
    /// Digests what has arrived.
    fn receive(&mut self, input: &mut Vec<u8>, out: &mut Vec<u8>, world: &dyn Services) -> Next;
    /// Which workers it needs for what comes next.
    fn lane(&self) -> Lane;
    /// Says goodbye to a peer that has been silent for too long.
    fn timeout(&mut self, out: &mut Vec<u8>);
    /// Says goodbye because the service ends.
    fn shutdown(&mut self, out: &mut Vec<u8>);
    /// Ends.
    fn close(self, why: Disconnect);
}

/// Groups of workers. A disk that is slow to make messages durable must not keep those waiting who
/// only want a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Greetings and commands.
    Talk,
    /// Message data, up to its commit.
    Mail,
}

impl Conversation for Session {
    type Listening = Listening;

    fn new(id: SessionId, listening: Arc<Listening>, peer: Peer) -> Session {
        Session::new(id, listening, peer)
    }

    fn reached(&mut self, ours: Peer) {
        Session::reached(self, ours);
    }

    fn open(&mut self, out: &mut Vec<u8>) -> Next {
        Session::open(self, out)
    }

    fn answered(
        &mut self,
        answer: session::Answer,
        input: &mut Vec<u8>,
        out: &mut Vec<u8>,
        world: &dyn Services,
    ) -> Next {
        Session::answered(self, answer, input, out, world)
    }

    fn receive(&mut self, input: &mut Vec<u8>, out: &mut Vec<u8>, world: &dyn Services) -> Next {
        Session::receive(self, input, out, world)
    }

    fn lane(&self) -> Lane {
        match self.is_receiving_data() {
            true => Lane::Mail,
            false => Lane::Talk,
        }
    }

    fn timeout(&mut self, out: &mut Vec<u8>) {
        Session::timeout(self, out);
    }

    fn shutdown(&mut self, out: &mut Vec<u8>) {
        Session::shutdown(self, out);
    }

    fn close(self, why: Disconnect) {
        Session::close(self, why);
    }
}

/// Who answers what the control socket is asked, apart from `Ask::Submit`. It must check the
/// caller's `uid`: any local user may ask.
pub trait Host: Send {
    /// Answers at once, or returns `None` and answers later through [`Mailbox::answer`]. Called
    /// by the event loop, so it must not block, and not call [`Mailbox::answer`] itself.
    fn ask(&mut self, conn: ConnId, uid: u32, ask: Ask) -> Option<Answer>;
}

/// What the event loop runs with.
pub struct Setup<T: Conversation> {
    /// Bound and listening TCP sockets, and what their sessions know of them.
    pub listeners: Vec<(TcpListener, Live<T::Listening>)>,
    /// The control socket, bound and listening.
    pub control: UnixListener,
    /// What sessions that come over the control socket know of it.
    pub socket: Live<T::Listening>,
    /// What sessions call.
    pub services: Arc<dyn Services>,
    /// Who answers smtpctl(8).
    pub host: Box<dyn Host>,
    /// Finds the names of clients.
    pub resolver: dns::Handle,
    /// Worker threads that talk; 0 for twice the number of processors, at least 4. Those that
    /// take mail come on top.
    pub workers: usize,
    /// The user this instance belongs to; it may always connect to the control socket, as root may.
    pub own_uid: u32,
    /// Bounds.
    pub limits: Limits,
}

/// An event loop that does not run yet, and the way to reach it.
pub fn new() -> io::Result<(Acceptor, Mailbox)> {
    Acceptor::new()
}
