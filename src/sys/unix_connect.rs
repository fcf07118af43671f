//! connect(2) to a unix socket, with a time-out that std does not offer, or without any wait.

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
/// for a fifth of a second.
pub fn connect(path: &Path, timeout: Duration) -> io::Result<UnixStream> {
    patiently(|| {
        let stream = socket(0)?;
        stream.set_write_timeout(Some(timeout))?;
        match connect_to(&stream, path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::Error::from(io::ErrorKind::TimedOut));
            }
            Err(error) => return Err(error),
        }
        stream.set_write_timeout(None)?;
        Ok(stream)
    })
}

/// Connects to the socket at `path` if that takes no wait at all.
pub fn connect_at_once(path: &Path) -> io::Result<UnixStream> {
    let stream = socket(libc::SOCK_NONBLOCK)?;
    connect_to(&stream, path)?;
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// Whether a socket of another kind is refused because the one at the path is for streams.
pub fn is_of_another_kind(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EPROTOTYPE)
}

/// Whether somebody listens on the socket at `path`. A listener that is too busy to take us still
/// listens. Waits no longer than it takes to tell it from a dead one.
pub fn answers(path: &Path) -> io::Result<bool> {
    let Err(error) = patiently(|| connect_to(&socket(libc::SOCK_NONBLOCK)?, path)) else {
        return Ok(true);
    };
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EINPROGRESS) => Ok(true),
        Some(libc::ECONNREFUSED | libc::ENOENT | libc::ENOTSOCK | libc::EPROTOTYPE) => Ok(false),
        _ => Err(error),
    }
}

/// How long a socket that refuses may be busy rather than dead: on the BSDs the two look the same,
/// but a busy one has taken somebody a moment later.
const PATIENCE: Duration = Duration::from_millis(200);
const BETWEEN: Duration = Duration::from_millis(20);

fn patiently<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let mut refusals = if cfg!(target_os = "linux") {
        1
    } else {
        PATIENCE.as_millis() / BETWEEN.as_millis()
    };
    loop {
        match call() {
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

fn socket(flags: libc::c_int) -> io::Result<UnixStream> {
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | flags;
    // SAFETY: socket(2) takes no pointers.
    let fd = cvt(unsafe { libc::socket(libc::AF_UNIX, kind, 0) })?;
    // SAFETY: `fd` was just opened and belongs to nobody else.
    Ok(UnixStream::from(unsafe { OwnedFd::from_raw_fd(fd) }))
}

fn connect_to(socket: &UnixStream, path: &Path) -> io::Result<()> {
    let (address, length) = address(path)?;
    // SAFETY: `address` is a valid sockaddr_un of which `length` bytes are meant.
    cvt(unsafe {
        libc::connect(
            socket.as_raw_fd(),
            (&raw const address).cast::<libc::sockaddr>(),
            length,
        )
    })
    .map(drop)
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

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn only_a_living_listener_answers() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        assert!(!answers(&path).unwrap());
        let listener = UnixListener::bind(&path).unwrap();
        assert!(answers(&path).unwrap());
        drop(listener);
        // A child that another test is just starting may hold the listener for a moment.
        while answers(&path).unwrap() {
            std::thread::yield_now();
        }
        assert!(answers(&dir.path().join("x".repeat(200))).is_err());
    }
}
