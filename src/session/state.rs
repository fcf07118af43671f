//! Where a conversation is. Work in progress lives in the state it belongs to, so that leaving the
//! state drops it, and dropping it rolls back.

use crate::smtp::dot::Decoder;
use crate::transaction::{Protocol, Transaction, Writing};
use crate::util::Line;

/// The state of a session. STARTTLS and AUTH add theirs between `Identified` and `Mail`.
pub enum State {
    /// The client's name is being looked up; it has heard nothing yet.
    New,
    /// Banner sent.
    Greeted,
    /// HELO or EHLO done, no transaction.
    Identified,
    /// MAIL accepted.
    Mail(Box<Transaction>),
    /// 354 sent: message data.
    Data(Box<Data>),
    /// The last reply has been given.
    Closing,
}

/// A message on its way in.
pub struct Data {
    /// Finds the end, and the text.
    pub decoder: Decoder,
    /// Where the text goes.
    pub writing: Writing,
    /// Bytes thrown away since the message was found faulty.
    pub discarded_bytes: u64,
}

/// What HELO or EHLO said.
#[derive(Clone, Debug)]
pub struct Greeting {
    /// Which of the two.
    pub protocol: Protocol,
    /// The name given.
    pub name: Line,
}
