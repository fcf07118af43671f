//! A worker owns its sessions from admission to close, and waits for nothing but events; only a
//! message that begins looks at the disk ([`Services::begin`]).
//!
//! Each worker is a thread with a poll, timers and a table of connections of its own; no other
//! thread touches them. Letters come in through its [`Inbox`]: connections that are its own from
//! now on, and answers to what its sessions have asked. A session that has asked is parked: its
//! socket is not read until the answer comes, or until the time for it is over. What may wait for
//! somebody else is done by the resolver and two [`Pool`]s, never here; what is at hand is answered
//! here, without a change of threads.
//!
//! A busy session gives way to the others after [`Limits::turns`] or [`Limits::slice`], whichever
//! comes first. The two buffers that busy sessions use belong to the worker, so that parked ones
//! need none.

mod hands;

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use mio::event::Event;
use mio::{Events, Poll, Token};

use crate::dns;
use crate::log::maillog;
use crate::session::{Answer, Disconnect, Services};
use crate::sys::errno::strerror;
use crate::sys::socket::EVENTS_ARE_THE_SYSTEMS;
use crate::sys::waker::Waker;
use crate::tls::server::{Handshake, HandshakeError};
use crate::util::pool::Pool;

use super::census::Census;
use super::committer::Committer;
use super::conn::{Conn, Prelude, Wants};
use super::limits::Limits;
use super::millis;
use super::slab::{ConnId, Slab};
use super::timers::Timers;

use hands::{Hands, Rest, no_tls};

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
    /// Puts small messages together for them.
    pub(super) committer: Committer,
    pub(super) census: Arc<Census>,
    pub(super) limits: Limits,
}

/// How others reach a worker.
pub(super) struct Inbox {
    letters: Mutex<Vec<Letter>>,
    waker: Waker,
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
type Signed = Result<(), (HandshakeError, Vec<u8>)>;

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
        self.waker.wake();
    }

    fn answer(&self, id: ConnId, question: u32, answer: Answer) {
        self.send(Letter::Answered(id, question, answer));
    }

    fn send(&self, letter: Letter) {
        self.lock().push(letter);
        self.waker.wake();
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
            waker: Waker::new(poll.registry(), WAKER)?,
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
                turn_began: Instant::now(),
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
            self.hands.inbox.waker.arm();
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
            self.hands.inbox.waker.disarm();
            self.hands.now_ms = self.started.elapsed().as_millis() as u64;
            for event in &events {
                match event.token() {
                    WAKER => self.hands.inbox.waker.acknowledge(),
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
        if !self.line.is_empty() || !self.hands.inbox.lock().is_empty() {
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

fn token(index: usize) -> Token {
    Token(FIRST_CONN + index)
}

const WAKER: Token = Token(0);
const FIRST_CONN: usize = 1;
/// Events looked at in one go.
const EVENTS: usize = 1024;

/// What a row costs, for the test that keeps it small.
#[cfg(test)]
pub(super) const ROW_BYTES: usize = size_of::<Option<Box<Conn>>>() + 8;
