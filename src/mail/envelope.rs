//! The envelope: one message for one destination, and all that is known of it.
//!
//! `queue::envelope_file` gives it its form on disk.

use crate::util::{Line, Timestamp};

use super::{Dsn, EvpId, MailAddr, Peer, Status};

/// One message for one destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// Its name; the upper half is the message's.
    pub id: EvpId,
    /// The action of smtpd.conf(5) that settles it, by name. On disk the field is `dispatcher`.
    pub action: Line,
    /// The listener's tag.
    pub tag: Option<Line>,
    /// How it is settled.
    pub kind: Kind,
    /// The name the listener announced; EHLO name and Reporting-MTA later.
    pub smtpname: Line,
    /// What the client said in HELO or EHLO.
    pub helo: Line,
    /// The client's name by reverse DNS; `<unknown>` without one.
    pub hostname: Line,
    /// Who authenticated.
    pub username: Option<Line>,
    /// The last error: a whole SMTP reply or our own text, at most 2047 bytes.
    pub errorline: Option<Line>,
    /// Where the client was.
    pub peer: Peer,
    /// The reverse-path.
    pub sender: MailAddr,
    /// The recipient as RCPT TO gave it.
    pub rcpt: MailAddr,
    /// The recipient after expansion.
    pub dest: MailAddr,
    /// When the envelope was made.
    pub created: Timestamp,
    /// When it was last tried; 0 before.
    pub last_try: Timestamp,
    /// The latest delay warning's threshold; 0 before.
    pub last_bounce: Timestamp,
    /// Life time in seconds that the envelope was queued with; 0 = as configured.
    pub ttl_s: u32,
    /// Temporary failures so far.
    pub retry: u16,
    pub flags: Flags,
    /// What the sender asked to be told.
    pub dsn: Dsn,
    /// Status of the last outcome.
    pub status: Option<Status>,
    /// What earlier attempts left for the reports.
    pub past: Past,
}

/// What a report tells of the attempts and an error line alone does not say. Files of older
/// versions have none of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Past {
    /// The host whose reply the error line is; none if the error is our own.
    pub remote: Option<Line>,
    /// Of a bounce: when the original came; 0 if that is not known.
    pub arrived: Timestamp,
    /// Of a bounce: when the original was last tried; 0 if that is not known.
    pub tried: Timestamp,
}

/// Marks of an envelope that outlive a restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// The client had authenticated, or the mail came over the local socket.
    pub authenticated: bool,
    /// The mail is a report that the daemon itself injected.
    pub bounce: bool,
    /// The destination is the product of forwarding.
    pub internal: bool,
    /// `smtpctl pause envelope`.
    pub suspended: bool,
}

/// How an envelope is settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// By a delivery on this host (`mda`).
    Local(Local),
    /// By another host (`mta`).
    Relay,
    /// By a report to the sender (`bounce`).
    Bounce(BounceKind),
}

/// A local destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Local {
    /// The user of the userbase whose mail this is.
    pub user: Line,
    /// What followed the sub-address delimiter.
    pub subaddress: Option<Line>,
    /// A command or file of an alias or .forward, in place of the action's method.
    pub command: Option<Command>,
}

/// Where an alias or .forward sends a message other than to a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    Pipe(Line),
    File(Line),
}

/// What a report says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BounceKind {
    /// Delivery failed for good.
    Failed,
    /// Delivery is late.
    Delayed {
        /// The threshold that has passed, in seconds.
        delay_s: u32,
        /// How long the message stays in the queue, in seconds.
        ttl_s: u32,
    },
    /// Delivered, and the sender asked to hear of it.
    Delivered {
        /// Handed to a host that knows no DSN, rather than delivered.
        relayed: bool,
    },
}
