//! Message headers: an incremental scanner, fields of what is in memory, and address lists.

#![forbid(unsafe_code)]

pub mod address_list;
pub mod fields;
pub mod scanner;

pub use fields::fields;
pub use scanner::{Malformed, Scanner, Visitor};
