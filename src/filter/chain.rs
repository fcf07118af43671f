//! Filters in their order, and one question to them on its way.
//!
//! Each member is asked about what the ones before it have left: a rewritten argument, a mark as
//! junk. `bypass`, `reject` and `disconnect` end it. A member that cannot be asked decides what the
//! configuration says for that case; by default the client is to try again later.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::config::{BuiltIn, Condition, OnFailure};
use crate::log::{self, Subject, Trace};
use crate::mail::SessionId;
use crate::table::Snapshot;
use crate::util::Line;

use super::builtin::{self, Facts};
use super::content::Content;
use super::program::{Program, Reply};
use super::protocol::{Decision, Event, Phase, Subsystem};

/// Filters of a session.
pub struct Chain {
    pub(super) members: Vec<Member>,
    /// What rules call their filters. All of a rule may be among the listener's.
    pub(super) rules: BTreeSet<String>,
    /// The tables that it asks.
    pub(super) tables: Arc<Snapshot>,
    /// Where content goes that memory does not hold.
    pub(super) dir: PathBuf,
}

/// A filter of a chain.
pub(super) struct Member {
    pub(super) name: Line,
    pub(super) kind: Kind,
    /// It is asked only when a recipient's rule names these filters.
    pub(super) rule: Option<Arc<str>>,
}

impl Member {
    /// Whether both would be asked the same of the same.
    pub(super) fn is_same(&self, other: &Member) -> bool {
        match (&self.kind, &other.kind) {
            (Kind::Program(one), Kind::Program(two)) => Arc::ptr_eq(one, two),
            _ => self.name == other.name,
        }
    }

    /// Whether it is asked when the rule of the recipients names these filters. About a recipient
    /// the listener's filters have been asked before its rule was known.
    fn is_asked(&self, phase: Phase, rule: Option<&str>) -> bool {
        match (self.rule.as_deref(), rule) {
            (None, None) => true,
            (None, Some(_)) => phase != Phase::RcptTo,
            (own, rule) => own == rule,
        }
    }
}

pub(super) enum Kind {
    /// One of the configuration.
    BuiltIn(BuiltIn),
    /// A program.
    Program(Arc<Program>),
}

/// What one session has to do with the programs of its chain: the process of each that has heard
/// of it from the start. Another process knows nothing of it.
#[derive(Clone, Debug, Default)]
pub struct Lives(Vec<u64>);

/// What filters make of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The last word.
    pub verdict: Verdict,
    /// The message, or all of the session's, is to be marked.
    pub junk: bool,
    /// The rest of the session or transaction is not filtered.
    pub bypass: bool,
    /// What takes the place of the argument.
    pub rewritten: Option<Line>,
    /// What filters want to be known: builtin or program, the filter's name, the text.
    pub reports: Vec<(&'static str, Line, Line)>,
}

/// Whether a command is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is.
    Proceed,
    /// It is answered with this.
    Reject(Line),
    /// It is answered with this, and the session ends.
    Disconnect(Line),
}

/// A question on its way through a chain.
pub struct Asking {
    chain: Arc<Chain>,
    lives: Lives,
    session: SessionId,
    phase: Phase,
    parameter: Vec<u8>,
    facts: Facts,
    rule: Option<Arc<str>>,
    at: usize,
    outcome: Outcome,
}

/// What a chain needs next: an answer of a table or of a program, or nothing more.
#[derive(Debug)]
pub enum Step {
    /// It is decided.
    Done(Phase, Outcome),
    /// A table has to be asked by [`Asking::wait`], which takes its time.
    Wait(Box<Asking>),
    /// A program has to be asked.
    Ask(Box<Asking>, Request),
}

/// A question to a program.
pub struct Request {
    program: Arc<Program>,
    phase: Phase,
    session: SessionId,
    parameter: Vec<u8>,
}

impl Request {
    /// Asks. The reply comes from another thread, and comes in any case but that of a program that
    /// stays silent.
    pub fn send(self, reply: Reply) {
        self.program
            .ask(self.phase, self.session, &self.parameter, reply);
    }

    /// The program that is asked.
    pub fn program(&self) -> &Arc<Program> {
        &self.program
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.phase.word(), self.program.name())
    }
}

impl fmt::Debug for Asking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.phase.word(), self.session)
    }
}

