//! The conversation without a connection: bytes in, actions out; no socket, no clock.
//!
//! [`Engine::action`] says what is to be done: write these bytes, read for so long, make the TLS
//! handshake, send the message. Whoever does it reports back. Every reply belongs to a command in
//! `expected`, in order, so that commands may run ahead of their replies where the server offers
//! PIPELINING (RFC 2920); bytes that nothing was asked for end the session. There a message may
//! also follow another ([`Engine::follow`]): its commands go out with the final dot of the one
//! before.

mod hello;
mod transaction;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::Duration;

use crate::mail::{DsnOffer, Remote};
use crate::util::Line;

use super::error::{SessionError, Stage};
use super::event::Event;
use super::extensions::Extensions;
use super::order::{Hello, Protocol, Timeouts, Tls, Transacted};
use super::reply::{Parser, Reply};

use self::hello::AuthStep;
use self::transaction::Transaction;

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Write all of these, within this time.
    Write(Vec<u8>, Duration),
    /// Read what there is and hand it to [`Engine::received`]. The time is for the whole reply: it
    /// runs from when the number last changed.
    Read(Duration, u64),
    /// Make the TLS handshake and report to [`Engine::secured`].
    Secure(Duration),
    /// Send the message up to and with the final dot, then call [`Engine::sent`]. A message that
    /// cannot be read to its end must not be ended: [`Engine::unreadable`].
    Send,
    /// Nothing: a transaction may begin, or the session end.
    Rest,
    /// Nothing more will come of this session.
    Over,
}

/// A client's half of a session.
#[derive(Debug)]
pub struct Engine {
    hello: Hello,
    /// Who the server is, for outcomes.
    name: Line,
    phase: Phase,
    parser: Parser,
    output: Vec<u8>,
    expected: VecDeque<Expect>,
    /// How many of them can have been heard of by the server: a reply that comes before its command
    /// was written is none.
    asked: usize,
    /// Replies so far.
    heard: u64,
    privacy: Privacy,
    greeting: Line,
    extensions: Extensions,
    transaction: Option<Transaction>,
    /// The one before, from when its end is sent together with the first commands of this one until
    /// it is taken.
    before: Option<Transaction>,
    /// Whether the server does not cope with a message that follows another.
    out_of_step: bool,
    counts: Counts,
    failure: Option<SessionError>,
    /// What nobody has taken yet, where somebody watches.
    events: Option<Vec<Event>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Replies are awaited, or nothing is.
    Talking,
    /// The handshake is to be made.
    Securing,
    /// The message is to be sent.
    Sending,
    Over,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Privacy {
    Plain,
    Secured,
}

/// What a reply answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    Greeting,
    Ehlo,
    Helo,
    Lhlo,
    StartTls,
    Auth(AuthStep),
    Rset,
    Mail,
    /// A recipient, by its place.
    Rcpt(usize),
    Data,
    /// The end of the message, for all recipients.
    Dot,
    /// The end of the message, for one.
    DotFor(usize),
    /// The end of a message that no recipient was accepted for.
    EmptyDot,
    Quit,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    /// Transactions begun.
    begun: usize,
    /// Messages that were accepted for at least one recipient.
    accepted: usize,
    /// Transactions since then.
    fruitless: usize,
    /// Recipients refused in a row.
    refused: u32,
    /// A transaction was left half-way and has to be reset.
    unfinished: bool,
}

/// How a connection was lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The peer closed it.
    Closed,
    /// The system says that the peer is gone, in these words.
    Reset(Line),
    /// Nothing came in time, as these words say.
    Late(Line),
    /// It was given up, for the reason that these words give.
    Broken(Line),
}

impl Loss {
    fn text(&self) -> &str {
        match self {
            Loss::Closed => "Connection closed unexpectedly",
            Loss::Reset(text) | Loss::Late(text) | Loss::Broken(text) => text,
        }
    }
}

/// Transactions in a row without an accepted message after which a session is of no use.
const FRUITLESS_MAX: usize = 10;

impl Engine {
    /// A session with the server that is called `name` in outcomes. If it is watched, what happens
    /// is kept for [`Engine::take_events`].
    pub fn new(hello: Hello, name: Line, watched: bool) -> Engine {
        let phase = match hello.tls {
            Tls::OnConnect => Phase::Securing,
            _ => Phase::Talking,
        };
        Engine {
            hello,
            name,
            phase,
            parser: Parser::default(),
            output: Vec::new(),
            expected: VecDeque::from([Expect::Greeting]),
            asked: 1,
            heard: 0,
            privacy: Privacy::Plain,
            greeting: Line::default(),
            extensions: Extensions::default(),
            transaction: None,
            before: None,
            out_of_step: false,
            counts: Counts::default(),
            failure: None,
            events: watched.then(Vec::new),
        }
    }

