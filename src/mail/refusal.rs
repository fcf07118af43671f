//! Why a command was refused, as the client hears it.

use crate::util::Line;

/// A reply of class 4 or 5.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Three digits, 400 to 599.
    pub code: u16,
    /// The text behind the code, with its enhanced code where it has one.
    pub text: Line,
}

impl Refusal {
    /// A refusal with this code and text; control characters in the text are replaced.
    pub fn new(code: u16, text: &str) -> Refusal {
        debug_assert!((400..600).contains(&code));
        Refusal {
            code,
            text: Line::sanitize(text.as_bytes()),
        }
    }

    /// Whether trying again later may help.
    pub fn is_temporary(&self) -> bool {
        self.code < 500
    }
}
