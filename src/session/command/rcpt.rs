//! RCPT (RFC 5321 §4.1.1.3): judged, expanded and put into the queue while the client waits.

use crate::log::{self, maillog};
use crate::mail::{MailAddr, Refusal};
use crate::session::state::State;
use crate::session::{Services, Session};
use crate::smtp::params::{self, BadParam};
use crate::smtp::{Reply, path};
use crate::transaction::{Asked, Transaction};
use crate::util::Line;

use super::not_allowed;

impl Session {
    pub(super) fn rcpt(&mut self, argument: &[u8], world: &dyn Services) -> Reply {
        let (server_name, dsn) = (self.server_name().clone(), self.dsn_support());
        let State::Mail(transaction) = &mut self.state else {
            return not_allowed();
        };
        if transaction.recipients() >= self.listening.limits.max_rcpt {
            return Reply::new(451, "4.5.3 Too many recipients: Too many recipients");
        }
        let Ok((rcpt, rest)) = path::forward(argument, &server_name) else {
            return bad_recipient();
        };
        let asked = match params::rcpt(rest, dsn) {
            Ok(params) => Asked {
                notify: params.notify,
                orcpt: params.orcpt,
            },
            Err(bad) => return refuse_param(bad),
        };
        let destinations = match world.expand(transaction.facts(), &rcpt) {
            Ok(destinations) => destinations,
            Err(refusal) => {
                maillog::smtp_reject(self.id, &rcpt, &refusal);
                return recipient_reply(&rcpt, Err(&refusal));
            }
        };
        // What was added in part cannot be taken back, so a failure ends the transaction.
        if let Err(error) = transaction.add(&rcpt, &asked, destinations, world.now()) {
            let text = what_failed(transaction, &error);
            log::warn(format_args!("smtp-in: session {}: {text}", self.id));
            return Reply::new(421, "4.3.0 Temporary failure");
        }
        recipient_reply(&rcpt, Ok(()))
    }
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
