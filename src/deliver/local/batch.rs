//! Many messages to one process: the engine's end of a batch.
//!
//! A [`Child`] lives as long as there is mail for its user, within bounds, and is handed one
//! session's envelopes after another; answers come back in order. Whatever the child does, each
//! envelope gets exactly one outcome: an answer, or a temporary failure when the child went
//! before answering. A message may then have been delivered all the same, never the reverse.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use crate::mail::{Envelope, Kind};
use crate::privsep::batch::{Answer, CHUNK_MAX, Chunk, Head};
use crate::privsep::{Calls, MdaEnd, MdaJob, MdaResult, MdaTask, Pending};
use crate::queue::Queue;
use crate::sys::descriptors::set_nonblocking;
use crate::sys::poll::{Interest, PollFd, poll};
use crate::util::Line;

use super::content::{Content, NoContent};
use super::exit::{Settled, TIMED_OUT, quote_last_line};
use super::feed::is_transient;

/// A child this old gets no more messages: the parent ends every delivery after 300 seconds.
const AGE_MAX: Duration = Duration::from_secs(60);

/// A round ends after so many bytes or so much time; what is left waits for the next.
const ROUND_BYTES: u64 = 32 << 20;
const ROUND_TIME: Duration = Duration::from_secs(30);

/// When a round has not ended by then the child is killed.
const ROUND_TIMEOUT: Duration = Duration::from_secs(230);

/// How long a child that has closed its output, or was killed, may take to be reported.
const END_WAIT: Duration = Duration::from_secs(10);

const TICK: Duration = Duration::from_millis(500);

/// What a child works for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// The configuration that its action is of.
    pub version: u64,
    pub action: Line,
    pub user: Line,
}

/// A process that takes many messages.
pub struct Child {
    pending: Pending,
    input: File,
    output: File,
    answers: Vec<u8>,
    sequence: u32,
    started: Instant,
}

/// What one round came to.
pub struct Round {
    /// Envelopes with their outcomes.
    pub settled: Vec<(Envelope, Settled)>,
    /// Envelopes that were not tried.
    pub left: VecDeque<Envelope>,
    /// Whether the child can go on.
    pub child: State,
    /// Whether it, or the parent for it, said anything.
    pub heard: Heard,
}

/// Whether a round was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// At least one message, or the request for the child.
    Something,
    /// Not at all.
    Nothing,
}

/// Whether a child can be used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It can.
    Alive,
    /// It is gone, or not to be trusted.
    Gone,
}

impl Child {
    /// Has the parent start one for this action and user.
    pub fn start(calls: &dyn Calls, key: &Key) -> io::Result<Child> {
        let (child_input, input) = io::pipe()?;
        let (output, child_output) = io::pipe()?;
        let (input, output) = (OwnedFd::from(input), OwnedFd::from(output));
        set_nonblocking(input.as_fd())?;
        set_nonblocking(output.as_fd())?;
        let job = MdaJob {
            action: key.action.clone(),
            user: key.user.clone(),
            task: MdaTask::Batch,
        };
        let pending = calls.start_mda(job, child_input.into(), child_output.into())?;
        Ok(Child {
            pending,
            input: File::from(input),
            output: File::from(output),
            answers: Vec::new(),
            sequence: 0,
            started: Instant::now(),
        })
    }

    /// Delivers as many of `envelopes` as a round takes.
    pub fn round(&mut self, queue: &Queue, envelopes: VecDeque<Envelope>) -> Round {
        let mut exchange = Exchange {
            child: self,
            queue,
            left: envelopes,
            unanswered: VecDeque::new(),
            settled: Vec::new(),
            heard: Heard::Nothing,
            closed: false,
            body: None,
            frames: Vec::new(),
            sent: 0,
            round_bytes: 0,
            begun: Instant::now(),
        };
        let end = exchange.run();
        exchange.conclude(end)
    }

    /// Whether it may be given more.
    pub fn is_fresh(&self) -> bool {
        self.started.elapsed() < AGE_MAX
    }

    /// Whether it has not ended.
    pub fn is_alive(&self) -> bool {
        self.pending.try_wait(Duration::ZERO).is_none()
    }
}

