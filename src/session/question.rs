//! What a session asks others, and what they answer.
//!
//! A session that asks is parked: it reads nothing until it is answered, or until the time for the
//! answer is over and it is told [`Answer::TooLate`]. Each kind of question names who answers it:
//! the resolver, a thread that may wait for a table or for the parent, or one that writes to the
//! disk. To add a question: a variant here, one of [`Waits`] with what the session keeps
//! meanwhile, and an arm in `Session::answered`.

use std::net::IpAddr;
use std::sync::Arc;

use crate::dns::Reverse;
use crate::mail::{Destination, Facts, MailAddr, Peer, Refusal};
use crate::queue::Committed;
use crate::transaction::{Accepted, Asked, Fault, Writing};
use crate::util::Line;

use super::Services;

/// A question, by who answers it.
#[derive(Debug)]
pub enum Question {
    /// To the resolver: the name of the client's address, and whether the name has the address.
    Name(IpAddr),
    /// To whoever may wait for tables and for the parent.
    Lookup(Lookup),
    /// To whoever may wait for the disk and for the runner.
    Store(Store),
}

/// A question to tables, rules and users.
#[derive(Debug)]
pub enum Lookup {
    /// `hostnames`: our name on this address, in this table.
    ServerName(String, Peer),
    /// Where a recipient leads.
    Expand(Arc<Facts>, MailAddr),
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

/// An answer.
#[derive(Debug)]
pub enum Answer {
    /// To [`Question::Name`].
    Name(Reverse),
    /// To [`Lookup::ServerName`]: `None` if the table does not have the address.
    ServerName(Option<Line>),
    /// To [`Lookup::Expand`].
    Expanded(Result<Vec<Destination>, Refusal>),
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
    /// Finds the answer. This waits for tables and the parent.
    pub fn answer(self, world: &dyn Services) -> Answer {
        match self {
            Lookup::ServerName(table, address) => {
                Answer::ServerName(world.name_of(&table, &address))
            }
            Lookup::Expand(facts, rcpt) => Answer::Expanded(world.expand(&facts, &rcpt)),
        }
    }
}

impl Store {
    /// Does it. This waits for the disk.
    pub fn answer(self, world: &dyn Services) -> Answer {
        match self {
            Store::Write(mut writing) => {
                writing.spill();
                Answer::Written(writing)
            }
            Store::Commit(writing) => Answer::Committed(writing.finish(world.now())),
            Store::HandOver(message) => {
                world.committed(message);
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
    /// [`Store::Write`] is open.
    Write,
    /// [`Store::Commit`] is open.
    Commit,
    /// [`Store::HandOver`] is open.
    HandOver,
}
