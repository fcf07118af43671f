//! The loop itself: who waits for what, until when.
//!
//! Every connection has one row in a table. The row of a session says where the session is:
//! waiting for a name, parked, in line for a worker, or away with one. Readiness, a letter, or a
//! timer moves it into the line; a worker's hand-back parks it again.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};
use mio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use mio::{Events, Interest, Poll, Token};

use super::conn::{Conn, Progress, Stream, words};
use super::control::{Client, Step};
use super::gate::Gate;
use super::mailbox::{Letter, Mailbox, Wishes};
use super::slab::{ConnId, Slab};
use super::source::{Counts, Entry, Source};
use super::timers::Timers;
use super::worker::{Done, Job, Wait, Work, Worker};
use super::{Conversation, Host, Limits, Setup};
use crate::control::{Answer, Ask, server};
use crate::dns::{self, Bell};
use crate::log::{self, stat};
use crate::mail::{Peer, SessionId};
use crate::sys::{descriptors, random, socket};
use crate::util::Line;

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
            bell: Arc::new(Bell::new(poll.registry(), BELL)?),
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
    pub fn run<T: Conversation>(self, setup: Setup<T>) -> io::Result<()> {
        EventLoop::new(self, setup)?.run()
    }
}

struct EventLoop<T: Conversation> {
    poll: Poll,
    mailbox: Mailbox,
    letters: Receiver<Letter>,
    limits: Limits,
    started: Instant,
    now_ms: u64,
    stopping: Option<u64>,

    smtp: Gate<TcpListener>,
    listening: Vec<Arc<T::Listening>>,
    control: Gate<UnixListener>,
    socket: Arc<T::Listening>,
    server_name: Line,
    own_uid: u32,
    host: Box<dyn Host>,
    resolver: dns::Handle,
    ids: SessionIds,

    rows: Slab<Row<T>>,
    timers: Timers,
    /// Sessions in line for a worker.
    line: VecDeque<(usize, Work)>,
    /// Sessions with workers or on their way there and back.
    away: usize,
    jobs: Option<Sender<Job<T>>>,
    done: Receiver<Done<T>>,
    workers: Vec<JoinHandle<()>>,

    sessions: usize,
    sources: Counts<Source>,
    controls: usize,
    callers: Counts<u32>,
}

enum Row<T> {
    Session(Seat<T>),
    Control(Box<Client>, u64),
}

/// A session's row.
struct Seat<T> {
    /// `None` while it is away.
    conn: Option<Box<Conn<T>>>,
    place: Place,
    deadline_ms: u64,
    /// When the peer has been silent for too long.
    silent_ms: u64,
    /// When the peer has achieved nothing for too long.
    stalled_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Resolving,
    Parked,
    InLine,
}

impl<T: Conversation> EventLoop<T> {
    fn new(acceptor: Acceptor, setup: Setup<T>) -> io::Result<EventLoop<T>> {
        let count = match setup.workers {
            0 => default_workers(),
            count => count,
        };
        let (jobs, jobs_taken) = bounded(count * JOBS_PER_WORKER);
        let (done_sent, done) = bounded(count * (JOBS_PER_WORKER + 1));
        let mut workers = Vec::with_capacity(count);
        for number in 1..=count {
            let worker = Worker::<T> {
                jobs: jobs_taken.clone(),
                done: done_sent.clone(),
                bell: acceptor.mailbox.bell.clone(),
                services: setup.services.clone(),
                limits: setup.limits.clone(),
            };
            workers.push(worker.start(number)?);
        }
        let (listeners, listening) = setup.listeners.into_iter().unzip::<_, _, Vec<_>, Vec<_>>();
        let listeners = listeners
            .into_iter()
            .map(|listener| {
                listener.set_nonblocking(true)?;
                Ok(TcpListener::from_std(listener))
            })
            .collect::<io::Result<Vec<_>>>()?;
        setup.control.set_nonblocking(true)?;
        Ok(EventLoop {
            poll: acceptor.poll,
            mailbox: acceptor.mailbox,
            letters: acceptor.letters,
            limits: setup.limits,
            started: Instant::now(),
            now_ms: 0,
            stopping: None,
            smtp: Gate::new(listeners, FIRST_LISTENER),
            control: Gate::new(vec![UnixListener::from_std(setup.control)], CONTROL.0),
            listening,
            socket: setup.socket,
            server_name: setup.server_name,
            own_uid: setup.own_uid,
            host: setup.host,
            resolver: setup.resolver,
            ids: SessionIds::new(),
            rows: Slab::new(),
            timers: Timers::new(),
            line: VecDeque::new(),
            away: 0,
            jobs: Some(jobs),
            done,
            workers,
            sessions: 0,
            sources: Counts::new(),
            controls: 0,
            callers: Counts::new(),
        })
    }

    fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS);
        loop {
            self.heed_wishes()?;
            self.dispatch();
            if self.is_over() {
                break;
            }
            match self.poll.poll(&mut events, self.patience()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                result => result?,
            }
            self.now_ms = self.started.elapsed().as_millis() as u64;
            if events.iter().any(|event| event.token() == BELL) {
                self.mailbox.bell.hush();
            }
            self.take_back();
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
        if self.smtp.next_ready(0).is_some() || self.control.next_ready(0).is_some() {
            return Some(Duration::ZERO);
        }
        [
            self.timers.next_ms(),
            self.smtp.shut_until_ms(),
            self.control.shut_until_ms(),
            self.stopping,
        ]
        .into_iter()
        .flatten()
        .min()
        .map(|at_ms| Duration::from_millis(at_ms.saturating_sub(self.now_ms)))
    }

    fn on_event(&mut self, token: Token) {
        let first_row = self.first_row();
        if token == BELL {
        } else if token == CONTROL {
            self.control.mark_ready(0);
        } else if token.0 < first_row {
            self.smtp.mark_ready(token.0 - FIRST_LISTENER);
        } else {
            let index = token.0 - first_row;
            match self.rows.get_mut(index) {
                Some(Row::Session(seat)) if seat.place == Place::Parked => {
                    self.put_in_line(index, Work::Ready);
                }
                Some(Row::Control(client, _)) if !client.waits() => self.serve(index),
                _ => {}
            }
        }
    }

    fn first_row(&self) -> usize {
        FIRST_LISTENER + self.listening.len()
    }

    fn token(&self, index: usize) -> Token {
        Token(self.first_row() + index)
    }

    // Wishes and letters.

    fn heed_wishes(&mut self) -> io::Result<()> {
        self.smtp.pause(self.mailbox.paused());
        if self.stopping.is_none() && self.mailbox.wishes.shutdown.load(Ordering::Acquire) {
            self.stop();
        }
        if self.stopping.is_none() {
            self.reopen_when_due();
            self.smtp.sync(self.poll.registry())?;
            self.control.sync(self.poll.registry())?;
        }
        Ok(())
    }

    fn read_letters(&mut self) {
        for _ in 0..LETTERS {
            match self.letters.try_recv() {
                Ok(Letter::Answer(id, answer)) => self.answer(id, &answer),
                Ok(Letter::Resolved(id, name)) => self.resolved(id, name),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return,
            }
        }
        self.mailbox.bell.ring();
    }

    fn resolved(&mut self, id: ConnId, found: dns::Reverse) {
        if let Some(Row::Session(seat)) = self.rows.find(id)
            && seat.place == Place::Resolving
        {
            self.put_in_line(id.index(), Work::Open(found.name));
        }
    }

    // Sessions.

    fn accept_sessions(&mut self) {
        if self.mailbox.paused() {
            // The gate follows before the loop sleeps.
            return;
        }
        let mut from = 0;
        while let Some(index) = self.smtp.next_ready(from) {
            from = index + 1;
            if let Err(why) = self.accept_burst(index) {
                if self.smtp.shut(self.now_ms + millis(self.limits.retry)) {
                    log::warn(format_args!("Disabling incoming SMTP connections: {why}"));
                }
                return;
            }
        }
    }

    /// Takes some of those who wait at a listener. An error says why nobody can be taken now.
    fn accept_burst(&mut self, listener: usize) -> Result<(), String> {
        let mut failed = Ok(());
        for _ in 0..self.limits.accept_burst {
            if !self.has_room() {
                return Err("Client limit reached".to_owned());
            }
            match self.smtp.listener(listener).accept() {
                Ok((stream, address)) => {
                    self.admit(listener, stream, address)?;
                    failed = Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.smtp.exhausted(listener);
                    return Ok(());
                }
                Err(error) if descriptors::are_exhausted(&error) => return Err(words(&error)),
                // That connection is gone before we took it; the next one may be well.
                Err(error) => failed = Err(words(&error)),
            }
        }
        // Errors without end must not keep the loop busy.
        failed
    }

    fn has_room(&self) -> bool {
        self.sessions < self.limits.sessions
    }

    /// Makes a session of a connection, or refuses it. An error says that descriptors are used up.
    fn admit(
        &mut self,
        listener: usize,
        stream: TcpStream,
        address: SocketAddr,
    ) -> Result<(), String> {
        if self.is_one_of_the_last(stream.as_raw_fd()) {
            refuse(stream, FULL);
            return Err(words(&descriptors::exhausted()));
        }
        let source = Source::of(address.ip());
        let limit = match source {
            Source::Loopback => self.limits.sessions_per_loopback,
            _ => self.limits.sessions_per_source,
        };
        match self.sources.enter(source, limit) {
            Entry::Counted => {}
            refused => {
                if refused == Entry::RefusedFirst {
                    let peer = peer(address);
                    log::warn(format_args!("smtp: too many connections from {peer}"));
                }
                refuse(stream, TOO_MANY);
                return Ok(());
            }
        }
        // Replies are written whole; waiting for more to send would only add to round trips.
        let _ = stream.set_nodelay(true);
        match address {
            SocketAddr::V4(_) => stat::SMTP_SESSION_INET4.inc(),
            SocketAddr::V6(_) => stat::SMTP_SESSION_INET6.inc(),
        }
        let session = T::new(
            self.ids.next(),
            self.listening[listener].clone(),
            peer(address),
        );
        let id = self.sit(Conn::new(Stream::Tcp(stream), session, source));
        let mailbox = self.mailbox.clone();
        self.resolver.reverse(
            address.ip().to_canonical(),
            Box::new(move |name| mailbox.resolved(id, name)),
        );
        Ok(())
    }

    /// Whether `fd` leaves less than the reserve: descriptors are given out from the lowest on, so
    /// a high number means that nearly all are taken.
    fn is_one_of_the_last(&self, fd: i32) -> bool {
        usize::try_from(fd).is_ok_and(|fd| {
            fd.saturating_add(self.limits.descriptor_reserve) >= self.limits.descriptors
        })
    }

    /// Gives a session its row, where it waits for its peer's name.
    fn sit(&mut self, conn: Conn<T>) -> ConnId {
        self.sessions += 1;
        stat::SMTP_SESSION.inc();
        let deadline_ms = self.now_ms + millis(self.limits.resolve);
        let id = self.rows.insert(Row::Session(Seat {
            conn: Some(Box::new(conn)),
            place: Place::Resolving,
            deadline_ms,
            silent_ms: 0,
            stalled_ms: 0,
        }));
        self.timers.set(id.index(), deadline_ms);
        id
    }

    fn put_in_line(&mut self, index: usize, work: Work) {
        if let Some(Row::Session(seat)) = self.rows.get_mut(index) {
            seat.place = Place::InLine;
            self.line.push_back((index, work));
        }
    }

    /// Sends sessions to workers, as many as the channels hold; more would only wait elsewhere.
    fn dispatch(&mut self) {
        let Some(jobs) = &self.jobs else { return };
        let most = jobs.capacity().unwrap_or(1);
        while self.away < most
            && let Some((index, work)) = self.line.pop_front()
        {
            let Some(Row::Session(seat)) = self.rows.get_mut(index) else {
                continue;
            };
            let Some(conn) = seat.conn.take() else {
                continue;
            };
            // There is room, and workers live as long as this side of the channel.
            if let Err(error) = jobs.try_send(Job { index, conn, work }) {
                seat.conn = Some(error.into_inner().conn);
                self.line.push_front((index, Work::Ready));
                return;
            }
            self.away += 1;
        }
    }

    fn take_back(&mut self) {
        while let Ok(Done { index, conn, wait }) = self.done.try_recv() {
            self.away = self.away.saturating_sub(1);
            let Some(Row::Session(seat)) = self.rows.get_mut(index) else {
                continue;
            };
            seat.conn = Some(conn);
            match wait {
                Wait::Nothing => self.leave(index),
                _ if self.stopping.is_some() => self.put_in_line(index, Work::Shutdown),
                Wait::Turn => self.put_in_line(index, Work::Ready),
                Wait::Readable => self.park(index, Interest::READABLE),
                Wait::Writable => self.park(index, Interest::WRITABLE),
            }
        }
    }

    fn park(&mut self, index: usize, interest: Interest) {
        let token = self.token(index);
        let Some(Row::Session(seat)) = self.rows.get_mut(index) else {
            return;
        };
        seat.place = Place::Parked;
        seat.note_progress(self.now_ms, &self.limits);
        self.timers.set(index, seat.deadline_ms);
        let Some(conn) = &mut seat.conn else { return };
        if let Err(error) = conn.park(self.poll.registry(), token, interest) {
            self.put_in_line(index, Work::Broken(words(&error)));
        }
    }

    /// Clears the row of a session that is closed.
    fn leave(&mut self, index: usize) {
        let Some(Row::Session(seat)) = self.rows.remove(index) else {
            return;
        };
        self.sessions -= 1;
        stat::SMTP_SESSION.dec();
        if self.has_slack() {
            self.smtp.hurry(self.now_ms);
        }
        if let Some(mut conn) = seat.conn {
            self.sources.leave(conn.source);
            if conn.registered {
                // The descriptor is closed next, which takes it out as well.
                let _ = self.poll.registry().deregister(&mut conn.stream);
            }
        }
    }

    fn expire(&mut self) {
        while let Some(index) = self.timers.pop(self.now_ms) {
            match self.rows.get_mut(index) {
                Some(Row::Session(seat)) => {
                    let (place, deadline_ms) = (seat.place, seat.deadline_ms);
                    match place {
                        Place::InLine => {}
                        _ if deadline_ms > self.now_ms => self.timers.set(index, deadline_ms),
                        Place::Resolving => self.put_in_line(index, Work::Open(None)),
                        Place::Parked => self.put_in_line(index, Work::Timeout),
                    }
                }
                Some(Row::Control(client, deadline_ms)) => {
                    let (waits, deadline_ms) = (client.waits(), *deadline_ms);
                    if waits {
                    } else if deadline_ms > self.now_ms {
                        self.timers.set(index, deadline_ms);
                    } else {
                        self.hang_up(index);
                    }
                }
                None => {}
            }
        }
    }

    // Room.

    /// Opens gates that were shut for want of room when there is room.
    fn reopen_when_due(&mut self) {
        let due = |until_ms: Option<u64>| until_ms.is_some_and(|at_ms| at_ms <= self.now_ms);
        if due(self.smtp.shut_until_ms()) {
            if self.has_slack() && self.has_descriptors(self.smtp.listener(0)) {
                self.smtp.reopen();
                log::warn(format_args!(
                    "smtp: fd exhaustion over, re-enabling incoming connections"
                ));
            } else {
                self.smtp.shut(self.now_ms + millis(self.limits.retry));
            }
        }
        let due = |until_ms: Option<u64>| until_ms.is_some_and(|at_ms| at_ms <= self.now_ms);
        if due(self.control.shut_until_ms()) {
            if self.has_descriptors(self.control.listener(0)) {
                self.control.reopen();
                log::warn(format_args!("re-enabling ctl connections"));
            } else {
                self.control.shut(self.now_ms + millis(self.limits.retry));
            }
        }
    }

    /// Whether so many sessions are gone that opening is worth two lines in the log.
    fn has_slack(&self) -> bool {
        self.sessions + self.limits.sessions / 20 < self.limits.sessions
    }

    /// Whether there is more than the reserve.
    fn has_descriptors(&self, any: &impl AsFd) -> bool {
        let mut held = Vec::with_capacity(self.limits.descriptor_reserve + 1);
        for _ in 0..=self.limits.descriptor_reserve {
            match any.as_fd().try_clone_to_owned() {
                Ok(fd) if self.is_one_of_the_last(fd.as_raw_fd()) => return false,
                Ok(fd) => held.push(fd),
                Err(_) => return false,
            }
        }
        true
    }

    // The control socket.

    fn accept_controls(&mut self) {
        if self.control.next_ready(0).is_none() {
            return;
        }
        for _ in 0..self.limits.accept_burst {
            match self.control.listener(0).accept() {
                Ok((stream, _)) if self.is_one_of_the_last(stream.as_raw_fd()) => {
                    drop(stream);
                    self.shut_control();
                    return;
                }
                Ok((stream, _)) => self.admit_control(stream),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.control.exhausted(0);
                    return;
                }
                // It is gone before we took it, which the BSDs tell.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                // Errors without end must not keep the loop busy.
                Err(_) => return self.shut_control(),
            }
        }
    }

    fn shut_control(&mut self) {
        if self.control.shut(self.now_ms + millis(self.limits.retry)) {
            log::warn(format_args!(
                "ctl client limit hit, disabling new connections"
            ));
        }
    }

    fn admit_control(&mut self, stream: UnixStream) {
        let Ok(uid) = socket::peer_uid(stream.as_fd()) else {
            return;
        };
        let privileged = uid == 0 || uid == self.own_uid;
        let limit = if !privileged && self.controls >= self.limits.controls {
            0
        } else {
            self.limits.controls_per_uid
        };
        match self.callers.enter(uid, limit) {
            Entry::Counted => {}
            Entry::RefusedFirst => {
                log::warn(format_args!(
                    "too many connections to control socket from user with uid {uid}"
                ));
                return;
            }
            Entry::Refused => return,
        }
        self.controls += 1;
        stat::CONTROL_SESSION.inc();
        let client = Box::new(Client::new(stream, uid));
        let id = self.rows.insert(Row::Control(client, u64::MAX));
        let token = self.token(id.index());
        if let Some(Row::Control(client, _)) = self.rows.get_mut(id.index()) {
            let registered =
                self.poll
                    .registry()
                    .register(&mut client.stream, token, Interest::READABLE);
            match registered {
                Ok(()) => self.serve(id.index()),
                Err(_) => self.hang_up(id.index()),
            }
        }
    }

    /// Goes on with a control client until it must wait.
    fn serve(&mut self, index: usize) {
        // A client may send many questions at once; others come in between.
        for _ in 0..ASKS_PER_TURN {
            let Some(Row::Control(client, _)) = self.rows.get_mut(index) else {
                return;
            };
            match client.step(&self.limits) {
                Step::Ask(Ask::Submit) => {
                    if self.submit(index) {
                        return;
                    }
                }
                Step::Ask(ask) => {
                    let uid = client.uid;
                    let Some(id) = self.rows.id(index) else {
                        return;
                    };
                    let Some(answer) = self.host.ask(id, uid, ask) else {
                        return;
                    };
                    if let Some(Row::Control(client, _)) = self.rows.get_mut(index) {
                        client.answer(&answer);
                    }
                }
                Step::Read(patience) => {
                    return self.park_control(index, patience, Interest::READABLE);
                }
                Step::Write(patience) => {
                    return self.park_control(index, patience, Interest::WRITABLE);
                }
                Step::Wait => return,
                Step::Garbage(bad) => {
                    let uid = client.uid;
                    client.farewell(&server::farewell(bad));
                    log::warn(format_args!(
                        "client with uid {uid} sent invalid imsg over control socket"
                    ));
                    return self.hang_up(index);
                }
                Step::Gone => return self.hang_up(index),
            }
        }
        // Registering again brings the next event at once if there is more.
        self.park_control(
            index,
            self.limits.frame,
            Interest::READABLE | Interest::WRITABLE,
        );
    }

    fn park_control(&mut self, index: usize, patience: Duration, interest: Interest) {
        let token = self.token(index);
        let at_ms = self.now_ms + millis(patience);
        let Some(Row::Control(client, deadline_ms)) = self.rows.get_mut(index) else {
            return;
        };
        *deadline_ms = at_ms;
        self.timers.set(index, at_ms);
        let registry = self.poll.registry();
        if registry
            .reregister(&mut client.stream, token, interest)
            .is_err()
        {
            self.hang_up(index);
        }
    }

    fn answer(&mut self, id: ConnId, answer: &Answer) {
        if let Some(Row::Control(client, _)) = self.rows.find(id)
            && client.waits()
        {
            client.answer(answer);
            self.serve(id.index());
        }
    }

    /// Makes a session of a control connection, if that may be. False when it stays what it is.
    fn submit(&mut self, index: usize) -> bool {
        let Some(Row::Control(client, _)) = self.rows.get_mut(index) else {
            return true;
        };
        let source = Source::User(client.uid);
        let refusal = if self.mailbox.paused() {
            Some("smtp is paused")
        } else if self.sources.enter(source, self.limits.sessions_per_uid) != Entry::Counted {
            Some("too many sessions of this user")
        } else {
            None
        };
        if let Some(why) = refusal {
            client.answer(&Answer::Fail(why.to_owned()));
            return false;
        }
        client.answer(&Answer::Ok);
        if let Some(client) = self.dismiss(index)
            && let Some((mut stream, input)) = client.into_session()
        {
            // It gets a row, and so a token, of its own.
            let _ = self.poll.registry().deregister(&mut stream);
            stat::SMTP_SESSION_LOCAL.inc();
            let session = T::new(self.ids.next(), self.socket.clone(), Peer::Local);
            let mut conn = Conn::new(Stream::Unix(stream), session, source);
            conn.input = input;
            let id = self.sit(conn);
            self.put_in_line(id.index(), Work::Open(Some(self.server_name.clone())));
        } else {
            self.sources.leave(source);
        }
        true
    }

    /// Clears the row of a control client.
    fn dismiss(&mut self, index: usize) -> Option<Box<Client>> {
        if !matches!(self.rows.get_mut(index), Some(Row::Control(..))) {
            return None;
        }
        let Some(Row::Control(client, _)) = self.rows.remove(index) else {
            return None;
        };
        self.controls -= 1;
        self.callers.leave(client.uid);
        stat::CONTROL_SESSION.dec();
        Some(client)
    }

    fn hang_up(&mut self, index: usize) {
        if let Some(mut client) = self.dismiss(index) {
            let _ = self.poll.registry().deregister(&mut client.stream);
        }
    }

    // The end.

    /// Lets nobody in, and sends whoever waits to be told.
    fn stop(&mut self) {
        self.stopping = Some(self.now_ms + millis(self.limits.shutdown));
        self.smtp.close(self.poll.registry());
        self.control.close(self.poll.registry());
        self.line.clear();
        for index in self.rows.indices() {
            match self.rows.get_mut(index) {
                Some(Row::Session(seat)) if seat.conn.is_some() => {
                    self.put_in_line(index, Work::Shutdown);
                }
                Some(Row::Control(..)) => self.hang_up(index),
                _ => {}
            }
        }
    }

    fn is_over(&self) -> bool {
        self.stopping
            .is_some_and(|until_ms| self.rows.len() == 0 || until_ms <= self.now_ms)
    }

    fn end(mut self) {
        self.jobs = None;
        let all_back = self.away == 0;
        for worker in self.workers.drain(..) {
            // One that is busy for longer than a shutdown may take is left to itself.
            if all_back {
                let _ = worker.join();
            }
        }
        stat::SMTP_SESSION.add(-(self.sessions as i64));
    }
}

