//! A helper that speaks lines: a program behind a table or a filter.
//!
//! The parent starts it on our request and gives it one end of a socket for standard input and
//! output; a thread here owns the other end. It sends the greeting, takes lines apart, writes what
//! others want to say, and logs what the program says on standard error, with its name in front.
//! A program that ends, breaks the protocol, or neither reads nor answers is killed and started
//! again, later each time; whoever waits for it is told at once.
//!
//! Nobody blocks here but the thread itself. What waits to be written is bounded: at
//! [`HIGH_WATER`] those who can wait should ([`Proc::has_room`]), at [`FULL`] the program counts as
//! stuck.

#![forbid(unsafe_code)]

mod lines;
mod runner;

use std::fmt;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::util::Line;
use crate::util::backoff::Backoff;

pub use lines::Lines;
use runner::Runner;

/// Bytes that wait for a program from which on those who can wait should.
pub const HIGH_WATER: usize = 256 * 1024;
/// Bytes that wait for a program from which on it counts as stuck.
pub const FULL: usize = 16 * 1024 * 1024;
/// The longest line a program may say, in bytes.
pub const LINE_MAX: usize = 1024 * 1024;
/// How long a program may take from its start to its readiness.
pub const START_TIME: Duration = Duration::from_secs(30);

/// Who starts a program.
pub trait Launcher: Send + Sync {
    /// Starts it with `stream` for standard input and output and `errors` for standard error.
    fn launch(&self, stream: OwnedFd, errors: OwnedFd) -> io::Result<Box<dyn Child>>;
}

/// A program that was asked for.
pub trait Child: Send {
    /// Its process, once that is known.
    fn pid(&self) -> Option<u32>;
    /// Ends it at once.
    fn kill(&self);
    /// How it ended, if it has; waits for that no longer than `timeout`.
    fn ended(&self, timeout: Duration) -> Option<String>;
}

/// What is made of a program's lines. All calls but the first come from its thread.
pub trait Talk: Send {
    /// What a new program is told first; it ends with a line end.
    fn greeting(&mut self) -> Vec<u8>;
    /// A line without its end. An error is a breach of the protocol that ends the program.
    fn hear(&mut self, line: &[u8]) -> Result<Heard, String>;
    /// The program has read: those who wait for room ([`Proc::has_room`]) may say more.
    fn room(&mut self) {}
    /// The program is gone: what it has not answered it never will.
    fn gone(&mut self);
}

/// What a line meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Go on.
    Line,
    /// The program has introduced itself: others may speak to it now.
    Ready,
}

/// The program cannot be spoken to now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Down;

/// One helper, whatever process it is at the moment. Clones share it.
#[derive(Clone)]
pub struct Proc(Arc<Shared>);

/// Keeps the program running; dropped, it lets it end, and waits for nothing: any thread may be the
/// last to use one.
pub struct Keeper(Proc);

/// How a helper is, for who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Whether it may be spoken to.
    pub phase: Phase,
    /// Its process.
    pub pid: Option<u32>,
    /// How often it was started again.
    pub restarts: u32,
}

/// How far a helper has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// There is no process, or it has not introduced itself.
    Starting,
    /// It serves.
    Ready,
    /// It has ended; another one will be started.
    Down,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::Starting => "starting",
            Phase::Ready => "ready",
            Phase::Down => "down",
        })
    }
}

struct Shared {
    name: Line,
    process: Mutex<Process>,
    /// Rung when the phase changes.
    changed: Condvar,
    wake: UnixStream,
}

struct Process {
    phase: Phase,
    /// Counts processes.
    life: u64,
    stream: Option<Arc<UnixStream>>,
    /// To be written; before the program is ready it holds the greeting alone.
    out: Out,
    /// What others want to say before the program is ready.
    held: Vec<u8>,
    pid: Option<u32>,
    restarts: u32,
    heard: Instant,
    /// Why the program is to be ended.
    verdict: Option<String>,
    stop: bool,
}

/// Bytes on their way out.
#[derive(Default)]
struct Out {
    bytes: Vec<u8>,
    written: usize,
}

impl Proc {
    /// Starts a helper of this name, and goes on starting it until the keeper is dropped.
    pub fn start(
        name: &Line,
        launcher: Arc<dyn Launcher>,
        talk: Box<dyn Talk>,
    ) -> io::Result<(Proc, Keeper)> {
        let (wake, woken) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        woken.set_nonblocking(true)?;
        let proc = Proc(Arc::new(Shared {
            name: name.clone(),
            process: Mutex::new(Process {
                phase: Phase::Starting,
                life: 0,
                stream: None,
                out: Out::default(),
                held: Vec::new(),
                pid: None,
                restarts: 0,
                heard: Instant::now(),
                verdict: None,
                stop: false,
            }),
            changed: Condvar::new(),
            wake,
        }));
        let mut runner = Runner {
            proc: proc.clone(),
            launcher,
            talk,
            woken,
            backoff: Backoff::default(),
            served: false,
        };
        thread::Builder::new()
            .name(thread_name(name))
            .spawn(move || runner.run())?;
        Ok((proc.clone(), Keeper(proc)))
    }

