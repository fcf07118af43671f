//! Where lines go: standard error or syslogd(8), directly or through a thread.
//!
//! The engine has a thread, so that no worker waits for a slow syslogd; the parent, which never
//! has a second thread, writes itself and does not wait either. The thread lets lines gather for
//! a moment, so that a busy engine does not wake it for each. A line that cannot be taken is
//! dropped and counted, and the count is said before the next line.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use syslog::{LogFormat, Logger, LoggerBackend, Severity};

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// What ends the process.
    Crit,
    /// What an administrator should look at.
    Err,
    /// What happens every day.
    Info,
    /// What only a developer wants.
    Debug,
}

impl Level {
    /// As syslog.conf(5) calls it.
    pub fn name(self) -> &'static str {
        match self {
            Level::Crit => "crit",
            Level::Err => "err",
            Level::Info => "info",
            Level::Debug => "debug",
        }
    }
}

/// Where finished lines go.
pub trait Sink: Send {
    /// Writes one line. It may fail, and then the line is lost.
    fn write(&mut self, level: Level, line: &str) -> io::Result<()>;

    /// Writes lines, and says how many are lost.
    fn write_all(&mut self, lines: &[(Level, String)]) -> u64 {
        let results = lines.iter().map(|(level, line)| self.write(*level, line));
        results.filter(Result::is_err).count() as u64
    }
}

/// Standard error: the line and nothing else.
#[derive(Debug)]
pub struct Stderr;

impl Sink for Stderr {
    fn write(&mut self, _level: Level, line: &str) -> io::Result<()> {
        // One write, so that lines of several processes do not mix. A fuzzer makes millions of
        // lines that nobody wants. The test runner holds back what goes through the macro, and
        // shows it when a test fails.
        #[cfg(test)]
        eprintln!("{line}");
        #[cfg(not(test))]
        if !cfg!(feature = "fuzzing") {
            io::stderr().write_all(format!("{line}\n").as_bytes())?;
        }
        Ok(())
    }

    fn write_all(&mut self, lines: &[(Level, String)]) -> u64 {
        let packs = packs(lines).into_iter();
        let lost = packs.filter(|(text, _)| self.write(Level::Info, text).is_err());
        lost.map(|(_, count)| count).sum()
    }
}

/// As many lines together as a pipe takes whole, and how many they are.
fn packs(lines: &[(Level, String)]) -> Vec<(String, u64)> {
    let mut packs: Vec<(String, u64)> = Vec::new();
    for (_, line) in lines {
        match packs.last_mut() {
            Some((text, count)) if text.len() + line.len() + 2 <= PIPE_BYTES => {
                text.push('\n');
                text.push_str(line);
                *count += 1;
            }
            _ => packs.push((line.clone(), 1)),
        }
    }
    packs
}

/// POSIX: so much is written to a pipe at once or not at all (`PIPE_BUF` is 512 at least, and more
/// on all our systems).
const PIPE_BYTES: usize = 512;

/// syslogd(8) by its local socket, facility mail; syslogd puts the time.
pub struct Syslog {
    logger: Option<Logger<LoggerBackend, Tag>>,
    tag: Tag,
}

impl Syslog {
    /// Lines will be tagged `program[pid]`. When syslogd is not there now, each line tries again.
    pub fn open(program: &'static str) -> Syslog {
        let tag = Tag {
            program,
            pid: std::process::id(),
        };
        Syslog {
            logger: connect(tag),
            tag,
        }
    }
}

impl Sink for Syslog {
    fn write(&mut self, level: Level, line: &str) -> io::Result<()> {
        for _ in 0..2 {
            let mut logger = match self.logger.take().or_else(|| connect(self.tag)) {
                Some(logger) => logger,
                None => return Err(io::Error::from(io::ErrorKind::NotConnected)),
            };
            let sent = match level {
                Level::Crit => logger.crit(line),
                Level::Err => logger.err(line),
                Level::Info => logger.info(line),
                Level::Debug => logger.debug(line),
            };
            match sent {
                Ok(()) => {
                    self.logger = Some(logger);
                    return Ok(());
                }
                Err(syslog::Error::Io(error)) | Err(syslog::Error::Write(error))
                    if error.kind() == io::ErrorKind::WouldBlock =>
                {
                    self.logger = Some(logger);
                    return Err(error);
                }
                // syslogd was restarted: its old socket is gone.
                Err(_) => {}
            }
        }
        Err(io::Error::from(io::ErrorKind::NotConnected))
    }
}

fn connect(tag: Tag) -> Option<Logger<LoggerBackend, Tag>> {
    let logger = syslog::unix(tag).ok()?;
    if let LoggerBackend::Unix(socket) = &logger.backend {
        socket.set_nonblocking(true).ok()?;
    }
    Some(logger)
}

