//! The name ps(1) shows.

use std::ffi::CString;

/// Names the process; a title begins with `smtpd: `. Where the system has only a short name, that
/// one is set.
pub fn set(title: &str) {
    let Ok(title) = CString::new(title) else {
        return;
    };
    platform(&title);
}

#[cfg(target_os = "linux")]
fn platform(title: &std::ffi::CStr) {
    // SAFETY: PR_SET_NAME reads a C string and keeps its first 15 bytes.
    unsafe { libc::prctl(libc::PR_SET_NAME, title.as_ptr()) };
}

/// setproctitle(3) puts the program's name and a colon in front, which our titles have already.
#[cfg(any(target_os = "openbsd", target_os = "freebsd"))]
fn platform(title: &std::ffi::CStr) {
    let own = title.to_bytes().strip_prefix(b"smtpd: ".as_slice());
    let Ok(title) = CString::new(own.unwrap_or(title.to_bytes())) else {
        return;
    };
    // SAFETY: the format takes one C string.
    unsafe { libc::setproctitle(c"%s".as_ptr(), title.as_ptr()) };
}

#[cfg(not(any(target_os = "linux", target_os = "openbsd", target_os = "freebsd")))]
fn platform(_title: &std::ffi::CStr) {}
