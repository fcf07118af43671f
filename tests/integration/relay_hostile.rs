//! smtpd.conf(5), relay: hosts that misbehave, and what becomes of the mail for them.
//!
//! `tests/dialogs/hosts/*.dialog` hold cases of one kind each, in the words of [`case`]. All of them
//! are played at once, against one daemon, beside a host that behaves.

mod case;

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use crate::relay::{Host, instance_with};
use crate::support::{Instance, files, not_run, processes, wait_for};

use case::{Case, Step, Wanted};

/// Opens once, for all who wait at it.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn open(&self) {
        *self.0.0.lock().expect("the gate") = true;
        self.0.1.notify_all();
    }

    fn is_open(&self) -> bool {
        *self.0.0.lock().expect("the gate")
    }

    fn wait(&self) {
        let closed = self.0.0.lock().expect("the gate");
        drop(self.0.1.wait_while(closed, |open| !*open));
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        // A test that fails leaves nobody waiting.
        if thread::panicking() {
            self.open();
        }
    }
}

/// What all hosts of a test share.
#[derive(Clone, Default)]
struct Stage {
    /// Opens when every message has been handed to relaying: a case with several recipients must
    /// not begin with some of them.
    begin: Gate,
    /// Opens when those who keep us waiting let go.
    end: Gate,
    /// Departures from the script.
    faults: Arc<Mutex<Vec<String>>>,
}

/// Most that a host says without being heard.
const FLOOD_BYTES: u64 = 1 << 30;
/// How long a host that trickles waits between bytes.
const TRICKLE: Duration = Duration::from_millis(50);

impl Stage {
    /// Puts a host on; returns its port.
    fn put_on(&self, case: &Case) -> u16 {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("bind");
        let port = listener.local_addr().expect("address").port();
        let (stage, case) = (self.clone(), case.clone());
        thread::spawn(move || {
            for (count, stream) in listener.incoming().flatten().enumerate() {
                if count > 0 {
                    stage.fault(&case, "a second connection");
                }
                let (stage, case) = (stage.clone(), case.clone());
                thread::spawn(move || {
                    if case.wanted.len() > 1 {
                        stage.begin.wait();
                    }
                    if let Err(error) = play(&case, stream, &stage) {
                        stage.fault(&case, &error.to_string());
                    }
                });
            }
        });
        port
    }

    fn fault(&self, case: &Case, text: &str) {
        let mut faults = self.faults.lock().expect("faults");
        faults.push(format!("{}: {text}", case.name));
    }
}

/// One end of a connection, as the script has it.
struct Actor<'a> {
    case: &'a Case,
    reader: BufReader<TcpStream>,
    accepted: Vec<String>,
}

fn play(case: &Case, stream: TcpStream, stage: &Stage) -> io::Result<()> {
    let mut actor = Actor {
        case,
        reader: BufReader::new(stream),
        accepted: Vec::new(),
    };
    for step in &case.steps {
        match step {
            Step::Hear(start) => drop(actor.hear(start)?),
            Step::Say(bytes) => actor.say(bytes)?,
            Step::Recipients => actor.recipients()?,
            Step::Message => actor.message()?,
            Step::Part(bytes) => {
                io::copy(&mut actor.reader.by_ref().take(*bytes), &mut io::sink())?;
            }
            Step::Ends => actor.ends()?,
            Step::Endless(bytes) => return actor.flood(bytes),
            Step::Trickle(bytes) => return actor.trickle(bytes, stage),
            Step::Hold => {
                stage.end.wait();
                return actor.close();
            }
            Step::Close => return actor.close(),
            Step::Reset => return Ok(()),
        }
    }
    actor.wind_up()
}

