//! Limits of the language and of what is read for it, named together.

/// Longest token, in bytes.
pub const TOKEN_BYTES: usize = 8094;
/// Longest name of a table, in bytes.
pub const TABLE_NAME_BYTES: usize = 2047;
/// A key of a table of this many bytes or more is dropped.
pub const KEY_BYTES: usize = 1024;
/// Longest name of an action, in bytes.
pub const ACTION_NAME_BYTES: usize = 255;
/// Longest tag, in bytes.
pub const TAG_BYTES: usize = 32;
/// Longest host name, in bytes.
pub const HOST_NAME_BYTES: usize = 255;
/// Delays of `bounce warn-interval`.
pub const BOUNCE_DELAYS: usize = 4;
/// Certificates of one listener.
pub const LISTENER_PKI: usize = 32;
/// Included files open at a time.
pub const INCLUDE_DEPTH: usize = 16;
/// Included files in all.
pub const INCLUDES: usize = 1000;
/// One file of configuration text, in bytes.
pub const TEXT_BYTES: u64 = 16 << 20;
/// One file table, in bytes.
pub const TABLE_BYTES: u64 = 1 << 30;
/// Rules beyond this number are not compared with each other for the warning about rules that
/// can never be reached.
pub const COMPARED_RULES: usize = 1000;
/// Entries of tables compared with each other for the same warning, in all.
pub const COMPARED_ENTRIES: usize = 10_000_000;
