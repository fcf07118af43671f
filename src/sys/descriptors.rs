//! Descriptors: how many this process may hold, how many it holds, and whether they block.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::errno::{cvt, retry};

/// The soft limit on descriptors; `usize::MAX` stands for no limit.
pub fn limit() -> io::Result<usize> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is writable.
    cvt(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) })?;
    if limit.rlim_cur == libc::RLIM_INFINITY {
        return Ok(usize::MAX);
    }
    Ok(usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX))
}

/// Raises the number of descriptors that may be open as far as the system lets us; says how far.
pub fn raise_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is writable.
    cvt(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) })?;
    if limit.rlim_cur < limit.rlim_max {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: `limit` is readable.
        cvt(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) })?;
    }
    // FreeBSD's number is signed.
    #[allow(clippy::unnecessary_cast)]
    let now = limit.rlim_cur as u64;
    Ok(now)
}

/// How many of the first descriptors are open: the kernel gives out the lowest free number, so
/// shortly after start these are all there are. Asks each one, because /proc is not everywhere.
pub fn open_count() -> usize {
    let highest = limit().unwrap_or(PROBED).min(PROBED);
    (0..highest)
        // SAFETY: fcntl(2) with F_GETFD reads one flag of a descriptor and fails for a closed one.
        .filter(|&fd| unsafe { libc::fcntl(fd as libc::c_int, libc::F_GETFD) } != -1)
        .count()
}

/// Whether a call failed because there are no more descriptors, or no memory for what they name:
/// waiting helps, trying again at once does not.
pub fn are_exhausted(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)
    )
}

/// The error of a process that has all the descriptors it may have.
pub fn exhausted() -> io::Error {
    io::Error::from_raw_os_error(libc::EMFILE)
}

/// Makes reads and writes through this open file return at once.
pub fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the descriptor is open; F_GETFL and F_SETFL touch no memory.
    let flags = retry(|| cvt(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) }))?;
    let wanted = flags | libc::O_NONBLOCK;
    // SAFETY: as above.
    retry(|| cvt(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, wanted) }))?;
    Ok(())
}

const PROBED: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_open_files_are_counted() {
        // Other tests open and close files meanwhile; so many more cannot be theirs.
        let files: Vec<_> = (0..64).map(|_| std::fs::File::open("/").unwrap()).collect();
        assert!(open_count() >= files.len());
        assert!(limit().unwrap() > files.len());
        assert!(raise_limit().unwrap() >= 64);
    }
}
