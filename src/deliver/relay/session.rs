//! A thread that carries out one session: connects, sends what it is given, ends.
//!
//! It may block, in no phase longer than the client's time-outs. What it is to do comes over a
//! channel from the relay thread, what came of it goes back as [`Event`]s, and every recipient it
//! was given is answered for there.

use std::fmt::Arguments;
use std::net::IpAddr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use crate::client::{
    self, Extensions, Follow, Hello, Message, Opening, Protocol, Recipient, Secure, Session,
    SessionError, Socket, Stage, Tap, Tls, Transacted, Upgrade,
};
use crate::config::RelayAction;
use crate::log::maillog::{self, Bracketed, Delays, Delivery};
use crate::log::{self, Subject, Trace};
use crate::mail::{DsnOffer, Envelope, EvpId, MailAddr, Outcome, Peer, Remote, Status, literal};
use crate::queue::Queue;
use crate::util::{Line, Timestamp};

use super::Event;
use super::core::{End, Load, Next, Start, result_word};
use super::key::Security;
use super::letter::Letter;
use super::orders::{Order, Orders};
use super::reports::Reports;

/// What all sessions share.
#[derive(Clone)]
pub struct Tools {
    /// Where messages are.
    pub queue: Queue,
    /// Where what happens is told.
    pub events: Sender<Event>,
}

/// What came of a message.
pub struct Sent {
    /// Outcomes of recipients that were tried.
    pub settled: Vec<(EvpId, Outcome)>,
    /// Those that were not.
    pub untried: Vec<EvpId>,
    /// Whether the session goes on to another one.
    pub next: Next,
    /// How long it took.
    pub time: Duration,
    /// Whether the host kept step with a message that followed another in one go, when that has
    /// been seen.
    pub in_step: Option<bool>,
}

/// A session as its thread sees it.
struct Worker<'a> {
    tools: &'a Tools,
    start: &'a Start,
    /// Our end of the connection.
    local: Option<IpAddr>,
    /// When it began, and how long it has taken to be ready for mail.
    began: Timestamp,
    opening: Opened,
}

/// How long it took to be ready for mail.
#[derive(Clone, Copy, Default)]
struct Opened {
    /// Connecting, and all that was said until then but for TLS.
    connect: Duration,
    /// The handshake.
    tls: Duration,
}

/// Carries a session out.
pub fn run(tools: &Tools, start: &Start, orders: &Orders) {
    let mut worker = Worker {
        tools,
        start,
        local: None,
        began: Timestamp::now(),
        opening: Opened::default(),
    };
    let end = match worker.open() {
        Ok(session) => {
            let ready = Event::Ready(start.id, worker.opening.connect);
            let _ = tools.events.send(ready);
            worker.serve(session, orders)
        }
        Err(end) => end,
    };
    // The relay thread may be gone; then nobody waits for it.
    let _ = tools.events.send(Event::Ended(start.id, end));
}

