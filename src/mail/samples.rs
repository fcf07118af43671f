//! An envelope as tests want one; they change what they are about. The tests outside the crate
//! include this file, too.

use smtpd::mail::{Dsn, Envelope, EvpId, Flags, Kind, Local, MailAddr, Past, Peer};
use smtpd::util::{Line, Timestamp};

/// `text`, which is one line.
pub(crate) fn line(text: &str) -> Line {
    Line::new(text).unwrap()
}

/// An envelope from `alice@example.net` to the local user `user`, by the action `local`. Its id
/// only has to be one.
pub(crate) fn envelope(user: &str) -> Envelope {
    let rcpt = MailAddr::new(user, "example.org").unwrap();
    Envelope {
        id: EvpId::from_u64(0x0000_0001_0000_0001).unwrap(),
        action: line("local"),
        tag: None,
        kind: Kind::Local(Local {
            user: line(user),
            subaddress: None,
            command: None,
        }),
        smtpname: line("mx.example.org"),
        helo: line("client.example.net"),
        hostname: line("client.example.net"),
        username: None,
        errorline: None,
        peer: Peer::Local,
        sender: MailAddr::new("alice", "example.net").unwrap(),
        dest: rcpt.clone(),
        rcpt,
        created: Timestamp(1_700_000_000),
        last_try: Timestamp(0),
        last_bounce: Timestamp(0),
        ttl_s: 0,
        retry: 0,
        flags: Flags::default(),
        dsn: Dsn::default(),
        status: None,
        past: Past::default(),
    }
}
