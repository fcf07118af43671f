//! Tests that change all of their process, or may do what it cannot undo: each runs once more, in a
//! process of its own.

use std::ffi::OsStr;
use std::process::{Command, ExitStatus};

const INSIDE: &str = "SMTPD_TEST_INSIDE";

/// Runs the test of this path alone, where [`inside`] says `value`. It must not fail; a signal may
/// end it.
pub fn again(test: &str, value: impl AsRef<OsStr>) -> ExitStatus {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(INSIDE, &value)
        .output()
        .unwrap();
    if output.status.code().is_some_and(|code| code != 0) {
        panic!("{test} {:?}: {output:?}", value.as_ref());
    }
    output.status
}

/// What the test was given, if this process is its own.
pub fn inside() -> Option<String> {
    std::env::var(INSIDE).ok()
}
