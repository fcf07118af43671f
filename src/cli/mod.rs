//! Command lines: argv, usage, exit codes.

#![forbid(unsafe_code)]

pub mod smtpd;