    /// What is to be done now.
    pub fn action(&mut self) -> Action {
        if !self.output.is_empty() && self.phase != Phase::Over {
            self.asked = self.expected.len();
            return Action::Write(std::mem::take(&mut self.output), self.timeouts().block);
        }
        match self.phase {
            Phase::Over => Action::Over,
            Phase::Securing => Action::Secure(self.timeouts().handshake),
            Phase::Sending => Action::Send,
            Phase::Talking => match self.expected.front() {
                Some(expect) => Action::Read(self.time_for(*expect), self.heard),
                None => Action::Rest,
            },
        }
    }

    /// Takes bytes that the server has sent.
    pub fn received(&mut self, bytes: &[u8]) {
        if self.phase == Phase::Over {
            return;
        }
        self.parser.push(bytes);
        // What a message before has come to is taken first, so that everything is told in order.
        while self.phase != Phase::Over && !self.has_ended_before() {
            if self.asked == 0 && self.phase != Phase::Sending {
                if self.parser.has_rest() {
                    self.lose(&Loss::Broken(Line::sanitize(TOO_MUCH.as_bytes())));
                }
                return;
            }
            match self.parser.reply() {
                Ok(None) => return,
                Ok(Some(reply)) => self.replied(&reply),
                Err(malformed) => {
                    let text = malformed.to_string();
                    self.lose(&Loss::Broken(Line::sanitize(text.as_bytes())));
                }
            }
        }
    }

    /// The connection is gone, or was given up.
    pub fn lost(&mut self, loss: &Loss) {
        if self.phase != Phase::Over {
            self.lose(loss);
        }
    }

    /// Whether a transaction may begin.
    pub fn can_take_more(&self) -> bool {
        let most = self.extensions.mail_max.unwrap_or(usize::MAX);
        self.phase == Phase::Talking
            && self.failure.is_none()
            && self.expected.is_empty()
            && self.transaction.is_none()
            && self.counts.begun < most
            && !self.is_refused()
            && !self.rejects_all()
    }

    /// Whether so many transactions in a row came to nothing that it is not worth going on.
    pub fn rejects_all(&self) -> bool {
        self.counts.fruitless >= FRUITLESS_MAX
    }

    /// Whether too many recipients in a row were refused.
    fn is_refused(&self) -> bool {
        self.hello.max_failures > 0 && self.counts.refused >= self.hello.max_failures
    }

    /// Messages that were accepted for at least one recipient.
    pub fn accepted(&self) -> usize {
        self.counts.accepted
    }

    /// How long each phase may take.
    pub fn timeouts(&self) -> &Timeouts {
        &self.hello.timeouts
    }

    /// What the server offers.
    pub fn extensions(&self) -> &Extensions {
        &self.extensions
    }

    /// What the server said first.
    pub fn greeting(&self) -> &Line {
        &self.greeting
    }

    /// Why the session is over, unless it ended well.
    pub fn failure(&self) -> Option<&SessionError> {
        self.failure.as_ref()
    }

    /// Keeps what happens from now on for [`Engine::take_events`].
    pub fn watch(&mut self) {
        self.events.get_or_insert_default();
    }

    /// What has happened since the last call.
    pub fn take_events(&mut self) -> Vec<Event> {
        self.events.as_mut().map(std::mem::take).unwrap_or_default()
    }

    fn tell(&mut self, event: impl FnOnce() -> Event) {
        if let Some(events) = &mut self.events {
            events.push(event());
        }
    }

    /// Something has happened to the transaction whose replies are awaited first.
    fn tell_of(&mut self, event: impl FnOnce(&Transaction) -> Option<Event>) {
        let transaction = self.before.as_ref().or(self.transaction.as_ref());
        if let (Some(events), Some(transaction)) = (&mut self.events, transaction) {
            events.extend(event(transaction));
        }
    }

    /// Says QUIT, unless a transaction or an answer is under way.
    pub fn quit(&mut self) {
        if self.phase == Phase::Talking && self.expected.is_empty() {
            self.say("QUIT", Expect::Quit);
        }
    }

