//! Every system call and every `unsafe`: owned std types in and out, EINTR retried, no policy.
//!
//! `cfg(target_os)` appears nowhere else.

pub mod descriptors;
pub mod errno;
pub mod fs;
pub mod localtime;
pub mod lock;
pub mod mda;
pub mod poll;
pub mod random;
pub mod socket;
pub mod unix_connect;
pub mod user;
