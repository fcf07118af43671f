//! Tools without a field of their own: values that cannot lie, time, bytes made visible,
//! the fields of frames, what is replaced while it is used, and what wakes who sleeps.

#![forbid(unsafe_code)]

#[cfg(test)]
pub(crate) mod again;
pub mod alarm;
pub mod backoff;
pub mod cdb;
#[cfg(test)]
pub(crate) mod dice;
pub mod frame;
pub mod json;
pub mod line;
pub mod live;
pub mod pool;
pub mod secret;
pub mod sysexits;
pub mod time;
pub mod vis;
pub mod wire;

pub use line::{Line, NotALine, cut};
pub use live::Live;
pub use secret::{Secret, take_off_and_wipe};
pub use time::Timestamp;
pub use zeroize::{Zeroize, Zeroizing};
