//! Lines of relaying (`… mta …` and `smtp-out: …`).

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use crate::log::{debug, info};
use crate::mail::{Envelope, MailAddr, MsgId, SessionId};
use crate::util::Timestamp;
use crate::util::time::Duration;

/// An address as lines of relaying print it: IPv6 in brackets.
#[derive(Clone, Copy, Debug)]
pub struct Bracketed(pub IpAddr);

impl fmt::Display for Bracketed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(addr) => write!(f, "{addr}"),
            IpAddr::V6(addr) => write!(f, "[{addr}]"),
        }
    }
}

/// A connection to this address is being opened. `ptr` is its reverse name.
pub fn mta_connecting(session: SessionId, scheme: &str, to: SocketAddr, ptr: Option<&str>) {
    info(format_args!("{}", connecting(session, scheme, to, ptr)));
}

/// The connection is up.
pub fn mta_connected(session: SessionId) {
    info(format_args!("{session} mta connected"));
}

/// TLS is up: `version:cipher:bits`.
pub fn mta_tls(session: SessionId, ciphers: &str) {
    info(format_args!("{session} mta tls ciphers={ciphers}"));
}

/// The certificate of the other side: whether it holds for its name, and its fingerprint.
pub fn mta_cert_check(session: SessionId, certificate: Option<(bool, &str)>) {
    info(format_args!("{}", cert_check(session, certificate)));
}

/// There is no TLS on our side.
pub fn mta_tls_failure(session: SessionId) {
    info(format_args!("{session} mta closing reason=tls-failure"));
}

/// A session has ended by our QUIT.
pub fn mta_disconnected(session: SessionId, messages: u32) {
    info(format_args!(
        "{session} mta disconnected reason=quit messages={messages}"
    ));
}

/// A session has ended otherwise, after so many messages.
pub fn mta_error(session: SessionId, messages: u32, text: &str) {
    match messages {
        0 => info(format_args!("{session} mta error reason={text}")),
        1 => info(format_args!(
            "smtp-out: Error on session {session} after 1 message sent: {text}"
        )),
        n => info(format_args!(
            "smtp-out: Error on session {session} after {n} messages sent: {text}"
        )),
    }
}

/// A handshake has failed, and the system's TLS library is tried.
pub fn mta_other_tls(session: SessionId, failure: &dyn fmt::Display) {
    debug(format_args!(
        "smtp-out: session {session}: {failure}; trying the system's TLS library"
    ));
}

/// TLS that nobody requires has failed, and the host is spoken to without it.
pub fn mta_without_tls(session: SessionId, failure: &dyn fmt::Display) {
    info(format_args!(
        "smtp-out: Error on session {session}: opportunistic TLS failed, \
         downgrading to plain: {failure}"
    ));
}

/// Ten messages in a row were refused.
pub fn mta_rejects_all(session: SessionId) {
    info(format_args!("{session} mta host-rejects-all-mails"));
}

/// One attempt for one envelope, as [`mta_delivery`] prints it.
pub struct Delivery<'a> {
    /// The session; 0 where there was none.
    pub session: SessionId,
    pub envelope: &'a Envelope,
    /// The sender as used.
    pub sender: &'a MailAddr,
    /// Our end of the connection.
    pub source: Option<IpAddr>,
    /// `ADDRESS (PTR)`, or the destination's name.
    pub relay: &'a str,
    /// `Ok`, `TempFail` or `PermFail`.
    pub result: &'a str,
    /// The reply, or why there was none.
    pub stat: &'a str,
}

/// What came of an attempt.
pub fn mta_delivery(delivery: &Delivery<'_>, now: Timestamp) {
    info(format_args!("{}", mta_delivery_line(delivery, now)));
}

pub(crate) fn mta_delivery_line(delivery: &Delivery<'_>, now: Timestamp) -> String {
    let envelope = delivery.envelope;
    let rcpt = if envelope.rcpt == envelope.dest {
        "-".to_owned()
    } else {
        envelope.rcpt.to_string()
    };
    let source = delivery
        .source
        .map_or_else(|| "-".to_owned(), |addr| Bracketed(addr).to_string());
    format!(
        "{} mta delivery evpid={} from=<{}> to=<{}> rcpt=<{rcpt}> source=\"{source}\" \
         relay=\"{}\" delay={} result=\"{}\" stat=\"{}\"",
        delivery.session,
        envelope.id,
        delivery.sender,
        envelope.dest,
        delivery.relay,
        Duration(now.since(envelope.created)),
        delivery.result,
        delivery.stat,
    )
}

