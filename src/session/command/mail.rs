//! MAIL (RFC 5321 §4.1.1.2).

use crate::dns::Confirmed;
use crate::log::maillog;
use crate::mail::{Facts, MailAddr, Peer};
use crate::queue::BeginError;
use crate::session::event::Event;
use crate::session::question::{Lookup, Question, Waits};
use crate::session::state::State;
use crate::session::{Services, Session, Tls};
use crate::smtp::params::{self, BadParam, DsnSupport, MailParams};
use crate::smtp::{Command, Reply, path};
use crate::transaction::Transaction;
use crate::util::Line;

use super::not_allowed;

impl Session {
    pub(super) fn check_mail(&self, argument: &[u8]) -> Result<(), Reply> {
        if !self.is_between_transactions() {
            return Err(not_allowed());
        }
        let local = self.peer == Peer::Local;
        if self.listening.tls == Some(Tls::Required) && self.security.tls.is_none() && !local {
            let text = "5.5.1 Invalid command: Must issue a STARTTLS command first";
            return Err(Reply::new(530, text));
        }
        let auth = self.listening.auth.as_ref();
        if auth.is_some_and(|auth| auth.required) && !self.is_authenticated() {
            let text = "5.5.1 Invalid command: Must issue an AUTH command first";
            return Err(Reply::new(530, text));
        }
        if self.messages >= self.listening.limits.max_mails {
            return Err(Reply::new(
                452,
                "4.5.3 Too many recipients: Too many messages sent",
            ));
        }
        self.sender_and_params(argument).map(drop)
    }

    pub(super) fn proceed_mail(
        &mut self,
        line: &[u8],
        argument: &[u8],
        out: &mut Vec<u8>,
        services: &dyn Services,
    ) -> Option<Question> {
        let (sender, params) = match self.sender_and_params(argument) {
            Ok(found) => found,
            Err(refusal) => {
                self.conclude(line, refusal, out);
                return None;
            }
        };
        if let (Some(senders), Some(user)) = (&self.listening.senders, &self.security.user) {
            let lookup = Lookup::Sender(senders.table.clone(), user.clone(), sender);
            let line = line.to_vec();
            self.waits = Some(Box::new(Waits::Sender { line }));
            return Some(Question::Lookup(lookup));
        }
        self.begin_transaction(line, Ok((sender, params)), out, services);
        None
    }

    /// smtpd.conf(5), senders: it is known whether the user may send as this sender.
    pub(in crate::session) fn sender_looked_up(
        &mut self,
        line: &[u8],
        allowed: Option<bool>,
        out: &mut Vec<u8>,
        services: &dyn Services,
    ) {
        let found = match (allowed, Command::parse(line)) {
            (Some(true), Command::Mail(argument)) => self.sender_and_params(argument),
            (Some(_), _) => Err(Reply::new(530, "5.7.1 Sender rejected")),
            (None, _) => Err(Reply::new(451, "4.3.0 Temporary Error")),
        };
        self.begin_transaction(line, found, out, services);
    }

    fn begin_transaction(
        &mut self,
        line: &[u8],
        found: Result<(MailAddr, MailParams), Reply>,
        out: &mut Vec<u8>,
        services: &dyn Services,
    ) {
        let begun = found.and_then(|(sender, params)| self.begin(sender, params, services));
        let transaction = match begun {
            Ok(transaction) => transaction,
            Err(refusal) => return self.conclude(line, refusal, out),
        };
        let (msgid, facts) = (transaction.msgid(), transaction.facts().clone());
        let reply = Reply::new(250, "2.0.0 Ok");
        self.state = State::Mail(Box::new(transaction));
        self.conclude(line, reply.clone(), out);
        self.tell(&Event::Begin(msgid));
        self.tell(&Event::Mail(msgid, &facts.sender, &reply));
    }

    fn sender_and_params(&self, argument: &[u8]) -> Result<(MailAddr, MailParams), Reply> {
        let (sender, rest) =
            path::reverse(argument, self.server_name()).map_err(|_| bad_sender())?;
        let params = params::mail(rest, self.dsn_support()).map_err(refuse_param)?;
        // RFC 1870 §6.1: said before the client sends it all.
        if params.size_bytes > Some(self.listening.limits.max_message_size) {
            return Err(Reply::new(
                552,
                "5.3.4 Message too big for system: Size limit exceeded",
            ));
        }
        Ok((sender, params))
    }

    fn begin(
        &self,
        sender: MailAddr,
        params: MailParams,
        services: &dyn Services,
    ) -> Result<Transaction, Reply> {
        let facts = self.facts(sender).ok_or_else(not_allowed)?;
        let incoming = services.begin().map_err(|error| match error {
            BeginError::Full => Reply::new(452, "4.3.1 Mail system full: Try again later"),
            BeginError::Io(error) => {
                maillog::smtp_trouble(self.id, &format_args!("begin message: {error}"));
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
            rdns_failed: self.rdns.is_none() && self.fcrdns == Confirmed::Error,
            helo: self.greeting.as_ref()?.name.clone(),
            authenticated: self.is_authenticated(),
            username: self.security.user.clone(),
            tls: self.security.tls.is_some(),
            tag: self.listening.tag.clone(),
            sender,
        })
    }

    pub(super) fn dsn_support(&self) -> DsnSupport {
        if self.listening.no_dsn {
            DsnSupport::Withheld
        } else {
            DsnSupport::Offered
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
