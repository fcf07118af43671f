//! Message headers: an incremental scanner, and address lists.

#![forbid(unsafe_code)]

pub mod address_list;
pub mod scanner;

pub use scanner::{Malformed, Scanner, Visitor};
