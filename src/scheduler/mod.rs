//! When: a pure structure over envelope ids; every call takes `now`.

#![forbid(unsafe_code)]