    /// Its name in the configuration.
    pub fn name(&self) -> &Line {
        &self.0.name
    }

    /// Says `lines`, which end with a line end. What is said before the program is ready is kept
    /// for it.
    pub fn say(&self, lines: &[u8]) -> Result<(), Down> {
        let mut process = self.process();
        if process.verdict.is_some() || process.stop {
            return Err(Down);
        }
        match process.phase {
            Phase::Down => return Err(Down),
            Phase::Starting if process.held.len() + lines.len() > FULL => return Err(Down),
            Phase::Starting => process.held.extend_from_slice(lines),
            Phase::Ready if process.out.len() + lines.len() > FULL => {
                process.verdict = Some("it does not read".to_owned());
                self.wake();
                return Err(Down);
            }
            Phase::Ready => {
                let idle = process.out.len() == 0;
                process.out.bytes.extend_from_slice(lines);
                // An error is the thread's to see.
                let left = !idle || !matches!(process.flush(), Ok(true));
                if idle && left {
                    self.wake();
                }
            }
        }
        Ok(())
    }

    /// Whether more may be said by those who can wait.
    pub fn has_room(&self) -> bool {
        self.process().has_room()
    }

    /// Which process it is; another one knows nothing of what this one was told.
    pub fn life(&self) -> u64 {
        self.process().life
    }

    /// Whether it may be spoken to, now or soon.
    pub fn is_up(&self) -> bool {
        self.process().phase != Phase::Down
    }

    /// Ends the program: another one takes its place.
    pub fn fail(&self, why: &str) {
        let mut process = self.process();
        if process.phase != Phase::Down {
            process.verdict.get_or_insert_with(|| why.to_owned());
            self.wake();
        }
    }

    /// Ends the program if it has said nothing since `then`.
    pub fn fail_if_silent_since(&self, then: Instant) {
        let silent = self.process().heard < then;
        if silent {
            self.fail("it does not answer");
        }
    }

    /// Waits until the program serves, or has failed to.
    pub fn wait_until_ready(&self, deadline: Instant) -> bool {
        let mut process = self.process();
        while process.phase == Phase::Starting {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            process = self
                .0
                .changed
                .wait_timeout(process, left)
                .map_or_else(|poisoned| poisoned.into_inner().0, |(process, _)| process);
        }
        process.phase == Phase::Ready
    }

    /// What `smtpctl show filters` tells of it.
    pub fn status(&self) -> Status {
        let process = self.process();
        Status {
            phase: process.phase,
            pid: process.pid,
            restarts: process.restarts,
        }
    }

    fn process(&self) -> MutexGuard<'_, Process> {
        self.0
            .process
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // Full means that it is awake.
        let _ = (&self.0.wake).write(&[0]);
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.process().stop = true;
        self.0.wake();
    }
}

impl Process {
    fn has_room(&self) -> bool {
        self.out.len() + self.held.len() < HIGH_WATER
    }

    /// Writes what the socket takes; says whether that was all.
    fn flush(&mut self) -> io::Result<bool> {
        let Some(stream) = &self.stream else {
            return Ok(true);
        };
        while let Some(rest) = self.out.bytes.get(self.out.written..)
            && !rest.is_empty()
        {
            match (&**stream).write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => self.out.written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.out.compact();
                    return Ok(false);
                }
                Err(error) => return Err(error),
            }
        }
        self.out.clear();
        Ok(true)
    }
}

impl Out {
    fn len(&self) -> usize {
        self.bytes.len() - self.written
    }

    fn clear(&mut self) {
        self.written = 0;
        self.bytes.clear();
        self.bytes.shrink_to(KEPT_BYTES);
    }

    /// Gives up the room of what has been written, once that is most of it.
    fn compact(&mut self) {
        if self.written > self.bytes.len() / 2 {
            self.bytes.drain(..self.written);
            self.written = 0;
        }
    }
}

/// The time as both protocols write it: seconds, a point, six digits.
pub fn stamp() -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    format!("{}.{:06}", now.as_secs(), now.subsec_micros())
}

/// Names of threads are short.
fn thread_name(name: &Line) -> String {
    let short: String = name.chars().take(10).collect();
    format!("proc {short}")
}

/// What a buffer keeps when it is empty.
const KEPT_BYTES: usize = 64 * 1024;

#[cfg(test)]
pub(crate) mod tests;
