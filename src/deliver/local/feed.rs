//! One message to one delivery process: writes its input and reads its output at the same time.
//!
//! The input is in chunks with a mark at their end (`privsep::batch`), which nobody else writes: if
//! we die half-way, or the parent, the process knows that it has a part only. A program need not
//! read everything, nor stop writing: input it refuses is dropped, output is drained and only its
//! end kept. When the message cannot be read to its end, the process is killed while its input is
//! still open, so that it never takes a part for the whole. All of it has one deadline.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use crate::privsep::batch::{CHUNK_MAX, Chunk};
use crate::privsep::{MdaEnd, MdaResult, Pending};
use crate::sys::descriptors::set_nonblocking;
use crate::sys::errno::strerror;
use crate::sys::poll::{Interest, PollFd, poll};

use super::exit::{Settled, Tail};

/// A started delivery and our ends of its pipes.
pub struct Delivery {
    /// To ask the parent with.
    pub pending: Pending,
    /// The end its input is written to.
    pub input: OwnedFd,
    /// The end its output is read from.
    pub output: OwnedFd,
}

/// How often a process is asked after whose descendants keep its pipes open.
const TICK: Duration = Duration::from_millis(250);

/// How long a killed process may take to be reported.
const KILL_WAIT: Duration = Duration::from_secs(10);

/// Bytes of the mark in front of a chunk.
const MARK: usize = 4;

/// Output that is read after the process is gone ends here.
const DRAIN_MAX: usize = 1 << 20;

/// Runs the delivery to its end, at most for `timeout`.
pub fn run(delivery: Delivery, message: &mut dyn Read, timeout: Duration) -> Settled {
    let deadline = Instant::now() + timeout;
    match Feed::new(delivery) {
        Ok(feed) => feed.run(message, deadline),
        Err(error) => Settled::not_started(&format!("pipe: {}", strerror(&error))),
    }
}

struct Feed {
    pending: Pending,
    /// `None` once everything is written or the program takes no more.
    input: Option<File>,
    /// `None` after its end.
    output: Option<File>,
    /// A chunk with its mark, or the end mark.
    buffer: Vec<u8>,
    /// The end mark is in the buffer or written.
    is_over: bool,
    start: usize,
    end: usize,
    tail: Tail,
}

impl Feed {
    fn new(delivery: Delivery) -> io::Result<Feed> {
        let made = set_nonblocking(delivery.input.as_fd())
            .and_then(|()| set_nonblocking(delivery.output.as_fd()));
        if let Err(error) = made {
            delivery.pending.kill();
            return Err(error);
        }
        Ok(Feed {
            pending: delivery.pending,
            input: Some(File::from(delivery.input)),
            output: Some(File::from(delivery.output)),
            buffer: Vec::with_capacity(MARK + CHUNK_MAX),
            is_over: false,
            start: 0,
            end: 0,
            tail: Tail::default(),
        })
    }

    fn run(mut self, message: &mut dyn Read, deadline: Instant) -> Settled {
        loop {
            if self.output.is_none() && self.input.is_none() {
                // Nothing is left to do but wait.
                let left = deadline.saturating_duration_since(Instant::now());
                return match self.pending.try_wait(left) {
                    Some(result) => Settled::of(&result, self.tail.last_line()),
                    None => self.give_up(),
                };
            }
            // A process may be gone while its descendants keep the pipes open.
            if let Some(result) = self.pending.try_wait(Duration::ZERO) {
                self.drain();
                return Settled::of(&result, self.tail.last_line());
            }
            if Instant::now() >= deadline {
                return self.give_up();
            }
            if self.move_bytes(message, deadline).is_err() {
                self.kill();
                return Settled::temporary("Error reading body");
            }
        }
    }

    /// Waits for either pipe and serves it. The error is the message's; the pipes have none that
    /// matters.
    fn move_bytes(&mut self, message: &mut dyn Read, deadline: Instant) -> io::Result<()> {
        if self.input.is_some() && self.start == self.end {
            self.refill(message)?;
        }
        let left = deadline.saturating_duration_since(Instant::now()).min(TICK);
        let (writable, readable) = self.wait(left);
        if writable {
            self.write();
        }
        if readable {
            self.read();
        }
        Ok(())
    }

    fn refill(&mut self, message: &mut dyn Read) -> io::Result<()> {
        if self.is_over {
            self.input = None;
            return Ok(());
        }
        let mut mark = Vec::with_capacity(MARK);
        self.buffer.resize(MARK + CHUNK_MAX, 0);
        let room = self.buffer.get_mut(MARK..).unwrap_or_default();
        let n = loop {
            match message.read(room) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result?,
            }
        };
        match n {
            0 => Chunk::End.encode(&mut mark),
            n => Chunk::Bytes(n).encode(&mut mark),
        }
        self.is_over = n == 0;
        self.buffer.truncate(MARK + n);
        self.buffer.splice(..MARK, mark);
        (self.start, self.end) = (0, self.buffer.len());
        Ok(())
    }

    fn wait(&self, timeout: Duration) -> (bool, bool) {
        let mut fds = Vec::with_capacity(2);
        if let Some(output) = &self.output {
            fds.push(PollFd::new(output.as_fd(), Interest::Read));
        }
        if let Some(input) = &self.input {
            fds.push(PollFd::new(input.as_fd(), Interest::Write));
        }
        if fds.is_empty() || poll(&mut fds, Some(timeout)).is_err() {
            return (false, false);
        }
        let ready =
            |fd: Option<&PollFd<'_>>| fd.is_some_and(|fd| fd.readable || fd.writable || fd.hangup);
        match self.output {
            Some(_) => (ready(fds.get(1)), ready(fds.first())),
            None => (ready(fds.first()), false),
        }
    }

    fn write(&mut self) {
        let Some(input) = &mut self.input else {
            return;
        };
        let bytes = self.buffer.get(self.start..self.end).unwrap_or_default();
        match input.write(bytes) {
            Ok(n) => self.start += n,
            Err(error) if is_transient(&error) => {}
            // The program has closed its input: whether that is success, its exit code says.
            Err(_) => self.input = None,
        }
    }

    fn read(&mut self) {
        let Some(output) = &mut self.output else {
            return;
        };
        let mut buffer = [0; 8192];
        match output.read(&mut buffer) {
            Ok(0) => self.output = None,
            Ok(n) => self.tail.push(&buffer[..n]),
            Err(error) if is_transient(&error) => {}
            Err(_) => self.output = None,
        }
    }

    /// Takes what the process has left in the pipe, not waiting for descendants to add to it.
    fn drain(&mut self) {
        let Some(output) = &mut self.output else {
            return;
        };
        let mut buffer = [0; 8192];
        let mut left = DRAIN_MAX;
        while let Ok(n @ 1..) = output.read(&mut buffer) {
            self.tail.push(&buffer[..n]);
            left = left.saturating_sub(n);
            if left == 0 {
                return;
            }
        }
    }

    fn give_up(mut self) -> Settled {
        self.kill();
        self.drain();
        Settled::of(&MdaResult::Done(MdaEnd::TimedOut), self.tail.last_line())
    }

    /// Kills the process, and keeps its input open until it is gone.
    fn kill(&self) {
        self.pending.kill();
        let _ = self.pending.try_wait(KILL_WAIT);
    }
}

/// Whether a read or write on a pipe may simply be tried again later.
pub fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}
