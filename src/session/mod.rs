//! One SMTP server conversation as a state machine: no sockets, no clock.
//!
//! The worker that owns the connection gives the session bytes and facts; the session appends
//! replies and says what it waits for. A session is a value; nothing of it is shared.

#![forbid(unsafe_code)]

use crate::mail::{Destination, Facts, MailAddr, Refusal};
use crate::queue::{BeginError, Committed, Incoming};
use crate::util::Timestamp;

/// What a session needs of the world. Calls may block on the disk or a table, never on the peer.
pub trait Services: Send + Sync {
    /// Starts a message in the queue.
    fn begin(&self) -> Result<Incoming, BeginError>;
    /// Judges and expands a recipient (ruleset, aliases, users).
    fn expand(&self, facts: &Facts, rcpt: &MailAddr) -> Result<Vec<Destination>, Refusal>;
    /// Tells the runner of a durable message.
    fn committed(&self, message: Committed);
    /// The clock.
    fn now(&self) -> Timestamp;
}

/// What a session waits for when it hands control back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// More bytes of the peer.
    Read,
    /// For its replies to be on their way; it then wants to go on with the input it has.
    Flush,
    /// For its replies to be on their way; then the connection ends.
    Close,
}

/// Why a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Disconnect {
    /// We closed after a reply.
    Quit,
    /// The peer closed.
    Hangup,
    /// The peer was silent for too long.
    Timeout,
    /// The socket failed; the system's words.
    IoError(String),
}
