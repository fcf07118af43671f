//! Tools without a field of their own: values that cannot lie, time, and bytes made visible.

#![forbid(unsafe_code)]

pub mod line;
pub mod time;
pub mod vis;

pub use line::{Line, NotALine};
pub use time::Timestamp;
