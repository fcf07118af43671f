//! A filter's program: what it wants, what it has been asked, and who waits for its answers.
//!
//! One request of a session is open at a time, and each has a token of its own. An answer for a
//! session that does not wait is late and means nothing; so is one with another token: what it
//! answers was asked before.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::config::{self, OnFailure};
use crate::log;
use crate::mail::SessionId;
use crate::proc::{Heard, Keeper, Launcher, Proc, Status, Talk, stamp};
use crate::sys::random;
use crate::util::Line;

use super::protocol::{self, Decision, Event, Phase, Said, Subsystem};

/// Takes what a program has decided; `None` where it never will. It is called by the program's
/// thread and must not wait.
pub type Reply = Box<dyn FnOnce(Option<Decision>) + Send>;

/// How long a program may take to decide.
pub const WAIT: Duration = Duration::from_secs(240);

/// A program of `proc` or `proc-exec`.
pub struct Program {
    /// What is done where it should be asked and cannot.
    pub failure: OnFailure,
    of: config::Proc,
    greeting: Vec<u8>,
    proc: Proc,
    shared: Arc<Shared>,
    _keeper: Keeper,
}

/// A message, which hears what programs say of it.
pub trait Hears: Send + Sync {
    /// Stage `stage` says a line.
    fn heard(&self, stage: usize, line: &[u8]);
    /// Stage `stage` may be told more.
    fn room(&self, stage: usize);
    /// The program of this name is gone.
    fn fail(&self, name: &Line);
}

/// What all threads know of a program.
#[derive(Default)]
struct Shared {
    book: Mutex<Book>,
    /// Whether what it wants is known.
    known: AtomicBool,
    /// Counts of `smtpctl show filters`.
    requests: AtomicU64,
    timeouts: AtomicU64,
    /// How many answers took less than 2^n microseconds, and no less than half of that.
    times: [AtomicU64; TIMES],
}

const TIMES: usize = 32;

/// What a program wants, and who waits for it.
#[derive(Default)]
struct Book {
    wants: Wants,
    waiting: HashMap<u64, Waiting>,
    content: HashMap<(u64, u64), (Arc<dyn Hears>, usize)>,
}

/// What a program has registered.
#[derive(Clone, Copy, Debug, Default)]
struct Wants {
    phases: u16,
    events_in: u32,
    events_out: u32,
}

struct Waiting {
    token: u64,
    since: Instant,
    reply: Reply,
}

/// Where a program stands.
pub struct Settings<'s> {
    /// Its name in the configuration.
    pub name: &'s Line,
    /// In which sessions it is used.
    pub subsystems: Vec<Subsystem>,
    /// `admd`, or the server's name.
    pub admd: &'s Line,
}

impl Settings<'_> {
    fn greeting(&self) -> Vec<u8> {
        protocol::greeting(SESSION_TIMEOUT_S, &self.subsystems, self.admd.as_str())
    }
}

/// How a program does.
#[derive(Clone, Debug)]
pub struct Figures {
    /// Its name in the configuration.
    pub name: Line,
    /// Its process.
    pub status: Status,
    /// How often it was asked.
    pub requests: u64,
    /// How often it did not answer in time.
    pub timeouts: u64,
    /// In how many microseconds it has answered half, nine tenths and ninety-nine hundredths of
    /// the requests, at most.
    pub percentiles_us: [u64; 3],
}

impl Program {
    /// Has the program started, and kept running, by `launcher`.
    pub fn start(
        of: &config::Proc,
        settings: Settings<'_>,
        launcher: Arc<dyn Launcher>,
    ) -> io::Result<Program> {
        let shared = Arc::new(Shared::default());
        let greeting = settings.greeting();
        let talk = Tongue {
            name: settings.name.clone(),
            greeting: greeting.clone(),
            shared: shared.clone(),
            ready: false,
            heard: Wants::default(),
            turn: 0,
        };
        let (proc, keeper) = Proc::start(settings.name, launcher, Box::new(talk))?;
        Ok(Program {
            failure: of.on_failure,
            of: of.clone(),
            greeting,
            proc,
            shared,
            _keeper: keeper,
        })
    }

    /// Whether it is what a configuration says now.
    pub fn is(&self, now: &config::Proc, settings: &Settings<'_>) -> bool {
        let was = &self.of;
        (&was.command, &was.user, &was.group) == (&now.command, &now.user, &now.group)
            && (&was.chroot, was.on_failure) == (&now.chroot, now.on_failure)
            && self.greeting == settings.greeting()
    }

    /// Its name in the configuration.
    pub fn name(&self) -> &Line {
        self.proc.name()
    }

    /// The process, and its way of writing.
    pub fn proc(&self) -> &Proc {
        &self.proc
    }

