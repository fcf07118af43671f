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

use std::fmt;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::log;
use crate::sys::errno::strerror;
use crate::sys::poll::{Interest, PollFd, poll};
use crate::util::Line;
use crate::util::backoff::Backoff;

use lines::Errors;
pub use lines::Lines;

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
        let process = self.process();
        process.out.len() + process.held.len() < HIGH_WATER
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

/// The thread of one helper.
struct Runner {
    proc: Proc,
    launcher: Arc<dyn Launcher>,
    talk: Box<dyn Talk>,
    woken: UnixStream,
    backoff: Backoff,
    /// Whether the process that ran last has got ready.
    served: bool,
}

/// Why a program is spoken to no more.
enum End {
    /// We end.
    Stopped,
    /// It closed its side.
    Closed,
    /// It, or the wire to it, is not as it should be.
    Bad(String),
}

impl Runner {
    fn run(&mut self) {
        loop {
            let started = Instant::now();
            let (end, how) = self.live();
            self.talk.gone();
            let why = match (end, how) {
                (End::Stopped, _) => return,
                (End::Closed, Some(how)) => format!("exited abnormally: {how}"),
                (End::Closed, None) => "exited abnormally".to_owned(),
                (End::Bad(why), _) => format!("was ended: {why}"),
            };
            let lived = started.elapsed();
            let wait = match std::mem::take(&mut self.served) {
                true => self.backoff.died_at_work(lived),
                false => self.backoff.died(lived),
            };
            log::warn(format_args!(
                "lost processor: {} {why}; starting it again in {} s",
                self.proc.name(),
                wait.as_secs()
            ));
            if !self.sleep(wait) {
                return;
            }
            let mut process = self.proc.process();
            process.restarts = process.restarts.saturating_add(1);
            process.phase = Phase::Starting;
        }
    }

    /// One process, from its start to its end; says how that was.
    fn live(&mut self) -> (End, Option<String>) {
        let failed =
            |what: &str, error: &io::Error| End::Bad(format!("{what}: {}", strerror(error)));
        let (stream, theirs) = match UnixStream::pair() {
            Ok(pair) => pair,
            Err(error) => return (self.lay_down(failed("socketpair", &error)), None),
        };
        let (errors, their_errors) = match UnixStream::pair() {
            Ok(pair) => pair,
            Err(error) => return (self.lay_down(failed("socketpair", &error)), None),
        };
        for ours in [&stream, &errors] {
            if let Err(error) = ours.set_nonblocking(true) {
                return (self.lay_down(failed("socket", &error)), None);
            }
        }
        let child = match self.launcher.launch(theirs.into(), their_errors.into()) {
            Ok(child) => child,
            Err(error) => return (self.lay_down(failed("cannot start", &error)), None),
        };
        let stream = Arc::new(stream);
        let greeting = self.talk.greeting();
        {
            let mut process = self.proc.process();
            process.life += 1;
            process.heard = Instant::now();
            process.verdict = None;
            process.stream = Some(stream.clone());
            process.out.bytes.extend_from_slice(&greeting);
        }
        let mut errors = Errors::new(errors);
        let end = self.talk_with(&stream, &mut errors, &*child);
        let end = self.lay_down(end);
        // Closed on our side, it reads the end of its input, which tells it to go.
        drop(stream);
        let grace = match end {
            End::Bad(_) => Duration::ZERO,
            End::Stopped | End::Closed => GRACE,
        };
        let mut how = child.ended(grace);
        if how.is_none() {
            child.kill();
            how = child.ended(GRACE);
        }
        errors.hear(self.proc.name());
        (end, how)
    }

    /// From now on nobody can speak to it.
    fn lay_down(&self, end: End) -> End {
        let mut process = self.proc.process();
        process.phase = Phase::Down;
        process.stream = None;
        process.pid = None;
        process.out.clear();
        process.held = Vec::new();
        drop(process);
        self.proc.0.changed.notify_all();
        end
    }