impl Chain {
    /// A session begins: which processes hear of it.
    pub fn meet(&self) -> Lives {
        let life = |member: &Member| match &member.kind {
            Kind::Program(program) if program.proc().is_up() => program.proc().life(),
            _ => 0,
        };
        Lives(self.members.iter().map(life).collect())
    }

    /// A session is over: what it has asked is of no use any more.
    pub fn leave(&self, session: SessionId) {
        for member in &self.members {
            if let Kind::Program(program) = &member.kind {
                program.give_up(session);
            }
        }
    }

    /// Whether anybody looks at the name of a client: a condition, or a program that is told it.
    pub fn needs_name(&self) -> bool {
        self.members.iter().any(|member| match &member.kind {
            Kind::BuiltIn(filter) => {
                matches!(filter.condition, Condition::Fcrdns | Condition::Rdns(_))
            }
            Kind::Program(program) => {
                program.filters(Phase::Connect) || program.hears(Subsystem::In, Event::LinkConnect)
            }
        })
    }

    /// Whether these are among the filters of rules.
    pub fn has_rule(&self, rule: &str) -> bool {
        self.rules.contains(rule)
    }

    /// The question to the listener's filters, and to those of this rule. At `rcpt-to` it is the
    /// one or the other.
    pub fn ask(
        self: &Arc<Chain>,
        lives: &Lives,
        session: SessionId,
        phase: Phase,
        parameter: Vec<u8>,
        facts: Facts,
        rule: Option<Arc<str>>,
    ) -> Asking {
        Asking {
            chain: self.clone(),
            lives: lives.clone(),
            session,
            phase,
            parameter,
            facts,
            rule,
            at: 0,
            outcome: Outcome {
                verdict: Verdict::Proceed,
                junk: false,
                bypass: false,
                rewritten: None,
                reports: Vec::new(),
            },
        }
    }

    /// Tells the programs that want to hear of it.
    pub fn report(
        &self,
        lives: &Lives,
        subsystem: Subsystem,
        event: Event,
        session: SessionId,
        parameters: Option<&[u8]>,
    ) {
        for (program, _) in self.programs(lives) {
            if program.hears(subsystem, event) {
                program.report(subsystem, event, session, parameters);
            }
        }
    }

    /// Whether anybody wants to hear of it.
    pub fn hears(&self, subsystem: Subsystem, event: Event) -> bool {
        let hears = |member: &Member| match &member.kind {
            Kind::Program(program) => program.hears(subsystem, event),
            Kind::BuiltIn(_) => false,
        };
        self.members.iter().any(hears)
    }

    /// The way of a message through the programs that want its lines; `None` where none does. A
    /// program that cannot have them decides what is to be done: `Err` is what the client hears.
    pub fn content(
        &self,
        lives: &Lives,
        session: SessionId,
        rule: Option<&str>,
        most_bytes: u64,
    ) -> Result<Option<Arc<Content>>, Verdict> {
        let mut stages = Vec::new();
        for (number, member) in self.members.iter().enumerate() {
            let Kind::Program(program) = &member.kind else {
                continue;
            };
            let asked = member.is_asked(Phase::DataLine, rule);
            if !asked || program.is_known() && !program.filters(Phase::DataLine) {
                continue;
            }
            if lives.knows(number, program) {
                stages.push(program.clone())
            } else {
                failed(program, session, Phase::DataLine).map_or(Ok(()), Err)?
            }
        }
        if stages.is_empty() {
            return Ok(None);
        }
        let dir = self.dir.clone();
        Ok(Some(Content::open(session, stages, dir, most_bytes)))
    }

    /// What a client hears when content has failed for the sake of a program.
    pub fn content_failed(&self, name: &str, session: SessionId) -> Verdict {
        let program = self.members.iter().find_map(|member| match &member.kind {
            Kind::Program(program) if program.name().as_str() == name => Some(program),
            _ => None,
        });
        // Lines that are gone cannot be sent on as if nobody had asked for them.
        let verdict = program.and_then(|program| failed(program, session, Phase::DataLine));
        verdict.unwrap_or_else(|| Verdict::Reject(later("451")))
    }