    /// Whether it wants to be asked at this phase.
    pub fn filters(&self, phase: Phase) -> bool {
        self.shared.book().wants.phases & phase.bit() != 0
    }

    /// Whether it has said what it wants: it, or the process before it.
    pub fn is_known(&self) -> bool {
        self.shared.known.load(Ordering::Acquire)
    }

    /// Whether it wants to be asked at any phase.
    pub fn filters_anything(&self) -> bool {
        self.shared.book().wants.phases != 0
    }

    /// Whether it wants to hear of this.
    pub fn hears(&self, subsystem: Subsystem, event: Event) -> bool {
        let wants = self.shared.book().wants;
        let events = match subsystem {
            Subsystem::In => wants.events_in,
            Subsystem::Out => wants.events_out,
        };
        events & event.bit() != 0
    }

    /// Asks. The reply comes from another thread, and comes in any case.
    pub fn ask(&self, phase: Phase, session: SessionId, parameter: &[u8], reply: Reply) {
        let token = random::number_u64();
        self.shared.requests.fetch_add(1, Ordering::Relaxed);
        let waiting = Waiting {
            token,
            since: Instant::now(),
            reply,
        };
        let before = self.shared.book().waiting.insert(session.0, waiting);
        if let Some(before) = before {
            (before.reply)(None);
        }
        let line = protocol::request(&stamp(), phase, session, token, parameter);
        if self.proc.say(&line).is_err() {
            self.give_up(session);
        }
    }

    /// Nobody waits any more; says how long was waited, if somebody did.
    pub fn give_up(&self, session: SessionId) {
        let waiting = self.shared.book().waiting.remove(&session.0);
        if let Some(waiting) = waiting {
            (waiting.reply)(None);
        }
    }

    /// Notes that the program has not answered in time.
    pub fn late(&self, session: SessionId) {
        self.shared.timeouts.fetch_add(1, Ordering::Relaxed);
        let waiting = self.shared.book().waiting.remove(&session.0);
        log::warn(format_args!(
            "filter {}: no answer for session {session}",
            self.name()
        ));
        if let Some(waiting) = waiting {
            self.proc.fail_if_silent_since(waiting.since);
        }
    }

    /// Tells it of an event.
    pub fn report(
        &self,
        subsystem: Subsystem,
        event: Event,
        session: SessionId,
        parameters: Option<&[u8]>,
    ) {
        let line = protocol::report(&stamp(), subsystem, event, session, parameters);
        // One that is down hears of no session that it has missed a part of.
        let _ = self.proc.say(&line);
    }

    /// From now on lines with this token are for stage `stage` of `content`.
    pub fn open(&self, session: SessionId, token: u64, content: Arc<dyn Hears>, stage: usize) {
        let key = (session.0, token);
        self.shared.book().content.insert(key, (content, stage));
    }

    /// No more lines with this token are wanted.
    pub fn close(&self, session: SessionId, token: u64) {
        self.shared.book().content.remove(&(session.0, token));
    }

    /// What `smtpctl show filters` tells of it.
    pub fn figures(&self) -> Figures {
        let times: Vec<u64> = self
            .shared
            .times
            .iter()
            .map(|n| n.load(Ordering::Relaxed))
            .collect();
        Figures {
            name: self.name().clone(),
            status: self.proc.status(),
            requests: self.shared.requests.load(Ordering::Relaxed),
            timeouts: self.shared.timeouts.load(Ordering::Relaxed),
            percentiles_us: [50, 90, 99].map(|hundredths| percentile(&times, hundredths)),
        }
    }
}

/// The bound of the class below which so many hundredths of all are.
fn percentile(times: &[u64], hundredths: u64) -> u64 {
    let all: u64 = times.iter().sum();
    let wanted = (all * hundredths).div_ceil(100);
    let mut seen = 0;
    for (class, count) in times.iter().enumerate() {
        seen += count;
        if seen >= wanted && seen > 0 {
            return 1 << class;
        }
    }
    0
}

impl Shared {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What programs are told of the patience of sessions.
const SESSION_TIMEOUT_S: u64 = 300;

/// What the program says, made sense of.
struct Tongue {
    name: Line,
    greeting: Vec<u8>,
    shared: Arc<Shared>,
    ready: bool,
    /// What this process has registered so far.
    heard: Wants,
    /// Who was the first to be told of room.
    turn: usize,
}

impl Talk for Tongue {
    fn greeting(&mut self) -> Vec<u8> {
        self.ready = false;
        self.heard = Wants::default();
        self.greeting.clone()
    }

