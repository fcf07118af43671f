//! One SMTP server conversation as a state machine: no sockets, no clock.
//!
//! The worker that owns the connection gives the session bytes and facts; the session appends
//! replies and says what it waits for. A session is a value; nothing of it is shared. An idle one
//! holds no buffers: what a transaction or a message needs is allocated for it and freed with it.
//!
//! Commands may come many at a time (PIPELINING, RFC 2920): they are done in order, each with all
//! its effects before the next one is looked at, and replies keep that order. Message data is read
//! by [`crate::smtp::dot`]. After a reply with code 421 the session is over.
//!
//! Not here yet, but with a place: STARTTLS adds a way to end [`Session::receive`] after its 220
//! (the caller then drops what is left of `input`, which a stranger may have put there), AUTH a
//! state and [`Facts::username`], filters a question between a command's tests and its effect.

#![forbid(unsafe_code)]

mod command;
mod data;
pub mod limits;
mod state;

use std::sync::Arc;

use crate::log::maillog;
use crate::mail::{Destination, Facts, MailAddr, Peer, Refusal, SessionId};
use crate::queue::{BeginError, Committed, Incoming};
use crate::smtp::{Reply, domain_name};
use crate::transaction::Completion;
use crate::util::{Line, Timestamp};

pub use command::{bad_recipient, bad_sender, recipient_reply};

use limits::{LINE_TOO_LONG, MAX_BAD_COMMANDS, MAX_COMMAND, MAX_IDLE_COMMANDS, OUT_HIGH_WATER};
use state::{Greeting, State};

/// What a session needs of the world. Calls may block on the disk or a table, never on the peer.
pub trait Services: Send + Sync {
    /// Starts a message in the queue.
    fn begin(&self) -> Result<Incoming, BeginError>;
    /// Judges and expands a recipient (ruleset, aliases, users). The refusal's text comes without
    /// the recipient, which is put behind it.
    fn expand(&self, facts: &Facts, rcpt: &MailAddr) -> Result<Vec<Destination>, Refusal>;
    /// Tells the runner of a durable message.
    fn committed(&self, message: Committed);
    /// The name that a table of `hostnames` gives to an address of ours; `None` without one, or
    /// when the table cannot say.
    fn name_of(&self, _table: &str, _address: &Peer) -> Option<Line> {
        None
    }
    /// The clock.
    fn now(&self) -> Timestamp;
}

/// What sessions of one listener have in common.
#[derive(Clone, Debug)]
pub struct Listening {
    /// The name in the banner, in Received, and behind addresses without a domain.
    pub server_name: Line,
    /// The name that completes header fields.
    pub hostname: Line,
    /// `hostnames`: may give another name to both.
    pub hostnames: Option<HostNames>,
    /// `tag`.
    pub tag: Option<Line>,
    /// `mask-src`.
    pub mask_src: bool,
    /// `no-dsn`.
    pub no_dsn: bool,
    /// Mail starts its journey here: the socket, or an address of this host to itself.
    pub local: bool,
    /// Mail starts its journey here: a submission port (587, 465).
    pub submission: bool,
    /// Limits of smtpd.conf(5).
    pub limits: Limits,
}

/// `hostnames <table>` of a listener.
#[derive(Clone, Debug)]
pub struct HostNames {
    /// Names by address.
    pub table: String,
    /// The address that the listener is bound to; which one a client of a wildcard reaches is
    /// for [`Session::reached`] to say.
    pub bound: Peer,
}

/// `smtp max-message-size` and `smtp limit`.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of a message.
    pub max_message_size: u64,
    /// Recipients of a transaction.
    pub max_rcpt: usize,
    /// Messages of a session.
    pub max_mails: usize,
}

/// What the session waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Input.
    Read,
    /// Replies must be sent first; then [`Session::receive`] is called again, with or without new
    /// input.
    Flush,
    /// Nothing: send what there is, then close ([`Disconnect::Quit`]).
    Close,
}

/// How a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Disconnect {
    /// We closed it after a reply.
    Quit,
    /// The client closed it.
    Hangup,
    /// The client was silent for too long.
    Timeout,
    /// The socket failed.
    IoError(String),
}

/// One conversation.
pub struct Session {
    id: SessionId,
    listening: Arc<Listening>,
    peer: Peer,
    /// The address of ours that the client has connected to.
    ours: Option<Peer>,
    rdns: Option<Line>,
    /// What `hostnames` says in place of the listener's name.
    name: Option<Line>,
    greeting: Option<Greeting>,
    state: State,
    /// Bytes at the start of the input that hold no LF.
    scanned: usize,
    messages: usize,
    bad_commands: u32,
    idle_commands: u32,
}

impl Session {
    /// A session with a client that has just connected.
    pub fn new(id: SessionId, listening: Arc<Listening>, peer: Peer) -> Session {
        Session {
            id,
            listening,
            peer,
            ours: None,
            rdns: None,
            name: None,
            greeting: None,
            state: State::New,
            scanned: 0,
            messages: 0,
            bad_commands: 0,
            idle_commands: 0,
        }
    }

    /// The client has connected to this address of ours. Before [`Session::open`], or not at all.
    pub fn reached(&mut self, ours: Peer) {
        self.ours = Some(ours);
    }

