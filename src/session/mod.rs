//! One SMTP server conversation as a state machine: no sockets, no clock, no waiting.
//!
//! The worker that owns the connection gives the session bytes and answers; the session appends
//! replies and says what it waits for. What it has to know from elsewhere (a name, where a
//! recipient leads, whether a message is durable) it asks with a [`Question`] and is parked until
//! [`Session::answered`]. A session is a value; nothing of it is shared. An idle one holds no
//! buffers: what a transaction or a message needs is allocated for it and freed with it.
//!
//! Commands may come many at a time (PIPELINING, RFC 2920): they are done in order, each with all
//! its effects before the next one is looked at, and replies keep that order. A command has two
//! halves, `check_…` (is it legal now?) and `proceed_…` (do it). Message data is read by
//! [`crate::smtp::dot`]. After a reply with code 421 the session is over.
//!
//! What happens is told to the listener's [`Observer`]s: the log, for one.

#![forbid(unsafe_code)]

mod answered;
mod command;
mod data;
mod event;
mod filtering;
pub mod limits;
mod listening;
mod opening;
mod question;
mod refusals;
mod reports;
mod state;
mod trace;

use std::sync::Arc;
use std::time::Duration;

use crate::auth::Verdict;
use crate::dns::Confirmed;
use crate::mail::{Expanded, Facts, MailAddr, Peer, Refusal, SessionId};
use crate::queue::{BeginError, Committed, Incoming};
use crate::smtp::Reply;
use crate::transaction::{Completion, Protocol};
use crate::util::{Line, Timestamp, take_off_and_wipe};

pub use crate::transaction::{TlsFacts, Writing};
pub use command::{bad_recipient, bad_sender, recipient_reply};
use event::Tally;
pub use event::{Event, Maillog, Observer};
pub use listening::{Auth, HostNames, Limits, Listening, Senders, Tls};
pub use question::{Answer, FilterQuestion, Login, Lookup, Question, Store};
pub use refusals::Refusals;
pub use reports::Reports;

use filtering::Filtering;
use limits::{
    COMMANDS_AT_A_TIME, LINE_TOO_LONG, MAX_BAD_COMMANDS, MAX_COMMAND, MAX_IDLE_COMMANDS,
    MAX_REFUSED_RCPTS, OUT_HIGH_WATER, PAUSE_MAX, REFUSED_RCPTS_FREE,
};
use question::Waits;
use state::{Greeting, State};

/// What a session needs from outside.
pub trait Services: Send + Sync {
    /// Starts a message in the queue, which looks at the disk: is its ID free, and is there room?
    /// Called by the session all the same: to ask another thread at each MAIL would cost more.
    fn begin(&self) -> Result<Incoming, BeginError>;
    /// Tells the runner of a durable message without waiting. Gives the message back when the
    /// runner is behind. Called by the session.
    fn announce(&self, message: Committed) -> Result<(), Committed> {
        self.committed(message);
        Ok(())
    }
    /// Counts recipients that were refused to this client: how many that makes of late, in all
    /// sessions of its network.
    fn refused(&self, _peer: &Peer, _more: u32) -> u32 {
        0
    }
    /// The clock.
    fn now(&self) -> Timestamp;

    /// Judges and expands a recipient (ruleset, aliases, users). The refusal's text comes without
    /// the recipient, which is put behind it. May wait for tables and the parent.
    fn expand(&self, facts: &Facts, rcpt: &MailAddr) -> Result<Expanded, Refusal>;
    /// The same without waiting for anybody; `None` where that cannot be. Called by the owner of
    /// the socket.
    fn expand_at_once(&self, _: &Facts, _: &MailAddr) -> Option<Result<Expanded, Refusal>> {
        None
    }
    /// The name that a table of `hostnames` gives to an address of ours; `None` without one, or
    /// when the table cannot say. May wait for the table.
    fn name_of(&self, _table: &str, _address: &Peer) -> Option<Line> {
        None
    }
    /// Whether a table of `senders` lets a user send as this address; `None` when it cannot say.
    /// May wait for the table.
    fn may_send(&self, _table: &str, _user: &Line, _sender: &MailAddr) -> Option<bool> {
        None
    }
    /// Checks a password. The answer comes from another thread, or at once. May wait for the table
    /// that says whose failures count.
    fn check_password(&self, _login: Login, answer: Box<dyn FnOnce(Verdict) + Send>) {
        answer(Verdict::Unavailable);
    }
    /// Tells the runner of a durable message. Waits while the runner is behind.
    fn committed(&self, message: Committed);
    /// Takes a durable message back, whose client was told before that it is refused. Waits for
    /// the disk.
    fn withdraw(&self, message: Committed);
}

