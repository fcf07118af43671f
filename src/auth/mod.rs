//! AUTH: whether a user and password belong together.
//!
//! A password is compared with the hash that a credentials table has, judged by the table's
//! program, or handed to the parent, whose child asks the system. All of it takes its time, so it
//! runs on threads of its own: hashes on half of the processors, so that a storm of log-ins leaves
//! the other half to everybody else; questions to the parent, to programs and to databases on
//! threads that only wait, and hand on what then is to be compared. One of these that does not
//! answer keeps half of the threads at most. Whoever asks goes on meanwhile.
//!
//! What a refusal tells: nothing. A user that does not exist costs a hash like one that does, and
//! refusals come on the full second. Failures count, and when there have been too many
//! nobody looks at the password any more.

#![forbid(unsafe_code)]

mod budget;
mod turns;

use std::collections::{BinaryHeap, HashMap};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::log;
use crate::mail::Peer;
use crate::privsep::{PasswordVerdict, Passwords};
use crate::sys::crypt;
use crate::sys::errno::strerror;
use crate::table::{Snapshot, TableError, Tables};
use crate::util::{Line, Secret, Timestamp};

pub use budget::Exhausted;

use budget::Budget;
use turns::{Asked, Turn, Turns};

/// One attempt to log in.
pub struct Attempt {
    /// Where it comes from.
    pub peer: Peer,
    pub user: Line,
    /// What is to prove it.
    pub password: Secret,
    /// Who knows the user: a credentials table, or without one the system.
    pub table: Option<(Arc<Snapshot>, String)>,
    /// How many failures a network, or a user, may have; `None` where this one does not count.
    pub failures_max: Option<u32>,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is the user.
    Accepted,
    Refused,
    /// There have been too many failures; the password was not looked at.
    Exhausted(Exhausted),
    /// Nobody can say now. The log knows why.
    Unavailable,
}

/// Where a verdict goes.
type Answer = Box<dyn FnOnce(Verdict) + Send>;

/// Takes attempts from any thread. Clones share it; when the last one goes, its threads end.
#[derive(Clone)]
pub struct Checker {
    shared: Arc<Shared>,
    hashes: Sender<Job>,
    system: Sender<Job>,
}

struct Shared {
    budget: Mutex<Budget>,
    parent: Box<dyn Passwords>,
    /// A hash of each table, to compare with where it does not know the user.
    samples: Mutex<HashMap<String, Secret>>,
    /// Of the threads that wait.
    turns: Turns<Job>,
    refusals: Sender<Refusal>,
}

struct Job {
    attempt: Attempt,
    answer: Answer,
    since: Instant,
    /// What was said of it, once somebody has been asked.
    found: Option<Found>,
}

/// What a table or the system says of an attempt.
enum Found {
    /// What the password has to fit, if the table knows the user.
    Hash(Option<Secret>),
    /// There is nothing to compare.
    Verdict(Verdict),
}

impl Found {
    fn judged(is_right: bool) -> Found {
        Found::Verdict(Verdict::of(is_right))
    }
}

impl Verdict {
    fn of(is_right: bool) -> Verdict {
        if is_right {
            Verdict::Accepted
        } else {
            Verdict::Refused
        }
    }
}

/// A refusal that is due at a time.
struct Refusal {
    due: Instant,
    answer: Answer,
}

/// Attempts that may wait for a thread. A client that comes when there are as many is told to try
/// again later.
const WAITING_MAX: usize = 1024;
/// Threads that wait for the parent, and for tables that are not in memory. Half of them are as many
/// as wait for one of these.
const SYSTEM_THREADS: usize = 16;
/// Refusals come at multiples of this.
const BEAT: Duration = Duration::from_secs(1);

