//! Signals as bytes in a pipe, so that a poll loop can wait for them.

use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicI32, Ordering};

use super::errno::cvt;

/// The signals the daemon listens to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM.
    Terminate,
    /// SIGINT.
    Interrupt,
    /// SIGHUP.
    Hangup,
    /// SIGCHLD.
    Child,
}

/// Receives signals; there is one per process.
#[derive(Debug)]
pub struct Signals {
    pipe: std::fs::File,
    _write: OwnedFd,
}

impl Signals {
    /// Catches all of [`Signal`] and ignores those that mean nothing to us from here on. They are
    /// let through whatever whoever started us has blocked.
    pub fn catch() -> io::Result<Signals> {
        let mut fds = [-1; 2];
        // SAFETY: `fds` is writable for two descriptors.
        cvt(unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) })?;
        // SAFETY: pipe2(2) has just made both; nobody else owns them.
        let (read, write) = unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) };
        PIPE.store(write.as_raw_fd(), Ordering::SeqCst);
        for (number, _) in NUMBERS {
            handle(number, on_signal as *const () as libc::sighandler_t)?;
        }
        ignore(&MEANINGLESS)?;
        unblock()?;
        Ok(Signals {
            pipe: read.into(),
            _write: write,
        })
    }

    /// What has come in since; waits for nothing.
    pub fn take(&mut self) -> Vec<Signal> {
        let mut buffer = [0; 256];
        let count = self.pipe.read(&mut buffer).unwrap_or(0);
        buffer[..count]
            .iter()
            .filter_map(|byte| {
                NUMBERS
                    .iter()
                    .find(|(number, _)| *number == libc::c_int::from(*byte))
                    .map(|(_, signal)| *signal)
            })
            .collect()
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        PIPE.store(-1, Ordering::SeqCst);
    }
}

/// Ignores the signals that are meant for the daemon's first process, and those that mean nothing:
/// its children hear from it over their socket.
pub fn ignore_all() -> io::Result<()> {
    ignore(&[libc::SIGTERM, libc::SIGINT, libc::SIGHUP])?;
    ignore(&MEANINGLESS)
}

fn ignore(numbers: &[libc::c_int]) -> io::Result<()> {
    numbers
        .iter()
        .try_for_each(|number| handle(*number, libc::SIG_IGN))
}

/// What would end a process that does not expect it, and nobody means to.
const MEANINGLESS: [libc::c_int; 4] = [libc::SIGPIPE, libc::SIGUSR1, libc::SIGUSR2, libc::SIGALRM];

static PIPE: AtomicI32 = AtomicI32::new(-1);

const NUMBERS: [(libc::c_int, Signal); 4] = [
    (libc::SIGTERM, Signal::Terminate),
    (libc::SIGINT, Signal::Interrupt),
    (libc::SIGHUP, Signal::Hangup),
    (libc::SIGCHLD, Signal::Child),
];

fn unblock() -> io::Result<()> {
    // SAFETY: sigset_t is plain old data, filled before it is read.
    let code = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        for (number, _) in NUMBERS {
            libc::sigaddset(&mut set, number);
        }
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &set, std::ptr::null_mut())
    };
    match code {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}

fn handle(number: libc::c_int, handler: libc::sighandler_t) -> io::Result<()> {
    // SAFETY: sigaction is plain old data; `handler` is SIG_IGN or a function that does only
    // what is allowed in a handler.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler;
        action.sa_flags = libc::SA_RESTART;
        libc::sigemptyset(&mut action.sa_mask);
        cvt(libc::sigaction(number, &action, std::ptr::null_mut()))?;
    }
    Ok(())
}

extern "C" fn on_signal(number: libc::c_int) {
    let byte = number as u8;
    let fd = PIPE.load(Ordering::SeqCst);
    // SAFETY: write(2) is allowed in a handler; errno is put back, so that the interrupted call
    // keeps its own. A full pipe already holds enough to wake the loop.
    unsafe {
        let errno = errno_place();
        let saved = *errno;
        libc::write(fd, (&raw const byte).cast(), 1);
        *errno = saved;
    }
}

#[cfg(target_os = "linux")]
unsafe fn errno_place() -> *mut libc::c_int {
    // SAFETY: always answers with the thread's own place.
    unsafe { libc::__errno_location() }
}

#[cfg(target_os = "openbsd")]
unsafe fn errno_place() -> *mut libc::c_int {
    // SAFETY: always answers with the thread's own place.
    unsafe { libc::__errno() }
}

#[cfg(not(any(target_os = "linux", target_os = "openbsd")))]
unsafe fn errno_place() -> *mut libc::c_int {
    // SAFETY: always answers with the thread's own place.
    unsafe { libc::__error() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::poll::{Interest, PollFd, poll};

    #[test]
    fn a_signal_arrives_as_a_value() {
        // Whoever starts us may have blocked it.
        // SAFETY: sigset_t is plain old data, filled before it is read; this is the test's thread.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut set);
            libc::sigaddset(&mut set, libc::SIGHUP);
            libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
        }
        let mut signals = Signals::catch().unwrap();
        // SAFETY: the signal is caught.
        unsafe { libc::raise(libc::SIGHUP) };
        loop {
            poll(&mut [PollFd::new(signals.as_fd(), Interest::Read)], None).unwrap();
            // Children of other tests send SIGCHLD meanwhile.
            if signals.take().contains(&Signal::Hangup) {
                break;
            }
        }
    }
}
