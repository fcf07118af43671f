//! Every system call and every `unsafe`: owned std types in and out, EINTR retried, no policy.
//!
//! `cfg(target_os)` appears nowhere else.

pub mod caller;
pub mod errno;
pub mod poll;
pub mod random;
pub mod setgid;
pub mod unix_connect;
pub mod user;
