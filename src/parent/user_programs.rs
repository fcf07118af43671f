//! Userbases that a program serves: the parent has such a program for itself, and asks it.
//!
//! Whom a name makes decides as whom something is run, so the parent does not take the engine's
//! word for it. A request that needs such a user is put aside, the program is asked, and with its
//! answer the request is served. The parent never waits: a program that is down, does not answer in
//! time or says what cannot be understood is a failure that passes, for all who wait for it. One that
//! ends, talks nonsense, or neither gets ready nor reads nor says anything, is spoken to no more, and
//! later a new one is asked.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::log;
use crate::privsep::Request;
use crate::sys::errno::strerror;
use crate::table::program::{self, Answer, Lines, Operation};
use crate::util::Line;
use crate::util::backoff::Backoff;

/// What a program says of a user: the value of table(5), nothing, or why nobody can say.
pub type Told = Result<Option<String>, String>;

/// A request that waits, and what it waits for.
#[derive(Debug)]
pub struct Parked {
    /// What the engine wants.
    pub request: Request,
    /// What came with it.
    pub fds: Vec<OwnedFd>,
    /// Which engine wants it.
    pub engine: u64,
    /// The userbase.
    pub table: String,
    /// Who is looked for.
    pub user: String,
}

/// The programs that were needed so far, by their tables, and who waits for them.
#[derive(Debug, Default)]
pub struct UserPrograms {
    programs: BTreeMap<String, Program>,
    parked: BTreeMap<u32, (Parked, Instant)>,
    /// Requests that can be served now.
    answered: Vec<(Parked, Told)>,
    /// Processes that are spoken to no more.
    left: Vec<u32>,
    next_id: u32,
}

#[derive(Debug, Default)]
struct Program {
    wire: Option<Wire>,
    /// It is not started again before.
    not_before: Option<Instant>,
    backoff: Backoff,
}

#[derive(Debug)]
struct Wire {
    /// Its process.
    pid: u32,
    stream: UnixStream,
    since: Instant,
    /// When it has last said something.
    heard: Instant,
    out: Vec<u8>,
    lines: Lines,
    course: Course,
}

/// How far the conversation with a program has come.
#[derive(Debug, Default)]
struct Course {
    ready: bool,
    /// Updates that it has not confirmed.
    updates: u32,
}

/// Requests that may wait for one table.
const MOST_PARKED: usize = 512;
/// How long one may, and how long a program may take to get ready.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes that wait for a program from which on it counts as stuck.
const FULL: usize = 1024 * 1024;
/// Chunks that are read of one program before others have their turn.
const READS: usize = 16;

impl UserPrograms {
    /// Asks for the user that a request needs. `start` starts the program of a table with this for
    /// its standard input and output, and says which process that is.
    pub fn ask(
        &mut self,
        parked: Parked,
        now: Instant,
        start: &mut dyn FnMut(&str, &OwnedFd) -> Result<u32, String>,
    ) {
        let others = self.parked.values();
        let others = others.filter(|(other, _)| other.table == parked.table);
        if others.count() >= MOST_PARKED {
            let why = Err("too many users are being looked for".to_owned());
            return self.answered.push((parked, why));
        }
        let id = self.new_id();
        let table = parked.table.clone();
        let program = self.programs.entry(table.clone()).or_default();
        let asked = program
            .started(&table, now, start)
            .map(|wire| wire.say(&table, Operation::Lookup, id, &parked.user));
        match asked {
            Ok(()) => {
                self.parked.insert(id, (parked, now + PATIENCE));
                self.talk(now);
            }
            Err(why) => self.answered.push((parked, Err(why))),
        }
    }

    /// Has the program of a table read again what its answers are made of. One that does not run
    /// does so when it starts.
    pub fn update(&mut self, table: &str, now: Instant) {
        let id = self.new_id();
        let program = self.programs.get_mut(table);
        if let Some(wire) = program.and_then(|program| program.wire.as_mut()) {
            wire.course.updates = wire.course.updates.saturating_add(1);
            wire.say(table, Operation::Update, id, "");
            self.talk(now);
        }
    }

