//! The commands of a transaction, with the parameters that the server has extensions for.

use crate::mail::{MailAddr, Ret};

use crate::client::extensions::Extensions;
use crate::client::order::{Message, Recipient};

pub(super) fn mail(
    message: &Message<'_>,
    recipients: &[Recipient],
    extensions: &Extensions,
) -> String {
    let mut line = format!("MAIL FROM:<{}>", path(&message.sender));
    if let (Some(_), Some(size)) = (extensions.size, message.size_bytes) {
        line.push_str(&format!(" SIZE={size}"));
    }
    // RFC 6152 §2: for content that needs it; some servers hand on, or refuse, what is declared so.
    // A server that does not offer it is sent such bytes as they are, as everybody does.
    if extensions.eight_bit && message.eight_bit {
        line.push_str(" BODY=8BITMIME");
    }
    let ascii = message.sender.to_string().is_ascii() && recipients.iter().all(|r| r.to.is_ascii());
    if extensions.utf8 && !ascii {
        line.push_str(" SMTPUTF8");
    }
    if extensions.dsn {
        match message.ret {
            Some(Ret::Full) => line.push_str(" RET=FULL"),
            Some(Ret::Hdrs) => line.push_str(" RET=HDRS"),
            None => {}
        }
        parameter(&mut line, "ENVID", message.envid.as_deref());
    }
    line
}

/// A reverse-path. Without a domain, which LMTP may see, it is the user alone.
pub(super) fn path(sender: &MailAddr) -> String {
    if sender.domain().is_empty() {
        sender.user().to_owned()
    } else {
        sender.to_string()
    }
}

pub(super) fn rcpt(recipient: &Recipient, extensions: &Extensions) -> String {
    let mut line = format!("RCPT TO:<{}>", recipient.to);
    if extensions.dsn {
        let notify = recipient.notify.to_string();
        parameter(
            &mut line,
            "NOTIFY",
            Some(&notify).filter(|n| !n.is_empty()).map(String::as_str),
        );
        parameter(&mut line, "ORCPT", recipient.orcpt.as_deref());
    }
    line
}

/// Appends a parameter whose value can be one (RFC 5321 §4.1.2, esmtp-value).
fn parameter(line: &mut String, name: &str, value: Option<&str>) {
    if let Some(value) = value
        && !value.is_empty()
        && value.bytes().all(|byte| byte.is_ascii_graphic())
    {
        line.push_str(&format!(" {name}={value}"));
    }
}

/// Whether `text` can stand between `<` and `>` without ending the path or the command early.
pub(super) fn is_path(text: &str) -> bool {
    let (mut quoted, mut escaped) = (false, false);
    text.chars().all(|c| {
        let fits = match c {
            _ if c.is_control() => false,
            _ if escaped => true,
            '<' | '>' | ' ' => quoted,
            _ => true,
        };
        (quoted, escaped) = match c {
            _ if escaped => (quoted, false),
            '\\' => (quoted, quoted),
            '"' => (!quoted, false),
            _ => (quoted, false),
        };
        fits
    }) && !quoted
}
