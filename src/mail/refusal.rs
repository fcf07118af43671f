//! Why a command was refused, as the client hears it, and as the log tells it.

use crate::util::Line;

/// A reply of class 4 or 5.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Three digits, 400 to 599.
    pub code: u16,
    /// The text behind the code, with its enhanced code where it has one.
    pub text: Line,
    /// Why, for the log: it may say more than a client should know.
    pub reason: Option<Line>,
    /// File and line of the `match` rule that has led to it.
    pub rule: Option<Line>,
}

impl Refusal {
    /// A refusal with this code and text; control characters in the text are replaced.
    pub fn new(code: u16, text: &str) -> Refusal {
        debug_assert!((400..600).contains(&code));
        Refusal {
            code,
            text: Line::sanitize(text.as_bytes()),
            reason: None,
            rule: None,
        }
    }

    /// The refusal with a reason, which only the log and `explain` tell.
    pub fn because(self, reason: &str) -> Refusal {
        let reason = Some(Line::sanitize(reason.as_bytes()));
        Refusal { reason, ..self }
    }

    /// Whether trying again later may help.
    pub fn is_temporary(&self) -> bool {
        self.code < 500
    }
}
