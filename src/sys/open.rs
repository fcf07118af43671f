//! Opening files, each way named by what may lie in its place.
//!
//! A link is not followed unless it says so, and nothing waits for the other end of a FIFO or for
//! a device.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::errno::{cvt, retry};
use super::random;

/// A file in a directory of ours, for reading and writing, that no name leads to.
pub fn nameless(dir: &Path) -> io::Result<File> {
    let path = dir.join(format!(".scratch.{:016x}", random::number_u64()));
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

/// A file with `bytes` in it for another process: in memory where the system has such files, for no
/// full disk may keep a process from its start; else without a name, in `dir` or, if that takes
/// nothing, where the system has room for what is soon gone.
pub fn to_pass_on(dir: &Path, bytes: &[u8]) -> io::Result<File> {
    in_memory(bytes).or_else(|_| nameless_somewhere([dir, Path::new("/tmp")], bytes))
}

#[cfg(any(target_os = "linux", target_os = "freebsd"))]
fn in_memory(bytes: &[u8]) -> io::Result<File> {
    // SAFETY: the name is a C string.
    let fd = cvt(unsafe { libc::memfd_create(c"smtpd".as_ptr(), libc::MFD_CLOEXEC) })?;
    // SAFETY: the call has made this descriptor, and nobody else has it.
    let mut file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    file.write_all(bytes)?;
    Ok(file)
}

#[cfg(not(any(target_os = "linux", target_os = "freebsd")))]
fn in_memory(_: &[u8]) -> io::Result<File> {
    Err(io::ErrorKind::Unsupported.into())
}

/// A nameless file with `bytes` in it, in the first directory that takes it; the error is that of
/// the first.
fn nameless_somewhere(dirs: [&Path; 2], bytes: &[u8]) -> io::Result<File> {
    let [first, second] = dirs;
    nameless_with(first, bytes).or_else(|error| nameless_with(second, bytes).map_err(|_| error))
}

/// A nameless file with `bytes` in it.
pub fn nameless_with(dir: &Path, bytes: &[u8]) -> io::Result<File> {
    let mut file = nameless(dir)?;
    file.write_all(bytes)?;
    Ok(file)
}

/// Creates a file that must not exist, for writing, mode 0600.
pub fn create_new(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
}

/// Opens a file of a directory that is ours, for reading and writing, creating it with mode 0600
/// if it is missing.
pub fn own_or_new(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
}

/// Opens a plain file of a directory that is ours, for reading and appending, creating it with mode
/// 0600 if it is missing.
pub fn own_appended(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)?;
    plain_only(file)
}

/// Opens what a user may have put there, for reading.
pub fn foreign(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
}

/// Like [`foreign`], below a directory that is open.
pub fn foreign_at(dir: &File, path: &Path) -> io::Result<File> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let how = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;
    let open = || {
        // SAFETY: the directory is open, and the path is a C string.
        cvt(unsafe { libc::openat(dir.as_raw_fd(), path.as_ptr(), libc::O_RDONLY | how) })
    };
    let fd = retry(open)?;
    // SAFETY: the call has made this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) }.into())
}

/// Like [`foreign`], for reading and writing.
pub fn foreign_to_mark(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
}

/// Opens a directory, so that what is checked, changed or synced are the same one.
pub fn dir(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_DIRECTORY)
        .open(path)
}

/// Opens a mailbox that exists, for reading and appending.
pub fn mailbox(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .append(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
}

/// Opens a file for appending, made with mode 0600 if it is not there. Links are followed: the
/// file is one that its user has named. It can be read, too, unless that is not allowed.
pub fn append(path: &Path) -> io::Result<File> {
    let open = |read| {
        OpenOptions::new()
            .read(read)
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)
    };
    // A FIFO would take what nobody reads from one who could read it.
    let only_written = open(false)?;
    if only_written.metadata()?.is_file()
        && let Ok(file) = open(true)
        && file.metadata()?.is_file()
    {
        return Ok(file);
    }
    Ok(only_written)
}

/// Opens a plain file for reading, also behind a link: a device or a FIFO in its place is refused.
pub fn plain(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)?;
    plain_only(file)
}

fn plain_only(file: File) -> io::Result<File> {
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a plain file",
        ));
    }
    Ok(file)
}

/// The whole of a plain file of at most `limit_bytes`.
pub fn read_plain(path: &Path, limit_bytes: u64) -> io::Result<Vec<u8>> {
    read_within(plain(path)?, limit_bytes)
}

/// What is left of a file, which must be at most `limit_bytes`.
pub fn read_within(file: impl Read, limit_bytes: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(limit_bytes.saturating_add(1))
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit_bytes {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            "file too large",
        ));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn links_are_followed_only_where_it_says_so() {
        let top = tempfile::tempdir().unwrap();
        let (file, link) = (top.path().join("file"), top.path().join("link"));
        create_new(&file).unwrap();
        assert_eq!(
            create_new(&file).unwrap_err().kind(),
            io::ErrorKind::AlreadyExists
        );
        std::os::unix::fs::symlink(&file, &link).unwrap();
        for open in [
            own_or_new,
            own_appended,
            foreign,
            foreign_to_mark,
            mailbox,
            append,
            plain,
        ] {
            assert!(open(&file).is_ok());
        }
        for open in [
            create_new,
            own_or_new,
            own_appended,
            foreign,
            foreign_to_mark,
            mailbox,
            dir,
        ] {
            assert!(open(&link).is_err());
        }
        assert!(append(&link).is_ok() && plain(&link).is_ok());
        assert!(dir(&file).is_err());
        assert!(dir(top.path()).is_ok());
    }

    #[test]
    fn a_directory_that_takes_no_file_keeps_nothing_from_being_passed_on() {
        // A full spool must not keep the engine from its start. A directory that is not there takes
        // no more than a full one.
        let top = tempfile::tempdir().unwrap();
        let (dir, missing) = (top.path(), &top.path().join("missing"));
        for dirs in [[dir, dir], [missing, dir], [dir, missing]] {
            let file = nameless_somewhere(dirs, b"handed over").unwrap();
            let mut found = [0; 20];
            let count = file.read_at(&mut found, 0).unwrap();
            assert_eq!(&found[..count], b"handed over");
        }
        assert!(nameless_somewhere([missing, missing], b"").is_err());
        assert!(std::fs::read_dir(dir).unwrap().next().is_none());
        assert!(to_pass_on(missing, b"handed over").is_ok());
    }

    #[test]
    fn only_plain_files_within_the_limit_are_read() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("file");
        std::fs::write(&path, b"12345").unwrap();
        assert_eq!(read_plain(&path, 5).unwrap(), b"12345");
        assert_eq!(
            read_plain(&path, 4).unwrap_err().kind(),
            io::ErrorKind::FileTooLarge
        );
        assert!(read_plain(top.path(), 5).is_err());
        assert!(read_plain(Path::new("/dev/zero"), 5).is_err());
    }
}
