//! Tools without a field of their own: values that cannot lie, and time.

#![forbid(unsafe_code)]

pub mod line;
pub mod time;

pub use line::{Line, NotALine};
pub use time::Timestamp;
