//! When two destinations of a message are one: when nothing that the delivery sees tells them
//! apart.
//!
//! A program sees every address in its environment. A plain mailbox is one mailbox, by whatever
//! address the mail has come to it; a maildir is the one that its path says.

use crate::config::specifier::{Values, expand_path};
use crate::config::{Action, Delivery, LmtpDest, LocalAction, Method};
use crate::mail::{Command, Kind, Local, MailAddr};

/// What the addresses of a message are.
pub struct Addresses<'a> {
    /// The reverse-path.
    pub sender: &'a MailAddr,
    /// The recipient as RCPT TO gave it.
    pub rcpt: &'a MailAddr,
    /// The recipient after expansion.
    pub dest: &'a MailAddr,
    /// What starts a sub-address.
    pub delimiter: char,
}

/// Equal texts for destinations of one message that are one.
pub fn of(action: &Action, kind: &Kind, addresses: &Addresses<'_>) -> String {
    let parts = match (&action.method, kind) {
        (Method::Local(method), Kind::Local(to)) => local(method, to, addresses),
        (Method::Relay(relay), _) => {
            let mut parts = vec![action.name.to_string(), address(addresses.dest)];
            // The rewritten sender has the domain of the recipient.
            if relay.srs && addresses.rcpt != addresses.dest {
                parts.push(addresses.rcpt.domain().to_ascii_lowercase());
            }
            parts
        }
        _ => vec![action.name.to_string(), format!("{kind:?}")],
    };
    // No part has a NUL in it.
    parts.join("\0")
}

fn local(method: &LocalAction, to: &Local, addresses: &Addresses<'_>) -> Vec<String> {
    let mut parts = vec![
        to.user.to_string(),
        format!("{:?} {:?}", method.user, method.userbase),
    ];
    let seen = match method.wrapper {
        None => without_program(method, to, addresses),
        Some(_) => None,
    };
    parts.extend(seen.unwrap_or_else(|| {
        vec![
            format!("{:?} {:?}", method.delivery, method.wrapper),
            format!("{to:?}"),
            addresses.rcpt.stored(),
            addresses.dest.stored(),
        ]
    }));
    parts
}

/// What a delivery by our own hands depends on; `None` if a program is run.
fn without_program(
    method: &LocalAction,
    to: &Local,
    addresses: &Addresses<'_>,
) -> Option<Vec<String>> {
    Some(match (&to.command, &method.delivery) {
        (Some(Command::File(path)), _) => vec!["file".to_owned(), path.to_string()],
        (None, Delivery::Mbox) => vec!["mbox".to_owned()],
        (None, Delivery::Maildir { path, junk }) => {
            let root = match path {
                Some(path) => {
                    let values = Values {
                        sender: addresses.sender,
                        rcpt: addresses.rcpt,
                        dest: addresses.dest,
                        username: &to.user,
                        // The same for both, as the user is.
                        directory: "~",
                        delimiter: addresses.delimiter,
                    };
                    expand_path(path, &values).ok()?.display().to_string()
                }
                None => String::new(),
            };
            vec![
                format!("maildir {junk}"),
                root,
                format!("{:?}", to.subaddress),
            ]
        }
        (None, Delivery::Lmtp { dest, rcpt_to }) if !LmtpDest::varies(dest) => {
            let recipient = rcpt_to.then(|| address(addresses.dest));
            vec![format!("lmtp {dest}"), recipient.unwrap_or_default()]
        }
        _ => return None,
    })
}

/// RFC 5321 §2.4: the case of a domain means nothing, that of a local part may.
fn address(address: &MailAddr) -> String {
    format!(
        "{}@{}",
        address.user(),
        address.domain().to_ascii_lowercase()
    )
}
