//! The report to a writer whose stored message the daemon does not take for some recipients: the
//! one that the daemon would have sent.

use std::io::BufRead;

use crate::bounce::{excerpt, report};
use crate::client::reply::Parser;
use crate::mail::{
    BounceKind, Dsn, Envelope, EvpId, Flags, Kind, MailAddr, Notify, Past, Peer, Ret, Status,
};
use crate::sys::localtime::rfc5322_date;
use crate::sys::random;
use crate::util::{Line, Timestamp};

use super::submit::Letter;

/// Whether the writer wants to hear of recipients who are refused (RFC 3461 §4.1).
pub fn is_wanted(letter: &Letter) -> bool {
    match &letter.notify {
        None => true,
        Some(words) => words
            .split(|byte| *byte == b',')
            .any(|word| word.eq_ignore_ascii_case(b"failure")),
    }
}

/// The report, with LF line ends. It returns all of a message that is not too long, because nobody
/// else may have it, unless the writer wants its header alone.
pub fn compose(
    letter: &Letter,
    refused: &[(usize, String)],
    message: impl BufRead,
    (server, now): (&Line, Timestamp),
) -> Vec<u8> {
    let hdrs = letter
        .ret
        .as_deref()
        .is_some_and(|ret| ret.eq_ignore_ascii_case(b"hdrs"));
    let original = excerpt(message, !hdrs).ok();
    let id = loop {
        if let Some(id) = EvpId::from_u64(random::number_u64()) {
            break id;
        }
    };
    let envelope = |(at, reply): &(usize, String)| Envelope {
        id,
        action: Line::default(),
        tag: None,
        kind: Kind::Bounce(BounceKind::Failed),
        smtpname: server.clone(),
        helo: server.clone(),
        hostname: server.clone(),
        username: None,
        errorline: Some(Line::sanitize(reply.as_bytes())),
        peer: Peer::Local,
        sender: address(&letter.sender),
        rcpt: letter
            .recipients
            .get(*at)
            .map(|rcpt| address(rcpt))
            .unwrap_or_default(),
        dest: MailAddr::null(),
        created: now,
        last_try: now,
        last_bounce: Timestamp(0),
        ttl_s: 0,
        retry: 0,
        flags: Flags::default(),
        dsn: Dsn {
            notify: Notify(Notify::FAILURE),
            ret: Some(if hdrs { Ret::Hdrs } else { Ret::Full }),
            envid: letter.envid.as_ref().map(|envid| Line::sanitize(envid)),
            orcpt: None,
        },
        status: status(reply),
        past: Past::default(),
    };
    let envelopes: Vec<Envelope> = refused.iter().map(envelope).collect();
    let date = |time: Timestamp| rfc5322_date(time.0);
    report::compose(&envelopes, original.as_ref(), now, date)
}

/// What is no address of ours to judge is shown as it is.
fn address(text: &[u8]) -> MailAddr {
    let text = Line::sanitize(text);
    MailAddr::from_stored(&text)
        .or_else(|| MailAddr::new(&text, "").ok())
        .unwrap_or_default()
}

fn status(reply: &str) -> Option<Status> {
    let mut parser = Parser::default();
    parser.push(reply.as_bytes());
    parser.push(b"\r\n");
    parser.reply().ok().flatten()?.status()
}
