//! The daemon's half of the control socket, as far as it is pure: who may ask what.
//!
//! The event loop owns the sockets; it reads a frame with [`super::message::frame_length`] and
//! [`decode_ask`](super::message::decode_ask), asks [`permitted`], and writes
//! what [`encode_answer`] makes. A frame that does not decode costs the caller its connection
//! ([`farewell`] first), never more.

use super::message::{Answer, Ask, BadFrame, encode_answer};

/// Whether a caller with this effective uid may ask this. `own_uid` is the user who started the
/// instance (0 for the system's daemon, whatever its engine runs as).
pub fn permitted(ask: &Ask, caller_uid: u32, own_uid: u32) -> bool {
    matches!(ask, Ask::Submit) || caller_uid == 0 || caller_uid == own_uid
}

/// What to say before closing the connection of a caller whose frame was bad. An old client
/// learns from the version in it that the two do not match.
pub fn farewell(bad: BadFrame) -> Vec<u8> {
    let mut frame = Vec::new();
    encode_answer(&Answer::Fail(bad.to_string()), &mut frame);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::message::{Change, Listing, Subsystem, TraceOf, Which};

    #[test]
    fn anybody_may_submit_and_only_root_or_the_owner_may_do_more() {
        // smtpctl(8): everything but submission needs root; an instance of an ordinary user obeys
        // that user too.
        let privileged = [
            Ask::Schedule(Which::All),
            Ask::Remove(Which::All),
            Ask::Suspend(Which::All),
            Ask::Resume(Which::All),
            Ask::Discover(Which::All),
            Ask::Pause(Subsystem::Smtp, true),
            Ask::Verbose(true),
            Ask::List {
                after: None,
                only: None,
            },
            Ask::Stats,
            Ask::Status,
            Ask::UpdateTable("aliases".to_owned()),
            Ask::Relaying(Listing::Routes, 0),
            Ask::ResumeRoute(1),
            Ask::Reload,
            Ask::Requeue(Vec::new(), Change::default()),
            Ask::Explain(Box::default()),
            Ask::Trace("rules".to_owned(), true),
            Ask::TraceOf("smtp".to_owned(), TraceOf::From("10/8".to_owned())),
            Ask::Profile("queue".to_owned(), true),
        ];
        for ask in privileged {
            assert!(permitted(&ask, 0, 0));
            assert!(permitted(&ask, 0, 1000));
            assert!(permitted(&ask, 1000, 1000));
            assert!(!permitted(&ask, 1001, 1000), "{ask:?}");
            assert!(!permitted(&ask, 1000, 0), "{ask:?}");
        }
        assert!(permitted(&Ask::Submit, 1001, 1000));
        assert!(permitted(&Ask::Submit, 1001, 0));
    }
}