impl Worker<'_> {
    fn open(&mut self) -> Result<Session, End> {
        let start = self.start;
        let action = start.configured.action(&start.action);
        let action = action.ok_or_else(|| End::Source(text("Cannot find relay action")))?;
        let name = self.our_name(action)?;
        let began = Instant::now();
        let made = start
            .configured
            .tls
            .secure(&start.action, start.security, &start.exchanger);
        let secure = made.map_err(|why| self.without_tls(why))?;
        let opened = match secure {
            None => self.connect(start.scheme, &name, Tls::Never, None),
            Some(secure) => self.open_secured(&name, secure),
        };
        let session = opened.map_err(|failure| self.failed(&failure))?;
        let tls = session.handshake();
        let connect = began.elapsed().saturating_sub(tls);
        self.opening = Opened { connect, tls };
        Ok(session)
    }

    /// A handshake that finds no common ground is made again with the other library. What fails
    /// then is the end, unless TLS was only to be had if it was offered.
    fn open_secured(&mut self, name: &Line, mut secure: Secure) -> Result<Session, SessionError> {
        let start = self.start;
        let tls = match start.security {
            Security::None => Tls::Never,
            Security::Opportunistic => Tls::IfOffered,
            Security::StartTls(_) => Tls::Required,
            Security::Smtps(_) => Tls::OnConnect,
        };
        let failure = loop {
            let failure = match self.connect(start.scheme, name, tls, Some(&secure)) {
                Err(failure) if failure.stage == Stage::Handshake => failure,
                result => return result,
            };
            match secure.next() {
                Some(next) => {
                    maillog::mta_other_tls(start.id, &failure);
                    secure = next;
                }
                None if tls == Tls::IfOffered => break failure,
                None => return Err(failure),
            }
        };
        maillog::mta_without_tls(start.id, &failure);
        self.connect("smtp+notls", name, Tls::Never, None)
    }

    /// There is no TLS on our side, whoever is at the other.
    fn without_tls(&self, why: Line) -> End {
        log::warn(format_args!("relay: {why}"));
        maillog::mta_tls_failure(self.start.id);
        End::Source(why)
    }

    /// What we call ourselves. Only a source address of our own choosing has a name of its own.
    fn our_name(&self, action: &RelayAction) -> Result<Line, End> {
        if let (Some(table), Some(source)) = (&action.helo_src, self.start.source) {
            return match self
                .start
                .configured
                .snapshot
                .tables
                .addrname(table, &Peer::inet(source))
            {
                Ok(Some(name)) => Ok(name),
                Ok(None) => Err(End::Source(text("Failed to retrieve helo string"))),
                Err(error) => {
                    log::warn(format_args!("{error}"));
                    Err(End::Source(text("Failed to retrieve helo string")))
                }
            };
        }
        let config = self.start.configured.config();
        Ok(action.helo.clone().unwrap_or(config.server_name.clone()))
    }

    fn connect(
        &mut self,
        scheme: &str,
        name: &Line,
        tls: Tls,
        secure: Option<&Secure>,
    ) -> Result<Session, SessionError> {
        let start = self.start;
        let ptr = start.ptr.get().and_then(|found| found.name.as_ref());
        maillog::mta_connecting(start.id, scheme, start.to, ptr.map(Line::as_str));
        let protocol = if start.lmtp {
            Protocol::Lmtp
        } else {
            Protocol::Smtp
        };
        let mut hello = Hello::new(protocol, name.clone());
        hello.tls = tls;
        hello.auth = start.login.clone();
        hello.max_failures = start.max_failures;
        if let Some(most) = start.patience {
            hello.timeouts = hello.timeouts.impatient(most);
        }
        let socket = Socket::tcp(start.to, start.source, hello.timeouts.connect)?;
        self.local = socket.local_addr().map(|addr| addr.ip().to_canonical());
        maillog::mta_connected(start.id);
        let tap = self.tap(&socket);
        let session = Session::open(
            Box::new(socket),
            Opening {
                hello,
                name: start.exchanger.clone(),
                upgrade: secure.map(|secure| secure as &dyn Upgrade),
                tap,
            },
        );
        if let Some(facts) = secure.and_then(Secure::facts) {
            maillog::mta_tls(start.id, &facts.ciphers);
            let shown = facts.peer.as_ref();
            let shown = shown.map(|peer| (peer.valid, peer.fingerprint.as_str()));
            maillog::mta_cert_check(start.id, shown);
        }
        session
    }

    /// Who hears what happens on a connection: the trace, and the programs of the action's filters.
    fn tap(&self, socket: &Socket) -> Option<Tap> {
        let start = self.start;
        let filter = start
            .configured
            .action(&start.action)
            .and_then(|action| action.filter.as_ref());
        let chain = filter.and_then(|name| start.configured.filters.chain(name));
        let reports = chain.map(|chain| {
            let name = start.ptr.get();
            Reports::of(chain, start.id, name, socket.local_addr(), start.to)
        });
        if reports.is_none() && !self.is_traced() {
            return None;
        }
        let mut trace = self.trace();
        Some(Box::new(move |event| {
            trace(&event);
            if let Some(reports) = &reports {
                reports.hear(&event);
            }
        }))
    }

    fn is_traced(&self) -> bool {
        let peer = &Peer::inet(self.start.to.ip());
        log::tracing_of(Trace::Mta, &Subject { peer, tag: None })
    }

    /// Puts both sides' words into the log, while they are traced.
    fn trace(&self) -> impl FnMut(&client::Event) + Send + use<> {
        let (id, peer) = (self.start.id, Peer::inet(self.start.to.ip()));
        move |event| {
            let host = Subject {
                peer: &peer,
                tag: None,
            };
            let tell = |line: Arguments<'_>| log::trace_of(Trace::Mta, &host, line);
            match event {
                client::Event::Client(line) => tell(format_args!("mta: {id}: >>> {line}")),
                client::Event::Server(reply) => tell(format_args!("mta: {id}: <<< {reply}")),
                _ => {}
            }
        }
    }

    fn failed(&self, failure: &SessionError) -> End {
        maillog::mta_error(self.start.id, 0, &failure.text);
        match failure.stage {
            Stage::Source => End::Source(failure.text.clone()),
            Stage::NoWay => End::NoWay(self.told(failure)),
            _ if failure.is_of_the_demand() => End::Unfit(self.told(failure)),
            _ => End::Failed(self.told(failure)),
        }
    }

    /// What a message hears of a session that did not come to be: which host, and in its words.
    fn told(&self, failure: &SessionError) -> Outcome {
        let start = self.start;
        let address = Bracketed(start.to.ip()).to_string();
        let name = start.exchanger.as_str();
        let host = if literal::parse_or_bare(name).is_some() {
            address
        } else {
            format!("{name} ({address})")
        };
        let said = Line::sanitize(format!("{host}: {failure}").as_bytes());
        let usual = match failure.stage {
            Stage::StartTls | Stage::Handshake | Stage::Auth => Status::new(4, 7, 0),
            _ => Status::new(4, 4, 1),
        };
        let Some(reply) = &failure.reply else {
            return Outcome::temp(usual, said);
        };
        // Another host, or the same one later, may think otherwise: it is temporary whatever it
        // says.
        let status = reply
            .status()
            .map_or(usual, |said| Status { class: 4, ..said });
        Outcome::temp(status, said).by(Remote {
            name: start.exchanger.clone(),
            dsn: DsnOffer::NotOffered,
        })
    }

    /// Does as it is told until the session ends, or nobody tells it any more.
    fn serve(&self, mut session: Session, orders: &Orders) -> End {
        let mut at_hand = AtHand {
            worker: self,
            orders,
            letter: None,
        };
        let (mut sent, mut broke) = (0, false);
        let mut since = Instant::now();
        loop {
            // One that follows another in one go is under way since that one's end.
            let follows = session.is_under_way();
            let letter = match at_hand.letter.take() {
                Some(letter) => letter,
                None => match orders.next() {
                    Order::Send(load) => {
                        since = Instant::now();
                        self.letter(load, session.extensions())
                    }
                    Order::Quit => break,
                },
            };
            if !follows && !session.can_take_more() {
                // It went while it was idle and has seen nothing of this message.
                return self.closed(sent, "Connection closed unexpectedly");
            }
            if sent > 0 && self.start.transaction_delay_s > 0 {
                let delay = Duration::from_secs(self.start.transaction_delay_s.into());
                thread::sleep(delay);
            }
            if !session.is_watched() && self.is_traced() {
                let mut trace = self.trace();
                session.watch(Box::new(move |event| trace(&event)));
            }
            let (began, opened) = match sent {
                0 => (self.began, self.opening),
                _ => (Timestamp::now(), Opened::default()),
            };
            sent += 1;
            let Transacted { settled, untried } = self.send(&mut session, &letter, &mut at_hand);
            self.tell(&letter, &settled);
            let time = since.elapsed();
            if !settled.is_empty() {
                self.tell_delays(&letter, began, opened, time);
            }
            broke |= session.failure().is_some() && !settled.is_empty();
            let goes_on = at_hand.letter.is_some() || session.can_take_more();
            let in_step = if session.is_out_of_step() {
                Some(false)
            } else {
                (follows && !settled.is_empty()).then_some(true)
            };
            let done = Sent {
                settled,
                untried: untried.iter().map(|rcpt| rcpt.id).collect(),
                next: if goes_on { Next::More } else { Next::Over },
                time,
                in_step,
            };
            since = Instant::now();
            let _ = self.tools.events.send(Event::Done(self.start.id, done));
            if at_hand.letter.is_some() {
                continue;
            }
            if let Some(failure) = session.failure() {
                let messages = u32::try_from(session.accepted()).unwrap_or(u32::MAX);
                maillog::mta_error(self.start.id, messages, &failure.text);
                return if broke {
                    End::Failed(self.told(failure))
                } else {
                    self.closed(sent - 1, &failure.text)
                };
            }
            if session.rejects_all() {
                maillog::mta_rejects_all(self.start.id);
                break;
            }
            if !goes_on {
                // Its LIMITS, or the many recipients that it has refused.
                break;
            }
        }
        let messages = u32::try_from(session.accepted()).unwrap_or(u32::MAX);
        session.quit();
        maillog::mta_disconnected(self.start.id, messages);
        End::Quit
    }

    /// The host has closed the connection between two messages, as hosts do after a while, or
    /// before the first one.
    fn closed(&self, sent: usize, text: &str) -> End {
        match sent {
            0 => End::Failed(self.told(&SessionError::new(Stage::Session, text))),
            _ => End::Quit,
        }
    }

    fn send(&self, session: &mut Session, letter: &Letter, at_hand: &mut AtHand<'_>) -> Transacted {
        match letter.message() {
            Some(message) => session.transaction_with(&message, letter.recipients(), Some(at_hand)),
            None => Transacted {
                settled: letter.load.envelopes.iter().map(no_message).collect(),
                untried: Vec::new(),
            },
        }
    }

    fn letter(&self, load: Arc<Load>, offered: &Extensions) -> Letter {
        let sender = self.sender(&load);
        Letter::open(&self.tools.queue, load, sender, offered)
    }

    /// The reverse-path: rewritten if we forward the message and have to answer for it.
    fn sender(&self, load: &Load) -> MailAddr {
        let rewritten = match (&self.start.configured.config().srs, &load.srs) {
            (Some(srs), Some(domain)) => srs.keys().encode(&load.sender, domain, Timestamp::now()),
            _ => None,
        };
        rewritten.unwrap_or_else(|| load.sender.clone())
    }

    fn tell_delays(&self, letter: &Letter, began: Timestamp, opened: Opened, time: Duration) {
        let Some(first) = letter.load.envelopes.first() else {
            return;
        };
        let delays = Delays {
            queue_s: began.since(first.created),
            connect: opened.connect,
            tls: opened.tls,
            send: time,
        };
        maillog::mta_delays(self.start.id, first.id.msgid(), &delays);
    }

    fn tell(&self, letter: &Letter, settled: &[(EvpId, Outcome)]) {
        let now = Timestamp::now();
        let address = Bracketed(self.start.to.ip());
        let ptr = self.start.ptr.get().and_then(|found| found.name.as_ref());
        let relay = match ptr {
            Some(name) => format!("{address} ({name})"),
            None => address.to_string(),
        };
        for (id, outcome) in settled {
            let envelopes = &letter.load.envelopes;
            let Some(envelope) = envelopes.iter().find(|e| e.id == *id) else {
                continue;
            };
            let delivery = Delivery {
                session: self.start.id,
                envelope,
                sender: &letter.sender,
                source: self.local,
                relay: &relay,
                result: result_word(outcome.verdict),
                stat: &outcome.text,
            };
            maillog::mta_delivery(&delivery, now);
        }
    }
}

/// The message that comes next, from when the session has taken it.
struct AtHand<'a> {
    worker: &'a Worker<'a>,
    orders: &'a Orders,
    letter: Option<Letter>,
}

impl Follow for AtHand<'_> {
    fn next(&mut self, offered: &Extensions) -> Option<(Message<'_>, Vec<Recipient>)> {
        let letter = self.worker.letter(self.orders.at_hand()?, offered);
        let letter = self.letter.insert(letter);
        Some((letter.message()?, letter.recipients()))
    }
}

fn no_message(envelope: &Envelope) -> (EvpId, Outcome) {
    let text = text("Could not get message fd");
    (envelope.id, Outcome::temp(Status::new(4, 3, 0), text))
}

fn text(text: &str) -> Line {
    Line::sanitize(text.as_bytes())
}
