//! What a session is told: how to introduce itself, and what to send to whom.

use std::fmt;
use std::io::{self, Read};
use std::time::Duration;

use crate::mail::{Dsn, Envelope, EvpId, MailAddr, Notify, Outcome, Ret};
use crate::util::Line;

/// The language of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// RFC 5321.
    Smtp,
    /// RFC 2033: LHLO, and a reply for each recipient after the final dot.
    Lmtp,
}

/// When a session is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tls {
    /// Not at all; credentials are then never sent.
    Never,
    /// By STARTTLS where it is offered. Where it is refused, in plain text; a handshake that fails
    /// ends the session, and a new one may be made with [`Tls::Never`].
    IfOffered,
    /// By STARTTLS, or there is no session.
    Required,
    /// Before the first byte.
    OnConnect,
}

/// Who we log in as.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub user: Line,
    pub password: Line,
}

/// A password is not for logs.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({}:********)", self.user)
    }
}

/// How a session introduces itself.
#[derive(Clone, Debug)]
pub struct Hello {
    pub protocol: Protocol,
    /// Our name in EHLO, HELO or LHLO.
    pub name: Line,
    /// Whether and when it is encrypted. LMTP is not.
    pub tls: Tls,
    /// Log in, or there is no session.
    pub auth: Option<Credentials>,
    /// Recipients refused in a row that end the session (`mta limit max-failures-per-session`); 0
    /// for no limit.
    pub max_failures: u32,
    /// How long each phase may take.
    pub timeouts: Timeouts,
}

impl Hello {
    /// A session in plain text, without a login, with the limits of the daemon.
    pub fn new(protocol: Protocol, name: Line) -> Hello {
        Hello {
            protocol,
            name,
            tls: Tls::Never,
            auth: None,
            max_failures: 25,
            timeouts: Timeouts::default(),
        }
    }
}

/// How long each phase may take, from the end of what we sent to the end of the reply. A peer that
/// sends a byte now and then gains nothing by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For the connection.
    pub connect: Duration,
    /// For the TLS handshake.
    pub handshake: Duration,
    /// For the greeting. RFC 5321 §4.5.3.2.1.
    pub greeting: Duration,
    /// For EHLO, HELO, LHLO, STARTTLS and AUTH, which the RFC does not name.
    pub hello: Duration,
    /// For MAIL. RFC 5321 §4.5.3.2.2.
    pub mail: Duration,
    /// For RCPT. RFC 5321 §4.5.3.2.3.
    pub rcpt: Duration,
    /// For DATA. RFC 5321 §4.5.3.2.4.
    pub data: Duration,
    /// For the peer to take some of a block of the message, or a group of commands. RFC 5321
    /// §4.5.3.2.5.
    pub block: Duration,
    /// For each reply after the final dot. RFC 5321 §4.5.3.2.6.
    pub dot: Duration,
    pub rset: Duration,
    /// For QUIT: nothing depends on it.
    pub quit: Duration,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        let minutes = |n: u64| Duration::from_secs(60 * n);
        Timeouts {
            connect: Duration::from_secs(30),
            handshake: minutes(1),
            greeting: minutes(5),
            hello: minutes(5),
            mail: minutes(5),
            rcpt: minutes(5),
            data: minutes(2),
            block: minutes(3),
            dot: minutes(10),
            rset: minutes(1),
            quit: Duration::from_secs(5),
        }
    }
}

impl Timeouts {
    /// The same with no phase longer than `most`, but for the reply to the final dot. Whoever gives
    /// up there too early sends the message twice (RFC 1047), so it has five times as long.
    pub fn impatient(self, most: Duration) -> Timeouts {
        Timeouts {
            dot: self.dot.min(5 * most),
            ..self.at_most(most)
        }
    }

    /// The same with no phase longer than `most`.
    pub fn at_most(self, most: Duration) -> Timeouts {
        Timeouts {
            connect: self.connect.min(most),
            handshake: self.handshake.min(most),
            greeting: self.greeting.min(most),
            hello: self.hello.min(most),
            mail: self.mail.min(most),
            rcpt: self.rcpt.min(most),
            data: self.data.min(most),
            block: self.block.min(most),
            dot: self.dot.min(most),
            rset: self.rset.min(most),
            quit: self.quit.min(most),
        }
    }
}

/// Where the bytes of a message come from: its text as the queue keeps it, with LF line ends. It
/// is opened once for each transaction and never held whole in memory.
pub trait Content {
    /// Opens it at its first byte.
    fn open(&self) -> io::Result<Box<dyn Read + '_>>;

    /// Reads it to see whether a byte of it is no ASCII. One that cannot be read to its end may
    /// have some.
    fn is_eight_bit(&self) -> bool {
        let mut buffer = vec![0; 64 * 1024];
        let Ok(mut content) = self.open() else {
            return true;
        };
        loop {
            match content.read(&mut buffer) {
                Ok(0) => return false,
                Ok(n) if buffer.get(..n).is_some_and(<[u8]>::is_ascii) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => return true,
            }
        }
    }
}

impl<F, R> Content for F
where
    F: Fn() -> io::Result<R>,
    R: Read + 'static,
{
    fn open(&self) -> io::Result<Box<dyn Read + '_>> {
        Ok(Box::new(self()?))
    }
}

/// A message to send.
#[derive(Clone)]
pub struct Message<'a> {
    /// The reverse-path, as MAIL says it; it may be null.
    pub sender: MailAddr,
    /// Its length: what SIZE says, and what the peer's limit is compared with.
    pub size_bytes: Option<u64>,
    /// Whether there may be bytes in it that are no ASCII, which a peer that offers 8BITMIME is
    /// told.
    pub eight_bit: bool,
    /// RET, for a peer that offers DSN.
    pub ret: Option<Ret>,
    /// ENVID, for a peer that offers DSN.
    pub envid: Option<Line>,
    pub content: &'a dyn Content,
}

/// One recipient of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipient {
    /// Whose outcome this will be.
    pub id: EvpId,
    /// The forward-path, as RCPT says it: an address, or for LMTP a user alone.
    pub to: Line,
    /// NOTIFY, for a peer that offers DSN.
    pub notify: Notify,
    /// ORCPT, for a peer that offers DSN.
    pub orcpt: Option<Line>,
}

impl Recipient {
    /// The destination of an envelope.
    pub fn of(envelope: &Envelope) -> Recipient {
        let Dsn { notify, orcpt, .. } = &envelope.dsn;
        Recipient {
            id: envelope.id,
            to: Line::sanitize(envelope.dest.to_string().as_bytes()),
            notify: *notify,
            orcpt: orcpt.clone(),
        }
    }
}

/// What came of a message.
#[derive(Clone, Debug, Default)]
pub struct Transacted {
    /// An outcome for each recipient that was tried, in the order they became known. The text of
    /// each is the peer's whole reply, or says what went wrong on the way.
    pub settled: Vec<(EvpId, Outcome)>,
    /// Recipients that were not tried: a connection that had been used before was found closed, or
    /// the peer said 421 before it said anything of this message. A new connection may take them.
    pub untried: Vec<Recipient>,
}
