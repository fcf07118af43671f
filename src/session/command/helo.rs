//! HELO and EHLO (RFC 5321 §4.1.1.1), and the extensions that are not offered yet.

use crate::mail::Peer;
use crate::session::Session;
use crate::session::state::{Greeting, State};
use crate::smtp::{Reply, domain_name};
use crate::transaction::Protocol;
use crate::util::Line;

use super::not_allowed;

impl Session {
    pub(super) fn helo(&mut self, argument: Option<&[u8]>) -> Reply {
        match self.greet(Protocol::Smtp, argument) {
            Ok(hello) => Reply::echo(250, &hello),
            Err(refusal) => refusal,
        }
    }

    pub(super) fn ehlo(&mut self, argument: Option<&[u8]>) -> Reply {
        match self.greet(Protocol::Esmtp, argument) {
            Ok(hello) => {
                let mut lines = vec![hello];
                lines.extend(self.extensions());
                Reply::lines(250, lines)
            }
            Err(refusal) => refusal,
        }
    }

    /// RFC 5321 §4.1.4: a later greeting has the effect of RSET, if it is a good one.
    fn greet(&mut self, protocol: Protocol, argument: Option<&[u8]>) -> Result<String, Reply> {
        let argument = argument.ok_or_else(|| match protocol {
            Protocol::Smtp => Reply::new(501, "5.5.1 Invalid command: HELO requires domain name"),
            Protocol::Esmtp => Reply::new(501, "5.5.1 Invalid command: EHLO requires domain name"),
        })?;
        let name = domain_name::parse(argument).and_then(|name| Line::new(name).ok());
        let text = "5.5.4 Invalid command arguments: Invalid domain name";
        let name = name.ok_or_else(|| Reply::new(501, text))?;
        let hello = format!(
            "{} Hello {name} {}, pleased to meet you",
            self.server_name(),
            bracketed(&self.peer),
        );
        self.greeting = Some(Greeting { protocol, name });
        self.state = State::Identified;
        Ok(hello)
    }

    fn extensions(&self) -> Vec<String> {
        let listening = &self.listening;
        let size = format!("SIZE {}", listening.limits.max_message_size);
        let dsn = (!listening.no_dsn).then_some("DSN");
        ["8BITMIME", "ENHANCEDSTATUSCODES", &size]
            .into_iter()
            .chain(dsn)
            .chain(["PIPELINING", "HELP"])
            .map(str::to_string)
            .collect()
    }

    /// No listener has TLS yet.
    pub(super) fn starttls(&self) -> Reply {
        match self.is_between_transactions() {
            true => Reply::new(503, "5.5.1 Invalid command: Command not supported"),
            false => not_allowed(),
        }
    }

    /// No listener has AUTH yet; who comes over the socket needs none.
    pub(super) fn auth(&self) -> Reply {
        if !self.is_between_transactions() {
            return not_allowed();
        }
        match self.is_authenticated() {
            true => Reply::new(503, "5.5.1 Invalid command: Already authenticated"),
            false => Reply::new(503, "5.5.1 Invalid command: Command not supported"),
        }
    }
}

/// `[192.0.2.1]`, `[2001:db8::1]`, `[local]`.
fn bracketed(peer: &Peer) -> String {
    let text = peer.to_string();
    match text.starts_with('[') {
        true => text,
        false => format!("[{text}]"),
    }
}
