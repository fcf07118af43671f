//! Where lines go, directly or through a thread.
//!
//! The engine has a thread, so that no worker waits for a slow syslogd. The parent, which never has
//! a second thread, writes itself, and waits no longer than [`PATIENCE`]. The thread lets lines
//! gather for a moment, so that a busy engine does not wake it for each. A line that cannot be taken
//! is dropped and counted, and the count is said before the next line.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

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

/// Who writes the lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writer {
    /// The caller, which waits for nobody; for processes that must stay at one thread.
    Caller,
    /// A thread of its own, which may wait.
    Thread,
}

/// How long a caller that writes itself waits for room.
pub const PATIENCE: Duration = Duration::from_millis(100);

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
    /// Starts the thread `log` around `sink`.
    pub fn threaded(sink: Box<dyn Sink>) -> io::Result<Output> {
        let shared = Arc::new(Shared {
            tray: Mutex::default(),
            came: Condvar::new(),
        });
        let desk = Desk(shared.clone());
        std::thread::Builder::new()
            .name("log".into())
            .spawn(move || shared.write_all(sink))?;
        Ok(Output::Thread(desk))
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
        }))
        .unwrap();
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
}