impl Checker {
    /// Starts the threads that check and the one that holds refusals back.
    pub fn start(parent: impl Passwords + 'static) -> io::Result<Checker> {
        let (hashes, hash_jobs) = bounded(WAITING_MAX);
        let (system, system_jobs) = bounded(WAITING_MAX);
        let (refusals, due) = bounded(WAITING_MAX);
        let shared = Arc::new(Shared {
            budget: Mutex::new(Budget::new()),
            parent: Box::new(parent),
            samples: Mutex::new(HashMap::new()),
            turns: Turns::new(SYSTEM_THREADS / 2, WAITING_MAX),
            refusals,
        });
        let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
            thread::Builder::new()
                .name(name.to_owned())
                .spawn(work)
                .map(drop)
        };
        for _ in 0..hash_threads() {
            let (shared, jobs) = (shared.clone(), hash_jobs.clone());
            spawn("auth hash", Box::new(move || shared.compare_all(&jobs)))?;
        }
        for _ in 0..SYSTEM_THREADS {
            let (shared, jobs) = (shared.clone(), system_jobs.clone());
            let hashes = hashes.clone();
            let work = move || shared.ask_all(&jobs, &hashes);
            spawn("auth system", Box::new(work))?;
        }
        spawn("auth refusals", Box::new(move || give_in_time(&due)))?;
        Ok(Checker {
            shared,
            hashes,
            system,
        })
    }

    /// Has an attempt looked at. `answer` is called once, from another thread or at once; it must
    /// not block.
    pub fn check(&self, attempt: Attempt, answer: Answer, now: Timestamp) {
        if let Err(exhausted) = self.shared.within_budget(&attempt, now) {
            return answer(Verdict::Exhausted(exhausted));
        }
        let jobs = match &attempt.table {
            Some((now, name)) if !now.tables.may_wait(name) => &self.hashes,
            _ => &self.system,
        };
        let job = Job {
            attempt,
            answer,
            since: Instant::now(),
            found: None,
        };
        give(jobs, job);
    }
}

/// Half of the processors.
fn hash_threads() -> usize {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    (processors / 2).max(1)
}

/// Leaves it to the threads that take these.
fn give(jobs: &Sender<Job>, job: Job) {
    if let Err(error) = jobs.try_send(job) {
        too_many(error.into_inner());
    }
}

fn too_many(job: Job) {
    log::warn(format_args!("auth: too many log-ins at a time"));
    (job.answer)(Verdict::Unavailable);
}

impl Shared {
    fn compare_all(&self, jobs: &Receiver<Job>) {
        while let Ok(mut job) = jobs.recv() {
            let found = job.found.take();
            let verdict = match found.unwrap_or_else(|| self.find(&job.attempt)) {
                Found::Verdict(verdict) => verdict,
                Found::Hash(hash) => self.compare(&job.attempt, hash),
            };
            self.settle(job, verdict);
        }
    }

    /// `hashes` takes what is to be compared.
    fn ask_all(&self, jobs: &Receiver<Job>, hashes: &Sender<Job>) {
        while let Ok(job) = jobs.recv() {
            let table = job.attempt.table.as_ref();
            let asked: Asked = table.map(|(_, name)| name.clone());
            let mut next = match self.turns.come(&asked, job) {
                Turn::Now(job) => Some(job),
                Turn::Later => None,
                Turn::Never(job) => {
                    too_many(job);
                    None
                }
            };
            while let Some(mut job) = next {
                match self.find(&job.attempt) {
                    Found::Verdict(verdict) => self.settle(job, verdict),
                    found => {
                        job.found = Some(found);
                        give(hashes, job);
                    }
                }
                next = self.turns.next(&asked);
            }
        }
    }

    fn settle(&self, job: Job, verdict: Verdict) {
        let (attempt, now) = (job.attempt, Timestamp::now());
        if attempt.failures_max.is_some() {
            let mut budget = lock(&self.budget);
            match verdict {
                Verdict::Accepted => budget.succeeded(&attempt.peer, &attempt.user, now),
                Verdict::Refused => budget.failed(&attempt.peer, &attempt.user, now),
                Verdict::Exhausted(_) | Verdict::Unavailable => {}
            }
        }
        drop(attempt);
        match verdict {
            Verdict::Refused => self.refuse(job.answer, job.since),
            verdict => (job.answer)(verdict),
        }
    }

