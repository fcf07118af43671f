//! What the daemon says: operator lines, diagnostics, counters.
//!
//! [`start`] gives the process its sink once; before it, lines go to standard error. A line is
//! one line: control characters are replaced before it reaches the sink. Logging never blocks a
//! caller for long and never fails: when the sink cannot keep up, lines are counted and the count
//! is said later.

#![forbid(unsafe_code)]

use std::fmt::Arguments;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, OnceLock};

mod json;
pub mod maillog;
pub mod profile;
mod sink;
pub mod stat;
mod stderr;
mod syslogd;
mod trace;

use sink::{Level, Output, Sink};
use stderr::Stderr;
use syslogd::Syslog;

pub use sink::Writer;
pub use trace::{
    IsAbout, LIMITED_MAX as LIMITED_TRACES_MAX, OF_CLIENTS, OF_HOSTS, Subject, Trace,
    bits as trace_bits, change as change_trace, limit as limit_trace, set as set_trace,
    wanted as tracing, wanted_of as tracing_of,
};

/// Where a process's lines go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Standard error: no time, no tag.
    Stderr,
    /// syslogd(8), facility mail, tag `smtpd[pid]`.
    Syslog,
}

/// Sets where lines go. `role` names the process in fatal lines: `smtpd` for the parent.
pub fn start(role: &'static str, target: Target, writer: Writer) {
    let sink: Box<dyn Sink> = match target {
        Target::Stderr => Box::new(Stderr::new(writer)),
        Target::Syslog => Box::new(Syslog::open("smtpd", writer)),
    };
    let mut current = current();
    current.role = role;
    current.output = match writer {
        Writer::Caller => Output::Direct(sink),
        // Without a thread callers write.
        Writer::Thread => Output::threaded(sink)
            .unwrap_or_else(|_| Output::Direct(Box::new(Stderr::new(Writer::Caller)))),
    };
}

/// A line at level info: sessions, deliveries, starts.
pub fn info(line: Arguments<'_>) {
    write(Level::Info, line);
}

/// A line at level err; `warn: ` is put in front.
pub fn warn(line: Arguments<'_>) {
    write(Level::Err, format_args!("warn: {line}"));
}

/// A line at level err as it is, for what a helper says.
pub fn said(line: Arguments<'_>) {
    write(Level::Err, line);
}

/// A line at level debug, only when verbose; `debug: ` is put in front.
pub fn debug(line: Arguments<'_>) {
    if is_verbose() {
        write(Level::Debug, format_args!("debug: {line}"));
    }
}

/// A line at level debug, only when `what` is traced.
pub fn trace(what: Trace, line: Arguments<'_>) {
    if tracing(what) {
        write(Level::Debug, line);
    }
}

/// A line at level debug, only when `what` is traced of this one.
pub fn trace_of(what: Trace, subject: &Subject<'_>, line: Arguments<'_>) {
    if tracing_of(what, subject) {
        write(Level::Debug, line);
    }
}

/// A line at level crit, for what ends the process, with its role in front. It is written when
/// this returns.
pub fn fatal(line: Arguments<'_>) {
    let role = current().role;
    write(Level::Crit, format_args!("{role}: {line}"));
    flush();
}

/// `-v`, or `smtpctl log verbose` (true) and `log brief`.
pub fn set_verbose(verbose: bool) {
    VERBOSE.store(verbose, Relaxed);
}

/// Whether debug lines are wanted.
pub fn is_verbose() -> bool {
    VERBOSE.load(Relaxed)
}

/// `-L json`: each line is an object of JSON.
pub fn set_json(json: bool) {
    JSON.store(json, Relaxed);
}

/// Whether each line is an object of JSON.
pub fn is_json() -> bool {
    JSON.load(Relaxed)
}

/// Waits, two seconds at most, until all lines so far are written. Call it before exit.
pub fn flush() {
    let done = current().output.flush();
    sink::wait_flushed(done);
}

static VERBOSE: AtomicBool = AtomicBool::new(false);
static JSON: AtomicBool = AtomicBool::new(false);

struct Current {
    role: &'static str,
    output: Output,
}

fn current() -> MutexGuard<'static, Current> {
    static CURRENT: OnceLock<Mutex<Current>> = OnceLock::new();
    CURRENT
        .get_or_init(|| {
            Mutex::new(Current {
                role: "smtpd",
                output: Output::Direct(Box::new(Stderr::new(Writer::Thread))),
            })
        })
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn write(level: Level, line: Arguments<'_>) {
    let line = without_numbers(one_line(line.to_string()));
    let line = if JSON.load(Relaxed) {
        json::object(level.name(), &line)
    } else {
        line
    };
    current().output.line(level, line);
}

/// What the standard library puts behind the system's own words for an error says nothing to an
/// administrator, and differs from one system to the next.
fn without_numbers(mut line: String) -> String {
    const MARK: &str = " (os error ";
    let mut from = 0;
    while let Some(at) = line.get(from..).and_then(|rest| rest.find(MARK)) {
        let at = from + at;
        let number = line.get(at + MARK.len()..).unwrap_or_default();
        let digits = number.bytes().take_while(u8::is_ascii_digit).count();
        from = match number.as_bytes().get(digits) {
            Some(b')') if digits > 0 => {
                line.replace_range(at..at + MARK.len() + digits + 1, "");
                at
            }
            _ => at + MARK.len(),
        };
    }
    line
}

/// Whatever a stranger put into it, it stays one line and moves no cursor.
fn one_line(line: String) -> String {
    if !line.chars().any(char::is_control) {
        return line;
    }
    line.chars()
        .map(|c| match c {
            '\t' => ' ',
            c if c.is_control() => '?',
            c => c,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_line_stays_one_line() {
        // ESC, CR, LF and NUL from outside never start a second line.
        let hostile = "helo=\x1b[2J\r\nwarn: fake\0\u{85}".to_owned();
        assert_eq!(one_line(hostile), "helo=?[2J??warn: fake??");
        assert_eq!(one_line("plain ü".into()), "plain ü");
    }

    #[test]
    fn errors_are_said_in_the_systems_words_alone() {
        // As strerror(3) has them.
        let error = std::io::Error::from_raw_os_error(2);
        let line = format!("open x: {error}: read y: {error}");
        let words = crate::sys::errno::strerror(&error);
        assert_eq!(
            without_numbers(line),
            format!("open x: {words}: read y: {words}")
        );
        let other = "said (os error x) (os error ) (os error";
        assert_eq!(without_numbers(other.into()), other);
    }
}
