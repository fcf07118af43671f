//! `unpack`: while the daemon is stopped, gives every message in a bag a directory of its own, for
//! an older version or for OpenSMTPD.

use std::io::Write;
use std::time::Duration;

use crate::cli::failure::Failure;
use crate::config::paths::Paths;
use crate::privsep::identity::Rights;
use crate::queue::fs::{Fs, Options};

/// Unpacks as the owner of the queue, whose key is not needed: what is sealed stays so.
pub fn run(paths: &Paths, out: &mut dyn Write) -> Result<i32, Failure> {
    let rights = Rights::find(paths).map_err(Failure::new)?;
    rights
        .drop_privileges()
        .map_err(|e| Failure::io("change of user", &e))?;
    let options = Options {
        bags: true,
        any_key: true,
        ..Options::default()
    };
    let spool = paths.spool.display();
    let store = Fs::open(&paths.spool, options).map_err(|e| Failure::io(spool, &e))?;
    match store.unpack_all(Duration::MAX) {
        0 => {
            writeln!(out, "no message is in a bag").map_err(|e| Failure::output(&e))?;
            Ok(0)
        }
        left => Err(Failure::new(format!("{left} messages are still in bags"))),
    }
}