    /// The programs that have heard of a session from its start.
    fn programs(&self, lives: &Lives) -> impl Iterator<Item = (&Arc<Program>, usize)> {
        let known = |(number, member): (usize, &'_ Member)| match &member.kind {
            // One that several rules name hears of everything once.
            Kind::Program(program) => {
                let mut before = self.members.iter().take(number);
                let first = !before.any(|other| other.is_same(member));
                (first && lives.knows(number, program)).then_some(number)
            }
            Kind::BuiltIn(_) => None,
        };
        let numbers: Vec<usize> = self.members.iter().enumerate().filter_map(known).collect();
        numbers.into_iter().filter_map(|number| {
            let member = self.members.get(number)?;
            match &member.kind {
                Kind::Program(program) => Some((program, number)),
                Kind::BuiltIn(_) => None,
            }
        })
    }
}

impl Lives {
    fn knows(&self, number: usize, program: &Program) -> bool {
        let life = self.0.get(number).copied().unwrap_or(0);
        life != 0 && program.proc().is_up() && program.proc().life() == life
    }
}

/// What is done in place of a program that cannot be asked; `None` to go on.
fn failed(program: &Program, session: SessionId, phase: Phase) -> Option<Verdict> {
    let word = phase.word();
    log::warn(format_args!(
        "filter {}: cannot be asked ({word} of session {session}): {}",
        program.name(),
        program.failure.word()
    ));
    match program.failure {
        OnFailure::Bypass => None,
        OnFailure::Reject => Some(Verdict::Reject(Line::sanitize(
            b"550 5.7.1 Delivery not authorized, message refused: it cannot be filtered",
        ))),
        OnFailure::Tempfail => Some(match phase {
            Phase::Connect => Verdict::Disconnect(later("421")),
            _ => Verdict::Reject(later("451")),
        }),
    }
}

fn later(code: &str) -> Line {
    Line::sanitize(format!("{code} 4.3.0 Temporary failure").as_bytes())
}

impl Asking {
    /// Asks the next member, as far as that takes no time.
    pub fn step(self: Box<Asking>) -> Step {
        self.go_on(false)
    }

    /// Asks the next member. It waits for tables.
    pub fn wait(self: Box<Asking>) -> Step {
        self.go_on(true)
    }

    fn go_on(mut self: Box<Asking>, may_wait: bool) -> Step {
        let chain = self.chain.clone();
        while let Some(member) = chain.members.get(self.at) {
            match &member.kind {
                _ if !member.is_asked(self.phase, self.rule.as_deref()) => {}
                Kind::BuiltIn(filter) => {
                    if builtin::phase(filter.phase) == self.phase {
                        if !may_wait && builtin::may_wait(filter, &chain.tables.tables) {
                            return Step::Wait(self);
                        }
                        let decided = builtin::decide(filter, &self.facts, &chain.tables.tables);
                        let decision = decided.unwrap_or_else(|error| {
                            log::warn(format_args!("filter {}: {error}", member.name));
                            Decision::Reject(later("451"))
                        });
                        if self.take("builtin", &member.name, decision) {
                            break;
                        }
                    }
                }
                Kind::Program(program) => {
                    if program.filters(self.phase) {
                        if self.lives.knows(self.at, program) {
                            let request = Request {
                                program: program.clone(),
                                phase: self.phase,
                                session: self.session,
                                parameter: self.parameter.clone(),
                            };
                            let parameter = match self.phase {
                                Phase::Auth => Default::default(),
                                _ => String::from_utf8_lossy(&self.parameter),
                            };
                            self.trace(&member.name, format_args!(" is asked: {parameter}"));
                            return Step::Ask(self, request);
                        }
                        if self.fail(program) {
                            break;
                        }
                    } else if !program.is_known()
                        || self.phase == Phase::Connect
                            && !program.proc().is_up()
                            && program.filters_anything()
                    {
                        // What it wants to be asked nobody knows yet, or it will be asked later,
                        // and will then be another process that knows nothing of this session.
                        if self.fail(program) {
                            break;
                        }
                    }
                }
            }
            self.at += 1;
        }
        Step::Done(self.phase, self.outcome)
    }

    /// A program has decided, or `None`: it never will.
    pub fn decided(mut self: Box<Asking>, decision: Option<Decision>) -> Step {
        let chain = self.chain.clone();
        let Some(member) = chain.members.get(self.at) else {
            return Step::Done(self.phase, self.outcome);
        };
        let ended = match (&member.kind, decision) {
            (Kind::Program(program), None) => self.fail(program),
            (_, Some(decision)) => self.take("proc", &member.name, decision),
            (Kind::BuiltIn(_), None) => false,
        };
        if ended {
            return Step::Done(self.phase, self.outcome);
        }
        self.at += 1;
        self.step()
    }

