//! MAIL (RFC 5321 §4.1.1.2).

use crate::log;
use crate::mail::{Facts, MailAddr};
use crate::queue::BeginError;
use crate::session::state::State;
use crate::session::{Services, Session};
use crate::smtp::params::{self, BadParam, DsnSupport, MailParams};
use crate::smtp::{Reply, path};
use crate::transaction::Transaction;
use crate::util::Line;

use super::not_allowed;

impl Session {
    pub(super) fn mail(&mut self, argument: &[u8], world: &dyn Services) -> Reply {
        match self.try_mail(argument, world) {
            Ok(transaction) => {
                self.state = State::Mail(Box::new(transaction));
                Reply::new(250, "2.0.0 Ok")
            }
            Err(refusal) => refusal,
        }
    }

    fn try_mail(&self, argument: &[u8], world: &dyn Services) -> Result<Transaction, Reply> {
        let limits = &self.listening.limits;
        if !self.is_between_transactions() {
            return Err(not_allowed());
        }
        if self.messages >= limits.max_mails {
            return Err(Reply::new(
                452,
                "4.5.3 Too many recipients: Too many messages sent",
            ));
        }
        let (sender, rest) =
            path::reverse(argument, self.server_name()).map_err(|_| bad_sender())?;
        let params = params::mail(rest, self.dsn_support()).map_err(refuse_param)?;
        // RFC 1870 §6.1: said before the client sends it all.
        if params.size_bytes > Some(limits.max_message_size) {
            return Err(Reply::new(
                552,
                "5.3.4 Message too big for system: Size limit exceeded",
            ));
        }
        self.begin(sender, params, world)
    }

    fn begin(
        &self,
        sender: MailAddr,
        params: MailParams,
        world: &dyn Services,
    ) -> Result<Transaction, Reply> {
        let facts = self.facts(sender).ok_or_else(not_allowed)?;
        let incoming = world.begin().map_err(|error| match error {
            BeginError::Full => Reply::new(452, "4.3.1 Mail system full: Try again later"),
            BeginError::Io(error) => {
                log::warn(format_args!(
                    "smtp-in: session {}: begin message: {error}",
                    self.id
                ));
                Reply::new(421, "4.3.0 Temporary Error")
            }
        })?;
        let smtpname = self.server_name().clone();
        Ok(Transaction::begin(
            incoming,
            facts,
            smtpname,
            params.ret,
            params.envid,
        ))
    }

    fn facts(&self, sender: MailAddr) -> Option<Facts> {
        Some(Facts {
            peer: self.peer.clone(),
            rdns: self.rdns.clone(),
            helo: self.greeting.as_ref()?.name.clone(),
            authenticated: self.is_authenticated(),
            username: None,
            tls: false,
            tag: self.listening.tag.clone(),
            sender,
        })
    }

    pub(super) fn dsn_support(&self) -> DsnSupport {
        match self.listening.no_dsn {
            true => DsnSupport::Withheld,
            false => DsnSupport::Offered,
        }
    }
}

/// What a client hears when the argument of MAIL is no address.
pub fn bad_sender() -> Reply {
    Reply::new(553, "5.1.0 Sender address syntax error")
}

fn refuse_param(bad: BadParam<'_>) -> Reply {
    let invalid = |what: &str, option: &[u8]| {
        let option = Line::sanitize(option);
        Reply::echo(
            503,
            &format!("5.5.4 Invalid command arguments: {what}{option}"),
        )
    };
    match bad {
        BadParam::EnvidTooLong(head) => invalid("option too large, truncated: ", head),
        BadParam::Unsupported(option) => invalid("Unsupported option ", option),
        BadParam::EnvidSyntax | BadParam::NotifyNever | BadParam::OrcptSyntax => {
            Reply::new(501, "5.5.4 Invalid command arguments: ENVID syntax error")
        }
    }
}
