//! What the machine has done, and what comes back of it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::client::Credentials;
use crate::deliver::Report;
use crate::deliver::relay::Configured;
use crate::deliver::relay::key::Security;
use crate::deliver::relay::mx::{AsHost, Question};
use crate::deliver::relay::routes::Ptr;
use crate::mail::{Envelope, EvpId, MailAddr, MsgId, Outcome, SessionId};
use crate::util::Line;

use super::ids::RelayId;

/// What is to be done. Answers come back through the calls of [`Core`](super::Core) that are named.
#[derive(Debug)]
pub enum Action {
    /// Ask the resolver; `Core::answer`.
    Resolve(Destination, Question),
    /// Ask for the reverse name of an address, to be put there; `Core::named`.
    Reverse(IpAddr, Ptr),
    /// Fetch or look up the smarthost of an envelope; `Core::smarthosts`.
    Smarthost(EvpId, Ask),
    /// Fetch a source address; `Core::source`.
    Source(Arc<Configured>, RelayId, String),
    /// Look up the credentials of a label in a table; `Core::secret`.
    Secret(Arc<Configured>, RelayId, String, Line),
    /// Start a session; `Core::ready`, `Core::ended`.
    Open(Box<Start>),
    /// Send this, after what it has been given before; `Core::done`.
    Send(SessionId, Arc<Load>),
    /// Give back so many of the messages that it was told to send last, as far as it has not begun
    /// with them; `Core::recalled`.
    Recall(SessionId, usize),
    /// End a session; `Core::ended`.
    Quit(SessionId),
    /// For the runner.
    Report(Report),
    /// A line for the log.
    Info(String),
    /// A line for the log.
    Warn(String),
}

/// Which smarthost an envelope goes to is asked of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// The next of this table.
    Next(String),
    /// The one of this domain.
    Of(String, String),
}

impl Ask {
    /// The table.
    pub fn table(&self) -> &str {
        match self {
            Ask::Next(table) | Ask::Of(table, _) => table,
        }
    }

    /// Whether one answer does for both. The next of a table is another one each time.
    pub fn is_answered_with(&self, other: &Ask) -> bool {
        matches!(self, Ask::Of(..)) && self == other
    }
}

/// A domain, or a smarthost.
pub type Destination = (String, AsHost);

/// A session to be started.
#[derive(Clone, Debug)]
pub struct Start {
    /// Its name.
    pub id: SessionId,
    /// The configuration that the action is of.
    pub configured: Arc<Configured>,
    /// The action, with all that it says of sessions.
    pub action: Line,
    /// Whom to connect to.
    pub to: SocketAddr,
    /// The exchanger's name.
    pub exchanger: Line,
    /// What is spoken, for log lines.
    pub scheme: &'static str,
    /// Whether it is LMTP.
    pub lmtp: bool,
    /// What to do about TLS.
    pub security: Security,
    /// Who to log in as.
    pub login: Option<Credentials>,
    /// The address to connect from.
    pub source: Option<IpAddr>,
    /// The reverse name of the host, once known.
    pub ptr: Ptr,
    /// Seconds between transactions.
    pub transaction_delay_s: u32,
    /// Refused recipients in a row that end the session.
    pub max_failures: u32,
    /// Longest wait for the host, where sessions are short.
    pub patience: Option<Duration>,
}

/// A message for some of its recipients: one transaction.
#[derive(Clone, Debug)]
pub struct Load {
    /// The reverse-path.
    pub sender: MailAddr,
    /// The domain that forwards the message and rewrites its sender.
    pub srs: Option<Line>,
    /// All of one message.
    pub envelopes: Vec<Envelope>,
}

impl Load {
    pub(super) fn msgid(&self) -> Option<MsgId> {
        Some(self.envelopes.first()?.id.msgid())
    }
}

/// Whether a session takes another message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It does.
    More,
    /// It does not: the host has closed it, or will.
    Over,
}

/// How a session ended. The outcomes are what the messages hear that had no other way to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// As it was told to, or as hosts end sessions that they have served.
    Quit,
    /// It failed, or never came to be.
    Failed(Outcome),
    /// This host knows no way there. Nobody was asked, so that it says nothing of the other end.
    NoWay(Outcome),
    /// The host has not what this relay demands: TLS, a certificate that holds, a login. Another
    /// relay may be content with it.
    Unfit(Outcome),
    /// Our own end cannot be had: the address, or the name that goes with it.
    Source(Line),
    /// This host had no socket, no thread, no memory: that says nothing of the destination.
    Shortage(Line),
}
