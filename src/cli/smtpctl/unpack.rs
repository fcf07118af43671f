//! `unpack`: while the daemon is stopped, gives every message in a bag a directory of its own, for
//! an older version or for OpenSMTPD.

use std::io::Write;
use std::time::Duration;

use crate::cli::exit_error::ExitError;
use crate::config::paths::Paths;
use crate::privsep::identity::Rights;
use crate::queue::fs::{Fs, Options};

/// Unpacks as the owner of the queue, whose key is not needed: what is sealed stays so.
pub fn run(paths: &Paths, out: &mut dyn Write) -> Result<i32, ExitError> {
    let rights = Rights::find(paths).map_err(ExitError::new)?;
    rights
        .drop_privileges()
        .map_err(|e| ExitError::io("change of user", &e))?;
    let options = Options {
        bags: true,
        any_key: true,
        ..Options::default()
    };
    let spool = paths.spool.display();
    let store = Fs::open(&paths.spool, options).map_err(|e| ExitError::io(spool, &e))?;
    match store.unpack_all(Duration::MAX) {
        0 => {
            writeln!(out, "no message is in a bag").map_err(|e| ExitError::output(&e))?;
            Ok(0)
        }
        left => Err(ExitError::new(format!("{left} messages are still in bags"))),
    }
}
