//! What local delivery asks of the system besides locks: pipes that do not block, the host's
//! name, local time, safe ways to open a mailbox.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::errno::{cvt, retry};

/// `PATH` of a delivery command: `_PATH_DEFPATH` of paths.h.
#[cfg(target_os = "openbsd")]
pub const DEFAULT_PATH: &str =
    "/usr/bin:/bin:/usr/sbin:/sbin:/usr/X11R6/bin:/usr/local/bin:/usr/local/sbin";
/// `PATH` of a delivery command: `_PATH_DEFPATH` of paths.h.
#[cfg(target_os = "freebsd")]
pub const DEFAULT_PATH: &str = "/sbin:/bin:/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin";
/// `PATH` of a delivery command: `_PATH_DEFPATH` of paths.h.
#[cfg(not(any(target_os = "openbsd", target_os = "freebsd")))]
pub const DEFAULT_PATH: &str = "/usr/bin:/bin";

/// The base system's mail.local(8), where its mailboxes want it: on OpenBSD only root, as which it
/// runs, can make the lock files in /var/mail.
#[cfg(target_os = "openbsd")]
pub const MAIL_LOCAL: Option<&str> = Some("/usr/libexec/mail.local");
/// The base system's mail.local(8), where its mailboxes want it: here ours does what is needed.
#[cfg(not(target_os = "openbsd"))]
pub const MAIL_LOCAL: Option<&str> = None;

/// Makes reads and writes through this open file return at once.
pub fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the descriptor is open; F_GETFL and F_SETFL touch no memory.
    let flags = retry(|| cvt(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) }))?;
    let wanted = flags | libc::O_NONBLOCK;
    // SAFETY: as above.
    retry(|| cvt(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, wanted) }))?;
    Ok(())
}

/// The host's name as gethostname(3) has it; `localhost` when it has none.
pub fn host_name() -> String {
    let mut buffer = [0_u8; 256];
    // SAFETY: `buffer` is writable; its last byte is kept from the call, so it stays terminated.
    let result = cvt(unsafe { libc::gethostname(buffer.as_mut_ptr().cast(), buffer.len() - 1) });
    let name = CStr::from_bytes_until_nul(&buffer).map(|name| name.to_string_lossy());
    match (result, name) {
        (Ok(_), Ok(name)) if !name.is_empty() => name.into_owned(),
        _ => "localhost".to_string(),
    }
}

/// Local time as ctime(3) prints it, without the line end: `Thu Jan  1 00:00:00 1970`.
pub fn local_ctime(seconds: u64) -> String {
    const DAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let time = libc::time_t::try_from(seconds).unwrap_or(0);
    // SAFETY: tm is plain old data for which zero bytes are a value.
    let mut tm: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are valid for the call. A time it cannot express leaves zeroes.
    unsafe { libc::localtime_r(&time, &mut tm) };
    let name = |names: &[&'static str], index: libc::c_int| {
        usize::try_from(index)
            .ok()
            .and_then(|index| names.get(index).copied())
            .unwrap_or("???")
    };
    format!(
        "{} {} {:2} {:02}:{:02}:{:02} {}",
        name(&DAYS, tm.tm_wday),
        name(&MONTHS, tm.tm_mon),
        tm.tm_mday,
        tm.tm_hour,
        tm.tm_min,
        tm.tm_sec,
        i64::from(tm.tm_year) + 1900
    )
}

/// Opens an existing mailbox for reading and appending; a symbolic link is an error, and a FIFO
/// or device does not make the caller wait.
pub fn open_mailbox(path: &Path) -> io::Result<File> {
    File::options()
        .read(true)
        .append(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
}

/// Opens a file for appending, made with mode 0600 if it is not there. Does not wait for the
/// other end of a FIFO.
pub fn open_append(path: &Path) -> io::Result<File> {
    File::options()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
}

/// The words of an error, without Rust's `(os error N)`.
pub fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error ") {
        Some(end) => text[..end].to_string(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_speaks_as_strerror_does() {
        let error = File::open("/no/such/file").unwrap_err();
        assert_eq!(reason(&error), "No such file or directory");
        assert_eq!(reason(&io::Error::other("odd")), "odd");
    }

    #[test]
    fn ctime_has_its_24_columns() {
        let text = local_ctime(1_700_000_000);
        assert_eq!(text.len(), 24, "{text}");
        assert!(text.ends_with(" 2023") && text.starts_with("Tue Nov 14 "));
        assert!(!host_name().is_empty());
    }

    #[test]
    fn a_mailbox_that_is_a_link_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("box");
        std::os::unix::fs::symlink("/dev/null", &link).unwrap();
        assert!(open_mailbox(&link).is_err());
    }
}
