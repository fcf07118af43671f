//! What a session asks others, and what they answer.
//!
//! A session that asks is parked: it reads nothing until it is answered, or until the time for the
//! answer is over and it is told [`Answer::TooLate`]. Each kind of question names who answers it:
//! the resolver, a thread that may wait for a table or for the parent, or one that writes to the
//! disk. To add a question: a variant here, one of [`Waits`] with what the session keeps
//! meanwhile, and an arm in `Session::answered`.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::auth::Verdict;
use crate::dns::Reverse;
use crate::filter::{Asking, Content, Decision, Program, Request, Step};
use crate::mail::{Expanded, Facts, MailAddr, Peer, Refusal};
use crate::queue::Committed;
use crate::smtp::auth::Credentials;
use crate::transaction::{Accepted, Asked, Fault, TlsFacts, Writing};
use crate::util::Line;

use super::Services;

/// A question, by who answers it.
#[derive(Debug)]
pub enum Question {
    /// To the resolver: the name of the client's address, and whether the name has the address.
    Name(IpAddr),
    /// To whoever may wait for tables and for the parent.
    Lookup(Lookup),
    /// To whoever checks passwords, which takes its time.
    Password(Login),
    /// To whoever may wait for the disk and for the runner.
    Store(Store),
    /// To the owner of the socket: send what there is, forget what has been read, and agree with
    /// the client upon TLS.
    Tls,
    /// To a program of a filter.
    Filter(FilterQuestion),
    /// To nobody: it goes on when this time is over.
    Pause(Duration),
}

/// A question to a program of a filter.
pub enum FilterQuestion {
    /// What it decides.
    Decide(Request),
    /// When a message on its way through filters has moved.
    Content(Arc<Content>),
}

impl FilterQuestion {
    /// Asks. The answer comes from a thread of the program, unless it stays silent; `reply` must
    /// not wait.
    pub fn send(self, reply: Box<dyn FnOnce(Answer) + Send>) {
        match self {
            FilterQuestion::Decide(request) => {
                request.send(Box::new(|decision| reply(Answer::Decided(decision))));
            }
            FilterQuestion::Content(content) => {
                content.when_changed(Box::new(|| reply(Answer::Moved)));
            }
        }
    }
}

impl fmt::Debug for FilterQuestion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FilterQuestion::Decide(request) => request.fmt(f),
            FilterQuestion::Content(_) => f.write_str("content"),
        }
    }
}

/// A question to tables, rules and users.
#[derive(Debug)]
pub enum Lookup {
    /// `hostnames`: our name on this address, in this table.
    ServerName(String, Peer),
    /// Where a recipient leads.
    Expand(Arc<Facts>, MailAddr),
    /// What filters of the configuration decide.
    Filters(Box<Asking>),
    /// `senders`: whether this table lets this user send as this address.
    Sender(String, Line, MailAddr),
}

/// Somebody wants to log in.
#[derive(Debug)]
pub struct Login {
    /// Where the client is.
    pub peer: Peer,
    /// Who it says it is.
    pub credentials: Credentials,
    /// Who knows the user: a credentials table, or without one the system.
    pub table: Option<String>,
}

/// Something to be done on the disk.
#[derive(Debug)]
pub enum Store {
    /// A part of a message is complete and leaves memory.
    Write(Box<Writing>),
    /// A message is complete: it is made durable.
    Commit(Box<Writing>),
    /// A durable message goes to a runner that is behind.
    HandOver(Committed),
}

/// What was answered to a [`Question`].
#[derive(Debug)]
pub enum Answer {
    /// To [`Question::Name`].
    Name(Reverse),
    /// To [`Lookup::ServerName`]: `None` if the table does not have the address.
    ServerName(Option<Line>),
    /// To [`Lookup::Expand`].
    Expanded(Result<Expanded, Refusal>),
    /// To [`Lookup::Filters`]: how far that has come.
    Filters(Step),
    /// To [`FilterQuestion::Decide`]: `None` if it never will.
    Decided(Option<Decision>),
    /// To [`FilterQuestion::Content`].
    Moved,
    /// To [`Lookup::Sender`]: `None` if the table cannot say.
    Sender(Option<bool>),
    /// To [`Question::Password`].
    Password(Verdict),
    /// To [`Question::Tls`].
    Secured(TlsFacts),
    /// To [`Store::Write`]: what it came with, to go on with.
    Written(Box<Writing>),
    /// To [`Store::Commit`].
    Committed(Result<Accepted, Fault>),
    /// To [`Store::HandOver`].
    HandedOver,
    /// To any of them: the time is over, or nobody is there to answer.
    TooLate,
}

