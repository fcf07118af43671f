//! Userbases that a program serves: the parent has such a program for itself, and asks it.
//!
//! Whom a name makes decides as whom something is run, so the parent does not take the engine's
//! word for it. A request that needs such a user is put aside, the program is asked, and with its
//! answer the request is served. The parent never waits: a program that is down, does not answer in
//! time or says what cannot be understood is a failure that passes, for all who wait for it.

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
    out: Vec<u8>,
    lines: Lines,
    ready: bool,
}

/// Requests that may wait.
const MOST_PARKED: usize = 512;
/// How long one may.
const PATIENCE: Duration = Duration::from_secs(30);

impl UserPrograms {
    /// Asks for the user that a request needs. `start` starts the program of a table with this for
    /// its standard input and output, and says which process that is.
    pub fn ask(
        &mut self,
        parked: Parked,
        now: Instant,
        start: &mut dyn FnMut(&str, &OwnedFd) -> Result<u32, String>,
    ) {
        if self.parked.len() >= MOST_PARKED {
            let why = Err("too many users are being looked for".to_owned());
            return self.answered.push((parked, why));
        }
        self.next_id = self.next_id.wrapping_add(1);
        let id = self.next_id;
        let table = parked.table.clone();
        let program = self.programs.entry(table.clone()).or_default();
        let asked = program
            .started(&table, now, start)
            .map(|wire| wire.ask(&table, id, &parked.user));
        match asked {
            Ok(()) => {
                self.parked.insert(id, (parked, now + PATIENCE));
                self.talk(now);
            }
            Err(why) => self.answered.push((parked, Err(why))),
        }
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
            if let Err(why) = wire.talk(&mut heard) {
                let since = wire.since;
                let wait = if wire.ready {
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

    /// When somebody has waited for long enough.
    pub fn deadline(&self) -> Option<Instant> {
        self.parked.values().map(|(_, until)| *until).min()
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
                out: program::greeting(&Line::sanitize(table.as_bytes())),
                lines: Lines::default(),
                ready: false,
            });
        }
        self.wire.as_mut().ok_or_else(String::new)
    }
}

impl Wire {
    fn ask(&mut self, table: &str, id: u32, user: &str) {
        let stamp = program::stamp();
        let line = program::request(&stamp, table, Operation::Lookup, "userinfo", id, user);
        self.out.extend_from_slice(line.as_bytes());
    }

    /// Moves what can be moved; an error ends the program.
    fn talk(&mut self, answers: &mut Vec<(u32, Told)>) -> Result<(), String> {
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
        let mut chunk = [0; 4096];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err("exited".to_owned()),
                Ok(count) => {
                    let bytes = &chunk[..count];
                    let ready = &mut self.ready;
                    self.lines
                        .push(bytes, &mut |line| hear(ready, line, answers))?;
                }
                Err(error) if would_wait(&error) => return Ok(()),
                Err(error) => return Err(format!("cannot be heard: {}", strerror(&error))),
            }
        }
    }
}

