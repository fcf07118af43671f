//! The loop itself: listeners, the control socket, and who is let in.
//!
//! A connection that is let in over TCP ([`admission`]), or a control connection that becomes a
//! session ([`clients`]), goes to the worker with the fewest, for life. Control connections stay
//! here; each has one row in a table.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, TryRecvError, bounded};
use mio::net::{TcpListener, UnixListener};
use mio::{Events, Poll, Token};

use crate::accept::census::Census;
use crate::accept::committer::Committer;
use crate::accept::conn::Conn;
use crate::accept::control::Client;
use crate::accept::gate::Gate;
use crate::accept::mailbox::{Letter, Mailbox, Wishes};
use crate::accept::slab::Slab;
use crate::accept::source::Counts;
use crate::accept::timers::Timers;
use crate::accept::worker::{Inbox, Shared, Worker};
use crate::accept::{Door, Host, Limits, Setup};
use crate::session::Listening;
use crate::sys::socket;
use crate::sys::waker::Waker;
use crate::util::Live;
use crate::util::pool::{Pool, Threads};

mod admission;
mod clients;

use admission::SessionIds;

/// An event loop that does not run yet. Its [`Mailbox`] already takes letters.
pub struct Acceptor {
    poll: Poll,
    mailbox: Mailbox,
    letters: Receiver<Letter>,
}

impl Acceptor {
    pub(super) fn new() -> io::Result<(Acceptor, Mailbox)> {
        let poll = Poll::new()?;
        let (sender, letters) = bounded(LETTERS);
        let mailbox = Mailbox {
            letters: sender,
            wishes: Arc::new(Wishes::default()),
            waker: Arc::new(Waker::new(poll.registry(), WAKER)?),
        };
        Ok((
            Acceptor {
                poll,
                mailbox: mailbox.clone(),
                letters,
            },
            mailbox,
        ))
    }

    /// Runs until [`Mailbox::shutdown`]. An error means that the loop cannot go on at all.
    pub fn run(self, setup: Setup) -> io::Result<()> {
        EventLoop::new(self, setup)?.run()
    }
}

struct EventLoop {
    poll: Poll,
    mailbox: Mailbox,
    letters: Receiver<Letter>,
    limits: Limits,
    started: Instant,
    now_ms: u64,

    smtp: Gate<TcpListener>,
    doors: Vec<Live<Door>>,
    control: Gate<UnixListener>,
    socket: Live<Listening>,
    own_uid: u32,
    host: Box<dyn Host>,
    ids: SessionIds,

    census: Arc<Census>,
    workers: Vec<Arc<Inbox>>,
    /// Disconnected when the last worker has ended.
    alive: Receiver<()>,
    threads: [Threads; 3],

    clients: Slab<ControlRow>,
    timers: Timers,
    callers: Counts<u32>,
}

/// A control connection, and until when it may say nothing.
struct ControlRow {
    client: Box<Client>,
    deadline_ms: u64,
}

impl EventLoop {
    fn new(acceptor: Acceptor, setup: Setup) -> io::Result<EventLoop> {
        let census = Arc::new(Census::new(acceptor.mailbox.waker.clone()));
        let (lookups, lookup_threads) = Pool::start("lookup", LOOKUP_THREADS, WAITING)?;
        let (signers, sign_threads) = Pool::start("handshake", SIGN_THREADS, WAITING_TO_SIGN)?;
        let (committers, commit_threads) = Pool::start("commit", COMMIT_THREADS, WAITING)?;
        let shared = Arc::new(Shared {
            services: setup.services,
            resolver: setup.resolver,
            lookups,
            committers,
            committer: Committer::default(),
            signers,
            census: census.clone(),
            limits: setup.limits.clone(),
        });
        let (ends, alive) = bounded(1);
        let workers = (1..=count_of_workers(setup.workers))
            .map(|number| Worker::start(number, shared.clone(), ends.clone()))
            .collect::<io::Result<_>>()?;
        let (listeners, doors) = setup.listeners.into_iter().unzip::<_, _, Vec<_>, Vec<_>>();
        let listeners = listeners.into_iter().map(made_ready);
        let listeners = listeners.collect::<io::Result<Vec<_>>>()?;
        setup.control.set_nonblocking(true)?;
        Ok(EventLoop {
            poll: acceptor.poll,
            mailbox: acceptor.mailbox,
            letters: acceptor.letters,
            limits: setup.limits,
            started: Instant::now(),
            now_ms: 0,
            smtp: Gate::new(listeners, FIRST_LISTENER),
            control: Gate::new(vec![UnixListener::from_std(setup.control)], CONTROL.0),
            doors,
            socket: setup.socket,
            own_uid: setup.own_uid,
            host: setup.host,
            ids: SessionIds::new(),
            census,
            workers,
            alive,
            threads: [lookup_threads, commit_threads, sign_threads],
            clients: Slab::new(),
            timers: Timers::new(),
            callers: Counts::new(),
        })
    }

    fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS);
        loop {
            self.mailbox.waker.arm();
            if self.mailbox.wishes.shutdown.load(Ordering::Acquire) {
                break;
            }
            self.heed_wishes()?;
            match self.poll.poll(&mut events, self.patience()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                result => result?,
            }
            self.mailbox.waker.disarm();
            self.now_ms = self.started.elapsed().as_millis() as u64;
            if events.iter().any(|event| event.token() == WAKER) {
                self.mailbox.waker.acknowledge();
            }
            self.read_letters();
            for event in &events {
                self.on_event(event.token());
            }
            self.expire();
            self.accept_sessions();
            self.accept_controls();
        }
        self.end();
        Ok(())
    }

    /// How long there is nothing to do.
    fn patience(&self) -> Option<Duration> {
        let is_ready = self.smtp.next_ready(0).is_some() || self.control.next_ready(0).is_some();
        if is_ready || !self.letters.is_empty() {
            return Some(Duration::ZERO);
        }
        [
            self.timers.next_ms(),
            self.smtp.shut_until_ms(),
            self.control.shut_until_ms(),
        ]
        .into_iter()
        .flatten()
        .min()
        .map(|at_ms| Duration::from_millis(at_ms.saturating_sub(self.now_ms)))
    }

    fn on_event(&mut self, token: Token) {
        if token == WAKER {
        } else if token == CONTROL {
            self.control.mark_ready(0);
        } else if token.0 >= FIRST_LISTENER {
            self.smtp.mark_ready(token.0 - FIRST_LISTENER);
        } else {
            let index = token.0 - FIRST_CLIENT;
            if self
                .clients
                .get_mut(index)
                .is_some_and(|row| !row.client.waits())
            {
                self.serve(index);
            }
        }
    }

    // Wishes and letters.

    fn heed_wishes(&mut self) -> io::Result<()> {
        self.smtp.pause(self.mailbox.paused());
        if self.census.has_left() {
            if self.has_slack() {
                self.smtp.hurry(self.now_ms);
            }
            if self.smtp.shut_until_ms().is_some() {
                self.census.await_room();
            }
        }
        self.reopen_when_due();
        self.smtp.sync(self.poll.registry())?;
        self.control.sync(self.poll.registry())
    }

    fn read_letters(&mut self) {
        for _ in 0..LETTERS {
            match self.letters.try_recv() {
                Ok(Letter::Answer(id, answer)) => self.answer(id, &answer),
                Ok(Letter::Listen(listeners)) => self.change_listeners(listeners),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return,
            }
        }
    }

    fn expire(&mut self) {
        while let Some(index) = self.timers.pop(self.now_ms) {
            match self.clients.get_mut(index) {
                Some(row) if row.client.waits() => {}
                Some(row) if row.deadline_ms > self.now_ms => {
                    self.timers.set(index, row.deadline_ms);
                }
                Some(_) => self.hang_up(index),
                None => {}
            }
        }
    }

    /// Gives a connection that has been counted to the worker that has the fewest.
    fn hand_over(&self, conn: Conn) {
        if let Some(worker) = self.workers.iter().min_by_key(|worker| worker.held()) {
            worker.admit(Box::new(conn));
        }
    }

    /// Stops accepting, and waits until the workers have told the clients and closed.
    fn end(mut self) {
        self.smtp.close(self.poll.registry());
        self.control.close(self.poll.registry());
        for index in self.clients.indices() {
            self.hang_up(index);
        }
        for worker in &self.workers {
            worker.stop();
        }
        // Nothing is ever sent: this returns when the last worker has ended. They have less time.
        let _ = self.alive.recv_timeout(self.limits.shutdown + GRACE);
        for threads in self.threads {
            threads.dismiss();
        }
    }
}

/// Not blocking, and its connections neither wait for more to send: replies are written whole, and
/// waiting would only add to round trips.
fn made_ready(listener: std::net::TcpListener) -> io::Result<TcpListener> {
    listener.set_nonblocking(true)?;
    socket::set_nodelay(listener.as_fd())?;
    Ok(TcpListener::from_std(listener))
}

fn count_of_workers(wanted: usize) -> usize {
    match wanted {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        count => count,
    }
}

const WAKER: Token = Token(0);
const CONTROL: Token = Token(1);
const FIRST_CLIENT: usize = 2;
/// Above all clients.
const FIRST_LISTENER: usize = usize::MAX / 2;
/// Events looked at in one go.
const EVENTS: usize = 1024;
/// Letters of other threads that may wait.
const LETTERS: usize = 4096;
/// Threads that wait for tables and for the parent.
const LOOKUP_THREADS: usize = 16;
/// Threads that wait for the disk: as many commits can share a sync.
const COMMIT_THREADS: usize = 16;
/// Threads that wait for signatures: so many are made at a time, where there are processors for it.
const SIGN_THREADS: usize = 8;
/// Handshakes that may wait for them.
const WAITING_TO_SIGN: usize = 4096;
/// Questions that may wait for a thread. Each session has one at a time.
const WAITING: usize = 100_000;
/// What workers may need beyond the time for a shutdown.
const GRACE: Duration = Duration::from_secs(1);