/// Where the time of a delivery went.
pub struct Delays {
    /// Seconds from the message's arrival until this connection was begun or used again: waiting
    /// for its turn, for the next attempt, for names.
    pub queue_s: u64,
    /// Until the host was ready for mail, TLS not included; none for a connection used again.
    pub connect: std::time::Duration,
    /// The TLS handshake.
    pub tls: std::time::Duration,
    /// From MAIL to the last reply.
    pub send: std::time::Duration,
}

/// Where the time went, for all that was just delivered, or not, of one message.
pub fn mta_delays(session: SessionId, msgid: MsgId, delays: &Delays) {
    info(format_args!("{}", delays_line(session, msgid, delays)));
}

fn delays_line(session: SessionId, msgid: MsgId, delays: &Delays) -> String {
    let [connect, tls, send] =
        [delays.connect, delays.tls, delays.send].map(|took| took.as_secs_f64());
    format!(
        "{session} mta delays msgid={msgid} queue={} connect={connect:.3} tls={tls:.3} \
         send={send:.3}",
        delays.queue_s
    )
}

fn connecting(session: SessionId, scheme: &str, to: SocketAddr, ptr: Option<&str>) -> String {
    let host = match ptr {
        Some(name) => name.to_owned(),
        None => to.ip().to_string(),
    };
    format!(
        "{session} mta connecting address={scheme}://{}:{} host={host}",
        Bracketed(to.ip()),
        to.port()
    )
}

/// Without a certificate the line is that of a listener, as it always was.
fn cert_check(session: SessionId, certificate: Option<(bool, &str)>) -> String {
    match certificate {
        Some((valid, fingerprint)) => {
            let result = if valid { "valid" } else { "unverified" };
            format!("{session} mta cert-check result=\"{result}\" fingerprint=\"{fingerprint}\"")
        }
        None => format!("{session} smtp cert-check result=\"no certificate presented\""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::samples;

    #[test]
    fn lines_are_what_log_parsers_read() {
        // smtpd(8): address in brackets for IPv6, rcpt - where it is the destination.
        let to: SocketAddr = "[2001:db8::1]:25".parse().unwrap();
        assert_eq!(
            connecting(SessionId(0x5d0c), "smtp", to, Some("mx.example.com")),
            "0000000000005d0c mta connecting address=smtp://[2001:db8::1]:25 host=mx.example.com"
        );
        assert!(connecting(SessionId(1), "lmtp", to, None).ends_with(":25 host=2001:db8::1"));
        assert_eq!(
            cert_check(SessionId(1), Some((false, "SHA256:00ff"))),
            "0000000000000001 mta cert-check result=\"unverified\" fingerprint=\"SHA256:00ff\""
        );
        assert_eq!(
            cert_check(SessionId(1), None),
            "0000000000000001 smtp cert-check result=\"no certificate presented\""
        );
        let envelope = samples::envelope("bob");
        let mut delivery = Delivery {
            session: SessionId(0),
            envelope: &envelope,
            sender: &envelope.sender,
            source: None,
            relay: "example.org",
            result: "TempFail",
            stat: "Network error on destination MXs",
        };
        assert_eq!(
            mta_delivery_line(&delivery, envelope.created.plus(11)),
            "0000000000000000 mta delivery evpid=0000000100000001 from=<alice@example.net> \
             to=<bob@example.org> rcpt=<-> source=\"-\" relay=\"example.org\" delay=11s \
             result=\"TempFail\" stat=\"Network error on destination MXs\""
        );
        delivery.source = Some("2001:db8::9".parse().unwrap());
        let delays = Delays {
            queue_s: 11,
            connect: std::time::Duration::from_millis(20),
            tls: std::time::Duration::ZERO,
            send: std::time::Duration::from_micros(1_234_567),
        };
        assert_eq!(
            delays_line(SessionId(1), envelope.id.msgid(), &delays),
            "0000000000000001 mta delays msgid=00000001 queue=11 connect=0.020 tls=0.000 send=1.235"
        );
        let line = mta_delivery_line(&delivery, envelope.created);
        assert!(line.contains(" source=\"[2001:db8::9]\" ") && line.contains(" delay=0s "));
    }
}
