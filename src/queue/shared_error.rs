//! An error that can be told more than once: `io::Error` cannot be cloned.

use std::io;

/// Kind and text of an error.
#[derive(Clone, Debug)]
pub(super) struct SharedError {
    kind: io::ErrorKind,
    text: String,
}

impl SharedError {
    /// Keeps kind and text of an error, which cannot be cloned.
    pub(super) fn of(error: &io::Error) -> SharedError {
        SharedError {
            kind: error.kind(),
            text: error.to_string(),
        }
    }

    /// The error again.
    pub(super) fn to_error(&self) -> io::Error {
        io::Error::new(self.kind, self.text.clone())
    }
}
