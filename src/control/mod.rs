//! smtpctl(8)'s socket: frames, the daemon's half and the client's half.
//!
//! Callers are untrusted: any local user may connect. Only root (or, in an instance that does not
//! run as root, its own user) may use anything but `Submit`.

#![forbid(unsafe_code)]

mod codec;

pub mod client;
pub mod listing;
pub mod message;
pub mod server;
pub mod summary;

pub use message::{Answer, Ask, Which};
