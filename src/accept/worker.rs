//! Runs a session while it has something to do, and hands it back the moment it would wait.
//!
//! A worker may block on the disk and on tables, inside the session, and never on the peer. It
//! owns the two buffers that busy sessions use, so that parked ones need none.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender};

use crate::dns::{Bell, Reverse};
use crate::log::{self, Trace};
use crate::session::{Answer, Disconnect, Next, Question, Services};
use crate::sys::errno::strerror;

use super::conn::{Conn, would_block};
use super::limits::Limits;
use super::{Conversation, Lane};

/// A connection on its way to a worker.
pub(super) struct Job<T> {
    pub(super) index: usize,
    pub(super) conn: Box<Conn<T>>,
    pub(super) work: Work,
}

/// Why it goes there.
pub(super) enum Work {
    /// It is new, and its peer has this name.
    Open(Option<Reverse>),
    /// Its socket is ready, or it has not finished.
    Ready,
    /// Its peer has been silent for too long.
    Timeout,
    /// We are going.
    Shutdown,
    /// The loop cannot wait for it.
    Broken(String),
}

/// A connection on its way back.
pub(super) struct Done<T> {
    pub(super) lane: Lane,
    pub(super) index: usize,
    pub(super) conn: Box<Conn<T>>,
    pub(super) wait: Wait,
}

/// What it waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    Readable,
    Writable,
    /// Its next turn: others come first now.
    Turn,
    /// Nothing: its session is closed.
    Nothing,
}

/// What a worker thread holds.
pub(super) struct Worker<T> {
    pub(super) lane: Lane,
    pub(super) jobs: Receiver<Job<T>>,
    pub(super) done: Sender<Done<T>>,
    pub(super) bell: Arc<Bell>,
    pub(super) services: Arc<dyn Services>,
    pub(super) limits: Limits,
}

impl<T: Conversation> Worker<T> {
    /// Starts the thread. It ends when the loop drops its side of the jobs.
    pub(super) fn start(self, number: usize) -> io::Result<JoinHandle<()>> {
        thread::Builder::new()
            .name(match self.lane {
                Lane::Talk => format!("session {number}"),
                Lane::Mail => format!("mail {number}"),
            })
            .spawn(move || self.run())
    }

    fn run(self) {
        let mut buffers = Buffers {
            chunk: vec![0; self.limits.read_bytes],
            ..Buffers::default()
        };
        while let Ok(Job {
            index,
            mut conn,
            work,
        }) = self.jobs.recv()
        {
            buffers.take_up(&mut conn);
            let wait = self.work(&mut conn, work, &mut buffers);
            buffers.leave(&mut conn);
            let lane = self.lane;
            let done = Done {
                lane,
                index,
                conn,
                wait,
            };
            if self.done.send(done).is_err() {
                return;
            }
            self.bell.ring();
        }
    }

    fn work(&self, conn: &mut Conn<T>, work: Work, buffers: &mut Buffers) -> Wait {
        let Some(session) = conn.session.as_mut() else {
            return Wait::Nothing;
        };
        match work {
            Work::Open(name) => {
                let next = session.open(&mut buffers.output);
                conn.next = self.answer(session, next, name, buffers);
                conn.progress.replied = true;
            }
            Work::Ready => {}
            Work::Timeout => {
                session.timeout(&mut buffers.output);
                return goodbye(conn, buffers, Disconnect::Timeout);
            }
            Work::Shutdown => {
                session.shutdown(&mut buffers.output);
                return goodbye(conn, buffers, Disconnect::Quit);
            }
            Work::Broken(why) => return close(conn, buffers, Disconnect::IoError(why)),
        }
        match self.turns(conn, buffers) {
            Ok(wait) => wait,
            Err(why) => close(conn, buffers, why),
        }
    }

    /// Write, then read, then let the session answer; a session is not fed before its replies are
    /// on their way.
    fn turns(&self, conn: &mut Conn<T>, buffers: &mut Buffers) -> Result<Wait, Disconnect> {
        for _ in 0..self.limits.turns {
            if write_all(conn, buffers)? == Io::WouldBlock {
                return Ok(Wait::Writable);
            }
            match conn.next {
                Next::Close => {
                    linger(conn, buffers);
                    return Ok(close(conn, buffers, Disconnect::Quit));
                }
                Next::Flush | Next::Ask(_) | Next::Wait => {}
                // What it says next may keep a worker for long: one of those that may be kept.
                Next::Read if self.lane == Lane::Talk && lane(conn) == Lane::Mail => {
                    return Ok(Wait::Readable);
                }
                Next::Read => {
                    if self.read(conn, buffers)? == Io::WouldBlock {
                        return Ok(Wait::Readable);
                    }
                }
            }
            self.receive(conn, buffers);
        }
        Ok(Wait::Turn)
    }

