//! What a sender asked to be told (RFC 3461).

use std::fmt;

use crate::util::Line;

/// NOTIFY as asked for one recipient; the bits are those of envelope files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Notify(pub u8);

impl Notify {
    /// NOTIFY=SUCCESS.
    pub const SUCCESS: u8 = 1;
    /// NOTIFY=FAILURE.
    pub const FAILURE: u8 = 2;
    /// NOTIFY=DELAY.
    pub const DELAY: u8 = 4;
    /// NOTIFY=NEVER.
    pub const NEVER: u8 = 8;

    /// Whether `bit` was asked for.
    pub fn has(self, bit: u8) -> bool {
        self.0 & bit != 0
    }
}

/// As RCPT says it: the words in this order, or nothing.
impl fmt::Display for Notify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = [
            (Notify::SUCCESS, "SUCCESS"),
            (Notify::FAILURE, "FAILURE"),
            (Notify::DELAY, "DELAY"),
            (Notify::NEVER, "NEVER"),
        ];
        let mut between = "";
        for (_, word) in words.iter().filter(|(bit, _)| self.has(*bit)) {
            write!(f, "{between}{word}")?;
            between = ",";
        }
        Ok(())
    }
}

/// RET: how much of the original a report returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ret {
    /// The whole message.
    Full,
    /// Only its header.
    Hdrs,
}

/// The DSN parameters of one envelope.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dsn {
    /// NOTIFY of RCPT.
    pub notify: Notify,
    /// RET of MAIL.
    pub ret: Option<Ret>,
    /// ENVID of MAIL, as given (xtext), at most 100 bytes.
    pub envid: Option<Line>,
    /// ORCPT of RCPT, as given (`type;xtext`), at most 500 bytes.
    pub orcpt: Option<Line>,
}
