//! What is known of a session and its transaction when a recipient is judged.

use crate::util::Line;

use super::{MailAddr, Peer};

/// Everything a `match` rule may look at, but for the recipient.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Where the client is.
    pub peer: Peer,
    /// The client's name by reverse DNS, if it has one.
    pub rdns: Option<Line>,
    /// There is no name here because nobody could say whether the client has one.
    pub rdns_failed: bool,
    /// HELO or EHLO argument.
    pub helo: Line,
    /// Whether the client authenticated; local submitters count as such.
    pub authenticated: bool,
    pub username: Option<Line>,
    /// Whether the connection is encrypted.
    pub tls: bool,
    /// The listener's tag.
    pub tag: Option<Line>,
    /// The reverse-path.
    pub sender: MailAddr,
}
