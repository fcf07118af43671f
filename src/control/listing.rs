//! One line of `show queue`: the same text from the daemon's memory and from the spool's files.

use std::fmt::Write;

use crate::mail::{Envelope, EvpId, Kind};
use crate::util::Timestamp;

use super::message::Listed;
use super::summary::{Summary, error};

/// What a line says beyond the stored envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Field 9.
    pub expires: Timestamp,
    /// Field 10: the hand-out while in flight.
    pub last_try: Timestamp,
    /// Whether the envelope is held.
    pub held: bool,
    /// Fields 12 and 13.
    pub state: State,
}

/// Where an envelope is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Waiting; tried next in so many seconds, negative when due, paused or held.
    Pending {
        /// Seconds.
        in_s: i64,
    },
    /// Handed out so many seconds ago.
    Inflight {
        /// Seconds.
        for_s: u64,
    },
    /// Read from the spool while no daemon runs.
    Offline,
}

/// When an envelope's time is over. `default_ttl_s` stands in for one that was queued without.
pub fn expiry(envelope: &Envelope, default_ttl_s: u32) -> Timestamp {
    let ttl_s = match (&envelope.kind, envelope.ttl_s) {
        (Kind::Bounce(_), _) => BOUNCE_TTL_S,
        (_, 0) => default_ttl_s,
        (_, ttl_s) => ttl_s,
    };
    envelope.created.plus(u64::from(ttl_s))
}

/// What is listed of an envelope.
pub fn listed(id: EvpId, summary: &Summary, standing: &Standing) -> Listed {
    Listed {
        id,
        text: text(summary, standing),
        action: summary.common.action.to_string(),
        remote: summary.common.remote.to_string(),
    }
}

/// Fields 2 to 14, joined by `|`, as [`Listed::text`] carries them.
fn text(summary: &Summary, standing: &Standing) -> String {
    let (between, dest) = if summary.is_expanded {
        ("", "")
    } else {
        ("|", &*summary.rcpt)
    };
    let mut text = String::with_capacity(MOST_LINES_BYTES);
    let made = write!(
        text,
        "{}|{}|{}|{}|{}{between}{dest}|{}|{}|{}|{}|{}|{}",
        summary.common.family.name(),
        summary.common.agent.name(),
        flags(summary, standing.held),
        summary.common.sender,
        summary.rcpt,
        summary.created.0,
        standing.expires.0,
        standing.last_try.0,
        summary.retry,
        state(standing.state),
        summary.common.error,
    );
    debug_assert!(made.is_ok(), "memory takes all text");
    text
}

/// Most lines have no more.
const MOST_LINES_BYTES: usize = 256;

/// The same fields of an envelope that cannot be read now: it is still one of the queue's.
pub fn unreadable(agent: &str, standing: &Standing, why: &str) -> String {
    format!(
        "?|{agent}||@|@|@|0|{}|{}|0|{}|{}",
        standing.expires.0,
        standing.last_try.0,
        state(standing.state),
        error(&format!("cannot read the envelope: {why}")),
    )
}

/// What OpenSMTPD shows for reports. They live as long as the daemon's `queue ttl` says.
const BOUNCE_TTL_S: u32 = 7 * 86400;

fn state(state: State) -> String {
    match state {
        State::Pending { in_s } => format!("pending|{in_s}"),
        State::Inflight { for_s } => format!("inflight|{for_s}"),
        State::Offline => "offline|".to_owned(),
    }
}

fn flags(summary: &Summary, held: bool) -> String {
    let flags = &summary.flags;
    let all = [
        (flags.bounce, "bounce"),
        (flags.authenticated, "auth"),
        (flags.internal, "internal"),
        (flags.suspended, "suspend"),
        (held, "hold"),
    ];
    let set: Vec<&str> = all
        .iter()
        .filter(|(on, _)| *on)
        .map(|(_, name)| *name)
        .collect();
    set.join(",")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::mail::{BounceKind, EvpId, Flags, MailAddr, Peer, samples};
    use crate::util::Line;

    /// An envelope with a life time of its own.
    pub fn envelope(id: EvpId) -> Envelope {
        Envelope {
            id,
            sender: MailAddr::new("alice", "example.org").unwrap(),
            ttl_s: 345_600,
            ..samples::envelope("bob")
        }
    }

    fn id() -> EvpId {
        "1a2b3c4d7f3e9a10".parse().unwrap()
    }

    #[test]
    fn a_line_has_fourteen_fields_in_the_order_of_the_manual() {
        // smtpctl(8), show queue: the fields, their order and their forms.
        let mut evp = envelope(id());
        let standing = Standing {
            expires: expiry(&evp, 0),
            last_try: Timestamp(0),
            held: false,
            state: State::Pending { in_s: 386 },
        };
        assert_eq!(
            text(&Summary::of(&evp), &standing),
            "local|mda||alice@example.org|bob@example.org|bob@example.org|\
             1700000000|1700345600|0|0|pending|386|"
        );

        evp.kind = Kind::Relay;
        evp.peer = Peer::parse("192.0.2.1").unwrap();
        evp.sender = MailAddr::null();
        evp.retry = 3;
        evp.errorline = Some(Line::new("451 4.7.0 Try\x1b[m a|b \\ later é\t.").unwrap());
        evp.flags = Flags {
            authenticated: true,
            bounce: true,
            internal: true,
            suspended: true,
        };
        let standing = Standing {
            last_try: Timestamp(1_700_000_100),
            held: true,
            state: State::Inflight { for_s: 7 },
            ..standing
        };
        assert_eq!(
            text(&Summary::of(&evp), &standing),
            "inet4|mta|bounce,auth,internal,suspend,hold|@|bob@example.org|bob@example.org|\
             1700000000|1700345600|1700000100|3|inflight|7|\
             451 4.7.0 Try\\^[[m a|b \\\\ later \\M-C\\M-)\t."
        );

        evp.kind = Kind::Bounce(BounceKind::Failed);
        evp.peer = Peer::parse("[2001:db8::1]").unwrap();
        evp.errorline = None;
        evp.flags = Flags::default();
        evp.rcpt = MailAddr::new("\"a\\\"\x1bb\"", "example.org").unwrap();
        let standing = Standing {
            expires: expiry(&evp, 0),
            last_try: Timestamp(0),
            held: false,
            state: State::Offline,
        };
        assert_eq!(
            text(&Summary::of(&evp), &standing),
            "inet6|bounce||@|\"a\\\"\\^[b\"@example.org|bob@example.org|\
             1700000000|1700604800|0|3|offline||"
        );
    }

    #[test]
    fn expiry_is_the_envelopes_own_then_the_configured_one() {
        let mut evp = envelope(id());
        assert_eq!(expiry(&evp, 60), Timestamp(1_700_345_600));
        evp.ttl_s = 0;
        assert_eq!(expiry(&evp, 60), Timestamp(1_700_000_060));
        assert_eq!(expiry(&evp, 0), Timestamp(1_700_000_000));
    }
}