    fn talk_with(&mut self, stream: &UnixStream, errors: &mut Errors, child: &dyn Child) -> End {
        let due = Instant::now() + START_TIME;
        let mut lines = Lines::default();
        let mut ready = false;
        loop {
            let writing = {
                let mut process = self.proc.process();
                if process.stop {
                    return End::Stopped;
                }
                if let Some(why) = process.verdict.take() {
                    return End::Bad(why);
                }
                process.pid = process.pid.or_else(|| child.pid());
                match process.flush() {
                    Ok(all) => !all,
                    Err(_) => return End::Closed,
                }
            };
            let timeout = match ready {
                true => None,
                false => Some(due.saturating_duration_since(Instant::now())),
            };
            if timeout.is_some_and(|left| left.is_zero()) {
                return End::Bad("it did not get ready".to_owned());
            }
            let (readable, said) = match self.wait(stream, errors, writing, timeout) {
                Ok(found) => found,
                Err(error) => return End::Bad(format!("poll: {}", strerror(&error))),
            };
            if said {
                errors.hear(self.proc.name());
            }
            if readable {
                match self.listen(stream, &mut lines, &mut ready) {
                    Ok(true) => {}
                    Ok(false) => return End::Closed,
                    Err(why) => return End::Bad(why),
                }
            }
        }
    }

    /// Waits for the program, its errors, or one of us; says which of the first two spoke.
    fn wait(
        &self,
        stream: &UnixStream,
        errors: &Errors,
        writing: bool,
        timeout: Option<Duration>,
    ) -> io::Result<(bool, bool)> {
        let mut fds = vec![
            PollFd::new(self.woken.as_fd(), Interest::Read),
            PollFd::new(stream.as_fd(), Interest::Read),
        ];
        if writing {
            fds.push(PollFd::new(stream.as_fd(), Interest::Write));
        }
        if let Some(open) = &errors.stream {
            fds.push(PollFd::new(open.as_fd(), Interest::Read));
        }
        poll(&mut fds, timeout)?;
        let heard = |at: usize| fds.get(at).is_some_and(|fd| fd.readable || fd.hangup);
        let found = (heard(1), heard(2 + usize::from(writing)));
        let mut bytes = [0; 64];
        while matches!((&self.woken).read(&mut bytes), Ok(count) if count > 0) {}
        Ok(found)
    }

    /// Reads what is there; `false` at its end.
    fn listen(
        &mut self,
        mut stream: &UnixStream,
        lines: &mut Lines,
        ready: &mut bool,
    ) -> Result<bool, String> {
        let mut chunk = [0; 16 * 1024];
        // The others want their turn, too.
        for _ in 0..READS {
            let count = match stream.read(&mut chunk) {
                Ok(0) => return Ok(false),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(_) => return Ok(false),
            };
            self.proc.process().heard = Instant::now();
            let talk = &mut self.talk;
            let mut became_ready = false;
            lines.push(chunk.get(..count).unwrap_or_default(), &mut |line| {
                became_ready |= talk.hear(line)? == Heard::Ready;
                Ok(())
            })?;
            if became_ready && !*ready {
                *ready = true;
                self.served = true;
                self.serve();
            }
        }
        Ok(true)
    }

    /// The program is ready: what was kept for it goes out.
    fn serve(&self) {
        let mut process = self.proc.process();
        process.phase = Phase::Ready;
        let held = std::mem::take(&mut process.held);
        process.out.bytes.extend_from_slice(&held);
        drop(process);
        self.proc.0.changed.notify_all();
    }

    /// Waits before a new start; `false` if there is to be none.
    fn sleep(&self, wait: Duration) -> bool {
        let until = Instant::now() + wait;
        loop {
            if self.proc.process().stop {
                return false;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            let mut fds = [PollFd::new(self.woken.as_fd(), Interest::Read)];
            if poll(&mut fds, Some(left)).is_err() {
                return false;
            }
            let mut bytes = [0; 64];
            while matches!((&self.woken).read(&mut bytes), Ok(count) if count > 0) {}
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

/// How long a program may take to end once its input has.
const GRACE: Duration = Duration::from_secs(2);
/// Chunks that are read before others have their turn.
const READS: usize = 16;
/// What a buffer keeps when it is empty.
const KEPT_BYTES: usize = 64 * 1024;

#[cfg(test)]
pub(crate) mod tests;
