//! Local delivery from the inside: what runs once the process has become the recipient.
//!
//! [`exec`] is the role the parent starts; [`batch`] is the same for many messages; the rest are
//! the mail.* helpers, callable from there and from their own programs. Nothing here knows of the
//! daemon beyond the job it is handed. Every failure is a [`MdaError`]: a sysexits(3) code and one
//! line that says what was attempted on what.

#![forbid(unsafe_code)]

pub mod batch;
pub mod exec;
mod guard;
pub mod lmtp;
pub mod local;
pub mod maildir;
mod maildir_target;
pub mod mbox;
pub mod mboxfile;
pub mod run;
pub mod shell;

use std::io::{self, Write};
use std::path::Path;

use crate::config::specifier::Unexpanded;
use crate::sys;
use crate::util::sysexits;

/// A delivery that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MdaError {
    /// The exit code.
    pub code: i32,
    /// What was attempted, on what, and what came of it.
    pub text: String,
}

impl MdaError {
    /// A failure with this code and text.
    pub fn new(code: i32, text: impl Into<String>) -> MdaError {
        MdaError {
            code,
            text: text.into(),
        }
    }

    /// A failed operation on a file.
    pub fn on(code: i32, path: &Path, error: &io::Error) -> MdaError {
        MdaError::new(
            code,
            format!("{}: {}", path.display(), sys::errno::strerror(error)),
        )
    }
}

impl From<Unexpanded> for MdaError {
    fn from(why: Unexpanded) -> MdaError {
        MdaError::new(sysexits::FAILURE, why.to_string())
    }
}

/// Says what failed on standard error as `program` would, and returns the exit code.
pub fn conclude(program: &str, result: Result<(), MdaError>) -> i32 {
    match result {
        Ok(()) => sysexits::OK,
        Err(failure) => {
            complain(program, &failure.text);
            failure.code
        }
    }
}

/// One line on standard error with the program's name.
pub fn complain(program: &str, text: &str) {
    say(&format!("{program}: {text}"));
}

/// One line on standard error. Failing to write it changes nothing.
pub fn say(text: &str) {
    let line = crate::util::Line::sanitize(text.as_bytes());
    let _ = writeln!(io::stderr(), "{line}");
}

/// Copies a message to `sink` in pieces of at most 64 KiB.
pub fn copy(
    message: &mut dyn io::Read,
    mut sink: impl FnMut(&[u8]) -> Result<(), MdaError>,
    on_error: i32,
) -> Result<(), MdaError> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match message.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => sink(&buffer[..n])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(MdaError::on(on_error, Path::new("standard input"), &error)),
        }
    }
}
