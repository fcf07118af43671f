//! Match rules: the first that holds decides.

#![forbid(unsafe_code)]
