//! mail.mda(8): a command run by the shell, as system(3) does it.

use std::ffi::OsStr;
use std::process::Command;

use crate::sys::errno::strerror;
use crate::util::sysexits::TEMPFAIL;

use super::MdaError;
pub use super::shell::WRAPPED;

/// Runs `command` with our standard input and output; its exit code, or a temporary failure
/// when a signal ended it or there is no shell.
pub fn run(command: &OsStr) -> Result<i32, MdaError> {
    let status = Command::new("/bin/sh")
        .arg("-c")
        .arg(command)
        .env_remove(WRAPPED)
        .status()
        .map_err(|error| MdaError::new(TEMPFAIL, format!("/bin/sh: {}", strerror(&error))))?;
    match status.code() {
        Some(code) => Ok(code),
        None => Err(MdaError::new(TEMPFAIL, "command was ended by a signal")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_is_passed_on_and_a_signal_is_temporary() {
        // mail.mda(8).
        assert_eq!(run(OsStr::new("exit 0")), Ok(0));
        assert_eq!(run(OsStr::new("exit 69")), Ok(69));
        assert_eq!(run(OsStr::new("kill -9 $$")).unwrap_err().code, 75);
        assert_eq!(
            run(OsStr::new("exec 2>/dev/null; no-such-command-here")),
            Ok(127)
        );
    }
}