/// A round under way.
struct Exchange<'a> {
    child: &'a mut Child,
    queue: &'a Queue,
    left: VecDeque<Envelope>,
    unanswered: VecDeque<(u32, Envelope)>,
    settled: Vec<(Envelope, Settled)>,
    heard: Heard,
    /// The child takes no more input.
    closed: bool,
    body: Option<Content>,
    /// Bytes on their way to the child, from `sent` on.
    frames: Vec<u8>,
    sent: usize,
    round_bytes: u64,
    begun: Instant,
}

/// How an exchange ended.
enum End {
    /// All were answered.
    Complete,
    /// The child closed a pipe, or was reported gone.
    Gone(Option<MdaResult>),
    /// It said something that is no answer.
    Garbage,
    /// It took too long.
    Timeout,
}

impl Exchange<'_> {
    fn run(&mut self) -> End {
        let deadline = self.begun + ROUND_TIMEOUT;
        loop {
            if self.sent == self.frames.len() && !self.closed {
                self.refill();
            }
            let sending = self.sent < self.frames.len();
            if !sending && self.unanswered.is_empty() {
                return End::Complete;
            }
            if Instant::now() >= deadline {
                return End::Timeout;
            }
            let (writable, readable) = match self.wait(sending) {
                Ok((false, false)) => match self.child.pending.try_wait(Duration::ZERO) {
                    Some(result) => return End::Gone(Some(result)),
                    None => continue,
                },
                Ok(ready) => ready,
                Err(_) => return End::Garbage,
            };
            // Answers first: a child that has gone may have left some.
            if readable {
                match self.read() {
                    Ok(State::Alive) => {}
                    Ok(State::Gone) => return End::Gone(None),
                    Err(_) => return End::Garbage,
                }
            }
            if writable {
                self.write();
            }
        }
    }

    fn wait(&self, sending: bool) -> io::Result<(bool, bool)> {
        let mut fds = vec![PollFd::new(self.child.output.as_fd(), Interest::Read)];
        if sending {
            fds.push(PollFd::new(self.child.input.as_fd(), Interest::Write));
        }
        poll(&mut fds, Some(TICK))?;
        let ready =
            |fd: Option<&PollFd<'_>>| fd.is_some_and(|fd| fd.readable || fd.writable || fd.hangup);
        Ok((ready(fds.get(1)), ready(fds.first())))
    }

    /// Puts the next frames together: a good buffer's worth, so that small messages share writes.
    fn refill(&mut self) {
        self.frames.clear();
        self.sent = 0;
        while self.frames.len() < CHUNK_MAX {
            if self.body.is_some() {
                self.next_chunk();
                continue;
            }
            let over = self.round_bytes > ROUND_BYTES || self.begun.elapsed() > ROUND_TIME;
            match self.left.pop_front() {
                Some(envelope) if !over => self.next_message(envelope),
                Some(envelope) => return self.left.push_front(envelope),
                None => return,
            }
        }
    }

    fn next_message(&mut self, envelope: Envelope) {
        match Content::open(self.queue, &envelope) {
            Ok(content) => {
                let sequence = self.child.sequence;
                self.child.sequence = sequence.wrapping_add(1);
                head(sequence, &envelope).encode(&mut self.frames);
                self.body = Some(content);
                self.unanswered.push_back((sequence, envelope));
            }
            Err(NoContent::Loop) => self.settled.push((envelope, Settled::looped())),
            Err(NoContent::Io(_)) => self.settled.push((envelope, no_message())),
        }
    }

    fn next_chunk(&mut self) {
        let Some(body) = &mut self.body else {
            return;
        };
        let mark_at = self.frames.len();
        Chunk::End.encode(&mut self.frames);
        let read = body
            .by_ref()
            .take(CHUNK_MAX as u64)
            .read_to_end(&mut self.frames);
        let mut mark = Vec::new();
        match read {
            Ok(0) => self.body = None,
            Ok(n) => {
                self.round_bytes += n as u64;
                Chunk::Bytes(n).encode(&mut mark);
            }
            Err(_) => {
                self.frames.truncate(mark_at + 4);
                self.body = None;
                Chunk::Abort.encode(&mut mark);
            }
        }
        for (place, byte) in self.frames.iter_mut().skip(mark_at).zip(mark) {
            *place = byte;
        }
    }

    /// A pipe that takes no more is found out by its missing answers.
    fn write(&mut self) {
        let bytes = self.frames.get(self.sent..).unwrap_or_default();
        match self.child.input.write(bytes) {
            Ok(n) => self.sent += n,
            Err(error) if is_transient(&error) => {}
            Err(_) => {
                self.sent = self.frames.len();
                self.body = None;
                self.closed = true;
            }
        }
    }

    fn read(&mut self) -> io::Result<State> {
        let mut buffer = [0; 8192];
        match self.child.output.read(&mut buffer) {
            Ok(0) => return Ok(State::Gone),
            Ok(n) => self.child.answers.extend_from_slice(&buffer[..n]),
            Err(error) if is_transient(&error) => return Ok(State::Alive),
            Err(error) => return Err(error),
        }
        while let Some((expected, _)) = self.unanswered.front() {
            let Some(answer) = Answer::take(&mut self.child.answers)? else {
                return Ok(State::Alive);
            };
            if answer.sequence != *expected {
                return Err(io::ErrorKind::InvalidData.into());
            }
            self.heard = Heard::Something;
            if let Some((_, envelope)) = self.unanswered.pop_front() {
                self.settled.push((envelope, settled(&answer)));
            }
        }
        if self.child.answers.is_empty() {
            Ok(State::Alive)
        } else {
            Err(io::ErrorKind::InvalidData.into())
        }
    }

    fn conclude(mut self, end: End) -> Round {
        let (state, rest) = match end {
            End::Complete if self.closed => (State::Gone, None),
            End::Complete => (State::Alive, None),
            End::Gone(result) => {
                let result = result.or_else(|| self.child.pending.try_wait(END_WAIT));
                if matches!(result, Some(MdaResult::Refused(_))) {
                    self.heard = Heard::Something;
                }
                (State::Gone, Some(gone(result, &self.child.answers)))
            }
            End::Garbage => {
                self.child.pending.kill();
                let text = quote_last_line(&self.child.answers);
                let text = text.as_deref().unwrap_or("batch delivery out of step");
                (State::Gone, Some(Settled::temporary(text)))
            }
            End::Timeout => {
                self.child.pending.kill();
                // Its place is not another's before it is known whether it can be killed.
                let _ = self.child.pending.try_wait(END_WAIT);
                (State::Gone, Some(Settled::temporary(TIMED_OUT)))
            }
        };
        if let Some(rest) = rest {
            for (_, envelope) in self.unanswered.drain(..) {
                self.settled.push((envelope, rest.clone()));
            }
        }
        Round {
            settled: self.settled,
            left: self.left,
            child: state,
            heard: self.heard,
        }
    }
}

/// What is said for envelopes that a child left without an answer.
fn gone(result: Option<MdaResult>, output: &[u8]) -> Settled {
    let said = quote_last_line(output);
    match result {
        // It was never started: that is an answer for all.
        Some(refused @ MdaResult::Refused(_)) => Settled::of(&refused, None),
        Some(MdaResult::Done(MdaEnd::Exited(_))) | None => {
            Settled::temporary(said.as_deref().unwrap_or("exited abnormally"))
        }
        Some(other) => Settled::of(&other, said),
    }
}

fn settled(answer: &Answer) -> Settled {
    let said = quote_last_line(answer.text.as_bytes());
    Settled::exited(answer.code, said, "exited abnormally")
}

/// The message's file cannot be opened.
pub fn no_message() -> Settled {
    Settled::not_started("Cannot get message fd")
}

fn head(sequence: u32, envelope: &Envelope) -> Head {
    let subaddress = match &envelope.kind {
        Kind::Local(local) => local.subaddress.clone(),
        Kind::Relay | Kind::Bounce(_) => None,
    };
    Head {
        sequence,
        subaddress,
        sender: envelope.sender.clone(),
        rcpt: envelope.rcpt.clone(),
        dest: envelope.dest.clone(),
    }
}
