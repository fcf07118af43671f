//! The privileged parent: one thread, no mail bytes.

#![forbid(unsafe_code)]
