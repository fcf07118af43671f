//! SMTP text and types: commands, replies, parameters, line and dot rules.

#![forbid(unsafe_code)]
