//! The resolver: its own thread, a bounded cache, hostile answers expected.

#![forbid(unsafe_code)]
