//! Tools without a field of their own: values that cannot lie, time, bytes made visible, base64,
//! and the fields of frames.

#![forbid(unsafe_code)]

pub mod base64;
pub mod cdb;
#[cfg(test)]
pub(crate) mod dice;
pub mod frame;
pub mod line;
pub mod sysexits;
pub mod time;
pub mod vis;

pub use line::{Line, NotALine};
pub use time::Timestamp;