/// `<priority>program[pid]: line`, as syslog(3) sends it, without a time.
#[derive(Clone, Copy, Debug)]
struct Tag {
    program: &'static str,
    pid: u32,
}

impl LogFormat<&str> for Tag {
    fn format<W: Write>(&self, w: &mut W, severity: Severity, line: &str) -> syslog::Result<()> {
        const FACILITY_MAIL: u8 = 2 << 3;
        let priority = FACILITY_MAIL | severity as u8;
        write!(w, "<{priority}>{}[{}]: {line}", self.program, self.pid)
            .map_err(syslog::Error::Write)
    }
}

/// A sink, with its thread if it has one.
pub enum Output {
    /// Written by the caller.
    Direct(Box<dyn Sink>),
    /// Written by the thread `log`.
    Thread(Desk),
}

/// Where lines wait for the thread, which ends when this is dropped.
pub struct Desk(Arc<Shared>);

struct Shared {
    tray: Mutex<Tray>,
    came: Condvar,
}

#[derive(Default)]
struct Tray {
    lines: VecDeque<(Level, String)>,
    /// To be told when all lines so far are written.
    flushes: Vec<Sender<()>>,
    /// Whether the thread has to be woken for the next line.
    is_asleep: bool,
    is_closed: bool,
}

/// Lines lost since the last one that was not.
pub static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Lines that may wait for the thread.
const WAITING_LINES: usize = 8192;
/// Lines that it takes at a time.
const TAKEN_LINES: usize = 64;
/// How long lines gather, unless there are so many or somebody waits.
const GATHER: Duration = Duration::from_millis(2);
/// How often it looks by itself before it wants to be woken.
const QUIET: usize = 5;
const FLUSH_FOR: Duration = Duration::from_secs(2);

impl Output {
    /// Starts the thread `log` around `sink`; where none can be started, callers write.
    pub fn threaded(sink: Box<dyn Sink>) -> Output {
        let shared = Arc::new(Shared {
            tray: Mutex::default(),
            came: Condvar::new(),
        });
        let desk = Desk(shared.clone());
        let spawned = std::thread::Builder::new()
            .name("log".into())
            .spawn(move || shared.write_all(sink));
        match spawned {
            Ok(_) => Output::Thread(desk),
            Err(_) => Output::Direct(Box::new(Stderr)),
        }
    }

    /// Takes a line, or counts it.
    pub fn line(&mut self, level: Level, line: String) {
        match self {
            Output::Direct(sink) => write_these(sink.as_mut(), &[(level, line)]),
            Output::Thread(desk) => desk.0.take(level, line),
        }
    }

    /// What a caller waits on, outside any lock, for all lines so far to be written.
    pub fn flush(&self) -> Option<Receiver<()>> {
        let Output::Thread(Desk(shared)) = self else {
            return None;
        };
        let (done, wait) = channel();
        shared.lock().flushes.push(done);
        shared.came.notify_one();
        Some(wait)
    }
}

/// Waits for a flush, not for ever.
pub fn wait_flushed(done: Option<Receiver<()>>) {
    if let Some(done) = done {
        let _ = done.recv_timeout(FLUSH_FOR);
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        self.0.lock().is_closed = true;
        self.0.came.notify_one();
    }
}

impl Tray {
    fn is_idle(&self) -> bool {
        self.lines.is_empty() && self.flushes.is_empty() && !self.is_closed
    }
}

impl Shared {
    fn take(&self, level: Level, line: String) {
        let mut tray = self.lock();
        if tray.lines.len() >= WAITING_LINES {
            DROPPED.fetch_add(1, Relaxed);
            return;
        }
        tray.lines.push_back((level, line));
        let is_woken = std::mem::take(&mut tray.is_asleep) || tray.lines.len() == TAKEN_LINES;
        drop(tray);
        if is_woken {
            self.came.notify_one();
        }
    }

