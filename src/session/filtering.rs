//! Filters, between a command's tests and its effect.
//!
//! A session asks its listener's chain at each phase and is parked while a table or a program is
//! asked; what comes back says how the command goes on. What a command's argument becomes by a
//! filter is tested as if the client had sent it.

use std::sync::Arc;

use crate::dns::Confirmed;
use crate::filter::{
    Chain, Content, Facts, Lives, Outcome, Phase, Program, Step, Verdict, between_brackets,
};
use crate::log::{self, maillog};
use crate::mail::peer::UNKNOWN_NAME;
use crate::smtp::{Command, Reply};
use crate::util::Line;

use super::command::too_many;
use super::event::Event;
use super::opening::Stage;
use super::question::{FilterQuestion, Lookup, Question, Recipient, Then, Waits};
use super::state::State;
use super::{Next, Services, Session};

/// What a session knows of its filters, and they of it.
pub(super) struct Filtering {
    pub(super) chain: Arc<Chain>,
    pub(super) lives: Lives,
    /// The rest of the session is not filtered.
    bypass: bool,
    /// The rest of the transaction is not filtered.
    bypass_transaction: bool,
    /// The filters of the recipients' rule in this transaction; `None` before the first of them.
    rule: Option<RuleFilters>,
    /// Every message of the session is marked.
    junk: bool,
    /// The message of this transaction is.
    junk_transaction: bool,
    /// What the latest HELO or EHLO said, whatever became of it.
    helo: Option<Line>,
    /// What the latest MAIL said between its brackets.
    pub(super) sender: Option<Line>,
    /// What the latest RCPT said there.
    pub(super) rcpt: Option<Line>,
}

/// The filters of a rule, which may be none.
type RuleFilters = Option<Arc<str>>;

impl Session {
    /// The client's name is known: programs hear of it from now on.
    pub(super) fn meet_filters(&mut self) {
        self.filtering = self.listening.filter.as_ref().map(|chain| {
            Box::new(Filtering {
                chain: chain.clone(),
                lives: chain.meet(),
                bypass: false,
                bypass_transaction: false,
                rule: None,
                junk: false,
                junk_transaction: false,
                helo: None,
                sender: None,
                rcpt: None,
            })
        });
    }

    /// The session is over.
    pub(super) fn leave_filters(&mut self) {
        if let Some(filtering) = self.filtering.take() {
            filtering.chain.leave(self.id);
        }
    }

    /// Whether the message is to be marked.
    pub(super) fn is_junk(&self) -> bool {
        let filtering = self.filtering.as_ref();
        filtering.is_some_and(|filtering| filtering.junk || filtering.junk_transaction)
    }

    /// What filters have said of a transaction ends with it.
    pub(super) fn end_of_transaction(&mut self) {
        if let Some(filtering) = &mut self.filtering {
            filtering.bypass_transaction = false;
            filtering.junk_transaction = false;
            filtering.rule = None;
        }
    }

    /// The parameters of the phase `connect`.
    pub(super) fn connect_parameter(&self) -> String {
        format!("{}|{}", self.rdns().unwrap_or(UNKNOWN_NAME), self.peer)
    }

    /// Asks about a command that is legal, and does it when that is decided.
    pub(super) fn filter_command(
        &mut self,
        line: &[u8],
        out: &mut Vec<u8>,
        services: &dyn Services,
    ) -> Option<Question> {
        let Some(filtering) = &mut self.filtering else {
            return self.proceed(line, out, services);
        };
        let address = |argument| {
            let bare = between_brackets(argument).unwrap_or(argument);
            Some(Line::sanitize(bare))
        };
        let (phase, parameter) = match Command::parse(line) {
            Command::Helo(name) => (Phase::Helo, name),
            Command::Ehlo(name) => (Phase::Ehlo, name),
            Command::StartTls(_) => (Phase::StartTls, None),
            Command::Auth(argument) => (Phase::Auth, argument),
            Command::Mail(argument) => {
                filtering.sender = address(argument);
                // The MAIL before may have been refused after a filter had said this.
                filtering.bypass_transaction = false;
                (Phase::MailFrom, between_brackets(argument))
            }
            Command::Rcpt(argument) => {
                filtering.rcpt = address(argument);
                (Phase::RcptTo, between_brackets(argument))
            }
            Command::Data(_) => (Phase::Data, None),
            Command::Rset(_) => (Phase::Rset, None),
            Command::Quit(_) => (Phase::Quit, None),
            Command::Noop => (Phase::Noop, None),
            _ => return self.proceed(line, out, services),
        };
        let parameter = parameter.unwrap_or_default();
        if let Phase::Helo | Phase::Ehlo = phase {
            filtering.helo = Some(Line::sanitize(parameter));
        }
        let then = Then::Command(line.to_vec());
        self.ask_filters(phase, parameter, then, out, Some(services))
    }

