//! The unprivileged assembly: builds rooms, starts threads, joins them in order.

#![forbid(unsafe_code)]

pub mod start;

pub use start::Startup;

/// Serves until the parent says to stop; says what to exit with.
pub fn run(startup: Startup) -> i32 {
    if startup.client.ready().is_err() {
        return 1;
    }
    if startup.flags.run_once && startup.client.finished().is_err() {
        return 1;
    }
    let _ = startup.shutdown.recv();
    0
}
