//! mailq(8): `smtpctl show queue` under its old name. Arguments mean nothing.

use std::io::Write;

use crate::config::paths::Paths;

use super::exit_error::ExitError;
use super::instance::may_control;
use super::smtpctl;

/// Prints what is in the queue, as `smtpctl show queue` does.
pub fn run(paths: &Paths, uid: u32, out: &mut dyn Write) -> Result<i32, ExitError> {
    if !may_control(paths, uid) {
        return Err(ExitError::new("need root privileges"));
    }
    smtpctl::show_queue(paths, out)
}