impl Actor<'_> {
    fn hear(&mut self, start: &str) -> io::Result<String> {
        let line = self.line()?;
        if !line.starts_with(start) {
            return Err(io::Error::other(format!("{line:?} is not {start}")));
        }
        Ok(line)
    }

    /// A line without its line end, which is CRLF. Empty at the end.
    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.reader.read_line(&mut line)?;
        match line.strip_suffix("\r\n") {
            Some(line) => Ok(line.to_owned()),
            None if line.is_empty() => Ok(line),
            None => Err(io::Error::other(format!("{line:?} does not end in CRLF"))),
        }
    }

    fn say(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.reader.get_mut().write_all(bytes)
    }

    fn recipients(&mut self) -> io::Result<()> {
        for _ in &self.case.wanted {
            let line = self.hear("RCPT TO:<")?;
            let whom = line.split(['<', '@']).nth(1).unwrap_or_default();
            let answer = self.case.answers.get(whom).map_or("250 ok", String::as_str);
            if answer.starts_with('2') {
                self.accepted.push(whom.to_owned());
            }
            self.say(format!("{answer}\r\n").as_bytes())?;
        }
        Ok(())
    }

    fn ends(&mut self) -> io::Result<()> {
        let answers: Vec<String> = self
            .accepted
            .iter()
            .filter_map(|whom| self.case.ends.get(whom))
            .map(|text| format!("{text}\r\n"))
            .collect();
        // In one piece, as servers send them.
        self.say(answers.concat().as_bytes())
    }

    fn message(&mut self) -> io::Result<()> {
        loop {
            let mut line = Vec::new();
            self.reader.read_until(b'\n', &mut line)?;
            match &line[..] {
                b".\r\n" => return Ok(()),
                line if line.ends_with(b"\r\n") => {}
                _ => return Err(io::Error::other("a message without its end")),
            }
        }
    }

    /// Somebody who hears all of it has no bounds.
    fn flood(&mut self, bytes: &[u8]) -> io::Result<()> {
        let block = bytes.repeat(65536 / bytes.len());
        let mut left = FLOOD_BYTES;
        while let Some(rest) = left.checked_sub(block.len() as u64) {
            if self.say(&block).is_err() {
                return Ok(());
            }
            left = rest;
        }
        Err(io::Error::other("it was all heard"))
    }

    fn trickle(&mut self, bytes: &[u8], stage: &Stage) -> io::Result<()> {
        let last = bytes.last().copied().into_iter().cycle();
        self.reader.get_ref().set_read_timeout(Some(TRICKLE))?;
        for byte in bytes.iter().copied().chain(last) {
            if stage.end.is_open() {
                break;
            }
            self.say(&[byte])?;
            // The peer has nothing to say: this takes its time.
            let _ = self.reader.read(&mut [0; 1]);
        }
        self.reader.get_ref().set_read_timeout(None)?;
        self.close()
    }

    /// Without a reset, so that what was said arrives.
    fn close(&mut self) -> io::Result<()> {
        self.reader.get_ref().shutdown(Shutdown::Write)?;
        // The peer may be gone already.
        let _ = io::copy(&mut self.reader, &mut io::sink());
        Ok(())
    }

    fn wind_up(&mut self) -> io::Result<()> {
        match self.line() {
            Ok(line) if line == "QUIT" => self.say(b"221 bye\r\n"),
            Ok(line) if line.is_empty() => Ok(()),
            Ok(line) => Err(io::Error::other(format!("{line:?} comes unexpected"))),
            // A peer that has not heard everything resets.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Each delivery in the log: recipient, result and text.
fn deliveries(log: &str) -> Vec<(String, String, String)> {
    let between = |line: &str, before: &str, after: &str| {
        let (_, rest) = line.split_once(before)?;
        Some(rest.split_once(after)?.0.to_owned())
    };
    log.lines()
        .filter(|line| line.contains(" mta delivery "))
        .filter_map(|line| {
            let text = line.split_once(" stat=\"")?.1.strip_suffix('"')?;
            Some((
                between(line, " to=<", ">")?,
                between(line, " result=\"", "\"")?,
                text.to_owned(),
            ))
        })
        .collect()
}

/// What a process holds: descriptors, and threads that carry out a session.
fn held(pid: u32) -> (usize, usize) {
    let tasks = files(Path::new(&format!("/proc/{pid}/task")));
    let sessions = tasks
        .iter()
        .filter_map(|task| fs::read_to_string(task.join("comm")).ok())
        .filter(|name| name.trim_end() == "relay session")
        .count();
    (files(Path::new(&format!("/proc/{pid}/fd"))).len(), sessions)
}

/// The most memory that a process has used so far.
fn peak_kib(pid: u32) -> u64 {
    processes::memory_kib(pid, "VmHWM").unwrap_or(0)
}

fn cases() -> Vec<Case> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/dialogs/hosts");
    let mut paths = files(Path::new(folder));
    paths.sort();
    paths
        .iter()
        .flat_map(|path| Case::parse_all(&fs::read_to_string(path).expect("a dialog")))
        .collect()
}

fn submit(daemon: &Instance, case: &Case) {
    let sender = format!("{}@good.example", case.name);
    let rcpts: Vec<String> = case.wanted.iter().map(|w| case.address(&w.whom)).collect();
    let rcpts: Vec<&str> = rcpts.iter().map(String::as_str).collect();
    daemon.hello().mail(&sender, &rcpts, &case.message());
}

fn say_hello_to_the_good_one(daemon: &Instance, good: &Host, count: usize) {
    let mut client = daemon.hello();
    client.mail("", &["dave@good.example"], b"Subject: x\n\nhi\n");
    wait_for("the good host to have its mail", || {
        let is_his = |commands: &[String]| commands.iter().any(|c| c.contains("dave@good"));
        let taken = good.taken();
        taken.iter().filter(|t| is_his(&t.commands)).count() == count
    });
}

/// Most memory that all of the cases together may take, with their sessions.
const MEMORY_KIB: u64 = 24 << 10;

#[test]
fn whatever_a_host_does_each_recipient_has_one_outcome_and_nothing_is_left() {
    let (cases, stage) = (cases(), Stage::default());
    let good = Host::start(|_| None);
    let hosts: Vec<String> = cases
        .iter()
        .map(|case| {
            let port = stage.put_on(case);
            let (name, scheme) = (&case.name, case.scheme);
            format!("\"{name}.example\" = \"{scheme}://127.0.0.1:{port}\"")
        })
        .chain([format!(
            "\"good.example\" = \"smtp://127.0.0.1:{}\"",
            good.port
        )])
        .collect();
    let daemon = instance_with(
        "mta limit session-keepalive 1 max-conn-per-host 1000\n",
        &format!("domain {{ {} }}", hosts.join(", ")),
    );
    say_hello_to_the_good_one(&daemon, &good, 1);
    let engine = daemon.engine_pid();
    wait_for("the session to end", || held(engine).1 == 0);
    let (before, peak_before) = (held(engine), peak_kib(engine));

    for case in &cases {
        submit(&daemon, case);
    }
    say_hello_to_the_good_one(&daemon, &good, 2);
    stage.begin.open();
    let (slow, quick): (Vec<&Case>, Vec<&Case>) = cases.iter().partition(|case| case.is_slow());
    wait_for_outcomes(&daemon, &quick);
    say_hello_to_the_good_one(&daemon, &good, 3);
    stage.end.open();
    wait_for_outcomes(&daemon, &slow);

    assert_bounced(&good, &cases);
    assert_queued(&daemon, &cases);
    for text in cases.iter().flat_map(|case| &case.logged) {
        daemon.wait_log(text);
    }
    if cfg!(target_os = "linux") {
        wait_for("sessions and descriptors to be given back", || {
            let now = held(engine);
            now.1 == 0 && now.0 <= before.0
        });
        let more = peak_kib(engine).saturating_sub(peak_before);
        assert!(more < MEMORY_KIB, "{more} KiB more");
    } else {
        not_run("what the engine holds", "needs /proc");
    }
    assert_eq!(*stage.faults.lock().expect("faults"), [""; 0]);
    // And each of them has been tried once.
    wait_for_outcomes(&daemon, &cases.iter().collect::<Vec<_>>());
}

fn wait_for_outcomes(daemon: &Instance, cases: &[&Case]) {
    let mut wrong = Vec::new();
    let outcomes = |case: &Case, all: &[(String, String, String)]| {
        let domain = format!("@{}.example", case.name);
        let its = all.iter().filter(|(whom, _, _)| whom.ends_with(&domain));
        its.cloned().collect::<Vec<_>>()
    };
    let done = crate::support::wait(|| {
        let all = deliveries(&daemon.log());
        wrong = cases
            .iter()
            .filter(|case| !case.fits(&outcomes(case, &all)))
            .map(|case| format!("{}: {:?}", case.name, outcomes(case, &all)))
            .collect();
        wrong.is_empty()
    });
    assert!(done, "{}", wrong.join("\n"));
}

/// The sender hears of each failure that is for good, once, and of nothing else.
fn assert_bounced(good: &Host, cases: &[Case]) {
    let failed = |case: &Case| {
        let failed = case.wanted.iter().filter(|w| w.result == "PermFail");
        failed.map(|w| case.address(&w.whom)).collect::<Vec<_>>()
    };
    let wanted: BTreeSet<String> = cases.iter().flat_map(failed).collect();
    let told = || {
        let reports = good.taken();
        let mut told = Vec::new();
        for report in reports {
            let text = String::from_utf8_lossy(&report.message).into_owned();
            for line in text.lines() {
                if let Some(whom) = line.strip_prefix("Final-Recipient:") {
                    let whom = whom.rsplit([';', ' ']).next().unwrap_or_default();
                    told.push(whom.to_owned());
                }
            }
        }
        told
    };
    wait_for("the sender to be told", || told().len() >= wanted.len());
    let told = told();
    assert_eq!(told.iter().cloned().collect::<BTreeSet<_>>(), wanted);
    assert_eq!(told.len(), wanted.len(), "{told:?}");
}

/// What may pass waits for another try, with the reason.
fn assert_queued(daemon: &Instance, cases: &[Case]) {
    let mixed = |case: &Case| case.is_mixed;
    let put_off = |w: &&Wanted| w.result == "TempFail";
    let count: usize = cases
        .iter()
        .map(|case| case.wanted.iter().filter(put_off).count())
        .sum();
    wait_for("all else to leave", || daemon.queue().len() == count);
    let queue = daemon.queue();
    for case in cases.iter().filter(|case| !mixed(case)) {
        for wanted in case.wanted.iter().filter(put_off) {
            let whom = format!("|{}|", case.address(&wanted.whom));
            let line = queue.iter().find(|line| line.contains(&whom));
            let says = |text: &String| line.is_some_and(|l| l.ends_with(&format!("|{text}")));
            assert!(wanted.texts.iter().any(says), "{whom} {line:?}");
        }
    }
}