/// What the session waits for.
#[derive(Debug)]
pub enum Next {
    /// Input.
    Read,
    /// Replies must be sent first; then [`Session::receive`] is called again, with or without new
    /// input.
    Flush,
    /// An answer to this, by [`Session::answered`]. Replies may be sent meanwhile.
    Ask(Question),
    /// An answer to what it has asked already.
    Wait,
    /// Nothing: send what there is, then close ([`Disconnect::Quit`]).
    Close,
}

/// How the connection is protected, and who is known to be at its other end.
#[derive(Clone, Debug, Default)]
pub struct Security {
    /// What TLS came to; `None` in clear text.
    pub tls: Option<Box<TlsFacts>>,
    /// Who has proven by AUTH to be this user.
    pub user: Option<Line>,
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

/// One session with a client.
pub struct Session {
    id: SessionId,
    listening: Arc<Listening>,
    peer: Peer,
    /// The address of ours that the client has connected to.
    ours: Option<Peer>,
    /// The client's port.
    port: u16,
    rdns: Option<Line>,
    /// Whether `rdns` leads back to the client's address.
    fcrdns: Confirmed,
    security: Security,
    /// What `hostnames` says in place of the listener's name.
    name: Option<Line>,
    greeting: Option<Greeting>,
    state: State,
    filtering: Option<Box<Filtering>>,
    /// What it has asked and not been told yet.
    waits: Option<Box<Waits>>,
    /// What there is of a message that will not be; see [`Session::take_unfinished`].
    unfinished: Option<Box<Writing>>,
    /// Bytes at the start of the input that hold no LF.
    scanned: u32,
    messages: usize,
    bad_commands: u32,
    idle_commands: u32,
    refused_rcpts: u16,
    /// Refused recipients that no pause has followed yet.
    unpaid: u16,
    tally: Tally,
    failed_logins: u8,
}

impl Session {
    /// A session with a client that has just connected.
    pub fn new(id: SessionId, listening: Arc<Listening>, peer: Peer) -> Session {
        Session {
            id,
            listening,
            peer,
            ours: None,
            port: 0,
            rdns: None,
            fcrdns: Confirmed::Error,
            security: Security::default(),
            name: None,
            greeting: None,
            state: State::New,
            filtering: None,
            waits: None,
            unfinished: None,
            scanned: 0,
            messages: 0,
            bad_commands: 0,
            idle_commands: 0,
            refused_rcpts: 0,
            unpaid: 0,
            tally: Tally::default(),
            failed_logins: 0,
        }
    }

    /// The client has connected to this address of ours. Before [`Session::open`], or not at all.
    pub fn reached(&mut self, ours: Peer) {
        self.ours = Some(ours);
    }

    /// The client's port. Before [`Session::open`], or not at all.
    pub fn came_from_port(&mut self, port: u16) {
        self.port = port;
    }

    /// The client is another one, for whom a proxy has connected. Before [`Session::open`].
    pub fn comes_for(&mut self, client: Peer) {
        self.peer = client;
    }

    /// Whether TLS comes before everything else.
    pub fn opens_with_tls(&self) -> bool {
        self.listening.tls == Some(Tls::Immediate)
    }

    /// Whether anything is decided by the client's name.
    pub fn needs_name(&self) -> bool {
        let filter = self.listening.filter.as_ref();
        self.listening.rules_need_name || filter.is_some_and(|chain| chain.needs_name())
    }

    /// Its number in the log.
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// Where the client is.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// The client's name by reverse DNS.
    pub fn rdns(&self) -> Option<&str> {
        self.rdns.as_deref()
    }

    /// Whether the client's name leads back to its address.
    pub fn fcrdns(&self) -> Confirmed {
        self.fcrdns
    }

