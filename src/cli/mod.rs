//! Command lines: argv, usage, exit codes.

#![forbid(unsafe_code)]

pub mod mail_local;
pub mod mail_maildir;
pub mod mail_mboxfile;
pub mod mail_mda;
pub mod mail_options;
pub mod smtpd;
