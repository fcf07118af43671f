//! Where a conversation is. Work in progress lives in the state it belongs to, so that leaving the
//! state drops it, and dropping it rolls back.

use crate::mail::MsgId;
use crate::smtp::dot::Decoder;
use crate::transaction::{Protocol, Transaction, Writing};
use crate::util::Line;

/// The state of a session. What it has asked meanwhile is in `Session::waits`.
pub enum State {
    /// In its opening: the client has heard nothing yet, and nobody of it.
    New,
    /// In its opening, and observers have heard of the client.
    Connected,
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
    /// Its id.
    pub msgid: MsgId,
    /// Finds the end, and the text.
    pub decoder: Decoder,
    /// Where the text goes; `None` while it is with a question.
    pub writing: Option<Box<Writing>>,
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
