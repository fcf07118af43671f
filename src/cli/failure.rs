//! How a front end ends badly: what it says on standard error, and its exit code.

use std::fmt;
use std::io;

use crate::control::client;
use crate::sys::errno::strerror;

/// The end of a front end that did not do what it was asked.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
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

impl Failure {
    /// Exit 1 with this text.
    pub fn new(text: impl Into<String>) -> Failure {
        Failure::with(1, text)
    }

    /// Exit `code` with this text.
    pub fn with(code: i32, text: impl Into<String>) -> Failure {
        Failure {
            code,
            text: text.into(),
            form: Form::Message,
        }
    }

    /// Exit `code` with a text that is printed as it is.
    pub fn verbatim(code: i32, text: impl Into<String>) -> Failure {
        Failure {
            form: Form::Verbatim,
            ..Failure::with(code, text)
        }
    }

    /// Exit 1, because `what` could not be done.
    pub fn io(what: impl fmt::Display, error: &io::Error) -> Failure {
        Failure::new(format!("{what}: {}", strerror(error)))
    }

    /// Standard output failed. Nobody reading any more is no fault of ours and nothing to tell.
    pub fn output(error: &io::Error) -> Failure {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Failure::with(0, "");
        }
        Failure::io("standard output", error)
    }
}

impl From<client::Error> for Failure {
    fn from(error: client::Error) -> Failure {
        Failure::new(error.to_string())
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
            Failure::io("fopen", &error),
            Failure::new("fopen: No such file or directory")
        );
    }

    #[test]
    fn a_closed_pipe_ends_a_program_quietly() {
        let error = io::Error::from(io::ErrorKind::BrokenPipe);
        assert_eq!(Failure::output(&error), Failure::with(0, ""));
    }
}
