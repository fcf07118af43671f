//! The exit codes of sysexits(3) that the front ends use.

/// Bad command line.
pub const USAGE: i32 = 64;
/// Bad input.
pub const DATAERR: i32 = 65;
/// No host name.
pub const NOHOST: i32 = 68;
/// Something needed is not there.
pub const UNAVAILABLE: i32 = 69;
/// The server refused; also `no recipients`.
pub const SOFTWARE: i32 = 70;
/// Try again later.
pub const TEMPFAIL: i32 = 75;
/// Not allowed.
pub const NOPERM: i32 = 77;
