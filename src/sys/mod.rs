//! Every system call and every `unsafe`: owned std types in and out, EINTR retried, no policy.
//!
//! `cfg(target_os)` appears nowhere else.

pub mod base;
pub mod creds;
pub mod crypt;
pub mod descriptors;
pub mod errno;
pub mod exe;
pub mod fdpass;
pub mod fs;
pub mod hostname;
pub mod localtime;
pub mod lock;
pub mod login;
pub mod mounts;
pub mod net;
pub mod open;
pub mod poll;
pub mod process;
pub mod random;
pub mod sandbox;
pub mod setgid;
pub mod signal;
pub mod socket;
pub mod terminal;
pub mod title;
pub mod unix_connect;
pub mod user;
pub mod waker;
