//! The unprivileged assembly: builds rooms, starts threads, joins them in order.

#![forbid(unsafe_code)]
