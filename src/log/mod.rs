//! What the daemon says: operator lines, diagnostics, counters.
//!
//! [`start`] gives the process its sink once; before it, lines go to standard error. A line is
//! one line: control characters are replaced before it reaches the sink. Logging never blocks a
//! caller for long and never fails: when the sink cannot keep up, lines are counted and the count
//! is said later.

#![forbid(unsafe_code)]

use std::fmt::Arguments;

pub mod maillog;
pub mod stat;

/// A line at level info: sessions, deliveries, starts.
pub fn info(line: Arguments<'_>) {
    eprintln!("{line}");
}

/// A line at level err; `warn: ` is put in front.
pub fn warn(line: Arguments<'_>) {
    eprintln!("warn: {line}");
}

/// A line at level debug, only when verbose; `debug: ` is put in front.
pub fn debug(_line: Arguments<'_>) {}

/// A line at level crit, for what ends the process.
pub fn fatal(line: Arguments<'_>) {
    eprintln!("fatal: {line}");
}
