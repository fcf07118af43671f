//! A session and a recipient that somebody supposes, to be told what would become of them.

use crate::util::Line;

use super::Peer;

/// What is supposed; where nothing is, the session is one of the local socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Supposed {
    /// The argument of MAIL FROM, with or without its brackets; the null sender otherwise.
    pub sender: Option<Line>,
    /// The argument of RCPT TO, with or without its brackets; postmaster otherwise.
    pub rcpt: Option<Line>,
    /// Where the client is; the local socket otherwise.
    pub peer: Option<Peer>,
    /// The client's name by reverse DNS; a client elsewhere has none otherwise.
    pub rdns: Option<Line>,
    /// HELO or EHLO argument; the client's address otherwise.
    pub helo: Option<Line>,
    /// The user as which the client has authenticated.
    pub username: Option<Line>,
    /// The listener's tag.
    pub tag: Option<Line>,
    /// Whether the connection is encrypted.
    pub tls: bool,
}
