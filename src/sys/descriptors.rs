//! How many descriptors this process may hold, and how many it holds.

use std::io;

use super::errno::cvt;

/// The soft limit on descriptors. `usize::MAX` when there is none.
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
    }
}
