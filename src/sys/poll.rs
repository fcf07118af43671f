//! poll(2), for threads and processes that wait on a few descriptors.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use super::errno::{cvt, retry};

/// A descriptor to wait for, and what was found.
#[derive(Debug)]
pub struct PollFd<'fd> {
    fd: BorrowedFd<'fd>,
    want: Interest,
    /// Bytes can be read, or end of file is there.
    pub readable: bool,
    /// Bytes can be written.
    pub writable: bool,
    /// The other end is gone, or the descriptor is broken.
    pub hangup: bool,
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// For bytes.
    Read,
    /// For room.
    Write,
    /// For the other end to go.
    Nothing,
}

impl<'fd> PollFd<'fd> {
    /// Waits for `want` on `fd`.
    pub fn new(fd: BorrowedFd<'fd>, want: Interest) -> PollFd<'fd> {
        PollFd {
            fd,
            want,
            readable: false,
            writable: false,
            hangup: false,
        }
    }
}

/// Waits until one of `fds` is ready or `timeout` is over (`None`: for ever); says how many are.
/// Signals do not end the wait and do not lengthen it.
pub fn poll(fds: &mut [PollFd<'_>], timeout: Option<Duration>) -> io::Result<usize> {
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    let mut raw: Vec<libc::pollfd> = fds
        .iter()
        .map(|fd| libc::pollfd {
            fd: fd.fd.as_raw_fd(),
            events: match fd.want {
                Interest::Read => libc::POLLIN,
                Interest::Write => libc::POLLOUT,
                Interest::Nothing => 0,
            },
            revents: 0,
        })
        .collect();
    let ready = loop {
        let left_ms = deadline.map_or(-1, |deadline| {
            let left = deadline.saturating_duration_since(Instant::now());
            i32::try_from(left.as_micros().div_ceil(1000)).unwrap_or(i32::MAX)
        });
        // SAFETY: `raw` is a valid array of that many pollfd for the length of the call.
        match cvt(unsafe { libc::poll(raw.as_mut_ptr(), raw.len() as libc::nfds_t, left_ms) }) {
            Ok(ready) => break ready as usize,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        }
    };
    for (fd, raw) in fds.iter_mut().zip(&raw) {
        fd.readable = raw.revents & (libc::POLLIN | libc::POLLHUP) != 0;
        fd.writable = raw.revents & libc::POLLOUT != 0;
        fd.hangup = raw.revents & (libc::POLLHUP | libc::POLLERR | libc::POLLNVAL) != 0;
    }
    Ok(ready)
}

/// Writes of `bytes` what a pipe with any room takes at once, and says how much that is. Where there
/// is no room for as long as `patience` it is `WouldBlock`.
pub fn write_some(fd: BorrowedFd<'_>, bytes: &[u8], patience: Duration) -> io::Result<usize> {
    if poll(&mut [PollFd::new(fd, Interest::Write)], Some(patience))? == 0 {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    let piece = bytes.get(..libc::PIPE_BUF).unwrap_or(bytes);
    retry(|| {
        // SAFETY: `piece` can be read for its length.
        let count = unsafe { libc::write(fd.as_raw_fd(), piece.as_ptr().cast(), piece.len()) };
        usize::try_from(count).map_err(|_| io::Error::last_os_error())
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn tells_readable_from_writable_and_times_out() {
        let (mut a, b) = UnixStream::pair().unwrap();
        let mut fds = [PollFd::new(b.as_fd(), Interest::Read)];
        assert_eq!(poll(&mut fds, Some(Duration::from_millis(1))).unwrap(), 0);
        a.write_all(b"x").unwrap();
        assert_eq!(poll(&mut fds, None).unwrap(), 1);
        assert!(fds[0].readable && !fds[0].writable && !fds[0].hangup);
        drop(a);
        // A child that another test is just starting has a copy of it until it runs its program.
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let mut fds = [PollFd::new(b.as_fd(), Interest::Read)];
            assert_eq!(poll(&mut fds, None).unwrap(), 1);
            if fds[0].hangup {
                break;
            }
            assert!(Instant::now() < deadline);
            std::thread::yield_now();
        }
    }
}
