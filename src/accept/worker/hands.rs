//! What a worker does with the connection whose turn it is.
//!
//! It reads and writes as much as the socket takes, lets the session answer, and passes on what the
//! session asks. It knows nothing of other connections.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::{Interest, Poll, Registry};

use crate::accept::conn::{Conn, Prelude, Wants};
use crate::accept::header;
use crate::accept::slab::ConnId;
use crate::accept::{Door, TOO_MANY, millis, would_block};
use crate::filter;
use crate::log::{self, Trace, maillog, stat};
use crate::mail::Peer;
use crate::session::{Answer, Disconnect, Next, Question, Store, TlsFacts};
use crate::smtp::proxy::Client;
use crate::sys::errno::strerror;
use crate::sys::socket::EVENTS_ARE_THE_SYSTEMS;
use crate::tls::server::{Handshake, HandshakeError, Step};
use crate::util::{Line, Zeroize};

use super::{Inbox, Letter, Shared, token};

/// What it handles a connection with.
pub(super) struct Hands {
    pub(super) poll: Poll,
    pub(super) inbox: Arc<Inbox>,
    pub(super) shared: Arc<Shared>,
    pub(super) now_ms: u64,
    pub(super) turn_began: Instant,
    pub(super) input: Vec<u8>,
    pub(super) output: Vec<u8>,
    /// How much of the output is written.
    pub(super) written: usize,
    pub(super) chunk: Vec<u8>,
}

/// Where a connection is after its turn.
pub(super) enum Rest {
    /// It waits for its peer.
    Parked,
    /// It waits for an answer.
    Asking,
    /// It has more to do, after the others.
    Again,
    /// Its session is over.
    Over(Disconnect),
}

impl Hands {
    /// Writes, then reads, then lets the session answer; a session is not fed before its replies
    /// are on their way. An error is the end of the session.
    pub(super) fn work(&mut self, id: ConnId, conn: &mut Conn) -> Result<Rest, Disconnect> {
        for _ in 0..self.shared.limits.turns {
            if conn.wants.is_answer() {
                // What there is to say is said with the answer, in one go.
                return Ok(Rest::Asking);
            }
            if self.write(id, conn)? == Io::WouldBlock {
                return Ok(Rest::Parked);
            }
            match conn.wants {
                Wants::Header => {
                    if self.read_header(conn)? == Io::WouldBlock {
                        return Ok(Rest::Parked);
                    }
                    continue;
                }
                Wants::Handshake => {
                    if self.shake_hands(id, conn)? == Io::WouldBlock {
                        return Ok(if conn.wants.is_answer() {
                            Rest::Asking
                        } else {
                            Rest::Parked
                        });
                    }
                    continue;
                }
                Wants::Open => {
                    let next = conn.session.open(&mut self.output);
                    self.follow(id, conn, next);
                    continue;
                }
                Wants::Close => {
                    self.linger(conn);
                    return Ok(Rest::Over(Disconnect::Quit));
                }
                Wants::Input => {
                    if self.read(id, conn)? == Io::WouldBlock {
                        return Ok(Rest::Parked);
                    }
                }
                Wants::Turn | Wants::Answer | Wants::Disk | Wants::Signature => {}
            }
            self.receive(id, conn);
            if self.turn_began.elapsed() >= self.shared.limits.slice {
                break;
            }
        }
        Ok(if conn.wants.is_answer() {
            Rest::Asking
        } else {
            Rest::Again
        })
    }

    /// Reads who the client of a proxy is; the session begins then.
    fn read_header(&mut self, conn: &mut Conn) -> Result<Io, Disconnect> {
        let Prelude::Header(proxied) = &mut conn.prelude else {
            return Err(Disconnect::Hangup);
        };
        let (header, door) = &mut **proxied;
        if conn.prelude_ms == 0 {
            conn.prelude_ms = self.now_ms + millis(self.shared.limits.prelude);
        }
        match header.read(&mut conn.stream.socket) {
            Ok(header::Progress::WouldBlock) => {
                conn.readable = false;
                return Ok(Io::WouldBlock);
            }
            Ok(header::Progress::Known(Client::Proxy)) => {}
            Ok(header::Progress::Known(Client::At(client))) => {
                let door = door.clone();
                if !self.comes_for(conn, client, &door) {
                    self.turn_away(conn);
                    return Ok(Io::Done);
                }
            }
            Err(failure) => {
                let (id, peer) = (conn.session.id(), conn.session.peer());
                maillog::smtp_proxy_closed(id, peer, &failure.to_string());
                return Err(Disconnect::Hangup);
            }
        }
        conn.prelude = Prelude::None;
        conn.wants = Wants::Open;
        Ok(Io::Done)
    }

