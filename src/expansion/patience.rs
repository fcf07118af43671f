//! Whether an expansion may wait for others.
//!
//! One that may not gives up where it would have to, and where the log is to be told of something:
//! whoever may wait begins again then, and tells it.

use std::cell::Cell;
use std::fmt;

use crate::log;

/// Whether an expansion may wait.
pub enum Patience {
    /// It may wait.
    Waits,
    /// It may not wait.
    AtOnce {
        /// Whether it had to give up.
        gave_up: Cell<bool>,
    },
}

impl Patience {
    /// For an expansion that may not wait.
    pub fn at_once() -> Patience {
        Patience::AtOnce {
            gave_up: Cell::new(false),
        }
    }

    /// Whether this has to be left to an expansion that may wait; if so, this one has given up.
    pub fn gives_up(&self) -> bool {
        match self {
            Patience::Waits => false,
            Patience::AtOnce { gave_up } => {
                gave_up.set(true);
                true
            }
        }
    }

    /// Whether it has given up: what has been found then means nothing.
    pub fn gave_up(&self) -> bool {
        matches!(self, Patience::AtOnce { gave_up } if gave_up.get())
    }

    /// Something for the log.
    pub fn info(&self, text: fmt::Arguments<'_>) {
        if !self.gives_up() {
            log::info(text);
        }
    }

    /// A warning for the log.
    pub fn warn(&self, text: fmt::Arguments<'_>) {
        if !self.gives_up() {
            log::warn(text);
        }
    }
}
