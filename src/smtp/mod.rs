//! SMTP text and types: commands, replies, parameters, line and dot rules.
//!
//! Nothing here knows a socket or a session: bytes in, values out, and back.

#![forbid(unsafe_code)]

pub mod auth;
pub mod command;
pub mod domain_name;
pub mod dot;
pub mod params;
pub mod path;
pub mod proxy;
pub mod reply;
pub mod stuffing;
pub mod xtext;

pub use command::Command;
pub use reply::Reply;
