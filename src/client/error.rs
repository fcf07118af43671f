//! Why there is no session.

use std::fmt;

use crate::util::Line;

use super::reply::{Class, Reply};

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
    /// Whether the connection went, or nothing came in time.
    pub lost: bool,
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
            lost: false,
        }
    }

    /// `WHAT rejected: LINE`.
    pub(super) fn rejected(stage: Stage, what: &str, reply: &Reply) -> SessionError {
        SessionError {
            stage,
            text: Line::sanitize(format!("{what} rejected: {reply}").as_bytes()),
            reply: Some(reply.clone()),
            lost: false,
        }
    }

    /// Whether the peer has not what this session demands, TLS, a certificate that holds or a login,
    /// so that another session may well come to be. A login that is refused for now says nothing of
    /// those without one.
    pub fn is_of_the_demand(&self) -> bool {
        let class = self.reply.as_ref().map(Reply::class);
        match self.stage {
            Stage::StartTls => !self.lost && class != Some(Class::NotNow),
            Stage::Handshake | Stage::Auth => !self.lost,
            _ => false,
        }
    }
}

impl fmt::Display for SessionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for SessionError {}

/// Why a handshake failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotSecured {
    /// For the log, after `IO Error: `.
    pub text: Line,
    /// Whether the connection went, or nothing came in time.
    pub lost: bool,
}
