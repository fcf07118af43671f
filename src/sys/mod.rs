//! Every system call and every `unsafe`: owned std types in and out, EINTR retried, no policy.
//!
//! `cfg(target_os)` appears nowhere else.

pub mod errno;
pub mod hostname;
pub mod ifaddrs;
pub mod plain_file;
pub mod poll;
pub mod random;
pub mod user;