    /// The client's name by reverse DNS is known, or it has none: greets. A name that is no host
    /// name counts as none, for it goes into headers and logs. A local client bears our own name.
    pub fn open(&mut self, rdns: Option<Line>, out: &mut Vec<u8>, world: &dyn Services) -> Next {
        self.rdns = match self.peer {
            Peer::Local => Some(self.listening.server_name.clone()),
            Peer::Inet { .. } => rdns.filter(|name| domain_name::is_host_name(name)),
        };
        maillog::smtp_connected(self.id, &self.peer, self.rdns.as_deref());
        self.name = match &self.listening.hostnames {
            Some(names) => world.name_of(&names.table, self.ours.as_ref().unwrap_or(&names.bound)),
            None => None,
        };
        let banner = format!("{} ESMTP OpenSMTPD", self.server_name());
        Reply::echo(220, &banner).write_to(out);
        self.state = State::Greeted;
        Next::Read
    }

    /// Whether the client's next bytes are a message's, which may end in its commit.
    pub fn is_receiving_data(&self) -> bool {
        matches!(self.state, State::Data(_))
    }

    /// Uses as much of `input` as it can and removes that, appends replies to `out`. It stops
    /// early when `out` holds more than [`limits::OUT_HIGH_WATER`] bytes. Before
    /// [`Session::open`] nothing is used.
    pub fn receive(
        &mut self,
        input: &mut Vec<u8>,
        out: &mut Vec<u8>,
        world: &dyn Services,
    ) -> Next {
        let mut used = 0;
        let next = loop {
            let rest = input.get(used..).unwrap_or_default();
            let step = match self.state {
                State::New => None,
                State::Closing => break Next::Close,
                _ if out.len() > OUT_HIGH_WATER => break Next::Flush,
                State::Data(_) => self.take_data(rest, out, world),
                _ => self.take_line(rest, out, world),
            };
            match step {
                Some(bytes) => used += bytes,
                None => break Next::Read,
            }
        };
        match next {
            Next::Close => input.clear(),
            _ => drop(input.drain(..used.min(input.len()))),
        }
        next
    }

    /// The client was silent for too long: says so. The connection is then closed.
    pub fn timeout(&mut self, out: &mut Vec<u8>) {
        self.give_up(Reply::new(421, "4.4.2 Timeout, closing connection"), out);
    }

    /// The service ends: says so. The connection is then closed.
    pub fn shutdown(&mut self, out: &mut Vec<u8>) {
        self.give_up(Reply::new(421, "4.3.2 Service shutting down"), out);
    }

    /// The connection is over. An open transaction is rolled back.
    pub fn close(self, why: Disconnect) {
        if let State::New = self.state {
            return;
        }
        match why {
            Disconnect::Quit => maillog::smtp_disconnected(self.id, "quit"),
            Disconnect::Hangup => maillog::smtp_disconnected(self.id, "disconnect"),
            Disconnect::Timeout => maillog::smtp_disconnected(self.id, "timeout"),
            Disconnect::IoError(error) => maillog::smtp_io_error(self.id, &error),
        }
    }

    /// Takes one command line off the front of `rest`; `None` if there is no whole one.
    fn take_line(&mut self, rest: &[u8], out: &mut Vec<u8>, world: &dyn Services) -> Option<usize> {
        let known = self.scanned.min(rest.len());
        let lf = crate::smtp::find(b'\n', rest.get(known..)?).map(|at| known + at);
        let (line, used) = match lf {
            Some(lf) => (rest.get(..lf)?, lf + 1),
            None => (rest, rest.len()),
        };
        if line.len() >= LINE_TOO_LONG {
            self.bad_input(Reply::new(500, "5.0.0 Line too long"), out);
            return Some(used);
        }
        if lf.is_none() {
            self.scanned = rest.len();
            return None;
        }
        self.scanned = 0;
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match line.len() <= MAX_COMMAND {
            true => self.take_command(line, out, world),
            false => self.bad_input(Reply::new(500, "5.0.0 Command line too long"), out),
        }
        Some(used)
    }

    /// Appends a reply to `command` and logs a failing one.
    fn say(&mut self, command: &[u8], reply: &Reply, out: &mut Vec<u8>) {
        reply.write_to(out);
        if reply.is_failure() {
            maillog::smtp_failed_command(self.id, &self.peer, command, &reply.to_string());
        }
        if matches!(reply.code(), 221 | 421) {
            self.state = State::Closing;
        }
    }

    fn bad_input(&mut self, reply: Reply, out: &mut Vec<u8>) {
        maillog::smtp_bad_input(self.id, &reply.to_string());
        self.give_up(reply, out);
    }

    fn give_up(&mut self, reply: Reply, out: &mut Vec<u8>) {
        if !matches!(self.state, State::Closing) {
            reply.write_to(out);
        }
        // A session that was never opened stays out of the log when it closes.
        if !matches!(self.state, State::New) {
            self.state = State::Closing;
        }
    }

    /// Whether the client counts as authenticated. AUTH will add a second way.
    fn is_authenticated(&self) -> bool {
        self.peer == Peer::Local
    }

    /// The name we go by in this session.
    fn server_name(&self) -> &Line {
        self.name.as_ref().unwrap_or(&self.listening.server_name)
    }

    fn completion(&self) -> Completion {
        let listening = &self.listening;
        match listening.local || listening.submission || self.is_authenticated() {
            true => {
                let name = self.name.as_ref().unwrap_or(&listening.hostname);
                Completion::Submission(name.clone())
            }
            false => Completion::None,
        }
    }

    fn over_budget(&self) -> bool {
        self.bad_commands >= MAX_BAD_COMMANDS || self.idle_commands >= MAX_IDLE_COMMANDS
    }
}

#[cfg(test)]
mod tests;
