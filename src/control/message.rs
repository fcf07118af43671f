//! What is said over the control socket: one [`Ask`], one [`Answer`], as often as the client likes.
//!
//! A frame is a little-endian u32 length (of what follows, at most [`MAX_FRAME`]), a version byte,
//! a kind byte and fields. A `Submit` that is answered `Ok` turns the connection into a plain SMTP
//! session.

use std::net::IpAddr;

use crate::mail::{EvpId, MailAddr, MsgId, Supposed};

pub use super::codec::{
    BadFrame, decode_answer, decode_ask, encode_answer, encode_ask, frame_length,
};

/// Version of the frames; the other side must speak the same.
pub const VERSION: u8 = 1;
/// Longest frame, in bytes. A longer one ends the connection.
pub const MAX_FRAME: usize = 256 * 1024;

/// Which envelopes a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    Envelope(EvpId),
    Message(MsgId),
    All,
}

/// What a client asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Speak SMTP from here on (sendmail). Any user may.
    Submit,
    /// `schedule`: try now. Answered by `Count`.
    Schedule(Which),
    /// `remove`. Answered by `Count`.
    Remove(Which),
    /// `pause envelope`. Answered by `Count`.
    Suspend(Which),
    /// `resume envelope`. Answered by `Count`.
    Resume(Which),
    /// `requeue` and `edit`: rules and expansion are run again for these. Answered by `Requeued`.
    Requeue(Vec<EvpId>, Change),
    /// `discover`. Answered by `Count`.
    Discover(Which),
    /// `pause mda|mta|smtp` (true) or `resume` (false). Answered by `Ok` or `Fail`.
    Pause(Subsystem, bool),
    /// `log verbose` (true) or `log brief`. Answered by `Ok`.
    Verbose(bool),
    /// `show queue`: envelopes of `only` (or of all messages) behind `after`, as many as fit.
    /// Answered by `Envelopes`; an empty one is the end.
    List {
        /// The last one seen.
        after: Option<EvpId>,
        /// One message only.
        only: Option<MsgId>,
    },
    /// `show stats`. Answered by `Stats`.
    Stats,
    /// `show status`. Answered by `Status`.
    Status,
    /// `update table`. Answered by `Ok` or `Fail`.
    UpdateTable(String),
    /// `reload`. Answered by `Ok`, or by `Fail` with lines that say why.
    Reload,
    /// `explain`. Answered by `Text`.
    Explain(Box<Supposed>),
    /// `trace` (true) or `untrace`. Answered by `Ok` or `Fail`.
    Trace(String, bool),
    /// `trace` of some clients or hosts. Answered by `Ok` or `Fail`.
    TraceOf(String, TraceOf),
    /// `profile` (true), answered by `Ok` or `Fail`, or `unprofile`, answered by `Lines` that say
    /// what was counted, or `Fail`.
    Profile(String, bool),
    /// A listing of relaying without its first lines, which the client has. Answered by `Lines`;
    /// none is the end.
    Relaying(Listing, u32),
    /// `resume route`. Answered by `Ok`.
    ResumeRoute(u64),
    /// `pause mta from … for …`, `resume mta from … for …`. Answered by `Ok` or `Fail`.
    Block(Block),
}

/// What is different when rules are run again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Another sender.
    pub sender: Option<MailAddr>,
    /// Another recipient.
    pub rcpt: Option<MailAddr>,
}

/// Whom a trace is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TraceOf {
    /// Clients in this network, or `local`.
    From(String),
    /// Hosts in this network.
    To(String),
    /// Clients that came by a listener with this tag.
    Tag(String),
}

/// A listing of what is known of relaying, or of filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listing {
    /// `show hosts`.
    Hosts,
    /// `show hoststats`.
    HostStats,
    /// `show mta paused`.
    Blocks,
    /// `show relays`.
    Relays,
    /// `show routes`.
    Routes,
    /// `show filters`.
    Filters,
}

/// Mail for a destination is not sent from an address, or is sent again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    pub source: IpAddr,
    /// The destination.
    pub domain: String,
    /// Whether it is blocked.
    pub on: bool,
}

/// A part of the daemon that can be paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subsystem {
    Mda,
    Mta,
    /// Receiving.
    Smtp,
}

/// What the daemon answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Done.
    Ok,
    /// Not done; the text says why and may be empty.
    Fail(String),
    /// So many envelopes.
    Count(u32),
    /// So many envelopes, and why others were not: lines.
    Requeued(u32, Vec<String>),
    /// Lines of `show queue`, in order of their ids.
    Envelopes(Vec<Listed>),
    /// Lines, each with its end.
    Text(String),
    /// Keys and values of `show stats`.
    Stats(Vec<(String, i64)>),
    /// Lines of a listing.
    Lines(Vec<String>),
    /// What is paused.
    Status {
        mda: bool,
        mta: bool,
        /// Receiving.
        smtp: bool,
        /// What else is worth a line: certificates that end soon.
        notes: Vec<String>,
    },
}

/// One envelope of `show queue`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub id: EvpId,
    /// Fields 2 to 14 of the line, joined by `|`.
    pub text: String,
    /// The action that settles it.
    pub action: String,
    /// The host whose words the last error is; empty if the words are ours.
    pub remote: String,
}
