//! Text that is shown nowhere.

use std::fmt;

use super::Line;

/// A text that no log, dump or message shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Line);

impl Secret {
    /// Takes care of `text`.
    pub fn new(text: Line) -> Secret {
        Secret(text)
    }

    /// The text, for those who need it.
    pub fn reveal(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("********")
    }
}
