//! Lines of SMTP sessions (`smtp …`).
//!
//! What a stranger sent is escaped as vis(3) does, and `"` with a backslash, so that no client can
//! end a field or a line and write one of its own.

use crate::mail::{EvpId, MailAddr, MsgId, Peer, SessionId};
use crate::util::vis::{self, Style};

/// A client has connected and its name is known, or it has none.
pub fn smtp_connected(session: SessionId, peer: &Peer, rdns: Option<&str>) {
    let host = rdns.unwrap_or("<unknown>");
    crate::log::info(format_args!(
        "{session} smtp connected address={peer} host={host}"
    ));
}

/// A command got a reply of class 4 or 5.
pub fn smtp_failed_command(session: SessionId, peer: &Peer, command: &[u8], reply: &str) {
    let line = failed_command(session, peer, command, reply);
    crate::log::info(format_args!("{line}"));
}

/// Input broke a limit of the protocol.
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

/// The address is last, behind the fields that scripts know by place.
fn failed_command(session: SessionId, peer: &Peer, command: &[u8], reply: &str) -> String {
    let (command, result) = (visible(command), visible(reply.as_bytes()));
    format!(
        "{session} smtp failed-command command=\"{command}\" result=\"{result}\" address={peer}"
    )
}

/// Bytes as vis(3) with VIS_CSTYLE prints them, but for `"`, which gets a backslash, and tabs, which
/// stay.
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
