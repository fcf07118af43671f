//! The exit codes of sysexits(3), as far as our programs and the programs they run use them.

/// Done.
pub const OK: i32 = 0;
/// A failure for good without a code of its own.
pub const FAILURE: i32 = 1;
/// Wrong arguments.
pub const USAGE: i32 = 64;
/// Input that is not what it should be.
pub const DATAERR: i32 = 65;
/// No such user.
pub const NOUSER: i32 = 67;
/// No host name.
pub const NOHOST: i32 = 68;
/// Something needed is not there.
pub const UNAVAILABLE: i32 = 69;
/// The server refused; also `no recipients`.
pub const SOFTWARE: i32 = 70;
/// The system lacks something now.
pub const OSERR: i32 = 71;
/// The mailbox cannot be made.
pub const CANTCREAT: i32 = 73;
/// Try again later.
pub const TEMPFAIL: i32 = 75;
/// Not allowed.
pub const NOPERM: i32 = 77;
/// The configuration is at fault.
pub const CONFIG: i32 = 78;
