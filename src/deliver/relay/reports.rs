//! What happens in sessions with other hosts, told to the programs of their action's filters
//! (smtpd-filters(7), reports of smtp-out).
//!
//! Programs hear, and decide nothing. What one does not read is kept for it up to a bound, at which
//! it is ended: no session ever waits for a program.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::client::{Class, Event, Login};
use crate::dns::{Confirmed, Reverse};
use crate::filter::{Chain, Event as Of, Lives, Subsystem};
use crate::mail::peer::UNKNOWN_NAME;
use crate::mail::{Peer, SessionId};
use crate::util::{Line, vis};

/// Tells of one connection: it was made when this is, and is closed when this is dropped.
pub struct Reports {
    chain: Arc<Chain>,
    lives: Lives,
    session: SessionId,
}

impl Reports {
    /// A connection was made.
    pub fn of(
        chain: Arc<Chain>,
        session: SessionId,
        name: Option<&Reverse>,
        from: Option<SocketAddr>,
        to: SocketAddr,
    ) -> Reports {
        let reports = Reports {
            lives: chain.meet(),
            chain,
            session,
        };
        let rdns = name.and_then(|name| name.name.as_ref());
        let rdns = rdns.map_or(UNKNOWN_NAME, Line::as_str);
        let confirmed = name.map_or(Confirmed::Error, |name| name.confirmed);
        let from = from.map_or_else(|| "0.0.0.0:0".to_owned(), Peer::endpoint);
        let to = Peer::endpoint(to);
        reports.tell(
            Of::LinkConnect,
            &format!("{rdns}|{}|{from}|{to}", confirmed.word()),
        );
        reports
    }

    /// Something has happened.
    pub fn hear(&self, event: &Event) {
        match event {
            Event::Client(line) => self.tell(Of::ProtocolClient, line),
            Event::Server(reply) => {
                for line in reply.whole_lines() {
                    self.tell(Of::ProtocolServer, &line);
                }
            }
            Event::Greeted(name) => self.tell(Of::LinkGreeting, name),
            Event::Identified(method, name) => {
                self.tell(Of::LinkIdentify, &format!("{method}|{name}"));
            }
            Event::Secured(ciphers) => self.tell(Of::LinkTls, ciphers),
            Event::Login(user, login) => {
                let result = match login {
                    Login::Accepted => "pass",
                    Login::Refused => "fail",
                };
                let user = vis::word(user.as_bytes());
                self.tell(Of::LinkAuth, &format!("{result}|{user}"));
            }
            Event::Begin(msgid, sender) => {
                self.tell(Of::TxBegin, &msgid.to_string());
                self.tell(Of::TxMail, &format!("{msgid}|ok|{sender}"));
            }
            Event::Envelope(id) => self.tell(Of::TxEnvelope, &format!("{}|{id}", id.msgid())),
            Event::Rcpt(msgid, to, class) => {
                self.tell(Of::TxRcpt, &format!("{msgid}|{}|{to}", result(*class)));
            }
            Event::Data(msgid, class) => {
                self.tell(Of::TxData, &format!("{msgid}|{}", result(*class)));
            }
            Event::Commit(msgid, size) => {
                self.tell(Of::TxCommit, &format!("{msgid}|{size}"));
                self.tell(Of::TxReset, &msgid.to_string());
            }
            Event::Rollback(msgid) => {
                self.tell(Of::TxRollback, &msgid.to_string());
                self.tell(Of::TxReset, &msgid.to_string());
            }
            Event::Timeout => self.report(Of::Timeout, None),
        }
    }

    fn tell(&self, event: Of, parameters: &str) {
        self.report(event, Some(parameters.as_bytes()));
    }

    fn report(&self, event: Of, parameters: Option<&[u8]>) {
        let out = Subsystem::Out;
        self.chain
            .report(&self.lives, out, event, self.session, parameters);
    }
}

impl Drop for Reports {
    fn drop(&mut self) {
        self.report(Of::LinkDisconnect, None);
    }
}

fn result(class: Class) -> &'static str {
    match class {
        Class::Done | Class::GoOn => "ok",
        Class::NotNow => "tempfail",
        Class::Never => "permfail",
    }
}