    fn replied(&mut self, reply: &Reply) {
        self.heard += 1;
        let expect = match self.phase {
            Phase::Sending => None,
            _ => self.expected.pop_front(),
        };
        self.tell_of(|transaction| transaction.answers(expect?));
        self.tell(|| Event::Server(reply.clone()));
        let Some(expect) = expect else {
            return self.interrupted(reply);
        };
        self.asked = self.asked.saturating_sub(1);
        match expect {
            Expect::Greeting
            | Expect::Ehlo
            | Expect::Helo
            | Expect::Lhlo
            | Expect::StartTls
            | Expect::Auth(_) => self.hello_replied(expect, reply),
            Expect::Quit => self.phase = Phase::Over,
            Expect::Rset
            | Expect::Mail
            | Expect::Rcpt(_)
            | Expect::Data
            | Expect::Dot
            | Expect::DotFor(_)
            | Expect::EmptyDot => self.transaction_replied(expect, reply),
        }
    }

    /// Sends a command line, and notes what reply it expects.
    fn say(&mut self, line: &str, expect: Expect) {
        self.say_secret(line, line, expect);
    }

    /// Says `line`, which is shown as `shown`.
    fn say_secret(&mut self, line: &str, shown: &str, expect: Expect) {
        self.tell(|| Event::Client(Line::sanitize(shown.as_bytes())));
        self.output.extend_from_slice(line.as_bytes());
        self.output.extend_from_slice(b"\r\n");
        self.expected.push_back(expect);
    }

    fn lose(&mut self, loss: &Loss) {
        self.phase = Phase::Over;
        let last = self.expected.front().copied();
        self.expected.clear();
        self.output.clear();
        if last == Some(Expect::Quit) {
            return;
        }
        if let Some(before) = &mut self.before {
            before.lost(loss, true);
        }
        if let Some(transaction) = &mut self.transaction {
            // That what follows a message was too much for it is the likely reason.
            self.out_of_step |= transaction.is_ahead();
            transaction.lost(loss, self.counts.begun > 1);
        }
        let stage = match (last, self.privacy) {
            // RFC 8446 §4.4: our half of a handshake may be over before the server has judged it.
            (Some(Expect::Ehlo), Privacy::Secured) => Stage::Handshake,
            (last, _) => stage(last),
        };
        // What a server says to a handshake comes as a stream that is broken.
        let judged = stage == Stage::Handshake && matches!(loss, Loss::Broken(_));
        self.failure.get_or_insert_with(|| SessionError {
            lost: !judged,
            ..SessionError::new(stage, loss.text())
        });
    }

    fn fail(&mut self, failure: SessionError) {
        self.phase = Phase::Over;
        self.failure = Some(failure);
    }

    fn time_for(&self, expect: Expect) -> Duration {
        let times = self.timeouts();
        match expect {
            Expect::Greeting => times.greeting,
            Expect::Ehlo | Expect::Helo | Expect::Lhlo | Expect::StartTls | Expect::Auth(_) => {
                times.hello
            }
            Expect::Rset => times.rset,
            Expect::Mail if self.is_ahead() => times.mail.min(AHEAD_PATIENCE),
            Expect::Mail => times.mail,
            Expect::Rcpt(_) => times.rcpt,
            Expect::Data => times.data,
            Expect::Dot | Expect::DotFor(_) | Expect::EmptyDot => times.dot,
            Expect::Quit => times.quit,
        }
    }

    /// Whose reply an outcome's text is.
    fn remote(&self) -> Remote {
        Remote {
            name: self.name.clone(),
            dsn: if self.extensions.dsn {
                DsnOffer::Offered
            } else {
                DsnOffer::NotOffered
            },
        }
    }

    fn is_lmtp(&self) -> bool {
        self.hello.protocol == Protocol::Lmtp
    }

    /// What came of the transaction that has ended.
    pub fn take(&mut self) -> Transacted {
        self.tell_of(Transaction::ended);
        let ended = match self.before.take() {
            None => self.transaction.take(),
            before => {
                // Of the one that followed, something may have been heard with the end of this one.
                self.received(&[]);
                before
            }
        };
        ended.map(Transaction::into_result).unwrap_or_default()
    }
}

/// How long a server that has answered the end of a message may take for the commands that followed
/// it. One that has lost them will never answer, and nothing is lost by asking again.
const AHEAD_PATIENCE: Duration = Duration::from_secs(30);

const TOO_MUCH: &str = "Remote host sent too much data";

fn stage(expect: Option<Expect>) -> Stage {
    match expect {
        Some(Expect::Greeting) => Stage::Banner,
        Some(Expect::Ehlo | Expect::Helo | Expect::Lhlo) => Stage::Hello,
        Some(Expect::StartTls) => Stage::StartTls,
        Some(Expect::Auth(_)) => Stage::Auth,
        _ => Stage::Session,
    }
}