fn hear(ready: &mut bool, line: &[u8], answers: &mut Vec<(u32, Told)>) -> Result<(), String> {
    let line = std::str::from_utf8(line).map_err(|_| "said what is no text".to_owned())?;
    if !*ready {
        *ready = line == "register|ready";
        return if line.starts_with("register|") {
            Ok(())
        } else {
            Err("broke the handshake".to_owned())
        };
    }
    let (how, id, answer) = program::answer(line)?;
    let told = match answer {
        _ if how != Operation::Lookup => return Err("answered what was not asked".to_owned()),
        Answer::Found(value) => Ok(Some(value)),
        Answer::NotFound => Ok(None),
        Answer::Error(text) => Err(text),
    };
    answers.push((id, told));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(id: u32) -> Request {
        Request::OpenForward {
            id,
            action: Line::sanitize(b"in"),
            user: Line::sanitize(b"bob"),
        }
    }

    fn parked(id: u32) -> Parked {
        Parked {
            request: request(id),
            fds: Vec::new(),
            engine: 1,
            table: "people".to_owned(),
            user: "bob".to_owned(),
        }
    }

    /// Programs of which the test is the other end.
    #[derive(Default)]
    struct Ends(Vec<UnixStream>);

    impl Ends {
        fn start(&mut self) -> impl FnMut(&str, &OwnedFd) -> Result<u32, String> {
            |table, stream| {
                assert_eq!(table, "people");
                let end = UnixStream::from(stream.try_clone().unwrap());
                end.set_nonblocking(false).unwrap();
                self.0.push(end);
                Ok(self.0.len() as u32)
            }
        }

        fn lines(&self, count: usize) -> Vec<String> {
            let mut reader = io::BufReader::with_capacity(1, self.0.last().unwrap());
            (0..count)
                .map(|_| {
                    let mut line = String::new();
                    io::BufRead::read_line(&mut reader, &mut line).unwrap();
                    line.trim_end().to_owned()
                })
                .collect()
        }

        fn say(&self, text: &str) {
            let mut end = self.0.last().unwrap();
            end.write_all(text.as_bytes()).unwrap();
        }
    }

    fn id_of(line: &str) -> String {
        line.split('|').nth(6).unwrap().to_owned()
    }

    fn told(found: Vec<(Parked, Told)>) -> Vec<(Request, Told)> {
        found
            .into_iter()
            .map(|(p, told)| (p.request, told))
            .collect()
    }

    // smtpd-tables(7): several lookups are under way at a time, and their ids tell them apart.
    #[test]
    fn each_request_gets_the_answer_to_its_own_question() {
        let (mut programs, mut ends, now) =
            (UserPrograms::default(), Ends::default(), Instant::now());
        for id in [1, 2, 3] {
            programs.ask(parked(id), now, &mut ends.start());
        }
        assert_eq!(ends.0.len(), 1, "one process serves them all");
        let lines = ends.lines(7);
        assert_eq!(lines[3], "config|ready");
        assert!(lines[4].ends_with("|bob") && lines[4].contains("|people|lookup|userinfo|"));
        let ids: Vec<String> = lines[4..].iter().map(|line| id_of(line)).collect();
        ends.say("register|userinfo\nregister|ready\n");
        ends.say(&format!("lookup-result|{}|not-found\n", ids[2]));
        ends.say(&format!("lookup-result|{}|found|5:6:/h", ids[0]));
        programs.talk(now);
        assert_eq!(told(programs.answered()), [(request(3), Ok(None))]);
        ends.say(&format!("\nlookup-result|{}|error|no\n", ids[1]));
        programs.talk(now);
        let want = [
            (request(1), Ok(Some("5:6:/h".to_owned()))),
            (request(2), Err("no".to_owned())),
        ];
        assert_eq!(told(programs.answered()), want);
    }

    #[test]
    fn whoever_waits_for_a_program_that_fails_is_told_and_it_is_started_again_later() {
        for breach in ["hello\n", "register|ready\nlookup-result|1|found\n", ""] {
            let (mut programs, mut ends, now) =
                (UserPrograms::default(), Ends::default(), Instant::now());
            programs.ask(parked(1), now, &mut ends.start());
            ends.say(breach);
            if breach.is_empty() {
                ends.0.clear();
            }
            programs.talk(now);
            let all = programs.answered();
            assert!(matches!(all.as_slice(), [(_, Err(_))]), "{breach}");
            assert_eq!(programs.left(), [1]);
            programs.ask(parked(2), now, &mut ends.start());
            assert!(matches!(programs.answered().as_slice(), [(_, Err(_))]));
            let later = now + Duration::from_secs(2);
            programs.ask(parked(3), later, &mut ends.start());
            assert!(programs.answered().is_empty());
        }
    }

    #[test]
    fn nobody_waits_for_ever() {
        let (mut programs, mut ends, now) =
            (UserPrograms::default(), Ends::default(), Instant::now());
        programs.ask(parked(1), now, &mut ends.start());
        assert_eq!(programs.deadline(), Some(now + PATIENCE));
        programs.talk(now + PATIENCE);
        assert!(matches!(programs.answered().as_slice(), [(_, Err(_))]));
        for id in 0..=MOST_PARKED {
            programs.ask(parked(id as u32), now, &mut ends.start());
        }
        assert_eq!(programs.answered().len(), 1);
        programs.close();
        assert_eq!(programs.answered().len(), MOST_PARKED);
        assert_eq!(programs.fds().count(), 0);
    }
}
