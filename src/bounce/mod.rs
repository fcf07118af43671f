//! Reports to senders.

#![forbid(unsafe_code)]
