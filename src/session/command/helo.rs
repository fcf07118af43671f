//! HELO and EHLO (RFC 5321 §4.1.1.1).

use crate::session::Session;
use crate::session::event::Event;
use crate::session::state::{Greeting, State};
use crate::smtp::{Reply, domain_name};
use crate::transaction::Protocol;
use crate::util::Line;

impl Session {
    pub(super) fn check_helo(&self, argument: Option<&[u8]>) -> Result<(), Reply> {
        let missing = "5.5.1 Invalid command: HELO requires domain name";
        let argument = argument.ok_or_else(|| Reply::new(501, missing))?;
        name(argument).map(drop)
    }

    pub(super) fn check_ehlo(&self, argument: Option<&[u8]>) -> Result<(), Reply> {
        let missing = "5.5.1 Invalid command: EHLO requires domain name";
        let argument = argument.ok_or_else(|| Reply::new(501, missing))?;
        name(argument).map(drop)
    }

    pub(super) fn proceed_helo(&mut self, line: &[u8], argument: Option<&[u8]>, out: &mut Vec<u8>) {
        let greeted = self.greet(Protocol::Smtp, argument);
        let reply = greeted.map(|hello| Reply::echo(250, &hello));
        self.answer_greeting(line, reply, out);
    }

    pub(super) fn proceed_ehlo(&mut self, line: &[u8], argument: Option<&[u8]>, out: &mut Vec<u8>) {
        let greeted = self.greet(Protocol::Esmtp, argument);
        let reply = greeted.map(|hello| {
            let mut lines = vec![hello];
            lines.extend(self.extensions());
            Reply::lines(250, lines)
        });
        self.answer_greeting(line, reply, out);
    }

    fn answer_greeting(&mut self, line: &[u8], reply: Result<Reply, Reply>, out: &mut Vec<u8>) {
        if reply.is_ok() {
            self.tell(&Event::Identified);
        }
        self.conclude(line, reply.unwrap_or_else(|refusal| refusal), out);
    }

    /// RFC 5321 §4.1.4: a later greeting has the effect of RSET, if it is a good one.
    fn greet(&mut self, protocol: Protocol, argument: Option<&[u8]>) -> Result<String, Reply> {
        let name = name(argument.unwrap_or_default())?;
        let hello = format!(
            "{} Hello {name} {}, pleased to meet you",
            self.server_name(),
            self.peer.bracketed(),
        );
        self.end_transaction();
        self.greeting = Some(Greeting { protocol, name });
        self.state = State::Identified;
        Ok(hello)
    }

    fn extensions(&self) -> Vec<String> {
        let listening = &self.listening;
        let size = format!("SIZE {}", listening.limits.max_message_size);
        let dsn = (!listening.no_dsn).then_some("DSN");
        let starttls = self.offers_tls().then_some("STARTTLS");
        let auth = self.offers_auth().then_some("AUTH PLAIN LOGIN");
        ["8BITMIME", "ENHANCEDSTATUSCODES", &size]
            .into_iter()
            .chain(dsn)
            .chain(starttls)
            .chain(auth)
            .chain(["PIPELINING", "HELP"])
            .map(str::to_string)
            .collect()
    }
}

fn name(argument: &[u8]) -> Result<Line, Reply> {
    let text = "5.5.4 Invalid command arguments: Invalid domain name";
    domain_name::parse(argument)
        .and_then(|name| Line::new(name).ok())
        .ok_or_else(|| Reply::new(501, text))
}
