//! Where a conversation is. Work in progress lives in the state it belongs to, so that leaving the
//! state drops it, and dropping it rolls back.

use std::sync::Arc;

use crate::filter::Content;
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
    Greeted,
    /// HELO or EHLO done, no transaction.
    Identified,
    /// AUTH begun: the next line is a response.
    Auth(Box<AuthStep>),
    /// MAIL accepted.
    Mail(Box<Transaction>),
    /// 354 sent: message data.
    Data(Box<Data>),
    /// Filters have refused the connection: nothing but good-bye is left.
    Refused,
    /// The last reply has been given.
    Closing,
}

/// What a client of AUTH is asked.
pub enum AuthStep {
    /// PLAIN: everything.
    Plain,
    /// LOGIN: the user.
    User,
    /// LOGIN: the password of this user.
    Password(Line),
}

/// A message on its way in.
pub struct Data {
    pub msgid: MsgId,
    /// Finds the end, and the text.
    pub decoder: Decoder,
    /// Where the text goes; `None` while it is with a question.
    pub writing: Option<Box<Writing>>,
    /// Bytes thrown away since the message was found faulty.
    pub discarded_bytes: u64,
    /// The way through filters that want its lines.
    pub filtered: Option<Filtered>,
}

/// A message on its way through filters.
pub struct Filtered {
    pub content: Arc<Content>,
    /// The start of a line.
    pub partial: Vec<u8>,
    /// Whether the client has sent its final dot.
    pub ended: bool,
}

impl Filtered {
    /// The content of a message of which nothing has come yet.
    pub fn new(content: Arc<Content>) -> Filtered {
        Filtered {
            content,
            partial: Vec::new(),
            ended: false,
        }
    }
}

/// However it ends, programs are told that nobody wants its lines any more.
impl Drop for Filtered {
    fn drop(&mut self) {
        self.content.close();
    }
}

/// What HELO or EHLO said.
#[derive(Clone, Debug)]
pub struct Greeting {
    pub protocol: Protocol,
    pub name: Line,
}
