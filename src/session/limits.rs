//! What a session may use up, beyond the limits that smtpd.conf(5) sets.
//!
//! They are far above what honest clients need; none is configurable.

use std::time::Duration;

/// Replies waiting to be sent, in bytes, above which no further command is read.
pub const OUT_HIGH_WATER: usize = 64 * 1024;
/// Commands of one group that are done before others have their turn.
pub const COMMANDS_AT_A_TIME: usize = 100;
/// Bytes of input without LF at which a line is too long.
pub const LINE_TOO_LONG: usize = 65535;
/// The longest command, without its line end.
pub const MAX_COMMAND: usize = 2047;
/// Unknown, misplaced and misspelt commands in a row.
pub const MAX_BAD_COMMANDS: u32 = 20;
/// Refused recipients that cost nothing. Each further one makes the client wait a millisecond
/// longer for its next command …
pub const REFUSED_RCPTS_FREE: u32 = 100;
/// … up to this.
pub const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Refused recipients since the last message: more than a list of a thousand has that nobody kept.
pub const MAX_REFUSED_RCPTS: u16 = 1_000;
/// Failed attempts to log in.
pub const MAX_FAILED_LOGINS: u8 = 5;
/// Commands since the last message that brought none nearer: NOOP, RSET, HELO, refusals.
pub const MAX_IDLE_COMMANDS: u32 = 10_000;
/// Bytes of a message that is refused already that are still read in search of its end.
pub const MAX_DISCARDED: u64 = 256 * 1024 * 1024;
/// Message data handled in one go, in bytes.
pub const DATA_CHUNK: usize = 64 * 1024;