    fn within_budget(&self, attempt: &Attempt, now: Timestamp) -> Result<(), Exhausted> {
        attempt.failures_max.map_or(Ok(()), |limit| {
            lock(&self.budget).check(limit, &attempt.peer, &attempt.user, now)
        })
    }

    /// Asks who knows the user.
    fn find(&self, attempt: &Attempt) -> Found {
        // Many may have come at once, before any of them had failed.
        if let Err(exhausted) = self.within_budget(attempt, Timestamp::now()) {
            return Found::Verdict(Verdict::Exhausted(exhausted));
        }
        let found = match &attempt.table {
            Some((now, name)) => by_table(&now.tables, name, attempt),
            None => self.by_system(attempt).map(Found::judged),
        };
        found.unwrap_or_else(|text| Found::Verdict(unavailable(&text)))
    }

    fn by_system(&self, attempt: &Attempt) -> Result<bool, String> {
        let asked = self.parent.check_password(&attempt.user, &attempt.password);
        match asked {
            Ok(PasswordVerdict::Right) => Ok(true),
            Ok(PasswordVerdict::Wrong) => Ok(false),
            Ok(PasswordVerdict::Unknown { text }) => Err(text.to_string()),
            Err(error) => Err(format!("parent: {}", strerror(&error))),
        }
    }

    /// Compares the password with the hash that the table has for the user.
    fn compare(&self, attempt: &Attempt, hash: Option<Secret>) -> Verdict {
        if let Err(exhausted) = self.within_budget(attempt, Timestamp::now()) {
            return Verdict::Exhausted(exhausted);
        }
        let table = attempt.table.as_ref().map_or("", |(_, name)| name);
        let password = attempt.password.reveal();
        let Some(hash) = hash else {
            let sample = lock(&self.samples).get(table).cloned();
            let sample = sample.as_ref().map_or(crypt::NOBODYS, |hash| hash.reveal());
            // Only the time that it takes is wanted.
            let _ = crypt::verify(password, sample);
            return Verdict::Refused;
        };
        match crypt::verify(password, hash.reveal()) {
            Ok(fits) => {
                lock(&self.samples).insert(table.to_owned(), hash);
                Verdict::of(fits)
            }
            Err(error) => {
                let why = match error.kind() {
                    io::ErrorKind::Unsupported | io::ErrorKind::InvalidInput => {
                        "is no hash that crypt(3) knows; \"smtpctl encrypt\" makes one".to_owned()
                    }
                    _ => strerror(&error),
                };
                let user = &attempt.user;
                unavailable(&format!("table {table}: the secret of {user} {why}"))
            }
        }
    }

    fn refuse(&self, answer: Answer, since: Instant) {
        let beats = since.elapsed().as_millis() / BEAT.as_millis() + 1;
        let due = since + BEAT * u32::try_from(beats).unwrap_or(1);
        if let Err(error) = self.refusals.send(Refusal { due, answer }) {
            (error.into_inner().answer)(Verdict::Refused);
        }
    }
}

/// What a table has for the user, or its program makes of the password.
fn by_table(tables: &Tables, name: &str, attempt: &Attempt) -> Result<Found, String> {
    let (user, password) = (&attempt.user, attempt.password.reveal());
    let said = |error: TableError| error.to_string();
    if tables.judges_passwords(name).map_err(said)? {
        let judged = tables.password(name, user, password);
        return judged.map(Found::judged).map_err(said);
    }
    let found = tables
        .credentials(name, user)
        .map_err(|error| format!("user credentials lookup fail for {name}:{user}: {error}"))?;
    Ok(Found::Hash(found.map(|found| found.secret)))
}

fn unavailable(text: &str) -> Verdict {
    log::warn(format_args!("auth: {text}"));
    Verdict::Unavailable
}