    /// Uses as much of `input` as it can and removes that, appends replies to `out`. It stops
    /// early when `out` holds more than [`limits::OUT_HIGH_WATER`] bytes, after
    /// [`limits::COMMANDS_AT_A_TIME`], behind a message whose rest is to be taken, and when it asks.
    /// Before the banner, and while it waits for an answer, nothing is used.
    pub fn receive(
        &mut self,
        input: &mut Vec<u8>,
        out: &mut Vec<u8>,
        services: &dyn Services,
    ) -> Next {
        let (mut used, mut commands) = (0, 0);
        let secret = self.hears_secrets();
        let next = loop {
            let rest = input.get(used..).unwrap_or_default();
            let taken = match self.state {
                _ if self.waits.is_some() => break Next::Wait,
                State::New | State::Connected => break Next::Read,
                State::Closing => break Next::Close,
                // Before another message is refused, somebody takes what there is of this one.
                _ if self.unfinished.is_some() => break Next::Flush,
                _ if out.len() > OUT_HIGH_WATER || commands == COMMANDS_AT_A_TIME => {
                    break Next::Flush;
                }
                _ if self.unpaid > 0 => match self.pause(services) {
                    Some(pause) => break self.ask(Waits::Pause, Question::Pause(pause)),
                    None => continue,
                },
                State::Data(_) => self.take_data(rest, out),
                State::Auth(_) => self.take_response(rest, out),
                _ => {
                    commands += 1;
                    self.take_line(rest, out, services)
                }
            };
            match taken {
                Taken::Nothing => break Next::Read,
                Taken::Bytes(bytes) => used += bytes,
                Taken::Asking(bytes, question) => {
                    used += bytes;
                    break Next::Ask(question);
                }
            }
        };
        match next {
            // What came behind STARTTLS in clear text may be anybody's (CVE-2011-0411).
            Next::Close | Next::Ask(Question::Tls) => input.clear(),
            _ if secret => take_off_and_wipe(input, used),
            _ => drop(input.drain(..used.min(input.len()))),
        }
        next
    }

    /// Whether the client may be saying a password: what it says is to be wiped from memory.
    pub fn hears_secrets(&self) -> bool {
        self.offers_auth()
    }

    /// The client was silent for too long: says so. The connection is then closed.
    pub fn timeout(&mut self, out: &mut Vec<u8>) {
        if !matches!(self.state, State::New | State::Closing) {
            self.tell(&Event::Timeout);
        }
        self.give_up(Reply::new(421, "4.4.2 Timeout, closing connection"), out);
    }

    /// The service ends: says so. The connection is then closed.
    pub fn shutdown(&mut self, out: &mut Vec<u8>) {
        self.give_up(Reply::new(421, "4.3.2 Service shutting down"), out);
    }

    /// What there is of a message that was refused, to be dropped by somebody who may wait for the
    /// disk. To be taken whenever the session has been called: it goes on when that is done.
    pub fn take_unfinished(&mut self) -> Option<Box<Writing>> {
        self.unfinished.take()
    }

    /// The connection is over. An open transaction is rolled back: what there is of its message is
    /// given back, to be dropped by somebody who may wait for the disk.
    pub fn close(mut self, why: Disconnect) -> Option<Box<Writing>> {
        if !matches!(self.state, State::New) {
            self.end_transaction();
            self.tell(&Event::Disconnected(&why));
            self.leave_filters();
        }
        self.unfinished
    }

    /// Takes one command line off the front of `rest`, if there is a whole one.
    fn take_line(&mut self, rest: &[u8], out: &mut Vec<u8>, services: &dyn Services) -> Taken {
        let (line, used) = match self.line_of(rest, out) {
            Ok(found) => found,
            Err(taken) => return taken,
        };
        match self.take_command(line, out, services) {
            Some(question) => Taken::Asking(used, question),
            None => Taken::Bytes(used),
        }
    }

    /// The line at the front of `rest`, without its end, and how many bytes it takes; or what
    /// became of something else.
    fn line_of<'r>(
        &mut self,
        rest: &'r [u8],
        out: &mut Vec<u8>,
    ) -> Result<(&'r [u8], usize), Taken> {
        let known = (self.scanned as usize).min(rest.len());
        let (_, unknown) = rest.split_at(known);
        let lf = memchr::memchr(b'\n', unknown).map(|at| known + at);
        let (line, used) = match lf {
            Some(lf) => (&rest[..lf], lf + 1),
            None => (rest, rest.len()),
        };
        if line.len() >= LINE_TOO_LONG {
            self.bad_input(Reply::new(500, "5.0.0 Line too long"), out);
            return Err(Taken::Bytes(used));
        }
        if lf.is_none() {
            self.scanned = u32::try_from(rest.len()).unwrap_or(u32::MAX);
            return Err(Taken::Nothing);
        }
        self.scanned = 0;
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.len() > MAX_COMMAND {
            self.bad_input(Reply::new(500, "5.0.0 Command line too long"), out);
            return Err(Taken::Bytes(used));
        }
        Ok((line, used))
    }