    fn write_all(&self, mut sink: Box<dyn Sink>) {
        let mut tray = self.lock();
        let mut quiet = 0;
        loop {
            if tray.is_idle() && quiet < QUIET {
                quiet += 1;
            } else if tray.is_idle() {
                tray.is_asleep = true;
                let woken = self.came.wait_while(tray, |tray| tray.is_idle());
                tray = woken.unwrap_or_else(PoisonError::into_inner);
            }
            tray.is_asleep = false;
            let gathered = self.came.wait_timeout_while(tray, GATHER, |tray| {
                tray.flushes.is_empty() && tray.lines.len() < TAKEN_LINES && !tray.is_closed
            });
            (tray, _) = gathered.unwrap_or_else(PoisonError::into_inner);
            if tray.is_closed && tray.lines.is_empty() && tray.flushes.is_empty() {
                return;
            }
            if tray.is_idle() {
                continue;
            }
            quiet = 0;
            let count = tray.lines.len().min(TAKEN_LINES);
            let lines: Vec<_> = tray.lines.drain(..count).collect();
            let flushes = if tray.lines.is_empty() {
                std::mem::take(&mut tray.flushes)
            } else {
                Vec::new()
            };
            drop(tray);
            write_these(sink.as_mut(), &lines);
            for done in flushes {
                let _ = done.send(());
            }
            tray = self.lock();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Tray> {
        self.tray.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn write_these(sink: &mut dyn Sink, lines: &[(Level, String)]) {
    let dropped = DROPPED.swap(0, Relaxed);
    if dropped > 0 {
        let notice = format!("warn: log: {dropped} lines dropped");
        if sink.write(Level::Err, &notice).is_err() {
            DROPPED.fetch_add(dropped, Relaxed);
        }
    }
    let lost = sink.write_all(lines);
    if lost > 0 {
        DROPPED.fetch_add(lost, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keeps lines, but only while its gate is open.
    struct Gated {
        gate: Receiver<()>,
        lines: Arc<Mutex<Vec<String>>>,
    }

    impl Sink for Gated {
        fn write(&mut self, _level: Level, line: &str) -> io::Result<()> {
            let _ = self.gate.recv();
            self.lines.lock().unwrap().push(line.to_owned());
            Ok(())
        }
    }

    struct Broken;

    impl Sink for Broken {
        fn write(&mut self, _level: Level, _line: &str) -> io::Result<()> {
            Err(io::Error::from(io::ErrorKind::NotConnected))
        }
    }

    /// The count is one for the process.
    fn alone() -> MutexGuard<'static, ()> {
        static ONE: Mutex<()> = Mutex::new(());
        let guard = ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        DROPPED.store(0, Relaxed);
        guard
    }

    #[test]
    fn a_stuck_sink_stops_nobody_and_losses_are_told() {
        let _alone = alone();
        // Another test that logs just then may be the one that says what was lost.
        assert!((0..20).any(|_| losses_are_told()));
    }

    fn losses_are_told() -> bool {
        let (open, gate) = channel();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let mut output = Output::threaded(Box::new(Gated {
            gate,
            lines: lines.clone(),
        }));
        // The thread holds some lines, the tray the rest.
        for n in 0..WAITING_LINES + 100 {
            output.line(Level::Info, n.to_string());
        }
        drop(open);
        wait_flushed(output.flush());
        output.line(Level::Info, "after".into());
        wait_flushed(output.flush());
        let lines = lines.lock().unwrap();
        assert_eq!(lines.last().unwrap(), "after");
        lines
            .iter()
            .any(|l| l.starts_with("warn: log: ") && l.ends_with("lines dropped"))
    }

    #[test]
    fn lines_share_a_write_as_long_as_a_pipe_takes_it_whole() {
        let lines: Vec<_> = (0..100)
            .map(|n| (Level::Info, "x".repeat(n * 7 % 300)))
            .chain([(Level::Err, "y".repeat(2 * PIPE_BYTES))])
            .collect();
        let packs = packs(&lines);
        assert!(packs.len() < 60);
        assert_eq!(packs.iter().map(|(_, count)| count).sum::<u64>(), 101);
        let fits = |text: &String| text.len() < PIPE_BYTES || !text.contains('\n');
        assert!(packs.iter().all(|(text, _)| fits(text)));
        let text: Vec<_> = packs.into_iter().map(|(text, _)| text).collect();
        let one: Vec<_> = lines.into_iter().map(|(_, line)| line).collect();
        assert_eq!(text.join("\n"), one.join("\n"));
    }

    #[test]
    fn a_broken_sink_only_counts() {
        let _alone = alone();
        let mut output = Output::Direct(Box::new(Broken));
        let mut counted = || {
            for _ in 0..3 {
                output.line(Level::Err, "x".into());
            }
            DROPPED.swap(0, Relaxed) == 3
        };
        assert!((0..20).any(|_| counted()));
    }

    #[test]
    fn syslog_lines_carry_facility_tag_and_no_time() {
        let tag = Tag {
            program: "smtpd",
            pid: 7,
        };
        let mut bytes = Vec::new();
        tag.format(&mut bytes, Severity::LOG_ERR, "warn: x")
            .unwrap();
        assert_eq!(bytes, b"<19>smtpd[7]: warn: x");
        bytes.clear();
        tag.format(&mut bytes, Severity::LOG_INFO, "info: x")
            .unwrap();
        assert_eq!(bytes, b"<22>smtpd[7]: info: x");
    }
}
