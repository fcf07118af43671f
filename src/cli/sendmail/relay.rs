//! `-bs`: a program speaks SMTP on our standard input and output, and we pass it on.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::thread;

use crate::cli::failure::Failure;
use crate::cli::personality::World;
use crate::control::client::Client;
use crate::sys::errno::strerror;
use crate::util::sysexits;

use super::submit::disallowed;
use super::{later, take_input};

/// Passes bytes both ways until the daemon closes the session.
pub fn run(world: &mut World<'_>) -> Result<i32, Failure> {
    let client = Client::connect(&world.paths.socket).map_err(later)?;
    let stream = client.submit().map_err(disallowed)?;
    let broken = |e: io::Error| Failure::with(sysexits::UNAVAILABLE, strerror(&e));
    // How long a silence may last is the daemon's to decide.
    stream.set_read_timeout(None).map_err(broken)?;
    stream.set_write_timeout(None).map_err(broken)?;
    let mut input = take_input(world);
    let mut upward = stream.try_clone().map_err(broken)?;
    // The thread may still wait for input when the daemon has hung up; it ends with the process.
    thread::Builder::new()
        .name("stdin".to_owned())
        .spawn(move || {
            let _ = io::copy(&mut input, &mut upward);
            let _ = upward.shutdown(Shutdown::Write);
        })
        .map_err(broken)?;
    downward(&stream, world.output)
}

fn downward(mut stream: impl Read, output: &mut dyn Write) -> Result<i32, Failure> {
    let mut buffer = [0; 4096];
    loop {
        let count = match stream.read(&mut buffer) {
            Ok(0) => return Ok(0),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(0),
            Err(error) => return Err(Failure::io("read error", &error)),
        };
        output
            .write_all(buffer.get(..count).unwrap_or_default())
            .and_then(|()| output.flush())
            .map_err(|e| Failure::output(&e))?;
    }
}
