//! Names of the tables that no `table` directive declares.
//!
//! They stand in angle brackets, as smtpctl(8) and messages show them, and are no names that a
//! directive can give.

/// Every address.
pub const ANY_HOST: &str = "<anyhost>";
/// Every domain.
pub const ANY_DESTINATION: &str = "<anydestination>";
/// The addresses of this machine.
pub const LOCAL_HOST: &str = "<localhost>";
/// The names of this machine.
pub const LOCAL_NAMES: &str = "<localnames>";
/// The users of the system.
pub const SYSTEM_USERS: &str = "<getpwnam>";
/// How a table that is written where it is used is called in complaints.
pub const ANONYMOUS: &str = "<dynamic>";

/// How the names of all tables begin that are written where they are used.
const ANONYMOUS_START: &str = "<dynamic:";

/// The name of such a table: they are counted.
pub fn anonymous(number: u32) -> String {
    format!("{ANONYMOUS_START}{number}>")
}

/// Whether a table was written where it is used.
pub fn is_anonymous(table: &str) -> bool {
    table.starts_with(ANONYMOUS_START)
}

/// What stands before the first name of such a table in a text, and the text from there on.
pub fn split_at_anonymous(text: &str) -> Option<(&str, &str)> {
    Some(text.split_at(text.find(ANONYMOUS_START)?))
}
