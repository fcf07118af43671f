//! Sockets: who is let in, and the workers that own sessions from then on.
//!
//! One loop has the listening sockets and the control socket. A connection that it lets in goes to
//! one of a fixed number of workers, and stays there until it is closed: a worker is a thread with
//! a poll, timers and a table of sessions of its own. No lock surrounds a session, and ten thousand
//! slow clients cost memory, not threads.
//!
//! ```text
//! listener → admission → worker: socket ⇄ session → closed
//!                          ↑        │ question
//!                          │        ├→ resolver                     names
//!                          │        ├→ lookup threads               rules, tables, users
//!                          └ answer └→ commit threads               the disk
//! control socket → frames → Ask::Submit → worker      other asks → Host
//! ```
//!
//! Promises: neither the loop nor a worker waits for anything but events, and a worker for a look
//! into the queue when a message begins; what may wait for somebody else is a question to a bounded
//! group of threads, and its session is parked until it is answered or the time for the answer is
//! over, which is a 4xx. Every buffer, table and wait has a bound in [`Limits`]; whatever comes over
//! the control socket costs its sender the connection at most. When descriptors or sessions run out
//! the listeners are taken out of the loop, with a line in the log, until there is room again. A
//! parked session keeps only what it has not digested, and that is normally nothing.
//!
//! A session that wants TLS is parked while its peer and we shake hands. The signature that this
//! needs is made by threads of their own, which wait for the process that has the keys. The header
//! of a proxy comes before the session.
//!
//! Time-outs: a peer that neither sends nor takes a byte for [`Limits::inactivity`] is told so and
//! dropped; so is one that keeps moving bytes but earns no reply and sends less than
//! [`Limits::stall_bytes`] in [`Limits::stall`]. No time of the peer's runs while we are busy for
//! it. A peer that hangs up while its session waits for an answer is noticed when that has come.

#![forbid(unsafe_code)]

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use crate::control::{Answer, Ask};
use crate::dns;
use crate::mail::Peer;
use crate::session::{Listening, Services};
use crate::tls::server::Server;
use crate::util::Live;

mod census;
mod committer;
mod conn;
mod control;
mod event_loop;
mod gate;
mod header;
mod limits;
mod mailbox;
pub mod secure;
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

/// Who answers what the control socket is asked, apart from `Ask::Submit`. It must check the
/// caller's `uid`: any local user may ask.
pub trait Host: Send {
    /// Answers at once, or returns `None` and answers later through [`Mailbox::answer`]. Called
    /// by the event loop, so it must not block, and not call [`Mailbox::answer`] itself.
    fn ask(&mut self, conn: ConnId, uid: u32, ask: Ask) -> Option<Answer>;
}

/// What is done with those who come in by a listening socket.
pub struct Door {
    /// What its sessions know of it.
    pub listening: Arc<Listening>,
    /// TLS, where it is offered or comes first.
    pub tls: Option<Arc<Server>>,
    /// `proxy-v2`: whether a peer may say who its client is. Others are sent away.
    pub proxies: Option<Peers>,
    /// Sessions that one IPv4 address or IPv6 /64 may have at a time; more get a 421.
    pub most_per_source: usize,
    /// Whose sessions are not limited by that.
    pub exempt: Option<Peers>,
}

/// How the listening sockets of a running loop change. Those that stay are not touched: nobody who
/// waits there notices.
pub struct Listeners {
    /// Bound and listening sockets that are new, and what is done with those who come in.
    pub added: Vec<(TcpListener, Live<Door>)>,
    /// Addresses of those that are closed. Whoever waits there already is let in first.
    pub gone: Vec<SocketAddr>,
}

/// Whether a peer is one of some. It must not block.
pub type Peers = Arc<dyn Fn(&Peer) -> bool + Send + Sync>;

/// What the event loop runs with.
pub struct Setup {
    /// Bound and listening TCP sockets, and what is done with those who come in.
    pub listeners: Vec<(TcpListener, Live<Door>)>,
    /// The control socket, bound and listening.
    pub control: UnixListener,
    /// What sessions that come over the control socket know of it.
    pub socket: Live<Listening>,
    /// What sessions call.
    pub services: Arc<dyn Services>,
    /// Who answers smtpctl(8).
    pub host: Box<dyn Host>,
    /// Finds the names of clients.
    pub resolver: dns::Handle,
    /// Workers; 0 for the number of processors.
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

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 2)
}

/// What one of too many is told. RFC 3463 §3.8: policy.
const TOO_MANY: &[u8] = b"421 4.7.0 Service not available, too many connections\r\n";

/// Whether a socket has nothing now. Over poll(2), mio arms a socket again when it has nothing, and
/// says that it is not there when its peer has gone meanwhile; waiting for it then ends at once.
fn would_block(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::NotFound
    )
}
