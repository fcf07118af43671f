//! table(5): lists and mappings behind the services that other rooms ask for.

#![forbid(unsafe_code)]