    fn hear(&mut self, line: &[u8]) -> Result<Heard, String> {
        match (self.ready, protocol::parse(line)?) {
            (_, Said::WantsReport(subsystem, event)) => {
                let bits = event.map_or(u32::MAX, Event::bit);
                let events = match subsystem {
                    Subsystem::In => &mut self.heard.events_in,
                    Subsystem::Out => &mut self.heard.events_out,
                };
                *events |= bits;
                if self.ready {
                    self.shared.book().wants = self.heard;
                }
            }
            (false, Said::WantsPhase(phase)) => self.heard.phases |= phase.bit(),
            // Sessions that go on have been told what they are asked about.
            (true, Said::WantsPhase(_)) => {}
            (_, Said::WantsUnknown) => {
                let line = Line::sanitize(line);
                log::warn(format_args!("filter {}: not known: {line}", self.name));
            }
            (false, Said::Ready) => {
                self.ready = true;
                self.shared.book().wants = self.heard;
                self.shared.known.store(true, Ordering::Release);
                return Ok(Heard::Ready);
            }
            (true, Said::Result(session, token, decision)) => {
                self.decided(session, token, decision)
            }
            (true, Said::Line(session, token, line)) => self.line(session, token, line),
            (true, Said::Report(session, text)) => {
                log::debug(format_args!("filter {}: {session:016x}: {text}", self.name));
            }
            (true, Said::Ready) => return Err("register|ready twice".to_owned()),
            (false, _) => {
                let line = Line::sanitize(line.get(..80).unwrap_or(line));
                return Err(format!(
                    "Non-register message before register|ready: {line}"
                ));
            }
        }
        Ok(Heard::Line)
    }

    fn room(&mut self) {
        let mut all: Vec<_> = self.shared.book().content.values().cloned().collect();
        // There may not be room for all, and another one is to be the first each time.
        self.turn = (self.turn + 1).checked_rem(all.len()).unwrap_or(0);
        all.rotate_left(self.turn);
        for (content, stage) in all {
            content.room(stage);
        }
    }

    fn gone(&mut self) {
        let (waiting, content) = {
            let mut book = self.shared.book();
            (
                std::mem::take(&mut book.waiting),
                std::mem::take(&mut book.content),
            )
        };
        for waiting in waiting.into_values() {
            (waiting.reply)(None);
        }
        for (content, _) in content.into_values() {
            content.fail(&self.name);
        }
    }
}

impl Tongue {
    fn decided(&self, session: u64, token: u64, decision: Decision) {
        let waiting = match self.shared.book().waiting.entry(session) {
            Entry::Occupied(waiting) if waiting.get().token == token => Some(waiting.remove()),
            Entry::Occupied(_) => None,
            // It is late, or the client is gone.
            Entry::Vacant(_) => return,
        };
        let Some(waiting) = waiting else {
            return log::warn(format_args!(
                "filter {}: session {session:016x} waits for no answer with token {token:016x}",
                self.name
            ));
        };
        let took_us = u64::try_from(waiting.since.elapsed().as_micros()).unwrap_or(u64::MAX);
        let class = (u64::BITS - took_us.leading_zeros()) as usize;
        if let Some(count) = self.shared.times.get(class.min(TIMES - 1)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        (waiting.reply)(Some(decision));
    }

    fn line(&self, session: u64, token: u64, line: &[u8]) {
        let found = self.shared.book().content.get(&(session, token)).cloned();
        // Otherwise the message is over, or was refused, and the program does not know yet.
        if let Some((content, stage)) = found {
            content.heard(stage, line);
        }
    }
}

/// An entry for the fuzzer: what comes of all that a program says when these sessions wait with
/// their tokens, and the lines of a message that the first of them has under way. Every session
/// that waits has its answer at the end, and one answer.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz_program(
    said: &[u8],
    waiting: [(SessionId, u64); 2],
    content: Arc<dyn Hears>,
) -> [Option<Decision>; 2] {
    let shared = Arc::new(Shared::default());
    let told: Arc<Mutex<[Vec<Option<Decision>>; 2]>> = Arc::default();
    for (number, (session, token)) in waiting.into_iter().enumerate() {
        let told = told.clone();
        let reply: Reply = Box::new(move |decision| {
            told.lock().unwrap_or_else(PoisonError::into_inner)[number].push(decision);
        });
        let since = Instant::now();
        let waits = Waiting {
            token,
            since,
            reply,
        };
        shared.book().waiting.insert(session.0, waits);
        let key = (session.0, token);
        shared.book().content.insert(key, (content.clone(), 0));
    }
    let mut tongue = Tongue {
        name: Line::default(),
        greeting: Vec::new(),
        shared,
        ready: false,
        heard: Wants::default(),
        turn: 0,
    };
    let mut hear = |line: &[u8]| tongue.hear(line).map(drop);
    let _breach = crate::proc::Lines::default().push(said, &mut hear);
    tongue.gone();
    let told = std::mem::take(&mut *told.lock().unwrap_or_else(PoisonError::into_inner));
    told.map(|mut answers| {
        assert_eq!(answers.len(), 1, "each that waits is answered once");
        answers.pop().flatten()
    })
}
