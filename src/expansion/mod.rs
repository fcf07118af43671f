//! From a recipient to its destinations.

#![forbid(unsafe_code)]
