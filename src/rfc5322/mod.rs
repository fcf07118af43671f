//! Message headers: an incremental scanner, address lists, dates.

#![forbid(unsafe_code)]
