//! What the mail.* helpers do, running as the recipient; knows nothing of the daemon.

#![forbid(unsafe_code)]