    /// Asks, and goes on with `then` as soon as that is decided. Commands need `services`.
    pub(super) fn ask_filters(
        &mut self,
        phase: Phase,
        parameter: &[u8],
        then: Then,
        out: &mut Vec<u8>,
        services: Option<&dyn Services>,
    ) -> Option<Question> {
        let asking = match &self.filtering {
            None => None,
            Some(filtering) if filtering.bypass || filtering.bypass_transaction => None,
            Some(filtering) => {
                let (chain, lives) = (&filtering.chain, &filtering.lives);
                let facts = self.filter_facts(filtering);
                let rule = match &then {
                    Then::Recipient(_, recipient) => recipient.rule(),
                    // Its rule is not known yet.
                    Then::Command(_) if phase == Phase::RcptTo => None,
                    _ => filtering.rule.clone().flatten(),
                };
                Some(chain.ask(lives, self.id, phase, parameter.to_vec(), facts, rule))
            }
        };
        match asking {
            Some(asking) => self.advance(Box::new(asking).step(), then, out, services),
            None => self.go_on(then, None, out, services),
        }
    }

    /// A recipient's rule is known: asks the rule's filters about it. A transaction has one rule's
    /// filters, for they get one message; recipients of other rules have to come in another one.
    pub(super) fn filter_recipient(
        &mut self,
        line: Vec<u8>,
        recipient: Box<Recipient>,
        out: &mut Vec<u8>,
        services: &dyn Services,
    ) -> Option<Question> {
        let rule = recipient.rule();
        let then = Then::Recipient(line, recipient);
        let Some(filtering) = &mut self.filtering else {
            return match rule {
                None => self.go_on(then, None, out, Some(services)),
                Some(rule) => self.unknown_rule(&rule, then, out),
            };
        };
        let exempt = filtering.bypass || filtering.bypass_transaction;
        let others = filtering.rule.as_ref().filter(|chosen| **chosen != rule);
        match (&rule, others) {
            _ if exempt => self.go_on(then, None, out, Some(services)),
            (_, Some(_)) => {
                self.refuse_then(then, too_many(), false, out);
                None
            }
            (Some(rule), None) if !filtering.chain.has_rule(rule) => {
                self.unknown_rule(rule, then, out)
            }
            (Some(_), None) => {
                let Then::Recipient(line, _) = &then else {
                    return None;
                };
                let argument = match Command::parse(line) {
                    Command::Rcpt(argument) => between_brackets(argument).unwrap_or_default(),
                    _ => &[],
                };
                let parameter = argument.to_vec();
                self.ask_filters(Phase::RcptTo, &parameter, then, out, Some(services))
            }
            (None, None) => self.go_on(then, None, out, Some(services)),
        }
    }

    /// The configuration is younger than this session, which cannot ask what is new in it.
    fn unknown_rule(&mut self, rule: &str, then: Then, out: &mut Vec<u8>) -> Option<Question> {
        log::info(format_args!(
            "smtp-in: session {}: began before there was filter {rule}",
            self.id
        ));
        let reply = Reply::new(451, "4.3.0 Temporary failure");
        self.refuse_then(then, reply, false, out);
        None
    }