    fn receive(&self, conn: &mut Conn<T>, buffers: &mut Buffers) {
        let Some(session) = conn.session.as_mut() else {
            return;
        };
        let before = buffers.input.len();
        let next = session.receive(&mut buffers.input, &mut buffers.output, &*self.services);
        conn.next = self.answer(session, next, None, buffers);
        conn.progress.replied |= !buffers.output.is_empty();
        let idle = buffers.output.is_empty() && buffers.input.len() == before;
        if matches!(conn.next, Next::Flush) && idle {
            // It has nothing to flush and took nothing: only more bytes can change that.
            conn.next = Next::Read;
        }
    }

    /// Finds what the session asks.
    fn answer(
        &self,
        session: &mut T,
        mut next: Next,
        mut name: Option<Reverse>,
        buffers: &mut Buffers,
    ) -> Next {
        while let Next::Ask(question) = next {
            let answer = match question {
                Question::Name(_) => name.take().map_or(Answer::TooLate, Answer::Name),
                Question::Lookup(lookup) => lookup.answer(&*self.services),
                Question::Store(store) => store.answer(&*self.services),
            };
            let (input, output) = (&mut buffers.input, &mut buffers.output);
            next = session.answered(answer, input, output, &*self.services);
        }
        next
    }

    fn read(&self, conn: &mut Conn<T>, buffers: &mut Buffers) -> Result<Io, Disconnect> {
        match retry(|| conn.stream.read(&mut buffers.chunk)) {
            Ok(0) => Err(Disconnect::Hangup),
            Ok(count) => {
                buffers.input.extend_from_slice(&buffers.chunk[..count]);
                conn.progress.moved = true;
                conn.progress.received_bytes += count;
                log::trace(
                    Trace::Io,
                    format_args!("io: {}: read {count} bytes", conn.stream),
                );
                Ok(Io::Done)
            }
            Err(error) if would_block(&error) => Ok(Io::WouldBlock),
            Err(error) => Err(Disconnect::IoError(strerror(&error))),
        }
    }
}

/// The workers that a session needs next.
pub(super) fn lane<T: Conversation>(conn: &Conn<T>) -> Lane {
    conn.session.as_ref().map_or(Lane::Talk, T::lane)
}

/// What the session at work uses; empty between sessions.
#[derive(Default)]
struct Buffers {
    input: Vec<u8>,
    output: Vec<u8>,
    /// How much of the output is written.
    written: usize,
    chunk: Vec<u8>,
}

impl Buffers {
    fn take_up<T>(&mut self, conn: &mut Conn<T>) {
        self.input.clear();
        self.input.extend_from_slice(&conn.input);
        conn.input = Vec::new();
        self.output.clear();
        self.output.extend_from_slice(&conn.output);
        conn.output = Vec::new();
        self.written = 0;
    }

    fn leave<T>(&mut self, conn: &mut Conn<T>) {
        conn.input = self.input.as_slice().into();
        conn.output = self.output.get(self.written..).unwrap_or_default().into();
        for buffer in [&mut self.input, &mut self.output] {
            buffer.clear();
            buffer.shrink_to(KEPT_BYTES);
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Io {
    Done,
    WouldBlock,
}

fn write_all<T>(conn: &mut Conn<T>, buffers: &mut Buffers) -> Result<Io, Disconnect> {
    while let Some(rest) = buffers.output.get(buffers.written..)
        && !rest.is_empty()
    {
        match retry(|| conn.stream.write(rest)) {
            Ok(0) => return Err(Disconnect::Hangup),
            Ok(count) => {
                buffers.written += count;
                log::trace(
                    Trace::Io,
                    format_args!("io: {}: wrote {count} bytes", conn.stream),
                );
                conn.progress.moved = true;
            }
            Err(error) if would_block(&error) => return Ok(Io::WouldBlock),
            Err(error) => return Err(Disconnect::IoError(strerror(&error))),
        }
    }
    buffers.output.clear();
    buffers.written = 0;
    Ok(Io::Done)
}

/// Writes what the socket takes at once, and closes.
fn goodbye<T: Conversation>(conn: &mut Conn<T>, buffers: &mut Buffers, why: Disconnect) -> Wait {
    if write_all(conn, buffers) == Ok(Io::Done) {
        linger(conn, buffers);
    }
    close(conn, buffers, why)
}

/// Makes it likely that the last reply is read: closing a socket with unread bytes makes the
/// kernel send a reset, which overtakes what is on its way.
fn linger<T>(conn: &mut Conn<T>, buffers: &mut Buffers) {
    conn.stream.finish();
    for _ in 0..LINGER_READS {
        if !matches!(conn.stream.read(&mut buffers.chunk), Ok(count) if count > 0) {
            return;
        }
    }
}

fn close<T: Conversation>(conn: &mut Conn<T>, buffers: &mut Buffers, why: Disconnect) -> Wait {
    if let Some(session) = conn.session.take() {
        session.close(why);
    }
    buffers.input.clear();
    buffers.output.clear();
    buffers.written = 0;
    Wait::Nothing
}

fn retry<V>(mut call: impl FnMut() -> io::Result<V>) -> io::Result<V> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            result => return result,
        }
    }
}

/// What a worker keeps of its buffers between sessions.
const KEPT_BYTES: usize = 256 * 1024;
const LINGER_READS: usize = 8;
