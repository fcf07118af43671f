//! How a front end ends badly: what it says on standard error, and its exit code.

use std::fmt;
use std::io;

use crate::control::client;
use crate::sys::errno::strerror;

/// The end of a front end that did not do what it was asked.
#[derive(Debug, PartialEq, Eq)]
pub struct ExitError {
    pub code: i32,
    /// What standard error is told; empty for nothing.
    pub text: String,
    /// How it is told.
    pub form: Form,
}

/// How a text appears on standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Behind `program: `.
    Message,
    /// As it is: a usage, or several lines.
    Verbatim,
}

impl ExitError {
    /// Exit 1 with this text.
    pub fn new(text: impl Into<String>) -> ExitError {
        ExitError::with(1, text)
    }

    /// Exit `code` with this text.
    pub fn with(code: i32, text: impl Into<String>) -> ExitError {
        ExitError {
            code,
            text: text.into(),
            form: Form::Message,
        }
    }

    /// Exit `code` with a text that is printed as it is.
    pub fn verbatim(code: i32, text: impl Into<String>) -> ExitError {
        ExitError {
            form: Form::Verbatim,
            ..ExitError::with(code, text)
        }
    }

    /// Exit 1, because `what` could not be done.
    pub fn io(what: impl fmt::Display, error: &io::Error) -> ExitError {
        ExitError::new(format!("{what}: {}", strerror(error)))
    }

    /// Standard output failed. Nobody reading any more is no fault of ours and nothing to tell.
    pub fn output(error: &io::Error) -> ExitError {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return ExitError::with(0, "");
        }
        ExitError::io("standard output", error)
    }
}

impl From<client::Error> for ExitError {
    fn from(error: client::Error) -> ExitError {
        ExitError::new(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_read_as_those_of_c_programs() {
        // smtpctl(8): `smtpctl: fopen: No such file or directory`.
        let error = std::fs::File::open("/no/such/file").unwrap_err();
        assert_eq!(
            ExitError::io("fopen", &error),
            ExitError::new("fopen: No such file or directory")
        );
    }

    #[test]
    fn a_closed_pipe_ends_a_program_quietly() {
        let error = io::Error::from(io::ErrorKind::BrokenPipe);
        assert_eq!(ExitError::output(&error), ExitError::with(0, ""));
    }
}