    /// Asks, and keeps what it needs when it is answered.
    fn ask(&mut self, waits: Waits, question: Question) -> Next {
        self.waits = Some(Box::new(waits));
        Next::Ask(question)
    }

    /// Appends a reply to this command line, or to none. With 221 or 421 the session is over.
    fn say(&mut self, command: Option<&[u8]>, reply: &Reply, out: &mut Vec<u8>) {
        reply.write_to(out);
        self.tell(&Event::Reply(command, reply));
        self.trace_reply(command, reply);
        if matches!(reply.code(), 221 | 421) {
            self.end_transaction();
            self.state = State::Closing;
        }
    }

    fn bad_input(&mut self, reply: Reply, out: &mut Vec<u8>) {
        self.tell(&Event::BadInput(&reply));
        self.give_up(reply, out);
    }

    fn give_up(&mut self, reply: Reply, out: &mut Vec<u8>) {
        self.waits = None;
        match self.state {
            State::Closing => {}
            // It has heard nothing yet, and nobody has heard of it.
            State::New => reply.write_to(out),
            _ => {
                self.say(None, &reply, out);
                self.end_transaction();
                self.state = State::Closing;
            }
        }
    }

    /// Leaves a transaction that may be open, which rolls it back.
    fn end_transaction(&mut self) {
        let msgid = match &mut self.state {
            State::Mail(transaction) => transaction.msgid(),
            State::Data(data) => {
                self.unfinished = data.writing.take();
                data.msgid
            }
            _ => return,
        };
        self.state = State::Identified;
        self.tell(&Event::Rollback(msgid));
        self.end_of_transaction();
    }

    fn tell(&self, event: &Event<'_>) {
        for observer in &self.listening.observers {
            observer.hear(self, event);
        }
    }

    /// Whether the client counts as authenticated: by AUTH, or because it is a user of this host.
    fn is_authenticated(&self) -> bool {
        self.peer == Peer::Local || self.security.user.is_some()
    }

    /// HELO or EHLO.
    fn protocol(&self) -> Protocol {
        self.greeting
            .as_ref()
            .map_or(Protocol::Smtp, |greeting| greeting.protocol)
    }

    /// The name we go by in this session.
    fn server_name(&self) -> &Line {
        self.name.as_ref().unwrap_or(&self.listening.server_name)
    }

    fn completion(&self) -> Completion {
        let listening = &self.listening;
        if listening.local || listening.submission || self.is_authenticated() {
            let name = self.name.as_ref().unwrap_or(&listening.hostname);
            Completion::Submission(name.clone())
        } else {
            Completion::None
        }
    }

    /// How long the client waits for its next command, now that recipients were refused to it.
    /// Those of a list that has aged are free; then it grows, with what other sessions of its
    /// network had refused as well.
    fn pause(&mut self, services: &dyn Services) -> Option<Duration> {
        let of_network = services.refused(&self.peer, std::mem::take(&mut self.unpaid).into());
        let refused = of_network.max(self.refused_rcpts.into());
        let millis = refused.saturating_sub(REFUSED_RCPTS_FREE);
        let pause = Duration::from_millis(millis.into()).min(PAUSE_MAX);
        (millis > 0).then_some(pause)
    }

    /// Whether the last reply has been given.
    fn is_over(&self) -> bool {
        matches!(self.state, State::Closing)
    }

    fn over_budget(&self) -> bool {
        self.bad_commands >= MAX_BAD_COMMANDS
            || self.idle_commands >= MAX_IDLE_COMMANDS
            || self.refused_rcpts >= MAX_REFUSED_RCPTS
    }
}

/// What became of input.
enum Taken {
    /// Nothing: it is not complete.
    Nothing,
    /// So many bytes are used.
    Bytes(usize),
    /// The same, and this has to be known before anything else is used.
    Asking(usize, Question),
}

#[cfg(test)]
mod tests;