impl<T> Seat<T> {
    /// Sets the deadlines after what a worker has seen move.
    fn note_progress(&mut self, now_ms: u64, limits: &Limits) {
        let Some(conn) = &mut self.conn else { return };
        let progress = conn.progress;
        conn.progress = Progress::default();
        if progress.moved {
            self.silent_ms = now_ms + millis(limits.inactivity);
        }
        if progress.replied || progress.received_bytes >= limits.stall_bytes {
            self.stalled_ms = now_ms + millis(limits.stall);
        } else {
            conn.progress.received_bytes = progress.received_bytes;
        }
        self.deadline_ms = self.silent_ms.min(self.stalled_ms);
    }
}

/// Numbers of sessions: a counter that starts anywhere above 32 random bits, never 0.
struct SessionIds {
    counter: u32,
}

impl SessionIds {
    fn new() -> SessionIds {
        SessionIds {
            counter: random::number_u32(),
        }
    }

    fn next(&mut self) -> SessionId {
        self.counter = self.counter.wrapping_add(1);
        let id = u64::from(self.counter) << 32 | u64::from(random::number_u32());
        SessionId(id.max(1))
    }
}

fn peer(address: SocketAddr) -> Peer {
    match address {
        SocketAddr::V6(v6) if v6.ip().to_ipv4_mapped().is_none() && v6.scope_id() != 0 => {
            Peer::Inet {
                addr: address.ip(),
                scope: socket::interface_name(v6.scope_id()).map(String::into_boxed_str),
            }
        }
        _ => Peer::inet(address.ip()),
    }
}

/// Says why, if the socket takes it at once, and closes.
fn refuse(mut stream: TcpStream, why: &[u8]) {
    let _ = stream.write(why);
}

fn default_workers() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    (2 * processors).max(4)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 2)
}

const BELL: Token = Token(0);
const CONTROL: Token = Token(1);
const FIRST_LISTENER: usize = 2;
/// Events looked at in one go.
const EVENTS: usize = 1024;
/// Letters of other threads that may wait.
const LETTERS: usize = 4096;
/// Sessions that are on their way to workers, beyond those in their hands.
const JOBS_PER_WORKER: usize = 4;
/// Questions of one control client before others have their turn.
const ASKS_PER_TURN: usize = 16;

/// RFC 3463 §3.5: the host does not take mail now.
const FULL: &[u8] = b"421 4.3.2 Service temporarily out of resources, try again later\r\n";
/// RFC 3463 §3.8: policy.
const TOO_MANY: &[u8] = b"421 4.7.0 Service not available, too many connections\r\n";

/// What a row costs, for the test that keeps it small.
#[cfg(test)]
pub(super) const ROW_BYTES: usize = size_of::<Row<()>>();