    /// A recipient is in the transaction: the others have to be of the same filters.
    pub(super) fn choose_rule(&mut self, recipient: &Recipient) {
        if let Some(filtering) = &mut self.filtering {
            filtering.rule.get_or_insert_with(|| recipient.rule());
        }
    }

    fn filter_facts(&self, filtering: &Filtering) -> Facts {
        Facts {
            peer: self.peer.clone(),
            tag: self.listening.tag.clone(),
            rdns: self.rdns.clone(),
            confirmed: match self.fcrdns {
                Confirmed::Pass => Some(true),
                Confirmed::Fail => Some(false),
                Confirmed::Error => None,
            },
            helo: filtering.helo.clone(),
            user: self.security.user.clone(),
            sender: filtering.sender.clone(),
            rcpt: filtering.rcpt.clone(),
        }
    }

    /// Takes a question to the filters one step further.
    pub(super) fn advance(
        &mut self,
        step: Step,
        then: Then,
        out: &mut Vec<u8>,
        services: Option<&dyn Services>,
    ) -> Option<Question> {
        match step {
            Step::Wait(asking) => {
                self.waits = Some(Box::new(Waits::Filters {
                    asking: None,
                    program: None,
                    then,
                }));
                Some(Question::Lookup(Lookup::Filters(asking)))
            }
            Step::Ask(asking, request) => {
                self.waits = Some(Box::new(Waits::Filters {
                    asking: Some(asking),
                    program: Some(request.program().clone()),
                    then,
                }));
                Some(Question::Filter(FilterQuestion::Decide(request)))
            }
            Step::Done(phase, outcome) => self.filtered(phase, outcome, then, out, services),
        }
    }

    /// A program has not answered in time.
    pub(super) fn too_late(&self, program: Option<&Program>) {
        if let Some(program) = program {
            program.late(self.id);
        }
    }

    /// Tables have not answered in time.
    pub(super) fn filters_are_late(&mut self, then: Then, out: &mut Vec<u8>) -> Option<Question> {
        maillog::smtp_trouble(self.id, &"filters take too long");
        let reply = Reply::new(451, "4.3.0 Temporary failure");
        self.refuse_then(then, reply, false, out);
        None
    }

    /// Filters have decided.
    fn filtered(
        &mut self,
        phase: Phase,
        outcome: Outcome,
        then: Then,
        out: &mut Vec<u8>,
        services: Option<&dyn Services>,
    ) -> Option<Question> {
        for (kind, name, text) in &outcome.reports {
            self.tell(&Event::FilterReport(kind, name, text));
        }
        self.tell(&Event::Filtered(phase, &outcome));
        let in_transaction = matches!(self.state, State::Mail(_) | State::Data(_));
        let of_transaction = in_transaction || phase == Phase::MailFrom;
        if let Some(filtering) = &mut self.filtering {
            filtering.bypass |= outcome.bypass && !of_transaction;
            filtering.bypass_transaction |= outcome.bypass && of_transaction;
            filtering.junk |= outcome.junk && !in_transaction;
            filtering.junk_transaction |= outcome.junk && in_transaction;
        }
        if let (Phase::Commit, true, State::Data(data)) = (phase, outcome.junk, &mut self.state)
            && let Some(writing) = &mut data.writing
        {
            writing.mark_as_junk();
        }
        match outcome.verdict {
            Verdict::Proceed => self.go_on(then, outcome.rewritten, out, services),
            Verdict::Reject(text) => {
                self.refuse_then(then, Reply::verbatim(&text), false, out);
                None
            }
            Verdict::Disconnect(text) => {
                self.refuse_then(then, Reply::verbatim(&text), true, out);
                None
            }
        }
    }

    fn go_on(
        &mut self,
        then: Then,
        rewritten: Option<Line>,
        out: &mut Vec<u8>,
        services: Option<&dyn Services>,
    ) -> Option<Question> {
        match (then, services) {
            (Then::Banner, _) => match self.enter(Stage::Tls, out) {
                Next::Ask(question) => Some(question),
                _ => None,
            },
            (Then::Commit, _) => self.commit(),
            (Then::Command(line), Some(services)) => {
                let line = rewritten.map_or(line.clone(), |value| with_argument(&line, &value));
                match self.check(&line) {
                    Ok(()) => self.proceed(&line, out, services),
                    Err(refusal) => {
                        self.conclude(&line, refusal, out);
                        None
                    }
                }
            }
            (Then::Recipient(line, recipient), Some(services)) => {
                self.add_recipient(&line, &recipient, out, services);
                None
            }
            (Then::Command(_) | Then::Recipient(..), None) => None,
        }
    }

