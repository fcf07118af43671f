//! The loop itself: who waits for what, until when.
//!
//! Every connection has one row in a table. The row of a session says where the session is:
//! waiting for a name, parked, in line for a worker, or away with one. Readiness, a letter, or a
//! timer moves it into the line; a worker's hand-back parks it again. Who gets a row at all is
//! decided in `admission` (TCP) and `clients` (control socket).

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};
use mio::net::{TcpListener, UnixListener};
use mio::{Events, Interest, Poll, Token};

use crate::accept::conn::{Conn, Progress};
use crate::accept::control::Client;
use crate::accept::gate::Gate;
use crate::accept::mailbox::{Letter, Mailbox, Wishes};
use crate::accept::slab::{ConnId, Slab};
use crate::accept::source::{Counts, Source};
use crate::accept::timers::Timers;
use crate::accept::worker::{self, Done, Job, Wait, Work, Worker};
use crate::accept::{Conversation, Host, Lane, Limits, Setup};
use crate::dns::{self, Bell};
use crate::log::stat;
use crate::sys::errno::strerror;
use crate::util::Live;

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
    listening: Vec<Live<T::Listening>>,
    control: Gate<UnixListener>,
    socket: Live<T::Listening>,
    own_uid: u32,
    host: Box<dyn Host>,
    resolver: dns::Handle,
    ids: SessionIds,

    rows: Slab<Row<T>>,
    timers: Timers,
    talk: Crew<T>,
    mail: Crew<T>,
    done: Receiver<Done<T>>,

    sessions: usize,
    sources: Counts<Source>,
    controls: usize,
    callers: Counts<u32>,
}

/// The workers of one lane.
struct Crew<T> {
    /// Sessions in line for a worker.
    line: VecDeque<(usize, Work)>,
    /// Sessions with workers or on their way there and back.
    away: usize,
    jobs: Option<Sender<Job<T>>>,
    workers: Vec<JoinHandle<()>>,
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
        let talkers = match setup.workers {
            0 => default_workers(),
            count => count,
        };
        let (done_sent, done) = bounded((talkers + MAIL_WORKERS) * (JOBS_PER_WORKER + 1));
        let hire = |lane, count| {
            Crew::hire(count, |jobs| Worker::<T> {
                lane,
                jobs,
                done: done_sent.clone(),
                bell: acceptor.mailbox.bell.clone(),
                services: setup.services.clone(),
                limits: setup.limits.clone(),
            })
        };
        let (talk, mail) = (hire(Lane::Talk, talkers)?, hire(Lane::Mail, MAIL_WORKERS)?);
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
            own_uid: setup.own_uid,
            host: setup.host,
            resolver: setup.resolver,
            ids: SessionIds::new(),
            rows: Slab::new(),
            timers: Timers::new(),
            talk,
            mail,
            done,
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
            self.put_in_line(id.index(), Work::Open(Some(found)));
        }
    }

    // Sessions.

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
            let lane = match (&work, &seat.conn) {
                (Work::Ready, Some(conn)) => worker::lane(conn),
                _ => Lane::Talk,
            };
            self.crew(lane).line.push_back((index, work));
        }
    }

    fn crew(&mut self, lane: Lane) -> &mut Crew<T> {
        match lane {
            Lane::Talk => &mut self.talk,
            Lane::Mail => &mut self.mail,
        }
    }

    /// Sends sessions to workers, as many as the channels hold; more would only wait elsewhere.
    fn dispatch(&mut self) {
        self.talk.dispatch(&mut self.rows);
        self.mail.dispatch(&mut self.rows);
    }

    fn take_back(&mut self) {
        while let Ok(Done {
            lane,
            index,
            conn,
            wait,
        }) = self.done.try_recv()
        {
            let crew = self.crew(lane);
            crew.away = crew.away.saturating_sub(1);
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
            self.put_in_line(index, Work::Broken(strerror(&error)));
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

    // The end.

    /// Lets nobody in, and sends whoever waits to be told.
    fn stop(&mut self) {
        self.stopping = Some(self.now_ms + millis(self.limits.shutdown));
        self.smtp.close(self.poll.registry());
        self.control.close(self.poll.registry());
        self.talk.line.clear();
        self.mail.line.clear();
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
        self.talk.dismiss();
        self.mail.dismiss();
        stat::SMTP_SESSION.add(-(self.sessions as i64));
    }
}

impl<T: Conversation> Crew<T> {
    fn hire(count: usize, worker: impl Fn(Receiver<Job<T>>) -> Worker<T>) -> io::Result<Crew<T>> {
        let (jobs, jobs_taken) = bounded(count * JOBS_PER_WORKER);
        let workers = (1..=count)
            .map(|number| worker(jobs_taken.clone()).start(number))
            .collect::<io::Result<_>>()?;
        Ok(Crew {
            line: VecDeque::new(),
            away: 0,
            jobs: Some(jobs),
            workers,
        })
    }

    fn dispatch(&mut self, rows: &mut Slab<Row<T>>) {
        let Some(jobs) = &self.jobs else { return };
        let most = jobs.capacity().unwrap_or(1);
        while self.away < most
            && let Some((index, work)) = self.line.pop_front()
        {
            let Some(Row::Session(seat)) = rows.get_mut(index) else {
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

    /// One that is busy for longer than a shutdown may take is left to itself.
    fn dismiss(&mut self) {
        self.jobs = None;
        for worker in self.workers.drain(..) {
            if self.away == 0 {
                let _ = worker.join();
            }
        }
    }
}

impl<T> Seat<T> {
    /// Sets the deadlines after what a worker has seen move.
    fn note_progress(&mut self, now_ms: u64, limits: &Limits) {
        let Some(conn) = &mut self.conn else { return };
        let progress = conn.progress;
        conn.progress = Progress::default();
        let is_first_time = self.silent_ms == 0;
        if progress.moved || is_first_time {
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
/// Workers that take mail, and with them commits that can share a sync. They mostly wait.
const MAIL_WORKERS: usize = 16;
/// Sessions that are on their way to workers, beyond those in their hands.
const JOBS_PER_WORKER: usize = 4;

/// What a row costs, for the test that keeps it small.
#[cfg(test)]
pub(super) const ROW_BYTES: usize = size_of::<Row<()>>();
