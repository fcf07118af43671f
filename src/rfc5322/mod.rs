//! Message headers: an incremental scanner, fields of what is in memory, address lists, and lines
//! that fit.

#![forbid(unsafe_code)]

pub mod address_list;
pub mod fields;
pub mod folded;
pub mod scanner;

pub use fields::{fields, header_end};
pub use scanner::{Malformed, Scanner, Visitor};
