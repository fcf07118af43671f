//! A worker owns its sessions from admission to close, and waits for nothing but events.
//!
//! Each worker is a thread with a poll, timers and a table of connections of its own; no other
//! thread touches them. Letters come in through its [`Inbox`]: connections that are its own from
//! now on, and answers to what its sessions have asked. A session that has asked is parked: its
//! socket is not read until the answer comes, or until the time for it is over. What may wait for
//! somebody else is done by the resolver and two [`Pool`]s, never here.
//!
//! A busy session gives way to the others after [`Limits::turns`] or [`Limits::slice`], whichever
//! comes first. The two buffers that busy sessions use belong to the worker, so that parked ones
//! need none.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use mio::event::Event;
use mio::{Events, Interest, Poll, Registry, Token};

use crate::dns;
use crate::filter;
use crate::log::{self, Trace, maillog, stat};
use crate::mail::Peer;
use crate::session::{Answer, Disconnect, Next, Question, Services, Store, TlsFacts};
use crate::smtp::proxy::Client;
use crate::sys::bell::Bell;
use crate::sys::errno::strerror;
use crate::sys::socket::EVENTS_ARE_THE_SYSTEMS;
use crate::tls::server::{Failure, Handshake, Step};
use crate::util::{Line, Zeroize};

use super::census::Census;
use super::conn::{Conn, Prelude, Wants};
use super::header;
use super::limits::Limits;
use super::pool::Pool;
use super::slab::{ConnId, Slab};
use super::source::{Entry, Source};
use super::timers::Timers;
use super::{millis, would_block};

/// What all workers work with.
pub(super) struct Shared {
    pub(super) services: Arc<dyn Services>,
    pub(super) resolver: dns::Handle,
    /// Waits for tables and the parent.
    pub(super) lookups: Pool,
    /// Waits for the process that holds the keys.
    pub(super) signers: Pool,
    /// Waits for the disk.
    pub(super) committers: Pool,
    pub(super) census: Arc<Census>,
    pub(super) limits: Limits,
}

/// How others reach a worker.
pub(super) struct Inbox {
    letters: Mutex<Vec<Letter>>,
    bell: Bell,
    stop: AtomicBool,
    /// Connections that it has, or is about to have.
    held: AtomicUsize,
}

/// What a worker is told. There are no more of them than sessions and questions.
enum Letter {
    /// This connection is its own from now on.
    Admitted(Box<Conn>),
    /// The answer to the question with this number.
    Answered(ConnId, u32, Answer),
    /// A handshake, with the signature that it wanted or with the reason why there is none.
    Signed(ConnId, u32, Box<Handshake>, Signed),
}

/// What came of a signature, and what the peer is to be told when there is none.
type Signed = Result<(), (Failure, Vec<u8>)>;

impl Inbox {
    /// Gives the worker a connection for life.
    pub(super) fn admit(&self, conn: Box<Conn>) {
        self.held.fetch_add(1, Ordering::Relaxed);
        self.send(Letter::Admitted(conn));
    }

