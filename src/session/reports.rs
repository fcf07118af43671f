//! What happens in sessions, told to the programs of their filters (smtpd-filters(7), reports).

use crate::auth::Verdict;
use crate::filter::{self, Subsystem};
use crate::mail::Peer;
use crate::mail::peer::UNKNOWN_NAME;
use crate::smtp::Reply;
use crate::transaction::Protocol;
use crate::util::vis;

use super::event::{Event, Observer};
use super::{Disconnect, Session};

/// Tells the programs of a session's filters.
pub struct Reports;

impl Observer for Reports {
    fn hear(&self, session: &Session, event: &Event<'_>) {
        if session.filtering.is_some() {
            session.report(event);
        }
    }
}

impl Session {
    fn report(&self, event: &Event<'_>) {
        use filter::Event as Of;
        let to = |of: Of, text: String| self.report_line(of, Some(text.as_bytes()));
        match event {
            Event::Connected => to(Of::LinkConnect, self.link_connect()),
            Event::Greeted => to(Of::LinkGreeting, self.server_name().to_string()),
            Event::Identified => {
                if let Some(greeting) = &self.greeting {
                    let method = match greeting.protocol {
                        Protocol::Smtp => "HELO",
                        Protocol::Esmtp => "EHLO",
                    };
                    to(Of::LinkIdentify, format!("{method}|{}", greeting.name));
                }
            }
            Event::Command(line) => self.report_line(Of::ProtocolClient, Some(line)),
            Event::Reply(_, reply) => {
                let mut lines = Vec::new();
                reply.write_to(&mut lines);
                for line in lines.split_inclusive(|byte| *byte == b'\n') {
                    self.report_line(Of::ProtocolServer, Some(line.trim_ascii_end()));
                }
            }
            Event::Secured(facts) => to(Of::LinkTls, facts.ciphers.to_string()),
            Event::Login(user, verdict) => {
                let result = match verdict {
                    Verdict::Accepted => "pass",
                    Verdict::Refused => "fail",
                    Verdict::Exhausted(_) | Verdict::Unavailable => "error",
                };
                to(
                    Of::LinkAuth,
                    format!("{result}|{}", vis::word(user.as_bytes())),
                );
            }
            Event::Begin(msgid) => to(Of::TxBegin, msgid.to_string()),
            Event::Mail(msgid, sender, reply) => {
                let raw = self.filtering.as_ref().and_then(|f| f.sender.clone());
                let sender = raw.map_or_else(|| sender.to_string(), |raw| raw.to_string());
                to(Of::TxMail, format!("{msgid}|{}|{sender}", result(reply)));
            }
            Event::Rcpt(msgid, _, reply) | Event::Refused(msgid, reply) => {
                let raw = self.filtering.as_ref().and_then(|f| f.rcpt.clone());
                let rcpt = raw.unwrap_or_default();
                to(Of::TxRcpt, format!("{msgid}|{}|{rcpt}", result(reply)));
            }
            Event::Envelope(evpid) => to(Of::TxEnvelope, format!("{}|{evpid}", evpid.msgid())),
            Event::Data(msgid, reply) => to(Of::TxData, format!("{msgid}|{}", result(reply))),
            Event::Commit(accepted) => {
                let msgid = accepted.committed.msgid();
                to(Of::TxCommit, format!("{msgid}|{}", accepted.size_bytes));
                to(Of::TxReset, msgid.to_string());
            }
            Event::Rollback(msgid) => {
                to(Of::TxRollback, msgid.to_string());
                to(Of::TxReset, msgid.to_string());
            }
            Event::Filtered(phase, outcome) => {
                let response = outcome.response();
                to(
                    Of::FilterResponse,
                    format!("{}|{response}", phase.response_word()),
                );
            }
            Event::FilterReport(kind, name, text) => {
                to(Of::FilterReport, format!("{kind}|{name}|{text}"));
            }
            Event::Timeout => self.report_line(Of::Timeout, None),
            Event::Disconnected(Disconnect::Quit | Disconnect::Hangup)
            | Event::Disconnected(Disconnect::Timeout | Disconnect::IoError(_)) => {
                self.report_line(Of::LinkDisconnect, None);
            }
            Event::BadInput(_) | Event::Rejected(..) => {}
        }
    }

    fn report_line(&self, event: filter::Event, parameters: Option<&[u8]>) {
        if let Some(filtering) = &self.filtering {
            let (chain, lives) = (&filtering.chain, &filtering.lives);
            chain.report(lives, Subsystem::In, event, self.id, parameters);
        }
    }

    fn link_connect(&self) -> String {
        let name = self.rdns().unwrap_or(UNKNOWN_NAME);
        let confirmed = self.fcrdns.word();
        let (src, dest) = match (&self.peer, self.listening.address) {
            (Peer::Inet { .. }, Some(address)) => (
                format!("{}:{}", self.peer, self.port),
                Peer::endpoint(address),
            ),
            (Peer::Inet { .. }, None) => (
                format!("{}:{}", self.peer, self.port),
                "0.0.0.0:25".to_owned(),
            ),
            (Peer::Local, _) => {
                let socket = format!("unix:{}", self.listening.socket.display());
                (socket.clone(), socket)
            }
        };
        format!("{name}|{confirmed}|{src}|{dest}")
    }
}

fn result(reply: &Reply) -> &'static str {
    match reply.code() {
        400..=499 => "tempfail",
        500.. => "permfail",
        _ => "ok",
    }
}