    /// From now on the client is counted, not its proxy. False if there are too many of it.
    fn comes_for(&mut self, conn: &mut Conn, client: SocketAddr, door: &Door) -> bool {
        let (census, limits) = (&self.shared.census, &self.shared.limits);
        conn.session.comes_for(Peer::inet(client.ip()));
        conn.session.came_from_port(client.port());
        let source = census.let_in(conn.session.peer(), client.ip(), door, limits);
        if let Some(source) = source {
            census.leave(std::mem::replace(&mut conn.source, source));
        }
        source.is_some()
    }

    /// There are too many of the client. Whoever expects TLS would not understand it.
    fn turn_away(&mut self, conn: &mut Conn) {
        let (id, peer) = (conn.session.id(), conn.session.peer());
        maillog::smtp_proxy_closed(id, peer, "too many connections");
        if !conn.session.opens_with_tls() {
            self.output.extend_from_slice(TOO_MANY);
        }
        conn.prelude = Prelude::None;
        conn.wants = Wants::Close;
    }

    /// Goes on with TLS, up to where it has to wait.
    fn shake_hands(&mut self, id: ConnId, conn: &mut Conn) -> Result<Io, Disconnect> {
        let Prelude::Handshake(handshake) = &mut conn.prelude else {
            return Err(Disconnect::Hangup);
        };
        let step = handshake.advance(&mut conn.stream.socket);
        match step.map_err(|failure| no_tls(conn, failure))? {
            Step::Read => {
                // As with any read that has found nothing; over poll(2) it is watched anew.
                conn.clogged = false;
                conn.readable = false;
                self.watch(id, conn, Interest::READABLE)?;
                Ok(Io::WouldBlock)
            }
            Step::Write => {
                conn.clogged = true;
                self.watch(id, conn, Interest::READABLE | Interest::WRITABLE)?;
                Ok(Io::WouldBlock)
            }
            Step::Sign => self.have_signed(id, conn).map(|()| Io::WouldBlock),
            Step::Done => {
                let prelude = std::mem::replace(&mut conn.prelude, Prelude::None);
                let secured = match prelude {
                    Prelude::Handshake(handshake) => handshake.finish(),
                    _ => None,
                };
                let secured = secured.ok_or(Disconnect::Hangup)?;
                let line = |text: &str| Line::sanitize(text.as_bytes());
                let facts = secured.facts();
                let facts = TlsFacts {
                    ciphers: line(&facts.ciphers),
                    certificate: facts.peer.as_ref().map(|peer| line(&peer.fingerprint)),
                };
                conn.stream.tls = Some(Box::new(secured));
                // There may be more on the socket, and in what has been decrypted.
                conn.readable = true;
                conn.progress.moved = true;
                conn.tls_stat().inc();
                let next = self.tell(conn, Answer::Secured(facts));
                self.follow(id, conn, next);
                Ok(Io::Done)
            }
        }
    }

    /// Brings a handshake to those who may wait for its signature.
    fn have_signed(&mut self, id: ConnId, conn: &mut Conn) -> Result<(), Disconnect> {
        let Prelude::Handshake(mut handshake) = std::mem::replace(&mut conn.prelude, Prelude::None)
        else {
            return Err(Disconnect::Hangup);
        };
        conn.question = conn.question.wrapping_add(1);
        conn.wants = Wants::Signature;
        conn.deadline_ms = conn.prelude_ms;
        let (inbox, number) = (self.inbox.clone(), conn.question);
        let job = move || {
            let signed = handshake.sign();
            inbox.send(Letter::Signed(id, number, handshake, signed));
        };
        let brought = self.shared.signers.bring(Box::new(job));
        brought.map_err(|_| {
            log::warn(format_args!(
                "smtp: too many handshakes wait for a signature"
            ));
            Disconnect::IoError("tls: too many handshakes at a time".to_owned())
        })
    }

