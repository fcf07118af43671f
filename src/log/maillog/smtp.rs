//! Lines of SMTP sessions (`smtp …`).
//!
//! What a stranger sent is escaped as vis(3) does, and `"` with a backslash, so that no client can
//! end a field or a line and write one of its own.

use std::fmt;

use crate::mail::peer::UNKNOWN_NAME;
use crate::mail::{EvpId, MailAddr, MsgId, Peer, Refusal, SessionId};
use crate::util::vis::{self, Style};

/// A client has connected; its reverse name has been looked up.
pub fn smtp_connected(session: SessionId, peer: &Peer, rdns: Option<&str>) {
    let host = rdns.unwrap_or(UNKNOWN_NAME);
    crate::log::info(format_args!(
        "{session} smtp connected address={peer} host={host}"
    ));
}

/// A command got a reply of class 4 or 5.
pub fn smtp_failed_command(session: SessionId, peer: &Peer, command: &[u8], reply: &str) {
    let line = failed_command(session, peer, command, reply);
    crate::log::info(format_args!("{line}"));
}

/// A recipient is refused by the rules or by what they lead to; nothing if nobody knows why.
pub fn smtp_reject(session: SessionId, rcpt: &MailAddr, refusal: &Refusal) {
    if refusal.reason.is_some() || refusal.rule.is_some() {
        let line = reject(session, rcpt, refusal);
        crate::log::info(format_args!("{line}"));
    }
}

/// How many lines were left out because this client caused too many of their kind.
pub fn smtp_summed_up(session: SessionId, peer: &Peer, failed_commands: u16, rejections: u16) {
    crate::log::info(format_args!(
        "{session} smtp summed-up failed-command={failed_commands} reject={rejections} address={peer}"
    ));
}

/// Something of ours fails in a session.
pub fn smtp_trouble(session: SessionId, what: &dyn fmt::Display) {
    crate::log::warn(format_args!("smtp-in: session {session}: {what}"));
}

/// A message is not taken for want of space, of which the queue has told.
pub fn smtp_shortage(session: SessionId, what: &dyn fmt::Display) {
    crate::log::debug(format_args!("smtp-in: session {session}: {what}"));
}

/// Somebody has connected who will say who its client is.
pub fn smtp_proxy(session: SessionId, proxy: &Peer) {
    crate::log::info(format_args!("{session} smtp event=proxy address={proxy}"));
}

/// A proxy has not said who its client is, or the client may not come in.
pub fn smtp_proxy_closed(session: SessionId, peer: &Peer, reason: &str) {
    let reason = visible(reason.as_bytes());
    crate::log::info(format_args!(
        "{session} proxy event=closed address={peer} reason=\"{reason}\""
    ));
}

/// Somebody has connected who may not say who its client is.
pub fn smtp_proxy_refused(peer: &Peer, reason: &str) {
    crate::log::info(format_args!(
        "proxy event=refused address={peer} reason=\"{reason}\""
    ));
}

/// A client has agreed with us upon TLS: `version:cipher:bits`.
pub fn smtp_tls(session: SessionId, ciphers: &str) {
    crate::log::info(format_args!("{session} smtp tls ciphers={ciphers}"));
}

/// A client has shown a certificate, which is a valid one.
pub fn smtp_cert_check(session: SessionId, fingerprint: &str) {
    crate::log::info(format_args!(
        "{session} smtp cert-check result=\"verified\" fingerprint=\"{fingerprint}\""
    ));
}

/// A client has tried to log in: `ok`, `permfail` or `tempfail`.
pub fn smtp_authentication(session: SessionId, user: &str, result: &str, peer: &Peer) {
    let user = vis::word(user.as_bytes());
    crate::log::info(format_args!(
        "{session} smtp authentication user={user} result={result} address={peer}"
    ));
}

/// Input that no client sends has ended the session.
pub fn smtp_bad_input(session: SessionId, reply: &str) {
    crate::log::info(format_args!(
        "{session} smtp bad-input result=\"{}\"",
        visible(reply.as_bytes())
    ));
}