impl Lookup {
    /// The answer, if nobody has to wait for it.
    pub fn answer_at_once(&self, services: &dyn Services) -> Option<Answer> {
        match self {
            Lookup::Expand(facts, rcpt) => {
                services.expand_at_once(facts, rcpt).map(Answer::Expanded)
            }
            Lookup::ServerName(..) | Lookup::Filters(_) | Lookup::Sender(..) => None,
        }
    }

    /// Finds the answer. This waits for tables and the parent.
    pub fn answer(self, services: &dyn Services) -> Answer {
        match self {
            Lookup::ServerName(table, address) => {
                Answer::ServerName(services.name_of(&table, &address))
            }
            Lookup::Filters(asking) => Answer::Filters(asking.wait()),
            Lookup::Sender(table, user, sender) => {
                Answer::Sender(services.may_send(&table, &user, &sender))
            }
            Lookup::Expand(facts, rcpt) => Answer::Expanded(services.expand(&facts, &rcpt)),
        }
    }
}

impl Store {
    /// Messages that can be committed together.
    pub const MAX_TOGETHER: usize = crate::queue::MAX_PARCELS;

    /// Commits messages together. This waits for the disk.
    pub fn commit_all(messages: Vec<Box<Writing>>) -> Vec<Answer> {
        let finished = Writing::finish_all(messages);
        finished.into_iter().map(Answer::Committed).collect()
    }

    /// Does it. This waits for the disk.
    pub fn answer(self, services: &dyn Services) -> Answer {
        match self {
            Store::Write(mut writing) => {
                writing.spill();
                Answer::Written(writing)
            }
            Store::Commit(writing) => Answer::Committed(writing.finish()),
            Store::HandOver(message) => {
                services.committed(message);
                Answer::HandedOver
            }
        }
    }
}

/// What a session keeps for the time when it is answered.
pub(super) enum Waits {
    /// [`Question::Name`] is open.
    Name,
    /// [`Lookup::ServerName`] is open.
    ServerName,
    /// [`Lookup::Expand`] is open, for this command line.
    Expansion {
        line: Vec<u8>,
        rcpt: MailAddr,
        asked: Asked,
    },
    /// Filters are asked: one of the configuration, or a program.
    Filters {
        /// What waits for a program's decision.
        asking: Option<Box<Asking>>,
        program: Option<Arc<Program>>,
        then: Then,
    },
    /// [`FilterQuestion::Content`] is open.
    Content,
    /// [`Lookup::Sender`] is open, for this command line.
    Sender { line: Vec<u8> },
    /// [`Question::Password`] is open, for this user; what the log calls the command.
    Password { user: Line, label: &'static str },
    /// TLS is being agreed upon, before the banner or after STARTTLS.
    Tls { opening: bool },
    /// [`Store::Write`] is open.
    Write,
    /// [`Store::Commit`] is open.
    Commit,
    /// [`Store::HandOver`] is open.
    HandOver,
    /// [`Question::Pause`] is open.
    Pause,
}

/// What goes on when filters have decided.
pub(super) enum Then {
    Banner,
    Command(Vec<u8>),
    /// The recipient of this command, of which it is known where it leads.
    Recipient(Vec<u8>, Box<Recipient>),
    /// The commit of a message.
    Commit,
}

/// A recipient that is accepted unless filters refuse it.
pub(super) struct Recipient {
    pub(super) rcpt: MailAddr,
    pub(super) asked: Asked,
    pub(super) expanded: Expanded,
}
