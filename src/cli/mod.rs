//! Command lines: argv, usage, exit codes.

#![forbid(unsafe_code)]

pub mod caller;
pub mod exit_error;
pub mod getopt;
pub mod instance;
pub mod mail_lmtp;
pub mod mail_local;
pub mod mail_maildir;
pub mod mail_mboxfile;
pub mod mail_mda;
pub mod mail_options;
pub mod mailq;
pub mod makemap;
pub mod newaliases;
pub mod personality;
pub mod queue_key;
pub mod sendmail;
pub mod smtp;
pub mod smtpctl;
pub mod smtpd;
mod supposed;

#[cfg(test)]
pub(crate) mod fake_daemon;