/// A message is in the queue.
pub fn smtp_message(session: SessionId, msgid: MsgId, size: u64, nrcpt: usize, proto: &str) {
    crate::log::info(format_args!(
        "{session} smtp message msgid={msgid} size={size} nrcpt={nrcpt} proto={proto}"
    ));
}

/// One recipient of a message in the queue.
pub fn smtp_envelope(session: SessionId, evpid: EvpId, from: &MailAddr, to: &MailAddr) {
    crate::log::info(format_args!(
        "{session} smtp envelope evpid={evpid} from=<{from}> to=<{to}>"
    ));
}

/// A session is over: `quit`, `disconnect` or `timeout`.
pub fn smtp_disconnected(session: SessionId, reason: &str) {
    crate::log::info(format_args!("{session} smtp disconnected reason={reason}"));
}

/// A session is over because its socket failed.
pub fn smtp_io_error(session: SessionId, error: &str) {
    let error = visible(error.as_bytes());
    crate::log::info(format_args!(
        "{session} smtp disconnected reason=\"io-error: {error}\""
    ));
}

/// File and line of the rule, `none` if no rule has decided; a blank in a file's name is `\040`.
fn reject(session: SessionId, rcpt: &MailAddr, refusal: &Refusal) -> String {
    let rule = refusal.rule.as_deref().unwrap_or("none");
    let rule = visible(rule.as_bytes()).replace(' ', "\\040");
    let reason = refusal.reason.as_deref().unwrap_or_default();
    let (rcpt, reason) = (
        visible(rcpt.to_string().as_bytes()),
        visible(reason.as_bytes()),
    );
    format!("{session} smtp reject rcpt=<{rcpt}> rule={rule} reason=\"{reason}\"")
}

/// The address is last, behind the fields that scripts know by place.
fn failed_command(session: SessionId, peer: &Peer, command: &[u8], reply: &str) -> String {
    let (command, result) = (visible(command), visible(reply.as_bytes()));
    format!(
        "{session} smtp failed-command command=\"{command}\" result=\"{result}\" address={peer}"
    )
}

/// Bytes as vis(3) with VIS_CSTYLE prints them, but for `"`, which gets a backslash, and tabs,
/// which stay.
fn visible(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for &byte in bytes {
        match byte {
            b'"' => text.push_str("\\\""),
            b'\t' => text.push('\t'),
            _ => vis::push(&mut text, byte, Style::C),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_command_is_one_line_whose_fields_nobody_can_forge() {
        let command = b"HELO x\" result=\"250 ok\"\n\x1b[2J\\\xe9\xa0\x80\xff\0\r";
        let line = failed_command(SessionId(1), &Peer::Local, command, "501 say \"x\"");
        assert_eq!(
            line,
            "0000000000000001 smtp failed-command \
             command=\"HELO x\\\" result=\\\"250 ok\\\"\\n\\^[[2J\\\\\\M-i\\240\\M^@\\M^?\\000\\r\" \
             result=\"501 say \\\"x\\\"\" address=local"
        );
    }

    #[test]
    fn a_rejection_names_the_rule_and_nobody_forges_a_field_of_it() {
        let rcpt = MailAddr::new("x\" rule=y", "e.org").unwrap();
        let refusal = Refusal::new(550, "Invalid recipient").because("table \"t\" said no");
        let place = crate::util::Line::new("/etc/my mail/smtpd.conf:12").unwrap();
        let by_rule = Refusal {
            rule: Some(place),
            ..refusal.clone()
        };
        assert_eq!(
            reject(SessionId(1), &rcpt, &by_rule),
            "0000000000000001 smtp reject rcpt=<x\\\" rule=y@e.org> \
             rule=/etc/my\\040mail/smtpd.conf:12 reason=\"table \\\"t\\\" said no\""
        );
        assert!(reject(SessionId(1), &rcpt, &refusal).contains("> rule=none reason="));
    }

    #[test]
    fn every_byte_is_printed_as_printable_ascii_or_tab() {
        let all: Vec<u8> = (0..=255).collect();
        assert!(
            visible(&all)
                .bytes()
                .all(|b| b == b'\t' || (b' '..=b'~').contains(&b))
        );
        assert_eq!(visible(b"RCPT TO:<a@b>\tx"), "RCPT TO:<a@b>\tx");
    }
}
