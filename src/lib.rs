//! smtpd(8): mail comes in by SMTP and sendmail(8), is made durable, and is delivered.

#![deny(unsafe_code)]

// THE ROAD OF A MESSAGE
pub mod accept;
pub mod session;
pub mod transaction;
pub mod expansion;
pub mod ruleset;
pub mod queue;
pub mod scheduler;
pub mod runner;
pub mod deliver;
pub mod bounce;

// ROOMS BESIDE THE ROAD
pub mod config;
pub mod control;
pub mod dns;
pub mod log;
pub mod table;

// PRIVILEGE
pub mod engine;
pub mod parent;
pub mod privsep;

// WORDS AND TOOLS
pub mod cli;
pub mod mail;
pub mod mda;
pub mod rfc5322;
pub mod smtp;
#[allow(unsafe_code)]
pub mod sys;
pub mod util;
