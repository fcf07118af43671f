//! Connecting to the socket of an `lmtp` action, as the recipient.
//!
//! Who may connect is for the socket's mode to say, so it takes a process that has become the
//! recipient. It connects, hands the connection to the engine, and is gone; what is said over
//! it, and for how many messages, is the engine's business.

use std::fs::File;
use std::os::fd::AsFd;
use std::time::Duration;

use crate::config::LmtpDest;
use crate::sys::errno::strerror;
use crate::sys::fdpass::{self, Wait};
use crate::sys::unix_connect;
use crate::util::sysexits::{CONFIG, TEMPFAIL};

use super::MdaError;

/// The program that does the same, and more, as a command.
pub const NAME: &str = "mail.lmtp";

/// How long a server may be too busy to be connected to.
const CONNECT_TIME: Duration = Duration::from_secs(20);

/// Connects to `dest` and sends the connection through `pair`.
pub fn connect(dest: &str, pair: &File) -> Result<(), MdaError> {
    let Ok(LmtpDest::Socket(path)) = LmtpDest::parse(dest) else {
        return Err(MdaError::new(
            CONFIG,
            format!("{dest} is not a socket's path"),
        ));
    };
    let failed = |what: &str, error: &std::io::Error| {
        MdaError::new(TEMPFAIL, format!("{what}: {}", strerror(error)))
    };
    let socket = unix_connect::connect(&path, CONNECT_TIME)
        .map_err(|error| failed(&format!("connect: {}", path.display()), &error))?;
    fdpass::send(pair.as_fd(), b"+", &[socket.as_fd()], Wait::No)
        .map_err(|error| failed("smtpd", &error))
}
