//! Advisory locks on whole files, and whether a process still lives.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use super::errno::{cvt, retry};

/// Tries to lock all of `file` against every other process that uses fcntl(2) or flock(2) locks;
/// `false` when another holds it. Closing the file, or the end of the process, unlocks.
pub fn try_exclusive(file: &File) -> io::Result<bool> {
    exclusive(file, is_flock_apart, try_fcntl, try_flock)
}

fn exclusive(
    file: &File,
    is_apart: impl FnOnce(&File) -> bool,
    try_fcntl: impl Fn(&File) -> io::Result<bool>,
    try_flock: impl Fn(&File) -> io::Result<bool>,
) -> io::Result<bool> {
    if !try_fcntl(file)? {
        return Ok(false);
    }
    if try_flock(file)? {
        return Ok(true);
    }
    if is_apart(file) {
        return Ok(false);
    }
    // Where the server makes one kind of both, it may be our own first lock that keeps us from the
    // second. But some mounts keep locks of flock(2) to the host, and then another process has it:
    // that shows without the first one.
    unlock_fcntl(file)?;
    if !try_flock(file)? {
        return Ok(false);
    }
    if try_fcntl(file)? {
        return Ok(true);
    }
    unlock_flock(file)?;
    try_fcntl(file)
}

/// Tries to lock all of `file` against every other process that uses flock(2) locks, and against
/// other openings of ours; `false` when another holds it. Closing the file unlocks.
pub fn try_flock(file: &File) -> io::Result<bool> {
    flock(file, libc::LOCK_EX)
}

/// Tries to lock `file` for reading against those who lock it with [`try_flock`]; `false` when one
/// of them holds it.
pub fn try_flock_shared(file: &File) -> io::Result<bool> {
    flock(file, libc::LOCK_SH)
}

fn flock(file: &File, kind: libc::c_int) -> io::Result<bool> {
    taken(retry(|| {
        // SAFETY: the descriptor is open; flock(2) touches no memory.
        cvt(unsafe { libc::flock(file.as_raw_fd(), kind | libc::LOCK_NB) })
    }))
}

/// Whether a process with this id exists, ours or anyone's.
pub fn process_exists(pid: u32) -> bool {
    let Ok(pid) = libc::pid_t::try_from(pid) else {
        return false;
    };
    if pid <= 0 {
        return false;
    }
    // SAFETY: signal 0 only asks; kill(2) has no memory to touch.
    match cvt(unsafe { libc::kill(pid, 0) }) {
        Ok(_) => true,
        Err(error) => error.raw_os_error() == Some(libc::EPERM),
    }
}

/// Whether flock(2) locks other than fcntl(2) does. Clients of these network file systems make a
/// lock of fcntl(2) of it, under another owner's name, and the server lets only one of them have it.
#[cfg(target_os = "linux")]
#[allow(clippy::unnecessary_cast)] // The field's type differs between processors.
fn is_flock_apart(file: &File) -> bool {
    // SAFETY: statfs is plain old data for which zero bytes are a value.
    let mut found: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open and `found` is writable for the length of the call.
    let known = retry(|| cvt(unsafe { libc::fstatfs(file.as_raw_fd(), &mut found) }));
    // Where that is not known, a lock that is refused is waited for.
    known.is_err() || !BOTH_ONE.contains(&(found.f_type as u32))
}

/// statfs(2), `f_type`.
#[cfg(target_os = "linux")]
const BOTH_ONE: &[u32] = &[
    0x6969,      // NFS
    0x517b,      // SMB
    0xff53_4d42, // CIFS
    0xfe53_4d42, // SMB 2
    0x0bd0_0bd0, // Lustre
];

/// Only flock(2) is used here.
#[cfg(not(target_os = "linux"))]
fn is_flock_apart(_file: &File) -> bool {
    true
}

fn unlock_flock(file: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open; flock(2) touches no memory.
    retry(|| cvt(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_UN) })).map(drop)
}

/// The BSDs keep flock and fcntl locks in one list, where a process that takes both waits for
/// itself; flock alone excludes the users of either there. On disks of Linux they do not see each
/// other.
#[cfg(not(target_os = "linux"))]
fn try_fcntl(_file: &File) -> io::Result<bool> {
    Ok(true)
}

#[cfg(not(target_os = "linux"))]
fn unlock_fcntl(_file: &File) -> io::Result<()> {
    Ok(())
}

#[cfg(target_os = "linux")]
fn try_fcntl(file: &File) -> io::Result<bool> {
    taken(fcntl(file, libc::F_WRLCK))
}

