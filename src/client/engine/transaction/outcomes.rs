//! What the replies of a server mean for a recipient.

use crate::client::reply::{Class, Reply};
use crate::mail::{Outcome, Remote, Status, Verdict};
use crate::util::Line;

pub(super) fn too_many_refused() -> Outcome {
    let text = Line::sanitize(b"Too many consecutive errors, closing connection");
    Outcome::temp(Status::new(4, 5, 3), text)
}

/// The outcome that a reply to the end of the message is.
pub(super) fn outcome(reply: &Reply, remote: &Remote) -> Outcome {
    match is_taken(reply) {
        true => Outcome {
            verdict: Verdict::Delivered,
            status: reply.status().unwrap_or(Status::new(2, 0, 0)),
            text: reply.text().clone(),
            remote: None,
        }
        .by(remote.clone()),
        false => failed(reply, remote),
    }
}

/// Whether a reply to the end of a message says that it is the server's now. 221 is what a server
/// says before it closes (RFC 5321 §4.2.2), whatever it closes on.
pub(super) fn is_taken(reply: &Reply) -> bool {
    reply.class() == Class::Done && reply.code() != 221
}

/// The outcome of a command that was not accepted: class 5 is for good, all else is temporary.
pub(super) fn failed(reply: &Reply, remote: &Remote) -> Outcome {
    let text = reply.text().clone();
    let failure = match (reply.class(), reply.status()) {
        (Class::Never, status) => Outcome::perm(status.unwrap_or(Status::new(5, 0, 0)), text),
        (Class::NotNow, Some(status)) => Outcome::temp(status, text),
        _ => Outcome::temp(Status::new(4, 0, 0), text),
    };
    failure.by(remote.clone())
}

/// RFC 5321 §4.5.3.1.10: 452, or 552 of old, is "too many recipients" unless the enhanced code says
/// that it is something else.
pub(super) fn is_too_many(reply: &Reply) -> bool {
    let said = |status: Status| (status.subject, status.detail) == (5, 3);
    matches!(reply.code(), 452 | 552) && reply.status().is_none_or(said)
}
