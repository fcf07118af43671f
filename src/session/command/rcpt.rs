//! RCPT (RFC 5321 §4.1.1.3): judged, expanded and put into the queue while the client waits.

use crate::log::maillog;
use crate::mail::{Expanded, MailAddr, Refusal};
use crate::session::event::Event;
use crate::session::question::{Lookup, Question, Recipient, Waits};
use crate::session::state::State;
use crate::session::{Services, Session};
use crate::smtp::params::{self, BadParam};
use crate::smtp::{Reply, path};
use crate::transaction::{Asked, Transaction};
use crate::util::Line;

use super::not_allowed;

impl Session {
    pub(super) fn check_rcpt(&self, argument: &[u8]) -> Result<(), Reply> {
        let State::Mail(transaction) = &self.state else {
            return Err(not_allowed());
        };
        if transaction.recipients() >= self.listening.limits.max_rcpt {
            return Err(too_many());
        }
        self.recipient_and_params(argument).map(drop)
    }

    pub(super) fn proceed_rcpt(
        &mut self,
        line: &[u8],
        argument: &[u8],
        out: &mut Vec<u8>,
    ) -> Option<Question> {
        let facts = match &self.state {
            State::Mail(transaction) => transaction.facts().clone(),
            _ => return None,
        };
        let (rcpt, asked) = match self.recipient_and_params(argument) {
            Ok(found) => found,
            Err(refusal) => {
                self.conclude(line, refusal, out);
                return None;
            }
        };
        self.waits = Some(Box::new(Waits::Expansion {
            line: line.to_vec(),
            rcpt: rcpt.clone(),
            asked,
        }));
        Some(Question::Lookup(Lookup::Expand(facts, rcpt)))
    }

    /// Goes on now that it is known where the recipient leads.
    pub(in crate::session) fn expanded(
        &mut self,
        line: Vec<u8>,
        rcpt: MailAddr,
        asked: Asked,
        expanded: Result<Expanded, Refusal>,
        out: &mut Vec<u8>,
        services: &dyn Services,
    ) -> Option<Question> {
        let State::Mail(transaction) = &self.state else {
            return None;
        };
        let msgid = transaction.msgid();
        let reply = match expanded {
            Ok(expanded) if transaction.has_room(&expanded.destinations) => {
                let recipient = Box::new(Recipient {
                    rcpt,
                    asked,
                    expanded,
                });
                return self.filter_recipient(line, recipient, out, services);
            }
            Ok(_) => too_many(),
            Err(refusal) => {
                self.tell(&Event::Rejected(&rcpt, &refusal));
                recipient_reply(&rcpt, Err(&refusal))
            }
        };
        self.conclude(&line, reply.clone(), out);
        self.tell(&Event::Rcpt(msgid, &rcpt, &reply));
        None
    }

    /// Filters do not mind it.
    pub(in crate::session) fn add_recipient(
        &mut self,
        line: &[u8],
        recipient: &Recipient,
        out: &mut Vec<u8>,
        services: &dyn Services,
    ) {
        let State::Mail(transaction) = &mut self.state else {
            return;
        };
        let msgid = transaction.msgid();
        let (rcpt, destinations) = (&recipient.rcpt, recipient.expanded.destinations.clone());
        let reply = match transaction.add(rcpt, &recipient.asked, destinations, services.now()) {
            Ok(envelopes) => {
                for id in envelopes {
                    self.tell(&Event::Envelope(id));
                }
                self.choose_rule(recipient);
                recipient_reply(rcpt, Ok(()))
            }
            // What was added in part cannot be taken back, so a failure ends the transaction.
            Err(error) => {
                let text = what_failed(transaction, &error);
                maillog::smtp_trouble(self.id, &text);
                Reply::new(421, "4.3.0 Temporary failure")
            }
        };
        self.conclude(line, reply.clone(), out);
        self.tell(&Event::Rcpt(msgid, rcpt, &reply));
    }

    fn recipient_and_params(&self, argument: &[u8]) -> Result<(MailAddr, Asked), Reply> {
        let (rcpt, rest) =
            path::forward(argument, self.server_name()).map_err(|_| bad_recipient())?;
        let params = params::rcpt(rest, self.dsn_support()).map_err(refuse_param)?;
        let asked = Asked {
            notify: params.notify,
            orcpt: params.orcpt,
        };
        Ok((rcpt, asked))
    }
}

/// RFC 5321 §4.5.3.1.10: the client sends the message to the others in another transaction.
pub(in crate::session) fn too_many() -> Reply {
    Reply::new(451, "4.5.3 Too many recipients: Too many recipients")
}

/// What a client hears when a recipient has been judged.
pub fn recipient_reply(rcpt: &MailAddr, judged: Result<(), &Refusal>) -> Reply {
    match judged {
        Ok(()) => Reply::new(250, "2.1.5 Destination address valid: Recipient ok"),
        Err(refusal) => Reply::refusal(refusal, &format!(": <{rcpt}>")),
    }
}

/// What a client hears when the argument of RCPT is no address.
pub fn bad_recipient() -> Reply {
    Reply::new(501, "5.1.3 Recipient address syntax error")
}

fn what_failed(transaction: &Transaction, error: &std::io::Error) -> String {
    format!("add envelope to message {}: {error}", transaction.msgid())
}

fn refuse_param(bad: BadParam<'_>) -> Reply {
    match bad {
        BadParam::NotifyNever => Reply::new(
            553,
            "5.5.4 NOTIFY option NEVER cannot be combined with other options",
        ),
        BadParam::OrcptSyntax => Reply::new(553, "5.5.4 ORCPT address syntax error"),
        BadParam::Unsupported(option) | BadParam::EnvidTooLong(option) => Reply::echo(
            503,
            &format!("5.5.4 Unsupported option {}", Line::sanitize(option)),
        ),
        BadParam::EnvidSyntax => Reply::new(503, "5.5.4 Unsupported option ENVID"),
    }
}
