//! smtpd.conf(5): from text to the model that the other rooms read.
//!
//! lexer → ast → parse → check → model. Errors carry file, line and column and are collected:
//! one run reports all of them.

#![forbid(unsafe_code)]

pub mod model;
pub mod paths;

pub use model::*;
pub use paths::Paths;