/// Gives refusals when they are due. They are as many as there are sessions at most.
fn give_in_time(coming: &Receiver<Refusal>) {
    let mut waiting: BinaryHeap<Refusal> = BinaryHeap::new();
    loop {
        let now = Instant::now();
        while waiting.peek().is_some_and(|first| first.due <= now) {
            if let Some(first) = waiting.pop() {
                (first.answer)(Verdict::Refused);
            }
        }
        let came = match waiting.peek() {
            Some(first) => coming.recv_deadline(first.due),
            None => coming.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match came {
            Ok(refusal) => waiting.push(refusal),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// The one that is due first is the greatest.
impl Ord for Refusal {
    fn cmp(&self, other: &Refusal) -> std::cmp::Ordering {
        other.due.cmp(&self.due)
    }
}

impl PartialOrd for Refusal {
    fn partial_cmp(&self, other: &Refusal) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Refusal {
    fn eq(&self, other: &Refusal) -> bool {
        self.due == other.due
    }
}

impl Eq for Refusal {}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::mpsc;

    use crate::config::{self, Defaults, Sources};
    use crate::proc::Launcher;
    use crate::proc::tests::Scripts;

    use super::*;

    /// A system where one user exists.
    struct OneUser;

    impl Passwords for OneUser {
        fn check_password(&self, user: &Line, password: &Secret) -> io::Result<PasswordVerdict> {
            Ok(match (user.as_str(), password.reveal()) {
                ("ann", "right") => PasswordVerdict::Right,
                ("broken", _) => PasswordVerdict::Unknown {
                    text: Line::sanitize(b"the directory is down"),
                },
                _ => PasswordVerdict::Wrong,
            })
        }
    }

    fn tables(contents: &str) -> Arc<Snapshot> {
        let text = "table creds file:/creds\ntable slow proc:/bin/sh\n\
                    listen on lo port 25 hostname x\nmatch reject\n";
        let mut sources = Sources::from_text("t", text, &[]);
        sources.insert(Path::new("/creds"), contents.as_bytes().to_vec());
        let defaults = Defaults {
            server_name: Line::new("mx.example.org").unwrap(),
            addresses: Vec::new(),
        };
        let loaded = config::load(&sources, &defaults).unwrap();
        Arc::new(Snapshot::load(1, loaded.config, &sources).unwrap())
    }

    struct Judge {
        checker: Checker,
        tables: Option<Arc<Snapshot>>,
    }

    impl Judge {
        fn new(tables: Option<Arc<Snapshot>>) -> Judge {
            Judge {
                checker: Checker::start(OneUser).unwrap(),
                tables,
            }
        }

        fn asked(&self, user: &str, password: &str) -> mpsc::Receiver<Verdict> {
            self.asked_of("creds", user, password)
        }

        fn asked_of(&self, table: &str, user: &str, password: &str) -> mpsc::Receiver<Verdict> {
            let (sender, receiver) = mpsc::channel();
            let attempt = Attempt {
                peer: Peer::parse("192.0.2.1").unwrap(),
                user: Line::new(user).unwrap(),
                password: Secret::new(Line::new(password).unwrap()),
                table: self.tables.clone().map(|tables| (tables, table.to_owned())),
                failures_max: Some(50),
            };
            let answer = Box::new(move |verdict| sender.send(verdict).unwrap());
            self.checker.check(attempt, answer, Timestamp::now());
            receiver
        }

        fn ask(&self, user: &str, password: &str) -> Verdict {
            self.asked(user, password).recv().unwrap()
        }
    }

    // table(5), credentials tables; smtpd.conf(5), auth.
    #[test]
    fn a_table_knows_users_by_their_hashes() {
        let hash = crypt::hash("right").unwrap();
        let text = format!("ann {hash}\nbob bob:{hash}\nodd clear-text\nshut !{hash}\n");
        let judge = Judge::new(Some(tables(&text)));
        assert_eq!(judge.ask("ann", "right"), Verdict::Accepted);
        assert_eq!(judge.ask("ANN", "right"), Verdict::Accepted);
        assert_eq!(judge.ask("bob", "right"), Verdict::Accepted);
        assert_eq!(judge.ask("odd", "clear-text"), Verdict::Unavailable);
        let refused = [
            ("ann", "Right"),
            ("ann", ""),
            ("nobody", "right"),
            ("", "x"),
            ("shut", "right"),
        ];
        let waiting: Vec<_> = refused
            .map(|(user, password)| judge.asked(user, password))
            .into();
        for answer in waiting {
            assert_eq!(answer.recv().unwrap(), Verdict::Refused);
        }
    }

    #[test]
    fn a_table_that_takes_its_time_holds_up_no_other() {
        let hash = crypt::hash("right").unwrap();
        // One whose user is called silent is not answered.
        let script = format!(
            r#"while read -r line; do [ "$line" = "config|ready" ] && break; done
            echo 'register|credentials'; echo 'register|ready'
            while IFS='|' read -r t v n name op svc id key; do
                case $key in
                ann) echo "lookup-result|$id|found|"'ann:{hash}' ;;
                nobody) echo "lookup-result|$id|not-found" ;;
                esac
            done"#
        );
        let tables = tables(&format!("ann {hash}\n"));
        let judge = Judge::new(Some(tables.clone()));
        let too_early = judge.asked_of("slow", "ann", "right").recv();
        assert_eq!(too_early, Ok(Verdict::Unavailable));
        let launcher: Arc<dyn Launcher> = Arc::new(Scripts(vec![script], Mutex::new(0)));
        let soon = Instant::now() + Duration::from_secs(20);
        let started = tables.tables.start_programs(&|_| launcher.clone(), soon);
        started.unwrap();
        for (user, password, verdict) in [
            ("ann", "right", Verdict::Accepted),
            ("ann", "wrong", Verdict::Refused),
            ("nobody", "right", Verdict::Refused),
        ] {
            let answer = judge.asked_of("slow", user, password).recv();
            assert_eq!(answer, Ok(verdict), "{user} {password}");
        }
        let silent: Vec<_> = (0..SYSTEM_THREADS)
            .map(|_| judge.asked_of("slow", "silent", "x"))
            .collect();
        let by_system = Judge {
            checker: judge.checker.clone(),
            tables: None,
        };
        assert_eq!(judge.ask("ann", "right"), Verdict::Accepted);
        assert_eq!(by_system.ask("ann", "right"), Verdict::Accepted);
        assert!(silent.iter().all(|answer| answer.try_recv().is_err()));
    }

    #[test]
    fn a_system_is_asked_and_what_it_does_not_know_is_no_refusal() {
        let judge = Judge::new(None);
        assert_eq!(judge.ask("ann", "right"), Verdict::Accepted);
        assert_eq!(judge.ask("broken", "x"), Verdict::Unavailable);
        let start = Instant::now();
        assert_eq!(judge.ask("ann", "wrong"), Verdict::Refused);
        assert!(start.elapsed() >= BEAT, "refusals come on the full second");
    }

    #[test]
    fn guesses_that_come_at_once_are_not_looked_at_any_more_than_others() {
        // smtpd.conf(5), smtp limit max-auth-failures: each thread may have begun with one more.
        let judge = Judge::new(None);
        let guesses: Vec<_> = (0..200)
            .map(|n| judge.asked(&format!("u{n}"), "x"))
            .collect();
        let refused = guesses.iter().filter(|guess| match guess.recv().unwrap() {
            Verdict::Refused => true,
            verdict => {
                assert_eq!(verdict, Verdict::Exhausted(Exhausted::Network));
                false
            }
        });
        let refused = refused.count();
        assert!((50..50 + SYSTEM_THREADS).contains(&refused), "{refused}");
    }

    #[test]
    fn too_many_failures_end_the_looking() {
        let judge = Judge::new(None);
        let failures: Vec<_> = (0..50)
            .map(|n| judge.asked(&format!("u{n}"), "x"))
            .collect();
        for failure in failures {
            assert_eq!(failure.recv().unwrap(), Verdict::Refused);
        }
        assert_eq!(
            judge.ask("ann", "right"),
            Verdict::Exhausted(Exhausted::Network)
        );
    }
}