    fn receive(&mut self, id: ConnId, conn: &mut Conn) {
        let (input, output) = (&mut self.input, &mut self.output);
        let before = input.len();
        let next = conn.session.receive(input, output, &*self.shared.services);
        self.clean_up(conn);
        let (input, output) = (&self.input, &self.output);
        let took_nothing = output.is_empty() && input.len() == before;
        self.follow(id, conn, next);
        if conn.wants == Wants::Turn && took_nothing {
            // It has nothing to send and took nothing: only more bytes can change that.
            conn.wants = Wants::Input;
        }
    }

    /// Lets a session go on with an answer.
    pub(super) fn go_on(&mut self, id: ConnId, conn: &mut Conn, answer: Answer) {
        self.take_up(conn);
        let next = self.tell(conn, answer);
        self.follow(id, conn, next);
        self.put_down(conn);
    }

    fn tell(&mut self, conn: &mut Conn, answer: Answer) -> Next {
        let (input, output) = (&mut self.input, &mut self.output);
        let services = &*self.shared.services;
        let next = conn.session.answered(answer, input, output, services);
        self.clean_up(conn);
        next
    }

    /// Has what is left of a refused message removed.
    fn clean_up(&self, conn: &mut Conn) {
        if let Some(unfinished) = conn.session.take_unfinished() {
            self.let_go(move || drop(unfinished));
        }
    }

    /// Notes what a connection goes on with, and asks what its session wants to know.
    fn follow(&mut self, id: ConnId, conn: &mut Conn, mut next: Next) {
        conn.wants = loop {
            break match next {
                Next::Read => Wants::Input,
                Next::Flush => Wants::Turn,
                Next::Wait => conn.wants,
                Next::Ask(Question::Tls) => self.begin_tls(conn),
                Next::Close => Wants::Close,
                Next::Ask(question) => {
                    if let Some(answer) = self.answer_at_once(&question) {
                        next = self.tell(conn, answer);
                        continue;
                    }
                    match self.ask(id, conn, question) {
                        Some(wants) => wants,
                        None => {
                            log::warn(format_args!("smtp: too many questions wait for an answer"));
                            next = self.tell(conn, Answer::TooLate);
                            continue;
                        }
                    }
                }
            };
        };
        conn.progress.replied |= !self.output.is_empty();
    }

    /// The session wants TLS. Its replies go out first, in clear text.
    fn begin_tls(&mut self, conn: &mut Conn) -> Wants {
        let Some(server) = &conn.server else {
            return Wants::Close;
        };
        conn.prelude = Prelude::Handshake(Box::new(Handshake::new(server.clone())));
        conn.prelude_ms = self.now_ms + millis(self.shared.limits.prelude);
        Wants::Handshake
    }

    /// The answer to a question that nobody has to wait for, unless this turn has lasted for a
    /// while: the others are to have theirs.
    fn answer_at_once(&self, question: &Question) -> Option<Answer> {
        if self.turn_began.elapsed() >= AT_ONCE {
            return None;
        }
        match question {
            Question::Name(address) => self.shared.resolver.recent(*address).map(Answer::Name),
            Question::Lookup(lookup) => lookup.answer_at_once(&*self.shared.services),
            _ => None,
        }
    }

