//! connect(2) to a unix socket, with a time-out that std does not offer.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::errno::cvt;

/// Connects to the socket at `path`. Linux waits while the listener's backlog is full, for at
/// most `timeout`. The BSDs refuse then as they do when nobody listens: they are asked a few times,
/// for at most [`PATIENCE`].
pub fn connect(path: &Path, timeout: Duration) -> io::Result<UnixStream> {
    let mut refusals = match cfg!(target_os = "linux") {
        true => 1,
        false => PATIENCE.as_millis() / BETWEEN.as_millis(),
    };
    loop {
        match connect_once(path, timeout) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused && refusals > 1 => {
                refusals -= 1;
                std::thread::sleep(BETWEEN);
            }
            // A unix socket connects at once or not at all: an interrupted wait is begun anew.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// How long a socket that refuses may be busy rather than dead.
pub const PATIENCE: Duration = Duration::from_millis(200);
const BETWEEN: Duration = Duration::from_millis(20);

fn connect_once(path: &Path, timeout: Duration) -> io::Result<UnixStream> {
    let (address, length) = address(path)?;
    // SAFETY: socket(2) takes no pointers.
    let fd =
        cvt(unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: `fd` was just opened and belongs to nobody else.
    let stream = UnixStream::from(unsafe { OwnedFd::from_raw_fd(fd) });
    stream.set_write_timeout(Some(timeout))?;
    // SAFETY: `address` is a valid sockaddr_un of which `length` bytes are meant.
    let result = cvt(unsafe {
        libc::connect(
            stream.as_raw_fd(),
            (&raw const address).cast::<libc::sockaddr>(),
            length,
        )
    });
    match result {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            return Err(io::Error::from(io::ErrorKind::TimedOut));
        }
        Err(error) => return Err(error),
    }
    stream.set_write_timeout(None)?;
    Ok(stream)
}

fn address(path: &Path) -> io::Result<(libc::sockaddr_un, libc::socklen_t)> {
    let bytes = path.as_os_str().as_bytes();
    // SAFETY: sockaddr_un is plain old data for which zero bytes are a value.
    let mut address: libc::sockaddr_un = unsafe { mem::zeroed() };
    if bytes.is_empty() || bytes.len() >= address.sun_path.len() || bytes.contains(&0) {
        let text = "the socket's path is empty or too long";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    for (to, from) in address.sun_path.iter_mut().zip(bytes) {
        *to = *from as libc::c_char;
    }
    // The whole structure, its path ended by NUL, is accepted everywhere.
    Ok((
        address,
        mem::size_of::<libc::sockaddr_un>() as libc::socklen_t,
    ))
}