    fn new_id(&mut self) -> u32 {
        self.next_id = self.next_id.wrapping_add(1);
        self.next_id
    }

    /// What a poll has to wait for.
    pub fn fds(&self) -> impl Iterator<Item = (BorrowedFd<'_>, bool)> {
        let wires = self.programs.values().filter_map(|one| one.wire.as_ref());
        wires.map(|wire| (wire.stream.as_fd(), !wire.out.is_empty()))
    }

    /// Says and hears what can be, without waiting.
    pub fn talk(&mut self, now: Instant) {
        let mut heard = Vec::new();
        let mut failed = Vec::new();
        for (table, program) in &mut self.programs {
            let Some(wire) = &mut program.wire else {
                continue;
            };
            let waiting = self.parked.values();
            let overdue = waiting
                .filter(|(parked, until)| parked.table == *table && *until <= now)
                .map(|(_, until)| *until - PATIENCE);
            let talked = wire
                .talk(table, now, &mut heard)
                .and_then(|()| wire.judge(now, overdue));
            if let Err(why) = talked {
                let since = wire.since;
                let wait = if wire.course.ready {
                    program.backoff.died_at_work(now.duration_since(since))
                } else {
                    program.backoff.died(now.duration_since(since))
                };
                log::warn(format_args!(
                    "lost processor: {table} of the parent {why}; not started again for {} s",
                    wait.as_secs()
                ));
                self.left.push(wire.pid);
                program.wire = None;
                program.not_before = Some(now + wait);
                failed.push(table.clone());
            }
        }
        for (id, told) in heard {
            self.answer(id, told);
        }
        for table in failed {
            self.fail(|parked, _| parked.table == table, "its program has ended");
        }
        self.fail(|_, until| until <= now, "its program does not answer");
    }

    /// When somebody has waited for long enough, or a program should be ready.
    pub fn deadline(&self) -> Option<Instant> {
        let wires = self.programs.values().filter_map(|one| one.wire.as_ref());
        let starting = wires.filter(|wire| !wire.course.ready);
        let waiting = self.parked.values().map(|(_, until)| *until);
        waiting
            .chain(starting.map(|wire| wire.since + PATIENCE))
            .min()
    }

    /// Requests that can be served now, each with what its user is.
    pub fn answered(&mut self) -> Vec<(Parked, Told)> {
        std::mem::take(&mut self.answered)
    }

    /// Processes that have read the end of their input and should end now.
    pub fn left(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.left)
    }

    /// Takes back a delivery that is not wanted any more.
    pub fn take_back(&mut self, engine: u64, delivery: u32) -> bool {
        let is = |parked: &Parked| {
            let asked = matches!(parked.request, Request::StartMda { id, .. } if id == delivery);
            asked && parked.engine == engine
        };
        let found = self.parked.iter().find(|(_, (parked, _))| is(parked));
        let id = found.map(|(id, _)| *id);
        id.and_then(|id| self.parked.remove(&id)).is_some()
    }

    /// Another configuration has other tables, and a daemon that stops none: whoever waits is told
    /// so, and the programs read the end of their input.
    pub fn close(&mut self) {
        let programs = std::mem::take(&mut self.programs);
        let wires = programs.into_values().filter_map(|program| program.wire);
        self.left.extend(wires.map(|wire| wire.pid));
        self.fail(|_, _| true, "smtpd has another configuration, or stops");
    }

    fn answer(&mut self, id: u32, told: Told) {
        if let Some((parked, _)) = self.parked.remove(&id) {
            self.answered.push((parked, told));
        }
    }

    fn fail(&mut self, whom: impl Fn(&Parked, Instant) -> bool, why: &str) {
        let lost: Vec<u32> = self
            .parked
            .iter()
            .filter(|(_, (parked, until))| whom(parked, *until))
            .map(|(id, _)| *id)
            .collect();
        for id in lost {
            self.answer(id, Err(why.to_owned()));
        }
    }
}

