//! Why there is no session.

use std::fmt;

use crate::util::Line;

use super::reply::Reply;

/// A session could not be made. It is told for the session, not for a message: the next address
/// may do better.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionError {
    /// How far it came.
    pub stage: Stage,
    /// What went wrong, as the log says it.
    pub text: Line,
    /// What the peer said, if that was it.
    pub reply: Option<Reply>,
}

/// Where a session failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The source address cannot be used: no other destination helps.
    Source,
    /// The system has no way there: nobody was asked.
    NoWay,
    /// The peer refused, or did not answer.
    Connect,
    Banner,
    /// EHLO, HELO or LHLO.
    Hello,
    /// STARTTLS: not offered, or refused.
    StartTls,
    /// The handshake. With [`super::Tls::IfOffered`] a session without TLS is worth a try.
    Handshake,
    Auth,
    Session,
}

impl SessionError {
    /// A failure that is not a reply.
    pub fn new(stage: Stage, text: &str) -> SessionError {
        SessionError {
            stage,
            text: Line::sanitize(text.as_bytes()),
            reply: None,
        }
    }

    /// `WHAT rejected: LINE`.
    pub(super) fn rejected(stage: Stage, what: &str, reply: &Reply) -> SessionError {
        SessionError {
            stage,
            text: Line::sanitize(format!("{what} rejected: {reply}").as_bytes()),
            reply: Some(reply.clone()),
        }
    }
}

impl fmt::Display for SessionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for SessionError {}