    /// How many connections it has.
    pub(super) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Lets it tell its sessions that the service ends, and end with the last of them.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.bell.ring();
    }

    fn answer(&self, id: ConnId, question: u32, answer: Answer) {
        self.send(Letter::Answered(id, question, answer));
    }

    fn send(&self, letter: Letter) {
        self.lock().push(letter);
        self.bell.ring();
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Letter>> {
        self.letters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A worker thread's own.
pub(super) struct Worker {
    conns: Slab<Box<Conn>>,
    timers: Timers,
    /// Connections that have something to do.
    line: VecDeque<usize>,
    hands: Hands,
    /// When it ends, whoever is still there.
    stopping_ms: Option<u64>,
    started: Instant,
}

/// What it handles a connection with.
struct Hands {
    poll: Poll,
    inbox: Arc<Inbox>,
    shared: Arc<Shared>,
    now_ms: u64,
    input: Vec<u8>,
    output: Vec<u8>,
    /// How much of the output is written.
    written: usize,
    chunk: Vec<u8>,
}

/// Where a connection is after its turn.
enum Rest {
    /// It waits for its peer.
    Parked,
    /// It waits for an answer.
    Asking,
    /// It has more to do, after the others.
    Again,
    /// Its session is over.
    Over(Disconnect),
}

impl Worker {
    /// Starts the thread. `alive` is dropped when it ends.
    pub(super) fn start(
        number: usize,
        shared: Arc<Shared>,
        alive: Sender<()>,
    ) -> io::Result<Arc<Inbox>> {
        let poll = Poll::new()?;
        let inbox = Arc::new(Inbox {
            letters: Mutex::default(),
            bell: Bell::new(poll.registry(), BELL)?,
            stop: AtomicBool::new(false),
            held: AtomicUsize::new(0),
        });
        let worker = Worker {
            conns: Slab::new(),
            timers: Timers::new(),
            line: VecDeque::new(),
            hands: Hands {
                poll,
                inbox: inbox.clone(),
                now_ms: 0,
                input: Vec::new(),
                output: Vec::new(),
                written: 0,
                chunk: vec![0; shared.limits.read_bytes],
                shared,
            },
            stopping_ms: None,
            started: Instant::now(),
        };
        thread::Builder::new()
            .name(format!("session {number}"))
            .spawn(move || {
                worker.run();
                drop(alive);
            })?;
        Ok(inbox)
    }

    fn run(mut self) {
        let mut events = Events::with_capacity(EVENTS);
        loop {
            if self.stopping_ms.is_none() && self.hands.inbox.stop.load(Ordering::Acquire) {
                self.stop();
            }
            if self.is_over() {
                break;
            }
            let patience = self.patience();
            match self.hands.poll.poll(&mut events, patience) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                result => result.expect("a poll of our own can be waited for"),
            }
            self.hands.now_ms = self.started.elapsed().as_millis() as u64;
            for event in &events {
                match event.token() {
                    BELL => self.hands.inbox.bell.hush(),
                    token => self.on_event(token.0 - FIRST_CONN, event),
                }
            }
            self.read_letters();
            self.expire();
            for _ in 0..self.line.len() {
                if let Some(index) = self.line.pop_front() {
                    self.turn(index);
                }
            }
        }
        for index in self.conns.indices() {
            if let Some(conn) = self.conns.remove(index) {
                self.hands.shared.census.leave(conn.source);
            }
        }
    }

    fn patience(&self) -> Option<Duration> {
        if !self.line.is_empty() {
            return Some(Duration::ZERO);
        }
        let at_ms = [self.timers.next_ms(), self.stopping_ms];
        let at_ms = at_ms.into_iter().flatten().min()?;
        Some(Duration::from_millis(
            at_ms.saturating_sub(self.hands.now_ms),
        ))
    }

    fn on_event(&mut self, index: usize, event: &Event) {
        let Some(conn) = self.conns.get_mut(index) else {
            return;
        };
        conn.readable |= event.is_readable() || event.is_read_closed() || event.is_error();
        conn.ended |= event.is_read_closed() || event.is_error();
        if !conn.wants.is_answer() {
            self.put_in_line(index);
        }
    }

    fn put_in_line(&mut self, index: usize) {
        if let Some(conn) = self.conns.get_mut(index)
            && !std::mem::replace(&mut conn.in_line, true)
        {
            self.line.push_back(index);
        }
    }

    fn read_letters(&mut self) {
        let letters = std::mem::take(&mut *self.hands.inbox.lock());
        for letter in letters {
            match letter {
                Letter::Admitted(conn) => self.admit(conn),
                Letter::Answered(id, question, answer) => self.answered(id, question, answer),
                Letter::Signed(id, question, handshake, signed) => {
                    self.signed(id, question, handshake, signed);
                }
            }
        }
    }

    fn admit(&mut self, conn: Box<Conn>) {
        let id = self.conns.insert(conn);
        let index = id.index();
        let Some(conn) = self.conns.get_mut(index) else {
            return;
        };
        match conn.register(self.hands.poll.registry(), token(index)) {
            Ok(()) => self.put_in_line(index),
            Err(error) => self.close(index, Disconnect::IoError(strerror(&error))),
        }
    }

    /// An answer has come. One that comes too late finds nobody.
    fn answered(&mut self, id: ConnId, question: u32, answer: Answer) {
        match self.conns.find(id) {
            Some(conn) if conn.wants.is_answer() && conn.question == question => {
                self.hands.go_on(id, conn, answer);
                self.put_in_line(id.index());
            }
            _ => self.hands.nobody_waits_for(answer),
        }
    }

    /// A handshake is back. The peer may have gone meanwhile.
    fn signed(&mut self, id: ConnId, question: u32, handshake: Box<Handshake>, signed: Signed) {
        let Some(conn) = self.conns.find(id) else {
            return;
        };
        if conn.wants != Wants::Signature || conn.question != question {
            return;
        }
        match signed {
            Ok(()) => {
                conn.prelude = Prelude::Handshake(handshake);
                conn.wants = Wants::Handshake;
                self.put_in_line(id.index());
            }
            Err((failure, last_words)) => {
                // Whoever does not take it at once is not told.
                let _ = conn.stream.socket.write(&last_words);
                let why = no_tls(conn, failure);
                self.close(id.index(), why);
            }
        }
    }

    fn expire(&mut self) {
        while let Some(index) = self.timers.pop(self.hands.now_ms) {
            let Some(id) = self.conns.id(index) else {
                continue;
            };
            let Some(conn) = self.conns.get_mut(index) else {
                continue;
            };
            if conn.in_line {
                // Its turn sets the timer.
            } else if conn.deadline_ms > self.hands.now_ms {
                self.timers.set(index, conn.deadline_ms);
            } else if conn.wants.is_mute() {
                if conn.wants == Wants::Header {
                    let (id, peer) = (conn.session.id(), conn.session.peer());
                    maillog::smtp_proxy_closed(id, peer, "timeout");
                }
                self.close(index, Disconnect::Timeout);
            } else if conn.wants.is_answer() {
                conn.question = conn.question.wrapping_add(1);
                self.hands.go_on(id, conn, Answer::TooLate);
                self.put_in_line(index);
            } else {
                self.hands.take_up(conn);
                conn.session.timeout(&mut self.hands.output);
                self.hands.say_goodbye(conn);
                self.close(index, Disconnect::Timeout);
            }
        }
    }

    /// Lets a connection go on until it has to wait, or others are to come first.
    fn turn(&mut self, index: usize) {
        let (Some(id), Some(conn)) = (self.conns.id(index), self.conns.get_mut(index)) else {
            return;
        };
        conn.in_line = false;
        self.hands.take_up(conn);
        let rest = match self.stopping_ms {
            Some(_) if conn.wants != Wants::Disk => {
                conn.session.shutdown(&mut self.hands.output);
                self.hands.say_goodbye(conn);
                Rest::Over(Disconnect::Quit)
            }
            _ => self.hands.work(id, conn).unwrap_or_else(Rest::Over),
        };
        self.hands.put_down(conn);
        match rest {
            Rest::Parked => {
                conn.wait_for_peer(self.hands.now_ms, &self.hands.shared.limits);
                self.timers.set(index, conn.deadline_ms);
            }
            Rest::Asking => self.timers.set(index, conn.deadline_ms),
            Rest::Again => self.put_in_line(index),
            Rest::Over(why) => self.close(index, why),
        }
    }

    /// Clears the row of a session that is over.
    fn close(&mut self, index: usize, why: Disconnect) {
        let Some(mut conn) = self.conns.remove(index) else {
            return;
        };
        // The descriptor is closed next, which takes it out of the system's list.
        if !EVENTS_ARE_THE_SYSTEMS {
            let _ = self
                .hands
                .poll
                .registry()
                .deregister(&mut conn.stream.socket);
        }
        if conn.stream.tls.is_some() {
            conn.tls_stat().dec();
        }
        let Conn {
            session, source, ..
        } = *conn;
        if let Some(unfinished) = session.close(why) {
            self.hands.let_go(move || drop(unfinished));
        }
        self.hands.inbox.held.fetch_sub(1, Ordering::Relaxed);
        self.hands.shared.census.leave(source);
    }

    // The end.

    /// Tells every session that does not wait for the disk that the service ends.
    fn stop(&mut self) {
        self.stopping_ms = Some(self.hands.now_ms + millis(self.hands.shared.limits.shutdown));
        self.read_letters();
        for index in self.conns.indices() {
            match self.conns.get_mut(index) {
                Some(conn) if conn.wants != Wants::Disk => self.put_in_line(index),
                _ => {}
            }
        }
        for _ in 0..self.line.len() {
            if let Some(index) = self.line.pop_front() {
                self.turn(index);
            }
        }
    }

    fn is_over(&self) -> bool {
        self.stopping_ms
            .is_some_and(|until_ms| self.conns.len() == 0 || until_ms <= self.hands.now_ms)
    }
}

impl Hands {
    /// Writes, then reads, then lets the session answer; a session is not fed before its replies
    /// are on their way. An error is the end of the session.
    fn work(&mut self, id: ConnId, conn: &mut Conn) -> Result<Rest, Disconnect> {
        let begun = Instant::now();
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
                        return Ok(match conn.wants.is_answer() {
                            true => Rest::Asking,
                            false => Rest::Parked,
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
            if begun.elapsed() >= self.shared.limits.slice {
                break;
            }
        }
        Ok(match conn.wants.is_answer() {
            true => Rest::Asking,
            false => Rest::Again,
        })
    }

    /// Reads who the client of a proxy is; the session begins then.
    fn read_header(&mut self, conn: &mut Conn) -> Result<Io, Disconnect> {
        let Prelude::Header(header) = &mut conn.prelude else {
            return Err(Disconnect::Hangup);
        };
        if conn.prelude_ms == 0 {
            conn.prelude_ms = self.now_ms + millis(self.shared.limits.prelude);
        }
        match header.read(&mut conn.stream.socket) {
            Ok(header::Progress::WouldBlock) => {
                conn.readable = false;
                return Ok(Io::WouldBlock);
            }
            Ok(header::Progress::Known(Client::Proxy)) => {}
            Ok(header::Progress::Known(Client::At(address))) => self.comes_for(conn, address)?,
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

    /// From now on the client is counted, not its proxy.
    fn comes_for(&mut self, conn: &mut Conn, address: IpAddr) -> Result<(), Disconnect> {
        let source = Source::of(address);
        let (census, limit) = (&self.shared.census, self.shared.limits.sessions_of(source));
        conn.session.comes_for(Peer::inet(address));
        match census.enter(source, limit) {
            Entry::Counted => {
                census.leave(std::mem::replace(&mut conn.source, source));
                Ok(())
            }
            refused => {
                if refused == Entry::RefusedFirst {
                    let peer = conn.session.peer();
                    log::warn(format_args!("smtp: too many connections from {peer}"));
                }
                Err(Disconnect::Quit)
            }
        }
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
        let took_nothing = output.is_empty() && input.len() == before;
        self.follow(id, conn, next);
        if conn.wants == Wants::Turn && took_nothing {
            // It has nothing to send and took nothing: only more bytes can change that.
            conn.wants = Wants::Input;
        }
    }

    /// Lets a session go on with an answer.
    fn go_on(&mut self, id: ConnId, conn: &mut Conn, answer: Answer) {
        self.take_up(conn);
        let next = self.tell(conn, answer);
        self.follow(id, conn, next);
        self.put_down(conn);
    }

    fn tell(&mut self, conn: &mut Conn, answer: Answer) -> Next {
        let (input, output) = (&mut self.input, &mut self.output);
        conn.session
            .answered(answer, input, output, &*self.shared.services)
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
                Next::Ask(question) => match self.ask(id, conn, question) {
                    Some(wants) => wants,
                    None => {
                        log::warn(format_args!("smtp: too many questions wait for an answer"));
                        next = self.tell(conn, Answer::TooLate);
                        continue;
                    }
                },
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
                (Wants::Answer, limits.resolve, Ok(()))
            }
            Question::Lookup(lookup) => {
                let job = move || inbox.answer(id, number, lookup.answer(&*services));
                let brought = self.shared.lookups.bring(Box::new(job));
                (Wants::Answer, limits.lookup, brought)
            }
            // Whoever goes on with a session begins it.
            Question::Tls => return None,
            Question::Password(login) => {
                let reply = move |verdict| inbox.answer(id, number, Answer::Password(verdict));
                services.check_password(login, Box::new(reply));
                (Wants::Answer, limits.password, Ok(()))
            }
            Question::Store(Store::HandOver(message)) => {
                self.shared.committers.insist(Box::new(move || {
                    services.committed(message);
                    inbox.answer(id, number, Answer::HandedOver);
                }));
                (Wants::Answer, limits.store, Ok(()))
            }
            Question::Pause(time) => (Wants::Answer, time, Ok(())),
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
                (Wants::Disk, limits.store, brought)
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
    /// became durable after its client was refused must not be delivered: the client sends it again.
    fn nobody_waits_for(&self, answer: Answer) {
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
    fn let_go(&self, job: impl FnOnce() + Send + 'static) {
        self.shared.committers.insist(Box::new(job));
    }

    fn take_up(&mut self, conn: &mut Conn) {
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

    fn put_down(&mut self, conn: &mut Conn) {
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
                log::trace(
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
                    log::trace(
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
                let interest = match conn.clogged {
                    true => Interest::READABLE | Interest::WRITABLE,
                    false => Interest::READABLE,
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
    fn say_goodbye(&mut self, conn: &mut Conn) {
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
    /// nothing more to say.
    fn linger(&mut self, conn: &mut Conn) {
        if !conn.readable && EVENTS_ARE_THE_SYSTEMS {
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
fn no_tls(conn: &Conn, failure: Failure) -> Disconnect {
    match failure {
        Failure::HungUp => Disconnect::Hangup,
        Failure::Ours(why) => {
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

fn token(index: usize) -> Token {
    Token(FIRST_CONN + index)
}

fn retry<V>(mut call: impl FnMut() -> io::Result<V>) -> io::Result<V> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            result => return result,
        }
    }
}

const BELL: Token = Token(0);
const FIRST_CONN: usize = 1;
/// Events looked at in one go.
const EVENTS: usize = 1024;
/// What a worker keeps of its buffers between turns.
const KEPT_BYTES: usize = 256 * 1024;
const LINGER_READS: usize = 8;

/// What a row costs, for the test that keeps it small.
#[cfg(test)]
pub(super) const ROW_BYTES: usize = size_of::<Option<Box<Conn>>>() + 8;