#[cfg(target_os = "linux")]
fn unlock_fcntl(file: &File) -> io::Result<()> {
    fcntl(file, libc::F_UNLCK).map(drop)
}

#[cfg(target_os = "linux")]
fn fcntl(file: &File, kind: libc::c_int) -> io::Result<libc::c_int> {
    // SAFETY: flock is plain old data for which zero bytes are a value: all of the file.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    retry(|| {
        // SAFETY: the descriptor is open and `lock` is valid for the call.
        cvt(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLK, &lock) })
    })
}

fn taken(result: io::Result<libc::c_int>) -> io::Result<bool> {
    match result {
        Ok(_) => Ok(true),
        Err(error) => match error.raw_os_error() {
            Some(libc::EAGAIN | libc::EACCES) => Ok(false),
            _ => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_second_open_file_cannot_take_a_held_lock() {
        let path = tempfile::NamedTempFile::new().unwrap();
        for lock in [try_exclusive, try_flock] {
            let first = File::options().append(true).open(path.path()).unwrap();
            let second = File::options().append(true).open(path.path()).unwrap();
            assert!(lock(&first).unwrap());
            assert!(!lock(&second).unwrap());
            drop(first);
            assert!(lock(&second).unwrap());
        }
    }

    // mail.local(8), Locks: on such a network file system that of fcntl(2) is enough.
    #[test]
    fn a_lock_that_our_own_first_one_refuses_us_is_not_waited_for() {
        let path = tempfile::NamedTempFile::new().unwrap();
        let file = File::options().append(true).open(path.path()).unwrap();
        let other = File::options().append(true).open(path.path()).unwrap();
        // As the server does it: what one of the two has locked is refused to the other.
        let calls = Cell::new((0, 0));
        let fcntl = |file: &File| {
            let (fcntls, flocks) = calls.replace((calls.get().0 + 1, calls.get().1));
            match (fcntls, flocks) {
                (1, _) => Ok(false),
                _ => try_fcntl(file),
            }
        };
        let flock = |file: &File| {
            let (fcntls, flocks) = calls.replace((calls.get().0, calls.get().1 + 1));
            match (fcntls, flocks) {
                (_, 0) => Ok(false),
                _ => try_flock(file),
            }
        };
        assert!(exclusive(&file, |_| false, fcntl, flock).unwrap());
        assert_eq!(calls.get(), (3, 2));
        // That of flock(2) was given back: it kept the server from giving us the first again.
        assert!(try_flock(&other).unwrap());
    }

    // The other process may let go between our two looks: then both are there to be had.
    #[test]
    fn where_both_locks_are_to_be_had_both_are_taken() {
        let path = tempfile::NamedTempFile::new().unwrap();
        let open = || File::options().append(true).open(path.path()).unwrap();
        let (file, other) = (open(), open());
        let was_asked = Cell::new(false);
        let refused_once = |file: &File| match was_asked.replace(true) {
            true => try_flock(file),
            false => Ok(false),
        };
        assert!(exclusive(&file, |_| false, try_fcntl, refused_once).unwrap());
        assert!(!try_flock(&other).unwrap());
    }

    // Such a file system may be mounted so that its locks of flock(2) are the host's own.
    #[test]
    fn a_lock_that_another_process_has_is_waited_for_on_every_file_system() {
        let path = tempfile::NamedTempFile::new().unwrap();
        let open = || File::options().append(true).open(path.path()).unwrap();
        let (first, second) = (open(), open());
        assert!(try_flock(&first).unwrap());
        for is_apart in [true, false] {
            assert!(!exclusive(&second, |_| is_apart, try_fcntl, try_flock).unwrap());
        }
        assert!(is_flock_apart(&second));
        drop(first);
        assert!(exclusive(&second, |_| false, try_fcntl, try_flock).unwrap());
    }

    #[test]
    fn readers_share_a_lock_and_keep_writers_out() {
        let path = tempfile::NamedTempFile::new().unwrap();
        let open = || File::open(path.path()).unwrap();
        let (first, second, third) = (open(), open(), open());
        assert!(try_flock_shared(&first).unwrap());
        assert!(try_flock_shared(&second).unwrap());
        assert!(!try_flock(&third).unwrap());
        drop((first, second));
        assert!(try_flock(&third).unwrap());
        assert!(!try_flock_shared(&open()).unwrap());
    }

    #[test]
    fn we_exist_and_nonsense_does_not() {
        assert!(process_exists(std::process::id()));
        assert!(!process_exists(0) && !process_exists(u32::MAX));
    }
}
