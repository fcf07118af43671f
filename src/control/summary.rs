//! What a line of `show queue` says of an envelope, small enough to be kept of a long queue.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use crate::mail::{Envelope, Flags, Kind, Peer};
use crate::util::Timestamp;
use crate::util::vis::{self, Style};

/// An envelope without what a listing does not show. The texts are fit to be printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    pub(super) created: Timestamp,
    /// When it was last tried; 0 before.
    pub last_try: Timestamp,
    /// The recipient as it was given, and behind a `|` what it was expanded to, unless that is the same.
    pub(super) rcpt: Box<str>,
    pub(super) is_expanded: bool,
    /// What it has in common with others.
    pub common: Arc<Common>,
    pub(super) retry: u16,
    pub flags: Flags,
}

/// What many envelopes are alike in.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Common {
    pub(super) family: Family,
    pub(super) agent: Agent,
    pub(super) action: Box<str>,
    pub(super) sender: Box<str>,
    /// The last error.
    pub(super) error: Box<str>,
    /// The host whose words the last error is; empty if the words are ours.
    pub(super) remote: Box<str>,
}

/// How the message came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Family {
    Local,
    Inet4,
    Inet6,
}

/// Who settles the envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Agent {
    Mta,
    Mda,
    Bounce,
}

impl Summary {
    /// What a listing shows of this envelope.
    pub fn of(envelope: &Envelope) -> Summary {
        let error = error(envelope.errorline.as_deref().unwrap_or_default());
        let remote = envelope.past.remote.as_deref().unwrap_or_default();
        let is_expanded = envelope.dest != envelope.rcpt;
        let mut rcpt = envelope.rcpt.stored();
        if is_expanded {
            rcpt = format!("{rcpt}|{}", envelope.dest.stored());
        }
        Summary {
            created: envelope.created,
            last_try: envelope.last_try,
            rcpt: printable(rcpt),
            is_expanded,
            common: Arc::new(Common {
                family: family(&envelope.peer),
                agent: agent(&envelope.kind),
                action: without_controls(&envelope.action).into(),
                sender: printable(envelope.sender.stored()),
                error: error.into(),
                remote: without_controls(remote).into(),
            }),
            retry: envelope.retry,
            flags: envelope.flags,
        }
    }

    /// Bytes of memory that it takes, as if it had nothing in common with others.
    pub fn memory_bytes(&self) -> usize {
        let common = &*self.common;
        let texts = [
            &common.action,
            &common.sender,
            &common.error,
            &common.remote,
        ];
        let shared: usize = texts.iter().map(|text| text.len()).sum();
        size_of::<Summary>() + size_of::<Common>() + self.rcpt.len() + shared
    }
}

impl Family {
    /// As smtpctl(8) has it.
    pub fn name(self) -> &'static str {
        match self {
            Family::Local => "local",
            Family::Inet4 => "inet4",
            Family::Inet6 => "inet6",
        }
    }
}

impl Agent {
    /// As smtpctl(8) has it.
    pub fn name(self) -> &'static str {
        match self {
            Agent::Mta => "mta",
            Agent::Mda => "mda",
            Agent::Bounce => "bounce",
        }
    }
}

fn family(peer: &Peer) -> Family {
    match peer {
        Peer::Local => Family::Local,
        Peer::Inet {
            addr: IpAddr::V4(_),
            ..
        } => Family::Inet4,
        Peer::Inet { .. } => Family::Inet6,
    }
}

fn agent(kind: &Kind) -> Agent {
    match kind {
        Kind::Relay => Agent::Mta,
        Kind::Local(_) => Agent::Mda,
        Kind::Bounce(_) => Agent::Bounce,
    }
}

fn printable(text: String) -> Box<str> {
    if text.bytes().all(is_plain) {
        return text.into();
    }
    without_controls(&text).into()
}

/// As vis(3) without flags, which leaves tabs alone.
pub(super) fn error(text: &str) -> Cow<'_, str> {
    if text.bytes().all(|byte| is_plain(byte) && byte != b'\\') {
        return text.into();
    }
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'\t' => out.push('\t'),
            _ => vis::push(&mut out, byte, Style::Caret),
        }
    }
    out.into()
}

/// Printable ASCII: nearly all that is listed is nothing else.
fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~')
}

/// Addresses keep their backslashes and their letters; only control characters are encoded, so
/// that listing the queue cannot steer a terminal.
fn without_controls(text: &str) -> Cow<'_, str> {
    if text.bytes().all(is_plain) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\0'..='\u{1f}' | '\u{7f}' => vis::push(&mut out, c as u8, Style::Caret),
            '\u{80}'..='\u{9f}' => out.push('?'),
            _ => out.push(c),
        }
    }
    out.into()
}
