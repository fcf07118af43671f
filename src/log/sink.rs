//! Where lines go: standard error or syslogd(8), directly or through a thread.
//!
//! The engine has a thread, so that no worker waits for a slow syslogd; the parent, which never
//! has a second thread, writes itself and does not wait either. A line that cannot be taken is
//! dropped and counted, and the count is said before the next line.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
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
}

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
    Thread(Sender<Order>),
}

/// What the thread is told.
pub enum Order {
    /// Write this.
    Line(Level, String),
    /// Answer when everything before is written.
    Flush(Sender<()>),
}

/// Lines lost since the last one that was not.
pub static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Lines that may wait for the thread.
const WAITING_LINES: usize = 8192;
const FLUSH_FOR: Duration = Duration::from_secs(2);

impl Output {
    /// Starts the thread `log` around `sink`; where none can be started, callers write.
    pub fn threaded(sink: Box<dyn Sink>) -> Output {
        let (orders, inbox) = bounded(WAITING_LINES);
        let spawned = std::thread::Builder::new()
            .name("log".into())
            .spawn(move || write_all(sink, &inbox));
        match spawned {
            Ok(_) => Output::Thread(orders),
            Err(_) => Output::Direct(Box::new(Stderr)),
        }
    }

    /// Takes a line, or counts it.
    pub fn line(&mut self, level: Level, line: String) {
        match self {
            Output::Direct(sink) => write_one(sink.as_mut(), level, &line),
            Output::Thread(orders) => match orders.try_send(Order::Line(level, line)) {
                Ok(()) => {}
                Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                    DROPPED.fetch_add(1, Relaxed);
                }
            },
        }
    }

    /// What a caller waits on, outside any lock, for all lines so far to be written.
    pub fn flush(&self) -> Option<Receiver<()>> {
        let Output::Thread(orders) = self else {
            return None;
        };
        let (done, wait) = bounded(1);
        orders.send_timeout(Order::Flush(done), FLUSH_FOR).ok()?;
        Some(wait)
    }
}

/// Waits for a flush, not for ever.
pub fn wait_flushed(done: Option<Receiver<()>>) {
    if let Some(done) = done {
        let _ = done.recv_timeout(FLUSH_FOR);
    }
}

fn write_all(mut sink: Box<dyn Sink>, inbox: &Receiver<Order>) {
    for order in inbox {
        match order {
            Order::Line(level, line) => write_one(sink.as_mut(), level, &line),
            Order::Flush(done) => {
                let _ = done.send(());
            }
        }
    }
}

fn write_one(sink: &mut dyn Sink, level: Level, line: &str) {
    let dropped = DROPPED.swap(0, Relaxed);
    if dropped > 0 {
        let notice = format!("warn: log: {dropped} lines dropped");
        if sink.write(Level::Err, &notice).is_err() {
            DROPPED.fetch_add(dropped, Relaxed);
        }
    }
    if sink.write(level, line).is_err() {
        DROPPED.fetch_add(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex, MutexGuard};

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
        let (open, gate) = bounded(0);
        let lines = Arc::new(Mutex::new(Vec::new()));
        let mut output = Output::threaded(Box::new(Gated {
            gate,
            lines: lines.clone(),
        }));
        // The thread holds one line, the channel the rest.
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
