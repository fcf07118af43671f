//! The lines of `smtpctl show queue`: fields 2 to 14, as scripts split them at `|`.

use std::fmt::Write;
use std::net::IpAddr;

use crate::control::message::{Listed, MAX_FRAME};
use crate::mail::{Envelope, Peer};
use crate::queue::{LoadError, Queue};
use crate::scheduler::{Class, Holding, Row, State};
use crate::util::Timestamp;

use super::Policy;

/// Envelopes of one answer.
pub(super) const PAGE: usize = 1000;
/// Bytes of one answer: a frame with room for its own fields.
const PAGE_BYTES: usize = MAX_FRAME / 2;
/// What a listed envelope costs in a frame beside its text.
const ROW_BYTES: usize = 24;

/// One envelope to list, with its text where the runner had it at hand.
pub(super) type Wanted = (Row, Option<Envelope>);

/// The lines of as many envelopes as fit into an answer. What has gone meanwhile is left out.
pub(super) fn lines(
    wanted: Vec<Wanted>,
    queue: &Queue,
    policy: &Policy,
    now: Timestamp,
) -> Vec<Listed> {
    let mut lines = Vec::with_capacity(wanted.len());
    let mut size_bytes = 0;
    for (row, at_hand) in wanted {
        let loaded = at_hand.map_or_else(|| queue.load(row.id), Ok);
        let text = match loaded {
            Ok(envelope) => line(&row, &envelope, policy, now),
            Err(LoadError::Missing) => continue,
            Err(LoadError::Corrupt(why)) => unreadable(&row, &why, now),
            Err(LoadError::Io(error)) => unreadable(&row, &error.to_string(), now),
        };
        size_bytes += text.len() + ROW_BYTES;
        if size_bytes > PAGE_BYTES && !lines.is_empty() {
            break;
        }
        lines.push(Listed { id: row.id, text });
    }
    lines
}

fn line(row: &Row, envelope: &Envelope, policy: &Policy, now: Timestamp) -> String {
    let last_try = match row.state {
        State::Inflight => row.at,
        _ => envelope.last_try,
    };
    let mut text = format!(
        "{}|{}|{}|{}|{}|{}|{}|{}|{}|{}|{}|",
        family(&envelope.peer),
        class(row.class),
        flags(row, envelope),
        envelope.sender.stored(),
        envelope.rcpt.stored(),
        envelope.dest.stored(),
        envelope.created.0,
        row.expire.0,
        last_try.0,
        envelope.retry,
        state(row, now),
    );
    match (row.hold, policy.misfit(envelope)) {
        (Holding::Parked, Some(misfit)) => vis(&mut text, &misfit.text(&envelope.action)),
        _ => vis(&mut text, envelope.errorline.as_deref().unwrap_or("")),
    }
    text
}

/// An envelope that cannot be read now is still an envelope of the queue.
fn unreadable(row: &Row, why: &str, now: Timestamp) -> String {
    let mut text = format!(
        "?|{}||@|@|@|0|{}|0|0|{}|",
        class(row.class),
        row.expire.0,
        state(row, now)
    );
    vis(&mut text, &format!("cannot read the envelope: {why}"));
    text
}

fn family(peer: &Peer) -> &'static str {
    match peer {
        Peer::Local => "local",
        Peer::Inet { addr, .. } => match addr {
            IpAddr::V4(_) => "inet4",
            IpAddr::V6(_) => "inet6",
        },
    }
}

fn class(class: Class) -> &'static str {
    match class {
        Class::Bounce => "bounce",
        Class::Mda => "mda",
        Class::Mta => "mta",
    }
}

fn flags(row: &Row, envelope: &Envelope) -> String {
    let flags = [
        (envelope.flags.bounce, "bounce"),
        (envelope.flags.authenticated, "auth"),
        (envelope.flags.internal, "internal"),
        (row.suspended, "suspend"),
        (row.hold != Holding::No, "hold"),
    ];
    let set: Vec<&str> = flags
        .into_iter()
        .filter_map(|(set, name)| set.then_some(name))
        .collect();
    set.join(",")
}

/// Fields 12 and 13: seconds until the next attempt (negative when due), or since the hand-out.
fn state(row: &Row, now: Timestamp) -> String {
    if row.state == State::Inflight {
        return format!("inflight|{}", now.since(row.at));
    }
    let until = i128::from(row.at.0) - i128::from(now.0);
    format!("pending|{until}")
}

/// vis(3): control characters in backslash-caret style.
fn vis(out: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\0'..='\x1f' => {
                let letter = char::from(c as u8 + b'@');
                // Writing to a String cannot fail.
                let _ = write!(out, "\\^{letter}");
            }
            '\x7f' => out.push_str("\\^?"),
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_become_visible() {
        // smtpctl(8), The queue listing: the last error is encoded as by vis(3).
        let mut out = String::new();
        vis(&mut out, "a\tb\x1b\\c\x7f|d");
        assert_eq!(out, "a\\^Ib\\^[\\\\c\\^?|d");
    }
}