    /// Brings a question to whoever answers it; `None` if they have too much to do.
    fn ask(&mut self, id: ConnId, conn: &mut Conn, question: Question) -> Option<Wants> {
        conn.question = conn.question.wrapping_add(1);
        let (inbox, services) = (self.inbox.clone(), self.shared.services.clone());
        let number = conn.question;
        let limits = &self.shared.limits;
        let (wants, patience, brought) = match question {
            Question::Name(address) => {
                let reply = move |found| inbox.answer(id, number, Answer::Name(found));
                self.shared.resolver.reverse(address, Box::new(reply));
                let patience = match conn.session.needs_name() {
                    true => limits.resolve_needed,
                    false => limits.resolve,
                };
                (Wants::Answer, patience, Ok(()))
            }
            Question::Lookup(lookup) => {
                let job = move || inbox.answer(id, number, lookup.answer(&*services));
                let brought = self.shared.lookups.bring(Box::new(job));
                (Wants::Answer, limits.lookup, brought.map_err(drop))
            }
            // Whoever goes on with a session begins it.
            Question::Tls => return None,
            Question::Password(login) => {
                let reply = move |verdict| inbox.answer(id, number, Answer::Password(verdict));
                let job = move || services.check_password(login, Box::new(reply));
                let brought = self.shared.lookups.bring(Box::new(job));
                (Wants::Answer, limits.password, brought.map_err(drop))
            }
            Question::Store(Store::HandOver(message)) => {
                self.shared.committers.insist(Box::new(move || {
                    services.committed(message);
                    inbox.answer(id, number, Answer::HandedOver);
                }));
                (Wants::Answer, limits.store, Ok(()))
            }
            Question::Pause(time) => (Wants::Answer, time, Ok(())),
            Question::Store(Store::Commit(message)) if message.is_small() => {
                let asked = Instant::now();
                let reply = move |answer| {
                    stat::SMTP_COMMIT.took_ms(millis(asked.elapsed()));
                    inbox.answer(id, number, answer);
                };
                let waiting = (message, Box::new(reply) as Box<_>);
                let shared = &self.shared;
                let brought = shared.committer.bring(waiting, &shared.committers);
                (Wants::Disk, limits.store, brought.then_some(()).ok_or(()))
            }
            Question::Store(store) => {
                let is_commit = matches!(store, Store::Commit(_));
                let asked = Instant::now();
                let job = move || {
                    let answer = store.answer(&*services);
                    if is_commit {
                        stat::SMTP_COMMIT.took_ms(millis(asked.elapsed()));
                    }
                    inbox.answer(id, number, answer);
                };
                let brought = self.shared.committers.bring(Box::new(job));
                let refused = brought.map_err(|job| self.let_go(move || drop(job)));
                (Wants::Disk, limits.store, refused)
            }
            Question::Filter(question) => {
                question.send(Box::new(move |answer| inbox.answer(id, number, answer)));
                (Wants::Answer, filter::WAIT, Ok(()))
            }
        };
        conn.deadline_ms = self.now_ms + millis(patience);
        brought.ok().map(|()| wants)
    }

    /// The session that has asked is gone, or has been told that the answer is late. A message that
    /// became durable after its client was refused must not be delivered: the client sends it
    /// again.
    pub(super) fn nobody_waits_for(&self, answer: Answer) {
        match answer {
            Answer::Committed(Ok(accepted)) => {
                let services = self.shared.services.clone();
                self.let_go(move || services.withdraw(accepted.committed));
            }
            Answer::Written(writing) => self.let_go(move || drop(writing)),
            _ => {}
        }
    }

    /// Has something removed from the disk.
    pub(super) fn let_go(&self, job: impl FnOnce() + Send + 'static) {
        self.shared.committers.insist(Box::new(job));
    }

    pub(super) fn take_up(&mut self, conn: &mut Conn) {
        self.turn_began = Instant::now();
        self.input.clear();
        self.input.extend_from_slice(&conn.input);
        if conn.session.hears_secrets() {
            conn.input.zeroize();
        }
        conn.input = Vec::new();
        self.output.clear();
        self.output.extend_from_slice(&conn.output);
        conn.output = Vec::new();
        self.written = 0;
    }

    pub(super) fn put_down(&mut self, conn: &mut Conn) {
        conn.input = self.input.as_slice().into();
        conn.output = self.output.get(self.written..).unwrap_or_default().into();
        if conn.session.hears_secrets() {
            self.input.as_mut_slice().zeroize();
        }
        for buffer in [&mut self.input, &mut self.output] {
            buffer.clear();
            buffer.shrink_to(KEPT_BYTES);
        }
    }

    fn read(&mut self, id: ConnId, conn: &mut Conn) -> Result<Io, Disconnect> {
        if !conn.readable {
            return Ok(Io::WouldBlock);
        }
        match retry(|| conn.stream.read(&mut self.chunk)) {
            Ok(0) => Err(Disconnect::Hangup),
            Ok(count) => {
                // What fills less than it might has emptied the socket, and more is another event.
                let may_have_more =
                    conn.stream.tls.is_some() || conn.ended || !EVENTS_ARE_THE_SYSTEMS;
                conn.readable = count == self.chunk.len() || may_have_more;
                self.input.extend_from_slice(&self.chunk[..count]);
                if conn.session.hears_secrets() {
                    self.chunk[..count].zeroize();
                }
                conn.progress.moved = true;
                conn.progress.received_bytes += count;
                conn.session.trace(
                    Trace::Io,
                    format_args!("io: {}: read {count} bytes", conn.stream),
                );
                Ok(Io::Done)
            }
            Err(error) if would_block(&error) => {
                conn.readable = false;
                self.see_to(id, conn, &error)?;
                Ok(Io::WouldBlock)
            }
            Err(error) => Err(Disconnect::IoError(strerror(&error))),
        }
    }