    /// Answers in the place of what was asked about.
    fn refuse_then(&mut self, then: Then, reply: Reply, close: bool, out: &mut Vec<u8>) {
        match then {
            Then::Banner => {
                // The log has it as the reply to a command that nobody has sent.
                maillog::smtp_failed_command(self.id, &self.peer, b"", &reply.to_string());
                if self.opens_with_tls() {
                    // The client would not understand clear text.
                    self.state = State::Closing;
                } else {
                    self.state = State::Refused;
                    self.say(None, &reply, out);
                }
            }
            Then::Commit => self.refuse_message(&reply, out),
            Then::Command(line) | Then::Recipient(line, _) => {
                let of_transaction = match &self.state {
                    State::Mail(transaction) => Some(transaction.msgid()),
                    _ => None,
                };
                self.conclude(&line, reply.clone(), out);
                match (Command::parse(&line), of_transaction) {
                    (Command::Rcpt(_), Some(msgid)) => self.tell(&Event::Refused(msgid, &reply)),
                    (Command::Data(_), Some(msgid)) => self.tell(&Event::Data(msgid, &reply)),
                    _ => {}
                }
            }
        }
        if close {
            self.end_transaction();
            self.state = State::Closing;
        }
    }

    /// The way of the next message through filters that want its lines; the reply to DATA where
    /// there is none for it.
    pub(super) fn content(&self) -> Result<Option<Arc<Content>>, Reply> {
        let Some(filtering) = &self.filtering else {
            return Ok(None);
        };
        if filtering.bypass || filtering.bypass_transaction {
            return Ok(None);
        }
        let most_bytes = self.listening.limits.max_message_size.saturating_mul(2);
        let content = filtering.chain.content(
            &filtering.lives,
            self.id,
            filtering.rule.as_ref().and_then(Option::as_deref),
            most_bytes.saturating_add(CONTENT_SLACK),
        );
        content.map_err(|verdict| reply_of(&verdict))
    }

    /// The reply to a message that a program has lost.
    pub(super) fn content_failed(&self, name: &str) -> Reply {
        match &self.filtering {
            Some(filtering) => reply_of(&filtering.chain.content_failed(name, self.id)),
            None => Reply::new(451, "4.3.0 Temporary failure"),
        }
    }

    /// A message does not come back from filters; whatever comes of it later is nobody's.
    pub(super) fn content_is_late(&self) -> Reply {
        maillog::smtp_trouble(self.id, &"filters do not give the message back");
        Reply::new(421, "4.3.0 Temporary failure")
    }
}

impl Recipient {
    fn rule(&self) -> RuleFilters {
        self.expanded.filter.as_deref().map(Arc::from)
    }
}

/// What filters may add to a message that is as long as it may be.
const CONTENT_SLACK: u64 = 1024 * 1024;

fn reply_of(verdict: &Verdict) -> Reply {
    match verdict {
        Verdict::Reject(text) | Verdict::Disconnect(text) => Reply::verbatim(text),
        Verdict::Proceed => Reply::new(451, "4.3.0 Temporary failure"),
    }
}

/// A command with another argument.
fn with_argument(line: &[u8], value: &Line) -> Vec<u8> {
    let word: &[u8] = match Command::parse(line) {
        Command::Helo(_) => b"HELO ",
        Command::Ehlo(_) => b"EHLO ",
        Command::Auth(_) => b"AUTH ",
        Command::Mail(_) => b"MAIL FROM:",
        Command::Rcpt(_) => b"RCPT TO:",
        _ => return line.to_vec(),
    };
    [word, value.as_bytes()].concat()
}