impl Program {
    fn started(
        &mut self,
        table: &str,
        now: Instant,
        start: &mut dyn FnMut(&str, &OwnedFd) -> Result<u32, String>,
    ) -> Result<&mut Wire, String> {
        if self.wire.is_none() {
            if self.not_before.is_some_and(|when| now < when) {
                return Err("its program does not run".to_owned());
            }
            let opened = UnixStream::pair().and_then(|(ours, theirs)| {
                ours.set_nonblocking(true)?;
                Ok((ours, OwnedFd::from(theirs)))
            });
            let (stream, theirs) = opened.map_err(|error| strerror(&error))?;
            let pid = start(table, &theirs)?;
            self.wire = Some(Wire {
                pid,
                stream,
                since: now,
                heard: now,
                out: program::greeting(&Line::sanitize(table.as_bytes())),
                lines: Lines::default(),
                course: Course::default(),
            });
        }
        self.wire.as_mut().ok_or_else(String::new)
    }
}

impl Wire {
    fn say(&mut self, table: &str, how: Operation, id: u32, user: &str) {
        let stamp = program::stamp();
        let line = program::request(&stamp, table, how, "userinfo", id, user);
        self.out.extend_from_slice(line.as_bytes());
    }

    /// Moves what can be moved; an error ends the program.
    fn talk(
        &mut self,
        table: &str,
        now: Instant,
        answers: &mut Vec<(u32, Told)>,
    ) -> Result<(), String> {
        let would_wait = |error: &io::Error| {
            matches!(
                error.kind(),
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
            )
        };
        while !self.out.is_empty() {
            match self.stream.write(&self.out) {
                Ok(count) => drop(self.out.drain(..count)),
                Err(error) if would_wait(&error) => break,
                Err(error) => return Err(format!("cannot be told: {}", strerror(&error))),
            }
        }
        if self.out.len() > FULL {
            return Err("does not read".to_owned());
        }
        let mut chunk = [0; 4096];
        for _ in 0..READS {
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err("exited".to_owned()),
                Ok(count) => {
                    self.heard = now;
                    let (bytes, course) = (&chunk[..count], &mut self.course);
                    self.lines
                        .push(bytes, &mut |line| course.hear(table, line, answers))?;
                }
                Err(error) if would_wait(&error) => return Ok(()),
                Err(error) => return Err(format!("cannot be heard: {}", strerror(&error))),
            }
        }
        Ok(())
    }

    /// Whether it is to be asked any more; `overdue` is when those asked who have waited for too long.
    fn judge(
        &self,
        now: Instant,
        mut overdue: impl Iterator<Item = Instant>,
    ) -> Result<(), String> {
        if !self.course.ready && self.since + PATIENCE <= now {
            Err("did not get ready".to_owned())
        } else if overdue.any(|asked| self.heard <= asked) {
            Err("does not answer".to_owned())
        } else {
            Ok(())
        }
    }
}

impl Course {
    fn hear(
        &mut self,
        table: &str,
        line: &[u8],
        answers: &mut Vec<(u32, Told)>,
    ) -> Result<(), String> {
        let line = std::str::from_utf8(line).map_err(|_| "said what is no text".to_owned())?;
        if !self.ready {
            self.ready = line == "register|ready";
            return if line.starts_with("register|") {
                Ok(())
            } else {
                Err("broke the handshake".to_owned())
            };
        }
        let unasked = || "answered what was not asked".to_owned();
        let (how, id, answer) = program::answer(line)?;
        let told = match (how, answer) {
            (Operation::Lookup, Answer::Found(value)) => Ok(Some(value)),
            (Operation::Lookup, Answer::NotFound) => Ok(None),
            (Operation::Lookup, Answer::Error(text)) => Err(text),
            (Operation::Update, answer) => {
                self.updates = self.updates.checked_sub(1).ok_or_else(unasked)?;
                if let Answer::Error(text) = answer {
                    log::warn(format_args!("table-proc: {table} update failed: {text}"));
                }
                return Ok(());
            }
            _ => return Err(unasked()),
        };
        answers.push((id, told));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
