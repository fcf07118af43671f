//! The Received field (RFC 5321 §4.4), byte for byte as log and spam tools know it.

use std::fmt;

use crate::mail::peer::UNKNOWN_NAME;
use crate::mail::{Facts, MailAddr, MsgId};
use crate::util::{Line, vis};

use super::{Protocol, ShownUser, Source, TlsFacts};

/// Prints the field with its line ends.
pub struct Received<'a> {
    /// Who sent, and how.
    pub facts: &'a Facts,
    /// The name we announced.
    pub smtpname: &'a Line,
    /// HELO or EHLO.
    pub protocol: Protocol,
    /// Whether the client is named.
    pub source: Source,
    /// TLS with the client.
    pub tls: Option<&'a TlsFacts>,
    /// Whether the user is named.
    pub user: ShownUser,
    /// The message.
    pub msgid: MsgId,
    /// The recipient, if there is just one: more would tell Bcc recipients of each other.
    pub only: Option<&'a MailAddr>,
    pub date: &'a str,
}

impl fmt::Display for Received<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Received: ")?;
        if self.source == Source::Shown {
            let host = self.facts.rdns.as_ref().map_or(UNKNOWN_NAME, Line::as_str);
            let address = self.facts.peer.bracketed();
            write!(f, "from {} ({host} {address})", self.facts.helo)?;
        }
        write!(f, "\n\tby {} (OpenSMTPD) with ", self.smtpname)?;
        self.write_protocol(f)?;
        write!(f, " id {}", self.msgid)?;
        self.write_security(f)?;
        if let Some(rcpt) = self.only {
            write!(f, "\n\tfor <{rcpt}>")?;
        }
        writeln!(f, ";\n\t{}", self.date)
    }
}

impl Received<'_> {
    fn write_security(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(tls) = self.tls else { return Ok(()) };
        let verified = match tls.certificate {
            Some(_) => "YES",
            None => "NO",
        };
        write!(f, " ({}:{verified})", tls.ciphers)?;
        match (self.user, &self.facts.username) {
            (ShownUser::Hidden, _) => Ok(()),
            (ShownUser::Shown, Some(user)) => {
                write!(f, " auth=yes user={}", vis::word(user.as_bytes()))
            }
            (ShownUser::Shown, None) => f.write_str(" auth=no"),
        }
    }

    /// RFC 3848: `S` with TLS, `A` with AUTH.
    fn write_protocol(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.protocol.as_str())?;
        if self.facts.tls {
            f.write_str("S")?;
        }
        if self.facts.authenticated {
            f.write_str("A")?;
        }
        Ok(())
    }
}
