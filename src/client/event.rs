//! What happens in a session, for who watches it: a trace, or reports to filters.

use crate::mail::{EvpId, MsgId};
use crate::util::Line;

use super::reply::{Class, Reply};

/// Something has happened. [`Event::Client`] and [`Event::Server`] are all that both sides say, in
/// order; what a reply means follows it. A transaction begins with [`Event::Begin`] and ends with
/// one [`Event::Commit`] or [`Event::Rollback`]; events of one stand between these two only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// We have said this line. What is secret is shown as `********`.
    Client(Line),
    /// The server has replied.
    Server(Reply),
    /// The server has let us in, and calls itself so; nothing where that is no name.
    Greeted(Line),
    /// We have introduced ourselves, by this command.
    Identified(&'static str, Line),
    /// The connection is encrypted: what was negotiated.
    Secured(Line),
    /// We have tried to log in as this user.
    Login(Line, Login),
    /// MAIL was accepted, with this reverse-path.
    Begin(MsgId, String),
    /// RCPT for this envelope has been answered, as the next event tells.
    Envelope(EvpId),
    /// RCPT was answered, for this address.
    Rcpt(MsgId, Line, Class),
    /// DATA was answered.
    Data(MsgId, Class),
    /// The message, of so many bytes on the wire, was accepted for at least one recipient.
    Commit(MsgId, u64),
    Rollback(MsgId),
    /// The server was silent, or did not read, for too long.
    Timeout,
}

/// Whether we are logged in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Login {
    Accepted,
    Refused,
}

/// Hears what happens. It is called by the thread that has the session.
pub type Tap = Box<dyn FnMut(Event) + Send>;