    fn fail(&mut self, program: &Program) -> bool {
        match failed(program, self.session, self.phase) {
            Some(verdict) => {
                self.outcome.verdict = verdict;
                true
            }
            None => false,
        }
    }

    /// `trace filters`. What comes with AUTH is secret.
    fn trace(&self, name: &Line, said: fmt::Arguments<'_>) {
        let client = Subject {
            peer: &self.facts.peer,
            tag: self.facts.tag.as_deref(),
        };
        let (session, phase) = (self.session, self.phase.word());
        log::trace_of(
            Trace::Filters,
            &client,
            format_args!("filters: {session}: {phase}: {name}{said}"),
        );
    }

    /// Takes a member's decision; says whether it is the last one.
    fn take(&mut self, kind: &'static str, name: &Line, decision: Decision) -> bool {
        match (self.phase, &decision) {
            (Phase::Auth, Decision::Rewrite(_)) => self.trace(name, format_args!(": rewrite")),
            (_, decision) => self.trace(name, format_args!(": {decision}")),
        }
        match decision {
            Decision::Proceed => false,
            Decision::Bypass => {
                self.outcome.bypass = true;
                true
            }
            Decision::Junk => {
                self.outcome.junk = true;
                false
            }
            Decision::Rewrite(value) => {
                self.rewrite(name, value);
                false
            }
            Decision::Report(text) => {
                self.outcome.reports.push((kind, name.clone(), text));
                false
            }
            Decision::Reject(text) => {
                self.refuse(name, text, false);
                true
            }
            Decision::Disconnect(text) => {
                self.refuse(name, text, true);
                true
            }
        }
    }

    fn rewrite(&mut self, name: &Line, value: Line) {
        match self.phase {
            // The rule was found for the recipient as it is.
            Phase::RcptTo if self.rule.is_some() => log::warn(format_args!(
                "filter {name}: rewrite at rcpt-to is ignored in the filters of a rule"
            )),
            Phase::Helo | Phase::Ehlo | Phase::Auth | Phase::MailFrom | Phase::RcptTo => {
                self.parameter = value.as_bytes().to_vec();
                if let Some(bare) = between_brackets(&self.parameter) {
                    self.parameter = bare.to_vec();
                }
                let seen = Line::sanitize(&self.parameter);
                match self.phase {
                    Phase::MailFrom => self.facts.sender = Some(seen),
                    Phase::RcptTo => self.facts.rcpt = Some(seen),
                    Phase::Helo | Phase::Ehlo => self.facts.helo = Some(seen),
                    _ => {}
                }
                self.outcome.rewritten = Some(value);
            }
            phase => log::warn(format_args!(
                "filter {name}: rewrite at {} is ignored",
                phase.word()
            )),
        }
    }

    /// A text that is no reply is the filter's mistake; the client is told to come back.
    fn refuse(&mut self, name: &Line, text: Line, close: bool) {
        let valid = matches!(
            text.as_bytes(),
            [b'4' | b'5', b'0'..=b'9', b'0'..=b'9', b' ', ..]
        );
        self.outcome.verdict = match valid {
            false => {
                log::warn(format_args!("filter {name}: no reply: {text}"));
                Verdict::Disconnect(Line::sanitize(b"421 Internal server error"))
            }
            true if close || text.starts_with("421") => Verdict::Disconnect(text),
            true => Verdict::Reject(text),
        };
    }
}

impl Outcome {
    /// As the event `filter-response` shows it.
    pub fn response(&self) -> String {
        match (&self.verdict, &self.rewritten, self.junk) {
            (Verdict::Reject(text), ..) => format!("reject|{text}"),
            (Verdict::Disconnect(text), ..) => format!("disconnect|{text}"),
            (Verdict::Proceed, Some(value), _) => format!("rewrite|{value}"),
            (Verdict::Proceed, None, true) => "junk".to_owned(),
            (Verdict::Proceed, None, false) => "proceed".to_owned(),
        }
    }
}

/// What stands between the first `<` and the `>` behind it.
pub fn between_brackets(text: &[u8]) -> Option<&[u8]> {
    let start = text.iter().position(|byte| *byte == b'<')? + 1;
    let rest = text.get(start..)?;
    let end = rest.iter().position(|byte| *byte == b'>')?;
    rest.get(..end)
}