    fn write(&mut self, id: ConnId, conn: &mut Conn) -> Result<Io, Disconnect> {
        while let Some(rest) = self.output.get(self.written..)
            && !rest.is_empty()
        {
            match retry(|| conn.stream.write(rest)) {
                Ok(0) => return Err(Disconnect::Hangup),
                Ok(count) => {
                    self.written += count;
                    conn.session.trace(
                        Trace::Io,
                        format_args!("io: {}: wrote {count} bytes", conn.stream),
                    );
                    conn.progress.moved = true;
                }
                Err(error) if would_block(&error) => {
                    if !std::mem::replace(&mut conn.clogged, true) {
                        self.watch(id, conn, Interest::READABLE | Interest::WRITABLE)?;
                    } else {
                        self.see_to(id, conn, &error)?;
                    }
                    return Ok(Io::WouldBlock);
                }
                Err(error) => return Err(Disconnect::IoError(strerror(&error))),
            }
        }
        self.output.clear();
        self.written = 0;
        match retry(|| conn.stream.flush()) {
            Ok(()) => {}
            Err(error) if would_block(&error) => {
                conn.clogged = true;
                self.watch(id, conn, Interest::READABLE | Interest::WRITABLE)?;
                return Ok(Io::WouldBlock);
            }
            Err(error) => return Err(Disconnect::IoError(strerror(&error))),
        }
        if !conn.wants.is_mute() && std::mem::take(&mut conn.clogged) {
            self.watch(id, conn, Interest::READABLE)?;
        }
        Ok(Io::Done)
    }

    /// Over poll(2), mio says that a socket is not there when it has taken it out because its peer
    /// is gone: it is put in again, which brings an event at once.
    fn see_to(&self, id: ConnId, conn: &mut Conn, error: &io::Error) -> Result<(), Disconnect> {
        match error.kind() {
            io::ErrorKind::NotFound => {
                let interest = if conn.clogged {
                    Interest::READABLE | Interest::WRITABLE
                } else {
                    Interest::READABLE
                };
                self.watch(id, conn, interest)
            }
            _ => Ok(()),
        }
    }

    fn watch(&self, id: ConnId, conn: &mut Conn, interest: Interest) -> Result<(), Disconnect> {
        let registry: &Registry = self.poll.registry();
        conn.watch(registry, token(id.index()), interest)
            .map_err(|error| Disconnect::IoError(strerror(&error)))
    }

    /// Writes what the socket takes at once, and lets the peer read it.
    pub(super) fn say_goodbye(&mut self, conn: &mut Conn) {
        if conn.wants.is_mute() {
            return;
        }
        let rest = self.output.get(self.written..).unwrap_or_default();
        if matches!(retry(|| conn.stream.write(rest)), Ok(count) if count == rest.len()) {
            self.linger(conn);
        }
    }

    /// Makes it likely that the last reply is read: closing a socket with unread bytes makes the
    /// kernel send a reset, which overtakes what is on its way. A client that has said QUIT has
    /// nothing more to say; over TLS it is told that this is the end in any case.
    fn linger(&mut self, conn: &mut Conn) {
        if !conn.readable && EVENTS_ARE_THE_SYSTEMS && conn.stream.tls.is_none() {
            return;
        }
        conn.stream.finish();
        for _ in 0..LINGER_READS {
            if !matches!(conn.stream.read(&mut self.chunk), Ok(count) if count > 0) {
                return;
            }
        }
    }
}

/// Why the session ends for want of TLS.
pub(super) fn no_tls(conn: &Conn, failure: HandshakeError) -> Disconnect {
    match failure {
        HandshakeError::HungUp => Disconnect::Hangup,
        HandshakeError::Ours(why) => {
            let id = conn.session.id();
            log::warn(format_args!("smtp: session {id}: tls: {why}"));
            Disconnect::IoError(why)
        }
        failure => Disconnect::IoError(failure.to_string()),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Io {
    Done,
    WouldBlock,
}
fn retry<V>(mut call: impl FnMut() -> io::Result<V>) -> io::Result<V> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            result => return result,
        }
    }
}

/// What a worker keeps of its buffers between turns.
const KEPT_BYTES: usize = 256 * 1024;
const LINGER_READS: usize = 8;
/// For so long a turn answers its own questions.
const AT_ONCE: Duration = Duration::from_millis(1);
