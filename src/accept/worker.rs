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
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use mio::event::Event;
use mio::{Events, Interest, Poll, Registry, Token};

use crate::dns::{self, Bell};
use crate::filter;
use crate::log::{self, Trace};
use crate::session::{Answer, Disconnect, Next, Question, Services, Store};
use crate::sys::errno::strerror;
use crate::sys::socket::EVENTS_ARE_THE_SYSTEMS;

use super::census::Census;
use super::conn::{Conn, Wants, would_block};
use super::limits::Limits;
use super::millis;
use super::pool::Pool;
use super::slab::{ConnId, Slab};
use super::timers::Timers;

/// What all workers work with.
pub(super) struct Shared {
    pub(super) services: Arc<dyn Services>,
    pub(super) resolver: dns::Handle,
    /// Waits for tables and the parent.
    pub(super) lookups: Pool,
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
}

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
            let _ = self.hands.poll.registry().deregister(&mut conn.stream);
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
                Wants::Turn | Wants::Answer | Wants::Disk => {}
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
            Question::Store(Store::HandOver(message)) => {
                self.shared.committers.insist(Box::new(move || {
                    services.committed(message);
                    inbox.answer(id, number, Answer::HandedOver);
                }));
                (Wants::Answer, limits.store, Ok(()))
            }
            Question::Pause(time) => (Wants::Answer, time, Ok(())),
            Question::Store(store) => {
                let job = move || inbox.answer(id, number, store.answer(&*services));
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
        conn.input = Vec::new();
        self.output.clear();
        self.output.extend_from_slice(&conn.output);
        conn.output = Vec::new();
        self.written = 0;
    }

    fn put_down(&mut self, conn: &mut Conn) {
        conn.input = self.input.as_slice().into();
        conn.output = self.output.get(self.written..).unwrap_or_default().into();
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
                conn.readable = count == self.chunk.len() || conn.ended || !EVENTS_ARE_THE_SYSTEMS;
                self.input.extend_from_slice(&self.chunk[..count]);
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
        if std::mem::take(&mut conn.clogged) {
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
